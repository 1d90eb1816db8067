"""What clients asked for in a life, what they were answered, and what may therefore be there.

An `Operation` is one request of a client, asked once or, with its idempotency key, again. An `Item` is a memory or
a raw entry that an operation makes: it is told from others by its first word, and by its second who wrote it last.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import trio

from cerememory.actors.engine import Engine, Idempotency
from cerememory.errors import Busy, CerememoryError, InternalError, RecordNotFound, StorageUnavailable
from cerememory.protocol.values import RecordId, format_id
from cerememory.storage.mutations import Stored

Call = Callable[[Engine, Idempotency | None], Awaitable[Stored[Any]]]


class Violation(AssertionError):
    """The daemon did what it must not do."""


@dataclass(slots=True, eq=False)
class Operation:
    """`unsure` counts the times that it was asked for without an answer that says what became of it."""

    number: int
    name: str
    call: Call = field(init=False)
    key: str | None = None
    is_once: bool = False  # it may be asked for again without a key, and is done once
    makes: tuple[Item, ...] = ()
    writes: Item | None = None
    forgets: tuple[Item, ...] = ()
    archive_id: str | None = None
    sent_at: int = 0
    unsure: int = 0
    sequence: int | None = None  # that it was acknowledged with
    is_done: bool = False  # as an answer has said that isn't a repetition

    @property
    def mark(self) -> str:
        """The word by which a memory is known to be as this operation wrote it."""
        return f"u{self.number}"

    @property
    def acknowledged(self) -> bool:
        return self.sequence is not None

    @property
    def may_be_done(self) -> bool:
        return self.acknowledged or self.unsure > 0

    @property
    def items(self) -> tuple[Item, ...]:
        """All that it concerns."""
        return (*self.makes, *([] if self.writes is None else [self.writes]), *self.forgets)

    def __str__(self) -> str:
        return f"#{self.number} {self.name} {' '.join(item.word for item in self.items)}"


@dataclass(frozen=True, slots=True)
class Seen:
    """An item as it was found, or that it wasn't (`mark` is empty); `sequence` is the last commit by then."""

    mark: str
    version: int
    sequence: int

    @property
    def is_there(self) -> bool:
        return bool(self.mark)


@dataclass(slots=True, eq=False)
class Item:
    """`seen` is how the last check found it; `writes` and `forgets` were asked for since, also in vain."""

    word: str
    maker: Operation
    is_raw: bool = False
    lasts: bool = True  # working memory doesn't
    record_id: RecordId | None = None
    seen: Seen | None = None
    is_doomed: bool = False  # its maker asks for it to be forgotten
    is_forgotten: bool = False
    writes: list[Operation] = field(default_factory=list)
    forgets: list[Operation] = field(default_factory=list)

    @property
    def must_be_there(self) -> bool:
        if self.seen is None:
            was_made = self.maker.acknowledged
        else:
            was_made = self.seen.is_there or self._was_made_since(self.seen)
        return was_made and not any(each.may_be_done for each in self.forgets)

    @property
    def may_be_there(self) -> bool:
        if self.seen is None:
            may_be_made = self.maker.may_be_done
        else:
            may_be_made = self.seen.is_there or self.maker.unsure > 0 or self._was_made_since(self.seen)
        return may_be_made and not any(each.acknowledged for each in self.forgets)

    def _was_made_since(self, seen: Seen) -> bool:
        return self.maker.sequence is not None and self.maker.sequence > seen.sequence

    def marks(self) -> set[str]:
        """Who may have written it last: of those acknowledged the last, or anybody who wasn't answered."""
        done = self._acknowledged_since()
        last = max((sequence for _write, sequence in done), default=None)
        latest = {write.mark for write, sequence in done if sequence == last}
        before = self.seen.mark if self.seen is not None and self.seen.is_there else self.maker.mark
        return (latest or {before}) | {each.mark for each in self.writes if not each.acknowledged and each.unsure}

    def versions(self) -> range:
        """Which it may have: one more for each write that was acknowledged, and perhaps for the others."""
        least = self.seen.version if self.seen is not None and self.seen.is_there else 1
        least += len(self._acknowledged_since())
        return range(least, least + sum(not each.acknowledged and each.unsure > 0 for each in self.writes) + 1)

    def _acknowledged_since(self) -> list[tuple[Operation, int]]:
        """A write that was asked for again may have been done before the last check."""
        since = 0 if self.seen is None else self.seen.sequence
        return [
            (each, each.sequence) for each in self.writes if each.sequence is not None and each.sequence > since
        ]

    @property
    def may_be_forgotten(self) -> bool:
        return self.is_forgotten or any(each.may_be_done for each in self.forgets)

    def settle(self, seen: Seen) -> None:
        self.is_forgotten = self.may_be_forgotten and not seen.is_there
        self.seen = seen
        self.writes, self.forgets = [], []

    def __str__(self) -> str:
        return self.word if self.record_id is None else f"{self.word} ({format_id(self.record_id)})"


