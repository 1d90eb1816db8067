"""The documents and the code say the same: what there is stands in them, and what stands in them is there.

Links lead somewhere; settings, variables, commands, options, series, error codes and tools are those of the code;
blocks are what their language says. What blocks do when they are run: `tests/e2e/test_pages.py`.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import pytest
from docs.generate import pages as generated
from docs.generate.commands import common, daemon_commands, recorder_commands
from docs.generate.metrics import name_of

from cerememory.cli.commands import COMMANDS
from cerememory.config.keys import BY_NAME, BY_VARIABLE, KEYS, SECTIONS, SPECIAL_VARIABLES
from cerememory.config.sources import OTHER_PREFIXES, OTHER_VARIABLES
from cerememory.errors import ANSWERS
from cerememory.mcp.tools import TOOLS
from cerememory.telemetry.metrics import Metrics
from tests.support.pages import blocks

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "newsfragments").glob("*.md")])
LINK = re.compile(r"\]\(([^)#]+)(?:#[^)]*)?\)")
SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
FENCED = re.compile(r"^ *```.*?^ *```$", re.DOTALL | re.MULTILINE)
OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")
SETTING = re.compile(rf"(?<![\w./-])(?:{'|'.join(SECTIONS)})\.[a-z_]+(?![\w./-])")
VARIABLE = re.compile(r"\bCEREMEMORY_[A-Z_]*[A-Z]")
SERIES = re.compile(r"\bcerememory_[a-z_]*[a-z]")
OTHER_OPTIONS = {"--help", "--version", "--failed", *(row[1] for row in COMMANDS)}  # the third is systemctl's
MODULES = {"http.client", "http.server"}  # of Python's library, which look like settings
ENDS_OF_SERIES = ("", "_total", "_bucket", "_count", "_sum")
CODE_PATH = re.compile(r"`((?:src|tests|docs|storage|actors|http|protocol|domain|config|cli)/[\w./]+\.py)`")


def label(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_a_link_leads_to_a_file(page: Path) -> None:
    targets = [target for target in LINK.findall(page.read_text()) if "://" not in target]
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_a_named_source_file_exists(page: Path) -> None:
    named = CODE_PATH.findall(page.read_text())
    bases = (ROOT, ROOT / "src" / "cerememory")
    assert [name for name in named if not any((base / name).exists() for base in bases)] == []


def test_the_readme_opens_with_its_two_commands() -> None:
    text = (ROOT / "README.md").read_text()
    assert re.findall(r"```sh\n(.*?)\n```", text, re.S)[:2] == ["make serve", "make test"]


def test_the_ci_runs_the_checks_and_the_test_command() -> None:
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert {"make check", "make test", "make walkthrough"} <= set(lines)


@pytest.mark.parametrize("target", ["install", "serve", "test", "check", "bench"])
def test_the_makefile_has_each_promised_target(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M)


def test_every_setting_says_what_it_does() -> None:
    assert [key.dotted for key in KEYS if not key.description.strip().endswith(".")] == []


@pytest.mark.parametrize("page", generated.PAGES, ids=label)
def test_a_page_has_what_the_code_says(page: Path) -> None:
    """`make docs` brings pages up to date."""
    text = page.read_text()
    assert generated.rendered(text) == text


def test_every_part_that_is_made_has_its_place() -> None:
    placed = [name for page in generated.PAGES for name in generated.names(page.read_text())]
    assert sorted(placed) == sorted(generated.PARTS)


def docs_page(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


def test_every_setting_is_documented() -> None:
    page = docs_page("configuration.md")
    names = [name for key in KEYS for name in (key.dotted, key.env_name)]
    assert [name for name in (*names, *SPECIAL_VARIABLES, *OTHER_VARIABLES) if f"`{name}`" not in page] == []


def test_every_command_is_documented() -> None:
    heads = re.findall(r"^### (.+)$", docs_page("cli.md"), re.MULTILINE)
    commands = (*daemon_commands(), *recorder_commands())
    assert [command.head for command in commands if command.head not in heads] == []
    described = {" ".join(command.name.split()[:2]) for command in daemon_commands()}
    assert described == {f"cerememory {row[1]}" for row in COMMANDS if not row[1].startswith("-")}


def test_every_metric_is_documented() -> None:
    names = {name_of(family) for family in Metrics([]).registry.collect()}
    assert len(names) >= 20
    assert [name for name in names if f"`{name}`" not in docs_page("metrics.md")] == []


def test_every_error_code_is_documented() -> None:
    page = docs_page("http.md")
    for answer in ANSWERS.values():
        row = f"| `{answer.code}` | {answer.http_status} | `{answer.grpc_status}` | {answer.exit_code} |"
        assert f"\n{row}" in page


def test_every_tool_is_documented() -> None:
    assert [tool.name for tool in TOOLS if f"\n| `{tool.name}` |" not in docs_page("mcp.md")] == []


def test_the_index_has_every_page() -> None:
    linked = set(LINK.findall(docs_page("README.md")))
    pages = {page.name for page in generated.PAGES} - {"README.md"}
    assert pages | {"../README.md", "../SECURITY.md", "adr/README.md"} <= linked


def spans(page: Path) -> list[str]:
    """What stands between backticks, each in one line."""
    return [" ".join(span.split()) for span in SPAN.findall(FENCED.sub("", page.read_text()))]


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_a_named_command_or_option_exists(page: Path) -> None:
    assert [found for span in spans(page) for found in unknown_in(span)] == []


def unknown_in(span: str) -> set[str]:
    """Options that the command in `span` hasn't, or, where it names none, that no command has; or the command."""
    options = set(OPTION.findall(span)) - OTHER_OPTIONS
    if not re.match(r"cerememory(-recorder)? [a-z]", span):
        return options - frozenset().union(*options_by_command().values())
    words = span.partition("|")[0].split()
    named = [name for name in options_by_command() if words[: len(name.split())] == name.split()[: len(words)]]
    return options - frozenset().union(*(options_by_command()[name] for name in named)) if named else {span}


