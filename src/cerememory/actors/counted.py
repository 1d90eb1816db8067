"""A provider as the actors ask it: each request is counted, and each failure is in the log."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

import structlog
import trio

from cerememory.providers.contract import (
    EmbedImage,
    EmbedText,
    ExtractRelations,
    Failure,
    Provider,
    Summarise,
    Transcribe,
)
from cerememory.telemetry.metrics import Metrics

P = ParamSpec("P")
R = TypeVar("R")

log = structlog.get_logger(__name__)


class CountedProvider:
    """`provider`, with the same abilities."""

    def __init__(self, provider: Provider, metrics: Metrics) -> None:
        self._metrics = metrics
        self.name = provider.name
        self.embed_text: EmbedText | None = self._counted("embed_text", provider.embed_text)
        self.embed_image: EmbedImage | None = self._counted("embed_image", provider.embed_image)
        self.transcribe: Transcribe | None = self._counted("transcribe", provider.transcribe)
        self.summarise: Summarise | None = self._counted("summarise", provider.summarise)
        self.extract_relations: ExtractRelations | None = self._counted(
            "extract_relations", provider.extract_relations
        )

    def _counted(self, ability: str, ask: Callable[P, Awaitable[R]] | None) -> Callable[P, Awaitable[R]] | None:
        if ask is None:
            return None

        async def counted(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                outcome = await ask(*args, **kwargs)
            except trio.Cancelled:  # whoever asked won't wait any longer
                self._metrics.llm_requests.labels(ability, "cancelled").inc()
                raise
            self._note(ability, outcome)
            return outcome

        return counted

    def _note(self, ability: str, outcome: object) -> None:
        label = outcome.cause.value if isinstance(outcome, Failure) else "ok"
        self._metrics.llm_requests.labels(ability, label).inc()
        if isinstance(outcome, Failure):
            log.warning(
                "llm request failed", provider=self.name, ability=ability, cause=label, reason=outcome.reason
            )
