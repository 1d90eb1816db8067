"""Where a command finds its memories: a URL, the owner of the data dir, or the data dir itself."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from cerememory.cli import memory as memory_module
from cerememory.cli import offline as offline_module
from cerememory.cli import turns
from cerememory.cli.main import run
from cerememory.cli.memory import connect, server_url
from cerememory.cli.offline import METHODS, OfflineMemory
from cerememory.cli.options import Options, UsageError
from cerememory.client import probe
from cerememory.errors import (
    AuditBroken,
    ConfigInvalid,
    DaemonUnreachable,
    DataDirLocked,
    RecordNotFound,
    Unauthorized,
    ValidationFailed,
)
from cerememory.protocol.deadlines import deadline_s
from cerememory.protocol.operations import BY_NAME
from cerememory.storage.datadir import DataDir
from cerememory.telemetry import logs
from tests.support.fake_daemon import FakeDaemon, answer, held
from tests.support.reference_files import FOLDER
from tests.support.stored import stored_in

ENCRYPTED = (FOLDER / "bundle-v2-encrypted.cma").read_bytes()
UNKNOWN_ID = "01920000-0000-7000-8000-000000000000"


@pytest.fixture(autouse=True)
def nothing_is_configured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("CEREMEMORY_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def owned(data_dir: Path) -> Iterator[DataDir]:
    with DataDir.acquire(data_dir) as directory:
        yield directory


def stats_asked_with(daemon: FakeDaemon, options: Options) -> dict[str, str]:
    """The headers of the one request that stats made of `daemon`."""
    with connect(options) as memory:
        assert memory.call("introspect.stats") == {"total_records": 3}
    (request,) = daemon.requests
    assert request.path == "/v1/introspect/stats"
    return request.headers


def test_a_url_is_asked_with_the_key_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CEREMEMORY_SERVER_API_KEY", "sesame")
    with FakeDaemon(answer({"total_records": 3})) as daemon:
        headers = stats_asked_with(daemon, Options(server_url=daemon.url))
    assert headers["authorization"] == "Bearer sesame"


def test_a_key_in_a_file_goes_before_that_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CEREMEMORY_SERVER_API_KEY", "other")
    (tmp_path / "key").write_text("sesame\n")
    with FakeDaemon(answer({"total_records": 3})) as daemon:
        headers = stats_asked_with(daemon, Options(server_url=daemon.url, server_api_key_file=tmp_path / "key"))
    assert headers["authorization"] == "Bearer sesame"


def test_a_url_is_asked_for_the_namespace() -> None:
    with FakeDaemon(answer({"total_records": 3})) as daemon:
        headers = stats_asked_with(daemon, Options(server_url=daemon.url, namespace="work"))
    assert headers["x-cerememory-namespace"] == "work"


def test_the_owner_is_asked_for_the_namespace(owned: DataDir, data_dir: Path) -> None:
    with FakeDaemon(answer({"total_records": 3})) as daemon:
        owned.announce(daemon.url.removeprefix("http://"))
        headers = stats_asked_with(daemon, Options(data_dir=data_dir, namespace="work"))
    assert headers["x-cerememory-namespace"] == "work"


def test_a_url_needs_no_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CEREMEMORY_HTTP__PORT", "none")
    with FakeDaemon(answer({"total_records": 3})) as daemon:
        stats_asked_with(daemon, Options(server_url=daemon.url))


@pytest.mark.parametrize("left", [True, False], ids=["the owner's", "the environment's"])
def test_the_owner_is_asked_with_a_key(
    owned: DataDir, data_dir: Path, monkeypatch: pytest.MonkeyPatch, left: bool
) -> None:
    monkeypatch.setenv("CEREMEMORY_SERVER_API_KEY", "sesame")
    key = owned.make_token() if left else "sesame"
    with FakeDaemon(answer({"total_records": 3})) as daemon:
        owned.announce(daemon.url.removeprefix("http://"))
        headers = stats_asked_with(daemon, Options(data_dir=data_dir))
    assert headers["authorization"] == f"Bearer {key}"


@pytest.mark.parametrize("operation", ["introspect.stats", "lifecycle.compact"])
def test_a_daemon_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch, operation: str) -> None:
    monkeypatch.setattr(memory_module, "LATER_S", 0.05 - deadline_s(operation))
    let_go = threading.Event()
    with FakeDaemon(held(let_go, answer({}))) as daemon, connect(Options(server_url=daemon.url)) as memory:
        with pytest.raises(DaemonUnreachable, match=r"^http://\S+ gave no answer: the time limit passed$"):
            memory.call(operation, {})
        let_go.set()


def test_so_it_is_before_an_import(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which itself may take as long as it takes."""
    monkeypatch.setattr(probe, "LIMIT_S", 0.05)
    let_go = threading.Event()
    with FakeDaemon(held(let_go, answer({}))) as daemon, connect(Options(server_url=daemon.url)) as memory:
        with pytest.raises(DaemonUnreachable, match="gives no answer: the time limit passed"):
            memory.import_archive([b"archive"], 7, {"archive_id": "a.cma"})
        let_go.set()
        assert [request.path for request in daemon.requests] == ["/health"]


