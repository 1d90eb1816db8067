"""Dates that a text names, and the terms by which a date is found.

A date may lack its day, its month or its year. Terms are written as in XML Schema (gYear, gYearMonth, date,
gMonth, gMonthDay): a memory of 8 May 2023 is found by `2023`, `2023-05`, `2023-05-08`, `--05` and `--05-08`.
Months are named in English, in whole or by their first letters; numbers are read as ISO 8601 has them, or
with the year last when it is clear which is the day. Nothing here raises.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date, timedelta
from functools import lru_cache
from typing import NamedTuple

YEARS = range(1900, 2100)  # a number alone is taken for a year when it is one of these
SPAN_DAYS_MAX = 366  # a longer time is found by its years alone
SPAN_YEARS_MAX = 200
TEXT_CHARS_MAX = 2_000
NANOSECONDS_A_DAY = 86_400 * 10**9

_EPOCH = date(1970, 1, 1)
_MONTH_NAMES = "january february march april may june july august september october november december"
_MONTHS = _MONTH_NAMES.split()
_MONTH_NUMBERS = {name: number for number, name in enumerate(_MONTHS, 1)}
_SHORT = {name[:3]: number for name, number in _MONTH_NUMBERS.items()} | {"sept": 9}
_ALSO_WORDS = ("march", "may")  # a month only where the words around it say so
_ORDINALS = """
first second third fourth fifth sixth seventh eighth ninth tenth
eleventh twelfth thirteenth fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth twentieth
twenty-first twenty-second twenty-third twenty-fourth twenty-fifth twenty-sixth twenty-seventh twenty-eighth
twenty-ninth thirtieth thirty-first
"""
_DAY_NUMBERS = {word: number for number, word in enumerate(_ORDINALS.split(), 1)}

_MONTH = "|".join([*_MONTHS, "sept", *(name for name in _SHORT if name not in _MONTH_NUMBERS)])
_DAY_WORD = "|".join(sorted(_DAY_NUMBERS, key=len, reverse=True))
_DAY = rf"(?:the\s+)?(?:[0-3]?\d(?:st|nd|rd|th)?|{_DAY_WORD})"
_MONTH_WORDS = frozenset([*_MONTH_NUMBERS, *_SHORT])
_DATE = re.compile(
    rf"""
    (?<![\w.-]) (?P<iso_year>\d{{4}}) [-/.] (?P<iso_month>\d\d?) (?: [-/.] (?P<iso_day>\d\d?) )? (?![\d-])
  | (?<![\w.-]) (?P<first>\d\d?) (?P<separator>[-/.]) (?P<second>\d\d?) (?P=separator)
    (?P<last_year>\d{{4}}) (?!\w)
  | (?<!\w) (?: (?P<day>{_DAY}) \s+ (?:of\s+)? )? (?P<month>{_MONTH}) (?!\w) \.?
    (?: \s+ (?P<day_behind>{_DAY}) (?![\w:]) )? (?: (?: \s*,\s* | \s+ (?:of\s+)? ) (?P<year>\d{{4}}) (?!\w) )?
  | (?<![\w.,:/-]) (?P<year_alone>\d{{4}}) (?![\w/%-]|[.,:]\d)
    """,
    re.IGNORECASE | re.VERBOSE,
)
_DATE_AND_TIME = re.compile(r"\s*(\d{4})-(\d\d)-(\d\d)(?!\d)")
_LEADS_TO_MONTH = re.compile(
    r"\b(?:in|of|during|since|until|till|by|from|to|through|between|before|after|last|next|this|early|mid|late)"
    r"[\s-]+$",
    re.IGNORECASE,
)


class PartialDate(NamedTuple):
    """A date with what is known of it; at least a year or a month, and a day only beside a month."""

    year: int | None
    month: int | None = None
    day: int | None = None

    @property
    def lone_month(self) -> str | None:
        """The month's name, when nothing but the month is known."""
        alone = self.month if self.year is None and self.day is None else None
        return None if alone is None else _MONTHS[alone - 1]

    def term(self) -> str:
        """What a memory of this date is looked for by."""
        year = f"{self.year:04}" if self.year is not None else "-"
        return "-".join([year, *(f"{part:02}" for part in (self.month, self.day) if part is not None)])


@lru_cache(maxsize=1_024)  # the memories of a day are indexed one after the other
def _terms_of(when: PartialDate) -> tuple[str, ...]:
    """Everything by which a memory of this date is found."""
    year, month, day = when
    known = [PartialDate(year), PartialDate(year, month), when]
    if month is not None:
        known += [PartialDate(None, month), PartialDate(None, month, day)]
    return tuple(dict.fromkeys(less.term() for less in known if less.year is not None or less.month is not None))


