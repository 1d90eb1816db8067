"""Memories that were read lately, as far as they seldom change: all but their states.

Whoever reads and whoever commits share what is kept, each on a thread of its own, and nobody reads what a commit
that was answered has replaced:

- A commit is noted here when it is durable, before anybody is told of it: whatever it wrote is dropped.
- Who reads takes the `mark` before its read transaction begins. What it then keeps is dropped again when a commit
  was noted since: it may be older than that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cerememory.protocol.values import RecordId
from cerememory.storage.contract import Reader
from cerememory.storage.keys import Address, Table, content_or_edges, key
from cerememory.storage.rows import Frame, frame, parse_content_row

OWN_BYTES = 1_024  # of a frame, beside its content row as it is parsed
ROW_BYTES_MAX = 16_384  # a longer one is read each time


class Frames:
    """Up to about `bytes_max` of them: then all are dropped, and those that are asked for come again."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._kept: dict[Address, Frame] = {}
        self.mark = 0  # how many commits were noted

    def read(self, reader: Reader, namespace: int, record_ids: Sequence[RecordId], mark: int) -> list[Frame]:
        """Those of `record_ids` that are stored, in their order; `mark` is from before `reader` began.

        Raises `StorageDamaged`.
        """
        kept = self._kept
        found = [kept.get((namespace, record_id)) for record_id in record_ids]
        if None in found:
            missing = [i for i, each in zip(record_ids, found, strict=True) if each is None]
            made = self._made(reader, namespace, missing, mark)
            found = [each or made.get(i) for i, each in zip(record_ids, found, strict=True)]
        return [each for each in found if each is not None]

    def _made(
        self, reader: Reader, namespace: int, record_ids: Sequence[RecordId], mark: int
    ) -> dict[RecordId, Frame]:
        content_table, edge_table = key(namespace, Table.CONTENT), key(namespace, Table.EDGES)
        contents = reader.get_many([content_table + record_id for record_id in record_ids])
        edges = reader.get_many([edge_table + record_id for record_id in record_ids])
        made: dict[RecordId, Frame] = {}
        for record_id, content, edge in zip(record_ids, contents, edges, strict=True):
            if content is not None:
                made[record_id] = frame(namespace, record_id, parse_content_row(content), edge)
                if len(content) <= ROW_BYTES_MAX:
                    self._keep((namespace, record_id), made[record_id], len(content), mark)
        return made

    def _keep(self, address: Address, made: Frame, size_bytes: int, mark: int) -> None:
        if self._bytes > self._bytes_max:
            self._kept.clear()
            self._bytes = 0
        self._bytes += size_bytes + OWN_BYTES
        self._kept[address] = made
        if self.mark != mark:  # asked once it is kept: from here on it is found by who notes a commit
            self._kept.pop(address, None)

    def note(self, row_keys: Iterable[bytes]) -> None:
        """A commit has written the rows under `row_keys`."""
        self.mark += 1
        for address in content_or_edges(row_keys):
            self._kept.pop(address, None)

    def note_any(self) -> None:
        """A commit has written whatever."""
        self.mark += 1
        self._kept.clear()
