"""An LLM service on a loopback port, in the test's own event loop: OpenAI's, Anthropic's and Gemini's API.

Model: a request that isn't as its API wants it (path, key, fields) fails the test. Chat answers are fixed texts;
an embedding counts the words of a few concepts, so that texts about one thing are close without sharing a word.
Replies that are queued come first, one a request, and may be anything that a server can do on its connection.
"""

from __future__ import annotations

import re
import ssl
from base64 import b64decode
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import h11
import msgspec
import trio

KEY = "sk-Test-5ecret"
WAIT_S = 30.0  # how long a test waits for an event that must come
CONCEPTS = (
    {"kettle", "tea", "boil", "boiling", "hot"},
    {"car", "garage", "vehicle", "drive", "driving"},
    {"dog", "puppy", "walk", "leash"},
    {"piano", "music", "concert", "song"},
)
RELATION = {"subject": "Ada", "predicate": "owns", "object": "a dog", "confidence": 0.9}


@dataclass
class Says:
    """What the models say; a test may change it."""

    summary: str = "In short: all went well."
    relations: Any = field(default_factory=lambda: [RELATION])
    description: str = "A puppy on a leash."
    transcript: str = "where is the puppy"


@dataclass(frozen=True)
class Asked:
    """A request; `headers` by lower-case name."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)


Reply = Callable[["Peer", Asked], Awaitable[None]]


def meaning(text: str) -> list[float]:
    """float[5]: how many words of each concept `text` has, and 1 for a text that has none."""
    words = set(re.findall(r"\w+", text.lower()))
    counts = [float(len(words & concept)) for concept in CONCEPTS]
    return [*counts, float(not any(counts))]


class FakeLlm:
    """`requests` are all that came, `open_connections` counts those that nobody closed yet."""

    def __init__(self, port: int, scheme: str = "http") -> None:
        self.url = f"{scheme}://127.0.0.1:{port}"
        self.says = Says()
        self.requests: list[Asked] = []
        self.connections_made = 0
        self.open_connections = 0
        self._replies: deque[Reply] = deque()
        self._changed = trio.Event()

    def then(self, *replies: Reply) -> None:
        """Queues replies; after them requests are answered as they should be."""
        self._replies.extend(replies)

    async def until(self, condition: Callable[[FakeLlm], bool]) -> None:
        with trio.fail_after(WAIT_S):
            while not condition(self):
                await self._changed.wait()

    def _note(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def serve(self, stream: trio.abc.Stream) -> None:
        """One connection."""
        self.connections_made += 1
        self.open_connections += 1
        self._note()
        try:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError, h11.RemoteProtocolError):
                await self._converse(Peer(stream))
        finally:
            await trio.aclose_forcefully(stream)
            self.open_connections -= 1
            self._note()

    async def _converse(self, peer: Peer) -> None:
        while (asked := await peer.receive()) is not None:
            self.requests.append(asked)
            self._note()
            reply = self._replies.popleft() if self._replies else self.answer
            await reply(peer, asked)
            if not peer.next_request():
                return

    async def answer(self, peer: Peer, asked: Asked) -> None:
        """As the service answers."""
        await peer.answer(200, self._said_to(asked))

    def _said_to(self, asked: Asked) -> Any:
        if asked.path.startswith("/v1beta/"):
            return self._gemini(asked)
        return self._claude(asked) if asked.path == "/v1/messages" else self._openai(asked)

    def _openai(self, asked: Asked) -> Any:
        assert asked.headers["authorization"] == f"Bearer {KEY}"
        if asked.path == "/v1/audio/transcriptions":
            form = form_of(asked)
            assert form["model"] == b"whisper-1" and form["file"]
            return {"text": self.says.transcript}
        body = asked.json
        if asked.path == "/v1/embeddings":
            assert body["model"] == "text-embedding-3-small"
            return {"data": [{"index": 0, "embedding": meaning(body["input"])}], "model": body["model"]}
        assert asked.path == "/v1/chat/completions"
        system, user = body["messages"]
        assert (system["role"], user["role"]) == ("system", "user")
        has_image = not isinstance(user["content"], str)
        if has_image:
            assert image_of(user["content"][1]["image_url"]["url"])
        text = self._chat(wants_json="response_format" in body, has_image=has_image)
        return {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}}]}

    def _claude(self, asked: Asked) -> Any:
        assert asked.headers["x-api-key"] == KEY
        assert asked.headers["anthropic-version"] == "2023-06-01"
        body = asked.json
        assert body["max_tokens"] > 0
        assert [message["role"] for message in body["messages"]] == ["user"]
        text = self._chat(wants_json="JSON" in body["system"], has_image=False)
        return {"type": "message", "content": [{"type": "text", "text": text}], "stop_reason": "end_turn"}

    def _gemini(self, asked: Asked) -> Any:
        assert asked.headers["x-goog-api-key"] == KEY
        body = asked.json
        model, _, method = asked.path.removeprefix("/v1beta/models/").partition(":")
        if method == "embedContent":
            assert body["model"] == f"models/{model}"
            return {"embedding": {"values": meaning(body["content"]["parts"][0]["text"])}}
        assert method == "generateContent"
        [content] = body["contents"]
        has_image = len(content["parts"]) == 2
        if has_image:
            assert b64decode(content["parts"][1]["inlineData"]["data"], validate=True)
        wants_json = body["generationConfig"].get("responseMimeType") == "application/json"
        text = self._chat(wants_json=wants_json, has_image=has_image)
        return {"candidates": [{"content": {"role": "model", "parts": [{"text": text}]}}]}

    def _chat(self, *, wants_json: bool, has_image: bool) -> str:
        if has_image:
            return self.says.description
        return (
            msgspec.json.encode({"relations": self.says.relations}).decode() if wants_json else self.says.summary
        )


def image_of(url: str) -> bytes:
    """The bytes of a data URL."""
    head, _, data = url.partition(",")
    assert re.fullmatch(r"data:image/\w+;base64", head)
    return b64decode(data, validate=True)


def form_of(asked: Asked) -> dict[str, bytes]:
    """The fields of a multipart form by name."""
    [boundary] = re.findall(r"multipart/form-data; boundary=(\w+)", asked.headers["content-type"])
    first, *parts, last = asked.body.split(f"--{boundary}".encode())
    assert (first, last) == (b"", b"--\r\n")
    fields = {}
    for part in parts:
        head, _, value = part.removeprefix(b"\r\n").removesuffix(b"\r\n").partition(b"\r\n\r\n")
        [name] = re.findall(rb'; name="(\w+)"', head)
        fields[name.decode()] = value
    return fields


class Peer:
    """The server's end of a connection; a reply writes through it."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)

    async def receive(self) -> Asked | None:
        """The next request, None when the client has gone."""
        head = await self._event()
        if not isinstance(head, h11.Request):
            return None
        parts = []
        while isinstance(part := await self._event(), h11.Data):
            parts.append(bytes(part.data))
        headers = {name.decode().lower(): value.decode() for name, value in head.headers}
        return Asked(head.target.decode(), headers, b"".join(parts))

    async def _event(self) -> Any:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(bytes(await self.stream.receive_some(65_536)))
        return event

    async def answer(self, status: int, said: Any, **headers: str) -> None:
        """A whole answer: JSON, or bytes as they are."""
        body = said if isinstance(said, bytes) else msgspec.json.encode(said)
        named = {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}
        await self.send(h11.Response(status_code=status, headers=list(named.items())))
        await self.send(h11.Data(data=body))
        await self.send(h11.EndOfMessage())

    async def send(self, event: h11.Event) -> None:
        await self.stream.send_all(self._http.send(event) or b"")

    def next_request(self) -> bool:
        """Whether another request may follow on this connection."""
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        return True


