"""Checkpoints of the audit log: what its Merkle tree was at some size, as signed text that anybody can keep.

The text is that of C2SP: a tlog-checkpoint (origin, size, root; never more lines) in a signed-note, with Ed25519
signatures. Keys are written as Go's `note` package writes them (`NAME+ID+KEY`), so that other tools read both.
Here is the text alone, without the library that signs (`note_signatures`): a client that compares checkpoints
starts without it.

A leaf of the tree is one line of the log, without its newline.

Sources: c2sp.org/tlog-checkpoint, c2sp.org/signed-note.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from binascii import Error as BadBase64
from collections.abc import Iterable
from hashlib import sha256
from typing import NamedTuple

from cerememory.domain.merkle import HASH_BYTES, leaf_hash

NOTE_BYTES_MAX = 65_536
SIGNATURES_MAX = 64
SIZE_MAX = 2**63 - 1
ED25519 = b"\1"
KEY_ID_BYTES = 4
PUBLIC_KEY_BYTES = 32

_DASH = "\u2014 "


class NotACheckpoint(Exception):
    """Text that isn't a checkpoint, or not one of a known key; the message says why, without naming the text."""


class Signature(NamedTuple):
    """One line of a note; `data` is whatever the key's kind of signature is."""

    key_name: str
    key_id: bytes
    data: bytes


class VerifierKey(NamedTuple):
    """The public half of an Ed25519 key: its name, and 32 bytes."""

    name: str
    public: bytes

    @property
    def key_id(self) -> bytes:
        return sha256(self.name.encode() + b"\n" + ED25519 + self.public).digest()[:KEY_ID_BYTES]

    def __str__(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{b64encode(ED25519 + self.public).decode()}"


class Checkpoint(NamedTuple):
    """Which log, how many entries, the root of the tree over them; `origin` is the name of the key, too."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> bytes:
        """What is signed."""
        return f"{self.origin}\n{self.size}\n{b64encode(self.root).decode()}\n".encode()


class Note(NamedTuple):
    """A checkpoint with its signatures. That they are good, nobody has looked yet."""

    checkpoint: Checkpoint
    signatures: tuple[Signature, ...]
    data: bytes


def leaf_of(line: bytes) -> bytes:
    """The leaf's hash of a line of the log, given with its newline."""
    return leaf_hash(line[:-1])


def dump_note(text: bytes, signatures: Iterable[Signature]) -> bytes:
    lines = [f"{_DASH}{s.key_name} {b64encode(s.key_id + s.data).decode()}\n" for s in signatures]
    return text + b"\n" + "".join(lines).encode()


def parse_note(data: bytes) -> Note:
    """Raises `NotACheckpoint`."""
    if len(data) > NOTE_BYTES_MAX:
        raise NotACheckpoint(f"is over {NOTE_BYTES_MAX} bytes")
    try:
        whole = data.decode()
    except UnicodeDecodeError:
        raise NotACheckpoint("isn't UTF-8") from None
    text, blank, signed = whole.rpartition("\n\n")
    if not blank or not signed.endswith("\n") or any(ord(c) < 0x20 and c != "\n" for c in whole):
        raise NotACheckpoint("isn't a signed note")
    lines = signed[:-1].split("\n")
    if len(lines) > SIGNATURES_MAX:
        raise NotACheckpoint(f"has over {SIGNATURES_MAX} signatures")
    return Note(_checkpoint(f"{text}\n"), tuple(map(_signature, lines)), data)


def parse_verifier_key(text: str) -> VerifierKey:
    """The key of `NAME+ID+KEY`. Raises `NotACheckpoint`."""
    name, _, rest = text.strip().partition("+")
    key_id, _, encoded = rest.partition("+")
    decoded = _from_base64(encoded, "the public key")
    key = VerifierKey(name, decoded[1:])
    if not _is_key_name(name) or decoded[:1] != ED25519 or len(key.public) != PUBLIC_KEY_BYTES:
        raise NotACheckpoint("the public key isn't an Ed25519 key as NAME+ID+KEY")
    if key.key_id.hex() != key_id:
        raise NotACheckpoint("the public key isn't the one that its id was made of")
    return key


def _checkpoint(text: str) -> Checkpoint:
    origin, *rest = text[:-1].split("\n")
    if len(rest) != 2 or not origin:
        raise NotACheckpoint("isn't three lines: origin, size, root")
    size, root = rest
    if not (size.isascii() and size.isdigit()) or (size[0] == "0" and size != "0") or int(size[:20]) > SIZE_MAX:
        raise NotACheckpoint("its size is no number of entries")
    found = Checkpoint(origin, int(size), _from_base64(root, "its root"))
    if len(found.root) != HASH_BYTES:
        raise NotACheckpoint(f"its root isn't {HASH_BYTES} bytes")
    return found


def _signature(line: str) -> Signature:
    name, _, encoded = line.removeprefix(_DASH).partition(" ")
    if not line.startswith(_DASH) or not _is_key_name(name):
        raise NotACheckpoint("has a line for a signature that is none")
    decoded = _from_base64(encoded, "a signature")
    if len(decoded) <= KEY_ID_BYTES:
        raise NotACheckpoint("has a line for a signature that is none")
    return Signature(name, decoded[:KEY_ID_BYTES], decoded[KEY_ID_BYTES:])


def _is_key_name(name: str) -> bool:
    return bool(name) and "+" not in name and not any(c.isspace() for c in name)


def _from_base64(text: str, what: str) -> bytes:
    """Only the one way to write the bytes."""
    try:
        decoded = b64decode(text, validate=True)
    except (BadBase64, ValueError):
        raise NotACheckpoint(f"{what} isn't base64") from None
    if b64encode(decoded).decode() != text:
        raise NotACheckpoint(f"{what} isn't base64")
    return decoded
