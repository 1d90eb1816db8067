"""What every command takes, before or after its name; and what it raises when that means nothing.

They are read here, and not by the library for command lines: with it, a command that takes `-` for stdin would
take them for its file, as they begin with a dash, too; and it needs longer for them than for the command itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import Field, dataclass, fields
from pathlib import Path
from typing import Any

from cerememory.errors import ValidationFailed

KEY_VARIABLE = "CEREMEMORY_SERVER_API_KEY"
KEY_BYTES_MAX = 4_096
DIGITS_MAX = 20  # of an integer
DASHES = "--"  # what stands behind them is text
TRUE, FALSE = ("true", "t", "yes", "y", "1"), ("false", "f", "no", "n", "0")


class UsageError(Exception):
    """A command line that means nothing; the message is one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of every command.

    Attributes:
        data_dir: The data directory (data_dir).
        config: A TOML file with the configuration.
        server_url: Ask the daemon at this URL, with the key in CEREMEMORY_SERVER_API_KEY if there is one.
        server_api_key_file: Read that key from this file.
        namespace: The namespace of the memories, apart from all others.
        offline: Work on the data directory itself, which no daemon may own.
        json: Print JSON.
        verbose: Log more, and show where an unexpected error came from.
    """

    data_dir: Path | None = None
    config: Path | None = None
    server_url: str | None = None
    server_api_key_file: Path | None = None
    namespace: str | None = None
    offline: bool = False
    json: bool = False
    verbose: bool = False


DEFAULTS = Options()
COMMON_FIELDS: dict[str, Field[Any]] = {f"--{field.name.replace('_', '-')}": field for field in fields(Options)}
"""By the name of the option."""


def value_name(field: Field[Any]) -> str:
    """What help calls the value of an option: PATH, STR; empty for a flag."""
    kind = str(field.type).removesuffix(" | None")
    return "" if kind == "bool" else kind.upper()


def read_common(argv: Sequence[str]) -> tuple[Options, list[str], list[str]]:
    """The common options; what else stands before `--`; `--` and what stands behind it. Raises `UsageError`."""
    end = argv.index(DASHES) if DASHES in argv else len(argv)
    given: dict[str, Any] = {}
    rest = []
    tokens = iter(argv[:end])
    for token in tokens:
        name, is_joined, joined = token.partition("=")
        field = COMMON_FIELDS.get(name)
        if field is None:
            rest.append(token)
            continue
        value = _read(name, field, joined if is_joined else None, tokens)
        if field.name in given:
            raise UsageError(f"parameter {name} specified multiple times.")
        given[field.name] = value
    return Options(**given), rest, list(argv[end:])


def command_of(argv: Sequence[str]) -> str | None:
    """The command that `argv` names; None when it names none, or means nothing."""
    with suppress(UsageError):
        _options, rest, _literal = read_common(argv)
        return rest[0] if rest else None
    return None


def _read(name: str, field: Field[Any], joined: str | None, following: Iterator[str]) -> Any:
    """The value of an option: behind its `=` (`joined`), else the first of the `following` tokens."""
    kind = value_name(field)
    if not kind:
        return True if joined is None else _truth(name, joined)
    value = next(following, None) if joined is None else joined
    if value is None or (joined is None and _is_like_option(value)):
        raise UsageError(f"parameter {name} requires an argument.")
    if kind == "PATH" and not value:  # a variable that isn't set; it would be the current folder
        raise UsageError(f"parameter {name} must not be empty.")
    return Path(value) if kind == "PATH" else value


def _truth(name: str, value: str) -> bool:
    if value.lower() in (*TRUE, *FALSE):
        return value.lower() in TRUE
    raise UsageError(f'invalid value for {name}: unable to convert "{value}" into bool.')


def _is_like_option(token: str) -> bool:
    """Whether it begins as an option does; a number below zero does, but is none."""
    with suppress(ValueError):
        float(token)
        return False
    return token.startswith("-")


def is_whole(text: str, most: int) -> bool:
    """Whether it is a number from 1 to `most`, and nothing else."""
    return text.isascii() and text.isdecimal() and len(text) <= DIGITS_MAX and 1 <= int(text) <= most


def server_key(file: Path | None) -> str | None:
    """The key for a daemon at a URL: the first line of `file`, else that of the environment; None without both."""
    if file is None:
        return os.environ.get(KEY_VARIABLE) or None
    with file.open("rb") as opened:
        line = opened.readline(KEY_BYTES_MAX).decode(errors="replace").rstrip("\r\n")
    if not line:
        raise ValidationFailed("--server-api-key-file: its first line is empty")
    return line
