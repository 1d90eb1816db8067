"""What reads bytes that anybody may have written, each as a function of such bytes.

A target returns for what it reads and for what it refuses with the error that it promises; whatever else it raises
is a bug. Beyond that each asserts what must hold of what it has read. Inputs are small; others test sizes.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from cerememory.config import sources
from cerememory.config.checks import check
from cerememory.config.keys import KEYS
from cerememory.config.shown import mask_password
from cerememory.domain import analysis, dialogue, question
from cerememory.domain.audit_chain import AuditDraft, ChainHead, chain_line, parse_line, verify_lines
from cerememory.domain.cma import CURATED_ONLY, WITH_RAW, ArchiveReader, ArchiveWriter
from cerememory.domain.dates import date_terms, dates_in
from cerememory.domain.render import with_holes
from cerememory.domain.visible import visible, visible_json
from cerememory.errors import (
    AuditBroken,
    CerememoryError,
    ConfigInvalid,
    ImportConflict,
    Invalid,
    Refused,
    StorageDamaged,
    ValidationFailed,
)
from cerememory.http.archives import import_terms
from cerememory.http.exchange import Exchange
from cerememory.http.rules import Addresses, Origins, check_head
from cerememory.mcp.arguments import read_arguments
from cerememory.mcp.calls import CALLS
from cerememory.mcp.jsonrpc import NotARequest, error_message, read_message, result_message
from cerememory.mcp.stdio import LineTooLong, read_lines
from cerememory.mcp.tools import TOOLS
from cerememory.protocol import codec
from cerememory.protocol.base_url import parse_base_url
from cerememory.protocol.limits import check_metadata
from cerememory.protocol.operations import OPERATIONS
from cerememory.protocol.records import MemoryRecord, RawJournalRecord
from cerememory.protocol.requests import EncodeStore
from cerememory.protocol.values import RecordId, Timestamp, format_timestamp, parse_id, parse_timestamp
from cerememory.storage import rows
from cerememory.storage.keyring import DataKey, Keyring
from cerememory.storage.keys import DEFAULT_NAMESPACE, Table, key
from cerememory.storage.sealed import MAGIC, Sealer
from tests.support.archives import BUNDLE, CURATED
from tests.support.reference_files import AUDIT, CASES

SEALER = Sealer(Keyring((DataKey(b"i" * 8, b"k" * 32),), b"n" * 32, are_names_sealed=True))
SEALED_KEY = key(DEFAULT_NAMESPACE, Table.CONTENT, b"r" * 16)
R = TypeVar("R", MemoryRecord, RawJournalRecord)
NOW = Timestamp(1_764_000_000_000_000_000)
LINE_BYTES_MAX = 64
ROW_READERS: tuple[Callable[[bytes], object], ...] = (
    rows.parse_content_row,
    rows.parse_archived_row,
    rows.parse_raw_row,
    rows.parse_kept_answer,
    rows.parse_log_row,
    rows.parse_counters,
    rows.parse_ids,
    rows.parse_state_row,
    rows.parse_edges,
    lambda value: rows.parse_head(value, "0" * 64),
)
FADED = (0.0, 0.3, 0.89)
READ = [operation for operation in OPERATIONS if operation.request is not None]


@dataclass(frozen=True)
class Target:
    """`run` raises for a bug alone; `seeds` are inputs that it reads, `words` what its format is made of."""

    name: str
    run: Callable[[bytes], object]
    seeds: tuple[bytes, ...]
    words: tuple[bytes, ...] = ()


def archive(data: bytes) -> None:
    """A CMA archive; what is read is written again, and read as the same."""
    try:
        records = list(ArchiveReader([data[:100], data[100:]]).records())
    except ImportConflict:
        return
    again = b"".join(_archived(records))
    assert list(ArchiveReader([again]).records()) == records


def _archived(records: list[MemoryRecord | RawJournalRecord]) -> Iterator[bytes]:
    has_raw = any(isinstance(record, RawJournalRecord) for record in records)
    writer = ArchiveWriter(WITH_RAW if has_raw else CURATED_ONLY)
    curated = [writer.curated(codec.dump(r)) for r in records if isinstance(r, MemoryRecord)]
    raw = [writer.raw(codec.dump(r)) for r in records if isinstance(r, RawJournalRecord)]
    yield from (writer.header(NOW), *curated, *raw, writer.footer())


def audit_log(data: bytes) -> None:
    """An audit log; its lines are chained again, and come out as they were."""
    lines = data.splitlines(keepends=True)
    try:
        verified = verify_lines(lines)
    except AuditBroken:
        return
    head = ChainHead(0, "0" * 64)
    for line in lines:
        entry = parse_line(line)
        draft = AuditDraft(entry.timestamp, entry.operation, entry.record_ids, entry.store_types, entry.summary)
        head = chain_line(draft, head.sequence + 1, head.entry_hash).head
    assert head == verified.head


def config_file(data: bytes) -> None:
    """A TOML file; what is accepted passes or fails the checks."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        _load(Path(file.name), {})


