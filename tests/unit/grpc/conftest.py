from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.logged import Logged, quiet


@pytest.fixture(autouse=True)
def logged() -> Iterator[Logged]:
    """Every test's log lines; no failpoint stays armed behind a test."""
    with quiet() as kept:
        yield kept
