"""Where a daemon is: the server URL taken apart, and refused when it can't be meant or isn't safe."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from cerememory.errors import ValidationFailed

_VISIBLE_ASCII = re.compile(r"[!-~]+")
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Address:
    """`prefix` is the URL's path without its last slash; it goes before the path of every operation."""

    url: str
    scheme: str
    host: str
    port: int
    prefix: str

    @property
    def is_loopback(self) -> bool:
        """By name or number only; nothing is looked up."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse_address(server_url: str) -> Address:
    """`server_url` taken apart. `ValidationFailed` unless it is http or https, a host, and at most a path."""
    if not _VISIBLE_ASCII.fullmatch(server_url):
        raise ValidationFailed("server_url: must be visible ASCII characters, without spaces")
    try:
        parts = urlsplit(server_url)
        port, host = parts.port, parts.hostname or ""
    except ValueError as error:
        raise ValidationFailed(f"server_url: {error}") from None
    if parts.scheme not in _PORTS or not _is_host(host):
        raise ValidationFailed("server_url: must start with http:// or https:// and a host")
    if "@" in parts.netloc or "?" in server_url or "#" in server_url:
        raise ValidationFailed("server_url: must have no user, query or fragment")
    return Address(
        url=server_url.rstrip("/"),
        scheme=parts.scheme,
        host=host,
        port=_PORTS[parts.scheme] if port is None else port,
        prefix=parts.path.rstrip("/"),
    )


def _is_host(name: str) -> bool:
    """Whether each part between dots has a length that DNS knows; looking up any other is an error."""
    return all(0 < len(label) < 64 for label in name.removesuffix(".").split("."))


def check_api_key(api_key: str | None, address: Address) -> None:
    """Refuses a key that no header can carry, and one that others on the network could read."""
    if api_key is None:
        return
    if not _VISIBLE_ASCII.fullmatch(api_key):
        raise ValidationFailed("api_key: must be visible ASCII characters, without spaces")
    if address.scheme == "http" and not address.is_loopback:
        raise ValidationFailed(
            f"api_key: would go to {address.host} unencrypted; use https://, or a loopback address"
        )
