"""What `doctor` looks at of a store: its map and readers, and what beside it should be level with it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

from cerememory.cli.stores import check_end, open_readonly
from cerememory.cli.verdicts import Patient, Verdict, fail, ok, warn
from cerememory.domain.audit_chain import parse_line
from cerememory.protocol.values import NANOS, format_timestamp
from cerememory.storage.audit_checkpoint import checkpoint_path, read_checkpoint
from cerememory.storage.audit_keys import PUBLIC_NAME, read_public_key
from cerememory.storage.audit_outbox import StoredOutbox
from cerememory.storage.audit_verification import KeptCheckpoint, verify_log
from cerememory.storage.backup import STORE_NAME
from cerememory.storage.contract import Reader
from cerememory.storage.fsck import Finding, Tally
from cerememory.storage.fsck_index import open_index, pending_in
from cerememory.storage.fsck_system import namespaces_in
from cerememory.storage.keys import Table, after, key, system_key, trailing_time
from cerememory.storage.lmdb import GIB, LmdbStorage
from cerememory.storage.rows import parse_log_row

MIB = 1 << 20
NEARLY_FULL = 0.9
AHEAD_NS = 60 * NANOS  # two clocks of one machine differ by less
SET_BACK_NS = 86_400 * NANOS


def check_map(patient: Patient) -> Verdict:
    """How much of the memory map is used: it grows by itself, up to the limit if there is one."""
    limit_gib = patient.settings.storage.map_size_max_gib
    with closing(LmdbStorage.open_readonly(patient.settings.data_dir / STORE_NAME)) as storage:
        used = storage.used_bytes()
    said = f"{used // MIB} MiB used, " + (f"{limit_gib} GiB at most" if limit_gib else "bounded by the disk alone")
    if limit_gib and used > NEARLY_FULL * limit_gib * GIB:
        return warn(f"{said} (storage.map_size_max_gib): writes will soon be refused; compact, or raise the limit")
    return ok(said)


def check_readers(patient: Patient) -> Verdict:
    """Slots of readers whose process is gone keep their pages; the daemon frees them once a minute."""
    with closing(LmdbStorage.open_readonly(patient.settings.data_dir / STORE_NAME)) as storage:
        pids = storage.reader_pids() - {os.getpid()}
    dead = sorted(pid for pid in pids if not _lives(pid))
    if dead:
        return warn(
            f"process(es) {', '.join(map(str, dead))} ended and kept a reader's slot; the next write frees it"
        )
    return ok(f"{len(pids)} process(es) read the store")


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def check_index(patient: Patient) -> Verdict:
    if not patient.settings.security.persist_search_indexes:
        return ok("kept in memory, built at each start")
    tally = Tally()
    index = open_index(patient.settings.data_dir / "index", tally)
    if isinstance(index, Finding):
        return warn(f"{index.what}; the next start builds it again")
    if index is None:
        return warn(f"{tally.notes[-1]}; the next start builds it")
    with closing(index), closing(open_readonly(patient.settings)) as storage, storage.read() as reader:
        pending = pending_in(index, reader)
    if pending is None:
        return warn("is behind the log; the next start builds it again")
    return ok(f"{len(pending)} record(s) behind, which it catches up with" if pending else "level with the store")


def check_audit_log(patient: Patient) -> Verdict:
    """It is compared with the store's head, which must be sealed, and with the checkpoint beside it."""
    security = patient.settings.security
    if not security.audit_log_enabled:
        return ok("switched off (security.audit_log_enabled)")
    log = security.audit_log_path
    with closing(open_readonly(patient.settings)) as storage:
        verified = verify_log(log, StoredOutbox(storage), _kept_beside(log, security.audit_key_path))
        check_end(patient.settings, storage, log)
    pending = f", {verified.pending} pending" if verified.pending else ""
    away = "".join(f"; {unseen}" for unseen in verified.unseen)
    return ok(f"{verified.entries} entries{pending}, level with the store's head{away}")


def _kept_beside(log: Path, keys: Path) -> list[KeptCheckpoint]:
    path = checkpoint_path(log)
    return [(path, read_checkpoint(path, read_public_key(keys / PUBLIC_NAME)))] if path.exists() else []


def check_clock(patient: Patient) -> Verdict:
    """What was written last can't be of the future: if it is, the clock was set back, or was ahead then."""
    with closing(open_readonly(patient.settings)) as storage, storage.read() as reader:
        newest = max(_newest_times(reader), default=0)
    ahead = newest - time.time_ns()
    if ahead <= AHEAD_NS:
        return ok("not behind what was written last")
    behind = timedelta(seconds=ahead // NANOS)
    what = f"is {behind} behind the newest record or audit entry, {format_timestamp(newest)}"
    return fail(f"{what}: it was set back") if ahead > SET_BACK_NS else warn(what)


def _newest_times(reader: Reader) -> Iterator[int]:
    """Of the newest memory and raw entry of each namespace, and of the last audit entry."""
    for namespace in namespaces_in(reader):
        for table in (Table.STATE, Table.RAW_BY_TIME):
            prefix = key(namespace, table)
            for row_key, _value in reader.scan(prefix + b"\0", after(prefix), reverse=True):
                yield trailing_time(row_key)
                break
    prefix = system_key(Table.LOG)
    for _key, value in reader.scan(prefix, after(prefix), reverse=True):
        lines = parse_log_row(value).lines.splitlines(keepends=True)
        if lines:
            yield parse_line(lines[-1]).timestamp
            break
