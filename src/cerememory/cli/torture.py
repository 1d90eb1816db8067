"""`cerememory torture`: whether this machine keeps what is acknowledged, tried on a copy of the data dir.

A round starts a daemon on the copy, writes to it, does it some harm and kills it; then it looks for every write
that any round was answered, and whether all adds up. The data dir itself is read once, to copy it.
"""

from __future__ import annotations

import os
import random
import secrets
import shutil
import signal
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, NoReturn

from cyclopts import Parameter
from cyclopts.validators import Number

from cerememory.cli.arguments import Common, WholeNumber
from cerememory.cli.backup import taken
from cerememory.cli.doctor_files import TORTURED
from cerememory.cli.output import note, pretty, warn
from cerememory.cli.settings import load
from cerememory.cli.stores import LOCATED, check_end, open_readonly, refuse_remote
from cerememory.cli.torture_load import Acknowledged, clients
from cerememory.cli.torture_victim import Victim
from cerememory.config.settings import Settings
from cerememory.domain.visible import visible
from cerememory.errors import CerememoryError, DataDirUnusable, StorageUnavailable
from cerememory.storage.audit_outbox import StoredOutbox
from cerememory.storage.backup import AUDIT_NAME, KEYS_NAME, size_of
from cerememory.storage.datadir import PRIVATE_DIR
from cerememory.storage.fsck import Tally, check

FAILED = 1
MIB = 1 << 20
SPARE_MIB = 64  # what the rounds write
WRITES_MIN, WRITES_MAX = 10, 120  # acknowledged, after which a round goes on to its harm
WRITES_LIMIT_S, REFUSED_LIMIT_S = 30.0, 10.0
START_MAX_S, MOMENT_MAX_S = 1.0, 0.02
WRONG_MAX = 100  # findings that are listed
SYNCS = 64
SYNC_BYTES = 4_096
SUSPICIOUS_MS = 0.02  # a sync that takes less has written to no disk
CLOSING = (
    "A killed process leaves the system's cache and the disk's own as they are: whether the disk keeps what it"
    " says it has synced, only cutting its power shows."
)


def torture(
    *,
    rounds: Annotated[WholeNumber, Parameter(validator=Number(gte=1, lte=10_000))] = 20,
    seed: WholeNumber | None = None,
    max_minutes: Annotated[WholeNumber, Parameter(validator=Number(gte=1, lte=24 * 60))] = 10,
    folder: Path | None = None,
    keep: bool = False,
    options: Common,
) -> int:
    """Kill daemons on a copy of the data dir while they write, and look whether what they acknowledged is there.

    Exit code 1 when something isn't; then the copy is kept.

    Args:
        rounds: How many daemons are killed.
        seed: Of the moments and kinds of harm; printed, to have the same again.
        max_minutes: No round begins after them.
        folder: Where the copy is made; by default beside the data directory, which is the same disk.
        keep: Keep the copy.
    """
    refuse_remote(options)
    settings = load(options, only=LOCATED).settings
    seed = secrets.randbelow(10**6) if seed is None else seed
    place = settings.data_dir.absolute().parent if folder is None else folder
    with _ended_by_sigterm(), _copied(settings, place, keep) as copy:
        sync = _Sync.measured(copy.settings.data_dir)
        verdict = _Torture(copy, seed, options.json).run(rounds, max_minutes * 60)
        copy.is_kept = keep or not verdict.has_survived
    if options.json:
        kept = str(copy.settings.data_dir) if copy.is_kept else None
        print(pretty({**verdict.described(), "seed": seed, "fsync": asdict(sync), "copy": kept}))
    else:
        _print(verdict, sync, seed)
    if copy.is_kept:
        note(f"the copy is in {copy.settings.data_dir}")
    return 0 if verdict.has_survived else FAILED


@dataclass(slots=True)
class Copy:
    """`settings` are those of the data dir, with the copy in its place."""

    settings: Settings
    is_kept: bool = False


@dataclass(slots=True)
class Verdict:
    rounds: int = 0
    wanted: int = 0
    writes: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def has_survived(self) -> bool:
        return not self.wrong

    def described(self) -> dict[str, Any]:
        return {"survived": self.has_survived, **asdict(self)}


@dataclass(frozen=True, slots=True)
class _Sync:
    """How long the disk takes to sync a page, in milliseconds."""

    median_ms: float
    slowest_ms: float

    @classmethod
    def measured(cls, folder: Path) -> _Sync:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            took = [_timed_sync(file.fileno(), number) for number in range(SYNCS)]
        return cls(round(statistics.median(took) * 1_000, 3), round(max(took) * 1_000, 3))


