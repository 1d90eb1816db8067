"""Clients: each does one thing after the other, in its own order, over all runs of the machine.

What a client was given no certain answer to, it asks for again with the same key, in the same run or after the
next start. Whoever made an item is alone in forgetting it; anybody may edit it or look for it.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec
import trio

from cerememory.actors.engine import Engine, Idempotency
from cerememory.errors import Busy, CerememoryError, InternalError, NotCaughtUp
from cerememory.protocol import codec
from cerememory.protocol.records import (
    ContentBlock,
    MemoryContent,
    MemoryRecord,
    Modality,
    RawJournalRecord,
    RawSource,
    SecrecyLevel,
    Speaker,
    Store,
    Visibility,
)
from cerememory.protocol.requests import (
    Compact,
    DecayTick,
    DreamTick,
    EncodeBatch,
    EncodeBatchRaw,
    EncodeUpdate,
    Export,
    Forget,
    Import,
)
from cerememory.protocol.values import NANOS, ByteArray, RecordId, Timestamp, format_id
from cerememory.storage.mutations import Stored
from tests.simulation.history import History, Item, Operation, learn
from tests.simulation.world import Power, SimulatedWorld
from tests.support.archives import archive_of
from tests.support.engine import NOW, store_body, to_recall, to_store, to_store_raw

T = TypeVar("T")

HOUR_S, DAY_S = 3_600, 86_400
PATIENCE_S = HOUR_S  # the daemon's own limits are far below
KEY_LIFE_NS = 8 * HOUR_S * NANOS  # keys are kept for a day, but clocks are set while a request is under way
NAPS_S = (*[0] * 10, 0.001, 0.01, 0.3, 2, 70, 2 * HOUR_S)
LONG_AGO = Timestamp(NOW - 400 * DAY_S * NANOS)  # so that an import that comes again finds nothing older
SET_BY_S = (-40, 90, 4 * HOUR_S)
SESSIONS = ("s-1", "s-2", "s-3")
TALK = ("the kettle is on the stove", "who has seen the parrot", "nobody plays the violin any more")
DURABLE = ("episodic", "semantic", "procedural", "emotional", None)


@dataclass(slots=True)
class Session:
    """One run of the machine, as a client has it."""

    engine: Engine
    power: Power


@dataclass(slots=True)
class Client:
    number: int
    rng: random.Random
    history: History
    world: SimulatedWorld
    unfinished: list[Operation] = field(default_factory=list)
    finished: list[Operation] = field(default_factory=list)  # that have a key

    async def run(self, session: Session, actions: int) -> None:
        acts = {
            self._store: 14,
            self._batch: 6,
            self._store_raw: 5,
            self._batch_raw: 3,
            self._update: 12,
            self._forget: 5,
            self._import: 3,
            self._recall: 10,
            self._recall_much: 2,
            self._ask_again: 4,
            self._tick: 1,
            self._dream: 1,
            self._export: 1,
            self._compact: 1,
            self._set_clock: 1,
        }
        for operation in self.unfinished[:]:
            await self._nap()
            await self._retry(session, operation)
        for _ in range(actions):
            await self._nap()
            [act] = self.rng.choices([*acts], [*acts.values()])
            await act(session)
            if self.unfinished and self.rng.random() < 0.4:
                await self._retry(session, self.rng.choice(self.unfinished))

    def _one(self, *choices: T) -> T:
        return self.rng.choice(choices)

    async def _nap(self) -> None:
        await self.world.pause()
        await trio.sleep(self._one(*NAPS_S))

    async def _set_clock(self, _session: Session) -> None:
        self.world.set_by_s += self._one(*SET_BY_S)
        self.history.note(f"client {self.number} sets the clock: {self.world.set_by_s} s ahead")

    # what changes something

    async def _perform(self, session: Session, operation: Operation) -> None:
        """Ask once, twice at once now and then, and put aside what has to be asked for again."""
        operation.sent_at = self.world.now()
        if operation.key is not None and self.rng.random() < 0.1:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send, session, operation)
                nursery.start_soon(self._send, session, operation)
        else:
            await self._send(session, operation)

    async def _retry(self, session: Session, operation: Operation) -> None:
        if self._may_ask_again(operation):
            await self._send(session, operation)
        else:
            self.unfinished.remove(operation)

    def _may_ask_again(self, operation: Operation) -> bool:
        """A key's answer goes with its time, and with what it names when that is forgotten."""
        is_kept = operation.key is None or abs(self.world.now() - operation.sent_at) < KEY_LIFE_NS
        return is_kept and not any(item.is_doomed for item in operation.makes)

    async def _send(self, session: Session, operation: Operation) -> None:
        history = self.history
        floor = history.begin(operation)
        if operation not in self.unfinished and (operation.key or operation.is_once):
            self.unfinished.append(operation)
        history.note(f"client {self.number} asks {operation}")
        idempotency = None
        if operation.key is not None:
            idempotency = Idempotency("client", operation.key, operation.key.encode())
        try:
            with trio.fail_after(PATIENCE_S):
                stored = await operation.call(session.engine, idempotency)
        except CerememoryError as error:
            if session.power.is_on:
                history.refuse(operation, error)
        except trio.TooSlowError:
            raise history.violate(f"{operation}: has no answer after an hour") from None
        else:
            if session.power.is_on:
                self._finish(operation, stored, floor)
                await self._see(session, stored)

    def _finish(self, operation: Operation, stored: Stored[Any], floor: int) -> None:
        self.history.acknowledge(operation, stored, floor)
        if operation.archive_id is None and operation.makes:
            reply = stored.reply
            results = reply.results if hasattr(reply, "results") else [reply]
            learn(operation.makes, [result.record_id for result in results], self.history)
        if operation in self.unfinished:
            self.unfinished.remove(operation)
            if operation.key is not None:
                self.finished.append(operation)

    async def _see(self, session: Session, stored: Stored[Any]) -> None:
        """What was acknowledged is visible."""
        try:
            await session.engine.wait_for(stored.sequence)
        except NotCaughtUp as error:
            raise self.history.violate(f"acknowledged, and not there: {error}") from None

    def _key(self) -> str | None:
        return self._one(f"key-{len(self.history.operations)}", f"key-{len(self.history.operations)}", None)

    def _new(self, name: str, **given: Any) -> Operation:
        given.setdefault("key", self._key())
        return self.history.new_operation(name, **given)

    async def _store(self, session: Session) -> None:
        store = self._one(*DURABLE, *DURABLE, "working")
        if_absent = store != "working" and self.rng.random() < 0.15
        operation = self._new("encode.store", is_once=if_absent, key=None if if_absent else self._key())
        item = self._item(operation, lasts=store != "working")
        vector = self._one(None, None, [self.rng.random(), self.rng.random()])
        request = to_store(
            _text(item, operation),
            store=store,
            embedding=vector,
            if_absent=if_absent,
            context=self._one(None, {"session_id": self._one(*SESSIONS)}),
            associations=self._edges(),
        )
        operation.call = lambda engine, key: engine.encode_store(request, key)
        await self._perform(session, operation)

    def _edges(self) -> list[dict[str, Any]] | None:
        targets = [_id(item) for item in self._items() if item.must_be_there and not item.is_raw]
        if not targets or self.rng.random() < 0.7:
            return None
        return [{"target_id": format_id(self._one(*targets)), "association_type": "temporal", "weight": 0.5}]

    def _item(self, maker: Operation, **given: Any) -> Item:
        item = self.history.new_item(maker, **given)
        maker.makes += (item,)
        return item

    async def _batch(self, session: Session) -> None:
        operation = self._new("encode.batch")
        made = [self._item(operation) for _ in range(self.rng.randint(2, 5))]
        records = tuple(to_store(_text(item, operation), store=self._one(*DURABLE)) for item in made)
        request = EncodeBatch(records=records, infer_associations=self._one(True, False))
        operation.call = lambda engine, key: engine.encode_batch(request, key)
        await self._perform(session, operation)

    async def _store_raw(self, session: Session) -> None:
        operation = self._new("encode.store_raw")
        request = self._raw_request(operation)
        operation.call = lambda engine, key: engine.encode_store_raw(request, key)
        await self._perform(session, operation)

    async def _batch_raw(self, session: Session) -> None:
        operation = self._new("encode.batch_raw")
        records = tuple(self._raw_request(operation) for _ in range(self.rng.randint(2, 4)))
        request = EncodeBatchRaw(records=records)
        operation.call = lambda engine, key: engine.encode_batch_raw(request, key)
        await self._perform(session, operation)

    def _raw_request(self, operation: Operation) -> Any:
        item = self._item(operation, is_raw=True)
        visibility = self._one("normal", "normal", "private_scratch")
        return to_store_raw(_text(item, operation), self._one(*SESSIONS), visibility=visibility)

    async def _update(self, session: Session) -> None:
        items = [item for item in self._items() if not item.is_raw and item.lasts]
        if not items:
            return
        item = self._one(*items)
        operation = self._new("encode.update", writes=item)
        body = {"content": store_body(_text(item, operation))["content"]}
        request, record_id = codec.parse(codec.dump(body), EncodeUpdate), _id(item)
        operation.call = lambda engine, key: engine.encode_update(record_id, request, None, key)
        await self._perform(session, operation)

    def _items(self) -> list[Item]:
        """Those that somebody has been told of, and that nobody will ask to be made again without a key."""
        return [item for item in self.history.known() if item.maker.acknowledged]

    async def _forget(self, session: Session) -> None:
        mine = {item for operation in self.finished for item in operation.makes if item.record_id is not None}
        items = sorted((item for item in mine if item.lasts and not item.is_doomed), key=lambda item: item.word)
        if not items:
            return
        chosen = tuple(self.rng.sample(items, min(len(items), self._one(1, 1, 2))))
        for item in chosen:
            item.is_doomed = True
        operation = self._new("lifecycle.forget", forgets=chosen)
        request = Forget(
            record_ids=tuple(_id(item) for item in chosen if not item.is_raw) or None,
            raw_record_ids=tuple(_id(item) for item in chosen if item.is_raw) or None,
            confirm=True,
        )
        operation.call = lambda engine, key: engine.lifecycle_forget(request, key)
        await self._perform(session, operation)

    async def _import(self, session: Session) -> None:
        operation = self._new("lifecycle.import", archive_id=f"archive-{len(self.history.operations)}")
        operation.is_once = operation.key is None
        curated = [self._curated(operation) for _ in range(self.rng.randint(1, 3))]
        raw = [self._raw(operation) for _ in range(self.rng.randint(0, 2))]
        data = archive_of("2.0" if raw else "1.0", curated, raw, NOW)
        request = Import(archive_id=operation.archive_id or "", archive_data=ByteArray(data))
        operation.call = lambda engine, key: engine.lifecycle_import(request, key)
        await self._perform(session, operation)

    def _curated(self, operation: Operation) -> MemoryRecord:
        item = self._item(operation, record_id=self.world.new_id())
        return MemoryRecord(
            id=_id(item),
            store=Store.EPISODIC,
            created_at=LONG_AGO,
            updated_at=LONG_AGO,
            content=_content(item, operation),
        )

    def _raw(self, operation: Operation) -> RawJournalRecord:
        item = self._item(operation, record_id=self.world.new_id(), is_raw=True)
        return RawJournalRecord(
            id=_id(item),
            session_id=self._one(*SESSIONS),
            source=RawSource.CONVERSATION,
            speaker=Speaker.USER,
            visibility=Visibility.NORMAL,
            secrecy_level=SecrecyLevel.PUBLIC,
            created_at=LONG_AGO,
            updated_at=LONG_AGO,
            content=_content(item, operation),
        )

    async def _ask_again(self, session: Session) -> None:
        """What was answered already."""
        again = [operation for operation in self.finished if self._may_ask_again(operation)]
        if again:
            await self._send(session, self._one(*again))

    async def _tick(self, session: Session) -> None:
        request = DecayTick(tick_duration_seconds=self._one(None, HOUR_S, 10 * DAY_S))
        operation = self._new("lifecycle.decay_tick")
        operation.call = lambda engine, key: engine.lifecycle_decay_tick(request, key)
        await self._perform(session, operation)

    async def _dream(self, session: Session) -> None:
        request = DreamTick(max_groups=self._one(1, 10), dry_run=self.rng.random() < 0.2)
        operation = self._new("lifecycle.dream_tick")
        operation.call = lambda engine, key: engine.lifecycle_dream_tick(request, key)
        await self._perform(session, operation)

    # what changes nothing that is checked

    async def _ask(self, session: Session, name: str, call: Callable[[], Awaitable[T]]) -> T | None:
        """The answer to a question; None when there is none this time."""
        try:
            with trio.fail_after(PATIENCE_S):
                answer = await call()
        except (Busy, InternalError) as error:
            if session.power.is_on:
                self.history.note(f"client {self.number} {name}: {type(error).__name__}")
                self.history.hold(self.history.may_crash or isinstance(error, Busy), f"{name}: crashed: {error}")
            return None
        except trio.TooSlowError:
            raise self.history.violate(f"{name}: has no answer after an hour") from None
        return answer if session.power.is_on else None

    async def _recall(self, session: Session) -> None:
        """By its word: what must be there is found, once, as somebody left it who may have been the last."""
        items = [item for item in self._items() if item.lasts and not item.is_raw]
        if not items:
            return
        item = self._one(*items[-8:]) if self.rng.random() < 0.7 else self._one(*items)
        was_there, marks, writes = item.must_be_there, item.marks(), len(item.writes)
        request = to_recall(item.word, include_decayed=True, limit=self._one(10, 100))
        answer = await self._ask(session, f"recall {item.word}", lambda: session.engine.recall_query(request))
        if answer is None or not answer.query_metadata.index_complete:
            return
        texts = [codec.parse(memory.record, MemoryRecord).content.blocks[0].data for memory in answer.memories]
        found = [text.decode().split() for text in texts if text.decode().split()[0] == item.word]
        self.history.note(f"client {self.number} recalls {item.word}: {len(found)}")
        self.history.hold(len(found) < 2, f"{item}: is recalled {len(found)} times")
        self.history.hold(bool(found) or not (was_there and item.must_be_there), f"{item}: isn't recalled")
        marks |= item.marks() | {write.mark for write in item.writes[writes:]}
        for _word, mark in found:
            self.history.hold(mark in marks, f"{item}: is recalled as {mark} left it, not {sorted(marks)}")

    async def _recall_much(self, session: Session) -> None:
        request = to_recall(self._one("kettle", "parrot", None), limit=30)
        await self._ask(session, "recall", lambda: session.engine.recall_query(request))

    async def _export(self, session: Session) -> None:
        """It has all that must be there before and after it."""
        before = {item.word for item in self._items() if item.must_be_there and item.lasts}
        request = Export(include_raw_journal=True)
        answer = await self._ask(session, "export", lambda: session.engine.lifecycle_export(request))
        if answer is not None:
            lines = bytes(answer.archive_data).splitlines()[1:-1]
            texts = [msgspec.json.decode(line)["data"]["content"]["blocks"][0]["data"] for line in lines]
            found = {bytes(text).decode().split()[0] for text in texts}
            lacking = {word for word in before - found if self.history.items[word].must_be_there}
            self.history.note(f"client {self.number} exports {len(lines)}")
            self.history.hold(not lacking, f"an export lacks {sorted(lacking)}")

    async def _compact(self, session: Session) -> None:
        await self._ask(session, "compact", lambda: session.engine.lifecycle_compact(Compact()))


def _id(item: Item) -> RecordId:
    assert item.record_id is not None
    return item.record_id


def _text(item: Item, writer: Operation) -> str:
    return f"{item.word} {writer.mark}"


def _content(item: Item, writer: Operation) -> MemoryContent:
    data = ByteArray(_text(item, writer).encode())
    return MemoryContent(blocks=(ContentBlock(modality=Modality.TEXT, format="text/plain", data=data),))
