"""Keys, passphrases and memories: in no log, in no error that isn't about them, in no list of processes.

One daemon at the level debug is asked for everything that can go wrong, with a canary in each place that a secret
or a memory can stand in; then all that it wrote is searched.
"""

from __future__ import annotations

import base64
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cerememory.storage.datadir import read_token
from tests.support.calls import UNLIMITED, WAIT_S, Answer, Caller, NoAnswer, store_body
from tests.support.daemon import COMMAND, Daemon, cerememory
from tests.support.fake_daemon import FakeDaemon, Handler, Received
from tests.support.terminal import shown_by

API_KEY = "canary-api-key-1d"
LLM_KEY = "canary-llm-key-2e"
PASSPHRASE = "canary-passphrase-3f"
WRONG_KEY = "canary-wrong-key-4a"
STORE_PASSPHRASE = "canary-store-passphrase-6c"
SECRETS = (API_KEY, LLM_KEY, PASSPHRASE, STORE_PASSPHRASE, WRONG_KEY)
MEMORY = "canary-memory-5b"
CANARIES = (*SECRETS, MEMORY)
NO_ID = "0191aaaa-0000-7000-8000-00000000000a"


class Quoting:
    """A provider that refuses, and says what it was sent while it does."""

    def __init__(self) -> None:
        self.service = FakeDaemon(default=self._quote)

    def _quote(self, handler: Handler) -> None:
        asked: Received = self.service.requests[-1]
        said = f"{asked.headers} {asked.body!r}".encode()
        handler.send_response(401)
        handler.send_header("Content-Length", str(len(said)))
        handler.end_headers()
        handler.wfile.write(said)


@dataclass
class Heard:
    """What a daemon wrote and answered; `errors` are the answers that refuse, each with its request."""

    log: str = ""
    command_line: bytes = b""
    made_keys: tuple[str, ...] = ()  # the token for local commands, and one that a command made
    errors: list[tuple[str, Answer]] = field(default_factory=list)


class Asking:
    def __init__(self, address: str, heard: Heard) -> None:
        self._address = address
        self._heard = heard

    def __call__(
        self, method: str, path: str, body: Any = None, *, data: bytes | None = None, **headers: str
    ) -> Answer:
        named = {"Authorization": f"Bearer {API_KEY}", "Content-Type": "application/json"}
        named |= {name.replace("_", "-"): value for name, value in headers.items()}
        with Caller(self._address) as caller:
            if data is None:
                answer = caller.ask(method, path, body, named)
            else:
                answer = caller.send(method, path, data, named)
        if answer.status >= 400:
            self._heard.errors.append((f"{method} {path}", answer))
        return answer

    def raw(self, data: bytes) -> bytes:
        """The first part of the answer to bytes that are no HTTP, or the beginning of some."""
        host, _, port = self._address.partition(":")
        with socket.create_connection((host, int(port)), WAIT_S) as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            return connection.recv(65_536)


def as_header(passphrase: str) -> str:
    return base64.urlsafe_b64encode(passphrase.encode()).decode().rstrip("=")


def do_everything(ask: Asking) -> None:
    stored = ask(
        "POST",
        "/v1/encode",
        store_body(MEMORY, metadata={MEMORY: MEMORY}, meta={"intent": MEMORY}, context={"session_id": MEMORY}),
        Idempotency_Key=MEMORY,
        X_Cerememory_Namespace="canary",
    )
    record_id = stored.json["record_id"]
    ask("POST", "/v1/encode", store_body(MEMORY), Idempotency_Key=MEMORY)
    ask("POST", "/v1/encode", store_body(f"{MEMORY} again"), Idempotency_Key=MEMORY)
    ask("POST", "/v1/encode/raw", {"session_id": MEMORY, **store_body(MEMORY)})
    ask("POST", "/v1/recall/query", {"cue": {"text": MEMORY}})
    ask("POST", "/v1/lifecycle/dream-tick", {})
    ask("GET", f"/v1/introspect/record/{record_id}?include_history=true")
    _ask_wrongly(ask)
    _use_archives(ask)
    ask("DELETE", "/v1/lifecycle/forget", {"session_id": MEMORY, "confirm": True})


