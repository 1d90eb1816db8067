"""The daemon that `torture` kills: a process of its own, on a copy, on loopback. Of its owner's settings it has
those alone that say how the copy is kept.
"""

from __future__ import annotations

import ctypes
import os
import resource
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from cerememory.config.keys import PREFIX
from cerememory.config.settings import Settings
from cerememory.errors import DaemonUnreachable
from cerememory.storage.lmdb import META_PAGES

START_LIMIT_S, STOP_LIMIT_S = 300.0, 60.0  # a large data dir takes its time
PORT_TRIES = 5
LISTENING, PORT_TAKEN = b"listening on", "can't be listened on"
REASON_BYTES_MAX = 2_000
PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of <linux/prctl.h>
FULL_BYTES = META_PAGES * resource.getpagesize()  # beyond them no page of a store can be written


class Victim:
    """`cerememory serve` on the copy in `data_dir`; a context manager that kills it."""

    def __init__(self, data_dir: Path, settings: Settings) -> None:
        self._data_dir = data_dir
        self._env = _environment(settings)
        self._process: subprocess.Popen[bytes] | None = None
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `__exit__`
        self.url = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self._said.close()

    def start(self) -> None:
        """Returns when it listens. Raises `DaemonUnreachable` with what it said when it doesn't."""
        for _try in range(PORT_TRIES - 1):
            self.begin()
            if self._listens():
                return
            if PORT_TAKEN not in self._reason():
                break
        else:
            self.begin()
            if self._listens():
                return
        raise DaemonUnreachable(f"the daemon didn't start on the copy: {self._reason()}")

    def begin(self) -> None:
        """Start it, and don't wait."""
        self._said.seek(0)
        self._said.truncate()
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        told = ["serve", "--data-dir", str(self._data_dir), "--port", str(port)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "cerememory.cli.main", *told],
            stdout=subprocess.PIPE,
            stderr=self._said,
            env=self._env,
            cwd=self._data_dir,
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509 - no thread runs now
        )

    def fill_disk(self) -> None:
        """From now on the system refuses its every write to a file behind the first pages."""
        self._limit_files(FULL_BYTES)

    def free_disk(self) -> None:
        self._limit_files(resource.RLIM_INFINITY)

    def _limit_files(self, size_bytes: int) -> None:
        if self._process is not None:
            resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, (size_bytes, resource.RLIM_INFINITY))

    def kill(self) -> None:
        """By SIGKILL, of which it learns nothing."""
        if self._process is not None:
            self._process.kill()
            self._end(None)

    def stop(self) -> int:
        """As a service manager would; the exit code."""
        process = self._process
        if process is None:
            return 0
        process.send_signal(signal.SIGTERM)
        try:
            return self._end(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            raise DaemonUnreachable(f"the daemon didn't stop within {STOP_LIMIT_S:.0f} s") from None

    def _end(self, limit_s: float | None) -> int:
        process = self._process
        assert process is not None
        code = process.wait(limit_s)
        if process.stdout is not None:
            process.stdout.close()
        self._process = None
        return code

    def _listens(self) -> bool:
        """Whether it said so before it ended; else it is gone."""
        pipe = self._process.stdout if self._process is not None else None
        assert pipe is not None
        deadline, said = time.monotonic() + START_LIMIT_S, b""
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while selector.select(deadline - time.monotonic()) and (part := os.read(pipe.fileno(), 65_536)):
                said += part
                if LISTENING in said:
                    return True
        self.kill()
        return False

    def _reason(self) -> str:
        self._said.seek(0)
        text = self._said.read()[-REASON_BYTES_MAX:].decode(errors="replace")
        return text.strip() or "it said nothing"


def _environment(settings: Settings) -> dict[str, str]:
    """Nothing of its owner's configuration: no keys, no provider, no address but loopback."""
    security, storage = settings.security, settings.storage
    told = {
        "SECURITY__AUDIT_LOG_ENABLED": str(security.audit_log_enabled).lower(),
        "SECURITY__PERSIST_SEARCH_INDEXES": str(security.persist_search_indexes).lower(),
        "STORAGE__MAP_SIZE_GIB": str(storage.map_size_gib),
        "STORAGE__MIN_FREE_DISK_MIB": str(storage.min_free_disk_mib),
        "RATE_LIMIT__REQUESTS_PER_SECOND": "0",
        "DREAM__BACKGROUND_INTERVAL_SECS": "0",
        "LOG__LEVEL": "warn",
    }
    if security.store_encryption_passphrase is not None:
        told["SECURITY__STORE_ENCRYPTION_PASSPHRASE"] = security.store_encryption_passphrase
    kept = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return {**kept, **{f"{PREFIX}{name}": value for name, value in told.items()}}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _die_with_parent() -> None:
    """Nobody else would end it, should this process be killed."""
    ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)
