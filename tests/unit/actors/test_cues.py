"""What becomes of a cue that somebody has to listen to, look at, or understand; and when that fails."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from cerememory.actors.cues import EMBED_TEXT_S, REST_S, Cues
from cerememory.errors import InternalError, ModalityUnsupported, ProviderUnavailable, ValidationFailed
from cerememory.protocol import codec
from cerememory.protocol.requests import RecallCue
from cerememory.providers.contract import Cause, Failure
from tests.support.fake_llm import meaning
from tests.support.fake_provider import FakeProvider

PNG = b"\x89PNG\r\n\x1a\n picture"
WAV = b"RIFF\x00\x00\x00\x00WAVE sound"
BUSY = Failure(Cause.BUSY, "status 503")
REFUSED = Failure(Cause.REFUSED, "status 400 (sk-hunter2)")
PUPPY = tuple(meaning("puppy"))


def cue(**given: Any) -> RecallCue:
    for name in ("image", "audio"):
        if name in given:
            given[name] = list(given[name])
    return codec.parse(codec.dump(given), RecallCue)


def test_without_a_provider_neither_picture_nor_speech_is_supported() -> None:
    for given in ({"image": PNG}, {"audio": WAV}):
        with pytest.raises(ModalityUnsupported, match=r"^cue\.(image|audio): needs an LLM provider"):
            Cues(None).check(cue(**given))


@pytest.mark.parametrize(
    ("ability", "supported", "not_supported"),
    [("embed_image", {"image": PNG}, {"audio": WAV}), ("transcribe", {"audio": WAV}, {"image": PNG})],
)
def test_a_provider_supports_what_it_can(
    ability: str, supported: dict[str, bytes], not_supported: dict[str, bytes]
) -> None:
    cues = Cues(FakeProvider(ability))
    cues.check(cue(**supported))
    with pytest.raises(ModalityUnsupported):
        cues.check(cue(**not_supported))


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"image": b""}, "must not be empty"),
        ({"audio": b""}, "must not be empty"),
        ({"image": WAV}, "not recognised"),
        ({"audio": PNG}, "not recognised"),
    ],
)
def test_an_empty_or_unknown_format_is_refused_with_a_provider_too(given: dict[str, bytes], reason: str) -> None:
    with pytest.raises(ValidationFailed, match=reason):
        Cues(FakeProvider()).check(cue(**given))


def test_a_picture_beside_an_embedding_may_be_anything() -> None:
    Cues(FakeProvider()).check(cue(image=b"?", embedding=[1.0]))


async def test_without_a_provider_a_cue_stays_as_it_is() -> None:
    given = cue(text="the puppy", emotion={"joy": 1.0})
    assert await Cues(None).read(given) is given


async def test_a_text_gets_its_vector() -> None:
    assert await Cues(FakeProvider()).read(cue(text="the puppy")) == cue(text="the puppy", embedding=PUPPY)


async def test_a_text_beside_an_embedding_isnt_asked_for() -> None:
    provider, given = FakeProvider(), cue(text="the puppy", embedding=[1.0])
    assert await Cues(provider).read(given) == given
    assert provider.asked == []


async def test_a_cue_without_text_isnt_asked_for() -> None:
    provider, given = FakeProvider(), cue(emotion={"joy": 1.0})
    assert await Cues(provider).read(given) == given
    assert provider.asked == []


@pytest.mark.parametrize("failure", [BUSY, REFUSED])
async def test_a_text_whose_vector_fails_is_a_text_alone_and_for_a_while_none_is_asked_for(
    failure: Failure, autojump_clock: MockClock
) -> None:
    provider, given = FakeProvider(), cue(text="the puppy")
    provider.then("embed_text", failure)
    cues = Cues(provider)
    assert await cues.read(given) == given
    assert await cues.read(given) == given
    assert len(provider.asked) == 1
    await trio.sleep(REST_S)
    assert (await cues.read(given)).embedding == PUPPY


async def test_a_text_waits_for_its_vector_for_a_moment_only(autojump_clock: MockClock) -> None:
    cues, given = Cues(FakeProvider(takes_s=60.0)), cue(text="the puppy")
    started = trio.current_time()
    assert await cues.read(given) == given
    assert trio.current_time() - started == pytest.approx(EMBED_TEXT_S)
    assert await cues.read(given) == given
    assert trio.current_time() - started == pytest.approx(EMBED_TEXT_S)


async def test_the_callers_own_deadline_is_not_taken_for_the_providers(autojump_clock: MockClock) -> None:
    provider = FakeProvider(takes_s=1.0)
    cues, given = Cues(provider), cue(text="the puppy")
    with trio.move_on_after(0.5) as scope:
        await cues.read(given)
    assert scope.cancelled_caught
    assert (await cues.read(given)).embedding == PUPPY


async def test_a_picture_becomes_a_vector() -> None:
    provider = FakeProvider()
    assert await Cues(provider).read(cue(image=PNG, text="tea")) == cue(text="tea", embedding=PUPPY)
    assert provider.asked == [("embed_image", (PNG, "png"))]


async def test_a_picture_beside_an_embedding_isnt_looked_at() -> None:
    provider, given = FakeProvider(), cue(image=PNG, embedding=[1.0])
    assert await Cues(provider).read(given) == given
    assert provider.asked == []


@pytest.mark.parametrize(
    ("given", "text"), [({}, "where is the puppy"), ({"text": "tell me"}, "tell me where is the puppy")]
)
async def test_speech_is_added_to_the_text_and_understood_with_it(given: dict[str, Any], text: str) -> None:
    provider = FakeProvider()
    assert await Cues(provider).read(cue(audio=WAV, **given)) == cue(text=text, embedding=PUPPY)
    assert provider.asked == [("transcribe", (WAV, "wav")), ("embed_text", text)]


async def test_silence_alone_is_no_cue() -> None:
    provider = FakeProvider()
    provider.then("transcribe", "", "")
    with pytest.raises(ValidationFailed, match=r"^cue\.audio: nothing is said"):
        await Cues(provider).read(cue(audio=WAV))
    heard = await Cues(provider).read(cue(audio=WAV, emotion={"joy": 1.0}))
    assert heard == cue(emotion={"joy": 1.0})


PARTS = [("embed_image", {"image": PNG}), ("transcribe", {"audio": WAV})]


@pytest.mark.parametrize(("ability", "part"), PARTS)
async def test_a_part_that_fails_is_left_out_when_there_is_another(ability: str, part: dict[str, Any]) -> None:
    provider = FakeProvider()
    provider.then(ability, BUSY, REFUSED)
    for _ in range(2):
        assert (await Cues(provider).read(cue(text="tea", **part))).text == "tea"


@pytest.mark.parametrize(("ability", "part"), PARTS)
async def test_alone_it_fails_the_recall(ability: str, part: dict[str, Any]) -> None:
    provider = FakeProvider()
    provider.then(ability, BUSY, REFUSED)
    with pytest.raises(ProviderUnavailable, match=r"^cue\.(image|audio): the LLM provider gives no answer$"):
        await Cues(provider).read(cue(**part))
    with pytest.raises(InternalError, match="status 400"):
        await Cues(provider).read(cue(**part))
