"""The text index: which memories and raw journal entries hold which words.

`TextIndex` is written by its one owner and gives out `Snapshot`s that any thread may search. It is derived:
everything in it can be built again from the store. So a damaged or outdated index is wiped and refilled by
its owner, which also applies what was committed after `applied_sequence()`.

    index = TextIndex.open(path)         # IndexDamaged, IndexOutdated: wipe(path), open again, refill
    index.apply(documents, deletions, sequence)
    index.commit(sequence)               # durable, and in every snapshot taken from now on
    index.snapshot().search(DEFAULT_NAMESPACE, "a few words", None, 10)

Curated memories and raw entries are two tantivy indexes, `curated` and `raw`. In one, the statistics of BM25
(number of documents, average length) would be those of both, and memories would be ranked worse with every
raw entry. The raw one is committed first; the sequence that counts stands in the curated one, so it never
claims what isn't there.

Threads: one thread at a time may open, apply, commit or close (tantivy answers a second with `RuntimeError:
Already borrowed`). `snapshot()` and all of `Snapshot` may be called from any thread at any time.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path

import msgspec
from tantivy import Document, TextAnalyzer

from cerememory.domain import analysis
from cerememory.domain.dialogue import ALONE, LENT_CHARS_MAX, Surroundings, name_terms
from cerememory.failpoints import failpoint
from cerememory.protocol.limits import clamp_timestamp
from cerememory.protocol.values import RecordId
from cerememory.storage.inverted_index import (
    ID_HALVES,
    IndexDamaged,
    IndexOutdated,
    IndexWriteFailed,
    InvertedIndex,
    TextIndexError,
    build_analyzer,
    document_id,
    scoped_terms,
)
from cerememory.storage.keys import Address
from cerememory.storage.rows import RAW_CODE
from cerememory.storage.text_search import Hit, Hits, RawFound, Snapshot

__all__ = [
    "SCHEMA_EPOCH",
    "Hit",
    "Hits",
    "IndexDamaged",
    "IndexDocument",
    "IndexOutdated",
    "IndexWriteFailed",
    "RawFound",
    "Snapshot",
    "TextIndex",
    "TextIndexError",
    "wipe",
]

SCHEMA_EPOCH = 3  # raise it when fields or their meaning change: indexes are then rebuilt
_PARTS = ("raw", "curated")  # in the order in which they are created and committed


class IndexDocument(msgspec.Struct, frozen=True, kw_only=True):
    """What the index keeps of a record.

    `store_code`: 0 to 4 as in `protocol.records.STORES`, 5 for the raw journal. `created_at`: nanoseconds
    since the epoch. `session` (16 bytes), `visibility` and `secrecy` (codes) matter for raw entries only, and
    for memories only what a conversation tells of them: the speaker, the `dates` (terms as of `domain.dates`)
    on which it happened, the words that the turns around it lend; and the terms of `domain.scope` by which recalls
    are kept to them.
    """

    namespace: int
    record_id: RecordId
    store_code: int
    created_at: int
    text: str
    summary: str = ""
    around: Surroundings = ALONE
    speaker: str | None = None
    dates: tuple[str, ...] = ()
    scope: tuple[str, ...] = ()
    session: bytes | None = None
    visibility: int = 0
    secrecy: int = 0


def wipe(path: Path) -> Path | None:
    """Removes the index in `path`, whatever state it is in; it must not be open.

    What isn't a directory was never an index, and isn't ours to remove: it is set aside, under the name that is
    answered. Of a link to a directory the directory is emptied, and the link stays.
    """
    if not os.path.lexists(path):
        return None
    if not path.is_dir():
        return _set_aside(path)
    if path.is_symlink():
        for part in path.iterdir():
            if part.is_dir() and not part.is_symlink():
                shutil.rmtree(part)
            else:
                part.unlink()
    else:
        shutil.rmtree(path)
    return None


def _set_aside(path: Path) -> Path:
    names = (path.with_name(f"{path.name}.aside-{number}") for number in count(1))
    return path.rename(next(name for name in names if not os.path.lexists(name)))


def _check_directory(path: Path) -> None:
    if os.path.lexists(path) and not path.is_dir():
        raise IndexDamaged(f"{path} is no directory")


class TextIndex:
    """See the module for its use and its threads."""

    def __init__(self, raw: InvertedIndex, curated: InvertedIndex) -> None:
        self._raw = raw
        self._curated = curated
        self._pending_sequence = curated.sequence
        self._snapshot = Snapshot(curated, raw)
        self._analyzer = build_analyzer()

    @classmethod
    def open(cls, path: Path | None, epoch: int = SCHEMA_EPOCH) -> TextIndex:
        """The index in directory `path`, or a new one when there is none; in memory when `path` is None.

        Raises `IndexDamaged`, `IndexOutdated`, and `IndexWriteFailed` when a new one can't be created.
        """
        identity = _identity(epoch)
        if path is None:
            return cls(*(InvertedIndex.create(None, identity) for _ in _PARTS))
        _check_directory(path)
        parts = [path / name for name in _PARTS]
        if any(part.exists() for part in parts):
            return cls(*(InvertedIndex.open(part, identity) for part in parts))
        return cls(*(InvertedIndex.create(part, identity) for part in parts))

    @classmethod
    def open_existing(cls, path: Path, epoch: int = SCHEMA_EPOCH) -> TextIndex:
        """The index in `path` for one who only reads, beside its owner. Raises `IndexDamaged`, `IndexOutdated`."""
        _check_directory(path)
        return cls(*(InvertedIndex.open(path / name, _identity(epoch)) for name in _PARTS))

    def apply(self, documents: Iterable[IndexDocument], deletions: Iterable[Address], sequence: int) -> None:
        """Deletes, then adds; a document replaces the one of the same id. Applying twice is harmless.

        `sequence`: that of the newest change among them. Raises `IndexWriteFailed`.
        """
        self._pending_sequence = max(sequence, self._pending_sequence)
        for address in deletions:
            self._curated.delete(address)
            self._raw.delete(address)
        stems = _Stems(self._analyzer)
        for document in documents:
            address = (document.namespace, document.record_id)
            self._part_of(document.store_code).replace(address, _tantivy_document(document, stems))

    def holds_store(self, store_code: int) -> bool:
        """Whether the last commit has documents of the store (or of the raw journal)."""
        return (self._raw if store_code == RAW_CODE else self._curated).holds_store(store_code)

    def count(self, store_code: int, addresses: Sequence[Address] | None = None) -> int:
        """How many documents the last commit has of a store or the raw journal, and among `addresses` if given."""
        return self._part_of(store_code).count(store_code, addresses)

    def record_ids(self, store_code: int) -> Iterator[RecordId]:
        """Whose documents these are, in whatever namespaces."""
        return self._part_of(store_code).record_ids(store_code)

    def delete_store(self, store_code: int) -> None:
        """Deletes every document of a store, or of the raw journal. Raises `IndexWriteFailed`."""
        self._part_of(store_code).delete_store(store_code)

    def _part_of(self, store_code: int) -> InvertedIndex:
        return self._raw if store_code == RAW_CODE else self._curated

    def commit(self, sequence: int | None = None) -> None:
        """Makes what was applied durable, together with `sequence` (default: the newest that was applied).

        Raises `IndexWriteFailed`.
        """
        sequence = self._pending_sequence if sequence is None else sequence
        if self._raw.is_dirty:
            self._raw.commit(sequence)
            failpoint("text_index.raw.committed")
        self._curated.commit(sequence)
        failpoint("text_index.committed")
        self._pending_sequence = sequence
        self._snapshot = Snapshot(self._curated, self._raw)

    @property
    def is_scattered(self) -> bool:
        """Whether memories are in so many segments that `settle` is worth while."""
        return self._curated.is_scattered

    def settle(self) -> bool:
        """A step towards fewer segments; whether it was the last, which is a commit as any other.

        For when nothing was applied since the last commit. Raises `IndexWriteFailed`.
        """
        if not self._curated.settle():
            return False
        self._snapshot = Snapshot(self._curated, self._raw)
        return True

    def applied_sequence(self) -> int:
        """The sequence of the last commit; 0 for a new index."""
        return self._curated.sequence

    def snapshot(self) -> Snapshot:
        """The index as of its last commit."""
        return self._snapshot

    def close(self) -> None:
        """Drops what wasn't committed and lets go of the directory; snapshots stay valid."""
        try:
            self._raw.close()
        finally:
            self._curated.close()


