"""Archives: all that a namespace remembers, out into a file and in again. Both ways are streams.

    export   one snapshot -> record lines, spooled -> header, lines, footer -> encryption -> client
    import   client -> spool -> decryption -> checked rows, spooled -> one transaction of the writer

What is in memory is one record, or a piece of some hundred; what waits lies in spools beside the store. How the
two work is told by `exporting` and `importing`; here is how many go on at once, and where they work.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self, TypeVar

import trio

from cerememory.actors.actor import Actor
from cerememory.actors.exporting import Contents, encrypted_parts, plain_parts, spool_lines
from cerememory.actors.importing import ImportJob, KeepAnswer
from cerememory.actors.seams import World
from cerememory.actors.stores import Memory
from cerememory.actors.undoing import Undoing
from cerememory.actors.working import Held
from cerememory.actors.writer import Commit, Writer
from cerememory.domain.archive_encryption import (
    NONCE_BYTES,
    OVERHEAD_BYTES,
    SALT_BYTES,
    Encryption,
    derive_key,
)
from cerememory.domain.audit_chain import AuditDraft
from cerememory.domain.cma import CURATED_ONLY, WITH_RAW, ArchiveWriter
from cerememory.errors import ActorBusy, ContentTooLarge
from cerememory.protocol.records import DURABLE_STORES, Store
from cerememory.protocol.replies import Imported
from cerememory.protocol.requests import Export, ImportTerms
from cerememory.protocol.values import Timestamp, format_id
from cerememory.storage.contract import Storage
from cerememory.storage.dynamics import Curves
from cerememory.storage.imported import ImportSpool
from cerememory.storage.mutations import NoteAudit, Stored
from cerememory.storage.rows import STORE_CODE
from cerememory.storage.spool import Spool

R = TypeVar("R")

UNDER_WAY_MAX = 4  # each may fill a spool


class Chunks:
    """The bytes of an archive, read and encrypted off the loop. It can be left anywhere."""

    def __init__(
        self, parts: Iterator[bytes], off_loop: Callable[[Callable[[], bytes]], Awaitable[bytes]]
    ) -> None:
        self._parts = parts
        self._off_loop = off_loop

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        part = await self._off_loop(partial(next, self._parts, b""))
        if not part:
            raise StopAsyncIteration
        return part


@dataclass(frozen=True, slots=True)
class ExportedArchive:
    """An archive that is ready to be sent, once; `size_bytes` is that of its chunks."""

    archive_id: str
    record_count: int
    checksum: str
    size_bytes: int
    chunks: Chunks


class Archives:
    """Exports and imports. `curves` are for this alone; in `directory` lie the spools."""

    def __init__(
        self, storage: Storage, world: World, curves: Curves, writer: Writer, working: Actor, directory: Path
    ) -> None:
        self._storage = storage
        self._world = world
        self._curves = curves
        self._writer = writer
        self._working = working
        self._directory = directory
        self._limiter = trio.CapacityLimiter(1)  # archives under way take turns, a step each
        self._under_way = 0
        self.undoing = Undoing(storage, world, working)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if self._under_way >= UNDER_WAY_MAX:
            raise ActorBusy("archives")
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1

    async def _off_loop(self, call: Callable[[], R]) -> R:
        return await self._world.offload(call, self._limiter)

    @asynccontextmanager
    async def export(
        self, request: Export, namespace: int, size_bytes_max: int | None = None
    ) -> AsyncIterator[ExportedArchive]:
        """The archive that `request` asks for, for as long as the block lasts; it is audited before.

        Raises `ContentTooLarge` for one that is over `size_bytes_max`.
        """
        with self._turn(), Spool(self._directory) as spool:
            contents = await self._contents(request, namespace)
            written = await self._off_loop(partial(spool_lines, self._storage, self._curves, contents, spool))
            exported = await self._ready(request, contents, written, spool)
            if size_bytes_max is not None and exported.size_bytes > size_bytes_max:
                raise ContentTooLarge(
                    f"the archive has {exported.size_bytes} bytes, at most {size_bytes_max} come as JSON:"
                    " ask for it by POST /v1/archive"
                )
            audit = _export_audit(request, exported, self._world.now())
            await self._writer.ask(Commit(NoteAudit(namespace, audit)))
            yield exported

    async def _contents(self, request: Export, namespace: int) -> Contents:
        """Working memory is left out unless it is named: it isn't meant to last."""
        stores = DURABLE_STORES if request.stores is None else request.stores
        held: tuple[Memory, ...] = ()
        if Store.WORKING in stores:
            held = await self._working.ask(Held(namespace))
        return Contents(
            namespace=namespace,
            version=WITH_RAW if request.include_raw_journal else CURATED_ONLY,
            store_codes=frozenset(STORE_CODE[store] for store in stores),
            held={memory.record_id: memory.json() for memory in held},
            now=self._world.now(),
        )

    async def _ready(
        self, request: Export, contents: Contents, written: ArchiveWriter, spool: Spool
    ) -> ExportedArchive:
        header, footer = written.header(Timestamp(contents.now)), written.footer()
        parts, size_bytes = plain_parts(header, spool, footer), len(header) + spool.size_bytes + len(footer)
        if request.encrypt:
            parts, size_bytes = await self._encrypted(request, parts), size_bytes + OVERHEAD_BYTES
        return ExportedArchive(
            archive_id=format_id(self._world.new_id()),
            record_count=written.record_count,
            checksum=written.checksum,
            size_bytes=size_bytes,
            chunks=Chunks(parts, self._off_loop),
        )

    async def _encrypted(self, request: Export, parts: Iterator[bytes]) -> Iterator[bytes]:
        salt, nonce = secrets.token_bytes(SALT_BYTES), secrets.token_bytes(NONCE_BYTES)
        key = await self._off_loop(partial(derive_key, request.encryption_key or "", salt))
        return encrypted_parts(Encryption(key, salt, nonce), parts)

    async def import_archive(
        self, chunks: AsyncIterable[bytes], request: ImportTerms, name: str, keep_answer: KeepAnswer
    ) -> Stored[Imported]:
        """Store what the archive in `chunks` holds in the namespace called `name`, all of it or nothing; see
        `ImportJob`.
        """
        with self._turn(), Spool(self._directory) as archive, ImportSpool(self._directory) as records:
            job = ImportJob(
                storage=self._storage,
                world=self._world,
                curves=self._curves,
                writer=self._writer,
                working=self._working,
                off_loop=self._off_loop,
                name=name,
                request=request,
                keep_answer=keep_answer,
                archive=archive,
                records=records,
            )
            return await job.run(chunks)


def _export_audit(request: Export, exported: ExportedArchive, now: int) -> AuditDraft:
    summary = {
        "archive_id": exported.archive_id,
        "record_count": exported.record_count,
        "size_bytes": exported.size_bytes,
        "checksum": exported.checksum,
        "include_raw_journal": request.include_raw_journal,
        "encrypted": request.encrypt,
    }
    stores = tuple(store.value for store in request.stores or ())
    return AuditDraft(now, "lifecycle.export", (), stores, summary)


class AsStream:
    """What is there already, as a stream. Unlike a generator, it can be left anywhere."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        for chunk in self._chunks:
            return chunk
        raise StopAsyncIteration
