"""The daemon is killed (SIGKILL) between two groups of a dream: each group is there whole, or waits as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cerememory.failpoints import VARIABLE as FAILPOINTS
from tests.faults.test_kill import verify_audit_log
from tests.support.calls import UNLIMITED, Caller, NoAnswer
from tests.support.daemon import Daemon
from tests.support.engine import raw_body
from tests.support.stored import stored_in

SESSIONS = ("s-1", "s-2", "s-3", "s-4")
ENTRIES = 3  # of each session


def entries_of(caller: Caller, session_id: str) -> list[dict[str, Any]]:
    answer = caller.ask("POST", "/v1/recall/raw", {"session_id": session_id})
    assert len(answer.json["records"]) == ENTRIES
    return list(answer.json["records"])


def dreams_of(caller: Caller, session_id: str) -> list[str]:
    """The memories that a session became, which each of its entries names alike; none when it waits."""
    entries = entries_of(caller, session_id)
    [derived] = {tuple(entry["derived_memory_ids"]) for entry in entries}
    for entry in entries:
        assert ("processed_at" in entry["metadata"].get("_dream", {})) == bool(derived)
    for record_id in derived:
        origin = caller.record(record_id).json["metadata"]["_origin"]
        assert origin["raw_record_ids"] == [entry["id"] for entry in entries]
    return list(derived)


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("failpoint", "done"), [("writer.before_reply=kill@3", 2), ("storage.commit.after_fsync=kill@3", None)]
)
def test_a_kill_between_two_groups_leaves_whole_groups(tmp_path: Path, failpoint: str, done: int | None) -> None:
    """`done` groups are stored when the daemon dies; with None, whatever number that is."""
    data_dir = tmp_path / "data"
    records = [
        raw_body(f"{session} says {i}", session, topic_id="boats") for session in SESSIONS for i in range(ENTRIES)
    ]
    with Daemon(data_dir, env={**UNLIMITED, FAILPOINTS: failpoint}) as daemon, Caller(daemon.address) as caller:
        assert caller.ask("POST", "/v1/encode/raw/batch", {"records": records}).status == 200
        with pytest.raises(NoAnswer):
            caller.ask("POST", "/v1/lifecycle/dream-tick", {})
        daemon.wait()
    stored_in(data_dir)
    verify_audit_log(data_dir)
    with Daemon(data_dir, env=UNLIMITED) as daemon, Caller(daemon.address) as caller:
        before = {session: dreams_of(caller, session) for session in SESSIONS}
        dreamt = [session for session, ids in before.items() if ids]
        assert dreamt == list(SESSIONS[: len(dreamt)])
        assert len(dreamt) == done if done is not None else 0 < len(dreamt) < len(SESSIONS)
        left = len(SESSIONS) - len(dreamt)
        answer = caller.ask("POST", "/v1/lifecycle/dream-tick", {}).json
        assert (answer["groups_processed"], answer["raw_records_processed"]) == (left, left * ENTRIES)
        for session, known in before.items():
            ids = dreams_of(caller, session)
            assert len(ids) == 2
            assert known in ([], ids)
        counted = caller.stats()
        assert counted["dream_episodic_summaries"] == counted["dream_semantic_nodes"] == len(SESSIONS)
        assert counted["raw_journal_pending_dream"] == 0
        assert daemon.stop() == 0
    stored_in(data_dir)
    verify_audit_log(data_dir)