def _ask_wrongly(ask: Asking) -> None:
    ask("POST", "/v1/encode", data=f'{{"content": {{"blocks": [{{"text": "{MEMORY}'.encode())
    ask("POST", "/v1/encode", data=MEMORY.encode("utf-16"))
    ask("POST", "/v1/encode", store_body(MEMORY, store=7))
    ask("POST", "/v1/encode", store_body(MEMORY, metadata={MEMORY: [[] for _ in range(2)]}, emotion=MEMORY))
    ask("POST", "/v1/encode", {"content": {"blocks": [{"modality": "structured", "format": "x", "text": MEMORY}]}})
    ask("POST", "/v1/recall/query", {"cue": {"text": [MEMORY], "embedding": [MEMORY]}})
    ask("PATCH", f"/v1/encode/{NO_ID}", store_body(MEMORY), If_Match="7")
    ask("POST", "/v1/encode", store_body(MEMORY), Content_Type="text/plain")
    ask("GET", "/v1/introspect/stats", Authorization=f"Bearer {WRONG_KEY}")
    ask("GET", "/v1/introspect/stats", Authorization=f"Basic {WRONG_KEY}")
    ask("GET", f"/v1/introspect/stats?key={WRONG_KEY}", Authorization="")
    ask("GET", "/v1/introspect/record/nothing")
    ask("GET", "/v1/introspect/stats", Host=f"{WRONG_KEY}.example")
    ask("POST", "/v1/encode", store_body(MEMORY), Origin=f"https://{WRONG_KEY}.example")
    for data in (
        f"GET /v1/introspect/stats HTTP/1.1\r\nAuthorization Bearer {API_KEY}\r\n\r\n",
        f"POST /v1/encode HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {API_KEY}\r\n"
        f"Content-Length: 900\r\n\r\n{MEMORY}",
        f"{WRONG_KEY}\r\n\r\n",
    ):
        with suppress(ConnectionError):
            ask.raw(data.encode())


def _use_archives(ask: Asking) -> None:
    exported = ask("POST", "/v1/lifecycle/export", {"encrypt": True, "encryption_key": PASSPHRASE})
    archive = bytes(exported.json["archive_data"])
    for given in (
        {"decryption_key": WRONG_KEY},
        {"decryption_key": [WRONG_KEY]},
        {"archive_data": list(MEMORY.encode())},
        {"archive_data": list(f'{{"version": "{MEMORY}"}}\n'.encode())},
    ):
        ask("POST", "/v1/lifecycle/import", {"archive_id": "a", "archive_data": list(archive), **given})
    ask("POST", "/v1/lifecycle/export", {"encrypt": [PASSPHRASE], "encryption_key": PASSPHRASE})
    ask("POST", "/v1/lifecycle/export", {"encryption_key": {"key": PASSPHRASE}})
    headers = {"Content_Type": "application/octet-stream"}
    put = "/v1/archive?strategy=merge"
    ask("PUT", put, data=archive, X_Archive_Passphrase=as_header(WRONG_KEY), **headers)
    ask("PUT", put, data=archive, X_Archive_Passphrase=f"{PASSPHRASE}!", **headers)
    ask("PUT", put, data=archive[:-1], X_Archive_Passphrase=as_header(PASSPHRASE), **headers)
    with suppress(NoAnswer):
        ask("POST", "/v1/archive", {"encryption_key": PASSPHRASE}, X_Archive_Passphrase=as_header(PASSPHRASE))


