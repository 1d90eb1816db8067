"""Where a daemon is: the server URL taken apart, and refused when it can't be meant or isn't safe."""

from __future__ import annotations

from dataclasses import dataclass

from cerememory.errors import ValidationFailed
from cerememory.protocol.base_url import BaseUrl, is_header_text, parse_base_url


@dataclass(frozen=True, slots=True)
class Address(BaseUrl):
    """`prefix` goes before the path of every operation; `url` is what was given, without its last slash."""

    url: str


def parse_address(server_url: str) -> Address:
    """`server_url` taken apart. `ValidationFailed` unless it is http or https, a host, and at most a path."""
    try:
        base = parse_base_url(server_url)
    except ValueError as error:
        raise ValidationFailed(f"server_url: {error}") from None
    return Address(base.scheme, base.host, base.port, base.prefix, server_url.rstrip("/"))


def check_api_key(api_key: str | None, address: Address) -> None:
    """Refuses a key that no header can carry, and one that others on the network could read."""
    if api_key is None:
        return
    if not is_header_text(api_key):
        raise ValidationFailed("api_key: must be visible ASCII characters, without spaces")
    if not address.is_private:
        raise ValidationFailed(
            f"api_key: would go to {address.host} unencrypted; use https://, or a loopback address"
        )
