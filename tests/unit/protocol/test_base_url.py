"""The address of another service: what is taken, what is refused, and which hosts count as near."""

from __future__ import annotations

import pytest

from cerememory.protocol.base_url import BaseUrl, is_header_text, parse_base_url


@pytest.mark.parametrize(
    ("text", "meant", "authority"),
    [
        ("https://api.example.com", BaseUrl("https", "api.example.com", 443, ""), "api.example.com"),
        ("https://api.example.com/", BaseUrl("https", "api.example.com", 443, ""), "api.example.com"),
        ("http://localhost:11434/v1/", BaseUrl("http", "localhost", 11434, "/v1"), "localhost:11434"),
        ("HTTPS://Api.Example.com:443/A/b", BaseUrl("https", "api.example.com", 443, "/A/b"), "api.example.com"),
        ("http://[::1]:8000", BaseUrl("http", "::1", 8000, ""), "[::1]:8000"),
        ("http://[::1]", BaseUrl("http", "::1", 80, ""), "[::1]"),
    ],
)
def test_an_address_is_taken_apart(text: str, meant: BaseUrl, authority: str) -> None:
    assert parse_base_url(text) == meant
    assert parse_base_url(text).authority == authority


@pytest.mark.parametrize(
    "text",
    [
        "ftp://example.com",
        "example.com",
        "//example.com",
        "https://",
        "https:///v1",
        "https://a..b",
        f"https://{'a' * 64}.com",
        "https://user:hunter2@example.com",
        "https://hunter2@example.com",
        "https://example.com/v1?key=hunter2",
        "https://example.com?",
        "https://example.com/#part",
        "https://example.com:99999",
        "https://example.com:port",
        "https://[::1",
        "https://exa mple.com",
        "https://exämple.com",
        "https://example.com\n",
        "",
    ],
)
def test_what_cant_be_meant_is_refused_without_showing_a_secret(text: str) -> None:
    with pytest.raises(ValueError) as refused:
        parse_base_url(text)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("host", "is_local"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("[::1]", True),
        ("10.1.2.3", True),
        ("192.168.0.9", True),
        ("[fd00::1]", True),
        ("ollama", True),
        ("box.local", True),
        ("box.lan", True),
        ("api.openai.com", False),
        ("8.8.8.8", False),
        ("[2606:4700::1111]", False),
        ("mylocal", True),
        ("evil.example.local.com", False),
    ],
)
def test_a_host_is_near_by_its_name_or_number(host: str, is_local: bool) -> None:
    assert parse_base_url(f"http://{host}/v1").is_local is is_local


@pytest.mark.parametrize(
    ("text", "fits"),
    [("sk-abc_123.~", True), ("", False), ("a b", False), ("a\n", False), ("ä", False), ("a\x00", False)],
)
def test_a_header_carries_visible_ascii(text: str, fits: bool) -> None:
    assert is_header_text(text) is fits
