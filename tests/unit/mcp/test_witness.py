"""The witness: what it keeps, when it looks, and that it tells of every log that isn't the one it saw."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cerememory.client import Client
from cerememory.domain.checkpoint import Checkpoint, NotACheckpoint, Signature, dump_note, parse_note
from cerememory.domain.merkle import consistency_proof, leaf_hash, root_of
from cerememory.mcp.state import state_home
from cerememory.mcp.witness import LOOK_AGAIN_S, LOOK_EVERY_S, Witness
from tests.support.fake_daemon import FakeDaemon, Reply, answer, hang_up, raw_answer, refusal

ORIGIN = "cerememory/audit/test"
GONE = refusal(404, "VALIDATION_ERROR", "the audit log is switched off")


def note(size: int, log: str = "log", origin: str = ORIGIN) -> bytes:
    root = root_of(leaves(size, log))
    return dump_note(Checkpoint(origin, size, root).text, [Signature(origin, b"abcd", bytes(64))])


def leaves(size: int, log: str = "log") -> list[bytes]:
    return [leaf_hash(f"{log} {n}".encode()) for n in range(size)]


def proof(old: int, new: int, log: str = "log") -> Reply:
    hashes = consistency_proof(
        old, new, lambda level, index: root_of(leaves(new, log)[index << level : (index + 1) << level])
    )
    return answer({"old": old, "new": new, "hashes": [hash_.hex() for hash_ in hashes]})


@pytest.fixture
def daemon() -> Iterator[FakeDaemon]:
    with FakeDaemon() as running:
        yield running


@pytest.fixture
def client(daemon: FakeDaemon) -> Iterator[Client]:
    with Client(daemon.url, "a-key") as made:
        yield made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state" / "cerememory"


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.WARNING)
    return caplog


def kept_in(folder: Path) -> bytes | None:
    files = list(folder.glob("*")) if folder.exists() else []
    assert len(files) <= 1
    return files[0].read_bytes() if files else None


def test_the_first_checkpoint_is_kept_as_it_came_for_its_owner_only(
    daemon: FakeDaemon, client: Client, folder: Path, told: pytest.LogCaptureFixture
) -> None:
    daemon.then(raw_answer(note(5)))
    Witness(client, folder).look()
    assert kept_in(folder) == note(5)
    [file] = folder.iterdir()
    assert (file.stat().st_mode & 0o777, folder.stat().st_mode & 0o777) == (0o600, 0o700)
    assert file.name.startswith("127.0.0.1_")
    [request] = daemon.requests
    assert (request.method, request.path) == ("GET", "/v1/audit/checkpoint")
    assert request.headers["authorization"] == "Bearer a-key"
    assert told.records == []


@pytest.mark.parametrize("size", [0, 5, 6])
def test_a_log_that_goes_on_is_followed(
    daemon: FakeDaemon, client: Client, folder: Path, told: pytest.LogCaptureFixture, size: int
) -> None:
    daemon.then(raw_answer(note(size)), raw_answer(note(9)), *([proof(size, 9)] if size else []))
    for _process in range(2):
        Witness(client, folder).look()
    assert kept_in(folder) == note(9)
    assert told.records == []
    if size:
        assert daemon.requests[-1].path == f"/v1/audit/proof?old={size}&new=9"


def test_a_log_that_stands_still_needs_no_proof(
    daemon: FakeDaemon, client: Client, folder: Path, told: pytest.LogCaptureFixture
) -> None:
    daemon.then(raw_answer(note(5)), raw_answer(note(5)))
    witness = Witness(client, folder)
    witness.look()
    witness.look()
    assert len(daemon.requests) == 2
    assert told.records == []


ANOTHER: dict[str, tuple[list[Reply], str]] = {
    "shorter": ([raw_answer(note(4))], "rolled its audit log back: it has 4 entries and had 5"),
    "empty": ([raw_answer(note(0))], "rolled its audit log back: it has 0 entries and had 5"),
    "rewritten": ([raw_answer(note(5, "other"))], "still begins with the 5 entries"),
    "rewritten and gone on": ([raw_answer(note(9, "other")), proof(5, 9, "other")], "still begins with the 5"),
    "gone on, a proof of something else": ([raw_answer(note(9)), proof(4, 9)], "still begins with the 5 entries"),
    "gone on, an empty proof": (
        [raw_answer(note(9)), answer({"old": 5, "new": 9, "hashes": []})],
        "still begins with the 5 entries",
    ),
    "gone on, a proof of nonsense": (
        [raw_answer(note(9)), answer({"old": 5, "new": 9, "hashes": ["xy"]})],
        "still begins with the 5 entries",
    ),
    "gone on, no proof": (
        [raw_answer(note(9)), refusal(500, "INTERNAL_ERROR")],
        "still begins with the 5 entries",
    ),
    "gone on, entries are away": (
        [raw_answer(note(9)), refusal(404, "RECORD_NOT_FOUND")],
        "still begins with the 5 entries it had, for it says that a file with some of them isn't there",
    ),
    "of another key": (
        [raw_answer(note(9, origin="other"))],
        "has another audit log than before, other in place of",
    ),
    "unreadable": ([raw_answer(b"{}")], "shows a checkpoint of its audit log that isn't a signed note"),
    "switched off": ([GONE], "no longer shows its audit log"),
}


@pytest.mark.parametrize(("replies", "what"), ANOTHER.values(), ids=ANOTHER.keys())
def test_another_log_is_told_once_and_the_evidence_stays(
    daemon: FakeDaemon,
    client: Client,
    folder: Path,
    told: pytest.LogCaptureFixture,
    replies: list[Reply],
    what: str,
) -> None:
    daemon.then(raw_answer(note(5)), *replies, *replies)
    witness = Witness(client, folder)
    for _ in range(3):
        witness.look()
    [record] = told.records
    assert what in record.getMessage()
    assert f"the daemon at {daemon.url}" in record.getMessage()
    assert f"audit-verify --against {next(folder.iterdir())}" in record.getMessage()
    assert kept_in(folder) == note(5)


@pytest.mark.parametrize(
    "reply",
    [hang_up(), refusal(503, "DECAY_ENGINE_BUSY"), refusal(401, "UNAUTHORIZED"), refusal(429, "RATE_LIMITED")],
)
def test_a_daemon_that_does_not_answer_now_is_no_reason_to_warn(
    daemon: FakeDaemon, client: Client, folder: Path, told: pytest.LogCaptureFixture, reply: Reply
) -> None:
    witness = Witness(client, folder)
    daemon.then(raw_answer(note(5)), reply, raw_answer(note(9)), reply, raw_answer(note(9)), proof(5, 9))
    for _ in range(4):
        witness.look()
    assert told.records == []
    assert kept_in(folder) == note(9)


@pytest.mark.parametrize("reply", [GONE, raw_answer(b"{}"), raw_answer(b"\xff" * 100)])
def test_a_server_that_never_showed_a_log_is_left_alone(
    daemon: FakeDaemon, client: Client, folder: Path, told: pytest.LogCaptureFixture, reply: Reply
) -> None:
    daemon.then(reply)
    Witness(client, folder).look()
    assert (kept_in(folder), told.records) == (None, [])


def test_a_folder_that_cannot_be_written_is_told_once(
    daemon: FakeDaemon, client: Client, tmp_path: Path, told: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    daemon.then(*[raw_answer(note(5))] * 3)
    witness = Witness(client, tmp_path / "file" / "cerememory")
    for _ in range(3):
        witness.look()
    assert [record.getMessage().partition(": ")[0] for record in told.records] == ["warning", "warning"]
    assert "the checkpoint can't be kept: Not a directory" in told.text


def test_what_was_kept_and_cannot_be_read_is_told_and_replaced(
    daemon: FakeDaemon, client: Client, folder: Path, told: pytest.LogCaptureFixture
) -> None:
    daemon.then(raw_answer(note(5)), raw_answer(note(6)))
    witness = Witness(client, folder)
    witness.look()
    next(folder.iterdir()).write_bytes(b"x")
    witness.look()
    [record] = told.records
    assert "can't be read: isn't a signed note" in record.getMessage()
    assert kept_in(folder) == note(6)


def test_each_server_has_its_own_file(daemon: FakeDaemon, folder: Path) -> None:
    with FakeDaemon(default=raw_answer(note(3))) as other:
        daemon.then(raw_answer(note(5)))
        for url in (daemon.url, other.url):
            with Client(url) as client:
                Witness(client, folder).look()
    assert len(list(folder.iterdir())) == 2


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_it_looks_at_first_then_once_in_a_while_and_soon_after_a_new_connection(
    daemon: FakeDaemon, client: Client, folder: Path
) -> None:
    clock = Clock()
    daemon.then(*[raw_answer(note(5))] * 10)
    witness = Witness(client, folder, clock)

    def looks_after(seconds: float) -> int:
        clock.now += seconds
        before = len(daemon.requests)
        witness.look_if_due()
        return len(daemon.requests) - before

    assert looks_after(0) == 1
    assert looks_after(LOOK_EVERY_S - 1) == 0
    assert looks_after(1) == 1
    daemon.stop()
    daemon.start()
    client.audit_checkpoint()  # stands for a tool call, which finds the connection closed
    assert looks_after(LOOK_AGAIN_S - 1) == 0
    assert looks_after(1) == 1
    assert looks_after(LOOK_AGAIN_S) == 0


@pytest.mark.parametrize(
    ("xdg", "expected"), [("/var/state", "/var/state"), ("", "~/.local/state"), ("relative", "~/.local/state")]
)
def test_where_a_user_s_state_is(monkeypatch: pytest.MonkeyPatch, xdg: str, expected: str) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", xdg)
    assert state_home() == Path(expected).expanduser() / "cerememory"


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.binary(max_size=200))
def test_whatever_a_server_answers_it_neither_fails_nor_keeps_what_is_no_checkpoint(
    daemon: FakeDaemon, client: Client, folder: Path, body: bytes
) -> None:
    daemon.then(raw_answer(body))
    Witness(client, folder).look()
    with pytest.raises(NotACheckpoint):
        parse_note(body)
    assert kept_in(folder) is None
