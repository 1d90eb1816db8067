"""The storage contract, encrypted: values are sealed on their way down, opened on their way up.

Nothing above knows of it. What is written below:

- A value that says what a memory is (`SEALED`) is `CMR2 | key id (8) | nonce (12) | ciphertext, tag`,
  ChaCha20-Poly1305 with its own key as associated data. The key has namespace, table, record id and, in the
  history, version; store and version of a current memory are inside the value. So a value that was moved to
  another id, store or version can't be opened.
- Digests of what a caller has named or said, in keys (sessions, namespaces, idempotency keys, contents), and the
  target of an edge, are one AES-256 block each, under a key of their own: as hard to guess as a keyed hash, and
  readable for whoever has the key, so that a scan gives back the keys that were put.
- All else is plain: ids, times, sizes, counts, store codes, and the numbers by which memories fade.

Nonces are random, 96 bits. Under one key 2^32 of them may be drawn before two alike get likely (2^-33); seals are
counted, and at half of that the store takes a new key by itself. Old ones stay until a rotation drops them.

A store that was plain when it got its passphrase is read as what it is, a mixture: what doesn't begin as a sealed
value under a known key is plain. Its digests stay plain until the migration is done with all of them at once. From
then on, as in a store that was encrypted from the start, a plain value is none of its own, and refused.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

from cerememory.errors import PassphraseRefused, StorageDamaged
from cerememory.storage.contract import Changes, Compaction, Reader, Storage, Transaction
from cerememory.storage.keyring import (
    KEY_ID_BYTES,
    NONCE_BYTES,
    SETTING,
    Keyring,
    Wrapping,
    new_keyring,
)
from cerememory.storage.keys import (
    DIGEST_BYTES,
    ID_BYTES,
    KEYS_END,
    NAMESPACE_BYTES,
    TIME_BYTES,
    Table,
    after,
    system_key,
)

R = TypeVar("R")

MAGIC = b"CMR2"
SEALS_MAX = 2**31  # under one key
SEALED = frozenset(
    {
        *(Table.CONTENT, Table.ARCHIVED, Table.HISTORY, Table.EDGES, Table.VECTORS, Table.RAW, Table.RAW_PENDING),
        *(Table.IDEMPOTENCY, Table.NAMESPACES, Table.LOG, Table.UNDO),
    }
)
NAMED = {  # where in a key of the table, behind its byte, the digest begins
    Table.GROUPS: 0,
    Table.RAW_BY_SESSION: 0,
    Table.EDGES_BY_TARGET: 0,
    Table.LIKENESS: 1,
    Table.IDEMPOTENCY: 0,
    Table.IDEMPOTENCY_BY_EXPIRY: TIME_BYTES,
    Table.NAMESPACES: 0,
}
KEYRING_KEY, SEALS_KEY = system_key(Table.KEYRING), system_key(Table.SEALS)

_TABLE = NAMESPACE_BYTES  # where its byte stands in a key
_BLOCK_BYTES = DIGEST_BYTES
assert ID_BYTES == DIGEST_BYTES == AES.block_size // 8
_NAME_STARTS = {table.value: _TABLE + 1 + start for table, start in NAMED.items()}
_SEALED_BYTES = frozenset(table.value for table in SEALED)
_NONCE_START = len(MAGIC) + KEY_ID_BYTES
_TEXT_START = _NONCE_START + NONCE_BYTES


class Names:
    """A keyed permutation of the digests in keys; `seal` and `open` undo each other. Any thread may ask."""

    def __init__(self, names_key: bytes) -> None:
        self._cipher = Cipher(AES(names_key), ECB())  # one block each, of which none comes twice
        self._local = threading.local()

    def seal(self, block: bytes) -> bytes:
        try:
            encryptor = self._local.encryptor
        except AttributeError:
            encryptor = self._local.encryptor = self._cipher.encryptor()
        return encryptor.update(block)  # type: ignore[no-any-return]

    def open(self, block: bytes) -> bytes:
        try:
            decryptor = self._local.decryptor
        except AttributeError:
            decryptor = self._local.decryptor = self._cipher.decryptor()
        return decryptor.update(block)  # type: ignore[no-any-return]


class Sealer:
    """A keyring at work: from the keys and values of those above to the stored ones, and back."""

    def __init__(self, keyring: Keyring) -> None:
        self._ciphers = {each.key_id: ChaCha20Poly1305(each.key) for each in keyring.data_keys}
        self._newest = keyring.newest.key_id
        self._head = MAGIC + self._newest
        self._names = Names(keyring.names_key) if keyring.are_names_sealed else None

    def stored_key(self, key: bytes) -> bytes:
        """What `key`, or the beginning of one, is below."""
        span = self._name_in(key)
        return key if span is None or self._names is None else _replaced(key, span, self._names.seal)

    def key_of(self, stored: bytes) -> bytes:
        span = self._name_in(stored)
        return stored if span is None or self._names is None else _replaced(stored, span, self._names.open)

    def _name_in(self, key: bytes) -> int | None:
        """Where its digest begins; None when it has none, or not the whole of it."""
        start = _NAME_STARTS.get(key[_TABLE : _TABLE + 1])
        return None if start is None or len(key) < start + _BLOCK_BYTES else start

    def stored_range(self, start: bytes, stop: bytes) -> tuple[bytes, bytes]:
        """A range that starts within a name ends with that name, or with all names of its table.

        Names are in another order below: a range from one name on has all that come behind it there.
        """
        span = self._name_in(start)
        if span is None or self._names is None:
            return start, stop
        first, end = self.stored_key(start), span + _BLOCK_BYTES
        for size in range(end, len(start) + 1):
            if stop == after(start[:size]):
                return first, after(first[:size])
        if stop[:end] == start[:end]:
            return first, self.stored_key(stop)
        if stop < after(start[: _TABLE + 1]):
            raise ValueError("a range from one name to another has no order")
        return first, stop

    def is_current(self, key: bytes, value: bytes) -> bool:
        """Whether the stored `value` is as it would be written now."""
        return not _is_sealable(key, value) or value.startswith(self._head)

    def is_sealed(self, value: bytes) -> bool:
        return value.startswith(MAGIC) and value[len(MAGIC) : _NONCE_START] in self._ciphers

    def seal(self, stored: bytes, value: bytes) -> bytes:
        nonce = secrets.token_bytes(NONCE_BYTES)
        return self._head + nonce + self._ciphers[self._newest].encrypt(nonce, value, stored)

    def open(self, stored: bytes, value: bytes) -> bytes:
        """Raises `StorageDamaged` for what wasn't sealed here under this key; a mixed store has plain values."""
        if not _is_sealable(stored, value):
            return value
        cipher = self._ciphers.get(value[len(MAGIC) : _NONCE_START]) if value.startswith(MAGIC) else None
        if cipher is None and self._names is None:
            return value
        if cipher is None:
            raise StorageDamaged(f"the value under {stored.hex()} isn't sealed by this store")
        try:
            return cipher.decrypt(value[_NONCE_START:_TEXT_START], value[_TEXT_START:], stored)
        except (InvalidTag, ValueError):  # the other, when not even the nonce is whole
            raise StorageDamaged(f"the value under {stored.hex()} was altered or moved") from None


