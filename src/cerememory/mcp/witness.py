"""Whether the daemon's audit log still goes on where it was when this user last saw it.

After a tool call, once in a while and whenever the daemon may have come back, the witness fetches a checkpoint and
has it proved that the log continues the one it kept. A log that became shorter, or whose past is another, is told
on stderr, and the kept checkpoint stays: it is signed, and `audit-verify --against` takes it for evidence.

It keeps one file for each server in the user's state directory, beyond the daemon's reach. Signatures aren't
looked at here: who has the daemon has its key, and the past that was seen has to fit anyway.

Usable from any thread; one of them looks at a time.
"""

from __future__ import annotations

import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from cerememory.client import Client
from cerememory.domain.checkpoint import NOTE_BYTES_MAX, Checkpoint, NotACheckpoint, Note, parse_note
from cerememory.domain.merkle import verify_consistency
from cerememory.errors import CerememoryError, Failed, NoRoute, RecordNotFound, ValidationFailed
from cerememory.mcp.state import server_name

LOOK_EVERY_S = 300.0
LOOK_AGAIN_S = 5.0  # at the earliest, when there was a new connection
PRIVATE_DIR = 0o700

log = logging.getLogger(__name__)


class Witness:
    """`folder` is made when there is something to keep. `clock` gives seconds from any start."""

    def __init__(self, client: Client, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._file = folder / f"{server_name(client.url)}.checkpoint"
        self._clock = clock
        self._looking = threading.Lock()
        self._looked_at: float | None = None
        self._connections = 0
        self._told: set[str] = set()

    def look_if_due(self) -> None:
        """At most one thread's moment; never raises for a daemon that doesn't answer."""
        if not self._looking.acquire(blocking=False):
            return
        try:
            if self._is_due():
                self.look()
                self._looked_at, self._connections = self._clock(), self._client.connections_opened
        finally:
            self._looking.release()

    def _is_due(self) -> bool:
        if self._looked_at is None:
            return True
        passed_s = self._clock() - self._looked_at
        is_new = self._client.connections_opened != self._connections
        return passed_s >= (LOOK_AGAIN_S if is_new else LOOK_EVERY_S)

    def look(self) -> None:
        kept = self._read()  # before the daemon is asked: another proxy may keep a later one meanwhile
        try:
            seen = parse_note(self._client.audit_checkpoint())
            if kept is None or self._goes_on(kept, seen.checkpoint):
                self._keep(seen, kept)
        except NoRoute:
            if kept is not None:
                self._tell("gone", "no longer shows its audit log, which it did before")
        except NotACheckpoint as error:
            if kept is not None:
                self._tell("unreadable", f"shows a checkpoint of its audit log that {error}")
        except CerememoryError as error:
            log.debug("the audit log wasn't looked at: %s", error)

    def _goes_on(self, kept: Checkpoint, seen: Checkpoint) -> bool:
        if seen.origin != kept.origin:
            self._tell("other", f"has another audit log than before, {seen.origin} in place of {kept.origin}")
        elif seen.size < kept.size:
            self._tell("rollback", f"rolled its audit log back: it has {seen.size} entries and had {kept.size}")
        else:
            return self._continues(kept, seen)
        return False

    def _continues(self, kept: Checkpoint, seen: Checkpoint) -> bool:
        """Nobody can tell here whether a file with entries was put away or is withheld."""
        unproved = f"can't prove that its audit log still begins with the {kept.size} entries it had"
        try:
            is_proved = self._is_proved(kept, seen)
        except RecordNotFound:
            self._tell("away", f"{unproved}, for it says that a file with some of them isn't there")
            return False
        if not is_proved:
            self._tell("fork", unproved)
        return is_proved

    def _is_proved(self, kept: Checkpoint, seen: Checkpoint) -> bool:
        """`CerememoryError` when it can't be asked now."""
        try:
            is_asked = 0 < kept.size < seen.size
            hashes = self._client.audit_consistency(kept.size, seen.size) if is_asked else ()
        except (Failed, ValidationFailed):  # it was asked for what it has shown
            return False
        return verify_consistency(kept.size, kept.root, seen.size, seen.root, hashes)

    def _read(self) -> Checkpoint | None:
        try:
            with self._file.open("rb") as file:
                return parse_note(file.read(NOTE_BYTES_MAX + 1)).checkpoint
        except FileNotFoundError:
            return None
        except (OSError, NotACheckpoint) as error:
            self._warn("read", f"{self._file}: the checkpoint that was kept can't be read: {error}")
            return None

    def _keep(self, seen: Note, kept: Checkpoint | None) -> None:
        if seen.checkpoint == kept:
            return
        try:
            self._file.parent.mkdir(mode=PRIVATE_DIR, parents=True, exist_ok=True)
            _replace(self._file, seen.data)
        except OSError as error:
            self._warn("keep", f"{self._file}: the checkpoint can't be kept: {error.strerror}")

    def _tell(self, kind: str, what: str) -> None:
        """What the daemon did, and what is there to be done."""
        self._warn(
            kind,
            f"the daemon at {self._client.url} {what}. If nobody restored a backup or began a new data dir, "
            f"somebody took entries out: cerememory audit-verify --against {self._file} says more. "
            "If it was meant, delete that file.",
        )

    def _warn(self, kind: str, text: str) -> None:
        """Each kind once: the next look would say the same."""
        if kind not in self._told:
            self._told.add(kind)
            log.warning("warning: %s", text)


def _replace(file: Path, data: bytes) -> None:
    """All of it or nothing, readable by its owner only."""
    fd, draft = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    try:
        with os.fdopen(fd, "wb") as out:
            out.write(data)
        Path(draft).replace(file)
    except OSError:
        with suppress(OSError):
            Path(draft).unlink()
        raise
