"""Working memory: seven records of each namespace that live in this actor alone, and are lost at a restart.

The least recently accessed makes room for a new one, and leaves the indexes with it. A record enters when its
audit entry is committed: whatever touches working memory is handed to the writer from here, one after the
other, and shows when the writer has answered.

Two tasks do that. One takes what comes, answers reads at once and never waits for anybody: so the mailbox is
empty again at every turn of the loop, and the writer, who tells of what is gone while others wait for it, can't be
kept waiting by one who waits for the writer. The other takes the changes in turn, asks the writer for each,
waits, and tells the indexes. What comes of a change is worked out when its commit is answered, for records may
have been read, or have gone, meanwhile.

A crash empties working memory, but no change that waits is lost by it: neither one that has yet to be handed to
the writer, nor one that the writer has.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import trio

from cerememory.actors.actor import LATER, Actor, Reply, Request
from cerememory.actors.followers import RecordsGone
from cerememory.actors.held import HeldRecords, without_edges_to
from cerememory.actors.stores import Fetch, Memory, Scores
from cerememory.actors.writer import Commit, CommitSeries, Writer
from cerememory.errors import ActorBusy, ActorStopped, CerememoryError, InternalError, RecordNotFound
from cerememory.protocol import codec
from cerememory.protocol.records import EmotionVector, MemoryContent, Store
from cerememory.protocol.values import RecordId, format_id
from cerememory.storage.documents import row_document
from cerememory.storage.keys import Address
from cerememory.storage.ledger import Mutation
from cerememory.storage.mutations import Edit, Stored, UpdateHeld, embedding_of
from cerememory.storage.prepared import NewRecord
from cerememory.storage.series import Series
from cerememory.storage.text_index import IndexDocument
from cerememory.storage.vectors import Space, VectorChange

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Remember(Request[Stored[Any]]):
    """Commit `mutation`, which tells of `records`, then hold them, the newest last."""

    records: tuple[NewRecord, ...]
    mutation: Mutation[Stored[Any]]


@dataclass(frozen=True, slots=True)
class UpdateWorking(Request[Stored[None]]):
    """Replace parts of a working record; `expected_version` as in `If-Match`.

    `keep_answer` wraps the mutation when it came with an idempotency key.
    """

    namespace: int
    record_id: RecordId
    edit: Edit
    expected_version: int | None
    now: int
    keep_answer: Callable[[Mutation[Stored[None]]], Mutation[Stored[None]]]


@dataclass(frozen=True, slots=True)
class Held(Request[tuple[Memory, ...]]):
    """All working records of the namespace, the least recently accessed first."""

    namespace: int


@dataclass(frozen=True, slots=True)
class CountHeld(Request[int]):
    """How many working records there are in all namespaces."""


@dataclass(frozen=True, slots=True)
class Restock:
    """What an import brings: let go of `gone`, then hold `records`, the newest last."""

    namespace: int
    gone: tuple[RecordId, ...]
    records: tuple[NewRecord, ...]


HeldIn = Callable[[int], tuple[Memory, ...]]
"""What is held in a namespace."""


@dataclass(frozen=True, slots=True)
class CommitWithHeld(Request[R]):
    """Commit the series that `begin` makes of what is held, then do what `restock` makes of its answer.

    No encode and no update comes in between: nothing is decided by what is old when it is committed.
    """

    begin: Callable[[HeldIn], Series[R]]
    restock: Callable[[R], Restock | None]


@dataclass(frozen=True, slots=True)
class ToldAnew:
    """To the indexes: what working memory holds, which no storage has; all of it to one that was reopened."""

    documents: tuple[IndexDocument, ...]
    vectors: tuple[VectorChange, ...]
    is_all: bool = False


@dataclass(frozen=True, slots=True)
class TellAnew:
    """From an index that was reopened: `index` lacks what working memory holds."""

    index: Actor


@dataclass(frozen=True, slots=True)
class Evicted:
    """To the indexes: these records are gone."""

    namespace: int
    record_ids: tuple[RecordId, ...]


Change = Remember | UpdateWorking | CommitWithHeld[Any]
Finish = Callable[[Any, frozenset[Address]], Iterable[Address]]
"""Do what was committed, given the writer's answer and what has gone since. The indexes are told of the answer."""


@dataclass(slots=True)
class _Turn:
    """A change that waits; `asked` once the writer has it, `gone` is what was removed since it came."""

    request: Change
    reply: Reply[Any]
    gone: list[tuple[Address, ...]] = field(default_factory=list)
    asked: tuple[Request[Any], Reply[Any], Finish] | None = None


