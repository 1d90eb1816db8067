"""Whatever a daemon does, a write is done once at most, errors are of the tree, and both clients do the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import anyio
import pytest
import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from cerememory.client import AsyncClient, Client, async_connections
from cerememory.errors import CerememoryError, DaemonUnreachable, Overloaded
from tests.support.scripted_daemon import URL, Fault, ScriptedDaemon, reached

TIMEOUT_S = 60.0
STORE: dict[str, Any] = {"content": {"blocks": []}}
RIDDEN_THROUGH = [
    Fault.UNREACHABLE,
    Fault.RESET,
    Fault.HUNG_UP_UNREAD,
    Fault.HUNG_UP,
    Fault.HALF_HEAD,
    Fault.HALF_BODY,
    Fault.NO_HTTP,
    Fault.BUSY,
    Fault.LIMITED,
]
scripts = st.lists(st.sampled_from(Fault), max_size=4)


@dataclass(frozen=True)
class Seen:
    """What one client made of a script: how each call ended, what the daemon was asked and when."""

    ends: list[Any]
    asked: list[tuple[float, str, str, bytes]]
    committed: int
    connections: int


class FakeTime:
    def __init__(self) -> None:
        self.now = 0.0

    def clock(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


def end_of(error: CerememoryError) -> tuple[str, str, Any]:
    return type(error).__name__, str(error), error.details


def seen_by_client(script: list[Fault]) -> Seen:
    time = FakeTime()
    daemon = ScriptedDaemon(script, time.clock)
    ends: list[Any] = []
    with (
        reached(daemon, time.wait),
        Client(URL, timeout_s=TIMEOUT_S, clock=time.clock, wait=time.wait, chance=lambda: 0.5) as client,
    ):
        for operation in ("encode.store", "recall.query", "encode.store"):
            try:
                ends.append(client.call(operation, STORE))
            except CerememoryError as error:
                ends.append(end_of(error))
    return seen(daemon, ends)


def seen_by_async_client(script: list[Fault]) -> Seen:
    async def main() -> Seen:
        start = trio.current_time()
        daemon = ScriptedDaemon(script, lambda: trio.current_time() - start)
        ends: list[Any] = []
        with reached(daemon):
            async with AsyncClient(URL, timeout_s=TIMEOUT_S, chance=lambda: 0.5) as client:
                for operation in ("encode.store", "recall.query", "encode.store"):
                    try:
                        ends.append(await client.call(operation, STORE))
                    except CerememoryError as error:
                        ends.append(end_of(error))
        return seen(daemon, ends)

    return trio.run(main, clock=MockClock(autojump_threshold=0))


def seen(daemon: ScriptedDaemon, ends: list[Any]) -> Seen:
    assert not daemon.open_links, "closing a client closes its connections"
    asked = [(round(asked.at, 6), asked.method, asked.target, asked.body) for asked in daemon.asked]
    return Seen(ends, asked, len(daemon.committed), len(daemon.links))


@settings(max_examples=60)
@given(scripts)
@example([Fault.SILENT])
@example([Fault.TOO_MUCH, Fault.NONE])
@example([Fault.NONE, Fault.UNREACHABLE, Fault.RESET])
def test_both_clients_do_the_same_and_a_write_is_done_once_at_most(script: list[Fault]) -> None:
    found = seen_by_client(script)
    assert found == seen_by_async_client(script)
    assert found.committed <= 2  # of two writes, each with a key of its own
    first, read, second = found.ends
    assert is_error(first) or first == {"commit": 0}
    assert is_error(read) or read.keys() == {"read"}
    assert is_error(second) or second == {"commit": found.committed - 1}


def is_error(end: Any) -> bool:
    return isinstance(end, tuple)


def done_of(fault: Fault) -> int:
    return 2 if fault in (Fault.HUNG_UP, Fault.HALF_HEAD, Fault.HALF_BODY, Fault.NO_HTTP) else 0


@pytest.mark.parametrize("fault", RIDDEN_THROUGH)
def test_a_fault_that_passes_is_ridden_through(fault: Fault) -> None:
    assert seen_by_client([fault, fault]).ends == [{"commit": 0}, {"read": 2 + done_of(fault)}, {"commit": 1}]


@pytest.mark.parametrize("fault", [Fault.NO_JSON, Fault.REFUSED_EARLY, Fault.FAILED])
def test_a_fault_that_stays_is_told_at_once(fault: Fault) -> None:
    first, read, _second = seen_by_client([fault]).ends
    assert is_error(first)
    assert read == {"read": 1 + (fault is Fault.NO_JSON)}


@pytest.mark.parametrize(
    ("fault", "was_sent"), [(Fault.UNREACHABLE, False), (Fault.HUNG_UP, True), (Fault.SILENT, True)]
)
def test_it_is_told_whether_the_request_left(fault: Fault, was_sent: bool) -> None:
    time = FakeTime()
    with (
        reached(ScriptedDaemon([fault]), time.wait),
        Client(URL, timeout_s=1, retry_for_s=0, clock=time.clock) as client,
        pytest.raises(DaemonUnreachable) as caught,
    ):
        client.call("encode.store", STORE)
    assert caught.value.was_sent is was_sent


STEPS = 4  # of one call: before and after what is sent, before and after what comes


class Cancelled:
    """Cancels at the step with that number."""

    def __init__(self, scope: anyio.CancelScope, step: int) -> None:
        self._scope = scope
        self._left = step

    def __call__(self) -> None:
        if self._left == 0:
            self._scope.cancel()
        self._left -= 1


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("step", range(STEPS))
@pytest.mark.parametrize("is_kept", [False, True], ids=["new", "kept"])
def test_a_cancelled_call_takes_its_connection_along(backend: str, step: int, is_kept: bool) -> None:
    async def main() -> None:
        daemon = ScriptedDaemon()
        with reached(daemon):
            async with AsyncClient(URL) as client:
                if is_kept:
                    await client.call("recall.query", STORE)
                with anyio.CancelScope() as scope:
                    daemon.at_step = Cancelled(scope, step)
                    await client.call("encode.store", STORE, idempotency_key="k")
                assert scope.cancelled_caught
                daemon.at_step = lambda: None
                assert daemon.open_links == []
                again = await client.call("encode.store", STORE, idempotency_key="k")
                assert again == {"commit": 0}
                assert (await client.call("recall.query", STORE)).keys() == {"read"}
                assert len(daemon.open_links) == 1
        assert len(daemon.committed) == 1

    anyio.run(main, backend=backend)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_cancelled_wait_for_a_retry_leaves_nothing_behind(backend: str) -> None:
    async def main() -> None:
        daemon = ScriptedDaemon([Fault.BUSY])
        with reached(daemon):
            async with AsyncClient(URL) as client:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(client.call, "encode.store", STORE)
                    await anyio.wait_all_tasks_blocked()  # the daemon asks for 3 s
                    tasks.cancel_scope.cancel()
                assert await client.call("encode.store", STORE) == {"commit": 0}
                assert len(daemon.links) == 1

    anyio.run(main, backend=backend)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_closing_a_client_ends_its_retries(backend: str) -> None:
    async def main() -> None:
        daemon = ScriptedDaemon([Fault.BUSY] * 2)
        with reached(daemon):
            client = AsyncClient(URL)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(expect_busy, client)
                await anyio.wait_all_tasks_blocked()  # in the pause before the second try
                await client.aclose()
                await anyio.wait_all_tasks_blocked()
                assert ended.is_set()
        assert len(daemon.links) == 2  # the first was closed with the client, the last try had its own

    async def expect_busy(client: AsyncClient) -> None:
        with pytest.raises(Overloaded):
            await client.call("encode.store", STORE)
        ended.set()

    ended = anyio.Event()
    anyio.run(main, backend=backend)


def test_a_connection_that_isnt_made_in_time_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: object) -> None:
        await trio.sleep_forever()

    async def main() -> None:
        async with AsyncClient(URL, connect_timeout_s=7, retry_for_s=0) as client:
            start = trio.current_time()
            with pytest.raises(DaemonUnreachable, match="can't be reached: the time limit passed") as caught:
                await client.call("encode.store", STORE)
            assert trio.current_time() - start == pytest.approx(7)
            assert not caught.value.was_sent

    monkeypatch.setattr(async_connections, "_connected", never)
    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_a_call_waits_for_its_turn_no_longer_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        daemon = ScriptedDaemon([Fault.SILENT])
        with reached(daemon):
            async with AsyncClient(URL, timeout_s=60) as patient, anyio.create_task_group() as tasks:
                tasks.start_soon(expect_unreachable, patient, True)
                await anyio.wait_all_tasks_blocked()
                tasks.start_soon(expect_unreachable, patient, False)
            assert len(daemon.links) == 1

    async def expect_unreachable(client: AsyncClient, was_sent: bool) -> None:
        with pytest.raises(DaemonUnreachable) as caught:
            await client.call("encode.store", STORE)
        assert caught.value.was_sent is was_sent

    monkeypatch.setattr(async_connections, "CONNECTIONS_MAX", 1)
    trio.run(main, clock=MockClock(autojump_threshold=0))
