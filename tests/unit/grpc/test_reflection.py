"""Reflection, asked by the client that gRPC ships for it, and the files that it tells of."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from cerememory.grpc.descriptors import CMP, COMPILED, HEALTH, REFLECTIONS, message
from tests.support.engine import settings_for
from tests.support.gated import BARE, with_auth
from tests.support.grpc_calls import called, framed
from tests.support.grpc_service import PROTO_PATH, serving_grpc

BOTH_WAYS = (
    *("EncodeStore", "EncodeBatch", "EncodeStoreRaw", "EncodeBatchStoreRaw"),
    *("RecallQuery", "RecallRawQuery", "RecallAssociate", "RecallTimeline", "RecallGraph"),
    *("Consolidate", "DreamTick", "DecayTick", "DecayForecast"),
)
ONE_WAY = (
    *("EncodeUpdateRequest", "SetModeRequest", "ForgetRequest", "ExportRequest"),
    *("StatsResponse", "RecordResponse", "EvolutionResponse"),
)
WITH_JSON = (*ONE_WAY, *(f"{name}{kind}" for name in BOTH_WAYS for kind in ("Request", "Response")))
OTHERS = {
    "Empty": {},
    "ForgetResponse": {"records_deleted": 1},
    "ImportResponse": {"records_imported": 1},
    "IntrospectRecordRequest": {"record_id": 1},
    "ExportChunk": {"data": 1, "is_last": 2, "json_metadata": 3},
    "ImportChunk": {"data": 1, "json_metadata": 2},
}


async def test_a_client_without_the_proto_file_finds_everything(tmp_path: Path) -> None:
    async with serving_grpc(tmp_path) as daemon:
        found = await trio.to_thread.run_sync(_reflected, daemon.client.channel)
    names, service, messages = found
    assert set(names) == {CMP, HEALTH, *REFLECTIONS}
    assert {method.name for method in service.methods} >= {"EncodeStore", "Export", "Import"}
    assert messages == {**{name: {"json_payload": 1} for name in WITH_JSON}, **OTHERS}


def _reflected(channel: Any) -> tuple[list[str], Any, dict[str, dict[str, int]]]:
    database = ProtoReflectionDescriptorDatabase(channel)
    pool = DescriptorPool(database)
    service = pool.FindServiceByName(CMP)
    messages = service.file.message_types_by_name
    numbers = {name: {field.name: field.number for field in kind.fields} for name, kind in messages.items()}
    return list(database.get_services()), service, numbers


@pytest.mark.parametrize("service", REFLECTIONS)
async def test_both_versions_answer_every_question(tmp_path: Path, service: str) -> None:
    package = service.rpartition(".")[0]
    questions: list[dict[str, Any]] = [
        {"host": "here", "list_services": ""},
        {"file_by_filename": "cerememory.proto"},
        {"file_containing_symbol": f"{CMP}.EncodeStore"},
        {"all_extension_numbers_of_type": "cerememory.v1.Empty"},
        {"file_by_filename": "nowhere.proto"},
        {"file_containing_symbol": "no.such.Thing"},
        {"all_extension_numbers_of_type": "no.such.Thing"},
        {"file_containing_extension": {"containing_type": "cerememory.v1.Empty", "extension_number": 7}},
        {},
    ]
    request, reply = (message(f"{package}.ServerReflection{kind}") for kind in ("Request", "Response"))
    async with called(tmp_path) as daemon:
        sent = [framed(request(**question).SerializeToString()) for question in questions]
        answered = await daemon.grpc.send(f"/{service}/ServerReflectionInfo", sent)
    answers = [reply.FromString(answer) for answer in answered.messages]
    assert [answer.WhichOneof("message_response") for answer in answers] == [
        "list_services_response",
        *("file_descriptor_response",) * 2,
        "all_extension_numbers_response",
        *("error_response",) * 5,
    ]
    assert answers[0].valid_host == "here"
    assert [answer.original_request for answer in answers] == [request(**question) for question in questions]
    assert {answer.error_response.error_code for answer in answers[4:]} == {5}


async def test_reflection_needs_a_key_as_the_description_of_http_does(tmp_path: Path) -> None:
    settings = with_auth(settings_for(tmp_path, rate_limit=BARE.rate_limit))
    async with called(tmp_path, settings=settings) as daemon:
        answered = await daemon.grpc.send(f"/{REFLECTIONS[0]}/ServerReflectionInfo", [framed(b"")])
        assert answered.status == "UNAUTHENTICATED"


def test_what_is_served_is_what_the_proto_files_say(tmp_path: Path) -> None:
    made = tmp_path / "services.binpb"
    names = sorted(path.name for path in PROTO_PATH.glob("*.proto"))
    options = [f"-I{PROTO_PATH}", f"--descriptor_set_out={made}"]
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *options, *names], check=True)
    assert made.read_bytes() == COMPILED.read_bytes(), "make proto"


def test_both_versions_of_reflection_differ_in_their_name_alone() -> None:
    texts = {(PROTO_PATH / name).read_text() for name in ("reflection.proto", "reflection_v1alpha.proto")}
    assert len({text.replace("v1alpha", "v1") for text in texts}) == 1
