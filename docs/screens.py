"""`python -m docs.screens`: the pictures in docs/images, of what commands really write to a terminal.

Only what no two runs have in common is replaced: ids, by others that are the same each time. So a picture changes
when the output does.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.text import Text
from tests.support.terminal import shown_by

IMAGES = Path(__file__).resolve().parent / "images"
WIDTH = 84  # columns: as wide as a page shows it without making letters small
ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
FONT = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)  # which would be fetched from elsewhere
MEMORIES = """\
The red kettle is in the kitchen, and leaks a little
Ana gave us the kettle when we moved
The blue badge opens the north door
"""
SAID = ("The kettle was a gift from Ana", "Careful, it leaks a little")


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    for name, shown in SCREENS.items():
        (IMAGES / f"{name}.svg").write_text(picture(name, shown()))


def recall() -> str:
    with tempfile.TemporaryDirectory() as folder:
        notes = Path(folder) / "notes.txt"
        notes.write_text(MEMORIES)
        loaded = _typed("cerememory load notes.txt") + _shown(folder, "load", notes)
        return loaded + _recalled(folder, "where did the kettle come from?")


def dream() -> str:
    with tempfile.TemporaryDirectory() as folder:
        screen = ""
        for said in SAID:
            _shown(folder, "store-raw", "--session-id", "tea", said)
            screen += _typed(f'cerememory store-raw --session-id tea "{said}" > /dev/null')
        screen += _typed("cerememory dream-tick --session-id tea") + _shown(folder, "dream-tick")
        return screen + _recalled(folder, "whose gift was the kettle?")


SCREENS: Mapping[str, Callable[[], str]] = {"recall": recall, "dream": dream}


def _recalled(folder: str, question: str) -> str:
    command = _typed(f'cerememory recall "{question}" --limit 2')
    return command + _shown(folder, "recall", question, "--limit", "2")


def _typed(command: str) -> str:
    return f"\x1b[1m$ {command}\x1b[0m\n"


def _shown(folder: str, *arguments: str | Path) -> str:
    """What a command writes whose data dir is in `folder`."""
    return shown_by(*arguments, "--data-dir", f"{folder}/data", env={"COLUMNS": str(WIDTH)})


def picture(name: str, screen: str) -> str:
    """The SVG of a terminal that shows `screen`, text with ANSI escapes."""
    console = Console(record=True, width=WIDTH, file=StringIO(), force_terminal=True)
    console.print(Text.from_ansi(_with_fixed_ids(screen.rstrip("\n"))))
    return FONT.sub("", console.export_svg(title="cerememory", unique_id=f"screen-{name}")).rstrip() + "\n"


def _with_fixed_ids(screen: str) -> str:
    """The first id becomes one that ends in 1, and so on; the same id the same."""
    known: dict[str, str] = {}
    for found in ID.findall(screen):
        known.setdefault(found, f"01a20caa-5137-74e7-9800-{len(known) + 1:012x}")
    return ID.sub(lambda found: known[found[0]], screen)


if __name__ == "__main__":
    main()
