"""The scalar values of CMP: record ids, timestamps and byte arrays, each with its text form.

All three are subclasses of built-ins, so they sort, hash and pack as those do, and the codec can tell
them apart. `parse_*` raise `ValueError` with a reason and no field name: the codec knows the field.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache

NANOS = 1_000_000_000
TIMESTAMP_MIN = -(2**63)
UINT32_MAX = 2**32 - 1  # of counts and versions
TIMESTAMP_MAX = 2**63 - 1  # what a signed 64-bit count of nanoseconds holds: 1677 to 2262

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,9})\d*)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_HEX_ID = re.compile(r"[0-9a-f]{32}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)


class RecordId(bytes):
    """The 16 bytes of a UUID. Text form: hyphenated lower case."""

    __slots__ = ()

    def __str__(self) -> str:
        return format_id(self)


class Timestamp(int):
    """Nanoseconds since the epoch, UTC. Text form: RFC 3339 ending in `Z`."""

    __slots__ = ()

    def __str__(self) -> str:
        return format_timestamp(self)


class ByteArray(bytes):
    """Content bytes. Text form: a JSON array of integers 0 to 255."""

    __slots__ = ()


NIL_ID = RecordId(16)


def parse_id(text: str) -> RecordId:
    """A UUID in any of its forms: hyphenated or not, either case, in braces, as `urn:uuid:`."""
    bare = text.lower().removeprefix("urn:uuid:")
    if bare.startswith("{") and bare.endswith("}"):
        bare = bare[1:-1]
    if not _HEX_ID.fullmatch(bare):
        raise ValueError(f"expected a UUID, got {text[:64]!r}")
    return RecordId(bytes.fromhex(bare.replace("-", "")))


def format_id(record_id: bytes) -> str:
    """`record_id` (16 bytes) as hyphenated lower-case hex."""
    h = record_id.hex()
    return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"


def parse_timestamp(text: str) -> Timestamp:
    """RFC 3339 with any offset; fractions are kept to the nanosecond, further digits are cut.

    A leap second (`:60`) is the second after it, as POSIX time has it. Years 1 to 9999 in UTC.
    """
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise ValueError(f"expected an RFC 3339 timestamp, got {text[:64]!r}")
    day, clock, fraction, offset = match.groups()
    leap = clock.endswith(":60")
    clock = clock[:-2] + "59" if leap else clock
    try:
        moment = datetime.fromisoformat(f"{day}T{clock}+00:00") - _offset(offset) + timedelta(seconds=leap)
    except (ValueError, OverflowError):
        raise ValueError(f"expected an RFC 3339 timestamp, got {text[:64]!r}") from None
    elapsed = moment - _EPOCH
    seconds = elapsed.days * 86_400 + elapsed.seconds
    return Timestamp(seconds * NANOS + int((fraction or "0").ljust(9, "0")))


def _offset(text: str) -> timedelta:
    if text in "Zz":
        return timedelta(0)
    hours, minutes = int(text[1:3]), int(text[4:6])
    if hours > 23 or minutes > 59:
        raise ValueError(text)
    return timedelta(hours=hours, minutes=minutes) * (-1 if text[0] == "-" else 1)


@lru_cache(maxsize=4096)  # the times of a record are mostly equal, and the newest are asked for most
def format_timestamp(at: int, suffix: str = "Z") -> str:
    """RFC 3339 in UTC with 0, 3, 6 or 9 fraction digits, the fewest that lose nothing.

    `at`: nanoseconds since the epoch, within the years 1 to 9999; beyond them `OverflowError`.
    """
    seconds, nanos = divmod(at, NANOS)
    return _format_second(seconds) + format_fraction(nanos) + suffix


def format_fraction(nanos: int) -> str:
    if nanos == 0:
        return ""
    if nanos % 1_000:
        return f".{nanos:09d}"
    if nanos % 1_000_000:
        return f".{nanos // 1_000:06d}"
    return f".{nanos // 1_000_000:03d}"


@lru_cache(maxsize=1024)
def _format_second(seconds: int) -> str:
    moment = _EPOCH + timedelta(seconds=seconds)
    return moment.strftime("%Y-%m-%dT%H:%M:%S") if moment.year > 999 else moment.isoformat()[:19]
