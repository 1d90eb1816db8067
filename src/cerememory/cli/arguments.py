"""The types of the commands' arguments: names of the protocol, and texts that must be something.

The literals repeat the protocol's enumerations, since that is what a command line is checked and helped by; a
test compares them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from string import hexdigits
from typing import Annotated, Any, Literal, get_args

from cyclopts import Parameter, Token

from cerememory.cli.options import DIGITS_MAX, Options
from cerememory.protocol.values import format_id, format_timestamp, parse_id, parse_timestamp

StoreName = Literal["episodic", "semantic", "procedural", "emotional", "working"]
SourceName = Literal["conversation", "tool_io", "scratchpad", "summary", "imported"]
SpeakerName = Literal["user", "assistant", "system", "tool"]
VisibilityName = Literal["normal", "private_scratch", "sealed"]
SecrecyName = Literal["public", "sensitive", "secret"]
ModeName = Literal["human", "perfect"]
StrategyName = Literal["full", "incremental", "selective"]
ImportStrategyName = Literal["merge", "replace"]
ResolutionName = Literal["keep_existing", "keep_imported", "keep_newer"]
RoleName = Literal["read", "write", "admin"]
FormatName = Literal["cma", "jsonl", "age"]
GranularityName = Literal["minute", "hour", "day", "week", "month"]
AssociationName = Literal[
    "temporal", "spatial", "semantic", "emotional", "causal", "sequential", "cross_modal", "user_defined"
]

HASH_CHARS = 64
_WHOLE = re.compile(rf"[+-]?[0-9]{{1,{DIGITS_MAX}}}")

Common = Annotated[Options, Parameter(parse=False)]


def _record_id(_kind: Any, tokens: Sequence[Token]) -> str:
    try:
        return format_id(parse_id(tokens[0].value))
    except ValueError as error:
        raise ValueError(f"record id: {error}") from None


def _record_ids(kind: Any, tokens: Sequence[Token]) -> tuple[str, ...]:
    return tuple(_record_id(kind, [token]) for token in tokens)


def _time(_kind: Any, tokens: Sequence[Token]) -> str:
    return format_timestamp(parse_timestamp(tokens[0].value))


def _hash(_kind: Any, tokens: Sequence[Token]) -> str:
    value = tokens[0].value.lower()
    if len(value) != HASH_CHARS or not set(value) <= set(hexdigits):
        raise ValueError(f"expected a hash of {HASH_CHARS} hexadecimal digits, got {value[:80]!r}")
    return value


def _whole(_kind: Any, tokens: Sequence[Token]) -> int:
    """The library would round 1.5, and take 0x10."""
    text = tokens[0].value
    if not _WHOLE.fullmatch(text):
        raise ValueError(f"expected a whole number, got {text[:64]!r}")
    return int(text)


def _names(known: Any) -> Callable[[Any, Sequence[Token]], tuple[str, ...]]:
    """Reads a comma list of the names in the literal `known`."""
    allowed = get_args(known)

    def read(_kind: Any, tokens: Sequence[Token]) -> tuple[str, ...]:
        names = tuple(name.strip() for name in tokens[0].value.split(","))
        for name in names:
            if name not in allowed:
                raise ValueError(f"expected {', '.join(allowed)} with commas between, got {name[:32]!r}")
        return names

    return read


def _members(_kind: Any, tokens: Sequence[Token]) -> tuple[str, ...]:
    for token in tokens:
        if "=" not in token.value:
            raise ValueError(f"expected NAME=VALUE, got {token.value[:64]!r}")
    return tuple(token.value for token in tokens)


def _file(_kind: Any, tokens: Sequence[Token]) -> Path:
    name = tokens[0].value
    if name.startswith("-") and name != "-":
        raise ValueError(f"unknown option {name!r}")
    return Path(name)


def _within_unit(_kind: Any, value: float | None) -> None:
    """Also keeps out NaN, which would be sent as null, as if nothing were given."""
    if value is not None and not 0.0 <= value <= 1.0:
        raise ValueError(f"expected a number from 0 to 1, got {value:g}")


FileOrStdin = Annotated[Path, Parameter(converter=_file, allow_leading_hyphen=True)]  # for "-" alone
EmbeddingText = Annotated[str, Parameter(allow_leading_hyphen=True)]  # a first number below zero
HashText = Annotated[str, Parameter(converter=_hash)]
RecordIdText = Annotated[str, Parameter(converter=_record_id)]
RecordIdTexts = Annotated[
    tuple[str, ...], Parameter(converter=_record_ids, n_tokens=1)
]  # an option's, given again
WholeNumber = Annotated[int, Parameter(converter=_whole)]  # of every option that has an int
UnitNumber = Annotated[float, Parameter(validator=_within_unit)]
MemberTexts = Annotated[tuple[str, ...], Parameter(converter=_members, n_tokens=1)]
Texts = tuple[str, ...]  # an option's, given again
TimeText = Annotated[str, Parameter(converter=_time)]
StoreNames = Annotated[tuple[StoreName, ...], Parameter(converter=_names(StoreName), n_tokens=1)]
SecrecyNames = Annotated[tuple[SecrecyName, ...], Parameter(converter=_names(SecrecyName), n_tokens=1)]
AssociationNames = Annotated[tuple[AssociationName, ...], Parameter(converter=_names(AssociationName), n_tokens=1)]
