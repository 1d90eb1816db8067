"""When a commit is given free pages: where the file grew, and the last ones were used up by many commits."""

from __future__ import annotations

from cerememory.storage.spare_pages import LASTING_COMMITS, OWN_PAGES, SPARE_PAGES, SparePages


def plenty() -> int:
    return 100 * SPARE_PAGES


def unasked() -> int:
    raise AssertionError("whether there is room matters where pages are due")


def test_they_are_due_where_the_file_has_grown() -> None:
    spare = SparePages(10)
    assert spare.due(10, 1, unasked) == 0
    assert spare.due(11, 2, plenty) == SPARE_PAGES
    assert spare.due(11 + SPARE_PAGES + OWN_PAGES, 3, unasked) == 0, "the run isn't used up"


def test_they_are_due_again_when_the_last_ones_lasted() -> None:
    spare = SparePages(10)
    assert spare.due(11, 1, plenty) == SPARE_PAGES
    assert spare.due(500, LASTING_COMMITS, plenty) == 0, "a little earlier, somebody else has what gets free"
    assert spare.due(501, 2 * LASTING_COMMITS, plenty) == SPARE_PAGES
    assert spare.due(502, 2 * LASTING_COMMITS + 1, unasked) == 0


def test_a_map_that_is_nearly_full_is_left_alone() -> None:
    spare = SparePages(10)
    assert spare.due(11, 1, lambda: 2 * SPARE_PAGES) == 0
    assert spare.due(12, 1 + LASTING_COMMITS, lambda: 2 * SPARE_PAGES + 1) == SPARE_PAGES
