"""The daemon under measurement: a process of its own on a new data dir, without rate limits, else as it comes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.client import Address, BenchFailed, Connection, get
from bench.floors import HOST

START_S_MAX = 30.0
STOP_S_MAX = 60.0
POLL_S = 0.005
KIB_PER_MIB = 1024
PREFIX = "CEREMEMORY_"
COMMAND = Path(sys.executable).with_name("cerememory")


@dataclass(frozen=True)
class Daemon:
    """A daemon that is ready, and how long that took from the start of its process."""

    address: Address
    pid: int
    ready_s: float

    def memory_mib(self) -> float:
        """Its resident memory. Source: `VmRSS` in proc_pid_status(5), Linux alone."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / KIB_PER_MIB
        raise BenchFailed(f"/proc/{self.pid}/status has no VmRSS")


@contextmanager
def serving(data_dir: Path) -> Iterator[Daemon]:
    """A daemon on `data_dir`, stopped in order afterwards. What it has to say goes to stderr."""
    address = HOST, _free_port()
    started = time.perf_counter()
    environment = _environment(data_dir, address[1])
    with subprocess.Popen([COMMAND, "serve"], env=environment, stdout=subprocess.DEVNULL) as process:
        try:
            _wait_until_ready(process, address, started + START_S_MAX)
            yield Daemon(address, process.pid, time.perf_counter() - started)
            process.terminate()
            process.wait(STOP_S_MAX)
        finally:
            process.kill()


def _environment(data_dir: Path, port: int) -> dict[str, str]:
    """Ours, without what configures a daemon there may be on this machine."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return kept | {
        "CEREMEMORY_DATA_DIR": str(data_dir),
        "CEREMEMORY_HTTP__PORT": str(port),
        "CEREMEMORY_RATE_LIMIT__REQUESTS_PER_SECOND": "0",
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_ready(process: subprocess.Popen[bytes], address: Address, deadline: float) -> None:
    while not _is_ready(address):
        if process.poll() is not None:
            raise BenchFailed(f"the daemon ended with {process.returncode}")
        if time.perf_counter() > deadline:
            raise BenchFailed(f"the daemon wasn't ready within {START_S_MAX} s")
        time.sleep(POLL_S)


def _is_ready(address: Address) -> bool:
    try:
        with Connection(address) as connection:
            return b'"ready"' in connection.ask(get("/readiness"))
    except ConnectionRefusedError:
        return False
