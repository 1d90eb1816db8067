"""The official SDK's client over both transports: stdio against proxy and daemon, HTTP against the daemon's /mcp.

It checks every answer against MCP's types, and what is structured against the tool's output schema.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx2
import pytest
import trio
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import TextContent, TextResourceContents

from cerememory.mcp.budget import TOKEN_BYTES
from cerememory.mcp.endpoint import SERVED
from cerememory.mcp.tools import TOOLS
from tests.support.calls import UNLIMITED
from tests.support.daemon import COMMAND, WAIT_S, Daemon


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with Daemon(tmp_path_factory.mktemp("sdk") / "data", env=UNLIMITED) as daemon:
        daemon.wait_until_searchable()
        yield daemon


class Transport:
    """One way to the daemon."""

    def __init__(self, daemon: Daemon, is_http: bool) -> None:
        self.daemon = daemon
        self.is_http = is_http

    @asynccontextmanager
    async def connected(self, namespace: str) -> AsyncIterator[Client]:
        name = f"{namespace}-{'http' if self.is_http else 'stdio'}"
        connect = self._over_http if self.is_http else self._over_stdio
        with trio.fail_after(WAIT_S):
            async with connect(name) as client:
                yield client

    @asynccontextmanager
    async def _over_stdio(self, namespace: str) -> AsyncIterator[Client]:
        told = ["mcp", "--server-url", self.daemon.url, "--namespace", namespace]
        async with Client(stdio_client(StdioServerParameters(command=str(COMMAND), args=told))) as client:
            yield client

    @asynccontextmanager
    async def _over_http(self, namespace: str) -> AsyncIterator[Client]:
        async with AsyncExitStack() as stack:
            headers = {"X-Cerememory-Namespace": namespace}
            http = await stack.enter_async_context(httpx2.AsyncClient(headers=headers, timeout=WAIT_S))
            server = streamable_http_client(f"{self.daemon.url}/mcp", http_client=http)
            yield await stack.enter_async_context(Client(server))


@pytest.fixture(params=[False, True], ids=["stdio", "http"])
def transport(daemon: Daemon, request: pytest.FixtureRequest) -> Transport:
    return Transport(daemon, request.param)


async def called(client: Client, tool: str, **arguments: object) -> dict[str, Any]:
    """The structured answer; the text says the same, but where it is a line for people."""
    result = await client.call_tool(tool, arguments)
    [content] = result.content
    assert isinstance(content, TextContent)
    assert isinstance(result.structured_content, dict)
    if tool != "update":
        assert json.loads(content.text) == result.structured_content
    return result.structured_content


async def test_it_finds_tools_resources_and_prompts(transport: Transport) -> None:
    async with transport.connected("sdk-lists") as client:
        assert (client.protocol_version, client.server_info and client.server_info.name) == (
            "2025-11-25",
            "cerememory",
        )
        tools = SERVED if transport.is_http else TOOLS
        assert [tool.name for tool in (await client.list_tools()).tools] == [tool.name for tool in tools]
        assert [found.uri for found in (await client.list_resources()).resources] == ["memory://recent"]
        [template] = (await client.list_resource_templates()).resource_templates
        assert template.uri_template == "memory://record/{id}"
        for prompt in (await client.list_prompts()).prompts:
            assert prompt.arguments is not None
            got = await client.get_prompt(prompt.name, {prompt.arguments[0].name: "the kettle"})
            assert isinstance(got.messages[0].content, TextContent)
            assert got.messages[0].content.text.endswith("the kettle")


async def test_every_tools_answer_fits_its_output_schema(transport: Transport) -> None:
    async with transport.connected("sdk-tools") as client:
        await client.list_tools()  # from here on the client checks what is structured
        stored = await called(client, "store", content="The kettle is blue", meta_json={"intent": "remember"})
        kept = stored["record_id"]
        assert stored["namespace"] == f"sdk-tools-{'http' if transport.is_http else 'stdio'}"
        assert (await called(client, "update", record_id=kept, content="The kettle is green"))["record_id"] == kept
        await called(client, "batch_store", records_json=[{"content": "one"}, {"content": "two " * 500}])
        raw = {"content": "said", "session_id": "s-1", "topic_id": "tea"}
        await called(client, "store_raw", **raw)
        await called(client, "batch_store_raw", records_json=[raw, raw])
        transport.daemon.wait_until_searchable()
        found = await called(client, "recall", query="which kettle", stores=["episodic"], budget_tokens=2_000)
        assert found["memories"][0]["text"] == "The kettle is green"
        assert len((await called(client, "recall_raw", session_id="s-1"))["records"]) == 3
        assert (await called(client, "timeline", granularity="month"))["buckets"][0]["count"] == 3
        assert (await called(client, "associate", record_id=kept))["memories"] == []
        assert (await called(client, "inspect", record_id=kept))["id"] == kept
        assert (await called(client, "dream_tick"))["groups_processed"] == 1
        await called(client, "consolidate", dry_run=True)
        assert (await called(client, "stats"))["total_records"] >= 3
        assert (await called(client, "forget", record_ids=[kept], confirm=True))["records_deleted"] == 1


async def test_it_reads_resources(transport: Transport) -> None:
    async with transport.connected("sdk-resources") as client:
        for text in ("The ferry leaves at noon", "long " * 5_000):
            kept = (await called(client, "store", content=text))["record_id"]
        [recent] = (await client.read_resource("memory://recent")).contents
        assert isinstance(recent, TextResourceContents)
        newest, oldest = json.loads(recent.text)["memories"]
        assert newest["left_out_bytes"] > 20_000
        assert oldest["text"] == "The ferry leaves at noon"
        [record] = (await client.read_resource(f"memory://record/{kept}")).contents
        assert isinstance(record, TextResourceContents)
        assert json.loads(record.text)["id"] == kept


async def test_a_budget_bounds_what_a_read_takes(transport: Transport) -> None:
    async with transport.connected("sdk-budget") as client:
        await called(client, "batch_store", records_json=[{"content": f"{i} " + "word " * 300} for i in range(20)])
        result = await client.call_tool("timeline", {"granularity": "month", "budget_tokens": 1_000})
        assert isinstance(result.content[0], TextContent)
        assert len(result.content[0].text.encode()) <= 1_000 * TOKEN_BYTES


@pytest.mark.parametrize(
    ("tool", "arguments", "code"),
    [("remember", {}, -32602), ("store", {"content": " "}, -32602), ("inspect", {"record_id": "x"}, -32602)],
)
async def test_a_wrong_call_raises_with_its_code(
    transport: Transport, tool: str, arguments: dict[str, object], code: int
) -> None:
    async with transport.connected("sdk-errors") as client:
        with pytest.raises(MCPError) as caught:
            await client.call_tool(tool, arguments)
        assert caught.value.error.code == code
