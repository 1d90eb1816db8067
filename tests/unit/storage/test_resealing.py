"""A plain store comes whole under its keys, wherever that was cut short, and so does one with new keys."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from cerememory import failpoints
from cerememory.config.settings import SecuritySettings
from cerememory.errors import PassphraseRefused, StorageUnavailable
from cerememory.failpoints import InjectedCrash
from cerememory.protocol.requests import DreamTick, EncodeBatch, EncodeUpdate, Forget
from cerememory.storage import resealing
from cerememory.storage.fsck import Tally, check
from cerememory.storage.keys import KEYS_END, NAMESPACE_BYTES, Table, digest
from cerememory.storage.resealing import Resealed, migrate, rotate
from cerememory.storage.sealed import KEYRING_KEY, NAMED, SEALED, SEALS_KEY, SealedStorage, opened
from tests.support.engine import NOW, running_engine, settings_for, to_store, to_store_raw
from tests.support.memory_storage import MemoryStorage
from tests.support.sealing import PASSPHRASE

CANARY = "xylograph"
SESSION = "session of the xylograph"
EXPECTED = {
    "raw_journal": 5,
    "episodic": 22,
    "semantic": 1,
    "procedural": 0,
    "emotional": 0,
    "vector_index": 1,
}


async def _live(path: Path, storage: MemoryStorage) -> None:
    """Something of all that there is: versions, edges, vectors, dreams, answers that are kept, namespaces."""
    async with running_engine(path, storage=storage) as running:
        engine = running.engine
        first = await engine.encode_store(to_store(f"the {CANARY} is red"))
        await engine.encode_update(
            first.reply.record_id, EncodeUpdate(content=to_store(f"the {CANARY} is blue").content)
        )
        await engine.encode_store(
            to_store(f"a {CANARY}", store="semantic", embedding=[0.25, 0.5]),
            namespace=await engine.namespace("w", create=True),
        )
        batch = EncodeBatch(
            records=tuple(to_store(f"{CANARY} number {i}") for i in range(20)), infer_associations=True
        )
        await engine.encode_batch(batch)
        for i in range(5):
            await engine.encode_store_raw(to_store_raw(f"{CANARY} said {i}", SESSION))
        await engine.lifecycle_dream_tick(DreamTick(promote_semantic=False))
        gone = await engine.encode_store(to_store("gone"))
        await engine.lifecycle_forget(Forget(record_ids=(gone.reply.record_id,), confirm=True))


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[bytes, bytes]:
    """The rows of a plain store."""
    storage = MemoryStorage()
    trio.run(_live, tmp_path_factory.mktemp("plain"), storage)
    return storage.rows()


@pytest.fixture
def plain(rows: dict[bytes, bytes]) -> MemoryStorage:
    storage = MemoryStorage()
    storage.commit(rows)
    return storage


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(resealing, "BATCH_ROWS", 25)
    monkeypatch.setattr(resealing, "COUNTED_ROWS", 10)
    yield
    failpoints.disarm()


def encrypted(plain: MemoryStorage, passphrase: str = PASSPHRASE) -> SealedStorage:
    storage = opened(plain, passphrase)
    assert isinstance(storage, SealedStorage)
    return storage


def read(storage: SealedStorage) -> dict[bytes, bytes]:
    with storage.read() as reader:
        return {k: v for k, v in reader.scan(b"", KEYS_END) if k not in (KEYRING_KEY, SEALS_KEY)}


def totals(resealed: Resealed) -> dict[str, int]:
    return {name: section.total for name, section in resealed.sections.items()}


def migrated(resealed: Resealed) -> dict[str, int]:
    return {name: section.migrated for name, section in resealed.sections.items()}


def in_the_open(plain: MemoryStorage) -> list[bytes]:
    """Keys of what is sealed nowhere though it should be, or shows a digest."""
    sealed = {table.value for table in SEALED}
    named = {table.value for table in NAMED}
    found = []
    for row_key, value in plain.rows().items():
        letter = row_key[NAMESPACE_BYTES : NAMESPACE_BYTES + 1]
        shows_value = letter in sealed and value and not value.startswith(b"CMR2")
        shows_name = letter in named and digest(SESSION) in row_key
        if shows_value or shows_name or CANARY.encode() in value:
            found.append(row_key)
    return found


def ignored(_count: int) -> None:
    return


def test_all_that_was_plain_is_sealed_and_reads_as_before(plain: MemoryStorage, rows: dict[bytes, bytes]) -> None:
    assert in_the_open(plain)
    storage = encrypted(plain)
    seen: list[int] = []
    counted = resealing.row_count(storage)

    resealed = migrate(storage, seen.append)

    assert in_the_open(plain) == []
    assert read(storage) == read(encrypted(plain)) == rows
    assert totals(resealed) == migrated(resealed) == EXPECTED
    assert sum(seen) == len(rows) + 2  # the keyring and the count, which it finds, too
    assert len(rows) <= counted <= sum(seen)


def test_what_is_done_is_not_done_again(plain: MemoryStorage) -> None:
    migrate(encrypted(plain), ignored)
    before = plain.rows()
    resealed = migrate(encrypted(plain), ignored)
    assert totals(resealed) == EXPECTED
    assert not any(migrated(resealed).values())
    assert plain.rows() == before


def steps() -> list[tuple[str, int]]:
    """Every batch, and the names."""
    return [*(("resealing.batch", passage) for passage in range(1, 6)), ("resealing.names", 1)]


@pytest.mark.sample(2)
@pytest.mark.parametrize(("step", "passage"), steps())
def test_a_migration_that_was_cut_short_goes_on(
    plain: MemoryStorage, rows: dict[bytes, bytes], step: str, passage: int
) -> None:
    failpoints.arm(step, passage=passage)
    cut: dict[str, int] = {}
    storage = encrypted(plain)
    with pytest.raises(InjectedCrash):
        migrate(storage, ignored)

    assert read(encrypted(plain)) == rows  # whatever is sealed by then
    resealed = migrate(encrypted(plain), ignored)

    cut = {name: section.already_encrypted for name, section in resealed.sections.items()}
    assert in_the_open(plain) == []
    assert read(encrypted(plain)) == rows
    assert totals(resealed) == EXPECTED
    assert sum(cut.values()) > 0
    assert {name: cut[name] + migrated(resealed)[name] for name in EXPECTED} == EXPECTED


@pytest.mark.sample(2)
@pytest.mark.parametrize("commit", range(1, 7))
def test_a_disk_that_fails_leaves_a_mixture_that_is_read(
    plain: MemoryStorage, rows: dict[bytes, bytes], commit: int
) -> None:
    storage = encrypted(plain)
    passed = iter(range(1, commit))

    def gate() -> None:
        if next(passed, None) is None:
            plain.break_disk()

    plain.hold_commits(gate)
    with pytest.raises(StorageUnavailable):
        migrate(storage, ignored)
    plain.hold_commits(lambda: None)
    plain.mend_disk()
    assert read(encrypted(plain)) == rows
    migrate(encrypted(plain), ignored)
    assert in_the_open(plain) == []


def test_new_keys_take_all_and_the_old_ones_are_gone(plain: MemoryStorage, rows: dict[bytes, bytes]) -> None:
    storage = encrypted(plain)
    migrate(storage, ignored)
    before, old = plain.rows(), storage.keyring

    resealed = rotate(storage, ignored)

    after = plain.rows()
    assert read(encrypted(plain)) == rows
    assert totals(resealed) == migrated(resealed) == EXPECTED
    keyring = encrypted(plain).keyring
    assert len(keyring.data_keys) == 1
    assert keyring.newest != old.newest
    assert keyring.names_key != old.names_key
    assert not any(old.newest.key_id in value for value in after.values())
    moved = {k for k in before if k[NAMESPACE_BYTES : NAMESPACE_BYTES + 1] == Table.GROUPS.value}
    assert moved.isdisjoint(after)


@pytest.mark.sample(2)
@pytest.mark.parametrize(("step", "passage"), steps())
def test_a_rotation_that_was_cut_short_leaves_all_readable(
    plain: MemoryStorage, rows: dict[bytes, bytes], step: str, passage: int
) -> None:
    migrate(encrypted(plain), ignored)
    failpoints.arm(step, passage=passage)
    with pytest.raises(InjectedCrash):
        rotate(encrypted(plain), ignored)
    assert read(encrypted(plain)) == rows
    rotate(encrypted(plain), ignored)
    assert read(encrypted(plain)) == rows
    assert len(encrypted(plain).keyring.data_keys) == 1


def test_a_plain_store_may_be_rotated_at_once(plain: MemoryStorage, rows: dict[bytes, bytes]) -> None:
    rotate(encrypted(plain), ignored)
    assert in_the_open(plain) == []
    assert read(encrypted(plain)) == rows


def test_nothing_contradicts_afterwards(plain: MemoryStorage) -> None:
    storage = encrypted(plain)
    migrate(storage, ignored)
    rotate(storage, ignored)
    findings = check(storage, index_path=None, audit_path=None, now=2 * NOW, tally=Tally())
    assert [str(finding) for finding in findings] == []


async def test_an_engine_goes_on_with_what_was_migrated(plain: MemoryStorage, tmp_path: Path) -> None:
    storage = encrypted(plain)
    migrate(storage, ignored)
    security = SecuritySettings(persist_search_indexes=False, audit_log_enabled=False)  # its keys are elsewhere
    async with running_engine(
        tmp_path, storage=storage, settings=settings_for(tmp_path, security=security)
    ) as running:
        session = await running.engine.namespace("w")
        assert (await running.engine.introspect_stats(namespace=session)).total_records == 1
    with pytest.raises(PassphraseRefused):
        opened(plain, "another")
