"""`cerememory --help`: all commands by their groups, and the options of every command.

It is made from the rows that the commands are registered by and from the docstring of `Options`, and drawn as the
library for command lines draws the help of one command. Neither that library nor the one for terminals is loaded
for it: that would take three quarters of the time.
"""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from textwrap import wrap

from cerememory.cli.commands import ABOUT, COMMANDS, COMMON, FLAGS, GROUPS
from cerememory.cli.options import COMMON_FIELDS, Options, value_name

COLUMNS = 80
COLUMNS_MIN = 40
COLUMNS_TOLD = re.compile("[1-9][0-9]{0,3}")  # what COLUMNS is believed to be
NAMES_SHARE = 0.35  # of the width, at most; a longer name is folded
NO_COLOR_TERMINALS = ("dumb", "unknown")
ROUND = ("╭", "╮", "╰", "╯", "─", "│")
ASCII = ("+", "+", "+", "+", "-", "|")

Row = tuple[str, str]
"""A name with what belongs to it, and what it means."""


@dataclass(frozen=True, slots=True)
class Look:
    """How wide it is, the corners and lines of its boxes, and whether names are coloured."""

    width: int
    box: tuple[str, str, str, str, str, str] = ROUND
    is_coloured: bool = False

    def name(self, text: str) -> str:
        return f"\x1b[36m{text}\x1b[0m" if self.is_coloured else text

    def strong(self, text: str) -> str:
        return f"\x1b[1m{text}\x1b[0m" if self.is_coloured else text


def look(environ: Mapping[str, str]) -> Look:
    """What suits stdout."""
    has_boxes = (sys.stdout.encoding or "").lower().startswith("utf")
    has_colours = environ.get("TERM") not in NO_COLOR_TERMINALS and not environ.get("NO_COLOR")
    forced = environ.get("FORCE_COLOR")
    wants_colours = sys.stdout.isatty() if forced is None else forced != ""
    return Look(max(_columns(environ), COLUMNS_MIN), ROUND if has_boxes else ASCII, has_colours and wants_colours)


def _columns(environ: Mapping[str, str]) -> int:
    """Those of the terminal, which may be that of stdin or stderr while stdout is a pager's."""
    told = environ.get("COLUMNS", "")
    if COLUMNS_TOLD.fullmatch(told):
        return int(told)
    for file in (sys.__stdin__, sys.__stdout__, sys.__stderr__):
        try:
            size = os.get_terminal_size(file.fileno()) if file is not None else None
        except (OSError, ValueError):  # no terminal; closed
            continue
        if size is not None and size.columns:
            return size.columns
    return COLUMNS


def show() -> None:
    """Print it, as it suits stdout."""
    print(overview(look(os.environ)))


def overview(look: Look) -> str:
    """The help of all commands, without the last line's end."""
    usage = look.strong("Usage: ") + look.strong("cerememory COMMAND [OPTIONS]")
    panels = (line for title in GROUPS for line in _panel(title, list(_rows(title)), look))
    return "\n".join([usage, "", ABOUT, "", *panels])


def _rows(group: str) -> Iterator[Row]:
    if group == COMMON:
        yield from _options()
        yield from ((" ".join(names), said) for names, said in FLAGS)
    yield from ((name, summary) for its_group, name, _path, summary in COMMANDS if its_group == group)


def _options() -> Iterator[Row]:
    said = dict(re.findall(r"^ +(\w+): (.+)$", Options.__doc__ or "", re.MULTILINE))
    for name, field in COMMON_FIELDS.items():
        yield f"{name} {value_name(field)}".rstrip(), said[field.name]


def _panel(title: str, rows: list[Row], look: Look) -> Iterator[str]:
    """The lines of a box around `rows`; none without any."""
    if not rows:
        return
    left, right, low_left, low_right, line, side = look.box
    share = math.ceil(NAMES_SHARE * look.width)
    names = [wrap(name, share, subsequent_indent="  ", break_on_hyphens=False) for name, _said in rows]
    names_width = max(len(part) for parts in names for part in parts)
    said_width = look.width - names_width - 6  # a side and a blank on either hand, two blanks between
    yield f"{left}{line} {title} ".ljust(look.width - 1, line) + right
    for parts, (_name, said) in zip(names, rows, strict=True):
        for name, text in zip_longest(parts, wrap(said, said_width, break_on_hyphens=False), fillvalue=""):
            shown = look.name(f"{name:<{names_width}}  ")
            yield f"{side} {shown}{text:<{said_width}} {side}"
    yield low_left + line * (look.width - 2) + low_right