@dataclass(slots=True)
class History:
    """`lines` say what happened, in order; the same seed makes the same lines."""

    lines: list[str] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    items: dict[str, Item] = field(default_factory=dict)
    acknowledged: int = 0
    asked: int = 0
    last_sequence: int = 0  # the greatest that was acknowledged
    may_crash: bool = False  # whether the test lets actors crash in this run of the machine
    violation: str | None = None

    def note(self, text: str) -> None:
        self.lines.append(f"{trio.current_time():.6f} {text}")

    def digest(self) -> str:
        return sha256("\n".join(self.lines).encode()).hexdigest()

    def violate(self, text: str) -> Violation:
        """To be raised: what is wrong, noted, since others may raise on the way out."""
        self.violation = self.violation or text
        self.note(f"WRONG: {text}")
        return Violation(text)

    def hold(self, statement: bool, text: str) -> None:
        if not statement:
            raise self.violate(text)

    def new_operation(self, name: str, **given: Any) -> Operation:
        """Its `call` is to be set before it is sent."""
        operation = Operation(len(self.operations), name, **given)
        self.operations.append(operation)
        return operation

    def new_item(self, maker: Operation, **given: Any) -> Item:
        prefix = "r" if given.get("is_raw") else "w"
        item = Item(f"{prefix}{len(self.items)}", maker, **given)
        self.items[item.word] = item
        return item

    def begin(self, operation: Operation) -> int:
        """Its number among all that was asked, and that it may be done from now on."""
        self.asked += 1
        operation.unsure += 1
        if operation.writes is not None and operation not in operation.writes.writes:
            operation.writes.writes.append(operation)
        for item in operation.forgets:
            if operation not in item.forgets:
                item.forgets.append(operation)
        return self.last_sequence

    def acknowledge(self, operation: Operation, stored: Stored[Any], floor: int) -> None:
        """An answer to a request that was sent when `floor` was the last acknowledged commit."""
        self.acknowledged += 1
        how = "again" if stored.replayed else "done"
        self.note(f"{operation}: {how} in {stored.sequence}, {_told(stored.reply)}")
        if stored.replayed:
            self._check_replayed(operation, stored)
        else:
            self.hold(
                operation.is_once or not _was_done(operation, stored), f"{operation}: was done a second time"
            )
            operation.is_done = True
            is_later = stored.sequence > floor or (operation.is_once and stored.sequence == floor)
            self.hold(is_later, f"{operation}: is commit {stored.sequence}, {floor} was before it")
        operation.unsure -= 1
        if not operation.acknowledged:
            operation.sequence = stored.sequence
        self.last_sequence = max(self.last_sequence, stored.sequence)

    def _check_replayed(self, operation: Operation, stored: Stored[Any]) -> None:
        known = operation.sequence
        self.hold(operation.key is not None, f"{operation}: has no key, and was answered as if it came before")
        self.hold(
            known is None or known == stored.sequence,
            f"{operation}: was commit {known}, is answered as commit {stored.sequence}",
        )
        for item in operation.makes:
            was_seen = item.seen is None or item.seen.is_there or item.seen.sequence < stored.sequence
            self.hold(
                was_seen or not item.lasts, f"{item}: is of commit {stored.sequence}, and wasn't there later"
            )

    def refuse(self, operation: Operation, error: CerememoryError) -> None:
        self.note(f"{operation}: {type(error).__name__}")
        if isinstance(error, RecordNotFound):
            for item in operation.items:
                self.hold(not item.must_be_there, f"{item}: isn't there, says the answer to {operation}")
        elif not isinstance(error, (Busy, InternalError)):
            raise self.violate(f"{operation}: {type(error).__name__}: {error}")
        self.hold(self.may_crash or not isinstance(error, InternalError), f"{operation}: crashed: {error}")
        if isinstance(error, (StorageUnavailable, RecordNotFound)):
            operation.unsure -= 1  # nothing of it is there

    def known(self) -> Iterator[Item]:
        """Items that clients know the ids of."""
        return (item for item in self.items.values() if item.record_id is not None)


def learn(items: Iterable[Item], record_ids: Iterable[RecordId], history: History) -> None:
    """The ids that an answer gives its items."""
    for item, record_id in zip(items, record_ids, strict=True):
        known = item.record_id
        history.hold(known in (None, record_id), f"{item}: is answered as {format_id(record_id)}")
        item.record_id = record_id


def _was_done(operation: Operation, stored: Stored[Any]) -> bool:
    """Whether another answer than `stored`, or a check, has shown it; of two at once any may come first."""
    made = any(item.seen is not None and item.seen.is_there for item in operation.makes)
    seen = None if operation.writes is None else operation.writes.seen
    written = seen is not None and seen.mark == operation.mark
    return operation.is_done or operation.sequence not in (None, stored.sequence) or made or written


def _told(reply: Any) -> str:
    return "" if reply is None else type(reply).__name__
