"""Recorded sessions of MCP's versions over HTTP: what clients of each send to /mcp, and what they are answered.

A file has a line for each thing that is said: `# NAME: VALUE` is a header of all that follows (no value: none),
`->` a POST with this body or another method without one, `<-` the status, the stream's type if it is one, and the
message. Ids and times are numbered in their order, so that a client can send one back. The engine is a real one.
`CEREMEMORY_TEST_REWRITE_GOLDEN=1 pytest tests/protocol` writes the answers anew.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import NamedTuple

import pytest

import cerememory
from cerememory.mcp.versions import VERSIONS
from tests.support.asgi import AsgiClient, Reply
from tests.support.conversation import check_against
from tests.support.gated import Gated, gated

FOLDER = Path(__file__).parent / "mcp_http_sessions"
SESSIONS = sorted(FOLDER.glob("*.txt"))
DRAWN = re.compile(
    r"(?P<id>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"
    r"|(?P<time>\d{4}-\d\d-\d\dT[\d:.]+(?:Z|\+00:00))"
    r"|(?<=data_begin )(?P<mark>[0-9a-f]{8})(?= to)"
)
FRACTION = re.compile(r"\d+\.\d{4,}")


class Transcript:
    """One session with `client`; `headers` go with every request."""

    def __init__(self, client: AsgiClient) -> None:
        self._client = client
        self._headers: dict[str, str] = {}
        self._names: dict[str, str] = {}  # by what was drawn

    async def lines(self, said: Iterable[str]) -> list[str]:
        """What was `said`, with the answers that come now."""
        kept = []
        for line in said:
            if line.startswith("# "):
                name, _colon, value = line.removeprefix("# ").partition(":")
                self._headers = {**self._headers, name: value.strip()}
            if not line.startswith("<- "):
                kept.append(line)
            if line.startswith("-> "):
                kept.append(self._shown(await self._ask(self._sent(line.removeprefix("-> ")))))
        return kept

    async def _ask(self, sent: str) -> Reply:
        headers = {name: value or None for name, value in self._headers.items()}
        if sent in ("GET", "DELETE"):
            return await self._client.ask(sent, "/mcp", headers=headers)
        return await self._client.ask("POST", "/mcp", sent.encode(), headers)

    def _sent(self, line: str) -> str:
        for drawn, name in self._names.items():
            line = line.replace(name, drawn)
        return line

    def _shown(self, reply: Reply) -> str:
        kind = reply.headers.get("content-type")
        assert kind in (None, "application/json", "text/event-stream")
        text = reply.body.decode()
        if kind == "text/event-stream":
            [text] = re.fullmatch(r"event: message\ndata: (.*)\n\n", text).groups()  # type: ignore[union-attr]
        message = json.loads(text) if text else None
        if isinstance(message, dict) and "tools" in message.get("result", {}):
            message["result"]["tools"] = [tool["name"] for tool in message["result"]["tools"]]
        said = [str(reply.status), *(["stream"] if kind == "text/event-stream" else [])]
        said += [] if message is None else [self._named(json.dumps(message, ensure_ascii=False))]
        return f"<- {' '.join(said)}"

    def _named(self, text: str) -> str:
        for found in DRAWN.finditer(text):
            kind, drawn = next((kind, drawn) for kind, drawn in found.groupdict().items() if drawn is not None)
            number = 1 + sum(name.startswith(f"<{kind} ") for name in self._names.values())
            self._names.setdefault(drawn, f"<{kind} {number}>")
        for drawn, name in self._names.items():
            text = text.replace(drawn, name)
        text = FRACTION.sub(lambda number: f"{float(number[0]):.3f}", text)
        return text.replace(f'"{cerememory.__version__}"', '"VERSION"')


class Session(NamedTuple):
    path: Path
    said: list[str]


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Gated]:
    async with gated(tmp_path) as daemon:
        yield daemon


def test_every_version_has_a_session() -> None:
    assert [path.stem for path in SESSIONS] == [*VERSIONS, "later"]


@pytest.fixture(params=SESSIONS, ids=lambda path: path.stem)
def session(request: pytest.FixtureRequest) -> Session:
    path: Path = request.param
    return Session(path, path.read_text().splitlines())


async def test_a_recorded_session_goes_as_it_went(session: Session, daemon: Gated) -> None:
    lines = await Transcript(daemon.client).lines(session.said)
    check_against(session.path, "\n".join(lines) + "\n")
