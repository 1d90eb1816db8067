"""Encrypted stores in memory, whose passphrase is made a key at once: the tests' own takes no 64 MiB."""

from __future__ import annotations

from cerememory.storage.contract import Storage
from cerememory.storage.keyring import Keyring, Salt, Wrapping, new_keyring
from cerememory.storage.sealed import SealedStorage
from tests.support.memory_storage import MemoryStorage

PASSPHRASE = "correct horse"
QUICK = Salt(b"salt of 16 bytes", memory_kib=8, iterations=1)


def quick_wrapping(passphrase: str = PASSPHRASE) -> Wrapping:
    return Wrapping(passphrase, QUICK)


def sealed_storage(below: Storage | None = None, keyring: Keyring | None = None) -> SealedStorage:
    """An encrypted store that was never plain, on `below`; its keyring is written when it is changed only."""
    return SealedStorage(
        MemoryStorage() if below is None else below,
        quick_wrapping(),
        keyring or new_keyring(are_names_sealed=True),
        0,
    )
