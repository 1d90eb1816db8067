"""Whether what a command printed with `--json` is what its schema says: no field more, none less."""

from __future__ import annotations

from typing import Any

from cerememory.cli.schema import document
from tests.support.json_schema import Schema, Validator

OUTER = frozenset({"$schema", "title", "$defs"})


def faults_of(command: str, answer: Any) -> list[str]:
    """What is wrong with an answer of `command`; empty when nothing is."""
    made = document(command)
    shut = {name: _shut(part) for name, part in made["$defs"].items()}
    root = {name: part for name, part in made.items() if name not in OUTER}
    return Validator({"$defs": shut}).faults(_shut(root), answer)


def _shut(schema: Schema) -> Schema:
    """`schema` without the room that it leaves for fields of later versions."""
    if "properties" not in schema:
        return schema
    return {"additionalProperties": False, **schema}
