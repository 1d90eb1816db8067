"""What starts a command and waits for it; how long that takes, no test says."""

from __future__ import annotations

import pytest
from bench.client import BenchFailed
from bench.commands import command_s, installed_mib, loading_s, needed, proxy_s, wheel_mib

NOBODY = ("127.0.0.1", 9)


def test_a_command_and_the_modules_of_one_take_their_time() -> None:
    assert command_s("--version") > 0
    assert loading_s(("cerememory.errors",)) > 0


def test_a_command_that_fails_is_not_measured() -> None:
    with pytest.raises(BenchFailed, match=r"cerememory nonsense ended with 2: .*unknown command"):
        command_s("nonsense")


def test_the_proxy_answers_before_it_has_a_daemon() -> None:
    assert proxy_s(NOBODY) > 0


def test_what_is_installed_is_all_that_it_needs_and_no_extra() -> None:
    names = needed()
    assert {"trio", "numpy", "attrs"} <= names
    assert not {"pytest", "mypy", "cerememory"} & names


def test_a_wheel_is_a_small_part_of_what_is_installed() -> None:
    assert 0.1 < wheel_mib() < installed_mib() / 10
