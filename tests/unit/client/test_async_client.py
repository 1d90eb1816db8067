"""`AsyncClient` on real sockets, under both event loops: connections, TLS, time, archives."""

from __future__ import annotations

import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from cerememory.client import AsyncClient
from cerememory.client import async_connections as pool
from cerememory.errors import (
    DaemonUnreachable,
    Forbidden,
    ImportConflict,
    InternalError,
    RecordNotFound,
    Unauthorized,
    ValidationFailed,
)
from cerememory.protocol.codec import plain
from cerememory.protocol.replies import Imported, ImportPlanned
from cerememory.protocol.requests import Export, ImportTerms
from tests.support.certificates import self_signed
from tests.support.fake_daemon import (
    FakeDaemon,
    Handler,
    Reply,
    answer,
    cut_short,
    hang_up,
    held,
    no_content,
    raw_answer,
    refusal,
)

HEAD = {"X_Cerememory_Archive_Id": "a-1", "X_Cerememory_Record_Count": "2", "X_Cerememory_Checksum": "ab"}
ARCHIVE = bytes(range(256)) * 4_000
TERMS = ImportTerms(archive_id="a", decryption_key="合言葉")

Run = Callable[[Callable[[], Awaitable[Any]]], Any]


@pytest.fixture(params=["asyncio", "trio"])
def run(request: pytest.FixtureRequest) -> Run:
    return partial(anyio.run, backend=request.param)


@pytest.fixture
def daemon() -> Iterator[FakeDaemon]:
    with FakeDaemon(default=answer({"done": True})) as daemon:
        yield daemon


def test_calls_one_after_the_other_share_a_connection(run: Run, daemon: FakeDaemon) -> None:
    daemon.then(answer({}), refusal(404, "RECORD_NOT_FOUND"), no_content())

    async def main() -> None:
        async with AsyncClient(daemon.url, "sesame", namespace="work") as client:
            assert await client.call("introspect.stats") == {}
            with pytest.raises(RecordNotFound) as caught:
                await client.call("introspect.record", path_params={"record_id": "a/b"})
            assert (caught.value.code, caught.value.request_id) == ("RECORD_NOT_FOUND", daemon_request_id)
            assert await client.call("lifecycle.set_mode", {"mode": "human"}) is None
            assert client.connections_opened == 1

    daemon_request_id = "0191aaaa-0000-7000-8000-000000000001"
    run(main)
    daemon.wait_for_connections(0)
    assert daemon.connections_made == 1
    assert {request.headers["authorization"] for request in daemon.requests} == {"Bearer sesame"}
    assert {request.headers["x-cerememory-namespace"] for request in daemon.requests} == {"work"}
    assert daemon.requests[1].path == "/v1/introspect/record/a%2Fb"


def test_a_connection_that_the_daemon_closed_meanwhile_is_not_used_again(run: Run, daemon: FakeDaemon) -> None:
    async def main() -> None:
        async with AsyncClient(daemon.url, retry_for_s=0) as client:
            await client.call("introspect.stats")
            daemon.drop_connections()
            daemon.wait_for_connections(0)
            await client.call("introspect.stats")
            assert client.connections_opened == 2

    run(main)


def test_a_daemon_that_is_away_is_told(run: Run, daemon: FakeDaemon) -> None:
    daemon.stop()

    async def main() -> None:
        async with AsyncClient(daemon.url, retry_for_s=0) as client:
            with pytest.raises(DaemonUnreachable) as caught:
                await client.call("introspect.stats")
        assert str(caught.value) == f"{daemon.url} can't be reached: Connection refused; is the daemon running?"
        assert not caught.value.was_sent

    run(main)


def test_a_cancelled_call_closes_its_connection(run: Run, daemon: FakeDaemon) -> None:
    release = threading.Event()
    daemon.then(held(release, answer({})))

    async def main() -> None:
        async with AsyncClient(daemon.url) as client:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(client.call, "introspect.stats")
                await anyio.to_thread.run_sync(daemon.wait_for_requests, 1)
                tasks.cancel_scope.cancel()
            release.set()
            assert await client.call("introspect.stats") == {"done": True}

    run(main)
    assert daemon.connections_made == 2


