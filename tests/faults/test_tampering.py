"""Whatever is done to an audit log, at whichever of its lines, is found and named; a whole log never is."""

from __future__ import annotations

import pytest

from cerememory.domain.audit_chain import verify_lines
from cerememory.domain.audit_diagnosis import diagnose
from cerememory.errors import AuditBroken
from tests.support.reports import Report, report
from tests.support.sweep import IS_FULL
from tests.support.tampering import DONE, Lines, log_of

LINES = log_of(300 if IS_FULL else 20)


def told_of(lines: Lines) -> tuple[int, str] | None:
    """The line, from 1, and the name of what was done; None for a whole log."""
    try:
        verify_lines(lines)
    except AuditBroken as error:
        number = (error.details or {})["line"]
        return number, str(diagnose(lambda: lines, number))
    return None


def test_each_kind_of_tampering_is_named_at_every_line() -> None:
    runs, missed = {}, []
    for name, (kind, tamper, later) in DONE.items():
        places = range(1, len(LINES) - 2)
        runs[name] = len(places)
        missed += [(name, i) for i in places if told_of(tamper(LINES, i)) != (i + 1 + later, str(kind))]
    report(
        "tampering",
        Report(
            what="Tampering with the audit log, found and named",
            runs=sum(runs.values()),
            points=len(runs),
            losses=len(missed),
            details={"runs": runs},
        ),
    )
    assert missed == []


@pytest.mark.parametrize("count", [0, 1, 2, len(LINES)])
def test_a_whole_log_is_whole(count: int) -> None:
    assert told_of(LINES[:count]) is None
