"""The names that arguments may have are those of the protocol."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, get_args

import pytest

from cerememory.cli.arguments import (
    AssociationName,
    GranularityName,
    ModeName,
    RoleName,
    SecrecyName,
    SourceName,
    SpeakerName,
    StoreName,
    StrategyName,
    VisibilityName,
)
from cerememory.protocol.access import Role
from cerememory.protocol.records import (
    AssociationType,
    RawSource,
    SecrecyLevel,
    Speaker,
    Store,
    Visibility,
)
from cerememory.protocol.requests import Granularity, RecallMode, Strategy


@pytest.mark.parametrize(
    ("names", "enumeration"),
    [
        (StoreName, Store),
        (SourceName, RawSource),
        (SpeakerName, Speaker),
        (VisibilityName, Visibility),
        (SecrecyName, SecrecyLevel),
        (ModeName, RecallMode),
        (RoleName, Role),
        (GranularityName, Granularity),
        (StrategyName, Strategy),
        (AssociationName, AssociationType),
    ],
)
def test_each_enumeration_is_repeated_in_full(names: Any, enumeration: type[StrEnum]) -> None:
    assert get_args(names) == tuple(member.value for member in enumeration)