def _timed_sync(fd: int, number: int) -> float:
    os.pwrite(fd, secrets.token_bytes(SYNC_BYTES), number * SYNC_BYTES)
    began = time.perf_counter()
    os.fsync(fd)
    return time.perf_counter() - began


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM ends the command as ^C does: its daemon is killed, and its copy removed."""

    def end(_signal: int, _frame: object) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _copied(settings: Settings, place: Path, keep: bool) -> Iterator[Copy]:
    """A copy of the data dir in a folder of its own, which goes with the block unless it is kept."""
    open_readonly(settings).close()  # raises what stands in the way
    _check_room(settings, place)
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{settings.data_dir.absolute().name}{TORTURED}", dir=place))
    except OSError as error:
        reason = f"{place}: no copy can be made here: {error.strerror}; name another place with --folder"
        raise DataDirUnusable(reason) from error
    copy = Copy(_placed(settings, folder), is_kept=keep)
    try:
        copied = taken(settings, folder, with_keys=True)
        _copy_keys(settings, folder)
        if copied.findings:
            raise DataDirUnusable(
                f"{settings.data_dir}: doesn't add up, see fsck: what is broken can't be tortured"
            )
        yield copy
    finally:
        if not copy.is_kept:
            shutil.rmtree(folder, ignore_errors=True)


def _placed(settings: Settings, folder: Path) -> Settings:
    security = replace(settings.security, audit_log_path=folder / AUDIT_NAME, audit_key_path=folder / KEYS_NAME)
    return replace(settings, data_dir=folder, security=security)


def _copy_keys(settings: Settings, folder: Path) -> None:
    """Those that are kept elsewhere, too: the daemon needs them."""
    keys = settings.security.audit_key_path
    if keys.is_dir() and keys.resolve() != (settings.data_dir / KEYS_NAME).resolve():
        shutil.copytree(keys, folder / KEYS_NAME, dirs_exist_ok=True)
        (folder / KEYS_NAME).chmod(PRIVATE_DIR)


def _check_room(settings: Settings, place: Path) -> None:
    needed = size_of(settings.data_dir) + (SPARE_MIB + settings.storage.min_free_disk_mib) * MIB
    free = shutil.disk_usage(place).free
    if free < needed:
        raise StorageUnavailable(f"{place}: has {free} bytes free, a copy to torture needs {needed}")
    if place.stat().st_dev != settings.data_dir.stat().st_dev:
        note(f"{place} is on another disk than the data directory: that one is tried")


class _Torture:
    """The rounds on one copy."""

    def __init__(self, copy: Copy, seed: int, is_silent: bool) -> None:
        self._settings = copy.settings
        self._seed = seed
        self._rng = random.Random(seed)
        self._is_silent = is_silent
        self._acknowledged = Acknowledged()
        self._verdict = Verdict()

    def run(self, rounds: int, limit_s: float) -> Verdict:
        """As many rounds as there is time for, until one goes wrong; then a start and an orderly stop."""
        verdict, began = self._verdict, time.monotonic()
        verdict.wanted = rounds
        harms = self._harms()
        with Victim(self._settings.data_dir, self._settings) as victim:
            while verdict.rounds < rounds and not verdict.wrong and time.monotonic() - began < limit_s:
                self._round(victim, harms)
            if not verdict.wrong:
                self._last(victim)
        verdict.writes = self._acknowledged.writes
        return verdict

    def _harms(self) -> dict[str, Callable[[Victim], None]]:
        harms: dict[str, Callable[[Victim], None]] = {
            "killed": self._kill,
            "killed on a full disk": self._kill_on_full_disk,
            "killed in a start": self._kill_in_a_start,
        }
        if self._settings.security.audit_log_enabled:
            harms["killed, the audit log torn"] = self._kill_and_tear_log
        if self._settings.security.persist_search_indexes:
            harms["killed, the index damaged"] = self._kill_and_damage_index
        return harms

    def _round(self, victim: Victim, harms: dict[str, Callable[[Victim], None]]) -> None:
        verdict, writes = self._verdict, self._acknowledged.writes
        names = list(harms)
        name = names[verdict.rounds] if verdict.rounds < len(names) else self._rng.choice(names)  # each once
        verdict.rounds += 1
        try:
            harms[name](victim)
        except CerememoryError as error:
            verdict.wrong.append(str(error))
        self._say(f"round {verdict.rounds}: {name} after {self._acknowledged.writes - writes} writes")

    def _say(self, line: str) -> None:
        wrong = self._verdict.wrong
        if not self._is_silent:
            print(f"{line}: {'not all is well' if wrong else 'all is there and adds up'}", flush=True)

    def _kill(self, victim: Victim) -> None:
        victim.start()
        with clients(victim.url, self._acknowledged, self._rng.getrandbits(32)):
            self._write()
            time.sleep(self._rng.uniform(0, MOMENT_MAX_S))
            victim.kill()
        self._look()

    def _write(self) -> None:
        wanted = self._acknowledged.writes + self._rng.randint(WRITES_MIN, WRITES_MAX)
        self._acknowledged.wait_for_writes(wanted, WRITES_LIMIT_S)

    def _kill_on_full_disk(self, victim: Victim) -> None:
        victim.start()
        with clients(victim.url, self._acknowledged, self._rng.getrandbits(32)):
            self._write()
            victim.fill_disk()
            refused = self._acknowledged.refused
            if not self._acknowledged.wait_for_refused(refused + 1, REFUSED_LIMIT_S):
                self._verdict.wrong.append("writes were acknowledged that the system had refused")
            if self._rng.random() < 0.5:  # else it dies on the full disk
                victim.free_disk()
                if not self._acknowledged.wait_for_writes(self._acknowledged.writes + 1, WRITES_LIMIT_S):
                    self._verdict.wrong.append("nothing could be written after the disk had room again")
            victim.kill()
        self._look()

    def _kill_in_a_start(self, victim: Victim) -> None:
        victim.begin()
        time.sleep(self._rng.uniform(0, START_MAX_S))
        victim.kill()
        self._look()

    def _kill_and_tear_log(self, victim: Victim) -> None:
        """Of what wasn't synced a power cut may leave any part."""
        self._kill(victim)
        log = self._settings.security.audit_log_path
        with closing(open_readonly(self._settings)) as storage:
            synced = StoredOutbox(storage).synced
        with log.open("rb") as file:
            kept = sum(map(len, islice(file, synced)))
        os.truncate(log, self._rng.randint(kept, log.stat().st_size))
        self._start_and_kill(victim)

    def _kill_and_damage_index(self, victim: Victim) -> None:
        self._kill(victim)
        files = sorted(path for path in (self._settings.data_dir / "index").rglob("*") if path.is_file())
        if files:
            file = self._rng.choice(files)
            os.truncate(file, file.stat().st_size // 2)
        self._start_and_kill(victim)

    def _start_and_kill(self, victim: Victim) -> None:
        """A start mends what was broken."""
        victim.start()
        victim.kill()
        self._look()

    def _last(self, victim: Victim) -> None:
        """Whatever the rounds have done to the copy, a start mends."""
        try:
            victim.start()
            code = victim.stop()
            if code:
                self._verdict.wrong.append(f"a daemon that was asked to stop ended with exit code {code}")
            self._look()
        except CerememoryError as error:
            self._verdict.wrong.append(str(error))
        self._say("a last start, and a stop")

    def _look(self) -> None:
        """Whether all adds up that lies there, and all is there that was acknowledged."""
        settings, security = self._settings, self._settings.security
        with closing(open_readonly(settings)) as storage:
            findings = check(
                storage,
                index_path=settings.data_dir / "index" if security.persist_search_indexes else None,
                audit_path=security.audit_log_path if security.audit_log_enabled else None,
                now=time.time_ns(),
                tally=Tally(),
            )
            self._verdict.wrong += map(str, islice(findings, WRONG_MAX))
            if security.audit_log_enabled:
                check_end(settings, storage, security.audit_log_path)
            with storage.read() as reader:
                self._verdict.wrong += islice(self._acknowledged.lost(reader), WRONG_MAX)


def _print(verdict: Verdict, sync: _Sync, seed: int) -> None:
    for wrong in verdict.wrong:
        print(visible(wrong))
    what = f"{verdict.rounds} of {verdict.wanted} rounds, {verdict.writes} acknowledged writes (seed {seed})"
    print(f"Survived: {what}, none lost" if verdict.has_survived else f"Failed: {what}")
    print(f"A sync of this disk takes {sync.median_ms} ms, the slowest of {SYNCS} took {sync.slowest_ms} ms.")
    if sync.median_ms < SUSPICIOUS_MS:
        warn("no disk syncs that fast: this one is memory, or says so before it has")
    print(CLOSING)