def test_a_wrong_key_is_answered_with_where_keys_come_from() -> None:
    with FakeDaemon(answer({}, status=401)) as daemon, pytest.raises(Unauthorized) as refused:
        stats_asked_with(daemon, Options(server_url=daemon.url))
    said = "the key is that of --server-api-key-file, else of CEREMEMORY_SERVER_API_KEY"
    assert refused.value.__notes__ == [said]


def test_a_key_goes_to_this_machine_alone(owned: DataDir, data_dir: Path) -> None:
    owned.make_token()
    owned.announce("192.0.2.1:8420")
    with pytest.raises(ValidationFailed, match=r"api_key: would go to 192\.0\.2\.1 unencrypted"):
        connect(Options(data_dir=data_dir))


def test_an_owner_without_an_address_is_a_command(
    owned: DataDir, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owned.announce("")
    monkeypatch.setattr(turns, "FREE_WITHIN_S", 0.0)
    waited = pytest.raises(DataDirLocked, match=f"in use by process {os.getpid()}, a command; try again")
    with waited, connect(Options(data_dir=data_dir)):
        pytest.fail("it owns what another owns")


def during_the_wait(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> list[str]:
    """`happens()` when a command says that it waits, which it does at once; what it says."""
    said: list[str] = []

    def note(message: str) -> None:
        said.append(message)
        happens()

    monkeypatch.setattr(turns, "TOLD_AFTER_S", 0.0)
    monkeypatch.setattr(memory_module, "note", note)
    return said


@pytest.mark.parametrize("offline", [True, False])
def test_another_command_is_waited_for(
    owned: DataDir, data_dir: Path, monkeypatch: pytest.MonkeyPatch, offline: bool
) -> None:
    owned.announce("")
    said = during_the_wait(monkeypatch, owned.release)
    monkeypatch.setattr(owned, "release", lambda: None)  # it is released in the wait, and only there
    with connect(Options(data_dir=data_dir, offline=offline)) as memory:
        assert memory.call("introspect.stats")["total_records"] == 0
    assert said == [f"{data_dir}: in use by another command; waiting until it is done"]


def test_who_has_not_said_yet_who_it_is_and_proves_to_be_a_daemon_is_asked(
    owned: DataDir, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeDaemon(answer({"total_records": 3})) as daemon:
        address = daemon.url.removeprefix("http://")
        during_the_wait(monkeypatch, lambda: owned.announce(address))
        stats_asked_with(daemon, Options(data_dir=data_dir))


def test_no_daemon_is_waited_for_offline(owned: DataDir, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owned.announce("127.0.0.1:9")
    said = during_the_wait(monkeypatch, lambda: None)
    refused = pytest.raises(DataDirLocked, match=r"in use by process \d+ at 127\.0\.0\.1:9; stop it or use")
    with refused, connect(Options(data_dir=data_dir, offline=True)):
        pytest.fail("it owns what a daemon owns")
    assert said == []


def test_a_wait_is_told_once_after_a_second_and_ends_after_ten(
    owned: DataDir, data_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    owned.announce("")
    told: list[tuple[float, str]] = []
    moments = iter([50.0, 50.9, 51.1, 52.0, 59.9, 60.0])

    def clock() -> float:
        told.append((now := next(moments), capsys.readouterr().err))
        return now

    monkeypatch.setattr(turns, "time", SimpleNamespace(monotonic=clock))
    with pytest.raises(DataDirLocked), connect(Options(data_dir=data_dir)):
        pytest.fail("it owns what another owns")
    wait = f"note: {data_dir}: in use by another command; waiting until it is done\n"
    assert told == [(50.0, ""), (50.9, ""), (51.1, ""), (52.0, wait), (59.9, ""), (60.0, "")]


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("127.0.0.1:8420", "http://127.0.0.1:8420"),
        ("localhost:1", "http://localhost:1"),
        ("0.0.0.0:8420", "http://127.0.0.1:8420"),
        ("::1:8420", "http://[::1]:8420"),
        (":::8420", "http://[::1]:8420"),
    ],
)
def test_an_address_is_reached_from_this_machine(address: str, url: str) -> None:
    assert server_url(address) == url


def test_a_url_and_offline_exclude_each_other() -> None:
    with pytest.raises(UsageError, match="--server-url and --offline exclude each other"):
        connect(Options(server_url="http://127.0.0.1:9", offline=True))


@pytest.mark.parametrize(
    ("variable", "problem"),
    [
        ("CEREMEMORY_HTTP__PROT", "did you mean CEREMEMORY_HTTP__PORT"),
        ("CEREMEMORY_STORAGE__DSN", "can't do that yet"),
    ],
)
def test_a_configuration_that_cant_start_is_refused(
    monkeypatch: pytest.MonkeyPatch, data_dir: Path, variable: str, problem: str
) -> None:
    monkeypatch.setenv(variable, "8421")
    with pytest.raises(ConfigInvalid, match=problem):
        connect(Options(data_dir=data_dir), creates=True)
    assert not data_dir.exists()


def text(words: str) -> dict[str, object]:
    return {"content": {"blocks": [{"modality": "text", "format": "text/plain", "text": words}]}}


NOTHING_THERE = "no data dir is there; name another with --data-dir, or make one with cerememory store or serve"
NOT_MAKING = {
    "recall": ["recall", "x"],
    "associate": ["associate", UNKNOWN_ID],
    "timeline": ["timeline"],
    "inspect": ["inspect", UNKNOWN_ID],
    "recall-raw": ["recall-raw"],
    "stats": ["stats"],
    "export": ["export"],
    "audit-verify": ["audit-verify"],
    "namespaces": ["namespaces"],
    "fsck": ["fsck"],
    "list of the archive": ["restore"],
    "dry import": ["import", "all.cma", "--dry-run"],
    "dry undo": ["import", "undo", UNKNOWN_ID, "--dry-run"],
    "dry consolidate": ["consolidate", "--dry-run"],
    "dry dream-tick": ["dream-tick", "--dry-run"],
    "dry redact": ["redact", "--rescan", "--dry-run"],
    "dry forget": ["forget", UNKNOWN_ID, "--dry-run"],
    "update": ["update", UNKNOWN_ID, "x"],
    "forget": ["forget", UNKNOWN_ID, "--confirm"],
    "unconfirmed forget": ["forget", UNKNOWN_ID],
    "restore": ["restore", UNKNOWN_ID],
    "set-mode": ["set-mode", "perfect"],
    "decay-tick": ["decay-tick"],
    "dream-tick": ["dream-tick"],
    "consolidate": ["consolidate"],
    "compact": ["compact"],
    "redact": ["redact", "--rescan"],
    "undo": ["import", "undo", UNKNOWN_ID],
    "audit-rotate": ["audit-rotate"],
    "repair": ["fsck", "--repair"],
    "reindex": ["reindex"],
    "backup": ["backup", "copy"],
}


@pytest.mark.parametrize("place", ["missing", "empty", "cut short", "named by nobody"])
@pytest.mark.parametrize("arguments", NOT_MAKING.values(), ids=NOT_MAKING)
def test_what_brings_nothing_in_makes_no_data_dir(
    tmp_path: Path, arguments: list[str], place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "all.cma").write_bytes(b"")
    path = Path("data") if place == "named by nobody" else tmp_path / "typo"
    if place in ("empty", "cut short"):
        path.mkdir(mode=0o700)
    if place == "cut short":
        (path / "lock").touch()
    before = sorted(tmp_path.rglob("*"))
    where = [] if place == "named by nobody" else ["--data-dir", str(path)]
    assert run([*arguments, *where]) == 1
    assert capsys.readouterr() == ("", f"error: {path}: {NOTHING_THERE}\n")
    assert run([*arguments, *where, "--json"]) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_what_brings_nothing_in_puts_no_lock_into_a_folder_of_others(
    data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data_dir.mkdir(mode=0o700)
    (data_dir / "notes.txt").touch()
    assert run(["stats", "--data-dir", str(data_dir)]) == 1
    message = f"error: {data_dir}: is no data dir and not empty (notes.txt); use an empty folder\n"
    assert capsys.readouterr().err == message
    assert [each.name for each in data_dir.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    "arguments",
    [["store", "x"], ["store-raw", "x", "--session-id", "s"], ["load", "notes.txt"], ["import", "all.cma"]],
    ids=lambda arguments: arguments[0],
)
def test_what_brings_something_in_makes_a_data_dir(data_dir: Path, tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "notes.txt").write_text("x\n")
    shutil.copy(FOLDER / "bundle-v2.cma", tmp_path / "all.cma")
    assert run([*arguments, "--data-dir", str(data_dir)]) == 0
    assert run(["stats", "--data-dir", str(data_dir)]) == 0


def test_without_an_owner_the_command_owns_the_data_dir(data_dir: Path) -> None:
    with connect(Options(data_dir=data_dir), creates=True) as memory:
        assert isinstance(memory, OfflineMemory)
        with pytest.raises(DataDirLocked, match=f"in use by process {os.getpid()}"):
            DataDir.acquire(data_dir)
    DataDir.acquire(data_dir).release()


@pytest.mark.parametrize(
    ("level", "verbose", "logged"),
    [("info", False, "warn"), ("error", False, "error"), ("info", True, "info"), ("debug", True, "debug")],
)
def test_a_command_logs_little_unless_asked(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, level: str, verbose: bool, logged: str
) -> None:
    configured: list[str] = []
    monkeypatch.setattr(logs, "configure", lambda level, _style: configured.append(level))
    monkeypatch.setenv("CEREMEMORY_LOG__LEVEL", level)
    with connect(Options(data_dir=data_dir, verbose=verbose), creates=True):
        assert configured == [logged]


def test_what_is_stored_is_there_for_the_next_command(data_dir: Path) -> None:
    with connect(Options(data_dir=data_dir), creates=True) as memory:
        stored = memory.call("encode.store", text("the fox sleeps"))
    with connect(Options(data_dir=data_dir)) as memory:
        (hit,) = memory.call("recall.query", {"cue": {"text": "foxes"}})["memories"]
        assert memory.call("introspect.stats")["total_records"] == 1
    assert hit["record"]["id"] == stored["record_id"]


def test_a_command_sees_its_namespace_alone(data_dir: Path) -> None:
    for name, words in ((None, "the fox sleeps"), ("work", "the heron waits"), ("home", "the owl listens")):
        with connect(Options(data_dir=data_dir, namespace=name), creates=True) as memory:
            memory.call("encode.store", text(words))
    found = {name: texts_in(data_dir, name) for name in (None, "default", "work", "home", "nowhere")}
    assert found == {
        None: ["the fox sleeps"],
        "default": ["the fox sleeps"],
        "work": ["the heron waits"],
        "home": ["the owl listens"],
        "nowhere": [],
    }


def texts_in(data_dir: Path, namespace: str | None) -> list[str]:
    """All memories of the namespace, as one command lists them."""
    with connect(Options(data_dir=data_dir, namespace=namespace)) as memory:
        memories = memory.call("recall.query", {"cue": {}, "recall_mode": "perfect"})["memories"]
        assert memory.call("introspect.stats")["total_records"] == len(memories)
    return [bytes(each["record"]["content"]["blocks"][0]["data"]).decode() for each in memories]


def test_a_namespace_begins_when_something_is_stored_in_it(data_dir: Path) -> None:
    with connect(Options(data_dir=data_dir, namespace="work"), creates=True) as memory:
        memory.call("recall.query", {"cue": {}})
        with pytest.raises(RecordNotFound):
            memory.call("encode.update", text("x"), path_params={"record_id": UNKNOWN_ID})
    with DataDir.acquire(data_dir):
        assert stored_in(data_dir).names == {}
    with connect(Options(data_dir=data_dir, namespace="work")) as memory:
        memory.call("encode.store_raw", {"session_id": "s", **text("x")})
    with DataDir.acquire(data_dir):
        stored = stored_in(data_dir)
    assert stored.names == {"work": 1}
    assert list(stored.namespaces[1].raw_texts.values()) == ["x"]
    assert stored.raw_texts == {}


@pytest.mark.parametrize(
    ("archive", "key"), [(b"no archive", []), (ENCRYPTED, ["--decryption-key", "wrong"]), (ENCRYPTED, [])]
)
def test_a_namespace_is_listed_from_its_first_memory_on(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], archive: bytes, key: list[str]
) -> None:
    (tmp_path / "all.cma").write_bytes(archive)
    here = ["--data-dir", str(data_dir)]
    assert run(["import", "all.cma", *key, "--namespace", "work", *here]) == 1
    capsys.readouterr()
    assert run(["namespaces", *here]) == 0
    assert capsys.readouterr().out == "default\n"
    assert stored_in(data_dir).names == {}
    assert run(["store", "x", "--namespace", "work", *here]) == 0
    capsys.readouterr()
    assert run(["namespaces", *here]) == 0
    assert capsys.readouterr().out == "default\nwork\n"


@pytest.mark.parametrize("offline", [True, False])
def test_what_cannot_be_the_name_of_a_namespace_is_refused_in_one_line(
    data_dir: Path, capsys: pytest.CaptureFixture[str], offline: bool
) -> None:
    where = ["--offline", "--data-dir", str(data_dir)] if offline else ["--server-url", "http://127.0.0.1:9"]
    assert run(["stats", *where, "--namespace", "no name"]) == 1
    message = capsys.readouterr().err
    assert message.startswith("error: namespace: expected 1 to 64 ")
    assert message.count("\n") == 1


def test_every_operation_of_a_command_can_be_asked(data_dir: Path) -> None:
    with connect(Options(data_dir=data_dir), creates=True) as memory:
        batch = memory.call("encode.batch", {"records": [text("a"), text("b")]})
        path_params = {"record_id": batch["results"][0]["record_id"]}
        assert memory.call("encode.update", text("c"), path_params=path_params) is None
        assert memory.call("introspect.record", path_params=path_params)["version"] == 2
        memory.call("encode.store_raw", {"session_id": "s", **text("d")})
        memory.call("encode.batch_raw", {"records": [{"session_id": "s", **text("e")}]})
        assert memory.call("recall.raw_query", {"session_id": "s"})["total_candidates"] == 2


def test_a_request_is_checked_as_the_daemon_checks_it(data_dir: Path) -> None:
    refused = pytest.raises(ValidationFailed, match="limit: expected")
    with connect(Options(data_dir=data_dir), creates=True) as memory, refused:
        memory.call("recall.query", {"cue": {}, "limit": -1})


@pytest.mark.parametrize("encrypted", [False, True])
def test_what_decay_archived_is_listed_until_it_is_brought_back(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], encrypted: bool
) -> None:
    monkeypatch.setenv("CEREMEMORY_DECAY__PRUNE", "archive")
    monkeypatch.setenv("CEREMEMORY_DECAY__TIME_UNIT_SECS", "1")
    if encrypted:
        monkeypatch.setenv("CEREMEMORY_SECURITY__STORE_ENCRYPTION_PASSPHRASE", "a long enough passphrase")

    def answered(*arguments: str) -> str:
        capsys.readouterr()
        assert run([*arguments, "--data-dir", str(data_dir)]) == 0
        return capsys.readouterr().out

    record_id = json.loads(answered("store", "the fox sleeps", "--json"))["record_id"]
    assert answered("restore").startswith("Found 0 ")
    answered("decay-tick", "--duration", "100000000")
    assert json.loads(answered("stats"))["total_records"] == 0
    (archived,) = json.loads(answered("restore", "--json"))["archived"]
    assert (archived["record_id"], archived["store"], archived["summary"]) == (
        record_id,
        "episodic",
        "the fox sleeps",
    )
    listed = answered("restore").splitlines()
    assert listed[0] == "Found 1 memories that can be restored"
    assert listed[1].startswith(f"{record_id} [episodic] until 2")
    assert listed[3:] == ["   the fox sleeps"]
    assert answered("restore", record_id) == "Restored 1 record(s)\n"
    assert answered("restore").startswith("Found 0 ")


@pytest.mark.parametrize(("record_id", "error"), [(UNKNOWN_ID, RecordNotFound), ("7", ValidationFailed)])
def test_an_error_leaves_as_itself(data_dir: Path, record_id: str, error: type[Exception]) -> None:
    with pytest.raises(error), connect(Options(data_dir=data_dir), creates=True) as memory:
        memory.call("introspect.record", path_params={"record_id": record_id})


def test_an_interrupt_ends_the_engine_in_order(data_dir: Path) -> None:
    with pytest.raises(KeyboardInterrupt), connect(Options(data_dir=data_dir), creates=True) as memory:
        memory.call("encode.store", text("before"))
        raise KeyboardInterrupt
    with connect(Options(data_dir=data_dir)) as memory:
        assert memory.call("recall.query", {"cue": {"text": "before"}})["total_candidates"] == 1


def test_an_interrupt_as_the_engine_starts_ends_it_in_order(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, handler = [], signal.getsignal(signal.SIGINT)

    @contextmanager
    def interrupted(backend: str) -> Iterator[BlockingPortal]:
        signal.raise_signal(signal.SIGINT)
        with start_blocking_portal(backend) as portal:
            started.append(portal)
            yield portal

    monkeypatch.setattr(offline_module, "start_blocking_portal", interrupted)
    with pytest.raises(KeyboardInterrupt), connect(Options(data_dir=data_dir), creates=True):
        pytest.fail("it went on")
    assert started
    assert signal.getsignal(signal.SIGINT) is handler
    DataDir.acquire(data_dir).release()


def test_a_broken_audit_log_stops_a_command(data_dir: Path) -> None:
    with connect(Options(data_dir=data_dir), creates=True) as memory:
        memory.call("encode.store", text("x"))
    log = data_dir / "audit.jsonl"
    log.write_text(log.read_text().replace("encode.store", "encode.stole"))
    with pytest.raises(AuditBroken, match=r"audit\.jsonl: line 1"), connect(Options(data_dir=data_dir)):
        pytest.fail("it started")


@pytest.mark.parametrize("options", [[], ["--offline"]], ids=["found", "offline"])
def test_a_data_dir_that_is_a_file_is_said_in_one_line(
    data_dir: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    data_dir.write_text("a file")
    assert run(["stats", "--data-dir", str(data_dir), *options]) == 1
    message = capsys.readouterr().err
    assert message.startswith(f"error: {data_dir}")
    assert message.count("\n") == 1
    assert "directory" in message


def test_every_operation_can_be_done_without_a_daemon() -> None:
    assert set(METHODS) == set(BY_NAME)
