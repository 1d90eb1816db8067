"""What is kept of memories that were read: never older than a commit that was answered, and bounded."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerememory.domain.fidelity import State
from cerememory.errors import StorageDamaged
from cerememory.protocol.records import Association, AssociationType
from cerememory.protocol.values import RecordId, Timestamp
from cerememory.storage.contract import Changes, Reader
from cerememory.storage.frames import FRAME_BYTES_MAX, OWN_BYTES, Frames
from cerememory.storage.keys import DEFAULT_NAMESPACE, Table, key, state_key
from cerememory.storage.rows import (
    ContentRow,
    Frame,
    dump_edges,
    dump_row,
    framed_json,
    parse_edges,
    record_json,
)
from tests.support.committing import a_record, an_id
from tests.support.engine import NOW
from tests.support.memory_storage import MemoryStorage

IDS = [an_id(number) for number in range(1, 5)]
MANY = 1 << 20


def content_key(record_id: RecordId, namespace: int = DEFAULT_NAMESPACE) -> bytes:
    return key(namespace, Table.CONTENT, record_id)


def edge_key(record_id: RecordId, namespace: int = DEFAULT_NAMESPACE) -> bytes:
    return key(namespace, Table.EDGES, record_id)


def a_row(version: int, content: bytes = b'{"blocks":[]}') -> ContentRow:
    return ContentRow(0, version, NOW, NOW, content, b"", b"{}", b"")


class Counting:
    """A reader that notes which rows it was asked for."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.asked: list[bytes] = []

    def get(self, key: bytes, /) -> bytes | None:
        return self.get_many([key])[0]

    def get_many(self, keys: list[bytes], /) -> list[bytes | None]:
        self.asked += keys
        return self._reader.get_many(keys)

    def scan(self, start: bytes, stop: bytes, *, reverse: bool = False) -> Iterable[tuple[bytes, bytes]]:
        raise AssertionError("nobody scans for a frame")


@dataclass
class Kept:
    """A store and what is kept of it."""

    storage: MemoryStorage = field(default_factory=MemoryStorage)
    frames: Frames = field(default_factory=lambda: Frames(MANY))
    asked: list[bytes] = field(default_factory=list)

    def commit(self, changes: Changes) -> None:
        with self.frames.writing(changes):
            self.storage.commit(changes)

    def commit_any(self, changes: Changes) -> None:
        """As a series, of which nobody knows before what it writes."""
        with self.frames.writing(None):
            self.storage.commit(changes)

    def read(self, *record_ids: RecordId, namespace: int = DEFAULT_NAMESPACE) -> list[Frame]:
        """What is read now; `asked` are the rows that this took."""
        mark = self.frames.mark
        with self.storage.read() as reader:
            counting = Counting(reader)
            found = self.frames.read(counting, namespace, record_ids, mark)  # type: ignore[arg-type]
        self.asked = counting.asked
        return found


@pytest.fixture
def kept() -> Kept:
    made = Kept()
    made.commit({content_key(record_id): dump_row(a_row(1)) for record_id in IDS[:3]})
    return made


def test_a_memory_is_read_once(kept: Kept) -> None:
    found = kept.read(*IDS)
    assert [each.record_id for each in found] == IDS[:3], "the last isn't there"
    assert len(kept.asked) == 2 * len(IDS), "content and edges of each"
    assert kept.read(IDS[2], IDS[0]) == [found[2], found[0]]
    assert kept.asked == []
    kept.read(IDS[3], IDS[1])
    assert kept.asked == [content_key(IDS[3]), edge_key(IDS[3])], "what isn't there may come"


def test_namespaces_are_apart(kept: Kept) -> None:
    kept.read(IDS[0])
    assert kept.read(IDS[0], namespace=7) == []
    kept.commit({content_key(IDS[0], namespace=7): dump_row(a_row(9))})
    assert [each.row.version for each in kept.read(IDS[0], namespace=7)] == [9]
    assert [each.row.version for each in kept.read(IDS[0])] == [1]
    assert kept.asked == [], "what was written elsewhere is no reason to read again"


