"""lifecycle.set_mode: which stores are recalled in perfect mode, whatever a request asks for."""

from __future__ import annotations

from dataclasses import dataclass

from cerememory.domain.audit_chain import AuditDraft
from cerememory.protocol.records import STORES, Store
from cerememory.protocol.requests import RecallMode
from cerememory.storage.contract import Reader
from cerememory.storage.keys import Table, pack_namespace, system_key
from cerememory.storage.ledger import Ledger
from cerememory.storage.mutations import Stored
from cerememory.storage.rows import STORE_CODE


def perfect_codes(reader: Reader, namespace: int) -> frozenset[int]:
    """The codes of the stores in perfect mode."""
    return frozenset(reader.get(_modes_key(namespace)) or b"")


@dataclass(frozen=True, slots=True)
class SetModes:
    """Put the stores of `scope` (None: all) into `mode`."""

    namespace: int
    mode: RecallMode
    scope: tuple[Store, ...] | None
    now: int

    def apply(self, ledger: Ledger) -> Stored[None]:
        codes = {STORE_CODE[store] for store in (STORES if self.scope is None else self.scope)}
        before = frozenset(ledger.get(_modes_key(self.namespace)) or b"")
        after = before | codes if self.mode is RecallMode.PERFECT else before - codes
        ledger.put(_modes_key(self.namespace), bytes(sorted(after)))
        ledger.audit(AuditDraft(self.now, "lifecycle.set_mode", (), (), {"mode": self.mode.value}))
        return Stored(None, ledger.sequence)


def _modes_key(namespace: int) -> bytes:
    return system_key(Table.MODES, pack_namespace(namespace))
