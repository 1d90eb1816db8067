"""The audit log's keys: made once, readable by nobody else, and missed when they are gone."""

from __future__ import annotations

from pathlib import Path

import pytest

from cerememory.domain.checkpoint import parse_verifier_key
from cerememory.errors import AuditBroken, DataDirUnusable
from cerememory.storage.audit_keys import KEY_NAME, PUBLIC_NAME, open_keys, read_keys, read_public_key


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "here" / "keys"


def test_keys_are_made_once_for_their_owner_only(path: Path) -> None:
    made = open_keys(path, may_create=True)
    assert (path.stat().st_mode & 0o777, (path / KEY_NAME).stat().st_mode & 0o777) == (0o700, 0o600)
    again = open_keys(path, may_create=False)
    assert (again.head_key, again.signer.verifier) == (made.head_key, made.signer.verifier)
    assert read_public_key(path / PUBLIC_NAME) == made.signer.verifier


def test_every_data_dir_has_its_own(path: Path) -> None:
    one, other = open_keys(path / "1", may_create=True), open_keys(path / "2", may_create=True)
    assert one.head_key != other.head_key
    assert one.signer.verifier.name != other.signer.verifier.name
    assert one.head_key != one.signer.seed, "who has the key of the head can't sign with it"


def test_the_public_half_is_written_again_when_it_is_gone(path: Path) -> None:
    made = open_keys(path, may_create=True)
    (path / PUBLIC_NAME).unlink()
    open_keys(path, may_create=False)
    assert parse_verifier_key((path / PUBLIC_NAME).read_text()) == made.signer.verifier


def test_missing_keys_are_made_for_a_new_log_alone(path: Path) -> None:
    with pytest.raises(AuditBroken, match=r"audit\.key: the key of the audit log is missing"):
        open_keys(path, may_create=False)
    assert not path.exists()
    assert read_keys(path) is None


def test_a_key_that_others_may_read_is_refused(path: Path) -> None:
    open_keys(path, may_create=True)
    (path / KEY_NAME).chmod(0o640)
    with pytest.raises(DataDirUnusable, match="others may read it"):
        open_keys(path, may_create=True)
    with pytest.raises(DataDirUnusable, match="others may read it"):
        read_keys(path)


@pytest.mark.parametrize("text", ["", "PRIVATE+KEY+a+b+c", "x" * 100, "\xff"])
def test_a_key_that_is_none_is_refused_and_not_replaced(path: Path, text: str) -> None:
    open_keys(path, may_create=True)
    (path / KEY_NAME).write_text(text)
    with pytest.raises(DataDirUnusable, match=r"audit\.key: is no private key"):
        open_keys(path, may_create=True)
    assert (path / KEY_NAME).read_text() == text


def test_where_no_key_can_be_is_said(path: Path, tmp_path: Path) -> None:
    (tmp_path / "here").write_text("")
    with pytest.raises(DataDirUnusable, match="Not a directory"):
        open_keys(path, may_create=True)
    with pytest.raises(DataDirUnusable, match="Not a directory"):
        read_public_key(path)


@pytest.mark.parametrize("text", ["", "a+b+c", "x" * 10_000, "\xff"])
def test_a_public_key_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "key").write_text(text)
    with pytest.raises(DataDirUnusable, match=r"key: .*(public key|base64)"):
        read_public_key(tmp_path / "key")
