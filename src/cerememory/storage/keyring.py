"""The keys of an encrypted store, and how a passphrase holds them.

    passphrase ── Argon2id, salt ──> wrapping key ── ChaCha20-Poly1305 ──> keyring
    keyring: data keys (values are sealed under the newest), and the key of the names

The keyring is random, made once for a data dir, and lies wrapped in one row of the store. So another passphrase
only wraps it anew; no value is touched. A wrong passphrase fails at the tag of the wrap, before anything is read.

Argon2id has the parameters of the reference (64 MiB, 3 passes, 1 lane), and takes about a third of a second.
"""

from __future__ import annotations

import secrets

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from cerememory.errors import PassphraseRefused, StorageDamaged

KEY_BYTES = 32
KEY_ID_BYTES = 8
NONCE_BYTES = 12
SALT_BYTES = 16
MEMORY_KIB, ITERATIONS, LANES = 65_536, 3, 1
MEMORY_KIB_MAX, ITERATIONS_MAX, LANES_MAX = 1 << 20, 64, 16  # what a row may ask of this machine
VERSION = 1
SETTING = "security.store_encryption_passphrase"


class DataKey(msgspec.Struct, frozen=True, array_like=True):
    """`key_id` stands in front of every value that is sealed under `key`; both are random."""

    key_id: bytes
    key: bytes


class Keyring(msgspec.Struct, frozen=True, array_like=True):
    """`are_names_sealed`: the digests in keys are under `names_key`, too; not yet in a store that was plain."""

    data_keys: tuple[DataKey, ...]
    names_key: bytes
    are_names_sealed: bool

    @property
    def newest(self) -> DataKey:
        return self.data_keys[-1]

    def with_new_key(self) -> Keyring:
        """What is sealed from now on is under another key; what was sealed stays readable."""
        return Keyring((*self.data_keys, _new_data_key()), self.names_key, self.are_names_sealed)

    def with_sealed_names(self, names_key: bytes) -> Keyring:
        return Keyring(self.data_keys, names_key, are_names_sealed=True)

    def with_newest_alone(self) -> Keyring:
        return Keyring((self.newest,), self.names_key, self.are_names_sealed)


class Salt(msgspec.Struct, frozen=True, array_like=True):
    """What Argon2id makes a key with, beside the passphrase."""

    salt: bytes
    memory_kib: int = MEMORY_KIB
    iterations: int = ITERATIONS
    lanes: int = LANES


class _Wrapped(msgspec.Struct, frozen=True, array_like=True):
    version: int
    salt: Salt
    nonce: bytes
    sealed: bytes


_encoder = msgspec.msgpack.Encoder()
_keyrings = msgspec.msgpack.Decoder(Keyring)
_wrapped = msgspec.msgpack.Decoder(_Wrapped)


class Wrapping:
    """What a passphrase and a salt make: the key that holds a keyring. Making one takes 64 MiB and .3 s."""

    def __init__(self, passphrase: str, salt: Salt) -> None:
        self._salt = salt
        argon2id = Argon2id(
            salt=salt.salt,
            length=KEY_BYTES,
            iterations=salt.iterations,
            lanes=salt.lanes,
            memory_cost=salt.memory_kib,
        )
        self._cipher = ChaCha20Poly1305(argon2id.derive(passphrase.strip().encode()))

    @classmethod
    def new(cls, passphrase: str) -> Wrapping:
        return cls(passphrase, Salt(secrets.token_bytes(SALT_BYTES)))

    def wrap(self, keyring: Keyring) -> bytes:
        """The row that holds `keyring`."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        sealed = self._cipher.encrypt(nonce, _encoder.encode(keyring), _associated(self._salt))
        return _encoder.encode(_Wrapped(VERSION, self._salt, nonce, sealed))

    @classmethod
    def open(cls, row: bytes, passphrase: str) -> tuple[Wrapping, Keyring]:
        """What `wrap` made; `PassphraseRefused` when another passphrase did."""
        wrapped = _parse(row)
        wrapping = cls(passphrase, wrapped.salt)
        try:
            plain = wrapping._cipher.decrypt(wrapped.nonce, wrapped.sealed, _associated(wrapped.salt))
        except InvalidTag:
            raise PassphraseRefused(f"{SETTING}: this isn't the passphrase of the store") from None
        return wrapping, _keyrings.decode(plain)


def new_keyring(*, are_names_sealed: bool) -> Keyring:
    return Keyring((_new_data_key(),), secrets.token_bytes(KEY_BYTES), are_names_sealed)


def _new_data_key() -> DataKey:
    return DataKey(secrets.token_bytes(KEY_ID_BYTES), secrets.token_bytes(KEY_BYTES))


def _associated(salt: Salt) -> bytes:
    return b"cerememory keyring" + _encoder.encode((VERSION, salt))


def _parse(row: bytes) -> _Wrapped:
    try:
        wrapped = _wrapped.decode(row)
    except msgspec.DecodeError as error:
        raise StorageDamaged(f"the keyring can't be read: {error}") from error
    salt = wrapped.salt
    is_sane = (
        wrapped.version == VERSION
        and len(wrapped.nonce) == NONCE_BYTES
        and 8 <= len(salt.salt) <= 64
        and 1 <= salt.lanes <= LANES_MAX
        and 8 * salt.lanes <= salt.memory_kib <= MEMORY_KIB_MAX
        and 1 <= salt.iterations <= ITERATIONS_MAX
    )
    if not is_sane:
        raise StorageDamaged("the keyring can't be read: it is of another version or asks for too much")
    return wrapped
