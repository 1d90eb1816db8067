"""How the memories of each namespace fade, as it is kept: the clock that ticks move, and what evolution moved.

`Curves` reads it for whoever needs to know a fidelity; mutations change it through the ledger.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

import msgspec

from cerememory.domain.curve import Curve, Rules
from cerememory.domain.decay import STANDARD
from cerememory.domain.evolution import UNEVOLVED, StoreEvolution, curve
from cerememory.errors import StorageDamaged
from cerememory.protocol.records import STORES
from cerememory.storage.keys import Table, pack_namespace, system_key

NAMESPACES_KEPT = 256  # whose curves stay in memory


class DynamicsRow(msgspec.Struct, frozen=True, array_like=True):
    """`evolutions` in the order of the stores' codes; those of working memory never move."""

    ahead_ns: int = 0
    evolutions: tuple[StoreEvolution, ...] = (UNEVOLVED,) * len(STORES)


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(DynamicsRow)
UNMOVED = DynamicsRow()


class Reads(Protocol):
    """A reader, or a ledger."""

    def get(self, key: bytes, /) -> bytes | None: ...


def dynamics_key(namespace: int) -> bytes:
    return system_key(Table.DYNAMICS, pack_namespace(namespace))


def read_dynamics(reads: Reads, namespace: int) -> DynamicsRow:
    return parse_dynamics(reads.get(dynamics_key(namespace)))


def parse_dynamics(value: bytes | None) -> DynamicsRow:
    if value is None:
        return UNMOVED
    try:
        return _decoder.decode(value)
    except msgspec.DecodeError as error:
        raise StorageDamaged(f"a dynamics row can't be read: {error}") from error


def dump_dynamics(row: DynamicsRow) -> bytes:
    return _encoder.encode(row)


class Curves:
    """The curves of a namespace, one for each store in the order of the codes. For one thread at a time.

    `is_frozen`: what is observed of the stores moves nothing.
    """

    def __init__(self, rules: Rules, *, is_frozen: bool = False) -> None:
        self.rules = rules
        self.is_frozen = is_frozen
        self._known: OrderedDict[int, tuple[bytes | None, tuple[Curve, ...]]] = OrderedDict()

    def of(self, reads: Reads, namespace: int) -> tuple[Curve, ...]:
        value = reads.get(dynamics_key(namespace))
        known = self._known.get(namespace)
        if known is None or known[0] != value:
            known = self._known[namespace] = value, self.made(parse_dynamics(value))
            self._known.move_to_end(namespace)
            if len(self._known) > NAMESPACES_KEPT:
                self._known.popitem(last=False)
        return known[1]

    def made(self, row: DynamicsRow) -> tuple[Curve, ...]:
        """One that is as the standard says is the standard's own."""
        pairs = zip(STORES, row.evolutions, strict=True)
        made = [(store, curve(store, evolution, self.rules, row.ahead_ns)) for store, evolution in pairs]
        return tuple(STANDARD[store] if found == STANDARD[store] else found for store, found in made)
