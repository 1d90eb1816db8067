"""Recall in conversations: each signal finds what the words of a memory alone don't, and an answer says which did.

The conversations are those of examples/: each turn a memory, with its session, its speaker and its date.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from examples.load_conversation import record

from cerememory.protocol import codec
from cerememory.protocol.replies import Explanation, RecalledMemory
from cerememory.protocol.requests import EncodeBatch, Forget
from cerememory.protocol.values import RecordId
from tests.support.engine import Running, running_engine, to_recall, to_store

EXAMPLES = Path(__file__).parents[3] / "examples"
CONVERSATIONS = json.loads((EXAMPLES / "conversation.json").read_text(encoding="utf-8"))
FIELDS = tuple(Explanation.__struct_fields__)


def bodies(without: str | None = None) -> list[dict[str, Any]]:
    """Every turn as it is loaded, but for one part of its context."""
    made = [record(conversation["id"], turn) for conversation in CONVERSATIONS for turn in conversation["turns"]]
    for body in made:
        body["context"].pop(without, None)
    return made


@asynccontextmanager
async def remembering(path: Path, records: list[dict[str, Any]]) -> AsyncIterator[Running]:
    async with running_engine(path) as running:
        await running.engine.encode_batch(codec.parse(codec.dump({"records": records}), EncodeBatch))
        yield running


async def recall(running: Running, text: str, **given: Any) -> list[RecalledMemory]:
    request = to_recall(text, explain=True, reconsolidate=False, **given)
    return list((await running.engine.recall_query(request)).memories)


def parsed(memory: RecalledMemory) -> dict[str, Any]:
    return codec.parse(bytes(memory.record), dict[str, Any])


def text_of(memory: RecalledMemory) -> str:
    return bytes(parsed(memory)["content"]["blocks"][0]["data"]).decode()


def explanation(memory: RecalledMemory) -> Explanation:
    assert isinstance(memory.explanation, Explanation)
    return memory.explanation


def parts(memory: RecalledMemory) -> dict[str, float]:
    return {name: getattr(explanation(memory), name) for name in FIELDS}


PATCHED = "Sanded and patched; the varnish comes next weekend."
OCTOPUS = "Long, and the octopus in the harbour tavern was worth every hour."
RESPIRATOR = "I can lend you my respirator for the fumes."


@pytest.mark.parametrize(
    ("question", "answer", "signal", "source"),
    [
        ("How is the restoring of the wooden one going?", PATCHED, "context", "session_id"),
        ("How was the journey?", OCTOPUS, "asked", "session_id"),
        ("What does Tom do against the weekend's varnish?", RESPIRATOR, "who", "source"),
        ("What happened in November 2025?", OCTOPUS, "when", "temporal"),
    ],
)
async def test_each_signal_raises_the_answer_and_without_its_source_it_is_silent(
    tmp_path: Path, question: str, answer: str, signal: str, source: str
) -> None:
    async with remembering(tmp_path / "with", bodies()) as running:
        found = {text_of(memory): parts(memory)[signal] for memory in await recall(running, question, limit=20)}
    place = [*found].index(answer)
    assert place < 3
    assert found[answer] > 0.0
    async with remembering(tmp_path / "without", bodies(source)) as running:
        others = {text_of(memory): parts(memory)[signal] for memory in await recall(running, question, limit=20)}
    assert answer not in others or (others[answer] == 0.0 and [*others].index(answer) > place)


async def test_a_name_keeps_to_the_conversation_of_the_one_who_is_named(tmp_path: Path) -> None:
    async with remembering(tmp_path, bodies()) as running:
        first = (await recall(running, "Did Ines speak of the weekend, the spring or the autumn?"))[0]
        with_nobody = (await recall(running, "who spoke of the weekend, the spring or the autumn?"))[:4]
    assert parsed(first)["metadata"]["_context"]["session_id"].startswith("2-")
    sessions = {parsed(memory)["metadata"]["_context"]["session_id"][0] for memory in with_nobody}
    assert sessions == {"1", "2"}


async def test_an_explanation_has_a_part_for_each_signal_and_they_sum_to_the_relevance(tmp_path: Path) -> None:
    feeling = {"joy": 1.0}
    records = [
        {
            **body,
            "emotion": feeling,
            "content": {"blocks": [{**body["content"]["blocks"][0], "embedding": [1.0, i]}]},
        }
        for i, body in enumerate(bodies())
    ]
    async with remembering(tmp_path, records) as running:
        cue = {"embedding": [1.0, 3.0], "emotion": feeling}
        found = await recall(running, "What did Nadia say of the canoe in March 2025?", cue=cue, limit=20)
    assert len(found) == len(records)
    for memory in found:
        assert sum(parts(memory).values()) == pytest.approx(memory.relevance_score, abs=1e-9)
        assert min(parts(memory).values()) >= 0.0
    silent = {name for name, part in parts(found[0]).items() if part == 0.0}
    assert silent == {"activation", "asked"}


async def test_activation_has_its_part_too(tmp_path: Path) -> None:
    async with running_engine(tmp_path) as running:
        linked = (await running.engine.encode_store(to_store("of copper"))).reply.record_id
        edge = {"target_id": codec.parse(codec.dump(linked), str), "association_type": "causal", "weight": 1.0}
        await running.engine.encode_store(to_store("a kettle", associations=[edge]))
        kettle, copper = await recall(running, "kettle")
    assert (parts(kettle)["activation"], parts(copper)["text"]) == (0.0, 0.0)
    assert parts(copper)["activation"] > 0.0
    for memory in (kettle, copper):
        assert sum(parts(memory).values()) == pytest.approx(memory.relevance_score, abs=1e-9)


@pytest.mark.parametrize("text", [None, "kettle"])
@pytest.mark.parametrize("temporal", [None, {"start": "2000-01-01T00:00:00Z", "end": "2100-01-01T00:00:00Z"}])
async def test_fidelity_has_its_part_whatever_the_cue(tmp_path: Path, text: str | None, temporal: Any) -> None:
    async with running_engine(tmp_path) as running:
        await running.engine.encode_store(to_store("kettle"))
        request = to_recall(text, cue={"temporal": temporal}, explain=True)
        [memory] = (await running.engine.recall_query(request)).memories
    assert parts(memory)["fidelity"] > 0
    assert sum(parts(memory).values()) == pytest.approx(memory.relevance_score, abs=1e-9)


async def test_without_being_asked_nothing_is_explained(tmp_path: Path) -> None:
    async with running_engine(tmp_path) as running:
        await running.engine.encode_store(to_store("kettle"))
        answer = await running.engine.recall_query(to_recall("kettle"))
    assert b"explanation" not in codec.dump(answer)


async def turns(running: Running, *texts: str) -> list[RecordId]:
    """One after the other, in one session."""
    context = {"session_id": "s"}
    stored = [await running.engine.encode_store(to_store(text, context=context)) for text in texts]
    return [each.reply.record_id for each in stored]


async def test_a_turn_is_found_at_once_and_lends_its_words_to_those_before_it(tmp_path: Path) -> None:
    async with running_engine(tmp_path) as running:
        await turns(running, "first", "second", "third")
        assert [text_of(memory) for memory in await recall(running, "third")] == ["third", "second", "first"]
        await turns(running, "fourth")
        assert {text_of(memory) for memory in await recall(running, "fourth")} == {"second", "third", "fourth"}


async def test_forgotten_words_leave_the_neighbours_too(tmp_path: Path) -> None:
    async with running_engine(tmp_path) as running:
        ids = await turns(running, "first", "what is the password?", "it is a secret", "fourth")
        assert len(await recall(running, "password")) == 4
        request = Forget(record_ids=(ids[1],), confirm=True)
        await running.engine.lifecycle_forget(request)
        assert await recall(running, "password") == []
        assert text_of((await recall(running, "secret"))[0]) == "it is a secret"
