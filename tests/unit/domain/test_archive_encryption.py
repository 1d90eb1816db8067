"""The container of encrypted archives, against the reference's own and the one-call form of the cipher."""

from __future__ import annotations

from functools import cache

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given
from hypothesis import strategies as st

from cerememory.domain.archive_encryption import (
    NONCE_BYTES,
    PREFIX_BYTES,
    SALT_BYTES,
    TAG_BYTES,
    Authentication,
    Encryption,
    derive_key,
    parse_container,
)
from cerememory.domain.cma import ArchiveReader
from cerememory.errors import ImportConflict
from tests.support.archives import BUNDLE, CURATED, ENCRYPTED, PASSPHRASE, pieces

KEY = bytes(range(32))
SALT, NONCE = b"s" * SALT_BYTES, b"n" * NONCE_BYTES
WRONG = "^the passphrase is wrong, or the archive was changed$"

derived = cache(derive_key)  # each takes a third of a second


def encrypted(data: bytes, size: int, key: bytes = KEY, salt: bytes = SALT, nonce: bytes = NONCE) -> bytes:
    encryption = Encryption(key, salt, nonce)
    chunks = [encryption.start(), *(encryption.encrypt(piece) for piece in pieces(data, size))]
    return b"".join((*chunks, encryption.finish()))


def decrypted(container: bytes, size: int, key: bytes) -> bytes:
    found = parse_container(container[:PREFIX_BYTES], len(container))
    ciphertext = container[PREFIX_BYTES : PREFIX_BYTES + found.ciphertext_bytes]
    authentication = Authentication(key, found.nonce)
    for piece in pieces(ciphertext, size):
        authentication.update(piece)
    decryption = authentication.verify(container[-TAG_BYTES:])
    return b"".join(decryption.decrypt(piece) for piece in pieces(ciphertext, size))


@pytest.mark.parametrize("size", [1, 63, 65_536])
def test_the_archive_of_the_reference_is_opened(size: int) -> None:
    key = derived(PASSPHRASE, ENCRYPTED[:SALT_BYTES])
    plain = decrypted(ENCRYPTED, size, key)
    assert plain.splitlines()[1:] == BUNDLE.splitlines()[1:]  # it was exported a moment later
    assert len(list(ArchiveReader([plain]).records())) == 8


def test_the_archive_of_the_reference_is_made_again_byte_for_byte() -> None:
    salt, nonce = ENCRYPTED[:SALT_BYTES], ENCRYPTED[SALT_BYTES:PREFIX_BYTES]
    key = derived(PASSPHRASE, salt)
    assert encrypted(decrypted(ENCRYPTED, 100, key), 77, key, salt, nonce) == ENCRYPTED


def test_the_key_depends_on_passphrase_and_salt() -> None:
    keys = {derived(PASSPHRASE, SALT), derived("correct horses", SALT), derived(PASSPHRASE, b"t" * SALT_BYTES)}
    assert len(keys) == 3
    assert {len(key) for key in keys} == {32}


def test_a_passphrase_is_any_text() -> None:
    assert derived("合言葉 😀", SALT) != derived("合言葉", SALT)


@given(
    data=st.binary(max_size=400),
    size=st.integers(1, 130),
    key=st.binary(min_size=32, max_size=32),
    nonce=st.binary(min_size=NONCE_BYTES, max_size=NONCE_BYTES),
)
def test_chunks_of_any_size_give_the_bytes_of_the_one_call_form(
    data: bytes, size: int, key: bytes, nonce: bytes
) -> None:
    container = encrypted(data, size, key, SALT, nonce)
    assert container == SALT + nonce + ChaCha20Poly1305(key).encrypt(nonce, data, None)
    assert decrypted(container, size, key) == data


@pytest.mark.parametrize("size", [0, 15, 16, 17, 63, 64, 65, 127, 128, 129, 100_000])
def test_every_length_around_a_block_is_padded_right(size: int) -> None:
    data = b"x" * size
    assert encrypted(data, 33)[PREFIX_BYTES:] == ChaCha20Poly1305(KEY).encrypt(NONCE, data, None)


@given(at=st.integers(0, len(BUNDLE) + PREFIX_BYTES + TAG_BYTES - 1), difference=st.integers(1, 255))
def test_a_changed_byte_is_found_before_anything_is_decrypted(at: int, difference: int) -> None:
    container = bytearray(encrypted(BUNDLE, 65_536))
    container[at] ^= difference
    if at < SALT_BYTES:  # the salt goes into the key alone
        assert parse_container(bytes(container[:PREFIX_BYTES]), len(container)).salt != SALT
        return
    with pytest.raises(ImportConflict, match=WRONG):
        decrypted(bytes(container), 65_536, KEY)


@pytest.mark.parametrize("end", [PREFIX_BYTES + TAG_BYTES, 100, len(ENCRYPTED) - 1])
def test_a_container_that_was_cut_is_found(end: int) -> None:
    with pytest.raises(ImportConflict, match=WRONG):
        decrypted(ENCRYPTED[:end], 1_000, derived(PASSPHRASE, ENCRYPTED[:SALT_BYTES]))


def test_another_passphrase_does_not_open_it() -> None:
    with pytest.raises(ImportConflict, match=WRONG):
        decrypted(ENCRYPTED, 1_000, derived("wrong", ENCRYPTED[:SALT_BYTES]))


@pytest.mark.parametrize("size", [0, 3, PREFIX_BYTES, PREFIX_BYTES + TAG_BYTES - 1])
def test_too_few_bytes_are_no_container(size: int) -> None:
    container = ENCRYPTED[:size]
    with pytest.raises(ImportConflict, match=rf"^{size} bytes are too few for an encrypted archive$"):
        parse_container(container[:PREFIX_BYTES], size)


def test_an_age_file_is_no_container() -> None:
    with pytest.raises(ImportConflict, match=r"^this is an age file"):
        parse_container(b"age-encryption.org/v1\n-> scrypt"[:PREFIX_BYTES], 1_000)


def test_an_empty_message_is_a_container() -> None:
    assert parse_container(ENCRYPTED[:PREFIX_BYTES], PREFIX_BYTES + TAG_BYTES).ciphertext_bytes == 0
    assert decrypted(encrypted(b"", 1), 1, KEY) == b""


def test_a_passphrase_for_an_archive_that_is_not_encrypted_is_refused() -> None:
    with pytest.raises(ImportConflict, match="the archive isn't encrypted"):
        parse_container(CURATED[:PREFIX_BYTES], len(CURATED))
