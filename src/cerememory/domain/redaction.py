"""Secrets taken out of text and JSON before it is kept: what was one reads `[REDACTED]`.

Found are private-key blocks; values with a telling name (password, token, API key, cookie, authorization, …) in
assignments, JSON, headers, flags and prose; credentials behind `Bearer` and `Basic` and in URLs; and tokens that
their issuers gave a shape. It is a net, not a proof: a secret that looks like any other word, in a place that says
nothing, stays.

Every rule looks for an anchor, of bounded width, and then takes one run of characters that never backtracks and
never fails. A run that was taken once isn't taken again from its middle, so the time is linear in the text.
Where rules disagree about an end, the later one counts. What was redacted stays as it is when it comes again.
What was found can be counted by its kind; of overlapping finds the one that begins first counts. Secrets that are
known from elsewhere are found by their words, where a text that was made of them says nothing else of them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from typing import Any, TypeAlias

MARK = "[REDACTED]"
PASSES_MAX = 8  # a mark may stand where something else ended a secret; the second pass hardly ever finds any

Span: TypeAlias = tuple[int, int]


class Kind(StrEnum):
    """By what a secret was told."""

    PRIVATE_KEY = "private_key"
    NAMED = "named_value"
    CREDENTIALS = "credentials"
    IN_URL = "url_password"
    TOKEN = "token"
    KNOWN = "known_secret"


Found: TypeAlias = tuple[int, int, Kind]


@dataclass(slots=True)
class Findings:
    """What was found: how often, by kind, and what it said."""

    kinds: Counter[str] = field(default_factory=Counter)
    texts: set[str] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.kinds)

    def note(self, kind: Kind, text: str) -> None:
        self.kinds[kind.value] += 1
        self.texts.add(text)

    def update(self, other: Findings) -> None:
        self.kinds.update(other.kinds)
        self.texts |= other.texts

    def words(self) -> frozenset[str]:
        """Those of the secrets by which they are known elsewhere: long ones, and shorter ones with a digit."""
        return frozenset(
            word for text in self.texts for word in _PLAIN_WORD.findall(text.casefold()) if _is_odd(word)
        )


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

_PLAIN_WORD = re.compile(r"[^\W_]++")
_CUT = "..."
_ODD_CHARS_MIN, _ODD_WITH_DIGIT_MIN = 6, 4
NOTHING_KNOWN: frozenset[str] = frozenset()


def redact_text(text: str, findings: Findings | None = None, known: frozenset[str] = NOTHING_KNOWN) -> str:
    """`text` with every secret that was found in it replaced by `MARK`, and noted in `findings`.

    `known` are `words` of other findings: these go wherever they stand, also when the end of one was cut off.
    """
    for _pass in range(PASSES_MAX):
        before, text = text, _redacted_once(text, findings)
        if text == before:
            break
    return _without(text, findings, known) if known else text


def _without(text: str, findings: Findings | None, known: frozenset[str]) -> str:
    def told(match: re.Match[str]) -> str:
        word = match[0].casefold()
        is_cut = len(word) >= _ODD_CHARS_MIN and text.startswith(_CUT, match.end())
        if word not in known and not (is_cut and any(each.startswith(word) for each in known)):
            return match[0]
        if findings is not None:
            findings.note(Kind.KNOWN, match[0])
        return MARK

    return _PLAIN_WORD.sub(told, text)


def _is_odd(word: str) -> bool:
    has_digit = any(character.isdigit() for character in word)
    return len(word) >= (_ODD_WITH_DIGIT_MIN if has_digit else _ODD_CHARS_MIN)


def _redacted_once(text: str, findings: Findings | None) -> str:
    found = sorted(each for each in _secrets(text) if not _is_plain(text, *each[:2]))
    parts: list[str] = []
    at = 0
    for start, end, kind in _joined(found):
        parts += [text[at:start], MARK]
        at = end
        if findings is not None:
            findings.note(kind, text[start:end])
    return "".join([*parts, text[at:]]) if parts else text


def redact(value: Any, findings: Findings | None = None, known: frozenset[str] = NOTHING_KNOWN) -> Any:
    """A decoded JSON value with the secrets in it replaced, in names too; what has a telling name goes whole.

    `findings` and `known` as in `redact_text`. Nesting is the caller's to bound: it takes a few frames a level.
    """
    return _Redactor(findings, known).redacted(value, is_secret=False)


@dataclass(frozen=True, slots=True)
class _Redactor:
    findings: Findings | None
    known: frozenset[str]

    def redacted(self, value: Any, *, is_secret: bool) -> Any:
        if isinstance(value, str):
            is_whole = is_secret and not _is_plain(value, 0, len(value))
            return self._marked(value) if is_whole else self._text(value)
        if isinstance(value, list):
            return [self.redacted(each, is_secret=is_secret) for each in value]
        if isinstance(value, dict):
            return self._object(value, is_secret)
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return self._marked(value) if is_secret and is_number else value

    def _text(self, text: str) -> str:
        return redact_text(text, self.findings, self.known)

    def _marked(self, value: object) -> str:
        """In the place of a whole value, by its name."""
        if self.findings is not None:
            self.findings.note(Kind.NAMED, str(value))
        return MARK

    def _object(self, members: dict[str, Any], is_secret: bool) -> dict[str, Any]:
        """Names that were secrets are numbered, where they would be the same now."""
        renamed: dict[str, Any] = {}
        for name, value in members.items():
            inner = self.redacted(value, is_secret=is_secret or is_secret_name(name))
            told = self._text(name)
            renamed[f"{told} {len(renamed)}" if told in renamed else told] = inner
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


def _joined(found: list[Found]) -> Iterator[Found]:
    """Sorted finds, with those that overlap or touch made one."""
    start, end, kind = -1, -1, Kind.TOKEN
    for each in found:
        if each[0] > end:
            if end >= 0:
                yield start, end, kind
            start, end, kind = each
        else:
            end = max(end, each[1])
    if end >= 0:
        yield start, end, kind


def _secrets(text: str) -> Iterator[Found]:
    """Where there is one; they may overlap, and may be plain."""
    runs = _Runs(text)
    lowered = _lowered(text)
    by_kind = (
        (Kind.PRIVATE_KEY, _key_blocks(text, runs)),
        (Kind.NAMED, _named(text, lowered, runs)),
        (Kind.CREDENTIALS, _behind_schemes(text, lowered, runs)),
        (Kind.IN_URL, _in_urls(text, runs)),
        (Kind.TOKEN, _shaped(text, runs)),
    )
    return ((start, end, kind) for kind, spans in by_kind for start, end in spans)


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
