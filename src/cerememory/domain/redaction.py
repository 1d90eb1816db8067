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
PASSES_MAX = 8  # a mark may stand where something else ended a secret; the second pass hardly ever finds any

Span: TypeAlias = tuple[int, int]

# Names that say that their value is a secret, looked for in lower case. As the end of a longer one they say it,
# too: DB_PASSWORD, apiToken. Each alternative begins with a letter, which is what makes the search fast.
_NAME = (
    r"(?:(?P<password>pass(?:word|wd|phrase|code)s?|pwd)|(?P<header>cookies?|authorization)|(?P<key>keys?)"
    r"|secrets?|token|credentials?|auth)\d{0,2}"
)
_NAMED = re.compile(
    _NAME + r"""(?P<closed>\\{0,3}["'`]\]?)?[ \t]{0,4}(?P<sign>:=|=>|[:=>]|is\b|was\b|(?<=[ \t]))[ \t]{0,4}"""
)
_NAME_END = re.compile(rf"{_NAME}\Z")
_SECRET_KEYS = (
    *("api", "access", "secret", "private", "encryption", "decryption", "signing"),
    *("account", "master", "license", "subscription"),
)
_OPENER = re.compile(r"""(?P<slashes>\\{0,3})(?P<quote>["'`])""")
_BESIDE = 48  # characters in front of a name that are looked at
_IDENTIFIER = "abcdefghijklmnopqrstuvwxyz0123456789_.-"

_SCHEME = re.compile(r"b(?<![a-z0-9]b)(?:earer|asic)[ \t]{1,4}(?=[a-z0-9])")
_CREDENTIALS = re.compile(r"[A-Za-z0-9._~+/=\-]*+")
_CREDENTIALS_MIN = 8
_LETTERS_MIN = 20  # of lower case alone, before they pass for credentials

_IN_URL = re.compile(r"""://[^\s/?#@:"'<>`]{0,64}:""")
_USER_FLAG = re.compile(r"""-(?<=\s-)(?:u|-user)[ =]["']?[^\s:"'=\-][^\s:"'=]{0,63}:""")
_USER_PASSWORD = re.compile(r"""[^\s/@"'<>`]*+""")

_SHAPES = (
    r"gh[pousr]_[A-Za-z0-9]{16}",  # GitHub
    r"github_pat_\w{16}",
    r"glpat-[\w\-]{16}",  # GitLab
    r"sk[-_][\w\-]{16}",  # OpenAI, Anthropic, Stripe
    r"rk_[\w\-]{16}",
    r"whsec_\w{16}",
    r"A(?:KIA|SIA)[A-Z0-9]{16}",  # AWS
    r"AIza[\w\-]{35}",  # Google
    r"ya29\.[\w\-]{16}",
    r"xox[a-z]-[\w\-]{10}",  # Slack
    r"xapp-[\w\-]{10}",
    r"hf_[A-Za-z0-9]{16}",  # Hugging Face
    r"npm_[A-Za-z0-9]{16}",
    r"pypi-[\w\-]{16}",
    r"do[opr]_v1_\w{16}",  # DigitalOcean
    r"shp(?:at|ca|pa|ss)_\w{16}",  # Shopify
    r"SG\.[\w\-]{16}",  # SendGrid
    r"cm_[0-9a-f]{12}_[\w\-]{16}",  # Cerememory
    r"AGE-SECRET-KEY-1[A-Z0-9]{16}",
    r"eyJ[\w\-]{8,256}\.[\w\-]{2}",  # JSON Web Token
)
_SHAPE = re.compile("|".join(rf"{shape[0]}(?<![A-Za-z0-9]{shape[0]}){shape[1:]}" for shape in _SHAPES), re.ASCII)
_TOKEN = re.compile(r"[\w\-]*+(?:\.[\w\-]++)*+", re.ASCII)
_WORDY = ("sk-", "sk_", "rk_")  # which some words begin with, too

_KEY_BEGIN = re.compile(r"-----? ?BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY[A-Z ]{0,8}-----?")
_KEY_END = re.compile(r"-----? ?END [A-Z0-9 ]{0,40}PRIVATE KEY[A-Z ]{0,8}-----?")
_KEY_CHARS_MAX = 65_536
_KEY_REST = re.compile(r"""[^"'`()<>{};]{0,16384}+""")  # of a block without an end

_LINE = re.compile(r"(?:[^\r\n\\]++|\\(?![nr]))*+")
_WORD = re.compile(r"""(?:[^\s"'`<>\\]++|\\(?![nrt"'`]))*+""")
_SCALAR = re.compile(r"""(?:\[REDACTED\]|[^\s"'`,\]}\\])*+""")
_BETWEEN = re.compile(r"[\s,]{0,64}+")
_NOTHING = re.compile("")
_PLAIN = frozenset(
    ("", "none", "null", "nil", "true", "false", "undefined", "str", "string", "bytes", "int", "bool", "boolean")
)
_PLAIN_CHARS_MAX = 32
_TELLING = re.compile(r"(?=.*[\d_=]|.+[A-Z])")


def redact_text(text: str) -> str:
    """`text` with every secret that was found in it replaced by `MARK`."""
    for _pass in range(PASSES_MAX):
        before, text = text, _redacted_once(text)
        if text == before:
            break
    return text


