"""CMP over HTTP, from the caller's side: `Client` for threads, `AsyncClient` for asyncio and trio.

Requests are in `cerememory.protocol.requests`, what the errors' classes are to each other in `cerememory.errors`.
"""

from typing import TYPE_CHECKING, Any

from cerememory.client.archives import ArchiveStream, AsyncArchiveStream
from cerememory.client.client import Client
from cerememory.client.content import text_content
from cerememory.errors import (
    BodyTooSlow,
    CerememoryError,
    Conflict,
    ConsolidationInProgress,
    ContentTooLarge,
    DaemonBusy,
    DaemonUnreachable,
    ExportFailed,
    Failed,
    Forbidden,
    ForgetUnconfirmed,
    IdempotencyConflict,
    ImportConflict,
    InternalError,
    Invalid,
    ModalityUnsupported,
    NoRoute,
    Overloaded,
    PreconditionFailed,
    RateLimited,
    RecordNotFound,
    Refused,
    StoreInvalid,
    Unauthorized,
    ValidationFailed,
    VersionMismatch,
    WorkingMemoryFull,
)

if TYPE_CHECKING:
    from cerememory.client.async_client import AsyncClient

__all__ = [
    "ArchiveStream",
    "AsyncArchiveStream",
    "AsyncClient",
    "BodyTooSlow",
    "CerememoryError",
    "Client",
    "Conflict",
    "ConsolidationInProgress",
    "ContentTooLarge",
    "DaemonBusy",
    "DaemonUnreachable",
    "ExportFailed",
    "Failed",
    "Forbidden",
    "ForgetUnconfirmed",
    "IdempotencyConflict",
    "ImportConflict",
    "InternalError",
    "Invalid",
    "ModalityUnsupported",
    "NoRoute",
    "Overloaded",
    "PreconditionFailed",
    "RateLimited",
    "RecordNotFound",
    "Refused",
    "StoreInvalid",
    "Unauthorized",
    "ValidationFailed",
    "VersionMismatch",
    "WorkingMemoryFull",
    "text_content",
]


def __getattr__(name: str) -> Any:
    """`AsyncClient` loads anyio, which a command or the MCP proxy has no time for."""
    if name == "AsyncClient":
        from cerememory.client.async_client import AsyncClient

        return AsyncClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
