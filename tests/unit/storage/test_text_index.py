"""The text index: what its writer may rely on, and what becomes of it on disk."""

from __future__ import annotations

import os
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterator
from hashlib import blake2b
from pathlib import Path

import msgspec
import pytest
import tantivy

from cerememory.protocol import codec
from cerememory.protocol.records import MetaMemory
from cerememory.protocol.values import RecordId
from cerememory.storage.documents import row_document
from cerememory.storage.inverted_index import reading
from cerememory.storage.keys import DEFAULT_NAMESPACE
from cerememory.storage.rows import ContentRow
from cerememory.storage.text_index import (
    SCHEMA_EPOCH,
    Hit,
    IndexDamaged,
    IndexDocument,
    IndexOutdated,
    IndexWriteFailed,
    TextIndex,
    wipe,
)
from tests.support.engine import WAIT_S, text_block
from tests.support.indexed import (
    RAW,
    SEMANTIC,
    WORKING,
    address,
    found,
    hits,
    memory,
    numbers,
    put,
    raw,
    search_raw,
)


@pytest.fixture
def index() -> Iterator[TextIndex]:
    opened = TextIndex.open(None)
    yield opened
    opened.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "index"


def filled(path: Path, sequence: int = 7) -> None:
    """An index on disk with segments of both kinds and a deletion in each."""
    index = TextIndex.open(path)
    index.apply([memory(1, "alpha"), memory(2, "beta"), raw(3, "gamma"), raw(4, "delta")], [], 1)
    index.commit(1)
    index.apply([memory(5, "alpha again")], [address(2), address(4)], sequence)
    index.commit(sequence)
    index.close()


def test_an_update_replaces_what_was_there(index: TextIndex) -> None:
    put(index, memory(1, "alpha"))
    put(index, memory(1, "beta", store_code=SEMANTIC))
    assert found(index, "alpha") == []
    assert found(index, "beta") == [1]


def test_the_last_of_several_updates_in_one_commit_counts(index: TextIndex) -> None:
    put(index, memory(1, "alpha"), memory(1, "beta"), memory(1, "gamma"))
    assert [found(index, word) for word in ("alpha", "beta", "gamma")] == [[], [], [1]]


def test_a_deleted_record_is_not_found(index: TextIndex) -> None:
    put(index, memory(1, "alpha"), memory(2, "alpha"), raw(3, "alpha"))
    index.apply([], [address(1), address(3), address(77)], 2)
    index.commit()
    assert found(index, "alpha") == [2]
    assert search_raw(index).total == 0


def test_applying_the_same_twice_changes_nothing(index: TextIndex) -> None:
    for _ in range(2):
        index.apply([memory(1, "alpha"), raw(2, "alpha")], [address(3)], 4)
    index.commit()
    assert (found(index, "alpha"), numbers(search_raw(index))) == ([1], [2])


def test_a_whole_store_can_be_deleted(index: TextIndex) -> None:
    put(index, memory(1, "alpha", store_code=WORKING), memory(2, "alpha"), raw(3, "alpha"))
    index.delete_store(WORKING)
    index.commit()
    assert found(index, "alpha") == [2]
    index.delete_store(RAW)
    index.commit()
    assert (found(index, "alpha"), search_raw(index).total) == ([2], 0)


def test_nothing_is_seen_before_its_commit(index: TextIndex) -> None:
    index.apply([memory(1, "alpha")], [], 1)
    assert found(index, "alpha") == []
    index.commit()
    assert found(index, "alpha") == [1]


def test_a_snapshot_stays_as_it_was(index: TextIndex) -> None:
    put(index, memory(1, "alpha"), raw(2, "alpha"))
    before = index.snapshot()
    index.apply([memory(3, "alpha")], [address(1), address(2)], 2)
    index.commit()
    assert numbers(list(before.search(DEFAULT_NAMESPACE, "alpha", None, 10))) == [1]
    assert before.search_raw(DEFAULT_NAMESPACE, None, None, None, None, {0}, {0}, 10).total == 1


def test_snapshots_are_searched_in_other_threads_while_the_index_is_written(path: Path) -> None:
    index = TextIndex.open(path)
    put(index, *(memory(i, f"alpha w{i % 7}") for i in range(50)))
    snapshot = index.snapshot()
    expected = [list(snapshot.search(DEFAULT_NAMESPACE, f"alpha w{i}", None, 20)) for i in range(7)]
    seen: list[list[list[Hit]]] = []
    searches = [
        threading.Thread(
            target=lambda: seen.append(
                [list(snapshot.search(DEFAULT_NAMESPACE, f"alpha w{i % 7}", None, 20)) for i in range(70)]
            )
        )
        for _ in range(3)
    ]
    for thread in searches:
        thread.start()
    for i in range(12):  # enough for segments to be merged and their files to go
        put(index, *(memory(j, "alpha") for j in range(50 + i)))
    for thread in searches:
        thread.join()
    index.close()
    assert seen == [expected * 10] * 3
    assert list(snapshot.search(DEFAULT_NAMESPACE, "alpha w0", None, 20)) == expected[0]


