"""A daemon behind nginx with the example of `ops`: TLS, who asks, refusals, archives as streams."""

from __future__ import annotations

import dataclasses
import datetime
import json
import ssl
import subprocess
from collections.abc import Iterator
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.daemon import WAIT_S, Daemon, free_port

CONF = Path(__file__).parents[2] / "ops" / "nginx" / "cerememory.conf"
NAME = "memory.example.org"
KEY = "a-key-for-the-test"
LIMIT_BYTES = 67_108_864
BURST = 20
AROUND = """
daemon off; pid {folder}/pid; error_log stderr notice; {user}
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    include {folder}/cerememory.conf;
}}
"""


@dataclasses.dataclass(frozen=True)
class Proxied:
    """A daemon that asks for keys, reached through nginx alone."""

    daemon: Daemon
    port: int
    trusted: ssl.SSLContext
    source: str = "127.0.0.2"  # the address that nginx sees; the proxy's own is trusted

    def connect(self) -> HTTPSConnection:
        return HTTPSConnection(
            "127.0.0.1", self.port, timeout=WAIT_S, context=self.trusted, source_address=(self.source, 0)
        )

    def ask(
        self, method: str, path: str, body: Any = None, *, key: str | None = KEY, **headers: str
    ) -> tuple[int, bytes]:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if key is not None:
            sent["Authorization"] = f"Bearer {key}"
        if body is not None and not isinstance(body, bytes):
            body, sent["Content-Type"] = json.dumps(body).encode(), "application/json"
        connection = self.connect()
        try:
            connection.request(method, path, body, {"Host": NAME, **sent})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of NAME that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "fullchain.pem", folder / "privkey.pem"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return paths


def example(daemon_port: int, port: int, chain: Path, key: Path) -> str:
    """The file of `ops` with the ports and paths of the test; each place that is to change is there once."""
    text = CONF.read_text()
    for old, new in (
        ("server 127.0.0.1:8420;", f"server 127.0.0.1:{daemon_port};"),
        ("listen 443 ssl;", f"listen 127.0.0.1:{port} ssl;"),
        ("    listen [::]:443 ssl;\n", ""),
        (f"/etc/letsencrypt/live/{NAME}/fullchain.pem", str(chain)),
        (f"/etc/letsencrypt/live/{NAME}/privkey.pem", str(key)),
    ):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def started(folder: Path) -> subprocess.Popen[str]:
    """nginx, once it says that its workers run."""
    process = subprocess.Popen(
        ["nginx", "-e", "stderr", "-p", folder, "-c", folder / "nginx.conf"], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if "start worker process " in line:
            return process
    raise AssertionError(f"nginx ended with {process.wait(WAIT_S)}\n{said}")


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    folder = tmp_path_factory.mktemp("nginx")
    chain, key = certificate(folder)
    env = {
        "CEREMEMORY_AUTH__ENABLED": "true",
        "CEREMEMORY_AUTH_API_KEYS": KEY,
        "CEREMEMORY_HTTP__ALLOWED_HOSTS": NAME,
        "CEREMEMORY_HTTP_TRUSTED_PROXY_CIDRS": "127.0.0.1/32",
        "CEREMEMORY_RATE_LIMIT__REQUESTS_PER_SECOND": "1",
        "CEREMEMORY_RATE_LIMIT__BURST": str(BURST),
        "CEREMEMORY_HTTP__METRICS_ENABLED": "true",
        "CEREMEMORY_LOG__LEVEL": "debug",
    }
    with Daemon(folder / "data", env=env) as daemon:
        port = free_port()
        (folder / "cerememory.conf").write_text(example(daemon.port, port, chain, key))
        user = "user root;" if folder.owner() == "root" else ""
        (folder / "nginx.conf").write_text(AROUND.format(folder=folder, user=user))
        trusted = ssl.create_default_context(cafile=str(chain))
        trusted.check_hostname = False  # it is reached by address
        nginx = started(folder)
        try:
            yield Proxied(daemon, port, trusted)
        finally:
            nginx.terminate()
            nginx.communicate(timeout=WAIT_S)


def test_what_is_stored_through_it_is_found_through_it(proxied: Proxied) -> None:
    block = {"modality": "text", "format": "text/plain", "text": "The lighthouse keeper keeps bees"}
    assert proxied.ask("POST", "/v1/encode", {"content": {"blocks": [block]}})[0] == 200
    proxied.daemon.wait_until_searchable()
    status, body = proxied.ask("POST", "/v1/recall/query", {"cue": {"text": "bees"}})
    assert (status, len(json.loads(body)["memories"])) == (200, 1)


def test_who_has_no_key_stays_out(proxied: Proxied) -> None:
    status, body = proxied.ask("GET", "/v1/introspect/stats", key=None)
    assert (status, json.loads(body)["code"]) == (401, "UNAUTHORIZED")


@pytest.mark.parametrize("path", ["/metrics", "/readiness"])
def test_what_is_for_this_machine_alone_isnt_there(proxied: Proxied, path: str) -> None:
    assert proxied.ask("GET", path)[0] == 404


def test_the_request_id_goes_in(proxied: Proxied) -> None:
    proxied = dataclasses.replace(proxied, source="127.0.0.5")
    request_id = "01a20caa-5137-74e7-9800-9c780a7b6d05"
    for _ in range(BURST // 2):  # the line is written behind the answer
        proxied.ask("GET", "/v1/introspect/stats", X_Request_Id=request_id)
        if request_id in proxied.daemon.log():
            break
    assert request_id in proxied.daemon.log()


def test_a_client_is_its_address_whatever_it_says_of_itself(proxied: Proxied) -> None:
    """Else every request of one client would have a limit of its own."""
    limited = dataclasses.replace(proxied, source="127.0.0.3")
    for number in range(4 * BURST):
        status, _ = limited.ask("GET", "/v1/introspect/stats", X_Forwarded_For=f"198.51.100.{number}")
        if status == 429:
            break
    assert status == 429
    assert dataclasses.replace(proxied, source="127.0.0.4").ask("GET", "/v1/introspect/stats")[0] == 200


def test_a_body_over_the_limit_is_refused_by_the_daemon_in_its_own_words(proxied: Proxied) -> None:
    connection = proxied.connect()
    connection.putrequest("POST", "/v1/encode", skip_host=True)
    for name, value in {
        "Host": NAME,
        "Authorization": f"Bearer {KEY}",
        "Content-Type": "application/json",
        "Content-Length": str(LIMIT_BYTES + 1),
    }.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())["code"]) == (413, "CONTENT_TOO_LARGE")
    connection.close()


def test_an_archive_goes_out_and_in(proxied: Proxied) -> None:
    status, archive = proxied.ask("POST", "/v1/archive", {"format": "cma"})
    assert (status, archive.count(b"\n")) == (200, 3)
    status, body = proxied.ask("PUT", "/v1/archive", archive)
    assert (status, json.loads(body)["records_imported"]) == (200, 0), "it is all there"
