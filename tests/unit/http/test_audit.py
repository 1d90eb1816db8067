"""Checkpoints and proofs over HTTP, as a client that trusts nothing but the public key checks them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cerememory.config.settings import SecuritySettings
from cerememory.domain.checkpoint import Checkpoint, leaf_of
from cerememory.domain.merkle import verify_consistency, verify_inclusion
from cerememory.domain.note_signatures import open_note
from cerememory.storage.audit_keys import PUBLIC_NAME, read_public_key
from cerememory.storage.audit_outbox import StoredOutbox
from cerememory.storage.keys import Table, after, system_key
from tests.support.asgi import Reply
from tests.support.engine import settings_for, store_body
from tests.support.gated import KEYS, UNLIMITED, Gated, gated, with_auth

CHECKPOINT, PROOF, ROTATE = (f"/v1/audit/{name}" for name in ("checkpoint", "proof", "rotate"))


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Gated]:
    async with gated(tmp_path, settings=settings_for(tmp_path, rate_limit=UNLIMITED)) as running:
        yield running


async def stored(daemon: Gated, count: int) -> None:
    for i in range(count):
        assert (await daemon.client.post("/v1/encode", store_body(f"memory {i}"))).status == 200


async def checkpoint(daemon: Gated, path: Path) -> Checkpoint:
    reply = await daemon.client.get(CHECKPOINT)
    assert (reply.status, reply.headers["content-type"]) == (200, "text/plain; charset=utf-8")
    return open_note(reply.body, read_public_key(path / "data" / "keys" / PUBLIC_NAME)).checkpoint


async def proof(daemon: Gated, query: str) -> Reply:
    return await daemon.client.ask("GET", PROOF, query=query)


def hashes_of(reply: Reply) -> list[bytes]:
    return [bytes.fromhex(text) for text in reply.json["hashes"]]


async def test_a_checkpoint_has_every_write_that_was_answered(daemon: Gated, tmp_path: Path) -> None:
    for size in range(4):
        assert (await checkpoint(daemon, tmp_path)).size == size
        await stored(daemon, 1)


async def test_an_old_checkpoint_is_proved_to_be_of_the_same_log(daemon: Gated, tmp_path: Path) -> None:
    await stored(daemon, 3)
    old = await checkpoint(daemon, tmp_path)
    await stored(daemon, 4)
    new = await checkpoint(daemon, tmp_path)
    reply = await proof(daemon, f"old={old.size}&new={new.size}")
    assert {name: reply.json[name] for name in ("old", "new")} == {"old": 3, "new": 7}
    assert verify_consistency(old.size, old.root, new.size, new.root, hashes_of(reply))


async def test_an_entry_is_proved_to_be_in_the_log(daemon: Gated, tmp_path: Path) -> None:
    await stored(daemon, 5)
    now = await checkpoint(daemon, tmp_path)
    reply = await proof(daemon, "entry=3&size=5")
    assert verify_inclusion(
        bytes.fromhex(reply.json["leaf_hash"]), reply.json["index"], now.size, hashes_of(reply), now.root
    )
    _sequence, line = next(StoredOutbox(daemon.running.storage).lines(3))
    assert (reply.json["index"], reply.json["leaf_hash"]) == (2, leaf_of(line).hex())


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("", "old, new, entry, size: give old and new, or entry and size"),
        ("old=1", "old, new, entry, size"),
        ("old=1&new=2&size=2", "old, new, entry, size"),
        ("old=1&new=3", "new: 3 is more than the log's 2 entries"),
        ("old=2&new=1", "old: 2 is more than new, 1"),
        ("entry=0&size=2", "entry: expected 1 to 2, got 0"),
        ("entry=3&size=2", "entry: expected 1 to 2, got 3"),
        ("entry=1&size=3", "size: 3 is more than the log's 2 entries"),
        ("old=-1&new=2", "old: expected a number"),
        ("old=1&new=x", "new: expected a number"),
        ("entry=1&size=99999999999999999999", "size: expected a number"),
    ],
)
async def test_what_can_not_be_proved_is_refused_by_its_field(daemon: Gated, query: str, told: str) -> None:
    await stored(daemon, 2)
    reply = await proof(daemon, query)
    assert reply.status == 400
    assert reply.json["code"] == "VALIDATION_ERROR"
    assert reply.json["message"].startswith(told)


@pytest.mark.parametrize("path", [CHECKPOINT, PROOF])
async def test_both_are_reads_behind_a_key(tmp_path: Path, path: str) -> None:
    settings = with_auth(settings_for(tmp_path, rate_limit=UNLIMITED))
    async with gated(tmp_path, settings=settings) as daemon:
        assert (await daemon.client.get(path)).status == 401
        reply = await daemon.client.ask(
            "GET", path, b"", {"authorization": f"Bearer {KEYS[0]}"}, query="old=0&new=0"
        )
        assert reply.status == 200


@pytest.mark.parametrize("path", [CHECKPOINT, PROOF])
async def test_without_an_audit_log_there_is_nothing_to_show(tmp_path: Path, path: str) -> None:
    security = SecuritySettings(persist_search_indexes=False, audit_log_enabled=False)
    async with gated(tmp_path, settings=settings_for(tmp_path, security=security)) as daemon:
        reply = await daemon.client.get(path)
        assert (reply.status, reply.json["message"]) == (
            404,
            "the audit log is switched off (security.audit_log_enabled)",
        )


# Rotation


async def test_a_rotation_answers_what_was_closed_and_once_for_a_key(daemon: Gated, tmp_path: Path) -> None:
    await stored(daemon, 2)
    answers = [await daemon.client.post(ROTATE, {}, idempotency_key="k") for _twice in range(2)]
    assert [reply.status for reply in answers] == [200, 200]
    assert answers[0].json == answers[1].json
    closed = tmp_path / "data" / answers[0].json["file"]
    assert {name: answers[0].json[name] for name in ("entries", "last_sequence", "size_bytes")} == {
        "entries": 2,
        "last_sequence": 2,
        "size_bytes": closed.stat().st_size,
    }
    assert len(list((tmp_path / "data").glob("audit.jsonl.0*"))) == 1


async def test_a_proof_of_what_was_moved_away_is_not_found_and_says_where_it_was(
    daemon: Gated, tmp_path: Path
) -> None:
    await stored(daemon, 257)
    closed = (await daemon.client.post(ROTATE, {})).json["file"]
    (tmp_path / "data" / closed).unlink()
    log = system_key(Table.LOG)
    daemon.running.storage.commit(dict.fromkeys(rows_behind(daemon, log)[:256]))
    reply = await proof(daemon, "entry=3&size=257")
    assert (reply.status, reply.json["code"]) == (404, "RECORD_NOT_FOUND")
    assert reply.json["message"] == f"entries 1 to 257 of the audit log can't be read: {closed} isn't there"


def rows_behind(daemon: Gated, prefix: bytes) -> list[bytes]:
    with daemon.running.storage.read() as reader:
        return [key for key, _value in reader.scan(prefix, after(prefix))]
