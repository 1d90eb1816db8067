"""The terms of memories and scopes: a memory has all those of a scope when it is in it, however it is written."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerememory.domain.derivation import with_semantic_ids
from cerememory.domain.scope import TAGS_MAX, asked_terms, terms_of
from cerememory.protocol import codec
from cerememory.protocol.limits import OWN_METADATA
from cerememory.protocol.requests import RecallScope
from cerememory.protocol.values import RecordId
from cerememory.storage.enrichment import RELATIONS, RELATIONS_OF

NAMESPACE = 3


def scope(**parts: Any) -> RecallScope:
    return codec.parse(codec.dump(parts), RecallScope)


def is_in(
    asked: RecallScope, metadata: bytes = b"{}", tags: tuple[str, ...] = (), namespace: int = NAMESPACE
) -> bool:
    return set(asked_terms(NAMESPACE, asked)) <= set(terms_of(namespace, metadata, tags))


def with_member(value: str) -> bytes:
    return b'{"member": %b}' % value.encode()


def asks_for(value: str) -> RecallScope:
    return scope(metadata={"member": msgspec.Raw(value.encode())})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1", "1.0"),
        ("1", "1e0"),
        ("1", "10E-1"),
        ("100", "1.00e+2"),
        ("-12", "-12.0"),
        ("0", "-0.0"),
        ("0", "0e9"),
        ("-0", "0.000"),
        ("0.5", "5e-1"),
        ("0.05", "0.50E-1"),
        ("1234567890123456789", "1234567890123456789.0"),
        ("100000000000000000000000000", "1e26"),
        ("18446744073709551616", "18446744073709551616.000000000000000000000000"),
        ("0.1000000000000000000000000000000000000000", "0.1"),
        ("1e-999999", "10e-1000000"),
        ('"ü"', '"\\u00fc"'),
        ("[1, 2.0]", "[1.0,2]"),
        ('{"a": 1, "b": {"c": [], "d": 2}}', '{"b": {"d": 2.0, "c": []}, "a": 1}'),
        ('{"a": 1, "a": 2}', '{"a": 2}'),
    ],
)
def test_json_that_means_the_same_is_equal(one: str, other: str) -> None:
    assert is_in(asks_for(one), with_member(other))
    assert is_in(asks_for(other), with_member(one))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1", '"1"'),
        ("1", "true"),
        ("0", "false"),
        ("0", "null"),
        ("1", "-1"),
        ("1", "1.0000000000000000000000000000000000000001"),
        ("9007199254740993", "9007199254740992.0"),
        ("0.1", "0.10000000000000001"),
        ("10", "1e2"),
        ('"a"', '"A"'),
        ('"a"', '"a "'),
        ("[1, 2]", "[2, 1]"),
        ("[]", "{}"),
        ("[1]", "1"),
        ('{"a": 1}', '{"a": 1, "b": null}'),
    ],
)
def test_json_that_means_another_thing_is_not(one: str, other: str) -> None:
    assert not is_in(asks_for(one), with_member(other))
    assert not is_in(asks_for(other), with_member(one))


numbers = st.builds(
    "{}{}{}".format,
    st.integers(-30, 30),
    st.sampled_from(["", ".0", ".5", ".25", ".50", ".000"]),
    st.sampled_from(["", "e0", "E1", "e-1", "e+2", "e40", "e-40"]),
)
values = st.recursive(
    numbers | st.sampled_from(["null", "true", "false", '""', '"1"', '"a"']),
    lambda inner: (
        st.lists(inner, max_size=2).map(lambda items: f"[{', '.join(items)}]")
        | st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=2).map(
            lambda fields: f"{{{', '.join(f'{json.dumps(name)}: {value}' for name, value in fields.items())}}}"
        )
    ),
    max_leaves=4,
)


def meaning(value: Any) -> Any:
    """Decoded JSON as something that is equal to whatever means the same; Python's true is equal to 1."""
    if isinstance(value, dict):
        return {name: meaning(inner) for name, inner in value.items()}
    return [meaning(inner) for inner in value] if isinstance(value, list) else (type(value), value)


def read(text: str) -> Any:
    return meaning(json.loads(text, parse_int=Decimal, parse_float=Decimal))


