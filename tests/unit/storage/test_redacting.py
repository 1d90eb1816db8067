"""Secrets taken out of what is stored: of every place where text is, and of nothing else."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerememory.domain.audit_chain import parse_line
from cerememory.domain.redaction import MARK
from cerememory.errors import ValidationFailed
from cerememory.protocol import codec
from cerememory.protocol.records import ContentBlock, MemoryContent, Modality, Store
from cerememory.protocol.replies import Redacted
from cerememory.protocol.requests import ImportStrategy, Redact
from cerememory.protocol.values import ByteArray, RecordId, format_id
from cerememory.storage import redacting
from cerememory.storage.archive_mutations import Terms
from cerememory.storage.keys import DEFAULT_NAMESPACE, Table, digest, key
from cerememory.storage.ledger import Finished
from cerememory.storage.likenesses import BuildLikenesses
from cerememory.storage.mutations import Once
from cerememory.storage.redacting import PARTS, Piece, Position, RedactPiece, look_at_piece
from cerememory.storage.rows import (
    ContentRow,
    RawRow,
    dump_ids,
    dump_row,
    parse_archived_row,
    parse_content_row,
    parse_raw_row,
)
from tests.support.committing import a_record, an_id, commit, forgetting, storing, storing_raw, updating
from tests.support.engine import NOW, text_block
from tests.support.memory_storage import MemoryStorage
from tests.unit.storage.test_archive_mutations import a_memory, a_raw
from tests.unit.storage.test_forgetting import Archive
from tests.unit.storage.test_undo_import import IMPORTED, SECOND, assert_sound, rows_of, take_in, undo

SECRET = "hunter2hunter2"
TELLING = f"my password is {SECRET}"
TOLD = f"my password is {MARK}"
TOKEN = "ghp_abcdefghijklmnopqrstuvwxyz"
LATER = NOW + 5
ENTRIES = f"{PARTS.index(Table.RAW)}."  # where a scan comes to them
SPELT = ",".join(map(str, SECRET.encode())).encode()


def scan(storage: MemoryStorage, **asked: Any) -> tuple[list[Redacted], list[Finished]]:
    """What each piece of a whole scan was answered with, and what was committed."""
    replies: list[Redacted] = []
    commits: list[Finished] = []
    cursor: str | None = None
    while True:
        request = Redact(cursor=cursor, **asked)
        with storage.read() as reader:
            piece = look_at_piece(reader, DEFAULT_NAMESPACE, request)
        if request.dry_run:
            replies.append(piece.reply(len(piece.hits), piece.secrets))
        else:
            [stored], finished = commit(storage, RedactPiece(DEFAULT_NAMESPACE, piece, LATER))
            replies.append(stored.reply)
            commits += [finished] if finished is not None else []
        cursor = replies[-1].next_cursor
        if cursor is None:
            return replies, commits


def counts(replies: list[Redacted]) -> tuple[int, int, int, dict[str, int]]:
    secrets: Counter[str] = Counter()
    for reply in replies:
        secrets.update(reply.secrets)
    parts = ("entries_redacted", "memories_redacted", "kept_redacted")
    entries, memories, kept = (sum(getattr(reply, name) for reply in replies) for name in parts)
    return entries, memories, kept, dict(secrets)


def dreamt_ids(replies: list[Redacted]) -> list[RecordId]:
    return [record_id for reply in replies for record_id in reply.dreamt_ids]


def holds_secret(storage: MemoryStorage) -> bool:
    values = [k + v for k, v in storage.rows().items() if k[4:5] != Table.LOG.value]
    return any(form in value for value in values for form in (SECRET.encode(), SPELT, TOKEN.encode()))


def raw_row(storage: MemoryStorage, number: int = 101) -> RawRow:
    return parse_raw_row(storage.rows()[key(DEFAULT_NAMESPACE, Table.RAW, an_id(number))])


def content_row(storage: MemoryStorage, number: int) -> ContentRow:
    return parse_content_row(storage.rows()[key(DEFAULT_NAMESPACE, Table.CONTENT, an_id(number))])


def texts(row: RawRow | ContentRow) -> list[str]:
    return [block.data.decode() for block in codec.parse(row.content, MemoryContent).blocks]


def origin(number: int) -> dict[str, Any]:
    return {"_origin": {"raw_record_ids": [format_id(an_id(number))]}}


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


@pytest.mark.parametrize(
    ("given_", "kinds"),
    [
        ({"text": TELLING}, {"named_value": 1}),
        ({"text": f"use {TOKEN}"}, {"token": 1}),
        ({"metadata": {"env": {"API_TOKEN": SECRET}, "n": 3}}, {"named_value": 1}),
        ({"meta": {"intent": TELLING, "tags": [TOKEN]}}, {"named_value": 1, "token": 1}),
        ({"content": {"blocks": [text_block("short")], "summary": TELLING}}, {"named_value": 1}),
        (
            {
                "content": {
                    "blocks": [
                        {
                            "modality": "structured",
                            "format": "application/json",
                            "data": list(msgspec.json.encode({"password": SECRET})),
                        }
                    ]
                }
            },
            {"named_value": 1},
        ),
        ({"text": "nothing to see"}, {}),
    ],
    ids=["text", "token", "metadata", "meta", "summary", "structured", "innocent"],
)
def test_an_entry_is_redacted_wherever_it_has_text(
    storage: MemoryStorage, given_: dict[str, Any], kinds: dict[str, int]
) -> None:
    commit(storage, storing_raw(101, **given_))
    before, all_before = raw_row(storage), rows_of(storage)
    foreseen = counts(scan(storage, dry_run=True)[0])
    assert rows_of(storage) == all_before
    replies, _commits = scan(storage)
    assert counts(replies) == foreseen == (bool(kinds), 0, 0, kinds)
    assert not holds_secret(storage)
    after = raw_row(storage)
    parts = dict.fromkeys(("content", "metadata", "meta"), b"")
    assert msgspec.structs.replace(after, **parts) == msgspec.structs.replace(before, **parts)
    assert_sound(storage)
    settled = rows_of(storage)
    assert counts(scan(storage)[0]) == (0, 0, 0, {})
    assert rows_of(storage) == settled


def test_what_is_no_json_and_no_text_stays_what_it_is(storage: MemoryStorage) -> None:
    """Today nothing like that is stored any more."""
    data = ByteArray(b"\xff{ password=abcdef1")
    block = ContentBlock(modality=Modality.STRUCTURED, format="application/json", data=data)
    commit(storage, storing_raw(101))
    odd = msgspec.structs.replace(raw_row(storage), content=codec.dump(MemoryContent(blocks=(block,))))
    storage.commit({key(DEFAULT_NAMESPACE, Table.RAW, an_id(101)): dump_row(odd)})
    scan(storage)
    [found] = codec.parse(raw_row(storage).content, MemoryContent).blocks
    assert bytes(found.data) == b"\xff{ password=" + MARK.encode()


def test_a_picture_stays(storage: MemoryStorage) -> None:
    picture = {"modality": "image", "format": "image/png", "data": list(b"\x89PNG\r\n\x1a\n" + TELLING.encode())}
    commit(storage, storing_raw(101, content={"blocks": [picture]}))
    assert counts(scan(storage)[0])[0] == 0


def test_an_entry_is_indexed_anew_and_told_of_in_the_audit_log(storage: MemoryStorage) -> None:
    commit(storage, storing_raw(101, TELLING), storing_raw(102))
    _replies, [finished] = scan(storage)
    assert finished.effects.changed == [(DEFAULT_NAMESPACE, an_id(101))]
    [line] = finished.audit_lines
    entry = parse_line(line)
    assert (entry.operation, entry.record_ids, entry.store_types) == ("lifecycle.redact", (an_id(101),), ())
    assert entry.summary == {"redacted": 1, "part": "raw", "secrets": {"named_value": 1}}


def test_an_embedding_of_a_secret_goes_with_it(storage: MemoryStorage) -> None:
    telling, innocent = text_block(TELLING, embedding=[1.0, 2.0]), text_block("hi", embedding=[3.0, 4.0])
    commit(storage, storing_raw(101, content={"blocks": [telling, innocent]}))
    scan(storage)
    blocks = codec.parse(raw_row(storage).content, MemoryContent).blocks
    assert [block.embedding for block in blocks] == [None, (3.0, 4.0)]


@pytest.fixture
def dreamt(storage: MemoryStorage) -> MemoryStorage:
    """Memory 1 was dreamt of entry 101 and edited; 2, which says the same, wasn't; 3 was, and is archived."""
    commit(storage, storing_raw(101, TELLING), BuildLikenesses(DEFAULT_NAMESPACE, None))
    block = text_block(TELLING, embedding=[1.0, 2.0])
    for number, metadata in ((1, origin(101)), (2, {}), (3, origin(101))):
        commit(storage, storing(a_record(number, content={"blocks": [block]}, metadata=metadata)))
    commit(storage, updating(1, content={"blocks": [{**block, "text": f"{TELLING} still"}]}))
    commit(storage, Archive(3))
    return storage


