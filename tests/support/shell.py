"""A shell that runs commands one after the other, as somebody types them: what one sets, the next has.

Each gets nothing on stdin, and its end is waited for. Whatever happens, the shell is gone when the block is left.
"""

from __future__ import annotations

import os
import re
import selectors
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

WAIT_S = 60.0
_END = re.compile(rb"\0(\d+)\n\Z")


class NoEnd(Exception):
    """A command took too long, or ended the shell; the message has what it wrote."""


@dataclass(frozen=True, slots=True)
class Ran:
    code: int
    stdout: str
    stderr: str


class Shell:
    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `__exit__`
        self._process = subprocess.Popen(
            ["bash", "--norc", "--noprofile"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=folder,
            env=dict(env),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def run(self, command: str) -> Ran:
        assert self._process.stdin is not None
        told = os.fstat(self._errors.fileno()).st_size
        self._process.stdin.write(b"{ %s\n} < /dev/null\nprintf '\\0%%s\\n' $?\n" % command.rstrip().encode())
        self._process.stdin.flush()
        output, code = self._until_end(command)
        return Ran(code, output, os.pread(self._errors.fileno(), 1 << 20, told).decode(errors="replace"))

    def _until_end(self, command: str) -> tuple[str, int]:
        assert self._process.stdout is not None
        output, deadline = b"", time.monotonic() + WAIT_S
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while not (end := _END.search(output)):
                ready = selector.select(deadline - time.monotonic())
                part = os.read(self._process.stdout.fileno(), 65_536) if ready else b""
                if not part:
                    raise NoEnd(f"{command}\n{output.decode(errors='replace')}")
                output += part
        return output[: end.start()].decode(), int(end[1])
