"""What concerns every call: its status, keys, limits, deadline and metrics; the same engine stands behind HTTP."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
import trio
from trio.testing import MockClock

from cerememory.actors.seams import inline
from cerememory.config.settings import HttpSettings, RateLimitSettings
from cerememory.errors import ANSWERS, CerememoryError, ValidationFailed, WrongMethod, answer_of, is_ours
from cerememory.grpc import framing
from cerememory.grpc.descriptors import CMP, message
from cerememory.grpc.framing import MESSAGE_BYTES_MAX, STATUS_MESSAGE_CHARS_MAX
from cerememory.grpc.gate import GrpcGate
from cerememory.grpc.rpc import Handler, Method, Rpc
from cerememory.http.admission import Admission
from cerememory.http.exchange import Headers
from cerememory.http.rules import HEAD_FIELDS_MAX
from cerememory.protocol.access import READ, Role
from cerememory.protocol.values import NANOS
from cerememory.storage import api_keys
from cerememory.storage.api_keys import KeyFile
from cerememory.telemetry.metrics import Metrics
from tests.support.engine import WAIT_S, settings_for, store_body
from tests.support.gated import BARE, KEYS, with_auth
from tests.support.grpc_calls import STALL, Called, GrpcCalls, called, framed, with_payload
from tests.support.held import HeldOffload
from tests.support.logged import Logged

STORE, STATS = f"/{CMP}/EncodeStore", f"/{CMP}/Stats"
NOBODY = "0191aaaa-0000-7000-8000-00000000ffff"
EMPTY = message("cerememory.v1.Empty")
RECALL = {"cue": {"text": "kettle"}, "reconsolidate": False}
SERIES, DURATIONS = "cerememory_grpc_requests_total", "cerememory_grpc_request_duration_seconds_count"


def raising(error: CerememoryError | Exception) -> GrpcCalls:
    """A gate whose one method fails."""

    async def fail(rpc: Rpc) -> Headers:
        raise error

    return only(fail)


def only(handler: Handler) -> GrpcCalls:
    """A gate with one method, /test/Do, and no engine."""
    metrics = Metrics(())
    method = Method("test/Do", EMPTY, EMPTY, handler, READ)
    return GrpcCalls(GrpcGate(BARE, [method], Admission(BARE, metrics, None, None), metrics, inline))


def example(kind: type[CerememoryError]) -> CerememoryError:
    return kind("said", ("GET",)) if issubclass(kind, WrongMethod) else kind("said")


@pytest.mark.parametrize("kind", ANSWERS, ids=lambda kind: kind.__name__)
async def test_every_error_has_the_status_of_the_one_table(kind: type[CerememoryError]) -> None:
    error = example(kind)
    reply = await raising(error).send("/test/Do", [framed(b"")])
    row = answer_of(error)
    assert reply.refusal == (row.grpc_status, row.code)
    assert ("said" in reply.said) is not is_ours(error)
    assert reply.envelope["code"] == row.code
    assert reply.trailers.get("retry-after") == (None if error.retry_after_s is None else str(error.retry_after_s))
    assert reply.trailers["x-request-id"] == reply.head["x-request-id"] == reply.envelope["request_id"]


async def test_a_crash_says_nothing_of_itself(logged: Logged) -> None:
    reply = await raising(ZeroDivisionError("secret")).send("/test/Do", [framed(b"")])
    assert reply.refusal == ("INTERNAL", "INTERNAL_ERROR")
    assert "secret" not in str(reply)
    assert logged.events() == ["call crashed"]


async def test_a_message_of_any_text_fits_into_a_trailer() -> None:
    said = "100% \u6771\u4eac\r\n" + "x" * 5_000
    reply = await raising(ValidationFailed(said)).send("/test/Do", [framed(b"")])
    assert reply.said.startswith("100%25 %E6%9D%B1%E4%BA%AC%0D%0Axxx")
    assert len(reply.said) <= 3 * STATUS_MESSAGE_CHARS_MAX
    assert "x-cerememory-error-bin" not in reply.trailers  # over what clients take


async def test_what_a_caller_may_get_wrong(tmp_path: Path) -> None:
    """The operations' own errors arrive as they do over HTTP."""
    async with called(tmp_path) as daemon:
        ask = daemon.grpc.ask
        assert (await ask("EncodeStore", b"nope")).refusal == ("INVALID_ARGUMENT", "VALIDATION_ERROR")
        assert (await ask("EncodeStore", {})).said == "content: missing field"
        assert (await ask("EncodeUpdate", {})).said == "record_id: missing field"
        edit = {"record_id": NOBODY, "metadata": {}}
        assert (await ask("EncodeUpdate", edit)).refusal == ("NOT_FOUND", "RECORD_NOT_FOUND")
        assert (await ask("RecallAssociate", {"record_id": "x"})).refusal[0] == "INVALID_ARGUMENT"
        assert (await ask("Forget", {"confirm": False})).refusal == ("FAILED_PRECONDITION", "FORGET_UNCONFIRMED")
        other = {"protocol": "cmp", "version": "2.0", "request_id": NOBODY, "timestamp": "2026-01-01T00:00:00Z"}
        wrong = await ask("RecallQuery", {**RECALL, "header": other})
        assert wrong.refusal == ("FAILED_PRECONDITION", "VERSION_MISMATCH")
        asked = message("cerememory.v1.IntrospectRecordRequest")
        nobody = await daemon.grpc.send(
            f"/{CMP}/IntrospectRecord", [framed(asked(record_id=NOBODY).SerializeToString())]
        )
        assert nobody.refusal == ("NOT_FOUND", "RECORD_NOT_FOUND")
        bad = await daemon.grpc.send(
            f"/{CMP}/IntrospectRecord", [framed(asked(record_id="x").SerializeToString())]
        )
        assert bad.refusal == ("INVALID_ARGUMENT", "VALIDATION_ERROR")
        unknown = await ask("Unknown", {})
        assert unknown.refusal == ("UNIMPLEMENTED", "VALIDATION_ERROR")
        assert (await daemon.grpc.send(STATS, [framed(b"")], query="x=1")).status == "UNIMPLEMENTED"


