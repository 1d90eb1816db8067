"""Summaries by a provider, as dream and consolidate ask for them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from cerememory.providers.contract import Failure, Provider

Summarise = Callable[[Sequence[str]], Awaitable[str | None]]


def summariser(provider: Provider | None, tokens_max: int) -> Summarise:
    """A function of texts to one paragraph of at most `tokens_max` tokens (`chat.DREAM_TOKENS`,
    `chat.CONSOLIDATE_TOKENS`); None when there is no provider, it can't, or it gave nothing: then whoever asks
    makes a summary of its own.
    """
    ask = None if provider is None else provider.summarise

    async def summarise(texts: Sequence[str]) -> str | None:
        if ask is None or not texts:
            return None
        outcome = await ask(texts, tokens_max)
        return None if isinstance(outcome, Failure) else outcome

    return summarise
