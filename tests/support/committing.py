"""Mutations committed to a store without a writer, each call one transaction."""

from __future__ import annotations

from typing import Any

from cerememory.domain.audit_chain import GENESIS
from cerememory.domain.fidelity import State
from cerememory.errors import CerememoryError
from cerememory.protocol.values import RecordId
from cerememory.storage import prepare
from cerememory.storage.contract import Storage
from cerememory.storage.keys import Table, system_key
from cerememory.storage.ledger import Finished, Ledger, Mutation
from cerememory.storage.mutations import StoreRaw, StoreRecords
from cerememory.storage.prepared import NewRecord
from cerememory.storage.rows import parse_head
from tests.support.engine import NOW, to_store, to_store_raw


def commit(storage: Storage, *mutations: Mutation[Any]) -> tuple[list[Any], Finished | None]:
    """The answers in one transaction, a known error standing for the answer it took; and what was committed."""
    with storage.read() as reader:
        head = parse_head(reader.get(system_key(Table.HEAD)), GENESIS)
        ledger = Ledger(reader, head, NOW, audited=True, index_applied=0)
        answers = [_attempted(ledger, mutation) for mutation in mutations]
        finished = ledger.finish()
    if finished is not None:
        storage.commit(finished.changes)
    return answers, finished


def _attempted(ledger: Ledger, mutation: Mutation[Any]) -> Any:
    try:
        return ledger.attempt(mutation)
    except CerememoryError as error:
        return error


STATE_FIELDS = tuple(State.__annotations__)


def changed(state: State, **given: Any) -> State:
    """`state` with other values in some of its fields."""
    return State(**{**{name: getattr(state, name) for name in STATE_FIELDS}, **given})


def an_id(number: int) -> RecordId:
    return RecordId(number.to_bytes(16, "big"))


def a_record(number: int, text: str = "kettle", created_at: int = NOW, **given: Any) -> NewRecord:
    return prepare.new_record(to_store(text, **given), an_id(number), created_at)


def storing(*records: NewRecord) -> StoreRecords[Any]:
    return StoreRecords(records, prepare.store_audit(records[0], NOW), prepare.encoded(records[0]))


def storing_raw(number: int, text: str = "said", created_at: int = NOW, **given: Any) -> StoreRaw[None]:
    new = prepare.new_raw(to_store_raw(text, **given), an_id(number), created_at)
    return StoreRaw((new,), (prepare.raw_audit(new, NOW),), None)
