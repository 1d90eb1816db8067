"""The fault shim, compiled once a session, and daemons under it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.shim import Shim, build_library


@pytest.fixture(scope="session")
def shim_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_library(tmp_path_factory.mktemp("shim"))


@pytest.fixture
def shim(tmp_path: Path, shim_library: Path) -> Shim:
    """No fault yet; `environment()` goes to the process that is to have some."""
    return Shim(tmp_path, shim_library)
