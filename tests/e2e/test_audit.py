"""Checkpoints kept elsewhere: by an operator, and by the MCP proxies of a daemon whose past is exchanged."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from cerememory.client import Client
from tests.support.calls import UNLIMITED, Caller
from tests.support.daemon import COMMAND, WAIT_S, Daemon, cerememory, clean_environment
from tests.unit.mcp.session import INITIALIZE

STORE = {"name": "stats", "arguments": {}}


def warned_by_a_proxy(url: str) -> str:
    """All that a proxy writes to stderr in a session of one tool call."""
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": STORE}
    ran = subprocess.run(
        [COMMAND, "mcp", "--server-url", url],
        input="".join(f"{json.dumps(message)}\n" for message in (INITIALIZE, call)),
        capture_output=True,
        text=True,
        env=clean_environment(),
        timeout=WAIT_S,
        check=True,
    )
    assert "total_records" in ran.stdout
    return ran.stderr


def test_a_proxy_warns_of_a_data_dir_that_was_put_back_to_an_older_copy(tmp_path: Path, state_home: Path) -> None:
    """Nothing in the data dir contradicts: whoever kept a checkpoint is the only one to know."""
    data_dir, older = tmp_path / "data", tmp_path / "older"
    with Daemon(data_dir, env=UNLIMITED) as daemon:
        with Caller(daemon.address) as caller:
            assert caller.store("kept").status == 200
            assert warned_by_a_proxy(daemon.url) == ""
            assert daemon.stop() == 0
        shutil.copytree(data_dir, older)
        daemon.start()
        with Caller(daemon.address) as caller:
            for i in range(3):
                assert caller.store(f"erased {i}").status == 200
            assert warned_by_a_proxy(daemon.url) == ""
            assert daemon.stop() == 0
        shutil.rmtree(data_dir)
        older.rename(data_dir)
        assert cerememory("audit-verify", "--data-dir", data_dir).returncode == 0
        daemon.start()
        told = warned_by_a_proxy(daemon.url)
        assert f"the daemon at {daemon.url} rolled its audit log back: it has 1 entries and had 4" in told
        [kept] = (state_home / "cerememory").iterdir()
        verified = cerememory("audit-verify", "--data-dir", data_dir, "--against", kept)
        assert verified.returncode == 1
        assert "the log has 1 entries, and had 4 when this checkpoint was signed (replaced by an older copy)" in (
            verified.stderr
        )
        assert daemon.stop() == 0


def test_an_operator_s_copy_of_a_checkpoint_proves_the_log_beside_a_daemon_too(tmp_path: Path) -> None:
    data_dir, kept = tmp_path / "data", tmp_path / "kept"
    with Daemon(data_dir, env=UNLIMITED) as daemon, Caller(daemon.address) as caller:
        for i in range(3):
            assert caller.store(f"memory {i}").status == 200
        with Client(daemon.url) as client:
            kept.write_bytes(client.audit_checkpoint())
        for i in range(3):
            assert caller.store(f"more {i}").status == 200
        rotated = cerememory("audit-rotate", "--data-dir", data_dir)
        assert rotated.returncode == 0, rotated.stderr
        assert caller.store("behind the rotation").status == 200
        verified = cerememory("audit-verify", "--data-dir", data_dir, "--against", kept)
        assert (verified.returncode, verified.stderr.splitlines()[-1]) == (
            0,
            f"note: the log continues the one of the checkpoint {kept}",
        )
        assert daemon.stop() == 0
    copied = tmp_path / "elsewhere"
    copied.mkdir()
    closed = [path.name for path in data_dir.glob("audit.jsonl.0*")]
    assert len(closed) == 1
    for name in ("audit.jsonl", *closed, "keys/audit.pub"):
        shutil.copy(data_dir / name, copied)
    alone = cerememory(
        *("audit-verify", "--path", copied / "audit.jsonl", "--against", kept),
        *("--public-key", copied / "audit.pub"),
        cwd=copied,
    )
    assert alone.returncode == 0, alone.stderr
