"""Text that comes from anywhere, made fit for a terminal: whatever would steer it is written out instead."""

from __future__ import annotations

import re

# C0 and C1 controls but tab and line feed, line separators, and what turns the direction of writing.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]")


def visible(text: str) -> str:
    """`text` with its control characters written out as `\\x1b`."""
    return _UNSEEN.sub(lambda match: ascii(match[0])[1:-1], text)