@pytest.mark.parametrize("table", [Table.CONTENT, Table.EDGES])
def test_what_was_written_is_read_again(kept: Kept, table: Table) -> None:
    kept.read(*IDS[:3])
    value = dump_row(a_row(2)) if table is Table.CONTENT else b""
    kept.commit({key(DEFAULT_NAMESPACE, table, IDS[1]): value})
    assert [each.row.version for each in kept.read(*IDS[:3])] == [1, 2 if table is Table.CONTENT else 1, 1]
    assert kept.asked == [content_key(IDS[1]), edge_key(IDS[1])]


def test_what_is_gone_is_gone(kept: Kept) -> None:
    kept.read(*IDS[:3])
    kept.commit({content_key(IDS[0]): None})
    assert [each.record_id for each in kept.read(*IDS[:3])] == IDS[1:3]


def test_a_state_that_was_written_is_no_reason_to_read_again(kept: Kept) -> None:
    kept.read(*IDS[:3])
    kept.commit({state_key(DEFAULT_NAMESPACE, NOW, IDS[0]): b"state"})
    kept.read(*IDS[:3])
    assert kept.asked == []


def test_after_a_commit_of_whatever_all_is_read_again(kept: Kept) -> None:
    kept.read(*IDS[:3])
    kept.commit_any({content_key(IDS[0]): dump_row(a_row(5))})
    assert [each.row.version for each in kept.read(*IDS[:3])] == [5, 1, 1]
    assert len(kept.asked) == 6


@pytest.mark.parametrize("commit", [Kept.commit, Kept.commit_any])
def test_what_a_commit_overtook_in_reading_isnt_kept(kept: Kept, commit: Callable[[Kept, Changes], None]) -> None:
    """The commit comes behind the beginning of the read transaction, and ends before it does."""
    mark = kept.frames.mark
    with kept.storage.read() as reader:
        old = Counting(reader).get_many([content_key(IDS[0]), edge_key(IDS[0])])
        commit(kept, {content_key(IDS[0]): dump_row(a_row(2))})
        before = Recorded(old)
        assert [each.row.version for each in kept.frames.read(before, 0, [IDS[0]], mark)] == [1]  # type: ignore[arg-type]
    assert [each.row.version for each in kept.read(IDS[0])] == [2]


@pytest.mark.parametrize("is_known", [True, False])
def test_of_what_a_commit_writes_nothing_is_kept_until_its_end(kept: Kept, is_known: bool) -> None:
    """So nobody reads the memory of one snapshot, and its state of another."""
    changes: Changes = {content_key(IDS[0]): dump_row(a_row(2))}
    kept.read(*IDS[:2])
    with kept.frames.writing(changes if is_known else None):
        assert [each.row.version for each in kept.read(*IDS[:2])] == [1, 1]
        kept.storage.commit(changes)
        assert [each.row.version for each in kept.read(*IDS[:2])] == [2, 1]
        assert len(kept.asked) == (2 if is_known else 4), "what it leaves alone is as it was"
    kept.read(*IDS[:2])
    kept.read(*IDS[:2])
    assert kept.asked == []


def test_a_commit_that_failed_has_ended(kept: Kept) -> None:
    with pytest.raises(OSError, match="no disk"), kept.frames.writing([content_key(IDS[0])]):
        raise OSError("no disk")
    kept.read(IDS[0])
    kept.read(IDS[0])
    assert kept.asked == []


class Recorded:
    """A reader of a snapshot: it gives what was read from it before, content and then edges."""

    def __init__(self, values: list[bytes | None]) -> None:
        self._values = values

    def get(self, key: bytes, /) -> bytes | None:
        return self.get_many([key])[0]

    def get_many(self, keys: list[bytes], /) -> list[bytes | None]:
        taken, self._values = self._values[: len(keys)], self._values[len(keys) :]
        return taken


def test_they_are_bounded_and_begin_anew() -> None:
    kept = Kept(frames=Frames(10 * OWN_BYTES))
    ids = [an_id(number) for number in range(100, 160)]
    kept.commit({content_key(record_id): dump_row(a_row(1)) for record_id in ids})
    for record_id in ids:
        kept.read(record_id)
    again = 0
    for record_id in ids:
        kept.read(record_id)
        again += not kept.asked
    assert again == 0, "sixty in turn don't fit where ten do"
    kept.read(ids[-1])
    assert kept.asked == []


