"""Plain requests and answers: h11 reads and writes the same bytes, and ordinary clients' requests are plain.

Model: h11 as the server, given all bytes at once, with the size of a head that our server allows.
"""

from __future__ import annotations

import http.client
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cerememory.http import plain
from cerememory.http.exchange import Headers
from cerememory.http.plain import PlainRequest
from cerememory.http.server import HEAD_BYTES_BUFFERED_MAX, READ_BYTES

# --- Requests


def a_server() -> h11.Connection:
    return h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES_BUFFERED_MAX)


def read_by_h11(data: bytes) -> tuple[PlainRequest, h11.Connection]:
    """The request that h11 reads, and the connection behind it; `RemoteProtocolError` when there is none."""
    connection = a_server()
    connection.receive_data(data)
    request, body = connection.next_event(), b""
    assert isinstance(request, h11.Request)
    while isinstance(event := connection.next_event(), h11.Data):
        body += bytes(event.data)
    assert isinstance(event, h11.EndOfMessage)
    assert not list(event.headers), "no trailers"
    named = [(bytes(name), bytes(value)) for name, value in request.headers]
    return PlainRequest(request.method, request.target, named, body, request.http_version), connection


def check_that_h11_reads_the_same(data: bytes) -> bool:
    """Whether `data` is plain."""
    request = plain.read(data)
    if request is None:
        return False
    same, connection = read_by_h11(data)
    assert request == same
    assert connection.trailing_data == (b"", False), "something is left"
    assert not connection.they_are_waiting_for_100_continue
    head = connection.send(h11.Response(status_code=200, headers=[(b"content-length", b"0")]))
    assert head == b"HTTP/1.1 200 \r\ncontent-length: 0\r\n\r\n", "the connection is kept"
    connection.send(h11.EndOfMessage())
    connection.start_next_cycle()
    return True


