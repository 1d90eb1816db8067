"""Clients that write to the daemon under `torture`, and keep what it acknowledged, to be looked for afterwards."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cerememory.client import Client
from cerememory.errors import CerememoryError, Overloaded
from cerememory.protocol import codec
from cerememory.protocol.records import MemoryContent
from cerememory.protocol.values import parse_id
from cerememory.storage.contract import Reader
from cerememory.storage.keys import DEFAULT_NAMESPACE, Table, key
from cerememory.storage.rows import parse_content_row, parse_raw_row

THREADS = 4
BATCH = 5
ANSWER_LIMIT_S = 60.0
REFUSED_PAUSE_S = 0.01
SESSION = "cerememory-torture"


class Acknowledged:
    """What all rounds were told is stored; safe to use from any thread.

    `memories` have the words of which one is a memory's text: two while an update is under way. `unsure` are those
    that a request under way may have deleted, `gone` those that were.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.memories: dict[str, set[str]] = {}
        self.entries: dict[str, str] = {}
        self.gone: set[str] = set()
        self.unsure: set[str] = set()
        self.surprises: list[str] = []  # answers that nobody should get
        self.writes = 0
        self.refused = 0
        self._words = 0

    def word(self) -> str:
        with self.changed:
            self._words += 1
            return f"tortured{self._words}"

    def note_memories(self, found: dict[str, set[str]]) -> None:
        with self.changed:
            self.memories.update(found)
            self._note()

    def note_entry(self, record_id: str, word: str) -> None:
        with self.changed:
            self.entries[record_id] = word
            self._note()

    def note_gone(self, record_id: str) -> None:
        with self.changed:
            self.unsure.discard(record_id)
            self.gone.add(record_id)
            self._note()

    def begin_update(self, record_id: str, words: set[str]) -> None:
        with self.changed:
            self.memories[record_id] = words

    def begin_forget(self, record_id: str) -> None:
        with self.changed:
            del self.memories[record_id]
            self.unsure.add(record_id)

    def note_refused(self) -> None:
        with self.changed:
            self.refused += 1
            self.changed.notify_all()

    def _note(self) -> None:
        self.writes += 1
        self.changed.notify_all()

    def wait_for_writes(self, count: int, limit_s: float) -> bool:
        """Until there are so many in all; whether there are."""
        with self.changed:
            return self.changed.wait_for(lambda: self.writes >= count, limit_s)

    def wait_for_refused(self, count: int, limit_s: float) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: self.refused >= count, limit_s)

    def lost(self, reader: Reader) -> Iterator[str]:
        """What of it isn't as it was acknowledged."""
        for record_id, words in self.memories.items():
            text = _text(reader, Table.CONTENT, record_id)
            if text not in words:
                yield f"memory {record_id} is {_shown(text)}, acknowledged as {' or '.join(sorted(words))}"
        for record_id, word in self.entries.items():
            text = _text(reader, Table.RAW, record_id)
            if text != word:
                yield f"raw entry {record_id} is {_shown(text)}, acknowledged as {word}"
        for record_id in self.gone:
            if _text(reader, Table.CONTENT, record_id) is not None:
                yield f"memory {record_id} is back, which was forgotten"
        yield from self.surprises


def _shown(text: str | None) -> str:
    return "missing" if text is None else repr(text)


def _text(reader: Reader, table: Table, record_id: str) -> str | None:
    value = reader.get(key(DEFAULT_NAMESPACE, table, parse_id(record_id)))
    if value is None:
        return None
    row = parse_content_row(value) if table is Table.CONTENT else parse_raw_row(value)
    return bytes(codec.parse(row.content, MemoryContent).blocks[0].data).decode(errors="replace")


@contextmanager
def clients(url: str, acknowledged: Acknowledged, seed: int) -> Iterator[None]:
    """Clients that write as fast as they are answered, until the block ends and their requests have."""
    over = threading.Event()
    threads = [
        threading.Thread(target=_Client(url, acknowledged, random.Random(f"{seed} {n}"), over).run)
        for n in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


class _Client:
    def __init__(self, url: str, acknowledged: Acknowledged, rng: random.Random, over: threading.Event) -> None:
        self._client = Client(url, timeout_s=ANSWER_LIMIT_S, retry_for_s=0.0)
        self._acknowledged = acknowledged
        self._rng = rng
        self._over = over
        self._own: list[str] = []  # memories that nobody else changes

    def run(self) -> None:
        does = (self._store, self._store, self._batch, self._raw, self._update, self._forget)
        with self._client:
            while not self._over.is_set():
                try:
                    self._rng.choice(does)()
                except Overloaded:  # it is dead, or its disk full
                    self._acknowledged.note_refused()
                    self._over.wait(REFUSED_PAUSE_S)
                except CerememoryError as error:
                    self._acknowledged.surprises.append(f"{type(error).__name__} for an answer: {error}")
                    return

    def _store(self) -> None:
        word = self._acknowledged.word()
        stored = self._client.call("encode.store", _content(word))
        self._acknowledged.note_memories({stored["record_id"]: {word}})
        self._own.append(stored["record_id"])

    def _batch(self) -> None:
        words = [self._acknowledged.word() for _ in range(BATCH)]
        stored = self._client.call("encode.batch", {"records": [_content(word) for word in words]})
        self._acknowledged.note_memories(
            {result["record_id"]: {word} for result, word in zip(stored["results"], words, strict=True)}
        )

    def _raw(self) -> None:
        word = self._acknowledged.word()
        stored = self._client.call("encode.store_raw", {"session_id": SESSION, **_content(word)})
        self._acknowledged.note_entry(stored["record_id"], word)

    def _update(self) -> None:
        if not self._own:
            return
        record_id, word = self._rng.choice(self._own), self._acknowledged.word()
        before = self._acknowledged.memories[record_id]
        self._acknowledged.begin_update(record_id, {*before, word})
        self._client.call("encode.update", _content(word), path_params={"record_id": record_id})
        self._acknowledged.note_memories({record_id: {word}})

    def _forget(self) -> None:
        if not self._own:
            return
        record_id = self._own.pop(self._rng.randrange(len(self._own)))
        self._acknowledged.begin_forget(record_id)
        self._client.call("lifecycle.forget", {"record_ids": [record_id], "confirm": True})
        self._acknowledged.note_gone(record_id)


def _content(word: str) -> dict[str, Any]:
    return {"content": {"blocks": [{"modality": "text", "format": "plain", "text": word}]}}
