"""The mutations of CMP, each asked of the engine and done in the model."""

from __future__ import annotations

import tempfile
from collections.abc import Awaitable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from cerememory.actors.engine import Idempotency
from cerememory.errors import CerememoryError, PreconditionFailed, RecordNotFound, ValidationFailed
from cerememory.protocol import codec
from cerememory.protocol.requests import (
    ConflictResolution,
    Consolidate,
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
    ImportStrategy,
    Restore,
    SetMode,
)
from cerememory.protocol.values import NANOS, ByteArray, format_timestamp
from cerememory.storage.mutations import Stored
from tests.support.model.archives import Terms, take_in
from tests.support.model.memories import CALM, DURABLE, WORKING, Edge, Entry, Json, Memory, content_of, no_meta
from tests.support.model.namespace import Namespace
from tests.support.model.nights import Choice, Group, absorb, copy, dream, groups_of, plan_of
from tests.support.model.stage import Change, Place, agree, holds, staged


@dataclass(frozen=True)
class Given:
    """A memory to be stored. `edges` are (number of a memory, type, weight)."""

    text: str
    store: str | None = None
    summary: str | None = None
    embedding: list[float] | None = None
    emotion: dict[str, float] | None = None
    session: str | None = None
    edges: tuple[tuple[int, str, float], ...] = ()

    @property
    def routed(self) -> str:
        return self.store or ("episodic" if self.summary is None else "semantic")

    def asked(self, place: Place) -> Json:
        context = None if self.session is None else {"session_id": self.session}
        edges = [
            {"target_id": place.pick(number), "association_type": kind, "weight": weight}
            for number, kind, weight in self.edges
        ]
        return {
            "content": content_of(self.text, self.embedding, self.summary),
            "store": self.store,
            "emotion": self.emotion,
            "context": context,
            "metadata": {"n": 1},
            "associations": edges,
        }

    def stored(self, place: Place, record_id: str, at: int) -> Memory:
        model, edges = place.model, self.asked(place)["associations"]
        absent = {"source": None, "spatial": None, "temporal": None}
        context = {} if self.session is None else {"_context": {**absent, "session_id": self.session}}
        return Memory(
            id=record_id,
            store=self.routed,
            created_at=at,
            updated_at=at,
            content=content_of(self.text, self.embedding, self.summary),
            emotion={**CALM, **(self.emotion or {})},
            metadata={"n": 1, **context},
            meta=no_meta("encode.store", at),
            edges=[Edge(e["target_id"], e["association_type"], e["weight"], at, at) for e in edges],
            base_at=model.clock(at),
            decay_rate=model.dynamics(self.routed).decay_rate,
            last_accessed_at=at,
            last_tick_at=at,
        )

    def reply(self, record_id: str) -> Json:
        return {
            "record_id": record_id,
            "store": self.routed,
            "initial_fidelity": 1.0,
            "associations_created": len(self.edges),
        }


@dataclass(frozen=True)
class StoreOne(Change):
    given: Given
    key: str | None = None
    if_absent: bool = False

    def _request(self, place: Place) -> Json:
        return {**self.given.asked(place), "if_absent": self.if_absent}

    def body(self, place: Place) -> bytes:
        return codec.dump(self._request(place))

    def refusal(self, place: Place) -> type[CerememoryError] | None:
        return ValidationFailed if self.if_absent and self.given.routed == WORKING else None

    def call(self, place: Place, idempotency: Idempotency | None) -> Awaitable[Stored[Any]]:
        request = codec.parse(self.body(place), EncodeStore)
        return place.engine.encode_store(request, idempotency, namespace=place.number)

    async def learn(self, place: Place, reply: Json) -> None:
        content = content_of(self.given.text, self.given.embedding, self.given.summary)
        like = place.model.like(self.given.routed, content) if self.if_absent else set()
        agree(reply.get("created"), not like if self.if_absent else None, "created")
        if like:
            holds(reply["record_id"] in like, "if_absent answers one that says the same")
            fidelity = place.model.fidelity(place.model.durable[reply["record_id"]], place.now)
            agree(reply["initial_fidelity"], fidelity, "initial_fidelity")
        else:
            agree(reply, self.given.reply(reply["record_id"]), "reply")
            place.model.put(self.given.stored(place, reply["record_id"], place.now), "encode.store")