def test_memories_that_were_dreamt_of_entries_are_named(dreamt: MemoryStorage) -> None:
    replies, _commits = scan(dreamt)
    assert counts(replies) == (1, 0, 0, {"named_value": 1})
    assert dreamt_ids(replies) == [an_id(1), an_id(3)]
    assert SECRET in texts(content_row(dreamt, 1))[0]
    assert dreamt_ids(scan(dreamt)[0]) == [an_id(1), an_id(3)], "and named again"


def test_they_are_redacted_with_their_versions_when_asked(dreamt: MemoryStorage) -> None:
    before = content_row(dreamt, 1)
    replies, commits = scan(dreamt, include_dreamt=True)
    assert (counts(replies)[:3], dreamt_ids(replies)) == ((1, 2, 0), [])
    after = content_row(dreamt, 1)
    assert texts(after) == [f"{TOLD} still"]
    assert (after.version, after.updated_at, after.created_at) == (
        before.version,
        before.updated_at,
        before.created_at,
    )
    history = dreamt.rows()[key(DEFAULT_NAMESPACE, Table.HISTORY, an_id(1), b"\0\0\0\1")]
    assert texts(parse_content_row(history)) == [TOLD]
    archived = parse_archived_row(dreamt.rows()[key(DEFAULT_NAMESPACE, Table.ARCHIVED, an_id(3))])
    assert texts(archived.content) == [TOLD]
    assert texts(content_row(dreamt, 2)) == [TELLING], "which nobody dreamt of an entry"
    assert_sound(dreamt)
    [change] = [change for finished in commits for change in finished.effects.vectors]
    assert (change.record_id, change.values) == (an_id(1), None)
    stores = [parse_line(line).store_types for finished in commits for line in finished.audit_lines]
    assert stores == [("episodic",), ("episodic",), ()]
    assert counts(scan(dreamt, include_dreamt=True)[0])[:3] == (0, 0, 0)


