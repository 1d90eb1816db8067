"""The three services, each asked over a socket by its own API: what goes out, and what of the answer is taken."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

import pytest
import trio

from cerememory.config.settings import LlmSettings, Secret
from cerememory.providers import choice
from cerememory.providers.contract import Cause, Failure, Provider, Relation
from tests.support.fake_llm import KEY, RELATION, WAIT_S, FakeLlm, fake_llm, form_of, image_of, meaning, status
from tests.support.scripted import ScriptedTransport, answered

Name = Literal["openai", "claude", "gemini"]
NAMES: tuple[Name, ...] = ("openai", "claude", "gemini")
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 700  # more than a piece
WAV = b"RIFF\x00\x00\x00\x00WAVE" + bytes(range(256)) * 700
ABILITIES = ("embed_text", "embed_image", "transcribe", "summarise", "extract_relations")
CAN = {
    "openai": set(ABILITIES),
    "claude": {"summarise", "extract_relations"},
    "gemini": {"embed_text", "embed_image", "summarise", "extract_relations"},
}


@asynccontextmanager
async def asked(name: Name, model: str | None = None) -> AsyncIterator[tuple[Provider, FakeLlm]]:
    async with fake_llm() as llm:
        settings = LlmSettings(provider=name, api_key=Secret(KEY), model=model, base_url=llm.url)
        async with choice.opened(settings) as provider:
            assert provider is not None
            with trio.fail_after(WAIT_S):
                yield provider, llm


@pytest.mark.parametrize("name", NAMES)
async def test_a_provider_says_what_it_can(name: Name) -> None:
    async with asked(name) as (provider, _llm):
        assert provider.name == name
        assert {ability for ability in ABILITIES if getattr(provider, ability) is not None} == CAN[name]


@pytest.mark.parametrize("name", ["openai", "gemini"])
async def test_a_text_gets_its_vector(name: Name) -> None:
    async with asked(name) as (provider, llm):
        assert provider.embed_text is not None
        assert await provider.embed_text("the kettle is boiling") == tuple(meaning("kettle boiling"))
        assert len(llm.requests) == 1


@pytest.mark.parametrize("name", ["openai", "gemini"])
async def test_of_a_long_text_the_beginning_is_embedded(name: Name) -> None:
    """A token has a byte at least: what is sent never has more than models take."""
    async with asked(name) as (provider, llm):
        assert provider.embed_text is not None
        await provider.embed_text("東京" * 10_000)
        assert 7_990 < llm.requests[0].body.decode().count("東京") * 6 <= 8_000


@pytest.mark.parametrize("name", ["openai", "gemini"])
async def test_a_picture_gets_the_vector_of_its_description(name: Name) -> None:
    async with asked(name) as (provider, llm):
        assert provider.embed_image is not None
        assert await provider.embed_image(PNG, "png") == tuple(meaning(llm.says.description))
        described, _embedded = llm.requests
        assert picture_in(name, described.json) == ("image/png", PNG)


def picture_in(name: Name, body: Any) -> tuple[str, bytes]:
    if name == "openai":
        url = body["messages"][1]["content"][1]["image_url"]["url"]
        return url.removeprefix("data:").partition(";")[0], image_of(url)
    inline = body["contents"][0]["parts"][1]["inlineData"]
    return inline["mimeType"], image_of(f"data:image/png;base64,{inline['data']}")


@pytest.mark.parametrize("name", ["openai", "gemini"])
async def test_a_picture_that_isnt_described_isnt_embedded(name: Name) -> None:
    async with asked(name) as (provider, llm):
        assert provider.embed_image is not None
        llm.then(status(400))
        assert await provider.embed_image(PNG, "png") == Failure(Cause.REFUSED, "status 400")
        assert len(llm.requests) == 1


async def test_what_is_said_is_transcribed() -> None:
    async with asked("openai") as (provider, llm):
        assert provider.transcribe is not None
        assert await provider.transcribe(WAV, "wav") == llm.says.transcript
        [request] = llm.requests
        assert form_of(request)["file"] == WAV
        assert b'filename="cue.wav"\r\nContent-Type: audio/wav' in request.body


async def test_silence_is_transcribed_as_nothing() -> None:
    async with asked("openai") as (provider, llm):
        assert provider.transcribe is not None
        llm.says.transcript = " \n"
        assert await provider.transcribe(WAV, "mp3") == ""
        assert b"Content-Type: audio/mpeg\r\n" in llm.requests[0].body


@pytest.mark.parametrize("name", NAMES)
async def test_memories_are_summarised(name: Name) -> None:
    async with asked(name) as (provider, llm):
        assert provider.summarise is not None
        assert await provider.summarise(["first thing", "second thing"], 200) == llm.says.summary
        [request] = llm.requests
        assert "[1] first thing" in request.body.decode()
        assert limit_in(name, request.json) == 200


def limit_in(name: Name, body: Any) -> int:
    limit: int = body["generationConfig"]["maxOutputTokens"] if name == "gemini" else body["max_tokens"]
    return limit


@pytest.mark.parametrize("name", NAMES)
async def test_relations_are_found_and_checked(name: Name) -> None:
    async with asked(name) as (provider, llm):
        assert provider.extract_relations is not None
        llm.says.relations = [RELATION, {"subject": "nothing else"}]
        ada = Relation(subject="Ada", predicate="owns", object="a dog", confidence=0.9)
        assert await provider.extract_relations("Ada has a dog") == (ada,)
        llm.says.relations = "none"
        outcome = await provider.extract_relations("Ada has a dog")
        assert isinstance(outcome, Failure)
        assert outcome.cause is Cause.UNREADABLE


DEFAULT_MODELS = {
    "openai": "gpt-4o",
    "claude": "claude-sonnet-4-20250514",
    "gemini": "gemini-2.0-flash",
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("given", [None, "a-model"])
async def test_the_given_model_takes_the_place_of_the_default(name: Name, given: str | None) -> None:
    async with asked(name, given) as (provider, llm):
        assert provider.summarise is not None
        await provider.summarise(["x"], 200)
        [request] = llm.requests
        model = given or DEFAULT_MODELS[name]
        if name == "gemini":
            assert request.path == f"/v1beta/models/{model}:generateContent"
        else:
            assert request.json["model"] == model


async def test_a_model_name_stays_in_its_place_in_the_path() -> None:
    async with asked("gemini", "../files?key=") as (provider, llm):
        assert provider.summarise is not None
        await provider.summarise(["x"], 200)
        assert llm.requests[0].path == "/v1beta/models/..%2Ffiles%3Fkey%3D:generateContent"


@pytest.mark.parametrize(("base_url", "name"), [(None, "max_completion_tokens"), ("http://x", "max_tokens")])
async def test_other_servers_of_openais_api_get_the_older_name_of_the_limit(
    base_url: str | None, name: str
) -> None:
    transport = ScriptedTransport(answered(200, {"choices": [{"message": {"content": "well"}}]}))
    provider = choice.made(
        LlmSettings(provider="openai", api_key=Secret(KEY), base_url=base_url), transport, "/v1"
    )
    assert provider.summarise is not None
    assert await provider.summarise(["x"], 200) == "well"
    assert f'"{name}":200'.encode() in b"".join(transport.requests[0].body.pieces())


NO_TEXT: dict[str, list[Any]] = {
    "openai": [{"choices": []}, {"choices": [{"message": {"content": None, "refusal": "no"}}]}],
    "claude": [{"content": []}, {"content": [{"type": "tool_use", "id": "x"}]}],
    "gemini": [
        {"promptFeedback": {"blockReason": "SAFETY"}},
        {"candidates": []},
        {"candidates": [{"finishReason": "SAFETY"}]},
        {"candidates": [{"content": {"role": "model"}, "finishReason": "MAX_TOKENS"}]},
    ],
}


@pytest.mark.parametrize(("name", "said"), [(name, said) for name in NAMES for said in NO_TEXT[name]], ids=str)
async def test_an_answer_without_text_is_empty(name: Name, said: Any) -> None:
    async with asked(name) as (provider, llm):
        assert provider.summarise is not None
        llm.then(status(200, said))
        outcome = await provider.summarise(["x"], 200)
        assert outcome == Failure(Cause.EMPTY, "the answer has no text")


async def test_what_claude_thought_is_no_part_of_what_it_said() -> None:
    async with asked("claude") as (provider, llm):
        assert provider.summarise is not None
        blocks = [
            {"type": "thinking", "thinking": "hm"},
            {"type": "text", "text": "It"},
            {"type": "text", "text": "!"},
        ]
        llm.then(status(200, {"content": blocks}))
        assert await provider.summarise(["x"], 200) == "It!"


@pytest.mark.parametrize("name", ["openai", "gemini"])
@pytest.mark.parametrize(
    "said",
    [{}, [], {"data": []}, {"data": [{"embedding": []}]}, {"embedding": {"values": []}}, {"embedding": [1.0]}],
    ids=str,
)
async def test_an_answer_without_a_vector_is_unreadable(name: Name, said: Any) -> None:
    async with asked(name) as (provider, llm):
        assert provider.embed_text is not None
        llm.then(status(200, said))
        outcome = await provider.embed_text("x")
        assert isinstance(outcome, Failure)
        assert outcome.cause is Cause.UNREADABLE


@pytest.mark.parametrize("name", NAMES)
async def test_a_busy_service_is_asked_again(name: Name, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cerememory.providers.api.PAUSES_S", (0.0, 0.0, 0.0))
    async with asked(name) as (provider, llm):
        assert provider.summarise is not None
        llm.then(status(429), status(503, {"error": {"type": "overloaded_error"}}))
        assert await provider.summarise(["x"], 200) == llm.says.summary
        assert len(llm.requests) == 3
        assert len({request.body for request in llm.requests}) == 1
