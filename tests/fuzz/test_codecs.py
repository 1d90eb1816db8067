"""Every target on what was ever found worth keeping, and on a sample of inputs that nobody has seen.

`make fuzz-codecs` looks for hours, where it is let, with a fuzzer that follows the code.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from tests.fuzz.mutations import inputs
from tests.fuzz.targets import TARGETS, Target

CORPUS = Path(__file__).parent / "corpus"
EXAMPLES = 60


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_whatever_was_kept_is_read_or_refused(target: Target) -> None:
    kept = [file.read_bytes() for file in sorted((CORPUS / target.name).iterdir())]
    assert kept
    for data in (*target.seeds, *kept):
        target.run(data)


def test_every_part_of_the_corpus_belongs_to_a_target() -> None:
    assert {folder.name for folder in CORPUS.iterdir()} == {target.name for target in TARGETS}


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_anything_else_is_read_or_refused(target: Target) -> None:
    @settings(max_examples=EXAMPLES, suppress_health_check=[*HealthCheck])
    @given(inputs(target))
    def runs(data: bytes) -> None:
        target.run(data)

    runs()
