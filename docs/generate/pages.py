"""Which parts there are, and a page with them in place."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from docs.generate import client, commands, configuration, grpc, interface, metrics, tools

DOCS = Path(__file__).resolve().parents[1]
PAGES = tuple(sorted(DOCS.glob("*.md")))
PARTS: Mapping[str, Callable[[], str]] = MappingProxyType(
    {
        "settings": configuration.settings,
        "commands": commands.commands,
        "common options": commands.common_options,
        "recorder commands": commands.of_recorder,
        "routes": interface.routes,
        "usual errors": interface.usual_errors,
        "request headers": interface.request_headers,
        "answer headers": interface.answer_headers,
        "errors": interface.errors,
        "grpc methods": grpc.methods,
        "grpc statuses": grpc.statuses,
        "series": metrics.series,
        "alerts": metrics.alerts,
        "tools": tools.tools,
        "client methods": client.methods,
    }
)
_PART = re.compile(
    r"(?P<begin><!-- generated: (?P<name>[\w ]+) -->\n).*?(?P<end><!-- end of (?P=name) -->)", re.DOTALL
)


def names(text: str) -> list[str]:
    """The parts that a page has."""
    return [found["name"] for found in _PART.finditer(text)]


def rendered(text: str) -> str:
    """A page's text with all its parts made anew; `KeyError` for a part that nobody makes."""
    return _PART.sub(lambda found: f"{found['begin']}\n{PARTS[found['name']]()}\n{found['end']}", text)
