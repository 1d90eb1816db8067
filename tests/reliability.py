"""Makes the table of docs/reliability.md from what runs have reported.

    python -m tests.reliability FOLDER

Reads the reports in FOLDER (see `tests.support.reports`) into docs/reliability.json, in place of what was there of
the same kinds, and writes the tables anew between their marks in docs/reliability.md.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tests.support.reports import Report, added_up, parse_reports, read_reports

DOCS = Path(__file__).parents[1] / "docs"
FIGURES, PAGE = DOCS / "reliability.json", DOCS / "reliability.md"
BEGIN, END = "<!-- figures: made by tests/reliability.py -->", "<!-- end of figures -->"
SAID = {  # what the short names of some suites mean
    "fuzz": "Fuzzing: parsers of all that comes in, and the HTTP interface",
    "simulation": "Simulated lives of the whole daemon, with power cuts between all its steps",
}


def main(folder: Path) -> None:
    new = read_reports(folder)
    kept = [each for each in figures() if each.what not in {report.what for report in new}]
    all_figures = added_up([*kept, *new])
    FIGURES.write_bytes(msgspec.json.format(msgspec.json.encode(all_figures), indent=2) + b"\n")
    PAGE.write_text(with_tables(PAGE.read_text(), all_figures))


def figures() -> list[Report]:
    """Those of docs/reliability.json."""
    return parse_reports(FIGURES.read_bytes()) if FIGURES.exists() else []


def with_tables(page: str, reports: Sequence[Report]) -> str:
    """`page` with the tables of `reports` between its marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, behind = rest.partition(END)
    return f"{before}{BEGIN}\n{tables(reports)}{END}{behind}"


def tables(reports: Sequence[Report]) -> str:
    lines = ["", "| what was run | runs | different points | losses |", "|---|--:|--:|--:|"]
    lines += [f"| {_said(each)} | {each.runs:,} | {each.points:,} | {each.losses:,} |" for each in reports]
    for each in reports:
        if each.parts:
            listed = "; ".join(f"{name} {count:,}" for name, count in sorted(each.parts.items()))
            lines += ["", f"- {_said(each)}, by part: {listed}."]
    return "\n".join([*lines, "", ""])


def _said(report: Report) -> str:
    return SAID.get(report.what, report.what)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