def config_environment(data: bytes) -> None:
    """Lines of NAME=VALUE, where a number stands for the name of the key with that place."""
    variables = {}
    for line in data.decode("utf-8", "surrogateescape").splitlines():
        name, _, value = line.partition("=")
        if name.isascii() and name.isdigit():
            name = KEYS[int(name[:4]) % len(KEYS)].env_name
        variables[name] = value
    _load(None, variables)


def _load(path: Path | None, environ: dict[str, str]) -> None:
    environ = {"HOME": "/home/somebody", **{name: value for name, value in environ.items() if name != "HOME"}}
    environ.pop(sources.CONFIG_VARIABLE, None)
    with suppress(ConfigInvalid):
        loaded = sources.load(path, environ, {})
        check(loaded.settings, for_serve=True, origins=loaded.origins)


def urls(data: bytes) -> None:
    """Addresses of services and connection strings."""
    text = data.decode("latin-1")
    with suppress(ValueError):
        base = parse_base_url(text)
        assert parse_base_url(f"{base.scheme}://{base.authority}{base.prefix}") == base
    mask_password(text)


def jsonrpc(data: bytes) -> None:
    """A line from an MCP client; what is answered is one line of JSON with the request's id."""
    try:
        request = read_message(data)
        answer = None if request is None else result_message(request.id, request.params)
        message_id = None if request is None else request.id
    except NotARequest as refused:
        answer = error_message(refused.message_id, refused.code, str(refused))
        message_id = refused.message_id
    if answer is not None:
        assert b"\n" not in answer
        assert json.loads(answer)["id"] == message_id


def framing(data: bytes) -> None:
    """MCP's lines: each comes as it is, or as too long."""
    found = list(read_lines(io.BytesIO(data), LINE_BYTES_MAX))
    lines = io.BytesIO(data).readlines()
    assert len(found) == len(lines)
    for got, line in zip(found, lines, strict=True):
        assert got == line or (isinstance(got, LineTooLong) and len(line) > LINE_BYTES_MAX)


