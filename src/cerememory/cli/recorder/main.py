"""`cerememory-recorder`; exit codes and errors are those of `cerememory`."""

from __future__ import annotations

import sys

from cerememory.cli.main import Command, begin, kept
from cerememory.cli.main import run as run_command

VERBOSE = "--verbose"


def main() -> None:
    begin()
    sys.exit(run_command(sys.argv[1:], kept(command)))


def run(argv: list[str]) -> int:
    """The exit code of the command that `argv` names."""
    return run_command(argv, command)


def command(argv: list[str]) -> Command:
    """The command that `argv` means.

    A hook waits for what it usually says, so that is read without the library for command lines.
    """
    if argv[:2] == ["ingest", "--detach"]:
        from cerememory.cli.recorder.quick import usual

        if (detached := usual(argv[2:])) is not None:
            return detached
    from cerememory.cli.recorder.app import parse

    return parse([argument for argument in argv if argument != VERBOSE])


if __name__ == "__main__":
    main()
