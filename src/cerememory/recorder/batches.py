"""A batch of raw journal records on its way to the daemon: the same request however often it is sent.

Every entry has a key of its own, and the key of a batch is made of its entries', so a batch that comes back from
the spool is the one that may have been stored already: the daemon answers it with its first result.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import NamedTuple

import msgspec

from cerememory.protocol import codec

_KEY_BYTES = 16


class Entry(msgspec.Struct, frozen=True):
    """`record` is the JSON of one record; as JSON the entry is a line of the spool."""

    key: str
    record: msgspec.Raw


def new_entry(record: bytes, identity: bytes | None) -> Entry:
    """With a key by chance, or, with an `identity`, one that the same record gets again."""
    if identity is None:
        return Entry(secrets.token_hex(_KEY_BYTES), msgspec.Raw(record))
    return Entry(hashlib.blake2b(record, digest_size=_KEY_BYTES, key=identity).hexdigest(), msgspec.Raw(record))


class Batch(NamedTuple):
    entries: tuple[Entry, ...]

    @property
    def key(self) -> str:
        joined = "\n".join(entry.key for entry in self.entries)
        return hashlib.blake2b(joined.encode(), digest_size=_KEY_BYTES).hexdigest()

    @property
    def body(self) -> dict[str, list[msgspec.Raw]]:
        """The request of an `encode.batch_raw`."""
        return {"records": [entry.record for entry in self.entries]}

    def dump(self) -> bytes:
        """JSON Lines."""
        return b"".join(codec.dump(entry) + b"\n" for entry in self.entries)


def parse_batch(data: bytes) -> Batch:
    """What `Batch.dump` wrote. `ValidationFailed` for anything else."""
    lines = data.splitlines()
    return Batch(tuple(codec.parse(line, Entry, f"line {number}") for number, line in enumerate(lines, 1)))
