"""The table of configuration keys, read off the declarations in `config.settings`.

One `Key` a field: how it is called in a file (`http.port`) and in the environment (`CEREMEMORY_HTTP__PORT`),
its type, default and description. Sources, checks, `config check`, the commented file and the generated
reference all walk this table.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import Field, dataclass, fields, is_dataclass
from functools import cached_property
from types import MappingProxyType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from cerememory.config.settings import Secret, Settings

PREFIX = "CEREMEMORY_"
SPECIAL_VARIABLES: Mapping[str, str] = MappingProxyType(
    {
        "CEREMEMORY_AUTH_API_KEYS": "auth.api_keys",
        "CEREMEMORY_HTTP_TRUSTED_PROXY_CIDRS": "http.trusted_proxy_cidrs",
    }
)
DEFAULTS = Settings()


@dataclass(frozen=True)
class Key:
    """One setting. `kind` is the type of its value, or of its items where `is_list`; `section` may be "".

    `default` is None where there is none, and where it follows from other keys.
    """

    section: str
    name: str
    kind: type
    is_list: bool
    choices: tuple[str, ...]
    default: object
    aliases: Mapping[str, str]
    minimum: float | None
    maximum: float | None
    description: str

    @cached_property
    def dotted(self) -> str:
        return f"{self.section}.{self.name}" if self.section else self.name

    @cached_property
    def env_name(self) -> str:
        return PREFIX + self.dotted.upper().replace(".", "__")

    @property
    def is_secret(self) -> bool:
        return self.kind is Secret

    def value_of(self, settings: Settings) -> Any:
        return getattr(getattr(settings, self.section) if self.section else settings, self.name)


def _read_off(section: str, owner: Any) -> Iterator[Key]:
    hints = get_type_hints(owner)
    for declared in fields(owner):
        hint = hints[declared.name]
        if is_dataclass(hint):
            yield from _read_off(declared.name, hint)
        else:
            yield _key(section, declared, hint)


def _key(section: str, declared: Field[Any], hint: Any) -> Key:
    if get_origin(hint) in (Union, UnionType):  # X | None: none is said by leaving the key out
        (hint,) = (each for each in get_args(hint) if each is not type(None))
    is_list = get_origin(hint) is tuple
    choices = get_args(hint) if get_origin(hint) is Literal else ()
    kind = get_args(hint)[0] if is_list else str if choices else hint
    return Key(section, declared.name, kind, is_list, choices, declared.default, **declared.metadata)


KEYS: tuple[Key, ...] = tuple(_read_off("", Settings))
BY_NAME: Mapping[str, Key] = MappingProxyType({key.dotted: key for key in KEYS})
BY_VARIABLE: Mapping[str, Key] = MappingProxyType(
    {key.env_name: key for key in KEYS} | {name: BY_NAME[key] for name, key in SPECIAL_VARIABLES.items()}
)
SECTIONS: tuple[str, ...] = tuple(dict.fromkeys(key.section for key in KEYS if key.section))


def build(values: Mapping[str, object]) -> Settings:
    """Settings from typed values by dotted name; what isn't named keeps its default."""
    grouped: dict[str, dict[str, Any]] = {section: {} for section in ("", *SECTIONS)}
    for dotted, value in values.items():
        key = BY_NAME[dotted]
        grouped[key.section][key.name] = value
    top = grouped.pop("")
    return Settings(**top, **{name: type(getattr(DEFAULTS, name))(**rest) for name, rest in grouped.items()})


def did_you_mean(name: str, known: Iterable[str], prefix: str = "") -> str:
    """ ", did you mean X?" with the known name that is closest to `name` (shown behind `prefix`), or ""."""
    candidates = list(known)
    found = [each for each in candidates if each.endswith(f".{name}")]
    if len(found) != 1:
        found = difflib.get_close_matches(name, candidates, n=1)
    return f", did you mean {prefix}{found[0]}?" if found else ""
