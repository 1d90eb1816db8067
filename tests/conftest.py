"""For all tests: interrupts reach whatever they start.

A shell without job control has what it starts in the background ignore them, and its children after it.
"""

from __future__ import annotations

import signal

signal.signal(signal.SIGINT, signal.default_int_handler)
