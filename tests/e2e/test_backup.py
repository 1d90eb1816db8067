"""A backup that is made while the daemon is written to, and a daemon that goes on from it."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cerememory.cli.main import run
from cerememory.failpoints import VARIABLE as FAILPOINTS
from tests.support.calls import UNLIMITED, WAIT_S, Caller
from tests.support.daemon import Daemon, cerememory, clean_environment
from tests.support.stored import stored_in

THREADS, BEFORE, MEANWHILE = 3, 40, 10


class Load:
    """`acknowledged` has the word of each memory by its id, and grows while the block runs."""

    def __init__(self, address: str) -> None:
        self.acknowledged: dict[str, str] = {}
        self._address = address
        self._changed = threading.Condition()
        self._over = threading.Event()

    @contextmanager
    def running(self) -> Iterator[None]:
        threads = [threading.Thread(target=self._store, args=(number,)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in threads:
                thread.join()

    def wait_for(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.acknowledged) >= count, WAIT_S)

    def _store(self, number: int) -> None:
        with Caller(self._address) as caller:
            while not self._over.is_set():
                word = f"word{number}x{len(self.acknowledged)}"
                record_id = caller.store(word).json["record_id"]
                caller.store_raw(f"said {word}")
                with self._changed:
                    self.acknowledged[record_id] = word
                    self._changed.notify_all()


def test_a_daemon_goes_on_from_a_backup_of_a_busy_one(tmp_path: Path) -> None:
    """The data dir is lost. Whatever was acknowledged before the backup began is answered and found by the daemon
    that is started on it; the audit log is whole, all adds up, and it stores on.
    """
    data_dir, made = tmp_path / "data", tmp_path / "backups" / "today"
    made.parent.mkdir()
    with Daemon(data_dir, env=UNLIMITED) as daemon:
        load = Load(daemon.address)
        with load.running():
            load.wait_for(BEFORE)
            before = dict(load.acknowledged)
            told = cerememory("backup", made, "--data-dir", data_dir, "--json")
            load.wait_for(len(load.acknowledged) + MEANWHILE)
        daemon.kill()
    assert (told.returncode, told.stderr) == (0, "")
    answer = json.loads(told.stdout)
    assert answer["memories"] >= BEFORE
    assert list(made.parent.iterdir()) == [made]

    data_dir.rename(tmp_path / "lost")
    shutil.copytree(made, data_dir)
    with Daemon(data_dir, env=UNLIMITED) as daemon, Caller(daemon.address) as caller:
        assert caller.stats()["total_records"] == answer["memories"]
        for record_id, word in before.items():
            assert caller.record(record_id).status == 200
            assert caller.found(word) == [record_id]
        after = caller.store("afterwards").json["record_id"]
        assert daemon.stop() == 0
    verified = cerememory("audit-verify", "--data-dir", data_dir)
    assert verified.returncode == 0, verified.stderr
    assert stored_in(data_dir).texts.items() >= {**before, after: "afterwards"}.items()


def test_a_backup_that_is_killed_has_no_name_and_stands_in_nobodys_way(tmp_path: Path) -> None:
    data_dir, made = tmp_path / "data", tmp_path / "made"
    assert run(["store", "kettle", "--data-dir", str(data_dir)]) == 0
    assert killed_at("backup.synced", "backup", made, "--data-dir", data_dir) == -signal.SIGKILL
    assert not made.exists()
    assert run(["backup", str(made), "--data-dir", str(data_dir)]) == 0
    assert run(["fsck", "--data-dir", str(made)]) == 0


def killed_at(failpoint: str, *arguments: str | Path) -> int:
    """The exit code of a command that a failpoint kills; commands arm none by themselves."""
    script = (
        "import os, sys\n"
        "from cerememory import failpoints\n"
        "from cerememory.cli.main import run\n"
        "failpoints.arm_from(os.environ)\n"
        "sys.exit(run(sys.argv[1:]))\n"
    )
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        env=clean_environment({FAILPOINTS: f"{failpoint}=kill"}),
        capture_output=True,
        timeout=WAIT_S,
        check=False,
    ).returncode
