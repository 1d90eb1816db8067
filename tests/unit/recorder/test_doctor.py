"""What stands in the way of recording is named, check by check."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cerememory.client import Client
from cerememory.client.address import parse_address
from cerememory.recorder.doctor import Finding, examined
from cerememory.recorder.events import Moment
from tests.support.fake_daemon import FakeDaemon, Reply, answer, raw_answer, refusal

OK = answer({"status": "ok"})
FOUND = answer({"records": [], "total_candidates": 0})
STORED = answer({"results": [{"record_id": "0191"}]})


@pytest.fixture
def daemon() -> Iterator[FakeDaemon]:
    with FakeDaemon() as daemon:
        yield daemon


def findings(daemon: FakeDaemon, spool: Path, *replies: Reply, skip_probe: bool = False) -> dict[str, Finding]:
    daemon.then(*replies)
    with Client(daemon.url, "sesame", 10, retry_for_s=0.0) as client:
        moment = Moment("/p", 0)
        found = list(examined(client, parse_address(daemon.url), spool, moment, skip_probe=skip_probe))
    assert [finding.name for finding in found] == ["health", "readiness", "spool", "auth", "raw_ingest"]
    return {finding.name: finding for finding in found}


def test_all_is_well(daemon: FakeDaemon, tmp_path: Path) -> None:
    found = findings(daemon, tmp_path / "spool", OK, OK, FOUND, STORED)
    assert all(finding.is_ok for finding in found.values())
    assert str(found["health"]) == f"ok health - {daemon.url}"
    assert str(found["raw_ingest"]) == "ok raw_ingest - stored 0191"
    assert [request.path for request in daemon.requests] == [
        *("/health", "/readiness", "/v1/recall/raw", "/v1/encode/raw/batch")
    ]
    [record] = daemon.requests[3].json["records"]
    assert (record["visibility"], record["session_id"]) == ("private_scratch", "cerememory-recorder-doctor")
    assert daemon.requests[2].json == {"limit": 0}
    assert daemon.requests[3].headers["authorization"] == "Bearer sesame"
    assert "authorization" not in daemon.requests[0].headers


def test_without_the_probe_nothing_is_stored(daemon: FakeDaemon, tmp_path: Path) -> None:
    found = findings(daemon, tmp_path / "spool", OK, OK, FOUND, FOUND, skip_probe=True)
    assert found["raw_ingest"] == Finding(True, "raw_ingest", "not tried; a raw recall was answered")
    assert {request.path for request in daemon.requests} == {"/health", "/readiness", "/v1/recall/raw"}


def test_a_daemon_that_is_away_fails_all_but_the_spool(daemon: FakeDaemon, tmp_path: Path) -> None:
    daemon.stop()
    found = findings(daemon, tmp_path / "spool")
    assert [name for name, finding in found.items() if finding.is_ok] == ["spool"]
    assert "Connection refused" in found["health"].detail


def test_a_daemon_that_isnt_ready_says_why(daemon: FakeDaemon, tmp_path: Path) -> None:
    body = json.dumps({"status": "not_ready", "reason": "storage unavailable"}).encode()
    found = findings(daemon, tmp_path / "spool", OK, raw_answer(body, 503), FOUND, STORED)
    assert not found["readiness"].is_ok
    assert "storage unavailable" in found["readiness"].detail


def test_a_key_that_isnt_taken(daemon: FakeDaemon, tmp_path: Path) -> None:
    denied = refusal(401, "UNAUTHORIZED", "no such key")
    found = findings(daemon, tmp_path / "spool", OK, OK, denied, denied)
    assert [str(found[name]) for name in ("auth", "raw_ingest")] == [
        *("fail auth - no such key", "fail raw_ingest - no such key")
    ]


def test_a_spool_that_cant_be_used(daemon: FakeDaemon, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    found = findings(daemon, tmp_path, OK, OK, FOUND, STORED)
    assert not found["spool"].is_ok
    assert "others may enter it" in found["spool"].detail


def test_what_waits_in_the_spool_is_told(daemon: FakeDaemon, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    spool.mkdir(mode=0o700)
    (spool / "batch-1.jsonl.bad-refused").write_text("12345")
    found = findings(daemon, spool, OK, OK, FOUND, STORED)
    assert found["spool"].detail == f"{spool}: 0 batches wait, 1 set aside, 5 bytes"
