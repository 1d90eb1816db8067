"""The commands: their names, groups and common options, and what their command line means.

A command is registered by its import path, so that one command loads one module, and `--help` none. Its
function takes the command's own arguments and the common `Options`, and returns the exit code, None for 0.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import fields
from functools import partial
from typing import Annotated, Any

from cyclopts import App, ArgumentCollection, CycloptsError, Group, Parameter
from cyclopts.exceptions import UnknownCommandError, UnknownOptionError, UnusedCliTokensError

from cerememory import __version__
from cerememory.cli.options import DEFAULTS, Options, UsageError

Run = Callable[[], int | None]

MEMORIES = Group("Memories", sort_key=1)
JOURNAL = Group("Raw journal", sort_key=2)
SERVICE = Group("Service", sort_key=3)
OPERATION = Group("Operation", sort_key=4)
OWN = Group("Options", sort_key=5)
COMMON = Group("Options of every command", sort_key=6)

COMMANDS = (
    (MEMORIES, "store", "encode:store", "Keep a text as a memory."),
    (MEMORIES, "recall", "recall:recall", "Find memories; without a query, the newest."),
    (MEMORIES, "associate", "recall:associate", "Find what a memory is linked to."),
    (MEMORIES, "timeline", "timeline:timeline", "Show memories by the time they were made."),
    (MEMORIES, "inspect", "recall:inspect", "Show one memory with all that is known of it."),
    (MEMORIES, "update", "encode:update", "Correct a memory."),
    (MEMORIES, "forget", "lifecycle:forget", "Delete memories and raw entries."),
    (MEMORIES, "restore", "lifecycle:restore", "Bring back what decay has archived."),
    (MEMORIES, "set-mode", "lifecycle:set_mode", "Show memories as they were stored, or as remembered."),
    (MEMORIES, "load", "load:load", "Keep each line of a file as a memory."),
    (JOURNAL, "store-raw", "encode:store_raw", "Keep a text verbatim in the raw journal."),
    (JOURNAL, "recall-raw", "recall:recall_raw", "Find entries of the raw journal."),
    (JOURNAL, "dream-tick", "dream:dream_tick", "Make memories of what the raw journal holds."),
    (SERVICE, "init", "init:init", "Write a configuration with a key; show what MCP clients need."),
    (SERVICE, "serve", "serve:command", "Run the daemon."),
    (SERVICE, "mcp", "mcp:mcp", "Give an MCP client, on stdin and stdout, the tools of a daemon."),
    (SERVICE, "connect", "connect:connect", "Tell an MCP client of the daemon."),
    (SERVICE, "service", "service:app", "Make a service of the daemon, for systemd or launchd."),
    (SERVICE, "healthcheck", "health:healthcheck", "Ask whether the daemon lives."),
    (OPERATION, "consolidate", "consolidate:consolidate", "Merge duplicates, and make knowledge of memories."),
    (OPERATION, "decay-tick", "lifecycle:decay_tick", "Bring every memory's fidelity up to date."),
    (OPERATION, "compact", "lifecycle:compact", "Rid the disk of every trace of what was deleted."),
    (OPERATION, "export", "archive:export", "Write all memories into an archive."),
    (OPERATION, "import", "archive:app", "Read an archive back in; take one back."),
    (OPERATION, "redact", "redact:redact", "Take secrets out of what the raw journal has."),
    (OPERATION, "backup", "backup:backup", "Copy the data directory while the daemon serves."),
    (OPERATION, "stats", "stats:stats", "Count what is stored."),
    (OPERATION, "namespaces", "namespaces:namespaces", "List the namespaces."),
    (
        OPERATION,
        "migrate-store-encryption",
        "encryption:migrate_store_encryption",
        "Encrypt what was stored plain.",
    ),
    (
        OPERATION,
        "change-passphrase",
        "encryption:change_passphrase",
        "Put the store's keys under another passphrase.",
    ),
    (OPERATION, "rotate-key", "encryption:rotate_key", "Encrypt all anew under new keys."),
    (OPERATION, "audit-verify", "audit:audit_verify", "Check the audit log; changes nothing."),
    (OPERATION, "audit-rotate", "audit_rotate:audit_rotate", "Close the audit log's file; go on in a new one."),
    (OPERATION, "fsck", "fsck:fsck", "Check that what is stored adds up; mend indexes."),
    (OPERATION, "reindex", "reindex:reindex", "Build the search index anew from the memories."),
    (OPERATION, "key", "keys:app", "Make, list and revoke API keys."),
    (OPERATION, "doctor", "doctor:doctor", "Look for what stands in the way of the daemon."),
    (OPERATION, "torture", "torture:torture", "Kill daemons on a copy; look what is lost."),
    (OPERATION, "config", "config:app", "Check the configuration; write one."),
    (OPERATION, "schema", "schema:schema", "Show the schema of what a command prints."),
    (COMMON, "--install-completion", "completion:install", "Let the shell complete what is typed."),
)

COMMON_NAMES = tuple(f"--{field.name.replace('_', '-')}" for field in fields(Options))
DASHES = "--"


def parse(argv: list[str]) -> Run:
    """What `argv` asks for, ready to be run; help and version are printed at once. Raises `UsageError`."""
    own, literal = _split(argv)
    try:
        options, rest = _common(own)
        app = application(literal, options, named=rest)
        run: Run | None = app.meta(rest, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        raise UsageError(one_line(error)) from None
    return run or nothing


def nothing() -> None:
    """The command of `--help`."""


def _split(argv: list[str]) -> tuple[list[str], list[str]]:
    """The tokens before `--`, in which common options may stand anywhere, and the rest."""
    end = argv.index(DASHES) if DASHES in argv else len(argv)
    return argv[:end], argv[end:]


def _common(own: list[str]) -> tuple[Options, list[str]]:
    """The common options, and the tokens that are left. They are read first: a command that takes `-` for stdin
    would take them for its file, as they begin with a dash, too.
    """
    if not any(token.partition("=")[0] in COMMON_NAMES for token in own):
        return DEFAULTS, own
    reader = App(
        help_flags=(), version_flags=(), default_parameter=Parameter(negative=()), result_action="return_value"
    )

    @reader.default
    def read(
        *tokens: Annotated[str, Parameter(allow_leading_hyphen=True)],
        options: Annotated[Options, Parameter(name="*")] = DEFAULTS,
    ) -> tuple[Options, list[str]]:
        return options, list(tokens)

    parsed: tuple[Options, list[str]] = reader(own, exit_on_error=False, print_error=False)
    return parsed


def application(literal: Sequence[str] = (), given: Options = DEFAULTS, *, named: Collection[str] = ()) -> App:
    """The application; its meta application shows the common options in its help, and returns a `Run`.

    `literal` are the tokens from `--` on, `given` the common options, which are read already. Of commands among
    `named` the help has all that their functions say.
    """
    told = {name for _group, name, _path, _summary in COMMANDS if name in named}
    app = App(
        name="cerememory",
        help="A living memory for AI agents.",
        version=f"cerememory {__version__}",
        help_format="markdown" if told else "plaintext",  # markdown joins lines, and takes 50 ms to load
        group_parameters=OWN,
        default_parameter=Parameter(negative=(), show_default=shown_default),
        result_action="return_value",
    )
    for i, (group, name, path, summary) in enumerate(COMMANDS):
        shown = None if name in told and not path.endswith(":app") else summary  # None: the function's own words
        app.command(f"cerememory.cli.{path}", name=name, group=group, help=shown, sort_key=i)
    for flag in ("--help", "--version"):
        app[flag].group = COMMON

    @app.meta.default
    def bind(
        *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
        options: Annotated[Options, Parameter(name="*", group=COMMON)] = DEFAULTS,  # for the help alone
    ) -> Run:
        if not tokens:
            raise UsageError('a command is missing, "cerememory --help" lists them')
        command, bound, injected = app.parse_args([*tokens, *literal], exit_on_error=False, print_error=False)
        return partial(command, *bound.args, **bound.kwargs, **dict.fromkeys(injected, given))

    return app


def shown_default(value: object) -> Any:
    """None, which shows nothing, for what isn't given: that says nothing."""
    return None if value is None or value is False else str(value)


def one_line(error: CycloptsError, common_names: tuple[str, ...] = COMMON_NAMES) -> str:
    """cyclopts' message, but for the errors of which it knows too little (common options) or loads too much."""
    if isinstance(error, UnknownCommandError) and error.unused_tokens and error.app is not None:
        return _unknown("command", error.unused_tokens[0], error.app)
    if isinstance(error, UnknownOptionError):
        names = (name for argument in error.argument_collection for name in argument.names)
        given = error.token.keyword or error.token.value
        return _unknown("option", given, [*names, *common_names]) + _if_text(given, error.argument_collection)
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
