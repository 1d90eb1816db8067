"""Checkpoints: the text that other tools read, and nothing else taken for one."""

from __future__ import annotations

from base64 import b64decode, b64encode

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from cerememory.domain.checkpoint import (
    NOTE_BYTES_MAX,
    Checkpoint,
    NotACheckpoint,
    Signature,
    VerifierKey,
    dump_note,
    leaf_of,
    parse_note,
    parse_verifier_key,
)
from cerememory.domain.merkle import EMPTY_ROOT, leaf_hash
from cerememory.domain.note_signatures import Signer, open_note, parse_signer

SPECIFIED = """\
example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

\u2014 example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
""".encode()  # noqa: E501 - the example of c2sp.org/tlog-checkpoint, to the byte
# Of the documentation of Go's note package: a key, a text and its signature.
GO_PRIVATE = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
GO_PUBLIC = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_TEXT = b"If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
GO_SIGNATURE = "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM="

SIGNER = Signer("cerememory/audit/test", bytes(range(32)))
OTHER = Signer("cerememory/audit/test", bytes(32))
NOTE = SIGNER.note(3, EMPTY_ROOT)


def test_the_specification_s_example_is_read() -> None:
    note = parse_note(SPECIFIED)
    root = b64decode("CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=")
    assert note.checkpoint == Checkpoint("example.com/behind-the-sofa", 20_852_163, root)
    [signature] = note.signatures
    assert (signature.key_name, signature.key_id.hex(), len(signature.data)) == (
        *("example.com/behind-the-sofa", "033de0ae"),
        64,
    )
    assert dump_note(note.checkpoint.text, note.signatures) == SPECIFIED


def test_keys_and_signatures_are_those_of_other_implementations() -> None:
    signer, key = parse_signer(GO_PRIVATE), parse_verifier_key(GO_PUBLIC)
    assert signer.verifier == key
    assert (signer.dump(), str(key)) == (GO_PRIVATE, GO_PUBLIC)
    decoded = b64decode(GO_SIGNATURE)
    assert decoded[:4] == key.key_id
    Ed25519PublicKey.from_public_bytes(key.public).verify(decoded[4:], GO_TEXT)


@given(st.integers(0, 2**63 - 1), st.binary(min_size=32, max_size=32))
def test_what_is_signed_is_opened(size: int, root: bytes) -> None:
    note = open_note(SIGNER.note(size, root), SIGNER.verifier)
    assert note.checkpoint == Checkpoint("cerememory/audit/test", size, root)


@given(st.integers(0, len(NOTE) - 1), st.integers(1, 255))
def test_no_byte_of_a_note_can_be_another(offset: int, mask: int) -> None:
    data = bytearray(NOTE)
    data[offset] ^= mask
    with pytest.raises(NotACheckpoint):
        open_note(bytes(data), SIGNER.verifier)


def test_a_note_may_have_signatures_of_others_beside_ours() -> None:
    ours = parse_note(NOTE).signatures
    witness = Signature("witness.example", b"abcd", b"whatever")
    assert open_note(
        dump_note(Checkpoint(SIGNER.verifier.name, 3, EMPTY_ROOT).text, (witness, *ours)), SIGNER.verifier
    )


@pytest.mark.parametrize(
    ("note", "key", "told"),
    [
        (NOTE, OTHER.verifier, "isn't signed by this key"),
        (OTHER.note(3, EMPTY_ROOT), SIGNER.verifier, "isn't signed by this key"),
        (
            dump_note(
                Checkpoint("another/log", 3, EMPTY_ROOT).text,
                [
                    Signature(
                        SIGNER.verifier.name,
                        SIGNER.verifier.key_id,
                        SIGNER._private.sign(Checkpoint("another/log", 3, EMPTY_ROOT).text),
                    )
                ],
            ),
            SIGNER.verifier,
            "is of another log",
        ),
        (
            dump_note(Checkpoint(SIGNER.verifier.name, 4, EMPTY_ROOT).text, parse_note(NOTE).signatures),
            SIGNER.verifier,
            "its signature is not good",
        ),
    ],
    ids=["another key", "of another key", "another origin", "another size"],
)
def test_a_note_of_somebody_else_is_refused(note: bytes, key: VerifierKey, told: str) -> None:
    with pytest.raises(NotACheckpoint, match=told):
        open_note(note, key)


