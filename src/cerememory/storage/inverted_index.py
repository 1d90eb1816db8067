"""One tantivy index, on disk or in memory: its schema, its writer, its damage.

Owns what is particular to tantivy: the fields and their one analyzer, the single writer, the mark document
that carries the applied sequence inside the same commit, and the check of a directory that is opened again.
What documents mean is `text_index`'s, how they are searched `text_search`'s.

tantivy reports nearly everything as `ValueError` and sometimes panics; from here on these are `IndexDamaged`
(bytes that can't be read back) or `IndexWriteFailed` (a change that couldn't be written).
"""

from __future__ import annotations

import mmap
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
import tantivy
from tantivy import Document, Filter, Occur, Query, Schema, Searcher, TextAnalyzer, Tokenizer

from cerememory.protocol.values import RecordId
from cerememory.storage.keys import Address, pack_namespace

PAGE = 1_000  # documents that are listed at once
ID_FIELDS = ("id_high", "id_low")
ID_HALVES = struct.Struct(">QQ")
WRITER_HEAP_BYTES = 50_000_000
SEGMENTS_FEW = 3  # that needn't be merged: a search asks each
MERGED_AT = 8  # tantivy's default (`LogMergePolicy`)
WRITER_THREADS = 1  # keeps documents in the order in which they were added

_ANALYZER = "words"
_MARK_ID = "mark"  # no hexadecimal record id
_FOOTER = struct.Struct("<II")
_FOOTER_MAGIC = 1337


class TextIndexError(Exception):
    """Base of what the owner of an index handles by itself: no caller ever sees one."""


class IndexDamaged(TextIndexError):
    """The index can't be read back: wipe it and build it again."""


class IndexOutdated(TextIndexError):
    """The index is of another epoch or analyzer: wipe it and build it again."""


class IndexWriteFailed(TextIndexError):
    """Nothing since the last commit is kept: close the index, open it, apply what came after its sequence."""


def build_analyzer() -> TextAnalyzer:
    """From tokens joined by spaces to their stems: those of English words, all else as it is."""
    builder = tantivy.TextAnalyzerBuilder(Tokenizer.whitespace())
    return builder.filter(Filter.stemmer("english")).build()


def document_id(address: Address) -> str:
    """The term by which one document is deleted or replaced."""
    namespace, record_id = address
    return (pack_namespace(namespace) + record_id).hex()


def scoped(namespace: int, term: str) -> str:
    """`term` as a namespace's own: what other namespaces hold is neither found, nor read, nor counted."""
    return f"{namespace:x}~{term}"


def scoped_terms(namespace: int, terms: Sequence[str]) -> str:
    """The value of a text field."""
    mark = scoped(namespace, "")
    return mark + f" {mark}".join(terms) if terms else ""


def build_schema() -> Schema:
    """Changing a field means raising `text_index.SCHEMA_EPOCH`."""
    builder = tantivy.SchemaBuilder()
    builder.add_text_field("id", tokenizer_name="raw", index_option="basic")
    builder.add_unsigned_field("namespace", indexed=True)
    builder.add_unsigned_field("id_high", fast=True)
    builder.add_unsigned_field("id_low", fast=True)
    builder.add_integer_field("created_at", fast=True)
    builder.add_unsigned_field("store", indexed=True, fast=True)
    for field in ("text", "context", "asked"):
        builder.add_text_field(field, tokenizer_name=_ANALYZER, index_option="freq")
    for field in ("who", "company", "date", "scope"):
        builder.add_text_field(field, tokenizer_name=_ANALYZER, index_option="basic")
    builder.add_bytes_field("session", indexed=True)
    builder.add_unsigned_field("visibility", indexed=True)
    builder.add_unsigned_field("secrecy", indexed=True)
    builder.add_text_field("identity", tokenizer_name="raw", index_option="basic", stored=True)
    builder.add_unsigned_field("sequence", stored=True)
    return builder.build()


class reading:
    """Around reads only: what tantivy raises in it is taken for damage."""

    def __enter__(self) -> None:
        return

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, ValueError):
            raise IndexDamaged(str(error)) from error
        if error is not None and _is_panic(error):
            raise IndexDamaged(f"tantivy panicked: {error}") from error


@contextmanager
def writing() -> Iterator[None]:
    """Around writes: whatever tantivy raises in it, something wasn't written."""
    try:
        yield
    except ValueError as error:
        raise IndexWriteFailed(str(error)) from error
    except BaseException as error:
        if not _is_panic(error):
            raise
        raise IndexWriteFailed(f"tantivy panicked: {error}") from error


