"""gRPC's own bytes: prefixed messages, deadlines, and statuses in trailers.

Each message has five bytes in front: whether it is compressed, and its length. A client may compress with gzip;
answers are never compressed. Source: the gRPC over HTTP/2 protocol.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Awaitable, Callable
from functools import partial
from typing import NamedTuple
from urllib.parse import quote

from cerememory.errors import CompressionUnknown, MessageTooLarge, ValidationFailed
from cerememory.http.bodies import BODY_BYTES_MAX, Body, Room

MESSAGE_BYTES_MAX = BODY_BYTES_MAX
PREFIX = struct.Struct(">BI")
IDENTITY, GZIP = "identity", "gzip"
ENCODINGS = f"{IDENTITY},{GZIP}"
GZIP_WINDOW_BITS = 31  # zlib's number for a gzip head around the widest window
STATUS_MESSAGE_CHARS_MAX = 1_024  # clients bound the trailers they take
PLAIN = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")  # what a status message needn't escape

STATUS_NUMBERS = {
    name: number
    for number, name in enumerate(
        (
            "OK",
            "CANCELLED",
            "UNKNOWN",
            "INVALID_ARGUMENT",
            "DEADLINE_EXCEEDED",
            "NOT_FOUND",
            "ALREADY_EXISTS",
            "PERMISSION_DENIED",
            "RESOURCE_EXHAUSTED",
            "FAILED_PRECONDITION",
            "ABORTED",
            "OUT_OF_RANGE",
            "UNIMPLEMENTED",
            "INTERNAL",
            "UNAVAILABLE",
            "DATA_LOSS",
            "UNAUTHENTICATED",
        )
    )
}
_TIMEOUT = re.compile(r"(\d{1,8})([HMSmun])", re.ASCII)
_UNITS_S = {"H": 3_600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}

OffLoop = Callable[[Callable[[], bytes]], Awaitable[bytes]]


def framed(message: bytes) -> bytes:
    return PREFIX.pack(0, len(message)) + message


def timeout_s(sent: str | None) -> float | None:
    """What `grpc-timeout` says; None when there is none. Raises `ValidationFailed`."""
    if sent is None:
        return None
    match = _TIMEOUT.fullmatch(sent)
    if match is None:
        raise ValidationFailed(f"grpc-timeout: expected up to 8 digits and one of H M S m u n, got {sent[:32]!r}")
    return int(match[1]) * _UNITS_S[match[2]]


def status_message(text: str) -> bytes:
    """As `grpc-message` carries it: UTF-8, percent-encoded, and not longer than a trailer may be."""
    return quote(text[:STATUS_MESSAGE_CHARS_MAX], safe=PLAIN).encode()


class _Prefix(NamedTuple):
    is_compressed: int
    size_bytes: int


class Messages:
    """The messages of a request as they come, one at a time, each counted in `room` before it is read.

    `encoding` is what compressed ones are compressed with; `off_loop` unpacks them where they hold up nobody.
    """

    def __init__(self, body: Body, room: Room, encoding: str, off_loop: OffLoop) -> None:
        self._body = body
        self._room = room
        self._encoding = encoding
        self._off_loop = off_loop
        self._waiting = bytearray()

    async def next(self) -> bytes | None:
        """The next one, None when the client has no more.

        Raises `MessageTooLarge`, `CompressionUnknown`, `TooManyBytes`, `BodyTooSlow`, `ValidationFailed`.
        """
        if not await self._has(PREFIX.size):
            return None
        prefix = _Prefix(*PREFIX.unpack_from(self._waiting))
        self._check(prefix)
        self._room.extend(prefix.size_bytes)
        await self._has(PREFIX.size + prefix.size_bytes)
        message = bytes(memoryview(self._waiting)[PREFIX.size : PREFIX.size + prefix.size_bytes])
        del self._waiting[: PREFIX.size + prefix.size_bytes]
        return await self._unpacked(message) if prefix.is_compressed else message

    async def only(self) -> bytes:
        """The one message of a request that has one."""
        message = await self.next()
        if message is None:
            raise ValidationFailed("message: missing, the request ended before it")
        return message

    def _check(self, prefix: _Prefix) -> None:
        if prefix.is_compressed > 1:
            raise ValidationFailed("message: the compressed flag must be 0 or 1")
        if prefix.is_compressed and self._encoding != GZIP:
            raise CompressionUnknown(f"grpc-encoding: expected {IDENTITY} or {GZIP}, got {self._encoding[:32]!r}")
        if prefix.size_bytes > MESSAGE_BYTES_MAX:
            raise MessageTooLarge(f"message: {prefix.size_bytes} bytes, at most {MESSAGE_BYTES_MAX} are allowed")

    async def _has(self, size_bytes: int) -> bool:
        """Wait until that much is there; False when there is nothing at all, and nothing comes."""
        while len(self._waiting) < size_bytes:
            if self._body.whole:
                if self._waiting:
                    raise ValidationFailed("message: cut off, the request ended within it")
                return False
            self._waiting += await self._body.next_part()
        return True

    async def _unpacked(self, message: bytes) -> bytes:
        unpacked = await self._off_loop(partial(gunzip, message))
        self._room.extend(len(unpacked))
        return unpacked


def gunzip(message: bytes) -> bytes:
    """Raises `MessageTooLarge` before more than a message may have is unpacked, and `ValidationFailed`."""
    unpacker = zlib.decompressobj(GZIP_WINDOW_BITS)
    try:
        unpacked = unpacker.decompress(message, MESSAGE_BYTES_MAX + 1)
    except zlib.error:
        raise ValidationFailed("message: not readable as gzip") from None
    if len(unpacked) > MESSAGE_BYTES_MAX:
        raise MessageTooLarge(f"message: unpacked, over {MESSAGE_BYTES_MAX} bytes")
    if not unpacker.eof:
        raise ValidationFailed("message: not readable as gzip")
    return unpacked
