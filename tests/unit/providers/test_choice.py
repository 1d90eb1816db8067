"""Which provider the settings make, where it asks, and that it leaves no connection behind."""

from __future__ import annotations

import pytest

from cerememory.config.settings import LlmSettings, Secret
from cerememory.providers import choice
from tests.support.fake_llm import KEY, fake_llm


@pytest.mark.parametrize("name", ["none", "local"])
async def test_by_default_there_is_none(name: str) -> None:
    async with choice.opened(LlmSettings(provider=name)) as provider:  # type: ignore[arg-type]
        assert provider is None


@pytest.mark.parametrize("name", ["openai", "claude", "gemini"])
async def test_the_services_are_asked_by_https_at_their_own_address(name: str) -> None:
    settings = LlmSettings(provider=name, api_key=Secret(KEY))  # type: ignore[arg-type]
    async with choice.opened(settings) as provider:
        assert provider is not None
        assert provider.name == name


@pytest.mark.parametrize(
    ("prefix", "root"),
    [
        ("", "/v1"),
        ("/v1", "/v1"),
        ("/anthropic", "/anthropic/v1"),
        ("/api/v1", "/api/v1"),
        ("/v1beta/openai", "/v1beta/openai"),
        ("/api/paas/v4", "/api/paas/v4"),
        ("/openai-v2/x", "/openai-v2/x/v1"),
        ("/vendor", "/vendor/v1"),
    ],
)
def test_an_address_may_name_the_version_or_leave_it_out(prefix: str, root: str) -> None:
    assert choice.root_of(prefix, "v1") == root


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/"])
async def test_the_base_url_takes_the_place_of_the_services_own(path: str) -> None:
    async with fake_llm() as llm:
        settings = LlmSettings(provider="claude", api_key=Secret(KEY), base_url=llm.url + path)
        async with choice.opened(settings) as provider:
            assert provider is not None
            assert provider.summarise is not None
            assert await provider.summarise(["x"], 200) == llm.says.summary
            assert llm.open_connections == 1
        await llm.until(lambda llm: llm.open_connections == 0)


async def test_a_provider_doesnt_show_its_key() -> None:
    settings = LlmSettings(provider="openai", api_key=Secret(KEY))
    async with choice.opened(settings) as provider:
        assert KEY not in repr(provider)
        assert KEY not in repr(vars(provider))
