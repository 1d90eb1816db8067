"""The text index: what is found, in which order, and what becomes of it on disk."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tantivy
from hypothesis import given, settings
from hypothesis import strategies as st

from cerememory.domain.analysis import tokens
from cerememory.protocol.values import TIMESTAMP_MAX, TIMESTAMP_MIN, RecordId
from cerememory.storage import text_search
from cerememory.storage.inverted_index import reading
from cerememory.storage.text_index import (
    SCHEMA_EPOCH,
    Found,
    IndexDamaged,
    IndexDocument,
    IndexOutdated,
    IndexWriteFailed,
    RawFound,
    TextIndex,
    wipe,
)

EPISODIC, SEMANTIC, WORKING, RAW = 0, 1, 4, 5
SESSION, OTHER_SESSION = b"s" * 16, b"t" * 16
HUGE = 10**6


def an_id(number: int) -> RecordId:
    return RecordId(struct.pack(">QQ", number, ~number & (2**64 - 1)))


def memory(number: int, text: str, **given: Any) -> IndexDocument:
    fields: dict[str, Any] = {"store_code": EPISODIC, "created_at": number} | given
    return IndexDocument(record_id=an_id(number), text=text, **fields)


def raw(number: int, text: str, **given: Any) -> IndexDocument:
    return memory(number, text, **{"store_code": RAW, "session": SESSION} | given)


def search_raw(index: TextIndex, text: str | None = None, **given: Any) -> RawFound:
    filters: dict[str, Any] = {
        "session": None,
        "start_ns": None,
        "end_ns": None,
        "visibilities": {0},
        "secrecies": {0, 1},
        "limit": 100,
    }
    return index.snapshot().search_raw(text, **filters | given)


def numbers(found: Found | RawFound) -> list[int]:
    """The numbers from which the ids were made, in the order of what was found."""
    ids = found.record_ids if isinstance(found, RawFound) else [hit.record_id for hit in found.hits]
    return [struct.unpack(">QQ", record_id)[0] for record_id in ids]


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
    index.apply([memory(5, "alpha again")], [an_id(2), an_id(4)], sequence)
    index.commit(sequence)
    index.close()


def put(index: TextIndex, *documents: IndexDocument) -> None:
    index.apply(documents, [], 1)
    index.commit()


def found(index: TextIndex, text: str, stores: frozenset[int] | None = None) -> list[int]:
    return numbers(index.snapshot().search(text, stores, 100))


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("she was running in the hills", "run hill"),
        ("we had meetings about memories", "meeting memory"),
        ("Café Zoë in Łódź", "cafe zoe lodz"),
        ("cafe zoe", "CAFÉ ZOË"),
        ("東京都庁へ行く", "京都"),
        ("昨日は猫と遊んだ", "猫"),
        ("我爱北京天安门", "天安"),
        ("서울에서 만나요", "서울"),
        ("東京都庁へ行くby Python3", "python3"),
        ("Linuxの設定", "設定"),
        ("see config.yaml: max_connections=12", "max_connections"),
        ("cafe\u0301", "caf\u00e9"),
    ],
)
def test_a_text_is_found_by_words_in_another_form(index: TextIndex, text: str, query: str) -> None:
    put(index, memory(1, text), memory(2, "something else"))
    assert found(index, query) == [1]


@pytest.mark.parametrize(
    "query",
    [
        '"alpha',
        "alpha)",
        "((alpha",
        "text:alpha",
        "-alpha",
        "+beta alpha^3",
        "alpha~2",
        "NOT alpha",
        "alpha AND missing",
        "id:[* TO *] alpha",
        "alpha\\",
        "alpha OR",
        "\x00alpha\ud800",
    ],
)
def test_query_syntax_is_taken_as_plain_words(index: TextIndex, query: str) -> None:
    put(index, memory(1, "alpha"), memory(2, "gamma"))
    assert found(index, query) == [1]


def test_operators_are_words_that_can_be_found(index: TextIndex) -> None:
    put(index, memory(1, "the boolean AND of two"), memory(2, "neither"))
    assert found(index, "AND") == [1]


@pytest.mark.parametrize("query", ["", "   ", "?!", "🎉", '"" ()'])
def test_a_query_without_words_finds_nothing(index: TextIndex, query: str) -> None:
    put(index, memory(1, "alpha"), raw(2, "alpha"))
    assert index.snapshot().search(query, None, 10) == Found([], 0)
    assert search_raw(index, query) == RawFound([], 0)


def test_a_query_of_stop_words_alone_is_searched(index: TextIndex) -> None:
    put(index, memory(1, "a concert of The Who"), memory(2, "a concert"))
    assert found(index, "the who") == [1]


def test_stop_words_find_nothing_beside_another_word(index: TextIndex) -> None:
    put(index, memory(1, "who is that"), memory(2, "my guitar"))
    assert found(index, "who has the guitar") == [2]


def test_a_summary_is_found_too_and_raises_the_rank(index: TextIndex) -> None:
    put(index, memory(1, "the garden"), memory(2, "notes", summary="the garden"), memory(3, "notes"))
    assert found(index, "garden") == [2, 1]


def test_a_memory_with_more_of_the_words_comes_first(index: TextIndex) -> None:
    put(index, memory(1, "red bicycle"), memory(2, "red car"), memory(3, "blue bicycle"))
    assert found(index, "a red bicycle")[0] == 1


def test_equal_scores_are_ordered_newest_first_and_then_by_id(index: TextIndex) -> None:
    put(index, *(memory(i, "same", created_at=[5, 9, 5, 9][i]) for i in range(4)))
    assert found(index, "same") == [1, 3, 0, 2]


def test_ties_at_the_limit_are_broken_the_same_way(index: TextIndex) -> None:
    for i in range(30):
        put(index, memory(i, "same"))
    assert numbers(index.snapshot().search("same", None, 3)) == [29, 28, 27]


def test_ties_beyond_the_bound_still_give_as_many_as_asked(
    index: TextIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_search, "TIES_MAX", 5)
    put(index, *(memory(i, "same") for i in range(40)))
    assert len(found(index, "same")) == 40
    assert len(index.snapshot().search("same", None, 3).hits) == 3


def test_a_hit_says_what_it_is(index: TextIndex) -> None:
    document = memory(2**64 - 1, "alpha", store_code=SEMANTIC, created_at=-5)
    put(index, document)
    (hit,) = index.snapshot().search("alpha", None, 1).hits
    assert hit[:3] == (document.record_id, SEMANTIC, -5)
    assert hit.score > 0


def test_a_word_that_is_everywhere_still_has_a_score(index: TextIndex) -> None:
    put(index, *(memory(i, "everywhere") for i in range(2_000)))
    assert all(hit.score > 0 for hit in index.snapshot().search("everywhere", None, 5).hits)


def test_the_total_counts_what_the_limit_cuts(index: TextIndex) -> None:
    put(index, *(memory(i, "alpha") for i in range(5)))
    assert index.snapshot().search("alpha", None, 0) == Found([], 5)
    assert index.snapshot().search("alpha", None, 2).total == 5


@pytest.mark.parametrize(
    ("stores", "expected"),
    [
        (None, [0, 1, 2, 3, 4]),
        (frozenset({EPISODIC}), [0]),
        (frozenset({SEMANTIC, WORKING}), [1, 4]),
        (frozenset(range(5)), [0, 1, 2, 3, 4]),
        (frozenset(), []),
    ],
)
def test_only_the_stores_asked_for_are_searched(
    index: TextIndex, stores: frozenset[int] | None, expected: list[int]
) -> None:
    put(index, *(memory(code, "alpha", store_code=code) for code in range(5)), raw(9, "alpha"))
    assert sorted(found(index, "alpha", stores)) == expected


def test_a_store_filter_leaves_scores_as_they_are(index: TextIndex) -> None:
    put(index, memory(1, "alpha beta"), memory(2, "alpha", store_code=SEMANTIC))
    everywhere = index.snapshot().search("alpha", None, 10).hits
    assert index.snapshot().search("alpha", frozenset({SEMANTIC}), 10).hits == [everywhere[0]]


def test_raw_entries_change_nothing_in_the_ranking_of_memories(index: TextIndex) -> None:
    put(index, memory(1, "alpha beta gamma"), memory(2, "alpha"), memory(3, "beta " * 20))
    before = index.snapshot().search("alpha beta", None, 10)
    put(index, *(raw(i, "alpha " * i) for i in range(10, 40)))
    assert index.snapshot().search("alpha beta", None, 10) == before


def test_an_update_replaces_what_was_there(index: TextIndex) -> None:
    put(index, memory(1, "alpha"))
    put(index, memory(1, "beta", store_code=SEMANTIC))
    assert found(index, "alpha") == []
    assert found(index, "beta") == [1]


def test_the_last_of_several_updates_in_one_commit_counts(index: TextIndex) -> None:
    put(index, memory(1, "alpha"), memory(1, "beta"), memory(1, "gamma"))
    assert [found(index, word) for word in ("alpha", "beta", "gamma")] == [[], [], [1]]


def test_a_deleted_record_isn_t_found(index: TextIndex) -> None:
    put(index, memory(1, "alpha"), memory(2, "alpha"), raw(3, "alpha"))
    index.apply([], [an_id(1), an_id(3), an_id(77)], 2)
    index.commit()
    assert found(index, "alpha") == [2]
    assert search_raw(index).total == 0


def test_applying_the_same_twice_changes_nothing(index: TextIndex) -> None:
    for _ in range(2):
        index.apply([memory(1, "alpha"), raw(2, "alpha")], [an_id(3)], 4)
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
    index.apply([memory(3, "alpha")], [an_id(1), an_id(2)], 2)
    index.commit()
    assert numbers(before.search("alpha", None, 10)) == [1]
    assert before.search_raw(None, None, None, None, {0}, {0}, 10).total == 1


def test_snapshots_are_searched_in_other_threads_while_the_index_is_written(path: Path) -> None:
    index = TextIndex.open(path)
    put(index, *(memory(i, f"alpha w{i % 7}") for i in range(50)))
    snapshot = index.snapshot()
    expected = [snapshot.search(f"alpha w{i}", None, 20) for i in range(7)]
    seen: list[list[Found]] = []
    searches = [
        threading.Thread(
            target=lambda: seen.append([snapshot.search(f"alpha w{i % 7}", None, 20) for i in range(70)])
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
    assert snapshot.search("alpha w0", None, 20) == expected[0]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, [1, 2, 3, 4]),
        ({"session": SESSION}, [1, 3, 4]),
        ({"session": b"u" * 16}, []),
        ({"start_ns": 2}, [2, 3, 4]),
        ({"end_ns": 2}, [1, 2]),
        ({"start_ns": 2, "end_ns": 3}, [2, 3]),
        ({"start_ns": 3, "end_ns": 2}, []),
        ({"start_ns": -(2**70), "end_ns": 2**70}, [1, 2, 3, 4]),
        ({"visibilities": {0, 1, 2}}, [1, 2, 3, 4, 5]),
        ({"visibilities": {2}}, [5]),
        ({"visibilities": set()}, []),
        ({"secrecies": {1}}, [4]),
        ({"secrecies": {0, 1, 2}}, [1, 2, 3, 4, 6]),
        ({"text": "alpha"}, [1, 2, 4]),
        ({"text": "alphas betas"}, [2, 4]),
        ({"text": "which alpha", "session": SESSION, "start_ns": 2}, [4]),
        ({"text": "missing"}, []),
    ],
)
def test_raw_entries_pass_every_filter_oldest_first(
    index: TextIndex, given: dict[str, Any], expected: list[int]
) -> None:
    put(
        index,
        raw(4, "alpha beta", secrecy=1),
        raw(1, "alpha"),
        raw(3, "beta"),
        raw(2, "beta alpha", session=OTHER_SESSION),
        raw(5, "sealed", visibility=2),
        raw(6, "secret", secrecy=2),
        memory(7, "alpha beta"),
    )
    entries = search_raw(index, **given)
    assert (numbers(entries), entries.total) == (expected, len(expected))


def test_raw_entries_of_one_moment_are_ordered_by_id(index: TextIndex) -> None:
    for i in reversed(range(20)):
        put(index, raw(i, "alpha", created_at=TIMESTAMP_MAX))
    put(index, raw(99, "alpha", created_at=TIMESTAMP_MIN))
    entries = search_raw(index, "alpha", limit=4)
    assert (numbers(entries), entries.total) == ([99, 0, 1, 2], 21)
    assert search_raw(index, "alpha", limit=0) == RawFound([], 21)


def test_raw_entries_are_found_by_their_summary(index: TextIndex) -> None:
    put(index, raw(1, "text", summary="in short"))
    assert numbers(search_raw(index, "short")) == [1]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text(min_size=1), min_size=1, max_size=8))
def test_every_document_is_found_by_each_of_its_words(texts: list[str]) -> None:
    index = TextIndex.open(None)
    put(index, *(memory(i, text) for i, text in enumerate(texts)))
    snapshot = index.snapshot()
    for i, text in enumerate(texts):
        for word in tokens(text):
            assert i in numbers(snapshot.search(word, None, 100))
    index.close()


def test_what_was_committed_is_there_after_opening_again(path: Path) -> None:
    filled(path, sequence=7)
    index = TextIndex.open(path)
    assert index.applied_sequence() == 7
    assert sorted(found(index, "alpha")) == [1, 5]
    assert numbers(search_raw(index)) == [3]
    index.close()


def test_what_wasn_t_committed_is_gone_after_opening_again(path: Path) -> None:
    filled(path, sequence=7)
    index = TextIndex.open(path)
    index.apply([memory(6, "alpha")], [an_id(1)], 8)
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


def test_raw_entries_that_were_committed_without_the_memories_don_t_count_as_applied(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(path, sequence=7)
    index = TextIndex.open(path)
    index.apply([memory(6, "alpha"), raw(7, "alpha")], [], 8)

    def stop(sequence: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(index._curated, "commit", stop)
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
    with pytest.raises(IndexOutdated, match="epoch-0"):
        TextIndex.open(path)


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


def test_leftovers_of_an_interrupted_merge_are_no_damage(path: Path) -> None:
    filled(path)
    (path / "curated" / f"{'0' * 32}.idx").write_bytes(b"cut")
    index = TextIndex.open(path)
    assert index.applied_sequence() == 7
    index.close()


def test_a_failed_write_is_reported_and_nothing_is_claimed(path: Path) -> None:
    index = TextIndex.open(path)
    put(index, memory(1, "alpha"))
    path.rename(path.with_name("moved away"))
    index.apply([memory(2, "alpha")], [], 2)
    with pytest.raises(IndexWriteFailed):
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