def test_a_large_one_isnt_kept() -> None:
    kept = Kept()
    kept.commit({content_key(IDS[0]): dump_row(a_row(1, b'"' + b"x" * FRAME_BYTES_MAX + b'"'))})
    assert len(kept.read(IDS[0])) == len(kept.read(IDS[0])) == 1
    assert len(kept.asked) == 2


def test_one_with_many_edges_is_a_large_one() -> None:
    at = Timestamp(NOW)
    kept, edge = (
        Kept(),
        Association(
            target_id=IDS[1],
            association_type=AssociationType.SEMANTIC,
            weight=0.5,
            created_at=at,
            last_co_activation=at,
        ),
    )
    kept.commit({content_key(IDS[0]): dump_row(a_row(1)), edge_key(IDS[0]): dump_edges((edge,) * 100)})
    assert [len(parse_edges(each.edges)) for each in (*kept.read(IDS[0]), *kept.read(IDS[0]))] == [100, 100]
    assert len(kept.asked) == 2


def test_a_damaged_row_is_an_error_each_time(kept: Kept) -> None:
    kept.commit({content_key(IDS[0]): b"\xc1"})
    for _ in range(2):
        with pytest.raises(StorageDamaged):
            kept.read(IDS[0])


def test_a_frame_shows_the_record_as_it_is_shown_without_one() -> None:
    record = a_record(1)
    kept = Kept()
    kept.commit({content_key(record.record_id): dump_row(record.row)})
    [around] = kept.read(record.record_id)
    state: State = record.state
    assert framed_json(around, state) == record_json(record.record_id, record.row, state, None)


WRITTEN = st.lists(
    st.tuples(st.sampled_from(IDS), st.sampled_from(["content", "gone", "edges", "state", "whatever"])), max_size=4
)


@given(st.lists(st.tuples(WRITTEN, st.lists(st.sampled_from(IDS), unique=True)), max_size=12), st.booleans())
def test_whatever_is_committed_reads_are_of_what_is_stored(
    steps: list[tuple[list[tuple[RecordId, str]], list[RecordId]]], is_tight: bool
) -> None:
    kept, version = Kept(frames=Frames(2 * OWN_BYTES if is_tight else MANY)), 0
    for written, asked in steps:
        for record_id, what in written:
            version += 1
            value = dump_row(a_row(version))
            changes: dict[str, Changes] = {
                "content": {content_key(record_id): value},
                "gone": {content_key(record_id): None, edge_key(record_id): None},
                "edges": {edge_key(record_id): b""},
                "state": {state_key(DEFAULT_NAMESPACE, NOW, record_id): b"state"},
                "whatever": {content_key(record_id): value, edge_key(record_id): None},
            }
            (kept.commit_any if what == "whatever" else kept.commit)(changes[what])
        with kept.storage.read() as reader:
            stored = Frames(0).read(reader, DEFAULT_NAMESPACE, asked, 0)
        assert kept.read(*asked) == stored


def test_it_ends_with_the_memory_for_which_there_was_no_more_room(kept: Kept) -> None:
    size_bytes = len(dump_row(a_row(1)))
    for room_bytes, count in ((0, 0), (1, 1), (size_bytes, 1), (size_bytes + 1, 2), (3 * size_bytes, 3)):
        frames = Frames(MANY)
        with kept.storage.read() as reader:
            counting = Counting(reader)
            found = frames.read(counting, DEFAULT_NAMESPACE, IDS[:3], 0, room_bytes)  # type: ignore[arg-type]
        assert [each.record_id for each in found] == IDS[:count]
        assert len(counting.asked) == 2 * count
        assert sum(each.shown_bytes for each in found) >= min(room_bytes, 3 * size_bytes)


def test_what_is_kept_needs_no_room(kept: Kept) -> None:
    kept.read(*IDS[:2])
    with kept.storage.read() as reader:
        found = kept.frames.read(reader, DEFAULT_NAMESPACE, IDS[:3], kept.frames.mark, 0)
    assert [each.record_id for each in found] == IDS[:2]
