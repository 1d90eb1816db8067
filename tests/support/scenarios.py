"""One mutation each, of a data dir that has everything: what a test does once, and kills on its way.

A scenario does the same, call by call, whenever it is played: ids and times come from a `Stage`, the loop's clock
jumps when there is nothing left to do, and what is done off the loop is done inline, when everything else has been
done. All play on the data dir that `BASE` makes: memories in all stores, sessions, edges, old versions, archived
and faint memories, duplicates, entries that wait for a dream, a second namespace, contents that fill several pages
of their own (LMDB keeps values of more than 2 kB so), and the free pages of some that are forgotten.

A further mutation is a row of `SCENARIOS`. What needs no engine gives `play` itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec
import trio
import trio.testing

from cerememory.actors.assembly import open_storage, running
from cerememory.actors.engine import Engine, Idempotency
from cerememory.actors.seams import World
from cerememory.config.settings import (
    DecaySettings,
    DreamSettings,
    Secret,
    SecuritySettings,
    Settings,
    StorageSettings,
)
from cerememory.domain.audit_chain import AuditDraft, parse_line, verify_lines
from cerememory.domain.cma import WITH_RAW, ArchiveReader
from cerememory.protocol import codec
from cerememory.protocol.records import (
    STORES,
    ContentBlock,
    MemoryContent,
    MemoryRecord,
    Modality,
    RawJournalRecord,
)
from cerememory.protocol.requests import (
    Compact,
    Consolidate,
    DecayTick,
    DreamTick,
    EncodeBatch,
    EncodeBatchRaw,
    EncodeUpdate,
    Forget,
    Import,
    RecallCue,
    RecallQuery,
    Restore,
    RotateAudit,
    SetMode,
    UndoImport,
)
from cerememory.protocol.values import ByteArray, RecordId, Timestamp, format_id
from cerememory.storage import resealing
from cerememory.storage.audit_lines import lines_of
from cerememory.storage.contract import Storage
from cerememory.storage.datadir import DataDir
from cerememory.storage.keyring import SALT_BYTES, Salt, Wrapping, new_keyring
from cerememory.storage.lmdb import LmdbStorage
from cerememory.storage.sealed import KEYRING_KEY, SealedStorage
from cerememory.telemetry.metrics import Metrics
from tests.support.archives import BUNDLE, archive_of
from tests.support.engine import NOW, raw_body, store_body, text_block, to_store, to_store_raw

HOUR_NS = 3_600 * 1_000_000_000
PASSPHRASE = "correct horse battery staple"
CANARIES = [b"of the talk", b"116,117,114,110,32,48"]  # "turn 0", as text and as the bytes of an array
LARGE = 24_000  # bytes of a content that has pages of its own
PROBE = RecallQuery(cue=RecallCue(text="index"), limit=1, reconsolidate=False)

R = TypeVar("R")
Play = Callable[["Stage"], None]
Mutate = Callable[[Engine, Idempotency], Awaitable[Any]]


class Stage(Protocol):
    """Where a scenario is played: `begin` and `acknowledge` tell the test how far it is."""

    @property
    def data_dir(self) -> Path: ...

    @property
    def world(self) -> World: ...

    def begin(self) -> None:
        """What comes now is the mutation."""
        ...

    def acknowledge(self) -> None:
        """Whoever asked for it has its answer."""
        ...


@dataclass(frozen=True, slots=True)
class Scenario:
    """`operations` are those of the entries that it leaves in the audit log, in order.

    `has_key`: done again, it is known by its idempotency key; else it leaves its entries once more. `check` says
    what else has to hold when it is done.
    """

    name: str
    play: Play
    operations: tuple[str, ...]
    has_key: bool = True
    check: Callable[[Path], Iterable[str]] = lambda _data_dir: ()


def settings_of(data_dir: Path, passphrase: str | None = None) -> Settings:
    """Nothing happens by itself; what is faint is archived by a decay tick."""
    return Settings(
        data_dir=data_dir,
        security=SecuritySettings(store_encryption_passphrase=None if passphrase is None else Secret(passphrase)),
        decay=DecaySettings(background_interval_secs=0, prune="archive"),
        dream=DreamSettings(background_interval_secs=0),
        storage=StorageSettings(map_size_gib=1, min_free_disk_mib=0),
    )


class Ids:
    """Ids in the order in which they are asked for; each `series` has its own."""

    def __init__(self, series: int) -> None:
        self._series = series
        self._given = 0

    def __call__(self) -> RecordId:
        self._given += 1
        return an_id(self._series, self._given)


def an_id(series: int, number: int) -> RecordId:
    return RecordId(bytes([series]) + number.to_bytes(15, "big"))


def world_of(series: int) -> World:
    """A moment that stands still, an hour later for each `series`."""
    now = NOW + series * HOUR_NS
    return World(now=lambda: now, new_id=Ids(series), offload=_when_settled)


async def _when_settled(call: Callable[[], R], limiter: trio.CapacityLimiter | None = None) -> R:
    """Inline, once nobody has anything else to do: what may be told before the call is told before it."""
    await trio.testing.wait_all_tasks_blocked()
    return call()


def on_engine(mutate: Mutate, *, begins_at_start: bool = False) -> Play:
    """Plays `mutate` on the engine of the data dir, which is then stopped as a daemon is."""

    def play(stage: Stage) -> None:
        trio.run(_play, stage, mutate, begins_at_start, clock=_clock())

    return play


def _clock() -> trio.testing.MockClock:
    return trio.testing.MockClock(autojump_threshold=0)


async def _play(stage: Stage, mutate: Mutate, begins_at_start: bool) -> None:
    settings = settings_of(stage.data_dir)
    if begins_at_start:
        stage.begin()
    with DataDir.acquire(stage.data_dir) as directory:
        storage = open_storage(settings, directory)
        try:
            metrics = Metrics([store.value for store in STORES])
            async with running(settings, directory, storage, stage.world, metrics) as engine:
                while not (await engine.recall_query(PROBE)).query_metadata.index_complete:
                    await trio.testing.wait_all_tasks_blocked()
                if not begins_at_start:
                    stage.begin()
                await mutate(engine, _key("this once"))
                stage.acknowledge()
        finally:
            storage.close()


def _key(key: str) -> Idempotency:
    return Idempotency("", key, b"the same body")


def _large(seed: str, size: int = LARGE) -> str:
    """Words that compress badly and differ from each other."""
    words = (sha256(f"{seed} {i}".encode()).hexdigest()[:9] for i in range(size // 10))
    return " ".join(words)


# What the base holds, by the order in which it is made.
TURNS = [an_id(0, number) for number in (1, 2, 3, 4)]
BIG, EMBEDDED, PROCEDURAL, EMOTIONAL, SEMANTIC, SAID, SAID_AGAIN = (an_id(0, number) for number in range(5, 12))
KEPT_ANSWER = an_id(0, 12)
FORGOTTEN = [an_id(0, number) for number in range(13, 19)]
ENTRIES = [an_id(0, number) for number in range(19, 27)]
ARCHIVED, FAINT = an_id(9, 1), an_id(9, 2)

_READ = list(ArchiveReader([BUNDLE]).records())
_MEMORY = next(record for record in _READ if isinstance(record, MemoryRecord))
_ENTRY = next(record for record in _READ if isinstance(record, RawJournalRecord))


def _content(text: str) -> MemoryContent:
    block = ContentBlock(modality=Modality.TEXT, format="text/plain", data=ByteArray(text.encode()))
    return MemoryContent(blocks=(block,))


def _imported(record_id: RecordId, text: str, score: float = 0.9) -> MemoryRecord:
    """Of the time at which the base is made, so that it fades from `score` on."""
    at = Timestamp(NOW)
    return msgspec.structs.replace(
        _MEMORY,
        id=record_id,
        created_at=at,
        updated_at=at,
        last_accessed_at=at,
        content=_content(text),
        fidelity=msgspec.structs.replace(_MEMORY.fidelity, score=score, last_decay_tick=at),
        associations=(),
    )


def _faint_one(record_id: RecordId) -> bytes:
    return archive_of(WITH_RAW, [_imported(record_id, f"hardly known {record_id[-1]}", score=0.0001)])


def _archive() -> bytes:
    """Some that are large, one that is there already, and raw entries."""
    memories = [
        _imported(an_id(8, i), _large(f"imported {i}") if i % 3 == 0 else f"imported {i}") for i in range(12)
    ]
    older = _imported(TURNS[0], "said otherwise")
    entries = [
        msgspec.structs.replace(_ENTRY, id=an_id(8, 100 + i), content=_content(f"said {i}")) for i in range(4)
    ]
    return archive_of(WITH_RAW, [*memories, older], entries)


def _import(archive: bytes, strategy: str = "merge") -> Import:
    terms = {"archive_id": "an archive", "strategy": strategy, "conflict_resolution": "keep_imported"}
    return msgspec.structs.replace(
        codec.parse(codec.dump({**terms, "archive_data": [0]}), Import), archive_data=ByteArray(archive)
    )


async def _make_base(engine: Engine, _once: Idempotency) -> None:
    turns = [store_body(f"turn {i} of the talk", context={"session_id": "talk"}) for i in range(len(TURNS))]
    await engine.encode_batch(_parsed({"records": turns, "infer_associations": True}, EncodeBatch))
    edge = {"target_id": format_id(TURNS[0]), "association_type": "causal", "weight": 0.7}
    await engine.encode_store(to_store(_large("big"), associations=[edge]))
    await engine.encode_store(to_store("has a vector", embedding=[0.1, 0.2, 0.3], associations=[edge]))
    for store in ("procedural", "emotional", "semantic"):
        await engine.encode_store(to_store(f"a memory that is {store}", store=store))
    for _twice in range(2):
        await engine.encode_store(to_store("the kettle is hot", embedding=[0.3, 0.2, 0.1]))
    await engine.encode_store(to_store("stored once"), _key("kept"))
    for i in range(len(FORGOTTEN)):
        await engine.encode_store(to_store(_large(f"forgotten {i}")))
    entries = [
        raw_body(f"{session} says {i}", session) for session in ("s-1", "s-2", "s-3", "s-4") for i in (1, 2)
    ]
    await engine.encode_batch_raw(_parsed({"records": entries}, EncodeBatchRaw))
    for record_id in (BIG, TURNS[1]):
        content = {"blocks": [text_block(_large(f"edited {record_id[-1]}"))]}
        await engine.encode_update(record_id, _parsed({"content": content}, EncodeUpdate))
    await engine.lifecycle_import(_import(_faint_one(ARCHIVED)))
    await engine.lifecycle_decay_tick(DecayTick())
    await engine.lifecycle_import(_import(_faint_one(FAINT)))
    await engine.encode_store(to_store("elsewhere"), namespace=await engine.namespace("second", create=True))
    await engine.lifecycle_forget(Forget(record_ids=tuple(FORGOTTEN), confirm=True))


def _parsed(body: object, kind: type[Any]) -> Any:
    return codec.parse(codec.dump(body), kind)


async def _nothing(_engine: Engine, _once: Idempotency) -> None:
    return None


async def _store(engine: Engine, once: Idempotency) -> None:
    edge = {"target_id": format_id(TURNS[2]), "association_type": "spatial", "weight": 0.4}
    context = {"session_id": "talk"}
    request = to_store(_large("new"), embedding=[1.0, 0.5, 0.25], associations=[edge], context=context)
    await engine.encode_store(request, once)


async def _store_if_absent(engine: Engine, once: Idempotency) -> None:
    await engine.encode_store(to_store("was never said", if_absent=True), once)


async def _store_elsewhere(engine: Engine, once: Idempotency) -> None:
    await engine.encode_store(
        to_store("in a new namespace"), once, namespace=await engine.namespace("third", create=True)
    )


async def _retry(engine: Engine, _once: Idempotency) -> None:
    stored = await engine.encode_store(to_store("stored once"), _key("kept"))
    assert stored.reply.record_id == KEPT_ANSWER


async def _batch(engine: Engine, once: Idempotency) -> None:
    records = [store_body(_large("in a batch")), *(store_body(f"of a batch {i}") for i in range(4))]
    await engine.encode_batch(_parsed({"records": records, "infer_associations": True}, EncodeBatch), once)


async def _update(engine: Engine, once: Idempotency) -> None:
    edit = {"content": {"blocks": [text_block(_large("once more"))]}, "metadata": {"mood": "other"}}
    await engine.encode_update(BIG, _parsed(edit, EncodeUpdate), None, once)


async def _store_raw(engine: Engine, once: Idempotency) -> None:
    await engine.encode_store_raw(to_store_raw(_large("said at length"), "s-5"), once)


async def _batch_raw(engine: Engine, once: Idempotency) -> None:
    records = [raw_body(f"said {i} now", "s-5") for i in range(4)]
    await engine.encode_batch_raw(_parsed({"records": records}, EncodeBatchRaw), once)


async def _forget(engine: Engine, once: Idempotency) -> None:
    wanted = Forget(record_ids=(BIG, EMBEDDED, TURNS[1]), session_id="s-2", cascade=True, confirm=True)
    await engine.lifecycle_forget(wanted, once)


async def _restore(engine: Engine, once: Idempotency) -> None:
    await engine.lifecycle_restore(Restore(record_ids=(ARCHIVED,)), once)


async def _set_mode(engine: Engine, once: Idempotency) -> None:
    await engine.lifecycle_set_mode(_parsed({"mode": "perfect"}, SetMode), once)


async def _decay_tick(engine: Engine, once: Idempotency) -> None:
    await engine.lifecycle_decay_tick(DecayTick(tick_duration_seconds=86_400), once)


async def _dream_tick(engine: Engine, once: Idempotency) -> None:
    await engine.lifecycle_dream_tick(DreamTick(), once)


async def _consolidate(engine: Engine, once: Idempotency) -> None:
    await engine.lifecycle_consolidate(Consolidate(), once)


async def _merge(engine: Engine, once: Idempotency) -> None:
    await engine.lifecycle_import(_import(_archive()), once)


async def _replace(engine: Engine, once: Idempotency) -> None:
    await engine.lifecycle_import(_import(_archive(), "replace"), once)


async def _undo_import(engine: Engine, once: Idempotency) -> None:
    """Of the one that replaced everything, and what was said behind it stays."""
    imported = await engine.lifecycle_import(_import(_archive(), "replace"), _key("the import"))
    await engine.encode_store_raw(to_store_raw("behind the import", "s-6"), _key("behind"))
    assert isinstance(imported.reply.batch_id, RecordId)
    await engine.lifecycle_undo_import(UndoImport(batch_id=imported.reply.batch_id), once)


async def _rotate_audit(engine: Engine, once: Idempotency) -> None:
    """Behind an entry that isn't in the file yet."""
    await engine.encode_store(to_store("before the rotation"), _key("before"))
    await engine.lifecycle_rotate_audit(RotateAudit(), once)
    await engine.encode_store(to_store("behind the rotation"), _key("behind"))


