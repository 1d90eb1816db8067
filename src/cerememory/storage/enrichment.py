"""What a provider adds to stored memories: which memories lack something, and how it is put beside them.

A memory lacks a *vector* when none of its blocks has an embedding, and *relations* when its metadata has none, or
has some that were taken from other words than it has now. Both go where a client would put them, into the content
row: whatever edits, exports or forgets a memory takes them along. Work is found by the log of changes, behind the
sequence up to which all was done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from msgspec.structs import replace

from cerememory.domain.audit_chain import GENESIS, AuditDraft
from cerememory.domain.consolidation import LOOK_BACK_NS
from cerememory.domain.searchable import searchable
from cerememory.errors import ValidationFailed
from cerememory.protocol import codec, limits
from cerememory.protocol.records import MemoryContent, Modality
from cerememory.protocol.values import format_id
from cerememory.storage.contract import Reader, Storage
from cerememory.storage.keys import (
    DEFAULT_NAMESPACE,
    Address,
    Table,
    after,
    digest,
    key,
    pack_sequence,
    parse_addresses,
    system_key,
    unpack_sequence,
)
from cerememory.storage.ledger import Ledger
from cerememory.storage.mutations import embedding_of
from cerememory.storage.rows import ContentRow, dump_row, parse_content_row, parse_head, parse_log_row
from cerememory.storage.vectors import Space, VectorChange, dump_vector, vector_key

ADDRESSES_MAX = 1_000  # read from the log at once, and what the commit that goes over it has
RELATIONS = "extracted_relations"
RELATIONS_OF = "_relations_of"  # digest of the words that the relations were taken from
_WORDS = (Modality.TEXT, Modality.STRUCTURED)


@dataclass(frozen=True, slots=True)
class Offer:
    """What a provider can add."""

    text_vectors: bool
    image_vectors: bool
    relations: bool


@dataclass(frozen=True, slots=True)
class Picture:
    """An image block's bytes, and their format as `limits.image_format` names it."""

    data: bytes
    image_format: str


@dataclass(frozen=True, slots=True)
class Gap:
    """A stored memory and what it lacks: a vector of its `words`, or else of its `picture`; relations."""

    address: Address
    row: ContentRow
    block: int  # the one that a vector belongs to
    words: str
    picture: Picture | None
    lacks_vector: bool
    lacks_relations: bool


@dataclass(frozen=True, slots=True)
class Changed:
    """The next addresses of the log, each once, and the commit they end with.

    `missed` says that there were others before, which the log doesn't have any more.
    """

    addresses: tuple[Address, ...]
    sequence: int
    missed: bool


def enriched_to(storage: Storage) -> int | None:
    """The commit up to which all is done; None when no provider was ever asked."""
    with storage.read() as reader:
        value = reader.get(system_key(Table.ENRICHED))
    return None if value is None else unpack_sequence(value)


def last_sequence(storage: Storage) -> int:
    with storage.read() as reader:
        return parse_head(reader.get(system_key(Table.HEAD)), GENESIS).commit_sequence


def changed_after(storage: Storage, sequence: int) -> Changed:
    """What was changed behind commit `sequence`: the next `ADDRESSES_MAX`, in whole commits."""
    prefix = system_key(Table.LOG)
    found: list[Address] = []
    with storage.read() as reader:
        floor = unpack_sequence(reader.get(system_key(Table.LOG_FLOOR)) or b"")
        last = max(sequence, floor)
        for row_key, value in reader.scan(prefix + pack_sequence(last + 1), after(prefix)):
            found += parse_addresses(parse_log_row(value).changed)
            last = unpack_sequence(row_key[len(prefix) :])
            if len(found) >= ADDRESSES_MAX:
                break
    return Changed(tuple(dict.fromkeys(found)), last, missed=sequence < floor)


def gaps_in(storage: Storage, addresses: Sequence[Address], offer: Offer) -> list[Gap]:
    """Those of the memories at `addresses` that lack something of the `offer`."""
    with storage.read() as reader:
        gaps = [_gap(address, row, offer) for address, row in _rows(reader, addresses)]
    return [gap for gap in gaps if gap.lacks_vector or gap.lacks_relations]


def _rows(reader: Reader, addresses: Sequence[Address]) -> list[tuple[Address, ContentRow]]:
    """The content rows of the memories; raw entries, and what is gone, have none."""
    keys = [key(namespace, Table.CONTENT, record_id) for namespace, record_id in addresses]
    pairs = zip(addresses, reader.get_many(keys), strict=True)
    return [(address, parse_content_row(value)) for address, value in pairs if value is not None]


def _gap(address: Address, row: ContentRow, offer: Offer) -> Gap:
    content = codec.parse(row.content, MemoryContent)
    found = searchable(content, None)
    words = found.text.strip() or found.summary.strip()
    block, picture = _shown(content, words)
    can_embed = (offer.text_vectors and bool(words)) or (offer.image_vectors and picture is not None)
    return Gap(
        address=address,
        row=row,
        block=block,
        words=words,
        picture=picture,
        lacks_vector=can_embed and embedding_of(content) is None,
        lacks_relations=offer.relations and bool(words) and _lacks_relations(row.metadata, words),
    )


