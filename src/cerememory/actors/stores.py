"""The durable stores: one actor for each memory type, which answers reads of its memories.

What recalls do to a memory (it is counted, and harder to forget) lives here first: the store keeps the touched
state until the writer says that it is on disk, so that the next reader sees it at once. Contents are written
by the writer alone.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, TypeVar

import msgspec

from cerememory.actors.actor import Actor, Reply, Request
from cerememory.actors.followers import RecordsGone, StatesCommitted
from cerememory.actors.seams import World
from cerememory.domain.curve import Curve
from cerememory.domain.fidelity import State
from cerememory.protocol.records import Association, Store
from cerememory.protocol.values import RecordId
from cerememory.storage.contract import Reader, Storage
from cerememory.storage.dynamics import Curves
from cerememory.storage.frames import Frames
from cerememory.storage.keys import Address, state_key
from cerememory.storage.prepared import SavedState
from cerememory.storage.rows import (
    STORE_CODE,
    ContentRow,
    Frame,
    framed_json,
    parse_edges,
    parse_state_row,
    record_json,
    shown_bytes,
)

R = TypeVar("R")
TOUCHED_MAX = 4_096


class Memory(msgspec.Struct, frozen=True, gc=False):
    """A memory as read: its rows, not yet joined."""

    record_id: RecordId
    row: ContentRow
    state: State
    edges: bytes | None
    frame: Frame | None = None  # of row and edges, when it is known

    def with_state(self, state: State) -> Memory:
        return Memory(self.record_id, self.row, state, self.edges, self.frame)

    @property
    def shown_bytes(self) -> int:
        """About what it takes in an answer; see `Frame`."""
        if self.frame is None:
            return shown_bytes(self.row, self.edges)
        return self.frame.shown_bytes

    def associations(self) -> tuple[Association, ...]:
        return parse_edges(self.edges)

    def json(self) -> bytes:
        if self.frame is None:
            return record_json(self.record_id, self.row, self.state, self.edges)
        return framed_json(self.frame, self.state)


class Fetched(msgspec.Struct, frozen=True):
    """The memories that are there, in the order asked; with a touch, what it did to the durable ones."""

    memories: tuple[Memory, ...]
    saved: tuple[SavedState, ...] = ()


class Fetch(Request[Fetched], msgspec.Struct, frozen=True):
    """Read memories; `touch_at` (nanoseconds) makes each a retrieval at that time. `room_bytes`: see `Look`."""

    namespace: int
    record_ids: tuple[RecordId, ...]
    touch_at: int | None = None
    room_bytes: int = sys.maxsize


class Seen(msgspec.Struct, frozen=True, gc=False):
    """A memory as it is at a moment, its state as it was last kept, and what it fades by.

    `is_stored`: it was kept in storage, and no recall has touched it since.
    """

    memory: Memory
    kept: State
    curve: Curve
    is_stored: bool


class Look(Request[list[Seen]], msgspec.Struct, frozen=True):
    """Read the memories that are there, in the order asked, as they are at `now` (nanoseconds).

    What is left out for want of `room_bytes` (`Frames.read`) is left out though it is there: whenever those read
    take as much.
    """

    namespace: int
    record_ids: tuple[RecordId, ...]
    now: int
    room_bytes: int = sys.maxsize


class Touch(Request[Fetched], msgspec.Struct, frozen=True):
    """Make a retrieval at `now` of each of the memories that were `seen` then."""

    namespace: int
    seen: tuple[Seen, ...]
    now: int


class Scores(Request[dict[RecordId, float]], msgspec.Struct, frozen=True):
    """The fidelity that each of the memories that are there has at `now` (nanoseconds).

    `records` are their ids and creation times.
    """

    namespace: int
    records: tuple[tuple[RecordId, int], ...]
    now: int


class DurableStore(Actor):
    """Reads the memories of one store."""

    def __init__(
        self,
        store: Store,
        storage: Storage,
        world: World,
        curves: Curves,
        frames: Frames,
        mailbox_size: int = 256,
    ) -> None:
        """`frames` are those of all stores, of which the writer notes what it commits."""
        super().__init__(store.value, mailbox_size)
        self._code = STORE_CODE[store]
        self._storage = storage
        self._world = world
        self._curves = curves
        self._touched: OrderedDict[Address, State] = OrderedDict()
        self._frames = frames

    async def load(self) -> None:
        self._touched.clear()

    async def handle(self, message: Any, reply: Reply[Any] | None) -> Any:
        match message:
            case StatesCommitted():
                self._forget_saved(message.states)
                return None
            case RecordsGone():
                for address in message.addresses:
                    self._touched.pop(address, None)
                return None
        answer = self._answer_of(message)
        return await super().handle(message, reply) if answer is None else answer

    def answer_nowait(self, request: Request[R]) -> R | None:
        """The answer to a read, when nothing waits in front of it; None: `ask`, of which the way costs as much."""
        return self._answer_of(request) if self.is_idle else None

    def _answer_of(self, request: Any) -> Any:
        """None: it isn't one of the requests for memories."""
        match request:
            case Look():
                return self._look(request)
            case Touch():
                return self._touch(request)
            case Scores():
                return self._scores(request)
            case Fetch():
                return self._fetch(request)
        return None

    def _fetch(self, request: Fetch) -> Fetched:
        now = self._world.now() if request.touch_at is None else request.touch_at
        seen = self._look(Look(request.namespace, request.record_ids, now, request.room_bytes))
        if request.touch_at is not None:
            return self._touch(Touch(request.namespace, tuple(seen), now))
        return Fetched(tuple(each.memory for each in seen))

    def _look(self, request: Look) -> list[Seen]:
        namespace, touched, mark = request.namespace, self._touched, self._frames.mark
        with self._storage.read() as reader:
            curve = self._curves.of(reader, namespace)[self._code]
            frames = self._frames.read(reader, namespace, request.record_ids, mark, request.room_bytes)
            stored = _with_states(reader, frames)
        seen = []
        for memory in stored:
            kept = touched.get((namespace, memory.record_id)) or memory.state
            here = memory.with_state(curve.current(kept, request.now))
            seen.append(Seen(here, kept, curve, kept is memory.state))
        return seen

    def _touch(self, request: Touch) -> Fetched:
        namespace, now, touched = request.namespace, request.now, self._touched
        memories, saved = [], []
        for seen in request.seen:
            memory, kept = seen.memory, seen.kept
            record_id, row, here = memory.record_id, memory.row, memory.state
            address = namespace, record_id
            before = touched.get(address, kept)
            if before is not kept:  # another recall has touched it since
                here = seen.curve.current(before, now)
            state = touched[address] = seen.curve.recalled(here, now)
            touched.move_to_end(address)
            memories.append(memory.with_state(state))
            was_stored = seen.is_stored and before is kept
            code = row.store_code
            saved.append(SavedState(namespace, record_id, row.created_at, code, before, state, was_stored))
        while len(touched) > TOUCHED_MAX:
            touched.popitem(last=False)
        return Fetched(tuple(memories), tuple(saved))

    def _forget_saved(self, states: Iterable[SavedState]) -> None:
        for saved in states:
            address = saved.namespace, saved.record_id
            if self._touched.get(address) is saved.state:
                del self._touched[address]

    def _scores(self, request: Scores) -> dict[RecordId, float]:
        namespace, now = request.namespace, request.now
        keys = [state_key(namespace, created_at, record_id) for record_id, created_at in request.records]
        with self._storage.read() as reader:
            curve = self._curves.of(reader, namespace)[self._code]
            values = reader.get_many(keys)
        scores: dict[RecordId, float] = {}
        for (record_id, _created_at), value in zip(request.records, values, strict=True):
            if value is not None:
                state = self._touched.get((namespace, record_id)) or parse_state_row(value)[1]
                scores[record_id] = curve.score(state, now)
        return scores


def _with_states(reader: Reader, frames: list[Frame]) -> list[Memory]:
    """Those that are still there, with their states as written."""
    values = reader.get_many([around.state_key for around in frames])
    return [
        Memory(around.record_id, around.row, parse_state_row(value)[1], around.edges, around)
        for around, value in zip(frames, values, strict=True)
        if value is not None
    ]
