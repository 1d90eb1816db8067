"""What waits for a daemon that is away: kept whole and private, sent once, in order, and bounded."""

from __future__ import annotations

import logging
import ssl
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from cerememory.client import Client
from cerememory.errors import DaemonUnreachable, InternalError, StorageUnavailable
from cerememory.mcp.outbox import Outbox
from cerememory.mcp.session_client import SessionClient
from cerememory.mcp.toolbox import STORING, Toolbox
from cerememory.mcp.tools import BY_NAME
from tests.support.certificates import self_signed
from tests.support.fake_daemon import (
    WAIT_S,
    FakeDaemon,
    Handler,
    Reply,
    answer,
    hang_up,
    held,
    raw_answer,
    refusal,
)
from tests.unit.mcp.answers import ID

STORED = {"record_id": ID, "store": "episodic", "initial_fidelity": 1.0, "associations_created": 0}
BODIES = [{"content": f"{i}"} for i in range(3)]


@pytest.fixture
def daemon() -> Iterator[FakeDaemon]:
    with FakeDaemon(default=answer(STORED)) as daemon:
        yield daemon


@pytest.fixture
def client(daemon: FakeDaemon) -> Iterator[Client]:
    with Client(daemon.url, retry_for_s=0) as client:
        yield client


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "outbox" / "server"


@pytest.fixture
def outbox(client: Client, folder: Path) -> Outbox:
    return Outbox(client, folder)


@pytest.fixture
def tools(daemon: FakeDaemon, outbox: Outbox) -> Iterator[Toolbox]:
    with SessionClient(daemon.url, retry_for_s=0, outbox=outbox) as client:
        yield Toolbox(client, outbox=outbox)


def names(folder: Path) -> list[str]:
    return sorted(path.suffix for path in folder.iterdir())


def test_nothing_is_made_before_there_is_something_to_keep(tools: Toolbox, folder: Path) -> None:
    tools.call("store", {"content": "kettle"})
    assert not folder.parent.exists()


@pytest.mark.parametrize("tool", sorted(STORING))
def test_a_store_while_the_daemon_is_away_is_kept_and_sent_before_the_next_call(
    daemon: FakeDaemon, tools: Toolbox, folder: Path, tool: str
) -> None:
    item = {"content": "kettle", "session_id": "s-1"}
    daemon.stop()
    result = tools.call(tool, {"records_json": [item]} if tool.startswith("batch") else item)
    assert set(BY_NAME[tool].answers) <= set(result.structured)
    assert result.structured["waiting"] is True
    assert names(folder) == [".json"]
    daemon.start()
    tools.call("stats", {})
    kept, asked = daemon.requests
    assert b"kettle" in kept.body
    assert (kept.method, asked.path) == ("POST", "/v1/introspect/stats")
    assert names(folder) == []


class Late(Client):
    """A client to which the daemon is away, and comes back as soon as it was told so."""

    comes_back: Callable[[], None]

    def call(self, operation_name: str, body: object | None = None, **given: Any) -> Any:
        try:
            return super().call(operation_name, body, **given)
        except DaemonUnreachable:
            self.comes_back()
            raise


@pytest.mark.parametrize("tool", ["recall", "store", "export"])
def test_it_is_sent_before_a_call_that_finds_the_daemon_later(daemon: FakeDaemon, folder: Path, tool: str) -> None:
    given = {"recall": {}, "store": {"content": "cup"}, "export": {"output_path": str(folder / "out.cma")}}
    with Late(daemon.url, retry_for_s=0) as sender:
        sender.comes_back = daemon.start
        outbox = Outbox(sender, folder)
        outbox.put("encode.store", BODIES[0], "key")
        daemon.then(answer(STORED, X_Cerememory_Sequence="7"))
        daemon.stop()
        with (
            SessionClient(daemon.url, wait=lambda _seconds: None, outbox=outbox) as client,
            suppress(InternalError),  # for no archive comes
        ):
            Toolbox(client, outbox=outbox).call(tool, given[tool])
    kept, asked = daemon.requests
    assert kept.json == BODIES[0]
    assert asked.headers.get("x-cerememory-sequence") == (None if tool == "store" else "7")
    assert names(folder) == []


class NoticedLock:
    """A lock that tells when it is waited for."""

    def __init__(self, waited_for: threading.Event) -> None:
        self._lock = threading.Lock()
        self._waited_for = waited_for
        self.release = self._lock.release

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if blocking:
            self._waited_for.set()
        return self._lock.acquire(blocking, timeout)


