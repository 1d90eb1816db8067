"""Mutations committed to a store without a writer, each call one transaction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cerememory.domain.audit_chain import GENESIS
from cerememory.domain.fidelity import State
from cerememory.errors import CerememoryError
from cerememory.protocol import codec
from cerememory.protocol.requests import EncodeUpdate, Forget
from cerememory.protocol.values import RecordId
from cerememory.storage import prepare
from cerememory.storage.contract import Storage
from cerememory.storage.forgetting import ForgetRecords
from cerememory.storage.keys import DEFAULT_NAMESPACE, Table, key, state_key, system_key
from cerememory.storage.ledger import Finished, Ledger, Mutation
from cerememory.storage.mutations import StoreRaw, StoreRecords, UpdateRecord
from cerememory.storage.prepared import NewRecord, SavedState
from cerememory.storage.rows import parse_content_row, parse_head, parse_state_row
from tests.support.engine import NOW, to_store, to_store_raw


def commit(
    storage: Storage, *mutations: Mutation[Any], audited: bool = True, now: int = NOW
) -> tuple[list[Any], Finished | None]:
    """The answers in one transaction, a known error standing for the answer it took; and what was committed."""
    with storage.read() as reader:
        head = parse_head(reader.get(system_key(Table.HEAD)), GENESIS)
        ledger = Ledger(reader, head, now, audited=audited, index_applied=0)
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


def a_record(
    number: int,
    text: str = "kettle",
    created_at: int = NOW,
    *,
    namespace: int = DEFAULT_NAMESPACE,
    **given: Any,
) -> NewRecord:
    return prepare.new_record(namespace, to_store(text, **given), an_id(number), created_at)


def storing(*records: NewRecord) -> StoreRecords[Any]:
    audit, reply = prepare.store_audit(records[0], NOW), prepare.encoded(records[0])
    return StoreRecords(records[0].namespace, records, audit, reply)


def storing_raw(
    number: int,
    text: str = "said",
    created_at: int = NOW,
    *,
    namespace: int = DEFAULT_NAMESPACE,
    **given: Any,
) -> StoreRaw[None]:
    new = prepare.new_raw(namespace, to_store_raw(text, **given), an_id(number), created_at)
    return StoreRaw(namespace, (new,), (prepare.raw_audit(new, NOW),), None)


def updating(
    number: int,
    expected_version: int | None = None,
    *,
    now: int = NOW,
    namespace: int = DEFAULT_NAMESPACE,
    versions_kept: int = 100,
    **given: Any,
) -> UpdateRecord:
    """An edit of the parts `given`."""
    edit = prepare.edit(codec.parse(codec.dump(given), EncodeUpdate), now)
    return UpdateRecord(namespace, an_id(number), edit, expected_version, now, versions_kept)


def forgetting(number: int, *, namespace: int = DEFAULT_NAMESPACE) -> ForgetRecords:
    return ForgetRecords(namespace, Forget(record_ids=(an_id(number),), confirm=True), {}, NOW)


def saved_state(record: NewRecord, state: State) -> SavedState:
    """What a recall that found `record` as it was stored leaves of it."""
    row = record.row
    return SavedState(record.namespace, record.record_id, row.created_at, row.store_code, record.state, state)


def state_key_of(rows: Mapping[bytes, bytes], record_id: RecordId, namespace: int = DEFAULT_NAMESPACE) -> bytes:
    """Where `rows`, all that is committed, have the state of a stored memory."""
    row = parse_content_row(rows[key(namespace, Table.CONTENT, record_id)])
    return state_key(namespace, row.created_at, record_id)


def stored_state(rows: Mapping[bytes, bytes], record_id: RecordId, namespace: int = DEFAULT_NAMESPACE) -> State:
    _store_code, state = parse_state_row(rows[state_key_of(rows, record_id, namespace)])
    return state
