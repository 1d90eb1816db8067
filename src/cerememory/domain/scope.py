"""Which memories a recall may answer at all: those of a session, from a source, with tags, with metadata.

What a memory has and what a scope asks for are both made into *terms*: digests, so that any text and any JSON is
a short word of the text index. A memory is in a scope when it has all of the scope's terms.

The session is the one that a memory was given with its context, else, of a dream, that of the entries it was made
of; the source is that of its context, else, of a dream, `dream`, as MCP shows it. Tags are those of its meta. Of
its metadata each member of the outer object is a term of its own, but for those that the daemon keeps there
(`limits.OWN_METADATA`). Values are compared as JSON: numbers exactly by their value, objects whatever the order of
their keys, texts as they are written. Archives may hold anything in these places, so nothing here raises for a
memory.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from decimal import Decimal, InvalidOperation
from hashlib import blake2b
from itertools import islice
from typing import Any

import msgspec

from cerememory.protocol.limits import OWN_METADATA
from cerememory.protocol.requests import RecallScope

TAGS_MAX = 10_000  # of one memory; a recall asks for 32 at the most
TERM_BYTES = 16
PLAIN_CHARS_MAX = 32  # longer numbers are rare, and read with more care
PLAIN_ZEROS_MAX = 400  # beyond them a number is written with an exponent; JSON's doubles end before

DREAM = "dream"
_SESSION, _SOURCE, _TAG, _METADATA = "session", "source", "tag", "metadata"
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def terms_of(namespace: int, metadata: bytes, tags: Collection[str]) -> tuple[str, ...]:
    """The terms of a memory, each once: `metadata` is its JSON, `tags` are those of its meta."""
    fields = _fields(metadata)
    if not fields and not tags:
        return ()
    told = [*_origin_terms(namespace, fields), *_tag_terms(namespace, tags), *_metadata_terms(namespace, fields)]
    return tuple(dict.fromkeys(told))


def asked_terms(namespace: int, scope: RecallScope | None) -> tuple[str, ...]:
    """The terms of a checked scope; none when it lets everything in."""
    if scope is None:
        return ()
    values = {name: _decoded(bytes(value)) for name, value in (scope.metadata or {}).items()}
    told = [
        *(_term(namespace, kind, text) for kind, text in _named(scope.session_id, scope.source)),
        *_tag_terms(namespace, scope.tags or ()),
        *_metadata_terms(namespace, values),
    ]
    return tuple(dict.fromkeys(told))


def _origin_terms(namespace: int, fields: Mapping[str, Any]) -> Iterator[str]:
    context, origin = (_inner(fields, name) for name in ("_context", "_origin"))
    session, source = context.get("session_id"), context.get("source")
    if not isinstance(session, str):
        session = origin.get("raw_session_id")
    if not isinstance(source, str) and "_dream" in fields:
        source = DREAM
    for kind, text in _named(session, source):
        yield _term(namespace, kind, text)


def _named(session: object, source: object) -> Iterator[tuple[str, str]]:
    if isinstance(session, str):
        yield _SESSION, session
    if isinstance(source, str):
        yield _SOURCE, source


def _tag_terms(namespace: int, tags: Iterable[str]) -> Iterator[str]:
    for tag in islice(dict.fromkeys(tags), TAGS_MAX):
        yield _term(namespace, _TAG, tag)


def _metadata_terms(namespace: int, fields: Mapping[str, Any]) -> Iterator[str]:
    for name, value in fields.items():
        if name not in OWN_METADATA:
            yield _term(namespace, _METADATA, f"{name}\0{_canonical(value)}")  # a value has no bare NUL


def _term(namespace: int, kind: str, text: str) -> str:
    return blake2b(f"{namespace:x}~{kind}~{text}".encode(), digest_size=TERM_BYTES).hexdigest()


def _fields(metadata: bytes) -> Mapping[str, Any]:
    """The members of metadata, their numbers exact; none when it is no object."""
    if len(metadata) <= len(b"{}"):
        return {}
    try:
        fields = _decoded(metadata)
    except _UNREADABLE:
        return {}
    return fields if isinstance(fields, dict) else {}


def _inner(fields: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = fields.get(name)
    return found if isinstance(found, dict) else {}


def _decoded(raw: bytes) -> Any:
    return _DECODER.decode(raw)


def _canonical(value: Any) -> str:
    """The one text of all JSON that means the same."""
    return _ENCODER.encode(value).decode()


def _number(text: str) -> msgspec.Raw:
    """The one way in which a number with a point or an exponent is written, whole ones as integers are."""
    if len(text) > PLAIN_CHARS_MAX or "e" in text or "E" in text:
        return msgspec.Raw(_exact(text).encode())
    plain = text.rstrip("0").removesuffix(".")
    return msgspec.Raw(b"0" if plain == "-0" else plain.encode())


def _exact(text: str) -> str:
    try:
        sign, digits, exponent = Decimal(text).as_tuple()
    except InvalidOperation:  # an exponent of some twenty digits
        return text.lower()
    if not isinstance(exponent, int) or not any(digits):
        return "0"
    whole = "".join(map(str, digits)).lstrip("0")
    kept = whole.rstrip("0")
    return "-" * sign + _written(kept, exponent + len(whole) - len(kept))


def _written(digits: str, exponent: int) -> str:
    """`digits`, which end in none that is 0, times ten to the `exponent`."""
    if abs(exponent) > PLAIN_ZEROS_MAX:
        return f"{digits}E{exponent}"
    if exponent >= 0:
        return digits + "0" * exponent
    padded = digits.rjust(1 - exponent, "0")
    return f"{padded[:exponent]}.{padded[exponent:]}"


_DECODER = msgspec.json.Decoder(float_hook=_number)
_ENCODER = msgspec.json.Encoder(order="deterministic")