ROOT = b64encode(EMPTY_ROOT).decode()
SIGNED = "\n\u2014 a AAAAAAAA\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "isn't a signed note"),
        (f"a\n1\n{ROOT}\n", "isn't a signed note"),
        (f"a\n1\n{ROOT}\n\n", "isn't a signed note"),
        (f"a\n1\n{ROOT}\n{SIGNED}x", "isn't a signed note"),
        (f"a\x01\n1\n{ROOT}\n{SIGNED}", "isn't a signed note"),
        (f"a\n1\n{ROOT}\nmore\n{SIGNED}", "isn't three lines"),
        (f"a\n1\n{SIGNED}", "isn't three lines"),
        (f"\n1\n{ROOT}\n{SIGNED}", "isn't three lines"),
        (f"a\n01\n{ROOT}\n{SIGNED}", "size"),
        (f"a\n-1\n{ROOT}\n{SIGNED}", "size"),
        (f"a\n\u0661\n{ROOT}\n{SIGNED}", "size"),
        (f"a\n\n{ROOT}\n{SIGNED}", "size"),
        (f"a\n{2**63}\n{ROOT}\n{SIGNED}", "size"),
        (f"a\n{'9' * 5000}\n{ROOT}\n{SIGNED}", "size"),
        (f"a\n1\n{ROOT[:-2]}\n{SIGNED}", "base64"),
        (f"a\n1\nAAAA\n{SIGNED}", "32 bytes"),
        (f"a\n1\n{ROOT}\n\n- a AAAAAAAA\n", "a line for a signature"),
        (f"a\n1\n{ROOT}\n\n\u2014 a AAAA\n", "a line for a signature"),
        (f"a\n1\n{ROOT}\n\n\u2014 a+b AAAAAAAA\n", "a line for a signature"),
        (f"a\n1\n{ROOT}\n\n\u2014 a\n", "a line for a signature|base64"),
        (f"a\n1\n{ROOT}\n" + "\n" + "\u2014 a AAAAAAAA\n" * 65, "over 64 signatures"),
        ("a" * (NOTE_BYTES_MAX + 1), "over 65536 bytes"),
    ],
)
def test_what_is_no_checkpoint_is_refused_with_the_reason(text: str, told: str) -> None:
    with pytest.raises(NotACheckpoint, match=told):
        parse_note(text.encode())


@given(st.binary(max_size=300))
def test_any_bytes_are_a_checkpoint_or_refused(data: bytes) -> None:
    try:
        parse_note(data)
    except NotACheckpoint as error:
        assert str(error)
    with pytest.raises(NotACheckpoint):
        parse_note(b"\xff" + data)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "a+b+c",
        GO_PUBLIC.replace("c74f20a3", "c74f20a4"),
        GO_PUBLIC[:-4],
        GO_PUBLIC.replace("PeterNeumann", "Peter Neumann"),
        "PeterNeumann+c74f20a3+" + b64encode(b"\2" + bytes(32)).decode(),
    ],
)
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(NotACheckpoint):
        parse_verifier_key(text)


@pytest.mark.parametrize(
    "text", ["", GO_PUBLIC, GO_PRIVATE[:-4], GO_PRIVATE.replace("c74f20a3", "c74f20a4"), "PRIVATE+KEY+a+b+c"]
)
def test_what_is_no_secret_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(ValueError, match=r"^is(n't the key that its id was made of| no .*key)$"):
        parse_signer(text)


def test_a_leaf_is_a_line_without_its_newline() -> None:
    assert leaf_of(b'{"a":1}\n') == leaf_hash(b'{"a":1}')
