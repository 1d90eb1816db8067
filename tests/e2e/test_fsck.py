"""`cerememory fsck` beside a daemon that stores, forgets and compacts: what is sound is never called broken.

And what is cut off is named, by each command that opens it: read through LMDB's map, it would kill them.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.support.calls import UNLIMITED, Caller
from tests.support.daemon import Daemon, cerememory

ROUNDS, COMPACT_EVERY = 30, 10


def work(address: str) -> None:
    """Store, edit and forget, and compact between."""
    with Caller(address) as caller:
        for number in range(1, ROUNDS + 1):
            store_and_forget(caller, number)
            if number % COMPACT_EVERY == 0:
                assert caller.ask("POST", "/v1/lifecycle/compact", {}).status == 200


def store_and_forget(caller: Caller, number: int) -> None:
    told: dict[str, Any] = {"context": {"session_id": f"s-{number % 7}"}, "emotion": {"joy": 0.5}}
    first = caller.store(f"kettle {number}", key=f"{number}", **told).json["record_id"]
    edge = {"target_id": first, "association_type": "causal", "weight": 1.0}
    second = caller.store("teapot", associations=[edge], **told).json["record_id"]
    caller.store_batch(["cup", "saucer"])
    caller.store_raw("said")
    caller.recall("kettle teapot")
    caller.ask("PATCH", f"/v1/encode/{second}", {"metadata": {"n": number}})
    if number % 3:
        forget = {"record_ids": [first], "confirm": True}
        assert caller.ask("DELETE", "/v1/lifecycle/forget", forget).json == {"records_deleted": 1}


def test_beside_a_daemon_at_work_it_finds_nothing(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with Daemon(data_dir, env=UNLIMITED) as daemon:
        with ThreadPoolExecutor(1) as pool:
            working = pool.submit(work, daemon.address)
            while not working.done():
                checked = cerememory("fsck", "--data-dir", data_dir)
                said = checked.stdout + checked.stderr
                assert checked.returncode == 0 or "is being compacted, try again" in said, said
        working.result()
        assert daemon.stop() == 0
    checked = cerememory("fsck", "--data-dir", data_dir)
    assert (checked.returncode, checked.stderr) == (0, ""), checked.stdout


def test_a_store_that_was_cut_off_is_said_by_every_command(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    assert cerememory("store", "kettle", "--data-dir", data_dir).returncode == 0
    file = data_dir / "store" / "data.mdb"
    os.truncate(file, file.stat().st_size - 3 * 4_096)
    said = f"{file}: is cut off at {file.stat().st_size} bytes"
    arguments = {"recall": "kettle", "store": "cup", "backup": str(tmp_path / "backup")}
    for command in ("serve", "stats", "recall", "store", "audit-verify", "compact", "backup", "doctor", "fsck"):
        given = [arguments[command]] if command in arguments else []
        ended = cerememory(command, *given, "--data-dir", data_dir)
        assert ended.returncode == 1, (command, ended)
        named = ended.stdout if command in ("doctor", "fsck") else ended.stderr
        assert said in named, (command, ended)
        assert "restore the data directory from a backup" in named
        assert "Traceback" not in ended.stderr