@dataclass(frozen=True)
class StoreBatch(Change):
    given: tuple[Given, ...]
    infer: bool = False
    key: str | None = None

    def body(self, place: Place) -> bytes:
        records = [each.asked(place) for each in self.given]
        return codec.dump({"records": records, "infer_associations": self.infer})

    def call(self, place: Place, idempotency: Idempotency | None) -> Awaitable[Stored[Any]]:
        request = codec.parse(self.body(place), EncodeBatch)
        return place.engine.encode_batch(request, idempotency, namespace=place.number)

    async def learn(self, place: Place, reply: Json) -> None:
        ids = [result["record_id"] for result in reply["results"]]
        expected = [each.reply(record_id) for each, record_id in zip(self.given, ids, strict=True)]
        agree(reply["results"], expected, "results")
        agree(reply["associations_inferred"], 2 * (len(ids) - 1) if self.infer else 0, "inferred")
        memories = [each.stored(place, ids[i], place.now + i) for i, each in enumerate(self.given)]
        if self.infer:
            self._link(memories, place.now)
        for memory in memories:
            place.model.put(memory, "encode.batch")

    @staticmethod
    def _link(memories: list[Memory], now: int) -> None:
        for i, memory in enumerate(memories):
            beside = memories[max(i - 1, 0) : i] + memories[i + 1 : i + 2]
            memory.edges += [Edge(each.id, "sequential", 0.7, now, now) for each in beside]


@dataclass(frozen=True)
class Update(Change):
    """`expects`: None, `current` or `other` for the version in If-Match."""

    number: int
    text: str | None = None
    embedding: list[float] | None = None
    emotion: dict[str, float] | None = None
    session: str | None = None
    expects: str | None = None
    key: str | None = None

    def _parts(self) -> Json:
        """What stays as it is isn't there."""
        metadata = None if self.session is None else {"_context": {"session_id": self.session}}
        emotion = None if self.emotion is None else {**CALM, **self.emotion}
        content = None if self.text is None else content_of(self.text, self.embedding)
        parts = {"content": content, "emotion": emotion, "metadata": metadata}
        return {name: part for name, part in parts.items() if part is not None}

    def body(self, place: Place) -> bytes:
        return codec.dump([place.pick(self.number), self._parts()])

    def _expected(self, place: Place) -> int | None:
        memory = place.model.get(place.pick(self.number))
        version = 1 if memory is None else memory.version
        return None if self.expects is None else version + (self.expects == "other")

    def refusal(self, place: Place) -> type[CerememoryError] | None:
        if not self._parts():
            return ValidationFailed
        if place.model.get(place.pick(self.number)) is None:
            return RecordNotFound
        return PreconditionFailed if self.expects == "other" else None

    def call(self, place: Place, idempotency: Idempotency | None) -> Awaitable[Stored[Any]]:
        request = codec.parse(codec.dump(self._parts()), EncodeUpdate)
        record_id, expected = place.pick_id(self.number), self._expected(place)
        return place.engine.encode_update(record_id, request, expected, idempotency, namespace=place.number)

    async def learn(self, place: Place, reply: None) -> None:
        place.model.update(place.pick(self.number), self._parts(), place.now)


