"""What is taken from a chat model's words, and how much of a text is put to it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerememory.providers import chat
from cerememory.providers.chat import ChatProvider, Prompt, beginning, relations_in, vector_of
from cerememory.providers.contract import RELATION_CHARS_MAX, Cause, Failure, Relation

OWNS = {"subject": "Ada", "predicate": "owns", "object": "a dog", "confidence": 0.9}
ADA_OWNS = Relation(subject="Ada", predicate="owns", object="a dog", confidence=0.9)


def said(*items: Any) -> str:
    return msgspec.json.encode({"relations": items}).decode()


class FakeChat(ChatProvider):
    """Says one thing, and keeps what was put to it."""

    def __init__(self, says: str | Failure) -> None:
        self.says = says
        self.prompts: list[Prompt] = []

    async def complete(self, prompt: Prompt) -> str | Failure:
        self.prompts.append(prompt)
        return self.says


@pytest.mark.parametrize(
    "answer",
    [said(OWNS), f"```json\n{said(OWNS)}\n```", f"Here they are:\n{said(OWNS)}\nAnything else?"],
    ids=["bare", "fenced", "between words"],
)
def test_relations_are_read_wherever_the_json_stands(answer: str) -> None:
    assert relations_in(answer) == (ADA_OWNS,)


def test_no_relations_are_no_failure() -> None:
    assert relations_in(said()) == ()


@pytest.mark.parametrize(
    "answer",
    ["", "none", "[]", "{}", '{"relations": 5}', '{"relations": {}}', '{"relations": [', "}{", '{"a": ' * 5_000],
    ids=repr,
)
def test_what_isnt_a_list_of_relations_is_unreadable(answer: str) -> None:
    outcome = relations_in(answer)
    assert isinstance(outcome, Failure)
    assert outcome.cause is Cause.UNREADABLE


@pytest.mark.parametrize(
    "wrong",
    [
        *[{key: value for key, value in OWNS.items() if key != missing} for missing in OWNS],
        *[{**OWNS, name: value} for name in ("subject", "predicate", "object") for value in ("", " \n", None, 5)],
        {**OWNS, "subject": "x" * (RELATION_CHARS_MAX + 1)},
        *[{**OWNS, "confidence": value} for value in (-0.1, 1.1, "0.9", None, True)],
        "Ada owns a dog",
        None,
        [],
    ],
    ids=repr,
)
def test_an_item_that_is_no_statement_is_left_out(wrong: Any) -> None:
    assert relations_in(said(wrong, OWNS)) == (ADA_OWNS,)


def test_a_repetition_is_left_out_and_so_is_what_goes_over_the_limit() -> None:
    items = [{**OWNS, "object": f"dog {i}"} for i in range(chat.RELATIONS_MAX + 5)]
    relations = relations_in(said(items[0], *items))
    assert isinstance(relations, tuple)
    assert [relation.object for relation in relations] == [f"dog {i}" for i in range(chat.RELATIONS_MAX)]


@given(st.text(), st.integers(0, 64))
def test_the_beginning_is_as_much_as_fits(text: str, size_bytes: int) -> None:
    kept = beginning(text, size_bytes)
    assert text.startswith(kept)
    assert len(kept.encode()) <= size_bytes
    assert kept == text or len((kept + text[len(kept)]).encode()) > size_bytes


@pytest.mark.parametrize(
    "values",
    [[], [float("nan")], [float("inf")], [1e39], [0.1] * (chat.DIMENSIONS_MAX + 1)],
    ids=["none", "nan", "inf", "too large", "too many"],
)
def test_what_is_no_vector_is_unreadable(values: list[float]) -> None:
    outcome = vector_of(values)
    assert isinstance(outcome, Failure)
    assert outcome.cause is Cause.UNREADABLE


def test_a_vector_is_kept_as_it_is() -> None:
    assert vector_of([0.5, -1.0, 0]) == (0.5, -1.0, 0.0)


async def test_all_texts_of_a_summary_are_put_to_the_model_by_their_number() -> None:
    model = FakeChat(" It went well.\n")
    assert await model.summarise(["one", "two"], 300) == "It went well."
    [prompt] = model.prompts
    assert prompt.text == "[1] one\n\n[2] two"
    assert prompt.tokens_max == 300
    assert not prompt.wants_json


@given(st.lists(st.text(min_size=1), min_size=1, max_size=30))
async def test_texts_that_are_long_together_are_cut_each(texts: list[str]) -> None:
    model = FakeChat("well")
    await model.summarise([text * 2_000 for text in texts], 300)
    [prompt] = model.prompts
    assert len(prompt.text.encode()) <= chat.TEXT_BYTES_MAX + 10 * len(texts)
    assert all(f"[{i}] {text[:1]}" in prompt.text for i, text in enumerate(texts, 1))


async def test_relations_are_asked_for_as_json() -> None:
    model = FakeChat(said(OWNS))
    assert await model.extract_relations("x" * 100_000) == (ADA_OWNS,)
    [prompt] = model.prompts
    assert prompt.wants_json
    assert "JSON" in prompt.instructions
    assert prompt.text == "x" * chat.TEXT_BYTES_MAX


@pytest.mark.parametrize("silence", ["", " \n"])
async def test_a_model_that_says_nothing_failed(silence: str) -> None:
    model = FakeChat(silence)
    for outcome in (await model.summarise(["x"], 300), await model.extract_relations("x")):
        assert outcome == Failure(Cause.EMPTY, "the model said nothing")


async def test_a_failure_is_passed_on() -> None:
    failure = Failure(Cause.BUSY, "status 503")
    model = FakeChat(failure)
    assert await model.summarise(["x"], 300) == failure
    assert await model.extract_relations("x") == failure
    assert await model.describe(b"x", "png") == failure


async def test_a_prompt_shows_none_of_a_memory() -> None:
    model = FakeChat("well")
    await model.summarise(["hunter2"], 300)
    await model.describe(b"hunter2", "png")
    assert "hunter2" not in repr(model.prompts)