def test_a_dream_tells_a_secret_where_nothing_says_that_it_is_one(storage: MemoryStorage) -> None:
    """Its hint at the topic is made of the entry's words, and its text is cut."""
    told = {**origin(101), "hint": f"cook+{SECRET}", "topic": "cook"}
    text = f"topic cook+{SECRET.upper()}: the cook said {SECRET[:9]}..."
    commit(storage, storing_raw(101, TELLING), storing(a_record(1, text, metadata=told)))
    assert dreamt_ids(scan(storage, dry_run=True)[0]) == [an_id(1)]
    assert counts(scan(storage, include_dreamt=True)[0]) == (1, 1, 0, {"known_secret": 3, "named_value": 1})
    assert texts(content_row(storage, 1)) == [f"topic cook+{MARK}: the cook said {MARK}..."]
    assert not holds_secret(storage)
    assert_sound(storage)


def test_a_memory_whose_entries_were_redacted_before_it_is_redacted_everywhere(storage: MemoryStorage) -> None:
    """It says itself, in one place, which of its words are secret."""
    told = {**origin(101), "hint": f"cook+{SECRET}"}
    text = f"topic cook+{SECRET.upper()}: {TELLING}, said the cook"
    commit(storage, storing_raw(101, TOLD), storing(a_record(1, text, metadata=told)))
    assert counts(scan(storage, include_dreamt=True)[0])[:3] == (0, 1, 0)
    assert texts(content_row(storage, 1)) == [f"topic cook+{MARK}: my password is {MARK} said the cook"]
    assert not holds_secret(storage)
    assert counts(scan(storage, include_dreamt=True)[0])[:3] == (0, 0, 0)
    assert_sound(storage)


def test_so_is_one_that_is_kept_to_undo_an_import(storage: MemoryStorage) -> None:
    commit(storage, storing(a_record(1, f"cook+{SECRET}: {TELLING}", metadata=origin(101))))
    take_in(storage, a_memory(2), terms=Terms("a-1", ImportStrategy.REPLACE, IMPORTED, False))
    scan(storage, include_dreamt=True)
    assert not holds_secret(storage)


def dream(storage: MemoryStorage) -> None:
    """Entry 101 becomes memory 1 with a semantic copy 2, and memory 3, which is archived; of 4 nothing is left."""
    for number, told in (
        (1, {**origin(101), "_derived": {"semantic_ids": [format_id(an_id(2))]}}),
        (3, origin(101)),
    ):
        commit(storage, storing(a_record(number, f"topic {SECRET}", metadata=told)))
    commit(storage, storing(a_record(2, f"topic {SECRET}", metadata=origin(101), store="semantic")), Archive(3))
    became = msgspec.structs.replace(raw_row(storage), derived=dump_ids([an_id(1), an_id(3), an_id(4)]))
    storage.commit({key(DEFAULT_NAMESPACE, Table.RAW, an_id(101)): dump_row(became)})


