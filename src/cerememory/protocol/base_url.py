"""The address of a service, a daemon or a provider: taken apart, and refused when it can't be meant.

Functions raise `ValueError` with a reason and no name; the caller knows the setting or the option.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

PORTS = {"http": 80, "https": 443}
LOCAL_SUFFIXES = (".localhost", ".local", ".lan", ".internal", ".home.arpa")

_VISIBLE_ASCII = re.compile(r"[!-~]+")


@dataclass(frozen=True, slots=True)
class BaseUrl:
    """`host` is a name or a bare IP address; `prefix` is the path without its last slash, "" for none."""

    scheme: str
    host: str
    port: int
    prefix: str

    @property
    def authority(self) -> str:
        """The value of a Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether the host is this machine: by name or number, nothing is looked up."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def is_private(self) -> bool:
        """Whether nobody on the network can read what goes there."""
        return self.scheme == "https" or self.is_loopback

    @property
    def is_local(self) -> bool:
        """Whether the host is this machine or one of its own network: by name or number, nothing is looked up."""
        try:
            return ipaddress.ip_address(self.host).is_private
        except ValueError:
            return "." not in self.host or self.host.endswith(LOCAL_SUFFIXES)


def parse_base_url(text: str) -> BaseUrl:
    """`text` taken apart: http or https, a host, and at most a path. No reason shows a password."""
    if not _VISIBLE_ASCII.fullmatch(text):
        raise ValueError("must be visible ASCII characters, without spaces")
    parts = urlsplit(text)
    host, port = parts.hostname or "", parts.port
    if parts.scheme not in PORTS or not _is_host(host):
        raise ValueError("must start with http:// or https:// and a host")
    if "@" in parts.netloc or "?" in text or "#" in text:
        raise ValueError("must have no user, query or fragment")
    return BaseUrl(parts.scheme, host, PORTS[parts.scheme] if port is None else port, parts.path.rstrip("/"))


def _is_host(name: str) -> bool:
    """Whether each part between dots has a length that DNS knows; looking up any other is an error."""
    return all(0 < len(label) < 64 for label in name.removesuffix(".").split("."))


def is_header_text(text: str) -> bool:
    """Whether an HTTP header can carry `text` as one word."""
    return _VISIBLE_ASCII.fullmatch(text) is not None
