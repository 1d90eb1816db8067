"""The graph actor: how memories hang together, for whoever follows associations.

It owns the edges of the memories that were asked for last, up to a number of edges, reads further ones from
storage, and lets go of what a commit changes. Edges lead from the memory that they are stored with to their
target, never back. Working memory has no rows: whoever asks brings along what it holds.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

from cerememory.actors.actor import Actor, Reply, Request
from cerememory.actors.followers import CommitsUntold, EdgesCommitted
from cerememory.actors.seams import World
from cerememory.actors.stores import Memory
from cerememory.domain.activation import Activation, Spread
from cerememory.domain.graph import Link, Walk
from cerememory.protocol.records import Association, AssociationType
from cerememory.protocol.values import RecordId
from cerememory.storage.contract import Storage
from cerememory.storage.keys import Address, Table, after, key, trailing_id
from cerememory.storage.rows import EDGE_BYTES, parse_content_row, parse_edges

EDGES_KEPT_MAX = 50_000  # about 16 MB
EDGES_FOLLOWED_MAX = 10_000  # of one memory, as many as the largest graph shows
INLINE_MAX = 64  # a level of more memories is read in a thread: it takes over 1 ms


class Node(NamedTuple):
    """A memory in the graph: what kind it is, when it was made, and which edges leave it."""

    store_code: int
    created_at: int
    edges: tuple[Association, ...]


class Reached(NamedTuple):
    """An activated memory."""

    record_id: RecordId
    store_code: int
    created_at: int
    activation: Activation


@dataclass(frozen=True, slots=True)
class Activated:
    """What the source brings to mind, the strongest first, and whether there is a source."""

    has_source: bool
    memories: tuple[Reached, ...]


@dataclass(frozen=True, slots=True)
class Activate(Request[Activated]):
    """Spread activation from `source`; see `Spread`. `held` is what working memory holds."""

    namespace: int
    source: RecordId
    depth: int
    held: tuple[Memory, ...]
    min_weight: float = 0.0
    types: frozenset[AssociationType] | None = None


@dataclass(frozen=True, slots=True)
class Explored:
    """The nodes with the codes of their stores, and the edges, in the order in which they were found."""

    nodes: tuple[tuple[RecordId, int], ...]
    links: tuple[Link, ...]


@dataclass(frozen=True, slots=True)
class Explore(Request[Explored]):
    """Walk from `center`, or without one from the memories made first; see `Walk`."""

    namespace: int
    center: RecordId | None
    depth: int
    limit_nodes: int
    held: tuple[Memory, ...]
    types: frozenset[AssociationType] | None = None


Nodes = dict[RecordId, Node]


class Graph(Actor):
    """Follows edges; `edges_kept_max` bounds what it keeps of them in memory."""

    def __init__(
        self, storage: Storage, world: World, *, edges_kept_max: int = EDGES_KEPT_MAX, mailbox_size: int = 256
    ) -> None:
        super().__init__("graph", mailbox_size)
        self._storage = storage
        self._world = world
        self._edges_kept_max = edges_kept_max
        self._kept: OrderedDict[Address, Node] = OrderedDict()
        self._edges_kept = 0

    async def load(self) -> None:
        self._kept.clear()
        self._edges_kept = 0

    async def handle(self, message: Any, reply: Reply[Any] | None) -> Any:
        match message:
            case Activate():
                return await self._activate(message)
            case Explore():
                return await self._world.offload(partial(self._explore, message))
            case EdgesCommitted():
                self._let_go(message.addresses)
                return None
            case CommitsUntold():
                await self.load()
                return None
        return await super().handle(message, reply)

    async def _activate(self, request: Activate) -> Activated:
        spread = Spread(request.source, request.depth, min_weight=request.min_weight, types=request.types)
        held, nodes = _nodes_of(request.held), Nodes()
        while frontier := spread.frontier:
            step = partial(self._step, spread, request.namespace, held)
            nodes |= step() if len(frontier) <= INLINE_MAX else await self._world.offload(step)
        reached = [
            Reached(record_id, nodes[record_id].store_code, nodes[record_id].created_at, activation)
            for record_id, activation in spread.activated().items()
        ]
        return Activated(request.source in nodes, tuple(reached))

    def _explore(self, request: Explore) -> Explored:
        roots = self._first(request) if request.center is None else [request.center]
        walk = Walk(roots, request.depth, limit_nodes=request.limit_nodes, types=request.types)
        held, nodes = _nodes_of(request.held), Nodes()
        while walk.frontier:
            nodes |= self._step(walk, request.namespace, held)
        found = tuple((record_id, nodes[record_id].store_code) for record_id in walk.nodes)
        return Explored(found, tuple(walk.links))

    def _first(self, request: Explore) -> list[RecordId]:
        prefix = key(request.namespace, Table.STATE)
        with self._storage.read() as reader:
            rows = islice(reader.scan(prefix, after(prefix)), request.limit_nodes)
            return [trailing_id(row_key) for row_key, _value in rows]

    def _step(self, walk: Spread | Walk, namespace: int, held: Nodes) -> Nodes:
        """Take `walk` one step on; the memories that it came by."""
        nodes = self._nodes(namespace, walk.frontier, held)
        walk.advance({record_id: node.edges for record_id, node in nodes.items()})
        return nodes

    def _nodes(self, namespace: int, wanted: list[RecordId], held: Nodes) -> Nodes:
        found: Nodes = {}
        missing: list[RecordId] = []
        for record_id in wanted:
            node = held.get(record_id) or self._recalled((namespace, record_id))
            if node is None:
                missing.append(record_id)
            else:
                found[record_id] = node
        if missing:
            read = self._read(namespace, missing)
            self._keep(namespace, read)
            found |= read
        return found

    def _recalled(self, address: Address) -> Node | None:
        node = self._kept.get(address)
        if node is not None:
            self._kept.move_to_end(address)
        return node

    def _read(self, namespace: int, record_ids: list[RecordId]) -> Nodes:
        keys = [key(namespace, table, i) for table in (Table.CONTENT, Table.EDGES) for i in record_ids]
        with self._storage.read() as reader:
            values = reader.get_many(keys)
        contents, edges = values[: len(record_ids)], values[len(record_ids) :]
        return {
            record_id: _node(content, found)
            for record_id, content, found in zip(record_ids, contents, edges, strict=True)
            if content is not None
        }

    def _keep(self, namespace: int, nodes: Mapping[RecordId, Node]) -> None:
        for record_id, node in nodes.items():
            self._kept[namespace, record_id] = node
            self._edges_kept += _size(node)
        while self._edges_kept > self._edges_kept_max:
            _address, dropped = self._kept.popitem(last=False)
            self._edges_kept -= _size(dropped)

    def _let_go(self, addresses: Iterable[Address]) -> None:
        for address in addresses:
            node = self._kept.pop(address, None)
            if node is not None:
                self._edges_kept -= _size(node)


def _node(content: bytes, edges: bytes | None) -> Node:
    row = parse_content_row(content)
    followed = edges and edges[: EDGE_BYTES * EDGES_FOLLOWED_MAX]
    return Node(row.store_code, row.created_at, parse_edges(followed))


def _nodes_of(held: tuple[Memory, ...]) -> Nodes:
    return {
        memory.record_id: Node(memory.row.store_code, memory.row.created_at, memory.associations())
        for memory in held
    }


def _size(node: Node) -> int:
    """A memory without edges takes room, too."""
    return 1 + len(node.edges)


def has_edges(storage: Storage, namespace: int, record_id: RecordId) -> bool:
    """Whether any edge leaves a durable memory: a look that spares the graph most of its questions."""
    with storage.read() as reader:
        return reader.get(key(namespace, Table.EDGES, record_id)) is not None
