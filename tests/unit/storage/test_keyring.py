"""A keyring comes out of its wrap for one passphrase, and only as it went in."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerememory.errors import PassphraseRefused, StorageDamaged
from cerememory.storage.keyring import Salt, Wrapping, new_keyring
from tests.support.sealing import PASSPHRASE, QUICK, quick_wrapping

KEYRING = new_keyring(are_names_sealed=True)


@pytest.mark.parametrize("given_passphrase", [PASSPHRASE, f" {PASSPHRASE}\n"])
def test_the_passphrase_gives_back_the_keyring(given_passphrase: str) -> None:
    assert Wrapping.open(quick_wrapping().wrap(KEYRING), given_passphrase)[1] == KEYRING


def test_what_was_opened_wraps_again() -> None:
    wrapping, keyring = Wrapping.open(quick_wrapping().wrap(KEYRING), PASSPHRASE)
    renewed = keyring.with_new_key()
    assert Wrapping.open(wrapping.wrap(renewed), PASSPHRASE)[1] == renewed


@pytest.mark.parametrize("other", ["correct horse battery", "Correct horse", ""])
def test_another_passphrase_is_refused(other: str) -> None:
    with pytest.raises(
        PassphraseRefused, match=r"^security\.store_encryption_passphrase: this isn't the passphrase"
    ):
        Wrapping.open(quick_wrapping().wrap(KEYRING), other)


def test_no_key_is_in_the_row() -> None:
    row = quick_wrapping().wrap(KEYRING)
    assert KEYRING.newest.key not in row
    assert KEYRING.newest.key_id not in row
    assert KEYRING.names_key not in row


def test_two_data_dirs_have_nothing_in_common() -> None:
    other = new_keyring(are_names_sealed=True)
    assert {KEYRING.newest.key, KEYRING.newest.key_id, KEYRING.names_key}.isdisjoint(
        {other.newest.key, other.newest.key_id, other.names_key}
    )


@given(place=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_a_row_with_one_bit_changed_is_refused(place: int, bit: int) -> None:
    row = bytearray(quick_wrapping().wrap(KEYRING))
    row[place % len(row)] ^= 1 << bit
    with pytest.raises((PassphraseRefused, StorageDamaged)):
        Wrapping.open(bytes(row), PASSPHRASE)


@pytest.mark.parametrize(
    "salt",
    [
        Salt(QUICK.salt, memory_kib=1 << 30, iterations=1),
        Salt(QUICK.salt, memory_kib=8, iterations=1_000_000),
        Salt(QUICK.salt, memory_kib=64, iterations=1, lanes=1_000),
        Salt(b"", memory_kib=8, iterations=1),
    ],
)
def test_a_row_cannot_ask_for_more_than_the_machine_should_give(salt: Salt) -> None:
    version, _salt, nonce, sealed = msgspec.msgpack.decode(quick_wrapping().wrap(KEYRING))
    row = msgspec.msgpack.encode((version, msgspec.to_builtins(salt), nonce, sealed))
    with pytest.raises(StorageDamaged):
        Wrapping.open(row, PASSPHRASE)


def test_what_holds_the_keyring_costs_whoever_guesses_as_much_as_the_reference_does() -> None:
    assert Salt(b"") == Salt(b"", memory_kib=65_536, iterations=3, lanes=1)


def test_each_wrap_is_another() -> None:
    wrapping = quick_wrapping()
    assert wrapping.wrap(KEYRING) != wrapping.wrap(KEYRING)
