"""Settings as text for people: the rows of `config check`, and the commented file of `config init`.

Values are written as in TOML, so that they can be copied; secrets never are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from cerememory.config.checks import NOT_BUILT
from cerememory.config.keys import BY_NAME, KEYS, SECTIONS, Key
from cerememory.config.sources import Loaded

MASK = "****"
NONE = "none"
NOTHING: Mapping[str, object] = MappingProxyType({})

_HEAD = """\
# Configuration of cerememory. A # before a key leaves it at its default, which follows it.
# The environment variable named with a key comes before this file, the command line before both.

"""
# A connection string's password: in the URL's user part, or as a parameter of either form.
_DSN_PASSWORDS = (
    re.compile(r"(?P<kept>://[^:/?#]*:)(?P<password>.*)(?=@)", re.DOTALL),
    re.compile(r"(?P<kept>password\s*=\s*)(?P<password>'(?:[^'\\]|\\.)*'?|[^\s&]+)", re.IGNORECASE | re.DOTALL),
)


def describe(loaded: Loaded) -> list[tuple[str, str, str]]:
    """(key, value, origin) of every key in the order of the file; secrets as `****` and how many."""
    settings, origins = loaded.settings, loaded.origins
    return [(key.dotted, _shown(key, key.value_of(settings)), origins[key.dotted]) for key in KEYS]


def _shown(key: Key, value: object) -> str:
    if value is None:
        return NONE
    if key.dotted == "storage.dsn":
        return toml_value(mask_password(str(value)))
    if key.is_secret and value:
        return f"{MASK} ({len(value)})" if isinstance(value, tuple) else MASK
    return toml_value(value)


def mask_password(dsn: str) -> str:
    """A connection string, URL or `name=value` pairs, without its password; masks too much in doubt."""
    for password in _DSN_PASSWORDS:
        dsn = password.sub(rf"\g<kept>{MASK}", dsn)
    return dsn


def toml_value(value: object) -> str:
    """A bool, number, text, path or tuple of texts as TOML writes it."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, str | Path):
        return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007F")
    return str(value).lower() if isinstance(value, bool) else str(value)


def commented_toml(chosen: Mapping[str, object] = NOTHING) -> str:
    """A file with every key, its description and default, commented out but for the keys in `chosen`.

    `chosen` has values by dotted name; KeyError for a name that is no key.
    """
    chosen = {BY_NAME[name].dotted: value for name, value in chosen.items()}
    parts = [_HEAD, *_paragraphs("", chosen)]
    for section in SECTIONS:
        parts += [f"[{section}]\n", *_paragraphs(section, chosen)]
    return "".join(parts).rstrip("\n") + "\n"


def _paragraphs(section: str, chosen: Mapping[str, object]) -> Iterator[str]:
    for key in KEYS:
        if key.section == section:
            yield "".join(f"{line}\n" for line in (*_comments(key), _assignment(key, chosen), ""))


def _comments(key: Key) -> Iterator[str]:
    yield f"# {key.description}"
    if key.choices:
        yield f"# One of {', '.join(key.choices)}."
    if key.dotted in NOT_BUILT:
        yield "# Not in this version yet: refused when set."
    yield f"# {key.env_name}"


def _assignment(key: Key, chosen: Mapping[str, object]) -> str:
    if key.dotted in chosen:
        return f"{key.name} = {toml_value(chosen[key.dotted])}"
    return f"#{key.name} =" if key.default is None else f"#{key.name} = {toml_value(key.default)}"
