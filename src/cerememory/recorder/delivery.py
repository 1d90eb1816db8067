"""Batches on their way: to the daemon when it takes them, else into the spool, never nowhere.

What failed for a reason that passes (no answer, 429, 5xx) is tried again after a pause, what waits in the spool
first, so that a session's events come in their order. A refusal that isn't the batch's fault (401, 403, no daemon
there) keeps everything in the spool for the next run. A batch that the daemon refuses is set aside when it comes
from the spool, and the others go on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import Enum, auto

from cerememory.client import Client
from cerememory.client.errors import HTTP_STATUS
from cerememory.errors import (
    BodyTooSlow,
    CerememoryError,
    Conflict,
    ContentTooLarge,
    Failed,
    Overloaded,
    ValidationFailed,
)
from cerememory.recorder.batches import Batch
from cerememory.recorder.counts import Counts, Tell
from cerememory.recorder.spool import Spool

REQUEST_S = 10.0
RETRY_FOR_S = 1.5  # within a request: a busy daemon says 1 s, and one that restarts may be back
PAUSE_S = 1.0
PAUSE_MAX_S = 30.0


class Verdict(Enum):
    SENT = auto()
    LATER = auto()
    DENIED = auto()  # so would be any other
    REFUSED = auto()


class Delivery:
    """For one run. `sent` counts events that were in the spool before, too; `spooled` those that are left there.

    `clock` gives seconds from any start.
    """

    def __init__(
        self, client: Client, spool: Spool, counts: Counts, tell: Tell, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._client = client
        self._spool = spool
        self._counts = counts
        self._tell = tell
        self._clock = clock
        self._ours: dict[str, int] = {}  # batches of this run that wait in the spool: how many events
        self._is_denied = False
        self._is_behind = False
        self._again_at = 0.0
        self._pause_s = PAUSE_S

    def send_spooled(self) -> None:
        """Sends what waits in the spool, unless another process is at it, and what comes there meanwhile."""
        while not self._stops() and self._spool.batches():
            with self._spool.sending() as is_ours:
                if not is_ours:
                    return
                self._send_each()

    def deliver(self, batch: Batch) -> None:
        """Raises `StorageUnavailable` when it could neither be sent nor put into the spool."""
        try:
            if self._is_behind and not self._stops():
                self.send_spooled()
            verdict = Verdict.LATER if self._stops() else self._send(batch)
        except BaseException:
            self._put(batch)
            raise
        if verdict is Verdict.SENT:
            self._counts.sent += len(batch.entries)
        else:
            self._put(batch)

    def _stops(self) -> bool:
        """Whether sending is of no use now."""
        return self._is_denied or self._clock() < self._again_at

    def _send_each(self) -> None:
        for name in self._spool.batches():
            try:
                batch = self._spool.read(name)
            except FileNotFoundError:
                continue  # it was sent by who had the lock when the names were read
            except ValidationFailed as error:
                self._set_aside(name, "malformed", error)
                continue
            verdict = self._send(batch, name)
            if verdict is Verdict.SENT:
                self._spool.remove(name)
                self._counts.sent += len(batch.entries)
                self._counts.spooled -= self._ours.pop(name, 0)
            elif verdict is not Verdict.REFUSED:
                return
        self._is_behind = False

    def _send(self, batch: Batch, name: str | None = None) -> Verdict:
        try:
            self._client.call("encode.batch_raw", batch.body, idempotency_key=batch.key)
        except CerememoryError as error:
            return self._judge(error, name)
        self._again_at, self._pause_s = 0.0, PAUSE_S
        return Verdict.SENT

    def _judge(self, error: CerememoryError, name: str | None) -> Verdict:
        if isinstance(error, (Overloaded, Failed, BodyTooSlow)):
            self._tell(f"warning: {error}; what can't be sent waits in {self._spool.path}")
            self._again_at = self._clock() + max(self._pause_s, float(error.retry_after_s or 0))
            self._pause_s = min(self._pause_s * 2, PAUSE_MAX_S)
            return Verdict.LATER
        if _is_of_the_batch(error):
            self._refuse(name, error)
            return Verdict.REFUSED
        self._fail(f"{error}; everything waits in {self._spool.path}")
        self._is_denied = True
        return Verdict.DENIED

    def _refuse(self, name: str | None, error: CerememoryError) -> None:
        if name is None:
            self._fail(f"a batch was refused: {error}; it waits in {self._spool.path}")
        else:
            self._set_aside(name, "refused", error)

    def _set_aside(self, name: str, reason: str, error: CerememoryError) -> None:
        self._fail(f"{self._spool.set_aside(name, reason)} was set aside: {error}")

    def _fail(self, what: str) -> None:
        self._counts.failures += 1
        self._tell(f"error: {what}")

    def _put(self, batch: Batch) -> None:
        name = self._spool.put(batch)
        self._ours[name] = len(batch.entries)
        self._counts.spooled += len(batch.entries)
        self._is_behind = True


def _is_of_the_batch(error: CerememoryError) -> bool:
    """Whether another batch may be taken: a daemon has read this one, or it was too large on the way to it."""
    is_daemons = HTTP_STATUS not in (error.details or {})
    return isinstance(error, ContentTooLarge) or (is_daemons and isinstance(error, (ValidationFailed, Conflict)))
