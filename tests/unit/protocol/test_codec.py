"""The codec against what the wire may bring: every refusal is a `ValidationFailed` that names the field."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerememory.errors import ValidationFailed
from cerememory.protocol import codec
from cerememory.protocol.records import EmotionVector, Store
from cerememory.protocol.replies import Exported, Forecast
from cerememory.protocol.requests import (
    Consolidate,
    DecayForecast,
    EncodeBatch,
    EncodeStore,
    EncodeStoreRaw,
    EncodeUpdate,
    Forget,
    Import,
    RecallQuery,
    SetMode,
)
from cerememory.protocol.values import NIL_ID, ByteArray, RecordId, Timestamp, parse_timestamp

BLOCK = '{"modality":"text","format":"text/plain","data":[65]}'
CONTENT = f'"content":{{"blocks":[{BLOCK}]}}'
DEEP = b"[" * 100_000 + b"]" * 100_000
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=20,
)


def refusal(body: str | bytes, kind: type[Any], where: str = "") -> str:
    """The message with which `body` is refused."""
    with pytest.raises(ValidationFailed) as refused:
        codec.parse(body.encode() if isinstance(body, str) else body, kind, where)
    return str(refused.value)


@pytest.mark.parametrize(
    ("kind", "body", "message"),
    [
        (EncodeStore, '{"store":"episodic"}', "content: missing field"),
        (EncodeStore, '{"content":{}}', "content.blocks: missing field"),
        (EncodeStore, '{"content":{"blocks":[{"format":"x"}]}}', "content.blocks[0].modality: missing field"),
        (EncodeBatch, '{"records":[{"content":{}}]}', "records[0].content.blocks: missing field"),
        (Forget, "{}", "confirm: missing field"),
        (RecallQuery, '{"cue":{},"header":{"protocol":"cmp"}}', "header.version: missing field"),
        (
            RecallQuery,
            '{"cue":{"temporal":{"start":"2026-01-01T00:00:00Z"}}}',
            "cue.temporal.end: missing field",
        ),
    ],
)
def test_a_missing_field_is_named(kind: type[Any], body: str, message: str) -> None:
    assert refusal(body, kind) == message


@pytest.mark.parametrize(
    ("kind", "body", "message"),
    [
        (
            EncodeStore,
            '{"content":{"blocks":[{"modality":"text","format":"x","data":"aGk="}]}}',
            "content.blocks[0].data: expected array of bytes, got string",
        ),
        (
            EncodeStore,
            '{"content":{"blocks":[{"modality":"text","format":"x","data":{}}]}}',
            "content.blocks[0].data: expected array of bytes, got object",
        ),
        (EncodeStore, '{"content":[]}', "content: expected object, got array"),
        (EncodeStore, f'{{{CONTENT},"store":3}}', "store: expected string or null, got integer"),
        (EncodeStore, f'{{{CONTENT},"emotion":{{"joy":"x"}}}}', "emotion.joy: expected number, got string"),
        (EncodeStore, f'{{{CONTENT},"meta":{{"tags":[1]}}}}', "meta.tags[0]: expected string, got integer"),
        (RecallQuery, '{"cue":null}', "cue: expected object, got null"),
        (RecallQuery, '{"cue":{"embedding":[1,"a"]}}', "cue.embedding[1]: expected number, got string"),
        (RecallQuery, '{"cue":{},"limit":"5"}', "limit: expected integer, got string"),
        (RecallQuery, '{"cue":{},"limit":true}', "limit: expected integer, got boolean"),
        (RecallQuery, '{"cue":{},"reconsolidate":1}', "reconsolidate: expected boolean, got integer"),
        (Forget, '{"confirm":"yes"}', "confirm: expected boolean, got string"),
        (Forget, '{"confirm":true,"record_ids":[1]}', "record_ids[0]: expected UUID string, got integer"),
        (
            DecayForecast,
            '{"record_ids":[],"forecast_at":1}',
            "forecast_at: expected RFC 3339 string, got integer",
        ),
        (
            DecayForecast,
            '{"record_ids":[],"forecast_at":null}',
            "forecast_at: expected RFC 3339 string, got null",
        ),
        (RecallQuery, "[]", "body: expected object, got array"),
        (RecallQuery, "null", "body: expected object, got null"),
    ],
)
def test_a_wrong_type_is_named_with_both_types(kind: type[Any], body: str, message: str) -> None:
    assert refusal(body, kind) == message


@pytest.mark.parametrize(
    ("kind", "body", "starts"),
    [
        (EncodeStore, f'{{{CONTENT},"store":"astral"}}', "store: unknown name 'astral'"),
        (RecallQuery, '{"cue":{},"stores":["episodic","astral"]}', "stores[1]: unknown name 'astral'"),
        (SetMode, '{"mode":"robot"}', "mode: unknown name 'robot'"),
        (Forget, '{"confirm":true,"record_ids":["abc"]}', "record_ids[0]: expected a UUID, got 'abc'"),
        (
            DecayForecast,
            '{"record_ids":[],"forecast_at":"soon"}',
            "forecast_at: expected an RFC 3339 timestamp, got 'soon'",
        ),
        (
            EncodeStore,
            f'{{{CONTENT},"meta":{{"confidence":1.01}}}}',
            "meta.confidence: expected number <= 1.0",
        ),
        (
            EncodeStore,
            f'{{{CONTENT},"meta":{{"confidence":-0.01}}}}',
            "meta.confidence: expected number >= 0.0",
        ),
        (
            EncodeStore,
            f'{{{CONTENT},"associations":[{{"target_id":"{NIL_ID}","association_type":"causal","weight":2}}]}}',
            "associations[0].weight: expected number <= 1.0",
        ),
        (RecallQuery, '{"cue":{},"limit":-1}', "limit: expected integer >= 0"),
    ],
)
def test_a_value_that_is_out_of_range_is_named_with_its_reason(kind: type[Any], body: str, starts: str) -> None:
    assert refusal(body, kind).startswith(starts)


@pytest.mark.parametrize("item", ["256", "-1", "1.0", "2.5", "true", "false", "null", '"a"', "[]", "1" + "0" * 26])
def test_only_integers_from_0_to_255_are_bytes(item: str) -> None:
    message = refusal(f'{{"cue":{{"image":[1,{item}]}}}}', RecallQuery)
    assert message == "cue.image: expected array of bytes, got an item that is no integer from 0 to 255"


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity", "nan", "1.", "01", "+1", "0x1", "'a'"])
def test_a_literal_that_json_does_not_have_is_refused(literal: str) -> None:
    assert refusal(f'{{"cue":{{}},"min_fidelity":{literal}}}', RecallQuery).startswith(
        "body: not readable as JSON: "
    )


@pytest.mark.parametrize("number", ["2.0", "2e0", "2.5", "1e2"])
def test_a_number_with_a_fraction_or_exponent_is_no_integer(number: str) -> None:
    assert refusal(f'{{"cue":{{}},"limit":{number}}}', RecallQuery) == "limit: expected integer, got number"


@pytest.mark.parametrize("number", [str(2**32), str(2**64), "1" + "0" * 26])
def test_an_integer_over_32_bits_is_refused(number: str) -> None:
    assert refusal(f'{{"cue":{{}},"limit":{number}}}', RecallQuery) == "limit: expected integer <= 4294967295"


def test_the_largest_integer_is_read() -> None:
    assert codec.parse(b'{"cue":{},"limit":4294967295}', RecallQuery).limit == 2**32 - 1


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ('"limit":' + "1" * 5_000, "limit"),
        ('"min_fidelity":1e400', "min_fidelity"),
        ('"min_fidelity":' + "9" * 5_000, "min_fidelity"),
    ],
)
def test_a_number_too_large_for_any_type_is_refused(value: str, field: str) -> None:
    assert refusal(f'{{"cue":{{}},{value}}}', RecallQuery).startswith(f"{field}: ")


@pytest.mark.parametrize(
    "text",
    [
        rb"\ud800",
        rb"\udc00",
        rb"\ud800A",
        rb"\ud800\u0041",
        rb"\udfff\ud800",
        b"\xff",
        b"\xc3",
        b"\xc0\xaf",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
    ],
)
def test_text_that_is_no_unicode_is_refused(text: bytes) -> None:
    message = refusal(b'{"cue":{"text":"' + text + b'"}}', RecallQuery)
    assert message.startswith("body: not readable as JSON: ")


@pytest.mark.parametrize(
    "body",
    [
        b'{"cue":{},"unknown":' + DEEP + b"}",
        b'{"cue":{"spatial":' + DEEP + b"}}",
        b'{"cue":{"image":' + DEEP + b"}}",
        b'{"cue":{},"unknown":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}",
        DEEP,
        b"[" * 100_000,
    ],
)
def test_nesting_of_100_000_levels_is_refused(body: bytes) -> None:
    assert refusal(body, RecallQuery)


def test_nesting_in_an_unknown_field_is_named_for_what_it_is() -> None:
    body = b'{"cue":{},"unknown":' + DEEP + b"}"
    assert refusal(body, RecallQuery) == "body: not readable as JSON: nested too deeply"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{nope",
        b'{"cue":{}',
        b'{"cue":{}}x',
        b'{"cue":{},}',
        b'\xef\xbb\xbf{"cue":{}}',
        b"\xff\xfe",
    ],
)
def test_what_is_no_json_is_refused(body: bytes) -> None:
    assert refusal(body, RecallQuery).startswith("body: not readable as JSON: ")


def test_a_reason_quotes_the_beginning_of_what_came_only() -> None:
    body = b'{"strategy": "' + b"x" * 100_000 + b'"}'
    with pytest.raises(ValidationFailed) as caught:
        codec.parse(body, Consolidate)
    assert len(str(caught.value)) < 150
    assert str(caught.value).startswith("strategy: unknown name 'xxx")


@given(st.binary())
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    try:
        codec.parse(body, EncodeStore)
    except ValidationFailed as refused:
        assert str(refused)


@given(st.binary(max_size=12), st.integers(0, 200))
def test_a_damaged_request_is_read_or_refused(damage: bytes, at: int) -> None:
    body = f'{{{CONTENT},"emotion":{{"joy":0.5}},"metadata":{{"a":"b"}},"meta":{{"tags":["c"]}}}}'.encode()
    try:
        request = codec.parse(body[:at] + damage + body[at + len(damage) :], EncodeStore)
    except ValidationFailed as refused:
        assert str(refused)
    else:
        assert request.content.blocks is not None


@given(JSON_VALUES)
def test_any_json_is_read_or_refused(value: Any) -> None:
    for kind in (EncodeStore, EncodeUpdate, RecallQuery, Import, Forget):
        try:
            codec.parse(json.dumps(value).encode(), kind)
        except ValidationFailed as refused:
            assert str(refused)


def test_where_stands_in_front_of_the_field() -> None:
    assert refusal('{"content":{}}', EncodeStore, "records[17]") == ("records[17].content.blocks: missing field")
    assert refusal("[]", EncodeStore, "records[17]") == "records[17]: expected object, got array"
    assert refusal("{", EncodeStore, "records[17]").startswith("records[17]: not readable as JSON: ")
    assert refusal('["x"]', list[int], "counts") == "counts[0]: expected integer, got string"


def test_unknown_fields_are_ignored_at_every_depth() -> None:
    body = f'{{"later":[{{}}],"content":{{"blocks":[{{"later":1,{BLOCK[1:]}],"later":null}}}}'
    assert codec.parse(body.encode(), EncodeStore) == codec.parse(f"{{{CONTENT}}}".encode(), EncodeStore)


@pytest.mark.parametrize("value", ["5", "2.50", '"s"', "[1,2]", '{"a":1}', "true"])
def test_an_optional_field_of_any_json_keeps_what_came(value: str) -> None:
    update = codec.parse(f'{{"metadata":{value}}}'.encode(), EncodeUpdate)
    assert update.metadata is not None
    assert bytes(update.metadata) == value.encode()


@pytest.mark.parametrize("body", [b"{}", b'{"metadata":null}', b'{"metadata": null }'])
def test_an_update_without_metadata_leaves_it_alone(body: bytes) -> None:
    assert codec.parse(body, EncodeUpdate).metadata is None


@pytest.mark.parametrize("value", ["null", "5", '"here"', "[1.50]", '{"lat":1.0}'])
def test_the_open_parts_of_a_context_are_any_json(value: str) -> None:
    body = f'{{{CONTENT},"context":{{"spatial":{value},"temporal":{value}}}}}'
    context = codec.parse(body.encode(), EncodeStore).context
    assert context is not None
    assert codec.dump([context.spatial, context.temporal]) == f"[{value},{value}]".encode()


@pytest.mark.parametrize("value", ["null", "5", '"here"', "[1]", '{"lat":1}'])
def test_the_open_parts_of_a_cue_are_any_json(value: str) -> None:
    body = f'{{"cue":{{"spatial":{value},"semantic":{value},"text":"x"}}}}'
    assert codec.parse(body.encode(), RecallQuery).cue.text == "x"


def test_ids_times_and_bytes_are_dumped_in_their_text_form() -> None:
    assert codec.dump([RecordId(16), Timestamp(-1), ByteArray(b"\0hi\xff")]) == (
        b'["00000000-0000-0000-0000-000000000000","1969-12-31T23:59:59.999999999Z",[0,104,105,255]]'
    )


def test_a_dump_is_compact_and_keeps_utf_8() -> None:
    assert codec.dump({"a": [1, None, True], "b": "潮\n"}) == '{"a":[1,null,true],"b":"潮\\n"}'.encode()


def test_raw_json_is_dumped_as_it_is() -> None:
    assert codec.dump([msgspec.Raw(b'{"n":1.50}'), EmotionVector().joy]) == b'[{"n":1.50},0.0]'


def test_a_base64_dump_differs_in_byte_arrays_alone() -> None:
    exported = Exported(archive_id="x", size_bytes=2, record_count=0, checksum="c", archive_data=ByteArray(b"hi"))
    plain, base = json.loads(codec.dump(exported)), json.loads(codec.with_base64(codec.dump(exported)))
    assert plain["archive_data"] == [104, 105]
    assert base == {**plain, "archive_data": "aGk="}


def test_what_the_codec_cannot_write_is_a_bug_not_an_answer() -> None:
    with pytest.raises(TypeError):
        codec.dump(object())


def test_a_time_in_an_answer_keeps_its_nanoseconds() -> None:
    at = parse_timestamp("2026-11-24T03:29:33.751958845Z")
    forecast = Forecast(
        record_id=NIL_ID, current_fidelity=1.0, forecasted_fidelity=0.5, estimated_threshold_date=at
    )
    assert b'"estimated_threshold_date":"2026-11-24T03:29:33.751958845Z"' in codec.dump(forecast)
    assert codec.parse(codec.dump(forecast), Forecast) == forecast


@pytest.mark.parametrize(
    ("raw", "compacted"),
    [
        (' { "a" : [ 1 , 2 ] ,\r\n\t"b" : { } } ', '{"a":[1,2],"b":{}}'),
        ('{"two  spaces":" kept "}', '{"two  spaces":" kept "}'),
        (
            '{"n":[1.0,1e5,-0,1.10,100000000000000000000000000]}',
            '{"n":[1.0,1e5,-0,1.10,100000000000000000000000000]}',
        ),
        (r'{"e":"\u0041\/\ud83d\ude00\n"}', r'{"e":"\u0041\/\ud83d\ude00\n"}'),
        ('{"b":1,"a":2,"b":3}', '{"b":1,"a":2,"b":3}'),
        ('"潮"', '"潮"'),
        ("null", "null"),
        (" 5 ", "5"),
    ],
)
def test_compacting_drops_white_space_and_nothing_else(raw: str, compacted: str) -> None:
    assert bytes(codec.compact(raw.encode(), "metadata")) == compacted.encode()


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b'{"a":"\xff"}', "metadata: not readable as JSON: invalid UTF-8"),
        (b'{"\xff":1}', "metadata: not readable as JSON: invalid UTF-8"),
        (b'{"a":"\xed\xa0\x80"}', "metadata: not readable as JSON: invalid UTF-8"),
        (DEEP, "metadata: not readable as JSON: nested too deeply"),
        (b'{"a":[0,1e400]}', "metadata[...][1]: number out of range"),
        (b'{"a":["1"],"b":NaN}', "metadata: not readable as JSON: invalid character (byte 15)"),
    ],
)
def test_compacting_refuses_what_the_parser_had_passed_over(raw: bytes, message: str) -> None:
    with pytest.raises(ValidationFailed) as refused:
        codec.compact(raw, "metadata")
    assert str(refused.value) == message


def test_a_bad_string_inside_metadata_waits_for_compacting() -> None:
    body = f'{{"session_id":"s",{CONTENT},"metadata":{{"a":"'.encode() + b'\xff"}}'
    metadata = codec.parse(body, EncodeStoreRaw).metadata
    with pytest.raises(ValidationFailed, match=r"^metadata: "):
        codec.compact(bytes(metadata), "metadata")


@given(JSON_VALUES, st.sampled_from([None, 1, 4]), st.booleans())
def test_compacting_keeps_the_value(value: Any, indent: int | None, ascii_only: bool) -> None:
    raw = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode()
    compacted = bytes(codec.compact(raw, "metadata"))
    assert compacted.decode() == json.dumps(value, separators=(",", ":"), ensure_ascii=ascii_only)


@given(JSON_VALUES, st.binary(max_size=3), st.integers(0, 40))
def test_whatever_compacts_is_json_for_every_reader(value: Any, damage: bytes, at: int) -> None:
    raw = json.dumps(value).encode()
    raw = raw[:at] + damage + raw[at + len(damage) :]
    try:
        compacted = bytes(codec.compact(raw, "metadata"))
    except ValidationFailed:
        return
    assert json.loads(compacted) == json.loads(raw)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("a", "string"),
        (1, "integer"),
        (1.5, "number"),
        (True, "boolean"),
        (None, "null"),
        ([], "array"),
        ({}, "object"),
    ],
)
def test_a_decoded_value_has_a_json_type(value: object, name: str) -> None:
    assert codec.json_type(value) == name


def test_names_of_enums_are_dumped_as_they_stand_on_the_wire() -> None:
    assert codec.dump({Store.EPISODIC: Store.WORKING}) == b'{"episodic":"working"}'
