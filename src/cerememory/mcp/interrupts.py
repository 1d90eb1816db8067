"""What ends the proxy from outside: SIGTERM and Ctrl-C, once."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

_INTERRUPTS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def interrupted_once() -> Iterator[None]:
    """SIGTERM does what Ctrl-C does: it breaks off, by KeyboardInterrupt, what the main thread is at.

    What comes after the first is ignored, so that nothing breaks off the keeping of what is left. Ctrl-C stays
    ignored where it was.
    """
    before = {number: signal.getsignal(number) for number in _INTERRUPTS}
    for number in _INTERRUPTS:
        if number == signal.SIGTERM or before[number] != signal.SIG_IGN:
            signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ignore_interrupts() -> None:
    """For the rest of what `interrupted_once` is about."""
    for number in _INTERRUPTS:
        signal.signal(number, signal.SIG_IGN)


def _interrupt(_number: int, _frame: object) -> NoReturn:
    ignore_interrupts()
    raise KeyboardInterrupt
