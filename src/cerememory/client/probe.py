"""One look at a route that isn't CMP: `/health`, `/readiness`."""

from __future__ import annotations

from cerememory.client.address import Address
from cerememory.client.connections import ConnectionPool

LIMIT_S = 5.0
ANSWER_BYTES_MAX = 65_536


def get(address: Address, path: str) -> tuple[int, bytes]:
    """Status and body of an answer that comes within `LIMIT_S`; else `OSError` or `HTTPException`."""
    connection = ConnectionPool(address, LIMIT_S).open(LIMIT_S)
    try:
        connection.request("GET", address.prefix + path)
        with connection.getresponse() as response:
            return response.status, response.read(ANSWER_BYTES_MAX)
    finally:
        connection.close()
