"""One import under way: from the first byte that comes in to the writer's answer.

Nothing is changed before the whole archive was received, verified and checked. Then it is a series of the writer,
which is there entirely or not at all, whatever ends the process; a namespace that is new begins with it. Working
memory has no transactions: what the archive has for it is put there when the rest is stored. But it is through
working memory that the writer is asked, so that nothing in it is changed between the choice of that and then.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from typing import Any, Protocol

import trio

from cerememory.actors.actor import Actor
from cerememory.actors.held import WORKING_CAPACITY
from cerememory.actors.seams import World
from cerememory.actors.stores import Memory
from cerememory.actors.working import CommitWithHeld, Held, HeldIn, Restock
from cerememory.actors.writer import Writer
from cerememory.domain.audit_chain import GENESIS
from cerememory.domain.cma import check_archive_bytes
from cerememory.failpoints import failpoint
from cerememory.protocol.replies import Imported, ImportPlanned
from cerememory.protocol.requests import ImportTerms
from cerememory.protocol.values import RecordId
from cerememory.storage.archive_mutations import NoteImport, Tally, Terms, import_steps, is_taken, planned
from cerememory.storage.contract import Storage
from cerememory.storage.dynamics import Curves
from cerememory.storage.imported import ImportSpool
from cerememory.storage.importing import Checked, Incoming, check_incoming
from cerememory.storage.keys import DIGEST_BYTES, NOWHERE, Table, key, system_key
from cerememory.storage.ledger import Mutation
from cerememory.storage.mutations import Stored
from cerememory.storage.namespaces import OpenNamespace, namespace_of
from cerememory.storage.prepared import NewRecord
from cerememory.storage.rows import parse_head
from cerememory.storage.series import Series, Steps
from cerememory.storage.spool import CHUNK_BYTES, Spool
from cerememory.storage.undo_rows import HeldImport

_END = object()


class KeepAnswer(Protocol):
    """Wraps the last mutation of an import, given it and the digest of the archive as it came in."""

    def __call__(
        self, mutation: Mutation[Stored[Imported]], archive_digest: bytes
    ) -> Mutation[Stored[Imported]]: ...


@dataclass(frozen=True, slots=True)
class _Working:
    """The archive's records that go into working memory, what was there before, and the count."""

    chosen: tuple[NewRecord, ...]
    before: tuple[Memory, ...]
    tally: Tally


