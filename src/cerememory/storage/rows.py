"""What the values of the key space look like, and how a record's JSON is joined from them.

A memory is two rows. The *content row* changes only when somebody edits the memory; its parts are wire JSON,
encoded once. The *state row* is fixed-size and changes at every recall. An answer joins the two as text, so
byte arrays are never encoded twice. Edges are a row of their own.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec
import numpy as np

from cerememory.domain.columns import Rows
from cerememory.domain.fidelity import State
from cerememory.errors import StorageDamaged
from cerememory.protocol import codec
from cerememory.protocol.records import (
    NEUTRAL,
    STORES,
    Association,
    AssociationType,
    CaptureStatus,
    MetaMemory,
    SecrecyLevel,
    Store,
    Visibility,
)
from cerememory.protocol.values import RecordId, Timestamp, format_id, format_timestamp
from cerememory.storage.keys import DEFAULT_NAMESPACE, ID_BYTES, state_key

T = TypeVar("T")

STORE_CODE: dict[Store, int] = {store: code for code, store in enumerate(STORES)}
RAW_CODE = len(STORES)
_STORE_NAMES = tuple(store.value for store in STORES)
VISIBILITIES = tuple(Visibility)
SECRECY_LEVELS = tuple(SecrecyLevel)
NO_RATIONALE = "No explicit meta-rationale was provided at ingest time."

_STATE_TYPES = "ddqddddddIIqqH"  # of the fields of a state
_STATE = struct.Struct(f"<B{_STATE_TYPES}")
STATE_BYTES = _STATE.size
STATE_DTYPE = np.dtype(
    [("store_code", "<B"), *zip(State.__struct_fields__, (f"<{code}" for code in _STATE_TYPES), strict=True)]
)
STATE_SHOWN_BYTES = 512  # of a memory in an answer: its head, its state, and what stands beside the record
EDGE_SHOWN_FACTOR = 6  # times its bytes in a row is an edge as JSON
_EDGE = struct.Struct("<16sBdqq")
EDGE_BYTES = _EDGE.size
_ASSOCIATION_TYPES = tuple(AssociationType)
_ASSOCIATION_CODES = {kind: code for code, kind in enumerate(_ASSOCIATION_TYPES)}
_NEUTRAL = codec.dump(NEUTRAL)


class ContentRow(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """`content`, `emotion`, `metadata`, `meta` are wire JSON. Empty: neutral, none given."""

    store_code: int
    version: int
    created_at: int
    updated_at: int
    content: bytes
    emotion: bytes
    metadata: bytes
    meta: bytes

    @property
    def store(self) -> Store:
        return STORES[self.store_code]

    @property
    def store_name(self) -> str:
        return _STORE_NAMES[self.store_code]


class ArchivedRow(msgspec.Struct, frozen=True, array_like=True):
    """A memory that decay took away: its three rows, until `kept_until`."""

    content: ContentRow
    state: bytes
    edges: bytes
    kept_until: int


class RawRow(msgspec.Struct, frozen=True, array_like=True):
    """A raw journal entry; `content`, `metadata`, `meta` as in `ContentRow`, ids as 16 bytes each."""

    session_id: str
    turn_id: str | None
    topic_id: str | None
    source: str
    speaker: str
    visibility_code: int
    secrecy_code: int
    created_at: int
    updated_at: int
    content: bytes
    metadata: bytes
    derived: bytes
    suppressed: bool
    meta: bytes


class Counters(msgspec.Struct, array_like=True):
    """What `introspect.stats` answers from; one list item for each store, in the order of `STORES`.

    `last_consolidated_at` is None where the next run is to look at all memories, 0 from the beginning of one until
    it has.
    """

    records: list[int]
    fidelity_sums: list[float]
    associations: int = 0
    recalls: int = 0
    raw_records: int = 0
    raw_pending_dream: int = 0
    vectors: int = 0
    dream_episodic_summaries: int = 0
    dream_semantic_nodes: int = 0
    last_dream_tick_at: int | None = None
    last_consolidated_at: int | None = None

    @classmethod
    def empty(cls) -> Counters:
        return cls(records=[0] * len(STORES), fidelity_sums=[0.0] * len(STORES))

    def copy(self) -> Counters:
        return parse_counters(dump_counters(self))


class LogRow(msgspec.Struct, frozen=True, array_like=True):
    """What one commit leaves for its followers: audit lines from `first_line` on, and for the text index the
    addresses of the records whose searchable content changed, and the places in groups that records left.
    """

    first_line: int
    lines: bytes
    changed: bytes
    left: bytes = b""

    @property
    def end_line(self) -> int:
        """The sequence behind the last of the lines."""
        return self.first_line + self.lines.count(b"\n")


@dataclass(frozen=True, slots=True)
class Head:
    """Where the committed history ends: commit and audit sequence, the chain's hash, what the file has.

    `audit_bytes` is the size of all audit lines, `audit_edge` the hashes of the compact range over them, one
    behind the other, and `audit_mac` their authentication code (`audit_head`), empty without a key.
    """

    commit_sequence: int
    audit_sequence: int
    audit_hash: str
    audit_synced: int
    audit_bytes: int = 0
    audit_edge: bytes = b""
    audit_mac: bytes = b""


class KeptAnswer(msgspec.Struct, frozen=True, array_like=True):
    """The first answer under an Idempotency-Key: `reply` is its JSON, empty for a 204."""

    body_digest: bytes
    expires_at: int
    commit_sequence: int
    reply: bytes


_msgpack = msgspec.msgpack.Encoder()
_content_rows = msgspec.msgpack.Decoder(ContentRow)
_archived_rows = msgspec.msgpack.Decoder(ArchivedRow)
_raw_rows = msgspec.msgpack.Decoder(RawRow)
_counters = msgspec.msgpack.Decoder(Counters)
_heads = msgspec.msgpack.Decoder(tuple[int, int, str, int, int, bytes, bytes])
_kept_answers = msgspec.msgpack.Decoder(KeptAnswer)
_log_rows = msgspec.msgpack.Decoder(LogRow)


def dump_row(row: ContentRow | ArchivedRow | RawRow | KeptAnswer | LogRow) -> bytes:
    return _msgpack.encode(row)


def parse_content_row(value: bytes) -> ContentRow:
    return _read(_content_rows, value)


def parse_archived_row(value: bytes) -> ArchivedRow:
    return _read(_archived_rows, value)


def parse_raw_row(value: bytes) -> RawRow:
    return _read(_raw_rows, value)


def parse_kept_answer(value: bytes) -> KeptAnswer:
    return _read(_kept_answers, value)


def parse_log_row(value: bytes) -> LogRow:
    return _read(_log_rows, value)


def dump_counters(counters: Counters) -> bytes:
    return _msgpack.encode(counters)


def parse_counters(value: bytes | None) -> Counters:
    return Counters.empty() if value is None else _read(_counters, value)


def dump_head(head: Head) -> bytes:
    chain = head.commit_sequence, head.audit_sequence, head.audit_hash, head.audit_synced
    return _msgpack.encode((*chain, head.audit_bytes, head.audit_edge, head.audit_mac))


def parse_head(value: bytes | None, genesis_hash: str) -> Head:
    return Head(0, 0, genesis_hash, 0) if value is None else Head(*_read(_heads, value))


def dump_ids(record_ids: list[RecordId]) -> bytes:
    return b"".join(record_ids)


def parse_ids(value: bytes) -> list[RecordId]:
    if len(value) % ID_BYTES:
        raise StorageDamaged("a row of ids can't be read: one of them is cut")
    return [RecordId(value[i : i + ID_BYTES]) for i in range(0, len(value), ID_BYTES)]


def _read(decoder: msgspec.msgpack.Decoder[T], value: bytes) -> T:
    try:
        return decoder.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise StorageDamaged(f"a stored row can't be read: {error}") from error


def dump_state_row(store_code: int, state: State) -> bytes:
    """The value under `state_key`, of `STATE_DTYPE`."""
    return _STATE.pack(store_code, *msgspec.structs.astuple(state))


def parse_state_row(value: bytes) -> tuple[int, State]:
    try:
        store_code, *fields = _STATE.unpack(value)
    except struct.error as error:
        raise StorageDamaged(f"a state row can't be read: {error}") from error
    return store_code, State(*fields)


def dump_state_rows(rows: Rows) -> list[bytes]:
    """The value of each of `rows` (`STATE_DTYPE`[n])."""
    values = rows.tobytes()
    return [values[start : start + STATE_BYTES] for start in range(0, len(values), STATE_BYTES)]


def parse_state_rows(values: Sequence[bytes]) -> Rows:
    """Many values under `state_key` as `STATE_DTYPE`[n], which can't be written to."""
    if any(len(value) != STATE_BYTES for value in values):
        raise StorageDamaged("a state row can't be read: one of many has another size")
    return np.frombuffer(b"".join(values), STATE_DTYPE)


