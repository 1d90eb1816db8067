"""Bringing a whole store under its keys: one that was plain, or one whose key is to go.

Values go in batches, each a transaction of its own: a run that is cut short leaves a mixture, which is read as
before, and the next run goes on. Names go all at once, with the keyring that says so, since a lookup must know
which of both it looks for. Whoever calls has the store for itself, and compacts it afterwards: what was replaced
stays in free pages until then.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from cerememory.failpoints import failpoint
from cerememory.protocol.records import DURABLE_STORES, STORES
from cerememory.storage.contract import Reader, Transaction
from cerememory.storage.keyring import KEY_BYTES, Keyring
from cerememory.storage.keys import KEYS_END, NAMESPACE_BYTES, Table
from cerememory.storage.rows import parse_content_row
from cerememory.storage.sealed import NAMED, SealedStorage, Sealer

BATCH_ROWS = 1_000
BATCH_BYTES = 4 << 20
COUNTED_ROWS = 100_000  # whose keys are in memory at once
SECTIONS = ("raw_journal", *(store.value for store in DURABLE_STORES), "vector_index")
_NAMED_BYTES = frozenset(table.value for table in NAMED)

Progress = Callable[[int], None]


@dataclass(slots=True)
class Total:
    """Records of a section: in all, brought under the newest key by this run, and there already."""

    total: int = 0
    migrated: int = 0

    @property
    def already_encrypted(self) -> int:
        return self.total - self.migrated


@dataclass(slots=True)
class Resealed:
    """By the section's name."""

    sections: dict[str, Total] = field(default_factory=lambda: {name: Total() for name in SECTIONS})

    def count(self, section: str | None, *, is_migrated: bool) -> None:
        if section is not None:
            self.sections[section].total += 1
            self.sections[section].migrated += is_migrated


def migrate(storage: SealedStorage, progress: Progress) -> Resealed:
    """Seal whatever isn't under the newest key. `progress` is told how many rows were looked at since."""
    resealed = _reseal(storage, progress)
    if storage.is_mixed:
        _rename(storage, storage.keyring.names_key)
    return resealed


def rotate(storage: SealedStorage, progress: Progress) -> Resealed:
    """Bring all under new keys, and drop the old ones. Cut short, it leaves several, and all readable."""
    storage.renew_key()
    resealed = _reseal(storage, progress)
    _rename(storage, secrets.token_bytes(KEY_BYTES))
    keyring = storage.keyring.with_newest_alone()
    storage.below.commit(storage.holding(keyring))
    storage.use(keyring)
    return resealed


def row_count(storage: SealedStorage) -> int:
    """About how many rows `progress` will be told of. No value is read for it."""
    count, position = 0, b""
    while sizes := storage.below.row_sizes(position, COUNTED_ROWS):
        count += len(sizes)
        position = sizes[-1][0] + b"\0"
    return count


def _reseal(storage: SealedStorage, progress: Progress) -> Resealed:
    resealed, position = Resealed(), b""
    while True:
        with storage.below.read() as reader:
            batch = list(_batch(reader, position))
        if not batch:
            return resealed
        changes = dict(_resealed(storage.sealer, batch, resealed))
        if changes:
            storage.below.commit({**changes, **storage.counted(len(changes))})
            failpoint("resealing.batch")
        position = batch[-1][0] + b"\0"
        progress(len(batch))


def _batch(reader: Reader, position: bytes) -> Iterator[tuple[bytes, bytes]]:
    size = 0
    for stored, value in islice(reader.scan(position, KEYS_END), BATCH_ROWS):
        yield stored, value
        size += len(value)
        if size >= BATCH_BYTES:
            return


def _resealed(
    sealer: Sealer, batch: list[tuple[bytes, bytes]], resealed: Resealed
) -> Iterator[tuple[bytes, bytes]]:
    for stored, value in batch:
        is_current = sealer.is_current(stored, value)
        plain = sealer.open(stored, value)
        resealed.count(_section(stored, plain), is_migrated=not is_current)
        if not is_current:
            yield stored, sealer.seal(stored, plain)


def _section(stored: bytes, plain: bytes) -> str | None:
    match stored[NAMESPACE_BYTES : NAMESPACE_BYTES + 1]:
        case Table.RAW.value:
            return "raw_journal"
        case Table.CONTENT.value:
            return STORES[parse_content_row(plain).store_code].value
        case Table.VECTORS.value:
            return "vector_index"
    return None


def _rename(storage: SealedStorage, names_key: bytes) -> None:
    """Put every row whose key has a name under the key that the name has with `names_key`."""
    before, keyring = storage.sealer, storage.keyring.with_sealed_names(names_key)
    storage.below.transact(lambda transaction: _put_anew(transaction, storage, before, keyring))
    storage.use(keyring)
    failpoint("resealing.names")


def _put_anew(transaction: Transaction, storage: SealedStorage, before: Sealer, keyring: Keyring) -> None:
    sealer, count = Sealer(keyring), 0
    keys = [stored for stored, _value in transaction.scan(b"", KEYS_END) if _has_name(stored)]
    for start in range(0, len(keys), BATCH_ROWS):
        changes: dict[bytes, bytes | None] = {}
        for stored in keys[start : start + BATCH_ROWS]:
            value = transaction.get(stored)
            anew = sealer.stored_key(before.key_of(stored))
            if anew != stored and value is not None:
                changes[stored] = None
                changes[anew], seals = _moved(before, sealer, stored, anew, value)
                count += seals
        transaction.write(changes)
    transaction.write({**storage.holding(keyring), **storage.counted(count)})


def _has_name(stored: bytes) -> bool:
    return stored[NAMESPACE_BYTES : NAMESPACE_BYTES + 1] in _NAMED_BYTES


def _moved(before: Sealer, sealer: Sealer, stored: bytes, anew: bytes, value: bytes) -> tuple[bytes, int]:
    """The value under its new key, and how many seals that took: it is bound to its key."""
    if not before.is_sealed(value):
        return value, 0
    return sealer.seal(anew, before.open(stored, value)), 1
