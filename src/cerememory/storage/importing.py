"""An archive as it came in, checked whole: opened, verified, parsed, made into rows. Nothing is stored here.

Each step is a moment's work, so that whoever runs them can stop in between.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field

from cerememory.domain.archive_encryption import (
    PREFIX_BYTES,
    Authentication,
    derive_key,
    parse_container,
)
from cerememory.domain.cma import ArchiveReader
from cerememory.domain.curve import Curve
from cerememory.protocol.records import MemoryRecord, Store
from cerememory.protocol.values import RecordId
from cerememory.storage.imported import PIECE_RECORDS, ImportSpool, imported_memory, imported_raw
from cerememory.storage.keys import NOWHERE
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
    reader = ArchiveReader((yield from _opened(incoming)))
    checked.has_raw = reader.header.has_raw
    for number, record in enumerate(reader.records()):
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
