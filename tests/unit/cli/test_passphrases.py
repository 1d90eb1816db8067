"""A passphrase comes in one way: by the option that names it, else from the environment."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from cerememory.cli.archive import _encryption_key
from cerememory.cli.passphrases import passphrase, variable
from cerememory.errors import ValidationFailed

OPTION = "--encryption-key"


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CEREMEMORY_ENCRYPTION_KEY", "of the environment")


def test_a_variable_is_called_as_its_option() -> None:
    assert variable(OPTION) == "CEREMEMORY_ENCRYPTION_KEY"
    assert variable("--new-passphrase") == "CEREMEMORY_NEW_PASSPHRASE"


@pytest.mark.usefixtures("told")
def test_without_an_option_it_is_that_of_the_environment(capsys: pytest.CaptureFixture[str]) -> None:
    assert passphrase(OPTION, None, False, None) == "of the environment"
    assert passphrase("--decryption-key", None, False, None) is None
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("told")
def test_whatever_is_given_goes_before_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("of the file\n")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"of stdin\n")))
    assert passphrase(OPTION, "of the option", False, None) == "of the option"
    assert passphrase(OPTION, None, False, tmp_path / "key") == "of the file"
    assert passphrase(OPTION, None, True, None) == "of stdin"


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CEREMEMORY_ENCRYPTION_KEY", "")
    assert passphrase(OPTION, None, False, None) is None


@pytest.mark.usefixtures("told")
def test_an_export_is_encrypted_only_when_that_is_asked_for() -> None:
    assert _encryption_key(False, None, False, None) is None
    assert _encryption_key(True, None, False, None) == "of the environment"
    with pytest.raises(ValidationFailed, match="needs --encrypt"):
        _encryption_key(False, "k", False, None)