def dump_edges(associations: tuple[Association, ...]) -> bytes:
    return b"".join(
        _EDGE.pack(
            a.target_id, _ASSOCIATION_CODES[a.association_type], a.weight, a.created_at, a.last_co_activation
        )
        for a in associations
    )


def parse_edges(value: bytes | None) -> tuple[Association, ...]:
    if not value:  # as of most memories
        return ()
    try:
        return tuple(
            Association(
                target_id=RecordId(target),
                association_type=_ASSOCIATION_TYPES[code],
                weight=weight,
                created_at=Timestamp(created_at),
                last_co_activation=Timestamp(last_co_activation),
            )
            for target, code, weight, created_at, last_co_activation in _EDGE.iter_unpack(value)
        )
    except (struct.error, IndexError) as error:
        raise StorageDamaged(f"an edge row can't be read: {error}") from error


def default_meta(trigger: str, captured_at: int) -> MetaMemory:
    """The meta of a memory for which none was given."""
    return MetaMemory(
        capture_status=CaptureStatus.UNAVAILABLE,
        rationale=NO_RATIONALE,
        trigger=trigger,
        captured_at=Timestamp(captured_at),
    )


def meta_json(meta: bytes, trigger: str, created_at: int) -> bytes:
    """`meta`, or what stands for an empty one."""
    return meta or _default_meta_json(trigger, created_at)