def test_another_threads_sending_is_waited_for_and_is_enough(
    daemon: FakeDaemon, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited_for = threading.Event()
    monkeypatch.setattr(outbox, "_sending", NoticedLock(waited_for))
    daemon.then(held(waited_for, answer(STORED, X_Cerememory_Sequence="7")))
    outbox.put("encode.store", BODIES[0], "key")
    other = threading.Thread(target=outbox.send)
    other.start()
    daemon.wait_for_requests(1)
    assert outbox.send() == 7
    other.join()
    assert len(daemon.requests) == 1


def test_another_threads_sending_is_waited_for_as_long_as_there_is_time(
    daemon: FakeDaemon, outbox: Outbox
) -> None:
    outbox.put("encode.store", BODIES[0], "key")
    daemon.stop()
    with pytest.raises(DaemonUnreachable):
        outbox.send()
    daemon.start()
    release = threading.Event()
    daemon.then(held(release, answer(STORED)))
    other = threading.Thread(target=outbox.send)
    other.start()
    daemon.wait_for_requests(1)
    assert outbox.send(limit_s=0.0) is None
    release.set()
    other.join()


def test_sending_takes_half_of_a_calls_time_and_the_rest_goes_before_the_next(
    daemon: FakeDaemon, client: Client, folder: Path
) -> None:
    now_s = 0.0

    def slow(handler: Handler) -> None:
        nonlocal now_s
        now_s += 60
        answer(STORED)(handler)

    outbox = Outbox(client, folder, clock=lambda: now_s)
    for i, body in enumerate(BODIES):
        outbox.put("encode.store", body, f"key-{i}")
    daemon.then(slow, slow, answer({}), slow)
    with SessionClient(daemon.url, timeout_s=200, clock=lambda: now_s, outbox=outbox) as session:
        for _twice in range(2):
            session.call("introspect.stats")
    asked = [request.json if request.body else request.path for request in daemon.requests]
    stats = "/v1/introspect/stats"
    assert asked == [BODIES[0], BODIES[1], stats, BODIES[2], stats]


def test_it_is_sent_with_the_key_that_it_was_tried_with(daemon: FakeDaemon, tools: Toolbox) -> None:
    """The daemon may have done it: the answer to the first try didn't come through."""
    daemon.then(hang_up())
    assert tools.call("store", {"content": "kettle"}).structured["waiting"] is True
    tools.call("stats", {})
    first, again, _ = daemon.requests
    assert first.headers["idempotency-key"] == again.headers["idempotency-key"]
    assert first.body == again.body


def test_what_waits_is_for_its_owner_alone(outbox: Outbox, folder: Path) -> None:
    outbox.put("encode.store", BODIES[0], "key")
    [path] = folder.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_what_waits_already_is_not_kept_twice(outbox: Outbox, folder: Path) -> None:
    for key in ("key", "key", "other key"):
        outbox.put("encode.store", BODIES[0], key)
    assert names(folder) == [".json"] * 2


def test_the_oldest_goes_first_and_another_process_may_send_it(
    daemon: FakeDaemon, outbox: Outbox, client: Client, folder: Path
) -> None:
    for i, body in enumerate(BODIES):
        outbox.put("encode.store", body, f"key-{i}")
    Outbox(client, folder).send()
    outbox.send()
    assert [request.json for request in daemon.requests] == BODIES


@pytest.mark.parametrize(
    "reply",
    [
        hang_up(),
        refusal(503, "DECAY_ENGINE_BUSY", "starting"),
        refusal(401, "UNAUTHORIZED", "no key"),
        refusal(500, "INTERNAL_ERROR", "a bug"),
        raw_answer(b"<html>a login page</html>", 200, Content_Type="text/html"),
        raw_answer(b"", 404),
        raw_answer(b"", 400),
        refusal(404, "VALIDATION_ERROR", "no such route"),
    ],
)
def test_what_isnt_taken_now_waits_on_and_what_is_behind_it_too(
    daemon: FakeDaemon, outbox: Outbox, folder: Path, reply: object
) -> None:
    assert callable(reply)
    for i, body in enumerate(BODIES):
        outbox.put("encode.store", body, f"key-{i}")
    daemon.then(reply)
    outbox.send()
    assert (len(daemon.requests), names(folder)) == (1, [".json"] * 3)
    outbox.send()
    assert [request.json for request in daemon.requests[1:]] == BODIES


@pytest.mark.parametrize(
    "reply", [refusal(401, "UNAUTHORIZED", "no such key"), refusal(403, "UNAUTHORIZED", "no such key")]
)
def test_a_key_that_may_not_store_is_told_of_once(
    daemon: FakeDaemon, outbox: Outbox, folder: Path, caplog: pytest.LogCaptureFixture, reply: Reply
) -> None:
    outbox.put("encode.store", BODIES[0], "key")
    daemon.then(reply, reply)
    outbox.send()
    outbox.send()
    [told] = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert told == f"warning: what waits in {folder} isn't stored with this key: no such key"
    assert names(folder) == [".json"]


def test_what_cant_be_sent_for_want_of_trust_waits_on(tmp_path: Path, folder: Path) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*self_signed(tmp_path))
    with FakeDaemon(tls=tls) as daemon, Client(daemon.url, retry_for_s=0) as client:
        outbox = Outbox(client, folder)
        outbox.put("encode.store", BODIES[0], "key")
        outbox.send()
    assert names(folder) == [".json"]


