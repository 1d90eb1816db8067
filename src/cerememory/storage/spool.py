"""A spool: bytes put aside while they come in or are made, and read as often as needed.

It lies in a file without a name beside the store, which is gone with the spool or its process, whatever ends
it. What is in it is encrypted with a key that only the spool knows: memories that never were on the disk
in the open aren't there through it either.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from cerememory.errors import StorageUnavailable

CHUNK_BYTES = 262_144
_BLOCK_BYTES = 64  # of the keystream
_NONCE_BYTES = 12


class Spool:
    """Bytes in `directory`, written at the end and read from anywhere, by one thread at a time.

    `write` and `read` raise `StorageUnavailable` when the disk is full or fails.
    """

    def __init__(self, directory: Path) -> None:
        self._key, self._nonce = secrets.token_bytes(32), secrets.token_bytes(_NONCE_BYTES)
        self._cipher = self._keystream(0)
        self.size_bytes = 0
        try:
            self._file = tempfile.TemporaryFile(dir=directory, buffering=0)  # noqa: SIM115 - closed with the spool
        except OSError as error:
            raise _unavailable(directory, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def write(self, data: bytes) -> None:
        sealed = memoryview(self._cipher.update(data))
        self.size_bytes += len(sealed)
        try:
            while sealed:
                sealed = sealed[self._file.write(sealed) :]
        except OSError as error:
            raise _unavailable("the spool", error) from error

    def clear(self) -> None:
        """Start anew, as if nothing had been written."""
        self._nonce = secrets.token_bytes(_NONCE_BYTES)  # a keystream is used once
        self._cipher = self._keystream(0)
        self.size_bytes = 0
        self._file.seek(0)
        self._file.truncate()

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """What lies from `start` to `stop` (the end), in chunks of `CHUNK_BYTES` at most."""
        position, end = start, self.size_bytes if stop is None else stop
        cipher = self._keystream(start // _BLOCK_BYTES)
        cipher.update(bytes(start % _BLOCK_BYTES))
        while position < end:
            sealed = self._read_at(position, min(CHUNK_BYTES, end - position))
            position += len(sealed)
            yield cipher.update(sealed)

    def _read_at(self, position: int, size: int) -> bytes:
        try:
            sealed = os.pread(self._file.fileno(), size, position)
        except OSError as error:
            raise _unavailable("the spool", error) from error
        if not sealed:
            raise StorageUnavailable(f"the spool ends at {position} of {self.size_bytes} bytes")
        return sealed

    def _keystream(self, block: int) -> CipherContext:
        return Cipher(ChaCha20(self._key, block.to_bytes(4, "little") + self._nonce), mode=None).encryptor()


def _unavailable(where: Path | str, error: OSError) -> StorageUnavailable:
    return StorageUnavailable(f"{where}: {error.strerror}", retry_after_s=30)
