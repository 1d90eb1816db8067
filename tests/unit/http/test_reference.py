"""The document and the page as they are served; and the daemon held to both: every example on the page is sent as
the page has it, and every answer has to be one that the document allows.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from cerememory.config.settings import HttpSettings
from cerememory.http.examples import EXAMPLE_BATCH_ID, EXAMPLE_ID, REQUESTS
from cerememory.http.reference_page import POLICY
from cerememory.http.routes import BASE64_TYPE
from cerememory.protocol.operations import OPERATIONS
from tests.support.archives import CURATED
from tests.support.asgi import AsgiClient, Reply
from tests.support.engine import settings_for, store_body
from tests.support.gated import KEYS, UNLIMITED, Gated, gated, with_auth
from tests.support.json_schema import Validator
from tests.unit.http.test_reference_page import tree

DOCUMENT, PAGE = "/v1/openapi.json", "/docs"
URL = "http://127.0.0.1:8420"
# Stands for curl: writes down what it is called with, and what it is given on stdin.
CURL = """\
calls=0
curl() {
  calls=$((calls + 1))
  printf '%s\\n' "$@" > "$calls.arguments"
  case "$*" in *"@-"*) cat > "$calls.body";; esac
}
"""


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Gated]:
    async with gated(tmp_path, http=HttpSettings(metrics_enabled=True)) as opened:
        yield opened


@pytest.fixture
async def client(daemon: Gated) -> AsgiClient:
    return daemon.client


async def test_the_document_is_served_whole(client: AsgiClient) -> None:
    reply = await client.get(DOCUMENT)
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    assert reply.json["openapi"] == "3.1.0"
    assert {operation.path for operation in OPERATIONS} < reply.json["paths"].keys()


async def test_the_page_is_served_with_its_policy(client: AsgiClient) -> None:
    reply = await client.get(PAGE)
    assert (reply.status, reply.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert reply.headers["content-security-policy"] == POLICY
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.body.startswith(b"<!DOCTYPE html>")


@pytest.mark.parametrize("path", [DOCUMENT, PAGE])
async def test_what_a_client_has_already_is_not_sent_again(client: AsgiClient, path: str) -> None:
    first = await client.get(path)
    etag = first.headers["etag"]
    assert etag.startswith('"')
    for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        reply = await client.get(path, if_none_match=known)
        assert (reply.status, reply.body, reply.headers["etag"]) == (304, b"", etag)
        assert not {"content-length", "content-type"} & reply.headers.keys()
    for other in ('"other"', etag[1:-1]):
        reply = await client.get(path, if_none_match=other)
        assert (reply.status, reply.body) == (200, first.body)


async def test_both_are_made_once(client: AsgiClient, monkeypatch: pytest.MonkeyPatch) -> None:
    first = (await client.get(PAGE)).body
    monkeypatch.setattr("cerememory.http.reference.make", None)
    assert (await client.get(PAGE)).body == first
    assert (await client.get(DOCUMENT)).status == 200


@pytest.mark.parametrize("path", [DOCUMENT, PAGE])
async def test_both_need_the_key_when_auth_is_on(tmp_path: Path, path: str) -> None:
    settings = with_auth(settings_for(tmp_path, rate_limit=UNLIMITED))
    async with gated(tmp_path, settings=settings) as daemon:
        assert (await daemon.client.get(path)).status == 401
        assert (await daemon.client.get(path, authorization=f"Bearer {KEYS[0]}")).status == 200


async def test_without_metrics_there_is_no_such_route_in_it(tmp_path: Path) -> None:
    async with gated(tmp_path) as daemon:
        assert "/metrics" not in (await daemon.client.get(DOCUMENT)).json["paths"]


def test_a_daemon_that_nobody_asks_does_not_load_what_makes_them() -> None:
    script = (
        "import sys, cerememory.cli.serve; print(*(n for n in sys.modules if n.startswith('cerememory.http')))"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    loaded = {name.removeprefix("cerememory.http.") for name in ran.stdout.split()}
    assert "routes" in loaded
    assert not {"descriptions", "examples", "openapi", "reference", "reference_page", "schemas"} & loaded
    assert not [name for name in loaded if name.startswith("described")]


# Every example


@dataclass
class Command:
    """A call of curl, as the shell made it of an example."""

    operation_id: str
    arguments: list[str]
    body: bytes

    def values(self, option: str) -> list[str]:
        return [value for name, value in pairwise(self.arguments) if name == option]

    async def send(self, client: AsgiClient, files: dict[str, bytes], **more: str) -> Reply:
        """What curl would send; `files` holds what `-o` wrote, and what `-d @FILE` reads."""
        [url] = [argument for argument in self.arguments if argument.startswith(URL)]
        headers = {n.lower(): v for n, _, v in (line.partition(": ") for line in self.values("-H"))}
        data = self.values("-d") + self.values("--data-binary")
        body = self.body if data in ([], ["@-"]) else files[data[0].removeprefix("@")]
        method = (self.values("-X") or ["POST" if data else "GET"])[0]
        headers = {"content-type": "application/x-www-form-urlencoded" if data else "", **headers, **more}
        path, _, query = url.removeprefix(URL).partition("?")
        reply = await client.ask(method, path, body, headers, query=query)
        for name in self.values("-o"):
            files.setdefault(name, reply.body)
        return reply


def commands(page: bytes, record_id: str, batch_id: str, directory: Path) -> list[Command]:
    """The examples of `page`, in its order, through a real shell."""
    sections = [s for s in tree(page).named("section") if "curl" in s.text]
    examples = [section.named("pre")[0].text for section in sections]
    settings = f"URL={URL}\nKEY={KEYS[0]}\nRECORD_ID={record_id}\nBATCH_ID={batch_id}\n"
    script = "\n".join([CURL, settings, *examples])
    subprocess.run(["sh", "-eu", "-c", script], cwd=directory, check=True, timeout=60)
    return [
        Command(
            str(section.attributes["aria-labelledby"]),
            (directory / f"{i}.arguments").read_text().splitlines(),
            (directory / f"{i}.body").read_bytes() if (directory / f"{i}.body").exists() else b"",
        )
        for i, section in enumerate(sections, 1)
    ]


async def an_import(client: AsgiClient) -> str:
    """What it could be taken back by."""
    reply = await client.ask("PUT", "/v1/archive", CURATED, {"content-type": "application/octet-stream"})
    return str(reply.json["batch_id"])


async def test_every_example_works_as_it_stands_and_is_answered_as_described(tmp_path: Path) -> None:
    settings = with_auth(settings_for(tmp_path, rate_limit=UNLIMITED, http=HttpSettings(metrics_enabled=True)))
    (tmp_path / "shell").mkdir()
    async with gated(tmp_path, settings=settings) as daemon:
        client = daemon.from_peer("127.0.0.1", {"authorization": f"Bearer {KEYS[0]}"})
        document: dict[str, Any] = (await client.get(DOCUMENT)).json
        stored = await client.post("/v1/encode", store_body("a kettle"))
        ids = stored.json["record_id"], await an_import(client)
        shown = commands((await client.get(PAGE)).body, *ids, tmp_path / "shell")
        described = {o["operationId"]: o for methods in document["paths"].values() for o in methods.values()}
        assert sorted(command.operation_id for command in shown) == sorted(described)
        files: dict[str, bytes] = {}
        for command in shown:
            for accept in ("*/*", BASE64_TYPE):
                reply = await command.send(daemon.from_peer("127.0.0.1"), files, accept=accept)
                assert reply.status in (200, 204), (command.operation_id, reply.body)
                assert faults(document, described[command.operation_id], reply) == [], command.operation_id


def faults(document: dict[str, Any], operation: dict[str, Any], reply: Reply) -> list[str]:
    """What is wrong with an answer, by what the document says of its status."""
    validator = Validator(document)
    answer = operation["responses"][str(reply.status)]
    answer = validator.resolved(answer["$ref"]) if "$ref" in answer else answer
    missing = [f"no {name}" for name in answer["headers"] if name.lower() not in reply.headers]
    if "content" not in answer:
        return missing + ([] if reply.body == b"" else ["a body"])
    content = answer["content"][reply.headers["content-type"]]
    return missing + validator.faults(content["schema"], as_json(reply))


def as_json(reply: Reply) -> Any:
    return reply.json if "json" in reply.headers["content-type"] else reply.body.decode()


BAD: list[tuple[str, str, object, dict[str, str]]] = [
    ("POST", "/v1/encode", {}, {}),
    ("POST", "/v1/encode", {"content": {"blocks": []}}, {"idempotency-key": " "}),
    ("POST", "/v1/encode", {"header": {"protocol": "other"}}, {}),
    ("PATCH", f"/v1/encode/{EXAMPLE_ID}", {"metadata": {}}, {}),
    ("PATCH", "/v1/encode/abc", {"metadata": {}}, {}),
    ("GET", f"/v1/introspect/record/{EXAMPLE_ID}", b"", {}),
    ("GET", "/v1/introspect/record/abc", b"", {}),
    ("GET", "/v1/introspect/stats", b"", {"host": "evil.example"}),
    ("POST", "/v1/recall/query", {"cue": {"image": [1]}}, {}),
    ("POST", "/v1/recall/associate/abc", {}, {}),
    ("DELETE", "/v1/lifecycle/forget", {"record_ids": [], "confirm": False}, {}),
    ("GET", "/metrics", b"", {"x-filler": "x" * 40_000}),
]


@pytest.mark.parametrize(("method", "path", "body", "headers"), BAD)
async def test_an_error_is_one_that_its_operation_may_answer(
    client: AsgiClient, method: str, path: str, body: object, headers: dict[str, str]
) -> None:
    document = (await client.get(DOCUMENT)).json
    template = path.replace(EXAMPLE_ID, "{record_id}").replace("/abc", "/{record_id}")
    operation = document["paths"][template][method.lower()]
    reply = await client.ask(method, path, body, headers)
    assert reply.status >= 400
    assert str(reply.status) in operation["responses"]
    assert faults(document, operation, reply) == []


async def test_an_answer_comes_in_base64_when_that_is_described_and_asked_for(client: AsgiClient) -> None:
    operations = {o.name: o for o in OPERATIONS if o.name in REQUESTS or o.method == "GET"}
    record_id = (await client.post("/v1/encode", store_body("a kettle"))).json["record_id"]
    batch_id = await an_import(client)
    described = (await client.get(DOCUMENT)).json["paths"]
    for name, operation in operations.items():
        asked = json.dumps(REQUESTS.get(name, {})).replace(EXAMPLE_ID, record_id)
        body = asked.replace(EXAMPLE_BATCH_ID, batch_id).encode()
        path = operation.path.replace("{record_id}", record_id)
        reply = await client.ask(operation.method, path, body, {"accept": BASE64_TYPE})
        answers = described[operation.path][operation.method.lower()]["responses"]
        offered = answers[str(reply.status)].get("content", {})
        assert reply.status in (200, 204), (name, reply.body)
        assert (reply.headers.get("content-type") == BASE64_TYPE) == (BASE64_TYPE in offered), name


# The headers, as they are described

BAD_VALUES = {
    "Idempotency-Key": " ",
    "If-Match": "one",
    "MCP-Protocol-Version": "2024-11-04",
    "X-Archive-Passphrase": "*",
    "X-Cerememory-Namespace": "-a",
    "X-Cerememory-Sequence": "soon",
}
NEVER_REFUSED = {"X-Request-Id", "If-None-Match"}


async def test_every_header_that_an_operation_is_described_with_is_read(client: AsgiClient) -> None:
    document = (await client.get(DOCUMENT)).json
    validator = Validator(document)
    read = set()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            parameters = [validator.resolved(p["$ref"]) for p in operation["parameters"] if "$ref" in p]
            for name in {p["name"] for p in parameters if p["in"] == "header"} - NEVER_REFUSED:
                body = json.dumps(body_of(operation)).encode()
                asked = path.replace("{record_id}", EXAMPLE_ID)
                reply = await client.ask(method.upper(), asked, body, {name: BAD_VALUES[name]})
                assert (reply.status, reply.message.partition(":")[0]) == (400, name), (
                    operation["operationId"],
                    name,
                )
                read.add(name)
    assert read == BAD_VALUES.keys()


async def test_every_query_parameter_that_is_described_is_read(client: AsgiClient) -> None:
    document = (await client.get(DOCUMENT)).json
    validator = Validator(document)
    read = []
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            for parameter in (p for p in operation["parameters"] if p.get("in") == "query"):
                name, is_any_text = parameter["name"], validator.faults(parameter["schema"], "so-so") == []
                asked, query = path.replace("{record_id}", EXAMPLE_ID), f"{name}=so-so"
                reply = await client.ask(method.upper(), asked, b"", query=query)
                assert (reply.status == 400 and name in reply.message) != is_any_text, (name, reply.body)
                read.append(name)
    assert {"include_history", "version", "strategy", "dry_run"} <= set(read)


def body_of(operation: dict[str, Any]) -> Any:
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    return content.get("example", {"archive_id": "x", "archive_data": [1]})


def allows(document: dict[str, Any], name: str, sent: str) -> bool:
    schema = document["components"]["parameters"][name]["schema"]
    value: object = int(sent) if schema["type"] == "integer" and sent.isascii() and sent.isdigit() else sent
    return Validator(document).faults(schema, value) == []


HEADERS = [
    *(("IfMatch", "if-match", v) for v in ("1", '"1"', "*", "one", "-1", "1.0", 'W/"1"', "9" * 30)),
    *(("IdempotencyKey", "idempotency-key", v) for v in ("k", "a b", " ", "k" * 256, "k" * 257)),
    *(
        ("Namespace", "x-cerememory-namespace", v)
        for v in ("default", "a@b:c", "", "-a", "a b", "x" * 64, "x" * 65)
    ),
]


@pytest.mark.parametrize(("name", "header", "sent"), HEADERS)
async def test_a_header_is_taken_when_its_schema_allows_it(
    client: AsgiClient, name: str, header: str, sent: str
) -> None:
    document = (await client.get(DOCUMENT)).json
    reply = await client.ask("PATCH", f"/v1/encode/{EXAMPLE_ID}", {"metadata": {}}, {header: sent})
    assert reply.status == (404 if allows(document, name, sent) else 400), reply.body


@pytest.mark.parametrize("sent", ["0", "1", "-1", "soon", "1.5"])
async def test_a_sequence_is_taken_when_its_schema_allows_it(client: AsgiClient, sent: str) -> None:
    document = (await client.get(DOCUMENT)).json
    await client.post("/v1/encode", store_body("x"))
    reply = await client.get("/v1/introspect/stats", x_cerememory_sequence=sent)
    assert reply.status == (200 if allows(document, "Sequence", sent) else 400)
