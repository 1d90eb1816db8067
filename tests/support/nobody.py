"""A user without a home: no HOME, and none whom the system knows, as in a container with a free user id."""

from __future__ import annotations

import pwd
from typing import NoReturn

import pytest


def no_home(patch: pytest.MonkeyPatch) -> None:
    def unknown(user_id: int) -> NoReturn:
        raise KeyError(user_id)

    for name in ("HOME", "XDG_STATE_HOME"):
        patch.delenv(name, raising=False)
    patch.setattr(pwd, "getpwuid", unknown)