FIRST_LINES = (
    b"GET / HTTP/1.1",
    b"POST /v1/encode HTTP/1.1",
    b"PUT /a?b=c&d=%20 HTTP/1.1",
    b"HEAD / HTTP/1.1",
    b"get / HTTP/1.1",
    b"GET / HTTP/1.0",
    b"GET / HTTP/1.2",
    b"GET / HTTP/2.0",
    b"GET  / HTTP/1.1",
    b"GET /a b HTTP/1.1",
    b"GET /\xe9 HTTP/1.1",
    b"GET\t/ HTTP/1.1",
    b"GET / HTTP/1.1 ",
    b" GET / HTTP/1.1",
    b"GET http://localhost/ HTTP/1.1",
    b"OPTIONS * HTTP/1.1",
    b"PRI * HTTP/2.0",
    b"CONNECT localhost:80 HTTP/1.1",
)
HOSTS = (b"Host: localhost", b"host:a", b"HOST: ", b"Host : a", b"Host: a, b", b"X-Host: a")
LENGTHS = (b"3", b"+3", b"-3", b"03", b"3, 3", b"3,4", b"3 ", b" 3", b"0x3", b"3_0", b"", b"9" * 18, b"9" * 21)
LENGTH_NAMES = (b"Content-Length: ", b"content-length:", b"CONTENT-LENGTH:\t", b"Content-Length : ")
OTHERS = (
    b"Accept: */*",
    b"accept: text/html;q=0.9, */*",
    b"X-Empty:",
    b"X-Empty: ",
    b"X-Tab: a\tb",
    b"X-Spaces: a  b",
    b"X-Behind: a ",
    b"X-Before:  a",
    b"X-Nul: a\x00b",
    b"X-Control: a\x01b",
    b"X-Del: a\x7fb",
    b"X-Text: \xc3\xa9",
    b"X-Return: a\rb",
    b"X-Line: a\nb",
    b"X-Folded: a\r\n b",
    b"X-Folded:\r\n\tb",
    b" Leading: a",
    b"Bad Name: a",
    b"No-Colon",
    b": no name",
    b"X-\xe9: a",
    b"Connection: keep-alive",
    b"connection: Keep-Alive",
    b"Connection: close",
    b"Connection: keep-alive, close",
    b"Connection: upgrade",
    b"Connection:",
    b"Keep-Alive: timeout=5",
    b"Transfer-Encoding: chunked",
    b"transfer-encoding: identity",
    b"TE: trailers",
    b"Expect: 100-continue",
    b"Upgrade: h2c",
)
BODIES = (b"", b"abc", b"abcd", b"ab", b"a\r\n", b"3\r\nabc\r\n0\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
ODD_BYTES = b'\r\n\x00\t \x0b\x0c\x1c\x7f\x80\x85\xa0\xff:,;+0A"(/\\'
VALID = b"POST /v1/x?y HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\nContent-Length: 3\r\nX-A: b c\r\n\r\nabc"


def one_of(*common: bytes, among: tuple[bytes, ...]) -> st.SearchStrategy[bytes]:
    """Mostly one of `common`: of several odd parts the first alone would decide."""
    return st.sampled_from([True, True, True, True, False]).flatmap(
        lambda is_common: st.sampled_from(common if is_common else among)
    )


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """Lines that are right and wrong, in any order and number, and now and then a byte that is another."""
    lines = [draw(one_of(b"Host: localhost", among=HOSTS))]
    if draw(st.booleans()):
        lines.append(draw(one_of(b"Content-Length: ", among=LENGTH_NAMES)) + draw(one_of(b"3", among=LENGTHS)))
    lines += draw(st.lists(one_of(*OTHERS[:4], b"Connection: keep-alive", among=OTHERS), max_size=3))
    if draw(st.integers(0, 7)) == 0:
        lines.append(draw(st.sampled_from([b"Host: b", b"Content-Length: 3", b"Connection: close", *lines])))
    lines = draw(st.permutations(lines))
    end = draw(one_of(b"\r\n", among=(b"\n", b"\r", b"\r\r\n", b"\r\n ")))
    body = draw(one_of(b"abc" if any(b"3" in line for line in lines) else b"", among=BODIES))
    whole = end.join([draw(one_of(*FIRST_LINES[:3], among=FIRST_LINES)), *lines, b"", b""]) + body
    for at, odd in draw(st.lists(st.tuples(st.integers(0, 200), st.sampled_from(list(ODD_BYTES))), max_size=1)):
        if draw(st.integers(0, 3)) == 0:
            whole = whole[:at] + bytes([odd]) + whole[at + draw(st.integers(0, 1)) :]
    return whole


def test_what_is_plain_is_read_by_h11_alike_and_nothing_is_left_of_it() -> None:
    plain_ones = []

    @settings(max_examples=2_000)
    @given(messages())
    def check(data: bytes) -> None:
        if check_that_h11_reads_the_same(data):
            plain_ones.append(data)

    check()
    assert len(set(plain_ones)) > 80, "else it says little"


@settings(max_examples=1_000)
@given(st.lists(st.one_of(st.sampled_from([b"\r\n", b"\r\n\r\n", *FIRST_LINES, *HOSTS, *OTHERS]), st.binary())))
def test_noise_is_plain_only_as_h11_reads_it(parts: list[bytes]) -> None:
    check_that_h11_reads_the_same(b"".join(parts))


def changed_by_a_byte() -> Iterator[bytes]:
    for at in range(len(VALID) + 1):
        yield VALID[:at] + VALID[at + 1 :]
        for odd in ODD_BYTES:
            yield VALID[:at] + bytes([odd]) + VALID[at:]
            yield VALID[:at] + bytes([odd]) + VALID[at + 1 :]


def test_each_byte_of_a_request_may_be_another_or_missing_or_follow_one_that_is_too_many() -> None:
    read = [check_that_h11_reads_the_same(data) for data in changed_by_a_byte()]
    assert any(read)
    assert not all(read)


@pytest.mark.parametrize("start", range(1, len(VALID)))
def test_a_part_of_a_request_is_not_plain(start: int) -> None:
    """But one whose length doesn't say that there is more: the rest of a name is a name."""
    assert plain.read(VALID[:start]) is None
    check_that_h11_reads_the_same(VALID[start:])


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(VALID + VALID, id="two in one read"),
        pytest.param(VALID + b"\r\n", id="a line too many"),
        pytest.param(VALID.replace(b": 3", b": 2"), id="a longer body"),
        pytest.param(VALID.replace(b": 3", b": 4"), id="a shorter body"),
        pytest.param(VALID.replace(b"Content-Length: 3\r\n", b""), id="a body without a length"),
        pytest.param(VALID.replace(b"X-A: b c", b"Content-Length: 3"), id="two lengths"),
        pytest.param(VALID.replace(b"X-A: b c", b"content-length: 4"), id="two lengths that differ"),
        pytest.param(VALID.replace(b"X-A: b c", b"HOST: a"), id="two hosts"),
        pytest.param(VALID.replace(b"X-A: b c", b"connection: close"), id="kept and closed"),
        pytest.param(VALID.replace(b"keep-alive", b"close"), id="the last"),
        pytest.param(VALID.replace(b"Host: a\r\n", b""), id="no host"),
        pytest.param(VALID.replace(b"X-A: b c", b"Transfer-Encoding: chunked"), id="a coding"),
        pytest.param(VALID.replace(b"X-A: b c", b"EXPECT: 100-continue"), id="asks to go on"),
        pytest.param(VALID.replace(b"X-A: b c", b"Upgrade: h2c"), id="another protocol"),
        pytest.param(VALID.replace(b"HTTP/1.1", b"HTTP/1.0"), id="HTTP/1.0"),
        pytest.param(VALID.replace(b"/v1", b"http://a/v1"), id="a whole address"),
        pytest.param(VALID.replace(b"X-A: b c", b"X-A: b\r\n c"), id="folded"),
        pytest.param(VALID.replace(b"\r\n", b"\n"), id="bare line feeds"),
        pytest.param(VALID.replace(b"b c", b"b\tc"), id="a tab"),
        pytest.param(VALID.replace(b"b c", b"\xe9"), id="beyond ASCII"),
        pytest.param(VALID.replace(b"b c", b"b\x7fc"), id="a control character"),
        pytest.param(VALID.replace(b"POST", b"HEAD"), id="HEAD"),
        pytest.param(VALID.replace(b": 3", b": +3"), id="a sign"),
        pytest.param(VALID.replace(b": 3", b": 3, 3"), id="a list of lengths"),
        pytest.param(VALID.replace(b": 3", b": " + b"0" * 20 + b"3"), id="more digits than h11 reads"),
    ],
)
def test_what_might_be_read_in_two_ways_is_not_plain(data: bytes) -> None:
    assert plain.read(VALID) is not None
    assert plain.read(data) is None


