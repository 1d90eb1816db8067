"""Each thing that can be done to a log has its name, by the chain alone, and the line where it was done."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerememory.domain.audit_chain import verify_lines
from cerememory.domain.audit_diagnosis import Tampering, diagnose, diagnose_other
from cerememory.errors import AuditBroken
from tests.support.tampering import DONE, Lines, inserted_and_linked, log_of

LINES = log_of(9)


@pytest.mark.parametrize("i", [1, 2, 5, 6])
@pytest.mark.parametrize(("kind", "tamper", "later"), DONE.values(), ids=DONE.keys())
def test_what_was_done_has_its_name_and_its_line(
    kind: Tampering, tamper: Callable[[Lines, int], Lines], later: int, i: int
) -> None:
    lines = tamper(LINES, i)
    with pytest.raises(AuditBroken) as broken:
        verify_lines(lines)
    assert broken.value.details == {"line": i + 1 + later}
    assert diagnose(lambda: lines, i + 1 + later) is kind


def test_a_chain_that_goes_on_with_another_log_was_rebuilt() -> None:
    lines = [*LINES[:4], *log_of(9, "human")[4:]]
    assert diagnose(lambda: lines, 5) is Tampering.REBUILT


@pytest.mark.parametrize(
    ("line", "following", "held", "kind"),
    [
        (inserted_and_linked(LINES, 4)[4], LINES[4], LINES[4], Tampering.INSERTED),
        (log_of(9, "human")[4], log_of(9, "human")[5], LINES[4], Tampering.REBUILT),
        (log_of(9, "human")[8], b"", LINES[8], Tampering.REBUILT),
        (inserted_and_linked(LINES, 4)[4], LINES[5], LINES[4], Tampering.EDITED),
        (inserted_and_linked(LINES, 4)[4], b"\n", LINES[4], Tampering.EDITED),
    ],
)
def test_where_the_store_has_another_line_it_is_told_what_was_done(
    line: bytes, following: bytes, held: bytes, kind: Tampering
) -> None:
    assert diagnose_other(line, following, held) is kind


@given(
    st.lists(
        st.one_of(st.sampled_from(LINES), st.binary(max_size=60).map(lambda b: b.replace(b"\n", b"") + b"\n"))
    )
)
def test_whatever_stands_in_a_log_has_a_name(lines: list[bytes]) -> None:
    try:
        verify_lines(lines)
    except AuditBroken as error:
        assert error.details is not None
        assert diagnose(lambda: lines, error.details["line"]) in Tampering
