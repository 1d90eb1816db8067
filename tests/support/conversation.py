"""Conversations with the application written down as text: what was sent, what came back, ids and times by number.

A conversation reads as a diff when an answer changes. Ids and times get a number in the order in which they
first appear, floating point is rounded to three decimals, and arrays of integers stand as the text whose bytes
they are.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.asgi import NO_HEADERS, AsgiClient, Reply

LINE_CHARS = 100
REWRITE = "CEREMEMORY_TEST_REWRITE_GOLDEN"  # set to 1, it writes the files anew instead of comparing
SHOWN_HEADERS = ("content-type", "x-cerememory-sequence", "retry-after", "allow", "www-authenticate", "connection")
_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|\+00:00)")


class Conversation:
    """Asks `client`, and keeps what was said."""

    def __init__(self, client: AsgiClient) -> None:
        self._client = client
        self._said: list[str] = []
        self._numbers: dict[str, str] = {}

    def heading(self, text: str) -> None:
        self._said.append(f"# {text}\n")

    async def ask(
        self, method: str, path: str, body: object = b"", headers: Mapping[str, str] = NO_HEADERS, query: str = ""
    ) -> Reply:
        reply = await self._client.ask(method, path, body, headers, query)
        shown = f"{path}?{query}" if query else path
        self._say(f"> {method} {shown}", *(f"> {name}: {value}" for name, value in headers.items()))
        if body:
            self._say(_indented("> ", body.decode() if isinstance(body, bytes) else _printed(body)))
        answered = [f"< {n}: {reply.headers[n]}" for n in SHOWN_HEADERS if n in reply.headers]
        self._say(f"< {reply.status}", *answered)
        if reply.body:
            self._say(_indented("< ", _printed(reply.json)))
        self._said.append("")
        return reply

    def _say(self, *lines: str) -> None:
        self._said.append(self._normalised("\n".join(lines)))

    def _normalised(self, text: str) -> str:
        text = _ID.sub(lambda found: self._numbered("id", found[0]), text)
        return _TIME.sub(lambda found: self._numbered("time", found[0]), text)

    def _numbered(self, kind: str, value: str) -> str:
        count = sum(1 for name in self._numbers.values() if name.startswith(f"<{kind} "))
        return self._numbers.setdefault(value, f"<{kind} {count + 1}>")

    def text(self) -> str:
        return "\n".join(self._said).rstrip("\n") + "\n"


def check_against(golden: Path, text: str) -> None:
    """`text` is what `golden` holds; or it is written there, when the environment asks for that."""
    if os.environ.get(REWRITE) == "1":
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8"), f"set {REWRITE}=1 to accept what changed in {golden.name}"


def _printed(value: Any, indent: str = "") -> str:
    """JSON, an object or array on one line when it fits."""
    line = json.dumps(_readable(value), ensure_ascii=False)
    if (
        len(indent) + len(line) <= LINE_CHARS
        or not isinstance(value, (dict, list))
        or not value
        or _is_bytes(value)
    ):
        return line
    inner = indent + " "
    if isinstance(value, dict):
        items = [f"{inner}{json.dumps(name)}: {_printed(item, inner)}" for name, item in value.items()]
        return "{\n" + ",\n".join(items) + f"\n{indent}}}"
    return "[\n" + ",\n".join(inner + _printed(item, inner) for item in value) + f"\n{indent}]"


def _readable(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _readable(item) for name, item in value.items()}
    if isinstance(value, float):
        return round(value, 3)
    if _is_bytes(value):
        return f"bytes of {bytes(value).decode(errors='replace')!r}"
    return [_readable(item) for item in value] if isinstance(value, list) else value


def _is_bytes(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is int for item in value)


def _indented(prefix: str, text: str) -> str:
    return "\n".join(prefix + line for line in text.splitlines())
