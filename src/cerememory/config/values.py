"""One configured value: from the text of the environment or the types of TOML to the type of its key.

Functions raise `ValueError` with a reason and no name; the caller knows key and source. A reason never
shows a secret. Ranges, and rules that join keys, are left to `config.checks`; what has no value of the
key's type at all (a blank path, a word outside the list) ends here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from os import PathLike, fspath
from pathlib import Path

import msgspec

from cerememory.config.keys import Key

SHOWN_CHARS_MAX = 64

_INTEGER = re.compile(r"[+-]?[0-9]{1,20}", re.ASCII)
_NUMBER = re.compile(r"[+-]?[0-9]{1,20}(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,3})?", re.ASCII)
_TOML_TYPES: dict[type, str] = {
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "a table",
}


def from_text(key: Key, text: str) -> object:
    """An environment variable's text as the TOML value it stands for."""
    if key.is_list:
        return split_list(text)
    reader = _TEXT_READERS.get(key.kind)
    if reader is None:
        return text
    value = reader(text)
    if value is None:
        raise ValueError(f"expected {expected(key)}, got {text[:SHOWN_CHARS_MAX]!r}")
    return value


def split_list(text: str) -> list[str]:
    """The items of `["a","b"]`, `[a,b]` or `a,b`; an empty text has none. Bare items are stripped."""
    bare = text.strip()
    if bare.startswith("["):
        return _split_bracketed(bare)
    return [item.strip() for item in bare.split(",")] if bare else []


def _split_bracketed(text: str) -> list[str]:
    try:
        return msgspec.json.decode(text, type=list[str])
    except msgspec.MsgspecError:
        inner = text[1:-1]
    if not text.endswith("]") or '"' in inner:
        raise ValueError('expected a list as ["a","b"], [a,b] or a,b')
    return split_list(inner)


def _read_bool(text: str) -> bool | None:
    return {"true": True, "false": False}.get(text)


def _read_int(text: str) -> int | None:
    return int(text) if _INTEGER.fullmatch(text) else None


def _read_float(text: str) -> float | None:
    return float(text) if _NUMBER.fullmatch(text) else None


_TEXT_READERS: dict[type, Callable[[str], object]] = {bool: _read_bool, int: _read_int, float: _read_float}


def to_type(key: Key, value: object, home: str) -> object:
    """`value`, in the types of TOML, as the type of `key`; `~/` in a path stands for `home`."""
    if not key.is_list:
        return _to_kind(key, value, home)
    if not isinstance(value, list | tuple):
        raise ValueError(f"expected {expected(key)}, got {_type_name(value)}")
    for item in value:
        if not isinstance(item, str):
            raise ValueError(f"expected {expected(key)}, got a list with {_type_name(item)}")
    return tuple(_to_text(key, item, home) for item in value)


def _to_kind(key: Key, value: object, home: str) -> object:
    if key.kind is float and type(value) is int:
        return _to_float(value)
    if key.kind is Path and isinstance(value, PathLike):
        value = fspath(value)
    is_text = key.kind is Path or issubclass(key.kind, str)
    if is_text and isinstance(value, str):
        return _to_text(key, value, home)
    if type(value) is not key.kind:
        raise ValueError(f"expected {expected(key)}, got {_type_name(value)}")
    return value


def _to_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        raise ValueError("is too large") from None


def _to_text(key: Key, text: str, home: str) -> object:
    if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
        raise ValueError("is not valid UTF-8")
    if key.kind is Path:
        return _to_path(text, home)
    if key.choices:
        return _to_choice(key, text)
    return key.kind(text)


def _to_path(text: str, home: str) -> Path:
    if not text.strip():
        raise ValueError("must not be blank")
    if "\0" in text:
        raise ValueError("must not hold a NUL character")
    if not text.startswith("~/"):
        return Path(text)
    if not home:
        raise ValueError("~/ needs HOME to be set")
    return Path(home, text[2:].lstrip("/"))


def _to_choice(key: Key, text: str) -> str:
    choice = key.aliases.get(text, text)
    if choice not in key.choices:
        raise ValueError(f"expected {expected(key)}, got {text[:SHOWN_CHARS_MAX]!r}")
    return choice


def expected(key: Key) -> str:
    """What a value of `key` is, for a message: "an integer", "pretty or json"."""
    if key.is_list:
        return "a list of strings"
    if key.choices:
        *others, last = key.choices
        return f"{', '.join(others)} or {last}"
    if key.kind is bool:
        return "true or false"
    return _TOML_TYPES.get(key.kind, "a string")


def _type_name(value: object) -> str:
    return _TOML_TYPES.get(type(value), f"a {type(value).__name__}")
