"""age files: an archive under a passphrase in the format that `age` and `rage` read (age-encryption.org/v1).

It is the command that encrypts and decrypts: the daemon, which has the memories in plain anyway, sends and gets a
plain archive, and never sees the passphrase. The library takes a whole file in memory where a passphrase is meant,
so an age file has a size at most, that of an archive that can be imported; and the work that a passphrase costs
(scrypt, about a second and half a gigabyte) is the library's choice. It is loaded by whoever has such a file.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from cerememory.domain.cma import ARCHIVE_BYTES_MAX
from cerememory.errors import ContentTooLarge, ImportConflict, ValidationFailed

BEGINNINGS = (b"age-encryption.org/", b"-----BEGIN AGE ENCRYPTED FILE-----")
BEGINNING_BYTES = max(map(len, BEGINNINGS))
AGE_BYTES_MAX = ARCHIVE_BYTES_MAX + ARCHIVE_BYTES_MAX // 2  # armoured it takes a third more


def is_age(beginning: bytes) -> bool:
    """Whether a file with this beginning (`BEGINNING_BYTES`) is one."""
    return beginning.startswith(BEGINNINGS)


def encrypted(chunks: Iterable[bytes], size_bytes: int, passphrase: str) -> bytes:
    """The age file of an archive of `size_bytes`. Raises `ContentTooLarge`, `ValidationFailed`."""
    library = _library()
    if size_bytes > ARCHIVE_BYTES_MAX:
        raise ContentTooLarge(
            f"--format age: the archive has {size_bytes} bytes, at most {ARCHIVE_BYTES_MAX} go into an age file;"
            " use --encrypt without --format, or fewer --stores"
        )
    data: bytes = library.encrypt(b"".join(chunks), passphrase)
    return data


def decrypted(data: bytes, passphrase: str) -> bytes:
    """The archive in an age file. Raises `ImportConflict` when it can't be decrypted, `ValidationFailed`."""
    if len(data) > AGE_BYTES_MAX:
        raise ImportConflict(f"the age file has {len(data)} bytes, at most {AGE_BYTES_MAX} can be read")
    library = _library()
    try:
        archive: bytes = library.decrypt(data, passphrase)
    except _decrypt_error():
        raise ImportConflict(
            "the passphrase is wrong, or the age file was changed, or is for keys instead of a passphrase"
        ) from None
    return archive


def _library() -> Any:
    try:
        from pyrage import passphrase
    except ImportError:
        raise ValidationFailed("age files need the package pyrage: pip install 'cerememory[age]'") from None
    return passphrase


def _decrypt_error() -> type[Exception]:
    from pyrage import DecryptError

    error: type[Exception] = DecryptError
    return error
