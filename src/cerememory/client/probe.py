"""One look at a route that isn't CMP: `/health`, `/readiness`."""

from __future__ import annotations

import time
from contextlib import closing

from cerememory.client.address import Address
from cerememory.client.answers import reason
from cerememory.client.connections import Connection, dial, trusting
from cerememory.client.patience import Patience
from cerememory.client.wire import Broken, HttpRequest
from cerememory.errors import DaemonUnreachable

LIMIT_S = 5.0
ANSWER_BYTES_MAX = 65_536


def get(address: Address, path: str) -> tuple[int, bytes]:
    """Status and body of an answer that comes within `LIMIT_S`; else `DaemonUnreachable`.

    `ContentTooLarge` for an answer over `ANSWER_BYTES_MAX`.
    """
    request = HttpRequest("GET", address.prefix + path, {"Accept": "application/json"}, b"")
    patience = Patience(LIMIT_S, 0.0, time.monotonic, lambda: 0.0)
    try:
        sock = dial(address, trusting(address, None), LIMIT_S)
        with closing(Connection(sock, address.authority)) as connection:
            head = connection.perform(connection.http.ask(request), patience)
            return head.status, connection.perform(connection.http.rest(ANSWER_BYTES_MAX), patience)
    except (Broken, OSError) as error:
        said = str(error) if isinstance(error, Broken) else reason(error)
        raise DaemonUnreachable(f"{address.url} gives no answer: {said}") from None
