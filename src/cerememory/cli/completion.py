"""`--install-completion` of both programs: what a shell needs to complete commands, options and their choices.

The script is made by the library for command lines, from all commands as they are now, which loads them all, once.
A shell that reads it needs neither: nothing of ours runs while somebody types. After an upgrade it is to be made
anew.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from cyclopts import App
from cyclopts.completion import ShellDetectionError, detect_shell

from cerememory.cli.app import application
from cerememory.cli.arguments import Common, FileOrStdin
from cerememory.cli.options import Options, UsageError
from cerememory.cli.output import show
from cerememory.errors import ValidationFailed
from cerememory.home import user_home

ShellName = Literal["bash", "zsh", "fish"]
SHELLS: tuple[ShellName, ...] = ("bash", "zsh", "fish")
STDOUT = Path("-")


def install(*, shell: ShellName | None = None, output: FileOrStdin | None = None, options: Common) -> None:
    """Write what the shell needs to complete commands and options, where it looks for that.

    The start-up file of bash and zsh (.bashrc, .zshrc) gets a line that loads it. To be done again after upgrades.

    Args:
        shell: bash, zsh or fish; without this, the one that this is run from.
        output: Write it there and nothing else; - prints it.
    """
    complete(application(), shell, output, options)


def complete(app: App, shell: ShellName | None, output: Path | None, options: Options) -> None:
    """Print or write the script of `app`. Raises `ValidationFailed` when it can't be written."""
    chosen = shell or _own_shell()
    if output == STDOUT:
        print(app.generate_completion(shell=chosen), end="")
        return
    if output is None:
        user_home("--install-completion without --output")
    try:
        path = app.install_completion(shell=chosen, output=output, add_to_startup=output is None)
    except OSError as error:
        raise ValidationFailed(f"{error.filename or output}: can't be written: {error.strerror}") from error
    show({"shell": chosen, "path": str(path)}, options, _told)


def _own_shell() -> ShellName:
    try:
        found: str | None = detect_shell()
    except ShellDetectionError:
        found = None
    for shell in SHELLS:
        if shell == found:
            return shell
    raise UsageError("--shell: which one is meant, bash, zsh or fish?")


def _told(answer: dict[str, Any]) -> str:
    return f"Wrote {answer['path']}; a new {answer['shell']} completes with Tab"
