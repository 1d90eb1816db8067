"""The names that arguments may have are those of the protocol."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, get_args

import pytest

from cerememory.cli.arguments import ModeName, SecrecyName, SourceName, SpeakerName, StoreName, VisibilityName
from cerememory.protocol.records import RawSource, SecrecyLevel, Speaker, Store, Visibility
from cerememory.protocol.requests import RecallMode


@pytest.mark.parametrize(
    ("names", "enumeration"),
    [
        (StoreName, Store),
        (SourceName, RawSource),
        (SpeakerName, Speaker),
        (VisibilityName, Visibility),
        (SecrecyName, SecrecyLevel),
        (ModeName, RecallMode),
    ],
)
def test_each_enumeration_is_repeated_in_full(names: Any, enumeration: type[StrEnum]) -> None:
    assert get_args(names) == tuple(member.value for member in enumeration)
