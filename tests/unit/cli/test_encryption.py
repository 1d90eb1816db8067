"""A store that was plain before it had a passphrase: who is told to migrate it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cerememory.cli.main import run

TOLD = "run migrate-store-encryption"


def test_a_migration_doesnt_tell_to_migrate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    told = ["--data-dir", str(tmp_path / "data")]
    assert run(["store", "kettle", *told]) == 0
    monkeypatch.setenv("CEREMEMORY_SECURITY__STORE_ENCRYPTION_PASSPHRASE", "correct horse")
    assert run(["stats", *told]) == 0
    assert TOLD in capfd.readouterr().err
    assert run(["migrate-store-encryption", "--confirm", *told]) == 0
    assert TOLD not in capfd.readouterr().err
