"""recall.associate and recall.graph: what hangs together with a memory, read and shown.

Owns no state: the graph follows the edges, working memory says what it holds, the stores read what was found.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from cerememory.actors.actor import Actor
from cerememory.actors.graph import Activate, Activated, Explore, Explored
from cerememory.actors.reading import fetch, recalled
from cerememory.actors.seams import World
from cerememory.actors.stores import Memory
from cerememory.actors.working import Held
from cerememory.domain.graph import Link, node_label, types_named
from cerememory.errors import RecordNotFound
from cerememory.protocol import codec, replies
from cerememory.protocol.records import AssociationType, MemoryContent, MetaEdge, MetaMemory, Store
from cerememory.protocol.requests import LIMIT_MAX, RecallAssociate, RecallGraph
from cerememory.protocol.values import RecordId, format_id
from cerememory.storage.rows import STORE_CODE, meta_json

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
        memories = {memory.record_id: memory for memory in fetched.memories}
        results = tuple(
            recalled(memories[found.record_id], found.activation.level, found.activation.path)
            for found in chosen
            if found.record_id in memories
        )
        return replies.Associated(memories=results, total_candidates=len(activated.memories))

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
        fetched = await fetch(self._stores, namespace, [_Node(*node) for node in explored.nodes])
        return await self._world.offload(partial(_graph, explored, fetched.memories, request.include_meta))


def _graph(explored: Explored, found: tuple[Memory, ...], include_meta: bool) -> replies.Graph:
    memories = {memory.record_id: memory for memory in found}
    ordered = [memories[record_id] for record_id, _code in explored.nodes if record_id in memories]
    return replies.Graph(
        nodes=tuple(_node(memory, include_meta) for memory in ordered),
        edges=tuple(_edge(link) for link in explored.links),
        total_nodes=len(ordered),
        meta_edges=tuple(edge for memory in ordered for edge in _meta_edges(memory)) if include_meta else (),
    )


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
