"""One call: what goes over the wire, what comes back, which connections are kept."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from cerememory.client import Client, connections, wire
from cerememory.errors import ContentTooLarge, DaemonUnreachable, ForgetUnconfirmed, ValidationFailed
from cerememory.protocol.values import parse_id
from tests.support.fake_daemon import FakeDaemon, answer, held, no_content, raw_answer, refusal

ARCHIVE_HEAD = {"X_Cerememory_Archive_Id": "a", "X_Cerememory_Record_Count": "0", "X_Cerememory_Checksum": "c"}
ID = "0191aaaa-0000-7000-8000-00000000000a"


@pytest.fixture
def daemon() -> Iterator[FakeDaemon]:
    with FakeDaemon() as daemon:
        yield daemon


def test_a_post_sends_its_body_as_json(daemon: FakeDaemon) -> None:
    daemon.then(answer({"memories": []}))
    with Client(daemon.url) as client:
        assert client.call("recall.query", {"cue": {"text": "kettle"}, "limit": 5}) == {"memories": []}
    [request] = daemon.requests
    assert (request.method, request.path) == ("POST", "/v1/recall/query")
    assert request.headers["content-type"] == "application/json"
    assert request.json == {"cue": {"text": "kettle"}, "limit": 5}


def test_protocol_values_are_written_in_their_text_form(daemon: FakeDaemon) -> None:
    with Client(daemon.url) as client:
        client.call("lifecycle.forget", {"record_ids": [parse_id(ID)], "confirm": True})
    [request] = daemon.requests
    assert request.method == "DELETE"
    assert request.json == {"record_ids": [ID], "confirm": True}


def test_path_and_query_are_quoted(daemon: FakeDaemon) -> None:
    with Client(f"{daemon.url}/base/") as client:
        client.call("introspect.record", path_params={"record_id": "a/b c"}, query={"include_history": "true"})
    [request] = daemon.requests
    assert (request.method, request.path) == (
        "GET",
        "/base/v1/introspect/record/a%2Fb%20c?include_history=true",
    )
    assert "content-type" not in request.headers


def test_an_answer_without_a_body_is_none(daemon: FakeDaemon) -> None:
    daemon.then(no_content())
    with Client(daemon.url) as client:
        assert client.call("lifecycle.set_mode", {"mode": "perfect"}) is None


def test_the_key_goes_into_the_authorization_header(daemon: FakeDaemon) -> None:
    with Client(daemon.url, "sesame") as client:
        client.call("introspect.stats")
    assert daemon.requests[0].headers["authorization"] == "Bearer sesame"


def test_a_namespace_goes_into_its_header_at_every_call(daemon: FakeDaemon) -> None:
    with Client(daemon.url, namespace="work") as client:
        client.call("introspect.stats")
        client.call("encode.store", {})
    assert [request.headers["x-cerememory-namespace"] for request in daemon.requests] == ["work", "work"]


def test_without_a_namespace_there_is_no_such_header(daemon: FakeDaemon) -> None:
    with Client(daemon.url) as client:
        client.call("introspect.stats")
    assert "x-cerememory-namespace" not in daemon.requests[0].headers


@pytest.mark.parametrize("name", ["", "a b", "a\r\nX-Evil: 1", "é", "a" * 65])
def test_what_cannot_be_the_name_of_a_namespace_is_refused_before_anything_is_sent(name: str) -> None:
    with pytest.raises(ValidationFailed, match=r"^namespace: expected 1 to 64 "):
        Client("http://127.0.0.1:9", namespace=name)


def test_headers_of_a_call_come_before_the_clients_own(daemon: FakeDaemon) -> None:
    with Client(daemon.url) as client:
        client.call("introspect.stats", headers={"Accept": "application/vnd.cmp+json;bytes=base64", "X-A": "b"})
    headers = daemon.requests[0].headers
    assert (headers["accept"], headers["x-a"]) == ("application/vnd.cmp+json;bytes=base64", "b")


@pytest.mark.parametrize("operation", ["encode.store", "encode.batch", "encode.store_raw", "encode.batch_raw"])
def test_each_encode_gets_an_idempotency_key_of_its_own(daemon: FakeDaemon, operation: str) -> None:
    with Client(daemon.url) as client:
        client.call(operation, {})
        client.call(operation, {})
    keys = {request.headers["idempotency-key"] for request in daemon.requests}
    assert len(keys) == 2


def test_a_given_idempotency_key_is_sent(daemon: FakeDaemon) -> None:
    with Client(daemon.url) as client:
        client.call("encode.store", {}, idempotency_key="mine")
        client.call("lifecycle.forget", {"confirm": True}, idempotency_key="mine too")
    assert [r.headers["idempotency-key"] for r in daemon.requests] == ["mine", "mine too"]


@pytest.mark.parametrize("operation", ["recall.query", "lifecycle.export", "introspect.stats"])
def test_an_operation_that_writes_nothing_is_given_no_key(daemon: FakeDaemon, operation: str) -> None:
    with Client(daemon.url) as client:
        client.call(operation)
    assert "idempotency-key" not in daemon.requests[0].headers


def test_an_error_answer_is_raised_as_its_class(daemon: FakeDaemon) -> None:
    daemon.then(refusal(400, "FORGET_UNCONFIRMED", "confirm: must be true"))
    with Client(daemon.url) as client, pytest.raises(ForgetUnconfirmed, match="confirm: must be true"):
        client.call("lifecycle.forget", {"confirm": False})
    assert len(daemon.requests) == 1


@pytest.mark.parametrize("body", [b"<html>welcome</html>", b"\xff\xfe", b"[" * 100_000])
def test_an_answer_that_isnt_json_says_that_this_is_no_daemon(daemon: FakeDaemon, body: bytes) -> None:
    daemon.then(raw_answer(body))
    with Client(daemon.url) as client, pytest.raises(ValidationFailed, match="is it a Cerememory daemon"):
        client.call("introspect.stats")


def test_an_answer_over_the_bound_is_refused(daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "ANSWER_BYTES_MAX", 1_000)
    daemon.then(answer("x" * 998), answer("x" * 999))
    with Client(daemon.url) as client:
        assert client.call("introspect.stats") == "x" * 998
        with pytest.raises(ContentTooLarge, match="over 1000 bytes"):
            client.call("introspect.stats")


def test_a_client_without_a_usable_url_isnt_made() -> None:
    with pytest.raises(ValidationFailed, match="server_url"):
        Client("ftp://127.0.0.1")


def test_calls_one_after_the_other_share_a_connection(daemon: FakeDaemon) -> None:
    daemon.then(answer({}), refusal(404, "RECORD_NOT_FOUND"), no_content())
    with Client(daemon.url) as client:
        client.call("introspect.stats")
        with pytest.raises(Exception, match="no"):
            client.call("introspect.record", path_params={"record_id": ID})
        client.call("encode.update", {}, path_params={"record_id": ID})
        client.call("introspect.stats")
    assert daemon.connections_made == 1


def test_a_connection_that_the_daemon_closed_meanwhile_is_not_used_again(daemon: FakeDaemon) -> None:
    with Client(daemon.url, retry_for_s=0) as client:
        client.call("introspect.stats")
        daemon.drop_connections()
        daemon.wait_for_connections(0)
        client.call("introspect.stats")
    assert daemon.connections_made == 2


def test_a_connection_that_the_daemon_wants_closed_is_closed(daemon: FakeDaemon) -> None:
    daemon.then(answer({}, Connection="close"))
    with Client(daemon.url) as client:
        client.call("introspect.stats")
        daemon.wait_for_connections(0)


def test_closing_the_client_closes_its_connections(daemon: FakeDaemon) -> None:
    client = Client(daemon.url)
    client.call("introspect.stats")
    daemon.wait_for_connections(1)
    client.close()
    daemon.wait_for_connections(0)


def test_a_call_that_outlives_the_client_closes_its_connection(daemon: FakeDaemon) -> None:
    release = threading.Event()
    daemon.then(held(release, answer({})))
    client = Client(daemon.url)
    call = threading.Thread(target=client.call, args=("introspect.stats",))
    call.start()
    daemon.wait_for_requests(1)
    client.close()
    release.set()
    call.join()
    daemon.wait_for_connections(0)


def test_a_call_waits_for_its_turn_when_all_connections_are_in_use(
    daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "CONNECTIONS_MAX", 1)
    daemon.then(raw_answer(b"x", 200, **ARCHIVE_HEAD))
    with Client(daemon.url, timeout_s=0.05) as client:
        with (
            client.export_archive() as archive,
            pytest.raises(DaemonUnreachable, match=r"^all 1 connections to .* are in use") as caught,
        ):
            client.call("introspect.stats")
        assert not caught.value.was_sent
        assert archive.size_bytes == 1
        client.call("introspect.stats")


def test_the_newest_commit_that_was_acknowledged_is_kept(daemon: FakeDaemon) -> None:
    daemon.then(*[answer({}, X_Cerememory_Sequence=number) for number in ("7", "6", "eight", "9")])
    with Client(daemon.url) as client:
        assert client.sequence is None
        seen = [(client.call("encode.store", {}), client.sequence)[1] for _ in range(4)]
        assert seen == [7, 7, 7, 9]
        client.call("introspect.stats")
        assert client.sequence == 9


def test_calls_at_once_each_have_a_connection_and_only_some_are_kept(daemon: FakeDaemon) -> None:
    callers, kept_max = 12, 8
    everyone_asked = threading.Event()
    daemon.then(*[held(everyone_asked, answer({})) for _ in range(callers)])
    with Client(daemon.url) as client:
        threads = [threading.Thread(target=client.call, args=("introspect.stats",)) for _ in range(callers)]
        for thread in threads:
            thread.start()
        daemon.wait_for_requests(callers)
        everyone_asked.set()
        for thread in threads:
            thread.join()
        daemon.wait_for_connections(kept_max)
    assert daemon.connections_made == callers
