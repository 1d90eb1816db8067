"""What can go wrong on each route, and why: the error table, as the OpenAPI document tells it.

Codes and statuses are those of `errors.ANSWERS`; here stands which of them an operation may answer.
"""

from __future__ import annotations

from cerememory.errors import (
    ActorBusy,
    ActorStopped,
    AuditEntriesAway,
    BodyTooSlow,
    CerememoryError,
    ConsolidationInProgress,
    ContentTooLarge,
    ExportFailed,
    Forbidden,
    ForgetUnconfirmed,
    HeadTooLarge,
    IdempotencyConflict,
    ImportConflict,
    InternalError,
    ModalityUnsupported,
    NotCaughtUp,
    PreconditionFailed,
    ProviderUnavailable,
    RateLimited,
    RecordNotFound,
    StorageDamaged,
    StorageUnavailable,
    TooManyBytes,
    Unauthorized,
    ValidationFailed,
    VersionMismatch,
)
from cerememory.protocol.operations import Operation

REASONS: dict[type[CerememoryError], str] = {
    ActorBusy: "There is too much to do at the moment.",
    ActorStopped: "A part of the daemon isn't running.",
    AuditEntriesAway: "The file with the audit entries was moved away; the message names it.",
    BodyTooSlow: "The body didn't arrive in time.",
    ConsolidationInProgress: "Another consolidation is running.",
    ContentTooLarge: "The body, or a content block or cue in it, is over its limit.",
    ExportFailed: "The archive couldn't be written.",
    Forbidden: "The key hasn't the role or isn't for the namespace, or the host or origin isn't allowed.",
    ForgetUnconfirmed: "`confirm` is not true.",
    HeadTooLarge: "The head has too many or too long fields.",
    IdempotencyConflict: "The `Idempotency-Key` came with another request before.",
    ImportConflict: "The archive can't be read or applied, or what it held was changed since.",
    InternalError: "An internal error occurred; the log has it under the request's id.",
    ModalityUnsupported: "No provider is configured that can read this kind of content.",
    NotCaughtUp: "The commit that was asked for isn't visible yet.",
    PreconditionFailed: "The record has another version than `If-Match` says; `details` has the one that it has.",
    ProviderUnavailable: "The LLM provider gives no answer.",
    RateLimited: "Too many requests, or wrong keys, came from this address.",
    RecordNotFound: "There is no such record.",
    StorageDamaged: "What is stored can't be read back.",
    StorageUnavailable: "Storage is unavailable; nothing of the request was stored.",
    TooManyBytes: "Too many bytes are being worked on.",
    Unauthorized: "No key was sent, or none that is known and still counts.",
    ValidationFailed: "A field is missing, of the wrong type or out of range; the message names it.",
    VersionMismatch: "The header names another protocol or major version.",
}
Errors = tuple[type[CerememoryError], ...]
ALWAYS: Errors = (HeadTooLarge, InternalError)
GATE: Errors = (*ALWAYS, Unauthorized, Forbidden, RateLimited)
ENGINE: Errors = (ValidationFailed, StorageDamaged, ActorBusy, ActorStopped, StorageUnavailable)
BODY: Errors = (VersionMismatch, BodyTooSlow, ContentTooLarge, TooManyBytes)
_OWN: dict[str, Errors] = {
    "encode.update": (PreconditionFailed,),
    "introspect.decay_forecast": (RecordNotFound,),
    "lifecycle.consolidate": (ConsolidationInProgress,),
    "lifecycle.export": (ExportFailed,),
    "lifecycle.forget": (ForgetUnconfirmed,),
    "lifecycle.import": (ImportConflict,),
    "lifecycle.undo_import": (ImportConflict, RecordNotFound),
    "recall.query": (ModalityUnsupported, ProviderUnavailable),
}


def has_body(operation: Operation) -> bool:
    return operation.request is not None and operation.method != "GET"


def errors_of(operation: Operation) -> Errors:
    """What can go wrong, by what the operation does."""
    return (
        *ENGINE,
        *(BODY if has_body(operation) else ()),
        *((IdempotencyConflict,) if operation.mutates else (NotCaughtUp,)),
        *((RecordNotFound,) if "{record_id}" in operation.path else ()),
        *_OWN.get(operation.name, ()),
        *GATE,
    )
