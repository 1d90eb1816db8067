"""Catching up: an index fed live, one that followed the feed and one rebuilt from the rows find the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cerememory.protocol.records import STORES, Store
from cerememory.storage import reindex
from cerememory.storage.contract import Storage
from cerememory.storage.keys import DEFAULT_NAMESPACE, Table, digest, dump_addresses, pack_sequence, system_key
from cerememory.storage.ledger import Finished, Mutation
from cerememory.storage.rows import LogRow, dump_row
from cerememory.storage.text_index import IndexDocument, RawFound, TextIndex
from tests.support.committing import a_record, an_id, commit, forgetting, storing, storing_raw, updating
from tests.support.engine import NOW, text_block
from tests.support.indexed import hits, search_raw
from tests.support.memory_storage import MemoryStorage

WORDS = ("kettle", "boil", "berlin", "deploy", "why", "short", "nothing")
ALL = frozenset(range(3))
COMMITS, ROWS = 16, 8  # of what `fed` goes through


class Fed:
    """A store, and an index that is told of each commit, as it is when all goes well."""

    def __init__(self) -> None:
        self.storage = MemoryStorage()
        self.index, _ = reindex.open_index(None)

    def do(self, mutation: Mutation[Any]) -> Finished:
        _, finished = commit(self.storage, mutation)
        assert finished is not None
        effects, sequence = finished.effects, finished.head.commit_sequence
        self.index.apply(effects.held, [], 0)
        reindex.apply_changes(self.index, self.storage, effects.changed, effects.left, sequence)
        return finished

    def store(self, number: int, text: str, **given: Any) -> None:
        self.do(storing(a_record(number, text, NOW + number, **given)))

    def raw(self, number: int, text: str, **given: Any) -> None:
        self.do(storing_raw(number, text, NOW + number, **given))

    def update(self, number: int, **given: Any) -> None:
        self.do(updating(number, **given))

    def a_day(self) -> None:
        """Records of every kind that the index treats in its own way."""
        self.store(1, "kettle", metadata={"berlin": "not searched"})
        self.store(2, "deploy on friday", summary="short", meta={"intent": "why", "tags": ["berlin"]})
        self.store(3, "held", store="working")
        self.raw(4, "kettle in berlin", session_id="s-1")
        self.raw(5, "deploy", session_id="s-2", visibility="sealed", secrecy_level="secret")
        self.update(1, content={"blocks": [text_block("boil berlin")]})
        self.update(2, meta={"intent": "nothing"})
        self.update(1, emotion={"joy": 1})

    def a_conversation(self) -> None:
        """In which a turn is edited, one changes its session and one is forgotten."""
        session = {"context": {"session_id": "s-3", "source": "Ann"}}
        for number, text in enumerate(("berlin?", "short", "nothing", "why", "deploy"), 11):
            self.store(number, text, **session)
        self.update(12, content={"blocks": [text_block("boil")]})
        self.update(14, metadata={"_context": {"session_id": "s-4"}})
        self.do(forgetting(13))


@pytest.fixture
def fed() -> Fed:
    made = Fed()
    made.a_day()
    made.a_conversation()
    made.index.commit()
    return made


def found_by_any_word(index: TextIndex) -> dict[str, Any]:
    """What curated and raw searches find. Scores, and the order, also depend on what was deleted lately."""
    durable = range(len(STORES) - 1)
    curated = {word: sorted(hit.record_id for hit in hits(index, word, stores=durable)) for word in WORDS}
    return {**curated, **{f"raw {word}": raw_search(index, word) for word in WORDS}}


def raw_search(index: TextIndex, text: str | None, session: str | None = None) -> RawFound:
    session_digest = None if session is None else digest(session)
    return search_raw(index, text, session=session_digest, visibilities=ALL, secrecies=ALL)


def caught_up(storage: Storage) -> TextIndex:
    """A new index that has followed the feed from its beginning."""
    index, _ = reindex.open_index(None)
    while reindex.apply_log(index, storage):
        pass
    return index


def rebuilt(storage: Storage, index: TextIndex | None = None) -> TextIndex:
    made = reindex.open_index(None)[0] if index is None else index
    assert list(reindex.rebuild(made, storage))
    return made


@pytest.mark.parametrize("make", [caught_up, rebuilt])
def test_an_index_made_from_storage_finds_what_one_fed_live_finds(
    fed: Fed, make: Callable[[Storage], TextIndex]
) -> None:
    made = make(fed.storage)
    assert found_by_any_word(made) == found_by_any_word(fed.index)
    assert raw_search(made, None, "s-2").record_ids == [an_id(5)]


def test_an_index_that_followed_is_at_the_last_commit_that_changed_a_document(fed: Fed) -> None:
    index = caught_up(fed.storage)
    assert index.applied_sequence() == COMMITS
    assert reindex.apply_log(index, fed.storage) == 0


def test_a_rebuilt_index_is_at_the_head(fed: Fed) -> None:
    assert rebuilt(fed.storage).applied_sequence() == COMMITS


def test_the_feed_is_followed_from_where_the_index_stopped(fed: Fed) -> None:
    index = caught_up(fed.storage)
    fed.store(9, "boil later")
    assert reindex.apply_log(index, fed.storage) == 1
    assert [hit.record_id for hit in hits(index, "later")] == [an_id(9)]


def test_an_id_whose_record_is_gone_leaves_the_index(fed: Fed) -> None:
    index = caught_up(fed.storage)
    content = [row for row in fed.storage.rows() if row[4:5] == Table.CONTENT.value and row.endswith(an_id(1))]
    log_key = system_key(Table.LOG, pack_sequence(COMMITS + 1))
    log_row = LogRow(1, b"", dump_addresses([(DEFAULT_NAMESPACE, an_id(1))]))
    fed.storage.commit({**dict.fromkeys(content), log_key: dump_row(log_row)})
    assert reindex.apply_log(index, fed.storage) == 1
    assert an_id(1) not in [hit.record_id for hit in hits(index, "boil")]


def test_the_feed_comes_in_pieces(fed: Fed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reindex, "IDS_MAX", 2)
    index, _ = reindex.open_index(None)
    pieces = list(iter(lambda: reindex.apply_log(index, fed.storage), 0))
    assert sum(pieces) == COMMITS - 1, "working memory isn't in the log"
    assert len(pieces) == COMMITS // 2
    assert found_by_any_word(index) == found_by_any_word(fed.index)


def test_a_rebuild_comes_in_pieces_and_shows_what_it_has_so_far(fed: Fed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reindex, "IDS_MAX", 1)
    monkeypatch.setattr(reindex, "COMMIT_EVERY", 1)
    index, _ = reindex.open_index(None)
    pieces = reindex.rebuild(index, fed.storage)
    assert next(pieces) == 1
    assert len(hits(index, "boil")) == 1
    assert index.applied_sequence() == 0, "a rebuild that stops here begins anew"
    assert list(pieces) == list(range(2, ROWS + 1))
    assert index.applied_sequence() == COMMITS
    assert found_by_any_word(index) == found_by_any_word(fed.index)


def test_what_is_committed_during_a_rebuild_is_in_the_feed_behind_it(
    fed: Fed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reindex, "IDS_MAX", 1)
    index, _ = reindex.open_index(None)
    pieces: Iterator[int] = reindex.rebuild(index, fed.storage)
    next(pieces)
    fed.update(1, content={"blocks": [text_block("changed meanwhile")]})
    fed.store(0, "stored meanwhile")
    fed.do(forgetting(12))
    list(pieces)
    while reindex.apply_log(index, fed.storage):
        pass
    fed.index.commit()
    assert found_by_any_word(index) == found_by_any_word(fed.index)
    assert len(hits(index, "meanwhile")) == 2


def test_a_rebuild_takes_out_what_the_index_had_and_the_store_has_not(fed: Fed) -> None:
    stale = IndexDocument(
        namespace=DEFAULT_NAMESPACE, record_id=an_id(99), store_code=0, created_at=NOW, text="kettle of old"
    )
    index, _ = reindex.open_index(None)
    index.apply([stale], [], 1)
    index.commit()
    assert found_by_any_word(rebuilt(fed.storage, index)) == found_by_any_word(fed.index)


@pytest.mark.parametrize(
    ("applied", "floor", "needed"), [(0, None, True), (5, None, False), (5, 5, False), (5, 4, False), (5, 6, True)]
)
def test_a_rebuild_is_needed_when_the_feed_does_not_reach_back(
    applied: int, floor: int | None, needed: bool
) -> None:
    storage = MemoryStorage()
    if floor is not None:
        storage.commit({system_key(Table.LOG_FLOOR): pack_sequence(floor)})
    index, _ = reindex.open_index(None)
    index.commit(applied)
    assert reindex.needs_rebuild(index, storage) == needed


def test_what_working_memory_held_is_gone_when_an_index_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "index"
    index, reason = reindex.open_index(path)
    assert reason == ""
    held = IndexDocument(
        namespace=DEFAULT_NAMESPACE,
        record_id=an_id(1),
        store_code=list(Store).index(Store.WORKING),
        created_at=1,
        text="held",
    )
    kept = IndexDocument(namespace=DEFAULT_NAMESPACE, record_id=an_id(2), store_code=0, created_at=1, text="held")
    index.apply([held, kept], [], 3)
    index.commit()
    index.close()
    again, reason = reindex.open_index(path)
    assert [hit.record_id for hit in hits(again, "held")] == [an_id(2)]
    assert (again.applied_sequence(), reason) == (3, "")
    again.close()


def test_a_damaged_index_is_started_anew_and_says_why(fed: Fed, tmp_path: Path) -> None:
    path = tmp_path / "index"
    index = rebuilt(fed.storage, reindex.open_index(path)[0])
    index.close()
    (path / "curated" / "meta.json").write_text("{")
    again, reason = reindex.open_index(path)
    assert reason
    assert again.applied_sequence() == 0
    assert reindex.needs_rebuild(again, fed.storage)
    assert found_by_any_word(rebuilt(fed.storage, again)) == found_by_any_word(fed.index)
    again.close()


def test_the_rows_of_a_rebuild_are_counted_by_the_counters(fed: Fed) -> None:
    assert reindex.record_count(fed.storage) == ROWS
    assert reindex.record_count(MemoryStorage()) == 0
