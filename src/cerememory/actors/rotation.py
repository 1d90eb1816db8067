"""Rotating the audit log: the writer decides where its file ends, the audit log's actor closes it there."""

from __future__ import annotations

from pathlib import Path

from cerememory.actors.actor import Actor, Ping
from cerememory.actors.lifecycle import KeepAnswer
from cerememory.actors.seams import World
from cerememory.actors.writer import Commit
from cerememory.errors import ActorBusy, StorageUnavailable
from cerememory.protocol.replies import AuditRotated
from cerememory.storage.audit_rotation import CloseAuditFile
from cerememory.storage.mutations import Stored


class AuditRotation:
    """Of the log at `path`."""

    def __init__(self, writer: Actor, audit_log: Actor, world: World, path: Path) -> None:
        self._writer = writer
        self._audit_log = audit_log
        self._world = world
        self._path = path

    async def rotate(self, keep_answer: KeepAnswer) -> Stored[AuditRotated]:
        """Return when the closed file has its name, and can be moved away.

        Raises `ActorBusy` when it hasn't yet, for the disk refuses: it gets it as soon as that works.
        """
        mutation = CloseAuditFile(self._path, self._world.now())
        stored = await self._writer.ask(Commit(keep_answer(mutation)))
        try:
            await self._audit_log.ask(Ping())  # who has been told of the commit, and done what it says
        except StorageUnavailable:
            raise ActorBusy(self._audit_log.name) from None
        return stored
