"""The audit log's format, against the reference's own log and against an independent printer."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cerememory.domain.audit_chain import (
    GENESIS,
    INTEGER_MAX,
    INTEGER_MIN,
    LINE_BYTES_MAX,
    RECORD_IDS_MAX,
    START,
    SUMMARY_DEPTH_MAX,
    AuditDraft,
    ChainHead,
    bounded_ids,
    chain_line,
    follow_lines,
    parse_line,
    verify_lines,
)
from cerememory.errors import AuditBroken, ValidationFailed
from cerememory.protocol.values import TIMESTAMP_MAX, TIMESTAMP_MIN, RecordId, format_id

FIXTURE = Path(__file__).parents[2] / "fixtures" / "reference" / "audit.jsonl"
REFERENCE = tuple(FIXTURE.read_bytes().splitlines(keepends=True))
REFERENCE_HEAD = ChainHead(12, "a012279142490b6b1c68c5d18083346f0423f7bc779cdaf5c8af6ca3210623b3")
NO_SUMMARY: dict[str, Any] = {}

integers = st.integers(INTEGER_MIN, INTEGER_MAX)
texts = st.text(st.characters(codec="utf-8"), max_size=20)
summaries = st.recursive(
    st.dictionaries(texts, st.none() | st.booleans() | integers | texts, max_size=4),
    lambda inner: st.dictionaries(texts, inner | integers, max_size=3),
    max_leaves=6,
)
drafts = st.builds(
    AuditDraft,
    timestamp_ns=st.integers(TIMESTAMP_MIN, TIMESTAMP_MAX),
    operation=texts,
    record_ids=st.lists(st.binary(min_size=16, max_size=16).map(RecordId), max_size=3).map(tuple),
    store_types=st.lists(texts, max_size=3).map(tuple),
    summary=summaries,
)


def draft(summary: dict[str, Any] = NO_SUMMARY, record_ids: Iterable[RecordId] = ()) -> AuditDraft:
    return AuditDraft(0, "lifecycle.set_mode", tuple(record_ids), (), summary)


def chain(*entries: AuditDraft) -> list[bytes]:
    head, lines = START, []
    for entry in entries:
        line = chain_line(entry, head.sequence + 1, head.entry_hash)
        head = line.head
        lines.append(line.data)
    return lines


def follow(lines: Iterable[bytes]) -> ChainHead:
    return [line.head for line in follow_lines(lines)][-1]


def lines_of(data: bytes) -> list[bytes]:
    return io.BytesIO(data).readlines()


def broken_line(error: pytest.ExceptionInfo[AuditBroken]) -> int:
    assert error.value.details is not None
    number = error.value.details["line"]
    assert str(error.value).startswith(f"line {number}: ")
    return int(number)


def test_the_reference_log_verifies() -> None:
    assert verify_lines(REFERENCE) == (12, *REFERENCE_HEAD)
    assert follow(REFERENCE) == REFERENCE_HEAD


@pytest.mark.parametrize("data", REFERENCE, ids=lambda data: parse_line(data).operation)
def test_a_line_of_the_reference_is_printed_again_from_its_parts(data: bytes) -> None:
    entry = parse_line(data)
    parts = AuditDraft(entry.timestamp, entry.operation, entry.record_ids, entry.store_types, entry.summary)
    assert chain_line(parts, entry.sequence, entry.prev_hash) == (entry.sequence, data, entry.entry_hash)


def test_no_lines_verify_as_genesis() -> None:
    assert verify_lines([]) == (0, 0, GENESIS)


def test_a_chain_verifies_from_any_of_its_heads() -> None:
    start = verify_lines(REFERENCE[:5]).head
    assert verify_lines(REFERENCE[5:], start) == (7, *REFERENCE_HEAD)


@given(st.lists(drafts, min_size=1, max_size=5))
def test_whatever_is_chained_verifies(entries: list[AuditDraft]) -> None:
    lines = chain(*entries)
    verified = verify_lines(lines)
    assert verified.entries == len(entries)
    assert follow(lines) == verified.head


@given(drafts)
def test_a_line_is_what_another_json_printer_makes_of_it(entry: AuditDraft) -> None:
    line = chain_line(entry, 7, GENESIS)
    fields = json.loads(line.data)
    fields["summary"] = json.loads(json.dumps(fields["summary"], sort_keys=True))
    assert line.data == (json.dumps(fields, ensure_ascii=False, separators=(",", ":")) + "\n").encode()
    entry_hash = fields.pop("entry_hash")
    content = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()
    assert entry_hash == line.entry_hash == sha256(content).hexdigest()
    assert fields["record_ids"] == [format_id(record_id) for record_id in entry.record_ids]


def test_the_keys_of_a_summary_are_sorted_at_every_depth() -> None:
    data = chain_line(draft({"b": {"z": 1, "a": None}, "a": True}), 1, GENESIS).data
    assert b'"summary":{"a":true,"b":{"a":null,"z":1}},' in data


def test_text_outside_ascii_is_not_escaped() -> None:
    data = chain_line(draft({"名": 'a"\\\n\x1f/é\u2028😀'}), 1, GENESIS).data
    assert '{"名":"a\\"\\\\\\n\\u001f/é\u2028😀"}'.encode() in data


def test_a_record_id_in_a_summary_prints_as_text() -> None:
    data = chain_line(draft({"record_id": RecordId(range(16))}), 1, GENESIS).data
    assert b'{"record_id":"00010203-0405-0607-0809-0a0b0c0d0e0f"}' in data


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [(0, b"00Z"), (10**8, b"00.100Z"), (1_000, b"00.000001Z"), (1, b"00.000000001Z")],
)
def test_a_timestamp_has_the_fewest_digits_that_lose_nothing(nanoseconds: int, text: bytes) -> None:
    data = chain_line(AuditDraft(nanoseconds, "x", (), (), {}), 1, GENESIS).data
    assert b'"timestamp":"1970-01-01T00:00:' + text + b'"' in data


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (1.5, "float"),
        (float("nan"), "float"),
        ([1], "list"),
        ((1,), "tuple"),
        (b"x", "bytes"),
        ({1}, "set"),
        ({2: 1}, "int"),
        ({"deep": 0.0}, "float"),
    ],
)
def test_a_summary_value_that_languages_print_differently_is_refused(value: object, kind: str) -> None:
    with pytest.raises(TypeError, match=rf"^summary\.ticks.*: .*\b{kind}\b"):
        draft({"ticks": value})


@pytest.mark.parametrize("value", [INTEGER_MAX + 1, INTEGER_MIN - 1])
def test_an_integer_beyond_64_bits_is_refused(value: int) -> None:
    with pytest.raises(ValueError, match=r"^summary\.ticks: beyond 64 bits"):
        draft({"ticks": value})


def test_a_summary_nested_too_deeply_is_refused() -> None:
    summary: dict[str, Any] = {}
    for _ in range(SUMMARY_DEPTH_MAX - 1):
        summary = {"a": summary}
    assert verify_lines(chain(draft(summary))).entries == 1
    with pytest.raises(ValueError, match=r"^summary(\.a)+: more than 16 levels deep"):
        draft({"a": summary})


def test_text_that_is_no_text_is_refused() -> None:
    with pytest.raises(ValueError, match="surrogates"):
        chain_line(draft({"a": "\ud800"}), 1, GENESIS)


def test_a_line_over_its_bound_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^lifecycle\.set_mode: a line of \d+ bytes, at most 65536"):
        chain_line(draft({"error": "x" * LINE_BYTES_MAX}), 1, GENESIS)


def ids(count: int) -> list[RecordId]:
    return [RecordId(i.to_bytes(16, "big")) for i in reversed(range(count))]


def test_more_ids_than_an_entry_may_name_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^record_ids: 1001, at most 1000"):
        draft(record_ids=ids(RECORD_IDS_MAX + 1))


def test_as_many_ids_as_an_entry_may_name_stay_as_they_are_and_fit_a_line() -> None:
    kept = bounded_ids(ids(RECORD_IDS_MAX))
    assert kept.record_ids == tuple(ids(RECORD_IDS_MAX))
    assert not kept.summary
    entry = AuditDraft(
        TIMESTAMP_MAX, "encode.batch", kept.record_ids, ("procedural",) * 1_000, {"a": "x" * 12_000}
    )
    assert len(chain_line(entry, 10**12, GENESIS).data) <= LINE_BYTES_MAX


def test_more_ids_are_counted_and_digested_in_any_order() -> None:
    many = ids(RECORD_IDS_MAX + 1)
    kept = bounded_ids(many)
    assert kept.record_ids == tuple(many[:RECORD_IDS_MAX])
    digest = sha256(b"".join(sorted(many))).hexdigest()
    assert kept.summary == {"record_ids_total": RECORD_IDS_MAX + 1, "record_ids_digest": digest}
    assert bounded_ids(many[::-1]).summary == kept.summary
    assert verify_lines(chain(draft(dict(kept.summary), kept.record_ids))).entries == 1


def test_a_line_that_is_no_entry_names_its_field() -> None:
    with pytest.raises(ValidationFailed, match=r"^entry\.record_ids\[0\]: expected a UUID, got 'x'"):
        parse_line(REFERENCE[0].replace(b'"record_ids":["', b'"record_ids":["x","'))


def replaced(old: bytes, new: bytes, index: int = 4) -> list[bytes]:
    """The reference's lines, `old` in one of them (the fifth by default) changed to `new`."""
    assert old in REFERENCE[index]
    return [line.replace(old, new, 1) if i == index else line for i, line in enumerate(REFERENCE)]


