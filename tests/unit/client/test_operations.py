"""The typed methods: each operation has one, both clients have the same, and what they send is what was given."""

from __future__ import annotations

import inspect
import typing
from typing import Any

import msgspec
import pytest
import trio

from cerememory import client as public
from cerememory.client import AsyncClient, Client, replies
from cerememory.client.asks import Ask, Caller
from cerememory.client.async_operations import AsyncOperations
from cerememory.client.operations import Operations
from cerememory.client.wire import Conversation
from cerememory.errors import ValidationFailed
from cerememory.http.examples import EXAMPLE_ID, REQUESTS
from cerememory.protocol import codec, requests
from cerememory.protocol import replies as wire_replies
from cerememory.protocol.operations import OPERATIONS, Operation
from cerememory.protocol.values import parse_id
from tests.support.scripted_daemon import URL, ScriptedDaemon, reached

ONLY_SYNC = {"close"}
ONLY_ASYNC = {"aclose"}
OF_TESTS = {"clock", "wait"}  # the event loop has its own


def label(operation: Operation) -> str:
    return operation.name


def method_of(operation: Operation) -> str:
    return operation.name.replace(".", "_")


def public_names(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


def test_both_clients_have_the_same_names() -> None:
    assert public_names(Client) - ONLY_SYNC == public_names(AsyncClient) - ONLY_ASYNC
    assert public_names(Client) >= ONLY_SYNC
    assert public_names(AsyncClient) >= ONLY_ASYNC


@pytest.mark.parametrize("name", sorted(public_names(Operations)))
def test_a_method_takes_and_gives_the_same_in_both(name: str) -> None:
    sync, awaited = getattr(Client, name), getattr(AsyncClient, name)
    assert inspect.signature(sync) == inspect.signature(awaited)
    assert inspect.getdoc(sync) == inspect.getdoc(awaited)
    assert inspect.iscoroutinefunction(awaited)


@pytest.mark.parametrize("name", ["call", "audit_checkpoint", "audit_consistency"])
def test_so_do_the_methods_for_what_is_no_typed_operation(name: str) -> None:
    sync, awaited = getattr(Client, name), getattr(AsyncClient, name)
    assert inspect.signature(sync) == inspect.signature(awaited)
    assert inspect.getdoc(sync) == inspect.getdoc(awaited)


@pytest.mark.parametrize("name", ["export_archive", "import_archive"])
def test_archives_differ_in_their_streams_alone(name: str) -> None:
    sync, awaited = (inspect.signature(getattr(kind, name)) for kind in (Client, AsyncClient))
    streams = {"source", "return"}
    assert [(p.name, p.kind, p.default) for p in sync.parameters.values()] == [
        (p.name, p.kind, p.default) for p in awaited.parameters.values()
    ]
    for parameter in set(sync.parameters) - streams:
        assert sync.parameters[parameter].annotation == awaited.parameters[parameter].annotation
    assert inspect.getdoc(getattr(Client, name)) == inspect.getdoc(getattr(AsyncClient, name))


def test_both_are_made_alike() -> None:
    sync, awaited = (inspect.signature(kind.__init__).parameters for kind in (Client, AsyncClient))
    assert [p for p in sync.values() if p.name not in OF_TESTS] == list(awaited.values())


@pytest.mark.parametrize("operation", OPERATIONS, ids=label)
@pytest.mark.parametrize("kind", [Operations, AsyncOperations])
def test_each_operation_has_a_method_with_its_types(kind: type, operation: Operation) -> None:
    method = getattr(kind, method_of(operation))
    hints = typing.get_type_hints(method)
    assert hints.get("request") is operation.request
    expected = type(None) if operation.reply is None else replies.READ_AS.get(operation.reply, operation.reply)
    assert hints["return"] is expected
    assert ("idempotency_key" in hints) is operation.mutates
    assert ("sequence" in hints) is not operation.mutates


def test_there_is_no_method_without_an_operation() -> None:
    assert public_names(Operations) == {method_of(operation) for operation in OPERATIONS}


@pytest.mark.parametrize("kind", replies.READ_AS, ids=lambda kind: kind.__name__)
def test_replies_with_records_have_the_fields_of_the_wire(kind: type[Any]) -> None:
    assert_same_fields(kind, replies.READ_AS[kind])


@pytest.mark.parametrize("name", ["RecalledMemory", "Bucket", "GraphNode"])
def test_so_have_their_parts(name: str) -> None:
    assert_same_fields(getattr(wire_replies, name), getattr(replies, name))


def assert_same_fields(ours: type[Any], read: type[Any]) -> None:
    assert [(f.name, f.required) for f in msgspec.structs.fields(ours)] == [
        (f.name, f.required) for f in msgspec.structs.fields(read)
    ]


def request_of(operation: Operation) -> Any:
    """An example, with the id that the path has."""
    if operation.request is None:
        return None
    given: dict[str, Any] = dict(REQUESTS.get(operation.name, {}))
    if operation.name == "lifecycle.import":
        given |= {"archive_id": "a", "archive_data": [1, 2]}
    if "{record_id}" in operation.path:
        given["record_id"] = EXAMPLE_ID
    return codec.parse(codec.dump(given), operation.request)


def asked_of(daemon: ScriptedDaemon, operation: Operation, *, is_async: bool, **given: Any) -> None:
    """The example goes out by the operation's method; the daemon's answer is no matter."""
    request = request_of(operation)
    arguments = () if request is None else (request,)

    async def ask() -> None:
        async with AsyncClient(URL) as client:
            await getattr(client, method_of(operation))(*arguments, **given)

    with reached(daemon):
        if is_async:
            trio.run(ask)
            return
        with Client(URL) as client:
            getattr(client, method_of(operation))(*arguments, **given)


@pytest.mark.parametrize("operation", OPERATIONS, ids=label)
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_what_a_method_is_given_is_what_the_daemon_parses(is_async: bool, operation: Operation) -> None:
    daemon = ScriptedDaemon(answer=b"null")
    head = {"idempotency_key": "mine"} if operation.mutates else {"sequence": 7}
    if operation.reply is None:
        asked_of(daemon, operation, is_async=is_async, **head)
    else:
        with pytest.raises(ValidationFailed, match=r"answered with what is no \w+ .*is it a Cerememory daemon"):
            asked_of(daemon, operation, is_async=is_async, **head)
    [asked] = daemon.asked
    assert asked.method == operation.method
    assert asked.target.partition("?")[0] == operation.path.format(record_id=EXAMPLE_ID)
    assert asked.headers.get("idempotency-key") == ("mine" if operation.mutates else None)
    assert asked.headers.get("x-cerememory-sequence") == (None if operation.mutates else "7")
    if asked.method != "GET":
        assert operation.request is not None
        assert codec.plain(codec.parse(asked.body, operation.request)) == codec.plain(request_of(operation))


def test_what_a_get_asks_for_is_in_its_query() -> None:
    daemon = ScriptedDaemon(answer=b"null")
    request = requests.IntrospectRecord(record_id=parse_id(EXAMPLE_ID), include_versions=True, version=3)
    with reached(daemon), Client(URL) as client, pytest.raises(ValidationFailed):
        client.introspect_record(request)
    [asked] = daemon.asked
    assert asked.target == f"/v1/introspect/record/{EXAMPLE_ID}?include_versions=true&version=3"
    assert asked.body == b""


def test_the_version_that_an_update_expects_is_in_its_head() -> None:
    daemon = ScriptedDaemon(answer=b"")
    with reached(daemon), Client(URL) as client:
        client.encode_update(requests.EncodeUpdate(record_id=parse_id(EXAMPLE_ID)), if_match=3)
    assert daemon.asked[0].headers["if-match"] == '"3"'


@pytest.mark.parametrize("request_", [requests.EncodeUpdate(), requests.RecallAssociate()])
def test_an_id_that_the_path_needs_must_be_there(request_: Any) -> None:
    method = "encode_update" if isinstance(request_, requests.EncodeUpdate) else "recall_associate"
    with Client(URL) as client, pytest.raises(ValidationFailed, match=r"^record_id: missing field$"):
        getattr(client, method)(request_)


@pytest.mark.parametrize("key", ["", " k", "k" * 257, "a\r\nX-Evil: 1", "é"])
def test_a_key_that_no_head_can_carry_is_refused_before_anything_is_sent(key: str) -> None:
    with Client(URL) as client, pytest.raises(ValidationFailed, match=r"^idempotency_key: "):
        client.call("encode.store", {}, idempotency_key=key)


def test_other_heads_are_refused_without_being_shown() -> None:
    with reached(ScriptedDaemon()), Client(URL) as client, pytest.raises(ValidationFailed) as caught:
        client.call("encode.store", {}, headers={"X-A": "secret\r\nX-Evil: 1"})
    assert str(caught.value) == "headers: one holds what no HTTP header can carry"


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (Ask("encode.everything"), r"^operation: there is no 'encode\.everything'$"),
        (Ask("introspect.record"), r"^record_id: missing field$"),
        (Ask("recall.query", {"cue": {"text": "\udcff"}}), r"^request: holds text that isn't Unicode$"),
        (Ask("introspect.record", None, {"record_id": "\udcff"}), r"^request: holds text that isn't Unicode$"),
        (Ask("recall.query", {}, headers={"X-A": "ä"}), r"^headers: one holds what no HTTP header can carry$"),
    ],
)
def test_what_can_be_no_request_is_refused_before_anything_is_sent(ask: Ask, message: str) -> None:
    with pytest.raises(ValidationFailed, match=message):
        next(Conversation("h").exchange(Caller(URL, None, None).request(ask)))


def test_every_public_name_is_there() -> None:
    assert [name for name in public.__all__ if not hasattr(public, name)] == []
    with pytest.raises(AttributeError, match="no attribute 'Clients'"):
        public.Clients  # noqa: B018
