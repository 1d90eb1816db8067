"""docs/reliability.md has the figures of docs/reliability.json, and these are those of runs without a loss."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tests import reliability
from tests.reliability import BEGIN, END, figures, tables, with_tables
from tests.support.reports import VARIABLE, Report, added_up, read_reports, report

KILLS = Report(what="kills", runs=2, points=1, losses=0, details={"runs": {"store": 2}, "seed": 7})
MORE_KILLS = Report(what="kills", runs=3, points=2, losses=1, details={"runs": {"forget": 3}})
CUTS = Report(what="cuts", runs=1_000, points=10, losses=0)


def test_the_page_has_the_figures() -> None:
    page = reliability.PAGE.read_text()
    assert with_tables(page, figures()) == page


def test_nothing_was_lost() -> None:
    assert [each.what for each in figures() if each.losses or not each.runs] == []


@pytest.mark.parametrize("what", ["every failpoint", "every system call", "Power cut in a commit"])
def test_each_kind_of_crash_was_tried(what: str) -> None:
    assert [each for each in figures() if what in each.what]


def test_reports_of_one_kind_are_added_up() -> None:
    details = {"runs": {"store": 2, "forget": 3}, "seed": 7}
    total = Report(what="kills", runs=5, points=3, losses=1, details=details)
    assert added_up([KILLS, CUTS, MORE_KILLS]) == [CUTS, total]


def test_a_report_is_written_where_it_is_wanted_and_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    report("kills: some", KILLS)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "reports"))
    report("kills: some", KILLS)
    (tmp_path / "reports" / "several.json").write_bytes(msgspec.json.encode([CUTS, MORE_KILLS]))
    assert read_reports(tmp_path / "reports") == added_up([KILLS, CUTS, MORE_KILLS])


def test_a_table_has_a_row_for_each_kind_and_the_parts_below() -> None:
    made = tables([CUTS, KILLS])
    assert "| cuts | 1,000 | 10 | 0 |\n| kills | 2 | 1 | 0 |\n" in made
    assert "- kills, by part: store 2." in made
    assert "cuts, by part" not in made


def test_new_figures_take_the_place_of_those_of_their_kind_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reliability, "FIGURES", tmp_path / "figures.json")
    monkeypatch.setattr(reliability, "PAGE", tmp_path / "page.md")
    (tmp_path / "page.md").write_text(f"above\n{BEGIN}\nold\n{END}\nbelow\n")
    (tmp_path / "figures.json").write_bytes(msgspec.json.encode([CUTS, KILLS]))
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "kills.json").write_bytes(msgspec.json.encode(MORE_KILLS))
    reliability.main(tmp_path / "new")
    assert figures() == [CUTS, MORE_KILLS]
    assert (tmp_path / "page.md").read_text() == f"above\n{BEGIN}\n{tables([CUTS, MORE_KILLS])}{END}\nbelow\n"
