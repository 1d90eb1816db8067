"""Passphrases for commands: from stdin, a file, a terminal, the environment, or, with a warning, the command line.

What is given for this once counts before the environment.
"""

from __future__ import annotations

import getpass
import os
import sys
from pathlib import Path

from cerememory.cli.output import warn
from cerememory.errors import ValidationFailed

PASSPHRASE_BYTES_MAX = 65_536
PREFIX = "CEREMEMORY_"


def passphrase(
    option: str, given: str | None, from_stdin: bool, file: Path | None, *, twice: bool = False
) -> str | None:
    """What was given under `option`, in whatever way; None when it wasn't. `twice`: a new one, which a terminal is
    asked for again. Raises `ValidationFailed` when it is empty, no text, or given in several ways.
    """
    if (given is not None) + from_stdin + (file is not None) > 1:
        raise ValidationFailed(f"{option}: give it in one way only")
    if given is not None:
        warn(f"{option}: other users of this machine can see it; {option}-stdin and {option}-file hide it")
        secret = given
    elif from_stdin:
        secret = _from_terminal(option, twice) if sys.stdin.isatty() else _one_line(option, _stdin_line())
    elif file is not None:
        with file.open("rb") as opened:
            secret = _one_line(option, opened.readline(PASSPHRASE_BYTES_MAX))
    else:
        return os.environ.get(variable(option)) or None
    if not secret:
        raise ValidationFailed(f"{option}: must not be empty")
    return secret


def variable(option: str) -> str:
    """The variable of the environment that an option may come from."""
    return PREFIX + option.removeprefix("--").replace("-", "_").upper()


def _from_terminal(option: str, twice: bool) -> str:
    secret = getpass.getpass("Passphrase: ")
    if twice and getpass.getpass("Again: ") != secret:
        raise ValidationFailed(f"{option}: the two differ")
    return secret


def _stdin_line() -> bytes:
    return sys.stdin.buffer.readline(PASSPHRASE_BYTES_MAX)


def _one_line(option: str, line: bytes) -> str:
    try:
        return line.removesuffix(b"\n").removesuffix(b"\r").decode()
    except UnicodeDecodeError:
        raise ValidationFailed(f"{option}: must be UTF-8") from None
