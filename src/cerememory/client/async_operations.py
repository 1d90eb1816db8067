"""What `operations` has, to be awaited: the same names, arguments, replies and words (a test compares them)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TypeVar

from cerememory.client.asks import Ask, read, write
from cerememory.client.replies import Associated, Graph, RawRecalled, Recalled, Timeline, imported_as
from cerememory.protocol.replies import (
    AuditRotated,
    BatchEncoded,
    BatchRawEncoded,
    Compacted,
    Consolidated,
    Decayed,
    Dreamt,
    Encoded,
    EvolutionMetrics,
    Exported,
    Forecasts,
    Forgotten,
    Imported,
    ImportUndone,
    IntrospectedRecord,
    RawEncoded,
    Redacted,
    Restored,
    Stats,
)
from cerememory.protocol.requests import (
    Compact,
    Consolidate,
    DecayForecast,
    DecayTick,
    DreamTick,
    EncodeBatch,
    EncodeBatchRaw,
    EncodeStore,
    EncodeStoreRaw,
    EncodeUpdate,
    Export,
    Forget,
    Import,
    IntrospectRecord,
    RecallAssociate,
    RecallGraph,
    RecallQuery,
    RecallRawQuery,
    RecallTimeline,
    Redact,
    Restore,
    RotateAudit,
    SetMode,
    UndoImport,
)

R = TypeVar("R")


class AsyncOperations(ABC):
    """Over two methods that a client has."""

    @abstractmethod
    async def _ask(self, ask: Ask, kind: type[R]) -> R:
        """The reply as a `kind`."""

    @abstractmethod
    async def _tell(self, ask: Ask) -> None:
        """For an operation without a reply."""

    async def encode_store(self, request: EncodeStore, *, idempotency_key: str | None = None) -> Encoded:
        """Store a memory."""
        return await self._ask(write("encode.store", request, idempotency_key), Encoded)

    async def encode_batch(self, request: EncodeBatch, *, idempotency_key: str | None = None) -> BatchEncoded:
        """Store up to 1,000 memories: all of them or, when one is refused, none."""
        return await self._ask(write("encode.batch", request, idempotency_key), BatchEncoded)

    async def encode_update(
        self, request: EncodeUpdate, *, if_match: int | None = None, idempotency_key: str | None = None
    ) -> None:
        """Replace the given parts of a memory.

        `request.record_id` says which; with `if_match`, `PreconditionFailed` unless it has that version.
        """
        await self._tell(write("encode.update", request, idempotency_key, if_match))

    async def encode_store_raw(self, request: EncodeStoreRaw, *, idempotency_key: str | None = None) -> RawEncoded:
        """Keep an entry in the raw journal, word for word."""
        return await self._ask(write("encode.store_raw", request, idempotency_key), RawEncoded)

    async def encode_batch_raw(
        self, request: EncodeBatchRaw, *, idempotency_key: str | None = None
    ) -> BatchRawEncoded:
        """Keep several entries in the raw journal: all of them or none."""
        return await self._ask(write("encode.batch_raw", request, idempotency_key), BatchRawEncoded)

    async def recall_query(self, request: RecallQuery, *, sequence: int | None = None) -> Recalled:
        """Find memories by words, vector, emotion or time; with an empty cue, the newest."""
        return await self._ask(read("recall.query", request, sequence), Recalled)

    async def recall_associate(self, request: RecallAssociate, *, sequence: int | None = None) -> Associated:
        """Find the memories that are linked to one, strongest first.

        `request.record_id` says which.
        """
        return await self._ask(read("recall.associate", request, sequence), Associated)

    async def recall_timeline(self, request: RecallTimeline, *, sequence: int | None = None) -> Timeline:
        """List memories by the time of their creation, in buckets."""
        return await self._ask(read("recall.timeline", request, sequence), Timeline)

    async def recall_graph(self, request: RecallGraph, *, sequence: int | None = None) -> Graph:
        """Show memories and the associations between them, from one memory outwards."""
        return await self._ask(read("recall.graph", request, sequence), Graph)

    async def recall_raw_query(self, request: RecallRawQuery, *, sequence: int | None = None) -> RawRecalled:
        """Find entries of the raw journal, oldest first."""
        return await self._ask(read("recall.raw_query", request, sequence), RawRecalled)

    async def lifecycle_consolidate(
        self, request: Consolidate, *, idempotency_key: str | None = None
    ) -> Consolidated:
        """Turn episodic memories into semantic ones."""
        return await self._ask(write("lifecycle.consolidate", request, idempotency_key), Consolidated)

    async def lifecycle_dream_tick(self, request: DreamTick, *, idempotency_key: str | None = None) -> Dreamt:
        """Summarise entries of the raw journal into memories."""
        return await self._ask(write("lifecycle.dream_tick", request, idempotency_key), Dreamt)

    async def lifecycle_decay_tick(self, request: DecayTick, *, idempotency_key: str | None = None) -> Decayed:
        """Compute how far memories have faded, now or as if more time had passed."""
        return await self._ask(write("lifecycle.decay_tick", request, idempotency_key), Decayed)

    async def lifecycle_set_mode(self, request: SetMode, *, idempotency_key: str | None = None) -> None:
        """Choose how memories are told in recalls: as they have faded, or word for word."""
        await self._tell(write("lifecycle.set_mode", request, idempotency_key))

    async def lifecycle_forget(self, request: Forget, *, idempotency_key: str | None = None) -> Forgotten:
        """Delete memories; they can't be brought back.

        `ForgetUnconfirmed` unless `confirm` is true.
        """
        return await self._ask(write("lifecycle.forget", request, idempotency_key), Forgotten)

    async def lifecycle_restore(self, request: Restore, *, idempotency_key: str | None = None) -> Restored:
        """Bring back memories that decay has archived, or list them."""
        return await self._ask(write("lifecycle.restore", request, idempotency_key), Restored)

    async def lifecycle_export(self, request: Export, *, sequence: int | None = None) -> Exported:
        """Write memories, and the raw journal when asked, into an archive.

        In memory; `export_archive` is for those that are too large for it.
        """
        return await self._ask(read("lifecycle.export", request, sequence), Exported)

    async def lifecycle_import(self, request: Import, *, idempotency_key: str | None = None) -> Imported:
        """Read an archive back in.

        From memory; `import_archive` is for those that are too large for it.
        """
        return await self._ask(write("lifecycle.import", request, idempotency_key), imported_as(request))

    async def lifecycle_undo_import(
        self, request: UndoImport, *, idempotency_key: str | None = None
    ) -> ImportUndone:
        """Take an import back."""
        return await self._ask(write("lifecycle.undo_import", request, idempotency_key), ImportUndone)

    async def lifecycle_rotate_audit(
        self, request: RotateAudit, *, idempotency_key: str | None = None
    ) -> AuditRotated:
        """Close the audit log's file, and go on in a new one."""
        return await self._ask(write("lifecycle.rotate_audit", request, idempotency_key), AuditRotated)

    async def lifecycle_redact(self, request: Redact, *, idempotency_key: str | None = None) -> Redacted:
        """Take secrets out of the raw journal, a piece at a time."""
        return await self._ask(write("lifecycle.redact", request, idempotency_key), Redacted)

    async def lifecycle_compact(self, request: Compact, *, sequence: int | None = None) -> Compacted:
        """Rid the disk of every trace of what was deleted, in all namespaces; writes wait meanwhile."""
        return await self._ask(read("lifecycle.compact", request, sequence), Compacted)

    async def introspect_stats(self, *, sequence: int | None = None) -> Stats:
        """Count what is stored."""
        return await self._ask(read("introspect.stats", None, sequence), Stats)

    async def introspect_record(
        self, request: IntrospectRecord, *, sequence: int | None = None
    ) -> IntrospectedRecord:
        """Show one memory whole.

        `RecordNotFound` when there is none.
        """
        return await self._ask(read("introspect.record", request, sequence), IntrospectedRecord)

    async def introspect_decay_forecast(self, request: DecayForecast, *, sequence: int | None = None) -> Forecasts:
        """Say how far memories will have faded at a given time."""
        return await self._ask(read("introspect.decay_forecast", request, sequence), Forecasts)

    async def introspect_evolution(self, *, sequence: int | None = None) -> EvolutionMetrics:
        """Show what the daemon has adjusted of its own parameters."""
        return await self._ask(read("introspect.evolution", None, sequence), EvolutionMetrics)
