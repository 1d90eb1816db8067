"""The provider that the settings name, with its connections."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cerememory.config.settings import LlmSettings
from cerememory.protocol.base_url import parse_base_url
from cerememory.providers import claude, gemini, openai
from cerememory.providers.api import Api
from cerememory.providers.contract import Provider
from cerememory.providers.transport import HttpTransport, Transport

_VERSION = re.compile(r"/v\d+[a-z0-9]*(?=/|$)")
_SERVICES = {"openai": openai, "claude": claude, "gemini": gemini}


@asynccontextmanager
async def opened(settings: LlmSettings) -> AsyncIterator[Provider | None]:
    """The provider of checked settings, None when there is none; leaving closes its connections."""
    if settings.provider not in _SERVICES:
        yield None
        return
    service = _SERVICES[settings.provider]
    base = parse_base_url(settings.base_url or service.BASE_URL)
    transport = HttpTransport(base)
    try:
        yield made(settings, transport, root_of(base.prefix, service.VERSION))
    finally:
        await transport.aclose()


def made(settings: LlmSettings, transport: Transport, root: str) -> Provider:
    """The provider that `settings` name, at the path `root` behind `transport`."""
    key = settings.api_key or ""
    match settings.provider:
        case "openai":
            api = Api(transport, root, {"Authorization": f"Bearer {key}"})
            return openai.OpenAi(api, settings.model, is_compatible=settings.base_url is not None)
        case "claude":
            headers = {"x-api-key": key, "anthropic-version": claude.API_VERSION}
            return claude.Claude(Api(transport, root, headers), settings.model)
        case _:
            return gemini.Gemini(Api(transport, root, {"x-goog-api-key": key}), settings.model)


def root_of(prefix: str, version: str) -> str:
    """The path of an API whose address has the path `prefix`: with `version`, unless one stands in it."""
    return prefix if _VERSION.search(prefix) else f"{prefix}/{version}"
