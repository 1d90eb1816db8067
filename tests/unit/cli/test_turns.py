"""Whose turn it is with a data dir: a command is waited for, a daemon isn't."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cerememory.cli import turns
from cerememory.cli.turns import take
from cerememory.errors import DataDirLocked
from cerememory.storage.datadir import DataDir


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


def test_what_nobody_has_is_taken_at_once(data_dir: Path) -> None:
    said: list[str] = []
    with take(data_dir, said.append), pytest.raises(DataDirLocked):
        DataDir.acquire(data_dir)
    assert said == []


def test_a_daemon_is_named_at_once(data_dir: Path) -> None:
    said: list[str] = []
    with DataDir.acquire(data_dir) as daemon:
        daemon.announce("127.0.0.1:9")
        refused = pytest.raises(
            DataDirLocked, match=f"process {os.getpid()} at 127.0.0.1:9; stop it or use another"
        )
        with refused:
            take(data_dir, said.append)
    assert said == []


def test_a_daemon_that_is_starting_is_named_as_soon_as_it_is_known(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "TOLD_AFTER_S", 0.0)
    refused = pytest.raises(DataDirLocked, match=r"at 127\.0\.0\.1:9; stop it")
    with DataDir.acquire(data_dir) as daemon, refused:
        take(data_dir, lambda _message: daemon.announce("127.0.0.1:9"))


def test_a_command_that_never_ends_isnt_waited_for_for_ever(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "FREE_WITHIN_S", 0.0)
    with DataDir.acquire(data_dir) as command:
        command.announce("")
        with pytest.raises(DataDirLocked, match=f"process {os.getpid()}, a command; try again when it is done"):
            take(data_dir, print)