async def test_an_idempotency_key_a_version_and_a_sequence_work_as_they_do_over_http(tmp_path: Path) -> None:
    async with called(tmp_path) as daemon:
        ask, once = daemon.grpc.ask, {"idempotency-key": "k"}
        first, again = [await ask("EncodeStore", store_body("kettle"), once) for _ in range(2)]
        assert first.messages == again.messages
        assert first.trailers["x-cerememory-sequence"] == "1"
        other = await ask("EncodeStore", store_body("pot"), once)
        assert other.refusal == ("ALREADY_EXISTS", "IMPORT_CONFLICT")
        record_id = first.json["record_id"]
        edit = {"record_id": record_id, "metadata": {"seen": True}}
        stale = await ask("EncodeUpdate", edit, {"if-match": "7"})
        assert stale.refusal == ("ABORTED", "VERSION_MISMATCH")
        assert stale.envelope["details"] == {"current_version": 1}
        assert (await ask("EncodeUpdate", edit, {"if-match": "1"})).status == "OK"
        assert (await ask("RecallQuery", RECALL, {"x-cerememory-sequence": "1"})).status == "OK"


async def test_a_recall_that_asks_for_a_commit_waits_for_the_index(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    held = HeldOffload()
    async with called(tmp_path, offload=held) as daemon:
        held.hold("_apply")
        stored = await daemon.grpc.ask("EncodeStore", store_body("kettle"))
        started = trio.current_time()
        named = {"x-cerememory-sequence": stored.trailers["x-cerememory-sequence"]}
        behind = (await daemon.grpc.ask("RecallQuery", RECALL, named)).json
        assert not behind["query_metadata"]["index_complete"]
        assert trio.current_time() - started == pytest.approx(1.0)
        held.release("_apply")


async def test_keys_are_asked_for_and_roles_and_scopes_hold(tmp_path: Path) -> None:
    settings = with_auth(settings_for(tmp_path, rate_limit=BARE.rate_limit))
    async with called(tmp_path, settings=settings, stored_keys=KeyFile(settings.data_dir)) as daemon:
        reader = _bearer(settings.data_dir, Role.READ, None)
        scoped = _bearer(settings.data_dir, Role.WRITE, "work")
        ask, admin = daemon.grpc.ask, {"authorization": f"Bearer {KEYS[0]}"}
        assert (await ask("Stats", b"")).refusal == ("UNAUTHENTICATED", "UNAUTHORIZED")
        assert (await ask("Unknown", b"")).status == "UNAUTHENTICATED"
        assert (await ask("Unknown", b"", admin)).status == "UNIMPLEMENTED"
        assert (await ask("RecallQuery", RECALL, reader)).status == "OK"
        refused = await ask("EncodeStore", store_body("x"), reader)
        assert refused.refusal == ("PERMISSION_DENIED", "UNAUTHORIZED")
        assert refused.said == f"{CMP}/EncodeStore: needs a key with the role write, this one has read"
        assert (await ask("Export", {}, scoped)).status == "PERMISSION_DENIED"
        elsewhere = await ask("EncodeStore", store_body("x"), {**scoped, "x-cerememory-namespace": "home"})
        assert elsewhere.status == "PERMISSION_DENIED"
        assert (await ask("EncodeStore", store_body("kettle"), scoped)).status == "OK"
        assert (await ask("RecallQuery", RECALL, {**admin, "x-cerememory-namespace": "work"})).json[
            "total_candidates"
        ] == 1
        assert (await ask("RecallQuery", RECALL, admin)).json["total_candidates"] == 0
        health = await daemon.grpc.send("/grpc.health.v1.Health/Check", [framed(b"")])
        assert health.status == "OK"
        assert (await ask("Stats", b"", {"authorization": "Bearer wrong"})).status == "UNAUTHENTICATED"
    assert daemon.running.counted("cerememory_auth_failures_total", reason="missing") == 2
    assert daemon.running.counted("cerememory_auth_failures_total", reason="unknown") == 1


def _bearer(data_dir: Path, role: Role, namespace: str | None) -> dict[str, str]:
    name = f"{role}-{namespace}"
    _key, text = api_keys.create(data_dir, name=name, role=role, namespace=namespace, now=1_800_000_000 * NANOS)
    return {"authorization": f"Bearer {text}"}


async def test_an_address_has_one_allowance_for_both_services(tmp_path: Path) -> None:
    limited = RateLimitSettings(requests_per_second=1, burst=2)
    async with called(tmp_path, rate_limit=limited) as daemon:
        assert (await daemon.http.ask("GET", "/v1/introspect/stats")).status == 200
        assert (await daemon.grpc.ask("Stats", b"")).status == "OK"
        refused = await daemon.grpc.ask("Stats", b"")
        assert refused.refusal == ("RESOURCE_EXHAUSTED", "RATE_LIMITED")
        assert refused.trailers["retry-after"] == "1"
        assert (await daemon.http.ask("GET", "/v1/introspect/stats")).status == 429
        assert (await daemon.grpc_from("203.0.113.9").ask("Stats", b"")).status == "OK"
        assert (await daemon.grpc.send("/grpc.health.v1.Health/Check", [framed(b"")])).status == "OK"


async def test_a_change_of_the_rate_limit_counts_for_both(tmp_path: Path) -> None:
    async with called(tmp_path, rate_limit=RateLimitSettings(requests_per_second=0)) as daemon:
        changed = replace(daemon.running.settings, rate_limit=RateLimitSettings(requests_per_second=1, burst=1))
        daemon.gate.reload(changed)
        assert (await daemon.grpc.ask("Stats", b"")).status == "OK"
        assert (await daemon.grpc.ask("Stats", b"")).status == "RESOURCE_EXHAUSTED"


@pytest.mark.parametrize(
    ("parts", "status"),
    [
        ([struct.pack(">BI", 0, MESSAGE_BYTES_MAX + 1), STALL], "RESOURCE_EXHAUSTED"),
        ([b""], "INVALID_ARGUMENT"),  # no message
        ([b"\0\0\0"], "INVALID_ARGUMENT"),
        ([framed(b"abc")[:-1]], "INVALID_ARGUMENT"),
        ([framed(b"\xff\xff")], "INVALID_ARGUMENT"),  # no protobuf
        ([framed(b"x", flag=2)], "INVALID_ARGUMENT"),
        ([framed(b"x", flag=1)], "UNIMPLEMENTED"),  # compressed, and it doesn't say how
    ],
    ids=["too long", "none", "half a prefix", "cut", "not protobuf", "flag", "compressed"],
)
async def test_a_message_that_cant_be_taken(tmp_path: Path, parts: list[bytes | str], status: str) -> None:
    async with called(tmp_path) as daemon:
        reply = await daemon.grpc.send(STORE, parts)
        assert (reply.status, daemon.bytes_in_flight) == (status, 0)
        assert reply.head["grpc-accept-encoding"] == "identity,gzip"


async def test_a_message_comes_in_pieces_of_any_size(tmp_path: Path) -> None:
    whole = framed(with_payload(store_body("kettle")))
    async with called(tmp_path) as daemon:
        assert (await daemon.grpc.send(STORE, [whole[i : i + 1] for i in range(len(whole))])).status == "OK"


async def test_gzip_is_unpacked_within_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framing, "MESSAGE_BYTES_MAX", less := 100_000)
    async with called(tmp_path) as daemon:
        sent, packed = with_payload(store_body("kettle")), {"grpc-encoding": "gzip"}
        assert (await daemon.grpc.send(STORE, [framed(gzip.compress(sent), flag=1)], packed)).status == "OK"
        assert (await daemon.grpc.send(STORE, [framed(sent)], packed)).status == "OK"
        bomb = gzip.compress(b"\0" * (less + 1))
        exploded = await daemon.grpc.send(STORE, [framed(bomb, flag=1)], packed)
        assert exploded.refusal == ("RESOURCE_EXHAUSTED", "CONTENT_TOO_LARGE")
        for broken in (b"not gzip", gzip.compress(sent)[:-9]):
            assert (await daemon.grpc.send(STORE, [framed(broken, flag=1)], packed)).status == "INVALID_ARGUMENT"
        other = await daemon.grpc.send(STORE, [framed(b"x", flag=1)], {"grpc-encoding": "snappy"})
        assert other.refusal == ("UNIMPLEMENTED", "VALIDATION_ERROR")
        assert daemon.bytes_in_flight == 0


