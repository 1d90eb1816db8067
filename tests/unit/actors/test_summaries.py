from __future__ import annotations

from cerememory.actors.summaries import summariser
from cerememory.providers.chat import DREAM_TOKENS
from cerememory.providers.contract import Cause, Failure
from tests.support.fake_provider import FakeProvider


async def test_a_provider_summarises_within_the_limit() -> None:
    provider = FakeProvider()
    assert await summariser(provider, DREAM_TOKENS)(["one", "two"]) == "In short: all went well."
    assert provider.asked == [("summarise", (("one", "two"), 300))]


async def test_nobody_and_one_who_cant_give_none() -> None:
    assert await summariser(None, DREAM_TOKENS)(["one"]) is None
    assert await summariser(FakeProvider("embed_text"), DREAM_TOKENS)(["one"]) is None


async def test_a_failure_gives_none() -> None:
    provider = FakeProvider()
    provider.then("summarise", Failure(Cause.BUSY, "status 503"))
    assert await summariser(provider, DREAM_TOKENS)(["one"]) is None


async def test_of_nothing_there_is_no_summary() -> None:
    provider = FakeProvider()
    assert await summariser(provider, DREAM_TOKENS)([]) is None
    assert provider.asked == []
