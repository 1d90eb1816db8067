"""Both clients beside a real daemon: docs/client.md shows what happens, and every reply can be read.

One daemon for all of it: the page's memories are in its default namespace, the others' in their own.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from cerememory.client import AsyncClient, Client, text_content
from cerememory.errors import ForgetUnconfirmed, PreconditionFailed, RecordNotFound
from cerememory.protocol.records import AssociationType, Store, TemporalRange
from cerememory.protocol.replies import ImportPlanned
from cerememory.protocol.requests import (
    AssociationInput,
    Compact,
    Consolidate,
    DecayForecast,
    DecayTick,
    DreamTick,
    EncodeBatch,
    EncodeBatchRaw,
    EncodeStore,
    EncodeStoreRaw,
    EncodeUpdate,
    Export,
    Forget,
    Granularity,
    Import,
    ImportStrategy,
    ImportTerms,
    IntrospectRecord,
    RecallAssociate,
    RecallCue,
    RecallGraph,
    RecallMode,
    RecallQuery,
    RecallRawQuery,
    RecallScope,
    RecallTimeline,
    Restore,
    SetMode,
)
from cerememory.protocol.values import NIL_ID, RecordId, Timestamp, parse_timestamp
from tests.support.calls import UNLIMITED
from tests.support.daemon import WAIT_S, Daemon
from tests.support.pages import ROOT, blocks

PAGE = ROOT / "docs" / "client.md"
URL = "http://127.0.0.1:8420"
EVER = TemporalRange(start=parse_timestamp("2020-01-01T00:00:00Z"), end=parse_timestamp("2100-01-01T00:00:00Z"))


def test_both_clients_beside_a_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Daemon(tmp_path / "data", env=UNLIMITED) as daemon:
        for program, printed in programs():
            daemon.wait_until_searchable()
            assert printed_by(program.replace(URL, daemon.url)) == printed
        with Client(daemon.url, namespace="of-threads") as client:
            trio.run(every_reply_is_read, Awaited(client))
        with Client(daemon.url, namespace="of-archives") as client:
            an_archive_of_unknown_length_is_taken(client)
        trio.run(read_by_async_client, daemon.url)


def an_archive_of_unknown_length_is_taken(client: Client) -> None:
    client.encode_store(EncodeStore(content=text_content("The red kettle")))
    with client.export_archive() as archive:
        parts = list(archive.chunks)
    terms = ImportTerms(archive_id="back", strategy=ImportStrategy.REPLACE)
    assert client.import_archive(parts, None, terms).records_imported == archive.record_count == 1


def programs() -> Iterator[tuple[str, str]]:
    """The page's programs, each with what it prints."""
    for (language, text), (other, printed) in pairwise(blocks(PAGE)):
        if language == "python":
            assert other == "text", "a program without what it prints"
            yield text, printed


def printed_by(program: str) -> str:
    output = io.StringIO()
    with redirect_stdout(output):
        exec(compile(program, str(PAGE), "exec"), {"__name__": "__main__"})
    return output.getvalue()


def test_the_page_shows_both_clients() -> None:
    shown = "".join(program for program, _printed in programs())
    assert "with Client(" in shown
    assert "async with AsyncClient(" in shown


