"""When a commit is given free pages of LMDB that follow each other, so that the next ones write to fewer places.

That is when the file has grown: then no free page was left. A run is lost on whoever can't take from it. While
somebody reads an old snapshot no page gets free, and a large commit takes a run by itself: where the last run
didn't last, there is none. Nor is there one in a map that is nearly full. See ADR 23.
"""

from __future__ import annotations

from collections.abc import Callable

SPARE_PAGES = 128  # half a megabyte
OWN_PAGES = SPARE_PAGES // 8  # that the commit takes itself, about
LASTING_COMMITS = SPARE_PAGES // 2


class SparePages:
    """Of a store whose last page is `last_page`, when it is opened."""

    def __init__(self, last_page: int) -> None:
        self._end = last_page  # while the file ends no further, there are free pages in front of it
        self._grown_at = -LASTING_COMMITS

    def due(self, last_page: int, last_commit: int, room_pages: Callable[[], int]) -> int:
        """How many pages the next commit is given. `room_pages` tells how many the map has left behind it."""
        if last_page <= self._end:
            return 0
        lasted, self._grown_at = last_commit - self._grown_at >= LASTING_COMMITS, last_commit
        spare = SPARE_PAGES if lasted and room_pages() > 2 * SPARE_PAGES else 0
        self._end = last_page + (spare + OWN_PAGES if spare else 0)
        return spare
