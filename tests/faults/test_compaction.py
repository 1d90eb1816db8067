"""A compaction that is cut short, by SIGKILL or by the disk: all is there, and the next one goes through."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from cerememory.failpoints import VARIABLE as FAILPOINTS
from tests.support.calls import UNLIMITED, Caller, NoAnswer
from tests.support.daemon import Daemon
from tests.support.shim import RENAME, SYNC, WRITE, Shim
from tests.support.stored import stored_in

WORDS = [f"word{number}" for number in range(8)]
FORGOTTEN = "zyxquivongabluth"


@pytest.mark.sample(1)
@pytest.mark.parametrize("point", ["storage.compact.written", "storage.compact.exchanged", "text_index.wiped"])
def test_a_daemon_that_is_killed_while_it_compacts_loses_nothing(tmp_path: Path, point: str) -> None:
    """The client gets no answer. After a restart all memories are answered and found. On disk: what adds up, and
    after another compaction no byte of what was forgotten.
    """
    data_dir = tmp_path / "data"
    with Daemon(data_dir, env={**UNLIMITED, FAILPOINTS: f"{point}=kill"}) as daemon:
        with Caller(daemon.address) as caller:
            ids = {word: caller.store(word).json["record_id"] for word in WORDS}
            gone = caller.store(FORGOTTEN).json["record_id"]
            forget = {"record_ids": [gone], "confirm": True}
            assert caller.ask("DELETE", "/v1/lifecycle/forget", forget).status == 200
            with pytest.raises(NoAnswer):
                caller.ask("POST", "/v1/lifecycle/compact", {})
        daemon.wait()
    assert stored_in(data_dir).record_ids == set(ids.values())
    with Daemon(data_dir, env=UNLIMITED) as daemon, Caller(daemon.address) as caller:
        for word, record_id in ids.items():
            assert caller.found(word) == [record_id]
        assert caller.ask("POST", "/v1/lifecycle/compact", {}).status == 200
        assert caller.found(WORDS[0]) == [ids[WORDS[0]]]
        assert daemon.stop() == 0
    assert stored_in(data_dir).record_ids == set(ids.values())
    assert sorted(path.name for path in (data_dir / "store").iterdir()) == ["data.mdb", "lock.mdb"]
    numbers = b",".join(b"%d" % byte for byte in FORGOTTEN.encode())
    assert numbers not in (data_dir / "store" / "data.mdb").read_bytes()


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("calls", "path", "error"),
    [
        (WRITE, "compacting/data.mdb", errno.ENOSPC),
        (SYNC, "compacting/data.mdb", errno.EIO),
        (RENAME, "store/data.mdb", errno.EIO),
    ],
)
def test_a_disk_that_fails_in_a_compaction_leaves_the_store_as_it_was(
    tmp_path: Path, shim: Shim, calls: int, path: str, error: int
) -> None:
    """The client gets 503; at once encodes are stored and readiness is 200. On disk: all of it, and no draft."""
    data_dir = tmp_path / "data"
    with Daemon(data_dir, env={**UNLIMITED, **shim.environment()}) as daemon, Caller(daemon.address) as caller:
        before = caller.store("before").json["record_id"]
        rule = shim.fail(calls, path, error)
        refused = caller.ask("POST", "/v1/lifecycle/compact", {})
        assert (refused.status, refused.code, rule.acted > 0) == (503, "DECAY_ENGINE_BUSY", True)
        assert caller.readiness().status == 200
        shim.heal()
        after = caller.store("after").json["record_id"]
        assert sorted(path.name for path in (data_dir / "store").iterdir()) == ["data.mdb", "lock.mdb"]
        assert caller.ask("POST", "/v1/lifecycle/compact", {}).status == 200
        assert caller.found("before") == [before]
        assert daemon.stop() == 0
    assert stored_in(data_dir).record_ids == {before, after}
