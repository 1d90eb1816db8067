"""TLS: clients that choose HTTP/2 are served, others are not; a certificate that can't be used is refused."""

from __future__ import annotations

import ssl
from contextlib import suppress
from functools import partial
from pathlib import Path

import grpc
import pytest
import trio

from cerememory.cli.serve import serve
from cerememory.config.settings import GrpcSettings
from cerememory.config.sources import load
from cerememory.errors import ConfigInvalid
from cerememory.grpc.tls import tls_context
from tests.support.certificates import self_signed
from tests.support.grpc_service import WAIT_S, GrpcServing, serving_grpc


async def test_a_client_is_served_over_tls_and_only_with_http_2(tmp_path: Path) -> None:
    cert, key = self_signed(tmp_path)
    secured = GrpcSettings(port=1, tls_cert_path=cert, tls_key_path=key)
    trusted = grpc.ssl_channel_credentials(cert.read_bytes())
    channel = partial(grpc.secure_channel, credentials=trusted)
    async with serving_grpc(tmp_path / "data", channel, grpc=secured) as daemon:
        assert (await daemon.call("Stats")).json["total_records"] == 0
        assert await _is_greeted(daemon, cert, ["http/1.1", "h2"])
        for offered in ([], ["http/1.1"]):
            assert not await _is_greeted(daemon, cert, offered)
        async with await trio.open_tcp_stream("127.0.0.1", daemon.port) as plain:
            await plain.send_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0" * 64)
            await _until_closed(plain)
        assert (await daemon.call("Stats")).status == "OK"
        await _until_alone(daemon)


async def _is_greeted(daemon: GrpcServing, cert: Path, offered: list[str]) -> bool:
    """Whether the server speaks to a client that offers these protocols, instead of hanging up."""
    context = ssl.create_default_context(cafile=str(cert))
    if offered:
        context.set_alpn_protocols(offered)
    tcp = await trio.open_tcp_stream("127.0.0.1", daemon.port)
    async with trio.SSLStream(tcp, context, server_hostname="localhost", https_compatible=True) as stream:
        try:
            with trio.fail_after(WAIT_S):
                await stream.do_handshake()
                greeting = await stream.receive_some()
        except trio.BrokenResourceError:
            return False
        return bool(greeting)


async def _until_closed(stream: trio.SocketStream) -> None:
    with trio.fail_after(WAIT_S), suppress(trio.BrokenResourceError):
        while await stream.receive_some():
            pass


async def _until_alone(daemon: GrpcServing) -> None:
    """Until nobody but the test's own client is connected."""
    with trio.fail_after(WAIT_S):
        while daemon.connections_open > 1:
            await trio.lowlevel.checkpoint()


async def test_a_client_that_never_shakes_hands_is_given_up(tmp_path: Path) -> None:
    cert, key = self_signed(tmp_path)
    secured = GrpcSettings(port=1, tls_cert_path=cert, tls_key_path=key)
    async with serving_grpc(tmp_path / "data", grpc=secured) as daemon:
        daemon.behind.service.server._config.keep_alive_timeout = 0.01
        async with await trio.open_tcp_stream("127.0.0.1", daemon.port) as silent:
            await _until_closed(silent)


def test_without_a_certificate_there_is_no_tls() -> None:
    assert tls_context(GrpcSettings(port=1)) is None


def test_old_versions_are_not_spoken(tmp_path: Path) -> None:
    cert, key = self_signed(tmp_path)
    context = tls_context(GrpcSettings(port=1, tls_cert_path=cert, tls_key_path=key))
    assert context is not None
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize("name", ["tls_cert_path", "tls_key_path"])
def test_a_file_that_isnt_there_is_named(tmp_path: Path, name: str) -> None:
    cert, key = self_signed(tmp_path)
    paths = {"tls_cert_path": cert, "tls_key_path": key, name: tmp_path / "nowhere.pem"}
    with pytest.raises(ConfigInvalid, match=rf"^grpc\.{name}: .*nowhere.pem: can't be read: No such file"):
        tls_context(GrpcSettings(port=1, **paths))


def test_what_is_no_certificate_or_not_its_key_is_refused(tmp_path: Path) -> None:
    cert, key = self_signed(tmp_path)
    (tmp_path / "other").mkdir()
    _, other_key = self_signed(tmp_path / "other")
    for paths in ((key, key), (cert, cert), (cert, other_key)):
        with pytest.raises(ConfigInvalid, match=r"^grpc\.tls_cert_path, grpc\.tls_key_path: can't be used: \w"):
            tls_context(GrpcSettings(port=1, tls_cert_path=paths[0], tls_key_path=paths[1]))


def test_a_key_that_asks_for_a_passphrase_is_refused_at_once(tmp_path: Path) -> None:
    cert, key = self_signed(tmp_path, b"secret")
    with pytest.raises(ConfigInvalid, match=r"^grpc\.tls_key_path: is encrypted"):
        tls_context(GrpcSettings(port=1, tls_cert_path=cert, tls_key_path=key))


def test_a_daemon_that_cant_be_secured_is_refused_before_anything_is_touched(tmp_path: Path) -> None:
    given = {"data_dir": tmp_path / "data", "grpc.port": 8421}
    nowhere = dict.fromkeys(("grpc.tls_cert_path", "grpc.tls_key_path"), tmp_path / "nowhere.pem")
    with pytest.raises(ConfigInvalid, match=r"^grpc\.tls_cert_path: "):
        serve(partial(load, None, {}, {**given, **nowhere}), {})
    assert not (tmp_path / "data").exists()
