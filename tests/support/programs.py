"""What tests need beside Python: where it isn't there they fail, with one line that says what to install."""

from __future__ import annotations

import shutil
from typing import NoReturn

import pytest

PACKAGES = ("gcc", "libc6-dev", "strace", "curl", "util-linux")  # the names that Debian has for them


def require(program: str) -> None:
    if shutil.which(program) is None:
        missing(program)


def missing(what: str) -> NoReturn:
    pytest.fail(f"{what} is missing: make test needs {', '.join(PACKAGES)} (Debian's names)", pytrace=False)