async def test_what_is_unpacked_takes_its_room(tmp_path: Path) -> None:
    async with called(tmp_path, http=HttpSettings(max_inflight_bytes=2_000)) as daemon:
        packed = framed(gzip.compress(with_payload(b" " * 5_000)), flag=1)
        refused = await daemon.grpc.send(STORE, [packed], {"grpc-encoding": "gzip"})
        assert refused.refusal == ("UNAVAILABLE", "DECAY_ENGINE_BUSY")


async def test_bytes_in_flight_are_counted_over_both_services(tmp_path: Path) -> None:
    http = HttpSettings(max_inflight_bytes=2_000)
    async with called(tmp_path, http=http) as daemon, trio.open_nursery() as nursery:
        stalled: list[bytes | str] = [framed(b"x" * 1_500)[:700], STALL]
        nursery.start_soon(daemon.grpc.send, STORE, stalled)
        await _until(lambda: daemon.bytes_in_flight == 1_500)
        assert (await daemon.grpc.send(STORE, [framed(b"x" * 600)])).refusal == (
            "UNAVAILABLE",
            "DECAY_ENGINE_BUSY",
        )
        assert (await daemon.http.ask("POST", "/v1/encode", b"x" * 600)).status == 503
        nursery.cancel_scope.cancel()
    assert daemon.bytes_in_flight == 0


