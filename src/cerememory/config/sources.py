"""Where settings come from: command line, environment, TOML file, default, the first that says something.

`load` reads every source whole and raises one `ConfigInvalid` that lists all it can't read, one problem a
line: names that no key has, values of another type, a file that isn't there. Whether the daemon may start
with what was read is the question of `config.checks`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from cerememory.config.keys import (
    BY_NAME,
    BY_VARIABLE,
    KEYS,
    PREFIX,
    SECTIONS,
    SPECIAL_VARIABLES,
    Key,
    build,
    did_you_mean,
)
from cerememory.config.settings import Settings
from cerememory.config.values import from_text, to_type
from cerememory.errors import ConfigInvalid

DEFAULT = "default"
COMMAND_LINE = "command line"
FILE_BYTES_MAX = 1_048_576
BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # some editors write one
CONFIG_VARIABLE = "CEREMEMORY_CONFIG"
# Variables that are no keys: read by clients, by single commands, by the recorder and by tests.
OTHER_VARIABLES = frozenset(
    {
        CONFIG_VARIABLE,
        "CEREMEMORY_SERVER_API_KEY",
        "CEREMEMORY_ENCRYPTION_KEY",
        "CEREMEMORY_DECRYPTION_KEY",
        "CEREMEMORY_NEW_PASSPHRASE",
    }
)
OTHER_PREFIXES = ("CEREMEMORY_RECORDER_", "CEREMEMORY_TEST_")


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings and where each came from: `origins` has every key by its dotted name.

    An origin is "command line", "environment NAME", the file's path, or "default".
    """

    settings: Settings
    origins: Mapping[str, str]
    config_path: Path | None


def load(
    config_path: Path | None,
    environ: Mapping[str, str],
    overrides: Mapping[str, object],
    *,
    only: Collection[str] = (),
) -> Loaded:
    """The settings of this process, or `ConfigInvalid` with a line for each problem.

    `config_path` None stands for the file that CEREMEMORY_CONFIG names, if it names one. `overrides` are the
    command line's values by dotted name; None means not given. `only` names the few keys that a command
    uses: whatever is wrong with others is none of its business.
    """
    reading = _Reading(home=environ.get("HOME", ""), only=frozenset(only))
    path, named_by = config_path, COMMAND_LINE
    if path is None and environ.get(CONFIG_VARIABLE):
        path, named_by = Path(environ[CONFIG_VARIABLE]), f"environment {CONFIG_VARIABLE}"
    if path is not None:
        _read_file(reading, path, named_by)
    _read_environment(reading, environ)
    _read_command_line(reading, overrides)
    return Loaded(reading.settings(), reading.origins(), path)


@dataclass
class _Reading:
    """Values and problems so far; what is accepted later wins."""

    home: str
    only: frozenset[str]
    values: dict[str, object] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def accept(self, key: Key, value: object, origin: str) -> None:
        try:
            self.values[key.dotted] = to_type(key, value, self.home)
            self.sources[key.dotted] = origin
        except ValueError as error:
            self.refuse(key.dotted, str(error), origin)

    def accept_text(self, key: Key, text: str, origin: str) -> None:
        try:
            self.accept(key, from_text(key, text), origin)
        except ValueError as error:
            self.refuse(key.dotted, str(error), origin)

    def refuse(self, name: str, reason: str, origin: str) -> None:
        if not self.only or name in self.only:
            self.problems.append(f"{name}: {reason} ({origin})")

    def settings(self) -> Settings:
        if self.problems:
            raise ConfigInvalid("\n".join(self.problems))
        return build(self.values)

    def origins(self) -> Mapping[str, str]:
        return MappingProxyType({key.dotted: self.sources.get(key.dotted, DEFAULT) for key in KEYS})


def _read_file(reading: _Reading, path: Path, named_by: str) -> None:
    try:
        document = _parse_toml(path)
    except OSError as error:
        reading.problems.append(f"{path}: can't be read: {error.strerror} ({named_by})")
    except ValueError as error:
        reading.problems.append(f"{path}: {error}")
    else:
        for name, value in document.items():
            _read_item(reading, name, value, str(path))


def _parse_toml(path: Path) -> dict[str, object]:
    with path.open("rb") as stream:
        content = stream.read(FILE_BYTES_MAX + 1)
    if len(content) > FILE_BYTES_MAX:
        raise ValueError(f"is larger than {FILE_BYTES_MAX:,} bytes")
    try:
        return tomllib.loads(content.removeprefix(BYTE_ORDER_MARK).decode())
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"is not valid UTF-8 (at line {line})") from None
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"is not valid TOML: {_with_line(str(error), content)}") from None
    except RecursionError:
        raise ValueError("is not valid TOML: nested too deeply") from None


def _with_line(reason: str, content: bytes) -> str:
    """`reason` with the line's number where tomllib says "at end of document" instead."""
    last_line = len(content.splitlines()) or 1
    return reason.replace("(at end of document)", f"(at line {last_line}, the end)")


def _read_item(reading: _Reading, name: str, value: object, origin: str) -> None:
    """One item of the file's top level: a section, or a key that has none."""
    if name in SECTIONS:
        _read_section(reading, name, value, origin)
    elif name in BY_NAME and "." in name:
        reading.refuse(name, "the name must not be quoted", origin)
    elif name in BY_NAME:
        reading.accept(BY_NAME[name], value, origin)
    elif isinstance(value, dict):
        reading.refuse(name, f"unknown section{did_you_mean(name, SECTIONS)}", origin)
    else:
        reading.refuse(name, f"unknown key{did_you_mean(name, BY_NAME)}", origin)


def _read_section(reading: _Reading, section: str, table: object, origin: str) -> None:
    if not isinstance(table, dict):
        reading.refuse(section, f"expected a section, [{section}], got a value", origin)
        return
    for name, value in table.items():
        dotted = f"{section}.{name}"
        if dotted in BY_NAME:
            reading.accept(BY_NAME[dotted], value, origin)
        else:
            reading.refuse(dotted, f"unknown key{did_you_mean(dotted, BY_NAME)}", origin)


def _read_environment(reading: _Reading, environ: Mapping[str, str]) -> None:
    ours = sorted(name for name in environ if name.startswith(PREFIX) and not _is_other(name))
    for name in sorted(ours, key=SPECIAL_VARIABLES.__contains__):  # the special names last: they win
        if name in BY_VARIABLE:
            reading.accept_text(BY_VARIABLE[name], environ[name], f"environment {name}")
        else:
            reading.refuse(name, f"unknown variable{_meant_variable(name)}", "environment")


def _is_other(name: str) -> bool:
    return name in OTHER_VARIABLES or name.startswith(OTHER_PREFIXES)


def _meant_variable(name: str) -> str:
    """As `did_you_mean`, without the prefix that all names share and that would make all alike."""
    known = [each.removeprefix(PREFIX) for each in (*BY_VARIABLE, *OTHER_VARIABLES)]
    return did_you_mean(name.removeprefix(PREFIX), known, PREFIX)


def _read_command_line(reading: _Reading, overrides: Mapping[str, object]) -> None:
    for name, value in overrides.items():
        if value is None:
            continue
        if name in BY_NAME:
            reading.accept(BY_NAME[name], value, COMMAND_LINE)
        else:
            reading.refuse(name, f"unknown key{did_you_mean(name, BY_NAME)}", COMMAND_LINE)