def test_what_is_refused_for_good_is_set_aside_and_holds_up_nothing(
    daemon: FakeDaemon, outbox: Outbox, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for i, body in enumerate(BODIES):
        outbox.put("encode.store", body, f"key-{i}")
    daemon.then(refusal(400, "VALIDATION_ERROR", "meta.intent: too long"))
    with caplog.at_level(logging.WARNING):
        outbox.send()
    assert names(folder) == [".refused"]
    assert "meta.intent: too long" in caplog.text
    outbox.send()
    assert len(daemon.requests) == 3


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff", b'{"operation":"no.such","idempotency_key":"k","body":{}}'])
def test_a_file_that_is_none_of_ours_is_set_aside(
    daemon: FakeDaemon, outbox: Outbox, folder: Path, data: bytes
) -> None:
    folder.mkdir(parents=True)
    (folder / "1.json").write_bytes(data)
    outbox.put("encode.store", BODIES[0], "key")
    outbox.send()
    assert names(folder) == [".refused"]
    assert [request.json for request in daemon.requests] == BODIES[:1]


def test_one_call_waits_for_a_bounded_number(
    daemon: FakeDaemon, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cerememory.mcp.outbox.SEND_MAX", 2)
    for i, body in enumerate(BODIES):
        outbox.put("encode.store", body, f"{i}")
    outbox.send()
    assert [request.json for request in daemon.requests] == BODIES[:2]


@pytest.mark.parametrize("bound", [{"files_max": 1}, {"bytes_max": 250}])
def test_a_full_outbox_says_so_and_the_caller_is_told(
    daemon: FakeDaemon, client: Client, folder: Path, bound: dict[str, Any]
) -> None:
    outbox = Outbox(client, folder, **bound)
    tools = Toolbox(client, outbox=outbox)
    daemon.stop()
    assert tools.call("store", {"content": "one"}).structured["waiting"] is True
    with pytest.raises(DaemonUnreachable, match=r"can't be kept for it: .* is full"):
        tools.call("store", {"content": "two"})
    assert names(folder) == [".json"]


def test_a_folder_that_cant_be_made_says_so(client: Client, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageUnavailable, match="Not a directory"):
        Outbox(client, tmp_path / "file" / "server").put("encode.store", BODIES[0], "key")


class Waits:
    """Time that passes only while a client waits between two tries."""

    def __init__(self) -> None:
        self.count = 0
        self._now_s = 0.0

    def clock(self) -> float:
        return self._now_s

    def wait(self, seconds: float) -> None:
        self.count += 1
        self._now_s += seconds


def test_a_daemon_that_is_known_to_be_away_is_waited_for_no_more_by_stores(
    daemon: FakeDaemon, outbox: Outbox
) -> None:
    waits = Waits()
    with SessionClient(daemon.url, clock=waits.clock, wait=waits.wait, outbox=outbox) as client:
        tools = Toolbox(client, outbox=outbox)
        daemon.stop()
        assert tools.call("store", {"content": "one"}).structured["waiting"] is True
        before = waits.count
        assert before > 1
        for _twice in range(2):
            assert tools.call("store", {"content": "two"}).structured["waiting"] is True
        assert waits.count == before
        daemon.start()
        assert "waiting" not in tools.call("store", {"content": "three"}).structured
        daemon.stop()
        tools.call("store", {"content": "four"})
        assert waits.count > before


def test_while_one_store_looks_out_for_the_daemon_the_others_dont_wait(
    daemon: FakeDaemon, outbox: Outbox, folder: Path
) -> None:
    looks_out, release = threading.Event(), threading.Event()

    def wait(_seconds: float) -> None:
        assert not looks_out.is_set()
        looks_out.set()
        release.wait(WAIT_S)

    with SessionClient(daemon.url, wait=wait, outbox=outbox) as client:
        tools = Toolbox(client, outbox=outbox)
        daemon.stop()
        first = threading.Thread(target=tools.call, args=("store", {"content": "first"}))
        first.start()
        assert looks_out.wait(WAIT_S)
        for _twice in range(2):
            assert tools.call("store", {"content": "other"}).structured["waiting"] is True
        daemon.start()
        release.set()
        first.join()
    assert [b"first" in request.body for request in daemon.requests] == [False, False, True]
    assert names(folder) == []


@pytest.mark.parametrize("tool", ["stats", "recall", "forget"])
def test_what_is_no_store_is_not_kept(daemon: FakeDaemon, tools: Toolbox, folder: Path, tool: str) -> None:
    daemon.stop()
    with pytest.raises(DaemonUnreachable):
        tools.call(tool, {"record_ids": [ID], "confirm": True} if tool == "forget" else {})
    assert not folder.exists()