def _use_made_keys(daemon: Daemon, heard: Heard) -> tuple[str, ...]:
    """Those that the data dir has, each used where it may be and where it may not."""
    token = read_token(daemon.data_dir)
    made = cerememory("key", "create", "laptop", "--role", "read", "--data-dir", daemon.data_dir).stdout.strip()
    assert token and made
    ask = Asking(daemon.address, heard)
    for made_key in (token, made, made[:-1]):
        ask("GET", "/v1/introspect/stats", Authorization=f"Bearer {made_key}")
        ask("POST", "/v1/lifecycle/export", {}, Authorization=f"Bearer {made_key}")
    return token, made[:-1]


@pytest.fixture(scope="module")
def heard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Heard]:
    quoting = Quoting()
    env = {
        **UNLIMITED,
        "CEREMEMORY_LOG__LEVEL": "trace",
        "CEREMEMORY_LOG__FORMAT": "json",
        "CEREMEMORY_AUTH__ENABLED": "true",
        "CEREMEMORY_AUTH_API_KEYS": API_KEY,
        "CEREMEMORY_SECURITY__STORE_ENCRYPTION_PASSPHRASE": STORE_PASSPHRASE,
        "CEREMEMORY_LLM__PROVIDER": "openai",
        "CEREMEMORY_LLM__API_KEY": LLM_KEY,
        "CEREMEMORY_LLM__BASE_URL": quoting.service.url,
    }
    heard = Heard()
    with quoting.service, Daemon(tmp_path_factory.mktemp("secrets") / "data", env=env) as daemon:
        do_everything(Asking(daemon.address, heard))
        quoting.service.wait_for_requests(1)
        heard.made_keys = _use_made_keys(daemon, heard)
        heard.command_line = Path(f"/proc/{daemon.process.pid}/cmdline").read_bytes()
        assert daemon.stop() == 0
        heard.log = "\n".join(daemon.banner) + daemon.log()
        yield heard


def test_the_log_has_no_secret_and_no_memory(heard: Heard) -> None:
    assert heard.log.count("/v1/encode") > 5, "the log says what was asked"
    assert {secret for secret in (*CANARIES, *heard.made_keys) if secret in heard.log} == set()


def test_no_error_has_a_secret(heard: Heard) -> None:
    assert {answer.status for _, answer in heard.errors} >= {400, 401, 403, 404, 409}
    for asked, answer in heard.errors:
        shown = f"{answer.json} {answer.headers}"
        assert {secret for secret in (*SECRETS, *heard.made_keys) if secret in shown} == set(), asked
        assert not any(as_header(canary) in shown for canary in SECRETS), asked


def test_no_error_is_the_daemons_own(heard: Heard) -> None:
    assert [(asked, answer.json) for asked, answer in heard.errors if answer.status >= 500] == []


def test_the_list_of_processes_has_no_secret(heard: Heard) -> None:
    assert COMMAND.name.encode() in heard.command_line
    secrets = (*CANARIES, *heard.made_keys)
    assert {secret for secret in secrets if secret.encode() in heard.command_line} == set()


# What a terminal is shown

STEERING = "\x1b[2J\x1b]0;title\x07\x9b31m\u202e\u200b\U000e0041"


def test_no_memory_steers_the_terminal_that_shows_it(tmp_path: Path) -> None:
    env = {"TERM": "dumb", "NO_COLOR": "1"}
    with Daemon(tmp_path / "data", env=UNLIMITED) as daemon, Caller(daemon.address) as caller:
        stored = caller.store(f"a {STEERING} b", metadata={STEERING: [STEERING]}, meta={"tags": [STEERING]})
        caller.ask("POST", "/v1/encode/raw", {"session_id": STEERING, **store_body(STEERING)})
        caller.until_indexed()
        for told in (
            ("recall",),
            ("recall-raw", "--json"),
            ("inspect", stored.json["record_id"]),
        ):
            shown = shown_by(*told, "--data-dir", daemon.data_dir, env=env)
            assert "\\" in shown, told
            assert {char for char in shown if not char.isprintable()} <= {"\n"}, told
