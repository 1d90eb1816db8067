"""What consolidation does with episodic memories: which are the same one twice, and which become knowledge.

Owns the choice, the edges of a memory that absorbed another, and the summary of a semantic copy. Reading the
memories, and writing what was chosen, is storage's. A plan is made of what is there and changes nothing: a dry
run counts the same plan that a real run carries out. A memory is never copied twice, so a run after a run finds
nothing to do, and one may look at what another has looked at: an incremental one does, by `LOOK_BACK_NS`. What it
only looks at again isn't counted.

Source: the engine specification, "Consolidate". All `_at` are nanoseconds since the epoch.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from cerememory.domain.dreaming import text_of
from cerememory.errors import ValidationFailed
from cerememory.protocol.records import Association, AssociationType, ContentBlock, MemoryContent, Modality
from cerememory.protocol.requests import Consolidate, Strategy
from cerememory.protocol.values import NANOS, RecordId, Timestamp

COSINE_MIN = 0.92  # beyond it two embeddings mean the same
HOUR_NS = 3_600 * NANOS
LOOK_BACK_NS = 10 * 60 * NANOS  # what is written has the time at which it was asked for: it may come so much later
SUMMARY_CHARS = 100  # of the text, where a memory has no summary
CUT = "..."
COMPARED_MAX = 2**22  # how many cosines are held at a time
LIKENESS_BYTES = 16

Embedding: TypeAlias = NDArray[np.float32]  # float32[d]
Embeddings: TypeAlias = Callable[[Sequence[RecordId]], Sequence[Embedding]]


class Episode(msgspec.Struct, frozen=True):
    """An episodic memory as far as consolidation looks at it.

    `touched_at` is when it was last edited or recalled, `fidelity` its score (0 to 1) of now. `likeness` is equal
    for equal contents, and None for a memory without an embedding.
    """

    record_id: RecordId
    created_at: int
    touched_at: int
    access_count: int
    fidelity: float
    likeness: bytes | None
    has_copy: bool


@dataclass(frozen=True, slots=True)
class Criteria:
    """What a run looks at. `changed_since` None: at all; `by_text`: duplicates have the same text, too.

    What was as it is at `last_run_at` may have been looked at by that run.

    A memory with a semantic copy and a fidelity under `faint_below` is to be taken away; none is by default.
    """

    min_age_ns: int = 0
    min_access_count: int = 0
    changed_since: int | None = None
    last_run_at: int | None = None
    by_text: bool = True
    faint_below: float = 0.0

    def concern(self, episode: Episode) -> bool:
        """Whether anything of what is asked of `episode` may be other than at the run of `changed_since`."""
        return self.changed_since is None or self._changed_at(episode) > self.changed_since

    def is_news(self, episode: Episode) -> bool:
        """Whether the last run can't have looked at it as it is."""
        return self.last_run_at is None or self._changed_at(episode) > self.last_run_at

    def _changed_at(self, episode: Episode) -> int:
        return max(episode.touched_at, episode.created_at + self.min_age_ns)

    def are_met_by(self, episode: Episode, now: int) -> bool:
        old_enough = episode.created_at + self.min_age_ns <= now
        return old_enough and episode.access_count >= self.min_access_count