@dataclass(frozen=True)
class Said:
    text: str
    session: str
    topic: str | None = None
    visibility: str = "normal"
    secrecy: str = "public"

    def asked(self) -> Json:
        return {
            "session_id": self.session,
            "topic_id": self.topic,
            "visibility": self.visibility,
            "secrecy_level": self.secrecy,
            "content": content_of(self.text),
        }

    def stored(self, entry_id: str, at: int) -> Entry:
        return Entry(
            id=entry_id,
            session=self.session,
            topic=self.topic,
            visibility=self.visibility,
            secrecy=self.secrecy,
            created_at=at,
            updated_at=at,
            content=content_of(self.text),
            metadata={},
            meta=no_meta("encode.store_raw", at),
        )


@dataclass(frozen=True)
class StoreRaw(Change):
    said: tuple[Said, ...]
    key: str | None = None

    def body(self, place: Place) -> bytes:
        asked = [each.asked() for each in self.said]
        return codec.dump(asked[0] if len(asked) == 1 else {"records": asked})

    def call(self, place: Place, idempotency: Idempotency | None) -> Awaitable[Stored[Any]]:
        if len(self.said) == 1:
            request = codec.parse(self.body(place), EncodeStoreRaw)
            return place.engine.encode_store_raw(request, idempotency, namespace=place.number)
        batch = codec.parse(self.body(place), EncodeBatchRaw)
        return place.engine.encode_batch_raw(batch, idempotency, namespace=place.number)

    async def learn(self, place: Place, reply: Json) -> None:
        results = reply.get("results", [reply])
        for i, (said, result) in enumerate(zip(self.said, results, strict=True)):
            agree(result, {k: v for k, v in said.asked().items() if k in result}, "reply")
            place.model.put_entry(said.stored(result["record_id"], place.now + i))


@dataclass(frozen=True)
class Tick(Change):
    duration_s: int | None = None
    key: str | None = None

    def body(self, place: Place) -> bytes:
        return codec.dump(self.duration_s)

    def call(self, place: Place, idempotency: Idempotency | None) -> Awaitable[Stored[Any]]:
        request = DecayTick(tick_duration_seconds=self.duration_s)
        return place.engine.lifecycle_decay_tick(request, idempotency, namespace=place.number)

    async def learn(self, place: Place, reply: Json) -> None:
        ticked = place.model.tick(place.now, self.duration_s or 0)
        agree(
            [reply["records_updated"], reply["records_below_threshold"], reply["records_pruned"]],
            list(ticked),
            "updated, below, pruned",
        )


@dataclass(frozen=True)
class ChangeMode(Change):
    mode: str
    scope: tuple[str, ...] | None = None

    def body(self, place: Place) -> bytes:
        return codec.dump({"mode": self.mode, "scope": self.scope})

    def call(self, place: Place, idempotency: Idempotency | None) -> Awaitable[Stored[Any]]:
        request = codec.parse(self.body(place), SetMode)
        return place.engine.lifecycle_set_mode(request, idempotency, namespace=place.number)

    async def learn(self, place: Place, reply: None) -> None:
        scope = {*DURABLE, WORKING} if self.scope is None else set(self.scope)
        perfect = place.model.perfect
        place.model.perfect = perfect | scope if self.mode == "perfect" else perfect - scope


