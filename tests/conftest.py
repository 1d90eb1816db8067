"""What all tests share: none touches what the user who runs them keeps; interrupts reach what they start."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.sweep import IS_FULL, choose_seed, left_out

# How fast the machine is says nothing of the code. Properties try the same examples in every run, so that it says
# something of the change alone; a sweep draws others.
settings.register_profile("sweep", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("sample", settings.get_profile("sweep"), derandomize=True)
settings.load_profile("sweep" if IS_FULL else "sample")

# A shell without job control has what it starts in the background ignore them, and its children after it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def _state_homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Makes a new name at each call of `next`: an MCP proxy keeps what it saw of a daemon at some port."""
    base = tmp_path_factory.mktemp("state")
    return (base / str(number) for number in count())


@pytest.fixture(autouse=True)
def state_home(_state_homes: Iterator[Path]) -> Path:
    """The test's own XDG_STATE_HOME, for the processes that it starts, too; made by whoever writes there."""
    path = next(_state_homes)
    os.environ["XDG_STATE_HOME"] = str(path)
    return path


def pytest_configure(config: pytest.Config) -> None:
    choose_seed()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if without := left_out(items):
        config.hook.pytest_deselected(items=without)
        items[:] = [item for item in items if item not in set(without)]
