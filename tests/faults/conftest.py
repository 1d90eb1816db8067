"""The fault shim, compiled once a session, and what is run under it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.crashes import Mutator, make_base
from tests.support.shim import Shim, build_library

IN_MEMORY = Path("/dev/shm")


@pytest.fixture(scope="session")
def shim_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_library(tmp_path_factory.mktemp("shim"))


@pytest.fixture
def shim(tmp_path: Path, shim_library: Path) -> Shim:
    """No fault yet; `environment()` goes to the process that is to have some."""
    return Shim(tmp_path, shim_library)


@pytest.fixture(scope="session")
def mutator_shim(tmp_path_factory: pytest.TempPathFactory, shim_library: Path) -> Shim:
    """That of `mutator`."""
    return Shim(tmp_path_factory.mktemp("mutator"), shim_library)


@pytest.fixture(scope="session")
def mutator(mutator_shim: Shim) -> Iterator[Mutator]:
    with Mutator(mutator_shim.environment()) as process:
        yield process


@pytest.fixture(scope="session")
def base(mutator: Mutator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What mutations are played on, each on its own copy."""
    return make_base(mutator, tmp_path_factory.mktemp("base") / "data")


@pytest.fixture
def fast_path(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: for what is killed a hundred times, and never asks for a disk."""
    if not os.access(IN_MEMORY, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        yield Path(folder)
