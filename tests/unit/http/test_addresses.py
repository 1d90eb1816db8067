"""Which address a request counts against: the peer's, or what proxies that are trusted say."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerememory.http.exchange import Exchange
from cerememory.http.rules import Addresses

TRUSTED = Addresses(["10.0.0.0/8", "fd00::/8"])
NOBODY = Addresses([])
PROXY, CLIENT = "10.0.0.1", "203.0.113.9"
OUTSIDE = st.sampled_from(["203.0.113.9", "198.51.100.7", "2001:db8::1"])
INSIDE = st.sampled_from(["10.0.0.1", "10.255.0.9", "fd00::5"])
JUNK = st.sampled_from(["", "unknown", "1.2.3", "1.2.3.4:80", "_hidden", "[::1]", "1.2.3.4 5.6.7.8"])
ENTRIES = st.lists(OUTSIDE | INSIDE | JUNK, max_size=6)


def client(rules: Addresses, peer: str, *forwarded: str, real: str | None = None) -> str:
    headers = [(b"x-forwarded-for", line.encode()) for line in forwarded]
    if real is not None:
        headers.append((b"x-real-ip", real.encode()))
    scope = {
        "method": "GET",
        "path": "/",
        "query_string": b"",
        "headers": headers,
        "client": (peer, 1),
        "http_version": "1.1",
    }
    return rules.client(Exchange.of(scope))


@given(ENTRIES, st.none() | OUTSIDE)
def test_without_trusted_proxies_only_the_peer_counts(entries: list[str], real: str | None) -> None:
    assert client(NOBODY, PROXY, ",".join(entries), real=real) == PROXY


@given(OUTSIDE, ENTRIES, st.none() | OUTSIDE)
def test_a_peer_that_is_not_trusted_is_not_believed(peer: str, entries: list[str], real: str | None) -> None:
    assert client(TRUSTED, peer, ",".join(entries), real=real) == peer


@given(before=ENTRIES, found=OUTSIDE, proxies=st.lists(INSIDE, max_size=3), real=st.none() | OUTSIDE)
def test_the_rightmost_entry_that_is_not_trusted_counts_whatever_stands_before_it(
    before: list[str], found: str, proxies: list[str], real: str | None
) -> None:
    assert client(TRUSTED, PROXY, ", ".join([*before, found, *proxies]), real=real) == found


@given(entries=ENTRIES, junk=JUNK, proxies=st.lists(INSIDE, max_size=3))
def test_what_stands_before_an_entry_that_is_no_address_is_not_believed(
    entries: list[str], junk: str, proxies: list[str]
) -> None:
    """A client may send any X-Forwarded-For; a proxy appends to it, perhaps in a form that we can't read."""
    line = ",".join([*entries, junk, *proxies])
    assert client(TRUSTED, PROXY, line) == PROXY
    assert client(TRUSTED, PROXY, line, real=CLIENT) == CLIENT


@given(proxies=st.lists(INSIDE, max_size=4), real=st.none() | OUTSIDE | INSIDE | JUNK)
def test_with_proxies_alone_the_real_ip_counts_and_without_one_the_peer(
    proxies: list[str], real: str | None
) -> None:
    found = client(TRUSTED, PROXY, ",".join(proxies), real=real)
    readable = real is not None and _is_address(real)
    assert found == (real if readable else PROXY)


@given(entries=st.lists(OUTSIDE | INSIDE, min_size=2, max_size=6), cut=st.integers(1, 5))
def test_several_lines_are_one_list(entries: list[str], cut: int) -> None:
    one_line = client(TRUSTED, PROXY, ",".join(entries))
    lines = [",".join(part) for part in (entries[:cut], entries[cut:]) if part]
    assert client(TRUSTED, PROXY, *lines) == one_line


@pytest.mark.parametrize("peer", ["", "unix", "10.0.0.1.5"])
def test_a_peer_that_is_no_address_is_not_trusted(peer: str) -> None:
    assert client(TRUSTED, peer, CLIENT) == peer


@pytest.mark.parametrize("peer", ["::ffff:10.0.0.1", "::ffff:a00:1", "0:0:0:0:0:ffff:10.0.0.1"])
def test_ipv4_that_comes_by_an_ipv6_socket_is_ipv4(peer: str) -> None:
    """A socket that listens on :: sees every IPv4 peer so: its proxy is trusted, and named as it is."""
    assert client(TRUSTED, peer, CLIENT) == CLIENT
    assert client(TRUSTED, peer, f"::ffff:{CLIENT}") == CLIENT
    assert client(TRUSTED, peer, CLIENT, "::ffff:10.0.0.2") == CLIENT
    assert client(TRUSTED, peer, real=f"::ffff:{CLIENT}") == CLIENT
    assert client(TRUSTED, peer) == PROXY
    assert client(NOBODY, peer) == PROXY


@pytest.mark.parametrize("cidr", ["::ffff:10.0.0.0/104", "::ffff:10.0.0.1"])
def test_a_network_may_be_written_so_too(cidr: str) -> None:
    assert client(Addresses([cidr]), PROXY, CLIENT) == CLIENT
    assert client(Addresses([cidr]), "11.0.0.1", CLIENT) == "11.0.0.1"


@pytest.mark.parametrize("cidr", ["::/0", "::/80"])
def test_an_ipv6_network_has_no_ipv4_in_it(cidr: str) -> None:
    assert client(Addresses([cidr]), PROXY, CLIENT) == PROXY
    assert client(Addresses([cidr]), "::1", CLIENT) == CLIENT


def test_a_network_may_be_written_with_host_bits() -> None:
    assert client(Addresses(["10.1.2.3/8"]), PROXY, CLIENT) == CLIENT


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
