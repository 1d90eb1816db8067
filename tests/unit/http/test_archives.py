"""Archives over HTTP: as JSON, and as streams both ways."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
import trio
from trio.testing import MockClock

from cerememory.actors import engine
from cerememory.config.settings import HttpSettings
from cerememory.domain.cma import ArchiveReader
from cerememory.errors import StorageUnavailable
from cerememory.http.exchange import Message
from cerememory.storage.spool import Spool
from tests.support.archives import BUNDLE, CURATED, ENCRYPTED, PASSPHRASE, pieces
from tests.support.asgi import HANG_UP, STALL, NoAnswer, Reply
from tests.support.gated import BARE as OPEN
from tests.support.gated import KEYS, Gated, bare, gated, with_auth

ARCHIVE = "/v1/archive"
KEY = {"x-archive-passphrase": base64.urlsafe_b64encode(PASSPHRASE.encode()).decode()}


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Gated]:
    async with gated(tmp_path) as made:
        yield made


async def put(opened: Gated, archive: Any, query: str = "", **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await opened.client.ask("PUT", ARCHIVE, archive, {"content-type": None, **named}, query)


async def post(opened: Gated, body: object, **headers: str) -> Reply:
    return await opened.client.post(ARCHIVE, body, **headers)


def counted(reply: Reply) -> dict[str, Any]:
    """The answer to an import, which can be taken back."""
    counts: dict[str, Any] = dict(reply.json)
    assert UUID(counts.pop("batch_id")).version == 7
    return counts


def lines(archive: bytes) -> int:
    return len(list(ArchiveReader([archive]).records()))


async def test_an_archive_goes_in_and_comes_out_as_a_stream(opened: Gated) -> None:
    into = await put(opened, BUNDLE)
    assert (into.status, counted(into)) == (200, {"records_imported": 8})
    assert int(into.headers["x-cerememory-sequence"]) > 0
    out = await post(opened, {"include_raw_journal": True})
    assert out.status == 200
    assert out.headers["content-type"] == "application/octet-stream"
    assert int(out.headers["content-length"]) == len(out.body)
    assert out.headers["x-cerememory-record-count"] == "8"
    assert out.headers["x-cerememory-checksum"].encode() in out.body.splitlines()[-1]
    name = out.headers["x-cerememory-archive-id"]
    assert out.headers["content-disposition"] == f'attachment; filename="{name}.cma"'
    assert lines(out.body) == 8


async def test_it_comes_in_parts(opened: Gated) -> None:
    into = await put(opened, list(pieces(BUNDLE, 1_000)))
    assert counted(into) == {"records_imported": 8}
    out = await post(opened, {"include_raw_journal": True})
    assert len(out.parts) > 3


async def test_the_same_over_json(opened: Gated) -> None:
    body = {"archive_id": "a-1", "archive_data": list(BUNDLE)}
    into = await opened.client.post("/v1/lifecycle/import", body)
    assert (into.status, counted(into)) == (200, {"records_imported": 8})
    out = await opened.client.post("/v1/lifecycle/export", {"include_raw_journal": True})
    assert set(out.json) == {"archive_id", "size_bytes", "record_count", "checksum", "archive_data"}
    assert lines(bytes(out.json["archive_data"])) == 8
    short = await opened.client.post("/v1/lifecycle/export", {}, accept="application/vnd.cmp+json;bytes=base64")
    assert lines(base64.b64decode(short.json["archive_data"])) == 6


async def test_the_terms_stand_in_the_query(opened: Gated, autojump_clock: MockClock) -> None:
    await put(opened, CURATED)
    again = await put(opened, CURATED, "strategy=merge&conflict_resolution=keep_imported&archive_id=night.cma")
    assert counted(again) == {"records_imported": 6}
    plan = await put(opened, BUNDLE, "dry_run=true")
    assert plan.json == {"records_imported": 2, "records_added": 2, "records_replaced": 0, "records_kept": 6}
    await trio.sleep(1)
    entries = [msgspec.json.decode(line) for line in opened.running.audit_lines]
    named = [entry["summary"]["archive_id"] for entry in entries]
    assert (len(entries), named[1]) == (2, "night.cma")


async def test_without_an_id_an_archive_has_that_of_its_request(opened: Gated, autojump_clock: MockClock) -> None:
    into = await put(opened, CURATED)
    await trio.sleep(1)
    [line] = opened.running.audit_lines
    assert msgspec.json.decode(line)["summary"]["archive_id"] == into.headers["x-request-id"]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("strategy=mix", "query.strategy: unknown name 'mix'"),
        ("conflict_resolution=", "query.conflict_resolution: unknown name ''"),
        ("dry_run=1", "dry_run: expected true or false, got '1'"),
        ("archive_id=" + "x" * 1_025, "archive_id: 1025 bytes"),
    ],
)
async def test_a_query_that_cannot_be_read_is_refused(opened: Gated, query: str, message: str) -> None:
    refused = await put(opened, CURATED, query)
    assert (refused.status, refused.code) == (400, "VALIDATION_ERROR")
    assert refused.message.startswith(message)
    assert refused.received == 1, "the body was read for the client to read its answer"


async def test_a_passphrase_stands_in_the_head(opened: Gated) -> None:
    assert counted(await put(opened, ENCRYPTED, **KEY)) == {"records_imported": 8}
    bare_key = KEY["x-archive-passphrase"].rstrip("=")
    out = await post(opened, {}, x_archive_passphrase=bare_key)
    assert b"record_count" not in out.body
    again = await put(opened, out.body, "strategy=replace", x_archive_passphrase=bare_key)
    assert counted(again) == {"records_imported": 6}


@pytest.mark.parametrize("sent", ["not base64!", "====", "//79", ""])
async def test_a_passphrase_that_cannot_be_read_is_refused(opened: Gated, sent: str) -> None:
    refused = await put(opened, ENCRYPTED, x_archive_passphrase=sent)
    assert (refused.status, refused.code) == (400, "VALIDATION_ERROR")
    assert refused.message.startswith("X-Archive-Passphrase: ")


async def test_two_passphrases_are_refused(opened: Gated) -> None:
    refused = await post(opened, {"encrypt": True, "encryption_key": "k"}, **{"x-archive-passphrase": "aw"})
    assert refused.message == "encryption_key: is given here and in X-Archive-Passphrase"


@pytest.mark.parametrize(
    ("archive", "headers", "message"),
    [
        (ENCRYPTED, {}, "encrypted or not an archive"),
        (b"\x01\x02\x03", {}, "encrypted or not an archive"),
        (b"", {}, "the archive is empty"),
        (ENCRYPTED, {"x-archive-passphrase": "d3Jvbmc"}, "the passphrase is wrong, or the archive was changed"),
        (BUNDLE[:-9], {}, "line 10: the archive was cut off"),
    ],
)
async def test_an_archive_that_cannot_be_applied_is_a_conflict(
    opened: Gated, archive: bytes, headers: dict[str, str], message: str
) -> None:
    refused = await put(opened, archive, **headers)
    assert (refused.status, refused.code) == (409, "IMPORT_CONFLICT")
    assert refused.message.startswith(message)


async def test_an_export_request_is_checked(opened: Gated) -> None:
    assert (await post(opened, {"format": "zip"})).message.startswith("format: expected cma or jsonl")
    assert (await post(opened, {"encrypt": True})).message.startswith("encryption_key: missing")
    assert (await post(opened, {"stores": ["attic"]})).code == "VALIDATION_ERROR"


async def test_other_methods_are_not_allowed(opened: Gated) -> None:
    refused = await opened.client.get(ARCHIVE)
    assert (refused.status, refused.headers["allow"]) == (405, "POST, PUT")


@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_a_stranger_gets_no_further_than_the_head(method: str) -> None:
    refused = await bare(with_auth(OPEN)).ask(method, ARCHIVE, [b"x"] * 3)
    assert (refused.status, refused.code) == (401, "UNAUTHORIZED")


async def test_a_key_opens_both_ways(tmp_path: Path) -> None:
    headers = {"authorization": f"Bearer {KEYS[0]}"}
    async with gated(tmp_path, settings=None, headers=headers) as opened:
        assert (await put(opened, CURATED)).status == 200
        assert (await post(opened, {})).status == 200


async def test_the_namespace_of_the_head_is_meant(opened: Gated) -> None:
    await put(opened, BUNDLE, x_cerememory_namespace="other")
    assert lines((await post(opened, {})).body) == 0
    assert lines((await post(opened, {}, x_cerememory_namespace="other")).body) == 6
    assert lines((await post(opened, {}, x_cerememory_namespace="nobody")).body) == 0


async def test_a_retried_upload_is_done_once(opened: Gated) -> None:
    query, key = "conflict_resolution=keep_imported", {"idempotency_key": "k-1"}
    first = await put(opened, BUNDLE, query, **key)
    again = await put(opened, BUNDLE, query, **key)
    assert (again.json, again.headers["x-cerememory-sequence"]) == (
        first.json,
        first.headers["x-cerememory-sequence"],
    )
    for other, terms in ((CURATED, query), (BUNDLE, "conflict_resolution=keep_newer")):
        refused = await put(opened, other, terms, **key)
        assert (refused.status, refused.code) == (409, "IMPORT_CONFLICT")


async def test_an_upload_that_stops_is_too_slow(opened: Gated, autojump_clock: MockClock) -> None:
    refused = await put(opened, [BUNDLE[:100], STALL], transfer_encoding="chunked")
    assert (refused.status, refused.code) == (408, "VALIDATION_ERROR")
    assert lines((await post(opened, {})).body) == 0


async def test_an_upload_of_a_client_that_is_gone_stores_nothing(opened: Gated) -> None:
    with pytest.raises(NoAnswer):
        await put(opened, [BUNDLE, HANG_UP], transfer_encoding="chunked")
    assert lines((await post(opened, {})).body) == 0


async def test_an_archive_too_large_for_json_is_had_as_a_stream(
    opened: Gated, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(opened, BUNDLE)
    monkeypatch.setattr(engine, "EXPORT_BYTES_MAX", 1_000)
    refused = await opened.client.post("/v1/lifecycle/export", {})
    assert (refused.status, refused.code) == (413, "CONTENT_TOO_LARGE")
    assert (await post(opened, {})).status == 200


class Reader:
    """A client that takes `taken` messages of the answer, and no more."""

    def __init__(self, taken: int) -> None:
        self.messages: list[Message] = []
        self._taken = taken

    async def receive(self) -> Message:
        await trio.lowlevel.checkpoint()
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def send(self, message: Message) -> None:
        if len(self.messages) == self._taken:
            await trio.sleep_forever()
        self.messages.append(message)


def export_scope() -> dict[str, Any]:
    return {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "path": ARCHIVE,
        "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"content-type", b"application/json"), (b"content-length", b"2")],
        "client": ("127.0.0.1", 1),
        "state": {},
    }


async def test_a_client_that_takes_no_more_is_left(opened: Gated, autojump_clock: MockClock) -> None:
    await put(opened, BUNDLE)
    reader = Reader(taken=2)
    await opened.gate(export_scope(), reader.receive, reader.send)
    assert [message["type"] for message in reader.messages] == ["http.response.start", "http.response.body"]
    assert (await post(opened, {})).status == 200


async def test_a_stream_that_breaks_off_ends_before_its_end(
    opened: Gated, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(opened, BUNDLE)

    def broken(self: Spool, start: int = 0, stop: int | None = None) -> Any:
        yield b"{"
        raise StorageUnavailable("the spool is gone")

    monkeypatch.setattr(Spool, "read", broken)
    reader = Reader(taken=99)
    await opened.gate(export_scope(), reader.receive, reader.send)
    assert reader.messages[-1]["more_body"]
    sent = sum(len(message.get("body", b"")) for message in reader.messages)
    [announced] = [int(value) for name, value in reader.messages[0]["headers"] if name == b"content-length"]
    assert sent < announced


async def test_an_upload_takes_no_room_of_the_bytes_in_flight(tmp_path: Path) -> None:
    """What is spooled isn't in memory: a body of JSON that long would be turned away."""
    http = HttpSettings(max_inflight_bytes=2_000)
    async with gated(tmp_path, http=http) as opened:
        body = {"archive_id": "a-1", "archive_data": list(BUNDLE)}
        assert (await opened.client.post("/v1/lifecycle/import", body)).status == 503
        assert counted(await put(opened, BUNDLE)) == {"records_imported": 8}
