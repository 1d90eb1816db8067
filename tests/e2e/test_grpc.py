"""The daemon's gRPC service in a process of its own, with TLS and keys."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from tests.support.certificates import self_signed
from tests.support.daemon import Daemon, cerememory, free_port
from tests.support.engine import store_body
from tests.support.grpc_service import WAIT_S, Client
from tests.support.pages import ROOT, blocks

AUTH = {"CEREMEMORY_AUTH__ENABLED": "true", "CEREMEMORY_AUTH_API_KEYS": "sesame"}
KEY = {"authorization": "Bearer sesame"}
ASKS = {"CEREMEMORY_SERVER_API_KEY": "sesame"}
PAGE = ROOT / "docs" / "grpc.md"


@dataclass
class Secured:
    daemon: Daemon
    port: int
    client: Client


@contextmanager
def secured(folder: Path) -> Iterator[Secured]:
    """A daemon that asks for keys, and a client that trusts its certificate."""
    cert, key = self_signed(folder)
    port = free_port()
    tls = {"CEREMEMORY_GRPC__TLS_CERT_PATH": str(cert), "CEREMEMORY_GRPC__TLS_KEY_PATH": str(key)}
    with Daemon(folder / "data", env={**AUTH, **tls}, args=["--grpc-port", str(port)]) as daemon:
        credentials = grpc.ssl_channel_credentials(cert.read_bytes())
        with grpc.secure_channel(f"localhost:{port}", credentials) as channel:
            yield Secured(daemon, port, Client(channel))


def test_a_daemon_with_tls_and_keys_serves_until_it_is_told_to_stop(tmp_path: Path) -> None:
    with secured(tmp_path) as secure:
        daemon, client = secure.daemon, secure.client
        assert daemon.banner[-2:] == [
            f"  gRPC    127.0.0.1:{secure.port}, with TLS",
            f"  HTTP    listening on {daemon.address}",
        ]
        health = HealthStub(client.channel)
        assert health.Check(HealthCheckRequest(), timeout=WAIT_S).status == HealthCheckResponse.SERVING
        assert client.call("Stats").refusal == ("UNAUTHENTICATED", "UNAUTHORIZED")
        stored = client.call("EncodeStore", store_body("the kettle is red"), metadata=KEY)
        record_id = stored.json["record_id"]
        seen = cerememory("recall", "kettle", "--json", "--server-url", daemon.url, env=ASKS)
        assert record_id in seen.stdout, seen.stderr
        with _channel_of_the_page(tmp_path, secure.port) as channel:
            assert Client(channel).call("Stats").json["total_records"] == 1
        export = client.call("Export", {}, metadata=KEY)
        assert (export.status, export.messages[-1].is_last) == ("OK", True)
        watching = health.Watch(HealthCheckRequest())
        assert next(watching).status == HealthCheckResponse.SERVING
        with ThreadPoolExecutor(1) as reading:
            ended = reading.submit(_end_of, watching)  # a stream that isn't read keeps its connection
            assert daemon.stop() == 0
            assert ended.result(WAIT_S) == ([HealthCheckResponse.NOT_SERVING], grpc.StatusCode.UNAVAILABLE)
        assert client.call("Stats", metadata=KEY).status == "UNAVAILABLE"
        assert "Traceback" not in daemon.log()


def _channel_of_the_page(folder: Path, port: int) -> grpc.Channel:
    """What docs/grpc.md says for Python, with this daemon's address, certificate and key."""
    _, shown = (text for language, text in blocks(PAGE) if language == "python")
    here = shown.replace("memory.example:8421", f"localhost:{port}").replace("cert.pem", str(folder / "cert.pem"))
    names: dict[str, Any] = {"grpc": grpc, "Path": Path, "os": SimpleNamespace(environ=ASKS)}
    exec(compile(here, "docs/grpc.md", "exec"), names)
    channel: grpc.Channel = names["channel"]
    return channel


def _end_of(watching: Any) -> tuple[list[int], grpc.StatusCode]:
    """What comes until it ends, and how it does."""
    told = []
    with pytest.raises(grpc.RpcError):
        for answer in watching:
            told.append(answer.status)
    return told, watching.code()


def test_the_page_shows_what_the_example_does() -> None:
    """`tests/e2e/test_pages.py` runs it."""
    example = " ".join((ROOT / "examples" / "grpc_client.py").read_text().split())
    shown = next(text for language, text in blocks(PAGE) if language == "python")
    assert " ".join(shown.split()).removeprefix("with ") in example
