"""The names that arguments may have are those of the protocol."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Any, get_args

import pytest
from cyclopts import App, Argument, Token

from cerememory.cli import app
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
    _whole,
)
from cerememory.cli.commands import COMMANDS
from cerememory.cli.main import run
from cerememory.cli.recorder import app as recorder
from cerememory.cli.recorder.main import run as run_recorder
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


def applications() -> Iterator[App]:
    yield app.application(named=[name for _group, name, _path, _summary in COMMANDS])
    yield recorder.application()


def arguments(application: App) -> Iterator[Argument]:
    for name in set(application) - {*application.help_flags, *application.version_flags}:
        command = application[name]
        if command.default_command is not None:
            yield from command.assemble_argument_collection()
        yield from arguments(command)


def test_every_option_with_an_integer_takes_whole_numbers_alone() -> None:
    """The library would round 1.5, and take 0x10 and 1_0."""
    found = [
        argument
        for application in applications()
        for argument in arguments(application)
        if int in (argument.hint, *get_args(argument.hint))
    ]
    assert {argument.name for argument in found} >= {"--limit", "--port", "--days", "--flush-interval-ms"}
    for argument in found:
        assert argument.parameter.converter is _whole, argument.name


@pytest.mark.parametrize("text", ["1.5", "1.0", "0x10", "0b1", "1_0", " 1", "１", "1e2", "", "--1", "9" * 21])
def test_what_is_no_whole_number(text: str) -> None:
    with pytest.raises(ValueError, match="expected a whole number, got"):
        _whole(int, [Token(value=text)])


@pytest.mark.parametrize(
    ("text", "value"), [("0", 0), ("007", 7), ("+5", 5), ("-12", -12), ("9" * 20, 10**20 - 1)]
)
def test_whole_numbers(text: str, value: int) -> None:
    assert _whole(int, [Token(value=text)]) == value


def test_it_is_told_which_option_takes_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["recall", "x", "--limit", "1.5"]) == 2
    assert capsys.readouterr().err == ("error: invalid value for --limit: expected a whole number, got '1.5'\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["ingest", "--flush-interval-ms", "99999999999999999999"],
        ["ingest", "--max-event-bytes", "99999999999999999999"],
        ["ingest", "--detach", "--server-url", "http://127.0.0.1:1", "--max-event-bytes", "99999999999999999999"],
        ["ingest", "--batch-max-records", "1001"],
    ],
    ids=lambda arguments: arguments[-2],
)
def test_what_nothing_can_have_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_recorder(arguments) == 2
    assert f'error: invalid value "{arguments[-1]}" for {arguments[-2]}. Must be <= ' in capsys.readouterr().err


def test_a_proxy_waits_no_longer_than_a_day(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["mcp", "--server-url", "http://127.0.0.1:1", "--server-timeout-secs", "9" * 20]) == 2
    assert "--server-timeout-secs" in capsys.readouterr().err
