"""Some lives of the daemon, and whether they are what they say: always the same, and able to find what is wrong.

`make simulate` lives 10,000. When one fails, its seed is shown, and `python -m tests.simulation --seed N` lives it
again.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.bugs import BUGS
from tests.simulation.life import live
from tests.simulation.sweep import first_found, live_all
from tests.simulation.world import deterministic

ROOT = Path(__file__).parents[2]
SEEDS = range(200)
CHUNK = 10
PROCESS_S = 60


@pytest.mark.sample(8)
@pytest.mark.parametrize("start", SEEDS[::CHUNK])
def test_nothing_is_lost_doubled_or_reordered_in_any_life(start: int) -> None:
    outcomes = live_all(range(start, start + CHUNK))
    assert [f"seed {each.seed}: {each.violation}" for each in outcomes if each.violation is not None] == []
    assert sum(each.cuts for each in outcomes) > 0
    assert sum(each.acknowledged for each in outcomes) > CHUNK


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found(bug: str) -> None:
    assert first_found(bug, SEEDS) is not None


@pytest.mark.parametrize("seed", [3, 5])
def test_a_seed_is_one_life_in_any_process(seed: int) -> None:
    here, again = live(seed), live(seed)
    assert len(here.lines) > 20
    assert again == here
    for hash_seed in ("1", "2"):  # the order of sets and dicts of strings differs
        lines = _shown(seed, hash_seed)
        assert lines[: len(here.lines)] == [*here.lines]
        assert lines[-1].endswith(f"history {here.digest}")


def _shown(seed: int, hash_seed: str) -> list[str]:
    command = [sys.executable, "-m", "tests.simulation", "--seed", str(seed)]
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    shown = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PROCESS_S, check=True
    )
    return shown.stdout.splitlines()


def test_another_seed_is_another_life() -> None:
    assert len({live(seed).digest for seed in range(5)}) == 5


def test_a_trio_without_its_hook_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(importlib.import_module("trio._core._run"), "_r")
    with pytest.raises(RuntimeError, match="find its hook"), deterministic(0):
        pass
