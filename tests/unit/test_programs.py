"""A test that lacks a program says which, and what to install, in one line."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults import test_full_disk, test_sync_order
from tests.support.programs import PACKAGES
from tests.support.shim import build_library
from tests.unit.test_docs import ROOT


def traces(path: Path) -> None:
    test_sync_order.traced_encodes(path)


def mounts(path: Path) -> None:
    with test_full_disk.daemon_on_tmpfs(path / "mount", 1, 1):
        pass


@pytest.mark.parametrize(("act", "what"), [(build_library, "gcc"), (traces, "strace"), (mounts, "unshare")])
def test_what_isnt_there_is_named(
    act: Callable[[Path], object], what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        pytest.fail.Exception, match=rf"^{what} is missing: make test needs gcc, [^\n]+$"
    ) as caught:
        act(tmp_path)
    assert not caught.value.pytrace


def test_a_compiler_without_headers_is_not_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "gcc"
    compiler.write_text(
        "#!/bin/sh\necho 'shim.c:9:10: fatal error: dlfcn.h: No such file or directory' >&2; exit 1"
    )
    compiler.chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(pytest.fail.Exception, match=r"^the C library's dlfcn\.h is missing: .*libc6-dev"):
        build_library(tmp_path)


def test_the_readme_names_them_where_it_says_make_test() -> None:
    introduced = (ROOT / "README.md").read_text().partition("[docs/quickstart.md]")[0]
    assert set(PACKAGES) <= set(re.findall(r"[\w-]+", introduced))
