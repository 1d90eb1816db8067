"""Ids, timestamps and byte arrays, by the conventions of the CMP specification and RFC 3339."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerememory.protocol.values import (
    NANOS,
    NIL_ID,
    TIMESTAMP_MAX,
    TIMESTAMP_MIN,
    ByteArray,
    RecordId,
    Timestamp,
    format_id,
    format_timestamp,
    parse_id,
    parse_timestamp,
)

AN_ID = "0191aaaa-0000-7000-8000-00000000ffff"
MIDNIGHT_2026 = 1_767_225_600 * NANOS
DAY = 86_400 * NANOS

storable = st.integers(TIMESTAMP_MIN, TIMESTAMP_MAX)


@pytest.mark.parametrize(
    "form",
    [
        AN_ID,
        AN_ID.upper(),
        AN_ID.replace("-", ""),
        AN_ID.replace("-", "").upper(),
        f"{{{AN_ID}}}",
        f"{{{AN_ID.upper()}}}",
        f"urn:uuid:{AN_ID}",
        f"URN:UUID:{AN_ID.upper()}",
    ],
)
def test_any_form_of_a_uuid_is_understood(form: str) -> None:
    assert format_id(parse_id(form)) == AN_ID


@pytest.mark.parametrize(
    "text",
    [
        "",
        "abc",
        AN_ID[:-1],
        f"{AN_ID}0",
        AN_ID.replace("a", "g"),
        f" {AN_ID}",
        f"{AN_ID}\n",
        f"{{{AN_ID}",
        f"{AN_ID}}}",
        "0191aaaa0000-7000-8000-00000000ffff",
        "0191-aaaa00007000800000000000-ffff",
        "\uff10" * 32,
    ],
)
def test_what_is_no_uuid_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a UUID"):
        parse_id(text)


def test_a_refusal_shows_only_the_start_of_a_long_text() -> None:
    with pytest.raises(ValueError, match="expected a UUID") as refused:
        parse_id("x" * 10_000)
    assert len(str(refused.value)) < 100


@given(st.uuids())
def test_an_id_prints_as_uuid_does_and_reads_back(value: uuid.UUID) -> None:
    record_id = parse_id(str(value))
    assert record_id == value.bytes
    assert format_id(record_id) == str(record_id) == str(value)


def test_the_nil_id_is_all_zeros() -> None:
    assert format_id(NIL_ID) == "00000000-0000-0000-0000-000000000000"
    assert parse_id("00000000-0000-0000-0000-000000000000") == NIL_ID


@given(st.lists(st.uuids(), min_size=2, max_size=2))
def test_ids_sort_as_their_texts_do(pair: list[uuid.UUID]) -> None:
    first, second = (parse_id(str(value)) for value in pair)
    assert (first < second) == (str(first) < str(second))


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2026-01-01T00:00:00Z", MIDNIGHT_2026),
        ("2026-01-01T00:00:00+00:00", MIDNIGHT_2026),
        ("2026-01-01T00:00:00-00:00", MIDNIGHT_2026),
        ("2026-01-01T09:00:00+09:00", MIDNIGHT_2026),
        ("2026-01-01T05:45:00+05:45", MIDNIGHT_2026),
        ("2025-12-31T16:00:00-08:00", MIDNIGHT_2026),
        ("2026-01-01T23:59:00+23:59", MIDNIGHT_2026),
        ("2026-01-01t00:00:00z", MIDNIGHT_2026),
        ("2026-01-01 00:00:00Z", MIDNIGHT_2026),
        ("2024-02-29T00:00:00Z", 1_709_164_800 * NANOS),
    ],
)
def test_a_timestamp_is_read_with_any_offset(text: str, at: int) -> None:
    assert parse_timestamp(text) == at


@pytest.mark.parametrize(
    ("digits", "nanos"),
    [
        ("1", 100_000_000),
        ("12", 120_000_000),
        ("123", 123_000_000),
        ("1234", 123_400_000),
        ("12345", 123_450_000),
        ("123456", 123_456_000),
        ("1234567", 123_456_700),
        ("12345678", 123_456_780),
        ("123456789", 123_456_789),
        ("000000001", 1),
        ("000000000", 0),
        ("1234567899", 123_456_789),
        ("999999999999999999", 999_999_999),
    ],
)
def test_a_fraction_is_kept_to_the_nanosecond_and_cut_after_it(digits: str, nanos: int) -> None:
    assert parse_timestamp(f"2026-01-01T00:00:00.{digits}Z") == MIDNIGHT_2026 + nanos


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00Z"),
        ("2016-12-31T23:59:60.250Z", "2017-01-01T00:00:00.250Z"),
        ("2016-12-31T15:59:60-08:00", "2017-01-01T00:00:00Z"),
    ],
)
def test_a_leap_second_is_the_second_after_it(text: str, printed: str) -> None:
    assert format_timestamp(parse_timestamp(text)) == printed


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("1969-12-31T23:59:59Z", -NANOS),
        ("1969-12-31T23:59:59.999999999Z", -1),
        ("1969-12-31T23:59:59.5Z", -500_000_000),
        ("1969-12-31T00:00:00Z", -DAY),
        ("1677-09-21T00:12:43.145224192Z", TIMESTAMP_MIN),
        ("0001-01-01T00:00:00Z", -62_135_596_800 * NANOS),
    ],
)
def test_times_before_1970_count_backwards(text: str, at: int) -> None:
    assert parse_timestamp(text) == at
    assert format_timestamp(at) == text.replace(".5Z", ".500Z")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "2026-01-01",
        "2026-01-01T00:00:00",
        "2026-01-01T00:00Z",
        "2026-01-01T00:00:00.Z",
        "2026-01-01T00:00:00,5Z",
        "2026-1-1T00:00:00Z",
        "26-01-01T00:00:00Z",
        "12026-01-01T00:00:00Z",
        "2026-01-01T00:00:00+0000",
        "2026-01-01T00:00:00+24:00",
        "2026-01-01T00:00:00+00:60",
        "2026-01-01T24:00:00Z",
        "2026-01-01T00:60:00Z",
        "2026-01-01T00:00:61Z",
        "2026-13-01T00:00:00Z",
        "2026-02-29T00:00:00Z",
        "2026-00-01T00:00:00Z",
        " 2026-01-01T00:00:00Z",
        "2026-01-01T00:00:00Z\n",
        "\uff12026-01-01T00:00:00Z",
    ],
)
def test_what_is_no_rfc_3339_timestamp_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected an RFC 3339 timestamp"):
        parse_timestamp(text)


@pytest.mark.parametrize(
    "text",
    [
        "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+00:01",
        "9999-12-31T23:59:59-00:01",
        "9999-12-31T23:59:60Z",
    ],
)
def test_a_timestamp_that_could_not_be_printed_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected an RFC 3339 timestamp"):
        parse_timestamp(text)


@pytest.mark.parametrize(
    ("nanos", "fraction"),
    [
        (0, ""),
        (1, ".000000001"),
        (100, ".000000100"),
        (1_000, ".000001"),
        (120_000, ".000120"),
        (1_000_000, ".001"),
        (500_000_000, ".500"),
        (999_999_999, ".999999999"),
        (999_999_000, ".999999"),
        (999_000_000, ".999"),
    ],
)
def test_a_fraction_is_printed_with_the_fewest_of_0_3_6_or_9_digits(nanos: int, fraction: str) -> None:
    assert format_timestamp(MIDNIGHT_2026 + nanos) == f"2026-01-01T00:00:00{fraction}Z"


def test_a_timestamp_can_be_printed_with_an_offset_for_metadata() -> None:
    assert format_timestamp(MIDNIGHT_2026 + 5_000_000, "+00:00") == "2026-01-01T00:00:00.005+00:00"


def test_a_year_is_always_printed_with_four_digits() -> None:
    assert format_timestamp(parse_timestamp("0987-01-01T00:00:00Z")) == "0987-01-01T00:00:00Z"
    assert format_timestamp(parse_timestamp("1000-01-01T00:00:00Z")) == "1000-01-01T00:00:00Z"


@given(storable)
def test_what_is_printed_reads_back_to_the_nanosecond(at: int) -> None:
    assert parse_timestamp(format_timestamp(at)) == at


@given(storable)
def test_a_canonical_text_prints_back_unchanged(at: int) -> None:
    canonical = format_timestamp(at)
    assert format_timestamp(parse_timestamp(canonical)) == canonical


@given(storable, st.integers(-23 * 60 - 59, 23 * 60 + 59))
def test_the_same_moment_in_another_offset_is_the_same_timestamp(at: int, minutes: int) -> None:
    local = format_timestamp(at + minutes * 60 * NANOS, suffix="")
    hours, rest = divmod(abs(minutes), 60)
    offset = f"{'-' if minutes < 0 else '+'}{hours:02}:{rest:02}"
    assert parse_timestamp(local + offset) == at


@given(st.text())
def test_any_text_reads_as_a_printable_timestamp_or_is_a_value_error(text: str) -> None:
    try:
        at = parse_timestamp(text)
    except ValueError:
        return
    assert parse_timestamp(format_timestamp(at)) == at


@given(st.from_regex(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:[0-6]\d(\.\d{1,12})?([Zz]|[+-]\d\d:\d\d)", fullmatch=True))
def test_any_text_of_the_right_shape_reads_as_a_printable_timestamp_or_is_a_value_error(text: str) -> None:
    try:
        at = parse_timestamp(text)
    except ValueError:
        return
    assert parse_timestamp(format_timestamp(at)) == at


def test_the_values_print_as_their_text_in_messages() -> None:
    assert f"{RecordId(16)} at {Timestamp(0)}" == ("00000000-0000-0000-0000-000000000000 at 1970-01-01T00:00:00Z")


def test_the_values_compare_and_hash_as_the_built_ins_they_are() -> None:
    assert {RecordId(b"\1" * 16): 1}[RecordId(b"\1" * 16)] == 1
    assert sorted([Timestamp(5), Timestamp(-5)]) == [-5, 5]
    assert ByteArray(b"ab") == b"ab"
