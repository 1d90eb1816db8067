"""The commands of both command lines, with their arguments, as the command lines themselves know them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from cyclopts import App, ArgumentCollection
from docs.generate.markdown import code, codes, sentence, table

from cerememory.cli import app as daemon_app
from cerememory.cli.commands import COMMANDS
from cerememory.cli.recorder import app as recorder_app

HEADS = ("argument", "default", "meaning")
FLAG = "-"  # what begins so is an option, also where it is registered as a command


@dataclass(frozen=True)
class Command:
    """`name` is all that is typed before its arguments; `arguments` are those of cyclopts."""

    group: str
    name: str
    summary: str
    arguments: tuple[Any, ...]

    @property
    def options(self) -> frozenset[str]:
        return frozenset(name for argument in self.arguments for name in argument.names if name.startswith(FLAG))

    @property
    def head(self) -> str:
        words = [_usage(argument) for argument in self.arguments if not argument.names[0].startswith(FLAG)]
        return " ".join([self.name, *words])


@cache
def daemon_commands() -> tuple[Command, ...]:
    """Those of `cerememory`."""
    app = daemon_app.application()
    rows = [row for row in COMMANDS if not row[1].startswith(FLAG)]
    return tuple(
        command
        for group, name, _path, summary in rows
        for command in _read(app[name], app, group, f"cerememory {name}", summary)
    )


@cache
def recorder_commands() -> tuple[Command, ...]:
    """Those of `cerememory-recorder`."""
    app = recorder_app.application()
    rows = [row for row in recorder_app.COMMANDS if not row[0].startswith(FLAG)]
    return tuple(
        command
        for name, _path, summary in rows
        for command in _read(app[name], app, "", f"cerememory-recorder {name}", summary)
    )


@cache
def common() -> Command:
    """What every command of `cerememory` takes."""
    app = daemon_app.application()
    return Command("", "cerememory", "", _arguments(app.meta, app))


def _read(command: App, root: App, group: str, name: str, summary: str) -> Iterator[Command]:
    """A command, and all that stand below it."""
    if command.default_command is not None:
        prose = (inspect.getdoc(command.default_command) or "").partition("\nArgs:")[0]
        yield Command(group, name, sentence(prose or summary), _arguments(command, root))
    for part in command:
        if not part.startswith(FLAG):
            yield from _read(command[part], root, group, f"{name} {part}", "")


def _arguments(command: App, root: App) -> tuple[Any, ...]:
    """Those that somebody may give, in their order."""
    found: ArgumentCollection = command.assemble_argument_collection(
        default_parameter=root.default_parameter, parse_docstring=True
    )
    return tuple(argument for argument in found if argument.show)


def commands() -> str:
    """Every command of `cerememory`, by group."""
    by_group: dict[str, list[str]] = {}
    for command in daemon_commands():
        by_group.setdefault(command.group, [f"## {command.group}\n"]).extend(_shown(command))
    return "\n".join(part for parts in by_group.values() for part in parts)


def common_options() -> str:
    flags = [(code(name), "", said) for _group, name, _path, said in COMMANDS if name.startswith(FLAG)]
    return table(HEADS, [*_rows(common().arguments), *flags])


def of_recorder() -> str:
    """Every command of `cerememory-recorder`."""
    return "\n".join(part for command in recorder_commands() for part in _shown(command))


def _shown(command: Command) -> Iterator[str]:
    yield f"### {command.head}\n"
    yield f"{command.summary}\n"
    if command.arguments:
        yield table(HEADS, _rows(command.arguments))


def _usage(argument: Any) -> str:
    name = argument.names[0]
    many = "…" if argument.field_info.kind is inspect.Parameter.VAR_POSITIONAL else ""
    return f"{name}{many}" if argument.required else f"[{name}{many}]"


def _rows(arguments: tuple[Any, ...]) -> Iterator[tuple[str, str, str]]:
    return ((code(", ".join(argument.names)), _default(argument), _meaning(argument)) for argument in arguments)


def _default(argument: Any) -> str:
    if argument.required:
        return "required"
    default = argument.field_info.default
    return "" if default in (None, False, (), inspect.Parameter.empty) else code(str(default))


def _meaning(argument: Any) -> str:
    choices = argument.get_choices() or ()
    said = sentence(argument.parameter.help or "")
    return f"{said} One of {codes(choices)}." if choices else said
