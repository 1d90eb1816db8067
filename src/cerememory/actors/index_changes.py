"""What the text index has yet to be told: the changes of commits, in their order."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import trio

from cerememory.storage.keys import Address
from cerememory.storage.text_index import IndexDocument


@dataclass(frozen=True, slots=True)
class Step:
    """The changes of commit `sequence`; 0 for those of working memory alone, which aren't committed.

    Of what is stored only the names, since a document has words of its neighbours, too: it is made when it is
    applied. What working memory holds is stored nowhere.
    """

    changed: list[Address]
    left: list[bytes]
    held: list[IndexDocument]
    evicted: list[Address]
    sequence: int

    @property
    def size(self) -> int:
        return len(self.changed) + len(self.held) + len(self.evicted)


@dataclass(slots=True)
class Changes:
    """What the next index commit is to have; `since` (on the loop's clock) the oldest waits for it.

    Of its `size` documents the index has those of no step any more; steps are in the order of their commits.
    """

    steps: list[Step] = field(default_factory=list)
    size: int = 0
    unready: int = 0
    since: float = math.inf

    def __bool__(self) -> bool:
        return self.size > 0

    def add(self, step: Step) -> None:
        self.steps.append(step)
        self.size += step.size
        self.unready += step.size
        self.since = min(self.since, trio.current_time())

    def take_unready(self) -> list[Step]:
        steps, self.steps, self.unready = self.steps, [], 0
        return steps
