"""Keeps a memory, finds it again and saves an archive over gRPC: `grpc_client.py [HOST:PORT]`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import grpc
from cerememory_pb2 import EncodeStoreRequest, ExportRequest, RecallQueryRequest
from cerememory_pb2_grpc import CerememoryServiceStub

TRIES = 100  # each waits in the daemon for a twentieth of a second


def payload(body: object) -> bytes:
    return json.dumps(body).encode()


def main() -> None:
    address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8421"
    with grpc.insecure_channel(address) as channel:
        service = CerememoryServiceStub(channel)
        block = {"modality": "text", "format": "text/plain", "text": "The blue kettle whistles in F sharp"}
        request = EncodeStoreRequest(json_payload=payload({"content": {"blocks": [block]}}))
        once = [("idempotency-key", "kettle-1")]
        stored, call = service.EncodeStore.with_call(request, timeout=10, metadata=once)
        sequence = dict(call.trailing_metadata())["x-cerememory-sequence"]
        print("stored", json.loads(stored.json_payload)["record_id"])

        cue = RecallQueryRequest(json_payload=payload({"cue": {"text": "kettles"}, "limit": 3}))
        for _try in range(TRIES):  # the index follows a commit by a moment, and says so
            answer = service.RecallQuery(cue, timeout=10, metadata=[("x-cerememory-sequence", sequence)])
            found = json.loads(answer.json_payload)
            if found["query_metadata"]["index_complete"]:
                break
        for memory in found["memories"]:
            print("found", bytes(memory["record"]["content"]["blocks"][0]["data"]).decode())

        with Path("all.cma").open("wb") as archive:
            for chunk in service.Export(ExportRequest(json_payload=payload({"format": "cma"}))):
                archive.write(chunk.data)
        try:
            service.RecallQuery(RecallQueryRequest(json_payload=payload({"cue": {"text": 7}})), timeout=10)
        except grpc.RpcError as error:
            print(error.code().name, error.details())


if __name__ == "__main__":
    main()
