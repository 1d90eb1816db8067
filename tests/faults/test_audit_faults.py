"""The audit log after crashes and tampering: completed, or refused by name.

The store commits an entry with its change; the file gets it afterwards. So whatever stops the daemon in between,
the file has no entry that the store lacks, and the next start completes it.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from urllib.request import urlopen

import msgspec
import pytest

from cerememory.failpoints import VARIABLE as FAILPOINTS
from tests.support.calls import UNLIMITED, Caller, NoAnswer
from tests.support.daemon import COMMAND, Daemon, DaemonFailed
from tests.support.shim import META_PAGES, SYNC, WRITE, Shim
from tests.support.stored import stored_in

AUDIT = "audit.jsonl"
DATA = "store/data.mdb"
ENTRIES = 4
METRICS = {"CEREMEMORY_HTTP__METRICS_ENABLED": "true"}


def audit_verify(data_dir: Path) -> subprocess.CompletedProcess[str]:
    command = [str(COMMAND), "audit-verify", "--data-dir", str(data_dir)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def operations(log: Path) -> list[str]:
    return [msgspec.json.decode(line)["operation"] for line in log.read_bytes().splitlines()]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data_dir = tmp_path_factory.mktemp("prepared") / "data"
    with Daemon(data_dir, env=UNLIMITED) as daemon, Caller(daemon.address) as caller:
        for i in range(ENTRIES):
            assert caller.store(f"memory {i}").status == 200
        assert daemon.stop() == 0
    return data_dir


@pytest.fixture
def data_dir(prepared: Path, tmp_path: Path) -> Path:
    """Left by a daemon that was stopped, with `ENTRIES` synced entries in its log."""
    return Path(shutil.copytree(prepared, tmp_path / "data"))


def check_completed(data_dir: Path) -> None:
    """A start completes the file."""
    with Daemon(data_dir, env=UNLIMITED) as daemon:
        assert daemon.stop() == 0
    stored = stored_in(data_dir)
    assert stored.audit_lines_in_file == stored.head.audit_sequence == stored.head.audit_synced


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("failpoint", "is_committed"),
    [
        ("storage.commit.before_fsync", False),
        ("storage.commit.after_fsync", True),
    ],
)
def test_a_daemon_killed_around_its_commit_leaves_entry_and_change_or_neither(
    data_dir: Path, failpoint: str, is_committed: bool
) -> None:
    """The client gets no answer. On disk: record and audit entry, both or neither, the file not ahead of them."""
    with (
        Daemon(data_dir, env={**UNLIMITED, FAILPOINTS: f"{failpoint}=kill"}) as daemon,
        Caller(daemon.address) as caller,
    ):
        with pytest.raises(NoAnswer):
            caller.store("unanswered")
        daemon.wait()
    stored = stored_in(data_dir)
    assert ("unanswered" in stored.texts.values()) is is_committed
    assert stored.head.audit_sequence == ENTRIES + is_committed
    assert stored.audit_lines_in_file == ENTRIES
    check_completed(data_dir)


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("calls", "path", "below", "is_committed", "is_in_file"),
    [
        pytest.param(WRITE, DATA, 0, False, False, id="pages"),
        pytest.param(SYNC, DATA, 0, False, False, id="sync"),
        pytest.param(WRITE, DATA, META_PAGES, False, False, id="meta"),
        pytest.param(WRITE, AUDIT, 0, True, False, id="audit-write"),
        pytest.param(SYNC, AUDIT, 0, True, True, id="audit-sync"),
    ],
)
def test_a_daemon_killed_at_any_write_never_has_an_entry_in_the_file_alone(
    data_dir: Path, shim: Shim, calls: int, path: str, below: int, is_committed: bool, is_in_file: bool
) -> None:
    """The client gets no answer when the kill came before the commit, and one when it came after. On disk: the
    entry in neither, in the store alone, or in store and file.
    """
    with Daemon(data_dir, env={**UNLIMITED, **shim.environment()}) as daemon, Caller(daemon.address) as caller:
        shim.kill(calls, path, below=below)
        if is_committed:
            assert caller.store("answered").status == 200
        else:
            with pytest.raises(NoAnswer):
                caller.store("unanswered")
        daemon.wait()
    stored = stored_in(data_dir)
    assert len(stored.texts) == stored.head.audit_sequence == ENTRIES + is_committed
    assert stored.audit_lines_in_file == ENTRIES + is_in_file
    shim.heal()
    check_completed(data_dir)


def test_a_line_torn_by_a_crash_is_completed_without_ado(data_dir: Path, shim: Shim) -> None:
    """The client was answered; the line was never synced, and half of it is on the disk. The next start makes it
    whole, and doesn't call that tampering. On disk: every entry, and none more.
    """
    log = data_dir / AUDIT
    synced = log.read_bytes()
    with Daemon(data_dir, env={**UNLIMITED, **shim.environment()}) as daemon, Caller(daemon.address) as caller:
        shim.kill(SYNC, AUDIT)
        assert caller.store("answered").status == 200
        daemon.wait()
    log.write_bytes(log.read_bytes()[: len(synced) + 200])
    assert "1 entries are pending" in audit_verify(data_dir).stderr
    check_completed(data_dir)
    assert operations(log) == ["encode.store"] * (ENTRIES + 1)


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    "cut",
    [
        pytest.param(lambda log: log.write_bytes(log.read_bytes()[:-1]), id="the-last-byte"),
        pytest.param(lambda log: log.write_bytes(b"".join(log.read_bytes().splitlines(True)[:1])), id="lines"),
        pytest.param(lambda log: log.unlink(), id="the-file"),
    ],
)
def test_a_cut_of_synced_entries_is_completed_and_recorded(data_dir: Path, cut: Callable[[Path], object]) -> None:
    """Whoever starts the daemon reads a warning, metrics count the repair, and `audit-verify` said before what
    was missing. On disk: every entry again, and one that records what had been cut off.
    """
    log = data_dir / AUDIT
    whole = log.read_bytes()
    cut(log)
    verified = audit_verify(data_dir)
    assert (verified.returncode, "cut off" in verified.stderr) == (1, True)
    with Daemon(data_dir, env={**UNLIMITED, **METRICS}) as daemon:
        assert "audit log had been cut" in daemon.log()
        with urlopen(f"{daemon.url}/metrics") as scraped:
            assert b"cerememory_audit_repairs_total 1.0" in scraped.read()
        assert daemon.stop() == 0
    assert log.read_bytes().startswith(whole)
    assert operations(log) == ["encode.store"] * ENTRIES + ["audit.repaired"]
    assert audit_verify(data_dir).returncode == 0


def edit(log: Path) -> None:
    lines = log.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b"encode.store", b"encode.batch", 1)
    log.write_bytes(b"".join(lines))


def swap(log: Path) -> None:
    first, second, third, *rest = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join([first, third, second, *rest]))


def go_on(log: Path) -> None:
    log.write_bytes(log.read_bytes() + b'{"version":1}\n')


def replace(log: Path) -> None:
    log.write_bytes((Path(__file__).parents[1] / "fixtures" / "reference" / "audit.jsonl").read_bytes())


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("tamper", "line"),
    [(edit, 2), (swap, 2), (go_on, 5), (replace, 1)],
    ids=lambda given: getattr(given, "__name__", ""),
)
def test_a_changed_log_refuses_the_start_and_names_the_line(
    data_dir: Path, tamper: Callable[[Path], None], line: int
) -> None:
    """Whoever starts the daemon gets exit code 1 and one line that names the file's line. On disk: the log as it
    was found.
    """
    log = data_dir / AUDIT
    tamper(log)
    found = log.read_bytes()
    with pytest.raises(DaemonFailed, match="exit code 1\n") as failed:
        Daemon(data_dir, env=UNLIMITED)
    [told] = str(failed.value).splitlines()[1:]
    assert told.startswith(f"error: {log}: line {line}: ")
    assert log.read_bytes() == found
    assert audit_verify(data_dir).stderr.startswith(f"error: {log}: line {line}: ")


def test_a_loss_that_is_accepted_lets_the_daemon_start_and_is_recorded(data_dir: Path) -> None:
    """Whoever starts the daemon reads a warning with the reason. On disk: every entry again, one that records the
    loss, and beside the log the one that was found.
    """
    log = data_dir / AUDIT
    whole = log.read_bytes()
    edit(log)
    found = log.read_bytes()
    with Daemon(data_dir, env=UNLIMITED, args=["--accept-audit-loss"]) as daemon:
        assert "audit loss accepted, and recorded" in daemon.log()
        assert daemon.stop() == 0
    assert log.read_bytes().startswith(whole)
    assert operations(log) == ["encode.store"] * ENTRIES + ["audit.loss_accepted"]
    [aside] = data_dir.glob(f"{AUDIT}.refused-*")
    assert aside.read_bytes() == found
    assert audit_verify(data_dir).returncode == 0
