"""The entry point of `cerememory-recorder`; exit codes and errors are those of `cerememory`."""

from __future__ import annotations

import os
import sys

from cerememory.cli.main import NOBODY_ELSE
from cerememory.cli.main import run as run_command

VERBOSE = "--verbose"


def main() -> None:
    os.umask(NOBODY_ELSE)
    sys.exit(run(sys.argv[1:]))


def run(argv: list[str]) -> int:
    """The exit code of the command that `argv` names."""
    return run_command(argv, _perform)


def _perform(argv: list[str]) -> int:
    """A hook waits for what it usually says, so that is read without the library for command lines."""
    if argv[:2] == ["ingest", "--detach"]:
        from cerememory.cli.recorder.quick import usual

        if (detached := usual(argv[2:])) is not None:
            return detached()
    from cerememory.cli.recorder.app import parse

    return parse([argument for argument in argv if argument != VERBOSE])() or 0


if __name__ == "__main__":
    main()
