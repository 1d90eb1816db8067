"""Text that comes from anywhere, made fit to be read: what can't be seen, or would steer a terminal or the
direction of writing, is written out instead.

That is every control but tab and line end, the line and paragraph separators, the annotation marks, and what
Unicode calls Default_Ignorable_Code_Point: zero-width and bidirectional marks, fillers, variation selectors, tags.
One variation selector and one joiner may follow a character, as in emoji, Persian and Indic words; a run of them
is how text is hidden. Source: Unicode 16, DerivedCoreProperties.
"""

from __future__ import annotations

import re

_CONTROLS = "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"
_SEPARATORS = "\u2028\u2029\ufff9-\ufffb"
_IGNORABLE = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_MAY_BE_UNSEEN = re.compile(f"[{_CONTROLS}{_SEPARATORS}{_IGNORABLE}\r]")  # found missing in a quarter of the time
_UNSEEN = re.compile(f"(?:[{_CONTROLS}{_SEPARATORS}{_IGNORABLE}]|\r(?!\n))+")
_SHAPING = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]?[\u200c\u200d]?")


def visible(text: str) -> str:
    """`text` with what can't be seen written out, as `\\x1b` or `\\u202e`."""
    return text if _MAY_BE_UNSEEN.search(text) is None else _UNSEEN.sub(_written_out, text)


def _written_out(run: re.Match[str]) -> str:
    if run.start() and _SHAPING.fullmatch(run[0]):
        return run[0]
    return ascii(run[0])[1:-1]


def visible_json(document: str) -> str:
    """The same JSON with all that can't be seen in JSON's own escapes, so that it decodes to what it did."""
    return _UNSEEN.sub(lambda run: "".join(map(_escaped, run[0])), document)


def _escaped(char: str) -> str:
    units = char.encode("utf-16-be").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))