def _is_panic(error: BaseException) -> bool:
    """Whether tantivy panicked; the class of that can't be imported."""
    return type(error).__module__ == "pyo3_runtime"


class InvertedIndex:
    """At most one thread at a time may call anything but `searcher`, which any thread may read."""

    def __init__(self, index: tantivy.Index, identity: str, sequence: int) -> None:
        index.register_tokenizer(_ANALYZER, tantivy.TextAnalyzerBuilder(Tokenizer.whitespace()).build())
        index.config_reader("manual")
        index.reload()
        self.schema = index.schema
        self.searcher: Searcher = index.searcher()
        self.sequence = sequence
        self.is_dirty = False
        self._segments = self.searcher.num_segments  # that there are as far as we know, unless tantivy has merged
        self._has_failed = False
        self._index = index
        self._identity = identity
        self._writer: tantivy.IndexWriter | None = None

    @classmethod
    def create(cls, path: Path | None, identity: str) -> InvertedIndex:
        """A new index, empty at sequence 0, in the new directory `path` or in memory."""
        try:
            if path is not None:
                path.mkdir(mode=0o700, parents=True)
            index = tantivy.Index(build_schema(), None if path is None else str(path))
        except (ValueError, OSError) as error:
            raise IndexWriteFailed(str(error)) from error
        created = cls(index, identity, 0)
        created.commit(0)
        return created

    @classmethod
    def open(cls, path: Path, identity: str) -> InvertedIndex:
        """The index in `path`; raises `IndexDamaged` or `IndexOutdated`."""
        with reading():
            index = tantivy.Index.open(str(path))
        found, sequence = _read_mark(index)
        if found != identity:
            raise IndexOutdated(f"{path} is of {found}, this version needs {identity}")
        _check_files(path)
        return cls(index, identity, sequence)

    def replace(self, address: Address, document: Document) -> None:
        """Adds `document` in place of the one of `address`, also of one added since the last commit."""
        with self._writing() as writer:
            writer.delete_documents_by_term("id", document_id(address))
            writer.add_document(document)

    def delete(self, address: Address) -> None:
        with self._writing() as writer:
            writer.delete_documents_by_term("id", document_id(address))

    def holds_store(self, store_code: int) -> bool:
        """Whether the last commit has documents of the store."""
        query = Query.term_query(self.schema, "store", store_code)
        with reading():
            return bool(self.searcher.search(query, 1).hits)

    def count(self, store_code: int, addresses: Sequence[Address] | None = None) -> int:
        """How many documents of the last commit are of the store, and among `addresses` unless these are None."""
        wanted = [(Occur.Must, Query.term_query(self.schema, "store", store_code))]
        if addresses is not None:
            ids = [document_id(address) for address in addresses]
            wanted.append((Occur.Must, Query.term_set_query(self.schema, "id", ids)))
        with reading():
            found: Any = self.searcher.search(Query.boolean_query(wanted), 1)  # its type lacks `count`
            return found.count or 0

    def record_ids(self, store_code: int) -> Iterator[RecordId]:
        """The ids of the store's documents in the last commit, in whatever namespace."""
        query, offset = Query.term_query(self.schema, "store", store_code), 0
        while True:
            with reading():
                found = self.searcher.search(query, PAGE, count=False, offset=offset).hits
                places = [place for _score, place in found]
                halves = [self.searcher.fast_field_values(field, places) for field in ID_FIELDS]
            yield from (RecordId(ID_HALVES.pack(high, low)) for high, low in zip(*halves, strict=True))
            if len(found) < PAGE:
                return
            offset += PAGE

    def delete_store(self, store_code: int) -> None:
        # By query: by term, an int is taken for a signed value and matches no unsigned field.
        query = Query.term_query(self.schema, "store", store_code)
        with self._writing() as writer:
            writer.delete_documents_by_query(query)

    def commit(self, sequence: int) -> None:
        """Makes all changes and `sequence` durable, and `searcher` see them."""
        with self._writing() as writer:
            writer.delete_documents_by_term("id", _MARK_ID)
            writer.add_document(self._mark(sequence))
            writer.commit()
        with reading():
            self._index.reload()
            self.searcher = self._index.searcher()
        self.sequence = sequence
        self.is_dirty = False
        self._segments = self.searcher.num_segments

    @property
    def is_scattered(self) -> bool:
        """Whether the last commit has so many segments that merging them is worth while."""
        return self.searcher.num_segments > SEGMENTS_FEW

    def settle(self) -> bool:
        """A step towards fewer segments; whether it was the last, behind which nothing is left of the others.

        tantivy merges segments of about one size once there are `MERGED_AT` of them, and can't be asked to do so
        earlier. So commits that add nothing but one more mark make up the number. A search would count them as
        documents, so `searcher` sees none: the last step, when tantivy has merged, is a commit as any other.
        """
        with reading():
            self._index.reload()
            found = self._index.searcher().num_segments
        if found < self._segments:
            self.commit(self.sequence)
            return True
        if found < MERGED_AT:
            with self._writing() as writer:
                writer.add_document(self._mark(self.sequence))
                writer.commit()
            self._segments = found + 1
        return False

    def close(self) -> None:
        """Waits for merges, drops what wasn't committed, lets go of the directory.

        A write that failed may be told of once more here, by tantivy's own thread: that is no news.
        """
        writer, self._writer = self._writer, None
        if writer is None:
            return
        try:
            with writing():
                writer.wait_merging_threads()
        except IndexWriteFailed:
            if not self._has_failed:
                raise

    @contextmanager
    def _writing(self) -> Iterator[tantivy.IndexWriter]:
        """Around writes. After a failed one all others fail: a commit could claim what was lost with it."""
        if self._has_failed:
            raise IndexWriteFailed("an earlier write failed: the index must be opened again")
        self.is_dirty = True
        try:
            with writing():
                if self._writer is None:
                    self._writer = self._index.writer(WRITER_HEAP_BYTES, WRITER_THREADS)
                    # What a commit that was cut short has left has the name that its repetition needs.
                    self._writer.garbage_collect_files()
                yield self._writer
        except IndexWriteFailed:
            self._has_failed = True
            raise

    def _mark(self, sequence: int) -> Document:
        mark = Document()
        mark.add_text("id", _MARK_ID)
        mark.add_text("identity", self._identity)
        mark.add_unsigned("sequence", sequence)
        return mark


