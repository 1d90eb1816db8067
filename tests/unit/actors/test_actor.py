"""An actor: one message after the other, an answer to every question, none waited for in vain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import structlog
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from cerememory.actors.actor import LATER, Actor, Ping, Reply, Request
from cerememory.errors import ActorBusy, ActorStopped, InternalError, RecordNotFound, ValidationFailed


@dataclass(frozen=True)
class Double(Request[int]):
    number: int


@dataclass(frozen=True)
class Fail(Request[None]):
    error: Exception


@dataclass(frozen=True)
class Wait(Request[str]):
    """Answered when `until` is set."""

    until: trio.Event


@dataclass(frozen=True)
class Keep(Request[str]):
    """Answered by whoever takes the reply out of `kept`."""


@dataclass(frozen=True)
class Noted:
    """An event."""

    text: str


class Worker(Actor):
    def __init__(self, mailbox_size: int = 2) -> None:
        super().__init__("worker", mailbox_size)
        self.noted: list[str] = []
        self.kept: list[Reply[Any]] = []

    async def handle(self, message: Any, reply: Reply[Any] | None) -> Any:
        match message:
            case Double():
                return 2 * message.number
            case Fail():
                raise message.error
            case Wait():
                await message.until.wait()
                return "waited"
            case Keep():
                assert reply is not None
                self.kept.append(reply)
                return LATER
            case Noted():
                self.noted.append(message.text)
                return None
        return await super().handle(message, reply)


class NoteTaker(Worker):
    def takes_note(self, event: object) -> bool:
        assert isinstance(event, Noted)
        self.noted.append(event.text)
        return True


@pytest.fixture
async def worker(nursery: trio.Nursery) -> Worker:
    actor = Worker()
    nursery.start_soon(actor.run)
    return actor


async def test_a_question_is_answered(worker: Worker) -> None:
    assert await worker.ask(Double(21)) == 42


async def test_every_actor_answers_a_ping(worker: Worker) -> None:
    await worker.ask(Ping())


async def test_a_known_error_is_an_answer_and_the_actor_goes_on(worker: Worker) -> None:
    error = RecordNotFound("no such")
    with pytest.raises(RecordNotFound) as raised:
        await worker.ask(Fail(error))
    assert raised.value is error
    assert await worker.ask(Double(1)) == 2


async def test_messages_are_handled_in_the_order_in_which_they_came(worker: Worker) -> None:
    for text in "abcdef":
        await worker.post(Noted(text))
    await worker.ask(Ping())
    assert worker.noted == list("abcdef")


async def test_a_full_mailbox_is_busy_at_once_and_has_taken_nothing() -> None:
    idle = Worker(mailbox_size=2)
    idle.post_nowait(Noted("a"))
    idle.post_nowait(Noted("b"))
    for send in (idle.ask(Double(1)), idle.ask(Ping())):
        with pytest.raises(ActorBusy, match="worker is busy, try again") as busy:
            await send
        assert busy.value.retry_after_s == 1
    with pytest.raises(ActorBusy):
        idle.post_nowait(Noted("c"))
    assert idle.mailbox_depth == 2
    idle.close_mailbox()
    await idle.run()
    assert idle.noted == ["a", "b"]


async def test_informing_a_follower_with_room_takes_no_turn_of_the_loop(worker: Worker) -> None:
    await wait_all_tasks_blocked()
    await worker.inform(Noted("a"))
    assert worker.noted == []


async def test_what_a_waiting_follower_takes_note_of_does_not_wake_it(nursery: trio.Nursery) -> None:
    worker = NoteTaker()
    await worker.inform(Noted("a"))
    assert worker.mailbox_depth == 1, "it doesn't run, so it can't see to what it noted"
    nursery.start_soon(worker.run)
    await wait_all_tasks_blocked()
    await worker.inform(Noted("b"))
    assert worker.noted == ["a", "b"]
    worker.post_nowait(Noted("c"))
    await worker.inform(Noted("d"))
    assert worker.noted == ["a", "b"], "what came before is yet to be handled"
    await worker.ask(Ping())
    assert worker.noted == list("abcd")


async def test_informing_a_full_follower_waits_for_room(worker: Worker) -> None:
    for text in "abcdef":
        await worker.inform(Noted(text))
    await wait_all_tasks_blocked()
    assert worker.noted == list("abcdef")


async def test_an_actor_is_idle_when_all_that_was_sent_has_been_handled(worker: Worker) -> None:
    assert not Worker().is_idle, "it doesn't run"
    await wait_all_tasks_blocked()
    assert worker.is_idle
    worker.post_nowait(Noted("a"))
    assert not worker.is_idle, "the message is in its hands, and in no mailbox any more"
    await wait_all_tasks_blocked()
    assert worker.is_idle
    assert worker.noted == ["a"]


async def test_the_first_answer_counts(worker: Worker) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(settle_twice, worker)
        assert await worker.ask(Keep()) == "first"


async def settle_twice(worker: Worker) -> None:
    await wait_all_tasks_blocked()
    [reply] = worker.kept
    reply.resolve("first")
    reply.fail(RecordNotFound("second"))


async def test_a_question_that_is_refused_takes_no_time(autojump_clock: MockClock) -> None:
    idle = Worker(mailbox_size=1)
    idle.post_nowait(Noted("a"))
    started = trio.current_time()
    with pytest.raises(ActorBusy):
        await idle.ask(Double(1))
    assert trio.current_time() == started


async def test_an_event_may_wait_for_room_instead(nursery: trio.Nursery) -> None:
    slow, until = Worker(mailbox_size=1), trio.Event()
    nursery.start_soon(slow.run)
    nursery.start_soon(slow.ask, Wait(until))
    await wait_all_tasks_blocked()
    posted: list[str] = []

    async def post(text: str) -> None:
        await slow.post(Noted(text))
        posted.append(text)

    nursery.start_soon(post, "a")
    await wait_all_tasks_blocked()
    nursery.start_soon(post, "b")
    await wait_all_tasks_blocked()
    assert posted == ["a"]
    until.set()
    await wait_all_tasks_blocked()
    assert slow.noted == ["a", "b"]


@pytest.mark.parametrize("message", [Fail(KeyError("a bug")), object()])
async def test_a_crash_wakes_its_asker_ends_the_actor_and_leaves_what_waits_to_the_next_run(message: Any) -> None:
    actor = Worker(mailbox_size=3)
    outcomes: list[Any] = []

    async def ask(request: Any) -> None:
        try:
            outcomes.append(await actor.ask(request))
        except InternalError as error:
            outcomes.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, message)
        await wait_all_tasks_blocked()
        nursery.start_soon(ask, Double(4))
        await wait_all_tasks_blocked()
        with pytest.raises((KeyError, TypeError)) as crash:
            await actor.run()
        await wait_all_tasks_blocked()
        [error] = outcomes
        assert isinstance(error, InternalError)
        assert str(error) == f"worker crashed while it handled {type(message).__name__}"
        actor.close_mailbox()
        await actor.run()
    assert outcomes[1] == 8
    assert any("asked by" in note for note in crash.value.__notes__)


async def test_a_crash_names_the_request_of_whoever_asked() -> None:
    actor = Worker()
    structlog.contextvars.bind_contextvars(request_id="r-1")
    async with trio.open_nursery() as nursery:

        async def ask() -> None:
            with pytest.raises(InternalError):
                await actor.ask(Fail(KeyError("a bug")))

        nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        with pytest.raises(KeyError) as crash:
            await actor.run()
    assert "r-1" in crash.value.__notes__[0]


async def test_an_event_that_fails_ends_the_actor_for_there_is_nobody_to_tell() -> None:
    actor = Worker()
    actor.post_nowait(Fail(ValidationFailed("known")))
    with pytest.raises(ValidationFailed):
        await actor.run()


async def test_an_answer_may_come_later_and_from_elsewhere(worker: Worker, nursery: trio.Nursery) -> None:
    answers: list[str] = []

    async def ask() -> None:
        answers.append(await worker.ask(Keep()))

    nursery.start_soon(ask)
    await wait_all_tasks_blocked()
    assert await worker.ask(Double(2)) == 4
    assert answers == []
    worker.kept[0].resolve("later")
    await wait_all_tasks_blocked()
    assert answers == ["later"]


async def test_a_deadline_ends_the_asking_and_not_the_work(worker: Worker, autojump_clock: MockClock) -> None:
    until = trio.Event()
    with pytest.raises(trio.TooSlowError), trio.fail_after(1):
        await worker.ask(Wait(until))
    until.set()
    assert await worker.ask(Double(3)) == 6, "answering nobody is no error"


async def test_a_closed_mailbox_lets_nothing_in_and_is_drained(nursery: trio.Nursery) -> None:
    actor = Worker(mailbox_size=4)
    for text in "abc":
        actor.post_nowait(Noted(text))
    actor.close_mailbox()
    with pytest.raises(ActorStopped, match="worker is not running"):
        await actor.ask(Double(1))
    with pytest.raises(ActorStopped):
        await actor.post(Noted("d"))
    with pytest.raises(ActorStopped):
        actor.post_nowait(Noted("d"))
    await actor.run()
    assert actor.noted == ["a", "b", "c"]


async def test_one_that_is_given_up_tells_everybody_who_waits_at_once() -> None:
    actor = Worker(mailbox_size=3)
    outcomes: list[str] = []

    async def ask() -> None:
        with pytest.raises(ActorStopped):
            await actor.ask(Double(1))
        outcomes.append("told")

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        actor.give_up()
    assert outcomes == ["told"] * 3
    with pytest.raises(ActorStopped):
        await actor.ask(Double(1))