def test_small_segments_are_merged_step_by_step_and_nothing_else_changes(path: Path) -> None:
    index = TextIndex.open(path)
    for i in range(5):
        put(index, memory(i, f"alpha w{i % 2}"))
    assert index.is_scattered
    before, sequence = hits(index, "alpha w1"), index.applied_sequence()
    assert settled(index)
    assert not index.is_scattered
    assert (hits(index, "alpha w1"), index.applied_sequence()) == (before, sequence)
    index.close()


def settled(index: TextIndex) -> bool:
    """Whether tantivy, which merges in a thread of its own, was made to within `WAIT_S`."""
    ends_at = time.monotonic() + WAIT_S
    return any(index.settle() for _ in iter(lambda: time.monotonic() < ends_at, False))


def test_steps_that_a_crash_cuts_short_or_a_commit_overtakes_leave_the_index_as_it_was(path: Path) -> None:
    index = TextIndex.open(path)
    for i in range(5):
        put(index, memory(i, "alpha"))
    before, sequence = sorted(found(index, "alpha")), index.applied_sequence()
    for _ in range(2):
        assert not index.settle()
    assert sorted(found(index, "alpha")) == before, "searches see no step"
    index.close()
    index = TextIndex.open(path)
    assert (sorted(found(index, "alpha")), index.applied_sequence()) == (before, sequence)
    assert not index.settle()
    index.apply([memory(9, "alpha")], [], sequence + 1)
    index.commit()
    index.close()
    index = TextIndex.open(path)
    assert (sorted(found(index, "alpha")), index.applied_sequence()) == ([*before, 9], sequence + 1)
    index.close()


def test_what_was_committed_is_there_after_opening_again(path: Path) -> None:
    filled(path, sequence=7)
    index = TextIndex.open(path)
    assert index.applied_sequence() == 7
    assert sorted(found(index, "alpha")) == [1, 5]
    assert numbers(search_raw(index)) == [3]
    index.close()


def test_what_was_not_committed_is_gone_after_opening_again(path: Path) -> None:
    filled(path, sequence=7)
    index = TextIndex.open(path)
    index.apply([memory(6, "alpha")], [address(1)], 8)
    index.close()
    again = TextIndex.open(path)
    assert again.applied_sequence() == 7
    assert sorted(found(again, "alpha")) == [1, 5]
    again.close()


def test_a_commit_stores_the_newest_applied_sequence_or_the_given_one(path: Path) -> None:
    index = TextIndex.open(path)
    assert index.applied_sequence() == 0
    index.apply([memory(1, "alpha")], [], 5)
    index.apply([], [], 3)
    assert index.applied_sequence() == 0
    index.commit()
    assert index.applied_sequence() == 5
    index.commit(2)
    index.apply([], [], 0)
    index.commit()
    assert index.applied_sequence() == 2
    index.close()