@given(values, values)
def test_values_are_equal_when_they_mean_the_same(one: str, other: str) -> None:
    assert is_in(asks_for(one), with_member(other)) == (read(one) == read(other))
    assert is_in(asks_for(one), with_member(one))


CONTEXT = b'{"_context": {"session_id": "s-1", "source": "Ada", "temporal": 1.5}, "room": "kitchen"}'
DREAM = b'{"_dream": {"kind": "episodic_summary"}, "_origin": {"raw_session_id": "s-2"}}'


@pytest.mark.parametrize(
    ("parts", "metadata", "expected"),
    [
        ({}, b"{}", True),
        ({"session_id": None, "tags": [], "metadata": {}}, b"[1]", True),
        ({"session_id": "s-1"}, CONTEXT, True),
        ({"session_id": "s-1", "source": "Ada", "metadata": {"room": "kitchen"}}, CONTEXT, True),
        ({"session_id": "s-1", "source": "Bob"}, CONTEXT, False),
        ({"session_id": "S-1"}, CONTEXT, False),
        ({"source": "s-1"}, CONTEXT, False),
        ({"metadata": {"s-1": "Ada"}}, CONTEXT, False),
        ({"session_id": "s-2"}, DREAM, True),
        ({"source": "dream"}, DREAM, True),
        ({"session_id": "s-1"}, CONTEXT[:-1] + b', "_origin": {"raw_session_id": "s-2"}}', True),
        ({"session_id": "s-2"}, CONTEXT[:-1] + b', "_origin": {"raw_session_id": "s-2"}}', False),
        ({"source": "dream"}, CONTEXT, False),
        ({"session_id": ""}, b'{"_context": {"session_id": ""}}', True),
        ({"session_id": "1"}, b'{"_context": {"session_id": 1}}', False),
        ({"session_id": "s-1"}, b'{"_context": "s-1"}', False),
        ({"session_id": "s-1"}, b'["s-1"]', False),
        ({"session_id": "s-1"}, b'{"_context": ', False),
    ],
)
def test_session_and_source_are_those_of_the_context_or_the_dream(
    parts: dict[str, Any], metadata: bytes, expected: bool
) -> None:
    assert is_in(scope(**parts), metadata) == expected


def test_all_tags_that_are_asked_for_must_be_there() -> None:
    assert is_in(scope(tags=["b", "a", "b"]), tags=("a", "b", "c"))
    assert not is_in(scope(tags=["a", "d"]), tags=("a", "b", "c"))
    assert not is_in(scope(metadata={"a": "b"}), tags=("a", "b", "a: b"))


def test_of_very_many_tags_the_first_count() -> None:
    tags = tuple(map(str, range(TAGS_MAX + 1)))
    assert is_in(scope(tags=[tags[0], tags[-2]]), tags=tags)
    assert not is_in(scope(tags=[tags[-1]]), tags=tags)


def test_a_memory_is_in_the_scopes_of_its_own_namespace_alone() -> None:
    asked = scope(session_id="s-1", metadata={"room": "kitchen"})
    assert is_in(asked, CONTEXT)
    assert not set(asked_terms(NAMESPACE, asked)) & set(terms_of(NAMESPACE + 1, CONTEXT, ()))


def test_a_name_and_a_value_are_not_mixed_up_with_others() -> None:
    assert not is_in(scope(metadata={"a": "b", "c": 1}), b'{"a": 1, "c": "b"}')
    assert not is_in(scope(metadata={'a\0"b': "c"}), b'{"a": "b\\u0000c"}')


def test_what_the_daemon_keeps_in_metadata_is_no_term_and_so_never_moves_a_memory() -> None:
    before = terms_of(NAMESPACE, CONTEXT, ("a",))
    assert terms_of(NAMESPACE, with_semantic_ids(CONTEXT, [RecordId(16)]), ("a",)) == before
    moved = with_semantic_ids(b'["x"]', [RecordId(16)])
    assert terms_of(NAMESPACE, moved, ()) == terms_of(NAMESPACE, b'["x"]', ()) == ()
    own = {name: {"x": 1} for name in OWN_METADATA - {"_context", "_dream", "_origin"}}
    assert terms_of(NAMESPACE, codec.dump({**json.loads(CONTEXT), **own}), ("a",)) == before
    assert {RELATIONS, RELATIONS_OF} <= OWN_METADATA
