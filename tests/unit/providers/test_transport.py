"""One exchange over a real socket: connections, bounds, TLS, and every way in which a server fails."""

from __future__ import annotations

import os
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import h11
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from cerememory.protocol.base_url import parse_base_url
from cerememory.providers import transport as transport_module
from cerememory.providers.contract import Cause, Failure
from cerememory.providers.transport import CONNECTIONS_MAX, Body, HttpAnswer, HttpRequest, HttpTransport
from tests.support.certificates import self_signed
from tests.support.fake_llm import (
    WAIT_S,
    Asked,
    FakeLlm,
    Peer,
    Reply,
    fake_llm,
    held,
    never,
    oversized,
    raw,
    status,
)

NOT_WHOLE = Failure(Cause.NETWORK, "no whole HTTP answer came")
OK = HttpAnswer(200, b'"yes"')


def post(body: Body | None = None, **headers: str) -> HttpRequest:
    return HttpRequest("/asked", tuple(headers.items()), body or Body(b'"no?"'))


@asynccontextmanager
async def connected(tls: ssl.SSLContext | None = None) -> AsyncIterator[tuple[HttpTransport, FakeLlm]]:
    """A transport to a server whose replies are all given by the test."""
    async with fake_llm(tls) as llm:
        transport = HttpTransport(parse_base_url(llm.url))
        with trio.fail_after(WAIT_S):
            yield transport, llm
        await transport.aclose()


async def test_a_request_arrives_and_its_answer_comes_back() -> None:
    async with connected() as (transport, llm):
        llm.then(status(404, b"nothing here"))
        assert await transport.exchange(post(Authorization="Bearer x")) == HttpAnswer(404, b"nothing here")
        [asked] = llm.requests
        assert (asked.path, asked.body) == ("/asked", b'"no?"')
        assert asked.headers["host"] == llm.url.removeprefix("http://")
        assert asked.headers["authorization"] == "Bearer x"


@given(
    before=st.binary(max_size=9),
    payload=st.binary(max_size=40),
    after=st.binary(max_size=9),
    encoded=st.booleans(),
    piece_bytes=st.sampled_from([3, 6, 30]),
)
def test_the_pieces_of_a_body_are_the_whole(
    before: bytes, payload: bytes, after: bytes, encoded: bool, piece_bytes: int
) -> None:
    body = Body(before, payload, after, encoded)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transport_module, "PIECE_BYTES", piece_bytes)
        whole = b"".join(body.pieces())
    wanted = b64encode(payload) if encoded else payload
    assert whole == before + wanted + after
    assert len(whole) == body.size_bytes


async def test_a_large_body_arrives_whole() -> None:
    payload = os.urandom(3_000_001)
    async with connected() as (transport, llm):
        llm.then(status(200, b'"yes"'))
        assert await transport.exchange(post(Body(b"<", payload, b">"))) == OK
        assert llm.requests[0].body == b"<" + payload + b">"


async def test_exchanges_share_a_connection() -> None:
    async with connected() as (transport, llm):
        llm.then(status(200, b'"yes"'), status(503), status(200, b'"yes"'))
        for _ in range(3):
            await transport.exchange(post())
        assert llm.connections_made == 1
        await transport.aclose()
        await llm.until(lambda llm: llm.open_connections == 0)


async def test_a_connection_that_the_server_closed_is_not_used_again() -> None:
    async def answer_and_close(peer: Peer, _asked: Asked) -> None:
        await peer.answer(200, b'"yes"')
        await peer.stream.aclose()

    async with connected() as (transport, llm):
        llm.then(answer_and_close, status(200, b'"yes"'))
        assert await transport.exchange(post()) == OK
        await llm.until(lambda llm: llm.open_connections == 0)
        assert await transport.exchange(post()) == OK
        assert llm.connections_made == 2


async def test_a_connection_that_the_server_wants_closed_is_closed() -> None:
    async with connected() as (transport, llm):
        llm.then(status(200, b'"yes"', Connection="close"))
        assert await transport.exchange(post()) == OK
        await llm.until(lambda llm: llm.open_connections == 0)


async def test_a_connection_that_was_idle_for_long_is_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport_module, "IDLE_S", 0.0)
    async with connected() as (transport, llm):
        llm.then(status(200, b'"yes"'), status(200, b'"yes"'))
        await transport.exchange(post())
        await transport.exchange(post())
        assert llm.connections_made == 2
        await llm.until(lambda llm: llm.open_connections == 1)


async def test_there_are_never_more_exchanges_than_connections() -> None:
    release = trio.Event()
    async with connected() as (transport, llm), trio.open_nursery() as nursery:
        llm.then(*[held(release, status(200, b'"yes"'))] * (CONNECTIONS_MAX + 3))
        for _ in range(CONNECTIONS_MAX + 3):
            nursery.start_soon(transport.exchange, post())
        await llm.until(lambda llm: len(llm.requests) == CONNECTIONS_MAX)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert len(llm.requests) == CONNECTIONS_MAX
        release.set()
        await llm.until(lambda llm: len(llm.requests) == CONNECTIONS_MAX + 3)
        assert llm.connections_made == CONNECTIONS_MAX