@dataclass(frozen=True, slots=True)
class Merge:
    """`kept` takes over the edges of the `absorbed`, which go."""

    kept: RecordId
    absorbed: tuple[RecordId, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done, in this order: `faint` are those that go.

    `processed`: how many memories are looked at, but for those that stay as the last run has seen them.
    """

    processed: int
    merges: tuple[Merge, ...]
    copies: tuple[RecordId, ...]
    faint: tuple[RecordId, ...] = ()

    @property
    def absorbed_count(self) -> int:
        return sum(len(merge.absorbed) for merge in self.merges)


def criteria_of(request: Consolidate, last_run_at: int | None, faint_below: float, now: int) -> Criteria:
    """`full` looks at all, `incremental` at what changed since the last run, `selective` at what it is told to.

    `last_run_at` None or 0: all is to be looked at. A run that is yet to come, by the clock, was of another clock.
    """
    if request.strategy is Strategy.SELECTIVE and not (request.min_age_hours or request.min_access_count):
        raise ValidationFailed("strategy: selective needs min_age_hours or min_access_count")
    is_incremental = request.strategy is Strategy.INCREMENTAL and (last_run_at or 0) <= now
    return Criteria(
        min_age_ns=request.min_age_hours * HOUR_NS,
        min_access_count=request.min_access_count,
        changed_since=last_run_at - LOOK_BACK_NS if is_incremental and last_run_at else None,
        last_run_at=last_run_at if is_incremental and last_run_at else None,
        by_text=not request.dedup,
        faint_below=faint_below,
    )


def plan_of(episodes: Sequence[Episode], criteria: Criteria, embeddings: Embeddings, now: int) -> Plan:
    """What a run at `now` does. `embeddings` gives those of the memories asked for; it is asked about few."""
    merges = tuple(_merges(episodes, criteria, embeddings))
    gone = {record_id for merge in merges for record_id in merge.absorbed}
    copied = _ids_with_copy(episodes, merges)
    concerned = [episode for episode in episodes if criteria.concern(episode)]
    meant = [e for e in concerned if e.record_id not in gone and criteria.are_met_by(e, now)]
    copies = tuple(episode.record_id for episode in meant if episode.record_id not in copied)
    faint = tuple(episode.record_id for episode in meant if episode.fidelity < criteria.faint_below)
    changed = gone.union(copies, faint, (merge.kept for merge in merges))
    processed = sum(criteria.is_news(episode) or episode.record_id in changed for episode in concerned)
    return Plan(processed, merges, copies, faint)


def _ids_with_copy(episodes: Iterable[Episode], merges: Iterable[Merge]) -> set[RecordId]:
    """A memory that absorbs one with a semantic copy has that copy from then on."""
    copied = {episode.record_id for episode in episodes if episode.has_copy}
    return copied | {merge.kept for merge in merges if not copied.isdisjoint(merge.absorbed)}


def _merges(episodes: Iterable[Episode], criteria: Criteria, embeddings: Embeddings) -> Iterator[Merge]:
    alike: dict[bytes | None, list[Episode]] = defaultdict(list)
    for episode in episodes:
        if episode.likeness is not None:
            alike[episode.likeness if criteria.by_text else None].append(episode)
    for members in alike.values():
        if len(members) > 1 and any(criteria.concern(member) for member in members):
            yield from near_duplicates(members, embeddings([member.record_id for member in members]))


def near_duplicates(episodes: Sequence[Episode], embeddings: Sequence[Embedding]) -> list[Merge]:
    """Those of `episodes` that mean the same, each with its embedding; only equal lengths are compared.

    The one with the higher fidelity stays, of equals the older. Order doesn't matter.
    """
    by_length: dict[int, list[tuple[Episode, Embedding]]] = defaultdict(list)
    for pair in zip(episodes, embeddings, strict=True):
        by_length[len(pair[1])].append(pair)
    return [merge for pairs in by_length.values() for merge in _absorbed(sorted(pairs, key=_precedence))]


def _precedence(pair: tuple[Episode, Embedding]) -> tuple[float, int, bytes]:
    episode, _embedding = pair
    return -episode.fidelity, episode.created_at, episode.record_id


def _absorbed(pairs: list[tuple[Episode, Embedding]]) -> Iterator[Merge]:
    """Each takes in whoever stands behind it, is near it, and wasn't taken in yet."""
    ids = [episode.record_id for episode, _embedding in pairs]
    free = np.ones(len(pairs), dtype=np.bool_)
    for i, near in enumerate(_nearness([embedding for _episode, embedding in pairs])):
        near[: i + 1] = False
        taken = np.flatnonzero(near & free)
        if free[i] and len(taken):
            free[taken] = False
            yield Merge(ids[i], tuple(ids[j] for j in taken))


def _nearness(embeddings: list[Embedding]) -> Iterator[NDArray[np.bool_]]:
    """For each of the embeddings which of them, bool[n], are near it."""
    vectors = np.stack(embeddings)
    norms = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))[:, np.newaxis]
    unit = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0, casting="same_kind")
    rows = max(1, COMPARED_MAX // len(unit))
    for start in range(0, len(unit), rows):
        yield from unit[start : start + rows] @ unit.T > COSINE_MIN


def likeness(content: MemoryContent) -> bytes:
    """16 bytes, equal for contents that say the same: case and white space of texts don't count, all else does."""
    digest = blake2b(digest_size=LIKENESS_BYTES)
    for part in (*map(_block_part, content.blocks), _normalised(content.summary or "").encode()):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()


def _block_part(block: ContentBlock) -> bytes:
    if block.modality is Modality.TEXT:
        return b"text\0" + _normalised(block.data.decode(errors="replace")).encode()
    return f"{block.modality.value}\0{block.format}\0".encode() + block.data


def _normalised(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def joined_edges(
    owner: RecordId, edges: Iterable[Association], moved: Mapping[RecordId, RecordId]
) -> tuple[Association, ...]:
    """`edges` as those of `owner`, pointing to where their targets `moved`; none to itself, none twice.

    Of two edges of one type to one target the stronger weight stays, and the first and the last of their times.
    """
    joined: dict[tuple[RecordId, AssociationType], Association] = {}
    for edge in edges:
        target = moved.get(edge.target_id, edge.target_id)
        if target != owner:
            place = target, edge.association_type
            joined[place] = _joined(msgspec.structs.replace(edge, target_id=target), joined.get(place))
    return tuple(joined.values())


def _joined(edge: Association, known: Association | None) -> Association:
    if known is None:
        return edge
    return msgspec.structs.replace(
        known,
        weight=max(known.weight, edge.weight),
        created_at=Timestamp(min(known.created_at, edge.created_at)),
        last_co_activation=Timestamp(max(known.last_co_activation, edge.last_co_activation)),
    )


def copied_content(content: MemoryContent, summary: str | None = None) -> MemoryContent:
    """The content of a semantic copy: its own summary, else `summary` (a provider's), else how its text begins."""
    if content.summary is not None:
        return content
    return msgspec.structs.replace(content, summary=summary or _beginning(text_of(content)))


def _beginning(text: str) -> str | None:
    """None when there is no text."""
    return (text[:SUMMARY_CHARS] + CUT if len(text) > SUMMARY_CHARS else text) or None
