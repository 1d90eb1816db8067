"""The commands of `cerememory-recorder`, registered by their import paths as those of `cerememory` are."""

from __future__ import annotations

from functools import partial

from cyclopts import App, CycloptsError, Parameter

from cerememory import __version__
from cerememory.cli.app import Run, one_line, shown_default
from cerememory.cli.options import UsageError

COMMANDS = (
    ("ingest", "ingest:ingest", "Record the Capture Events on stdin, one JSON object a line."),
    ("drain", "ingest:drain", "Send what waits in the spool."),
    ("doctor", "doctor:doctor", "Look whether recording works."),
    ("install-hook", "hooks:install_hook", "Write a hook for a coding agent, and an example of its settings."),
    ("--install-completion", "completion:install", "Let the shell complete what is typed."),
)


def parse(argv: list[str]) -> Run:
    """What `argv` asks for, ready to be run; help and version are printed at once. Raises `UsageError`."""
    app = application()
    if not argv:
        raise UsageError('a command is missing, "cerememory-recorder --help" lists them')
    try:
        command, bound, _injected = app.parse_args(argv, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        raise UsageError(one_line(error, ())) from None
    return partial(command, *bound.args, **bound.kwargs)


def application() -> App:
    app = App(
        name="cerememory-recorder",
        help="Records what coding agents see into a Cerememory daemon's raw journal.",
        version=f"cerememory-recorder {__version__}",
        help_format="plaintext",
        default_parameter=Parameter(negative=(), show_default=shown_default),
        result_action="return_value",
    )
    for i, (name, path, summary) in enumerate(COMMANDS):
        app.command(f"cerememory.cli.recorder.{path}", name=name, help=summary, sort_key=i)
    return app
