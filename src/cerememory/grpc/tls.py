"""The gRPC service's certificate, and what is asked of those who connect."""

from __future__ import annotations

import ssl
from pathlib import Path

from cerememory.config.settings import GrpcSettings
from cerememory.errors import ConfigInvalid

HTTP2 = "h2"


def tls_context(grpc: GrpcSettings) -> ssl.SSLContext | None:
    """For clients that choose HTTP/2, as gRPC wants; None without a certificate. Raises `ConfigInvalid`."""
    if grpc.tls_cert_path is None or grpc.tls_key_path is None:
        return None
    _check_readable("grpc.tls_cert_path", grpc.tls_cert_path)
    _check_readable("grpc.tls_key_path", grpc.tls_key_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols([HTTP2])
    try:
        context.load_cert_chain(grpc.tls_cert_path, grpc.tls_key_path, password=_no_password)
    except ssl.SSLError as error:
        reason = error.reason or "not a certificate and its key in PEM"
        raise ConfigInvalid(f"grpc.tls_cert_path, grpc.tls_key_path: can't be used: {reason}") from None
    return context


def _check_readable(key: str, path: Path) -> None:
    try:
        path.read_bytes()
    except OSError as error:
        raise ConfigInvalid(f"{key}: {path}: can't be read: {error.strerror}") from None


def _no_password() -> str:
    """The daemon has nobody to ask."""
    raise ConfigInvalid("grpc.tls_key_path: is encrypted; give a key without a passphrase")
