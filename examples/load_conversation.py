"""Load conversations from a file into a running daemon: one memory a turn, in batches.

The file holds `[{"id", "turns": [{"dia_id", "session", "date", "speaker", "text"}]}]`; other keys are ignored.
A turn keeps its session (`context.session_id`), who said it (`context.source`), when (`context.temporal`), and
its own id (`metadata.dia_id`). The daemon's key is read from CEREMEMORY_SERVER_API_KEY; without `--server-url` it
is the one on this machine, at the port in CEREMEMORY_HTTP__PORT if that is set.

    python examples/load_conversation.py conversations.json --server-url http://127.0.0.1:8420
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cerememory.client import Client
from cerememory.errors import CerememoryError

BATCH_RECORDS = 200


def main() -> None:
    arguments = _arguments()
    try:
        conversations = json.loads(arguments.file.read_text(encoding="utf-8"))[: arguments.limit_conversations]
        with Client(arguments.server_url, os.environ.get("CEREMEMORY_SERVER_API_KEY")) as client:
            started = time.perf_counter()
            stored = sum(load(client, conversation) for conversation in conversations)
            elapsed_s = time.perf_counter() - started
    except (OSError, ValueError, CerememoryError) as error:
        sys.exit(f"error: {error}")
    except (KeyError, TypeError, AttributeError) as error:
        sys.exit(f"error: {arguments.file}: not a file of conversations: {error!r}")
    print(f"Loaded {stored} turns of {len(conversations)} conversations, {stored / elapsed_s:.0f} records/s")


def _arguments() -> argparse.Namespace:
    port = os.environ.get("CEREMEMORY_HTTP__PORT") or "8420"
    parser = argparse.ArgumentParser(description="Load conversations from a file into a running daemon.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--server-url", default=f"http://127.0.0.1:{port}")
    parser.add_argument("--limit-conversations", type=int, metavar="N", help="load the first N alone")
    return parser.parse_args()


def load(client: Client, conversation: dict[str, Any]) -> int:
    """Store every turn; how many there were."""
    records = [record(conversation["id"], turn) for turn in conversation["turns"]]
    for batch in batches(records):
        client.call("encode.batch", {"records": batch})
    print(f"Conversation {conversation['id']}: {len(records)} turns")
    return len(records)


def batches(records: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    for start in range(0, len(records), BATCH_RECORDS):
        yield records[start : start + BATCH_RECORDS]


def record(conversation_id: object, turn: dict[str, Any]) -> dict[str, Any]:
    """A turn as the body of an encode.store."""
    return {
        "content": {"blocks": [{"modality": "text", "format": "text/plain", "text": turn["text"]}]},
        "context": {
            "session_id": f"{conversation_id}-{turn['session']}",
            "source": turn["speaker"],
            "temporal": turn["date"],
        },
        "metadata": {"dia_id": turn["dia_id"]},
    }


if __name__ == "__main__":
    main()
