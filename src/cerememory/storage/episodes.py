"""What consolidation gets to know of the episodic memories of a namespace: read once, in one snapshot.

Contents are read to be compared, one after the other; of embeddings only the length is kept, and they are read
again for those that are compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice

import numpy as np

from cerememory.domain.consolidation import Embedding, Episode, likeness
from cerememory.domain.curve import Curve
from cerememory.domain.derivation import semantic_ids_of
from cerememory.domain.fidelity import State
from cerememory.errors import StorageDamaged
from cerememory.protocol import codec
from cerememory.protocol.records import MemoryContent, Store
from cerememory.protocol.values import RecordId
from cerememory.storage.contract import Reader
from cerememory.storage.keys import ID_BYTES, Table, after, key, trailing_id
from cerememory.storage.rows import STORE_CODE, ContentRow, parse_content_row, parse_state_row
from cerememory.storage.vectors import Space, vector_key

EPISODIC_CODE = STORE_CODE[Store.EPISODIC]
READ_AT_ONCE = 256
FLOAT_BYTES = 4
VECTOR_HEAD_BYTES = 9  # store code and time stand in front of a vector
STAMP_BYTES = 16


class Episodes:
    """The episodic memories of `namespace` as `reader` sees them; `curve` tells their fidelity at `now`.

    `stamps` has those of the memories that were read.
    """

    def __init__(self, reader: Reader, namespace: int, curve: Curve, now: int) -> None:
        self._reader = reader
        self._namespace = namespace
        self._curve = curve
        self._now = now
        self._dimensions = dict(self._embedded())
        self.stamps: dict[RecordId, bytes] = {}

    def _embedded(self) -> Iterator[tuple[RecordId, int]]:
        """The memories with an embedding, and the length of it."""
        prefix = key(self._namespace, Table.VECTORS, Space.CONTENT.value)
        for row_key, _value in self._reader.scan(prefix, after(prefix)):
            packed = row_key[len(prefix) : -ID_BYTES]
            yield trailing_id(row_key), int.from_bytes(packed, "big")

    def read(self) -> list[Episode]:
        """In the order in which they were made."""
        states = self._states()
        episodes: list[Episode] = []
        while chunk := list(islice(states, READ_AT_ONCE)):
            keys = [key(self._namespace, Table.CONTENT, record_id) for record_id, _state in chunk]
            for (record_id, state), value in zip(chunk, self._reader.get_many(keys), strict=True):
                if value is None:
                    raise StorageDamaged("a state without a content")
                episodes.append(self._episode(record_id, parse_content_row(value), state))
        return episodes

    def _states(self) -> Iterator[tuple[RecordId, State]]:
        prefix = key(self._namespace, Table.STATE)
        for row_key, value in self._reader.scan(prefix, after(prefix)):
            if value[0] == EPISODIC_CODE:
                yield trailing_id(row_key), parse_state_row(value)[1]

    def _episode(self, record_id: RecordId, row: ContentRow, state: State) -> Episode:
        self.stamps[record_id] = episode_stamp(row)
        is_comparable = record_id in self._dimensions
        return Episode(
            record_id=record_id,
            created_at=row.created_at,
            touched_at=max(row.updated_at, state.last_accessed_at),
            access_count=state.access_count,
            fidelity=self._curve.current(state, self._now).score,
            likeness=likeness(codec.parse(row.content, MemoryContent)) if is_comparable else None,
            has_copy=bool(semantic_ids_of(row.metadata)),
        )

    @property
    def embedded_bytes(self) -> int:
        """The size of all embeddings together."""
        return FLOAT_BYTES * sum(self._dimensions.values())

    def embeddings(self, record_ids: Sequence[RecordId]) -> list[Embedding]:
        keys = [vector_key(self._namespace, Space.CONTENT, self._dimensions[i], i) for i in record_ids]
        return [_vector(value) for value in self._reader.get_many(keys)]


def episode_stamp(row: ContentRow) -> bytes:
    """Stands for what an episodic memory is: another one later means that it isn't what was looked at.

    Its version alone doesn't say so: an import may put another memory there that has the same, and a redaction
    leaves it. When it was updated doesn't count, nor does the metadata: a run writes these itself, of edges and
    copies.
    """
    stamp = blake2b(b"%d %d %d" % (row.store_code, row.version, row.created_at), digest_size=STAMP_BYTES)
    for part in (row.content, row.emotion, row.meta):
        stamp.update(len(part).to_bytes(8, "big"))
        stamp.update(part)
    return stamp.digest()


def _vector(value: bytes | None) -> Embedding:
    if value is None:
        raise StorageDamaged("a vector that was there isn't")
    return np.frombuffer(value, dtype="<f4", offset=VECTOR_HEAD_BYTES)


@dataclass(frozen=True, slots=True)
class ReadContent:
    """A content and the JSON that it was read from."""

    raw: bytes
    content: MemoryContent


def contents_of(
    reader: Reader, namespace: int, record_ids: Sequence[RecordId], bytes_max: int
) -> list[tuple[RecordId, ReadContent | None]]:
    """The contents of the first of `record_ids`, at least one, up to about `bytes_max` of JSON; None: gone."""
    found: list[tuple[RecordId, ReadContent | None]] = []
    for record_id in record_ids:
        value = reader.get(key(namespace, Table.CONTENT, record_id))
        found.append((record_id, None if value is None else _read_content(parse_content_row(value).content)))
        bytes_max -= 0 if value is None else len(value)
        if bytes_max <= 0:
            break
    return found


def _read_content(raw: bytes) -> ReadContent:
    return ReadContent(raw, codec.parse(raw, MemoryContent))
