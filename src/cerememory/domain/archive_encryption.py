"""The container of an encrypted archive: `salt (16) | nonce (12) | ciphertext | tag (16)`.

The archive is one ChaCha20-Poly1305 message (RFC 8439) without associated data, under a key that is made of
the passphrase and the salt. The container is that of the reference implementation; both open each other's.

The library's one-call form of the cipher wants the whole archive in memory. So its two halves are run here side
by side, a chunk at a time: ChaCha20 from its second block on, and Poly1305 over the ciphertext under the first
half of the first block. One tag closes the whole, so a container is read twice: `Authentication` goes through
all of it, and only then is there a `Decryption`. Nobody gets to see a byte that wasn't verified.
"""

from __future__ import annotations

from hashlib import sha256
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.poly1305 import Poly1305

from cerememory.errors import ImportConflict

SALT_BYTES = 16
NONCE_BYTES = 12
TAG_BYTES = 16
PREFIX_BYTES = SALT_BYTES + NONCE_BYTES
OVERHEAD_BYTES = PREFIX_BYTES + TAG_BYTES

_KEY_BYTES = 32
_PASSPHRASE_SALT = b"cerememory-archive-v2"  # the same for all archives: the container's own weakness
_KEY_CONTEXT = b"cerememory-archive-key-v2"
_MEMORY_KIB, _ITERATIONS, _LANES = 65_536, 3, 1
_MAC_KEY_BLOCK, _FIRST_BLOCK = 0, 1
_MAC_BLOCK_BYTES = 16
_PLAIN_START = b'{"version":'
_AGE_START = b"age-encryption.org/"


def derive_key(passphrase: str, salt: bytes) -> bytes:
    """The 32-byte key of one archive. Takes 64 MiB and about a third of a second: that is its purpose."""
    argon2id = Argon2id(
        salt=_PASSPHRASE_SALT,
        length=_KEY_BYTES,
        iterations=_ITERATIONS,
        lanes=_LANES,
        memory_cost=_MEMORY_KIB,
    )
    pseudo_random_key = sha256(salt + argon2id.derive(passphrase.encode())).digest()
    return sha256(pseudo_random_key + _KEY_CONTEXT + b"\x01").digest()


def refuse_age(beginning: bytes) -> None:
    """Raises `ImportConflict` for an age file, which is decrypted before it is sent."""
    if beginning.startswith(_AGE_START):
        raise ImportConflict("this is an age file: the command import, or age itself, has to decrypt it first")


class Container(NamedTuple):
    """What stands before the ciphertext of an encrypted archive, and how long that is."""

    salt: bytes
    nonce: bytes
    ciphertext_bytes: int


def parse_container(prefix: bytes, size_bytes: int) -> Container:
    """The container of `size_bytes` that starts with `prefix` (its first `PREFIX_BYTES`, or all there is).

    Raises `ImportConflict` for what can't be one.
    """
    refuse_age(prefix)
    if prefix.startswith(_PLAIN_START):
        raise ImportConflict("a passphrase was given, but the archive isn't encrypted")
    if size_bytes < OVERHEAD_BYTES:
        raise ImportConflict(f"{size_bytes} bytes are too few for an encrypted archive")
    salt, nonce = prefix[:SALT_BYTES], prefix[SALT_BYTES:PREFIX_BYTES]
    return Container(salt, nonce, size_bytes - OVERHEAD_BYTES)


class Encryption:
    """Encrypts one archive: `start`, each chunk, `finish`, one after the other.

    `key` is of `derive_key`; `salt` and `nonce` are random, made for this archive alone.
    """

    def __init__(self, key: bytes, salt: bytes, nonce: bytes) -> None:
        self._prefix = salt + nonce
        self._cipher = _chacha20(key, nonce, _FIRST_BLOCK)
        self._mac = _Mac(key, nonce)

    def start(self) -> bytes:
        return self._prefix

    def encrypt(self, chunk: bytes) -> bytes:
        ciphertext = self._cipher.update(chunk)
        self._mac.update(ciphertext)
        return ciphertext

    def finish(self) -> bytes:
        """The tag, with which the container ends."""
        return self._mac.tag()


class Decryption:
    """Decrypts the ciphertext of one verified container, from its start; `Authentication` makes it."""

    def __init__(self, key: bytes, nonce: bytes) -> None:
        self._cipher = _chacha20(key, nonce, _FIRST_BLOCK)

    def decrypt(self, ciphertext: bytes) -> bytes:
        return self._cipher.update(ciphertext)


class Authentication:
    """Goes through the ciphertext of one container, to know whether its tag is right."""

    def __init__(self, key: bytes, nonce: bytes) -> None:
        self._key, self._nonce = key, nonce
        self._mac = _Mac(key, nonce)

    def update(self, ciphertext: bytes) -> None:
        self._mac.update(ciphertext)

    def verify(self, tag: bytes) -> Decryption:
        """What decrypts the ciphertext; `ImportConflict` when it isn't what was encrypted under this key."""
        try:
            self._mac.verify(tag)
        except InvalidSignature:
            raise ImportConflict("the passphrase is wrong, or the archive was changed") from None
        return Decryption(self._key, self._nonce)


class _Mac:
    """Poly1305 as RFC 8439, 2.8 has it, without associated data."""

    def __init__(self, key: bytes, nonce: bytes) -> None:
        self._poly1305 = Poly1305(_chacha20(key, nonce, _MAC_KEY_BLOCK).update(bytes(_KEY_BYTES)))
        self._size_bytes = 0

    def update(self, ciphertext: bytes) -> None:
        self._poly1305.update(ciphertext)
        self._size_bytes += len(ciphertext)

    def tag(self) -> bytes:
        self._poly1305.update(self._lengths())
        return self._poly1305.finalize()

    def verify(self, tag: bytes) -> None:
        self._poly1305.update(self._lengths())
        self._poly1305.verify(tag)

    def _lengths(self) -> bytes:
        """What fills the last block, then the sizes of associated data (none) and ciphertext."""
        padding = bytes(-self._size_bytes % _MAC_BLOCK_BYTES)
        return padding + bytes(8) + self._size_bytes.to_bytes(8, "little")


def _chacha20(key: bytes, nonce: bytes, block: int) -> CipherContext:
    """The keystream from `block` (64 bytes each) on; encrypting and decrypting are the same."""
    return Cipher(ChaCha20(key, block.to_bytes(4, "little") + nonce), mode=None).encryptor()
