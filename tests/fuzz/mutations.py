"""Inputs made of others by edits: what hypothesis draws and shrinks, and what a plain generator draws at random.

An edit is put at a place that is a number of any size, so that it fits every input and the next smaller number is
simpler.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from hypothesis import strategies as st

from tests.fuzz.targets import Target

INPUT_BYTES_MAX = 65_536
EDITS_MAX = 8
SPAN_MAX = 64
INTERESTING = (b"", b"\x00", b"\xff", b"\x80", b"\n", b" ", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"0", b"-1")


class Kind(Enum):
    PUT = "put"  # `piece` over as many bytes
    INSERT = "insert"
    CUT = "cut"  # `span` bytes out
    REPEAT = "repeat"  # `span` bytes once more
    MOVE = "move"  # `span` bytes to the front


class Edit(NamedTuple):
    kind: Kind
    at: int
    span: int
    piece: bytes


def edited(data: bytes, edits: Sequence[Edit]) -> bytes:
    for edit in edits:
        data = _edited(data, edit)[:INPUT_BYTES_MAX]
    return data


def _edited(data: bytes, edit: Edit) -> bytes:
    at = edit.at % (len(data) + 1)
    before, after = data[:at], data[at:]
    match edit.kind:
        case Kind.PUT:
            return before + edit.piece + after[len(edit.piece) :]
        case Kind.INSERT:
            return before + edit.piece + after
        case Kind.CUT:
            return before + after[edit.span :]
        case Kind.REPEAT:
            return before + after[: edit.span] + after
        case Kind.MOVE:
            return after[: edit.span] + before + after[edit.span :]


def inputs(target: Target) -> st.SearchStrategy[bytes]:
    """Seeds of `target`, edited, and bytes that have nothing to do with them."""
    pieces = st.sampled_from((*INTERESTING, *target.words)) | st.binary(max_size=4)
    edits = st.builds(Edit, st.sampled_from(Kind), st.integers(0, 16_384), st.integers(1, SPAN_MAX), pieces)
    seeds = st.sampled_from((b"", *target.seeds))
    return st.builds(edited, seeds, st.lists(edits, max_size=EDITS_MAX)) | st.binary(max_size=64)


def random_input(target: Target, known: Sequence[bytes], rng: random.Random) -> bytes:
    """One of `known`, edited at random; sometimes with the rest of another."""
    data = rng.choice(known)
    if rng.random() < 0.1:
        other = rng.choice(known)
        data = data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]
    pieces = (*INTERESTING, *target.words)
    return edited(data, [_random_edit(pieces, rng) for _ in range(rng.randint(1, EDITS_MAX))])


def _random_edit(pieces: Sequence[bytes], rng: random.Random) -> Edit:
    piece = rng.choice(pieces) if rng.random() < 0.7 else rng.randbytes(rng.randint(1, 4))
    return Edit(rng.choice(tuple(Kind)), rng.randrange(16_384), rng.randint(1, SPAN_MAX), piece)
