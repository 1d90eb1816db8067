"""The pages of the documentation as tests read them: their blocks, and the commands in these."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md")))
COMMANDS = "sh"  # commands, one after the other
CONVERSATION = "console"  # commands behind a $, each with what it prints
_BLOCK = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$", re.DOTALL | re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Command:
    """`printed` is what the page shows of its output; None where it shows none and leaves it open."""

    text: str
    printed: str | None


def label(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of each, in their order."""
    return [(found["language"], dedent(found["text"])) for found in _BLOCK.finditer(page.read_text())]


def commands(page: Path) -> list[Command]:
    """All that a reader is told to run, in the order of the page."""
    found: list[Command] = []
    for language, text in blocks(page):
        if language == COMMANDS:
            found += (Command(line, None) for line in _whole_lines(text) if not line.startswith("#"))
        elif language == CONVERSATION:
            found += (_answered(part) for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:])
    return found


def _whole_lines(text: str) -> Iterator[str]:
    """Lines, each with those that it goes on with behind a backslash."""
    return (found[0].strip() for found in re.finditer(r"(?:.*\\\n)*.*\S.*", text))


def _answered(part: str) -> Command:
    command = next(_whole_lines(part))
    return Command(command, part.removeprefix(command).removeprefix("\n"))
