"""The archive format, against the archives of the reference and against damaged ones."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cerememory.domain.cma import (
    ARCHIVE_BYTES_MAX,
    CURATED_ONLY,
    HEADER_BYTES_MAX,
    WITH_RAW,
    ArchivedRecord,
    ArchiveReader,
    ArchiveWriter,
    check_archive_bytes,
)
from cerememory.errors import ImportConflict
from cerememory.protocol import codec
from cerememory.protocol.records import MemoryRecord, RawJournalRecord
from cerememory.protocol.values import Timestamp
from tests.support.archives import (
    BUNDLE,
    CURATED,
    ENCRYPTED,
    archive_of,
    memory_records,
    pieces,
    raw_records,
)

V1 = CURATED.splitlines()
V2 = BUNDLE.splitlines()
MIB = 1_048_576


def read(data: bytes, size: int = 65_536) -> list[ArchivedRecord]:
    return list(ArchiveReader(pieces(data, size)).records())


def refusal(data: bytes, size: int = 65_536) -> str:
    with pytest.raises(ImportConflict) as raised:
        read(data, size)
    return str(raised.value)


def joined(lines: list[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in lines)


def resealed(lines: list[bytes]) -> bytes:
    """An archive of these lines whose footer is right."""
    records = joined([line for line in lines[1:-1] if line.strip()])
    return joined([*lines[:-1], json.dumps({"checksum": sha256(records).hexdigest()}).encode()])


def changed(lines: list[bytes], number: int, change: Callable[[dict[str, Any]], object]) -> list[bytes]:
    """`lines` with the JSON of line `number` (from 1) changed."""
    value = json.loads(lines[number - 1])
    change(value)
    return [*lines[: number - 1], json.dumps(value, separators=(",", ":")).encode(), *lines[number:]]


@pytest.mark.parametrize(("data", "curated", "raw"), [(CURATED, 6, 0), (BUNDLE, 6, 2)], ids=["1.0", "2.0"])
def test_an_archive_of_the_reference_holds_what_its_description_says(data: bytes, curated: int, raw: int) -> None:
    kinds = [type(record) for record in read(data)]
    assert kinds == [MemoryRecord] * curated + [RawJournalRecord] * raw


@pytest.mark.parametrize("data", [CURATED, BUNDLE], ids=["1.0", "2.0"])
@pytest.mark.parametrize("size", [1, 7, 100, 65_536])
def test_an_archive_of_the_reference_is_written_again_byte_for_byte(data: bytes, size: int) -> None:
    reader = ArchiveReader(pieces(data, size))
    records = list(reader.records())
    header = reader.header
    version = WITH_RAW if header.has_raw else CURATED_ONLY
    curated = [record for record in records if isinstance(record, MemoryRecord)]
    raw = [record for record in records if isinstance(record, RawJournalRecord)]
    assert archive_of(version, curated, raw, header.timestamp) == data


def test_the_header_says_what_the_archive_is() -> None:
    header = ArchiveReader([BUNDLE]).header
    assert (header.version, header.has_raw, str(header.timestamp)) == (
        "2.0",
        True,
        "2026-11-23T21:16:49.601301152Z",
    )
    assert (header.record_count, header.curated_record_count, header.raw_record_count) == (8, 6, 2)
    assert not ArchiveReader([CURATED]).header.has_raw


def test_the_writer_knows_its_count_and_checksum() -> None:
    writer = ArchiveWriter(CURATED_ONLY)
    for line in V1[1:-1]:
        writer.curated(line)
    assert writer.record_count == 6
    assert writer.checksum == json.loads(V1[-1])["checksum"]


def test_an_archive_may_hold_nothing() -> None:
    for version in (CURATED_ONLY, WITH_RAW):
        assert read(archive_of(version)) == []


def test_the_writer_keeps_the_order_of_the_format() -> None:
    with pytest.raises(ValueError, match=r"version 1\.0 holds no raw records"):
        ArchiveWriter(CURATED_ONLY).raw(b"{}")
    writer = ArchiveWriter(WITH_RAW)
    writer.raw(b"{}")
    with pytest.raises(ValueError, match="curated records stand before raw ones"):
        writer.curated(b"{}")


@settings(max_examples=40)
@given(st.lists(memory_records, max_size=3), st.lists(raw_records, max_size=2), st.integers(1, 400))
def test_any_records_are_read_back_as_they_were_written(
    curated: list[MemoryRecord], raw: list[RawJournalRecord], size: int
) -> None:
    assert read(archive_of(WITH_RAW, curated, raw), size) == [*curated, *raw]
    assert read(archive_of(CURATED_ONLY, curated), size) == curated


@pytest.mark.parametrize("size", [1, 65_536])
def test_blank_lines_and_a_missing_last_newline_change_nothing(size: int) -> None:
    spread = b"\n  \n".join([b"", *V1, b"\t"])
    assert read(spread, size) == read(CURATED)
    assert read(CURATED.rstrip(b"\n"), size) == read(CURATED)


def test_raw_records_may_stand_anywhere() -> None:
    turned = resealed([V2[0], *reversed(V2[1:-1]), V2[-1]])
    assert read(turned) == read(BUNDLE)[::-1]


def test_fields_that_ours_does_not_know_are_passed_over() -> None:
    newer = changed(changed(V1, 1, lambda header: header.update(tool="x")), 2, lambda record: record.update(x=[1]))
    assert read(resealed(newer)) == read(CURATED)


def test_metadata_is_compacted() -> None:
    spaced = V1[1].replace(b'"metadata":{}', b'"metadata": { "a" : 1 }')
    record = read(resealed([V1[0], spaced, *V1[2:]]))[0]
    assert bytes(record.metadata) == b'{"a":1}'


GARBAGE = {
    "some bytes": b"\x01\x02\x03",
    "text": b"hello\nworld\n",
    "another JSON": b"[1]\n",
    "an encrypted archive": ENCRYPTED,
    "one that happens to start like JSON": b"{" + ENCRYPTED,
    "a first line without an end": b"{" + b"\0" * HEADER_BYTES_MAX,
    "a header cut off": V1[0][:40],
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE.keys())
@pytest.mark.parametrize("size", [1_000, 65_537])
def test_what_is_no_archive_is_called_so(data: bytes, size: int) -> None:
    assert refusal(data, size) == "encrypted or not an archive"


def test_an_age_file_is_called_so() -> None:
    assert "this is an age file" in refusal(b"age-encryption.org/v1\n-> scrypt abc 18\n", 1_000)


def test_a_first_line_that_never_ends_is_not_gathered() -> None:
    taken = 0

    def zeros() -> Iterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield bytes(HEADER_BYTES_MAX)

    with pytest.raises(ImportConflict, match=r"^encrypted or not an archive$"):
        ArchiveReader(zeros())
    assert taken == 2


def set_header(name: str, value: object) -> bytes:
    return joined(changed(V2, 1, lambda header: header.update({name: value})))


def without(lines: list[bytes], number: int) -> bytes:
    return joined([*lines[: number - 1], *lines[number:]])


def in_record(change: Callable[[dict[str, Any]], object], number: int = 2) -> bytes:
    """The mixed archive with one record changed, and a footer that fits."""
    return resealed(changed(V2, number, lambda line: change(line["data"])))


def set_block(**fields: object) -> bytes:
    return in_record(lambda record: record["content"]["blocks"][0].update(fields))


DAMAGED: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "the archive is empty"),
    "nothing but blank lines": (b"\n \n\n", "the archive is empty"),
    "only a header": (V1[0] + b"\n", "line 1: the archive ends after its header"),
    "no header": (without(V1, 1), "line 1: header.version: expected string, got integer"),
    "no version": (
        joined(changed(V1, 1, lambda header: header.pop("version"))),
        "line 1: header.version: missing field",
    ),
    "another version": (set_header("version", "3.0"), "line 1: version '3.0', expected 1.0 or 2.0"),
    "a count below 0": (set_header("record_count", -1), "line 1: header.record_count: expected integer >= 0"),
    "no footer": (
        without(V1, len(V1)),
        "line 7: the archive was cut off, its last line is no footer: footer.checksum: missing field",
    ),
    "cut in its footer": (
        CURATED[:-10],
        "line 8: the archive was cut off, its last line is no footer: footer: not readable as JSON: "
        "input data was truncated",
    ),
    "a record deleted": (without(V1, 3), "line 1: header.record_count: 6, but the archive has 5"),
    "a record doubled": (joined([*V1[:3], *V1[2:]]), "line 1: header.record_count: 6, but the archive has 7"),
    "another curated count": (
        set_header("curated_record_count", 5),
        "line 1: header.curated_record_count: 5, but the archive has 6",
    ),
    "another raw count": (
        set_header("raw_record_count", 0),
        "line 1: header.raw_record_count: 0, but the archive has 2",
    ),
    "records swapped": (
        joined([V1[0], V1[2], V1[1], *V1[3:]]),
        "line 8: the checksum is not that of the records: the archive was changed",
    ),
    "another checksum": (
        joined([*V1[:-1], V1[-1].replace(b'"4', b'"5')]),
        "line 8: the checksum is not that of the records: the archive was changed",
    ),
    "a record of no kind": (
        resealed(changed(V2, 3, lambda line: line.update(kind="dream"))),
        "line 3: record.kind: invalid value 'dream'",
    ),
    "a bare record in 2.0": (resealed([V2[0], V1[1], *V2[2:]]), "line 2: record.kind: missing field"),
    "a tagged record in 1.0": (resealed([V1[0], V2[1], *V1[2:]]), "line 2: record.id: missing field"),
    "a record that is no JSON": (
        resealed([*V1[:4], b"{nonsense}", *V1[5:]]),
        "line 5: record: not readable as JSON: object keys must be strings (byte 1)",
    ),
    "no id": (in_record(lambda record: record.pop("id")), "line 2: record.data.id: missing field"),
    "no such store": (
        in_record(lambda record: record.update(store="attic")),
        "line 2: record.data.store: unknown name 'attic'",
    ),
    "no blocks": (
        in_record(lambda record: record["content"].update(blocks=[])),
        "line 2: record.content.blocks: must have at least one content block",
    ),
    "text that isn't": (set_block(data=[255]), "line 2: record.content.blocks[0]: text must be UTF-8"),
    "too much text": (
        set_block(data=[32] * (8 * MIB + 1)),
        "line 2: record.content.blocks[0]: text of 8388609 bytes, at most 8388608 are allowed",
    ),
    "structured that isn't": (
        set_block(modality="structured"),
        "line 2: record.content.blocks[0]: not readable as JSON",
    ),
    "an empty embedding": (
        set_block(embedding=[]),
        "line 2: record.content.blocks[0].embedding: must not be empty",
    ),
    "a score over 1": (
        in_record(lambda record: record["fidelity"].update(score=1.5)),
        "line 2: record.data.fidelity.score: expected number <= 1.0",
    ),
    "metadata too deep": (
        in_record(lambda record: record.update(metadata=json.loads("[" * 65 + "]" * 65))),
        "line 2: record.metadata: nested deeper than 64 levels",
    ),
    "an object too deep": (
        in_record(lambda record: record.update(metadata={"_metadata": json.loads("[" * 65 + "]" * 65)})),
        "line 2: record.metadata: nested deeper than 65 levels",
    ),
    "too much metadata": (
        in_record(lambda record: record.update(metadata="x" * 7_999_999)),
        "line 2: record.metadata: 8000001 bytes of JSON, at most 8000000 are allowed",
    ),
    "an edge to nothing": (
        in_record(lambda record: record["meta"].update(context_edges=[{"target_id": str(bytes(16).hex())}])),
        "line 2: record.meta.context_edges[0].target_id: must not be the nil UUID",
    ),
    "a time that can't be kept": (
        in_record(lambda record: record.update(updated_at="2263-01-01T00:00:00Z")),
        "line 2: record.updated_at: out of range",
    ),
    "an edge's time that can't be kept": (
        in_record(lambda record: record["associations"][0].update(created_at="1600-01-01T00:00:00Z")),
        "line 2: record.associations[0].created_at: out of range",
    ),
    "a blank session": (
        in_record(lambda record: record.update(session_id=" "), 9),
        "line 9: record.session_id: must not be blank",
    ),
}


@pytest.mark.parametrize(("data", "message"), DAMAGED.values(), ids=DAMAGED.keys())
@pytest.mark.parametrize("size", [999, 65_536])
def test_a_damaged_archive_is_refused(data: bytes, message: str, size: int) -> None:
    assert refusal(data, size).startswith(message)


def test_a_refusal_names_its_line_for_programs_too() -> None:
    with pytest.raises(ImportConflict) as raised:
        read(without(V1, 3))
    assert raised.value.details == {"line": 1}


@given(st.integers(0, len(BUNDLE) - 1), st.integers(1, 255))
def test_no_changed_byte_among_the_records_goes_unseen(at: int, difference: int) -> None:
    damaged = bytearray(BUNDLE)
    damaged[at] ^= difference
    header_end, footer_start = BUNDLE.index(b"\n"), BUNDLE.rindex(b"\n", 0, -1)
    if header_end < at < footer_start:
        refusal(bytes(damaged))


@given(st.integers(0, len(CURATED) - 2))
def test_an_archive_cut_anywhere_is_refused(end: int) -> None:
    assert refusal(CURATED[:end])


def test_more_than_the_most_is_refused_before_it_is_read() -> None:
    check_archive_bytes(ARCHIVE_BYTES_MAX)
    with pytest.raises(ImportConflict, match=r"more than 536870912 bytes"):
        check_archive_bytes(ARCHIVE_BYTES_MAX + 1)


def test_an_endless_archive_is_refused_at_its_limit() -> None:
    blank = b" " * (MIB - 1) + b"\n"
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        yield V1[0] + b"\n"
        while True:
            taken += 1
            yield blank

    with pytest.raises(ImportConflict, match=r"more than 536870912 bytes"):
        list(ArchiveReader(endless()).records())
    assert taken == ARCHIVE_BYTES_MAX // len(blank)


def test_memory_is_bounded_by_the_largest_record() -> None:
    """An archive of 200 records of 100 kB each is read and written in the room of a few."""
    record = codec.parse(V1[1], MemoryRecord)
    large = codec.dump(record).replace(b'"metadata":{}', b'"metadata":"%b"' % (b"x" * 100_000))
    writer = ArchiveWriter(CURATED_ONLY)
    for _ in range(200):
        writer.curated(large)
    header, footer = writer.header(Timestamp(0)), writer.footer()

    def chunks() -> Iterator[bytes]:
        yield header
        again = ArchiveWriter(CURATED_ONLY)
        for _ in range(200):
            yield from pieces(again.curated(large), 65_536)
        yield footer

    tracemalloc.start()
    try:
        count = sum(1 for _ in ArchiveReader(chunks()).records())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 200
    assert peak < 20 * len(large)
