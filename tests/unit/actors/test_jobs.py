"""Long work beside a mailbox: one job at a time, answered pings, and an end that waits for nothing long."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from cerememory.actors import jobs
from cerememory.actors.actor import Ping, Request
from cerememory.actors.jobs import JobActor
from cerememory.actors.supervisor import RESTARTS_MAX, Supervisor
from cerememory.errors import ActorBusy, ActorStopped, InternalError, RecordNotFound


@dataclass(frozen=True)
class Toil(Request[str]):
    """Takes `steps` seconds, and looks each second whether it is to go on."""

    name: str
    steps: int = 1


@dataclass(frozen=True)
class Wait(Request[str]):
    """Waits for somebody else, who never answers."""


@dataclass(frozen=True)
class Fail(Request[str]):
    error: Exception


class Toiler(JobActor):
    def __init__(self) -> None:
        super().__init__("toiler")
        self.done: list[str] = []
        self.given_up: list[str] = []
        self.times: list[float] = []

    async def work(self, message: Any) -> Any:
        match message:
            case Toil(name, steps):
                for _ in range(steps):
                    self.check_going_on()
                    await trio.sleep(1.0)
                self.done.append(name)
                return name
            case Wait():
                try:
                    return await self.unless_stopped(trio.sleep_forever)
                finally:
                    self.given_up.append("wait")
            case Fail(error):
                raise error
        return await super().work(message)


class Clockwork(Toiler):
    """Does a job of its own every ten seconds."""

    async def keep_time(self) -> None:
        while True:
            await trio.sleep(10.0)
            self.times.append(trio.current_time())
            await self.do(Toil("own"))


@asynccontextmanager
async def running(actor: Toiler, restarts: list[str] | None = None) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor([[actor]], (restarts if restarts is not None else []).append)
    async with trio.open_nursery() as nursery:
        await supervisor.start(nursery)
        yield supervisor
        await supervisor.stop()


async def ask(actor: Toiler, request: Request[str], outcomes: list[Any]) -> None:
    try:
        outcomes.append(await actor.ask(request))
    except Exception as error:  # noqa: BLE001 - whatever it was is what the test looks at
        outcomes.append(type(error))


async def test_one_job_is_done_after_the_other(autojump_clock: MockClock) -> None:
    actor = Toiler()
    async with running(actor), trio.open_nursery() as nursery:
        started = trio.current_time()
        for name in "abc":
            nursery.start_soon(actor.ask, Toil(name))
            await wait_all_tasks_blocked()
    assert actor.done == ["a", "b", "c"]
    assert trio.current_time() - started == 3.0


async def test_it_answers_for_itself_while_it_works(autojump_clock: MockClock) -> None:
    actor = Toiler()
    async with running(actor):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(actor.ask, Toil("long", 100))
            await wait_all_tasks_blocked()
            assert actor.is_working
            started = trio.current_time()
            await actor.ask(Ping())
            assert trio.current_time() == started
        assert not actor.is_working


async def test_too_many_jobs_are_refused_and_the_others_done(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "JOBS_MAX", 2)
    actor, outcomes = Toiler(), list[Any]()
    async with running(actor), trio.open_nursery() as nursery:
        for name in "abcd":
            nursery.start_soon(ask, actor, Toil(name), outcomes)
            await wait_all_tasks_blocked()
    assert outcomes == [ActorBusy, "a", "b", "c"]


async def test_a_known_error_is_an_answer(autojump_clock: MockClock) -> None:
    actor, restarts = Toiler(), list[str]()
    async with running(actor, restarts):
        with pytest.raises(RecordNotFound):
            await actor.ask(Fail(RecordNotFound("gone")))
        assert await actor.ask(Toil("next")) == "next"
    assert restarts == []


async def test_a_bug_fails_one_job_and_those_that_wait_are_done_afterwards(autojump_clock: MockClock) -> None:
    actor, restarts, outcomes = Toiler(), list[str](), list[Any]()
    async with running(actor, restarts), trio.open_nursery() as nursery:
        for request in (Toil("a"), Fail(KeyError("a bug")), Toil("b")):
            nursery.start_soon(ask, actor, request, outcomes)
            await wait_all_tasks_blocked()
    assert outcomes == ["a", InternalError, "b"]
    assert restarts == ["toiler"]


async def test_an_actor_that_is_given_up_answers_who_waits(autojump_clock: MockClock) -> None:
    actor, outcomes = Toiler(), list[Any]()
    async with running(actor) as supervisor, trio.open_nursery() as nursery:
        for request in (*[Fail(KeyError("a bug"))] * RESTARTS_MAX, Toil("late")):
            nursery.start_soon(ask, actor, request, outcomes)
            await wait_all_tasks_blocked()
        await trio.sleep(60.0)
        assert supervisor.given_up == ["toiler"]
    assert outcomes == [*[InternalError] * RESTARTS_MAX, ActorStopped]


async def test_the_end_comes_at_the_next_step(autojump_clock: MockClock) -> None:
    actor, outcomes = Toiler(), list[Any]()
    async with trio.open_nursery() as nursery:
        async with running(actor):
            for name in ("long", "waiting"):
                nursery.start_soon(ask, actor, Toil(name, 1_000), outcomes)
                await wait_all_tasks_blocked()
            await trio.sleep(2.5)
            stopped_at = trio.current_time()
        assert trio.current_time() - stopped_at == 0.5
    assert outcomes == [ActorStopped, ActorStopped]


async def test_the_end_waits_for_nobody_else(autojump_clock: MockClock) -> None:
    actor, outcomes = Toiler(), list[Any]()
    async with trio.open_nursery() as nursery:
        async with running(actor):
            nursery.start_soon(ask, actor, Wait(), outcomes)
            await wait_all_tasks_blocked()
            stopped_at = trio.current_time()
        assert trio.current_time() == stopped_at
    assert (outcomes, actor.given_up) == ([ActorStopped], ["wait"])


async def test_what_it_does_by_itself_is_a_job_among_the_others(autojump_clock: MockClock) -> None:
    actor = Clockwork()
    async with running(actor):
        await trio.sleep(9.5)
        assert await actor.ask(Toil("asked", 2)) == "asked"
        await trio.sleep(20.0)
    assert actor.done == ["asked", "own", "own"]
    assert actor.times == [10.0, 22.5]


async def test_a_clock_that_ticks_ends_with_the_actor(autojump_clock: MockClock) -> None:
    actor = Clockwork()
    async with running(actor):
        await trio.sleep(10.5)
    ended_at = trio.current_time()
    await trio.sleep(50.0)
    assert (actor.done, ended_at) == (["own"], 11.0)
