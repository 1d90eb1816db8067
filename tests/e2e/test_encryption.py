"""With a passphrase no byte of the data dir says what is kept in it: from the start, or once it was migrated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.canary import (
    CANARY,
    ENV,
    NAMESPACES,
    Clients,
    archive_canary,
    found_in,
    record_canary,
    remember_canary,
    told_of,
)
from tests.support.daemon import Daemon, DaemonFailed, cerememory

VARIABLE = "CEREMEMORY_SECURITY__STORE_ENCRYPTION_PASSPHRASE"
ENCRYPTED = {**ENV, VARIABLE: "correct horse"}
MIGRATED = """\
Store encryption migration completed:
  raw_journal: total=2, migrated=2, already_encrypted=0
  episodic: total=2, migrated=2, already_encrypted=0
  semantic: total=1, migrated=1, already_encrypted=0
  procedural: total=0, migrated=0, already_encrypted=0
  emotional: total=0, migrated=0, already_encrypted=0
  vector_index: total=1, migrated=1, already_encrypted=0
"""


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


def contents(data_dir: Path) -> dict[str, bytes]:
    """Of all files but the lock, which says who came last."""
    return {
        str(path.relative_to(data_dir)): path.read_bytes()
        for path in data_dir.rglob("*")
        if path.is_file() and path.name not in ("lock", "lock.mdb")
    }


def test_nothing_that_was_kept_is_ever_on_the_disk(data_dir: Path, tmp_path: Path) -> None:
    archive = tmp_path / "all.cma"
    with Daemon(data_dir, env=ENCRYPTED) as daemon:
        with Clients(daemon) as clients:
            for client in clients.of.values():
                archive_canary(client)
                remember_canary(client)
                record_canary(client)
        daemon.wait_until_searchable()
        assert found_in(data_dir) == set()
        exported = cerememory("export", "--include-raw-journal", "--output", archive, "--data-dir", data_dir)
        assert exported.returncode == 0, exported.stderr
        assert CANARY.encode() in archive.read_bytes() or b"122, 121, 120" in archive.read_bytes()
        imported = cerememory("import", archive, "--namespace", CANARY, "--data-dir", data_dir)
        assert imported.returncode == 0, imported.stderr
        assert found_in(data_dir) == set()
        daemon.kill()
        assert found_in(data_dir) == set()
        daemon.start()
        daemon.wait_until_searchable()
        with Clients(daemon) as clients:
            assert all(told_of(clients.of[name]) for name in NAMESPACES)
        assert daemon.stop() == 0
    assert found_in(data_dir) == set()
    checked = cerememory("fsck", "--data-dir", data_dir, env=ENCRYPTED)
    assert checked.returncode == 0, checked.stdout


def test_what_was_plain_is_migrated_and_no_page_of_it_stays(data_dir: Path) -> None:
    here = ("--data-dir", str(data_dir))
    for command in (
        ("store", f"the {CANARY} sings"),
        ("store", f"about {CANARY}", "--store", "semantic", "--embedding", "0.8137729,-0.4561237,0.3300817"),
        ("store-raw", CANARY, "--session-id", CANARY),
        ("store-raw", f"{CANARY} again", "--session-id", CANARY),
        ("dream-tick", "--no-promote-semantic"),
    ):
        assert cerememory(*command, *here).returncode == 0
    assert found_in(data_dir) != set()

    for env, said in (
        ({}, "error: security.store_encryption_passphrase: is needed\n"),
        (ENCRYPTED, "give --confirm\n"),
    ):
        confirm = [] if env else ["--confirm"]
        refused = cerememory("migrate-store-encryption", *confirm, *here, env=env)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert refused.stderr.endswith(said)
    migrated = cerememory("migrate-store-encryption", "--confirm", *here, env=ENCRYPTED)

    assert (migrated.returncode, migrated.stdout) == (0, MIGRATED), migrated.stderr
    assert found_in(data_dir) == set()
    recalled = cerememory("recall", CANARY, *here, "--json", env=ENCRYPTED)
    assert len(json.loads(recalled.stdout)["memories"]) == 3
    assert cerememory("fsck", *here, env=ENCRYPTED).returncode == 0
    verified = cerememory("audit-verify", *here, env=ENCRYPTED)
    assert verified.returncode == 0, verified.stderr
    last = json.loads((data_dir / "audit.jsonl").read_bytes().splitlines()[-2])
    assert last["operation"] == "security.migrate_store_encryption"
    assert last["summary"]["episodic"] == {
        "records_already_encrypted": 0,
        "records_migrated": 2,
        "records_total": 2,
    }


def test_a_running_daemon_keeps_its_keys(data_dir: Path) -> None:
    with Daemon(data_dir, env=ENCRYPTED) as daemon:
        for command in (("migrate-store-encryption", "--confirm"), ("rotate-key",)):
            refused = cerememory(*command, "--data-dir", data_dir, env=ENCRYPTED)
            assert refused.returncode == 1
            assert f"in use by process {daemon.process.pid}" in refused.stderr


def test_a_daemon_without_the_passphrase_does_not_start_and_changes_nothing(data_dir: Path) -> None:
    stored = cerememory("store", "a secret", "--data-dir", data_dir, env=ENCRYPTED)
    assert stored.returncode == 0, stored.stderr
    before = contents(data_dir)
    for env, reason in (
        ({}, "the store is encrypted, and no passphrase is given"),
        ({VARIABLE: "another"}, "this isn't the passphrase of the store"),
    ):
        with pytest.raises(DaemonFailed, match="exit code 1\n") as failed:
            Daemon(data_dir, env=env)
        assert f"error: security.store_encryption_passphrase: {reason}\n" in str(failed.value)
        assert str(failed.value).count("\n") == 2
        command = cerememory("recall", "secret", "--data-dir", data_dir, env=env)
        assert (command.returncode, command.stdout) == (1, "")
    assert contents(data_dir) == before


def test_another_passphrase_and_other_keys_open_the_same_memories(data_dir: Path, tmp_path: Path) -> None:
    here = ("--data-dir", str(data_dir))
    before, renewed = {VARIABLE: "correct horse"}, {VARIABLE: "battery staple"}
    assert cerememory("store", f"the {CANARY} sings", *here, env=before).returncode == 0
    (tmp_path / "new").write_text("battery staple\n")
    changed = cerememory("change-passphrase", "--new-passphrase-file", tmp_path / "new", *here, env=before)
    assert (changed.returncode, changed.stdout) == (0, "Passphrase changed\n"), changed.stderr
    assert cerememory("recall", CANARY, *here, env=before).returncode == 1
    rotated = cerememory("rotate-key", *here, env=renewed)
    assert rotated.stdout.startswith("Store keys rotated:\n"), rotated.stderr
    assert f"the {CANARY} sings" in cerememory("recall", CANARY, *here, env=renewed).stdout
    assert found_in(data_dir) == set()
