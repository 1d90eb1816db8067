"""Vectors beside memories: exact cosine over all vectors of one space and length.

There are two spaces: what a client's embedding says of the content, and the eight axes of emotion. A vector
is compared with those of its own length only. Rows live in LMDB; a `VectorTable` keeps the ones of one length
normalised in memory, and is bounded by its owner.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cerememory.protocol.values import RecordId
from cerememory.storage.keys import (
    Table,
    after,
    key,
    pack_time,
    trailing_id,
    unpack_time,
)

FloatMatrix = NDArray[np.float32]
FloatVector = NDArray[np.float32]
Rows = NDArray[np.intp]
GROWTH = 1.5
ASKED_MAX = 1_024  # records of which `nearest_that` asks at once, but for ties
ASKED_FACTOR = 4
COSINE_DECIMALS = 6  # beyond them equal vectors differ by where they stand in the matrix


class Space(Enum):
    CONTENT = b"c"
    EMOTION = b"e"


@dataclass(frozen=True, slots=True)
class VectorChange:
    """`values` None takes the record's vector out of `space`, whatever its length."""

    namespace: int
    space: Space
    record_id: RecordId
    store_code: int
    created_at: int
    values: tuple[float, ...] | None


def vector_key(namespace: int, space: Space, dimensions: int, record_id: bytes) -> bytes:
    return key(namespace, Table.VECTORS, space.value, dimensions.to_bytes(4, "big"), record_id)


def vector_range(namespace: int, space: Space, dimensions: int) -> tuple[bytes, bytes]:
    """The first key of all vectors of this length, and the first behind them."""
    prefix = key(namespace, Table.VECTORS, space.value, dimensions.to_bytes(4, "big"))
    return prefix, after(prefix)


def dump_vector(change: VectorChange) -> bytes:
    """The value under `vector_key`: store code (1), created_at (8), float32[dimensions]."""
    vector = np.asarray(change.values, dtype="<f4").tobytes()
    return bytes([change.store_code]) + pack_time(change.created_at) + vector


def parse_vector(value: bytes) -> tuple[float, ...]:
    """The values that `dump_vector` stored."""
    return tuple(np.frombuffer(value[9:], dtype="<f4").tolist())


def normalised(values: FloatMatrix) -> FloatMatrix:
    """Rows of float32[n, d] at length 1; zero rows stay zero. Norms are taken in float64."""
    norms = np.linalg.norm(values.astype(np.float64), axis=-1, keepdims=True)
    unit: FloatMatrix = np.divide(values, norms, out=np.zeros_like(values), where=norms > 0)
    return unit


class Near(NamedTuple):
    """A record whose vector points the query's way; `cosine` is above 0."""

    record_id: RecordId
    store_code: int
    created_at: int
    cosine: float


