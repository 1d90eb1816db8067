"""The settings: one table a section, from the table of keys."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from docs.generate.markdown import BREAK, code, codes, table

from cerememory.cli.reload import RELOADED
from cerememory.config.checks import NOT_BUILT
from cerememory.config.keys import KEYS, SECTIONS, Key
from cerememory.config.settings import Secret
from cerememory.config.shown import toml_value
from cerememory.protocol.values import UINT32_MAX

HEADS = ("key, variable", "default", "values", "meaning", "a change counts")
KINDS = {
    bool: "`true` or `false`",
    int: "number",
    float: "number",
    str: "text",
    Secret: "secret text",
    Path: "path",
}
UNBUILT = "Not in this version yet: refused when set."


def settings() -> str:
    """Every key, in the order of the file that `config init` writes."""
    return "\n".join(
        f"### {section or 'top level'}\n\n{table(HEADS, _rows(section))}" for section in ("", *SECTIONS)
    )


def _rows(section: str) -> Iterator[tuple[str, ...]]:
    return (_row(key) for key in KEYS if key.section == section)


def _row(key: Key) -> tuple[str, ...]:
    name = code(key.dotted) + BREAK + code(key.env_name)
    meaning = f"{key.description} {UNBUILT}" if key.dotted in NOT_BUILT else key.description
    counts = "at SIGHUP" if key.dotted in RELOADED else "at a start"
    return (name, _default(key), _values(key), meaning, counts)


def _default(key: Key) -> str:
    return "none" if key.default is None else code(toml_value(key.default))


def _values(key: Key) -> str:
    if key.choices:
        return codes(key.choices)
    kind = KINDS[key.kind]
    return f"list of {kind}s" if key.is_list else kind + _range(key)


def _range(key: Key) -> str:
    if key.minimum is None or key.maximum is None:
        return ""
    if key.maximum >= UINT32_MAX:  # what the type holds, rather than what makes sense
        return f", at least {key.minimum}"
    return f", {key.minimum} to {key.maximum}"
