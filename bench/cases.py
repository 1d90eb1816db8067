"""What is measured, in which unit, and what it should come to.

An aim is a share of a floor that was measured in the same run, or a plain bound where the machine hardly
matters. `floors` knows how the floors are made.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

MANY = 32


class Case(StrEnum):
    """The value is its key in the JSON output."""

    CLIENT_1 = "client_1"
    CLIENT_32 = "client_32"
    EMPTY_1 = "empty_1"
    EMPTY_32 = "empty_32"
    HYPERCORN_1 = "hypercorn_1"
    HYPERCORN_32 = "hypercorn_32"
    FSYNC = "fsync"
    SERIES = "series"
    ENCODE_1 = "encode_1"
    ENCODE_32 = "encode_32"
    BATCH = "batch"
    RECALL_1 = "recall_1"
    RECALL_32 = "recall_32"
    RECALL_LINKED = "recall_linked"
    EXPORT = "export"
    IMPORT = "import"
    TICK_COMPUTE = "tick_compute"
    TICK_SMALL = "tick_small"
    TICK_MIDDLE = "tick_middle"
    TICK_LARGE = "tick_large"
    TICK_COMMIT = "tick_commit"
    ENCODE_ALONE = "encode_alone"
    ENCODE_IN_TICK = "encode_in_tick"
    MEMORY_FILLED = "memory_filled"
    MEMORY = "memory"
    READY = "ready"
    HELP = "help"
    HELP_LOADING = "help_loading"
    RECALL_COMMAND = "recall_command"
    PROXY = "proxy"
    PROXY_LOADING = "proxy_loading"
    WHEEL = "wheel"
    INSTALLED = "installed"


class Figure(NamedTuple):
    """How a case is shown: its name for people, its unit, its digits behind the point."""

    title: str
    unit: str
    digits: int = 0


FIGURES: dict[Case, Figure] = {
    Case.CLIENT_1: Figure("this client's ceiling, 1 connection", "/s"),
    Case.CLIENT_32: Figure("this client's ceiling, 32 connections", "/s"),
    Case.HYPERCORN_1: Figure("floor: empty answer, 1 connection", "/s"),
    Case.HYPERCORN_32: Figure("floor: empty answer, 32 connections", "/s"),
    Case.EMPTY_1: Figure("the same on the daemon's own server, 1 connection", "/s"),
    Case.EMPTY_32: Figure("the same on the daemon's own server, 32 connections", "/s"),
    Case.FSYNC: Figure("floor: one fsynced put", "/s"),
    Case.SERIES: Figure("floor: both in series", "/s"),
    Case.ENCODE_1: Figure("encode, 1 connection", "/s"),
    Case.ENCODE_32: Figure("encode, 32 connections", "/s"),
    Case.BATCH: Figure("encode, batches of 500", "records/s"),
    Case.RECALL_1: Figure("recall, 1 connection", "/s"),
    Case.RECALL_32: Figure("recall, 32 connections", "/s"),
    Case.RECALL_LINKED: Figure("recall whose best memory has edges, 1 connection", "/s"),
    Case.EXPORT: Figure("export, streamed", "records/s"),
    Case.IMPORT: Figure("import of the same archive, streamed", "records/s"),
    Case.TICK_COMPUTE: Figure("decay tick over 1,000,000 memories, its arithmetic", "s", digits=2),
    Case.TICK_SMALL: Figure("decay tick over 1,000 memories, all of which moved", "s", digits=2),
    Case.TICK_MIDDLE: Figure("the same over 100,000", "s", digits=2),
    Case.TICK_LARGE: Figure("the same over 1,000,000", "s", digits=2),
    Case.TICK_COMMIT: Figure("longest commit of the tick over 100,000", "ms"),
    Case.ENCODE_ALONE: Figure("one encode, writer alone", "ms", digits=1),
    Case.ENCODE_IN_TICK: Figure("one encode during the tick over 100,000", "ms", digits=1),
    Case.MEMORY_FILLED: Figure("memory (RSS) of the daemon that is asked, filled and used", "MiB"),
    Case.MEMORY: Figure("idle memory (RSS), empty data dir", "MiB"),
    Case.READY: Figure("ready after start, empty data dir", "s", digits=2),
    Case.HELP: Figure("cerememory --help, from its start to its end", "s", digits=3),
    Case.HELP_LOADING: Figure("of it, loading modules", "s", digits=3),
    Case.RECALL_COMMAND: Figure("cerememory recall, through the daemon that is asked", "s", digits=3),
    Case.PROXY: Figure("MCP proxy, from its start to its first answer", "s", digits=3),
    Case.PROXY_LOADING: Figure("of it, loading modules", "s", digits=3),
    Case.WHEEL: Figure("wheel", "MiB", digits=2),
    Case.INSTALLED: Figure("installed, with all that it needs", "MiB"),
}


class Aim(NamedTuple):
    """`bound` of `floor`'s figure, or `bound` itself when there is no floor."""

    bound: float
    floor: Case | None = None
    at_most: bool = False

    def target(self, figures: Mapping[Case, float]) -> float:
        """In the unit of the case."""
        return self.bound if self.floor is None else self.bound * figures[self.floor]

    def is_met(self, measured: float, figures: Mapping[Case, float]) -> bool:
        reaches = operator.le if self.at_most else operator.ge
        return bool(reaches(measured, self.target(figures)))


AIMS: dict[Case, Aim] = {
    Case.ENCODE_1: Aim(0.5, Case.SERIES),
    Case.ENCODE_32: Aim(0.55, Case.HYPERCORN_32),
    Case.BATCH: Aim(5_000.0),
    Case.RECALL_1: Aim(0.45, Case.HYPERCORN_1),
    Case.TICK_COMPUTE: Aim(1.0, at_most=True),
    Case.TICK_COMMIT: Aim(50.0, at_most=True),
    Case.MEMORY: Aim(120.0, at_most=True),
    Case.READY: Aim(1.0, at_most=True),
    Case.HELP: Aim(0.25, at_most=True),
    Case.PROXY: Aim(0.3, at_most=True),
}


def in_series(first_per_s: float, second_per_s: float) -> float:
    """The rate of doing one after the other."""
    return 1.0 / (1.0 / first_per_s + 1.0 / second_per_s)
