"""HTTPS: the certificate is checked, connections are kept as without it."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cerememory.client import Client
from cerememory.errors import ValidationFailed
from tests.support.fake_daemon import FakeDaemon, answer


def write_self_signed(path: Path) -> None:
    """Key and certificate of 127.0.0.1, good for a day, in one PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test daemon")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    write_self_signed(tmp_path / "daemon.pem")
    return tmp_path / "daemon.pem"


@pytest.fixture
def daemon(certificate: Path) -> Iterator[FakeDaemon]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
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