def _shown(content: MemoryContent, words: str) -> tuple[int, Picture | None]:
    """The block that a vector belongs to: the first with words, or without any the first readable picture."""
    if words:
        return next((i for i, block in enumerate(content.blocks) if block.modality in _WORDS), 0), None
    for i, block in enumerate(content.blocks):
        if block.modality is Modality.IMAGE and (name := limits.image_format(block.data)) is not None:
            return i, Picture(block.data, name)
    return 0, None


def _lacks_relations(metadata: bytes, words: str) -> bool:
    """Relations that somebody else put there are left alone."""
    fields = _fields(metadata)
    if fields is None or RELATIONS not in fields:
        return fields is not None
    return RELATIONS_OF in fields and bytes(fields[RELATIONS_OF]) != _mark(words)


def _fields(metadata: bytes) -> dict[str, msgspec.Raw] | None:
    """Metadata as its fields, which stay as they are written; None when it isn't an object."""
    try:
        return codec.parse(metadata, dict[str, msgspec.Raw])
    except ValidationFailed:
        return None


def _mark(words: str) -> bytes:
    return codec.dump(digest(words).hex())


def content_with(gap: Gap, vector: tuple[float, ...]) -> bytes:
    """The content of the gap's memory with `vector` as the embedding of its block."""
    content = codec.parse(gap.row.content, MemoryContent)
    blocks = list(content.blocks)
    blocks[gap.block] = replace(blocks[gap.block], embedding=vector)
    return codec.dump(replace(content, blocks=tuple(blocks)))


def metadata_with(gap: Gap, relations: Sequence[object]) -> bytes | None:
    """The metadata of the gap's memory with `relations` in it; None when it would be over its limit."""
    fields: dict[str, object] = {**(_fields(gap.row.metadata) or {})}
    fields[RELATIONS] = relations
    fields[RELATIONS_OF] = digest(gap.words).hex()
    metadata = codec.dump(fields)
    return metadata if len(metadata) <= limits.METADATA_BYTES_MAX else None


@dataclass(frozen=True, slots=True)
class Addition:
    """What is added: a vector with the content that has it, metadata with `relation_count` relations."""

    vector: tuple[float, ...] | None
    content: bytes | None
    metadata: bytes | None
    relation_count: int


@dataclass(frozen=True, slots=True)
class Enrich:
    """Add to the memory of `gap` what `provider` gave; answers whether it did.

    A memory that was changed or forgotten meanwhile is left alone. This is no edit: neither version nor updated_at
    move, and since no word changes, the text index isn't told.
    """

    gap: Gap
    addition: Addition
    provider: str

    @property
    def namespace(self) -> int:
        return self.gap.address[0]

    def apply(self, ledger: Ledger) -> bool:
        row_key = ledger.key(Table.CONTENT, self.gap.address[1])
        value = ledger.get(row_key)
        if value is None or parse_content_row(value) != self.gap.row:
            return False
        ledger.put(row_key, dump_row(self._enriched()))
        if self.addition.vector is not None:
            self._put_vector(ledger, self.addition.vector)
        ledger.audit(self._audit(ledger.now))
        return True

    def _enriched(self) -> ContentRow:
        row, addition = self.gap.row, self.addition
        return replace(row, content=addition.content or row.content, metadata=addition.metadata or row.metadata)

    def _put_vector(self, ledger: Ledger, vector: tuple[float, ...]) -> None:
        (namespace, record_id), row = self.gap.address, self.gap.row
        change = VectorChange(namespace, Space.CONTENT, record_id, row.store_code, row.created_at, vector)
        ledger.put(vector_key(namespace, Space.CONTENT, len(vector), record_id), dump_vector(change))
        counters = ledger.counters()
        counters.vectors += 1
        if row.updated_at <= ledger.now - LOOK_BACK_NS:  # a consolidation that is behind it had nothing to compare
            counters.last_consolidated_at = None
        ledger.vector(change)

    def _audit(self, now: int) -> AuditDraft:
        record_id, store = self.gap.address[1], self.gap.row.store.value
        summary = {
            "record_id": format_id(record_id),
            "store": store,
            "provider": self.provider,
            "embedded": self.addition.vector is not None,
            "relations": self.addition.relation_count,
        }
        return AuditDraft(now, "encode.enrich", (record_id,), (store,), summary)


@dataclass(frozen=True, slots=True)
class NoteEnriched:
    """All changes up to commit `sequence` are done."""

    sequence: int
    namespace: int = DEFAULT_NAMESPACE

    def apply(self, ledger: Ledger) -> None:
        ledger.put(system_key(Table.ENRICHED), pack_sequence(self.sequence))