# --- Ordinary clients

PATHS = st.text("abcxyzABC019-._~/%", max_size=20).map(lambda path: "/" + path)
QUERIES = st.one_of(st.just(""), st.text("abc=&+%0", min_size=1, max_size=12).map(lambda query: "?" + query))
METHODS = st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE"])
CONTENTS = st.binary(max_size=64)
TOKENS = st.text("abcDEF019-_.=", min_size=1, max_size=40)


def by_http_client(method: str, target: str, body: bytes, token: str) -> bytes:
    connection, sent = http.client.HTTPConnection("localhost", 8420), bytearray()
    connection.sock = _Sink(sent)
    named = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
    connection.request(method, target, body or None, named)
    return bytes(sent)


class _Sink:
    """A socket that keeps what is sent."""

    def __init__(self, sent: bytearray) -> None:
        self._sent = sent

    def sendall(self, data: Any) -> None:
        self._sent += data


def by_h11(method: str, target: str, body: bytes, token: str) -> bytes:
    connection = h11.Connection(h11.CLIENT)
    length = [("Content-Length", str(len(body)))] if body else []
    named = [("Host", "localhost"), ("Accept", "*/*"), ("Authorization", f"Bearer {token}"), *length]
    parts = [connection.send(h11.Request(method=method, target=target, headers=named))]
    parts += [connection.send(h11.Data(data=body)), connection.send(h11.EndOfMessage())]
    return b"".join(part for part in parts if part)


