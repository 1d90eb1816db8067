"""A request of each route that a reader can send as it is, once `EXAMPLE_ID` stands for a record of theirs, and
`EXAMPLE_BATCH_ID` for an import.
"""

from __future__ import annotations

from typing import Any

EXAMPLE_ID = "01a20caa-5137-74e7-9800-9c780a7b6d05"
EXAMPLE_BATCH_ID = "01a2176e-2b4c-7d10-8a5e-6f00b3a1c9d2"


def _content(text: str) -> dict[str, Any]:
    return {"blocks": [{"modality": "text", "format": "text/plain", "text": text}]}


REQUESTS: dict[str, dict[str, Any]] = {
    "encode.store": {
        "content": _content("The red kettle is in the kitchen"),
        "emotion": {"joy": 0.4, "intensity": 0.2, "valence": 0.3},
        "context": {"source": "Ada", "session_id": "s-1"},
        "metadata": {"room": "kitchen"},
        "meta": {"intent": "find things again", "tags": ["kitchen"]},
    },
    "encode.batch": {
        "records": [{"content": _content("The water boils")}, {"content": _content("The tea is ready")}],
        "infer_associations": True,
    },
    "encode.update": {"content": _content("The blue kettle is in the kitchen"), "metadata": {"room": "kitchen"}},
    "encode.store_raw": {
        "session_id": "s-1",
        "topic_id": "kitchen",
        "speaker": "user",
        "content": _content("Where did I put the kettle?"),
    },
    "encode.batch_raw": {
        "records": [
            {"session_id": "s-1", "speaker": "user", "content": _content("Is it the red one?")},
            {"session_id": "s-1", "speaker": "assistant", "content": _content("It is the blue one.")},
        ]
    },
    "recall.query": {
        "cue": {"text": "kettle"},
        "stores": ["episodic", "semantic"],
        "limit": 5,
        "scope": {"session_id": "s-1", "tags": ["kitchen"]},
    },
    "mcp": {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "recall", "arguments": {"query": "kettle", "budget_tokens": 1000}},
    },
    "recall.associate": {"depth": 2, "min_weight": 0.1},
    "recall.timeline": {
        "range": {"start": "2026-01-01T00:00:00Z", "end": "2030-01-01T00:00:00Z"},
        "granularity": "month",
    },
    "recall.graph": {"center_id": EXAMPLE_ID, "depth": 2, "limit_nodes": 20},
    "recall.raw_query": {"session_id": "s-1", "query": "kettle"},
    "lifecycle.consolidate": {"strategy": "incremental", "dry_run": True},
    "lifecycle.dream_tick": {"session_id": "s-1", "dry_run": True},
    "lifecycle.decay_tick": {},
    "lifecycle.set_mode": {"mode": "human", "scope": ["episodic"]},
    "lifecycle.forget": {"record_ids": [EXAMPLE_ID], "confirm": False, "dry_run": True},
    "lifecycle.restore": {"record_ids": [EXAMPLE_ID]},
    "lifecycle.compact": {},
    "lifecycle.rotate_audit": {},
    "lifecycle.redact": {"dry_run": True},
    "lifecycle.undo_import": {"batch_id": EXAMPLE_BATCH_ID, "dry_run": True},
    "lifecycle.export": {"format": "cma", "include_raw_journal": True},
    "archive_export": {"format": "cma", "include_raw_journal": True},
    "introspect.decay_forecast": {"record_ids": [EXAMPLE_ID], "forecast_at": "2030-01-01T00:00:00Z"},
}

QUERIES: dict[str, dict[str, int]] = {"audit_proof": {"old": 1, "new": 1}}

# An archive is no text to paste: the answer of the one, kept in a file, is the request of the other.
ANSWER_FILES = {"lifecycle.export": "export.json", "archive_export": "memories.cma"}
REQUEST_FILES = {"lifecycle.import": "export.json", "archive_import": "memories.cma"}
