"""Server URLs and API keys: what is taken apart, and what is refused."""

from __future__ import annotations

import pytest

from cerememory.client.address import check_api_key, parse_address
from cerememory.errors import ValidationFailed


def test_a_url_is_taken_apart() -> None:
    address = parse_address("https://memory.example:8443/base/")
    assert (address.scheme, address.host, address.port) == ("https", "memory.example", 8443)
    assert address.prefix == "/base"


@pytest.mark.parametrize(("url", "port"), [("http://h", 80), ("https://h", 443), ("http://h:8420/", 8420)])
def test_a_missing_port_is_the_schemes(url: str, port: int) -> None:
    assert parse_address(url).port == port


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftp://h", "http://"),
        ("localhost:8420", "http://"),
        ("http://", "host"),
        ("http://a..b", "host"),
        (f"http://{'a' * 64}.example", "host"),
        ("", "visible ASCII"),
        ("http://h\n", "visible ASCII"),
        ("http://höst", "visible ASCII"),
        ("http://user@h", "user"),
        ("http://user:secret@h", "user"),
        ("http://h?x=1", "query"),
        ("http://h?", "query"),
        ("http://h/#part", "fragment"),
        ("http://h:port", "Port"),
        ("http://h:70000", "Port"),
        ("http://[::1", "IPv6"),
    ],
)
def test_a_url_that_cant_be_meant_is_refused_with_the_reason(url: str, reason: str) -> None:
    with pytest.raises(ValidationFailed, match=reason) as caught:
        parse_address(url)
    assert str(caught.value).startswith("server_url: ")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.0.0.1", "127.8.8.8", "[::1]"])
def test_a_key_may_go_unencrypted_to_a_loopback_host(host: str) -> None:
    address = parse_address(f"http://{host}:8420")
    assert address.is_loopback
    check_api_key("key", address)


@pytest.mark.parametrize("host", ["10.0.0.1", "memory.example", "localhost.example", "[2001:db8::1]"])
def test_a_key_is_not_sent_unencrypted_to_another_host(host: str) -> None:
    with pytest.raises(ValidationFailed, match="unencrypted"):
        check_api_key("key", parse_address(f"http://{host}:8420"))
    check_api_key("key", parse_address(f"https://{host}:8420"))
    check_api_key(None, parse_address(f"http://{host}:8420"))


@pytest.mark.parametrize("key", ["", "two words", "line\nfeed", "schlüssel"])
def test_a_key_that_no_header_can_carry_is_refused(key: str) -> None:
    with pytest.raises(ValidationFailed, match="api_key: must be visible ASCII"):
        check_api_key(key, parse_address("https://h"))