def _redacted_once(text: str) -> str:
    spans = sorted(span for span in _secrets(text) if not _is_plain(text, *span))
    parts: list[str] = []
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
        return MARK if is_secret and not _is_plain(value, 0, len(value)) else redact_text(value)
    if isinstance(value, list):
        return [_redacted(each, is_secret=is_secret) for each in value]
    if isinstance(value, dict):
        pairs = (
            (name, _redacted(each, is_secret=is_secret or is_secret_name(name))) for name, each in value.items()
        )
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
    end = name[-_BESIDE:]
    found = _NAME_END.search(_lowered(end))
    return found is not None and _says_secret(found, end)


def _says_secret(name: re.Match[str], text: str) -> bool:
    """Whether a match of `_NAME` in `text`, lowered, is a name of secrets, by what it is the end of."""
    before = name.string[max(0, name.start() - _BESIDE) : name.start()]
    if name["key"]:
        return before.rstrip(" _-").endswith(_SECRET_KEYS)
    word = text[name.start() : name.start() + 4]
    if word[:3].lower() == "pwd":  # which is the working directory, too
        return before.endswith(("_", "-", ";")) or word.startswith("Pwd")
    return word != "auth" or before.endswith("_")


def _lowered(text: str) -> str:
    """In lower case, with every character where it was."""
    return text.replace("\u0130", "i").lower()


def _is_plain(text: str, start: int, end: int) -> bool:
    """Whether it stands for a value or a type, or was redacted before."""
    if end - start > _PLAIN_CHARS_MAX:
        return False
    value = text[start:end]
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
    lowered = _lowered(text)
    yield from _key_blocks(text, runs)
    yield from _named(text, lowered, runs)
    yield from _behind_schemes(text, lowered, runs)
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


def _named(text: str, lowered: str, runs: _Runs) -> Iterator[Span]:
    for name in _NAMED.finditer(lowered):
        if not _says_secret(name, text):
            continue
        before = lowered[max(0, name.start() - _BESIDE) : name.start()]
        context = before.rstrip(_IDENTIFIER)
        is_flag = before.startswith("--", len(context))
        if name["sign"] in (":", "=", ":=", "=>"):
            yield from _assigned(text, runs, name, context)
        elif name["sign"] == ">":
            yield from _tagged(text, runs, name.end())
        elif is_flag and not name["sign"] and not text.startswith("-", name.end()):
            yield name.end(), runs.end(_WORD, name.end())
            yield from _literals(text, runs, name.end(), _NOTHING)
        elif name["password"]:
            yield from _told(text, runs, name.end())


def _assigned(text: str, runs: _Runs, name: re.Match[str], context: str) -> Iterator[Span]:
    start = name.end()
    if _OPENER.match(text, start):
        yield from _literals(text, runs, start, _NOTHING)
    elif name["closed"]:
        yield from _member(text, runs, start)
    elif name["header"]:
        yield start, _line_end(runs, start, context)
    elif name["password"] and context.rstrip(" \t").removesuffix("export")[-1:] in ("", "\n"):
        yield start, runs.end(_LINE, start)
    else:
        yield start, runs.end(_WORD, start)


def _member(text: str, runs: _Runs, start: int) -> Iterator[Span]:
    """The value of an object's member, when it is no string; what is in an object has names of its own."""
    if text.startswith("[", start) and not text.startswith(MARK, start):
        yield from _literals(text, runs, start + 1, _BETWEEN)
    elif not text.startswith("{", start):
        yield start, runs.end(_SCALAR, start)


def _literals(text: str, runs: _Runs, start: int, between: re.Pattern[str]) -> Iterator[Span]:
    """The insides of the string literals from `start` on, as long as only `between` is between two of them."""
    while opener := _OPENER.match(text, start):
        end = runs.end(_inside(opener["quote"], len(opener["slashes"])), opener.end())
        yield opener.end(), end
        closer = _OPENER.match(text, end)
        if closer is None:
            return
        start = runs.end(between, closer.end())


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


def _behind_schemes(text: str, lowered: str, runs: _Runs) -> Iterator[Span]:
    for scheme in _SCHEME.finditer(lowered):
        end = runs.end(_CREDENTIALS, scheme.end())
        word = text[scheme.end() : min(end, scheme.end() + _LETTERS_MIN)].rstrip(".,")
        if len(word) >= _LETTERS_MIN or (len(word) >= _CREDENTIALS_MIN and _TELLING.match(word)):
            yield scheme.end(), end


def _in_urls(text: str, runs: _Runs) -> Iterator[Span]:
    for user in _IN_URL.finditer(text):
        end = runs.end(_USER_PASSWORD, user.end())
        if text.startswith("@", end):
            yield user.end(), end
    for user in _USER_FLAG.finditer(text):
        yield user.end(), runs.end(_WORD, user.end())


def _shaped(text: str, runs: _Runs) -> Iterator[Span]:
    for shape in _SHAPE.finditer(text):
        if not shape[0].startswith(_WORDY) or _TELLING.match(shape[0], 3):
            yield shape.start(), runs.end(_TOKEN, shape.start())
