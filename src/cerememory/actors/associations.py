"""recall.associate and recall.graph: what hangs together with a memory, read and shown.

Owns no state: the graph follows the edges, working memory says what it holds, the stores read what was found.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from cerememory.actors.actor import Actor
from cerememory.actors.graph import Activate, Activated, Explore, Explored, Reached
from cerememory.actors.reading import Fitting, fetch, recalled
from cerememory.actors.seams import World
from cerememory.actors.stores import Memory
from cerememory.actors.working import Held
from cerememory.domain.graph import Link, node_label, types_named
from cerememory.errors import RecordNotFound
from cerememory.protocol import codec, replies
from cerememory.protocol.long import ANSWER_BYTES_MAX, LONG_BYTES, listed
from cerememory.protocol.records import AssociationType, MemoryContent, MetaEdge, MetaMemory, Store
from cerememory.protocol.requests import LIMIT_MAX, RecallAssociate, RecallGraph
from cerememory.protocol.values import RecordId, format_id
from cerememory.storage.rows import STATE_SHOWN_BYTES, STORE_CODE, meta_json

DEPTH_OF_ZERO = 2  # what a depth of 0 means to recall.associate
WORKING_CODE = STORE_CODE[Store.WORKING]


class _Node(NamedTuple):
    record_id: RecordId
    store_code: int


class Associations:
    """`stores` in the order of their codes."""

    def __init__(self, stores: tuple[Actor, ...], graph: Actor, world: World) -> None:
        self._stores = stores
        self._graph = graph
        self._world = world

    async def activated(
        self,
        namespace: int,
        source: RecordId,
        depth: int,
        *,
        min_weight: float = 0.0,
        types: frozenset[AssociationType] | None = None,
    ) -> Activated:
        """What `source` brings to mind, in all stores; see `Spread`."""
        held = await self._held(namespace)
        return await self._graph.ask(Activate(namespace, source, depth, held, min_weight, types))

    async def _held(self, namespace: int) -> tuple[Memory, ...]:
        held: tuple[Memory, ...] = await self._stores[WORKING_CODE].ask(Held(namespace))
        return held

    async def associate(self, namespace: int, record_id: RecordId, request: RecallAssociate) -> replies.Associated:
        """The answer to a validated request; raises `RecordNotFound`."""
        types = request.association_types
        activated = await self.activated(
            namespace,
            record_id,
            request.depth or DEPTH_OF_ZERO,
            min_weight=request.min_weight,
            types=None if types is None else frozenset(types),
        )
        if not activated.has_source:
            raise RecordNotFound(f"Record not found: {format_id(record_id)}")
        chosen = activated.memories[: request.limit]
        fetched = await fetch(self._stores, namespace, chosen)
        results = partial(_results, chosen, fetched)
        return replies.Associated(
            memories=await self._world.offload(results) if fetched.is_long else results(),
            total_candidates=len(activated.memories),
            truncated=fetched.count < len(chosen) or msgspec.UNSET,
        )

    async def graph(self, namespace: int, request: RecallGraph) -> replies.Graph:
        """The answer to a request; without a center working memory isn't touched."""
        explore = Explore(
            namespace,
            request.center_id,
            request.depth,
            min(request.limit_nodes, LIMIT_MAX),
            () if request.center_id is None else await self._held(namespace),
            None if request.edge_types is None else types_named(request.edge_types),
        )
        explored = await self._graph.ask(explore)
        drawing, unread = _Drawing(request.include_meta), [_Node(*node) for node in explored.nodes]
        while unread:  # a node shows little of what is read for it
            fetched = await fetch(self._stores, namespace, unread)
            await self._world.offload(partial(drawing.add, fetched.memories))
            unread = unread[fetched.count :]
        return await self._world.offload(partial(drawing.graph, explored))


def _results(chosen: Iterable[Reached], fetched: Fitting) -> tuple[replies.RecalledMemory, ...]:
    memories = {memory.record_id: memory for memory in fetched.memories}
    results = (
        recalled(memories[found.record_id], found.activation.level, found.activation.path)
        for found in chosen
        if found.record_id in memories
    )
    return listed(results, is_long=fetched.is_long)


class _Drawing:
    """A graph whose nodes are added in pieces, until one answer is full."""

    def __init__(self, include_meta: bool) -> None:
        self._include_meta = include_meta
        self._nodes: list[replies.GraphNode] = []
        self._meta_edges: list[MetaEdge] = []
        self._total = 0
        self._shown_bytes = 0

    def add(self, memories: Iterable[Memory]) -> None:
        for memory in memories:
            self._total += 1
            node = _node(memory, self._include_meta)
            size_bytes = _shown_bytes(memory, node)
            if self._shown_bytes and self._shown_bytes + size_bytes > ANSWER_BYTES_MAX:
                self._shown_bytes = ANSWER_BYTES_MAX  # what comes behind it isn't shown either
                continue
            self._shown_bytes += size_bytes
            self._nodes.append(node)
            if self._include_meta:
                self._meta_edges += _meta_edges(memory)

    def graph(self, explored: Explored) -> replies.Graph:
        is_long = self._shown_bytes > LONG_BYTES
        return replies.Graph(
            nodes=listed(self._nodes, is_long=is_long),
            edges=tuple(_edge(link) for link in explored.links),
            total_nodes=self._total,
            meta_edges=listed(self._meta_edges, is_long=is_long),
            truncated=len(self._nodes) < self._total or msgspec.UNSET,
        )


def _shown_bytes(memory: Memory, node: replies.GraphNode) -> int:
    """About what a node takes in an answer, where edges of its meta are there twice."""
    return STATE_SHOWN_BYTES + len(node.summary) + (0 if node.meta is msgspec.UNSET else 2 * len(memory.row.meta))


def _node(memory: Memory, include_meta: bool) -> replies.GraphNode:
    row = memory.row
    meta = msgspec.Raw(meta_json(row.meta, "encode.store", row.created_at)) if include_meta else msgspec.UNSET
    return replies.GraphNode(
        id=memory.record_id,
        store=row.store,
        summary=node_label(codec.parse(row.content, MemoryContent)),
        fidelity=memory.state.score,
        meta=meta,
    )


def _edge(link: Link) -> replies.GraphEdge:
    association = link.association
    return replies.GraphEdge(
        source=link.source,
        target=association.target_id,
        edge_type=association.association_type,
        weight=association.weight,
    )


def _meta_edges(memory: Memory) -> tuple[MetaEdge, ...]:
    """Those of the memory's meta; one that doesn't say where it comes from comes from the memory."""
    if not memory.row.meta:
        return ()
    edges = codec.parse(memory.row.meta, MetaMemory).context_edges
    return tuple(edge if edge.source_id else replace(edge, source_id=memory.record_id) for edge in edges)