def look(storage: MemoryStorage, part: Table, **asked: Any) -> Piece:
    """At the first piece of a part."""
    with storage.read() as reader:
        return look_at_piece(reader, DEFAULT_NAMESPACE, Redact(cursor=f"{PARTS.index(part)}.", **asked))


def test_an_entry_takes_along_what_it_became_while_the_scan_went_on(storage: MemoryStorage) -> None:
    commit(storage, storing_raw(101, TELLING))
    piece = look(storage, Table.RAW, include_dreamt=True)
    dream(storage)
    [stored], finished = commit(storage, RedactPiece(DEFAULT_NAMESPACE, piece, LATER))
    assert (stored.reply.entries_redacted, stored.reply.memories_redacted) == (1, 3)
    assert finished is not None
    [line] = finished.audit_lines
    assert parse_line(line).record_ids == (an_id(101), an_id(1), an_id(3), an_id(2))
    assert texts(content_row(storage, 1)) == texts(content_row(storage, 2)) == [f"topic {MARK}"]
    assert not holds_secret(storage)
    assert_sound(storage)


def test_or_names_it(storage: MemoryStorage) -> None:
    commit(storage, storing_raw(101, TELLING))
    piece = look(storage, Table.RAW)
    dream(storage)
    [stored], _ = commit(storage, RedactPiece(DEFAULT_NAMESPACE, piece, LATER))
    assert (stored.reply.entries_redacted, stored.reply.memories_redacted) == (1, 0)
    assert stored.reply.dreamt_ids == (an_id(1), an_id(3), an_id(2))
    assert texts(content_row(storage, 1)) == [f"topic {SECRET}"]


def test_what_nobody_dreamt_of_an_entry_stays_whatever_the_entry_says(storage: MemoryStorage) -> None:
    commit(storage, storing_raw(101, TELLING))
    dream(storage)
    edited = msgspec.structs.replace(content_row(storage, 1), metadata=b"{}")
    storage.commit({key(DEFAULT_NAMESPACE, Table.CONTENT, an_id(1)): dump_row(edited)})
    piece = look(storage, Table.RAW, include_dreamt=True)
    [stored], _ = commit(storage, RedactPiece(DEFAULT_NAMESPACE, piece, LATER))
    assert stored.reply.memories_redacted == 1
    assert texts(content_row(storage, 1)) == [f"topic {SECRET}"]


def test_a_memory_takes_its_copy_along(storage: MemoryStorage) -> None:
    """Its id may be one that the scan has passed by."""
    commit(storage, storing_raw(101, TELLING))
    commit(storage, storing(a_record(1, TELLING, metadata=origin(101))))
    piece = look(storage, Table.CONTENT, include_dreamt=True)
    copies = {**origin(101), "_derived": {"semantic_ids": [format_id(an_id(2))]}}
    commit(storage, storing(a_record(2, f"topic {SECRET}", metadata=origin(101), store="semantic")))
    marked = msgspec.structs.replace(content_row(storage, 1), metadata=codec.dump(copies))
    storage.commit({key(DEFAULT_NAMESPACE, Table.CONTENT, an_id(1)): dump_row(marked)})
    [stored], _ = commit(storage, RedactPiece(DEFAULT_NAMESPACE, piece, LATER))
    assert stored.reply.memories_redacted == 2
    assert texts(content_row(storage, 2)) == [f"topic {MARK}"]


def test_another_block_speaks_for_a_memory_whose_embedding_went(storage: MemoryStorage) -> None:
    blocks = [text_block(TELLING, embedding=[1.0, 2.0]), text_block("hi", embedding=[3.0, 4.0, 5.0])]
    commit(storage, storing(a_record(1, content={"blocks": blocks}, metadata=origin(101))))
    _replies, [finished] = scan(storage, include_dreamt=True)
    assert [change.values for change in finished.effects.vectors] == [(3.0, 4.0, 5.0)]
    assert_sound(storage)


def test_what_is_kept_to_undo_imports_is_redacted(storage: MemoryStorage) -> None:
    commit(storage, storing_raw(101, TELLING), storing(a_record(1, TELLING, metadata=origin(101))))
    replace = Terms("a-1", ImportStrategy.REPLACE, IMPORTED, True)
    take_in(storage, a_raw(102, TELLING), a_memory(2, store=Store.SEMANTIC), terms=replace)
    replies, _commits = scan(storage, include_dreamt=True)
    assert counts(replies) == (1, 0, 2, {"named_value": 1})
    assert not holds_secret(storage)
    undo(storage)
    assert texts(raw_row(storage)) == texts(content_row(storage, 1)) == [TOLD]
    assert_sound(storage)


