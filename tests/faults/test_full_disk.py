"""A file system that is really full: a small tmpfs, in a mount namespace of the daemon's own.

The test reaches it through the daemon's entry in /proc. It is gone with the daemon.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.calls import UNLIMITED, Caller
from tests.support.daemon import Daemon
from tests.support.programs import require
from tests.support.stored import stored_in

MIB = 1 << 20
TEXT = "kept " * 4_000  # more than a page, so that room for one is room for a whole commit


@contextmanager
def daemon_on_tmpfs(mount: Path, size_mib: int, min_free_mib: int) -> Iterator[tuple[Daemon, Path]]:
    """A daemon on a tmpfs of its own, and the tmpfs as this process sees it."""
    require("unshare")
    mount.mkdir()
    mounting = f'mount -t tmpfs -o size={size_mib}m none {shlex.quote(str(mount))} && exec "$@"'
    launcher = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mounting, "sh"]
    env = {**UNLIMITED, "CEREMEMORY_STORAGE__MIN_FREE_DISK_MIB": str(min_free_mib)}
    with Daemon(mount / "data", env=env, launcher=launcher) as daemon:
        yield daemon, Path(f"/proc/{daemon.process.pid}/root{mount}")


def fill(directory: Path) -> Path:
    """A file that takes all the room there is."""
    ballast = directory / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(64 * 1_024))
        except OSError:
            return ballast


def test_a_full_file_system_refuses_writes_until_there_is_room(tmp_path: Path) -> None:
    """The client gets 503 for what has no room, its records are read, and readiness is 503. With room again,
    encodes are stored, without a restart. On disk: what was acknowledged, and the whole audit log.
    """
    with (
        daemon_on_tmpfs(tmp_path / "small", 64, min_free_mib=0) as (daemon, seen),
        Caller(daemon.address) as caller,
    ):
        kept = [caller.store(TEXT).json["record_id"]]
        assert caller.found("kept") == kept
        ballast = fill(seen)
        answers = [caller.store(TEXT) for _ in range(8)]
        kept += [answer.json["record_id"] for answer in answers if answer.status == 200]
        assert answers[-1].status == 503
        assert caller.readiness().status == 503
        assert caller.record(kept[0]).status == 200
        ballast.unlink()
        caller.until_ready()
        kept += [caller.store(TEXT).json["record_id"]]
        assert set(caller.found("kept")) == set(kept)
        stored = stored_in(seen / "data", with_index=False)
        assert daemon.stop() == 0
    assert stored.record_ids == set(kept)


def test_a_file_system_with_too_little_room_refuses_writes_before_it_is_full(tmp_path: Path) -> None:
    """The client gets 503 as soon as less than `storage.min_free_disk_mib` is free, and readiness is 503; with
    room again encodes are stored. On disk: what was acknowledged.
    """
    with (
        daemon_on_tmpfs(tmp_path / "small", 96, min_free_mib=32) as (daemon, seen),
        Caller(daemon.address) as caller,
    ):
        ballast = seen / "ballast"
        ballast.write_bytes(bytes(80 * MIB))
        caller.until(lambda c: c.readiness().status == 503)  # before anybody writes
        caller.until(lambda c: c.store("early").status == 503)
        assert caller.readiness().json["reason"] == "storage unavailable"
        before = len(stored_in(seen / "data", with_index=False).record_ids)
        assert caller.store("lost").status == 503
        ballast.unlink()
        caller.until_ready()
        assert caller.store("late").status == 200
        assert len(stored_in(seen / "data", with_index=False).record_ids) == before + 1
        assert daemon.stop() == 0
