"""age files: what a command makes of an archive under a passphrase, and reads back.

The library's work for a passphrase takes a second or two, so it writes one file; elsewhere a pretended one does.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pyrage
import pytest

from cerememory.cli import age, archive
from cerememory.cli.main import run
from cerememory.client.archives import ArchiveStream
from cerememory.errors import ContentTooLarge, ImportConflict
from tests.support.archives import CURATED
from tests.unit.cli.test_archive import FakeArchives

HEADER = b"age-encryption.org/v1\n"
OF_OTHERS = Path(__file__).parents[2] / "fixtures" / "age" / "curated-v1.age"
CHUNKS = [CURATED[:1_000], CURATED[1_000:]]


class Pretended:
    """Encrypts by writing the passphrase in front; another one doesn't decrypt."""

    def encrypt(self, data: bytes, passphrase: str) -> bytes:
        return HEADER + passphrase.encode() + b"|" + data

    def decrypt(self, data: bytes, passphrase: str) -> bytes:
        head, _, archived = data.partition(b"|")
        if head != HEADER + passphrase.encode():
            raise pyrage.DecryptError("no")
        return archived


class Archives(FakeArchives):
    """Gives the archive of the reference."""

    @contextmanager
    def export_archive(self, body: object) -> Iterator[ArchiveStream]:
        self.bodies.append(body)
        yield ArchiveStream("a-1", 6, "ab", len(CURATED), iter(CHUNKS))


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeArchives:
    made = Archives()
    monkeypatch.setattr(archive, "connect", lambda options, **_: nullcontext(made))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "key").write_text("correct horse\n")
    (tmp_path / "other").write_text("battery staple\n")
    return made


@pytest.fixture
def _pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(age, "_library", Pretended)


def test_the_library_writes_what_begins_as_an_age_file(
    memory: FakeArchives, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["export", "--format", "age", "--output", "a.age", "--encryption-key-file", "key"]) == 0
    made = (tmp_path / "a.age").read_bytes()
    assert made.startswith(HEADER + b"-> scrypt ")
    assert CURATED[:100] not in made
    assert f"({len(made)} bytes," in capsys.readouterr().out


def test_the_library_reads_an_age_file_of_others(memory: FakeArchives, tmp_path: Path) -> None:
    """Made by the format's specification (C2SP age), with other code, and little work for its passphrase."""
    assert run(["import", str(OF_OTHERS), "--decryption-key-file", "key"]) == 0
    [(sent, size_bytes, terms)] = memory.taken
    assert (sent, size_bytes) == (CURATED, len(CURATED))
    assert "decryption_key" not in terms
    changed = bytearray(OF_OTHERS.read_bytes())
    changed[-1] ^= 1
    (tmp_path / "changed.age").write_bytes(changed)
    assert run(["import", "changed.age", "--decryption-key-file", "key"]) == 1
    assert len(memory.taken) == 1


@pytest.mark.usefixtures("_pretended")
def test_what_is_written_is_read_again(memory: FakeArchives) -> None:
    assert run(["export", "--format", "age", "--output", "a.age", "--encryption-key-file", "key"]) == 0
    assert run(["import", "a.age", "--decryption-key-file", "key"]) == 0
    assert memory.taken[0][0] == CURATED


@pytest.mark.usefixtures("_pretended")
def test_the_daemon_is_asked_for_a_plain_archive_and_never_told_the_passphrase(memory: FakeArchives) -> None:
    assert run(["export", "--format", "age", "--encrypt", "--encryption-key-file", "key"]) == 0
    assert memory.bodies == [{"format": "cma", "include_raw_journal": False, "encrypt": False}]


@pytest.mark.usefixtures("_pretended")
def test_another_passphrase_sends_nothing(
    memory: FakeArchives, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.age").write_bytes(Pretended().encrypt(CURATED, "correct horse"))
    assert run(["import", "a.age", "--decryption-key-file", "other"]) == 1
    assert "the passphrase is wrong, or the age file was changed" in capsys.readouterr().err
    assert memory.taken == []


@pytest.mark.parametrize("beginning", [HEADER, b"-----BEGIN AGE ENCRYPTED FILE-----\n"])
def test_a_file_is_known_by_its_beginning_and_needs_a_passphrase(
    memory: FakeArchives, tmp_path: Path, capsys: pytest.CaptureFixture[str], beginning: bytes
) -> None:
    (tmp_path / "a.age").write_bytes(beginning + b"and more")
    assert run(["import", "a.age"]) == 1
    assert capsys.readouterr().err == (
        "error: a.age: is an age file, which needs --decryption-key-stdin or another key\n"
    )
    assert memory.taken == []


def test_an_age_file_is_not_written_without_a_passphrase(
    memory: FakeArchives, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["export", "--format", "age", "--output", "a.age"]) == 1
    assert capsys.readouterr().err == "error: --format age: needs --encryption-key-stdin or another key\n"
    assert not (tmp_path / "a.age").exists()


@pytest.mark.usefixtures("_pretended")
def test_an_age_file_has_a_size_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(age, "ARCHIVE_BYTES_MAX", 10)
    monkeypatch.setattr(age, "AGE_BYTES_MAX", 15)
    assert age.encrypted([b"0123456789"], 10, "k")
    with pytest.raises(ContentTooLarge, match="11 bytes, at most 10 go into an age file"):
        age.encrypted([], 11, "k")
    with pytest.raises(ImportConflict, match="has 16 bytes, at most 15"):
        age.decrypted(bytes(16), "k")


def test_without_the_library_it_is_named(
    memory: FakeArchives, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    modules: Mapping[str, Any] = {name: None for name in sys.modules if name.split(".")[0] == "pyrage"}
    for name in (*modules, "pyrage"):
        monkeypatch.setitem(sys.modules, name, None)
    assert run(["export", "--format", "age", "--encryption-key-file", "key"]) == 1
    assert capsys.readouterr().err == ("error: age files need the package pyrage: pip install 'cerememory[age]'\n")
