"""What a request must satisfy beyond its types: each bound at its last good value and just over it."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerememory.errors import (
    ContentTooLarge,
    ForgetUnconfirmed,
    ModalityUnsupported,
    ValidationFailed,
)
from cerememory.protocol import codec, limits
from cerememory.protocol.records import ContentBlock, MemoryContent, MetaMemory, Modality
from cerememory.protocol.requests import (
    EncodeStore,
    EncodeStoreRaw,
    Export,
    Forget,
    RecallAssociate,
    RecallCue,
)
from cerememory.protocol.values import NIL_ID, ByteArray, RecordId

AN_ID = RecordId(b"\1" * 16)
PNG = b"\x89PNG\r\n\x1a\n" + bytes(8)
WAV = b"RIFF\0\0\0\0WAVEfmt "
SIZES = [
    (Modality.TEXT, 1_048_576),
    (Modality.STRUCTURED, 1_048_576),
    (Modality.SPATIAL, 1_048_576),
    (Modality.TEMPORAL, 1_048_576),
    (Modality.INTEROCEPTIVE, 1_048_576),
    (Modality.IMAGE, 10_485_760),
    (Modality.AUDIO, 52_428_800),
    (Modality.VIDEO, 52_428_800),
]


def content(data: bytes, modality: Modality = Modality.TEXT, embedding: Any = None) -> MemoryContent:
    return MemoryContent(
        blocks=(ContentBlock(modality=modality, format="x", data=ByteArray(data), embedding=embedding),)
    )


def filled(size_bytes: int) -> bytes:
    """That many bytes which are both UTF-8 and JSON."""
    return b'"' + b"a" * (size_bytes - 2) + b'"'


def store_request(**fields: Any) -> EncodeStore:
    return codec.parse(json.dumps({"content": {"blocks": []}, **fields}).encode(), EncodeStore)


def raw_request(**fields: Any) -> EncodeStoreRaw:
    body = {"session_id": "s", "content": {"blocks": []}, **fields}
    return codec.parse(json.dumps(body).encode(), EncodeStoreRaw)


def check_store(where: str = "", **fields: Any) -> None:
    limits.check_store(store_request(**fields), content(b"x"), AN_ID, where)


def check_raw(where: str = "", **fields: Any) -> None:
    limits.check_raw(raw_request(**fields), content(b"x"), where)


def cue(**fields: Any) -> RecallCue:
    typed: dict[str, Any] = {
        name: ByteArray(value) if isinstance(value, bytes) else value for name, value in fields.items()
    }
    return RecallCue(**typed)


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


def test_every_modality_has_its_size() -> None:
    assert dict(SIZES) == limits.BLOCK_BYTES_MAX


@pytest.mark.parametrize(("modality", "size_bytes_max"), SIZES)
def test_a_block_may_be_as_large_as_its_modality_allows(modality: Modality, size_bytes_max: int) -> None:
    limits.check_content(content(filled(size_bytes_max), modality), "content")


@pytest.mark.parametrize(("modality", "size_bytes_max"), SIZES)
def test_a_larger_block_is_refused_with_its_size_and_the_limit(modality: Modality, size_bytes_max: int) -> None:
    with pytest.raises(ContentTooLarge, match=r"^content\.blocks\[0\]: ") as refused:
        limits.check_content(content(filled(size_bytes_max + 1), modality), "content")
    assert f" {size_bytes_max + 1} bytes" in str(refused.value)
    assert f" {size_bytes_max} " in str(refused.value)


def test_text_is_measured_in_bytes_not_characters() -> None:
    text = ("潮" * 349_526).encode()
    assert len(text) == 1_048_578
    with pytest.raises(ContentTooLarge):
        limits.check_content(content(text), "content")


def test_content_needs_a_block() -> None:
    with pytest.raises(ValidationFailed, match=r"^content\.blocks: "):
        limits.check_content(MemoryContent(blocks=()), "content")


def test_content_has_at_most_1024_blocks() -> None:
    blocks = content(b"x").blocks
    limits.check_content(MemoryContent(blocks=blocks * 1_024), "content")
    with pytest.raises(ValidationFailed, match=r"^content\.blocks: at most 1024 blocks, got 1025$"):
        limits.check_content(MemoryContent(blocks=blocks * 1_025), "content")


@pytest.mark.parametrize(
    ("data", "byte"), [(b"\xff\xfe", 0), (b"ok \xc3", 3), (b"\xed\xa0\x80", 0), (b"a\xc0\xaf", 1)]
)
def test_text_that_is_not_utf_8_is_refused_with_the_place(data: bytes, byte: int) -> None:
    with pytest.raises(ValidationFailed, match=rf"^content\.blocks\[0\]: .*UTF-8.* {byte} "):
        limits.check_content(content(data), "content")


@pytest.mark.parametrize("data", [b"", b"nope", b"{", b"[1,]", b"NaN", b'"\xff"', nested(100_000), b"1 2"])
def test_structured_content_that_is_no_json_is_refused(data: bytes) -> None:
    with pytest.raises(ValidationFailed, match=r"^content\.blocks\[0\]: "):
        limits.check_content(content(data, Modality.STRUCTURED), "content")


@pytest.mark.parametrize("data", [b"null", b" [1, 2.5] ", '{"city":"Köln"}'.encode(), nested(100)])
def test_structured_content_may_be_any_json(data: bytes) -> None:
    limits.check_content(content(data, Modality.STRUCTURED), "content")


@pytest.mark.parametrize("modality", [m for m in Modality if m not in (Modality.TEXT, Modality.STRUCTURED)])
def test_the_bytes_of_other_modalities_are_not_looked_into(modality: Modality) -> None:
    limits.check_content(content(b"\xff\xfe{", modality), "content")
    limits.check_content(content(b"", modality), "content")


def test_empty_text_and_an_empty_format_are_content() -> None:
    limits.check_content(
        MemoryContent(blocks=(ContentBlock(modality=Modality.TEXT, format="", data=ByteArray()),)), "content"
    )


@pytest.mark.parametrize("embedding", [(), (math.nan,), (0.1, math.inf), (-math.inf,), (1e39,), (0.0, -3.5e38)])
def test_an_embedding_is_neither_empty_nor_beyond_float32(embedding: tuple[float, ...]) -> None:
    with pytest.raises(ValidationFailed, match=r"^content\.blocks\[0\]\.embedding: "):
        limits.check_content(content(b"x", embedding=embedding), "content")
    with pytest.raises(ValidationFailed, match=r"^cue\.embedding: "):
        limits.check_cue(cue(embedding=embedding))


@pytest.mark.parametrize("embedding", [(0.0,), (0.1, -0.2), (3.4028234663852886e38, -3.4028234663852886e38)])
def test_an_embedding_may_hold_any_finite_float32(embedding: tuple[float, ...]) -> None:
    limits.check_content(content(b"x", embedding=embedding), "content")
    limits.check_cue(cue(embedding=embedding))


def test_a_refused_block_is_named_by_its_index() -> None:
    blocks = (*content(b"x").blocks, *content(b"\xff").blocks)
    with pytest.raises(ValidationFailed, match=r"^content\.blocks\[1\]: "):
        limits.check_content(MemoryContent(blocks=blocks), "content")


def test_a_meta_edge_points_at_a_record() -> None:
    body = f'{{"context_edges":[{{"target_id":"{AN_ID}"}},{{"target_id":"{NIL_ID}"}}]}}'
    with pytest.raises(ValidationFailed, match=r"^meta\.context_edges\[1\]\.target_id: "):
        limits.check_meta(codec.parse(body.encode(), MetaMemory), "meta")


def test_a_memory_is_not_associated_with_itself() -> None:
    edges = [{"target_id": str(target), "association_type": "causal", "weight": 0.5} for target in (NIL_ID, AN_ID)]
    check_store(associations=edges[:1])
    with pytest.raises(ValidationFailed, match=r"^associations\[1\]\.target_id: "):
        check_store(associations=edges)


BAD_META = {"context_edges": [{"target_id": str(NIL_ID)}]}
SELF = [{"target_id": str(AN_ID), "association_type": "causal", "weight": 1}]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"meta": BAD_META}, "meta.context_edges[0].target_id"),
        ({"associations": SELF}, "associations[0].target_id"),
        ({"context": {"session_id": "x" * 1_025}}, "context.session_id"),
        ({"context": {"spatial": json.loads(nested(65))}}, "context.spatial"),
        ({"context": {"temporal": "x" * 1_000_000}}, "context.temporal"),
    ],
)
def test_a_refused_request_is_named_by_its_place_in_the_batch(fields: dict[str, Any], field: str) -> None:
    for where, path in (("", field), ("records[17].", f"records[17].{field}")):
        with pytest.raises(ValidationFailed) as refused:
            check_store(where, **fields)
        assert str(refused.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"session_id": ""}, "session_id"),
        ({"session_id": " \t\u3000"}, "session_id"),
        ({"session_id": "x" * 1_025}, "session_id"),
        ({"turn_id": "x" * 1_025}, "turn_id"),
        ({"topic_id": "x" * 1_025}, "topic_id"),
        ({"topic_id": "潮" * 342}, "topic_id"),
        ({"meta": BAD_META}, "meta.context_edges[0].target_id"),
    ],
)
def test_a_refused_raw_request_is_named_by_its_place_in_the_batch(fields: dict[str, Any], field: str) -> None:
    for where, path in (("", field), ("records[17].", f"records[17].{field}")):
        with pytest.raises(ValidationFailed) as refused:
            check_raw(where, **fields)
        assert str(refused.value).startswith(f"{path}: ")


def test_a_callers_ids_may_have_1024_bytes() -> None:
    longest = "潮" * 341 + "x"
    assert len(longest.encode()) == 1_024
    check_raw(session_id=longest, turn_id=longest, topic_id=longest)
    check_store(context={"session_id": longest})


def test_a_callers_id_that_is_too_long_is_refused_with_its_size_and_the_limit() -> None:
    with pytest.raises(ValidationFailed, match=r"^topic_id: 1025 bytes, at most 1024 are allowed$"):
        check_raw(topic_id="x" * 1_025)


def test_bad_content_is_named_by_its_place_in_the_batch() -> None:
    with pytest.raises(ValidationFailed, match=r"^records\[3\]\.content\.blocks\[0\]: "):
        limits.check_store(store_request(), content(b"\xff"), AN_ID, "records[3].")
    with pytest.raises(ValidationFailed, match=r"^records\[3\]\.content\.blocks\[0\]: "):
        limits.check_raw(raw_request(), content(b"\xff"), "records[3].")


def test_a_batch_has_at_most_1000_records() -> None:
    limits.check_batch_size((None,) * 1_000)
    with pytest.raises(ValidationFailed, match=r"^records: at most 1000 in a batch, got 1001$"):
        limits.check_batch_size((None,) * 1_001)


def check_metadata(raw: bytes) -> bytes:
    return bytes(limits.check_metadata(msgspec.Raw(raw), "metadata"))


def test_metadata_is_kept_but_for_white_space() -> None:
    assert check_metadata(b' { "a b" : [ 1.50 , 1e2 ] }\n') == b'{"a b":[1.50,1e2]}'


@pytest.mark.parametrize("raw", [b"5", b"null", b'"s"', b"[]", b"true", b"{}"])
def test_metadata_may_be_of_any_json_type(raw: bytes) -> None:
    assert check_metadata(raw) == raw


def test_metadata_may_be_64_levels_deep() -> None:
    assert check_metadata(nested(64)) == nested(64)
    objects = b'{"a":' * 63 + b"[1]" + b"}" * 63
    assert check_metadata(objects) == objects


@pytest.mark.parametrize(
    "raw",
    [
        nested(65),
        b'{"a":' * 64 + b"[]" + b"}" * 64,
        b'{"a":' + nested(64) + b',"a":1}',
        b'["\\"",' + nested(64) + b"]",
    ],
)
def test_metadata_that_is_65_levels_deep_is_refused(raw: bytes) -> None:
    with pytest.raises(ValidationFailed, match=r"^metadata: nested deeper than 64 levels$"):
        check_metadata(raw)


def test_metadata_of_100_000_levels_is_refused() -> None:
    with pytest.raises(ValidationFailed, match=r"^metadata: .*nested too deeply"):
        check_metadata(nested(100_000))


def test_brackets_inside_strings_are_no_levels() -> None:
    raw = json.dumps({"[" * 100: "{" * 100, "quoted": '\\"[[' * 50}).encode()
    assert limits.depth_of(raw.replace(b" ", b"")) == 1
    check_metadata(raw)


@given(
    st.recursive(
        st.text() | st.none() | st.integers(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_depth_counts_the_levels_of_a_value(value: Any) -> None:
    def depth(part: Any) -> int:
        if isinstance(part, dict):
            part = list(part.values())
        return 1 + max(map(depth, part), default=0) if isinstance(part, list) else 0

    assert limits.depth_of(json.dumps(value).encode()) == depth(value)
    assert limits.depth_of(json.dumps(value, ensure_ascii=False).encode()) == depth(value)


def test_metadata_may_have_a_million_bytes_white_space_not_counted() -> None:
    assert check_metadata(b" " + filled(1_000_000) + b" ") == filled(1_000_000)


def test_metadata_of_more_bytes_is_refused_with_its_size_and_the_limit() -> None:
    with pytest.raises(ValidationFailed, match=r"^metadata: 1000001 bytes of JSON, at most 1000000 "):
        check_metadata(filled(1_000_001))


@pytest.mark.parametrize(
    "raw", [b'{"a":"\xff"}', b'{"\xc3":1}', b'{"a":"\\ud800"}', b"[1e400]", b"", b"{", b"NaN"]
)
def test_metadata_that_the_parser_had_not_looked_into_is_refused(raw: bytes) -> None:
    with pytest.raises(ValidationFailed, match=r"^metadata(\[|: )"):
        check_metadata(raw)


@pytest.mark.parametrize(
    "head",
    [
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff\xe0",
        b"GIF87a",
        b"GIF89a",
        b"RIFF\0\0\0\0WEBPVP8 ",
    ],
)
def test_an_image_cue_of_a_known_format_needs_a_provider(head: bytes) -> None:
    with pytest.raises(ModalityUnsupported, match=r"^cue\.image: "):
        limits.check_cue(cue(image=head + bytes(16)))


@pytest.mark.parametrize(
    "head",
    [
        b"RIFF\0\0\0\0WAVEfmt ",
        b"ID3\x04",
        b"\xff\xfb\x90\x64",
        b"fLaC",
        b"OggS",
        b"\0\0\0\x20ftypisom",
        b"\x1a\x45\xdf\xa3",
    ],
)
def test_an_audio_cue_of_a_known_format_needs_a_provider(head: bytes) -> None:
    with pytest.raises(ModalityUnsupported, match=r"^cue\.audio: "):
        limits.check_cue(cue(audio=head + bytes(16)))


@pytest.mark.parametrize("field", ["image", "audio"])
@pytest.mark.parametrize("data", [b"", b"x", b"RIFF", b"RIFF\0\0\0\0AVI ", b"plain text, no medium at all"])
def test_a_cue_of_no_known_format_is_refused(field: str, data: bytes) -> None:
    with pytest.raises(ValidationFailed, match=rf"^cue\.{field}: "):
        limits.check_cue(cue(**{field: data}))


@pytest.mark.parametrize(
    ("field", "head", "size_bytes_max"), [("image", PNG, 10_485_760), ("audio", WAV, 52_428_800)]
)
def test_a_cue_may_be_as_large_as_a_block(field: str, head: bytes, size_bytes_max: int) -> None:
    with pytest.raises(ModalityUnsupported):
        limits.check_cue(cue(**{field: head.ljust(size_bytes_max, b"\0")}))
    with pytest.raises(ContentTooLarge, match=rf"^cue\.{field}: ") as refused:
        limits.check_cue(cue(**{field: head.ljust(size_bytes_max + 1, b"\0")}))
    assert f" {size_bytes_max + 1} bytes" in str(refused.value)
    assert f" {size_bytes_max} " in str(refused.value)


def test_an_image_beside_an_embedding_is_only_checked_for_its_size() -> None:
    limits.check_cue(cue(image=b"no image at all", embedding=(1.0,)))
    with pytest.raises(ContentTooLarge, match=r"^cue\.image: "):
        limits.check_cue(cue(image=bytes(10_485_761), embedding=(1.0,)))


def test_an_audio_cue_needs_a_provider_beside_an_embedding_too() -> None:
    with pytest.raises(ModalityUnsupported, match=r"^cue\.audio: "):
        limits.check_cue(cue(audio=WAV, embedding=(1.0,)))


def test_an_empty_cue_is_a_cue() -> None:
    limits.check_cue(RecallCue())


def test_a_range_that_ends_before_it_starts_is_no_error_but_empty() -> None:
    body = b'{"temporal":{"start":"2026-01-02T00:00:00Z","end":"2026-01-01T00:00:00Z"}}'
    limits.check_cue(codec.parse(body, RecallCue))


def test_an_association_walk_goes_at_most_8_steps_and_256_records() -> None:
    limits.check_associate(RecallAssociate(depth=8, limit=256))
    with pytest.raises(ValidationFailed, match=r"^depth: at most 8, got 9$"):
        limits.check_associate(RecallAssociate(depth=9))
    with pytest.raises(ValidationFailed, match=r"^limit: at most 256, got 257$"):
        limits.check_associate(RecallAssociate(limit=257))


def test_forgetting_needs_to_be_confirmed() -> None:
    with pytest.raises(ForgetUnconfirmed, match=r"^confirm: "):
        limits.check_forget(Forget(record_ids=(AN_ID,), confirm=False))


def test_a_dry_run_of_forgetting_goes_unconfirmed() -> None:
    limits.check_forget(Forget(record_ids=(AN_ID,), confirm=False, dry_run=True))


@pytest.mark.parametrize("body", ['"cascade":true', '"record_ids":[]', '"record_ids":null,"dry_run":true'])
def test_forgetting_nothing_is_refused(body: str) -> None:
    with pytest.raises(ValidationFailed, match=r"^record_ids: nothing is selected"):
        limits.check_forget(codec.parse(f'{{"confirm":true,{body}}}'.encode(), Forget))


@pytest.mark.parametrize(
    "body",
    [
        f'"record_ids":["{AN_ID}"]',
        '"store":"working"',
        '"temporal_range":{"start":"2026-01-01T00:00:00Z","end":"2026-01-02T00:00:00Z"}',
    ],
)
def test_ids_a_store_or_a_range_select_what_to_forget(body: str) -> None:
    limits.check_forget(codec.parse(f'{{"confirm":true,{body}}}'.encode(), Forget))


def test_an_export_is_a_cma_or_json_lines() -> None:
    limits.check_export(Export(format="cma"))
    limits.check_export(Export(format="jsonl"))
    with pytest.raises(ValidationFailed, match=r"^format: expected cma or jsonl, got 'zip'$"):
        limits.check_export(Export(format="zip"))


@pytest.mark.parametrize("key", [None, ""])
def test_encryption_needs_a_key(key: str | None) -> None:
    with pytest.raises(ValidationFailed, match=r"^encryption_key: "):
        limits.check_export(Export(encrypt=True, encryption_key=key))


def test_a_key_is_taken_with_and_without_encryption() -> None:
    limits.check_export(Export(encrypt=True, encryption_key="pass"))
    limits.check_export(Export(encryption_key="pass"))


@given(st.integers())
def test_a_clamped_time_fits_into_a_signed_64_bit_key(at: int) -> None:
    clamped = limits.clamp_timestamp(at)
    assert clamped.to_bytes(8, "big", signed=True)
    assert clamped == at or abs(clamped) >= 2**63 - 1
