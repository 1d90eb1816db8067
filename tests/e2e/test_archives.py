"""`export` and `import` as a user has them: beside a daemon, on the data dir itself, and through a URL."""

from __future__ import annotations

import http.client
import json
import os
import pty
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cerememory.domain.cma import ArchiveReader
from cerememory.storage.datadir import prepare
from tests.support.archives import BUNDLE, FOLDER, PASSPHRASE
from tests.support.calls import UNLIMITED, Caller
from tests.support.daemon import COMMAND, WAIT_S, Daemon, cerememory, clean_environment
from tests.support.stored import stored_in

NEEDED = "an encrypted archive needs --decryption-key-stdin or another key"
Ran = subprocess.CompletedProcess[str]
Run = Callable[..., Ran]


@pytest.fixture(scope="module", params=["offline", "owner", "url"])
def command(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Runs `cerememory` on memories that a test has for itself, by one of the three ways to them."""
    folder = tmp_path_factory.mktemp("archives")

    def on(*options: str) -> Run:
        def run(*arguments: str, stdin: str = "") -> Ran:
            return cerememory(*arguments, *options, stdin=stdin)

        return run

    if request.param == "offline":
        prepare(folder / "data")  # a plan makes none
        yield on("--data-dir", str(folder / "data"))
        return
    with Daemon(folder / "data", env=UNLIMITED) as daemon:
        yield (
            on("--data-dir", str(folder / "data")) if request.param == "owner" else on("--server-url", daemon.url)
        )


def lines_of(archive: Path) -> list[bytes]:
    return sorted(archive.read_bytes().splitlines()[1:-1])


def without_fidelity(lines: list[bytes]) -> list[object]:
    """Memories fade from the moment of their import on."""
    found = []
    for line in lines:
        record = json.loads(line)
        record.get("data", record).pop("fidelity", None)
        found.append(record)
    return found


@pytest.mark.sample(1)
def test_a_backup_is_taken_and_brought_back(command: Run, tmp_path: Path) -> None:
    file, archive = tmp_path / "a.cma", FOLDER / "bundle-v2-encrypted.cma"
    plan = command("import", str(archive), "--decryption-key-stdin", "--dry-run", stdin=PASSPHRASE)
    assert plan.stdout == f"Would import 8 records from {archive} (new=8, replaced=0, kept=0)\n"
    done = command("import", str(archive), "--decryption-key-stdin", stdin=f"{PASSPHRASE}\n")
    assert (done.returncode, done.stdout) == (0, f"Imported 8 records from {archive}\n")
    assert done.stderr.startswith("note: cerememory import undo ")

    out = command("export", "--output", str(file), "--include-raw-journal")
    assert (out.returncode, out.stderr) == (0, "")
    assert out.stdout.startswith(f"Exported 8 records to {file} ({file.stat().st_size} bytes, archive_id=")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert without_fidelity(lines_of(file)) == without_fidelity(sorted(BUNDLE.splitlines()[1:-1]))

    sealed = tmp_path / "sealed.cma"
    command("export", "--output", str(sealed), "--encrypt", "--encryption-key-stdin", stdin="k\n")
    refused = command("import", str(sealed))
    assert refused.returncode == 1
    assert refused.stderr == f"error: encrypted or not an archive (in {sealed}) ({NEEDED})\n"
    replaced = command(
        "import", str(sealed), "--strategy", "replace", "--decryption-key-stdin", "--json", stdin="k\n"
    )
    told = json.loads(replaced.stdout)
    assert (told["records_imported"], told["path"], replaced.stderr) == (6, str(sealed), "")
    stats = json.loads(command("stats", "--json").stdout)
    assert (stats["total_records"], stats["raw_journal_records"]) == (6, 2)

    undone = command("import", "undo", told["batch_id"])
    assert undone.stdout == "Undid the import of sealed.cma (removed=0, restored=6, left=0)\n"
    again = tmp_path / "again.cma"
    command("export", "--output", str(again), "--include-raw-journal")
    assert without_fidelity(lines_of(again)) == without_fidelity(lines_of(file))


def test_a_file_that_is_no_archive_changes_nothing(command: Run, tmp_path: Path) -> None:
    (tmp_path / "no.cma").write_text("hello\n")
    refused = command("import", str(tmp_path / "no.cma"))
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == f"error: encrypted or not an archive (in {tmp_path / 'no.cma'}) ({NEEDED})\n"


def test_a_terminal_sees_how_far_an_export_is(tmp_path: Path) -> None:
    cerememory("import", str(FOLDER / "bundle-v2.cma"), "--data-dir", str(tmp_path / "data"))
    ours, theirs = pty.openpty()
    arguments = ["export", "--output", str(tmp_path / "a.cma"), "--data-dir", str(tmp_path / "data")]
    process = subprocess.Popen(
        [COMMAND, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
        env=clean_environment({"TERM": "xterm-256color", "COLUMNS": "100"}),
        text=True,
    )
    os.close(theirs)
    try:
        out, _ = process.communicate(timeout=WAIT_S)
        shown = _read_to_end(ours)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert process.returncode == 0
    assert out.startswith("Exported 6 records")
    assert "Exporting" in shown


def _read_to_end(terminal: int) -> str:
    parts: list[bytes] = []
    while True:
        try:
            part = os.read(terminal, 65_536)
        except OSError:  # Linux says so when the other end is closed
            part = b""
        if not part:
            return b"".join(parts).decode()
        parts.append(part)


def test_the_daily_backup_runs_beside_the_daemon_under_load(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with Daemon(data, env=UNLIMITED) as daemon, Caller(daemon.address) as caller:
        stored = [caller.store(f"memory {i}").json["record_id"] for i in range(20)]
        backup = subprocess.Popen(
            [COMMAND, "export", "--output", str(tmp_path / "a.cma"), "--data-dir", str(data)],
            env=clean_environment(),
            stdout=subprocess.DEVNULL,
        )
        while backup.poll() is None:
            caller.store("meanwhile")
        assert backup.returncode == 0
    records = list(ArchiveReader([(tmp_path / "a.cma").read_bytes()]).records())
    assert set(stored) <= {str(record.id) for record in records}


def test_an_upload_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    with Daemon(tmp_path / "data", env=UNLIMITED) as daemon:
        with Caller(daemon.address) as caller:
            caller.store("there before")
        host, _, port = daemon.address.rpartition(":")
        upload = http.client.HTTPConnection(host, int(port), timeout=WAIT_S)
        upload.putrequest("PUT", "/v1/archive?strategy=replace")
        upload.putheader("Content-Length", str(len(BUNDLE)))
        upload.endheaders(BUNDLE[:-1])
        upload.close()
    stored = stored_in(tmp_path / "data")
    assert (len(stored.texts), len(stored.raw_texts)) == (1, 0)
