"""The keys of a data dir: what is kept of them, who may have which name, and what changes beside each other."""

from __future__ import annotations

import json
import multiprocessing
import stat
from hashlib import sha256
from pathlib import Path

import pytest

from cerememory.errors import DataDirUnusable, RecordNotFound, ValidationFailed
from cerememory.protocol.access import Role
from cerememory.protocol.values import NANOS
from cerememory.storage import api_keys
from cerememory.storage.api_keys import ApiKey, KeyFile, create, key_id, read, revoke, usable

NOW = 1_800_000_000 * NANOS
MAKERS, MADE_BY_EACH = 4, 8
SECRET_AT = len("cm_0123456789ab_")


def made(data_dir: Path, name: str, **given: int) -> tuple[ApiKey, str]:
    return create(data_dir, name=name, role=Role.WRITE, namespace="work", now=NOW, **given)


def file_of(data_dir: Path) -> Path:
    return data_dir / "keys" / "api_keys.json"


def test_what_is_kept_is_the_digest_and_never_the_key(tmp_path: Path) -> None:
    key, text = made(tmp_path, "laptop", expires_at=NOW + 1)
    kept = file_of(tmp_path).read_text()
    assert text not in kept
    assert text[SECRET_AT:] not in kept
    assert json.loads(kept) == {
        "version": 1,
        "keys": [
            {
                "id": key.id,
                "name": "laptop",
                "role": "write",
                "namespace": "work",
                "created_at": "2027-01-15T08:00:00Z",
                "expires_at": "2027-01-15T08:00:00.000000001Z",
                "revoked_at": None,
                "sha256": sha256(text.encode()).hexdigest(),
            }
        ],
    }
    assert read(tmp_path) == (key,)


def test_only_its_owner_may_read_the_file(tmp_path: Path) -> None:
    made(tmp_path, "laptop")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "keys").iterdir()}
    assert modes == {"api_keys.json": 0o600, "api_keys.lock": 0o600}
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700


def test_a_key_has_256_random_bits_and_says_its_id(tmp_path: Path) -> None:
    keys = [made(tmp_path, f"key {i}") for i in range(20)]
    assert len({text[SECRET_AT:] for _key, text in keys} | {key.id for key, _text in keys}) == 40
    for key, text in keys:
        assert key_id(text.encode()) == key.id
        assert len(text) == len("cm__") + 12 + 43  # 43 characters of 6 bits each


@pytest.mark.parametrize("sent", [b"", b"password", b"cm_0123456789ab_short", b"cm_0123456789ab_" + b"\n" * 43])
def test_nothing_is_told_of_what_is_no_key_of_ours(sent: bytes) -> None:
    assert key_id(sent) is None


@pytest.mark.parametrize("name", ["", " ", "a\nb", "x" * 65, "-a", "a\x1b[2J", "a/b", " a", "a "])
def test_a_name_is_fit_to_be_shown(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValidationFailed, match=r"^name: expected 1 to 64 letters"):
        made(tmp_path, name)
    assert read(tmp_path) == ()


@pytest.mark.parametrize("name", ["a", "Ana's"[:3], "laptop of Ana", "ci@build-7.example", "Zoë", "x" * 64])
def test_names_are_words(tmp_path: Path, name: str) -> None:
    assert made(tmp_path, name)[0].name == name


def test_a_scope_is_the_name_of_a_namespace(tmp_path: Path) -> None:
    with pytest.raises(ValidationFailed, match=r"^scope: expected 1 to 64"):
        create(tmp_path, name="x", role=Role.READ, namespace="no name", now=NOW)


def test_two_keys_in_use_never_have_one_name(tmp_path: Path) -> None:
    made(tmp_path, "laptop", expires_at=NOW + 5)
    with pytest.raises(ValidationFailed, match="there is a key 'laptop' already"):
        made(tmp_path, "laptop")
    create(tmp_path, name="laptop", role=Role.READ, namespace=None, now=NOW + 5)
    revoke(tmp_path, ["laptop"], NOW + 6)
    create(tmp_path, name="laptop", role=Role.READ, namespace=None, now=NOW + 6)
    assert [key.refusal(NOW + 7) for key in read(tmp_path)] == ["expired", "revoked", None]


