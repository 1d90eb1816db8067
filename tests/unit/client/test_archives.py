"""Archives to and from a daemon: streams with a head, and what becomes of broken ones."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from cerememory.client import Client
from cerememory.client.archives import PIECE_BYTES, pieces_of
from cerememory.client.wire import RECEIVE_BYTES
from cerememory.errors import (
    DaemonBusy,
    DaemonUnreachable,
    ImportConflict,
    InternalError,
    Unauthorized,
    ValidationFailed,
)
from cerememory.protocol.codec import plain
from cerememory.protocol.replies import ImportPlanned
from tests.support.fake_daemon import FakeDaemon, answer, cut_short, hang_up, raw_answer, refusal
from tests.support.scripted_daemon import URL, ScriptedDaemon, reached

HEAD = {"X_Cerememory_Archive_Id": "a-1", "X_Cerememory_Record_Count": "2", "X_Cerememory_Checksum": "ab"}
ARCHIVE = b"\x00\xff" * 200_000


def client_of(daemon: FakeDaemon, **given: Any) -> Client:
    return Client(daemon.url, retry_for_s=0.0, **given)


def fetched(daemon: FakeDaemon, **given: Any) -> bytes:
    with client_of(daemon, **given) as client, client.export_archive({}) as archive:
        return b"".join(archive.chunks)


def test_an_export_is_a_head_and_a_stream() -> None:
    with FakeDaemon(raw_answer(ARCHIVE, 200, **HEAD)) as daemon, client_of(daemon, namespace="other") as client:
        with client.export_archive({"stores": ["episodic"]}) as archive:
            assert archive.described() == {
                "archive_id": "a-1",
                "size_bytes": len(ARCHIVE),
                "record_count": 2,
                "checksum": "ab",
            }
            chunks = list(archive.chunks)
        assert b"".join(chunks) == ARCHIVE
        assert len(chunks) > 1
        assert max(map(len, chunks)) <= RECEIVE_BYTES
        [request] = daemon.requests
        assert (request.method, request.path, request.json) == ("POST", "/v1/archive", {"stores": ["episodic"]})
        assert request.headers["x-cerememory-namespace"] == "other"
        assert request.headers["content-type"] == "application/json"


def test_an_export_may_be_left_before_its_end() -> None:
    replies = (raw_answer(ARCHIVE, 200, **HEAD), answer({"total_records": 1}))
    with FakeDaemon(*replies) as daemon, client_of(daemon) as client:
        with client.export_archive({}) as archive:
            assert next(archive.chunks)
        assert client.call("introspect.stats") == {"total_records": 1}


def test_an_archive_that_breaks_off_is_noticed() -> None:
    with (
        FakeDaemon(cut_short(**HEAD)) as daemon,
        pytest.raises(DaemonUnreachable, match="broke off the archive"),
    ):
        fetched(daemon)


def test_a_refused_export_is_the_daemons_error() -> None:
    with FakeDaemon(refusal(401, "UNAUTHORIZED")) as daemon, pytest.raises(Unauthorized):
        fetched(daemon)


def test_a_refusal_that_ends_the_connection_is_the_daemons_error_too() -> None:
    """As one is that comes before the body was read."""
    refused = refusal(401, "UNAUTHORIZED", Connection="close")
    with FakeDaemon(refused) as daemon, pytest.raises(Unauthorized, match="no"):
        fetched(daemon)


@pytest.mark.parametrize("headers", [{}, {**HEAD, "X_Cerememory_Record_Count": "many"}])
def test_what_is_no_archive_is_called_so(headers: dict[str, str]) -> None:
    with (
        FakeDaemon(raw_answer(b"x", 200, **headers)) as daemon,
        pytest.raises(InternalError, match="is no archive"),
    ):
        fetched(daemon)


def test_an_export_is_asked_for_again_until_its_head_comes() -> None:
    replies = (refusal(503, "DECAY_ENGINE_BUSY", retry_after=1), hang_up(), raw_answer(ARCHIVE, 200, **HEAD))
    waited: list[float] = []
    with FakeDaemon(*replies) as daemon:
        with (
            Client(daemon.url, retry_for_s=30.0, wait=waited.append) as client,
            client.export_archive({}) as archive,
        ):
            assert b"".join(archive.chunks) == ARCHIVE
        assert len(daemon.requests) == 3
    assert len(waited) == 2


def parts() -> Iterator[bytes]:
    for i in range(0, len(ARCHIVE), 100_000):
        yield ARCHIVE[i : i + 100_000]


def test_an_import_is_sent_as_a_stream() -> None:
    terms = {
        "archive_id": "täglich.cma",
        "strategy": "replace",
        "dry_run": True,
        "decryption_key": "合言葉",
    }
    planned = ImportPlanned(records_imported=3, records_added=2, records_replaced=1, records_kept=0)
    with FakeDaemon(answer(plain(planned))) as daemon:
        with client_of(daemon) as client:
            assert client.import_archive(parts(), len(ARCHIVE), terms) == planned
        [request] = daemon.requests
    assert (request.method, request.body) == ("PUT", ARCHIVE)
    assert request.headers["content-length"] == str(len(ARCHIVE))
    assert "transfer-encoding" not in request.headers
    target = urlsplit(request.path)
    assert target.path == "/v1/archive"
    assert parse_qs(target.query) == {"archive_id": ["täglich.cma"], "strategy": ["replace"], "dry_run": ["true"]}
    assert base64.urlsafe_b64decode(request.headers["x-archive-passphrase"]).decode() == "合言葉"


def test_a_refused_import_is_the_daemons_error() -> None:
    with (
        FakeDaemon(refusal(409, "IMPORT_CONFLICT", "line 3: no")) as daemon,
        client_of(daemon) as client,
        pytest.raises(ImportConflict, match=r"^line 3: no$"),
    ):
        client.import_archive(parts(), len(ARCHIVE), {})


@pytest.mark.parametrize("size_bytes", [len(ARCHIVE), None], ids=["length", "chunked"])
def test_an_import_holds_one_part_at_a_time(size_bytes: int | None) -> None:
    daemon = ScriptedDaemon(answer=b'{"records_imported": 0}')
    sent_bytes = 0

    def watched() -> Iterator[bytes]:
        nonlocal sent_bytes
        for part in parts():
            assert not daemon.links or daemon.links[0].received_bytes >= sent_bytes  # the parts before are gone
            sent_bytes += len(part)
            yield part

    with reached(daemon), Client(URL) as client:
        client.import_archive(watched(), size_bytes, {"archive_id": "a"})
    assert daemon.asked[0].body == ARCHIVE


def test_a_file_is_read_in_pieces_not_in_lines() -> None:
    pieces = list(pieces_of(BytesIO(b"x" * (PIECE_BYTES + 1) + b"\n" * 9)))
    assert list(map(len, pieces)) == [PIECE_BYTES, 10]


def test_an_import_from_a_file_is_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "all.cma").write_bytes(ARCHIVE)
    with FakeDaemon(answer({"records_imported": 0})) as daemon, client_of(daemon) as client:
        with (tmp_path / "all.cma").open("rb") as file:
            client.import_archive(file, len(ARCHIVE), {})
        assert daemon.requests[0].body == ARCHIVE


def test_an_export_goes_into_a_file(tmp_path: Path) -> None:
    with FakeDaemon(raw_answer(ARCHIVE, 200, **HEAD)) as daemon, client_of(daemon) as client:
        with client.export_archive() as archive, (tmp_path / "all.cma").open("wb") as file:
            archive.copy_to(file)
        assert client.connections_opened == 1
    assert (tmp_path / "all.cma").read_bytes() == ARCHIVE


@pytest.mark.parametrize("size_bytes", [len(ARCHIVE) - 1, len(ARCHIVE) + 1], ids=["too many", "too few"])
def test_an_import_of_another_length_than_it_says_is_broken_off(size_bytes: int) -> None:
    with FakeDaemon() as daemon, client_of(daemon) as client:
        with pytest.raises(ValidationFailed, match=r"^size_bytes: "):
            client.import_archive(parts(), size_bytes, {})
        daemon.wait_for_connections(0)


def test_an_import_that_is_refused_at_its_head_is_answered() -> None:
    with FakeDaemon(refusal(401, "UNAUTHORIZED")) as daemon, client_of(daemon) as client:
        daemon.reads_bodies = False
        with pytest.raises(Unauthorized):
            client.import_archive(iter([ARCHIVE] * 20), 20 * len(ARCHIVE), {})


def test_an_import_is_sent_once() -> None:
    with (
        FakeDaemon(refusal(503, "DECAY_ENGINE_BUSY", retry_after=1)) as daemon,
        Client(daemon.url, retry_for_s=30.0) as client,
    ):
        with pytest.raises(DaemonBusy):
            client.import_archive(parts(), len(ARCHIVE), {})
        assert len(daemon.requests) == 1


def test_a_file_that_cannot_be_read_ends_the_import() -> None:
    def failing() -> Iterator[bytes]:
        yield b"x"
        raise ValidationFailed("the file is gone")

    with (
        FakeDaemon() as daemon,
        client_of(daemon) as client,
        pytest.raises(ValidationFailed, match="the file is gone"),
    ):
        client.import_archive(failing(), 10, {})


def test_several_archives_may_come_at_once() -> None:
    replies = [raw_answer(ARCHIVE, 200, **HEAD) for _ in range(2)]
    found: list[bytes] = []
    with FakeDaemon(*replies) as daemon, client_of(daemon) as client:

        def fetch() -> None:
            with client.export_archive({}) as archive:
                found.append(b"".join(archive.chunks))

        threads = [threading.Thread(target=fetch) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert found == [ARCHIVE, ARCHIVE]
