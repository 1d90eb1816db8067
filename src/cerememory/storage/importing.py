"""An archive as it came in, checked whole: opened, verified, parsed, made into rows. Nothing is stored here.

Each step is a moment's work, so that whoever runs them can stop in between.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from cerememory.domain.archive_encryption import (
    PREFIX_BYTES,
    Authentication,
    derive_key,
    parse_container,
)
from cerememory.domain.cma import ArchivedRecord, ArchiveReader
from cerememory.domain.curve import Curve
from cerememory.errors import ImportConflict
from cerememory.protocol.records import MemoryRecord, Store
from cerememory.protocol.values import RecordId, format_id
from cerememory.storage.imported import PIECE_RECORDS, ImportSpool, imported_memory, imported_raw
from cerememory.storage.keys import ID_BYTES, NOWHERE
from cerememory.storage.prepared import NewRecord
from cerememory.storage.rows import STORE_CODE
from cerememory.storage.spool import Spool


@dataclass(slots=True)
class Checked:
    """What an archive holds beside what is in the spool: its kind, and the newest records of working memory."""

    has_raw: bool = False
    held: OrderedDict[RecordId, NewRecord] = field(default_factory=OrderedDict)

    def hold(self, record: NewRecord, held_max: int) -> None:
        self.held[record.record_id] = record
        self.held.move_to_end(record.record_id)
        if len(self.held) > held_max:
            self.held.popitem(last=False)


@dataclass(frozen=True, slots=True)
class Incoming:
    """An archive to be imported: where it lies, and what its records are made into rows by.

    They get their namespace when they are stored. `curves` of it, in the order of the stores' codes; at most
    `held_max` working records are kept.
    """

    archive: Spool
    passphrase: str | None
    curves: tuple[Curve, ...]
    now: int
    held_max: int


def check_incoming(incoming: Incoming, records: ImportSpool, checked: Checked) -> Iterator[None]:
    """Check the archive step by step, filling `records` and `checked`; both count when the steps are over.

    Raises `ImportConflict` with what is wrong with it.
    """
    reader, named = ArchiveReader((yield from _opened(incoming))), _Named()
    checked.has_raw = reader.header.has_raw
    for number, record in enumerate(reader.records()):
        named.add(record)
        if not isinstance(record, MemoryRecord):
            records.add(imported_raw(record, incoming.now))
        else:
            curve = incoming.curves[STORE_CODE[record.store]]
            memory = imported_memory(NOWHERE, record, curve, incoming.now)
            if record.store is Store.WORKING:
                checked.hold(memory, incoming.held_max)
            else:
                records.add(memory)
        if number % PIECE_RECORDS == 0:
            yield
    records.flush()
    named.check()


class _Named:
    """What the ids of an archive stand for, in 16 bytes each: whoever asks for one thing isn't to get another.

    That one comes twice is no matter: the conflict resolution decides.
    """

    def __init__(self) -> None:
        self._ids = {kind: bytearray() for kind in ("a memory", "a working memory", "an entry of the raw journal")}
        self._memories, self._held, self._entries = self._ids.values()

    def add(self, record: ArchivedRecord) -> None:
        if not isinstance(record, MemoryRecord):
            self._entries += record.id
        elif record.store is Store.WORKING:
            self._held += record.id
        else:
            self._memories += record.id

    def check(self) -> None:
        for (kind, ids), (other, others) in combinations(self._ids.items(), 2):
            if both := _in_both(ids, others):
                raise ImportConflict(f"{format_id(min(both))}: is the id of {kind} and of {other}")


def _in_both(ids: bytearray, others: bytearray) -> set[RecordId]:
    """Numbers that stand for them are compared first, a million in a fraction of a second.

    They aren't unique, but taken as if they were: then some are looked at that one side has twice.
    """
    common = np.intersect1d(_numbers(ids), _numbers(others), assume_unique=True)
    return _with_numbers(ids, common) & _with_numbers(others, common)


def _numbers(ids: bytearray) -> NDArray[np.uint64]:
    halves = np.frombuffer(ids, np.uint64).reshape(-1, 2)
    return halves[:, 0] ^ halves[:, 1]


def _with_numbers(ids: bytearray, numbers: NDArray[np.uint64]) -> set[RecordId]:
    found = np.flatnonzero(np.isin(_numbers(ids), numbers)) * ID_BYTES
    return {RecordId(bytes(ids[start : start + ID_BYTES])) for start in found.tolist()}


def _opened(incoming: Incoming) -> Generator[None, None, Iterator[bytes]]:
    """The archive's own bytes: all of an encrypted one is verified before the first is there."""
    archive = incoming.archive
    if incoming.passphrase is None:
        return archive.read()
    prefix = b"".join(archive.read(0, min(PREFIX_BYTES, archive.size_bytes)))
    container = parse_container(prefix, archive.size_bytes)
    start, stop = PREFIX_BYTES, PREFIX_BYTES + container.ciphertext_bytes
    authentication = Authentication(derive_key(incoming.passphrase, container.salt), container.nonce)
    for chunk in archive.read(start, stop):
        authentication.update(chunk)
        yield
    decryption = authentication.verify(b"".join(archive.read(stop)))
    return map(decryption.decrypt, archive.read(start, stop))