@cache
def options_by_command() -> dict[str, frozenset[str]]:
    """Those of every command by its full name, with what all commands take."""
    commands = (*daemon_commands(), *recorder_commands())
    return {command.name: command.options | common().options for command in commands}


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_a_named_setting_variable_or_series_exists(page: Path) -> None:
    text = page.read_text()
    settings = {name for span in spans(page) for name in SETTING.findall(span)} - MODULES - set(BY_NAME)
    variables = {name for name in VARIABLE.findall(text) if name not in (*BY_VARIABLE, *OTHER_VARIABLES)}
    variables = {name for name in variables if not name.startswith(OTHER_PREFIXES)}
    series = set(SERIES.findall(text)) - {f"{name}{end}" for name in families() for end in ENDS_OF_SERIES}
    assert (settings, variables, series) == (set(), set(), set())


@cache
def families() -> tuple[str, ...]:
    """The names of all series, without what their type adds."""
    return tuple(family.name for family in Metrics([]).registry.collect())


def check_output(text: str) -> None:
    assert not re.search(r"^(\$ |cerememory )", text, re.MULTILINE), "is a command: say sh or console"


def check_toml(text: str) -> None:
    document = tomllib.loads(text)
    ours = {f"{section}.{name}" for section in SECTIONS for name in document.get(section, ())}
    assert ours <= set(BY_NAME)


def run_elsewhere(text: str) -> None:
    """What is to be run is run by tests/e2e/test_pages.py."""
    assert text.strip()


READERS: Mapping[str, Callable[[str], object]] = {
    "": check_output,
    "console": run_elsewhere,
    "json": json.loads,
    "python": run_elsewhere,
    "sh": run_elsewhere,
    "text": check_output,
    "toml": check_toml,
}
RUNS_PYTHON = {"docs/client.md", "docs/grpc.md"}  # by tests/e2e/test_client.py and test_grpc.py


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_a_block_is_what_its_language_says(page: Path) -> None:
    found = blocks(page)
    assert len(re.findall(r"^ *```", page.read_text(), re.MULTILINE)) == 2 * len(found)
    assert label(page) in RUNS_PYTHON or "python" not in {language for language, _text in found}
    for language, text in found:
        assert language in READERS, f"{language}: no test knows what it should be"
        READERS[language](text)
