"""An encrypted store reads as it was written, and shows nothing of it to whoever has the disk alone."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerememory.errors import PassphraseRefused, StorageDamaged, StorageUnavailable
from cerememory.storage import sealed
from cerememory.storage.contract import Storage, Transaction
from cerememory.storage.keyring import Wrapping, new_keyring
from cerememory.storage.keys import (
    DIGEST_BYTES,
    KEYS_END,
    Table,
    after,
    digest,
    key,
    pack_time,
    pack_version,
    state_key,
    system_key,
)
from cerememory.storage.sealed import (
    KEYRING_KEY,
    MAGIC,
    NAMED,
    SEALED,
    SEALS_KEY,
    SealedStorage,
    opened,
    opened_readonly,
)
from tests.support.committing import an_id
from tests.support.memory_storage import MemoryStorage
from tests.support.sealing import PASSPHRASE, QUICK, quick_wrapping, sealed_storage

ID, OTHER = an_id(1), an_id(2)
CONTENT = key(0, Table.CONTENT, ID)
VALUE = b"the kettle is in the kitchen"
PLACES = {
    "id": (CONTENT, key(0, Table.CONTENT, OTHER)),
    "namespace": (CONTENT, key(1, Table.CONTENT, ID)),
    "table": (CONTENT, key(0, Table.RAW, ID)),
    "version": (
        key(0, Table.HISTORY, ID, pack_version(1)),
        key(0, Table.HISTORY, ID, pack_version(2)),
    ),
    "the history": (key(0, Table.HISTORY, ID, pack_version(1)), CONTENT),
}


def rows_of(storage: Storage) -> dict[bytes, bytes]:
    with storage.read() as reader:
        return dict(reader.scan(b"", KEYS_END))


def below(storage: SealedStorage) -> dict[bytes, bytes]:
    return rows_of(storage.below)


def get(storage: Storage, row_key: bytes) -> bytes | None:
    with storage.read() as reader:
        return reader.get(row_key)


@pytest.mark.parametrize("table", [table for table in Table if table in SEALED], ids=lambda table: table.name)
def test_nothing_of_a_value_is_below(table: Table) -> None:
    storage = sealed_storage()
    storage.commit({key(0, table, ID): VALUE})

    [stored] = [value for row_key, value in below(storage).items() if row_key != SEALS_KEY]

    assert stored.startswith(MAGIC)
    assert not any(part in stored for part in (VALUE, b"kettle", VALUE[:8]))
    assert get(storage, key(0, table, ID)) == VALUE


@pytest.mark.parametrize("table", NAMED, ids=lambda table: table.name)
def test_no_digest_is_below(table: Table) -> None:
    name, storage = digest("my session"), sealed_storage()
    row_key = key(0, table, bytes(NAMED[table]), name, pack_time(7), ID)
    storage.commit({row_key: b""})

    assert not any(name in stored for stored in below(storage))
    assert get(storage, row_key) == b""
    assert [found for found in rows_of(storage) if found != SEALS_KEY] == [row_key]


def test_names_are_hidden_by_each_store_in_its_own_way() -> None:
    row_key = key(0, Table.GROUPS, digest("my session"), pack_time(7), ID)
    one, other = sealed_storage(), sealed_storage()
    for storage in (one, other):
        storage.commit({row_key: b""})
    assert below(one).keys().isdisjoint(below(other).keys())


def test_the_same_value_looks_different_each_time() -> None:
    storage = sealed_storage()
    storage.commit({CONTENT: VALUE, key(0, Table.CONTENT, OTHER): VALUE})
    values = [value for row_key, value in below(storage).items() if row_key != SEALS_KEY]
    assert values[0] != values[1]


@pytest.mark.parametrize(("taken", "put"), PLACES.values(), ids=PLACES)
def test_what_was_moved_to_another_place_is_refused(taken: bytes, put: bytes) -> None:
    storage = sealed_storage()
    storage.commit({taken: VALUE, put: b"another"})
    storage.below.commit({put: below(storage)[taken]})
    with pytest.raises(StorageDamaged, match="was altered or moved"):
        get(storage, put)
    assert get(storage, taken) == VALUE


@given(place=st.integers(0), bit=st.integers(0, 7))
def test_one_bit_is_enough_to_be_noticed(place: int, bit: int) -> None:
    storage = sealed_storage()
    storage.commit({CONTENT: VALUE})
    changed = bytearray(below(storage)[CONTENT])
    changed[place % len(changed)] ^= 1 << bit
    storage.below.commit({CONTENT: bytes(changed)})
    with pytest.raises(StorageDamaged):
        get(storage, CONTENT)


def test_a_plain_value_that_somebody_has_put_in_is_refused() -> None:
    storage = sealed_storage()
    storage.below.commit({CONTENT: VALUE})
    with pytest.raises(StorageDamaged, match="isn't sealed by this store"):
        get(storage, CONTENT)


@pytest.mark.parametrize("size", [12, 13, 23, 24, 39])
def test_what_is_left_of_a_cut_value_is_refused(size: int) -> None:
    """Found by fuzzing."""
    storage = sealed_storage()
    storage.commit({CONTENT: VALUE})
    storage.below.commit({CONTENT: below(storage)[CONTENT][:size]})
    with pytest.raises(StorageDamaged, match="was altered or moved"):
        get(storage, CONTENT)


def test_numbers_that_ticks_go_through_are_plain() -> None:
    storage, row_key = sealed_storage(), state_key(0, 7, ID)
    storage.commit({row_key: b"numbers"})
    assert below(storage) == {row_key: b"numbers"}


KEYS = st.builds(
    lambda table, parts, tail: key(0, table, *parts, tail),
    st.sampled_from(Table),
    st.tuples(
        st.sampled_from([b"", b"\0", bytes(8)]),
        st.sampled_from([b"", digest("one"), digest("two"), b"\xff" * DIGEST_BYTES, bytes(DIGEST_BYTES)]),
    ),
    st.binary(max_size=4),
)
CHANGES = st.dictionaries(KEYS, st.none() | st.binary(max_size=40), max_size=12)


@given(commits=st.lists(CHANGES, max_size=4))
def test_what_is_read_is_what_a_plain_store_has(commits: list[dict[bytes, bytes | None]]) -> None:
    plain, storage = MemoryStorage(), sealed_storage()
    for changes in commits:
        plain.commit(changes)
        storage.commit(changes)
    expected = rows_of(plain)
    found = {row_key: value for row_key, value in rows_of(storage).items() if row_key != SEALS_KEY}
    assert found == {row_key: value for row_key, value in expected.items() if row_key != SEALS_KEY}
    with storage.read() as reader:
        assert reader.get_many([*expected]) == [*expected.values()]


@pytest.mark.parametrize("name", [digest("a"), b"\xff" * DIGEST_BYTES, bytes(DIGEST_BYTES), b"a" * 15 + b"\xff"])
@pytest.mark.parametrize("reverse", [False, True])
def test_a_range_within_one_name_keeps_its_order(name: bytes, reverse: bool) -> None:
    storage, prefix = sealed_storage(), key(0, Table.RAW_BY_SESSION, name)
    wanted = {prefix + pack_time(at) + ID: b"\0\0" for at in (3, 1, 2)}
    others = {key(0, Table.RAW_BY_SESSION, digest(f"{i}"), pack_time(2), ID): b"\0\0" for i in range(20)}
    storage.commit({**wanted, **others})
    with storage.read() as reader:
        whole = [row_key for row_key, _value in reader.scan(prefix, after(prefix), reverse=reverse)]
        part = reader.scan(prefix + pack_time(2), prefix + pack_time(3) + b"\xff" * 17, reverse=reverse)
        assert whole == sorted(wanted, reverse=reverse)
        assert [row_key for row_key, _value in part] == sorted(wanted, reverse=reverse)[: -1 if reverse else None][
            0 if reverse else 1 :
        ]


def test_a_table_of_names_is_gone_through_piece_by_piece() -> None:
    storage, prefix = sealed_storage(), key(0, Table.GROUPS)
    rows = {key(0, Table.GROUPS, digest(f"{i}"), pack_time(i), ID): b"" for i in range(50)}
    storage.commit(rows)
    found: list[bytes] = []
    position = prefix
    while True:
        with storage.read() as reader:
            piece = [row_key for row_key, _value in islice(reader.scan(position, after(prefix)), 7)]
        if not piece:
            break
        found += piece
        position = piece[-1] + b"\0"
    assert len(found) == len(rows)
    assert set(found) == set(rows)


def test_a_range_between_two_names_has_no_meaning() -> None:
    storage = sealed_storage()
    one, other = sorted(key(0, Table.GROUPS, digest(name)) for name in ("a", "b"))
    with storage.read() as reader, pytest.raises(ValueError, match="has no order"):
        list(reader.scan(one, other))


def test_a_transaction_reads_what_it_wrote() -> None:
    storage = sealed_storage()

    def work(transaction: Transaction) -> bytes | None:
        transaction.write({CONTENT: VALUE})
        return transaction.get(CONTENT)

    assert storage.transact(work) == VALUE
    assert get(storage, CONTENT) == VALUE


def test_what_was_plain_is_read_beside_what_is_sealed() -> None:
    plain = MemoryStorage()
    plain.commit({CONTENT: VALUE})
    storage = opened(plain, PASSPHRASE)
    storage.commit({key(0, Table.CONTENT, OTHER): VALUE})
    assert get(storage, CONTENT) == get(storage, key(0, Table.CONTENT, OTHER)) == VALUE
    assert get(plain, CONTENT) == VALUE
    assert get(plain, key(0, Table.CONTENT, OTHER)) != VALUE


@pytest.mark.parametrize("is_empty", [True, False])
def test_names_are_hidden_from_the_start_or_when_all_are(is_empty: bool) -> None:
    plain = MemoryStorage()
    if not is_empty:
        plain.commit({CONTENT: VALUE})
    row_key = key(0, Table.GROUPS, digest("s"), pack_time(1), ID)
    storage = opened(plain, PASSPHRASE)
    storage.commit({row_key: b""})
    assert (row_key in rows_of(plain)) is not is_empty


def test_a_store_is_opened_again_by_its_passphrase_alone() -> None:
    plain = MemoryStorage()
    opened(plain, PASSPHRASE).commit({CONTENT: VALUE})
    before = rows_of(plain)

    assert get(opened(plain, f"{PASSPHRASE}\n"), CONTENT) == VALUE
    for passphrase, reason in ((None, "no passphrase is given"), ("another", "isn't the passphrase")):
        for opening in (opened, opened_readonly):
            with pytest.raises(PassphraseRefused, match=reason):
                opening(plain, passphrase)

    assert rows_of(plain) == before


def test_a_plain_store_stays_plain_without_a_passphrase_and_for_who_only_looks() -> None:
    plain = MemoryStorage()
    plain.commit({CONTENT: VALUE})
    assert opened(plain, None) is plain
    assert opened_readonly(plain, PASSPHRASE) is plain
    assert rows_of(plain) == {CONTENT: VALUE}


def test_another_passphrase_takes_over_and_no_value_is_touched() -> None:
    plain = MemoryStorage()
    storage = opened(plain, PASSPHRASE)
    assert isinstance(storage, SealedStorage)
    storage.commit({CONTENT: VALUE})
    before = rows_of(plain)

    storage.rewrap(Wrapping("new", QUICK))

    assert {k: v for k, v in rows_of(plain).items() if k != KEYRING_KEY} == {
        k: v for k, v in before.items() if k != KEYRING_KEY
    }
    assert get(opened(plain, "new"), CONTENT) == VALUE
    with pytest.raises(PassphraseRefused):
        opened(plain, PASSPHRASE)


def counted(storage: SealedStorage) -> int:
    return int.from_bytes(below(storage)[SEALS_KEY], "big")


def test_seals_are_counted_over_restarts() -> None:
    plain = MemoryStorage()
    opened(plain, PASSPHRASE).commit({CONTENT: VALUE, state_key(0, 7, ID): b"numbers"})
    storage = opened(plain, PASSPHRASE)
    assert isinstance(storage, SealedStorage)
    storage.commit({key(0, Table.CONTENT, OTHER): VALUE})
    assert counted(storage) == 2


@pytest.fixture
def worn(monkeypatch: pytest.MonkeyPatch) -> tuple[MemoryStorage, SealedStorage]:
    """A store whose key has sealed as much as it may."""
    monkeypatch.setattr(sealed, "SEALS_MAX", 3)
    plain = MemoryStorage()
    storage = sealed_storage(plain, new_keyring(are_names_sealed=True))
    plain.commit({KEYRING_KEY: quick_wrapping().wrap(storage.keyring)})
    for i in range(3):
        storage.commit({key(0, Table.CONTENT, an_id(i)): VALUE})
    return plain, storage


def test_a_key_that_sealed_enough_is_followed_by_another(worn: tuple[MemoryStorage, SealedStorage]) -> None:
    plain, storage = worn
    first = storage.keyring.newest
    storage.commit({CONTENT: VALUE})
    assert storage.keyring.data_keys == (first, storage.keyring.newest)
    assert counted(storage) == 1
    again = opened(plain, PASSPHRASE)
    assert [get(again, key(0, Table.CONTENT, an_id(i))) for i in range(3)] == [VALUE] * 3


def test_a_new_key_that_couldnt_be_written_down_isnt_used(worn: tuple[MemoryStorage, SealedStorage]) -> None:
    plain, storage = worn
    keyring = storage.keyring
    plain.break_disk()
    with pytest.raises(StorageUnavailable):
        storage.commit({CONTENT: VALUE})
    assert storage.keyring == keyring
    plain.mend_disk()
    storage.commit({CONTENT: VALUE})
    assert get(opened(plain, PASSPHRASE), CONTENT) == VALUE


def test_every_table_that_says_what_was_kept_is_sealed_or_has_nothing_to_say() -> None:
    """Whoever makes a table decides: its values are sealed, or are numbers, flags, ids and times."""
    plain = {
        *(Table.STATE, Table.ARCHIVED_BY_EXPIRY, Table.LIKENESS, Table.EDGES_BY_TARGET, Table.GROUPS),
        *(Table.RAW_BY_SESSION, Table.RAW_BY_TIME, Table.IDEMPOTENCY_BY_EXPIRY, Table.LAST_NAMESPACE),
        *(Table.LOG_FLOOR, Table.HEAD, Table.COUNTERS, Table.DYNAMICS, Table.MODES, Table.ENRICHED),
        *(Table.PROBE, Table.KEYRING, Table.SEALS, Table.AUDIT_TILES),
        Table.AUDIT_FILES,
    }
    assert set(Table) == plain | SEALED
    assert not plain & SEALED


def test_system_rows_are_told_by_their_own_letters() -> None:
    """A letter stands for one table, in the system's namespace or in the others: the sealer looks at it alone."""
    assert len({table.value for table in Table}) == len(Table)
    assert system_key(Table.KEYRING) == KEYRING_KEY
