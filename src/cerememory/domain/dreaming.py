"""How the raw journal is cut into dreams: which entries belong together, and what is told of them.

Owns the grouping and the text of a summary. The records that a group becomes are made in `dream_records`; which
entries may be dreamt of, and when, is decided by whoever reads the journal.

A group is a stretch of one session within one UTC day: all entries of a topic when they name one, else what was
said without a long silence, or without a shorter one at which the subject changed. Of entries that are secret,
sealed or private scratch no word is told, in the text or in the topic's hint; they are only counted.

Source: the engine specification, "Dream tick". Lengths are in characters, and those of what was cut include
the `...` at its end.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from cerememory.domain.analysis import STOP_WORDS, tokens
from cerememory.protocol.records import MemoryContent, Modality, SecrecyLevel, Visibility
from cerememory.protocol.values import NANOS, RecordId

DAY_NS = 86_400 * NANOS
SILENCE_NS = 45 * 60 * NANOS  # longer than this, and what follows is another group
PAUSE_NS = 10 * 60 * NANOS  # longer than this, and another subject is another group
OVERLAP_MIN = 0.08
GROUP_ENTRIES_MAX = 500  # a longer stretch becomes several groups: each is one transaction

HINT_WORDS = 3
WORD_CHARS_MIN = 3
UNSPACED_FROM = "\u0e00"  # scripts behind it are mostly written without spaces: their tokens are pairs

ENTRY_CHARS_MAX = 4_096  # what is looked at of one entry
TEXTS_TOLD_MAX = 8
TEXT_CHARS_MAX = 160
LABEL_CHARS_MAX = 160
DREAM_CHARS_MAX = 1_200
SUMMARY_CHARS_MAX = 160
CUT = "..."


class RawEntry(msgspec.Struct, frozen=True):
    """An entry of the journal as far as a dream looks at it; `created_at` is nanoseconds since the epoch.

    `stamp` stands for all of the entry as it was read: another one later means that it was changed since.
    """

    record_id: RecordId
    session_id: str
    topic_id: str | None
    created_at: int
    visibility: Visibility
    secrecy_level: SecrecyLevel
    text: str
    stamp: bytes

    @property
    def is_told(self) -> bool:
        return self.visibility is Visibility.NORMAL and self.secrecy_level is not SecrecyLevel.SECRET


class Counts(msgspec.Struct, frozen=True):
    """How many entries of a group are told, and how many are not, each under the first reason that holds."""

    normal: int
    private_scratch: int
    sealed: int
    secret: int

    @property
    def redacted(self) -> int:
        return self.private_scratch + self.sealed + self.secret


@dataclass(frozen=True, slots=True)
class Group:
    """Entries that are dreamt of together, oldest first; at least one. `topic_id` None: none was given."""

    session_id: str
    topic_id: str | None
    topic_hint: str
    entries: tuple[RawEntry, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        """What may be told, in order; entries without a text have none."""
        return tuple(entry.text for entry in self.entries if entry.is_told and entry.text)

    def counts(self) -> Counts:
        kinds = Counter(_kind(entry) for entry in self.entries)
        return Counts(
            normal=kinds[None],
            private_scratch=kinds[Visibility.PRIVATE_SCRATCH],
            sealed=kinds[Visibility.SEALED],
            secret=kinds[SecrecyLevel.SECRET],
        )


def _kind(entry: RawEntry) -> Visibility | SecrecyLevel | None:
    """Why an entry isn't told; None when it is."""
    if entry.visibility is not Visibility.NORMAL:
        return entry.visibility
    return None if entry.is_told else SecrecyLevel.SECRET


def text_of(content: MemoryContent) -> str:
    """The text blocks, else the summary, on one line and of at most `ENTRY_CHARS_MAX` characters."""
    blocks = (block.data for block in content.blocks if block.modality is Modality.TEXT)
    text = " ".join(data[: 4 * ENTRY_CHARS_MAX].decode(errors="ignore") for data in blocks)
    return _line(text or content.summary or "")[:ENTRY_CHARS_MAX]


def _line(text: str) -> str:
    return " ".join(text.split())


def groups(entries: Iterable[RawEntry]) -> list[Group]:
    """The groups in the order of their first entries; each entry is in one of them, whatever order they come in.

    Entries of different UTC days never share a group, so that a journal can be read a day at a time.
    """
    threads: dict[tuple[int, str, str | None], list[RawEntry]] = defaultdict(list)
    for entry in sorted(entries, key=_moment):
        threads[day_of(entry.created_at), entry.session_id, _topic(entry)].append(entry)
    found = [
        group
        for (day, session_id, topic_id), thread in threads.items()
        for group in (_untitled(day, session_id, thread) if topic_id is None else _titled(topic_id, thread))
    ]
    return sorted(found, key=lambda group: _moment(group.entries[0]))