async def _compact(engine: Engine, _once: Idempotency) -> None:
    await engine.lifecycle_compact(Compact())


def on_store(rewrite: Callable[[SealedStorage], object], operation: str | None) -> Play:
    """Plays what rewrites the rows of an encrypted store, and with an `operation` what its command does then."""

    def play(stage: Stage) -> None:
        resealing.BATCH_ROWS = 40  # so that there are several batches
        settings = settings_of(stage.data_dir, PASSPHRASE)
        with DataDir.acquire(stage.data_dir) as directory:
            with closing(LmdbStorage(directory.store_path, map_size_bytes=1 << 30)) as lmdb:
                _give_keyring(lmdb)
            stage.begin()
            with closing(open_storage(settings, directory)) as storage:
                assert isinstance(storage, SealedStorage)
                rewrite(storage)
                if operation is not None:
                    trio.run(_note_and_compact, stage, settings, directory, storage, operation, clock=_clock())
                stage.acknowledge()

    return play


def _give_keyring(storage: Storage) -> None:
    """The one that a store gets with its first passphrase, held by one that takes no third of a second to try."""
    with storage.read() as reader:
        has_keyring = reader.get(KEYRING_KEY) is not None
    if not has_keyring:
        wrapping = Wrapping(PASSPHRASE, Salt(b"s" * SALT_BYTES, memory_kib=8, iterations=1))
        storage.commit({KEYRING_KEY: wrapping.wrap(new_keyring(are_names_sealed=False))})