@dataclass(frozen=True)
class ForgetSome(Change):
    """`span_s`: made in the last so many seconds."""

    numbers: tuple[int, ...] = ()
    raw_numbers: tuple[int, ...] = ()
    store: str | None = None
    span_s: int | None = None
    session: str | None = None
    cascade: bool = False
    dry_run: bool = False
    confirm: bool = True
    key: str | None = None

    def _span(self, place: Place) -> tuple[int, int] | None:
        return None if self.span_s is None else (place.now - self.span_s * NANOS, place.now)

    def body(self, place: Place) -> bytes:
        span = self._span(place)
        shown = None if span is None else {"start": format_timestamp(span[0]), "end": format_timestamp(span[1])}
        return codec.dump(
            {
                "record_ids": [place.pick(number) for number in self.numbers],
                "raw_record_ids": [place.pick_raw(number) for number in self.raw_numbers],
                "store": self.store,
                "temporal_range": shown,
                "session_id": self.session,
                "cascade": self.cascade,
                "dry_run": self.dry_run,
                "confirm": self.confirm,
            }
        )

    def call(self, place: Place, idempotency: Idempotency | None) -> Awaitable[Stored[Any]]:
        request = codec.parse(self.body(place), Forget)
        return place.engine.lifecycle_forget(request, idempotency, namespace=place.number)

    def refusal(self, place: Place) -> type[CerememoryError] | None:
        chosen = self.numbers or self.raw_numbers or self.store or self.session or self.span_s is not None
        return None if chosen else ValidationFailed

    async def learn(self, place: Place, reply: Json) -> None:
        model = place.model
        raws = self._raw_targets(place)
        targets = self._targets(place, raws)
        agree(reply["records_deleted"], len(targets) + len(raws), "records_deleted")
        if self.dry_run:
            return
        for record_id in targets:
            model.history[record_id].append("lifecycle.forget")
        model.remove(targets, place.now)
        for entry_id in raws:
            del model.journal[entry_id]
        model.drop_answers_about(targets | raws)

    def _raw_targets(self, place: Place) -> set[str]:
        named = {place.pick_raw(number) for number in self.raw_numbers}
        journal = place.model.journal.values()
        return {e.id for e in journal if e.id in named or (self.session is not None and e.session == self.session)}

    def _targets(self, place: Place, raws: set[str]) -> set[str]:
        """Those that are there, the archived ones among them."""
        model, named = place.model, {place.pick(number) for number in self.numbers}
        there = {m.id: m for m in [*model.all(), *(kept.memory for kept in model.archived.values())]}
        targets = {i for i in named if i in there}
        if self.cascade:
            targets |= {edge.target for i in named if i in there for edge in there[i].edges}
            targets |= {m.id for m in there.values() if _sources(m) and _sources(m) <= raws}
        span = self._span(place)
        for memory in there.values():
            is_of_span = span is not None and span[0] <= memory.created_at <= span[1]
            if memory.store == self.store or is_of_span:
                targets.add(memory.id)
        return targets & there.keys()


def _sources(memory: Memory) -> set[str]:
    """The entries of the journal that it was dreamt of."""
    origin = memory.metadata.get("_origin", {}) if isinstance(memory.metadata, dict) else {}
    return set(origin.get("raw_record_ids", []))


@dataclass(frozen=True)
class RestoreSome(Change):
    numbers: tuple[int, ...]

    def body(self, place: Place) -> bytes:
        return codec.dump({"record_ids": [place.pick(number) for number in self.numbers]})

    def call(self, place: Place, idempotency: Idempotency | None) -> Awaitable[Stored[Any]]:
        request = codec.parse(self.body(place), Restore)
        return place.engine.lifecycle_restore(request, idempotency, namespace=place.number)

    async def learn(self, place: Place, reply: Json) -> None:
        restored = place.model.restore([place.pick(number) for number in self.numbers], place.now)
        agree(reply["records_restored"], restored, "records_restored")
        if restored:
            place.model.consolidated_at = None  # as after an import


