"""What runs of the reliability tests found, as small files that `tests.reliability` makes one table of.

A report is a JSON object: `what` was done, how many `runs`, at how many different `points`, and in how many of the
runs something was lost or contradicted itself (`losses`). `details` are free, but for `details.runs`: the runs of
each part, by its name. A file holds one report, or a list. Those of one `what` are added up.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

VARIABLE = "CEREMEMORY_TEST_REPORTS"  # the folder that reports are written into; without it none is


class Report(msgspec.Struct, frozen=True, kw_only=True):
    what: str
    runs: int
    points: int
    losses: int
    details: dict[str, Any] = {}

    def plus(self, other: Report) -> Report:
        return Report(
            what=self.what,
            runs=self.runs + other.runs,
            points=self.points + other.points,
            losses=self.losses + other.losses,
            details={**self.details, **other.details, "runs": {**self.parts, **other.parts}},
        )

    @property
    def parts(self) -> dict[str, int]:
        """How many of the runs were of which part."""
        return dict(self.details.get("runs", {}))


def report(name: str, found: Report) -> None:
    """Write `found` into the folder of reports, if there is to be one; `name` is that of the test."""
    folder = os.environ.get(VARIABLE)
    if not folder:
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    file_name = re.sub(r"[^a-z0-9]+", "-", name.lower()) + ".json"
    (Path(folder) / file_name).write_bytes(msgspec.json.encode(found))


def read_reports(folder: Path) -> list[Report]:
    """All that lie in `folder`, added up; by `what`."""
    files = sorted(folder.glob("*.json"))
    return added_up(found for file in files for found in parse_reports(file.read_bytes()))


def parse_reports(data: bytes) -> list[Report]:
    found = msgspec.json.decode(data, type=Report | list[Report])
    return found if isinstance(found, list) else [found]


def added_up(reports: Iterable[Report]) -> list[Report]:
    total: dict[str, Report] = {}
    for found in reports:
        known = total.get(found.what)
        total[found.what] = found if known is None else known.plus(found)
    return sorted(total.values(), key=lambda each: each.what)
