"""Fits an answer into a number of tokens: an index of everything first, then in their order what fits whole.

An item that doesn't fit is there in its cut form, from which `inspect` leads on; where not even those fit, the
last ones are left out and counted. What isn't an item is always there, and so is one that is the answer itself.

Tokens are reckoned from bytes, for every model counts others. Measured on answers of recall and timeline with two
public tokenizers: 2.3 bytes a token for source code, 2.6 to 3.0 for Japanese, 2.8 to 4.2 for German and English.
So an answer has fewer tokens than its budget, English about two thirds of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import msgspec

Json: TypeAlias = dict[str, Any]
Place: TypeAlias = tuple[str, ...]

BUDGET_TOKENS_MIN = 300  # what an answer without items may take
TOKEN_BYTES = 2
INDENT = 2

LEFT_OUT = "left_out"


class Item(NamedTuple):
    """Two forms of one item; the cut one isn't the larger."""

    whole: Json
    cut: Json


def indented(value: object) -> str:
    """`value` as the JSON that a model is shown."""
    return msgspec.json.format(msgspec.json.encode(value), indent=INDENT).decode()


def fitted(
    answer: Json, place: Place, items: Sequence[Item], tokens: int, dressed: Callable[[Json], Json]
) -> Json:
    """`answer` with those of `items`, which are at `place`, that fit.

    `dressed` makes of an answer what is shown in the end: that is what has the size.
    """
    size_bytes_max = tokens * TOKEN_BYTES

    def room(forms: Sequence[Json]) -> int:
        return size_bytes_max - _size_bytes(dressed(_with_first(answer, place, forms, len(items))))

    forms = [item.cut for item in items]
    count = _most(len(items), lambda count: room(forms[:count]) >= 0) if place else len(items)
    forms = forms[:count]
    left = room(forms)
    for i, item in enumerate(items[:count]):
        more = _size_in_list(item.whole, place) - _size_in_list(item.cut, place)
        if more <= left:
            forms[i] = item.whole
            left -= more
    return _with_first(answer, place, forms, len(items))


def _most(limit: int, holds: Callable[[int], bool]) -> int:
    """The largest number up to `limit` for which `holds`, which does for every smaller one; 0 for none."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low


def _with_first(answer: Json, place: Place, forms: Sequence[Json], count: int) -> Json:
    """`answer` with `forms` for the first of its `count` items, without the others and lists of such alone."""
    if not place:
        return forms[0]
    kept = {**answer, place[0]: list(_kept(answer[place[0]], place[1:], iter(forms)))}
    return kept | {LEFT_OUT: count - len(forms)} if len(forms) < count else kept


def _kept(values: Sequence[Any], place: Place, forms: Iterator[Json]) -> Iterator[Json]:
    for value in values:
        if not place:
            if (form := next(forms, None)) is None:
                return
            yield form
        elif inner := list(_kept(value[place[0]], place[1:], forms)):
            yield {**value, place[0]: inner}


def _size_bytes(value: object) -> int:
    return len(indented(value).encode())


def _size_in_list(item: Json, place: Place) -> int:
    """Of an item's lines at `place`, where each list and each object on the way indents once more."""
    text = indented(item)
    return len(text.encode()) + text.count("\n") * INDENT * 2 * len(place)