class WorkingMemory(Actor):
    """At most `mailbox_size` changes wait for the writer: one more is refused, as by a full mailbox."""

    def __init__(self, writer: Writer, mailbox_size: int = 256) -> None:
        super().__init__(Store.WORKING.value, mailbox_size)
        self._writer = writer
        self._indexes: tuple[Actor, ...] = ()
        self._held = HeldRecords()
        self._turns_max = mailbox_size
        self._turns: deque[_Turn] = deque()  # the one whose turn it is first
        self._untold: deque[TellAnew | list[Address]] = deque()  # records that came or went
        self._wake = trio.Event()
        self._is_ending = False

    def tell(self, indexes: tuple[Actor, ...]) -> None:
        self._indexes = indexes

    @property
    def mailbox_depth(self) -> int:
        """With what waits for the writer."""
        return super().mailbox_depth + len(self._turns)

    async def load(self) -> None:
        """After a crash: empty, and the indexes know it."""
        gone, self._held = self._held, HeldRecords()
        self._tell_later(gone.addresses())

    async def run(self) -> None:
        self._is_ending = False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._take_turns)
            async for message, reply in self._mailbox:
                await self._handle_one(message, reply)
                await self._handle_the_others()
            self._is_ending = True
            self._wake.set()

    async def _handle_the_others(self) -> None:
        """That wait, too: with many tasks a turn of the loop takes long, and none of them does."""
        while True:
            try:
                message, reply = self._mailbox.receive_nowait()
            except (trio.WouldBlock, trio.EndOfChannel):
                return
            await self._handle_one(message, reply)

    def give_up(self) -> None:
        super().give_up()
        while self._turns:
            self._turns.popleft().reply.fail(ActorStopped(self.name))

    async def handle(self, message: Any, reply: Reply[Any] | None) -> Any:
        """Waits for nobody; see above."""
        match message:
            case Fetch():
                return self._held.fetch(message)
            case Scores():
                return self._held.scores(message)
            case Held():
                return self._held.memories(message.namespace)
            case CountHeld():
                return len(self._held)
            case Remember() | UpdateWorking() | CommitWithHeld() if reply is not None:
                self._wait_in_turn(message, reply)
                return LATER
            case RecordsGone():
                self._drop(message.addresses)
                return None
            case TellAnew():
                self._untold.append(message)
                self._wake.set()
                return None
        return await super().handle(message, reply)

    def _wait_in_turn(self, request: Change, reply: Reply[Any]) -> None:
        if len(self._turns) >= self._turns_max:
            raise ActorBusy(self.name)
        self._turns.append(_Turn(request, reply))
        self._wake.set()

    def _drop(self, addresses: tuple[Address, ...]) -> None:
        self._tell_later(self._held.drop(frozenset(addresses)))
        for turn in self._turns:
            turn.gone.append(addresses)

    def _tell_later(self, addresses: list[Address]) -> None:
        if addresses:
            self._untold.append(addresses)
            self._wake.set()

    async def _take_turns(self) -> None:
        """One after the other; what the indexes are yet to be told goes before each.

        They are told here alone, and never while a commit is under way: of that the writer tells them, and what
        is told from here would be older.
        """
        while True:
            if self._untold:
                await self._tell(self._untold[0])
                self._untold.popleft()
            elif self._turns:
                await self._take(self._turns[0])
                self._turns.popleft()
            elif self._is_ending:
                return
            else:
                self._wake = trio.Event()
                await self._wake.wait()

    async def _take(self, turn: _Turn) -> None:
        """A turn that is cut off here, by a crash of the other task, is taken up again by the next `run`."""
        try:
            answer = await self._committed(turn)
        except CerememoryError as error:
            if isinstance(error, InternalError):  # a writer that has crashed may have told the indexes before
                self._tell_later(_changed_by(turn.request))
            turn.reply.fail(error)
        except Exception as error:  # a bug: this change fails alone
            error.add_note(f"asked by {turn.reply.asked_by()}")
            turn.reply.close()
            self._turns.popleft()
            raise
        else:
            turn.reply.resolve(answer)

    async def _committed(self, turn: _Turn) -> Any:
        if turn.asked is None:
            commit, finish = self._begun(turn.request)
            turn.asked = commit, self._writer.send_nowait(commit), finish
        commit, reply, finish = turn.asked
        answer = await self._writer.answer(commit, reply)
        await trio.lowlevel.checkpoint()  # the other task handles what the writer told before it answered
        gone = frozenset(address for addresses in turn.gone for address in addresses)
        await self._tell(finish(answer, gone))
        return answer

    def _begun(self, request: Change) -> tuple[Request[Any], Finish]:
        if isinstance(request, Remember):
            return Commit(request.mutation), partial(self._remember, request)
        if isinstance(request, CommitWithHeld):
            return CommitSeries(request.begin(self._held.memories)), partial(self._restock, request)
        record = self._held.get(request.namespace, request.record_id)
        if record is None:
            raise RecordNotFound(f"Record not found: {format_id(request.record_id)}")
        edited = _edited(record, request)
        update = UpdateHeld(edited, request.edit, request.expected_version)
        return Commit(request.keep_answer(update)), partial(self._replace, edited)

    def _remember(self, request: Remember, stored: Stored[Any], gone: frozenset[Address]) -> list[Address]:
        if stored.replayed:
            return []
        namespace = request.mutation.namespace
        records = [without_edges_to(record, gone) for record in request.records]
        evicted = self._held.hold(namespace, (r for r in records if (namespace, r.record_id) not in gone))
        left = [(namespace, record_id) for record_id in evicted]
        return left + [(namespace, r.record_id) for r in records if (namespace, r.record_id) in gone]

    def _replace(self, edited: NewRecord, stored: Stored[None], _gone: frozenset[Address]) -> list[Address]:
        """What was read meanwhile keeps that; what has gone stays away, also from the indexes."""
        if stored.replayed:
            return []
        current = self._held.get(edited.namespace, edited.record_id)
        if current is None:
            return [(edited.namespace, edited.record_id)]
        record = replace(current, row=edited.row, embedding=edited.embedding, emotion=edited.emotion)
        self._held.hold(edited.namespace, (record,))
        return []

    def _restock(self, request: CommitWithHeld[R], answer: R, _gone: frozenset[Address]) -> list[Address]:
        """What is gone was told before: of what the import replaces, too."""
        restock = request.restock(answer)
        if restock is None:
            return []
        namespace, records = restock.namespace, restock.records
        self._held.let_go(namespace, restock.gone)
        evicted = self._held.hold(namespace, records)
        changed = (*restock.gone, *evicted, *(record.record_id for record in records))
        return [(namespace, record_id) for record_id in changed]

    async def _tell(self, what: TellAnew | Iterable[Address]) -> None:
        """The indexes, or one that asked: what is held, and of what isn't, that it is gone."""
        if isinstance(what, TellAnew):
            await what.index.inform(_told_of(self._held, is_all=True))
            return
        held, gone = [], defaultdict[int, list[RecordId]](list)
        for namespace, record_id in what:
            record = self._held.get(namespace, record_id)
            if record is None:
                gone[namespace].append(record_id)
            else:
                held.append(record)
        events: list[Any] = [Evicted(namespace, tuple(record_ids)) for namespace, record_ids in gone.items()]
        for event in [*events, _told_of(held)] if held else events:
            for index in self._indexes:
                await index.inform(event)