async def _until(is_so: Callable[[], bool]) -> None:
    with trio.fail_after(WAIT_S):
        while not is_so():
            await trio.lowlevel.checkpoint()


async def test_a_deadline_ends_the_asking_not_the_work(tmp_path: Path, autojump_clock: MockClock) -> None:
    held = HeldOffload()
    async with called(tmp_path, offload=held) as daemon:
        held.hold("_transact")
        reply = await daemon.grpc.ask("EncodeStore", store_body("kettle"), {"grpc-timeout": "250m"})
        assert reply.refusal == ("DEADLINE_EXCEEDED", "DECAY_ENGINE_BUSY")
        held.release("_transact")
        later = await daemon.grpc.ask("Stats", b"", {"x-cerememory-sequence": "1"})
        assert later.json["total_records"] == 1


@pytest.mark.parametrize(
    ("sent", "waits_s"), [("2S", 2.0), ("1M", 60.0), ("1H", 3600.0), ("5m", 0.005), ("7u", 7e-6)]
)
async def test_the_deadline_is_the_caller_s(autojump_clock: MockClock, sent: str, waits_s: float) -> None:
    async def wait(rpc: Rpc) -> Headers:
        await trio.sleep_forever()
        return []

    started = trio.current_time()
    reply = await only(wait).send("/test/Do", [framed(b"")], {"grpc-timeout": sent})
    assert reply.status == "DEADLINE_EXCEEDED"
    assert trio.current_time() - started == pytest.approx(waits_s)


