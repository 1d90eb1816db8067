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

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tantivy import Document, TextAnalyzer

from cerememory.domain import analysis
from cerememory.domain.dialogue import ALONE, LENT_CHARS_MAX, Surroundings, name_terms
from cerememory.protocol.limits import clamp_timestamp
from cerememory.protocol.values import RecordId
from cerememory.storage.inverted_index import (
    IndexDamaged,
    IndexOutdated,
    IndexWriteFailed,
    InvertedIndex,
    TextIndexError,
    build_analyzer,
    document_id,
    scoped,
    scoped_terms,
)
from cerememory.storage.keys import Address
from cerememory.storage.rows import RAW_CODE
from cerememory.storage.text_search import ID_HALVES, Hit, RawFound, Snapshot

__all__ = [
    "SCHEMA_EPOCH",
    "Hit",
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

SCHEMA_EPOCH = 2  # raise it when fields or their meaning change: indexes are then rebuilt
_PARTS = ("raw", "curated")  # in the order in which they are created and committed


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexDocument:
    """What the index keeps of a record.

    `store_code`: 0 to 4 as in `protocol.records.STORES`, 5 for the raw journal. `created_at`: nanoseconds
    since the epoch. `session` (16 bytes), `visibility` and `secrecy` (codes) matter for raw entries only, and
    for memories only what a conversation tells of them: the speaker, the `dates` (terms as of `domain.dates`)
    on which it happened, the words that the turns around it lend.
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
    session: bytes | None = None
    visibility: int = 0
    secrecy: int = 0


def wipe(path: Path) -> None:
    """Removes the index in `path`, whatever state it is in; it must not be open."""
    if path.exists():
        shutil.rmtree(path)


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
        identity = f"epoch-{epoch}/{analysis.IDENTITY}"
        if path is None:
            return cls(*(InvertedIndex.create(None, identity) for _ in _PARTS))
        parts = [path / name for name in _PARTS]
        if any(part.exists() for part in parts):
            return cls(*(InvertedIndex.open(part, identity) for part in parts))
        return cls(*(InvertedIndex.create(part, identity) for part in parts))

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
        self._curated.commit(sequence)
        self._pending_sequence = sequence
        self._snapshot = Snapshot(self._curated, self._raw)

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


class _Stems:
    """The stems of texts; a turn lends its words to those around it, so each is looked at once."""

    def __init__(self, analyzer: TextAnalyzer) -> None:
        self._analyzer = analyzer
        self._known: dict[str, list[str]] = {}

    def of(self, text: str) -> list[str]:
        known = self._known.get(text)
        if known is None:
            known = self._analyzer.analyze(" ".join(analysis.document_terms(text)))
            if len(text) <= LENT_CHARS_MAX:
                self._known[text] = known
        return known


def _tantivy_document(document: IndexDocument, stems: _Stems) -> Document:
    """`text` has the words as they are written, `context` the stems of all that is said here and around it.

    A summary gives to `context` the words that the text lacks, for what it says again isn't said louder. In a
    field of its own, which few records have, they would count next to nothing: BM25 compares its length with
    the average over all records.
    """
    high, low = ID_HALVES.unpack(document.record_id)
    namespace, around = document.namespace, document.around
    made = Document()
    made.add_text("id", document_id((namespace, document.record_id)))
    made.add_unsigned("namespace", namespace)
    made.add_unsigned("id_high", high)
    made.add_unsigned("id_low", low)
    made.add_integer("created_at", clamp_timestamp(document.created_at))
    made.add_unsigned("store", document.store_code)
    made.add_unsigned("visibility", document.visibility)
    made.add_unsigned("secrecy", document.secrecy)
    if document.session is not None:
        made.add_bytes("session", document.session)
    own = stems.of(document.text)
    summary = [stem for stem in stems.of(document.summary) if stem not in own] if document.summary else []
    lent = [stem for text in around.context for stem in stems.of(text)]
    made.add_text("text", scoped_terms(namespace, analysis.document_terms(document.text)))
    made.add_text("context", scoped_terms(namespace, [*own, *summary, *lent]))
    if around.asked:
        made.add_text("asked", scoped_terms(namespace, stems.of(around.asked)))
    speaker = document.speaker or ""
    for term in name_terms(speaker):
        made.add_text("who", scoped(namespace, term))
    for term in dict.fromkeys(term for name in (speaker, *around.speakers) for term in name_terms(name)):
        made.add_text("company", scoped(namespace, term))
    for date in document.dates:
        made.add_text("date", scoped(namespace, date))
    return made