def _changed_by(request: Change) -> list[Address]:
    """Of an import nobody but this actor tells."""
    match request:
        case Remember():
            return [(request.mutation.namespace, record.record_id) for record in request.records]
        case UpdateWorking():
            return [(request.namespace, request.record_id)]
        case CommitWithHeld():
            return []


def _told_of(records: Iterable[NewRecord], *, is_all: bool = False) -> ToldAnew:
    told = list(records)
    documents = [row_document(record.namespace, record.record_id, record.row) for record in told]
    return ToldAnew(tuple(documents), tuple(change for record in told for change in _vectors(record)), is_all)


def _edited(record: NewRecord, request: UpdateWorking) -> NewRecord:
    row = request.edit.applied(record.row, request.now)
    content = codec.parse(row.content, MemoryContent)
    return replace(
        record,
        row=row,
        embedding=embedding_of(content),
        emotion=codec.parse(row.emotion, EmotionVector) if row.emotion else None,
    )


def _vectors(record: NewRecord) -> list[VectorChange]:
    axes = record.emotion.axes() if record.emotion is not None and any(record.emotion.axes()) else None
    return [
        VectorChange(
            record.namespace, space, record.record_id, record.row.store_code, record.row.created_at, values
        )
        for space, values in ((Space.CONTENT, record.embedding), (Space.EMOTION, axes))
        if values is not None
    ]
