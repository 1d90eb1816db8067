"""Catching up: an index fed live, one that followed the feed and one rebuilt from the rows find the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cerememory.protocol import codec
from cerememory.protocol.records import Store
from cerememory.protocol.requests import EncodeUpdate
from cerememory.protocol.values import RecordId
from cerememory.storage import prepare, reindex
from cerememory.storage.contract import Storage
from cerememory.storage.documents import stored_documents
from cerememory.storage.keys import Table, digest, pack_sequence, system_key
from cerememory.storage.ledger import Finished, Mutation
from cerememory.storage.mutations import UpdateRecord
from cerememory.storage.text_index import IndexDocument, RawFound, TextIndex
from tests.support.committing import a_record, an_id, commit, storing, storing_raw
from tests.support.engine import NOW, text_block
from tests.support.memory_storage import MemoryStorage

WORDS = ("kettle", "boil", "berlin", "deploy", "why", "short", "nothing")
ALL = frozenset(range(3))


class Fed:
    """A store, and an index that is told of each commit, as it is when all goes well."""

    def __init__(self) -> None:
        self.storage = MemoryStorage()
        self.index, _ = reindex.open_index(None)

    def do(self, mutation: Mutation[Any]) -> Finished:
        _, finished = commit(self.storage, mutation)
        assert finished is not None
        self.index.apply(finished.effects.documents, finished.effects.deletions, finished.head.commit_sequence)
        return finished

    def store(self, number: int, text: str, **given: Any) -> None:
        self.do(storing(a_record(number, text, NOW + number, **given)))

    def raw(self, number: int, text: str, **given: Any) -> None:
        self.do(storing_raw(number, text, NOW + number, **given))

    def update(self, number: int, **given: Any) -> None:
        request = codec.parse(codec.dump(given), EncodeUpdate)
        self.do(UpdateRecord(an_id(number), prepare.edit(request, NOW), None, NOW))

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


@pytest.fixture
def fed() -> Fed:
    made = Fed()
    made.a_day()
    made.index.commit()
    return made


def found_by_any_word(index: TextIndex) -> dict[str, Any]:
    """What curated and raw searches answer, but for the scores: they also depend on what was deleted lately."""
    found = {word: index.snapshot().search(word, frozenset(range(4)), 50) for word in WORDS}
    curated = {word: ([hit[:3] for hit in each.hits], each.total) for word, each in found.items()}
    return {**curated, **{f"raw {word}": raw_search(index, word) for word in WORDS}}


def raw_search(index: TextIndex, text: str | None, session: str | None = None) -> RawFound:
    session_digest = None if session is None else digest(session)
    return index.snapshot().search_raw(text, session_digest, None, None, ALL, ALL, 50)


def caught_up(storage: Storage) -> TextIndex:
    """A new index that has followed the feed from its beginning."""
    index, _ = reindex.open_index(None)
    while reindex.apply_feed(index, storage):
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


def test_documents_from_rows_are_those_that_were_told(fed: Fed) -> None:
    told: dict[RecordId, IndexDocument] = {}
    again = Fed()
    do = again.do

    def keep(mutation: Mutation[Any]) -> Finished:
        finished = do(mutation)
        told.update({document.record_id: document for document in finished.effects.documents})
        return finished

    again.do = keep  # type: ignore[method-assign]
    again.a_day()
    with again.storage.read() as reader:
        documents, missing = stored_documents(reader, [an_id(i) for i in range(1, 7)])
    assert documents == [told[an_id(i)] for i in (1, 2, 4, 5)]
    assert missing == [an_id(3), an_id(6)], "working memory has no rows"


def test_an_index_that_followed_is_at_the_last_commit_that_changed_a_document(fed: Fed) -> None:
    index = caught_up(fed.storage)
    assert index.applied_sequence() == 8
    assert reindex.apply_feed(index, fed.storage) == 0


def test_a_rebuilt_index_is_at_the_head(fed: Fed) -> None:
    assert rebuilt(fed.storage).applied_sequence() == 8


def test_the_feed_is_followed_from_where_the_index_stopped(fed: Fed) -> None:
    index = caught_up(fed.storage)
    fed.store(9, "boil later")
    assert reindex.apply_feed(index, fed.storage) == 1
    assert [hit.record_id for hit in index.snapshot().search("later", None, 5).hits] == [an_id(9)]


def test_an_id_whose_record_is_gone_leaves_the_index(fed: Fed) -> None:
    index = caught_up(fed.storage)
    content = [row for row in fed.storage.rows() if row[4:5] == Table.CONTENT.value and row.endswith(an_id(1))]
    feed = system_key(Table.FEED, pack_sequence(9))
    fed.storage.commit({**dict.fromkeys(content), feed: an_id(1)})
    assert reindex.apply_feed(index, fed.storage) == 1
    assert index.snapshot().search("boil", None, 5).hits == []


def test_the_feed_comes_in_pieces(fed: Fed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reindex, "IDS_MAX", 2)
    index, _ = reindex.open_index(None)
    pieces = list(iter(lambda: reindex.apply_feed(index, fed.storage), 0))
    assert sum(pieces) == 7
    assert len(pieces) == 4
    assert found_by_any_word(index) == found_by_any_word(fed.index)


def test_a_rebuild_comes_in_pieces_and_shows_what_it_has_so_far(fed: Fed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reindex, "IDS_MAX", 1)
    monkeypatch.setattr(reindex, "COMMIT_EVERY", 1)
    index, _ = reindex.open_index(None)
    pieces = reindex.rebuild(index, fed.storage)
    assert next(pieces) == 1
    assert len(index.snapshot().search("boil", None, 5).hits) == 1
    assert index.applied_sequence() == 0, "a rebuild that stops here begins anew"
    assert list(pieces) == [2, 3, 4]
    assert index.applied_sequence() == 8
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
    list(pieces)
    while reindex.apply_feed(index, fed.storage):
        pass
    fed.index.commit()
    assert found_by_any_word(index) == found_by_any_word(fed.index)
    assert len(index.snapshot().search("meanwhile", None, 5).hits) == 2


def test_a_rebuild_takes_out_what_the_index_had_and_the_store_has_not(fed: Fed) -> None:
    stale = IndexDocument(record_id=an_id(99), store_code=0, created_at=NOW, text="kettle of old")
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
        storage.commit({system_key(Table.FEED_FLOOR): pack_sequence(floor)})
    index, _ = reindex.open_index(None)
    index.commit(applied)
    assert reindex.needs_rebuild(index, storage) == needed


def test_what_working_memory_held_is_gone_when_an_index_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "index"
    index, reason = reindex.open_index(path)
    assert reason == ""
    held = IndexDocument(
        record_id=an_id(1), store_code=list(Store).index(Store.WORKING), created_at=1, text="held"
    )
    kept = IndexDocument(record_id=an_id(2), store_code=0, created_at=1, text="held")
    index.apply([held, kept], [], 3)
    index.commit()
    index.close()
    again, reason = reindex.open_index(path)
    assert [hit.record_id for hit in again.snapshot().search("held", None, 5).hits] == [an_id(2)]
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
    assert reindex.record_count(fed.storage) == 4
    assert reindex.record_count(MemoryStorage()) == 0