@dataclass(frozen=True)
class Dream(Change):
    session: str | None = None
    dry_run: bool = False
    max_groups: int = 10
    sees: tuple[str, ...] = ()
    secrecies: tuple[str, ...] | None = None
    promote: bool = True
    key: str | None = None

    def body(self, place: Place) -> bytes:
        return codec.dump(
            {
                "session_id": self.session,
                "dry_run": self.dry_run,
                "max_groups": self.max_groups,
                "include_private_scratch": "private_scratch" in self.sees,
                "include_sealed": "sealed" in self.sees,
                "secrecy_levels": self.secrecies,
                "promote_semantic": self.promote,
            }
        )

    def call(self, place: Place, idempotency: Idempotency | None) -> Awaitable[Stored[Any]]:
        request = codec.parse(self.body(place), DreamTick)
        return place.engine.lifecycle_dream_tick(request, idempotency, namespace=place.number)

    async def learn(self, place: Place, reply: Json) -> None:
        allowed = ("public", "sensitive") if self.secrecies is None else self.secrecies
        groups = groups_of(place.model, self.session, ("normal", *self.sees), allowed)[: self.max_groups]
        promoted = [self.promote and group.is_promoted and not self.dry_run for group in groups]
        counts = len(groups), sum(len(group.entries) for group in groups), len(groups), sum(promoted)
        names = "groups_processed", "raw_records_processed", "episodic_summaries_created", "semantic_nodes_created"
        agree(reply, dict(zip(names, counts, strict=True)), "reply")
        if self.dry_run:
            return
        place.model.dreamt_at = place.now
        memories, entries = ({line["id"]: line for line in lines} for lines in await place.lines())
        for group, is_promoted in zip(groups, promoted, strict=True):
            ids = entries[group.entries[0].id]["derived_memory_ids"][len(group.entries[0].derived) :]
            agree(len(ids), 1 + is_promoted, "memories of a group")
            _learn_dream(place, group, [memories[record_id] for record_id in ids])


def _learn_dream(place: Place, group: Group, lines: list[Json]) -> None:
    """What leads back from the memories to the entries is compared here, and then taken as it is."""
    text = bytes(lines[0]["content"]["blocks"][0]["data"]).decode()
    if group.text() is None:
        counts = f": {len(group.told)} raw records preserved, {len(group.entries) - len(group.told)} redacted"
        holds(group.session in text and text.endswith(counts), f"nothing may be told: {text}")
    else:
        agree(text, group.text(), "what is told")
    made = dream(place.model, group, [line["id"] for line in lines], text, place.now)
    for memory, line, kind in zip(made, lines, ("episodic_summary", "semantic_summary"), strict=False):
        _agree_on_origin(group, line, kind, place.now)
        memory.metadata, memory.meta = line["metadata"], line["meta"]
    agree(lines[0]["metadata"].get("_derived", {}).get("semantic_ids", []), [m.id for m in made[1:]], "derived")


def _agree_on_origin(group: Group, line: Json, kind: str, now: int) -> None:
    entry_ids = [entry.id for entry in group.entries]
    hidden = [e for e in group.entries if not e.is_told]
    origin = {
        "dream_tick_at": format_timestamp(now, "+00:00"),
        "raw_record_count": len(entry_ids),
        "raw_record_ids": entry_ids,
        "raw_session_id": group.session,
        "raw_topic_hint": group.hint,
        "raw_topic_id": group.topic,
        "raw_topic_inferred": group.topic is None,
    }
    stats = {"normal_records": len(group.told), "redacted_total": len(hidden)}
    agree(line["metadata"]["_origin"], origin, "_origin")
    agree(line["metadata"]["_dream"], {"kind": kind, "source": "raw_journal", "summary_stats": stats}, "_dream")
    meta = line["meta"]
    agree((meta["capture_status"], meta["trigger"]), ("inferred", "lifecycle.dream_tick"), "meta")
    derived = [e["target_id"] for e in meta["context_edges"] if e["relation"] == "derived_from"]
    agree(derived[-len(entry_ids) :], entry_ids, "derived_from")


