"""The command line itself: common options anywhere, help by task, and a hint for each mistake."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

import cerememory
from cerememory.cli.app import parse
from cerememory.cli.commands import COMMANDS
from cerememory.cli.main import run
from cerememory.cli.options import Options, UsageError


def parsed(*argv: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments that a command would be called with."""
    command = parse(list(argv))
    assert isinstance(command, partial)
    return command.args, command.keywords


@pytest.mark.parametrize(
    "argv",
    [
        ["--json", "--data-dir", "/d", "store", "hi"],
        ["store", "--data-dir=/d", "hi", "--json"],
        ["store", "hi", "--json", "--data-dir", "/d"],
    ],
)
def test_common_options_stand_before_or_after_the_command(argv: list[str]) -> None:
    args, keywords = parsed(*argv)
    assert args == ("hi",)
    assert keywords["options"] == Options(data_dir=Path("/d"), json=True)


@pytest.mark.parametrize("command", [["load"], ["config", "init"]], ids=" ".join)
@pytest.mark.parametrize("file", ["f", "-"])
def test_common_options_stand_before_a_file_too(command: list[str], file: str) -> None:
    args, keywords = parsed(*command, "--namespace", "n", "--verbose", file, "--json")
    assert args == (Path(file),)
    assert keywords["options"] == Options(namespace="n", verbose=True, json=True)


def test_what_stands_behind_two_dashes_is_text() -> None:
    args, keywords = parsed("store", "--", "--json")
    assert args == ("--json",)
    assert not keywords["options"].json


def test_a_value_may_look_like_a_number() -> None:
    assert parsed("store", "x", "--embedding", "-1,0.5")[1]["embedding"] == "-1,0.5"


def test_names_of_the_protocol_are_taken_as_they_are() -> None:
    _, keywords = parsed("store-raw", "x", "--session-id", "s", "--visibility", "private_scratch")
    assert keywords["visibility"] == "private_scratch"


def test_levels_come_with_commas_between() -> None:
    assert parsed("recall-raw", "--secrecy-levels", "public, secret")[1]["secrecy_levels"] == ("public", "secret")


def test_a_time_may_have_any_offset() -> None:
    assert parsed("timeline", "--start", "2026-01-31T09:00:00+01:00")[1]["start"] == "2026-01-31T08:00:00Z"


def test_an_id_may_have_any_form_of_a_uuid() -> None:
    assert parsed("inspect", "urn:uuid:0191AAAA000070008000000000000001")[0] == (
        "0191aaaa-0000-7000-8000-000000000001",
    )


def test_a_dash_alone_is_stdin() -> None:
    assert parsed("load", "-")[0] == (Path("-"),)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], 'a command is missing, "cerememory --help" lists them'),
        (["--json"], 'a command is missing, "cerememory --help" lists them'),
        (["stroe", "x"], "unknown command 'stroe', did you mean store?"),
        (["config", "chek"], "unknown command 'chek', did you mean check?"),
        (["qqqqqqq"], "unknown command 'qqqqqqq'"),
        (["store", "x", "--stoer", "y"], "unknown option '--stoer', did you mean --store?"),
        (["store", "x", "--ofline"], "unknown option '--ofline', did you mean --offline?"),
        (["load", "--jsn"], "unknown option '--jsn'"),
        (
            ["store", "-dash text"],
            "unknown option '-dash text'; put -- before a text that begins with a dash",
        ),
        (["stats", "-x"], "unknown option '-x'"),
        (["store", "--", "x", "--json"], "--json stands behind --, where all is text; put it before"),
        (["recall", "x", "--", "--limit=3"], "--limit stands behind --, where all is text; put it before"),
        (["store", "two", "words"], "unexpected argument 'words'; put a text of several words in quotes"),
        (["store"], 'command "store" parameter TEXT requires an argument.'),
        (["store", "x", "--data-dir"], "parameter --data-dir requires an argument."),
        (["store-raw", "x"], 'command "store-raw" parameter --session-id requires an argument.'),
        (
            ["store", "x", "--store", "episode"],
            'invalid value "episode" for --store. Choose from: "episodic", "semantic", "procedural", '
            '"emotional", "working". Did you mean "episodic"?',
        ),
        (
            ["recall", "--mode", "humane"],
            'invalid value "humane" for --mode. Choose from: "human", "perfect". Did you mean "human"?',
        ),
        (["recall", "--limit", "ten"], "invalid value for --limit: expected a whole number, got 'ten'"),
        (["recall", "--metadata", "room"], "invalid value for --metadata: expected NAME=VALUE, got 'room'"),
        (["inspect", "7"], "record id: expected a UUID, got '7'"),
        (["forget", "--raw", "7"], "invalid value for --raw: record id: expected a UUID, got '7'"),
        (
            ["recall-raw", "--secrecy-levels", "public,hidden"],
            "invalid value for --secrecy-levels: expected public, sensitive, secret with commas between, "
            "got 'hidden'",
        ),
        (
            ["associate", "0191aaaa-0000-7000-8000-000000000001", "--association-types", "causal,close"],
            "invalid value for --association-types: expected temporal, spatial, semantic, emotional, causal, "
            "sequential, cross_modal, user_defined with commas between, got 'close'",
        ),
        (
            ["timeline", "--start", "monday"],
            "invalid value for --start: expected an RFC 3339 timestamp, got 'monday'",
        ),
        (
            ["mcp", "--server-url", "http://x", "--server-timeout-secs", "0"],
            'invalid value "0" for --server-timeout-secs. Must be >= 1.',
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line(argv: list[str], message: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse(argv)
    assert str(refused.value) == message


@pytest.mark.parametrize("argv", [["serve", "--workers", "2"], ["reindex", "--embeddings"]], ids=" ".join)
def test_what_isnt_built_is_refused_in_one_line(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*argv, "--config", "nowhere.toml"]) == 1  # which nothing comes to, and would end it
    option = argv[1]
    assert capsys.readouterr() == ("", f"error: {option}: this version can't do that yet; leave it out\n")


def test_the_help_of_a_command_has_all_that_it_says_of_itself(capsys: pytest.CaptureFixture[str]) -> None:
    run(["backup", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "Exit code 1 when something in it doesn't add up" in shown
    run(["--help"])
    assert "Exit code 1" not in capsys.readouterr().out


@pytest.mark.parametrize("command", ["store", "key create"])
def test_options_have_the_same_heading_everywhere(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    run([*command.split(), "--help"])
    headings = [line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("╭")]
    assert headings == ["Arguments", "Options", "Options"]


def test_help_lists_every_command_by_task(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    shown = capsys.readouterr().out
    for group, name, _path, summary in COMMANDS:
        assert group in shown
        assert f" {name} " in shown
        assert summary in shown


@pytest.mark.parametrize("name", [name for _group, name, _path, _summary in COMMANDS])
def test_each_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([name, "--help"]) == 0
    assert f"Usage: cerememory {name}" in capsys.readouterr().out


def test_version_names_program_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"cerememory {cerememory.__version__}\n"
