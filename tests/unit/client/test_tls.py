"""HTTPS: the certificate is checked, connections are kept as without it."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from cerememory.client import Client
from cerememory.errors import ValidationFailed
from tests.support.certificates import self_signed
from tests.support.fake_daemon import FakeDaemon, answer


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    return self_signed(tmp_path)[0]


@pytest.fixture
def daemon(certificate: Path) -> Iterator[FakeDaemon]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    with FakeDaemon(default=answer({"done": True}), tls=context) as daemon:
        yield daemon


def test_a_trusted_daemon_is_called_over_one_connection(
    daemon: FakeDaemon, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with Client(daemon.url, "sesame") as client:
        assert client.call("introspect.stats") == {"done": True}
        assert client.call("recall.query", {}) == {"done": True}
    assert daemon.connections_made == 1
    assert daemon.requests[0].headers["authorization"] == "Bearer sesame"


def test_a_daemon_that_isnt_trusted_is_refused_at_once(daemon: FakeDaemon) -> None:
    def wait(_seconds: float) -> None:
        raise AssertionError("trust doesn't come by waiting")

    with Client(daemon.url, wait=wait) as client, pytest.raises(ValidationFailed, match="isn't trusted"):
        client.call("introspect.stats")
    assert daemon.requests == []
