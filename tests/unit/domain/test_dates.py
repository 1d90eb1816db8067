"""Dates in text: which are named, and by which terms a date is found."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerememory.domain import analysis
from cerememory.domain.dates import (
    NANOSECONDS_A_DAY,
    SPAN_DAYS_MAX,
    PartialDate,
    date_at,
    date_of,
    date_terms,
    dates_in,
    may_name_date,
    span_terms,
)

DATES = st.dates(date(1900, 1, 1), date(2099, 12, 31))


def terms_in(text: str) -> list[str]:
    return [when.term() for when in dates_in(text)]


def of(day: date) -> PartialDate:
    return PartialDate(day.year, day.month, day.day)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("on 8 May 2021 we met", "2021-05-08"),
        ("the 8th of May, 2021", "2021-05-08"),
        ("May 8th, 2021", "2021-05-08"),
        ("may 8 2021", "2021-05-08"),
        ("the eighth of May", "--05-08"),
        ("May the twenty-first", "--05-21"),
        ("the thirty-first of December 1999", "1999-12-31"),
        ("Sept. 4", "--09-04"),
        ("4 sep 2020", "2020-09-04"),
        ("back in March", "--03"),
        ("around June", "--06"),
        ("since november of 2019", "2019-11"),
        ("July 5 at 10:30", "--07-05"),
        ("the summer of 2022", "2022"),
        ("2021-05-08T23:59:59+09:00", "2021-05-08"),
        ("2021-05", "2021-05"),
        ("2021/5/8", "2021-05-08"),
        ("8.5.2021", "2021-05-08"),
        ("13/05/2021", "2021-05-13"),
        ("05/13/2021", "2021-05-13"),
        ("05/08/2021", "2021"),
        ("5/5/2021", "2021-05-05"),
        ("29 February 2021", "2021-02-29"),
        ("30 February 2021", "2021-02"),
        ("45 May 2021", "2021-05"),
        ("from 1 June to 3 July 2021", "2021-06-01 2021-07-03"),
        ("in May, June and July 2021", "2021-05 2021-06 2021-07"),
        ("in 2020, in May, and in 2021", "2020 --05 2021"),
        ("December 1,2021", "2021-12-01"),
        ("May 2021, and again in May 2021", "2021-05"),
    ],
)
def test_a_date_is_read_in_words_and_in_digits(text: str, expected: str) -> None:
    assert terms_in(text) == expected.split()


@pytest.mark.parametrize(
    "text",
    [
        "May I come in? You may.",
        "may",
        "they march on",
        "March!",
        "jan went home",
        "a mayfly in marches",
        "it cost 2,021 or 1999.50, say 2021%",
        "room 2021-b, version 1.2.3, at 12:2021",
        "2021-13-01",
        "0001 9999",
        "12/2021x",
        "",
    ],
)
def test_what_only_looks_like_a_date_is_none(text: str) -> None:
    assert terms_in(text) == []


@pytest.mark.parametrize(
    "text", ["It was, may I say, in May", "Since May", "by the end of May", "early-May", "So May"]
)
def test_a_month_that_is_a_word_too_is_one_where_the_words_around_say_so(text: str) -> None:
    assert terms_in(text) == ["--05"]


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        (PartialDate(2021, 5, 8), "2021 2021-05 2021-05-08 --05 --05-08"),
        (PartialDate(2021, 5), "2021 2021-05 --05"),
        (PartialDate(2021), "2021"),
        (PartialDate(None, 5, 8), "--05 --05-08"),
        (PartialDate(None, 5), "--05"),
        (PartialDate(999, 1, 1), "0999 0999-01 0999-01-01 --01 --01-01"),
    ],
)
def test_a_date_is_found_by_each_part_of_it(when: PartialDate, expected: str) -> None:
    assert sorted(date_terms([when])) == sorted(expected.split())
    assert when.term() in expected.split()


@given(day=DATES)
def test_every_way_to_write_a_day_finds_it(day: date) -> None:
    month = day.strftime("%B")
    ways = (
        day.isoformat(),
        f"{day.day} {month} {day.year}",
        f"{month} {day.day}, {day.year}",
        f"{month} {day.year}",
    )
    found = date_terms([of(day)])
    for way in (*ways, f"in {month}", f"{day.year}", f"the {day.day} of {month}"):
        assert set(terms_in(f"What happened {way}?")) <= set(found), way
        assert terms_in(way), way


@given(text=st.text() | st.text(st.sampled_from("0123456789-/. MayJune,ofthe")))
def test_any_text_is_read_and_no_date_comes_from_words_that_can_name_none(text: str) -> None:
    if dates_in(text):
        assert may_name_date(analysis.tokens(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("2021-05-08T10:00:00Z", "2021-05-08"), (" 2021-05-08", "2021-05-08"), ("one day in May 2021", "2021-05")],
)
def test_a_point_in_time_has_a_date(text: str, expected: str) -> None:
    found = date_at(text)
    assert found is not None
    assert found.term() == expected


def test_a_text_without_a_date_is_at_none() -> None:
    assert date_at("2021-99-08 or so") is None


@given(first=DATES, days=st.integers(0, SPAN_DAYS_MAX))
def test_a_time_is_found_by_each_of_its_days(first: date, days: int) -> None:
    last = first + timedelta(days=days)
    found = set(span_terms(of(first), of(last)))
    assert found == {term for n in range(days + 1) for term in date_terms([of(first + timedelta(days=n))])}


def test_a_long_time_is_found_by_its_years() -> None:
    assert span_terms(of(date(2019, 3, 1)), of(date(2021, 1, 1))) == ["2019", "2020", "2021"]
    assert len(span_terms(of(date(1, 1, 1)), of(date(9999, 1, 1)))) < 300


def test_a_time_of_which_an_end_is_vague_is_found_by_its_ends() -> None:
    assert sorted(span_terms(PartialDate(2021, 2), PartialDate(2021, 2, 30))) == [
        "--02",
        "--02-30",
        "2021",
        "2021-02",
        "2021-02-30",
    ]
    assert span_terms(of(date(2021, 2, 3)), of(date(2021, 2, 1))) == date_terms(
        [of(date(2021, 2, 3)), of(date(2021, 2, 1))]
    )


@given(at=st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31)))
def test_the_date_of_a_time_is_that_in_utc(at: datetime) -> None:
    days = (at.replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)).days
    assert date_of(days * NANOSECONDS_A_DAY + 5) == PartialDate(at.year, at.month, at.day)


def test_a_time_beyond_the_calendar_has_no_date() -> None:
    assert (date_of(-(10**20)), date_of(10**21)) == (None, None)
