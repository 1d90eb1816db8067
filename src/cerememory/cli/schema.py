"""`cerememory schema`: what a command prints with `--json`, as a JSON Schema (draft 2020-12)."""

from __future__ import annotations

import difflib
from collections import ChainMap
from typing import Any

from cerememory.cli import meanings
from cerememory.cli.answers import ANSWERS, WITHOUT
from cerememory.cli.arguments import Common
from cerememory.cli.options import UsageError
from cerememory.cli.output import pretty, show
from cerememory.http import descriptions
from cerememory.http.schemas import Schema, Schemas, Side

DIALECT = "https://json-schema.org/draft/2020-12/schema"
TYPES = ChainMap(meanings.TYPES, descriptions.TYPES)
FIELDS = ChainMap(meanings.FIELDS, descriptions.FIELDS)


def schema(*command: str, options: Common) -> None:
    """Show the JSON Schema of what a command prints with --json; without one, list the commands.

    A later version may print more fields than the schema names, and never fewer.

    Args:
        command: The command, as recall, or key list.
    """
    if command:
        print(pretty(document(_known(" ".join(command)))))
    else:
        show(sorted(ANSWERS), options, "\n".join)


def document(command: str) -> Schema:
    """The schema of the answer of a command in `ANSWERS`, complete in itself."""
    kind = ANSWERS[command]
    schemas = Schemas([kind], place="#/$defs", types=TYPES, fields=FIELDS)
    made = schemas.of(kind, Side.ANSWER)
    head: dict[str, Any] = {"$schema": DIALECT, "title": f"cerememory {command} --json"}
    return {**head, **made, "$defs": schemas.components}


def _known(name: str) -> str:
    if name in ANSWERS:
        return name
    if name in WITHOUT:
        raise UsageError(f"{name} prints no JSON that it answers with")
    meant = difflib.get_close_matches(name, ANSWERS, n=1)
    hint = f", did you mean {meant[0]}?" if meant else "; cerememory schema lists them"
    raise UsageError(f"no command {name!r}{hint}")