def test_an_entry_that_was_redacted_since_its_import_is_undone_all_the_same(storage: MemoryStorage) -> None:
    take_in(storage, a_raw(101, TELLING), batch=SECOND)
    scan(storage)
    assert undo(storage, SECOND).answer.reply.records_removed == 1


def test_so_is_one_that_comes_back_from_what_a_later_import_keeps(storage: MemoryStorage) -> None:
    take_in(storage, a_raw(101, TELLING), batch=SECOND)
    take_in(storage, a_raw(101, "said", updated_at=LATER), batch=an_id(902))
    scan(storage)
    undo(storage, an_id(902))
    assert undo(storage, SECOND).answer.reply.records_removed == 1


def test_a_memory_was_dreamt_though_an_edit_took_the_word_for_it(storage: MemoryStorage) -> None:
    commit(storage, storing_raw(101, TELLING), storing(a_record(1, TELLING, metadata=origin(101))))
    commit(storage, updating(1, metadata={"tag": "tea"}))
    take_in(storage, a_raw(102), terms=Terms("a-1", ImportStrategy.REPLACE, IMPORTED, True))
    scan(storage, include_dreamt=True)
    assert not holds_secret(storage)
    undo(storage)
    scan(storage, include_dreamt=True)
    assert texts(content_row(storage, 1)) == [TOLD]
    assert not holds_secret(storage)


def test_what_was_forgotten_since_it_was_looked_at_is_passed_by(storage: MemoryStorage) -> None:
    commit(storage, storing(a_record(1, TELLING, metadata=origin(101))))
    asked = Redact(cursor=Position(Table.CONTENT, key(0, Table.CONTENT)).cursor(0), include_dreamt=True)
    with storage.read() as reader:
        piece = look_at_piece(reader, DEFAULT_NAMESPACE, asked)
    commit(storage, forgetting(1))
    [stored], finished = commit(storage, RedactPiece(DEFAULT_NAMESPACE, piece, LATER))
    assert (stored.reply.memories_redacted, finished) == (0, None)


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_a_scan_goes_piece_by_piece_through_all_parts(
    storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(redacting, "PIECE_ROWS", rows)
    commit(storage, *(storing_raw(number, TELLING) for number in range(101, 106)), storing(a_record(1)))
    replies, commits = scan(storage)
    assert counts(replies)[0] == 5
    assert [reply.records_scanned for reply in replies if reply.records_scanned] == [
        1,
        *([rows] * (5 // rows)),
        *([5 % rows] if 5 % rows else []),
    ]
    assert len(commits) == -(-5 // rows)


def test_a_piece_has_a_size_at_most(storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redacting, "PIECE_BYTES", 500)
    commit(storage, *(storing_raw(number, "word " * 200) for number in range(101, 104)))
    replies, _commits = scan(storage, dry_run=True)
    assert [reply.records_scanned for reply in replies] == [0, 0, 0, 1, 1, 1]


def test_a_retry_of_a_piece_is_answered_as_the_first(storage: MemoryStorage) -> None:
    commit(storage, storing_raw(101, TELLING))
    with storage.read() as reader:
        piece = look_at_piece(reader, DEFAULT_NAMESPACE, Redact(cursor=ENTRIES))
    once = Once(RedactPiece(0, piece, LATER), digest("k"), b"body" * 4, NOW, NOW + 1_000, Redacted)
    [first], _ = commit(storage, once)
    [again], _ = commit(storage, once)
    assert again.replayed
    assert again.reply == first.reply


@given(namespace=st.integers(0, 5), part=st.sampled_from(PARTS), behind=st.binary(max_size=40))
def test_a_cursor_says_where_to_go_on(namespace: int, part: Table, behind: bytes) -> None:
    start = Position.of(namespace, f"{PARTS.index(part)}.{behind.hex()}")
    assert start.part is part
    assert Position.of(namespace, start.cursor(namespace)) == start


@pytest.mark.parametrize("cursor", ["", "4.", "0.x", "-1.", "0.0", "０."])
def test_a_cursor_of_no_answer_is_refused(cursor: str) -> None:
    with pytest.raises(ValidationFailed, match=r"^cursor: expected the next_cursor of an answer"):
        Position.of(0, cursor)
