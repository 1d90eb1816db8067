"""Memories that were read lately, as far as they seldom change: all but their states.

Whoever reads and whoever commits share what is kept, each on a thread of its own, and what is read is of one
snapshot, as if nothing was kept:

- From before a commit until it is durable, nothing is kept of the memories that it writes.
- Who reads takes the `mark` before its read transaction begins. What it then keeps is dropped again when a commit
  has ended since: it may be older than that.
"""

from __future__ import annotations

import sys
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import contextmanager

from cerememory.protocol.values import RecordId
from cerememory.storage.contract import Reader
from cerememory.storage.keys import UNCHANGING_TABLES, Address, Table, addresses_in, key
from cerememory.storage.rows import Frame, frame, parse_content_row

OWN_BYTES = 1_024  # of a frame, beside what it is made of
FRAME_BYTES_MAX = 16_384  # a longer one is read each time
NOTHING: frozenset[Address] = frozenset()


class _Everything(Container[Address]):
    def __contains__(self, address: object) -> bool:
        return True


class Frames:
    """Up to about `bytes_max` of them: then all are dropped, and those that are asked for come again."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._kept: dict[Address, Frame] = {}
        self._under_way: Container[Address] = NOTHING  # what a commit writes that hasn't ended
        self.mark = 0  # how many commits have ended

    def read(
        self,
        reader: Reader,
        namespace: int,
        record_ids: Sequence[RecordId],
        mark: int,
        room_bytes: int = sys.maxsize,
    ) -> list[Frame]:
        """Those of `record_ids` that are stored, in their order; `mark` is from before `reader` began.

        Of those that aren't kept, as many as have room, and the one with which it ends: they take at least as
        much of an answer (`shown_bytes`). Raises `StorageDamaged`.
        """
        kept = self._kept
        found = [kept.get((namespace, record_id)) for record_id in record_ids]
        if None in found:
            missing = [i for i, each in zip(record_ids, found, strict=True) if each is None]
            made = self._made(reader, namespace, missing, mark, room_bytes)
            found = [each or made.get(i) for i, each in zip(record_ids, found, strict=True)]
        return [each for each in found if each is not None]

    def _made(
        self, reader: Reader, namespace: int, record_ids: Sequence[RecordId], mark: int, room_bytes: int
    ) -> dict[RecordId, Frame]:
        content_table, edge_table = key(namespace, Table.CONTENT), key(namespace, Table.EDGES)
        contents: list[bytes | None] = []
        for record_id in record_ids:  # one by one: any of them may be large
            if room_bytes <= 0:
                break
            contents.append(content := reader.get(content_table + record_id))
            room_bytes -= len(content or b"")
        edges = reader.get_many([edge_table + record_id for record_id in record_ids[: len(contents)]])
        made: dict[RecordId, Frame] = {}
        for record_id, content, edge in zip(record_ids, contents, edges, strict=False):
            if content is not None:
                around = made[record_id] = frame(namespace, record_id, parse_content_row(content), edge)
                size_bytes = len(content) + len(edge or b"") + len(around.head) + len(around.tail)
                if size_bytes <= FRAME_BYTES_MAX:
                    self._keep((namespace, record_id), around, size_bytes, mark)
        return made

    def _keep(self, address: Address, made: Frame, size_bytes: int, mark: int) -> None:
        if self._bytes > self._bytes_max:
            self._kept.clear()
            self._bytes = 0
        self._bytes += size_bytes + OWN_BYTES
        self._kept[address] = made
        if self.mark != mark or address in self._under_way:  # asked once it is kept, where a commit finds it
            self._kept.pop(address, None)

    @contextmanager
    def writing(self, row_keys: Iterable[bytes] | None) -> Iterator[None]:
        """A block that commits what is under `row_keys`; None: whatever. One at a time."""
        written = None if row_keys is None else frozenset(addresses_in(UNCHANGING_TABLES, row_keys))
        self._under_way = _Everything() if written is None else written
        self._drop(written)
        try:
            yield
        finally:
            self.mark += 1
            self._drop(written)
            self._under_way = NOTHING

    def _drop(self, addresses: Iterable[Address] | None) -> None:
        if addresses is None:
            self._kept.clear()
            return
        for address in addresses:
            self._kept.pop(address, None)
