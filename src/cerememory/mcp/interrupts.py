"""What ends the proxy from outside: SIGTERM and Ctrl-C, once.

They break off, by KeyboardInterrupt, what may wait for long, and nothing else: anywhere else somebody may hold a
lock that would stay taken, or be about to keep what is left. One that comes there is minded at the next wait.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupts:
    """Of the main thread, in which signals are handled."""

    def __init__(self) -> None:
        self._has_come = False
        self._is_minded = False
        self._is_waiting = False

    @contextmanager
    def heard(self) -> Iterator[None]:
        """SIGTERM does what Ctrl-C does. Ctrl-C stays ignored where it was."""
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        for number in _SIGNALS:
            if number == signal.SIGTERM or before[number] != signal.SIG_IGN:
                signal.signal(number, self._interrupt)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """A wait of the main thread, which the first signal breaks off; those of other threads go on."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._is_waiting = True
        try:
            self._break_off()
            yield
        finally:
            self._is_waiting = False

    def _interrupt(self, _number: int, _frame: object) -> None:
        self._has_come = True
        if self._is_waiting:
            self._break_off()

    def _break_off(self) -> None:
        if self._has_come and not self._is_minded:
            self._is_minded = True
            raise KeyboardInterrupt
