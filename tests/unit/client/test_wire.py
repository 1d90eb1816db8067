"""HTTP without I/O: which bytes go out, what is made of those that come, when a connection may be used again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cerememory.client.wire import JOINED_BYTES_MAX, Broken, Conversation, HttpRequest, R, Steps, Want
from cerememory.errors import ContentTooLarge, ValidationFailed

POST = HttpRequest("POST", "/v1/encode", {"X-A": "b"}, b"{}")
STREAM = HttpRequest("PUT", "/v1/archive", {"Content-Length": "4"}, None)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


class Peer:
    """Performs steps: keeps what is sent, gives what it has in turn, and b"" when that is all."""

    def __init__(self, *came: bytes, pieces: tuple[bytes, ...] = (), breaks_at: int | None = None) -> None:
        self.sent: list[bytes] = []
        self._came: Iterator[bytes] = iter(came)
        self._pieces = iter(pieces)
        self._breaks_at = breaks_at

    def perform(self, steps: Steps[R]) -> R:
        try:
            step = next(steps)
            while True:
                if self._breaks_at == len(self.sent) and isinstance(step, bytes):
                    step = steps.throw(Broken("Broken pipe"))
                else:
                    step = steps.send(self._answer(step))
        except StopIteration as done:
            result: R = done.value
            return result

    def _answer(self, step: bytes | Want) -> bytes:
        if isinstance(step, bytes):
            self.sent.append(step)
            return b""
        return next(self._came if step is Want.BYTES else self._pieces, b"")


def test_a_small_request_is_sent_at_once() -> None:
    peer, http = Peer(OK), Conversation("localhost:8420")
    answer = peer.perform(http.exchange(POST))
    assert (answer.head.status, answer.body) == (200, b"{}")
    assert peer.sent == [
        b"POST /v1/encode HTTP/1.1\r\nHost: localhost:8420\r\nX-A: b\r\nContent-Length: 2\r\n\r\n{}"
    ]
    assert http.is_reusable


def test_a_large_one_is_not_copied_behind_its_head() -> None:
    body = b"x" * (JOINED_BYTES_MAX + 1)
    peer = Peer(OK)
    peer.perform(Conversation("h").exchange(HttpRequest("POST", "/", {}, body)))
    assert peer.sent[1] is body


def test_a_stream_is_sent_in_the_pieces_that_it_comes_in() -> None:
    peer = Peer(OK, pieces=(b"ab", b"cd"))
    peer.perform(Conversation("h").exchange(STREAM))
    assert peer.sent[1:] == [b"ab", b"cd"]


@pytest.mark.parametrize("pieces", [(b"abc",), (b"abcde",)], ids=["too few", "too many"])
def test_a_stream_of_another_length_than_it_says_is_refused(pieces: tuple[bytes, ...]) -> None:
    http = Conversation("h")
    with pytest.raises(ValidationFailed, match=r"^size_bytes: "):
        Peer(OK, pieces=pieces).perform(http.exchange(STREAM))
    assert not http.is_reusable


def test_several_exchanges_follow_each_other() -> None:
    peer, http = Peer(OK, OK.replace(b"200 OK", b"404 No")), Conversation("h")
    assert [peer.perform(http.exchange(POST)).head.status for _ in range(2)] == [200, 404]


def test_an_answer_may_come_in_any_pieces_and_after_others() -> None:
    came = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n" + OK
    peer = Peer(*(bytes([byte]) for byte in came))
    assert peer.perform(Conversation("h").exchange(POST)).body == b"{}"


def test_an_answer_without_a_length_goes_on_to_the_end() -> None:
    http = Conversation("h")
    answer = Peer(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{", b"}").perform(http.exchange(POST))
    assert answer.body == b"{}"
    assert not http.is_reusable


def test_a_refusal_before_the_request_was_sent_is_read() -> None:
    http = Conversation("h")
    answer = Peer(OK, breaks_at=0).perform(http.exchange(POST))
    assert answer.body == b"{}"
    assert not http.is_reusable, "the connection is broken"


def test_bytes_that_nobody_asked_for_are_no_answer_to_the_next() -> None:
    http = Conversation("h")
    Peer(OK + OK).perform(http.exchange(POST))
    assert not http.is_reusable


@pytest.mark.parametrize(
    ("came", "reason"),
    [
        (b"", "it hung up before the answer was whole"),
        (OK[:20], "it hung up before the answer was whole"),
        (OK[:-1], "it hung up before the answer was whole"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "what came isn't HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000, "what came isn't HTTP"),
        (OK.replace(b": 2", b": many"), "what came isn't HTTP"),
    ],
    ids=["nothing", "half a head", "half a body", "other words", "a long head", "no length"],
)
def test_what_is_no_answer_is_called_so_without_its_words(came: bytes, reason: str) -> None:
    http = Conversation("h")
    with pytest.raises(Broken) as caught:
        Peer(came).perform(http.exchange(POST))
    assert str(caught.value) == reason
    assert not http.is_reusable


def test_a_body_over_the_bound_is_given_up() -> None:
    http = Conversation("h")
    peer = Peer(OK)
    peer.perform(http.ask(POST))
    with pytest.raises(ContentTooLarge, match="over 1 bytes"):
        peer.perform(http.rest(1))


def test_neither_keys_nor_bodies_are_shown() -> None:
    assert repr(POST) == "HttpRequest(method='POST', target='/v1/encode')"
