"""Archives for tests: those of the reference, and any that valid records make.

The generated records have what an archive may carry: all of their fields set, valid content, any text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
from hypothesis import strategies as st

from cerememory.domain.cma import ArchiveWriter, Version
from cerememory.protocol import codec
from cerememory.protocol.records import (
    STORES,
    Association,
    AssociationType,
    CaptureStatus,
    ContentBlock,
    EmotionVector,
    FidelityState,
    MemoryContent,
    MemoryRecord,
    MetaMemory,
    Modality,
    RawJournalRecord,
    RawSource,
    SecrecyLevel,
    Speaker,
    Visibility,
)
from cerememory.protocol.values import TIMESTAMP_MAX, TIMESTAMP_MIN, ByteArray, RecordId, Timestamp

FOLDER = Path(__file__).parents[1] / "fixtures" / "reference"
CURATED = (FOLDER / "curated-v1.cma").read_bytes()  # 6 curated records
BUNDLE = (FOLDER / "bundle-v2.cma").read_bytes()  # the same and 2 raw ones
ENCRYPTED = (FOLDER / "bundle-v2-encrypted.cma").read_bytes()
PASSPHRASE = "correct horse"

UINT32_MAX = 2**32 - 1

ids = st.binary(min_size=16, max_size=16).map(RecordId)
times = st.integers(TIMESTAMP_MIN, TIMESTAMP_MAX).map(Timestamp)
units = st.floats(0.0, 1.0)
positive = st.floats(1e-6, 1e6)
uint32s = st.integers(0, UINT32_MAX)
texts = st.text(st.characters(codec="utf-8"), max_size=12)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)
blocks = st.builds(
    ContentBlock,
    modality=st.just(Modality.TEXT),
    format=st.just("text/plain"),
    data=texts.map(lambda text: ByteArray(text.encode())),
    embedding=st.none() | st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=3).map(tuple),
)
contents = st.builds(
    MemoryContent, blocks=st.lists(blocks, min_size=1, max_size=2).map(tuple), summary=st.none() | texts
)
metadata = json_values.map(lambda value: msgspec.Raw(msgspec.json.encode(value)))
metas = st.builds(
    MetaMemory,
    capture_status=st.sampled_from(CaptureStatus),
    intent=st.none() | texts,
    trigger=texts,
    source_record_ids=st.lists(ids, max_size=2).map(tuple),
    tags=st.lists(texts, max_size=2).map(tuple),
    captured_at=times,
)
associations = st.builds(
    Association,
    target_id=ids,
    association_type=st.sampled_from(AssociationType),
    weight=units,
    created_at=times,
    last_co_activation=times,
)
memory_records = st.builds(
    MemoryRecord,
    id=ids,
    store=st.sampled_from(STORES[:4]),
    created_at=times,
    updated_at=times,
    last_accessed_at=times,
    access_count=uint32s,
    content=contents,
    fidelity=st.builds(
        FidelityState,
        score=units,
        noise_level=units,
        decay_rate=positive,
        emotional_anchor=positive,
        reinforcement_count=uint32s,
        stability=positive,
        last_decay_tick=times,
    ),
    emotion=st.builds(EmotionVector, joy=units, intensity=units, valence=st.floats(-1.0, 1.0)),
    associations=st.lists(associations, max_size=2, unique_by=lambda edge: edge.target_id).map(tuple),
    metadata=metadata,
    version=st.integers(1, UINT32_MAX),
    meta=metas,
)
raw_records = st.builds(
    RawJournalRecord,
    id=ids,
    session_id=texts.filter(lambda text: bool(text.strip())),
    turn_id=st.none() | texts,
    topic_id=st.none() | texts,
    source=st.sampled_from(RawSource),
    speaker=st.sampled_from(Speaker),
    visibility=st.sampled_from(Visibility),
    secrecy_level=st.sampled_from(SecrecyLevel),
    created_at=times,
    updated_at=times,
    content=contents,
    metadata=metadata,
    derived_memory_ids=st.lists(ids, max_size=2).map(tuple),
    suppressed=st.booleans(),
    meta=metas,
)


def archive_of(
    version: Version,
    curated: Iterable[MemoryRecord] = (),
    raw: Iterable[RawJournalRecord] = (),
    at: int = 0,
) -> bytes:
    """The archive with these records, in this order."""
    writer = ArchiveWriter(version)
    lines = [writer.curated(codec.dump(record)) for record in curated]
    lines += [writer.raw(codec.dump(record)) for record in raw]
    return b"".join((writer.header(Timestamp(at)), *lines, writer.footer()))


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    """`data` in pieces of `size` bytes."""
    return (data[i : i + size] for i in range(0, len(data), size))
