"""Signing checkpoints, and whether a signature is good: Ed25519 (RFC 8032) over the note's text."""

from __future__ import annotations

from base64 import b64decode, b64encode
from binascii import Error as BadBase64

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from cerememory.domain.checkpoint import (
    ED25519,
    Checkpoint,
    NotACheckpoint,
    Note,
    Signature,
    VerifierKey,
    dump_note,
    parse_note,
)

SEED_BYTES = 32
_PRIVATE = "PRIVATE+KEY+"


class Signer:
    """A key that signs, under the log's `name`."""

    def __init__(self, name: str, seed: bytes) -> None:
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        self._seed = seed
        self.verifier = VerifierKey(name, self._private.public_key().public_bytes_raw())

    @property
    def seed(self) -> bytes:
        """The secret, `SEED_BYTES`."""
        return self._seed

    def note(self, size: int, root: bytes) -> bytes:
        """The signed checkpoint of the log when it had `size` entries."""
        text = Checkpoint(self.verifier.name, size, root).text
        signature = Signature(self.verifier.name, self.verifier.key_id, self._private.sign(text))
        return dump_note(text, [signature])

    def dump(self) -> str:
        """The secret as text, for a file that nobody else reads."""
        key_id = self.verifier.key_id.hex()
        return f"{_PRIVATE}{self.verifier.name}+{key_id}+{b64encode(ED25519 + self._seed).decode()}"


def parse_signer(text: str) -> Signer:
    """The key that `Signer.dump` wrote. Raises `ValueError`, which doesn't show it."""
    if not text.startswith(_PRIVATE):
        raise ValueError("is no private key")
    try:
        name, key_id, encoded = text.removeprefix(_PRIVATE).strip().split("+", 2)
        decoded = b64decode(encoded, validate=True)
    except (BadBase64, ValueError):
        raise ValueError("is no private key") from None
    if decoded[:1] != ED25519 or len(decoded) != 1 + SEED_BYTES:
        raise ValueError("is no Ed25519 key")
    signer = Signer(name, decoded[1:])
    if signer.verifier.key_id.hex() != key_id:
        raise ValueError("isn't the key that its id was made of")
    return signer


def open_note(data: bytes, key: VerifierKey) -> Note:
    """The note, when `key` has signed it as a checkpoint of its own log; else `NotACheckpoint`.

    Signatures of other keys (witnesses') are ignored, as the format wants it.
    """
    note = parse_note(data)
    ours = [s for s in note.signatures if (s.key_name, s.key_id) == (key.name, key.key_id)]
    if not ours:
        raise NotACheckpoint("isn't signed by this key")
    public = Ed25519PublicKey.from_public_bytes(key.public)
    try:
        for signature in ours:
            public.verify(signature.data, note.checkpoint.text)
    except InvalidSignature:
        raise NotACheckpoint("its signature is not good") from None
    if note.checkpoint.origin != key.name:
        raise NotACheckpoint("is of another log than this key's")
    return note
