"""The pictures of the documentation: nothing in them comes from elsewhere, or differs from run to run."""

from __future__ import annotations

from pathlib import Path

import pytest
from docs.screens import IMAGES, SCREENS, picture

ROOT = Path(__file__).parents[2]
FIRST, SECOND = "0191aaaa-0000-7000-8000-00000000000a", "0191bbbb-0000-7000-8000-00000000000b"


def test_ids_are_the_same_in_every_run() -> None:
    one = picture("x", f"{FIRST} {SECOND} {FIRST}")
    assert one == picture("x", f"{SECOND} {FIRST} {SECOND}")
    assert one.count("01a20caa-5137-74e7-9800-000000000001") == 2
    assert FIRST not in one


def test_colours_are_kept() -> None:
    assert picture("x", "\x1b[1mbold\x1b[0m plain") != picture("x", "bold plain")


@pytest.mark.parametrize("name", SCREENS)
def test_a_picture_is_small_fetches_nothing_and_stands_on_a_page(name: str) -> None:
    text = (IMAGES / f"{name}.svg").read_text()
    assert len(text) < 32_768
    assert "url(http" not in text.replace('url("http', "url(http")
    assert f"docs/images/{name}.svg" in (ROOT / "README.md").read_text()


def test_every_picture_is_made_by_the_script() -> None:
    assert {path.stem for path in IMAGES.iterdir()} == SCREENS.keys()
