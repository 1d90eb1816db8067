"""What a command may load: most of its time is loading, so whatever it doesn't need stays on the disk."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.daemon import NO_ENV, WAIT_S, clean_environment
from tests.support.fake_daemon import FakeDaemon, answer
from tests.support.recorder import event

SCRIPT = """
import sys
from {module} import run
code = run(sys.argv[1:])
files = {name: getattr(module, "__file__", None) or "" for name, module in sys.modules.items()}
installed = {name.partition(".")[0] for name, file in files.items() if "site-packages" in file}
print("loaded", *sorted({*installed, *(name for name in sys.modules if name.startswith("cerememory."))}))
sys.exit(code)
"""
COMMAND_LINE = {"attr", "attrs", "cyclopts", "docstring_parser"}
OF_PYTHON = {"_distutils_hack", "typing_extensions"}  # loaded by the environment, and by msgspec where it is there
STORED = {"record_id": "x", "store": "episodic", "initial_fidelity": 1.0, "associations_created": 0}


@dataclass(frozen=True)
class Loaded:
    """Packages of others by name; modules of `cerememory.cli` and packages of `cerememory` without that name."""

    others: set[str]
    cli: set[str]
    packages: set[str]


def loaded_by(
    *arguments: str,
    module: str = "cerememory.cli.main",
    stdin: str = "",
    env: Mapping[str, str] = NO_ENV,
    code: int = 0,
) -> Loaded:
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT.replace("{module}", module), *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        env=clean_environment(env),
        timeout=WAIT_S,
        check=False,
    )
    assert ran.returncode == code, ran.stderr
    names = set(ran.stdout.splitlines()[-1].split()[1:])
    ours = {name.removeprefix("cerememory.") for name in names if name.startswith("cerememory.")}
    return Loaded(
        others={name for name in names if "." not in name} - {"cerememory"} - OF_PYTHON,
        cli={name.removeprefix("cli.") for name in ours if name.startswith("cli.")},
        packages={name.partition(".")[0] for name in ours},
    )


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["--json", "--help"]], ids=" ".join)
def test_help_loads_no_command_and_no_library(arguments: list[str]) -> None:
    loaded = loaded_by(*arguments)
    assert loaded.cli == {"main", "commands", "options", "overview"}
    assert loaded.packages == {"cli", "domain", "errors"}
    assert loaded.others == set()


def test_the_help_of_a_command_loads_that_command_alone() -> None:
    loaded = loaded_by("stats", "--help")
    assert "stats" in loaded.cli
    assert "recall" not in loaded.cli
    assert "overview" not in loaded.cli


def test_mcp_loads_no_library_but_the_codec_and_h11() -> None:
    loaded = loaded_by("mcp", "--server-url", "http://127.0.0.1:9")
    assert loaded.cli == {"main", "options", "quick"}
    assert loaded.packages == {"cli", "client", "domain", "errors", "home", "mcp", "protocol"}
    assert loaded.others == {"h11", "msgspec"}


def test_store_loads_its_own_module_and_the_client() -> None:
    with FakeDaemon(answer(STORED)) as daemon:
        loaded = loaded_by("store", "x", "--server-url", daemon.url)
    shared = {"main", "app", "commands", "options", "arguments", "bodies", "memory", "settings", "output"}
    assert loaded.cli == {*shared, "encode", "turns"}
    assert loaded.packages == {"cli", "client", "domain", "errors", "protocol", "storage"}
    assert loaded.others <= {*COMMAND_LINE, "h11", "msgspec"}


@pytest.mark.parametrize(
    ("arguments", "heavy"),
    [
        (["config", "check"], {"lmdb", "trio", "tantivy", "numpy", "quart"}),
        (["audit-verify", "--path", "nowhere"], {"quart", "hypercorn", "anyio"}),
    ],
    ids=["config check", "audit-verify"],
)
def test_no_other_command_loads_what_it_has_no_use_for(arguments: list[str], heavy: set[str]) -> None:
    assert loaded_by(*arguments).others & heavy == set()


def test_a_daemon_loads_nothing_of_grpc_but_its_settings() -> None:
    """Refused for its ports, when all that it needs at a start is loaded."""
    loaded = loaded_by("serve", "--port", "8420", "--grpc-port", "8420", code=1)
    assert "hypercorn" in loaded.others
    assert loaded.others & {"google", "grpc"} == set()


def test_a_detached_recorder_loads_neither_the_library_nor_the_client(tmp_path: Path) -> None:
    """A coding agent waits for it at each of its hooks."""
    loaded = loaded_by(
        *("ingest", "--detach", "--server-url", "http://127.0.0.1:9"),
        module="cerememory.cli.recorder.main",
        stdin=event(" "),  # which is refused, so nobody is started to send it
        env={"CEREMEMORY_RECORDER_SPOOL_DIR": str(tmp_path / "spool")},
        code=1,
    )
    assert loaded.packages == {"cli", "domain", "errors", "home", "protocol", "recorder"}
    assert loaded.others == {"msgspec"}