def inserted(line: bytes, index: int) -> list[bytes]:
    return [*REFERENCE[:index], line, *REFERENCE[index:]]


OTHER = chain(*[draft({"mode": "perfect"})] * 12)

TAMPERED: dict[str, tuple[list[bytes], int, str]] = {
    "edited summary": (replaced(b"sensitive", b"public"), 5, "entry_hash is not the hash"),
    "edited timestamp": (replaced(b":49.044431498Z", b":49.044431499Z"), 5, "entry_hash is not the hash"),
    "edited operation": (replaced(b"store_raw", b"store"), 5, "entry_hash is not the hash"),
    "edited id": (replaced(b"01a20a44", b"01a20a45"), 5, "entry_hash is not the hash"),
    "edited entry_hash": (replaced(b"04e3e46d", b"04e3e46e"), 5, "entry_hash is not the hash"),
    "upper-case entry_hash": (replaced(b"04e3e46d", b"04E3e46d"), 5, "entry_hash is not the hash"),
    "edited prev_hash": (replaced(b"6549fcab", b"6549fcac"), 5, "prev_hash is not"),
    "other version": (replaced(b'"version":1', b'"version":2'), 5, "version 2, expected 1"),
    "first deleted": (list(REFERENCE[1:]), 1, "sequence 2, expected 1"),
    "deleted": ([*REFERENCE[:4], *REFERENCE[5:]], 5, "sequence 6, expected 5"),
    "reordered": ([*REFERENCE[:4], REFERENCE[5], REFERENCE[4], *REFERENCE[6:]], 5, "sequence 6, expected 5"),
    "duplicated": (inserted(REFERENCE[4], 5), 6, "sequence 5, expected 6"),
    "inserted from another log": (inserted(OTHER[4], 4), 5, "prev_hash is not"),
    "exchanged with another log's": ([*REFERENCE[:4], OTHER[4], *REFERENCE[5:]], 5, "prev_hash is not"),
    "sequence gap": (replaced(b'"sequence":5', b'"sequence":7'), 5, "sequence 7, expected 5"),
    "blank": (inserted(b"\n", 4), 5, "is blank"),
    "white space": (inserted(b" \t\r\n", 4), 5, "is blank"),
    "no JSON": (inserted(b"nothing\n", 4), 5, "not readable as JSON"),
    "invalid UTF-8": (replaced(b"normal", b"norm\xe4l"), 5, "not readable as JSON"),
    "no object": (inserted(b"[]\n", 4), 5, "expected object, got array"),
    "wrong type": (replaced(b'"sequence":5', b'"sequence":"5"'), 5, "entry.sequence: expected integer"),
    "two lines joined": (lines_of(b"".join(REFERENCE).replace(b"}\n", b"} ", 1)), 1, "not readable as JSON"),
    "no line end": ([*REFERENCE[:11], REFERENCE[11][:-1]], 12, "one form"),
    "CRLF": (replaced(b"}\n", b"}\r\n"), 5, "one form"),
    "torn": ([*REFERENCE[:11], REFERENCE[11][:-9]], 12, "not readable as JSON"),
}


