"""A mailbox: bounded, and it knows whether its actor is done with all that was sent."""

from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from cerememory.actors.mailbox import Mailbox


async def receive_into(mailbox: Mailbox[str], received: list[str], may_go_on: trio.Event) -> None:
    """Takes one message after the other, and holds each until it may go on."""
    async for message in mailbox:
        await may_go_on.wait()
        received.append(message)


async def test_nobody_is_done_who_does_not_wait_for_a_message() -> None:
    mailbox = Mailbox[str](2)
    assert not mailbox.is_done


async def test_it_is_done_when_all_that_was_sent_is_handled(nursery: trio.Nursery) -> None:
    mailbox, received, may_go_on = Mailbox[str](2), list[str](), trio.Event()
    nursery.start_soon(receive_into, mailbox, received, may_go_on)
    await wait_all_tasks_blocked()
    assert mailbox.is_done
    mailbox.send_nowait("a")
    assert not mailbox.is_done, "it is on its way"
    await wait_all_tasks_blocked()
    assert not mailbox.is_done, "it is in somebody's hands"
    may_go_on.set()
    await wait_all_tasks_blocked()
    assert received == ["a"]
    assert mailbox.is_done


async def test_what_waits_for_room_was_sent(nursery: trio.Nursery) -> None:
    mailbox, received, may_go_on = Mailbox[str](1), list[str](), trio.Event()
    mailbox.send_nowait("a")
    nursery.start_soon(mailbox.send, "b")
    await wait_all_tasks_blocked()
    assert mailbox.depth == 1
    nursery.start_soon(receive_into, mailbox, received, may_go_on)
    await wait_all_tasks_blocked()
    assert not mailbox.is_done
    may_go_on.set()
    await wait_all_tasks_blocked()
    assert received == ["a", "b"]
    assert mailbox.is_done


async def test_what_could_not_be_sent_is_not_waited_for(nursery: trio.Nursery) -> None:
    mailbox, received, may_go_on = Mailbox[str](1), list[str](), trio.Event()
    may_go_on.set()
    mailbox.send_nowait("a")
    with pytest.raises(trio.WouldBlock):
        mailbox.send_nowait("b")
    with trio.CancelScope() as scope:
        scope.cancel()
        await mailbox.send("c")
    nursery.start_soon(receive_into, mailbox, received, may_go_on)
    await wait_all_tasks_blocked()
    assert received == ["a"]
    assert mailbox.is_done


async def test_who_was_cancelled_in_waiting_is_not_done() -> None:
    mailbox = Mailbox[str](1)
    with trio.CancelScope() as scope:
        scope.cancel()
        await mailbox.receive()
    assert scope.cancelled_caught
    assert not mailbox.is_done


async def test_a_closed_one_lets_nothing_in_and_gives_what_is_inside() -> None:
    mailbox = Mailbox[str](2)
    mailbox.send_nowait("a")
    mailbox.send_nowait("b")
    mailbox.close()
    with pytest.raises(trio.ClosedResourceError):
        mailbox.send_nowait("c")
    assert mailbox.receive_nowait() == "a"
    assert [message async for message in mailbox] == ["b"]
    with pytest.raises(trio.EndOfChannel):
        mailbox.receive_nowait()
