"""The reads of CMP, and the recalls: each asked of the engine and answered from the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cerememory.errors import RecordNotFound
from cerememory.protocol import codec
from cerememory.protocol.requests import (
    DecayForecast,
    RecallAssociate,
    RecallGraph,
    RecallQuery,
    RecallRawQuery,
    RecallTimeline,
)
from cerememory.protocol.values import NANOS, format_timestamp, parse_id, parse_timestamp
from tests.support.engine import to_introspect
from tests.support.model.finding import (
    Cue,
    Glance,
    Reach,
    along_time,
    entries,
    is_within,
    matching,
    picture,
    spread,
    with_holes,
)
from tests.support.model.memories import DAY_NS, DURABLE, WORKING, Json, Memory
from tests.support.model.namespace import FAINT
from tests.support.model.stage import Place, agree, decoded, holds

ALL = 1_000  # a limit that cuts nothing off
YEARS_10_NS = 87_660 * 3_600 * NANOS
WIDTHS_S = {"minute": 60, "hour": 3_600, "day": 86_400, "week": 7 * 86_400}


def _span(place: Place, last_s: int | None) -> tuple[int, int] | None:
    """The last so many seconds."""
    return None if last_s is None else (place.now - last_s * NANOS, place.now)


def _shown_span(span: tuple[int, int] | None) -> Json | None:
    return None if span is None else dict(zip(("start", "end"), map(format_timestamp, span), strict=True))


@dataclass(frozen=True)
class Recall:
    """`last_s`: of the last so many seconds."""

    text: str | None = None
    embedding: list[float] | None = None
    emotion: dict[str, float] | None = None
    last_s: int | None = None
    stores: tuple[str, ...] | None = None
    limit: int = ALL
    min_fidelity: float | None = None
    include_decayed: bool = False
    reconsolidate: bool = True
    depth: int = 2
    mode: str = "human"

    async def run(self, place: Place) -> None:
        cue = Cue(self.text, self.embedding, self.emotion, _span(place, self.last_s))
        answer = decoded(await place.engine.recall_query(self._request(cue), namespace=place.number))
        if self.limit == 0:
            agree((answer["memories"], answer["total_candidates"]), ([], 0), "limit 0")
            return
        self._check_candidates(place, cue, answer)
        ids = [memory["record"]["id"] for memory in answer["memories"]]
        if self.reconsolidate:
            place.model.reconsolidate(ids, place.now)
        else:
            place.model.access(ids)
        self._check_memories(place, answer["memories"])
        for record_id in ids[:1]:  # the next reader sees it, before it is committed
            await look(place, record_id)

    def _request(self, cue: Cue) -> RecallQuery:
        emotion = None if cue.emotion is None else cue.emotion
        shown = {
            "text": cue.text,
            "embedding": cue.embedding,
            "emotion": emotion,
            "temporal": _shown_span(cue.span),
        }
        body = {
            "cue": shown,
            "stores": self.stores,
            "limit": self.limit,
            "min_fidelity": self.min_fidelity,
            "include_decayed": self.include_decayed,
            "reconsolidate": self.reconsolidate,
            "activation_depth": self.depth,
            "recall_mode": self.mode,
            "explain": True,
        }
        return codec.parse(codec.dump(body), RecallQuery)

    def _check_candidates(self, place: Place, cue: Cue, answer: Json) -> None:
        """Which memories are found; of these that come in the answer, and how many there are."""
        matched = {memory.id for memory in matching(place.model, cue, self.stores)}
        joined = self._joined(place, cue, matched, answer["activation_trace"])
        found = matched | joined.keys()
        clear = {i for i in found if self._is_clear(place, i)}
        ids = [memory["record"]["id"] for memory in answer["memories"]]
        holds(set(ids) <= clear, f"found {set(ids) - clear} besides")
        holds(len(ids) == min(len(clear), self.limit) == len(set(ids)), f"lacks some of {clear - set(ids)}")
        if self.limit == ALL:
            metadata = answer["query_metadata"]
            counts = answer["total_candidates"], metadata["total_records_scanned"], metadata["fidelity_filtered"]
            agree(counts, (len(clear), len(found), len(found) - len(clear)), "total, scanned, filtered")
        searched = list(self.stores or (*DURABLE, WORKING))
        agree(answer["query_metadata"]["stores_searched"], searched, "stores_searched")
        holds(answer["query_metadata"]["index_complete"], "index_complete")
        if cue.is_time_alone and cue.span is None and self.limit != ALL:
            newest = sorted(clear, key=lambda i: (-_at(place, i).created_at, i))
            agree(ids, newest[: self.limit], "the newest")

    def _joined(self, place: Place, cue: Cue, matched: set[str], trace: Json | None) -> dict[str, Reach]:
        """What activation reached, from one of `matched`; where that is nothing, the answer has no trace."""
        if trace is None:
            starts = set() if self.depth == 0 or cue.is_time_alone else matched
            silent = [i for i in starts if not self._reached(place, cue, i)]
            holds(bool(silent) or not starts, "activation is spread from the best")
            return {}
        holds(trace["source_id"] in matched, "activation begins at what the cue finds")
        reached = self._reached(place, cue, trace["source_id"])
        found = {each["record_id"]: Reach(each["activation_level"], each["hop"]) for each in trace["activations"]}
        agree(found, {i: reach for i, reach in reached.items() if i in found}, "activation")
        holds(len(found) >= min(len(reached), 3 * self.limit), f"not reached: {reached.keys() - found.keys()}")
        return found

    def _reached(self, place: Place, cue: Cue, source: str) -> dict[str, Reach]:
        reached = spread(place.model, source, self.depth)
        return {i: reach for i, reach in reached.items() if self._is_admitted(_at(place, i), cue)}

    def _is_admitted(self, memory: Memory, cue: Cue) -> bool:
        return is_within(memory, cue) and (self.stores is None or memory.store in self.stores)

    def _is_clear(self, place: Place, record_id: str) -> bool:
        is_wanted = self.min_fidelity is None or self.include_decayed
        return is_wanted or place.model.fidelity(_at(place, record_id), place.now) >= (self.min_fidelity or 0.0)

    def _check_memories(self, place: Place, found: list[Json]) -> None:
        """Each as it is after the recall; the best first."""
        model, at = place.model, place.model.clock(place.now)
        for memory in found:
            record, known = memory["record"], _at(place, memory["record"]["id"])
            agree(record, known.shown(at), "record")
            is_perfect = self.mode == "perfect" or known.store in model.perfect
            shown = known.content if is_perfect else with_holes(known.content, known.fidelity(at))
            agree(memory["rendered_content"], shown, "rendered_content")
            agree(sum(memory["explanation"].values()), float(memory["relevance_score"]), "explanation")
        ranked = [(-m["relevance_score"], -_at(place, m["record"]["id"]).created_at) for m in found]
        is_by_time = all(part is None for part in (self.text, self.embedding, self.emotion, self.last_s))
        holds(is_by_time or ranked == sorted(ranked), f"the best first: {ranked}")


def _at(place: Place, record_id: str) -> Memory:
    memory = place.model.get(record_id)
    assert memory is not None
    return memory


async def look(place: Place, record_id: str, version: int | None = None) -> Json:
    """introspect.record with all that stands beside it; compared but for its history, and answered."""
    memory = _at(place, record_id)
    asked = to_introspect(parse_id(record_id), include_versions=True, include_history=True, version=version)
    found: Json = decoded(await place.engine.introspect_record(asked, namespace=place.number))
    place.model.access([record_id])
    shown = memory.shown(place.model.clock(place.now))
    agree(found, {**shown, **_as_of(memory, version), "versions": memory.versions}, "record")
    return found


@dataclass(frozen=True)
class Look:
    """`back`: how many versions ago, None for the record as it is."""

    number: int
    back: int | None = None

    async def run(self, place: Place) -> None:
        record_id, memory = place.pick(self.number), place.model.get(place.pick(self.number))
        version = None if memory is None or self.back is None else max(memory.version - self.back, 1)
        if memory is not None and (version is None or _has_version(memory, version)):
            found = await look(place, record_id, version)
            history = [entry["operation"] for entry in found["history"]]
            agree(history, place.model.history[record_id], "history")
        else:
            request = to_introspect(parse_id(record_id), version=version)
            call = place.engine.introspect_record(request, namespace=place.number)
            await place.refuses(call, RecordNotFound)
            place.model.access([record_id])


def _has_version(memory: Memory, version: int) -> bool:
    return version == memory.version or any(kept["version"] == version for kept in memory.versions)


def _as_of(memory: Memory, version: int | None) -> Json:
    """The parts of a record that a version has."""
    return next((kept for kept in memory.versions if kept["version"] == version), {})


@dataclass(frozen=True)
class RecallRaw:
    query: str | None = None
    session: str | None = None
    last_s: int | None = None
    limit: int = ALL
    sees: tuple[str, ...] = ()
    secrecies: tuple[str, ...] | None = None

    async def run(self, place: Place) -> None:
        span = _span(place, self.last_s)
        body = {
            "query": self.query,
            "session_id": self.session,
            "temporal": _shown_span(span),
            "limit": self.limit,
            "include_private_scratch": "private_scratch" in self.sees,
            "include_sealed": "sealed" in self.sees,
            "secrecy_levels": self.secrecies,
        }
        request = codec.parse(codec.dump(body), RecallRawQuery)
        answer = decoded(await place.engine.recall_raw_query(request, namespace=place.number))
        secrecies = ("public", "sensitive") if self.secrecies is None else self.secrecies
        passed = entries(place.model, self.query, self.session, span, ("normal", *self.sees), secrecies)
        agree(answer["records"], [entry.shown() for entry in passed[: self.limit]], "entries")
        agree(answer["total_candidates"], len(passed), "total_candidates")


@dataclass(frozen=True)
class Timeline:
    last_s: int
    granularity: str = "hour"
    min_fidelity: float | None = None
    emotion: dict[str, float] | None = None

    async def run(self, place: Place) -> None:
        span = (place.now - self.last_s * NANOS, place.now)
        body = {
            "range": _shown_span(span),
            "granularity": self.granularity,
            "min_fidelity": self.min_fidelity,
            "emotion_filter": self.emotion,
        }
        request = codec.parse(codec.dump(body), RecallTimeline)
        answer = decoded(await place.engine.recall_timeline(request, namespace=place.number))
        passed = along_time(place.model, Glance(span, self.min_fidelity, self.emotion), place.now)
        at = place.model.clock(place.now)
        shown = [memory["record"] for bucket in answer["buckets"] for memory in bucket["memories"]]
        agree(shown, [memory.shown(at) for memory in passed], "memories")
        for bucket in answer["buckets"]:
            self._check(bucket)

    def _check(self, bucket: Json) -> None:
        """Aligned, not empty, and holding what is of its time."""
        start, end = parse_timestamp(bucket["start"]), parse_timestamp(bucket["end"])
        times = [parse_timestamp(memory["record"]["created_at"]) for memory in bucket["memories"]]
        agree(bucket["count"], len(times), "count")
        holds(bool(times) and start <= min(times) and max(times) < end, f"bucket {bucket['start']}")
        if width_s := WIDTHS_S.get(self.granularity):
            agree((start % (width_s * NANOS), end - start), (0, width_s * NANOS), "bucket")
        else:
            holds(bucket["start"][8:] == bucket["end"][8:] == "01T00:00:00Z", "a month of the calendar")
            holds(28 * DAY_NS <= end - start <= 31 * DAY_NS, "one month")


@dataclass(frozen=True)
class Associate:
    number: int
    kinds: tuple[str, ...] | None = None
    depth: int = 2
    min_weight: float = 0.1
    limit: int = 256

    async def run(self, place: Place) -> None:
        source = place.pick(self.number)
        body = {
            "association_types": self.kinds,
            "depth": self.depth,
            "min_weight": self.min_weight,
            "limit": self.limit,
        }
        request = codec.parse(codec.dump(body), RecallAssociate)
        call = place.engine.recall_associate(place.pick_id(self.number), request, namespace=place.number)
        if place.model.get(source) is None:
            await place.refuses(call, RecordNotFound)
            return
        answer = decoded(await call)
        reached = spread(place.model, source, self.depth or 2, min_weight=self.min_weight, kinds=self.kinds)
        agree(answer["total_candidates"], len(reached), "total_candidates")
        agree(len(answer["memories"]), min(len(reached), self.limit), "memories")
        place.model.access([memory["record"]["id"] for memory in answer["memories"]])
        levels = sorted((reach.level for reach in reached.values()), reverse=True)
        agree([m["relevance_score"] for m in answer["memories"]], levels[: self.limit], "levels")
        for memory in answer["memories"]:
            self._check(place, memory, reached)

    def _check(self, place: Place, memory: Json, reached: dict[str, Reach]) -> None:
        record_id, path = memory["record"]["id"], memory["activation_path"]
        agree(memory["record"], _at(place, record_id).shown(place.model.clock(place.now)), "record")
        agree((memory["relevance_score"], len(path) - 1), tuple(reached[record_id]), "activation")
        agree((path[0], path[-1]), (place.pick(self.number), record_id), "path")


@dataclass(frozen=True)
class Graph:
    """`number` None: without a center."""

    number: int | None = None
    kinds: tuple[str, ...] | None = None
    depth: int = 2
    limit: int = ALL

    async def run(self, place: Place) -> None:
        center = None if self.number is None else place.pick(self.number)
        body = {"center_id": center, "depth": self.depth, "edge_types": self.kinds, "limit_nodes": self.limit}
        request = codec.parse(codec.dump(body), RecallGraph)
        answer = decoded(await place.engine.recall_graph(request, namespace=place.number))
        ids = [node["id"] for node in answer["nodes"]]
        place.model.access(ids)
        expected = picture(place.model, center, self.depth, self.kinds)
        edges = [(e["source"], e["target"], e["edge_type"], e["weight"]) for e in answer["edges"]]
        agree(answer["total_nodes"], len(ids), "total_nodes")
        if self.limit == ALL:
            agree((sorted(ids), sorted(edges)), (sorted(expected.nodes), sorted(expected.edges)), "graph")
        else:
            holds(set(ids) <= expected.nodes and set(edges) <= set(expected.edges), "a part of the graph")
            agree(len(ids), min(self.limit, len(expected.nodes)), "nodes")
        for node in answer["nodes"]:
            memory = _at(place, node["id"])
            shown = (memory.store, memory.content["summary"] or memory.text)
            agree((node["store"], node["summary"]), shown, "node")
            agree(node["fidelity"], place.model.fidelity(memory, place.now), "fidelity")


@dataclass(frozen=True)
class Forecast:
    numbers: tuple[int, ...]
    in_s: int

    async def run(self, place: Place) -> None:
        memories = [place.model.get(place.pick(number)) for number in self.numbers]
        at = place.now + self.in_s * NANOS
        body = {"record_ids": [place.pick(n) for n in self.numbers], "forecast_at": format_timestamp(at)}
        request = codec.parse(codec.dump(body), DecayForecast)
        call = place.engine.introspect_decay_forecast(request, namespace=place.number)
        if None in memories:
            place.model.access(self._read_before_the_first_unknown(place, memories))
            await place.refuses(call, RecordNotFound)
            return
        answer = decoded(await call)
        place.model.access([memory.id for memory in memories if memory is not None])
        for memory, forecast in zip(memories, answer["forecasts"], strict=True):
            if memory is not None:
                self._check(place, memory, forecast, at)

    @staticmethod
    def _read_before_the_first_unknown(place: Place, memories: Sequence[Memory | None]) -> list[str]:
        known = memories[: list(memories).index(None)]
        return [memory.id for memory in known if memory is not None]

    @staticmethod
    def _check(place: Place, memory: Memory, forecast: Json, at: int) -> None:
        model, now = place.model, place.now
        current = model.fidelity(memory, now)
        then = model.fidelity(memory, max(at, now))
        shown = forecast["record_id"], forecast["current_fidelity"], forecast["forecasted_fidelity"]
        agree(shown, (memory.id, current, then), "forecast")
        date = forecast["estimated_threshold_date"]
        if date is None:
            in_ten_years = model.fidelity(memory, now + YEARS_10_NS)
            holds(current <= FAINT or in_ten_years >= FAINT * (1 - 1e-9), "a date at which it is faint")
        else:
            holds(current > FAINT, "no date for what is faint")
            agree(model.fidelity(memory, parse_timestamp(date)), FAINT, "fidelity of that day")
