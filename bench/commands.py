"""What a command costs before it does anything: its start, the modules it loads, and what is installed for it.

Each start is a new process, from the moment it is made to its end, or, for the MCP proxy, to its first answer. The
disk's cache is warm, as it is for whoever uses a command twice.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from importlib import metadata
from io import BytesIO
from pathlib import Path

from bench.client import Address, BenchFailed
from bench.product import COMMAND

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "cerememory"
MIB = 1 << 20
LIMIT_S = 60.0
HELP_MODULES = ("cerememory.cli.main", "cerememory.cli.overview")
PROXY_MODULES = ("cerememory.cli.main", "cerememory.cli.quick")
TIMED_IMPORT = "import time; started = time.perf_counter(); import {}; print(time.perf_counter() - started)"
INITIALIZE = (
    b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},'
    b'"clientInfo":{"name":"bench","version":"1"}}}\n'
)


def command_s(*arguments: str) -> float:
    """From the start of `cerememory` to its end."""
    started = time.perf_counter()
    ran = subprocess.run([COMMAND, *arguments], capture_output=True, timeout=LIMIT_S, check=False)
    elapsed_s = time.perf_counter() - started
    if ran.returncode:
        raise BenchFailed(f"cerememory {' '.join(arguments)} ended with {ran.returncode}: {ran.stderr!r:.512}")
    return elapsed_s


def recall_s(address: Address, question: str) -> float:
    """A recall as a command, through the daemon at `address`."""
    return command_s("recall", question, "--server-url", url_of(address))


def proxy_s(address: Address) -> float:
    """From the start of the MCP proxy for the daemon at `address` to its answer to `initialize`."""
    started = time.perf_counter()
    with subprocess.Popen(
        [COMMAND, "mcp", "--server-url", url_of(address)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(INITIALIZE)
        process.stdin.flush()
        answer = process.stdout.readline()
        elapsed_s = time.perf_counter() - started
        process.stdin.close()
    if b'"serverInfo"' not in answer:
        raise BenchFailed(f"the MCP proxy answered {answer!r:.512}")
    return elapsed_s


def url_of(address: Address) -> str:
    host, port = address
    return f"http://{host}:{port}"


def loading_s(modules: tuple[str, ...]) -> float:
    """How long a new interpreter takes to load `modules` and what they load."""
    script = TIMED_IMPORT.format(", ".join(modules))
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=LIMIT_S, check=True
    )
    return float(ran.stdout)


def wheel_mib() -> float:
    """The files of a wheel as it compresses them, but for its list of them: building one takes a network."""
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as wheel:
        for path in (*_sources(), ROOT / "README.md", ROOT / "LICENSE"):
            wheel.write(path, path.relative_to(ROOT))
    return packed.tell() / MIB


def installed_mib() -> float:
    """The files of this program and of every package that it needs, without compiled copies of our own."""
    own = sum(path.stat().st_size for path in _sources())
    return (own + sum(map(_size_bytes, needed()))) / MIB


def _sources() -> list[Path]:
    return [path for path in sorted(SOURCE.rglob("*")) if path.is_file() and "__pycache__" not in path.parts]


def needed() -> set[str]:
    """Packages that it needs, directly or not, without those of extras."""
    found: set[str] = set()
    waiting = [*_required("cerememory")]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += _required(name)
    return found


def _required(name: str) -> Iterator[str]:
    """Those of other systems, which aren't installed here, are passed over."""
    for requirement in metadata.requires(name) or ():
        package, _, condition = requirement.partition(";")
        if "extra ==" in condition:
            continue
        matched = re.match(r"[\w.-]+", package)
        if matched is not None and _is_installed(matched[0]):
            yield re.sub(r"[-_.]+", "-", matched[0]).lower()


def _is_installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _size_bytes(name: str) -> int:
    files = [Path(str(file.locate())) for file in metadata.files(name) or ()]
    return sum(path.stat().st_size for path in files if path.exists())
