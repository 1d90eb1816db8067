"""What a command line of `cerememory` means.

A command (`commands`) is registered by its import path, so that one command loads one module. Its
function takes the command's own arguments and the common `Options`, and returns the exit code, None for 0.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Annotated, Any

from cyclopts import App, ArgumentCollection, CycloptsError, Group, Parameter
from cyclopts.exceptions import UnknownCommandError, UnknownOptionError, UnusedCliTokensError

from cerememory import __version__
from cerememory.cli import commands
from cerememory.cli.commands import COMMANDS, FLAGS, asks_for_help
from cerememory.cli.options import COMMON_FIELDS, DASHES, DEFAULTS, Options, UsageError, read_common

Run = Callable[[], int | None]

GROUPS = {title: Group(title, sort_key=i) for i, title in enumerate(commands.GROUPS)}
OWN, COMMON = GROUPS[commands.OWN], GROUPS[commands.COMMON]


def parse(argv: list[str]) -> Run:
    """What `argv` asks for, ready to be run; help and version are commands, too. Raises `UsageError`."""
    options, words, literal = read_common(argv)
    if not words:
        raise UsageError('a command is missing, "cerememory --help" lists them')
    app = application(named=words)
    reader = app.meta if asks_for_help(words) else app  # which is twice as fast
    try:
        command, bound, injected = reader.parse_args([*words, *literal], exit_on_error=False, print_error=False)
    except CycloptsError as error:
        raise UsageError(one_line(error)) from None
    return partial(command, *bound.args, **bound.kwargs, **dict.fromkeys(injected, options))


def application(*, named: Collection[str] = ()) -> App:
    """The application; its meta application is there for the help of a command, which shows the common options.

    Of commands among `named` the help has all that their functions say.
    """
    told = {name for _group, name, _path, _summary in COMMANDS if name in named}
    app = App(
        name="cerememory",
        help=commands.ABOUT,
        version=f"cerememory {__version__}",
        help_format="markdown" if told else "plaintext",  # markdown joins lines, and takes 50 ms to load
        group_parameters=OWN,
        default_parameter=Parameter(negative=(), show_default=shown_default),
        result_action="return_value",
    )
    for i, (group, name, path, summary) in enumerate(COMMANDS):
        shown = None if name in told and not path.endswith(":app") else summary  # None: the function's own words
        app.command(f"cerememory.cli.{path}", name=name, group=GROUPS[group], help=shown, sort_key=i)
    for names, said in FLAGS:
        app[names[0]].group = COMMON
        app[names[0]].help = said
    app.meta.default(_common)
    return app


def _common(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    options: Annotated[Options, Parameter(name="*", group=COMMON)] = DEFAULTS,
) -> None:
    """What help shows of the common options; never called, as `read_common` reads them."""


def shown_default(value: object) -> Any:
    """None, which shows nothing, for what isn't given: that says nothing."""
    return None if value is None or value is False else str(value)


def one_line(error: CycloptsError, common_names: Iterable[str] = tuple(COMMON_FIELDS)) -> str:
    """cyclopts' message, but for the errors of which it knows too little (common options) or loads too much."""
    if isinstance(error, UnknownCommandError) and error.unused_tokens and error.app is not None:
        return _unknown("command", error.unused_tokens[0], error.app)
    if isinstance(error, UnknownOptionError):
        names = (name for argument in error.argument_collection for name in argument.names)
        given = error.token.keyword or error.token.value
        known = [*names, *common_names]
        if given in known:
            return f"{given} stands behind --, where all is text; put it before"
        return _unknown("option", given, known) + _if_text(given, error.argument_collection)
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        return f"unexpected argument {error.unused_tokens[0]!r}; put a text of several words in quotes"
    message = " ".join(str(error).split())
    return message[:1].lower() + message[1:]


def _if_text(given: str, arguments: ArgumentCollection) -> str:
    """What helps when a text was meant, as no option has blanks or one dash alone."""
    takes_text = any(argument.field_info.is_positional for argument in arguments)
    is_like_one = " " in given or not given.startswith(DASHES)
    return "; put -- before a text that begins with a dash" if takes_text and is_like_one else ""


def _unknown(what: str, given: str, known: Iterable[str]) -> str:
    meant = difflib.get_close_matches(given, known, n=1)
    return f"unknown {what} {given!r}" + (f", did you mean {meant[0]}?" if meant else "")