def test_a_key_is_revoked_by_its_id_or_its_name(tmp_path: Path) -> None:
    first, second, third = (made(tmp_path, name)[0] for name in ("a", "b", "c"))
    assert [key.id for key in revoke(tmp_path, [second.id, "c"], NOW + 1)] == [second.id, third.id]
    assert usable(tmp_path, NOW + 1) == (first,)


def test_a_name_is_that_of_the_key_in_use(tmp_path: Path) -> None:
    made(tmp_path, "a")
    revoke(tmp_path, ["a"], NOW + 1)
    used = made(tmp_path, "a")[0]
    assert [key.id for key in revoke(tmp_path, ["a"], NOW + 2)] == [used.id]


def test_the_time_of_the_first_revocation_stays(tmp_path: Path) -> None:
    made(tmp_path, "a")
    revoke(tmp_path, ["a"], NOW + 1)
    assert [key.revoked_at for key in revoke(tmp_path, ["a"], NOW + 2)] == [NOW + 1]


def test_all_keys_that_are_named_are_revoked_or_none(tmp_path: Path) -> None:
    made(tmp_path, "a")
    with pytest.raises(RecordNotFound, match="'nobody': no key has this id or name"):
        revoke(tmp_path, ["a", "nobody"], NOW)
    assert len(usable(tmp_path, NOW)) == 1


def test_the_number_of_keys_is_bounded_and_what_is_of_no_use_makes_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_keys, "KEYS_MAX", 3)
    for name in ("a", "b", "c"):
        made(tmp_path, name)
    with pytest.raises(ValidationFailed, match="3 keys are in use, no more are kept"):
        made(tmp_path, "d")
    revoke(tmp_path, ["b"], NOW)
    made(tmp_path, "d")
    assert [key.name for key in read(tmp_path)] == ["a", "c", "d"]


def _make_some(data_dir: Path, maker: int) -> None:
    for i in range(MADE_BY_EACH):
        made(data_dir, f"{maker} {i}")


def test_commands_at_the_same_time_lose_no_key(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    makers = [context.Process(target=_make_some, args=(tmp_path, maker)) for maker in range(MAKERS)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join(30)
    assert [maker.exitcode for maker in makers] == [0] * MAKERS
    assert len(read(tmp_path)) == MAKERS * MADE_BY_EACH


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not readable as JSON"),
        (b"{}", "version: missing field"),
        (b'{"version":2,"keys":[]}', "has version 2, this version reads 1"),
        (b'{"version":1,"keys":[{"id":"x"}]}', r"keys\[0\].name: missing field"),
        (b"\xff", "not readable as JSON"),
    ],
)
def test_a_file_that_is_none_of_ours_is_refused_with_its_reason(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    (tmp_path / "keys").mkdir()
    file_of(tmp_path).write_bytes(content)
    with pytest.raises(DataDirUnusable, match=f"^{file_of(tmp_path)}: .*{reason}"):
        read(tmp_path)
    with pytest.raises(DataDirUnusable):
        made(tmp_path, "a")
    assert file_of(tmp_path).read_bytes() == content, "and left as it is"


@pytest.mark.parametrize("digest", ["", "0" * 63, "G" * 64, "0" * 65])
def test_a_digest_is_a_digest(tmp_path: Path, digest: str) -> None:
    made(tmp_path, "a")
    kept = json.loads(file_of(tmp_path).read_bytes())
    kept["keys"][0]["sha256"] = digest
    file_of(tmp_path).write_text(json.dumps(kept))
    with pytest.raises(DataDirUnusable, match="sha256"):
        read(tmp_path)


def test_who_looks_sees_each_change_and_reads_only_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = KeyFile(tmp_path)
    assert file.current() == ()
    made(tmp_path, "a")
    first = file.current()
    assert [key.name for key in first] == ["a"]
    assert file.current() is first
    revoke(tmp_path, ["a"], NOW)
    assert [key.revoked_at for key in file.current()] == [NOW]
    file_of(tmp_path).unlink()
    assert file.current() == (), "no file, no keys"


def test_a_file_that_became_unreadable_is_complained_of_once(tmp_path: Path) -> None:
    made(tmp_path, "a")
    file = KeyFile(tmp_path)
    before = file.current()
    file_of(tmp_path).write_bytes(b"{")
    with pytest.raises(DataDirUnusable):
        file.current()
    assert file.current() is before