def _read_mark(index: tantivy.Index) -> tuple[str, int]:
    try:
        query = Query.term_query(index.schema, "id", _MARK_ID)
    except ValueError as error:
        raise IndexOutdated(f"another schema: {error}") from error
    with reading():
        searcher = index.searcher()
        hits = searcher.search(query, limit=1).hits
        if not hits:
            raise IndexDamaged("the document with the applied sequence is missing")
        mark = searcher.doc(hits[0][1])
    return str(mark.get_first("identity")), int(mark.get_first("sequence") or 0)


class _Deletes(msgspec.Struct):
    opstamp: int


class _Segment(msgspec.Struct):
    segment_id: str
    deletes: _Deletes | None


class _Meta(msgspec.Struct):
    segments: list[_Segment]


def _check_files(path: Path) -> None:
    """Compares each file of the last commit with its checksum (1 GB takes about a second).

    tantivy itself looks at the checksums of none: a changed byte would show as a wrong answer or a panic.
    """
    try:
        meta = msgspec.json.decode((path / "meta.json").read_bytes(), type=_Meta)
        for segment in meta.segments:
            for file in _files_of(path, segment):
                _check_file(file)
    except (OSError, ValueError, struct.error, msgspec.MsgspecError) as error:
        raise IndexDamaged(f"{path}: {error}") from error


def _files_of(path: Path, segment: _Segment) -> Iterator[Path]:
    stem = segment.segment_id.replace("-", "")
    yield from (path / f"{stem}.{part}" for part in ("idx", "pos", "term", "store", "fast", "fieldnorm"))
    if segment.deletes is not None:
        yield path / f"{stem}.{segment.deletes.opstamp}.del"


class _Footer(msgspec.Struct):
    crc: int


def _check_file(file: Path) -> None:
    """Format: body, footer as JSON with the body's CRC-32, its length, a magic number.

    Source: tantivy's `directory/footer.rs`.
    """
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        footer_end = len(content) - _FOOTER.size
        footer_size, magic = _FOOTER.unpack(content[max(footer_end, 0) :])
        footer_start = footer_end - footer_size
        if magic != _FOOTER_MAGIC or footer_start < 0:
            raise ValueError(f"{file.name} has no footer")
        footer = msgspec.json.decode(content[footer_start:footer_end], type=_Footer)
        with memoryview(content) as view, view[:footer_start] as body:
            if zlib.crc32(body) != footer.crc:
                raise ValueError(f"{file.name} differs from its checksum")
