"""A sample of what `make fuzz` asks of the daemon, and that the fuzzer sees what is wrong.

It runs in a process of its own: the library changes how tests are collected and how warnings are shown.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.sweep import run_seed

SECONDS = 6
ENDS_S = 180  # what comes on top is the start of the daemon, and one operation on a busy machine

LYING = """
import sys
from tests.fuzz import http
asked = http.described
def lies(url):
    document = asked(url)
    stats = document["paths"]["/v1/introspect/stats"]["get"]["responses"]
    stats["204"] = stats.pop("200")
    documented = document["paths"]["/v1/introspect/evolution"]["get"]["responses"]["200"]
    documented["content"]["application/json"]["schema"] = {"type": "array"}
    document["paths"] = {p: m for p, m in document["paths"].items() if p.endswith(("stats", "evolution", "mode"))}
    body = document["paths"]["/v1/lifecycle/mode"]["put"]["requestBody"]["content"]["application/json"]
    body["schema"] = {"type": "object", "required": ["mode"], "properties": {"mode": {"type": "integer"}}}
    return document
http.described = lies
findings = http.Findings()
http.ask_everything(findings, seed=1, seconds=2)
print(sorted(findings.failed))
"""


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        timeout=ENDS_S,
        check=False,
        cwd=Path(__file__).parents[2],
    )


def test_a_sample_of_requests_is_answered_as_described(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    told = ("--seconds", str(SECONDS), "--seed", str(run_seed()), "--report", str(report))
    ended = run("-m", "tests.fuzz.run", "http", *told)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = json.loads(report.read_text())
    assert (found["what"], found["losses"]) == ("fuzz", 0)
    assert found["runs"] >= found["points"] > 10


@pytest.mark.parametrize("operation", ["GET /v1/introspect/stats", "GET /v1/introspect/evolution", "mode"])
def test_an_answer_that_is_not_as_described_is_found(operation: str, lies: str) -> None:
    """A status, a body and a refusal that the document doesn't have."""
    assert operation in lies


@pytest.fixture(scope="module")
def lies() -> str:
    ended = run("-c", LYING)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout
