"""The backup script beside a real daemon: its archives bring back, elsewhere, all that there was."""

from __future__ import annotations

import subprocess
from pathlib import Path

from cerememory.client import Client
from tests.support.daemon import COMMAND, WAIT_S, Daemon, cerememory, clean_environment
from tests.support.engine import raw_body, store_body

SCRIPT = Path(__file__).parents[2] / "ops" / "backup" / "cerememory-backup"
SECRET = "the canary of the red kettle"


def test_archives_of_all_namespaces_can_be_imported_elsewhere(tmp_path: Path) -> None:
    key, folder, data_dir = tmp_path / "key", tmp_path / "backups", tmp_path / "data"
    key.write_text("a passphrase\n")
    with Daemon(data_dir) as daemon:
        for namespace in (None, "work"):
            with Client(daemon.url, namespace=namespace) as client:
                client.call("encode.store", store_body(SECRET))
                client.call("encode.store_raw", raw_body(SECRET))
        command: list[str | Path] = ["sh", SCRIPT, COMMAND, folder, key, "3", "--data-dir", data_dir]
        ran = subprocess.run(
            command, capture_output=True, text=True, env=clean_environment(), timeout=3 * WAIT_S, check=False
        )
        assert (ran.returncode, ran.stderr) == (0, "")
    [made] = folder.iterdir()
    assert ran.stdout == f"Backed up 4 records to {made}\n"
    assert not any(SECRET.encode() in path.read_bytes() for path in folder.rglob("*.cma"))
    restored = tmp_path / "restored"
    told: list[str | Path] = ["--data-dir", restored, "--decryption-key-file", key, "--namespace", "work"]
    imported = cerememory("import", made / "work.cma", *told)
    assert imported.stdout == f"Imported 2 records from {made / 'work.cma'}\n"
    listed = cerememory("namespaces", "--data-dir", restored)
    assert listed.stdout == "default\nwork\n"
