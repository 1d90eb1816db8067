"""Answers of a daemon, for tests that show them."""

from __future__ import annotations

import base64
from typing import Any

ID = "0191aaaa-0000-7000-8000-00000000000a"
NEUTRAL = {"joy": 0.0, "trust": 0.0, "intensity": 0.0, "valence": 0.0}


def block(data: bytes, modality: str = "text", format: str = "text/plain", **fields: object) -> dict[str, Any]:
    return {"modality": modality, "format": format, "data": list(data), "embedding": None, **fields}


def short_block(data: bytes) -> dict[str, Any]:
    """A text block whose bytes come as base64."""
    return {**block(b""), "data": base64.b64encode(data).decode()}


def content(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"blocks": list(blocks), "summary": None}


def record(*blocks: dict[str, Any], **fields: object) -> dict[str, Any]:
    return {
        "id": ID,
        "store": "episodic",
        "created_at": "2026-11-24T03:29:33.751958845Z",
        "access_count": 1,
        "content": content(*blocks),
        "fidelity": {"score": 0.75, "stability": 2.5},
        "emotion": NEUTRAL,
        "associations": [],
        "metadata": {"edited": True},
        **fields,
    }


def memory(*blocks: dict[str, Any], **fields: object) -> dict[str, Any]:
    return {
        "record": record(*blocks, **fields),
        "relevance_score": 1.25,
        "activation_path": None,
        "rendered_content": content(*blocks),
    }


def recalled(*memories: dict[str, Any]) -> dict[str, Any]:
    return {
        "memories": list(memories),
        "activation_trace": None,
        "total_candidates": len(memories),
        "query_metadata": {
            "total_records_scanned": 9,
            "stores_searched": ["episodic"],
            "fidelity_filtered": 0,
        },
    }


def raw_record(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": ID,
        "session_id": "s-1",
        "turn_id": None,
        "source": "conversation",
        "speaker": "user",
        "visibility": "normal",
        "secrecy_level": "public",
        "created_at": "2026-11-24T03:29:33Z",
        "content": content(*blocks),
        "metadata": {},
    }


def unframed(shown: Any) -> Any:
    """A tool's answer without what the frame, and whoever says what it is about, add to it."""
    if isinstance(shown, list):
        return [unframed(item) for item in shown]
    if isinstance(shown, dict):
        frame = ("namespace", "notice", "data_begin", "data_end")
        return {name: unframed(value) for name, value in shown.items() if name not in frame}
    return shown
