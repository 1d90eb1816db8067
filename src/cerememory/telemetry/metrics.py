"""Every metric series, in one registry that the daemon owns.

No label ever holds an id or a caller's text. Source of names and edges: the HTTP specification, "Metrics".
"""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

from cerememory import __version__

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
AUTH_FAILURES = ("missing", "unknown", "expired", "revoked", "barred")
HTTP_LABELS = ("method", "path", "status")
GRPC_LABELS = ("method", "status")


class Metrics:
    """The series as attributes; `stores` are the labels that are there from the start, at zero."""

    def __init__(self, stores: Iterable[str]) -> None:
        self.registry = CollectorRegistry()
        self._make_documented()
        self._make_internal()
        for reason in AUTH_FAILURES:
            self.auth_failures.labels(reason)
        for store in stores:
            self.encodes.labels(store)
            self.records.labels(store)

    def _make_documented(self) -> None:
        """The seven series that the reference documents."""
        r = self.registry
        self.http_requests = Counter(
            "cerememory_http_requests", "HTTP requests by route.", HTTP_LABELS, registry=r
        )
        self.http_duration = Histogram(
            "cerememory_http_request_duration_seconds",
            "Time from head to answer.",
            HTTP_LABELS,
            buckets=SECONDS,
            registry=r,
        )
        self.encodes = Counter("cerememory_encode", "Curated memories stored.", ("store",), registry=r)
        self.encode_duration = Histogram(
            "cerememory_encode_duration_seconds",
            "Time of an encode, failed ones too.",
            ("store",),
            buckets=SECONDS,
            registry=r,
        )
        self.recalls = Counter("cerememory_recall", "recall.query answered.", registry=r)
        self.recall_duration = Histogram(
            "cerememory_recall_duration_seconds",
            "Time of a recall.query, failed ones too.",
            buckets=SECONDS,
            registry=r,
        )
        self.decay_panics = Counter(
            "cerememory_decay_panics", "Decay ticks that ended in an unexpected error.", registry=r
        )

    def _make_internal(self) -> None:
        r = self.registry
        self.grpc_requests = Counter("cerememory_grpc_requests", "gRPC calls by method.", GRPC_LABELS, registry=r)
        self.grpc_duration = Histogram(
            "cerememory_grpc_request_duration_seconds",
            "Time from head to trailers.",
            GRPC_LABELS,
            buckets=SECONDS,
            registry=r,
        )
        self.records = Gauge("cerememory_records", "Curated memories.", ("store",), registry=r)
        self.raw_records = Gauge("cerememory_raw_journal_records", "Raw journal entries.", registry=r)
        self.mailbox_depth = Gauge(
            "cerememory_actor_mailbox_depth", "Messages that wait for an actor.", ("actor",), registry=r
        )
        self.actor_restarts = Counter(
            "cerememory_actor_restarts", "Restarts of an actor after a crash.", ("actor",), registry=r
        )
        self.commit_batch_size = Histogram(
            "cerememory_commit_batch_size",
            "Writes that shared one transaction and its sync.",
            buckets=BATCH_SIZES,
            registry=r,
        )
        self.commit_duration = Histogram(
            "cerememory_commit_duration_seconds",
            "Time of one transaction, its sync included.",
            buckets=SECONDS,
            registry=r,
        )
        self.index_lag = Gauge(
            "cerememory_index_lag_seconds", "Age of the oldest commit that search doesn't show.", registry=r
        )
        self.audit_sequence = Gauge("cerememory_audit_sequence", "Last committed audit entry.", registry=r)
        self.audit_repairs = Counter(
            "cerememory_audit_repairs", "Times a cut audit file was completed.", registry=r
        )
        self.auth_failures = Counter(
            "cerememory_auth_failures",
            "Requests refused for their key; the reason is missing, unknown, expired, revoked, or barred.",
            ("reason",),
            registry=r,
        )
        self.map_used = Gauge("cerememory_lmdb_map_used_bytes", "Bytes of the map in use.", registry=r)
        self.oldest_reader = Gauge(
            "cerememory_lmdb_oldest_reader_seconds",
            "How long the oldest snapshot that keeps pages from being used again is known to be read.",
            registry=r,
        )
        self.stored_bytes = Gauge(
            "cerememory_stored_bytes",
            "Bytes of rows by table, of the text index and of the audit log, as measured last.",
            ("table",),
            registry=r,
        )
        self.decay_tick_duration = Histogram(
            "cerememory_decay_tick_duration_seconds",
            "Time of a decay tick of one namespace, failed ones too.",
            buckets=SECONDS,
            registry=r,
        )
        self.reconsolidations_dropped = Counter(
            "cerememory_reconsolidations_dropped",
            "Recalls whose effect on what they found could not be kept.",
            registry=r,
        )
        self.llm_requests = Counter(
            "cerememory_llm_requests",
            "Requests to the LLM provider; the outcome is ok, cancelled, or the cause of the failure.",
            ("ability", "outcome"),
            registry=r,
        )
        Gauge("cerememory_build_info", "Always 1.", ("version",), registry=r).labels(__version__).set(1)

    def render(self) -> bytes:
        """The Prometheus text format."""
        return generate_latest(self.registry)
