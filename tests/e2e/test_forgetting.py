"""After `forget` and `compact` no byte of the data dir speaks of what was forgotten: a canary is looked for.

The word stands wherever a client can put one, in two namespaces. Innocent memories stand beside each of them, in
its session, in its batch, and in the pages that the store reuses; they stay as they were.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cerememory.client import Client
from tests.support.canary import (
    CANARY,
    ENV,
    Clients,
    archive_canary,
    found_in,
    parts_with,
    record_canary,
    remember_canary,
    remember_innocents,
    remember_neighbours,
    told_of,
)
from tests.support.daemon import Daemon, cerememory


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


def test_nothing_is_left_of_what_was_forgotten_and_compacted(data_dir: Path) -> None:
    kept: dict[str, list[str]] = {}
    with Daemon(data_dir, env=ENV) as daemon:
        with Clients(daemon) as clients:
            for name, client in clients.of.items():
                archived = archive_canary(client)
                kept[name] = remember_innocents(client, 30) + remember_neighbours(client)
                ids = [archived, *remember_canary(client)]
                kept[name] += remember_neighbours(client)
                raw_ids = record_canary(client)
                kept[name] += remember_innocents(client, 30, 400)
                daemon.wait_until_searchable()
                made = [record_id for record_id in told_of(client) if record_id not in ids]
                assert made, "a dream tells of it, too"
                before = found_in(data_dir)
                assert parts_with(before) == {"store", "index"}
                assert {form for _name, form in before} >= {"text", "context", "asked", "who", "company"}
                assert {form for _name, form in before} >= {"UTF-8", "JSON numbers", "floats", "JSON floats"}
                forget_all(client, ids, raw_ids)
                kept[name] += remember_innocents(client, 30, 400)
        compacted = cerememory("compact", "--data-dir", data_dir, "--json")
        assert compacted.returncode == 0, compacted.stderr
        assert found_in(data_dir) == set()
        assert_innocents_are_there(daemon, kept)
        assert daemon.stop() == 0
    assert found_in(data_dir) == set()
    with Daemon(data_dir, env=ENV) as daemon:
        assert_innocents_are_there(daemon, kept)
        assert daemon.stop() == 0
    assert found_in(data_dir) == set()


def forget_all(client: Client, ids: list[str], raw_ids: list[str]) -> None:
    """With what consolidation and dreams made of them: edges lead there, or the journal says so."""
    asked = {
        "record_ids": ids,
        "raw_record_ids": raw_ids,
        "session_id": "dreamt",
        "cascade": True,
        "confirm": True,
    }
    counted = client.call("lifecycle.forget", {**asked, "dry_run": True})
    assert told_of(client) != []
    assert client.call("lifecycle.forget", asked) == counted
    assert told_of(client) == []


def assert_innocents_are_there(daemon: Daemon, kept: dict[str, list[str]]) -> None:
    daemon.wait_until_searchable()
    with Clients(daemon) as clients:
        for name, client in clients.of.items():
            for record_id in kept[name]:
                client.call("introspect.record", path_params={"record_id": record_id})
            body = {"cue": {"text": "innocent"}, "stores": ["episodic"], "limit": 100, "reconsolidate": False}
            found = client.call("recall.query", body)["memories"]
            assert len(found) == 90
            assert client.call("introspect.stats")["raw_journal_records"] == 0


def test_the_command_line_forgets_and_compacts_without_a_daemon(data_dir: Path) -> None:
    """On the data dir itself: one command after the other owns it."""
    stored = cerememory("store", f"the {CANARY} sings", "--data-dir", data_dir, "--json")
    innocent = cerememory("store", "an innocent one", "--data-dir", data_dir, "--json")
    assert parts_with(found_in(data_dir)) == {"store", "index"}
    record_id = json.loads(stored.stdout)["record_id"]
    done = cerememory("forget", record_id, "--confirm", "--compact", "--data-dir", data_dir)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == "Deleted 1 record(s)"
    assert second.startswith("Compacted: bytes_before=")
    assert found_in(data_dir) == set()
    recalled = cerememory("recall", "innocent", "--data-dir", data_dir, "--json")
    [memory] = json.loads(recalled.stdout)["memories"]
    assert memory["record"]["id"] == json.loads(innocent.stdout)["record_id"]
