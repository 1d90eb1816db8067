"""The data directory: who owns it, whether it may be used, and which format it has.

    data_dir/        0700
      lock           flock held by the one owner; its text names the owner's pid and address
      format.json    the format's version, written once
      store/         the LMDB environment
      index/         the text index, rebuilt from the store when missing
      audit.jsonl    the audit log; beside it, in audit.jsonl.checkpoint, what was signed of it last, and its
                     closed files
      keys/          what proves who somebody is; see `storage.api_keys` and `storage.audit_keys`
      run/token      the owner's key for local commands, for its life

`DataDir.acquire` is the only way in; everything below it trusts that it is alone. Directories are synced when
something was made in them: a file that is synced can still be lost with its name.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from cerememory import __version__
from cerememory.errors import DataDirLocked, DataDirUnusable

FORMAT_VERSION = 3  # the ones before were never released
FORMAT_NAME = "format.json"
PRIVATE_DIR = 0o700
PRIVATE_FILE = 0o600
TOKEN_BYTES = 32
BEFORE_FORMAT = frozenset({"lock", "format.new"})  # what a start that was cut short may leave
LOCK_ATTEMPTS, LOCK_PAUSE_S = 10, 0.02
NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "fuse.sshfs", "fuse.glusterfs"}
)


@dataclass(frozen=True, slots=True)
class Owner:
    """Who holds a data dir, and with which version of the program. `address` is `host:port` of its HTTP service,
    empty for an offline command.
    """

    pid: int
    address: str
    version: str = ""

    def __str__(self) -> str:
        where = f" at {self.address}" if self.address else ""
        return f"process {self.pid}{where}"


class DataDir:
    """A data dir that this process owns until `release`."""

    def __init__(self, path: Path, lock_fd: int) -> None:
        self.path = path
        self._lock_fd = lock_fd

    @classmethod
    def acquire(cls, path: Path) -> DataDir:
        """Create `path` when it isn't there, check it, take its lock.

        Raises `DataDirLocked` naming the owner, `DataDirUnusable` with the reason.
        """
        _make_private(path)
        _refuse_network_file_system(path)
        directory = cls(path, _lock(path))
        try:
            directory._name_owner(b"")  # whoever was killed is named there yet, and would be taken for this one
            _check_format(path)
        except DataDirUnusable:
            directory.release()
            raise
        return directory

    @property
    def store_path(self) -> Path:
        return self._subdirectory("store")

    @property
    def index_path(self) -> Path:
        return self._subdirectory("index")

    def _subdirectory(self, name: str) -> Path:
        path = self.path / name
        if not os.path.lexists(path):  # of what leads nowhere is told when it is opened
            path.mkdir(mode=PRIVATE_DIR)
            sync_directory(self.path)
        return path

    def announce(self, address: str) -> None:
        """Write who owns the data dir into the lock file."""
        owner = {"pid": os.getpid(), "address": address, "version": __version__}
        self._name_owner(json.dumps(owner).encode())

    def _name_owner(self, text: bytes) -> None:
        try:
            os.ftruncate(self._lock_fd, 0)
            os.pwrite(self._lock_fd, text, 0)
        except OSError as error:
            raise DataDirUnusable(f"{self.path / 'lock'}: cannot be written: {error.strerror}") from error

    def make_token(self) -> str:
        """A random key for commands of this user on this machine, kept in `run/token` until `release`."""
        import secrets  # a command reads tokens, and doesn't wait for what makes them

        token = secrets.token_urlsafe(TOKEN_BYTES)
        path = self._subdirectory("run") / "token"
        path.unlink(missing_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE)
        with os.fdopen(fd, "w") as file:
            file.write(token)
        return token

    def release(self) -> None:
        with suppress(OSError):  # a disk that fails: the next owner writes both anew
            (self.path / "run" / "token").unlink(missing_ok=True)
            os.ftruncate(self._lock_fd, 0)
        os.close(self._lock_fd)

    def __enter__(self) -> DataDir:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def prepare(path: Path) -> None:
    """Make `path` a data dir, unless it is one, owned or not. Raises what `DataDir.acquire` does."""
    if (path / FORMAT_NAME).exists():
        check_format(path)
    else:
        DataDir.acquire(path).release()


def check_is_there(path: Path) -> None:
    """Raise `DataDirUnusable` unless `path` is a data dir, owned or not. Nothing is made."""
    if (path / FORMAT_NAME).exists():
        return
    if path.exists():
        _check_directory(path)
        _refuse_without_format(path)
    raise DataDirUnusable(
        f"{path}: no data dir is there; name another with --data-dir, or make one with cerememory store or serve"
    )


def owner_of(path: Path) -> Owner | None:
    """The process that holds `path` now; None when nobody does."""
    try:
        fd = os.open(path / "lock", os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read_owner(fd)
    else:
        return None
    finally:
        os.close(fd)


def read_token(path: Path) -> str | None:
    """The running owner's key for local commands, when there is one and it may be read."""
    try:
        return (path / "run" / "token").read_text()
    except (FileNotFoundError, PermissionError):
        return None


