"""What `torture` looks for, and what its daemon is told; the rounds themselves are tried with real ones."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cerememory.cli.torture_load import Acknowledged
from cerememory.cli.torture_victim import Victim
from cerememory.config.settings import Secret, SecuritySettings, Settings
from cerememory.errors import DaemonUnreachable
from cerememory.protocol.values import format_id
from tests.support.committing import a_record, an_id, commit, forgetting, storing, storing_raw, updating
from tests.support.engine import text_block
from tests.support.memory_storage import MemoryStorage

ID = {number: format_id(an_id(number)) for number in range(200)}


@pytest.fixture
def storage() -> MemoryStorage:
    """With the memories 1 to 3, of which 2 says something else since, and the raw entry 101."""
    storage = MemoryStorage()
    commit(storage, *(storing(a_record(number, f"word{number}")) for number in (1, 2, 3)))
    commit(storage, storing_raw(101, "said"), updating(2, content={"blocks": [text_block("later")]}))
    return storage


@pytest.fixture
def acknowledged() -> Acknowledged:
    found = Acknowledged()
    found.note_memories({ID[1]: {"word1"}, ID[2]: {"later"}})
    found.note_entry(ID[101], "said")
    return found


def lost(acknowledged: Acknowledged, storage: MemoryStorage) -> list[str]:
    with storage.read() as reader:
        return list(acknowledged.lost(reader))


def test_what_is_there_as_it_was_acknowledged_is_not_lost(
    acknowledged: Acknowledged, storage: MemoryStorage
) -> None:
    assert lost(acknowledged, storage) == []


def test_what_is_missing_older_or_back_is(acknowledged: Acknowledged, storage: MemoryStorage) -> None:
    acknowledged.note_memories({ID[9]: {"word9"}, ID[3]: {"newer"}})
    acknowledged.note_entry(ID[109], "said so")
    acknowledged.note_gone(ID[1])
    assert lost(acknowledged, storage) == [
        f"memory {ID[9]} is missing, acknowledged as word9",
        f"memory {ID[3]} is 'word3', acknowledged as newer",
        f"raw entry {ID[109]} is missing, acknowledged as said so",
        f"memory {ID[1]} is back, which was forgotten",
    ]


def test_what_was_asked_and_not_acknowledged_may_be_either_way(
    acknowledged: Acknowledged, storage: MemoryStorage
) -> None:
    acknowledged.begin_update(ID[2], {"later", "latest"})
    acknowledged.begin_forget(ID[1])
    assert lost(acknowledged, storage) == []
    commit(storage, updating(2, content={"blocks": [text_block("latest")]}), forgetting(1))
    assert lost(acknowledged, storage) == []


def test_an_answer_that_nobody_should_get_is_a_loss(acknowledged: Acknowledged, storage: MemoryStorage) -> None:
    acknowledged.surprises.append("InternalError for an answer: x")
    assert lost(acknowledged, storage) == ["InternalError for an answer: x"]


def test_the_daemon_gets_nothing_of_its_owners_settings_but_how_the_copy_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LLM__PROVIDER", "LLM__API_KEY", "CONFIG", "AUTH__ENABLED", "HTTP__BIND_ADDRESS", "DATA_DIR"):
        monkeypatch.setenv(f"CEREMEMORY_{name}", "openai")
    monkeypatch.setenv("CEREMEMORY_TEST_FAILPOINTS", "x=kill")
    security = SecuritySettings(store_encryption_passphrase=Secret("correct horse"), audit_log_enabled=False)
    with Victim(tmp_path, replace(Settings(), security=security)) as victim:
        told = {name for name in victim._env if name.startswith("CEREMEMORY_")}
        assert victim._env["CEREMEMORY_SECURITY__STORE_ENCRYPTION_PASSPHRASE"] == "correct horse"
        assert victim._env["CEREMEMORY_SECURITY__AUDIT_LOG_ENABLED"] == "false"
    assert {name.removeprefix("CEREMEMORY_").partition("__")[0] for name in told} == {
        *("SECURITY", "STORAGE", "RATE_LIMIT", "DREAM", "LOG")
    }


def test_a_daemon_that_does_not_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").write_bytes(b"")
    with Victim(tmp_path, Settings()) as victim, pytest.raises(DaemonUnreachable, match="is no data dir"):
        victim.start()
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with Victim(tmp_path, Settings()) as victim, pytest.raises(DaemonUnreachable, match="it said nothing"):
        victim.start()