def day_of(at: int) -> int:
    """The UTC day that `at` is in, counted from the epoch's."""
    return at // DAY_NS


def _moment(entry: RawEntry) -> tuple[int, bytes]:
    return entry.created_at, entry.record_id


def _topic(entry: RawEntry) -> str | None:
    """A blank topic is none."""
    return entry.topic_id if entry.topic_id is not None and entry.topic_id.strip() else None


def _titled(topic_id: str, thread: list[RawEntry]) -> Iterator[Group]:
    for piece in _pieces(thread):
        yield Group(piece[0].session_id, topic_id, topic_id, piece)


def _untitled(day: int, session_id: str, thread: list[RawEntry]) -> Iterator[Group]:
    pieces = (piece for stretch in _stretches(thread) for piece in _pieces(stretch))
    for number, piece in enumerate(pieces, start=1):
        yield Group(session_id, None, _hint(piece) or f"auto-{_date(day)}-{number}", piece)


def _pieces(stretch: list[RawEntry]) -> Iterator[tuple[RawEntry, ...]]:
    for start in range(0, len(stretch), GROUP_ENTRIES_MAX):
        yield tuple(stretch[start : start + GROUP_ENTRIES_MAX])


def _stretches(thread: list[RawEntry]) -> Iterator[list[RawEntry]]:
    """`thread` cut wherever one entry doesn't follow from the one before."""
    stretch = thread[:1]
    for before, entry in itertools.pairwise(thread):
        if _begins_anew(before, entry):
            yield stretch
            stretch = []
        stretch.append(entry)
    yield stretch


def _begins_anew(before: RawEntry, entry: RawEntry) -> bool:
    gap = entry.created_at - before.created_at
    return gap > SILENCE_NS or (gap > PAUSE_NS and overlap(before.text, entry.text) < OVERLAP_MIN)


def overlap(one: str, other: str) -> float:
    """The share (0 to 1) of the words of both that both have (Jaccard); 0 when there are no words at all."""
    ours, theirs = set(words(one)), set(words(other))
    return len(ours & theirs) / (len(ours | theirs) or 1)


def words(text: str) -> list[str]:
    """The tokens of `text` that can tell its subject: no stop words, no numbers, nothing very short."""
    return [token for token in tokens(text) if _is_telling(token)]


def _is_telling(token: str) -> bool:
    long_enough = len(token) >= WORD_CHARS_MIN or (len(token) > 1 and token >= UNSPACED_FROM)
    return long_enough and not token.isdecimal() and token not in STOP_WORDS


def _hint(piece: tuple[RawEntry, ...]) -> str:
    """The most frequent words of what may be told, `boat+tide+wind`; equals in the order of the alphabet."""
    counted = Counter(word for entry in piece if entry.is_told for word in words(entry.text))
    frequent = sorted(counted, key=lambda word: (-counted[word], word))
    return "+".join(frequent[:HINT_WORDS])


def _date(day: int) -> str:
    return datetime.fromtimestamp(day * DAY_NS // NANOS, UTC).strftime("%Y%m%d")


def dream_text(group: Group, summary: str | None = None) -> str:
    """What a dream says of `group`, at most `DREAM_CHARS_MAX` characters; `summary` is a provider's, if any."""
    texts = group.texts
    redacted = group.counts().redacted
    if not texts:
        return _nothing_told(group)
    note = f" [Redacted raw records: {redacted}]" if redacted else ""
    return shortened(summary or _told(group, texts), DREAM_CHARS_MAX - len(note)) + note


def _told(group: Group, texts: tuple[str, ...]) -> str:
    session, topic = _label(group.session_id), _label(group.topic_hint)
    told = " | ".join(shortened(text, TEXT_CHARS_MAX) for text in texts[:TEXTS_TOLD_MAX])
    return f"Dream summary for session {session} / topic {topic}: {told}"


def _nothing_told(group: Group) -> str:
    session, counts = _label(group.session_id), group.counts()
    return (
        f"Dream summary for session {session}: {counts.normal} raw records preserved, {counts.redacted} redacted"
    )


def _label(name: str) -> str:
    return shortened(_line(name), LABEL_CHARS_MAX)


def summary_of(text: str) -> str:
    """The summary that stands beside a dream's text."""
    return shortened(text, SUMMARY_CHARS_MAX)


def shortened(text: str, chars_max: int) -> str:
    """`text`, or as much of it as leaves room for the `...` behind it."""
    return text if len(text) <= chars_max else text[: chars_max - len(CUT)] + CUT
