"""`cerememory doctor`: what stands in the way of a daemon, or soon will; changes nothing.

Works beside a running daemon and without one, and whatever is wrong with the configuration, which is one of its
findings. Of the rows it says little: `fsck` looks at them all.
"""

from __future__ import annotations

import os
import platform
import resource
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path

import lmdb
import msgspec

from cerememory import __version__
from cerememory.cli import doctor_files, doctor_store
from cerememory.cli.arguments import Common
from cerememory.cli.memory import server_url
from cerememory.cli.options import Options
from cerememory.cli.output import pretty
from cerememory.cli.settings import check_start, load
from cerememory.cli.stores import LOCATED, is_locked, open_readonly, refuse_remote
from cerememory.cli.verdicts import Patient, Verdict, fail, ok, warn
from cerememory.client.address import parse_address
from cerememory.client.probe import get
from cerememory.config.settings import Settings
from cerememory.config.sources import CONFIG_VARIABLE
from cerememory.config.sources import load as load_sources
from cerememory.domain.visible import visible
from cerememory.errors import CerememoryError, ConfigInvalid, DataDirUnusable
from cerememory.storage.backup import STORE_NAME
from cerememory.storage.datadir import owner_of
from cerememory.storage.lmdb import GIB

FAILED = 1
FILES_SPARE = 128  # descriptors beside those of connections: store, index, log, clients
UNLIMITED = resource.RLIM_INFINITY

Checks = dict[str, Callable[[Patient], Verdict]]


def doctor(*, options: Common) -> int:
    """Look for what stands in the way of a daemon, or soon will; changes nothing.

    One line a check: ok, warn or fail. Exit code 1 when one fails.
    """
    refuse_remote(options)
    found: list[tuple[str, Verdict]] = []
    for name, verdict in examined(options):
        found.append((name, verdict))
        if not options.json:
            print(visible(f"{verdict.status} {name} - {verdict.detail}"), flush=True)
    if options.json:
        print(pretty([{"status": each.status, "name": name, "detail": each.detail} for name, each in found]))
    return FAILED if any(verdict.status == "fail" for _name, verdict in found) else 0


def examined(options: Options) -> Iterator[tuple[str, Verdict]]:
    """Name and verdict of each check. Where the data dir isn't there, those of it are left out."""
    yield "version", ok(f"Cerememory {__version__}, Python {platform.python_version()}, LMDB {_lmdb_version()}")
    yield "config", _check_config(options)
    try:
        settings = _settings(options)
        yield "data_dir", _check_data_dir(settings.data_dir)
        if not settings.data_dir.is_dir():
            return
        patient = Patient(settings, owner_of(settings.data_dir))
    except (CerememoryError, OSError) as error:
        yield "data_dir", fail(_reason(error))
        return
    for name, check in FILES.items():
        yield name, _examined(check, patient)
    yield "store", (verdict := _examined(_check_store, patient))
    if verdict.status == "ok":
        for name, check in STORE.items():
            yield name, _examined(check, patient)


def _examined(check: Callable[[Patient], Verdict], patient: Patient) -> Verdict:
    try:
        return check(patient)
    except (CerememoryError, OSError) as error:
        return fail(_reason(error))


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{error.filename or 'system'}: {error.strerror or error}"
    return "; ".join(str(error).splitlines())


def _lmdb_version() -> str:
    return ".".join(map(str, lmdb.version()))


def _check_config(options: Options) -> Verdict:
    try:
        loaded = load(options)
        check_start(loaded, for_serve=True)
    except (ConfigInvalid, DataDirUnusable) as error:
        return fail(_reason(error))
    return ok(str(loaded.config_path or "defaults"))


def _settings(options: Options) -> Settings:
    """Where things are, from whatever can be read of the configuration."""
    try:
        return load(options, only=LOCATED).settings
    except ConfigInvalid:
        environ = {name: value for name, value in os.environ.items() if name != CONFIG_VARIABLE}
        return load_sources(None, environ, {"data_dir": options.data_dir}, only=LOCATED).settings


def _check_data_dir(path: Path) -> Verdict:
    if not path.exists():
        return warn(f"{path} isn't there; the first start makes it")
    return ok(str(path)) if path.is_dir() else fail(f"{path} is no directory")


def _check_lock(patient: Patient) -> Verdict:
    return ok("free" if patient.owner is None else f"held by {patient.owner}")


def _check_daemon(patient: Patient) -> Verdict:
    owner = patient.owner
    if owner is None:
        return ok("none runs")
    if not owner.address:
        return ok(f"none runs: process {owner.pid} is a command")
    url = server_url(owner.address)
    try:
        status, body = get(parse_address(url), "/readiness")
    except CerememoryError as error:
        return fail(f"process {owner.pid} has the data, but {error}")
    if status != HTTPStatus.OK:
        return fail(f"{url} isn't ready: {_told(body)}")
    if owner.version != __version__:
        return warn(
            f"{url} is ready, and runs version {owner.version or 'unknown'}, not {__version__}: restart it"
        )
    return ok(f"{url} is ready, version {owner.version}")


def _told(body: bytes) -> str:
    try:
        return str(msgspec.json.decode(body)["reason"])
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError):
        return "it doesn't say why"


def _check_limits(patient: Patient) -> Verdict:
    """What the daemon's process may have; without a daemon, what this one may."""
    pid = 0 if patient.owner is None else patient.owner.pid
    files, _most = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    memory, _most = resource.prlimit(pid, resource.RLIMIT_AS)
    needed = patient.settings.http.max_connections + FILES_SPARE
    if files != UNLIMITED and files < needed:
        return warn(f"{files} open files, {needed} are needed for http.max_connections (ulimit -n, LimitNOFILE=)")
    if memory != UNLIMITED and memory < patient.settings.storage.map_size_gib * GIB:
        return warn(
            f"{memory} bytes of address space (ulimit -v): less than storage.map_size_gib, which is halved"
        )
    return ok(f"{'unlimited' if files == UNLIMITED else files} open files")


def _check_store(patient: Patient) -> Verdict:
    path = patient.settings.data_dir / STORE_NAME
    if not path.exists():
        return warn("there is none yet")
    if is_locked(patient.settings, path):
        return warn("is encrypted, and no passphrase is given to look into it")
    open_readonly(patient.settings).close()
    return ok("can be opened")


FILES: Checks = {
    "permissions": doctor_files.check_permissions,
    "file_system": doctor_files.check_file_system,
    "lock": _check_lock,
    "daemon": _check_daemon,
    "limits": _check_limits,
    "format": doctor_files.check_format_version,
    "disk": doctor_files.check_disk,
    "leftovers": doctor_files.check_leftovers,
}
STORE: Checks = {  # of one that can be opened
    "map": doctor_store.check_map,
    "readers": doctor_store.check_readers,
    "index": doctor_store.check_index,
    "audit": doctor_store.check_audit_log,
    "clock": doctor_store.check_clock,
}
