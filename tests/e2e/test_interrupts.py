"""Ctrl-C while a command loads and while its process ends: no traceback, and the exit status of an interrupt."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.daemon import COMMAND, WAIT_S, clean_environment
from tests.support.recorder import RECORDER

HALT = """\
import atexit, os, sys

def halt():
    print("halted", flush=True)
    sys.stdin.read()

class Halting:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["HALT_AT"]:
            halt()

sys.meta_path.insert(0, Halting())
if os.environ["HALT_AT"] == "end":
    atexit.register(halt)
"""
INTERRUPTED = (-signal.SIGINT, 130)  # a shell says 130 of both
LIST = [COMMAND, "key", "list", "--data-dir", "data"]
DRAIN = [RECORDER, "drain", "--spool-dir", "spool"]


@contextmanager
def halted(at: str, command: Sequence[str | Path], folder: Path) -> Iterator[subprocess.Popen[str]]:
    """`command` that stands where it is about to import the module `at`, or at the `end` of its process."""
    (folder / "sitecustomize.py").write_text(HALT)
    env = clean_environment({"PYTHONPATH": str(folder), "HALT_AT": at})
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=env, cwd=folder)
    try:
        assert process.stdout is not None
        while process.stdout.readline() not in ("halted\n", ""):
            pass
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("command", "at"),
    [
        (LIST, "cerememory.cli.main"),
        (LIST, "cerememory.cli.options"),
        (LIST, "cerememory.cli.keys"),
        (LIST, "end"),
        (DRAIN, "cerememory.cli.recorder.main"),
        (DRAIN, "cerememory.cli.main"),
        (DRAIN, "cerememory.cli.recorder.app"),
    ],
    ids=lambda value: value if isinstance(value, str) else Path(value[0]).name,
)
def test_an_interrupt_ends_a_process_without_a_word(tmp_path: Path, command: list[str | Path], at: str) -> None:
    (tmp_path / "data").mkdir()
    with halted(at, command, tmp_path) as process:
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=WAIT_S)
    assert process.returncode in INTERRUPTED
    assert (out, "Traceback" in err, "KeyboardInterrupt" in err) == ("", False, False)


def test_an_interrupt_that_is_ignored_stays_so(tmp_path: Path) -> None:
    shell: list[str | Path] = ["sh", "-c", 'trap "" INT; exec "$0" "$@"', COMMAND, "--version"]
    with halted("cerememory.cli.options", shell, tmp_path) as process:
        process.send_signal(signal.SIGINT)
        out, err = process.communicate("", timeout=WAIT_S)
    assert (process.returncode, out.startswith("cerememory "), err) == (0, True, "")