def test_a_daemon_that_takes_too_long_is_given_up(run: Run, daemon: FakeDaemon) -> None:
    release = threading.Event()
    daemon.then(held(release, answer({})))

    async def main() -> None:
        async with AsyncClient(daemon.url, timeout_s=0.05) as client:
            with pytest.raises(DaemonUnreachable, match="the time limit passed") as caught:
                await client.call("introspect.stats")
            assert caught.value.was_sent
            release.set()

    run(main)


def test_calls_at_once_are_bounded_and_so_is_what_is_kept(
    run: Run, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    callers, at_once = 12, 9
    monkeypatch.setattr(pool, "CONNECTIONS_MAX", at_once)
    release = threading.Event()
    daemon.then(*[held(release, answer({})) for _ in range(callers)])

    async def main() -> None:
        async with AsyncClient(daemon.url) as client, anyio.create_task_group() as tasks:
            for _ in range(callers):
                tasks.start_soon(client.call, "introspect.stats")
            await anyio.to_thread.run_sync(daemon.wait_for_requests, at_once)
            await anyio.wait_all_tasks_blocked()
            assert len(daemon.requests) == at_once
            release.set()
            await anyio.to_thread.run_sync(daemon.wait_for_requests, callers)

    run(main)
    assert daemon.connections_made == at_once  # the others took those that were kept


def test_a_daemon_that_is_trusted_is_called_over_one_connection(run: Run, tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path)
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(certificate, key)

    async def main(url: str) -> None:
        trusted = ssl.create_default_context(cafile=certificate)
        async with AsyncClient(url, "sesame", tls=trusted) as client:
            assert await client.call("introspect.stats") == {"done": True}
            assert await client.call("recall.query", {}) == {"done": True}
            assert client.connections_opened == 1
        async with AsyncClient(url) as client:
            with pytest.raises(ValidationFailed, match="isn't trusted: self-signed certificate"):
                await client.call("introspect.stats")

    with FakeDaemon(default=answer({"done": True}), tls=served) as secured:
        run(partial(main, secured.url))
        assert len(secured.requests) == 2


def test_an_answer_that_nobody_asked_for_is_not_that_of_the_next_call(run: Run, tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path)
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(certificate, key)

    def twice(handler: Handler) -> None:
        answer({"done": True})(handler)
        answer({"done": "by whom?"})(handler)

    async def main(url: str) -> None:
        async with AsyncClient(url, tls=ssl.create_default_context(cafile=certificate)) as client:
            assert [await client.call("introspect.stats") for _ in range(3)] == [{"done": True}] * 3

    with FakeDaemon(default=twice, tls=served) as secured:
        run(partial(main, secured.url))


def test_a_refusal_of_what_is_still_being_sent_is_read(run: Run, daemon: FakeDaemon) -> None:
    """The daemon answers and closes at the head; to write further breaks the connection."""
    daemon.reads_bodies = False
    daemon.then(*[refusal(403, "UNAUTHORIZED", Connection="close")] * 2)

    async def main() -> None:
        async with AsyncClient(daemon.url) as client:
            with pytest.raises(Forbidden):
                await client.call("encode.store", {"content": "x" * 16_000_000})
            with pytest.raises(Forbidden):
                await client.import_archive(pieces(20), 20 * len(ARCHIVE), TERMS)

    run(main)
    assert daemon.connections_made == 2


def test_an_export_is_a_head_and_a_stream(run: Run, daemon: FakeDaemon, tmp_path: Path) -> None:
    async def main() -> None:
        async with AsyncClient(daemon.url, timeout_s=30) as client:
            async with client.export_archive(Export(include_raw_journal=True)) as archive:
                assert (archive.archive_id, archive.record_count, archive.size_bytes) == ("a-1", 2, len(ARCHIVE))
                async with await anyio.open_file(tmp_path / "all.cma", "wb") as file:
                    await archive.copy_to(file)
            async with client.export_archive() as archive:
                assert [b"".join([chunk async for chunk in archive.chunks])] == [ARCHIVE]
                assert [chunk async for chunk in archive.chunks] == [], "nothing more is waited for"
            assert client.connections_opened == 1
            async with client.export_archive() as archive:
                assert await anext(archive.chunks)  # and the rest is left where it is
            assert await client.call("introspect.stats") == {"done": True}
            assert client.connections_opened == 2

    daemon.then(*[raw_answer(ARCHIVE, 200, **HEAD)] * 3)
    run(main)
    assert daemon.requests[0].json["include_raw_journal"] is True
    assert daemon.requests[1].json == {}
    assert (tmp_path / "all.cma").read_bytes() == ARCHIVE


@pytest.mark.parametrize(
    ("reply", "kind", "message"),
    [
        (cut_short(**HEAD), DaemonUnreachable, "broke off the archive: it hung up before the answer was whole"),
        (hang_up(), DaemonUnreachable, "gave no answer: it hung up before the answer was whole"),
        (refusal(401, "UNAUTHORIZED"), Unauthorized, "no"),
        (raw_answer(b"x"), InternalError, "answered with what is no archive"),
    ],
    ids=["cut short", "hung up", "refused", "no archive"],
)
def test_an_export_that_fails_is_told(
    run: Run, daemon: FakeDaemon, reply: Reply, kind: type[Exception], message: str
) -> None:
    async def main() -> None:
        async with AsyncClient(daemon.url, retry_for_s=0) as client:
            with pytest.raises(kind, match=message):
                async with client.export_archive() as archive:
                    await archive.copy_to(Nowhere())

    daemon.then(reply)
    run(main)
    daemon.wait_for_connections(0)


def test_a_cancelled_export_closes_its_connection(run: Run, daemon: FakeDaemon) -> None:
    daemon.then(raw_answer(ARCHIVE, 200, **HEAD))

    async def main() -> None:
        async with AsyncClient(daemon.url) as client:
            with anyio.CancelScope() as scope:
                async with client.export_archive() as archive:
                    await anext(archive.chunks)
                    scope.cancel()
                    await anext(archive.chunks)
            assert scope.cancelled_caught
            await anyio.to_thread.run_sync(daemon.wait_for_connections, 0)
            assert await client.call("introspect.stats") == {"done": True}

    run(main)


class Nowhere:
    async def write(self, data: bytes, /) -> None:
        pass


async def pieces(archives: int = 1) -> AsyncIterator[bytes]:
    for start in archives * [*range(0, len(ARCHIVE), 100_000)]:
        yield ARCHIVE[start : start + 100_000]
        yield b""  # which is no end


def test_an_import_is_sent_once_from_pieces_or_a_file(run: Run, daemon: FakeDaemon, tmp_path: Path) -> None:
    (tmp_path / "all.cma").write_bytes(ARCHIVE)
    planned = ImportPlanned(records_imported=3, records_added=2, records_replaced=1, records_kept=0)
    daemon.then(
        answer({"records_imported": 3}), answer(plain(planned)), refusal(409, "IMPORT_CONFLICT", "line 3: no")
    )

    async def main() -> None:
        async with AsyncClient(daemon.url) as client:
            stored = await client.import_archive(pieces(), len(ARCHIVE), TERMS, idempotency_key="k")
            assert stored == Imported(records_imported=3)
            async with await anyio.open_file(tmp_path / "all.cma", "rb") as file:
                found = await client.import_archive(file, len(ARCHIVE), {"archive_id": "a", "dry_run": True})
            assert found == planned
            with pytest.raises(ImportConflict, match=r"^line 3: no$"):
                await client.import_archive(pieces(), len(ARCHIVE), TERMS)

    run(main)
    assert [request.body for request in daemon.requests] == [ARCHIVE] * 3
    assert daemon.requests[0].headers["idempotency-key"] == "k"
    assert "decryption" not in daemon.requests[0].path
    assert daemon.requests[0].headers["x-archive-passphrase"] == "5ZCI6KiA6JGJ"


@pytest.mark.parametrize("size_bytes", [len(ARCHIVE) - 1, len(ARCHIVE) + 1], ids=["too many", "too few"])
def test_an_import_that_has_another_length_is_broken_off(run: Run, daemon: FakeDaemon, size_bytes: int) -> None:
    async def main() -> None:
        async with AsyncClient(daemon.url) as client:
            with pytest.raises(ValidationFailed, match=r"^size_bytes: "):
                await client.import_archive(pieces(), size_bytes, TERMS)

    run(main)
    daemon.wait_for_connections(0)