def written(*lines: str) -> Callable[[str, str, bytes, str], bytes]:
    """As a client writes it: `{}` is the token, the length stands behind `lines`."""

    def by_hand(method: str, target: str, body: bytes, token: str) -> bytes:
        length = [f"Content-Length: {len(body)}"] if body or method in ("POST", "PUT", "PATCH") else []
        head = [f"{method} {target} HTTP/1.1", *(line.format(token) for line in lines), *length, "", ""]
        return "\r\n".join(head).encode() + body

    return by_hand


CLIENTS = {
    "http.client": by_http_client,
    "h11": by_h11,
    "curl": written(
        "Host: 127.0.0.1:8420",
        "User-Agent: curl/8.5.0",
        "Accept: */*",
        "Authorization: Bearer {}",
        "Content-Type: application/json",
    ),
    "httpx": written(
        "Host: 127.0.0.1:8420",
        "Accept: */*",
        "Accept-Encoding: gzip, deflate, br, zstd",
        "Connection: keep-alive",
        "User-Agent: python-httpx/0.28.1",
        "Authorization: Bearer {}",
    ),
    "urllib3": written(
        "Host: localhost:8420",
        "User-Agent: python-requests/2.32.3",
        "Accept-Encoding: gzip, deflate",
        "Accept: */*",
        "Connection: keep-alive",
        "Authorization: Bearer {}",
    ),
    "node": written(
        "host: localhost", "connection: keep-alive", "accept: */*", "x-api-key: {}", "sec-fetch-mode: cors"
    ),
    "go": written(
        "Host: localhost", "User-Agent: Go-http-client/1.1", "Authorization: Bearer {}", "Accept-Encoding: gzip"
    ),
}


@pytest.mark.parametrize("client", CLIENTS)
@given(METHODS, PATHS, QUERIES, CONTENTS, TOKENS)
def test_the_requests_of_ordinary_clients_are_plain(
    client: str, method: str, path: str, query: str, body: bytes, token: str
) -> None:
    data = CLIENTS[client](method, path + query, body, token)
    request = plain.read(data)
    assert request is not None, data
    assert (request.method.decode(), request.target.decode(), request.body) == (method, path + query, body)
    assert check_that_h11_reads_the_same(data)


# --- Work