@dataclass(slots=True, kw_only=True)
class ImportJob:
    """`name` is the namespace's. `off_loop` runs a step where it doesn't hold the event loop; `archive` and
    `records` are empty spools.
    """

    storage: Storage
    world: World
    curves: Curves
    writer: Writer
    working: Actor
    off_loop: Callable[[Callable[[], Any]], Awaitable[Any]]
    name: str
    request: ImportTerms
    keep_answer: KeepAnswer
    archive: Spool
    records: ImportSpool
    namespace: int = NOWHERE

    async def run(self, chunks: AsyncIterable[bytes]) -> Stored[Imported]:
        """The answer; with `dry_run`, what an import would do. Raises `ImportConflict`."""
        digest = await self._receive(chunks)
        checked = await self._check()
        failpoint("import.checked")
        terms = Terms(
            self.request.archive_id, self.request.strategy, self.request.conflict_resolution, checked.has_raw
        )
        if self.request.dry_run:
            return await self._plan(terms, checked)
        return await self._apply(terms, checked, partial(self.keep_answer, archive_digest=digest))

    async def _receive(self, chunks: AsyncIterable[bytes]) -> bytes:
        """Put the archive aside; its digest."""
        digest, waiting = blake2b(digest_size=DIGEST_BYTES), bytearray()
        async for chunk in chunks:
            check_archive_bytes(self.archive.size_bytes + len(waiting) + len(chunk))
            digest.update(chunk)
            waiting += chunk
            if len(waiting) >= CHUNK_BYTES:
                await self.off_loop(partial(self.archive.write, bytes(waiting)))
                waiting.clear()
        await self.off_loop(partial(self.archive.write, bytes(waiting)))
        return digest.digest()

    def _find_namespace(self) -> None:
        """It has no number as long as nothing is stored in it."""
        with self.storage.read() as reader:
            number = namespace_of(reader, self.name)
        self.namespace = NOWHERE if number is None else number

    async def _check(self) -> Checked:
        self._find_namespace()
        with self.storage.read() as reader:
            curves = self.curves.of(reader, self.namespace)
        incoming = Incoming(
            self.archive,
            self.request.decryption_key,
            curves,
            self.world.now(),
            WORKING_CAPACITY,
        )
        checked = Checked()
        await self._run(check_incoming(incoming, self.records, checked))
        return checked

    async def _run(self, steps: Iterator[None]) -> None:
        """A step at a time: others have their turn in between, and a client that went away ends it."""
        while await self.off_loop(partial(next, steps, _END)) is not _END:
            await trio.lowlevel.checkpoint()

    async def _plan(self, terms: Terms, checked: Checked) -> Stored[Imported]:
        before = await self.working.ask(Held(self.namespace))
        counts = [self._for_working(terms, checked, before).tally]
        await self._run(self._counted(terms, counts))
        tally = Tally(*map(sum, zip(*counts, strict=True)))
        reply = ImportPlanned(
            records_imported=tally.imported,
            records_added=tally.added,
            records_replaced=tally.replaced,
            records_kept=tally.kept,
        )
        with self.storage.read() as reader:
            head = parse_head(reader.get(system_key(Table.HEAD)), GENESIS)
        return Stored(reply, head.commit_sequence)

    def _counted(self, terms: Terms, counts: list[Tally]) -> Iterator[None]:
        for piece in self.records.pieces(self.namespace):
            with self.storage.read() as reader:
                counts.append(planned(reader, self.namespace, piece, terms))
            yield

    async def _apply(
        self,
        terms: Terms,
        checked: Checked,
        last: Callable[[Mutation[Stored[Imported]]], Mutation[Stored[Imported]]],
    ) -> Stored[Imported]:
        now = self.world.now()
        self._find_namespace()  # others may have stored in it meanwhile
        kept = await self.writer.kept(last(NoteImport(self.namespace, terms, 0, (), now)))
        if kept is not None:
            return kept
        batch, held = self.world.new_id(), _Working((), (), Tally())

        def begin(held_in: HeldIn) -> Series[tuple[int, Stored[Imported]]]:
            nonlocal held
            self._find_namespace()
            held = self._for_working(terms, checked, held_in(self.namespace))
            return steps

        def steps() -> Steps[tuple[int, Stored[Imported]]]:
            namespace = self.namespace
            if namespace == NOWHERE:
                namespace = yield OpenNamespace(self.name)
            pieces = self.records.pieces(namespace)
            noted = tuple(HeldImport(bytes(each.record_id), each.row.updated_at) for each in held.chosen)
            stored = yield from import_steps(namespace, terms, pieces, noted, now, last, batch)
            return namespace, stored

        def restock(answer: tuple[int, Stored[Imported]]) -> Restock | None:
            self.namespace, stored = answer
            if stored.replayed:
                return None
            chosen = tuple(replace(record, namespace=self.namespace) for record in held.chosen)
            return Restock(self.namespace, self._gone(terms, held), chosen)

        with trio.CancelScope(shield=True):  # the writer reads the spool, so it is waited for
            _namespace, stored = await self.working.ask(CommitWithHeld(begin, restock))
        return stored

    def _for_working(self, terms: Terms, checked: Checked, before: tuple[Memory, ...]) -> _Working:
        if terms.cleared:
            return _Working(tuple(checked.held.values()), before, Tally(added=len(checked.held)))
        updated_at = {memory.record_id: memory.row.updated_at for memory in before}
        stored = self._stored(checked.held)  # they became lasting memories, and stay so
        won = {
            record_id: record
            for record_id, record in checked.held.items()
            if record_id not in stored
            and (
                record_id not in updated_at
                or is_taken(terms.resolution, updated_at[record_id], record.row.updated_at)
            )
        }
        replaced = len(won.keys() & updated_at.keys())
        tally = Tally(len(won) - replaced, replaced, len(checked.held) - len(won))
        return _Working(tuple(won.values()), before, tally)

    def _gone(self, terms: Terms, held: _Working) -> tuple[RecordId, ...]:
        """What leaves working memory: all that was there before, or what lasts now."""
        before = [memory.record_id for memory in held.before]
        return tuple(before if terms.cleared else self._stored(before))

    def _stored(self, record_ids: Iterable[RecordId]) -> set[RecordId]:
        wanted = list(record_ids)
        with self.storage.read() as reader:
            values = reader.get_many([key(self.namespace, Table.CONTENT, record_id) for record_id in wanted])
        return {record_id for record_id, value in zip(wanted, values, strict=True) if value is not None}
