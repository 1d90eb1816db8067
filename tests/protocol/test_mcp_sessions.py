"""Recorded sessions of MCP's versions, played to the proxy: what clients of each send, and what they are answered.

A file has a message a line, `->` to the server and `<-` from it. Every client message is sent as it stands, and
what it is answered is compared with what follows it. `CEREMEMORY_TEST_REWRITE_GOLDEN=1 pytest tests/protocol`
writes the answers anew. Of the answer to `tools/list` the names are kept: `tests/unit/mcp/test_tools.py` has the
rest.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import cerememory
from cerememory.client import Client
from cerememory.mcp.toolbox import Toolbox
from cerememory.mcp.versions import VERSIONS
from tests.support.conversation import check_against
from tests.support.fake_daemon import FakeDaemon, Handler, answer, no_content, refusal
from tests.unit.mcp.answers import ID, block, memory, recalled, record
from tests.unit.mcp.session import Session

FOLDER = Path(__file__).parent / "mcp_sessions"
SESSIONS = sorted(FOLDER.glob("*.txt"))
KETTLE = block(b"The kettle is blue")
STORED = {"record_id": ID, "store": "episodic", "initial_fidelity": 1.0, "associations_created": 0}

ANSWERS = {
    "POST /v1/encode": answer(STORED),
    "POST /v1/encode/batch": answer({"results": [STORED, STORED], "associations_inferred": 2}),
    f"PATCH /v1/encode/{ID}": no_content(),
    "POST /v1/recall/query": answer(recalled(memory(KETTLE))),
    f"GET /v1/introspect/record/{ID}": answer(record(KETTLE)),
    "DELETE /v1/lifecycle/forget": answer({"records_deleted": 1}),
    "GET /v1/introspect/stats": answer({"total_records": 3}),
    "POST /v1/lifecycle/consolidate": refusal(503, "CONSOLIDATION_IN_PROGRESS", "consolidation is running", 9),
}
MARK = re.compile(r"(?<=data_begin )[0-9a-f]{8}(?= to data_end)")


def by_path(handler: Handler) -> None:
    ANSWERS[f"{handler.command} {handler.path}"](handler)


def asks(message: Any) -> bool:
    """Whether it is answered: requests are, notifications and batches of such aren't."""
    return any("id" in item for item in message) or not message if isinstance(message, list) else "id" in message


def shown(message: Any) -> str:
    """Without what is drawn by chance, or changes with each release."""
    if isinstance(message, dict) and "tools" in message.get("result", {}):
        message["result"]["tools"] = [tool["name"] for tool in message["result"]["tools"]]
    text = json.dumps(message, ensure_ascii=False).replace(f'"{cerememory.__version__}"', '"VERSION"')
    return text.replace(MARK.findall(text)[0], "MARK") if MARK.search(text) else text


def test_every_version_has_a_session() -> None:
    assert [path.stem for path in SESSIONS] == [*VERSIONS, "later"]


@pytest.mark.parametrize("path", SESSIONS, ids=lambda path: path.stem)
def test_a_recorded_session_goes_as_it_went(path: Path) -> None:
    lines = []
    with FakeDaemon(default=by_path) as daemon, Client(daemon.url, retry_for_s=0) as client:
        session = Session(Toolbox(client))
        for line in path.read_text().splitlines():
            if line.startswith("-> "):
                lines.append(line)
                session.send_line(line.removeprefix("-> ").encode())
                if asks(json.loads(line.removeprefix("-> "))):
                    lines.append(f"<- {shown(session.receive())}")
        session.end()
        lines += [f"<- {shown(message)}" for message in session.everything_left()]
    check_against(path, "\n".join(lines) + "\n")
