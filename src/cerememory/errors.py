"""Every error that Cerememory raises on purpose, and how each surface answers it.

    CerememoryError
    ├── Invalid                    the caller sent something that can't be used
    │   ├── ValidationFailed       a field is missing, of the wrong type or out of range
    │   ├── StoreInvalid           no such memory store
    │   ├── ModalityUnsupported    the configured providers can't read this modality
    │   ├── ContentTooLarge        a block, cue or body is over its limit
    │   ├── MessageTooLarge        a gRPC message, or all of a stream's, is over its limit
    │   ├── CompressionUnknown     a gRPC message is compressed in a way that isn't spoken here
    │   ├── HeadTooLarge           the request head has too many or too long fields
    │   ├── BodyTooSlow            the body didn't arrive in time
    │   ├── NoRoute                no operation has this path
    │   ├── NoService              the health of a gRPC service that there isn't
    │   └── WrongMethod            the path exists, with other methods
    ├── Refused                    understood, but not done
    │   ├── VersionMismatch        another protocol or major version
    │   ├── PreconditionFailed     `If-Match` names another version than the record's
    │   └── ForgetUnconfirmed      `confirm` is not true
    ├── Unauthorized               no key, or no such key
    ├── Forbidden                  known, but not allowed; or a refused origin or host
    ├── RecordNotFound
    ├── AuditEntriesAway           a proof needs audit entries whose file was moved away
    ├── Conflict
    │   ├── ImportConflict         an archive that can't be applied
    │   └── IdempotencyConflict    an Idempotency-Key that came with another body before
    ├── Overloaded                 not now: `retry_after_s` says when to try again
    │   ├── RateLimited
    │   ├── WorkingMemoryFull      no room in working memory; nothing raises it: the longest unused goes
    │   ├── ConsolidationInProgress
    │   ├── DaemonUnreachable      to a client: no answer came
    │   └── Busy
    │       ├── ActorBusy          a mailbox is full or an answer took too long
    │       ├── ActorStopped       an actor is stopping or was given up
    │       ├── DaemonBusy         to a client: the daemon said "not now", for one of these reasons
    │       ├── DeadlinePassed     the caller's own deadline; what was begun goes on
    │       ├── TooManyBytes       the bytes in flight are at their cap
    │       ├── NotCaughtUp        the asked commit isn't visible yet
    │       ├── ProviderUnavailable the LLM provider that the request needs gives no answer
    │       └── StorageUnavailable a full disk or map, or a disk that fails
    ├── Failed                     our fault; what happened goes to the log only
    │   ├── ExportFailed
    │   ├── InternalError
    │   └── StorageDamaged         what is stored can't be read back
    └── StartRefused               the daemon or command won't start as it is asked to
        ├── ConfigInvalid          a setting that can't be used, or an unknown one
        ├── DataDirLocked          another process owns the data dir
        ├── DataDirUnusable        it can't be read or written, or others may read it
        ├── PassphraseRefused      the store is encrypted, and its passphrase is missing or another
        └── AuditBroken            the audit log isn't the one that was written

`ANSWERS` is the one table from class to wire; a surface looks up `answer_of(error)` and decides nothing.
Source of codes and statuses: the CMP protocol, "Errors".
"""

from __future__ import annotations

from typing import Any, NamedTuple


