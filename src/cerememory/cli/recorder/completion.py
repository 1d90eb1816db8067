"""`cerememory-recorder --install-completion`."""

from __future__ import annotations

from cerememory.cli.arguments import FileOrStdin
from cerememory.cli.completion import ShellName, complete
from cerememory.cli.options import DEFAULTS
from cerememory.cli.recorder.app import application


def install(*, shell: ShellName | None = None, output: FileOrStdin | None = None) -> None:
    """Write what the shell needs to complete commands and options, where it looks for that.

    Args:
        shell: bash, zsh or fish; without this, the one that this is run from.
        output: Write it there and nothing else; - prints it.
    """
    complete(application(), shell, output, DEFAULTS)
