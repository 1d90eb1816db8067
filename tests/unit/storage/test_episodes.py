"""What consolidation gets to know of the episodic memories."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from cerememory.domain.consolidation import Episode, likeness
from cerememory.domain.decay import STANDARD
from cerememory.domain.derivation import with_semantic_ids
from cerememory.protocol import codec
from cerememory.protocol.records import MemoryContent, Store
from cerememory.storage.episodes import READ_AT_ONCE, Episodes, contents_of
from cerememory.storage.keys import DEFAULT_NAMESPACE, Table, key
from cerememory.storage.rows import dump_row, dump_state_row, parse_content_row
from tests.support.committing import (
    a_record,
    an_id,
    changed,
    commit,
    state_key_of,
    stored_state,
    storing,
    updating,
)
from tests.support.engine import NOW, text_block
from tests.support.memory_storage import MemoryStorage

DAY = 86_400 * 10**9
OTHER = 5


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


def read(storage: MemoryStorage, now: int = NOW, namespace: int = DEFAULT_NAMESPACE) -> list[Episode]:
    with storage.read() as reader:
        return Episodes(reader, namespace, STANDARD[Store.EPISODIC], now).read()


def rows(storage: MemoryStorage) -> dict[bytes, bytes]:
    with storage.read() as reader:
        return dict(reader.scan(b"", b"\xff" * 8))


def with_state(storage: MemoryStorage, number: int, **given: Any) -> None:
    state = changed(stored_state(rows(storage), an_id(number)), **given)
    storage.commit({state_key_of(rows(storage), an_id(number)): dump_state_row(0, state)})


def test_episodic_memories_are_read_in_the_order_in_which_they_were_made(storage: MemoryStorage) -> None:
    commit(storage, storing(a_record(1, created_at=NOW + 2)), storing(a_record(2, created_at=NOW + 1)))
    commit(storage, storing(a_record(3, store="semantic")), storing(a_record(4, namespace=OTHER)))
    assert [episode.record_id for episode in read(storage)] == [an_id(2), an_id(1)]
    assert [episode.record_id for episode in read(storage, namespace=OTHER)] == [an_id(4)]


def test_more_than_are_read_at_once_are_all_there(storage: MemoryStorage) -> None:
    commit(storage, *(storing(a_record(i, created_at=NOW + i)) for i in range(READ_AT_ONCE + 2)))
    assert [episode.record_id for episode in read(storage)] == [an_id(i) for i in range(READ_AT_ONCE + 2)]


def test_an_episode_is_what_its_rows_say(storage: MemoryStorage) -> None:
    commit(storage, storing(a_record(1)))
    [fresh] = read(storage)
    assert fresh == Episode(an_id(1), NOW, NOW, 0, 1.0, None, False)
    with_state(storage, 1, last_accessed_at=NOW + 7, access_count=3)
    [recalled] = read(storage)
    assert (recalled.touched_at, recalled.access_count) == (NOW + 7, 3)
    commit(storage, updating(1, now=NOW + 9, metadata={"a": 1}))
    [edited] = read(storage)
    assert edited.touched_at == NOW + 9


def test_fidelity_is_that_of_now(storage: MemoryStorage) -> None:
    commit(storage, storing(a_record(1)))
    [faded] = read(storage, NOW + DAY)
    assert faded.fidelity == pytest.approx(2**-0.3)


def test_a_named_semantic_memory_is_its_copy(storage: MemoryStorage) -> None:
    commit(storage, storing(a_record(1)))
    row_key = key(DEFAULT_NAMESPACE, Table.CONTENT, an_id(1))
    row = parse_content_row(rows(storage)[row_key])
    marked = msgspec.structs.replace(row, metadata=with_semantic_ids(row.metadata, [an_id(2)]))
    storage.commit({row_key: dump_row(marked)})
    [episode] = read(storage)
    assert episode.has_copy


def test_only_memories_with_an_embedding_are_compared(storage: MemoryStorage) -> None:
    commit(storage, storing(a_record(1, "kettle", embedding=[1.0, 2.0])), storing(a_record(2, "Kettle ")))
    commit(
        storage,
        storing(a_record(3, " KETTLE", embedding=[0.5])),
        storing(a_record(4, store="semantic", embedding=[1])),
    )
    with storage.read() as reader:
        episodes = Episodes(reader, DEFAULT_NAMESPACE, STANDARD[Store.EPISODIC], NOW)
        one, none, other = sorted(episodes.read(), key=lambda episode: episode.record_id)
        vectors = episodes.embeddings([other.record_id, one.record_id])
    content = codec.parse(
        codec.dump({"blocks": [text_block("kettle") | {"data": list(b"kettle")}]}), MemoryContent
    )
    assert (one.likeness, none.likeness) == (likeness(content), None)
    assert other.likeness == one.likeness
    assert [vector.tolist() for vector in vectors] == [[0.5], [1.0, 2.0]]
    assert all(vector.dtype == np.float32 for vector in vectors)
    assert episodes.embedded_bytes == 4 * (2 + 1 + 1)
    assert set(episodes.stamps) == {an_id(1), an_id(2), an_id(3)}


@pytest.mark.parametrize(("bytes_max", "count"), [(1, 1), (10**9, 3)])
def test_contents_are_read_from_the_front_up_to_a_size(storage: MemoryStorage, bytes_max: int, count: int) -> None:
    commit(storage, storing(a_record(1, "one")), storing(a_record(3, "three")))
    with storage.read() as reader:
        found = contents_of(reader, DEFAULT_NAMESPACE, [an_id(1), an_id(2), an_id(3)], bytes_max)
    texts = [None if each is None else bytes(each.content.blocks[0].data).decode() for _id, each in found]
    assert all(each is None or codec.parse(each.raw, MemoryContent) == each.content for _id, each in found)
    assert texts == ["one", None, "three"][:count]
    assert [record_id for record_id, _content in found] == [an_id(1), an_id(2), an_id(3)][:count]
