"""How much and how fast: heads, bodies, bytes in flight, requests a second; on the mock clock."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from cerememory.config.keys import BY_NAME
from cerememory.config.settings import RateLimitSettings, Settings
from cerememory.errors import RateLimited
from cerememory.http import rules
from cerememory.http.bodies import BODY_BYTES_MAX, DRAIN_BYTES_MAX, LARGE_BODY_BYTES, PARSED_FACTOR
from cerememory.http.exchange import Message, Receive, Scope, Send
from cerememory.http.rules import RateLimit
from cerememory.http.server import App
from tests.support.asgi import HANG_UP, STALL, AsgiClient, NoAnswer, Part, Reply
from tests.support.engine import settings_with, store_body
from tests.support.gated import BARE, KEYS, bare, bare_gate, gated, with_auth

MIB = 1_048_576
LENGTH: dict[str, str | None] = {}  # as the client counts it
CHUNKED: dict[str, str | None] = {"transfer-encoding": "chunked", "content-length": None}
READ_TIMEOUT_S = 30.0


def with_http(**values: object) -> Settings:
    return settings_with(BARE, "http", **values)


async def upload(client: AsgiClient, parts: list[Part], **headers: str | None) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    with trio.fail_after(3_600):
        return await client.ask("POST", "/v1/encode", parts, named)


def pieces(size_bytes: int, piece_bytes: int = MIB) -> list[Part]:
    """A body of spaces, which is no JSON: the answer to what was read to its end is 400."""
    return [*[b" " * piece_bytes] * (size_bytes // piece_bytes), b" " * (size_bytes % piece_bytes)]


@pytest.mark.parametrize("fields", [98, 99])
async def test_a_head_may_have_a_hundred_fields_and_no_more(fields: int) -> None:
    headers = {f"x-{i}": "v" for i in range(fields - 2)}  # beside host and content-length
    reply = await bare().ask("POST", "/nowhere", b"", {"content-type": None, **headers})
    assert reply.status == 404
    more = {f"y-{i}": "v" for i in range(101 - fields)}
    reply = await bare().ask("POST", "/nowhere", b"", {"content-type": None, **headers, **more})
    assert (reply.status, reply.code) == (431, "VALIDATION_ERROR")
    assert reply.message == "head: 101 fields, at most 100 are allowed"


@pytest.mark.parametrize(("path_bytes", "value_bytes"), [(10, 32_768), (20_000, 20_000), (32_768, 10)])
async def test_a_head_over_32_kib_is_431(path_bytes: int, value_bytes: int) -> None:
    reply = await bare().get("/" + "p" * path_bytes, x_long="v" * value_bytes)
    assert (reply.status, reply.code) == (431, "VALIDATION_ERROR")


async def test_a_head_just_below_is_read() -> None:
    assert (await bare().get("/nowhere", x_long="v" * 32_500)).status == 404


async def test_a_body_over_64_mib_is_413_before_any_of_it_is_read() -> None:
    reply = await upload(bare(), [b" ", b" "], content_length=str(BODY_BYTES_MAX + 1))
    assert (reply.status, reply.code) == (413, "CONTENT_TOO_LARGE")
    assert str(BODY_BYTES_MAX + 1) in reply.message
    assert str(BODY_BYTES_MAX) in reply.message


async def test_a_body_without_a_length_is_413_when_it_turns_out_too_long() -> None:
    client = bare(with_http(max_inflight_bytes=2**40))
    parts = pieces(BODY_BYTES_MAX + 1, 8 * MIB)
    reply = await upload(client, parts, **CHUNKED)
    assert (reply.status, reply.code) == (413, "CONTENT_TOO_LARGE")


async def test_a_length_that_was_a_lie_does_not_get_more_in() -> None:
    client = bare(with_http(max_inflight_bytes=2**40))
    reply = await upload(client, pieces(BODY_BYTES_MAX + 8 * MIB, 8 * MIB), content_length="10")
    assert reply.status == 413


@pytest.mark.parametrize("headers", [{}, CHUNKED], ids=["length", "chunked"])
@pytest.mark.parametrize("parts", [[b"{}"], [b"{", b"}"], [b"", b"{}", b""], [b"{}", b""]])
async def test_a_body_may_come_in_any_parts(headers: dict[str, str | None], parts: list[Part]) -> None:
    reply = await upload(bare(), parts, **headers)
    assert reply.message == "content: missing field"


async def test_over_http_2_a_body_needs_neither_length_nor_encoding() -> None:
    reply = await bare().ask("POST", "/v1/encode", [b"{", b"}"], {"content-length": None}, http_version="2")
    assert reply.message == "content: missing field"


REFUSALS: list[tuple[str, Settings, dict[str, str], int]] = [
    ("key", with_auth(BARE), {}, 401),
    ("origin", BARE, {"origin": "https://evil.example"}, 403),
    ("host", BARE, {"host": "evil.example"}, 403),
    ("namespace", BARE, {"x-cerememory-namespace": "no name"}, 400),
]


class Watched:
    """An application with what goes in and out of it: `received` for each part of the body, and what it sends.

    Each part comes `pause_s` after it was asked for.
    """

    def __init__(self, app: App, pause_s: float = 0.0) -> None:
        self.order: list[str] = []
        self._app = app
        self._pause_s = pause_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def note_receive() -> Message:
            await trio.sleep(self._pause_s)
            message = await receive()
            self.order.append("received")
            return message

        async def note_send(message: Message) -> None:
            self.order.append(message["type"])
            await send(message)

        await self._app(scope, note_receive, note_send)


@pytest.mark.parametrize(
    ("settings", "headers", "status"), [case[1:] for case in REFUSALS], ids=[case[0] for case in REFUSALS]
)
async def test_what_the_head_decides_is_answered_before_a_byte_of_the_body_is_read(
    settings: Settings, headers: dict[str, str], status: int
) -> None:
    """Its head goes out first; the body is dropped before the last part, so that the client gets to read it."""
    watched = Watched(bare_gate(settings))
    reply = await upload(AsgiClient(watched, headers=headers), pieces(3 * MIB))
    assert (reply.status, reply.received) == (status, 4)
    assert watched.order[0] == "http.response.start"
    assert watched.order[-1] == "http.response.body"
    assert watched.order.count("received") == 4
    assert reply.headers["connection"] == "close"


async def test_a_refused_body_is_dropped_up_to_a_bound(autojump_clock: MockClock) -> None:
    client = bare(with_auth(BARE))
    reply = await upload(client, [*pieces(DRAIN_BYTES_MAX), *pieces(8 * MIB), STALL], **CHUNKED)
    assert reply.status == 401
    assert reply.received < 16 + 8 + 3
    assert trio.current_time() < READ_TIMEOUT_S


async def test_a_refused_body_that_does_not_come_is_waited_for_two_seconds(autojump_clock: MockClock) -> None:
    started = trio.current_time()
    reply = await upload(bare(with_auth(BARE)), [b"x", STALL], content_length="100")
    assert reply.status == 401
    assert trio.current_time() - started == pytest.approx(2.0, abs=0.1)


async def test_a_refused_body_is_dropped_until_the_answer_is_out(autojump_clock: MockClock) -> None:
    """The HTTP library ends an answer only when there is room for the body that still comes."""
    gate, has_room, is_last, is_out = bare_gate(with_auth(BARE)), trio.Event(), False, False

    async def behind_full_queue(scope: Scope, _receive: Receive, send: Send) -> None:
        async def receive() -> Message:
            await trio.lowlevel.checkpoint()
            if is_last:
                has_room.set()
            return {"type": "http.request", "body": b" " * MIB, "more_body": True}

        async def send_when_taken(message: Message) -> None:
            nonlocal is_last, is_out
            is_last = not message.get("more_body", True)
            if is_last:
                await has_room.wait()
                is_out = True
            await send(message)

        await gate(scope, receive, send_when_taken)

    assert (await upload(AsgiClient(behind_full_queue), [STALL], **CHUNKED)).status == 401
    assert is_out


async def test_a_refusal_without_a_body_keeps_the_connection() -> None:
    reply = await bare(with_auth(BARE)).ask("GET", "/v1/encode", b"", {"content-length": None})
    assert reply.status == 401
    assert "connection" not in reply.headers


@pytest.mark.parametrize("headers", [{"content-length": "9"}, CHUNKED], ids=["length", "chunked"])
@pytest.mark.parametrize("parts", [[STALL], [b"{", STALL]])
async def test_a_body_whose_next_part_is_too_slow_is_408_and_closed(
    autojump_clock: MockClock, headers: dict[str, str | None], parts: list[Part]
) -> None:
    started = trio.current_time()
    reply = await upload(bare(), parts, **headers)
    assert (reply.status, reply.code) == (408, "VALIDATION_ERROR")
    assert reply.headers["connection"] == "close"
    assert trio.current_time() - started == pytest.approx(READ_TIMEOUT_S + 2.0, abs=0.5)


async def test_a_body_that_goes_on_coming_may_take_longer_than_the_timeout(autojump_clock: MockClock) -> None:
    client = AsgiClient(Watched(bare_gate(), pause_s=READ_TIMEOUT_S - 1))
    reply = await upload(client, [b"{", b" ", b" ", b" ", b"}"])
    assert reply.message == "content: missing field"
    assert trio.current_time() > 4 * READ_TIMEOUT_S


@pytest.mark.parametrize("parts", [[HANG_UP], [b"{", HANG_UP]])
async def test_a_client_that_is_gone_gets_no_answer(parts: list[Part]) -> None:
    with pytest.raises(NoAnswer):
        await upload(bare(), parts, content_length="9")


async def stuck(client: AsgiClient, parts: list[Part], nursery: trio.Nursery, **headers: str | None) -> None:
    """A request whose body stops coming half way, in the background."""
    nursery.start_soon(lambda: upload(client, parts, **headers))
    await trio.testing.wait_all_tasks_blocked()


def test_the_largest_body_has_room_whatever_the_setting() -> None:
    """Else its client would be told to try again for ever."""
    assert BY_NAME["http.max_inflight_bytes"].minimum == PARSED_FACTOR * BODY_BYTES_MAX


async def test_beyond_the_bytes_in_flight_a_request_is_503_at_once(autojump_clock: MockClock) -> None:
    client = bare(with_http(max_inflight_bytes=1_000))
    async with trio.open_nursery() as nursery:
        await stuck(client, [STALL], nursery, content_length="900")
        reply = await upload(client, [b" " * 200])
        assert (reply.status, reply.code, reply.headers["retry-after"]) == (503, "DECAY_ENGINE_BUSY", "1")
        assert (await upload(client, [b" " * 100])).status == 400
        nursery.cancel_scope.cancel()
    assert (await upload(client, [b" " * 1_000])).status == 400, "what a lost request took is given back"


@pytest.mark.parametrize("path", ["/health", "/readiness"])
async def test_what_is_sent_without_a_key_takes_no_room(
    autojump_clock: MockClock, tmp_path: Path, path: str
) -> None:
    """A stranger could have announced as much as there is room for, and sent it a byte at a time."""
    auth = with_auth(BARE).auth
    http = replace(BARE.http, max_inflight_bytes=1_000)
    async with gated(tmp_path, auth=auth, http=http) as daemon, trio.open_nursery() as nursery:
        nursery.start_soon(lambda: daemon.client.ask("POST", path, [b"x", STALL], {"content-length": "1000"}))
        nursery.start_soon(lambda: daemon.client.ask("GET", path, [b"x", STALL], CHUNKED))
        await trio.testing.wait_all_tasks_blocked()
        key = {"authorization": f"Bearer {KEYS[0]}"}
        assert (await daemon.client.ask("POST", "/v1/encode", b" " * 1_000, key)).status == 400
        nursery.cancel_scope.cancel()


async def test_a_probe_with_a_body_is_answered_before_it_comes(autojump_clock: MockClock) -> None:
    reply = await bare().ask("GET", "/health", [b"x", STALL], {"content-length": "1000"})
    assert (reply.status, reply.json, reply.headers["connection"]) == (200, {"status": "ok"}, "close")


async def test_a_large_body_counts_for_what_it_takes_when_it_is_parsed() -> None:
    size = LARGE_BODY_BYTES + 1
    assert (await upload(bare(with_http(max_inflight_bytes=PARSED_FACTOR * size - 1)), pieces(size))).status == 503
    small = bare(with_http(max_inflight_bytes=LARGE_BODY_BYTES))
    assert (await upload(small, pieces(LARGE_BODY_BYTES))).status == 400


async def test_a_chunked_body_counts_for_what_has_come(autojump_clock: MockClock) -> None:
    client = bare(with_http(max_inflight_bytes=1_000))
    async with trio.open_nursery() as nursery:
        await stuck(client, [b" " * 600, STALL], nursery, **CHUNKED)
        assert (await upload(client, [b" " * 300, b" " * 100], **CHUNKED)).status == 400
        reply = await upload(client, [b" " * 300, b" " * 101], **CHUNKED)
        assert (reply.status, reply.code) == (503, "DECAY_ENGINE_BUSY")
        nursery.cancel_scope.cancel()


async def test_every_kind_of_end_gives_back_what_a_body_took(autojump_clock: MockClock) -> None:
    client = bare(with_http(max_inflight_bytes=1_000))
    ends: list[list[Part]] = [
        [b" " * 1_000],
        [b"{" * 500, STALL],
        [b" " * 400, b" " * 700],
        [b" " * 100, HANG_UP],
    ]
    for parts in ends:
        for headers in (LENGTH, CHUNKED):
            try:
                await upload(client, parts, **{"content_length": "1000", **headers})
            except NoAnswer:
                assert HANG_UP in parts
    assert (await upload(client, [b" " * 1_000])).status == 400


async def test_bytes_are_given_back_when_the_work_is_done(tmp_path: Path) -> None:
    async with gated(tmp_path, http=replace(BARE.http, max_inflight_bytes=300)) as daemon:
        for _ in range(5):
            assert (await daemon.client.post("/v1/encode", store_body("x"))).status == 200


LIMITED = replace(BARE, rate_limit=RateLimitSettings(requests_per_second=10, burst=3))


async def test_beyond_the_burst_a_request_is_429_and_says_when_to_come_again(autojump_clock: MockClock) -> None:
    client = bare(LIMITED)
    assert [(await client.get("/nowhere")).status for _ in range(3)] == [404] * 3
    reply = await client.get("/nowhere")
    assert (reply.status, reply.code, reply.headers["retry-after"]) == (429, "RATE_LIMITED", "1")
    await trio.sleep(0.1)
    assert [(await client.get("/nowhere")).status for _ in range(2)] == [404, 429]


async def test_every_client_address_has_a_bucket_of_its_own(autojump_clock: MockClock) -> None:
    settings = settings_with(LIMITED, "http", trusted_proxy_cidrs=("10.0.0.0/8",))
    gate = bare_gate(settings)
    direct, proxied = AsgiClient(gate, "203.0.113.1"), AsgiClient(gate, "10.0.0.1")
    assert [(await direct.get("/nowhere")).status for _ in range(4)] == [404, 404, 404, 429]
    for number in range(5):
        assert (await proxied.get("/nowhere", x_forwarded_for=f"198.51.100.{number}")).status == 404
    assert (await proxied.get("/nowhere", x_forwarded_for="203.0.113.1")).status == 429


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [
        ("10.1.1.1", "::ffff:10.1.1.1", True),
        ("::ffff:a01:101", "::ffff:10.1.1.1", True),
        ("::ffff:10.1.1.1", "::ffff:10.1.1.2", False),
        ("2001:db8:1:1::1", "2001:db8:1:1:ffff::9", True),
        ("2001:db8:1:1::1", "2001:db8:1:2::1", False),
        ("unix", "", False),
    ],
)
async def test_who_has_many_addresses_of_one_network_has_one_bucket(
    autojump_clock: MockClock, one: str, other: str, together: bool
) -> None:
    gate = bare_gate(LIMITED)
    assert [(await AsgiClient(gate, one).get("/nowhere")).status for _ in range(4)] == [404, 404, 404, 429]
    assert (await AsgiClient(gate, other).get("/nowhere")).status == (429 if together else 404)


async def test_the_limit_can_be_changed_and_what_was_taken_stays_taken(autojump_clock: MockClock) -> None:
    gate = bare_gate(LIMITED)
    client = AsgiClient(gate)
    assert [(await client.get("/nowhere")).status for _ in range(4)] == [404, 404, 404, 429]
    gate.reload(replace(BARE, rate_limit=RateLimitSettings(requests_per_second=1, burst=2)))
    await trio.sleep(60.0)
    assert [(await client.get("/nowhere")).status for _ in range(3)] == [404, 404, 429]
    gate.reload(BARE)
    assert [(await client.get("/nowhere")).status for _ in range(3)] == [404] * 3


async def test_health_and_preflights_are_never_limited(autojump_clock: MockClock) -> None:
    client = bare(settings_with(LIMITED, "http", cors_origins=("https://app.example",)))
    for _ in range(10):
        assert (await client.get("/health")).status == 200
        preflight = await client.ask(
            "OPTIONS",
            "/v1/encode",
            b"",
            {"origin": "https://app.example", "access-control-request-method": "POST"},
        )
        assert preflight.status == 204


async def test_guessing_keys_is_limited_too(autojump_clock: MockClock) -> None:
    client = bare(with_auth(LIMITED))
    statuses = [(await client.get("/nowhere", authorization="Bearer guess")).status for _ in range(4)]
    assert statuses == [401, 401, 401, 429]
    assert (await client.get("/nowhere", authorization=f"Bearer {KEYS[0]}")).status == 429


def allowed(limit: RateLimit, address: str, now: float) -> bool:
    try:
        limit.check(address, now)
    except RateLimited as error:
        assert error.retry_after_s is not None
        assert error.retry_after_s >= 1
        return False
    return True


@given(
    st.integers(1, 20),
    st.integers(1, 10),
    st.lists(st.floats(0, 1, allow_subnormal=False), min_size=1, max_size=60),
)
def test_no_address_ever_gets_more_than_burst_and_rate_allow(rate: int, burst: int, gaps: list[float]) -> None:
    limit, now, times = RateLimit(rate, burst), 0.0, list[float]()
    for gap in gaps:
        now += gap
        if allowed(limit, "a", now):
            times.append(now)
    for first, start in enumerate(times):
        for last in range(first, len(times)):
            assert last - first + 1 <= burst + rate * (times[last] - start) + 1e-6


def test_without_a_rate_there_is_no_limit_and_nothing_is_kept() -> None:
    limit = RateLimit(0, 1)
    assert all(allowed(limit, "a", 0.0) for _ in range(1_000))
    assert len(limit) == 0


def test_looking_at_what_is_left_takes_nothing_and_keeps_nothing() -> None:
    limit = RateLimit(2, 3)
    assert [limit.left("a", 0.0) for _ in range(3)] == [3, 3, 3]
    assert len(limit) == 0
    assert allowed(limit, "a", 0.0)
    assert [limit.left("a", 0.0), limit.left("a", 0.25), limit.left("a", 9.0)] == [2.0, 2.5, 3.0]


def test_nobody_is_told_to_come_again_too_early() -> None:
    limit = RateLimit(0.4, 1)
    assert allowed(limit, "a", 0.0)
    with pytest.raises(RateLimited) as refused:
        limit.check("a", 1.0)  # in 1.5 s there is one
    assert refused.value.retry_after_s == 2


def test_idle_buckets_are_dropped() -> None:
    limit = RateLimit(10, 3)
    for number in range(100):
        allowed(limit, f"old-{number}", 0.0)
    assert len(limit) == 100
    allowed(limit, "new", 60.0)
    assert len(limit) == 1


def test_the_number_of_buckets_is_bounded_and_the_longest_unused_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "ADDRESSES_MAX", 50)
    limit = RateLimit(1, 1)
    assert allowed(limit, "watched", 0.0)
    for number in range(500):
        allowed(limit, f"a-{number}", 0.0)
        assert not allowed(limit, "watched", 0.0), "asking keeps a bucket among the newest"
        assert len(limit) <= 50 + 1


def test_a_bucket_that_is_not_full_yet_is_kept() -> None:
    limit = RateLimit(1, 5)
    for _ in range(5):
        assert allowed(limit, "a", 0.0)
    assert allowed(limit, "b", 2.0)
    assert [allowed(limit, "a", 2.0) for _ in range(3)] == [True, True, False]
