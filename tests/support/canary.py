"""A word that stands wherever a client can put one, and looks for it in every byte of a data dir."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tantivy

from cerememory.client import Client
from cerememory.storage.datadir import read_token
from tests.support.daemon import Daemon

CANARY = "zyxquivongabluth"  # nothing that a stemmer would cut
VECTOR = [0.8137729, -0.4561237, 0.3300817]
NAMESPACES = ("default", "work")
INDEXES = ("curated", "raw")
ENV = {
    "CEREMEMORY_DECAY__PRUNE": "archive",
    "CEREMEMORY_DECAY__TIME_UNIT_SECS": "1",
    "CEREMEMORY_RATE_LIMIT__REQUESTS_PER_SECOND": "0",
}
LONG = 2**32 - 1  # seconds in which everything becomes faint


def shapes() -> dict[str, bytes]:
    """Every form in which the canary, or the vector that stands for it, could lie in a file."""
    utf8 = CANARY.encode()
    return {
        "UTF-8": utf8,
        "UTF-16-LE": CANARY.encode("utf-16-le"),
        "UTF-16-BE": CANARY.encode("utf-16-be"),
        "JSON numbers": b",".join(b"%d" % byte for byte in utf8),
        "spaced JSON numbers": b", ".join(b"%d" % byte for byte in utf8),
        **{f"base64 at {i}": base64.b64encode(b"\0" * i + utf8)[4:-4] for i in range(3)},
        "hexadecimal": utf8.hex().encode(),
        "floats": struct.pack("<3f", *VECTOR),
        "a float": struct.pack("<f", VECTOR[0]),
        "JSON floats": b"0.8137729",
    }


def found_in(data_dir: Path) -> set[tuple[str, str]]:
    """Where the canary is, and in which form: files, and fields of the text index."""
    files = [path for path in data_dir.rglob("*") if path.is_file()]
    contents = {str(path.relative_to(data_dir)): path.read_bytes() for path in files}
    found = {(name, form) for name, data in contents.items() for form, shape in shapes().items() if shape in data}
    return found | indexed_in(data_dir)


def parts_with(found: set[tuple[str, str]]) -> set[str]:
    return {name.partition("/")[0] for name, _form in found}


def indexed_in(data_dir: Path) -> set[tuple[str, str]]:
    """The fields with a term that has the canary, be it of deleted documents alone.

    The index's files have terms as automata, in which no scan for bytes finds them.
    """
    found = set()
    for part in INDEXES:
        if not (data_dir / "index" / part).exists():
            continue
        searcher = tantivy.Index.open(str(data_dir / "index" / part)).searcher()
        for field in ("text", "context", "asked", "who", "company", "date"):
            if any(CANARY in term for term, _count in searcher.terms_with_prefix(field, "", limit=100_000)):
                found.add((f"index/{part}", field))
    return found


def content(text: str, **given: Any) -> dict[str, Any]:
    return {"blocks": [{"modality": "text", "format": "text/plain", "text": text, **given}]}


class Clients:
    """One of each namespace."""

    def __init__(self, daemon: Daemon) -> None:
        token = read_token(daemon.data_dir)
        self.of = {name: Client(daemon.url, token, namespace=name) for name in NAMESPACES}

    def __enter__(self) -> Clients:
        return self

    def __exit__(self, *_error: object) -> None:
        for client in self.of.values():
            client.close()


def telling_memories() -> Iterator[dict[str, Any]]:
    """encode.store bodies, each with the canary in another place."""
    other = {"target_id": "0191aaaa-0000-7000-8000-000000000001", "association_type": "causal", "weight": 1.0}
    yield {"content": content(f"the {CANARY} sings")}
    yield {"content": {**content("short"), "summary": f"all about the {CANARY}"}, "store": "semantic"}
    yield {"content": content(f"{CANARY} " * 200), "store": "procedural"}
    yield {"content": content("embedded", embedding=VECTOR), "associations": [other]}
    yield {"content": content("felt"), "emotion": {"joy": 0.5}, "store": "emotional", "metadata": {"note": CANARY}}
    yield {"content": content("meant"), "meta": {"intent": CANARY, "tags": [CANARY], "rationale": CANARY}}
    yield {
        "content": content(f"Where is the {CANARY}?"),
        "context": {"source": CANARY, "session_id": "talk", "spatial": {"room": CANARY}},
    }
    yield {"content": content("alone"), "context": {"session_id": CANARY}}
    blocks = [
        {
            "modality": "structured",
            "format": "application/json",
            "data": list(json.dumps({"word": CANARY}).encode()),
        },
        {"modality": "image", "format": "image/png", "data_b64": _picture()},
    ]
    yield {"content": {"blocks": blocks}}
    yield {"content": content(f"held {CANARY}"), "store": "working"}


def _picture() -> str:
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + CANARY.encode()).decode()


def remember_innocents(client: Client, count: int, size: int = 60) -> list[str]:
    bodies = [{"content": content(f"innocent {i} " + "word " * size)} for i in range(count)]
    results = client.call("encode.batch", {"records": bodies, "infer_associations": True})["results"]
    return [result["record_id"] for result in results]


def remember_canary(client: Client) -> list[str]:
    """The ids of the memories that were told of it."""
    ids = [
        client.call("encode.store", body, idempotency_key=f"{CANARY}-{i}")["record_id"]
        for i, body in enumerate(telling_memories())
    ]
    for version in range(3):
        edit = {"content": content(f"edit {version} of {CANARY}"), "metadata": {"v": f"{CANARY} {version}"}}
        client.call("encode.update", edit, path_params={"record_id": ids[0]})
    client.call("encode.update", {"content": content("innocent by now")}, path_params={"record_id": ids[0]})
    return ids


def remember_neighbours(client: Client) -> list[str]:
    """Innocent turns of the conversation of a canary, which lend their words to each other in the index."""
    texts = ("who is there", "nobody at all")
    bodies = [{"content": content(text), "context": {"session_id": "talk", "source": "Eve"}} for text in texts]
    return [client.call("encode.store", body)["record_id"] for body in bodies]


def record_canary(client: Client) -> list[str]:
    """The ids of the entries that were told of it, in a session that a dream makes a memory of, and in another."""
    records = [
        {"session_id": "dreamt", "topic_id": "kitchen", "content": content(f"raw {CANARY} one")},
        {"session_id": "dreamt", "topic_id": "kitchen", "content": content(f"raw {CANARY} two")},
        {"session_id": CANARY, "turn_id": CANARY, "topic_id": CANARY, "content": content("named by its session")},
        {"session_id": "sealed", "visibility": "sealed", "secrecy_level": "secret", "content": content(CANARY)},
        {
            "session_id": "noted",
            "content": content("noted"),
            "metadata": {"note": CANARY},
            "meta": {"intent": CANARY},
        },
    ]
    results = client.call("encode.batch_raw", {"records": records}, idempotency_key=CANARY)["results"]
    client.call("lifecycle.dream_tick", {"session_id": "dreamt"})
    client.call("lifecycle.consolidate", {"strategy": "full"})
    return [result["record_id"] for result in results]


def archive_canary(client: Client) -> str:
    """A memory that decay takes away, with a history."""
    stored = client.call("encode.store", {"content": content(f"faint {CANARY}", embedding=VECTOR)})
    edit = {"content": content(f"fainter {CANARY}", embedding=VECTOR)}
    client.call("encode.update", edit, path_params={"record_id": stored["record_id"]})
    assert client.call("lifecycle.decay_tick", {"tick_duration_seconds": LONG})["records_pruned"] >= 1
    return str(stored["record_id"])


def told_of(client: Client) -> list[str]:
    """What a recall of the canary finds, with what was made of it by dreams and consolidation."""
    body = {"cue": {"text": CANARY}, "limit": 100, "reconsolidate": True, "recall_mode": "perfect"}
    memories = client.call("recall.query", body)["memories"]
    return [memory["record"]["id"] for memory in memories if CANARY in _texts(memory["record"])]


def _texts(record: dict[str, Any]) -> str:
    blocks = [bytes(block["data"]).decode(errors="replace") for block in record["content"]["blocks"]]
    return json.dumps([record, blocks])
