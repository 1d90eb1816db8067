"""What a running daemon takes over of a configuration that was changed, when it gets SIGHUP.

The sources are read and checked as at the start. What can't be taken over is named in the log and stays as it is
until the next start; so does everything, when what was read wouldn't be allowed to start. Log files are opened
anew in any case: whoever rotates them sends SIGHUP, too.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog
import trio

from cerememory.cli.settings import check_start
from cerememory.config.keys import KEYS, build
from cerememory.config.settings import Settings
from cerememory.config.sources import Loaded
from cerememory.errors import StartRefused
from cerememory.http.gate import Gate
from cerememory.telemetry import logs
from cerememory.telemetry.log_files import LogFiles
from cerememory.telemetry.sd_notify import Notifier

RELOADED = frozenset({"auth.api_keys", "log.level", "rate_limit.requests_per_second", "rate_limit.burst"})

log = structlog.get_logger(__name__)


class Reloader:
    """`settings` are those that the daemon runs with; `read` reads the sources again."""

    def __init__(
        self,
        read: Callable[[], Loaded],
        settings: Settings,
        gate: Gate,
        log_files: LogFiles,
        notifier: Notifier,
    ) -> None:
        self._read = read
        self._gate = gate
        self._log_files = log_files
        self._notifier = notifier
        self.settings = settings

    async def reload(self) -> None:
        self._notifier.reloading()
        self._reopen_log()
        await self._reload_settings()
        self._notifier.ready("serving")

    def _reopen_log(self) -> None:
        try:
            self._log_files.reopen()
        except OSError as error:
            log.error("the log goes on in the old file", path=str(error.filename), reason=error.strerror)

    async def _reload_settings(self) -> None:
        try:
            found = await trio.to_thread.run_sync(self._checked)
        except StartRefused as error:
            log.error("configuration not reloaded, the one from before counts", reason=str(error))
            return
        changed = [key.dotted for key in KEYS if key.value_of(found) != key.value_of(self.settings)]
        for name in (name for name in changed if name not in RELOADED):
            log.warning("a change counts from the next start on", key=name)
        self._take_over(found)
        log.info("configuration reloaded", changed=[name for name in changed if name in RELOADED])

    def _checked(self) -> Settings:
        loaded = self._read()
        check_start(loaded, for_serve=True)
        return loaded.settings

    def _take_over(self, found: Settings) -> None:
        values = {key.dotted: key.value_of(found if key.dotted in RELOADED else self.settings) for key in KEYS}
        self.settings = build(values)
        self._gate.reload(self.settings)
        logs.configure(self.settings.log.level, self.settings.log.format)
