"""The documents and the code say the same: links lead somewhere, names exist, the README starts as it must."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cerememory.config.keys import KEYS

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "newsfragments").glob("*.md")])
LINK = re.compile(r"\]\(([^)#]+)(?:#[^)]*)?\)")
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
    assert {"make check", "make test"} <= set(lines)


@pytest.mark.parametrize("target", ["install", "serve", "test", "check", "bench"])
def test_the_makefile_has_each_promised_target(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M)


def test_every_setting_says_what_it_does() -> None:
    assert [key.dotted for key in KEYS if not key.description.strip().endswith(".")] == []
