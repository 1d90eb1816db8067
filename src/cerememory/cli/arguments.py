"""The types of the commands' arguments: names of the protocol, and texts that must be something.

The literals repeat the protocol's enumerations, since that is what a command line is checked and helped by; a
test compares them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from cyclopts import Parameter, Token

from cerememory.cli.options import Options
from cerememory.protocol.values import format_id, parse_id

StoreName = Literal["episodic", "semantic", "procedural", "emotional", "working"]
SourceName = Literal["conversation", "tool_io", "scratchpad", "summary", "imported"]
SpeakerName = Literal["user", "assistant", "system", "tool"]
VisibilityName = Literal["normal", "private_scratch", "sealed"]
SecrecyName = Literal["public", "sensitive", "secret"]
ModeName = Literal["human", "perfect"]

Common = Annotated[Options, Parameter(parse=False)]


def _record_id(_kind: Any, tokens: Sequence[Token]) -> str:
    try:
        return format_id(parse_id(tokens[0].value))
    except ValueError as error:
        raise ValueError(f"record id: {error}") from None


def _secrecy_levels(_kind: Any, tokens: Sequence[Token]) -> tuple[str, ...]:
    names = tuple(name.strip() for name in tokens[0].value.split(","))
    for name in names:
        if name not in get_args(SecrecyName):
            raise ValueError(f"expected {', '.join(get_args(SecrecyName))} with commas between, got {name[:32]!r}")
    return names


def _file(_kind: Any, tokens: Sequence[Token]) -> Path:
    name = tokens[0].value
    if name.startswith("-") and name != "-":
        raise ValueError(f"unknown option {name!r}")
    return Path(name)


FileOrStdin = Annotated[Path, Parameter(converter=_file, allow_leading_hyphen=True)]  # for "-" alone
EmbeddingText = Annotated[str, Parameter(allow_leading_hyphen=True)]  # a first number below zero
RecordIdText = Annotated[str, Parameter(converter=_record_id)]
SecrecyNames = Annotated[tuple[SecrecyName, ...], Parameter(converter=_secrecy_levels, n_tokens=1)]