def sync_directory(path: Path) -> None:
    """Make durable which files `path` has. Raises `OSError`."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _make_private(path: Path) -> None:
    new = [each for each in (path, *path.parents) if not each.exists()]
    try:
        path.mkdir(mode=PRIVATE_DIR, parents=True)
        for each in new:
            sync_directory(each.parent)
    except FileExistsError:
        _check_private(path)
    except OSError as error:
        raise DataDirUnusable(f"{path}: cannot be created: {error.strerror}") from error


def _check_directory(path: Path) -> None:
    if not path.is_dir():
        raise DataDirUnusable(f"{path}: is not a directory")


def _check_private(path: Path) -> None:
    _check_directory(path)
    mode = stat.S_IMODE(path.stat().st_mode)
    if not mode & 0o077:
        return
    ours = (path / FORMAT_NAME).exists() or not any(path.iterdir())
    if not ours or path.stat().st_uid != os.geteuid():
        raise DataDirUnusable(f"{path}: others may read it (mode {mode:o}); make it 0700")
    path.chmod(PRIVATE_DIR)


def _refuse_network_file_system(path: Path) -> None:
    """LMDB's locks and sync don't hold on network file systems."""
    kind = file_system_of(path)
    if kind in NETWORK_FILE_SYSTEMS:
        raise DataDirUnusable(f"{path}: lies on a network file system ({kind}); use a local disk")


def file_system_of(path: Path) -> str:
    """The type of the file system that `path` lies on; empty where the system doesn't tell."""
    mounts = Path("/proc/self/mounts")
    return _file_system_of(path.resolve(), mounts.read_text()) if mounts.exists() else ""


def _file_system_of(path: Path, mounts: str) -> str:
    """The type of the deepest mount above `path`, from the text of /proc/self/mounts."""
    found = ("", "")
    for line in mounts.splitlines():
        _device, point, kind, *_rest = line.split(" ")
        point = point.replace("\\040", " ")
        if path.is_relative_to(point) and len(point) >= len(found[0]):
            found = (point, kind)
    return found[1]


def _lock(path: Path) -> int:
    try:
        fd = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)
    except OSError as error:
        raise DataDirUnusable(f"{path}: cannot be locked: {error.strerror}") from error
    if not _taken(fd):
        owner = _read_owner(fd)
        os.close(fd)
        raise locked_by(path, owner)
    return fd


def locked_by(path: Path, owner: Owner | None) -> DataDirLocked:
    """The error that names who holds `path`."""
    return DataDirLocked(f"{path}: in use by {owner or 'another process'}; stop it or use another")


def _taken(fd: int) -> bool:
    """Whether the lock is ours now. Who asks for the owner holds it for a moment: that is waited for."""
    for _attempt in range(LOCK_ATTEMPTS):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(LOCK_PAUSE_S)
        else:
            return True
    return False


def _read_owner(fd: int) -> Owner | None:
    try:
        fields = json.loads(os.pread(fd, 4096, 0))
        return Owner(int(fields["pid"]), str(fields["address"]), str(fields.get("version", "")))
    except (ValueError, KeyError, TypeError):
        return None  # the owner has the lock and hasn't written its name yet


def _check_format(path: Path) -> None:
    if not (path / FORMAT_NAME).exists():
        _refuse_without_format(path)
        _write_format(path / FORMAT_NAME)
        return
    check_format(path)


def check_format(path: Path) -> None:
    """Raises `DataDirUnusable` unless `path` is a data dir of the format that this version reads."""
    check_is_there(path)
    file = path / FORMAT_NAME
    try:
        found = json.loads(file.read_text())["format"]
    except OSError as error:
        raise DataDirUnusable(f"{file}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise DataDirUnusable(f"{file}: can't be read; is {path} a Cerememory data dir?") from None
    if found != FORMAT_VERSION:
        raise DataDirUnusable(
            f"{path}: has format {found}, this version ({__version__}) reads format {FORMAT_VERSION}; "
            "run the version of Cerememory that wrote it, or a newer one"
        )


def check_stated_format(path: Path) -> None:
    """`check_format` of what says which it has; whatever has lost that can still be looked at."""
    if (path / FORMAT_NAME).exists():
        check_format(path)


def _refuse_without_format(path: Path) -> None:
    """Only an empty folder becomes a data dir: anything else is somebody's, or has lost its format."""
    found = {each.name for each in path.iterdir()} - BEFORE_FORMAT
    if "store" in found:
        raise DataDirUnusable(
            f"{path / FORMAT_NAME}: is missing though there is a store; restore it from a backup"
        )
    if found:
        raise DataDirUnusable(f"{path}: is no data dir and not empty ({min(found)}); use an empty folder")


def _write_format(file: Path) -> None:
    content = json.dumps({"format": FORMAT_VERSION, "created_by": __version__}) + "\n"
    try:
        write_durably(file, content.encode())
    except OSError as error:
        raise DataDirUnusable(f"{file}: cannot be written: {error.strerror}") from error


def write_durably(file: Path, content: bytes) -> None:
    """All of it or nothing, also when the power fails."""
    draft = file.with_suffix(".new")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE_FILE)
    with os.fdopen(fd, "wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
    draft.rename(file)
    sync_directory(file.parent)
