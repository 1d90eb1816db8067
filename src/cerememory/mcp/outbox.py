"""Stores that wait on the disk for a daemon that is away; sent, the oldest first, before the call that finds it.

Each is a file with the request and the idempotency key that it was tried with, so one that the daemon had done
without its answer coming through isn't done twice (as long as the daemon keeps its answers). A file is written
under another name first: it is whole, or not there. What the daemon refuses for good is renamed to `*.refused`,
and stays for somebody to look at; the folder is bounded with it. What it refuses to the key waits on, for another
key may have it stored; that is told once.

Usable from any thread and by any number of processes: who sends what another sends, too, does no harm.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from cerememory.client import Client
from cerememory.client.errors import HTTP_STATUS
from cerememory.errors import (
    CerememoryError,
    Conflict,
    DaemonUnreachable,
    Forbidden,
    Invalid,
    NoRoute,
    Refused,
    StorageUnavailable,
    Unauthorized,
    ValidationFailed,
)
from cerememory.protocol import codec
from cerememory.protocol.operations import BY_NAME

KEPT = {"encode.store", "encode.batch", "encode.store_raw", "encode.batch_raw"}  # the operations
FILES_MAX = 1_000
BYTES_MAX = 128 * 1_048_576
SEND_MAX = 100  # in one go, for a call waits behind it
PRIVATE_DIR = 0o700
PRIVATE_FILE = 0o600

_WAITING, _REFUSED = ".json", ".refused"
_FOR_GOOD = (Invalid, Refused, Conflict)

log = logging.getLogger(__name__)


class Waiting(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    operation: str
    idempotency_key: str
    body: msgspec.Raw


class Outbox:
    """`folder` is made when there is something to keep. `client` should give up soon: callers wait for it.

    `clock` gives seconds from any start.
    """

    def __init__(
        self,
        client: Client,
        folder: Path,
        files_max: int = FILES_MAX,
        bytes_max: int = BYTES_MAX,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._folder = folder
        self._files_max = files_max
        self._bytes_max = bytes_max
        self._clock = clock
        self._putting = threading.Lock()
        self._sending = threading.Lock()
        self._outcome: int | str | None = None  # of the last sending
        self._has_told = False

    def put(self, operation: str, body: object, idempotency_key: str) -> None:
        """Keeps it durably; what waits already isn't kept twice.

        Raises `StorageUnavailable` when there is no room, or the disk fails.
        """
        data = codec.dump(Waiting(operation, idempotency_key, msgspec.Raw(codec.dump(body))))
        try:
            with self._putting:
                self._write(f"-{idempotency_key}{_WAITING}", data)
        except OSError as error:
            raise StorageUnavailable(f"{self._folder}: {error.strerror}") from error

    def _write(self, name: str, data: bytes) -> None:
        self._folder.mkdir(mode=PRIVATE_DIR, parents=True, exist_ok=True)
        sizes = {entry.name: entry.stat().st_size for entry in os.scandir(self._folder)}
        if any(other.endswith(name) for other in sizes):
            return
        size = sum(sizes.values())
        if len(sizes) >= self._files_max or size + len(data) > self._bytes_max:
            raise StorageUnavailable(f"{self._folder} is full ({len(sizes)} files, {size} bytes)")
        _write_durably(self._folder / f"{time.time_ns():020d}{name}", data)

    def send(self, limit_s: float | None = None) -> int | None:
        """Sends what waits, up to `SEND_MAX`, until the daemon doesn't take one or `limit_s` have passed.

        The number of the newest commit that it made, None when it made none. `DaemonUnreachable` when something
        waits and there is no daemon to ask. Another thread's sending is as good, when it has ended in
        time.
        """
        ends_at = math.inf if limit_s is None else self._clock() + limit_s
        if self._sending.acquire(blocking=False):
            try:
                self._outcome = self._send_all(ends_at)
            finally:
                self._sending.release()
        elif self._sending.acquire(timeout=-1 if limit_s is None else limit_s):
            self._sending.release()
        else:
            return None
        if isinstance(self._outcome, str):
            raise DaemonUnreachable(self._outcome)
        return self._outcome

    def _send_all(self, ends_at: float) -> int | str | None:
        """See `send`; a text says that there is no daemon."""
        before = self._client.sequence
        try:
            for path in self._waiting()[:SEND_MAX]:
                if self._clock() >= ends_at or not self._sent(path):
                    break
        except DaemonUnreachable as away:
            return str(away)
        newest = self._client.sequence
        return None if newest == before else newest

    def _waiting(self) -> list[Path]:
        try:
            return sorted(path for path in self._folder.iterdir() if path.suffix == _WAITING)
        except OSError:  # most often: nothing was ever kept
            return []

    def _sent(self, path: Path) -> bool:
        """Whether the next one may be tried. `DaemonUnreachable` when there is no daemon."""
        try:
            waiting = _read(path)
        except FileNotFoundError:  # another process was faster
            return True
        except (OSError, ValidationFailed) as error:
            self._set_aside(path, error)
            return True
        try:
            self._client.call(waiting.operation, waiting.body, idempotency_key=waiting.idempotency_key)
        except CerememoryError as error:
            if _is_for_good(error):
                self._set_aside(path, error)
                return True
            log.debug("%s still waits: %s", path, error)
            if isinstance(error, (Unauthorized, Forbidden)):
                self._tell_once(error)
            if isinstance(error, DaemonUnreachable) and not error.was_sent:
                raise
            return False
        path.unlink(missing_ok=True)
        return True

    def _tell_once(self, refusal: CerememoryError) -> None:
        """Whoever was told that it would be stored isn't there to hear that it isn't."""
        if not self._has_told:
            self._has_told = True
            log.warning("warning: what waits in %s isn't stored with this key: %s", self._folder, refusal)

    def _set_aside(self, path: Path, error: Exception) -> None:
        refused = path.with_suffix(_REFUSED)
        with suppress(OSError):
            path.rename(refused)
        log.warning("warning: what was kept for the daemon can't be stored, see %s: %s", refused, error)


def _read(path: Path) -> Waiting:
    """Raises `ValidationFailed` for what is none."""
    waiting = codec.parse(path.read_bytes(), Waiting)
    if waiting.operation not in BY_NAME:
        raise ValidationFailed(f"operation: there is no {waiting.operation[:64]!r}")
    return waiting


def _is_for_good(error: CerememoryError) -> bool:
    """Whether a daemon judged the request: a stranger's answer has its status, an untrusted connection a cause."""
    is_judged = error.__cause__ is None and HTTP_STATUS not in (error.details or {})
    return is_judged and isinstance(error, _FOR_GOOD) and not isinstance(error, NoRoute)


def _write_durably(path: Path, data: bytes) -> None:
    draft = path.with_suffix(".draft")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_FILE)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(fd)
        draft.rename(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
