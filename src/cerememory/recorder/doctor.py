"""Whether recording would work: the daemon, the spool, the key, and a record that is really stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple

from cerememory.client import Client
from cerememory.client.address import Address
from cerememory.client.probe import get
from cerememory.errors import CerememoryError, DaemonUnreachable
from cerememory.recorder.batches import Batch, new_entry
from cerememory.recorder.events import Moment, read_event, record_of
from cerememory.recorder.spool import Spool

PROBE = (
    b'{"session_id": "cerememory-recorder-doctor", "event_type": "session_summary", "source": "doctor",'
    b' "visibility": "private_scratch", "content": "A probe of cerememory-recorder doctor."}'
)


class Finding(NamedTuple):
    """As a line: `ok NAME - DETAIL`, or `fail`."""

    is_ok: bool
    name: str
    detail: str

    def __str__(self) -> str:
        return f"{'ok' if self.is_ok else 'fail'} {self.name} - {self.detail}"


def examined(
    client: Client, address: Address, spool_dir: Path, moment: Moment, *, skip_probe: bool
) -> Iterator[Finding]:
    """One finding a check. With `skip_probe` nothing is stored; else a small private_scratch record."""
    yield _finding("health", lambda: _ask(address, "/health"))
    yield _finding("readiness", lambda: _ask(address, "/readiness"))
    yield _finding("spool", lambda: _look_into(spool_dir))
    yield _finding("auth", lambda: _recall_nothing(client))
    if skip_probe:
        yield _finding("raw_ingest", lambda: f"not tried; {_recall_nothing(client)}")
    else:
        yield _finding("raw_ingest", lambda: _store_probe(client, moment))


def _finding(name: str, check: Callable[[], str]) -> Finding:
    """`check` returns the detail, or raises what stands in the way."""
    try:
        return Finding(True, name, check())
    except CerememoryError as error:
        return Finding(False, name, str(error) or type(error).__name__)
    except OSError as error:
        return Finding(False, name, error.strerror or str(error) or type(error).__name__)


def _ask(address: Address, path: str) -> str:
    status, body = get(address, path)
    if status != HTTPStatus.OK:
        raise DaemonUnreachable(f"{address.url} answered {status} {body[:200].decode(errors='replace')}".rstrip())
    return address.url


def _look_into(spool_dir: Path) -> str:
    with Spool(spool_dir) as spool:
        spool.check_writable()
        return f"{spool_dir}: {spool.usage()}"


def _recall_nothing(client: Client) -> str:
    client.call("recall.raw_query", {"limit": 0})
    return "a raw recall was answered"


def _store_probe(client: Client, moment: Moment) -> str:
    batch = Batch((new_entry(record_of(read_event(PROBE), moment), None),))
    answer = client.call("encode.batch_raw", batch.body, idempotency_key=batch.key)
    return f"stored {answer['results'][0]['record_id']}"
