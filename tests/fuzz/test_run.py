"""The command that fuzzes: what it counts, what it keeps, and that it finds what is there to be found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.fuzz import run
from tests.fuzz.targets import BY_NAME, Target


def careless(data: bytes) -> None:
    """Reads a length and as many bytes, as long as there is room for the length."""
    if len(data) > 4:
        data[5 + data[4]]


@pytest.fixture(autouse=True)
def at_random(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whether atheris is there or not; what crashes is left in the working directory."""
    monkeypatch.setattr(run, "find_spec", lambda name: None)
    monkeypatch.chdir(tmp_path)


def test_a_run_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = ["codecs", "--seconds", "0.1", "--seed", "7", "--target", "values", "--target", "framing"]
    assert run.main([*told, "--report", "report.json"]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    details = report.pop("details")
    assert report == {"what": "fuzz", "runs": sum(details["runs"].values()), "points": 2, "losses": 0}
    assert (details["seed"], details["engine"], details["crashes"]) == (
        7,
        "random mutations",
        {"values": 0, "framing": 0},
    )
    assert min(details["runs"].values()) > 0
    assert "seed 7" in capsys.readouterr().out


def test_an_input_that_crashes_is_found_and_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BY_NAME, "values", Target("values", careless, (b"abcd\x03efgh",)))
    assert run.main(["codecs", "--seconds", "30", "--target", "values"]) == 1
    [left] = tmp_path.glob("crash-values-*")
    with pytest.raises(IndexError):
        careless(left.read_bytes())
