"""How far a command is, on stderr, when somebody looks at it: how much of it, at which rate, and the time left.

`bars` draws it, and is loaded for a terminal alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
Advance = Callable[[int], None]
STEP = 1_000  # items between two looks at the terminal


@contextmanager
def counting(what: str, unit: str, total: Callable[[], int]) -> Iterator[Advance]:
    """To be told how many more `unit` (rows, records) have gone by; `total` is asked when somebody looks."""
    if not sys.stderr.isatty():
        yield _nobody_looks
        return
    from cerememory.cli.bars import bar

    with bar(what, total(), unit) as advance:
        yield advance


def counted(items: Iterable[T], total: int, what: str, unit: str = "rows") -> Iterator[T]:
    """`items`, of which there are about `total`, with a bar that says how many have gone by."""
    with counting(what, unit, lambda: total) as advance:
        for number, item in enumerate(items, 1):
            yield item
            if number % STEP == 0:
                advance(STEP)


def measured(chunks: Iterable[bytes], size_bytes: int, what: str) -> Iterator[bytes]:
    """`chunks`, of `size_bytes` in all, with a bar that says how many bytes have gone by."""
    if not sys.stderr.isatty():
        yield from chunks
        return
    from cerememory.cli.bars import byte_bar

    with byte_bar(what, size_bytes) as advance:
        for chunk in chunks:
            yield chunk
            advance(len(chunk))


def _nobody_looks(_count: int) -> None:
    """The count goes nowhere."""
