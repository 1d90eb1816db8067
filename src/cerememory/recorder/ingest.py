"""Lines of Capture Events into batches. A line that is refused is told, counted and passed over.

An event that comes again within the last `WINDOW` is dropped, when it says which one it is (turn_id, action_id or
timestamp) and says the same.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from cerememory.errors import Invalid, ValidationFailed
from cerememory.recorder.batches import Batch, Entry, new_entry
from cerememory.recorder.counts import Counts, Tell
from cerememory.recorder.events import CaptureEvent, Moment, read_event, record_of
from cerememory.recorder.lines import LineReader, LineTooLong

WINDOW = 512
BATCH_BYTES_MAX = 8 * 1_048_576  # of records; the daemon takes bodies of 64 MiB

Deliver = Callable[[Batch], None]


@dataclass(frozen=True, slots=True)
class Terms:
    """When a batch is full, and when it goes though it isn't: so long after its first event."""

    records_max: int
    flush_s: float


class Ingest:
    """One run. `deliver` takes each batch; what it raises ends the run. `clock` gives seconds from any start."""

    def __init__(
        self,
        deliver: Deliver,
        counts: Counts,
        tell: Tell,
        terms: Terms,
        cwd: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._deliver = deliver
        self._counts = counts
        self._tell = tell
        self._terms = terms
        self._cwd = cwd
        self._clock = clock
        self._seen = _Seen()
        self._pending: list[Entry] = []
        self._pending_bytes = 0
        self._due_at = 0.0

    def run(self, lines: LineReader) -> None:
        """Until the input ends. What is pending is delivered whatever ends it."""
        number = 0
        try:
            while not lines.has_ended:
                line = lines.next(self._patience_s())
                if line is not None:
                    number += 1
                    self._read(line, number)
                if self._is_due():
                    self._flush()
        finally:
            self._flush()

    def _patience_s(self) -> float | None:
        return max(0.0, self._due_at - self._clock()) if self._pending else None

    def _is_due(self) -> bool:
        return bool(self._pending) and (
            len(self._pending) >= self._terms.records_max
            or self._pending_bytes >= BATCH_BYTES_MAX
            or self._clock() >= self._due_at
        )

    def _flush(self) -> None:
        if self._pending:
            batch = Batch(tuple(self._pending))
            self._pending, self._pending_bytes = [], 0
            self._deliver(batch)

    def _read(self, line: bytes | LineTooLong, number: int) -> None:
        try:
            if isinstance(line, LineTooLong):
                raise ValidationFailed(str(line))
            if line.strip():
                self._take(read_event(line))
        except Invalid as error:
            self._counts.failures += 1
            self._tell(f"error: line {number}: {error}")

    def _take(self, event: CaptureEvent) -> None:
        identity = event.identity
        if identity is not None and identity in self._seen:
            self._counts.duplicate += 1
            return
        record = record_of(event, Moment(self._cwd, time.time_ns()))
        self._seen.add(identity)
        self._counts.accepted += 1
        if not self._pending:
            self._due_at = self._clock() + self._terms.flush_s
        self._pending.append(new_entry(record, identity))
        self._pending_bytes += len(record)


class _Seen:
    """The identities of the last `WINDOW` events; those without one count, too."""

    def __init__(self) -> None:
        self._order: deque[bytes | None] = deque()
        self._known: set[bytes] = set()

    def __contains__(self, identity: bytes) -> bool:
        return identity in self._known

    def add(self, identity: bytes | None) -> None:
        if len(self._order) == WINDOW:
            oldest = self._order.popleft()
            self._known.discard(oldest or b"")
        self._order.append(identity)
        if identity is not None:
            self._known.add(identity)