@pytest.mark.parametrize("half", ["_raw", "_curated"])
def test_a_commit_that_stops_half_way_is_not_counted_and_can_be_repeated(
    path: Path, monkeypatch: pytest.MonkeyPatch, half: str
) -> None:
    filled(path, sequence=7)
    index = TextIndex.open(path)
    index.apply([memory(6, "alpha"), raw(7, "alpha")], [], 8)

    def stop(sequence: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(getattr(index, half), "commit", stop)
    with pytest.raises(KeyboardInterrupt):
        index.commit()
    index.close()
    again = TextIndex.open(path)
    assert again.applied_sequence() == 7
    again.apply([memory(6, "alpha"), raw(7, "alpha")], [], 8)
    again.commit()
    assert (again.applied_sequence(), numbers(search_raw(again, "alpha"))) == (8, [7])
    again.close()


def test_an_index_of_another_epoch_is_outdated(path: Path) -> None:
    TextIndex.open(path, SCHEMA_EPOCH - 1).close()
    with pytest.raises(IndexOutdated, match=f"epoch-{SCHEMA_EPOCH - 1}"):
        TextIndex.open(path)


EPOCH_OF_THESE = 3  # change it together with what is below: else indexes of old fields are taken for new ones


def test_who_changes_the_fields_raises_the_epoch(path: Path) -> None:
    TextIndex.open(path).close()
    for part in ("curated", "raw"):
        schema = msgspec.json.decode((path / part / "meta.json").read_bytes())["schema"]
        fields = blake2b(msgspec.json.encode(schema, order="deterministic"), digest_size=8).hexdigest()
        assert (SCHEMA_EPOCH, fields) == (EPOCH_OF_THESE, "701f0cce68aedbbb")


def test_who_changes_what_is_told_of_a_memory_raises_the_epoch() -> None:
    content = codec.dump(
        {"blocks": [text_block("Where is it?", data=[*b"Where is it?"])], "summary": "a question"}
    )
    context = {"session_id": "s", "source": "Ada", "temporal": "8 May 2023"}
    metadata = codec.dump({"_context": context, "n": [1.0, {"b": 2, "a": "x"}]})
    meta = codec.dump(codec.parse(b'{"tags": ["a"]}', MetaMemory))
    told = row_document(3, RecordId(bytes(16)), ContentRow(SEMANTIC, 1, 7, 8, content, b"", metadata, meta))
    assert (SCHEMA_EPOCH, told) == (
        EPOCH_OF_THESE,
        IndexDocument(
            namespace=3,
            record_id=RecordId(bytes(16)),
            store_code=SEMANTIC,
            created_at=7,
            text="Where is it?",
            summary="a question",
            speaker="Ada",
            dates=("2023", "2023-05", "2023-05-08", "--05", "--05-08"),
            scope=(
                "09e50421abef920f89fad424dcde3edf",
                "71006f703120b37015d0a59d9c5ef36e",
                "8df021ec6b0e351700f543852bc53619",
                "70e4d0853d837c39f92f51d203e7bc27",
            ),
        ),
    )


def test_an_index_of_another_analyzer_is_outdated(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cerememory.domain.analysis.IDENTITY", "other/1")
    TextIndex.open(path).close()
    monkeypatch.undo()
    with pytest.raises(IndexOutdated, match="other/1"):
        TextIndex.open(path)


def test_an_index_with_a_foreign_schema_is_outdated(path: Path) -> None:
    for part in ("curated", "raw"):
        (path / part).mkdir(parents=True)
        schema = tantivy.SchemaBuilder().add_text_field("body").build()
        tantivy.Index(schema, str(path / part))
    with pytest.raises(IndexOutdated, match="schema"):
        TextIndex.open(path)


def truncated_to_a_brace(file: Path) -> None:
    file.write_text("{")


def deleted(file: Path) -> None:
    file.unlink()


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def cut_in_half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def overwritten_with_garbage(file: Path) -> None:
    file.write_bytes(b"\xa5" * file.stat().st_size)


def with_one_bit_flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 4] ^= 1
    file.write_bytes(content)


DAMAGES = [deleted, emptied, cut_in_half, overwritten_with_garbage]


@pytest.mark.parametrize("damage", [*DAMAGES, truncated_to_a_brace])
@pytest.mark.parametrize("part", ["curated", "raw"])
def test_a_damaged_list_of_segments_is_noticed(path: Path, part: str, damage: Callable[[Path], None]) -> None:
    filled(path)
    damage(path / part / "meta.json")
    with pytest.raises(IndexDamaged):
        TextIndex.open(path)


@pytest.mark.parametrize("damage", [*DAMAGES, with_one_bit_flipped])
@pytest.mark.parametrize("suffix", ["idx", "term", "fast", "fieldnorm", "store", "pos", "del"])
def test_a_damaged_segment_file_is_noticed(path: Path, suffix: str, damage: Callable[[Path], None]) -> None:
    filled(path)
    damage(max((path / "curated").glob(f"*.{suffix}"), key=lambda file: file.stat().st_size))
    with pytest.raises(IndexDamaged):
        TextIndex.open(path)


@pytest.mark.parametrize("part", ["curated", "raw"])
def test_a_missing_half_is_noticed(path: Path, part: str) -> None:
    filled(path)
    wipe(path / part)
    with pytest.raises(IndexDamaged):
        TextIndex.open(path)


def test_an_index_that_was_never_committed_is_damaged(path: Path) -> None:
    schema = TextIndex.open(None)._curated.schema
    for part in ("curated", "raw"):
        (path / part).mkdir(parents=True)
        tantivy.Index(schema, str(path / part))
    with pytest.raises(IndexDamaged, match="sequence is missing"):
        TextIndex.open(path)


def test_a_wiped_index_starts_anew(path: Path) -> None:
    filled(path)
    truncated_to_a_brace(path / "curated" / "meta.json")
    wipe(path)
    wipe(path)
    index = TextIndex.open(path)
    assert (index.applied_sequence(), found(index, "alpha")) == (0, [])
    index.close()


FOREIGN: dict[str, Callable[[Path], None]] = {
    "a file": lambda path: path.touch(),
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a pipe": os.mkfifo,
}


@pytest.mark.parametrize("foreign", FOREIGN.values(), ids=FOREIGN)
def test_what_is_no_directory_is_damage_and_set_aside(path: Path, foreign: Callable[[Path], None]) -> None:
    for number in (1, 2):
        foreign(path)
        kind = stat.S_IFMT(path.lstat().st_mode)
        for open_index in (TextIndex.open, TextIndex.open_existing):
            with pytest.raises(IndexDamaged, match=f"{path} is no directory"):
                open_index(path)
        aside = wipe(path)
        assert aside == path.with_name(f"{path.name}.aside-{number}")
        assert stat.S_IFMT(aside.lstat().st_mode) == kind
        TextIndex.open(path).close()
        assert wipe(path) is None


def test_of_a_link_to_a_directory_the_directory_is_emptied(path: Path, tmp_path: Path) -> None:
    """An index may lie on another disk; what links within it lead to isn't part of it."""
    there, kept = tmp_path / "there", tmp_path / "kept"
    for folder in (there, kept):
        folder.mkdir()
        (folder / "file").write_text("kept")
    (there / "link").symlink_to(kept)
    path.symlink_to(there)
    filled(path)
    assert wipe(path) is None
    assert list(there.iterdir()) == []
    assert (kept / "file").read_text() == "kept"
    assert path.is_symlink()
    filled(path)
    assert {part.name for part in there.iterdir()} == {"curated", "raw"}


def test_leftovers_of_an_interrupted_merge_are_no_damage(path: Path) -> None:
    filled(path)
    (path / "curated" / f"{'0' * 32}.idx").write_bytes(b"cut")
    index = TextIndex.open(path)
    assert index.applied_sequence() == 7
    index.close()


def test_leftovers_of_an_interrupted_commit_do_not_stop_its_repetition(path: Path) -> None:
    """A commit is cut short when the file with its deletions is there and the list of segments isn't."""
    filled(path)
    other = Path(shutil.copytree(path, path.with_name("other")))

    def delete_one(where: Path) -> None:
        index = TextIndex.open(where)
        index.apply([], [address(1)], 8)
        index.commit()
        assert (index.applied_sequence(), found(index, "alpha")) == (8, [5])
        index.close()

    delete_one(other)
    before = {file.name for file in (path / "curated").iterdir()}
    left = [file for file in (other / "curated").glob("*.del") if file.name not in before]
    assert left
    for file in (*left, other / "curated" / ".managed.json"):
        shutil.copy(file, path / "curated")
    delete_one(path)


def test_a_failed_write_is_reported_and_nothing_is_claimed(path: Path) -> None:
    index = TextIndex.open(path)
    put(index, memory(1, "alpha"))
    path.rename(path.with_name("moved away"))
    with pytest.raises(IndexWriteFailed):  # the library notices at either
        index.apply([memory(2, "alpha")], [], 2)
        index.commit()
    assert index.applied_sequence() == 1
    assert found(index, "alpha") == [1]
    with pytest.raises(IndexWriteFailed, match="opened again"):
        index.apply([memory(3, "alpha")], [], 3)
    index.close()


def test_an_index_where_none_can_be_created_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(IndexWriteFailed):
        TextIndex.open(tmp_path / "file" / "index")


def test_a_second_writer_on_the_same_directory_is_refused(path: Path) -> None:
    index = TextIndex.open(path)
    other = TextIndex.open(path)
    with pytest.raises(IndexWriteFailed):
        other.apply([memory(1, "alpha")], [], 1)
    index.close()
    other.close()


def test_a_panic_of_the_library_counts_as_damage(index: TextIndex) -> None:
    searcher = index._curated.searcher
    with pytest.raises(IndexDamaged, match="panicked"), reading():
        searcher.search(tantivy.Query.all_query(), limit=0)


def test_a_panic_in_a_write_is_a_failed_write(index: TextIndex) -> None:
    curated = index._curated
    with pytest.raises(IndexWriteFailed, match="panicked"), curated._writing():
        curated.searcher.search(tantivy.Query.all_query(), limit=0)
    with pytest.raises(IndexWriteFailed, match="an earlier write failed"):
        index.apply([memory(1, "alpha")], [], 1)


def test_other_exceptions_pass_as_they_are() -> None:
    with pytest.raises(KeyboardInterrupt), reading():
        raise KeyboardInterrupt


def test_an_index_in_memory_leaves_nothing_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    index = TextIndex.open(None)
    put(index, memory(1, "alpha"))
    index.close()
    assert list(tmp_path.iterdir()) == []


def test_the_directory_is_closed_to_others(path: Path) -> None:
    filled(path)
    assert {(path / part).stat().st_mode & 0o777 for part in ("curated", "raw")} == {0o700}
