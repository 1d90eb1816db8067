"""The real daemon as a process of its own, on a free port and a data dir that a test gives it.

What it is told comes from its arguments and `env` alone: variables of the machine that configure a daemon are
left out. Starting waits for the banner's last line, so whoever has a `Daemon` can ask it. Whatever a test does,
the process is gone when the block is left.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from cerememory.client import Client
from cerememory.storage.datadir import read_token

BIN = Path(os.environ.get("CEREMEMORY_TEST_BIN", Path(sys.executable).parent))  # `make walkthrough` has another
COMMAND = BIN / "cerememory"
WAIT_S = 30.0  # how long a test waits for an event that must come
STARTS_MAX = 5
LISTENING = "listening on"
PORT_TAKEN = "can't be listened on"
SEARCH = {"cue": {"text": "anything"}, "limit": 1, "reconsolidate": False}
NO_ENV: Mapping[str, str] = {}


class DaemonFailed(Exception):
    """It ended, or said nothing, instead of listening; the message has what it wrote to stderr."""


def free_port() -> int:
    """A port that nobody listens on now; somebody else may take it before it is used."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def clean_environment(env: Mapping[str, str] = NO_ENV) -> dict[str, str]:
    """This process's environment without what configures Cerememory, and with `env`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CEREMEMORY_")}
    return {**kept, **env}


def cerememory(
    *arguments: str | Path, env: Mapping[str, str] = NO_ENV, stdin: str = "", cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """A command run to its end, with its exit code and all that it wrote. Its output is no terminal."""
    return subprocess.run(
        [COMMAND, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        env=clean_environment(env),
        timeout=WAIT_S,
        check=False,
        cwd=cwd,
    )


class Daemon:
    """`cerememory serve` on `data_dir`; a context manager that stops it.

    `env` adds variables, `args` arguments; `launcher` is a command that becomes the daemon, whose command line
    is appended to it. The port stays the same when it is started again; `port` asks for one that a daemon had.
    """

    process: subprocess.Popen[str]

    def __init__(
        self,
        data_dir: Path,
        *,
        env: Mapping[str, str] = NO_ENV,
        args: Sequence[str] = (),
        launcher: Sequence[str] = (),
        port: int | None = None,
    ) -> None:
        self.data_dir = data_dir
        self.banner: list[str] = []
        self._env = clean_environment(env)
        self._args = args
        self._launcher = launcher
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `__exit__`
        self._port = port or free_port()
        try:
            self._start_somewhere()
        except BaseException:
            self._log.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self._log.close()

    @property
    def address(self) -> str:
        """`host:port`, as the data dir's lock file has it."""
        return f"127.0.0.1:{self._port}"

    @property
    def port(self) -> int:
        return self._port

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def start(self) -> None:
        """Start it, again on the same port, and wait until it listens. `DaemonFailed` when it doesn't."""
        told = ["--data-dir", str(self.data_dir), "--port", str(self._port)]
        self.process = subprocess.Popen(
            [*self._launcher, str(COMMAND), "serve", *told, *self._args],
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=self._env,
        )
        try:
            self.banner = self._read_banner()
        except BaseException:
            self.kill()
            raise

    def stop(self) -> int:
        """End it as a service manager would; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        """The exit code, once it has ended by itself."""
        code = self.process.wait(WAIT_S)
        self._close_pipe()
        return code

    def kill(self) -> None:
        """End it as a crash would."""
        self.process.kill()
        self.process.wait()
        self._close_pipe()

    def wait_until_searchable(self) -> None:
        """Returns once a search sees all that was acknowledged; on a busy machine that takes a moment.

        Every try waits inside the daemon.
        """
        deadline = time.monotonic() + WAIT_S
        with Client(self.url, read_token(self.data_dir)) as client:
            while not client.call("recall.query", SEARCH)["query_metadata"]["index_complete"]:
                assert time.monotonic() < deadline, "the index doesn't catch up"

    def log(self) -> str:
        """What it has written to stderr, since the first start."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def _start_somewhere(self) -> None:
        for _ in range(STARTS_MAX - 1):
            try:
                self.start()
                return
            except DaemonFailed as error:
                if PORT_TAKEN not in str(error):
                    raise
                self._port = free_port()
        self.start()

    def _read_banner(self) -> list[str]:
        """The lines up to the one that says where it listens, each without its newline."""
        pipe = self.process.stdout
        assert pipe is not None
        deadline = time.monotonic() + WAIT_S
        text = ""
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while not (text.endswith("\n") and LISTENING in text):
                if not selector.select(deadline - time.monotonic()):
                    raise DaemonFailed(f"no banner within {WAIT_S:.0f} s\n{self.log()}")
                part = os.read(pipe.fileno(), 65_536).decode()
                if not part:
                    raise DaemonFailed(f"exit code {self.process.wait(WAIT_S)}\n{self.log()}")
                text += part
        return text.splitlines()

    def _close_pipe(self) -> None:
        if self.process.stdout is not None:
            self.process.stdout.close()
