"""A batch is the same request wherever it has been meanwhile."""

from __future__ import annotations

import pytest

from cerememory.errors import ValidationFailed
from cerememory.recorder.batches import Batch, new_entry, parse_batch

RECORD = b'{"session_id":"s","text":"\xc3\xa9\\u2028"}'


def batch(*records: bytes) -> Batch:
    return Batch(tuple(new_entry(record, None) for record in records))


def test_a_batch_comes_back_from_the_spool_as_it_was() -> None:
    made = batch(RECORD, b"{}")
    back = parse_batch(made.dump())
    assert (back, back.key, back.body) == (made, made.key, made.body)
    assert made.dump().count(b"\n") == 2


def test_the_same_record_twice_is_two_batches() -> None:
    assert batch(RECORD).key != batch(RECORD).key


def test_an_entry_that_can_be_known_again_gets_its_key_again() -> None:
    assert new_entry(RECORD, b"turn 1") == new_entry(RECORD, b"turn 1")
    keys = {new_entry(RECORD, b"turn 1").key, new_entry(RECORD, b"turn 2").key, new_entry(b"{}", b"turn 1").key}
    assert len(keys) == 3  # another body under the same key would be refused as a conflict


def test_the_order_counts() -> None:
    first, second = new_entry(RECORD, None), new_entry(b"{}", None)
    assert Batch((first, second)).key != Batch((second, first)).key


@pytest.mark.parametrize(
    "data", [b"{}\n", b'{"key":"a","record":{}}\nx\n', b"\xff\n", b'{"key":1,"record":{}}', b"\n"]
)
def test_what_is_no_batch_is_refused(data: bytes) -> None:
    with pytest.raises(ValidationFailed, match="line "):
        parse_batch(data)