@pytest.mark.parametrize("check", [verify_lines, follow], ids=["verify", "follow"])
@pytest.mark.parametrize(("lines", "number", "reason"), TAMPERED.values(), ids=TAMPERED.keys())
def test_a_tampered_log_is_refused_with_its_line(
    lines: list[bytes], number: int, reason: str, check: Callable[[Iterable[bytes]], object]
) -> None:
    with pytest.raises(AuditBroken, match=reason) as error:
        check(lines)
    assert broken_line(error) == number


Fields = dict[str, Any]


def forged(change: Callable[[Fields], Fields], separators: tuple[str, str] = (",", ":")) -> bytes:
    """A first line whose fields went through `change`, with a hash that fits the bytes as they stand."""
    fields = json.loads(chain_line(draft({"a": 1, "b": "é"}, [RecordId(b"\xab" * 16)]), 1, GENESIS).data)
    del fields["entry_hash"]
    content = json.dumps(change(fields), ensure_ascii=False, separators=separators)
    entry_hash = sha256(content.encode()).hexdigest()
    return f'{content[:-1]},"entry_hash":"{entry_hash}"}}\n'.encode()


def test_a_forged_line_without_a_change_verifies() -> None:
    assert verify_lines([forged(dict)]).entries == 1


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (forged(lambda fields: dict(reversed(fields.items()))), "one form"),
        (forged(lambda fields: fields | {"summary": {"b": "é", "a": 1}}), "one form"),
        (forged(lambda fields: fields | {"extra": 1}), "entry.extra: unknown field"),
        (
            forged(lambda fields: {k: v for k, v in fields.items() if k != "summary"}),
            "summary: missing field",
        ),
        (forged(lambda fields: fields | {"timestamp": "1970-01-01T00:00:00.000Z"}), "one form"),
        (forged(lambda fields: fields | {"timestamp": "1970-01-01T00:00:00+00:00"}), "one form"),
        (forged(lambda fields: fields | {"timestamp": "1970-01-01t00:00:00Z"}), "one form"),
        (forged(lambda fields: fields | {"timestamp": "1970-13-01T00:00:00Z"}), "RFC 3339"),
        (forged(lambda fields: fields | {"record_ids": ["AB" * 16]}), "one form"),
        (forged(dict, (", ", ":")), "one form"),
        (forged(dict).replace("é".encode(), b"\\u00e9"), "one form"),
        (forged(dict).replace(b'"a":1', b'"a":2,"a":1'), "one form"),
    ],
    ids=[
        "reordered keys",
        "reordered summary",
        "unknown key",
        "missing key",
        "needless fraction",
        "offset",
        "lower-case t",
        "no such month",
        "upper-case id",
        "spaces",
        "escaped letter",
        "repeated key",
    ],
)
def test_a_line_in_another_form_is_refused_though_its_hash_fits(line: bytes, reason: str) -> None:
    with pytest.raises(AuditBroken, match=reason) as error:
        verify_lines([line])
    assert broken_line(error) == 1


@settings(max_examples=300)
@given(st.integers(0, sum(map(len, REFERENCE)) - 1), st.integers(1, 255))
def test_no_byte_can_be_changed_unseen(offset: int, mask: int) -> None:
    data = bytearray(b"".join(REFERENCE))
    data[offset] ^= mask
    for check in (verify_lines, follow):
        with pytest.raises(AuditBroken):
            check(lines_of(bytes(data)))


def test_verification_reads_no_further_than_the_broken_line() -> None:
    def lines() -> Iterator[bytes]:
        yield REFERENCE[0]
        yield b"\n"
        pytest.fail("read on")

    with pytest.raises(AuditBroken) as error:
        verify_lines(lines())
    assert broken_line(error) == 2
