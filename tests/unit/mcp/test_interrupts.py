"""The first signal breaks off a wait, whenever it comes; those after it don't break off what is done then."""

from __future__ import annotations

import signal
import threading

import pytest

from cerememory.mcp.interrupts import Interrupts

BOTH = [signal.SIGTERM, signal.SIGINT]


@pytest.mark.parametrize("first", BOTH)
def test_only_the_first_signal_breaks_off_a_wait(first: signal.Signals) -> None:
    before = [signal.getsignal(number) for number in BOTH]
    interrupts = Interrupts()
    with interrupts.heard():
        with pytest.raises(KeyboardInterrupt), interrupts.waiting():
            signal.raise_signal(first)
        for number in BOTH:
            signal.raise_signal(number)
            with interrupts.waiting():
                signal.raise_signal(number)
    assert [signal.getsignal(number) for number in BOTH] == before


@pytest.mark.parametrize("first", BOTH)
def test_what_is_no_wait_goes_on_and_the_next_wait_ends_before_it_began(first: signal.Signals) -> None:
    interrupts, waits = Interrupts(), []
    with interrupts.heard():
        signal.raise_signal(first)
        with pytest.raises(KeyboardInterrupt), interrupts.waiting():
            waits.append("begun")
    assert waits == []


def test_who_waits_in_another_thread_is_left_alone() -> None:
    """The signal is handled in the main thread, which isn't waiting then."""
    interrupts, begun, ended, left = Interrupts(), threading.Event(), threading.Event(), threading.Event()

    def wait() -> None:
        with interrupts.waiting():
            begun.set()
            ended.wait(30)
        left.set()

    with interrupts.heard():
        other = threading.Thread(target=wait, daemon=True)
        other.start()
        assert begun.wait(30)
        signal.raise_signal(signal.SIGTERM)
        ended.set()
        assert left.wait(30)
        with pytest.raises(KeyboardInterrupt), interrupts.waiting():
            pass


def test_where_ctrl_c_was_ignored_it_stays_so() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    interrupts = Interrupts()
    try:
        with interrupts.heard(), interrupts.waiting():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
