"""How far a command is, on stderr, when somebody looks at it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
STEP = 1_000  # items between two looks at the terminal


@contextmanager
def counting(what: str) -> Iterator[Callable[[int], None]]:
    """To be told how many more have gone by, of nobody knows how many."""
    if not sys.stderr.isatty():
        yield lambda _count: None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn

    columns = (SpinnerColumn(), TextColumn("{task.description} {task.completed} rows"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda count: progress.advance(task, count)


def counted(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """`items`, of which there are about `total`, with a bar that says how many have gone by."""
    if not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total)
        for number, item in enumerate(items, 1):
            yield item
            if number % STEP == 0:
                progress.update(task, completed=number)