def may_name_date(words: Sequence[str]) -> bool:
    """Whether a text of these folded words can name a date: costs a tenth of looking for one."""
    return not _MONTH_WORDS.isdisjoint(words) or any(word[0].isdecimal() for word in words)


def dates_in(text: str) -> list[PartialDate]:
    """The dates that `text` names, in their order, each once. One without a year is of the year of the next."""
    found = [when for match in _DATE.finditer(text[:TEXT_CHARS_MAX]) if (when := _read(match)) is not None]
    for i in range(len(found) - 2, -1, -1):
        year, month, _day = found[i + 1]
        if found[i].year is None and month is not None:
            found[i] = found[i]._replace(year=year)
    return list(dict.fromkeys(found))


def date_at(text: str) -> PartialDate | None:
    """The date of a point in time: RFC 3339, or any text that names a date."""
    match = _DATE_AND_TIME.match(text)
    if match is not None:
        return _checked(*map(int, match.groups()))
    return next(iter(dates_in(text)), None)


def _read(match: re.Match[str]) -> PartialDate | None:
    part = match.groupdict()
    if part["iso_year"]:
        return _checked(int(part["iso_year"]), int(part["iso_month"]), int(part["iso_day"] or 0) or None)
    if part["last_year"]:
        return _with_year_last(int(part["first"]), int(part["second"]), int(part["last_year"]), part["separator"])
    if part["month"]:
        return _named(match)
    year = int(part["year_alone"])
    return PartialDate(year) if year in YEARS else None


def _checked(year: int | None, month: int, day: int | None = None) -> PartialDate | None:
    """None when there is no such month; without the day when there is no such day."""
    if not 1 <= month <= 12:
        return None
    return PartialDate(year, month, day if day is not None and 1 <= day <= _days_in(month) else None)


def _days_in(month: int) -> int:
    return 29 if month == 2 else 30 if month in (4, 6, 9, 11) else 31


def _with_year_last(first: int, second: int, year: int, separator: str) -> PartialDate | None:
    """Day, month, year; with slashes also month, day, year, so that only the year may be known."""
    if separator != "/" or first > 12 or first == second:
        return _checked(year, second, first)
    return _checked(year, first, second) if second > 12 else PartialDate(year)


def _named(match: re.Match[str]) -> PartialDate | None:
    name = match["month"].lower()
    day, year = _day(match["day"] or match["day_behind"]), match["year"]
    if day is None and year is None and not _stands_for_month(match, name):
        return None
    return _checked(int(year) if year else None, _MONTH_NUMBERS.get(name) or _SHORT[name], day)


def _stands_for_month(match: re.Match[str], name: str) -> bool:
    """Whether a month's name without day and year is one: `May` may be, `may` isn't, nor is `jan`."""
    if name not in _MONTH_NUMBERS:
        return False
    if name not in _ALSO_WORDS or _LEADS_TO_MONTH.search(match.string, 0, match.start("month")):
        return True
    before = match.string[: match.start("month")].rstrip()
    return match["month"][0].isupper() and before != "" and before[-1] not in ".!?:\"'"


def _day(written: str | None) -> int | None:
    if written is None:
        return None
    word = written.lower().split()[-1]
    return _DAY_NUMBERS.get(word) or int(word.rstrip("stndrh"))


def date_terms(dates: list[PartialDate]) -> list[str]:
    """Everything by which a memory of these dates is found, each once."""
    return list(dict.fromkeys(term for when in dates for term in _terms_of(when)))


def span_terms(first: PartialDate, last: PartialDate) -> list[str]:
    """Everything by which a memory of a time from `first` to `last` is found."""
    start, end = _as_day(first), _as_day(last)
    if start is None or end is None or end < start:
        return date_terms([first, last])
    days = (end - start).days
    if days <= SPAN_DAYS_MAX:
        return date_terms([_of(start + timedelta(days=n)) for n in range(days + 1)])
    years = range(start.year, min(end.year, start.year + SPAN_YEARS_MAX) + 1)
    return date_terms([PartialDate(year) for year in years])


def _as_day(when: PartialDate) -> date | None:
    if when.year is None or when.month is None or when.day is None:
        return None
    try:
        return date(when.year, when.month, when.day)
    except ValueError:
        return None


def _of(day: date) -> PartialDate:
    return PartialDate(day.year, day.month, day.day)


def date_of(at: int) -> PartialDate | None:
    """The date of a time in nanoseconds since the epoch, in UTC; None outside the years 1 to 9999."""
    ordinal = _EPOCH.toordinal() + at // NANOSECONDS_A_DAY
    return _of(date.fromordinal(ordinal)) if 1 <= ordinal <= date.max.toordinal() else None