class CerememoryError(Exception):
    """Base of all errors raised on purpose; `str(error)` is the message for the caller.

    `request_id` is, to a client, that of the daemon's answer: its log has more under it.
    """

    retry_after_s: int | None = None
    request_id: str | None = None

    def __init__(self, message: str, *, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.details = details

    @property
    def code(self) -> str:
        """The CMP code that this class is answered with."""
        return answer_of(self).code


class Invalid(CerememoryError):
    pass


class ValidationFailed(Invalid):
    pass


class StoreInvalid(Invalid):
    pass


class ModalityUnsupported(Invalid):
    pass


class ContentTooLarge(Invalid):
    pass


class MessageTooLarge(Invalid):
    pass


class CompressionUnknown(Invalid):
    pass


class HeadTooLarge(Invalid):
    pass


class BodyTooSlow(Invalid):
    pass


class NoRoute(Invalid):
    pass


class NoService(Invalid):
    pass


class WrongMethod(Invalid):
    """`allowed` holds the methods that the path does have, for the `Allow` header."""

    def __init__(self, message: str, allowed: tuple[str, ...]) -> None:
        super().__init__(message)
        self.allowed = allowed


class Refused(CerememoryError):
    pass


class VersionMismatch(Refused):
    pass


class PreconditionFailed(Refused):
    pass


class ForgetUnconfirmed(Refused):
    pass


class Unauthorized(CerememoryError):
    pass


class Forbidden(CerememoryError):
    pass


class RecordNotFound(CerememoryError):
    pass


class AuditEntriesAway(CerememoryError):
    pass


class Conflict(CerememoryError):
    pass


class ImportConflict(Conflict):
    pass


class IdempotencyConflict(Conflict):
    pass


class Overloaded(CerememoryError):
    def __init__(self, message: str, *, retry_after_s: int = 1, details: dict[str, Any] | None = None) -> None:
        super().__init__(message, details=details)
        self.retry_after_s = retry_after_s


class RateLimited(Overloaded):
    pass


class WorkingMemoryFull(Overloaded):
    pass


class ConsolidationInProgress(Overloaded):
    pass


class DaemonUnreachable(Overloaded):
    """No answer came; `was_sent` says that the daemon may have read the request, and done what it asks."""

    def __init__(self, message: str, *, was_sent: bool = False) -> None:
        super().__init__(message)
        self.was_sent = was_sent


class Busy(Overloaded):
    pass


class ActorBusy(Busy):
    def __init__(self, actor: str) -> None:
        super().__init__(f"{actor} is busy, try again")


class ActorStopped(Busy):
    def __init__(self, actor: str) -> None:
        super().__init__(f"{actor} is not running")


class DaemonBusy(Busy):
    pass


class DeadlinePassed(Busy):
    pass


class TooManyBytes(Busy):
    pass


NEWEST_SEQUENCE = "newest_sequence"


class NotCaughtUp(Busy):
    """`NEWEST_SEQUENCE` in its details is the newest commit that there is."""


class ProviderUnavailable(Busy):
    pass


class StorageUnavailable(Busy):
    """The message is for the log; the caller is told only that storage is unavailable."""


class Failed(CerememoryError):
    """The message is for the log; the caller is told only that it failed."""


class ExportFailed(Failed):
    pass


class InternalError(Failed):
    pass


class StorageDamaged(Failed):
    pass


class StartRefused(CerememoryError):
    pass


class ConfigInvalid(StartRefused):
    pass


class DataDirLocked(StartRefused):
    pass


class DataDirUnusable(StartRefused):
    pass


class PassphraseRefused(StartRefused):
    pass


class AuditBroken(StartRefused):
    pass


class Answer(NamedTuple):
    """How one class of error is answered: CMP code, HTTP status, gRPC status name, CLI exit code."""

    code: str
    http_status: int
    grpc_status: str
    exit_code: int = 1


ANSWERS: dict[type[CerememoryError], Answer] = {
    ValidationFailed: Answer("VALIDATION_ERROR", 400, "INVALID_ARGUMENT"),
    StoreInvalid: Answer("STORE_INVALID", 400, "INVALID_ARGUMENT"),
    ModalityUnsupported: Answer("MODALITY_UNSUPPORTED", 400, "INVALID_ARGUMENT"),
    ContentTooLarge: Answer("CONTENT_TOO_LARGE", 413, "INVALID_ARGUMENT"),
    MessageTooLarge: Answer("CONTENT_TOO_LARGE", 413, "RESOURCE_EXHAUSTED"),
    CompressionUnknown: Answer("VALIDATION_ERROR", 400, "UNIMPLEMENTED"),
    HeadTooLarge: Answer("VALIDATION_ERROR", 431, "INVALID_ARGUMENT"),
    BodyTooSlow: Answer("VALIDATION_ERROR", 408, "DEADLINE_EXCEEDED"),
    NoRoute: Answer("VALIDATION_ERROR", 404, "UNIMPLEMENTED"),
    NoService: Answer("VALIDATION_ERROR", 404, "NOT_FOUND"),
    WrongMethod: Answer("VALIDATION_ERROR", 405, "UNIMPLEMENTED"),
    VersionMismatch: Answer("VERSION_MISMATCH", 400, "FAILED_PRECONDITION"),
    PreconditionFailed: Answer("VERSION_MISMATCH", 412, "ABORTED"),
    ForgetUnconfirmed: Answer("FORGET_UNCONFIRMED", 400, "FAILED_PRECONDITION"),
    Unauthorized: Answer("UNAUTHORIZED", 401, "UNAUTHENTICATED"),
    Forbidden: Answer("UNAUTHORIZED", 403, "PERMISSION_DENIED"),
    RecordNotFound: Answer("RECORD_NOT_FOUND", 404, "NOT_FOUND"),
    AuditEntriesAway: Answer("RECORD_NOT_FOUND", 404, "NOT_FOUND"),
    ImportConflict: Answer("IMPORT_CONFLICT", 409, "ALREADY_EXISTS"),
    IdempotencyConflict: Answer("IMPORT_CONFLICT", 409, "ALREADY_EXISTS"),
    RateLimited: Answer("RATE_LIMITED", 429, "RESOURCE_EXHAUSTED"),
    WorkingMemoryFull: Answer("WORKING_MEMORY_FULL", 503, "RESOURCE_EXHAUSTED"),
    ConsolidationInProgress: Answer("CONSOLIDATION_IN_PROGRESS", 503, "UNAVAILABLE"),
    DaemonUnreachable: Answer("DECAY_ENGINE_BUSY", 503, "UNAVAILABLE"),
    DaemonBusy: Answer("DECAY_ENGINE_BUSY", 503, "UNAVAILABLE"),
    ActorBusy: Answer("DECAY_ENGINE_BUSY", 503, "UNAVAILABLE"),
    ActorStopped: Answer("DECAY_ENGINE_BUSY", 503, "UNAVAILABLE"),
    DeadlinePassed: Answer("DECAY_ENGINE_BUSY", 503, "DEADLINE_EXCEEDED"),
    TooManyBytes: Answer("DECAY_ENGINE_BUSY", 503, "UNAVAILABLE"),
    NotCaughtUp: Answer("DECAY_ENGINE_BUSY", 503, "UNAVAILABLE"),
    ProviderUnavailable: Answer("DECAY_ENGINE_BUSY", 503, "UNAVAILABLE"),
    StorageUnavailable: Answer("DECAY_ENGINE_BUSY", 503, "UNAVAILABLE"),
    ExportFailed: Answer("EXPORT_FAILED", 500, "INTERNAL"),
    InternalError: Answer("INTERNAL_ERROR", 500, "INTERNAL"),
    StorageDamaged: Answer("INTERNAL_ERROR", 500, "INTERNAL"),
    ConfigInvalid: Answer("INTERNAL_ERROR", 500, "INTERNAL"),
    DataDirLocked: Answer("INTERNAL_ERROR", 500, "INTERNAL"),
    DataDirUnusable: Answer("INTERNAL_ERROR", 500, "INTERNAL"),
    PassphraseRefused: Answer("UNAUTHORIZED", 401, "UNAUTHENTICATED"),
    AuditBroken: Answer("INTERNAL_ERROR", 500, "INTERNAL"),
}


def answer_of(error: CerememoryError) -> Answer:
    """The row for `error`'s class; every leaf of the tree has one (a test walks it)."""
    return ANSWERS[type(error)]


def public_message(error: CerememoryError) -> str:
    """What the caller may read: the error's own words, unless the failure is ours."""
    if isinstance(error, ExportFailed):
        return "The export failed; the log has the reason under this request id"
    if isinstance(error, StorageUnavailable):
        return (
            "Storage is unavailable, nothing of this request was stored; "
            "the log has the reason under this request id"
        )
    if is_ours(error):
        return "An internal error occurred; the log has the reason under this request id"
    return str(error)


def public_details(error: CerememoryError) -> dict[str, Any] | None:
    """The error's details, unless the failure is ours."""
    return None if is_ours(error) else error.details


def is_ours(error: CerememoryError) -> bool:
    """Whether the daemon failed, rather than the caller: then its words are for the log alone."""
    return isinstance(error, (Failed, StartRefused, StorageUnavailable))
