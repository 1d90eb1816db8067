"""The supervisor: restarts with a pause that grows, gives up in the end, and drains from the outside in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from cerememory.actors.actor import Actor, Ping, Reply, Request
from cerememory.actors.supervisor import RESTARTS_WINDOW_S, Supervisor
from cerememory.errors import ActorStopped, DataDirUnusable, InternalError
from tests.support.logged import Logged


@dataclass(frozen=True)
class Crash(Request[None]):
    pass


@dataclass(frozen=True)
class Add(Request[int]):
    """The sum so far, which is lost with a crash."""

    number: int


@dataclass(frozen=True)
class Tell:
    """An event, noted in `journal`."""

    text: str


class Summing(Actor):
    def __init__(self, name: str = "summing", journal: list[str] | None = None) -> None:
        super().__init__(name)
        self.journal = [] if journal is None else journal
        self.loads: list[float] = []
        self.load_error: Exception | None = None
        self.sum = 0

    async def load(self) -> None:
        self.loads.append(trio.current_time())
        if self.load_error is not None:
            raise self.load_error
        self.sum = 0

    async def run(self) -> None:
        await super().run()
        self.journal.append(f"{self.name} ended")

    async def handle(self, message: Any, reply: Reply[Any] | None) -> Any:
        match message:
            case Crash():
                raise KeyError("a bug")
            case Add():
                self.sum += message.number
                return self.sum
            case Tell():
                await trio.lowlevel.checkpoint()
                self.journal.append(f"{self.name} {message.text}")
                return None
        return await super().handle(message, reply)


@asynccontextmanager
async def supervised(*layers: list[Actor]) -> AsyncIterator[tuple[Supervisor, list[str]]]:
    """A supervisor of running actors, and the names of those that crashed."""
    crashed: list[str] = []
    supervisor = Supervisor(layers, crashed.append)
    async with trio.open_nursery() as nursery:
        await supervisor.start(nursery)
        yield supervisor, crashed
        await supervisor.stop()


async def crash(actor: Actor) -> None:
    with pytest.raises(InternalError):
        await actor.ask(Crash())


async def test_an_actor_that_crashed_is_loaded_and_runs_again(autojump_clock: MockClock, logged: Logged) -> None:
    actor = Summing()
    async with supervised([actor]) as (supervisor, crashed):
        assert await actor.ask(Add(5)) == 5
        await crash(actor)
        assert await actor.ask(Add(1)) == 1
        assert crashed == ["summing"]
        assert supervisor.given_up == []
    [line] = [line for line in logged.lines if line["event"] == "actor crashed"]
    assert "KeyError" in line["exception"]


async def test_the_pause_before_a_restart_grows(autojump_clock: MockClock) -> None:
    actor = Summing()
    async with supervised([actor]):
        crashes = []
        for _ in range(2):
            await crash(actor)
            crashes.append(trio.current_time())
            await actor.ask(Ping())
        pauses = [loaded - at for loaded, at in zip(actor.loads[1:], crashes, strict=True)]
        assert pauses == pytest.approx([0.05, 0.1])


async def test_what_waits_in_the_mailbox_is_answered_after_the_restart(autojump_clock: MockClock) -> None:
    actor = Summing()
    async with supervised([actor]):
        answers: list[int] = []

        async def ask() -> None:
            answers.append(await actor.ask(Add(7)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(crash, actor)
            await trio.lowlevel.checkpoint()
            nursery.start_soon(ask)
        assert answers == [7]


async def test_the_third_crash_within_a_minute_is_the_last(autojump_clock: MockClock, logged: Logged) -> None:
    actor = Summing()
    async with supervised([actor]) as (supervisor, crashed):
        for _ in range(3):
            assert supervisor.given_up == []
            await crash(actor)
        await wait_all_tasks_blocked()
        assert supervisor.given_up == ["summing"]
        assert crashed == ["summing"] * 3
        with pytest.raises(ActorStopped):
            await actor.ask(Add(1))
        assert len(actor.loads) == 3
    assert "actor given up" in logged.events()


async def test_whoever_waits_for_one_that_is_given_up_is_told_at_once(autojump_clock: MockClock) -> None:
    actor = Summing()
    async with supervised([actor]):
        told: list[float] = []

        async def ask() -> None:
            with pytest.raises(ActorStopped):
                await actor.ask(Add(1))
            told.append(trio.current_time())

        for _ in range(2):
            await crash(actor)
        await actor.ask(Ping())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(crash, actor)
            await trio.lowlevel.checkpoint()
            nursery.start_soon(ask)
        assert told == [trio.current_time()]


async def test_crashes_far_apart_never_add_up(autojump_clock: MockClock) -> None:
    actor = Summing()
    async with supervised([actor]) as (supervisor, crashed):
        for number in range(8):
            await crash(actor)
            assert await actor.ask(Add(1)) == 1
            await trio.sleep(0.6 * RESTARTS_WINDOW_S)
            assert len(crashed) == number + 1
        assert supervisor.given_up == []


async def test_a_load_that_fails_counts_as_a_crash(autojump_clock: MockClock) -> None:
    actor = Summing()
    async with supervised([actor]) as (supervisor, crashed):
        actor.load_error = OSError("gone")
        await crash(actor)
        with pytest.raises(ActorStopped):
            await actor.ask(Add(1))
        assert supervisor.given_up == ["summing"]
        assert len(crashed) == 3


async def test_a_load_that_fails_at_the_start_is_raised(autojump_clock: MockClock) -> None:
    broken, sound = Summing("broken"), Summing("sound")
    broken.load_error = DataDirUnusable("no room")
    with pytest.raises(ExceptionGroup) as raised:
        async with trio.open_nursery() as nursery:
            await Supervisor([[broken], [sound]], lambda _name: None).start(nursery)
    assert raised.group_contains(DataDirUnusable)
    assert sound.loads, "the innermost is loaded first"


async def test_the_innermost_layer_is_loaded_first(autojump_clock: MockClock) -> None:
    order: list[str] = []

    class Loading(Summing):
        async def load(self) -> None:
            order.append(self.name)

    layers: list[list[Actor]] = [[Loading("outer")], [Loading("middle"), Loading("beside")], [Loading("inner")]]
    async with supervised(*layers):
        assert order == ["inner", "middle", "beside", "outer"]


async def test_a_stop_drains_layer_after_layer_from_the_outside(autojump_clock: MockClock) -> None:
    journal: list[str] = []
    outer, inner = Summing("outer", journal), Summing("inner", journal)
    async with supervised([outer], [inner]):
        for text in "abc":
            inner.post_nowait(Tell(text))
            outer.post_nowait(Tell(text))
    assert [entry for entry in journal if "outer" in entry] == ["outer a", "outer b", "outer c", "outer ended"]
    assert journal[-1] == "inner ended"
    assert journal.index("outer ended") < journal.index("inner ended")
    assert [entry for entry in journal if "inner" in entry] == ["inner a", "inner b", "inner c", "inner ended"]


async def test_what_an_outer_actor_sends_while_it_drains_still_arrives(autojump_clock: MockClock) -> None:
    journal: list[str] = []
    inner = Summing("inner", journal)

    class Forwarding(Summing):
        async def handle(self, message: Any, reply: Reply[Any] | None) -> Any:
            await inner.post(message)

    outer = Forwarding("outer", journal)
    async with supervised([outer], [inner]):
        outer.post_nowait(Tell("late"))
    assert "inner late" in journal
    assert journal[-1] == "inner ended"


async def test_a_stop_waits_for_one_that_is_being_restarted(autojump_clock: MockClock) -> None:
    journal: list[str] = []
    actor = Summing("summing", journal)
    async with supervised([actor]):
        await crash(actor)
        actor.post_nowait(Tell("afterwards"))
    assert journal == ["summing afterwards", "summing ended"]


async def test_a_stop_does_not_wait_for_one_that_was_given_up(autojump_clock: MockClock) -> None:
    actor = Summing()
    async with supervised([actor]):
        for _ in range(3):
            await crash(actor)
    assert trio.current_time() < RESTARTS_WINDOW_S


async def test_neither_a_stop_nor_an_asker_waits_for_one_that_was_cancelled(autojump_clock: MockClock) -> None:
    """As all are by Ctrl-C, which is raised in any task and ends the others with it."""
    actor = Summing()
    supervisor = Supervisor([[actor], [Summing("inner")]], lambda _name: None)
    async with trio.open_nursery() as nursery:
        await supervisor.start(nursery)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 5) as waiting:
            with pytest.raises(ActorStopped):
                await actor.ask(Add(1))
            await supervisor.stop()
    assert not waiting.cancelled_caught


async def test_mailboxes_can_be_measured(autojump_clock: MockClock) -> None:
    actors: list[Actor] = [Summing("one"), Summing("two")]
    supervisor = Supervisor([[actors[0]], [actors[1]]], lambda _name: None)
    actors[1].post_nowait(Tell("x"))
    assert supervisor.mailbox_depths() == {"one": 0, "two": 1}
    assert supervisor.actors == actors