def _default_meta_json(trigger: str, captured_at: int) -> bytes:
    head, tail = _META_TEMPLATES[trigger]
    return head + format_timestamp(captured_at).encode() + tail


def _template(trigger: str) -> tuple[bytes, bytes]:
    whole = codec.dump(default_meta(trigger, 0))
    head, _, tail = whole.partition(format_timestamp(0).encode())
    return head, tail


_META_TEMPLATES = {trigger: _template(trigger) for trigger in ("encode.store", "encode.store_raw")}


class _Fidelity(msgspec.Struct, gc=False):
    """`FidelityState` on the wire."""

    score: float
    noise_level: float
    decay_rate: float
    emotional_anchor: float
    reinforcement_count: int
    stability: float
    last_decay_tick: str


class Frame(msgspec.Struct, frozen=True, gc=False):
    """A memory without its state, and the JSON of its record around that.

    `head` ends in front of the last access, `tail` begins behind the fidelity. `state_key` is that of its state.
    `shown_bytes`: about what the memory takes in an answer, in which its content is there twice.
    """

    record_id: RecordId
    row: ContentRow
    edges: bytes | None
    state_key: bytes
    head: bytes
    tail: bytes
    shown_bytes: int


def frame(namespace: int, record_id: RecordId, row: ContentRow, edges: bytes | None) -> Frame:
    created_at = format_timestamp(row.created_at)
    updated_at = created_at if row.updated_at == row.created_at else format_timestamp(row.updated_at)
    head = f'{{"id":"{format_id(record_id)}","store":"{row.store_name}","created_at":"{created_at}",'
    json_tail = b',"emotion":%b,"associations":%b,"metadata":%b,"version":%d,"meta":%b}' % (
        row.emotion or _NEUTRAL,
        codec.dump(parse_edges(edges)) if edges else b"[]",
        row.metadata,
        row.version,
        meta_json(row.meta, "encode.store", row.created_at),
    )
    return Frame(
        record_id,
        row,
        edges,
        state_key(namespace, row.created_at, record_id),
        f'{head}"updated_at":"{updated_at}","last_accessed_at":"'.encode(),
        json_tail,
        2 * len(row.content) + len(json_tail) + STATE_SHOWN_BYTES,
    )


def shown_bytes(row: ContentRow, edges: bytes | None) -> int:
    """That of a memory without a frame."""
    edges_shown = EDGE_SHOWN_FACTOR * len(edges or b"")
    return 2 * len(row.content) + len(row.metadata) + len(row.meta) + edges_shown + STATE_SHOWN_BYTES


def framed_json(around: Frame, state: State) -> bytes:
    """The wire JSON of a MemoryRecord."""
    return b"".join(
        (
            around.head,
            format_timestamp(state.last_accessed_at).encode(),
            b'","access_count":',
            str(state.access_count).encode(),
            b',"content":',
            around.row.content,
            b',"fidelity":',
            codec.dump(_fidelity(state)),
            around.tail,
        )
    )


def record_json(record_id: RecordId, row: ContentRow, state: State, edges: bytes | None) -> bytes:
    """`framed_json` of what is shown once."""
    return framed_json(frame(DEFAULT_NAMESPACE, record_id, row, edges), state)


def _fidelity(state: State) -> _Fidelity:
    return _Fidelity(
        state.score,
        state.noise_level,
        state.decay_rate,
        state.emotional_anchor,
        state.reinforcement_count,
        state.stability,
        format_timestamp(state.last_decay_tick_at),
    )


def raw_json(record_id: bytes, row: RawRow) -> bytes:
    """The wire JSON of a RawJournalRecord."""
    derived = [format_id(record_id) for record_id in parse_ids(row.derived)]
    head = {
        "id": format_id(record_id),
        "session_id": row.session_id,
        "turn_id": row.turn_id,
        "topic_id": row.topic_id,
        "source": row.source,
        "speaker": row.speaker,
        "visibility": VISIBILITIES[row.visibility_code],
        "secrecy_level": SECRECY_LEVELS[row.secrecy_code],
        "created_at": format_timestamp(row.created_at),
        "updated_at": format_timestamp(row.updated_at),
        "content": msgspec.Raw(row.content),
        "metadata": msgspec.Raw(row.metadata),
        "derived_memory_ids": derived,
        "suppressed": row.suppressed,
        "meta": msgspec.Raw(meta_json(row.meta, "encode.store_raw", row.created_at)),
    }
    return codec.dump(head)