async def _note_and_compact(
    stage: Stage, settings: Settings, directory: DataDir, storage: Storage, operation: str
) -> None:
    metrics = Metrics([store.value for store in STORES])
    async with running(settings, directory, storage, stage.world, metrics) as engine:
        await engine.note(AuditDraft(stage.world.now(), operation, (), (), {}))
        await engine.lifecycle_compact(Compact())


def _migrate(storage: SealedStorage) -> None:
    resealing.migrate(storage, lambda _rows: None)


def _rotate(storage: SealedStorage) -> None:
    resealing.rotate(storage, lambda _rows: None)


def _plain_text(data_dir: Path) -> Iterator[str]:
    for file in data_dir.rglob("*"):
        if file.is_file() and any(word in file.read_bytes() for word in CANARIES):
            yield f"plain text is left in {file.name}"


def _two_audit_files(data_dir: Path) -> Iterator[str]:
    """In the order of their names they are one log, which the first entry of the last one goes on with."""
    files = [*sorted(data_dir.glob("audit.jsonl.0*")), data_dir / "audit.jsonl"]
    verify_lines(line for file in files for line in lines_of(file))
    if len(files) != 2 or parse_line(next(lines_of(files[-1]))).operation != "audit.rotated":
        yield f"there are {len(files)} audit files, or the last one begins with another entry"