def status(code: int, said: Any = b"", **headers: str) -> Reply:
    """A whole answer of any status."""

    async def reply(peer: Peer, _asked: Asked) -> None:
        await peer.answer(code, said, **headers)

    return reply


def raw(data: bytes) -> Reply:
    """Bytes, HTTP or not, and the end of the connection."""

    async def reply(peer: Peer, _asked: Asked) -> None:
        await peer.stream.send_all(data)

    return reply


def held(release: trio.Event, then: Reply) -> Reply:
    """`then`, once `release` is set."""

    async def reply(peer: Peer, asked: Asked) -> None:
        await release.wait()
        await then(peer, asked)

    return reply


def never() -> Reply:
    """No answer; the connection stays open until the client closes it."""

    async def reply(peer: Peer, _asked: Asked) -> None:
        await peer.stream.receive_some()

    return reply


def oversized(size_bytes: int) -> Reply:
    """An answer that goes on for `size_bytes`, unless the client closes before."""

    async def reply(peer: Peer, _asked: Asked) -> None:
        await peer.answer(200, b'"' + b"x" * (size_bytes - 2) + b'"')

    return reply


@asynccontextmanager
async def fake_llm(tls: ssl.SSLContext | None = None) -> AsyncIterator[FakeLlm]:
    """A running service; with `tls` it is reached by https. Leaving closes whatever is open."""
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port: int = listener.socket.getsockname()[1]
    llm = FakeLlm(port, "http" if tls is None else "https")

    async def serve(tcp: trio.SocketStream) -> None:
        await llm.serve(tcp if tls is None else trio.SSLStream(tcp, tls, server_side=True, https_compatible=True))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        yield llm
        nursery.cancel_scope.cancel()
