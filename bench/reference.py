"""What the reference implementation does, as recorded once; nothing of it is measured here.

The figures are requests a second at 1 and at 32 connections. They were taken on another machine than the one
that this bench runs on, so they stand beside our numbers and are compared with none.
"""

from __future__ import annotations

from bench.cases import Case

SOURCE = "recorded figures of the reference (Rust, 1,000 records), two cores"

RECORDED: dict[Case, float] = {
    Case.ENCODE_1: 50.0,
    Case.ENCODE_32: 54.0,
    Case.RECALL_1: 600.0,
    Case.RECALL_32: 1_656.0,
}