class Awaited:
    """A `Client` whose methods are awaited."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)

        async def method(*given: Any, **named: Any) -> Any:
            return found(*given, **named)

        return method if callable(found) else found


async def read_by_async_client(url: str) -> None:
    async with AsyncClient(url, namespace="of-loops") as client:
        await every_reply_is_read(client)


async def every_reply_is_read(client: Any) -> None:
    first, second = await encoded(client)
    await recalled(client, first)
    await introspected(client, first)
    await put_in_order(client)
    await moved(client)
    await forgotten(client, [first, second])


async def encoded(client: Any) -> tuple[RecordId, RecordId]:
    """Two linked memories, the first of which was edited; and entries of the raw journal."""
    red = EncodeStore(content=text_content("The red kettle"), metadata=msgspec.Raw(b'{"room":"kitchen"}'))
    first = await client.encode_store(red, idempotency_key="red")
    assert await client.encode_store(red, idempotency_key="red") == first
    assert first.store is Store.EPISODIC
    link = AssociationInput(target_id=first.record_id, association_type=AssociationType.SEMANTIC, weight=0.9)
    blue = EncodeStore(content=text_content("The blue kettle", summary="kettles"), associations=(link,))
    batch = await client.encode_batch(EncodeBatch(records=(blue,)))
    assert batch.results[0].store is Store.SEMANTIC
    edit = EncodeUpdate(record_id=first.record_id, content=text_content("The red kettle leaks"))
    with refused(PreconditionFailed):
        await client.encode_update(edit, if_match=7)
    assert await client.encode_update(edit, if_match=1) is None
    said = EncodeStoreRaw(session_id="tea", content=text_content("Where is the kettle?"))
    assert (await client.encode_store_raw(said)).session_id == "tea"
    assert len((await client.encode_batch_raw(EncodeBatchRaw(records=(said, said)))).results) == 2
    return first.record_id, batch.results[0].record_id


@contextmanager
def refused(kind: type[Exception]) -> Iterator[None]:
    with pytest.raises(kind) as caught:
        yield
    assert getattr(caught.value, "request_id", None)


async def recalled(client: Any, first: RecordId) -> None:
    query = RecallQuery(cue=RecallCue(text="red kettle"), explain=True, recall_mode=RecallMode.PERFECT)
    found = await client.recall_query(query)
    with trio.fail_after(WAIT_S):
        while not found.query_metadata.index_complete:  # every try waits inside the daemon
            found = await client.recall_query(query)
    best = found.memories[0]
    assert best.record.id == first
    assert best.record.content.blocks[0].data == b"The red kettle leaks" == best.rendered_content.blocks[0].data
    assert msgspec.json.decode(best.record.metadata) == {"room": "kitchen"}
    assert best.explanation.text > 0
    scope = RecallScope(metadata={"room": msgspec.Raw(b'"kitchen"')})
    kept_to = await client.recall_query(RecallQuery(cue=RecallCue(), scope=scope))
    assert [memory.record.id for memory in kept_to.memories] == [first]
    linked = await client.recall_associate(RecallAssociate(record_id=found.memories[1].record.id))
    assert [memory.record.id for memory in linked.memories] == [first]
    months = await client.recall_timeline(RecallTimeline(range=EVER, granularity=Granularity.MONTH))
    assert sum(bucket.count for bucket in months.buckets) == 2
    graph = await client.recall_graph(RecallGraph(center_id=found.memories[1].record.id, include_meta=True))
    assert (graph.total_nodes, len(graph.edges)) == (2, 1)
    raw = await client.recall_raw_query(RecallRawQuery(session_id="tea"))
    assert [entry.content.blocks[0].data for entry in raw.records] == [b"Where is the kettle?"] * 3


async def introspected(client: Any, first: RecordId) -> None:
    assert (await client.introspect_stats(sequence=client.sequence)).total_records == 2
    asked = IntrospectRecord(record_id=first, include_versions=True, include_history=True)
    record = await client.introspect_record(asked)
    assert record.version == 2
    assert [version.version for version in record.versions] == [1]
    assert {entry.operation for entry in record.history} >= {"encode.store", "encode.update"}
    with refused(RecordNotFound):
        await client.introspect_record(IntrospectRecord(record_id=NIL_ID))
    later = DecayForecast(record_ids=(first,), forecast_at=Timestamp(EVER.end))
    [forecast] = (await client.introspect_decay_forecast(later)).forecasts
    assert forecast.forecasted_fidelity < forecast.current_fidelity <= 1
    assert (await client.introspect_evolution()).detected_patterns is not None


async def put_in_order(client: Any) -> None:
    assert (await client.lifecycle_consolidate(Consolidate(dry_run=True))).records_pruned == 0
    assert (await client.lifecycle_dream_tick(DreamTick(session_id="tea"))).raw_records_processed == 3
    assert (await client.lifecycle_decay_tick(DecayTick())).records_pruned == 0
    assert await client.lifecycle_set_mode(SetMode(mode=RecallMode.PERFECT)) is None
    assert (await client.lifecycle_compact(Compact())).bytes_after > 0


async def moved(client: Any) -> None:
    exported = await client.lifecycle_export(Export(stores=(Store.EPISODIC,)))
    assert exported.size_bytes == len(exported.archive_data)
    back = Import(archive_id="back", archive_data=exported.archive_data, dry_run=True)
    planned = await client.lifecycle_import(back)
    assert isinstance(planned, ImportPlanned)
    assert planned.records_kept == exported.record_count


async def forgotten(client: Any, record_ids: list[RecordId]) -> None:
    assert (await client.lifecycle_restore(Restore(record_ids=tuple(record_ids)))).records_restored == 0
    assert (await client.lifecycle_restore(Restore(dry_run=True))).archived == ()
    chosen = Forget(record_ids=tuple(record_ids), confirm=False)
    with refused(ForgetUnconfirmed):
        await client.lifecycle_forget(chosen)
    assert (await client.lifecycle_forget(msgspec.structs.replace(chosen, confirm=True))).records_deleted == 2
    assert len(await client.audit_consistency(1, 2)) > 0
    assert (await client.audit_checkpoint()).startswith(b"cerememory")
