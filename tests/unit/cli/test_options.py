"""The common options: read as the library for command lines would read them, in less time."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pytest
from cyclopts import App, CycloptsError, Parameter
from hypothesis import given
from hypothesis import strategies as st

from cerememory.cli.options import (
    COMMON_FIELDS,
    DEFAULTS,
    Options,
    UsageError,
    command_of,
    read_common,
    value_name,
)

Read = tuple[Options, list[str]]

FLAGS = [name for name, field in COMMON_FIELDS.items() if not value_name(field)]
VALUED = [name for name, field in COMMON_FIELDS.items() if value_name(field)]
VALUES = [
    "",
    "serve",
    "a=b",
    "-",
    "-1",
    "-1e3",
    "-x",
    "--bogus",
    "--help",
    "~/x",
    "[1]",
    "true",
    "F",
    "maybe",
    "0",
]


@st.composite
def tokens(draw: st.DrawFn) -> list[str]:
    name = draw(st.sampled_from([*FLAGS, *VALUED]))
    value = draw(st.sampled_from(VALUES))
    return draw(st.sampled_from([[name], [name, value], [f"{name}={value}"], [value], ["recall"]]))


def read_by_library(words: list[str]) -> Read | None:
    """What the library makes of them; None when it refuses them."""
    app = App(
        help_flags=(), version_flags=(), default_parameter=Parameter(negative=()), result_action="return_value"
    )

    @app.default
    def read(
        *tokens: Annotated[str, Parameter(allow_leading_hyphen=True)],
        options: Annotated[Options, Parameter(name="*")] = DEFAULTS,
    ) -> Read:
        return options, list(tokens)

    try:
        parsed: Read = app(words, exit_on_error=False, print_error=False)
    except CycloptsError:
        return None
    paths = (parsed[0].data_dir, parsed[0].config, parsed[0].server_api_key_file)
    return None if Path() in paths else parsed  # it takes an empty one for the current folder


def read_here(words: list[str]) -> Read | None:
    try:
        options, rest, _literal = read_common(words)
    except UsageError:
        return None
    return options, rest


@given(st.lists(tokens(), max_size=4))
def test_they_are_read_as_the_library_reads_them(parts: list[list[str]]) -> None:
    words = [word for part in parts for word in part]
    assert read_here(words) == read_by_library(words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["x", "--config"], "parameter --config requires an argument."),
        (["--config", "--json", "x"], "parameter --config requires an argument."),
        (["--namespace", "--", "x"], "parameter --namespace requires an argument."),
        (["--json", "x", "--json=false"], "parameter --json specified multiple times."),
        (["--data-dir=a", "--data-dir", "b"], "parameter --data-dir specified multiple times."),
        (["--data-dir", "", "x"], "parameter --data-dir must not be empty."),
        (["--config=", "x"], "parameter --config must not be empty."),
        (["--offline=maybe"], 'invalid value for --offline: unable to convert "maybe" into bool.'),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_names_the_option(words: list[str], message: str) -> None:
    with pytest.raises(UsageError) as refused:
        read_common(words)
    assert str(refused.value) == message


def test_behind_two_dashes_nothing_is_read() -> None:
    told = read_common(["--json", "store", "--", "--offline", "--"])
    assert told == (Options(json=True), ["store"], ["--", "--offline", "--"])


def test_values_have_their_types() -> None:
    assert read_common(["--data-dir", "d", "--server-url", "u"])[0] == Options(data_dir=Path("d"), server_url="u")


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["serve"], "serve"),
        (["--namespace", "serve", "mcp"], "mcp"),
        (["--namespace=serve", "--json"], None),
        (["--help", "serve"], "--help"),
        (["--", "serve"], None),
        (["serve", "--config"], None),
        ([], None),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_command_is_what_stands_first_without_them(words: list[str], command: str | None) -> None:
    assert command_of(words) == command