def _identity(epoch: int) -> str:
    return f"epoch-{epoch}/{analysis.IDENTITY}"


class _Stems:
    """The stems of texts as values of a field; a turn lends its words to those around it, so each is made once."""

    def __init__(self, analyzer: TextAnalyzer) -> None:
        self._analyzer = analyzer
        self._known: dict[tuple[int, str], str] = {}

    def of(self, namespace: int, text: str, words: list[str] | None = None) -> str:
        """Those of `text`, whose words they are, when those are known."""
        known = self._known.get((namespace, text))
        if known is None:
            words = analysis.document_terms(text) if words is None else words
            known = scoped_terms(namespace, self._analyzer.analyze(" ".join(words)))
            if len(text) <= LENT_CHARS_MAX:
                self._known[namespace, text] = known
        return known

    def of_summary(self, namespace: int, summary: str, text: str) -> str:
        """Those that `text` lacks: what a summary says again isn't said louder."""
        if not summary:
            return ""
        known = set(self._stems(text))
        return scoped_terms(namespace, [stem for stem in self._stems(summary) if stem not in known])

    def _stems(self, text: str) -> list[str]:
        return self._analyzer.analyze(" ".join(analysis.document_terms(text)))


def _tantivy_document(document: IndexDocument, stems: _Stems) -> Document:
    high, low = ID_HALVES.unpack(document.record_id)
    made = Document()
    made.add_text("id", document_id((document.namespace, document.record_id)))
    made.add_unsigned("namespace", document.namespace)
    made.add_unsigned("id_high", high)
    made.add_unsigned("id_low", low)
    made.add_integer("created_at", clamp_timestamp(document.created_at))
    made.add_unsigned("store", document.store_code)
    made.add_unsigned("visibility", document.visibility)
    made.add_unsigned("secrecy", document.secrecy)
    if document.session is not None:
        made.add_bytes("session", document.session)
    for field, value in _fields(document, stems):
        if value:
            made.add_text(field, value)
    return made


def _fields(document: IndexDocument, stems: _Stems) -> Iterator[tuple[str, str]]:
    """`text` has the words as they are written, `context` the stems of all that is said here and around it.

    A summary is part of `context`. In a field of its own, which few records have, it would count next to
    nothing: BM25 compares its length with the average over all records.
    """
    namespace, around = document.namespace, document.around
    words = analysis.document_terms(document.text)
    yield "text", scoped_terms(namespace, words)
    own = stems.of(namespace, document.text, words)
    summary = stems.of_summary(namespace, document.summary, document.text)
    yield "context", " ".join((own, summary, *(stems.of(namespace, text) for text in around.context)))
    yield "asked", stems.of(namespace, around.asked)
    who = name_terms(document.speaker or "")
    yield "who", scoped_terms(namespace, who)
    others = (term for name in around.speakers for term in name_terms(name))
    yield "company", scoped_terms(namespace, [*dict.fromkeys((*who, *others))])
    yield "date", scoped_terms(namespace, document.dates)
    yield "scope", " ".join(document.scope)
