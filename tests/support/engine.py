"""An engine in this process, on the store, the world and the settings that a test chooses.

Model: by default a `MemoryStorage`, a text index in memory and work off the loop done inline, so that it runs
on a jumping clock; wall time stands still but for what a test adds. Audit file and lock are real files.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import trio

from cerememory.actors.actor import Actor
from cerememory.actors.assembly import running
from cerememory.actors.engine import Engine
from cerememory.actors.seams import Offload, World, inline
from cerememory.actors.searches import Search
from cerememory.config.settings import DreamSettings, SecuritySettings, Settings
from cerememory.protocol import codec
from cerememory.protocol.records import STORES
from cerememory.protocol.requests import EncodeStore, EncodeStoreRaw, IntrospectRecord, RecallQuery
from cerememory.protocol.values import NANOS, RecordId
from cerememory.storage.contract import Storage
from cerememory.storage.datadir import DataDir
from cerememory.storage.keys import DEFAULT_NAMESPACE
from cerememory.telemetry.metrics import Metrics
from tests.support.memory_storage import MemoryStorage

WAIT_S = 30.0  # how long a test waits for an event that must come
NOW = 1_800_000_000 * NANOS  # 2027-01-15T08:00:00Z


@dataclass
class WallClock:
    """Nanoseconds since the epoch; moves on by `step_ns` at every look, and by what a test adds."""

    at: int = NOW
    step_ns: int = 1_000

    def now(self) -> int:
        self.at += self.step_ns
        return self.at

    def world(self, offload: Offload = inline) -> World:
        return World(now=self.now, offload=offload)


@dataclass
class Running:
    engine: Engine
    storage: Storage
    metrics: Metrics
    directory: DataDir
    settings: Settings
    clock: WallClock = field(default_factory=WallClock)

    def actor(self, name: str) -> Actor:
        [actor] = [actor for actor in self.engine._actors.supervisor.actors if actor.name == name]
        return actor

    async def until_indexed(self) -> None:
        """Return when the text index has caught up with the store."""
        index = self.actor("text_index")
        with trio.fail_after(WAIT_S):
            while not (await index.ask(Search(DEFAULT_NAMESPACE, "any", None, 1))).complete:
                await trio.lowlevel.checkpoint()

    def counted(self, series: str, **labels: str) -> float:
        """The value of a metric, 0 when it has none yet."""
        return self.metrics.registry.get_sample_value(series, labels) or 0.0

    @property
    def audit_lines(self) -> list[bytes]:
        return self.settings.security.audit_log_path.read_bytes().splitlines(keepends=True)


def settings_for(path: Path, **sections: Any) -> Settings:
    """Settings of a data dir in `path`, with the index in memory, and without dreams by night."""
    security = sections.pop("security", SecuritySettings(persist_search_indexes=False))
    dream = sections.pop("dream", DreamSettings(background_interval_secs=0))
    return Settings(data_dir=path / "data", security=security, dream=dream, **sections)


@asynccontextmanager
async def running_engine(
    path: Path,
    *,
    storage: Storage | None = None,
    settings: Settings | None = None,
    clock: WallClock | None = None,
    offload: Offload = inline,
) -> AsyncIterator[Running]:
    """An engine whose data dir is `path`/data; a given `storage` stays open for the next run."""
    chosen, wall = settings or settings_for(path), clock or WallClock()
    store = MemoryStorage() if storage is None else storage
    metrics = Metrics([name.value for name in STORES])
    with DataDir.acquire(chosen.data_dir) as directory:
        async with running(chosen, directory, store, wall.world(offload), metrics) as engine:
            opened = Running(engine, store, metrics, directory, chosen, wall)
            await opened.until_indexed()
            yield opened


def text_block(text: str, **given: Any) -> dict[str, Any]:
    return {"modality": "text", "format": "text/plain", "text": text, **given}


def store_body(text: str, **given: Any) -> dict[str, Any]:
    """The JSON of an encode.store of one text block; `embedding` goes into the block."""
    block = text_block(text, embedding=given.pop("embedding", None))
    return {"content": {"blocks": [block], "summary": given.pop("summary", None)}, **given}


def raw_body(text: str, session_id: str = "s-1", **given: Any) -> dict[str, Any]:
    return {"session_id": session_id, "content": {"blocks": [text_block(text)]}, **given}


def to_store(text: str, **given: Any) -> EncodeStore:
    return codec.parse(codec.dump(store_body(text, **given)), EncodeStore)


def to_store_raw(text: str, session_id: str = "s-1", **given: Any) -> EncodeStoreRaw:
    return codec.parse(codec.dump(raw_body(text, session_id, **given)), EncodeStoreRaw)


def to_introspect(record_id: RecordId, **given: Any) -> IntrospectRecord:
    return IntrospectRecord(record_id=record_id, **given)


def to_recall(text: str | None = None, **given: Any) -> RecallQuery:
    """A recall; `cue` has further signals."""
    cue = {"text": text, **given.pop("cue", {})}
    return codec.parse(codec.dump({"cue": cue, "recall_mode": "perfect", **given}), RecallQuery)


def settings_with(settings: Settings, section: str, **values: Any) -> Settings:
    """`settings` with other values in one section."""
    return replace(settings, **{section: replace(getattr(settings, section), **values)})