HEAD = b"GET / HTTP/1.1\r\nHost: a\r\n"
LONG = READ_BYTES - 100
ADVERSARIES = {
    "a target without end": b"GET /" + b"a" * LONG,
    "spaces in a value": HEAD + b"a: b" + b" " * LONG + b"\x00",
    "words in a value": HEAD + b"a: " + b"b " * (LONG // 2) + b"\r\n\r\n",
    "a name without end": HEAD + b"a" * LONG,
    "lines without end": HEAD + b"a:b\r\n" * (LONG // 5),
    "lines and a last one that is none": HEAD + b"a: b c\r\n" * (LONG // 8) + b"\x00\r\n\r\n",
    "empty lines": HEAD + b"a: \r\n" * (LONG // 5) + b"a: \r",
    "colons": HEAD + b"a" + b":" * LONG + b" \r\n\r\n",
    "twice the same name": HEAD + b"host: a\r\n" * (LONG // 9) + b"\r\n",
    "digits": HEAD + b"content-length: " + b"9" * LONG + b"\r\n\r\n",
}
READING = """
import resource, sys
from cerememory.http import plain
resource.setrlimit(resource.RLIMIT_CPU, ({cpu_s}, {cpu_s}))
data = sys.stdin.buffer.read()
for _ in range(10):
    assert plain.read(data) is None
    values = [(b"content-length", b"0"), (b"x", data.partition(b"a: ")[2])]
    plain.answer_head(200, values, 0)
"""
CPU_S = 20  # of what takes milliseconds; with work that grows as the square it would be hours


@pytest.mark.parametrize("adversary", ADVERSARIES)
def test_no_read_takes_work_beyond_its_length(adversary: str) -> None:
    data = ADVERSARIES[adversary]
    assert READ_BYTES - 200 < len(data) <= READ_BYTES
    subprocess.run([sys.executable, "-c", READING.format(cpu_s=CPU_S)], input=data, check=True)


# --- Answers

NAMES = (
    b"content-type",
    b"x-a",
    b"X-A",
    b"date",
    b"Content-Length",
    b"content-length",
    b"connection",
    b"Connection",
    b"transfer-encoding",
    b"Transfer-Encoding",
    b"host",
    b"x:y",
    b"x: y",
    b"x y",
    b"x\r\ny",
    b"x: y\r\nz",
    b"",
    b" x",
    b"x ",
    b"\xe9",
)
VALUES = (b"a", b"", b"a b", b"0", b"3", b"close", b"keep-alive", b"chunked", b"a: b", b"text/html; charset=utf-8")
BAD_VALUES = (
    b" a",
    b"a ",
    b" ",
    b"\ta",
    b"a\tb",
    b"a\r\nb",
    b"a\r\nset-cookie: b",
    b"a\nset-cookie: b",
    b"a\rb",
    b"a\x00b",
    b"a\r\n\r\nHTTP/1.1 200 \r\nx: y",
    b"\r\n",
    b"a\x7f",
    b"\xc3\xa9",
    b"a\r\n b",
)
ANSWER_HEADERS = st.lists(
    st.tuples(
        one_of(*NAMES[:4], among=NAMES),
        st.one_of(one_of(*VALUES, among=BAD_VALUES), st.text("a: \r\n\t\x00", max_size=8).map(str.encode)),
    ),
    max_size=3,
)
STATUSES = st.one_of(
    st.sampled_from([200, 404, 500]), st.sampled_from([0, 99, 100, 103, 199, 204, 304, 599, 600, 999])
)


def written_by_h11(status: int, headers: Headers, body: bytes) -> tuple[bytes, bytes, h11.Connection]:
    """Head, the rest, and the connection, of this answer to a plain request."""
    _request, connection = read_by_h11(VALID)
    head = connection.send(h11.Response(status_code=status, headers=headers)) or b""
    rest = (connection.send(h11.Data(data=body)) or b"") + (connection.send(h11.EndOfMessage()) or b"")
    return head, rest, connection


@settings(max_examples=2_000)
@given(STATUSES, ANSWER_HEADERS, st.sampled_from([b"", b"abc", b"x" * 100]), st.integers(-1, 2), st.data())
def test_a_plain_head_is_what_h11_writes_and_all_that_it_writes_but_the_body(
    status: int, headers: Headers, body: bytes, off: int, data: st.DataObject
) -> None:
    length = (b"content-length", b"%d" % (len(body) + max(off, 0) // 2))
    whole = data.draw(st.permutations([*headers, *([length] if off >= 0 else [])]))
    head = plain.answer_head(status, whole, len(body))
    if head is None:
        return
    said, rest, connection = written_by_h11(status, whole, body)
    assert (head, body) == (said, rest)
    connection.start_next_cycle()  # which it may


@pytest.mark.parametrize("value", BAD_VALUES)
def test_a_value_that_is_not_one_of_a_line_is_never_plain(value: bytes) -> None:
    assert plain.answer_head(200, [(b"content-length", b"0"), (b"x", b"a"), (b"y", b"b")], 0) is not None
    for headers in ([(b"x", value), (b"y", b"b")], [(b"x", b"a"), (b"y", value)]):
        assert plain.answer_head(200, [(b"content-length", b"0"), *headers], 0) is None


@pytest.mark.parametrize("name", [name for name in NAMES if name not in (b"content-type", b"x-a", b"date")])
def test_a_name_that_is_not_one_in_lower_case_is_never_plain(name: bytes) -> None:
    assert plain.answer_head(200, [(b"content-length", b"0"), (name, b"a")], 0) is None


@given(
    st.sampled_from([200, 201, 400, 404, 500, 503]), st.binary(max_size=80), st.text("abc/;= -_09", max_size=20)
)
def test_ordinary_answers_are_plain(status: int, body: bytes, value: str) -> None:
    headers = [
        (b"content-length", b"%d" % len(body)),
        (b"content-type", b"application/json"),
        (b"x-request-id", value.strip().encode()),
        (b"date", b"Thu, 26 Nov 2026 18:44:40 GMT"),
    ]
    head = plain.answer_head(status, headers, len(body))
    assert head is not None
    assert (head, body) == written_by_h11(status, headers, body)[:2]
