"""The bench's client and floors on tiny numbers, against a server in a thread; how fast they are, no test says."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest
from bench.client import BenchFailed, Connection, get, post, rate, requests_per_s
from bench.floors import puts_per_s
from bench.rounds import QUICK, Plan, check_hits

EMPTY = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
SHORT_S = 0.001


@contextmanager
def server(*pieces: bytes) -> Iterator[tuple[str, int]]:
    """Answers each request, which comes in one piece, with `pieces` in as many writes; closes after none."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=_accept, args=(listening, pieces), daemon=True).start()
        yield listening.getsockname()
        listening.shutdown(socket.SHUT_RDWR)


def _accept(listening: socket.socket, pieces: tuple[bytes, ...]) -> None:
    while True:
        try:
            connection, _peer = listening.accept()
        except OSError:
            return
        threading.Thread(target=_serve, args=(connection, pieces), daemon=True).start()


def _serve(connection: socket.socket, pieces: tuple[bytes, ...]) -> None:
    with connection:
        while connection.recv(65_536) and pieces:
            for piece in pieces:
                connection.sendall(piece)


@pytest.mark.parametrize(
    "pieces",
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",),
        (b"HTTP/1.1 200 OK\r\ncontent-le", b"ngth: 5\r\n", b"\r\nhel", b"lo"),
    ],
    ids=["whole", "in pieces"],
)
def test_an_answer_is_read_to_its_end_and_the_connection_kept(pieces: tuple[bytes, ...]) -> None:
    with server(*pieces) as address, Connection(address) as connection:
        assert [connection.ask(get("/")) for _ in range(3)] == [b"hello"] * 3


@pytest.mark.parametrize(
    ("pieces", "reason"),
    [
        ((b"HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nbusy",), "503 Busy.*busy"),
        ((b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",), "without a length"),
        ((), "closed the connection"),
    ],
    ids=["refused", "without a length", "closed"],
)
def test_what_is_no_whole_200_breaks_the_bench(pieces: tuple[bytes, ...], reason: str) -> None:
    with server(*pieces) as address, Connection(address) as connection, pytest.raises(BenchFailed, match=reason):
        connection.ask(get("/"))


def test_a_body_is_sent_with_its_length() -> None:
    head, _, body = post("/v1/encode", b'{"a":1}').partition(b"\r\n\r\n")
    assert body == b'{"a":1}'
    assert b"Content-Length: 7" in head.split(b"\r\n")


@pytest.mark.parametrize("connections", [1, 3])
def test_each_connection_asks_again_when_it_was_answered(connections: int) -> None:
    sent = count()
    requests = (get(f"/{next(sent)}") for _ in iter(int, 1))
    with server(EMPTY) as address:
        answers_per_s = requests_per_s(address, requests, connections, warm_up_s=SHORT_S, duration_s=SHORT_S)
    assert answers_per_s > 0
    assert next(sent) >= connections


def test_a_rate_counts_at_least_one_step() -> None:
    steps: list[int] = []
    assert rate(lambda: steps.append(1), SHORT_S) > 0
    assert steps


def test_puts_are_counted_in_a_store_of_their_own(tmp_path: Path) -> None:
    assert puts_per_s(tmp_path, warm_up_s=SHORT_S, duration_s=SHORT_S) > 0
    assert (tmp_path / "data.mdb").exists()


def test_a_recall_that_finds_too_little_is_not_measured() -> None:
    body = b'{"memories":[{"relevance_score":1.0}]}'
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    with server(answer) as address, pytest.raises(BenchFailed, match="found 1 memories, 10 were expected"):
        check_hits(address, get("/"))


def test_a_quick_run_measures_less_of_everything() -> None:
    full = Plan()
    assert QUICK.rounds * QUICK.duration_s < full.rounds * full.duration_s
    assert QUICK.records < full.records