@pytest.mark.parametrize("sent", ["", "S", "1", "1s", "-1S", "123456789S", "1.5S", "\u0661S"])
async def test_a_deadline_that_cant_be_read_is_refused(sent: str) -> None:
    async def answer(rpc: Rpc) -> Headers:
        return []

    header = sent.encode().decode("latin-1")
    reply = await only(answer).send("/test/Do", [framed(b"")], {"grpc-timeout": header})
    assert reply.status == "INVALID_ARGUMENT"


async def test_a_request_that_stops_coming_is_given_up(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with called(tmp_path, http=HttpSettings(read_timeout_secs=5)) as daemon:
        started = trio.current_time()
        reply = await daemon.grpc.send(STORE, [framed(b"abc")[:-1], STALL])
        assert reply.refusal == ("DEADLINE_EXCEEDED", "VALIDATION_ERROR")
        assert trio.current_time() - started == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("verb", "headers", "http_status"),
    [
        ("GET", {}, 405),
        ("OPTIONS", {"origin": "http://page"}, 405),
        ("POST", {"content-type": "application/json"}, 415),
        ("POST", {"content-type": "application/grpc-web"}, 415),
        ("POST", {"content-type": None}, 415),
        ("POST", {"te": None}, 400),
    ],
)
async def test_what_is_no_grpc_is_refused(
    tmp_path: Path, verb: str, headers: dict[str, str | None], http_status: int
) -> None:
    async with called(tmp_path) as daemon:
        reply = await daemon.grpc.send(STATS, [framed(b"")], headers, verb=verb)
        assert (reply.http_status, reply.trailers, reply.body) == (http_status, {}, b"")
        assert {name for name in reply.head if name.startswith("access-control")} == set()


async def test_a_head_has_the_limits_of_http(tmp_path: Path) -> None:
    async with called(tmp_path) as daemon:
        many = {f"x-{n}": "1" for n in range(HEAD_FIELDS_MAX)}
        assert (await daemon.grpc.ask("Stats", b"", many)).refusal == ("INVALID_ARGUMENT", "VALIDATION_ERROR")


async def test_a_request_id_is_kept_when_it_is_one(tmp_path: Path, logged: Logged) -> None:
    async with called(tmp_path) as daemon:
        sent = str(uuid4())
        kept = await daemon.grpc.ask("Stats", b"", {"x-request-id": sent})
        assert kept.head["x-request-id"] == sent
        made = await daemon.grpc.ask("Stats", b"", {"x-request-id": "mine"})
        assert made.head["x-request-id"] not in ("mine", sent)
    assert next(line["request_id"] for line in logged.lines if line["event"] == "call") == sent


async def test_calls_are_counted_by_method_and_status_and_nothing_a_client_invents_is_a_label(
    tmp_path: Path,
) -> None:
    async with called(tmp_path) as daemon:
        await daemon.grpc.ask("EncodeStore", store_body("x"))
        await daemon.grpc.ask("EncodeStore", b"nope")
        for path in ("/a/b", "/c/d", f"/{CMP}/Nope", "//"):
            await daemon.grpc.send(path, [framed(b"")])
        labels = set(_labels(daemon))
    method = f"{CMP}/EncodeStore"
    assert labels == {("unknown", "UNIMPLEMENTED"), (method, "INVALID_ARGUMENT"), (method, "OK")}
    counted = daemon.running.counted
    assert counted(SERIES, method=method, status="OK") == counted(DURATIONS, method=method, status="OK") == 1
    assert counted(SERIES, method="unknown", status="UNIMPLEMENTED") == 4


def _labels(daemon: Called) -> Iterator[tuple[str, str]]:
    for family in daemon.running.metrics.registry.collect():
        for sample in family.samples:
            if sample.name == SERIES:
                yield sample.labels["method"], sample.labels["status"]
