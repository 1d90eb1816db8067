"""The folder of the user who runs this, for whoever looks for something there."""

from __future__ import annotations

from pathlib import Path

from cerememory.errors import ValidationFailed


def user_home(needed_by: str) -> Path:
    """`ValidationFailed`, which says what it is `needed_by`, when nobody knows it.

    That is without HOME, for a user whom the system doesn't know either, as containers have them.
    """
    return expanded(Path("~"), needed_by)


def expanded(path: Path, needed_by: str) -> Path:
    """`path` with the home that a ~ in front stands for, also with a user's name; otherwise as `user_home`."""
    try:
        return path.expanduser()
    except RuntimeError:
        named = path.parts[0]
        lack = "HOME to be set" if named == "~" else f"the home of {named[1:]!r}, whom the system doesn't know"
        raise ValidationFailed(f"{needed_by} needs {lack}") from None
