"""`cerememory torture`: what is sound survives, what loses is found out, and the data dir isn't touched."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cerememory.cli import torture
from cerememory.cli.main import run
from cerememory.cli.torture_victim import Victim
from cerememory.storage.keys import DEFAULT_NAMESPACE, Table, after, key
from cerememory.storage.lmdb import LmdbStorage
from tests.support.answers import faults_of
from tests.support.daemon import COMMAND, WAIT_S, clean_environment

ROUNDS = 12 if os.environ.get("CEREMEMORY_TEST_SWEEP") == "full" else 2


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data dir with a memory and an entry."""
    path = tmp_path_factory.mktemp("torture") / "data"
    assert run(["store", "kettle", "--data-dir", str(path)]) == 0
    assert run(["store-raw", "said", "--session-id", "s", "--data-dir", str(path)]) == 0
    return path


@pytest.fixture
def data_dir(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "data"))


@pytest.fixture(autouse=True)
def few_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torture, "WRITES_MAX", 30)


def contents(data_dir: Path) -> dict[str, bytes]:
    """Of all files but for LMDB's table of readers."""
    files = [path for path in data_dir.rglob("*") if path.is_file() and path.name != "lock.mdb"]
    return {str(path): path.read_bytes() for path in files}


def test_a_sound_machine_survives_and_the_data_dir_is_left_alone(
    data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(data_dir)
    assert run(["torture", "--rounds", str(ROUNDS), "--seed", "7", "--data-dir", str(data_dir)]) == 0
    out = capsys.readouterr().out
    assert f"Survived: {ROUNDS} of {ROUNDS} rounds" in out
    assert "only cutting its power shows" in out
    assert contents(data_dir) == before
    assert list(data_dir.parent.iterdir()) == [data_dir]


def losing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What dies under load takes all that was written to it along, as a disk would that never synced.

    All, since the newest of it may be what nobody was told of.
    """
    kill = Victim.kill

    def kill_and_lose(victim: Victim) -> None:
        was_alive = victim._process is not None
        kill(victim)
        if was_alive:
            with closing(LmdbStorage(victim._data_dir / "store")) as storage:
                storage.commit(dict.fromkeys(memories(storage)[1:]))

    monkeypatch.setattr(Victim, "kill", kill_and_lose)


def memories(storage: LmdbStorage) -> list[bytes]:
    """Keys, the oldest first."""
    prefix = key(DEFAULT_NAMESPACE, Table.CONTENT)
    with storage.read() as reader:
        return [row_key for row_key, _value in reader.scan(prefix, after(prefix))]


def test_a_loss_is_found_named_and_kept(
    data_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    losing(monkeypatch)
    assert run(["torture", "--rounds", "1", "--seed", "7", "--data-dir", str(data_dir), "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert not answer["survived"]
    assert any("is missing, acknowledged as tortured" in wrong for wrong in answer["wrong"])
    assert Path(answer["copy"]).is_dir()
    assert answer["fsync"]["median_ms"] > 0
    assert faults_of("torture", answer) == []


def test_one_that_is_ended_takes_its_daemon_and_its_copy_along(data_dir: Path) -> None:
    """SIGTERM in the middle of a round, in which the daemon listens."""
    with subprocess.Popen(
        [COMMAND, "torture", "--data-dir", str(data_dir)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=clean_environment(),
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"round 1: ")
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_S) == 130
    assert list(data_dir.parent.iterdir()) == [data_dir]
    assert daemons_of(data_dir.parent) == []


def daemons_of(folder: Path) -> list[str]:
    """Processes whose command line names something in `folder`."""
    return [line for line in _command_lines() if str(folder) in line]


def _command_lines() -> Iterator[str]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--folder", "/nowhere/at/all"], "No such file"),
        (["--data-dir", "/nowhere/at/all"], "no data dir is there"),
        (["--server-url", "http://127.0.0.1:9"], "works on the data directory itself"),
        (["--rounds", "0"], "Must be >= 1"),
    ],
)
def test_what_can_not_be_tortured_is_refused(
    data_dir: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], reason: str
) -> None:
    where = [] if "--data-dir" in arguments else ["--data-dir", str(data_dir)]
    assert run(["torture", *where, *arguments]) in (1, 2)
    assert reason in capsys.readouterr().err
    assert list(data_dir.parent.iterdir()) == [data_dir]


def test_what_is_broken_is_not_tortured(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with closing(LmdbStorage(data_dir / "store")) as storage:
        storage.commit(dict.fromkeys(memories(storage)))
    assert run(["torture", "--data-dir", str(data_dir)]) == 1
    assert "doesn't add up" in capsys.readouterr().err
    assert list(data_dir.parent.iterdir()) == [data_dir]


def test_where_there_is_no_room_nothing_is_copied(
    data_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = MIB = 1 << 20

    monkeypatch.setattr("cerememory.cli.torture.shutil.disk_usage", lambda path: Usage)
    assert run(["torture", "--data-dir", str(data_dir)]) == 1
    assert "a copy to torture needs" in capsys.readouterr().err
