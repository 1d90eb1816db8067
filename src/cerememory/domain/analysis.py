"""How text becomes the terms of the search index: analyzer `auto`, for documents and queries alike.

It folds text (compatibility forms, case, accents), takes runs of letters and digits as words, and cuts
scripts that are written without spaces into overlapping pairs of characters. A change between the two ends a
word:

    "東京都庁へ行くby Python3"  ->  東京 京都 都庁 庁へ へ行 行く by python3

`tokens` is the whole of it; a document adds the single characters of its pairs (`document_terms`), so that a
query of one character finds it, and a query gives up its stop words (`query_terms`). Reducing words to their
stems is left to the index, which does it to both sides with one and the same stemmer.

Nothing here raises: whatever isn't a letter, digit or mark separates words. Foldings after Unicode's UAX #15
(normalization forms) and the default case folding of the Unicode standard, section 3.13.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable

VERSION = 1  # raise it when any text gets other tokens than before: indexes are then rebuilt
IDENTITY = f"auto/{VERSION}/unicode-{unicodedata.unidata_version}"

TOKEN_CHARS_MAX = 64
TEXT_CHARS_MAX = 2**21  # twice the largest text block
TOKENS_MAX = 2**18
QUERY_CHARS_MAX = 2**14
QUERY_TOKENS_MAX = 256

_UNSPACED = (
    "\u0e01-\u0e3a\u0e40-\u0e4e\u0e50-\u0e59"  # Thai
    "\u0e81-\u0edf"  # Lao
    "\u1000-\u1049\u1050-\u109f"  # Myanmar
    "\u1780-\u17d3\u17e0-\u17e9"  # Khmer
    "\u1100-\u11ff\ua960-\ua97c\ud7b0-\ud7fb\uac00-\ud7a3"  # Hangul
    "\u3005-\u3007\u3021-\u3029\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff"  # kana, 々 〆 〇
    "\u3105-\u312f\u31a0-\u31bf"  # Bopomofo
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"  # Han
    "\U0001aff0-\U0001afff\U0001b000-\U0001b16f"  # kana, supplements
)
# Vowel signs and viramas of the Indian scripts are part of a word, but no letters to `\w`.
_VOWEL_SIGNS = "".join(c for c in map(chr, range(0x0900, 0x0E00)) if unicodedata.category(c) in ("Mn", "Mc"))
_ACCENTS = (
    "\u0300-\u036f\u0483-\u0487\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f"
    "\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7"  # Hebrew points
    "\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06dc\u06df-\u06e4\u06e7\u06e8\u06ea-\u06ed"  # Arabic vowels
    "\u00ad\u200c\u200d\u2060\ufe00-\ufe0f\ufeff"  # invisible inside words: soft hyphen, joiners, selectors
)

# Latin letters with a stroke and the like, which no normalization form takes apart.
_STROKES = str.maketrans(
    {"ø": "o", "ł": "l", "đ": "d", "ð": "d", "ħ": "h", "ŧ": "t", "ı": "i", "æ": "ae", "œ": "oe", "þ": "th"}
)

_MARKS = re.compile(f"[{_ACCENTS}]+")
_ASCII_WORD = re.compile(r"[a-z0-9]+")
_RUN = re.compile(rf"([{_UNSPACED}]+)|([^\W_{_UNSPACED}]+(?:[{_VOWEL_SIGNS}]+[^\W_{_UNSPACED}]*)*)")


def fold(text: str) -> str:
    """`text` without differences of case, accent and compatibility form; `fold(fold(x)) == fold(x)`."""
    if text.isascii():
        return text.lower()
    bare = _MARKS.sub("", unicodedata.normalize("NFKD", text))
    return unicodedata.normalize("NFKC", bare.casefold().translate(_STROKES))


def tokens(text: str) -> list[str]:
    """The tokens of `text` in order, each of 1 to `TOKEN_CHARS_MAX` characters, at most `TOKENS_MAX`.

    `tokens(" ".join(tokens(x))) == tokens(x)`; NFC and NFD of a text give the same.
    """
    return _split(text[:TEXT_CHARS_MAX], _pairs)


def document_terms(text: str) -> list[str]:
    """`tokens` and, beside each pair of characters, the characters themselves; same bounds."""
    return _split(text[:TEXT_CHARS_MAX], _pairs_and_characters)


def query_tokens(text: str) -> list[str]:
    """`tokens` of the first `QUERY_CHARS_MAX` characters."""
    return _split(text[:QUERY_CHARS_MAX], _pairs)


def query_terms(text: str) -> list[str]:
    """What to look for: the distinct tokens without stop words, or all of them when every one is a stop word.

    At most `QUERY_TOKENS_MAX`, from the first `QUERY_CHARS_MAX` characters.
    """
    return telling(query_tokens(text))


def telling(words: Iterable[str], besides: Collection[str] = ()) -> list[str]:
    """The first `QUERY_TOKENS_MAX` distinct `words` that are neither stop words nor in `besides`.

    When there are none, those in `besides` stay, and when there are none of these either, stop words, too.
    """
    distinct = dict.fromkeys(words)
    content = [word for word in distinct if word not in STOP_WORDS]
    told = [word for word in content if word not in besides] if besides else content
    return (told or content or list(distinct))[:QUERY_TOKENS_MAX]


def _split(text: str, tokens_of_run: Callable[[str], Iterable[str]]) -> list[str]:
    folded = fold(text)
    if folded.isascii():
        found = _ASCII_WORD.findall(folded)
    else:
        found = [token for run, word in _RUN.findall(folded) for token in (tokens_of_run(run) if run else (word,))]
    return [token[:TOKEN_CHARS_MAX] for token in found[:TOKENS_MAX]]


def _pairs(run: str) -> Iterable[str]:
    return map("".join, itertools.pairwise(run)) if len(run) > 1 else (run,)


def _pairs_and_characters(run: str) -> Iterable[str]:
    for start, character in enumerate(run):
        yield character
        if pair := run[start + 1 : start + 2]:
            yield character + pair


# English words that say nothing of what is asked for, and those that only do the asking.
_STOP_WORDS = """
a an the this that these those
i me my mine myself you your yours yourself he him his himself she her hers herself it its itself
we us our ours ourselves they them their theirs themselves one ones someone somebody something anyone
anybody anything everyone everybody everything nobody nothing
and or but nor so yet if then else because as than while although though unless until since whether
of at by for with about against between into through during before after above below to from up down
in out on off over under again further once upon within without toward towards among around along across
am is are was were be been being do does did doing done have has had having can could will would shall
should might must ought
not no yes too very just only also even still ever never already almost quite rather really perhaps maybe
all any both each few more most other others another some such same own much many lot lots several
who whom whose which what when where why how whatever whenever wherever whoever whichever however
here there now
tell tells telling say says said ask asks asked asking know knows knew known mention mentions mentioned
describe explain remember remind recall please
kind kinds type types sort sorts way ways thing things long often far
s t d m ll re ve don doesn didn isn aren wasn weren hasn haven hadn wouldn shouldn couldn mustn needn ain
"""

STOP_WORDS = frozenset(_STOP_WORDS.split())
