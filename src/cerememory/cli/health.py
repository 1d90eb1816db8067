"""`cerememory healthcheck`: whether the daemon lives. Reads of the configuration only where it listens."""

from __future__ import annotations

from http import HTTPStatus

import msgspec

from cerememory.cli.arguments import Common, WholeNumber
from cerememory.cli.memory import server_url
from cerememory.cli.options import Options
from cerememory.cli.output import show
from cerememory.cli.settings import load
from cerememory.client.address import Address, parse_address
from cerememory.client.probe import get
from cerememory.errors import DaemonUnreachable

LIVING = {"status": "ok"}


def healthcheck(*, port: WholeNumber | None = None, options: Common) -> None:
    """Ask whether the daemon lives: prints ok, or fails with the reason.

    Args:
        port: TCP port of the HTTP service (http.port).
    """
    url = options.server_url or _configured_url(port, options)
    answer = _ask(parse_address(url))
    show(answer, options, lambda _answer: "ok")


def _configured_url(port: int | None, options: Options) -> str:
    http_settings = load(options, {"http.port": port}, only=("http.port", "http.bind_address")).settings.http
    return server_url(f"{http_settings.bind_address}:{http_settings.port}")


def _ask(address: Address) -> object:
    """What /health answers within the limit of `probe`; `DaemonUnreachable` for anything but that it lives."""
    try:
        status, body = get(address, "/health")
    except DaemonUnreachable as error:
        raise DaemonUnreachable(f"{error}; is the daemon running?") from None
    try:
        answer = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        answer = None
    if status != HTTPStatus.OK or answer != LIVING:
        raise DaemonUnreachable(f"{address.url} answered {status}, not as a Cerememory daemon that lives")
    return answer
