"""Progress bars on stderr, which are gone when they are done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text


class RateColumn(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} {self._unit}/s")


def bar(what: str, total: int, unit: str) -> AbstractContextManager[Callable[[int], None]]:
    return _shown(what, total, MofNCompleteColumn(), RateColumn(unit))


def byte_bar(what: str, size_bytes: int) -> AbstractContextManager[Callable[[int], None]]:
    return _shown(what, size_bytes, DownloadColumn(), TransferSpeedColumn())


@contextmanager
def _shown(what: str, total: int, *amounts: ProgressColumn) -> Iterator[Callable[[int], None]]:
    """To be told how much more has gone by."""
    columns = (TextColumn("{task.description}"), BarColumn(), *amounts, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda count: progress.advance(task, count)