@dataclass(frozen=True)
class ConsolidateAll(Change):
    choice: Choice = field(default_factory=lambda: Choice("full", 0, 0, False))
    dry_run: bool = False
    key: str | None = None

    def body(self, place: Place) -> bytes:
        return codec.dump({**self.choice._asdict(), "dry_run": self.dry_run})

    def refusal(self, place: Place) -> type[CerememoryError] | None:
        is_empty = self.choice.strategy == "selective" and not (
            self.choice.min_age_hours or self.choice.min_access_count
        )
        return ValidationFailed if is_empty else None

    def call(self, place: Place, idempotency: Idempotency | None) -> Awaitable[Stored[Any]]:
        request = codec.parse(self.body(place), Consolidate)
        return place.engine.lifecycle_consolidate(request, idempotency, namespace=place.number)

    async def learn(self, place: Place, reply: Json) -> None:
        model, now = place.model, place.now
        plan = plan_of(model, self.choice, now)
        copies = 0 if self.dry_run else len(plan.copied)
        counts = len(plan.looked_at), len(plan.copied), len(plan.merges), len(plan.faint), copies
        names = ("records_processed", "records_migrated", "records_compressed", "records_pruned")
        expected = dict(zip((*names, "semantic_nodes_created"), counts, strict=True))
        agree(reply, expected, "reply")
        if self.dry_run:
            return
        absorb(model, plan.merges, now)
        memories = (line["id"] for line in (await place.lines())[0])
        made = [record_id for record_id in memories if record_id not in model.known]
        originals = sorted(plan.copied, key=lambda i: (model.durable[i].created_at, i))
        agree(len(made), len(originals), "copies made")
        for record_id, copy_id in zip(originals, made, strict=True):
            copy(model, record_id, copy_id, now)
        for record_id in plan.faint:
            model.prune(record_id, now)
        if not (
            self.choice.strategy == "selective" and model.consolidated_at is None
        ):  # which doesn't look at all
            model.consolidated_at = now


@dataclass(frozen=True)
class Carry:
    """Export from here and import into a namespace of the same engine, or of a new one (`into` None)."""

    into: str | None
    stores: tuple[str, ...] | None = None
    has_raw: bool = False
    strategy: str = "merge"
    resolution: str = "keep_newer"
    dry_run: bool = False

    async def run(self, place: Place) -> None:
        export = codec.parse(codec.dump({"stores": self.stores, "include_raw_journal": self.has_raw}), Export)
        archive = bytes((await place.engine.lifecycle_export(export, namespace=place.number)).archive_data)
        if self.into is None:
            await self._carry_elsewhere(place, export, archive)
        else:
            await self._carry(await place.stage.place(self.into), archive)

    async def _carry(self, target: Place, archive: bytes) -> None:
        imported = await target.asked(target.engine.lifecycle_import(self._import(archive), namespace=target.name))
        model = deepcopy(target.model) if self.dry_run else target.model
        agree(imported["records_imported"], self._take_in(model, archive, target.now), "records_imported")

    def _take_in(self, model: Namespace, archive: bytes, now: int) -> int:
        records = [msgspec.json.decode(line) for line in archive.splitlines()[1:-1]]
        terms = Terms(self.strategy, self.resolution)
        if not self.has_raw:
            return take_in(model, records, None, terms, now)
        kinds = ("memory_record", "raw_journal_record")
        curated, raw = ([r["data"] for r in records if r["kind"] == kind] for kind in kinds)
        return take_in(model, curated, raw, terms, now)

    def _import(self, archive: bytes) -> Import:
        return Import(
            archive_id="carried",
            strategy=ImportStrategy(self.strategy),
            conflict_resolution=ConflictResolution(self.resolution),
            dry_run=self.dry_run,
            archive_data=ByteArray(archive),
        )

    async def _carry_elsewhere(self, place: Place, export: Export, archive: bytes) -> None:
        """What comes out of an engine that took an archive in is that archive."""
        with tempfile.TemporaryDirectory() as folder:
            async with staged(Path(folder), place.model.rules) as elsewhere:
                elsewhere.clock.at = place.now
                taken = replace(self, dry_run=False)._import(archive)
                await elsewhere.engine.lifecycle_import(taken)
                again = bytes((await elsewhere.engine.lifecycle_export(export)).archive_data)
        holds(again == archive, "an archive comes out as it went in")
