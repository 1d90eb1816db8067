"""What a start says about the LLM provider: its key, its address, and the one that isn't built."""

from __future__ import annotations

import pytest

from cerememory.config.checks import NOT_BUILT, NOT_YET, check
from cerememory.config.sources import load
from cerememory.errors import ConfigInvalid


def refusals(**llm: object) -> list[str]:
    loaded = load(None, {}, {f"llm.{name}": value for name, value in llm.items()})
    try:
        check(loaded.settings, True, loaded.origins)
    except ConfigInvalid as refused:
        return str(refused).splitlines()
    return []


@pytest.mark.parametrize("provider", ["none", "openai", "claude", "gemini"])
def test_a_provider_with_all_its_keys_may_start(provider: str) -> None:
    assert refusals(provider=provider, api_key="sk-1", model="m", base_url="https://llm.example/v1") == []
    assert [name for name in NOT_BUILT if name.startswith("llm.")] == []


def test_the_local_one_isnt_built() -> None:
    assert refusals(provider="local") == [f"llm.provider: {NOT_YET} (command line)"]


@pytest.mark.parametrize("api_key", ["sk hunter2", "hunter2\n", "hünter2", "hunter2\x00"])
def test_a_key_that_no_header_carries_is_refused_and_not_shown(api_key: str) -> None:
    lines = refusals(provider="openai", api_key=api_key)
    assert lines == ["llm.api_key: must be visible ASCII characters, without spaces (command line)"]


@pytest.mark.parametrize(
    "base_url", ["llm.example", "ftp://llm.example", "https://u:hunter2@llm.example", "http://"]
)
def test_an_address_that_cant_be_meant_is_refused(base_url: str) -> None:
    (line,) = refusals(provider="openai", api_key="k", base_url=base_url)
    assert line.startswith("llm.base_url: must ")
    assert "hunter2" not in line


@pytest.mark.parametrize("base_url", ["http://localhost:11434/v1", "http://10.0.0.5:8000", "http://ollama:11434"])
def test_a_server_of_the_own_network_may_be_asked_by_http(base_url: str) -> None:
    assert refusals(provider="openai", api_key="k", base_url=base_url) == []


@pytest.mark.parametrize("base_url", ["http://api.openai.com/v1", "http://8.8.8.8"])
def test_any_other_is_asked_by_https(base_url: str) -> None:
    (line,) = refusals(provider="openai", api_key="k", base_url=base_url)
    assert line.startswith("llm.base_url: http:// would send key and memories to ")
    assert refusals(provider="openai", api_key="k", base_url=base_url.replace("http:", "https:")) == []


@pytest.mark.parametrize("key", ["api_key", "model", "base_url"])
def test_a_blank_one_is_refused_in_one_line(key: str) -> None:
    given = {"provider": "openai", "api_key": "k", key: " "}
    assert refusals(**given) == [f"llm.{key}: must not be blank (command line)"]