async def test_giving_up_closes_the_connection() -> None:
    async with connected() as (transport, llm), trio.open_nursery() as nursery:
        llm.then(never(), status(200, b'"yes"'))
        nursery.start_soon(transport.exchange, post())
        await llm.until(lambda llm: len(llm.requests) == 1)
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await llm.until(lambda llm: llm.open_connections == 0)
            assert await transport.exchange(post()) == OK


@pytest.mark.parametrize(
    "reply",
    [
        raw(b""),
        raw(b"SSH-2.0-nothing for you\r\n\r\n"),
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n0123456789"),
        raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n"),
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\n"),
        raw(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000),
    ],
    ids=["hangs up", "not HTTP", "cut short", "cut chunks", "bad head", "endless head"],
)
async def test_a_broken_server_is_a_failure_that_may_pass(reply: Reply) -> None:
    async with connected() as (transport, llm):
        llm.then(reply, status(200, b'"yes"'))
        assert await transport.exchange(post()) == NOT_WHOLE
        assert NOT_WHOLE.is_passing
        await llm.until(lambda llm: llm.open_connections == 0)
        assert await transport.exchange(post()) == OK


async def test_nobody_there_is_a_failure_that_may_pass() -> None:
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    outcome = await HttpTransport(parse_base_url(f"http://127.0.0.1:{port}")).exchange(post())
    assert isinstance(outcome, Failure)
    assert outcome.cause is Cause.NETWORK
    assert str(port) in outcome.reason


async def test_an_answer_may_be_just_as_large_as_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport_module, "ANSWER_BYTES_MAX", 200_000)
    async with connected() as (transport, llm):
        llm.then(oversized(200_000), oversized(200_001))
        answer = await transport.exchange(post())
        assert isinstance(answer, HttpAnswer)
        assert len(answer.body) == 200_000
        assert await transport.exchange(post()) == Failure(Cause.TOO_LARGE, "the answer is over 200000 bytes")


async def test_an_endless_answer_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    async def endless(peer: Peer, _asked: Asked) -> None:
        await peer.send(h11.Response(status_code=200, headers=[("Transfer-Encoding", "chunked")]))
        while True:
            await peer.send(h11.Data(data=b"x" * 10_000))

    monkeypatch.setattr(transport_module, "ANSWER_BYTES_MAX", 100_000)
    async with connected() as (transport, llm):
        llm.then(endless)
        assert await transport.exchange(post()) == Failure(Cause.TOO_LARGE, "the answer is over 100000 bytes")
        await llm.until(lambda llm: llm.open_connections == 0)


async def test_an_answer_in_chunks_after_an_informational_one_is_whole() -> None:
    chunks = b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n"y\r\n3\r\nes"\r\n0\r\n\r\n'
    async with connected() as (transport, llm):
        llm.then(raw(b"HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n" + chunks))
        assert await transport.exchange(post()) == OK


async def test_a_refusal_before_the_body_was_read_is_the_answer() -> None:
    """The server reads the head alone, answers and closes, with megabytes still under way."""

    async def refuse(stream: trio.SocketStream) -> None:
        await stream.receive_some(100)
        await stream.send_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        await stream.send_eof()
        with trio.move_on_after(WAIT_S):
            async for _part in stream:
                pass

    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, refuse, [listener])
        transport = HttpTransport(parse_base_url(f"http://127.0.0.1:{listener.socket.getsockname()[1]}"))
        answer = await transport.exchange(post(Body(b"", bytes(9_000_000))))
        assert answer == HttpAnswer(413, b"no")
        await transport.aclose()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("key", ["sk-Secret\r\nX-Evil: 1", "sk-Secret\x00", "sk-Secret\n"])
async def test_a_key_that_no_header_can_carry_isnt_shown(key: str) -> None:
    async with connected() as (transport, llm):
        outcome = await transport.exchange(post(Authorization=key))
        assert outcome == Failure(Cause.REFUSED, "the request can't be written as HTTP")
        await llm.until(lambda llm: llm.open_connections == 0)
        assert llm.requests == []


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    return self_signed(tmp_path)[0]


@pytest.fixture
def tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    return context


async def test_a_trusted_server_is_asked_over_one_connection(
    certificate: Path, tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    payload = os.urandom(200_000)
    async with connected(tls) as (transport, llm):
        llm.then(*[status(200, b'"yes"')] * 3)
        assert [await transport.exchange(post(Body(payload))) for _ in range(3)] == [OK] * 3
        assert llm.connections_made == 1
        assert {asked.body for asked in llm.requests} == {payload}


async def test_a_server_that_isnt_trusted_hears_nothing(tls: ssl.SSLContext) -> None:
    async with connected(tls) as (transport, llm):
        outcome = await transport.exchange(post(Authorization="Bearer sk-Secret"))
        assert isinstance(outcome, Failure)
        assert outcome.cause is Cause.UNTRUSTED
        assert not outcome.is_passing
        assert llm.requests == []


async def test_a_server_without_tls_is_a_failure() -> None:
    async with fake_llm() as llm:
        transport = HttpTransport(parse_base_url(llm.url.replace("http://", "https://")))
        outcome = await transport.exchange(post())
        assert isinstance(outcome, Failure)
        assert outcome.cause is Cause.NETWORK
