"""The API keys of a data dir: `keys/api_keys.json` says who may do what, and has of each key only its digest.

A key is 256 random bits, so SHA-256 without salt or cost is enough: nobody finds one by trying, with the file or
without. It is shown when it is made, and never again.

Commands change the file themselves, one at a time, also while a daemon runs: it is replaced whole, and whoever
reads it has the keys before the change or those after it. The daemon looks whether it was replaced each time it
needs a key (`KeyFile`), so what a command has revoked opens nothing any more when the command has ended.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
from collections.abc import Callable, Collection
from hashlib import sha256
from pathlib import Path
from typing import Annotated

import msgspec

from cerememory.errors import DataDirUnusable, RecordNotFound, ValidationFailed
from cerememory.protocol import codec
from cerememory.protocol.access import Role
from cerememory.protocol.namespaces import check_name
from cerememory.protocol.values import Timestamp
from cerememory.storage.datadir import PRIVATE_DIR, PRIVATE_FILE, prepare, sync_directory, write_durably

FILE_VERSION = 1
KEYS_MAX = 1_000  # what is sent is compared with each
SECRET_BYTES = 32
ID_BYTES = 6
_FORM = re.compile(rb"cm_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")
_NAME = re.compile(r"[^\W_](?:[\w.@ -]{0,62}\w)?")


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """`namespace` None: all of them. `sha256` is that of the key's text, in hex."""

    id: str
    name: str
    role: Role
    namespace: str | None
    created_at: Timestamp
    expires_at: Timestamp | None
    revoked_at: Timestamp | None
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]

    def refusal(self, now: int) -> str | None:
        """Why it opens nothing at `now` (nanoseconds since the epoch): revoked, expired; None when it does."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else None


class _File(msgspec.Struct, frozen=True, kw_only=True):
    version: int
    keys: tuple[ApiKey, ...]


def key_id(sent: bytes) -> str | None:
    """The id in what looks like a key of ours; it is no secret, and may be logged."""
    match = _FORM.fullmatch(sent)
    return None if match is None else match[1].decode()


def create(
    data_dir: Path, *, name: str, role: Role, namespace: str | None, now: int, expires_at: int | None = None
) -> tuple[ApiKey, str]:
    """A new key, and its text. Times are nanoseconds since the epoch. A `data_dir` that isn't there is made.

    Raises `ValidationFailed` for a name that can't be used or is that of a key in use, and when there are
    `KEYS_MAX` of them; keys that open nothing any more make room; what `DataDir.acquire` does where none is.
    """
    if not _NAME.fullmatch(name):
        raise ValidationFailed(f"name: expected 1 to 64 letters, digits or . _ @ - and spaces, got {name[:80]!r}")
    if namespace is not None:
        check_name(namespace, "scope")
    made_id = secrets.token_hex(ID_BYTES)
    text = f"cm_{made_id}_{secrets.token_urlsafe(SECRET_BYTES)}"
    key = ApiKey(
        id=made_id,
        name=name,
        role=role,
        namespace=namespace,
        created_at=Timestamp(now),
        expires_at=None if expires_at is None else Timestamp(expires_at),
        revoked_at=None,
        sha256=sha256(text.encode()).hexdigest(),
    )
    prepare(data_dir)
    _change(data_dir, lambda keys: (*_with_room(keys, name, now), key))
    return key, text


def _with_room(keys: tuple[ApiKey, ...], name: str, now: int) -> tuple[ApiKey, ...]:
    """`keys` without the oldest that opens nothing, when there is no room; another may not have this name."""
    in_use = [key for key in keys if key.refusal(now) is None]
    if any(key.name == name for key in in_use):
        raise ValidationFailed(f"name: there is a key {name!r} already; revoke it, or take another name")
    if len(keys) < KEYS_MAX:
        return keys
    if len(in_use) == len(keys):
        raise ValidationFailed(f"name: {KEYS_MAX} keys are in use, no more are kept; revoke some")
    oldest = next(key for key in keys if key.refusal(now) is not None)
    return tuple(key for key in keys if key is not oldest)


def revoke(data_dir: Path, given: Collection[str], now: int) -> tuple[ApiKey, ...]:
    """The keys with these ids or names, which open nothing from now on. All or, by `RecordNotFound`, none."""
    found: list[ApiKey] = []
    if not read(data_dir):
        raise RecordNotFound("there are no keys; cerememory key create makes one")

    def revoked(keys: tuple[ApiKey, ...]) -> tuple[ApiKey, ...]:
        ids = {_meant(each, keys, now) for each in given}
        changed = tuple(_revoked(key, now) if key.id in ids else key for key in keys)
        found.extend(key for key in changed if key.id in ids)
        return changed

    _change(data_dir, revoked)
    return tuple(found)


def _meant(given: str, keys: tuple[ApiKey, ...], now: int) -> str:
    """The id of the key that `given` stands for. A name is that of a key in use, else of the last that had it."""
    if any(key.id == given for key in keys):
        return given
    named = sorted((key for key in keys if key.name == given), key=lambda key: key.refusal(now) is None)
    if not named:
        raise RecordNotFound(f"{given[:80]!r}: no key has this id or name; cerememory key list shows them")
    return named[-1].id


def _revoked(key: ApiKey, now: int) -> ApiKey:
    return msgspec.structs.replace(key, revoked_at=Timestamp(now)) if key.revoked_at is None else key


def read(data_dir: Path) -> tuple[ApiKey, ...]:
    """All keys, oldest first; none where none was ever made. Raises `DataDirUnusable`."""
    path = _path(data_dir)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise DataDirUnusable(f"{path}: cannot be read: {error.strerror}") from error
    try:
        file = codec.parse(content, _File)
    except ValidationFailed as error:
        raise DataDirUnusable(f"{path}: {error}") from None
    if file.version != FILE_VERSION:
        raise DataDirUnusable(f"{path}: has version {file.version}, this version reads {FILE_VERSION}")
    return file.keys


def usable(data_dir: Path, now: int) -> tuple[ApiKey, ...]:
    """The keys that open something at `now`. Raises `DataDirUnusable`."""
    return tuple(key for key in read(data_dir) if key.refusal(now) is None)


class KeyFile:
    """The keys of a data dir as they are at each moment."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._path = str(_path(data_dir))
        self._seen: object = None
        self._keys: tuple[ApiKey, ...] = ()

    def current(self) -> tuple[ApiKey, ...]:
        """The same tuple as long as the file is the same.

        Raises `DataDirUnusable` when it has become one that can't be read, once; the keys from before stay.
        """
        seen = self._identity()
        if seen != self._seen:
            self._seen = seen
            self._keys = read(self._data_dir)
        return self._keys

    def _identity(self) -> object:
        """A file that takes the place of another has another inode, or at least another time."""
        try:
            status = os.stat(self._path)  # noqa: PTH116 - with each request: a Path would double its time
        except OSError as error:
            return error.errno
        return status.st_ino, status.st_mtime_ns, status.st_size


def _path(data_dir: Path) -> Path:
    return data_dir / "keys" / "api_keys.json"


def _change(data_dir: Path, work: Callable[[tuple[ApiKey, ...]], tuple[ApiKey, ...]]) -> None:
    """Keep what `work` makes of the keys; nobody else changes them meanwhile. Raises `DataDirUnusable`."""
    path = _path(data_dir)
    try:
        if not path.parent.exists():
            path.parent.mkdir(mode=PRIVATE_DIR, exist_ok=True)
            sync_directory(data_dir)
        lock = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            write_durably(path, codec.dump(_File(version=FILE_VERSION, keys=work(read(data_dir)))))
        finally:
            os.close(lock)
    except OSError as error:
        raise DataDirUnusable(f"{path}: cannot be written: {error.strerror}") from error
