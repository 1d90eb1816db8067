"""What each command prints with `--json`, as types: those of the protocol where the answer is an operation's.

`ANSWERS` has a row for every command but those of `WITHOUT`. The types here are for reading alone: `schema` makes
JSON Schemas of them, and a test holds what the commands really print against these: no field more, none less. What
they mean is said in `meanings`.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import UNSET, UnsetType

from cerememory.protocol import replies
from cerememory.protocol.records import Wire
from cerememory.protocol.values import RecordId, Timestamp


class Updated(Wire, frozen=True, kw_only=True):
    record_id: RecordId


class ForgottenHere(replies.Forgotten, frozen=True, kw_only=True):
    """The sizes are there with --compact."""

    bytes_before: int | UnsetType = UNSET
    bytes_after: int | UnsetType = UNSET


class RedactedHere(Wire, frozen=True, kw_only=True):
    """The sizes are there with --compact."""

    records_scanned: int
    entries_redacted: int
    memories_redacted: int
    kept_redacted: int
    secrets: dict[str, int]
    dreamt_ids: tuple[RecordId, ...]
    bytes_before: int | UnsetType = UNSET
    bytes_after: int | UnsetType = UNSET


class ModeSet(Wire, frozen=True, kw_only=True):
    mode: Literal["human", "perfect"]


class LinesLoaded(Wire, frozen=True, kw_only=True):
    records_loaded: int


class Initialised(Wire, frozen=True, kw_only=True):
    path: str
    server_url: str
    api_key: str
    mcpServers: dict[str, Any]
    codex: str


class HostTold(Wire, frozen=True, kw_only=True):
    """`changed` and `backup` are there with --apply."""

    host: str
    path: str | None
    entry: str
    changed: bool | UnsetType = UNSET
    backup: str | UnsetType | None = UNSET


class FileState(Wire, frozen=True, kw_only=True):
    path: str
    state: str


class ServiceFileState(FileState, frozen=True, kw_only=True):
    mode: str
    content: str


class ServiceInstalled(Wire, frozen=True, kw_only=True):
    applied: bool
    files: tuple[ServiceFileState, ...]
    next: tuple[str, ...]


class ServiceUninstalled(Wire, frozen=True, kw_only=True):
    applied: bool
    files: tuple[ServiceFileState, ...]
    first: tuple[str, ...]


class ServiceStatus(Wire, frozen=True, kw_only=True):
    files: tuple[FileState, ...]
    state: str


class Health(Wire, frozen=True, kw_only=True):
    status: Literal["ok"]


class ArchiveWritten(Wire, frozen=True, kw_only=True):
    archive_id: str
    size_bytes: int
    record_count: int
    checksum: str
    path: str


class ArchiveRead(replies.Imported, frozen=True, kw_only=True):
    """What would be added, replaced and kept is there with --dry-run."""

    records_added: int | UnsetType = UNSET
    records_replaced: int | UnsetType = UNSET
    records_kept: int | UnsetType = UNSET
    path: str


class FoundWrong(Wire, frozen=True, kw_only=True):
    part: str
    what: str
    namespace: int


class Looked(Wire, frozen=True, kw_only=True):
    memories: int
    archived: int
    raw_entries: int
    dangling_edges: int
    namespaces: int
    notes: tuple[str, ...]


class BackedUp(Looked, frozen=True, kw_only=True):
    path: str
    size_bytes: int
    audit_sequence: int
    audit_head: str
    findings: tuple[FoundWrong, ...]


class Checked(Looked, frozen=True, kw_only=True):
    """`repaired` is there with --repair."""

    findings: tuple[FoundWrong, ...]
    repaired: dict[str, int | bool] | UnsetType = UNSET


class Reindexed(Wire, frozen=True, kw_only=True):
    records_indexed: int
    repaired: dict[str, int | bool]


class SectionSealed(Wire, frozen=True, kw_only=True):
    total: int
    migrated: int
    already_encrypted: int


class PassphraseChanged(Wire, frozen=True, kw_only=True):
    changed: bool


class EntriesUnseen(Wire, frozen=True, kw_only=True):
    file: str | None
    from_sequence: int
    to_sequence: int
    head_hash: str


class AuditVerified(Wire, frozen=True, kw_only=True):
    path: str
    entries: int
    last_sequence: int
    head_hash: str
    pending: int
    unseen: tuple[EntriesUnseen, ...]


class KeyRow(Wire, frozen=True, kw_only=True):
    id: str
    name: str
    role: Literal["read", "write", "admin"]
    scope: str | None
    created_at: Timestamp
    expires_at: Timestamp | None
    revoked_at: Timestamp | None
    state: str


class KeyMade(KeyRow, frozen=True, kw_only=True):
    key: str


class Examined(Wire, frozen=True, kw_only=True):
    status: Literal["ok", "warn", "fail"]
    name: str
    detail: str


class SyncTaken(Wire, frozen=True, kw_only=True):
    median_ms: float
    slowest_ms: float


class Tortured(Wire, frozen=True, kw_only=True):
    survived: bool
    rounds: int
    wanted: int
    writes: int
    wrong: tuple[str, ...]
    seed: int
    fsync: SyncTaken
    copy: str | None


class SettingShown(Wire, frozen=True, kw_only=True):
    key: str
    value: str
    origin: str


class FileWritten(Wire, frozen=True, kw_only=True):
    path: str


class CompletionWritten(FileWritten, frozen=True, kw_only=True):
    shell: Literal["bash", "zsh", "fish"]


ANSWERS: dict[str, Any] = {
    "store": replies.Encoded,
    "recall": replies.Recalled,
    "associate": replies.Associated,
    "timeline": replies.Timeline,
    "inspect": replies.IntrospectedRecord,
    "update": Updated,
    "forget": ForgottenHere,
    "restore": replies.Restored,
    "set-mode": ModeSet,
    "load": LinesLoaded,
    "store-raw": replies.RawEncoded,
    "recall-raw": replies.RawRecalled,
    "dream-tick": replies.Dreamt,
    "init": Initialised,
    "connect": HostTold,
    "service install": ServiceInstalled,
    "service uninstall": ServiceUninstalled,
    "service status": ServiceStatus,
    "healthcheck": Health,
    "consolidate": replies.Consolidated,
    "decay-tick": replies.Decayed,
    "compact": replies.Compacted,
    "export": ArchiveWritten,
    "import": ArchiveRead,
    "import undo": replies.ImportUndone,
    "redact": RedactedHere,
    "backup": BackedUp,
    "stats": replies.Stats,
    "namespaces": tuple[str, ...],
    "migrate-store-encryption": dict[str, SectionSealed],
    "change-passphrase": PassphraseChanged,
    "rotate-key": dict[str, SectionSealed],
    "audit-verify": AuditVerified,
    "audit-rotate": replies.AuditRotated,
    "fsck": Checked,
    "reindex": Reindexed,
    "key create": KeyMade,
    "key list": tuple[KeyRow, ...],
    "key revoke": tuple[KeyRow, ...],
    "doctor": tuple[Examined, ...],
    "torture": Tortured,
    "config check": tuple[SettingShown, ...],
    "config init": FileWritten,
    "--install-completion": CompletionWritten,
}
WITHOUT = frozenset({"serve", "mcp", "schema"})
"""They print a banner, speak a protocol, or print a schema with or without `--json`."""