MIGRATE, ROTATE = "security.migrate_store_encryption", "security.rotate_key"

BASE = Scenario("base", on_engine(_make_base), ())
START = Scenario("a start after a kill", on_engine(_nothing, begins_at_start=True), ("encode.batch",))


SCENARIOS = [
    Scenario("encode.store", on_engine(_store), ("encode.store",)),
    Scenario("encode.store, if absent", on_engine(_store_if_absent), ("encode.store",)),
    Scenario("encode.store, new namespace", on_engine(_store_elsewhere), ("encode.store",)),
    Scenario("encode.store, retried", on_engine(_retry), ()),
    Scenario("encode.batch", on_engine(_batch), ("encode.batch",)),
    Scenario("encode.update", on_engine(_update), ("encode.update",)),
    Scenario("encode.store_raw", on_engine(_store_raw), ("encode.store_raw",)),
    Scenario("encode.batch_raw", on_engine(_batch_raw), ("encode.batch_raw",)),
    Scenario("lifecycle.forget", on_engine(_forget), ("lifecycle.forget",) * 2),
    Scenario("lifecycle.restore", on_engine(_restore), ("lifecycle.restore",)),
    Scenario("lifecycle.set_mode", on_engine(_set_mode), ("lifecycle.set_mode",)),
    Scenario("lifecycle.decay_tick", on_engine(_decay_tick), ("lifecycle.decay_tick",) * 2),
    Scenario("lifecycle.dream_tick", on_engine(_dream_tick), ("lifecycle.dream_tick",) * 4),
    Scenario("lifecycle.consolidate", on_engine(_consolidate), ("lifecycle.consolidate",) * 3),
    Scenario("lifecycle.import, merge", on_engine(_merge), ("lifecycle.import",)),
    Scenario("lifecycle.import, replace", on_engine(_replace), ("lifecycle.import",)),
    Scenario(
        "lifecycle.undo_import",
        on_engine(_undo_import),
        ("lifecycle.import", "encode.store_raw", "lifecycle.undo_import"),
    ),
    Scenario("lifecycle.compact", on_engine(_compact), ()),
    Scenario(
        "lifecycle.rotate_audit",
        on_engine(_rotate_audit),
        ("encode.store", "audit.rotated", "encode.store"),
        check=_two_audit_files,
    ),
    Scenario("migrate-store-encryption", on_store(_migrate, MIGRATE), (MIGRATE,), False, _plain_text),
    Scenario("rotate-key", on_store(_rotate, ROTATE), (ROTATE,), False, _plain_text),
]
RESEALING = [  # the rows alone
    Scenario("migrate-store-encryption, rows", on_store(_migrate, None), ()),
    Scenario("rotate-key, rows", on_store(_rotate, None), ()),
]
BY_NAME = {scenario.name: scenario for scenario in (BASE, START, *SCENARIOS, *RESEALING)}
