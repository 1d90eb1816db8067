"""The example that loads real conversations, against a real daemon, and questions from the command line."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.support.daemon import NO_ENV, WAIT_S, Daemon, cerememory, clean_environment

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "load_conversation.py"
CONVERSATION = ROOT / "examples" / "conversation.json"
NOBODY = "http://127.0.0.1:9"


def load(file: Path, *arguments: str, env: Mapping[str, str] = NO_ENV) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, EXAMPLE, file, *arguments],
        capture_output=True,
        text=True,
        env=clean_environment(env),
        timeout=WAIT_S,
        check=False,
    )


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with Daemon(tmp_path_factory.mktemp("conversation") / "data") as daemon:
        yield daemon


@pytest.fixture(scope="module")
def loaded(daemon: Daemon) -> subprocess.CompletedProcess[str]:
    loaded = load(CONVERSATION, "--server-url", daemon.url)
    daemon.wait_until_searchable()
    return loaded


def test_it_counts_what_it_loads(loaded: subprocess.CompletedProcess[str]) -> None:
    assert (loaded.returncode, loaded.stderr) == (0, "")
    *conversations, total = loaded.stdout.splitlines()
    assert conversations == ["Conversation 1: 6 turns", "Conversation 2: 6 turns"]
    assert re.fullmatch(r"Loaded 12 turns of 2 conversations, \d+ records/s", total)


@pytest.mark.usefixtures("loaded")
@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What happened to the basil?", "I lost every one of the basil plants"),
        ("Who moved to Lisbon?", "My sister moved to Lisbon"),
        ("What is the greyhound called?", "a deaf greyhound called Biscuit"),
    ],
)
def test_a_question_finds_its_turn_first(daemon: Daemon, question: str, answer: str) -> None:
    asked = cerememory("recall", question, "--data-dir", daemon.data_dir)
    first = asked.stdout.split("\n2. ")[0]
    assert answer in first


@pytest.mark.usefixtures("loaded")
def test_a_turn_keeps_who_said_it_when_and_where(daemon: Daemon) -> None:
    asked = cerememory("recall", "varnish", "--json", "--data-dir", daemon.data_dir)
    for kept in ('"source": "Nadia"', '"session_id": "1-1"', '"temporal": "9:15 am on 3 March, 2025"', '"D1:5"'):
        assert kept in asked.stdout


def test_only_the_first_conversations_are_loaded_when_told(tmp_path: Path) -> None:
    with Daemon(tmp_path / "data") as daemon:
        loaded = load(CONVERSATION, "--limit-conversations", "1", "--server-url", daemon.url)
    assert loaded.stdout.splitlines()[0] == "Conversation 1: 6 turns"
    assert "Loaded 6 turns of 1 conversations" in loaded.stdout


def test_without_a_url_it_asks_at_the_configured_port(tmp_path: Path) -> None:
    with Daemon(tmp_path / "data") as daemon:
        configured = {"CEREMEMORY_HTTP__PORT": str(daemon.port)}
        loaded = load(CONVERSATION, "--limit-conversations", "1", env=configured)
    assert (loaded.returncode, loaded.stderr) == (0, "")
    assert "Loaded 6 turns of 1 conversations" in loaded.stdout


def test_a_port_that_is_none_is_refused_in_one_line() -> None:
    refused = load(CONVERSATION, env={"CEREMEMORY_HTTP__PORT": "none"})
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: server_url: ")
    assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize("text", ["{", "7", '[{"id": 1}]', '[{"id": 1, "turns": [{"text": "no session"}]}]'])
def test_another_file_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    file = tmp_path / "other.json"
    file.write_text(text)
    refused = load(file, "--server-url", NOBODY)
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: ")
    assert refused.stderr.count("\n") == 1


def test_it_uses_nothing_but_the_client() -> None:
    imported = re.findall(r"^from (cerememory\S*)", EXAMPLE.read_text(), re.M)
    assert set(imported) <= {"cerememory.client", "cerememory.errors"}
