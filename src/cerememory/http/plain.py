"""Requests as nearly all are, whole in one read and of plain lines, and answers to match.

It is a small part of HTTP/1.1's grammar (RFC 9112), so small that nothing in it may be read in two ways: no folded
line, no byte beyond ASCII, no space before a colon, one Host, at most one Content-Length, and nothing about
codings, protocols or the connection but that it is kept. h11 reads the same in it, and says the same: the tests
have it as properties. All else is h11's, and so is an answer that tells its end in another way than its length.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from cerememory.http.exchange import BODILESS, Headers

VALUE = rb": ?(?:[!-~](?:[ -~]*[!-~])?)?\r\n"
LINE = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+" + VALUE
REQUEST_HEAD = re.compile(rb"(GET|POST|PUT|PATCH|DELETE) (/[!-~]*) HTTP/1\.1\r\n((?>" + LINE + rb")+)\r\n")
ANSWER_LINE = rb"[!#$%&'*+\-.^_`|~0-9a-z]+" + VALUE
ANSWER_HEAD = re.compile(rb"HTTP/1\.1 [2-5][0-9][0-9] \r\n(?>" + ANSWER_LINE + rb")+\r\n")
LENGTH = re.compile(rb"[0-9]{1,18}")
ONCE = (b"host", b"content-length", b"connection")
ELSEWHERE = frozenset({b"transfer-encoding", b"upgrade", b"expect"})  # what they ask for isn't plain
NOT_OF_ANSWERS = frozenset({b"connection", b"transfer-encoding", b"host"})  # h11 has its own mind about them


class PlainRequest(NamedTuple):
    """`headers` in their order, names in lower case, as h11 gives them."""

    method: bytes
    target: bytes
    headers: Headers
    body: bytes
    http_version: bytes = b"1.1"


def read(data: bytes) -> PlainRequest | None:
    """The one request that `data` is; None: it is for h11 to say what it is."""
    head = REQUEST_HEAD.match(data)
    if head is None:
        return None
    method, target, lines = head.groups()
    headers: Headers = []
    for line in lines.split(b"\r\n")[:-1]:
        name, _, value = line.partition(b":")
        headers.append((name.lower(), value.lstrip()))
    body = data[head.end() :]
    return PlainRequest(method, target, headers, body) if _is_plain(headers, len(body)) else None


def _is_plain(headers: Headers, body_bytes: int) -> bool:
    """Whether these headers say that this is the body, and that an answer is all that is wanted."""
    named = dict(headers)
    if len(named) < len(headers) and not _come_once(headers):
        return False
    length = named.get(b"content-length", b"0")
    return (
        b"host" in named
        and named.keys().isdisjoint(ELSEWHERE)
        and named.get(b"connection", b"keep-alive").lower() == b"keep-alive"
        and LENGTH.fullmatch(length) is not None
        and int(length) == body_bytes
    )


def _come_once(headers: Headers) -> bool:
    names = [name for name, _value in headers]
    return all(names.count(name) <= 1 for name in ONCE)


def answer_head(status: int, headers: Headers, body_bytes: int) -> bytes | None:
    """The head of an answer with a body of `body_bytes`; None: it is for h11 to say, or to refuse."""
    named = dict(headers)
    if status in BODILESS or named.get(b"content-length") != b"%d" % body_bytes:
        return None
    if len(named) < len(headers) or not named.keys().isdisjoint(NOT_OF_ANSWERS):
        return None
    head = b"".join([b"HTTP/1.1 %d \r\n" % status, *[b"%b: %b\r\n" % header for header in headers], b"\r\n"])
    is_a_line_each = head.count(b"\n") == len(headers) + 2 and b":" not in b"".join(named)
    return head if is_a_line_each and ANSWER_HEAD.fullmatch(head) else None