def tool_arguments(data: bytes) -> None:
    """The arguments of the tool that the first byte stands for; a call that is made of them can be sent."""
    tool = TOOLS[data[0] % len(TOOLS)] if data else TOOLS[0]
    try:
        given = msgspec.json.decode(data[1:])
        if isinstance(given, dict):
            call = CALLS[tool.name](read_arguments(tool.parameters, given, NOW))
            codec.dump(call.body)
    except (Invalid, Refused, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass


def requests(data: bytes) -> None:
    """The body of the operation that the first byte stands for."""
    kind = READ[data[0] % len(READ)].request if data else EncodeStore
    assert kind is not None
    with suppress(ValidationFailed):
        codec.parse(data[1:], kind)


def stored_json(data: bytes) -> None:
    """JSON that is kept as it came: compact, valid for every reader, and the same when it is compacted again."""
    with suppress(Invalid):
        kept = check_metadata(msgspec.Raw(data), "metadata")
        json.loads(bytes(kept))
        assert bytes(codec.compact(bytes(kept), "metadata")) == bytes(kept)
        dialogue.context_of(bytes(kept))


def records(data: bytes) -> None:
    """A record; what is read is written as what is read again."""
    _record(data, MemoryRecord)
    _record(data, RawJournalRecord)


def _record(data: bytes, kind: type[R]) -> None:
    with suppress(ValidationFailed):
        record = codec.parse(data, kind)
        metadata = codec.compact(bytes(record.metadata), "metadata")  # what no reader has looked into before
        record = msgspec.structs.replace(record, metadata=metadata)
        assert codec.parse(codec.dump(record), kind) == record
        json.loads(codec.with_base64(codec.dump(record)))


def values(data: bytes) -> None:
    """Ids and times: what is read is written in one way, and read from it as the same."""
    text = data.decode("utf-8", "replace")
    with suppress(ValueError):
        found = parse_id(text)
        assert parse_id(codec.dump(found).decode()[1:-1]) == found
    with suppress(ValueError):
        at = parse_timestamp(text)
        assert parse_timestamp(format_timestamp(at)) == at


def text(data: bytes) -> None:
    """Any text goes through everything that reads words."""
    said = data.decode("utf-8", "replace")
    words = analysis.tokens(said)
    asked = question.read(said, lambda name: name in words)
    assert set(asked.names) <= {*map(dialogue.joined_name, _runs(words)), *words}
    analysis.document_terms(said)
    analysis.query_terms(said)
    date_terms(dates_in(said))
    dialogue.speaker_of(dialogue.NO_CONTEXT, said)
    dialogue.name_terms(said[:200])
    for fidelity in FADED:
        with_holes(said, fidelity)
    assert visible(visible(said)) == visible(said)
    document = json.dumps(said, ensure_ascii=False)
    assert json.loads(visible_json(document)) == said


def _runs(words: list[str]) -> Iterator[list[str]]:
    for start in range(len(words)):
        for length in range(1, dialogue.NAME_WORDS_MAX + 1):
            yield words[start : start + length]


def heads(data: bytes) -> None:
    """A request's head: the query, then a header a line."""
    query, *lines = data.split(b"\n")
    named = [(name.lower(), value) for name, _, value in (line.partition(b":") for line in lines)]
    exchange = Exchange.of(
        {
            "method": "PUT",
            "path": "/v1/archive",
            "query_string": query,
            "headers": named,
            "client": ("10.0.0.1", 1),
            "http_version": "1.1",
        }
    )
    origins, addresses = _rules()
    with suppress(CerememoryError):
        check_head(exchange, named)
        addresses.client(exchange)
        origins.headers(exchange)
        origins.check(exchange)
        import_terms(exchange)


@cache
def _rules() -> tuple[Origins, Addresses]:
    from cerememory.config.settings import HttpSettings, Settings

    http = HttpSettings(cors_origins=("https://a.example",), allowed_hosts=("memory.example",))
    return Origins(Settings(data_dir=Path("data"), http=http)), Addresses(("10.0.0.0/8", "fd00::/8"))


def stored_rows(data: bytes) -> None:
    """A row of the kind that the first byte stands for, from a disk that gives back something else."""
    with suppress(StorageDamaged):
        ROW_READERS[data[0] % len(ROW_READERS) if data else 0](data[1:])


def sealed_values(data: bytes) -> None:
    """A value of an encrypted store, and any value sealed."""
    with suppress(StorageDamaged):
        SEALER.open(SEALED_KEY, data)
    assert SEALER.open(SEALED_KEY, SEALER.seal(SEALED_KEY, data)) == data


def _bodies() -> Iterator[bytes]:
    """The bodies that were recorded, each behind the byte of its operation."""
    for case in CASES:
        for i, operation in enumerate(READ):
            if (case["method"], case["path"]) == (operation.method, operation.path) and "body" in case:
                body = json.dumps(case["body"]).encode()
                if len(body) < 2_000:
                    yield bytes([i]) + body


def _calls() -> Iterator[bytes]:
    given: dict[str, Any] = {
        "content": "said",
        "session_id": "s",
        "record_id": "0191aaaa-0000-7000-8000-00000000000a",
        "record_ids": "0191aaaa-0000-7000-8000-00000000000a,0191aaaa-0000-7000-8000-00000000000b",
        "records_json": '[{"content": "a", "session_id": "s", "emotion": "joy"}]',
        "meta_json": '{"intent": "x", "tags": ["y"]}',
        "start": "2026-01-01T00:00:00Z",
        "end": "2026-01-02T00:00:00.5+01:00",
        "stores": "episodic,semantic",
        "limit": 10,
        "confirm": True,
        "output_path": "a.cma",
    }
    for i, tool in enumerate(TOOLS):
        names = {parameter.name for parameter in tool.parameters}
        yield bytes([i]) + json.dumps({name: value for name, value in given.items() if name in names}).encode()


def _rows() -> Iterator[bytes]:
    """One of each kind, in the order of `ROW_READERS`."""
    now = int(NOW)
    content = rows.ContentRow(1, 2, now, now, b'{"blocks":[]}', b"", b"{}", b"")
    raw = rows.RawRow("s", None, "t", "tool_io", "user", 0, 1, now, now, b'{"blocks":[]}', b"{}", b"", False, b"")
    state = bytes(rows.STATE_BYTES)
    yield rows.dump_row(content)
    yield rows.dump_row(rows.ArchivedRow(content, state, b"", now))
    yield rows.dump_row(raw)
    yield rows.dump_row(rows.KeptAnswer(b"d" * 32, now, 7, b"{}"))
    yield rows.dump_row(rows.LogRow(1, _first(AUDIT, 1), b"a" * 20))
    yield rows.dump_counters(rows.Counters.empty())
    yield rows.dump_ids([RecordId(b"r" * 16)] * 2)
    yield state
    yield bytes(rows.EDGE_BYTES)
    yield rows.dump_head(rows.Head(7, 3, "0" * 64, 3))


def _first(data: bytes, count: int) -> bytes:
    return b"".join(data.splitlines(keepends=True)[:count])


JSON_WORDS = (
    b'"',
    b"\\u",
    b"\\ud800",
    b"null",
    b"true",
    b"1e999",
    b"-0",
    b"[",
    b"{",
    b"}]",
    b":",
    b",",
    b"\xff",
    b"NaN",
)
TEXTS = tuple(
    said.encode()
    for said in (
        "Ada: When did we go to the harbour, on 3 May 2023 or last Friday?",
        "東京都庁へ行く。2026年3月5日、昨日",
        "naïve café ﬃ \u202e\u200d\U000e0041 12/31/2024 1.2.2023 the 5th of June",
        "Мама мыла раму в мае 2020",
    )
)

TARGETS: tuple[Target, ...] = (
    Target(
        "archive", archive, (_first(CURATED, 3), CURATED, BUNDLE[:6000], BUNDLE), (*JSON_WORDS, b"\n", b'"kind"')
    ),
    Target(
        "audit_log", audit_log, (_first(AUDIT, 1), _first(AUDIT, 3), AUDIT), (*JSON_WORDS, b"\n", b'"summary"')
    ),
    Target(
        "config_file",
        config_file,
        (
            b'data_dir = "~/x"\n[http]\nport = 8420\ncors_origins = ["*"]\n[log]\nlevel = "warn"\n',
            b'[auth]\nenabled = true\napi_keys = ["k"]\n[llm]\nprovider = "openai"\nbase_url = "http://[::1]:1/"\n',
            b"decay.epsilon = 0.001\nhttp.port = 1979-05-27T07:32:00Z\n",
        ),
        (
            b"[",
            b"]",
            b'"""',
            b"'''",
            b"=",
            b".",
            b"\n",
            b"inf",
            b"nan",
            b"0x",
            b"\\U0010ffff",
            b"auth",
            b"security",
        ),
    ),
    Target(
        "config_environment",
        config_environment,
        (b'0=~/x\n1=8420\n9=["a","b"]\n10=[a,b]\n', b"CEREMEMORY_AUTH_API_KEYS=a,b\nCEREMEMORY_HTTP__PORT=9\n"),
        (b"=", b"\n", b"[", b"]", b'"', b",", b"true", b"1e9", b"CEREMEMORY_", b"~/", b"\xed\xa0\x80"),
    ),
    Target(
        "urls",
        urls,
        (
            b"http://localhost:11434/v1",
            b"https://[::1]/x",
            b"postgres://u:p@h/db?password=x",
            b"host=h password='a b'",
        ),
        (b"[", b"]", b"@", b":", b"//", b"%", b"..", b"\\", b"http://", b":99999"),
    ),
    Target(
        "jsonrpc",
        jsonrpc,
        (
            b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"recall","arguments":{}}}',
            b'{"jsonrpc":"2.0","method":"notifications/initialized"}',
            b'{"jsonrpc":"2.0","id":"a","result":{}}',
        ),
        (*JSON_WORDS, b'"id"', b'"params"', b'"method"', b"9" * 30),
    ),
    Target("framing", framing, (b"{}\n[]\n", b"a" * 65 + b"\n" + b"b", b"\r\n\n" * 3), (b"\n", b"\r", b"x" * 64)),
    Target("tool_arguments", tool_arguments, tuple(_calls()), JSON_WORDS),
    Target("requests", requests, tuple(_bodies()), JSON_WORDS),
    Target(
        "stored_json",
        stored_json,
        (b'{"a": [1, 2.5, "x", null], "_context": {"source": "Ada", "temporal": {"date": "2026-01-01"}}}', b"[]"),
        (*JSON_WORDS, b"[" * 70, b'{"a":' * 70),
    ),
    Target(
        "records",
        records,
        tuple(json.dumps(json.loads(line).get("data", {})).encode() for line in BUNDLE.splitlines()[1:-1]),
        JSON_WORDS,
    ),
    Target(
        "values",
        values,
        (b"0191aaaa-0000-7000-8000-00000000000a", b"2026-01-31T08:00:00.123456789+05:30", b"0001-01-01T00:00:00Z"),
        (b"-", b":", b"Z", b"+23:59", b"{", b"urn:uuid:", b"T", b".", b"\xd9\xa1"),
    ),
    Target("text", text, TEXTS, (b" ", b"\n", b"\xe2\x80\x8d", b"May", b"2023", b"-", b"/", b".", b":", b"'s")),
    Target(
        "heads",
        heads,
        (
            b"strategy=merge&conflict_resolution=keep_newer&dry_run=true\nHost: localhost\n"
            b"X-Archive-Passphrase: YQ\n",
            b"archive_id=x\nX-Forwarded-For: 1.2.3.4, 10.0.0.2\nX-Real-IP: ::1\n"
            b"Origin: https://a.example\nHost: [::1]:80",
        ),
        (b"%", b"%ff", b"&", b"=", b"\n", b":", b"[", b"]", b",", b"\xff", b"Host:"),
    ),
    Target(
        "stored_rows",
        stored_rows,
        tuple(bytes([kind]) + value for kind, value in enumerate(_rows())),
        (b"\xff", b"\x7f\xf0\x00\x00\x00\x00\x00\x00", b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"),
    ),
    Target(
        "sealed_values",
        sealed_values,
        (MAGIC + b"i" * 8 + b"n" * 12 + b"c" * 20, SEALER.seal(SEALED_KEY, b"said")),
        (MAGIC, MAGIC + b"i" * 8, b"i" * 8, b"n" * 12),
    ),
)
BY_NAME = {target.name: target for target in TARGETS}
