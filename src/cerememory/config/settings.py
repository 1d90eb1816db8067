"""Every setting of the daemon, declared once: section, name, type, default, range and description.

A section is a frozen dataclass, a key is a field of it. The key table (`config.keys`) is read off these
classes, so that file, environment, command line, reference and commented file know a key from its field
alone. Nothing is read or refused here: see `config.sources` and `config.checks`. Defaults that follow from
other keys (`DERIVED`) are filled in when `Settings` is made, so every field has its declared type.

Source of keys and defaults: the configuration chapter of the HTTP service's specification.
"""

# ruff: noqa: RUF009 - `setting` makes a dataclass field, as `field` itself does
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from cerememory.protocol.values import UINT32_MAX

T = TypeVar("T")

DERIVED: Any = None
PORT_MAX = 65_535
MAP_SIZE_GIB_MAX = 131_072  # 128 TiB: all that a process can address with 47 bits


class Secret(str):
    """Text that `repr`, and with it a traceback or a printed `Settings`, doesn't show."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'****'"


def setting(
    default: T,
    description: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    aliases: Mapping[str, str] | None = None,
) -> T:
    """A key's field. The range is inclusive; `aliases` maps other spellings to one of the key's choices."""
    notes = {"description": description, "minimum": minimum, "maximum": maximum, "aliases": aliases or {}}
    return field(default=default, metadata=notes)


def count(default: int, description: str, *, minimum: int = 0, maximum: int = UINT32_MAX) -> int:
    return setting(default, description, minimum=minimum, maximum=maximum)


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSettings:
    port: int = count(8420, "TCP port of the HTTP service.", minimum=1, maximum=PORT_MAX)
    bind_address: str = setting(
        "127.0.0.1", "IP address that the services listen on, or localhost; others than loopback need auth."
    )
    cors_origins: tuple[str, ...] = setting(
        (), 'Browser origins that may call the service; "*" means every one and is refused with auth.'
    )
    trusted_proxy_cidrs: tuple[str, ...] = setting(
        (), "Networks of the proxies whose X-Forwarded-For and X-Real-IP are believed."
    )
    allowed_hosts: tuple[str, ...] = setting(
        (), "Names allowed in the Host header, beside the loopback names and the bind address."
    )
    metrics_enabled: bool = setting(False, "Serve Prometheus metrics at /metrics.")
    max_connections: int = count(
        512, "Open connections; beyond it the oldest idle one is closed.", minimum=1, maximum=65_535
    )
    max_inflight_bytes: int = setting(
        268_435_456,  # the largest body, and what it takes when it is parsed
        "Bytes of request bodies in flight; beyond it 503. With fewer the largest body would never be read.",
        minimum=268_435_456,
        maximum=2**63 - 1,
    )
    read_timeout_secs: int = count(
        30, "Seconds that a client may take for its head, or between two parts of its body.", minimum=1
    )
    ui_enabled: bool = setting(True, "Serve the web console at /ui.")


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpcSettings:
    port: int | None = setting(None, "TCP port of the gRPC service; off without.", minimum=1, maximum=PORT_MAX)
    tls_cert_path: Path | None = setting(None, "Certificate chain (PEM) of the gRPC service.")
    tls_key_path: Path | None = setting(None, "Private key (PEM) of the gRPC service.")


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthSettings:
    enabled: bool = setting(False, "Ask every client for an API key.")
    api_keys: tuple[Secret, ...] = setting((), "API keys with the admin role.")


@dataclass(frozen=True, slots=True, kw_only=True)
class SecuritySettings:
    store_encryption_passphrase: Secret | None = setting(None, "Encrypts what is stored.")
    persist_search_indexes: bool = setting(
        DERIVED, "Keep the search index on disk; by default true without and false with encryption."
    )
    audit_log_enabled: bool = setting(True, "Write the audit log.")
    audit_log_path: Path = setting(DERIVED, "The audit log; by default audit.jsonl in data_dir.")
    audit_key_path: Path = setting(DERIVED, "Directory of the audit log's keys; by default keys in data_dir.")


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmSettings:
    provider: Literal["none", "openai", "claude", "gemini", "local"] = setting(
        "none",
        "Who embeds, hears, summarises and finds relations; anthropic and google mean claude and gemini.",
        aliases={"anthropic": "claude", "google": "gemini"},
    )
    api_key: Secret | None = setting(None, "The provider's API key; it goes to the provider's address alone.")
    model: str | None = setting(None, "Chat model, in place of the provider's default.")
    base_url: str | None = setting(
        None, "Address of another server that speaks the provider's API; http only within the own network."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DecaySettings:
    background_interval_secs: int = count(3600, "Seconds between two decay ticks; 0 is off.")
    time_unit_secs: int = count(86_400, "Seconds in the unit of time that fidelity decays by.", minimum=1)
    prune: Literal["never", "archive", "delete"] = setting("never", "What happens to faint memories.")
    archive_days: int = count(90, "Days for which an archived memory can be restored.", minimum=1)
    profile: Literal["standard", "reference"] = setting("standard", "Rules that fidelity decays by.")
    epsilon: float = setting(0.001, "Smallest change of a score that a tick writes.", minimum=0, maximum=1)
    faint_threshold: float = setting(0.1, "Fidelity below which a memory counts as faint.", minimum=0, maximum=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class DreamSettings:
    background_interval_secs: int = count(86_400, "Seconds between two dream ticks; 0 is off.")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvolutionSettings:
    enabled: bool = setting(True, "Let the decay parameters adapt to use; false freezes them.")


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimitSettings:
    requests_per_second: int = count(100, "Requests a second and client address; 0 is off.")
    burst: int = count(50, "Requests that a client address may send at once.", minimum=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageSettings:
    backend: Literal["lmdb", "postgres"] = setting("lmdb", "Where memories are kept.")
    dsn: Secret | None = setting(None, "Connection string of the postgres backend.")
    map_size_gib: int = count(
        64, "GiB that the sparse memory map is opened with.", minimum=1, maximum=MAP_SIZE_GIB_MAX
    )
    map_size_max_gib: int = count(
        0, "GiB that the memory map may grow to; 0 is the disk.", maximum=MAP_SIZE_GIB_MAX
    )
    group_commit_ms: int = count(2, "Milliseconds that a commit waits for company.", maximum=1000)
    history_versions: int = count(100, "Earlier versions that are kept of each memory; 0 keeps none.")
    min_free_disk_mib: int = count(256, "MiB of free disk below which writes are refused.")


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexSettings:
    analyzer: str = setting("auto", "How text is cut into words; auto stems by language and knows CJK.")
    vector_cache_mib: int = count(256, "MiB of embeddings that stay in memory.", minimum=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    level: Literal["trace", "debug", "info", "warn", "error"] = setting("info", "Least level that is logged.")
    format: Literal["pretty", "json"] = setting("pretty", "Shape of the log's lines.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    data_dir: Path = setting(Path("data"), "Directory of all that is stored; one process owns it.")
    http: HttpSettings = HttpSettings()
    grpc: GrpcSettings = GrpcSettings()
    auth: AuthSettings = AuthSettings()
    security: SecuritySettings = SecuritySettings()
    llm: LlmSettings = LlmSettings()
    decay: DecaySettings = DecaySettings()
    dream: DreamSettings = DreamSettings()
    evolution: EvolutionSettings = EvolutionSettings()
    rate_limit: RateLimitSettings = RateLimitSettings()
    storage: StorageSettings = StorageSettings()
    index: IndexSettings = IndexSettings()
    log: LogSettings = LogSettings()

    def __post_init__(self) -> None:
        """Fills in the defaults that follow from other keys."""
        derived: dict[str, Any] = {
            "persist_search_indexes": self.security.store_encryption_passphrase is None,
            "audit_log_path": self.data_dir / "audit.jsonl",
            "audit_key_path": self.data_dir / "keys",
        }
        unset = {name: value for name, value in derived.items() if getattr(self.security, name) is DERIVED}
        object.__setattr__(self, "security", replace(self.security, **unset))
