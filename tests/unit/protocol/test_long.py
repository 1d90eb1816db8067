"""An answer written in pieces is the one written at once; bytes as base64 are found in its text."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerememory.protocol import codec, long
from cerememory.protocol.long import Long, listed
from cerememory.protocol.records import ContentBlock, MemoryContent, Modality, Store
from cerememory.protocol.replies import Bucket, QueryMetadata, Recalled, RecalledMemory, Timeline
from cerememory.protocol.values import ByteArray, Timestamp

LOOKALIKES = (
    '{"modality":"text","format":"text/plain","data":[1,2]}',
    '"modality":"text","format":"text/plain","data":[1,2]',
    '{"archive_data":[1],"metadata":{"archive_data":[2]}}',
    '\\",\\"metadata\\":{',
    "}]}",
)
texts = st.one_of(st.text(max_size=20), st.sampled_from(LOOKALIKES))
names = st.one_of(texts, st.sampled_from(["metadata", "data", "archive_data", "modality", "format", 'x"metadata']))
metadata = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(0, 255), texts),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(st.integers(0, 255), max_size=4).map(
            lambda data: {"modality": "text", "format": "x", "data": data}
        ),
        st.dictionaries(names, inner, max_size=4),
    ),
    max_leaves=12,
)
blocks = st.builds(
    ContentBlock,
    modality=st.sampled_from(Modality),
    format=texts,
    data=st.binary(max_size=40).map(ByteArray),
    embedding=st.one_of(st.none(), st.just((0.5, -1.0))),
)
contents = st.builds(MemoryContent, blocks=st.lists(blocks, max_size=3).map(tuple), summary=st.none() | texts)


@st.composite
def memories(draw: st.DrawFn) -> RecalledMemory:
    content = draw(contents)
    record = {
        "id": "x",
        "content": content,
        "emotion": None,
        "metadata": draw(metadata),
        "meta": {"why": draw(texts)},
    }
    rendered = draw(st.one_of(st.just(content), contents))
    shown: tuple[msgspec.Raw, MemoryContent] = msgspec.Raw(codec.dump(rendered)), rendered
    return RecalledMemory(
        record=msgspec.Raw(codec.dump(record)),
        relevance_score=draw(st.floats(0, 1)),
        activation_path=None,
        rendered_content=shown[draw(st.integers(0, 1))],
    )


def recalled(found: tuple[RecalledMemory, ...], truncated: bool | msgspec.UnsetType = msgspec.UNSET) -> Recalled:
    searched = QueryMetadata(total_records_scanned=1, stores_searched=(Store.EPISODIC,), fidelity_filtered=0)
    return Recalled(
        memories=found, activation_trace=None, total_candidates=1, query_metadata=searched, truncated=truncated
    )


def timeline(*buckets: tuple[RecalledMemory, ...], is_long: bool) -> Timeline:
    made = (
        Bucket(start=Timestamp(0), end=Timestamp(1), memories=listed(found, is_long=is_long), count=len(found))
        for found in buckets
    )
    return Timeline(buckets=listed(made, is_long=is_long))


def base64_below(value: Any) -> Any:
    """What the text is to say, found out from its values."""
    if isinstance(value, list):
        return [base64_below(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {name: _base64_member(name, item, value) for name, item in value.items()}


def _base64_member(name: str, item: Any, owner: dict[str, Any]) -> Any:
    if name == "metadata":
        return item
    if isinstance(item, list) and ((name == "data" and "modality" in owner) or name == "archive_data"):
        return base64.b64encode(bytes(item)).decode()
    return base64_below(item)


@given(st.lists(memories(), max_size=3).map(tuple), st.sampled_from([msgspec.UNSET, True]))
def test_a_long_answer_is_written_as_a_short_one(
    found: tuple[RecalledMemory, ...], truncated: bool | msgspec.UnsetType
) -> None:
    short, in_pieces = recalled(found, truncated), recalled(Long(found), truncated)
    assert (long.is_long(short), long.is_long(in_pieces)) == (False, True)
    assert long.dump(in_pieces) == long.dump(short) == codec.dump(short)
    assert long.dump_with_base64(in_pieces) == long.dump_with_base64(short) == codec.with_base64(codec.dump(short))


@given(st.lists(st.lists(memories(), max_size=2).map(tuple), max_size=3))
def test_so_is_one_whose_long_lists_are_in_another(buckets: list[tuple[RecalledMemory, ...]]) -> None:
    short = codec.dump(timeline(*buckets, is_long=False))
    assert long.dump(timeline(*buckets, is_long=True)) == short
    assert long.dump_with_base64(timeline(*buckets, is_long=True)) == codec.with_base64(short)


@given(st.lists(memories(), max_size=3).map(tuple))
def test_bytes_are_base64_wherever_they_are_bytes_and_nowhere_else(found: tuple[RecalledMemory, ...]) -> None:
    dumped = codec.dump(recalled(found))
    assert json.loads(codec.with_base64(dumped)) == base64_below(json.loads(dumped))


@pytest.mark.parametrize("piece_bytes", [1, 2, 3, 7, 100])
def test_a_long_array_is_read_in_pieces(monkeypatch: pytest.MonkeyPatch, piece_bytes: int) -> None:
    monkeypatch.setattr(codec, "PIECE_BYTES", piece_bytes)
    data = bytes(range(256))
    dumped = codec.dump(ContentBlock(modality=Modality.IMAGE, format="png", data=ByteArray(data)))
    assert base64.b64decode(json.loads(codec.with_base64(dumped))["data"]) == data


@pytest.mark.parametrize("reply", [None, msgspec.Raw(b"{}"), Long((1,))])
def test_what_is_no_reply_with_lists_is_written_at_once(reply: object) -> None:
    assert not long.is_long(reply)
    assert long.dump(reply) == codec.dump(reply)