def _replaced(key: bytes, start: int, change: Callable[[bytes], bytes]) -> bytes:
    stop = start + _BLOCK_BYTES
    return key[:start] + change(key[start:stop]) + key[stop:]


def _is_sealable(key: bytes, value: bytes) -> bool:
    """Whether the value under `key` is sealed, or is to be."""
    return bool(value) and key[_TABLE : _TABLE + 1] in _SEALED_BYTES


class _SealedReader:
    def __init__(self, reader: Reader, sealer: Sealer) -> None:
        self._reader = reader
        self._sealer = sealer

    def get(self, key: bytes) -> bytes | None:
        stored = self._sealer.stored_key(key)
        value = self._reader.get(stored)
        return None if value is None else self._sealer.open(stored, value)

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        sealer = self._sealer
        stored = [sealer.stored_key(key) for key in keys]
        values = self._reader.get_many(stored)
        return [
            None if value is None else sealer.open(row_key, value)
            for row_key, value in zip(stored, values, strict=True)
        ]

    def scan(self, start: bytes, stop: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        sealer = self._sealer
        first, last = sealer.stored_range(start, stop)
        for stored, value in self._reader.scan(first, last, reverse=reverse):
            yield sealer.key_of(stored), sealer.open(stored, value)


class _SealedTransaction(_SealedReader):
    def __init__(self, transaction: Transaction, storage: SealedStorage) -> None:
        super().__init__(transaction, storage.sealer)
        self._transaction = transaction
        self._storage = storage

    def write(self, changes: Changes) -> None:
        self._transaction.write(self._storage.sealed(changes))


class SealedStorage:
    """`Storage` over `storage`, whose values are under the keys of `keyring`, which is held by `wrapping`."""

    def __init__(self, storage: Storage, wrapping: Wrapping, keyring: Keyring, seals: int) -> None:
        self.below = storage
        self.wrapping = wrapping
        self.keyring = keyring
        self.sealer = Sealer(keyring)
        self._seals = seals

    @property
    def is_mixed(self) -> bool:
        """Whether it was plain, and no migration has come to its end."""
        return not self.keyring.are_names_sealed

    @contextmanager
    def read(self) -> Iterator[Reader]:
        with self.below.read() as reader:
            yield _SealedReader(reader, self.sealer)

    def commit(self, changes: Changes) -> None:
        self._renew_used_key()
        self.below.commit(self.sealed(changes))

    def transact(self, work: Callable[[Transaction], R]) -> R:
        self._renew_used_key()
        return self.below.transact(lambda transaction: work(_SealedTransaction(transaction, self)))

    def sealed(self, changes: Changes) -> dict[bytes, bytes | None]:
        """`changes` as they are written below, with the count of seals."""
        sealer, count = self.sealer, 0
        stored: dict[bytes, bytes | None] = {}
        for key, value in changes.items():
            row_key = sealer.stored_key(key)
            if value is not None and _is_sealable(row_key, value):
                value = sealer.seal(row_key, value)
                count += 1
            stored[row_key] = value
        return {**stored, **self.counted(count)} if count else stored

    def counted(self, seals: int) -> dict[bytes, bytes]:
        """The row to write with so many more seals; a write that fails may count them twice."""
        self._seals += seals
        return {SEALS_KEY: _dump_count(self._seals)}

    def renew_key(self) -> None:
        """Seal under a new key from now on."""
        keyring = self.keyring.with_new_key()
        self.below.commit({**self.holding(keyring), SEALS_KEY: _dump_count(0)})
        self._seals = 0
        self.use(keyring)

    def rewrap(self, wrapping: Wrapping) -> None:
        """Hold the keyring by another passphrase."""
        self.below.commit({KEYRING_KEY: wrapping.wrap(self.keyring)})
        self.wrapping = wrapping

    def _renew_used_key(self) -> None:
        if self._seals >= SEALS_MAX:
            self.renew_key()

    def holding(self, keyring: Keyring) -> dict[bytes, bytes]:
        """The row that holds `keyring`."""
        return {KEYRING_KEY: self.wrapping.wrap(keyring)}

    def use(self, keyring: Keyring) -> None:
        """From now on: what it seals can be opened again only when it is written down already."""
        self.keyring, self.sealer = keyring, Sealer(keyring)

    def readers_should_end(self) -> bool:
        return self.below.readers_should_end()

    def recover(self) -> None:
        self.below.recover()

    def compact(self) -> Compaction:
        return self.below.compact()

    def used_bytes(self) -> int:
        return self.below.used_bytes()

    def check_room(self) -> None:
        self.below.check_room()

    def oldest_reader_s(self) -> float:
        return self.below.oldest_reader_s()

    def row_sizes(self, start: bytes, count: int) -> list[tuple[bytes, int]]:
        """As they lie there, sealed."""
        return self.below.row_sizes(start, count)

    def close(self) -> None:
        self.below.close()


def opened(storage: Storage, passphrase: str | None) -> Storage:
    """`storage` as it is, when it isn't encrypted and shan't be; else encrypted, from now on if it wasn't.

    Raises `PassphraseRefused`, before anything was written.
    """
    with storage.read() as reader:
        row, seals = reader.get(KEYRING_KEY), reader.get(SEALS_KEY)
        is_empty = next(iter(reader.scan(b"", KEYS_END)), None) is None
    if passphrase is None and row is None:
        return storage
    if passphrase is None:
        raise PassphraseRefused(f"{SETTING}: the store is encrypted, and no passphrase is given")
    if row is not None:
        return SealedStorage(storage, *Wrapping.open(row, passphrase), _parse_count(seals))
    wrapping, keyring = Wrapping.new(passphrase), new_keyring(are_names_sealed=is_empty)
    storage.commit({KEYRING_KEY: wrapping.wrap(keyring), SEALS_KEY: _dump_count(0)})
    return SealedStorage(storage, wrapping, keyring, 0)


def opened_readonly(storage: Storage, passphrase: str | None) -> Storage:
    """As `opened`, but that a store that isn't encrypted is left so."""
    with storage.read() as reader:
        is_encrypted = reader.get(KEYRING_KEY) is not None
    return opened(storage, passphrase) if is_encrypted else storage


def _dump_count(count: int) -> bytes:
    return count.to_bytes(8, "big")


def _parse_count(value: bytes | None) -> int:
    return int.from_bytes(value or b"", "big")