class VectorTable:
    """The normalised vectors of one length: float32[n, dimensions], with their ids, store codes and times."""

    def __init__(self, dimensions: int) -> None:
        self.dimensions = dimensions
        self._matrix: FloatMatrix = np.zeros((0, dimensions), dtype=np.float32)
        self._codes = np.zeros(0, dtype=np.uint8)
        self._times = np.zeros(0, dtype=np.int64)
        self._ids: list[RecordId] = []
        self._rows: dict[RecordId, int] = {}

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def size_bytes(self) -> int:
        return self._matrix.nbytes

    def load(self, rows: list[tuple[bytes, bytes]]) -> None:
        """Add rows as they lie in storage (`vector_key`, `dump_vector`)."""
        if not rows:
            return
        start, stop = len(self._ids), len(self._ids) + len(rows)
        self._reserve(len(rows))
        vectors = np.frombuffer(b"".join(value[9:] for _key, value in rows), dtype="<f4")
        self._matrix[start:stop] = normalised(vectors.reshape(len(rows), self.dimensions))
        self._codes[start:stop] = [value[0] for _key, value in rows]
        self._times[start:stop] = [unpack_time(value[1:9]) for _key, value in rows]
        self._ids += [trailing_id(row_key) for row_key, _value in rows]
        self._rows.update(zip(self._ids[start:], range(start, stop), strict=True))

    def put(self, change: VectorChange) -> None:
        row = self._rows.get(change.record_id)
        if row is None:
            self._reserve(1)
            row = len(self._ids)
            self._ids.append(change.record_id)
            self._rows[change.record_id] = row
        self._matrix[row] = normalised(np.asarray([change.values], dtype=np.float32))[0]
        self._codes[row] = change.store_code
        self._times[row] = change.created_at

    def remove(self, record_id: RecordId) -> None:
        """The last row moves into the gap."""
        row = self._rows.pop(record_id, None)
        if row is None:
            return
        moved, last = self._ids.pop(), len(self._ids)
        if row != last:
            self._ids[row] = moved
            self._rows[moved] = row
            for column in (self._matrix, self._codes, self._times):
                column[row] = column[last]

    def nearest(
        self,
        query: tuple[float, ...],
        limit: int,
        store_codes: frozenset[int] | None,
        among: Collection[RecordId] | None = None,
    ) -> list[Near]:
        """The `limit` closest with a cosine above 0: the best first, then the newest, then by id.

        `store_codes`, `among`: only those of these stores, of these records; None for all.
        """
        count = len(self._ids)
        if not count or limit <= 0:
            return []
        cosines = self._cosines(query, store_codes)
        if among is not None:
            cosines = np.where(self._is_among(among), cosines, 0.0)
        last = max(0, count - limit)
        least = np.partition(cosines, last)[last]  # of those wanted; whatever ties with it is a candidate, too
        rows = np.flatnonzero((cosines >= least) & (cosines > 0))
        if len(rows) > limit:
            rows = self._without_old_ties(rows, cosines[rows] == least, limit)
        return sorted(self._near(rows, cosines), key=closeness)[:limit]

    def nearest_that(
        self,
        query: tuple[float, ...],
        limit: int,
        store_codes: frozenset[int] | None,
        passing: Callable[[list[RecordId]], Collection[RecordId]],
    ) -> list[Near]:
        """As `nearest`, of the records that pass: `passing` says which of a list do.

        It is asked of the best first, then of ever more behind them, until `limit` have passed.
        """
        cosines = self._cosines(query, store_codes)
        rows, found = self._in_order(cosines, np.flatnonzero(cosines > 0)), list[Near]()
        start, size = 0, limit
        while start < len(rows) and len(found) < limit:
            end = self._end_of_ties(cosines, rows, start + size)
            asked = self._near(rows[start:end], cosines)
            passed = passing([near.record_id for near in asked])
            found += [near for near in asked if near.record_id in passed]
            start, size = end, min(ASKED_FACTOR * size, ASKED_MAX)
        return sorted(found, key=closeness)[:limit]

    def _cosines(self, query: tuple[float, ...], store_codes: frozenset[int] | None) -> FloatVector:
        """float32[n]; 0 outside the stores."""
        count = len(self._ids)
        unit = normalised(np.asarray([query], dtype=np.float32))[0]
        cosines: FloatVector = np.round(self._matrix[:count] @ unit, COSINE_DECIMALS)
        if store_codes is None:
            return cosines
        return np.where(np.isin(self._codes[:count], list(store_codes)), cosines, np.float32(0.0))

    def _without_old_ties(self, rows: Rows, are_tied: NDArray[np.bool_], limit: int) -> Rows:
        """Of those that are tied only the newest that have room within `limit`: there may be very many."""
        times = self._times[rows[are_tied]]
        last = len(rows) - limit  # of the tied, in the order of their times, the first to have room
        kept: Rows = rows[~are_tied | (self._times[rows] >= np.partition(times, last)[last])]
        return kept

    def _in_order(self, cosines: FloatVector, rows: Rows) -> Rows:
        """Best first, then newest first; ids are compared of those alone that are come to."""
        return rows[np.lexsort((~self._times[rows], -cosines[rows]))]

    def _end_of_ties(self, cosines: FloatVector, rows: Rows, end: int) -> int:
        """How many of `rows` (in their order) there are up to `end`, with those that tie with the last."""
        if end >= len(rows):
            return len(rows)
        last, behind = rows[end - 1], rows[end:]
        differs = (cosines[behind] != cosines[last]) | (self._times[behind] != self._times[last])
        return end + int(np.argmax(differs)) if differs.any() else len(rows)

    def _near(self, rows: Rows, cosines: FloatVector) -> list[Near]:
        columns = (self._codes[rows].tolist(), self._times[rows].tolist(), cosines[rows].tolist())
        ids = (self._ids[i] for i in rows.tolist())
        return [Near(*each) for each in zip(ids, *columns, strict=True)]

    def _is_among(self, record_ids: Collection[RecordId]) -> NDArray[np.bool_]:
        """bool[n]: whether a row is that of one of `record_ids`."""
        rows = [row for record_id in record_ids if (row := self._rows.get(record_id)) is not None]
        chosen = np.zeros(len(self._ids), dtype=np.bool_)
        chosen[np.asarray(rows, dtype=np.intp)] = True
        return chosen

    def _reserve(self, more: int) -> None:
        needed = len(self._ids) + more
        if needed <= len(self._codes):
            return
        rows = max(needed, int(len(self._codes) * GROWTH))
        self._matrix = _grown(self._matrix, (rows, self.dimensions))
        self._codes = _grown(self._codes, (rows,))
        self._times = _grown(self._times, (rows,))


def closeness(near: Near) -> tuple[float, int, bytes]:
    """The order of results."""
    return -near.cosine, -near.created_at, near.record_id


def _grown(column: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    grown = np.zeros(shape, dtype=column.dtype)
    grown[: len(column)] = column
    return grown
