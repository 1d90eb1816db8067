"""What the text index has yet to be told: the changes of commits, in their order."""

from __future__ import annotations

import math
from collections import deque
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
    """What index commits are yet to have, oldest first; `since` (on the loop's clock) it waits.

    Of its `size` documents the index has the first `ready` ones, in no commit.
    """

    size: int = 0
    ready: int = 0
    since: float = math.inf
    _unready: deque[tuple[float, Step]] = field(default_factory=deque)

    def __bool__(self) -> bool:
        return self.size > 0

    @property
    def unready(self) -> int:
        return self.size - self.ready

    def add(self, step: Step) -> None:
        now = trio.current_time()
        self._unready.append((now, step))
        self.size += step.size
        self.since = min(self.since, now)

    def take_unready(self, size_max: int) -> list[Step]:
        """The oldest, to be made ready: `size_max` documents at the most, but for a step that alone has more."""
        steps: list[Step] = []
        size = 0
        while self._unready and (not steps or size + self._unready[0][1].size <= size_max):
            _noted_at, step = self._unready.popleft()
            steps.append(step)
            size += step.size
        self.ready += size
        return steps

    def take(self, size_max: int) -> list[Step]:
        """Those of the next commit that aren't ready, as in `take_unready`; what is ready goes with them."""
        steps = self.take_unready(size_max)
        self.size, self.ready = self.unready, 0
        self.since = self._unready[0][0] if self._unready else math.inf
        return steps
