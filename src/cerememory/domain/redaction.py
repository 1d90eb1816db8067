"""Secrets taken out of text and JSON before it is kept: what was one reads `[REDACTED]`.

Found are private-key blocks; values with a telling name (password, token, API key, cookie, authorization, …) in
assignments, JSON, headers, flags and prose; credentials behind `Bearer` and `Basic` and in URLs; and tokens that
their issuers gave a shape. It is a net, not a proof: a secret that looks like any other word, in a place that says
nothing, stays.

Every rule looks for an anchor, of bounded width, and then takes one run of characters that never backtracks and
never fails. A run that was taken once isn't taken again from its middle, so the time is linear in the text.
Where rules disagree about an end, the later one counts. What was redacted stays as it is when it comes again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any, TypeAlias

MARK = "[REDACTED]"

Span: TypeAlias = tuple[int, int]

# Names that say that their value is a secret. As the end of a longer one they say it, too: DB_PASSWORD, apiToken.
_PASSWORD = r"pass(?:word|wd|phrase|code)s?|(?<=[_\-])pwd|(?-i:Pwd)"
_HEADER = r"authorization|(?:set-)?cookies?"
_OTHER = (
    r"(?:client|app|shared|webhook)?[_\- ]?secrets?|token|credentials?"
    r"|(?:api|access|secret|private|encryption|decryption|signing|account|master|license)[_\- ]?keys?|_auth"
)
_NAME = rf"(?P<password>{_PASSWORD})|(?P<header>{_HEADER})|{_OTHER}"
_CLOSED = r"""(?P<closed>\\{0,3}["'`]\]?)?"""
_NAMED = re.compile(rf"(?i)(?:{_NAME}){_CLOSED}[ \t]{{0,4}}(?P<sign>:=|=>|[:=>]|is\b|was\b|(?<=[ \t]))[ \t]{{0,4}}")
_SECRET_NAME = re.compile(rf"(?i)(?:{_NAME})\Z")
_OPENER = re.compile(r"""(?P<slashes>\\{0,3})(?P<quote>["'`])""")
_BESIDE = 48  # characters in front of a name that are looked at

_SCHEME = re.compile(r"(?i)(?<![a-z0-9])(?:bearer|basic)[ \t]{1,4}(?=[a-z0-9])")
_CREDENTIALS = re.compile(r"[A-Za-z0-9._~+/=\-]*+")
_CREDENTIALS_MIN = 8
_LETTERS_MIN = 20  # of lower case alone, before they pass for credentials

_IN_URL = re.compile(r"""://[^\s/?#@:"'<>`]{0,64}:|(?<=\s)(?:-u|--user)[ =]["']?[^\s:"'=\-][^\s:"'=]{0,63}:""")
_USER_PASSWORD = re.compile(r"""[^\s/@"'<>`]*+""")

_SHAPE = re.compile(
    r"(?<![A-Za-z0-9])(?:gh[pousr]_[A-Za-z0-9]{16}|github_pat_\w{16}|glpat-[\w\-]{16}|(?:sk|pk|rk)[-_][\w\-]{16}"
    r"|A(?:KIA|SIA)[A-Z0-9]{16}|AIza[\w\-]{35}|ya29\.[\w\-]{16}|xox[a-z]-[\w\-]{10}|xapp-[\w\-]{10}|hf_[A-Za-z0-9]{16}"
    r"|npm_[A-Za-z0-9]{16}|pypi-[\w\-]{16}|whsec_\w{16}|do[opr]_v1_\w{16}|shp(?:at|ca|pa|ss)_\w{16}|SG\.[\w\-]{16}"
    r"|cm_[0-9a-f]{12}_[\w\-]{16}|AGE-SECRET-KEY-1[A-Z0-9]{16}|eyJ[\w\-]{8,256}\.[\w\-]{2})",
    re.ASCII,
)
_TOKEN = re.compile(r"[\w\-]*+(?:\.[\w\-]++)*+", re.ASCII)

_KEY_BEGIN = re.compile(r"-{4,5} ?BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY[A-Z ]{0,8}-{4,5}")
_KEY_END = re.compile(r"-{4,5} ?END [A-Z0-9 ]{0,40}PRIVATE KEY[A-Z ]{0,8}-{4,5}")
_KEY_CHARS_MAX = 65_536
_KEY_REST = re.compile(r"""[^"'`()<>{};]{0,16384}+""")  # of a block without an end

_LINE = re.compile(r"(?:[^\r\n\\]++|\\(?![nr]))*+")
_WORD = re.compile(r"""(?:[^\s"'`<>\\]++|\\(?![nrt"'`]))*+""")
_SCALAR = re.compile(r"""[^\s"'`,\]}\\]*+""")
_BETWEEN = re.compile(r"[\s,]{0,64}+")
_IDENTIFIER = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-"
_PLAIN = frozenset(
    ("", "none", "null", "nil", "true", "false", "undefined", "str", "string", "bytes", "int", "bool", "boolean")
)
_TELLING = re.compile(r"(?=.*[\d_=]|.+[A-Z])")


def redact_text(text: str) -> str:
    """`text` with every secret that was found in it replaced by `MARK`."""
    spans = sorted(span for span in _secrets(text) if not _is_plain(text[slice(*span)]))
    parts = []
    at = 0
    for start, end in _joined(spans):
        parts += [text[at:start], MARK]
        at = end
    return "".join([*parts, text[at:]]) if parts else text


def redact(value: Any) -> Any:
    """A decoded JSON value with the secrets in it replaced, in names too; what has a telling name goes whole.

    Nesting is the caller's to bound: it takes a few frames a level.
    """
    return _redacted(value, is_secret=False)


def _redacted(value: Any, *, is_secret: bool) -> Any:
    if isinstance(value, str):
        return MARK if is_secret and not _is_plain(value) else redact_text(value)
    if isinstance(value, list):
        return [_redacted(each, is_secret=is_secret) for each in value]
    if isinstance(value, dict):
        pairs = ((name, _redacted(each, is_secret=is_secret or is_secret_name(name))) for name, each in value.items())
        return _renamed(pairs)
    return MARK if is_secret and isinstance(value, (int, float)) and not isinstance(value, bool) else value


def _renamed(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Names that were secrets are numbered, where they would be the same now."""
    renamed: dict[str, Any] = {}
    for name, value in pairs:
        told = redact_text(name)
        renamed[f"{told} {len(renamed)}" if told in renamed else told] = value
    return renamed


def is_secret_name(name: str) -> bool:
    """Whether what has this name is a secret, whatever it looks like."""
    return _SECRET_NAME.search(name[-_BESIDE:]) is not None


def _is_plain(value: str) -> bool:
    """Whether it stands for a value or a type, or was redacted before."""
    return value == MARK or value.strip(" \t,;)").lower() in _PLAIN


def _joined(spans: list[Span]) -> Iterator[Span]:
    """Sorted spans, with those that overlap or touch made one."""
    start, end = -1, -1
    for span in spans:
        if span[0] > end:
            if end >= 0:
                yield start, end
            start, end = span
        else:
            end = max(end, span[1])
    if end >= 0:
        yield start, end


def _secrets(text: str) -> Iterator[Span]:
    """Where there is one; they may overlap, and may be plain."""
    runs = _Runs(text)
    yield from _key_blocks(text, runs)
    yield from _named(text, runs)
    yield from _behind_schemes(text, runs)
    yield from _in_urls(text, runs)
    yield from _shaped(text, runs)


class _Runs:
    """How far runs of characters go in one text; the last of each kind is kept."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._last: dict[re.Pattern[str], Span] = {}

    def end(self, kind: re.Pattern[str], start: int) -> int:
        """Where the run of `kind` from `start` ends. `kind` matches anywhere, if only nothing."""
        begun, end = self._last.get(kind, (0, 0))
        if not begun <= start < end:
            end = _taken(kind, self._text, start)
            self._last[kind] = (start, end)
        return end


def _taken(kind: re.Pattern[str], text: str, start: int) -> int:
    match = kind.match(text, start)
    return start if match is None else match.end()


def _key_blocks(text: str, runs: _Runs) -> Iterator[Span]:
    ends = _KEY_END.finditer(text)
    end = next(ends, None)
    for begin in _KEY_BEGIN.finditer(text):
        while end is not None and end.start() < begin.end():
            end = next(ends, None)
        if end is not None and end.end() - begin.start() <= _KEY_CHARS_MAX:
            yield begin.start(), end.end()
        else:
            yield begin.start(), runs.end(_KEY_REST, begin.end())


def _named(text: str, runs: _Runs) -> Iterator[Span]:
    for anchor in _NAMED.finditer(text):
        before = text[max(0, anchor.start() - _BESIDE) : anchor.start()]
        context = before.rstrip(_IDENTIFIER)
        is_flag = before[len(context) :].startswith("--")
        sign = anchor["sign"].lower()
        if sign in (":", "=", ":=", "=>"):
            yield from _assigned(text, runs, anchor, context)
        elif sign == ">":
            yield from _tagged(text, runs, anchor.end())
        elif is_flag and not sign and not text.startswith("-", anchor.end()):
            yield from _opened(text, runs, anchor.end()) or [(anchor.end(), runs.end(_WORD, anchor.end()))]
        elif anchor["password"]:
            yield from _told(text, runs, anchor.end())


def _assigned(text: str, runs: _Runs, anchor: re.Match[str], context: str) -> Iterator[Span]:
    start = anchor.end()
    if literal := _opened(text, runs, start):
        yield from literal
    elif anchor["closed"] and text.startswith("[", start) and not text.startswith(MARK, start):
        yield from _listed(text, runs, start + 1)
    elif anchor["closed"]:
        yield start, runs.end(_SCALAR, start)
    elif anchor["header"]:
        yield start, _line_end(runs, start, context)
    elif anchor["password"] and context.rstrip(" \t").removesuffix("export")[-1:] in ("", "\n"):
        yield start, runs.end(_LINE, start)
    else:
        yield start, runs.end(_WORD, start)


def _opened(text: str, runs: _Runs, start: int) -> list[Span]:
    """The inside of the string literal that begins at `start`; none where none begins."""
    opener = _OPENER.match(text, start)
    if opener is None:
        return []
    return [(opener.end(), runs.end(_inside(opener["quote"], len(opener["slashes"])), opener.end()))]


def _listed(text: str, runs: _Runs, start: int) -> Iterator[Span]:
    """String literals one after the other, with commas between them."""
    while literal := _opened(text, runs, start):
        yield from literal
        closer = _OPENER.match(text, literal[0][1])
        if closer is None:
            return
        start = runs.end(_BETWEEN, closer.end())


def _line_end(runs: _Runs, start: int, context: str) -> int:
    """The end of the header, which is that of the literal that it stands in, or of the line."""
    if context[-1:] not in ("'", '"', "`"):
        return runs.end(_LINE, start)
    slashes = len(context) - 1 - len(context[:-1].rstrip("\\"))
    return runs.end(_inside(context[-1], min(slashes, 3)), start)


@cache
def _inside(quote: str, slashes: int) -> re.Pattern[str]:
    """The inside of a literal that is opened by `quote` behind so many backslashes, within its line.

    More backslashes than that in front of a quote are its own.
    """
    return re.compile(rf"(?:[^{quote}\\\r\n]++|\\{{{slashes + 1},}}+{quote}?|\\++(?!{quote}))*+")


def _tagged(text: str, runs: _Runs, start: int) -> Iterator[Span]:
    end = runs.end(_WORD, start)
    if text.startswith("</", end):
        yield start, end


def _told(text: str, runs: _Runs, start: int) -> Iterator[Span]:
    """What follows in prose, unless it looks like prose."""
    end = runs.end(_WORD, start)
    word = text[start:end].rstrip(".,;:!?)")
    if len(word) >= 6 and _TELLING.match(word):
        yield start, end


def _behind_schemes(text: str, runs: _Runs) -> Iterator[Span]:
    for anchor in _SCHEME.finditer(text):
        end = runs.end(_CREDENTIALS, anchor.end())
        word = text[anchor.end() : end].rstrip(".,")
        if len(word) >= _LETTERS_MIN or (len(word) >= _CREDENTIALS_MIN and _TELLING.match(word)):
            yield anchor.end(), end


def _in_urls(text: str, runs: _Runs) -> Iterator[Span]:
    for anchor in _IN_URL.finditer(text):
        end = runs.end(_USER_PASSWORD, anchor.end())
        if text.startswith("@", end) or not anchor[0].startswith(":"):
            yield anchor.end(), end


def _shaped(text: str, runs: _Runs) -> Iterator[Span]:
    for anchor in _SHAPE.finditer(text):
        end = runs.end(_TOKEN, anchor.start())
        if anchor[0][2] not in "-_" or _TELLING.match(text[anchor.start() + 3 : end]):
            yield anchor.start(), end
