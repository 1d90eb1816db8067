"""From samples to what is shown: medians, aims, words; as a table for people, as JSON for later."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from bench.cases import AIMS, FIGURES, Aim, Case, in_series
from bench.reference import RECORDED, SOURCE

HEADINGS = ("", "measured", "aim", "share", "", "reference")
GAP = "  "

Samples = Mapping[Case, Sequence[float]]
Medians = Mapping[Case, float]


@dataclass(frozen=True)
class Run:
    """Where and how the samples were taken."""

    machine: str
    seed: int
    rounds: int
    duration_s: float
    load: float  # of the machine, as the run began

    def __str__(self) -> str:
        taken = f"median of {self.rounds} rounds of {self.duration_s:g} s a case, seed {self.seed}"
        return f"{self.machine}; load {self.load:.1f} at the start; {taken}"


def machine() -> str:
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    return f"{platform.node()}: {os.cpu_count()} cores, {system}, Python {platform.python_version()}"


def medians(samples: Samples) -> dict[Case, float]:
    """The median of each case, and what follows from two floors."""
    found = {case: median(figures) for case, figures in samples.items()}
    return found | {Case.SERIES: in_series(found[Case.HYPERCORN_1], found[Case.FSYNC])}


def table(run: Run, figures: Medians) -> str:
    """One line a case, in the order of `Case`; the reference's recorded figures beside ours."""
    rows = [HEADINGS, *(_row(case, figures) for case in Case)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [GAP.join(_aligned(row, widths)).rstrip() for row in rows]
    return "\n".join([str(run), "", *lines, "", f"share: of the floor that the aim names. reference: {SOURCE}."])


def _aligned(row: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    """Words to the left, numbers to the right."""
    words = {0, 2, 4}
    for column, (cell, width) in enumerate(zip(row, widths, strict=True)):
        yield cell.ljust(width) if column in words else cell.rjust(width)


def _row(case: Case, figures: Medians) -> tuple[str, ...]:
    aim = AIMS.get(case)
    recorded = RECORDED.get(case)
    return (
        FIGURES[case].title,
        _shown(case, figures[case]),
        "" if aim is None else _aim(case, aim, figures),
        "" if aim is None or aim.floor is None else f"{figures[case] / figures[aim.floor]:.2f}",
        "" if aim is None else _verdict(case, aim, figures),
        "" if recorded is None else _shown(case, recorded),
    )


def _shown(case: Case, figure: float) -> str:
    _title, unit, digits = FIGURES[case]
    return f"{figure:,.{digits}f} {unit}".replace(" /", "/")


def _aim(case: Case, aim: Aim, figures: Medians) -> str:
    bound = f"{'at most' if aim.at_most else 'at least'} {_shown(case, aim.target(figures))}"
    return bound if aim.floor is None else f"{bound} ({aim.bound:g} of the {FIGURES[aim.floor].title})"


def _verdict(case: Case, aim: Aim, figures: Medians) -> str:
    return "met" if aim.is_met(figures[case], figures) else "missed"


def as_json(run: Run, samples: Samples, figures: Medians) -> dict[str, Any]:
    """Everything that the table says, and every sample."""
    return {
        "machine": run.machine,
        "load": run.load,
        "seed": run.seed,
        "rounds": run.rounds,
        "duration_s": run.duration_s,
        "medians": dict(figures),
        "samples": {case: list(taken) for case, taken in samples.items()},
        "verdicts": {case: _verdict(case, aim, figures) for case, aim in AIMS.items()},
        "reference": {"source": SOURCE, "figures": RECORDED},
    }
