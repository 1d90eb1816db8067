"""`cerememory fsck` beside a daemon that stores, forgets and compacts: what is sound is never called broken."""

from __future__ import annotations

import threading
from itertools import count
from pathlib import Path

from tests.support.calls import UNLIMITED, Caller
from tests.support.daemon import Daemon, cerememory

CHECKS = 4


class Load:
    """A client that stores, edits and forgets until it is told to stop."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.error: BaseException | None = None
        self.rounds = 0

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            with Caller(self._address) as caller:
                for number in count():
                    if self._stop.is_set():
                        return
                    self._store_and_forget(caller, number)
                    self.rounds = number
        except BaseException as error:  # told by the test
            self.error = error

    def _store_and_forget(self, caller: Caller, number: int) -> None:
        told = {"context": {"session_id": f"s-{number % 7}"}, "emotion": {"joy": 0.5}}
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
        if number % 20 == 19:
            assert caller.ask("POST", "/v1/lifecycle/compact", {}).status == 200


def test_beside_a_daemon_at_work_it_finds_nothing(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with Daemon(data_dir, env=UNLIMITED) as daemon:
        with Load(daemon.address) as load:
            for _ in range(CHECKS):
                checked = cerememory("fsck", "--data-dir", data_dir)
                said = checked.stdout + checked.stderr
                assert checked.returncode == 0 or "is being compacted, try again" in said, said
        assert load.error is None
        assert load.rounds > 20
        assert daemon.stop() == 0
    checked = cerememory("fsck", "--data-dir", data_dir)
    assert (checked.returncode, checked.stderr) == (0, ""), checked.stdout
