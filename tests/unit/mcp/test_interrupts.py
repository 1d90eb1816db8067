"""The first signal breaks off what is done; those after it don't break off what is done about that."""

from __future__ import annotations

import signal

import pytest

from cerememory.mcp.interrupts import ignore_interrupts, interrupted_once

BOTH = [signal.SIGTERM, signal.SIGINT]


@pytest.mark.parametrize("first", BOTH)
def test_only_the_first_signal_is_heard(first: signal.Signals) -> None:
    before = [signal.getsignal(number) for number in BOTH]
    with interrupted_once():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(first)
        for number in BOTH:
            signal.raise_signal(number)
    assert [signal.getsignal(number) for number in BOTH] == before


def test_none_is_heard_once_they_are_ignored() -> None:
    with interrupted_once():
        ignore_interrupts()
        for number in BOTH:
            signal.raise_signal(number)


def test_where_ctrl_c_was_ignored_it_stays_so() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupted_once():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
