"""Every method of the service, asked by grpcio's client over a socket, answers what HTTP answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from cerememory.grpc import operations
from cerememory.grpc.operations import CHUNK_BYTES, OPERATIONS
from cerememory.http.bodies import PARSED_FACTOR
from cerememory.protocol.operations import BY_NAME
from cerememory.protocol.replies import Exported
from tests.support.archives import BUNDLE, PASSPHRASE
from tests.support.engine import WallClock, raw_body, store_body
from tests.support.grpc_calls import called, framed
from tests.support.grpc_service import GrpcServing, chunks_of, message, serving_grpc

MIB = 1_048_576
YEARS = {"start": "2020-01-01T00:00:00Z", "end": "2040-01-01T00:00:00Z"}
RECALL = {"cue": {"text": "kettle"}, "reconsolidate": False}
TERMS = {"archive_id": "one", "conflict_resolution": "keep_imported"}


def test_every_method_is_another_operation() -> None:
    assert len(set(OPERATIONS.values())) == len(OPERATIONS) == 21
    assert set(OPERATIONS.values()) <= BY_NAME.keys()


async def test_every_method_answers_what_http_does(tmp_path: Path) -> None:
    async with serving_grpc(tmp_path, clock=WallClock(step_ns=0)) as daemon:
        first, second = await _stored(daemon)
        await _reads(daemon, first, second)
        await _changes(daemon, first)


async def _stored(daemon: GrpcServing) -> tuple[str, str]:
    """Two memories and two raw entries."""
    call = daemon.call
    stored = await call("EncodeStore", store_body("red kettle"))
    assert stored.json.keys() == {"record_id", "store", "initial_fidelity", "associations_created"}
    batch = await call("EncodeBatch", {"records": [store_body("blue pot")], "infer_associations": True})
    assert [result["store"] for result in batch.json["results"]] == ["episodic"]
    raw = await call("EncodeStoreRaw", raw_body("the kettle leaks"))
    assert raw.json["session_id"] == "s-1"
    raws = await call("EncodeBatchStoreRaw", {"records": [raw_body("it was a gift")]})
    assert len(raws.json["results"]) == 1
    assert [int(a.trailing["x-cerememory-sequence"]) for a in (stored, batch, raw, raws)] == [1, 2, 3, 4]
    return stored.json["record_id"], batch.json["results"][0]["record_id"]


async def _reads(daemon: GrpcServing, first: str, second: str) -> None:
    forecast = {"record_ids": [first], "forecast_at": "2030-01-01T00:00:00Z"}
    linked = {"record_id": first, "depth": 1}
    for method, verb, path, body in (
        ("RecallQuery", "POST", "/v1/recall/query", RECALL),
        ("RecallRawQuery", "POST", "/v1/recall/raw", {"query": "kettle"}),
        ("RecallAssociate", "POST", f"/v1/recall/associate/{first}", linked),
        ("RecallTimeline", "POST", "/v1/recall/timeline", {"range": YEARS}),
        ("RecallGraph", "POST", "/v1/recall/graph", {"center_id": second}),
        ("DecayForecast", "POST", "/v1/introspect/decay-forecast", forecast),
        ("Stats", "GET", "/v1/introspect/stats", None),
        ("Evolution", "GET", "/v1/introspect/evolution", None),
    ):
        by_http = await daemon.behind.http.ask(verb, path, body or b"")
        by_grpc = await daemon.call(method, body)
        assert by_grpc.message.json_payload == by_http.body, method
    asked = message("IntrospectRecordRequest", record_id=first)
    by_http = await daemon.behind.http.ask("GET", f"/v1/introspect/record/{first}")
    assert (await daemon.call("IntrospectRecord", asked)).message.json_payload == by_http.body
    compact = {"accept": "application/vnd.cmp+json;bytes=base64"}
    assert "cmVkIGtldHRsZQ==" in str((await daemon.call("RecallQuery", RECALL, metadata=compact)).json)


async def _changes(daemon: GrpcServing, record_id: str) -> None:
    call = daemon.call
    edited = await call("EncodeUpdate", {"record_id": record_id, **store_body("green kettle")})
    assert edited.message == message("Empty")
    assert edited.trailing["x-cerememory-sequence"] == "5"
    assert (await call("SetMode", {"mode": "perfect"})).message == message("Empty")
    assert (await call("DreamTick", {})).json["raw_records_processed"] == 2
    assert (await call("Consolidate", {"dry_run": True})).json["records_pruned"] == 0
    assert (await call("DecayTick", {})).json.keys() == {
        "records_updated",
        "records_below_threshold",
        "records_pruned",
    }
    forgotten = await call("Forget", {"record_ids": [record_id], "confirm": True})
    assert forgotten.message == message("ForgetResponse", records_deleted=1)


async def test_a_recall_is_kept_to_its_scope(tmp_path: Path) -> None:
    async with serving_grpc(tmp_path) as daemon:
        made = [
            await daemon.call(
                "EncodeStore",
                store_body(
                    "red kettle",
                    context={"session_id": f"s-{i % 2}", "source": "Ada"},
                    metadata={"n": i},
                    meta={"tags": ["a"] * i},
                ),
            )
            for i in range(4)
        ]
        ids = [stored.json["record_id"] for stored in made]
        for scope, expected in (
            ({"session_id": "s-1"}, {ids[1], ids[3]}),
            ({"session_id": "s-0", "source": "Ada", "tags": ["a"], "metadata": {"n": 2.0}}, {ids[2]}),
            ({"source": "Bob"}, set()),
            (None, set(ids)),
        ):
            for cue in ({}, {"text": "kettle"}):
                found = await daemon.call("RecallQuery", {"cue": cue, "scope": scope})
                assert {memory["record"]["id"] for memory in found.json["memories"]} == expected
        refused = await daemon.call("RecallQuery", {"cue": {}, "scope": {"tag": "a"}})
        assert (refused.status, refused.details) == ("INVALID_ARGUMENT", "scope.tag: unknown field")


async def test_an_archive_comes_in_chunks_and_goes_back_in(tmp_path: Path) -> None:
    async with serving_grpc(tmp_path) as daemon:
        for number in range(3):
            await daemon.call("EncodeStore", store_body(f"{number} " + "x" * 30_000))
        exported = await daemon.call("Export", {"format": "cma", "include_raw_journal": True})
        chunks = exported.messages
        archive = b"".join(chunk.data for chunk in chunks)
        assert {len(chunk.data) for chunk in chunks[:-1]} == {CHUNK_BYTES}
        assert [chunk.is_last for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
        assert [bool(chunk.json_metadata) for chunk in chunks] == [True] + [False] * (len(chunks) - 1)
        metadata = msgspec.json.decode(chunks[0].json_metadata)
        assert metadata.keys() == set(Exported.__struct_fields__)
        assert (metadata["size_bytes"], metadata["record_count"], metadata["archive_data"]) == (
            len(archive),
            3,
            [],
        )
        await daemon.call("Forget", {"store": "episodic", "confirm": True})
        taken = await daemon.call("Import", chunks_of(archive, msgspec.json.encode(TERMS)))
        assert taken.message == message("ImportResponse", records_imported=3)
        assert int(taken.trailing["x-cerememory-sequence"]) > 4


async def test_an_import_is_all_or_nothing_and_once_by_its_key(tmp_path: Path) -> None:
    async with serving_grpc(tmp_path) as daemon:

        async def take(archive: bytes, terms: dict[str, Any], **metadata: str) -> Any:
            named = {name.replace("_", "-"): value for name, value in metadata.items()}
            return await daemon.call("Import", chunks_of(archive, msgspec.json.encode(terms), 700), metadata=named)

        assert (await take(BUNDLE[:-5], TERMS)).refusal == ("ALREADY_EXISTS", "IMPORT_CONFLICT")
        assert (await daemon.call("Stats")).json["total_records"] == 0
        once = {"idempotency_key": "k"}
        replies = [await take(BUNDLE, TERMS, **once) for _ in range(2)]
        assert [reply.message.records_imported for reply in replies] == [8, 8]
        assert (await take(BUNDLE, {**TERMS, "strategy": "replace"}, **once)).status == "ALREADY_EXISTS"


async def test_an_encrypted_archive_ends_with_its_last_chunk(tmp_path: Path) -> None:
    async with serving_grpc(tmp_path) as daemon:
        await daemon.call("EncodeStore", store_body("red kettle"))
        exported = await daemon.call("Export", {"encrypt": True, "encryption_key": PASSPHRASE})
        archive = b"".join(chunk.data for chunk in exported.messages)
        assert b"kettle" not in archive
        assert msgspec.json.decode(exported.messages[0].json_metadata)["size_bytes"] == len(archive)
        assert [chunk.is_last for chunk in exported.messages] == [True]


@pytest.mark.parametrize(
    ("chunks", "said"),
    [
        ([], "json_metadata: missing in the first chunk"),
        ([{"data": b"x"}], "json_metadata: missing in the first chunk"),
        ([{"json_metadata": b"{}"}], "json_metadata.archive_id: missing field"),
        ([{"json_metadata": b"!"}], "json_metadata: not readable as JSON: invalid character (byte 0)"),
    ],
)
async def test_an_import_says_what_it_is_first(tmp_path: Path, chunks: list[dict[str, bytes]], said: str) -> None:
    path = "/cerememory.v1.CerememoryService/Import"
    async with called(tmp_path) as daemon:
        sent = [framed(message("ImportChunk", **chunk).SerializeToString()) for chunk in chunks]
        refused = await daemon.grpc.send(path, sent)
        assert (refused.refusal, refused.said) == (("INVALID_ARGUMENT", "VALIDATION_ERROR"), said)


async def test_an_import_is_bounded_in_all_and_needs_no_room_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "IMPORT_BYTES_MAX", 10 * CHUNK_BYTES)
    most = 0

    def endless(daemon: GrpcServing) -> Iterator[Any]:
        nonlocal most
        for chunk in chunks_of(b"x" * (40 * CHUNK_BYTES), msgspec.json.encode(TERMS)):
            most = max(most, daemon.behind.bytes_in_flight)
            yield chunk

    async with serving_grpc(tmp_path) as daemon:
        refused = await daemon.call("Import", endless(daemon))
        assert refused.refusal == ("RESOURCE_EXHAUSTED", "CONTENT_TOO_LARGE")
        assert most <= PARSED_FACTOR * 2 * CHUNK_BYTES
        assert (await daemon.call("Stats")).status == "OK"


async def test_a_message_may_be_longer_than_grpc_s_usual_four_mebibytes(tmp_path: Path) -> None:
    async with serving_grpc(tmp_path) as daemon:
        stored = await daemon.call("EncodeStore", b" " * 5 * MIB + msgspec.json.encode(store_body("kettle")))
        assert stored.json["store"] == "episodic"
        assert daemon.behind.bytes_in_flight == 0


async def test_calls_at_once_on_one_connection(tmp_path: Path) -> None:
    async with serving_grpc(tmp_path) as daemon:
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(daemon.call, "EncodeStore", store_body(f"note {number}"))
        assert (await daemon.call("Stats")).json["total_records"] == 20
        assert daemon.connections_open == 1
