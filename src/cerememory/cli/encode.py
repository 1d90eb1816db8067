"""Commands that write: `store`, `store-raw`, `update`."""

from __future__ import annotations

from typing import Any

from cerememory.cli.arguments import (
    Common,
    EmbeddingText,
    RecordIdText,
    SecrecyName,
    SourceName,
    SpeakerName,
    StoreName,
    VisibilityName,
)
from cerememory.cli.bodies import check_filled, given, meta, text_content
from cerememory.cli.bodies import emotion as emotion_vector
from cerememory.cli.memory import connect
from cerememory.cli.options import UsageError
from cerememory.cli.output import leaves, pretty, rows_table, show, warn


def store(
    text: str,
    /,
    *,
    store: StoreName = "episodic",
    embedding: EmbeddingText | None = None,
    emotion: str | None = None,
    meta_json: str | None = None,
    options: Common,
) -> None:
    """Keep a text as a memory.

    Args:
        text: What to remember; put -- before a text that begins with a dash.
        store: The kind of memory.
        embedding: Its vector, as 0.1,0.2.
        emotion: What it felt like: joy, trust, fear, surprise, sadness, disgust, anger or anticipation.
        meta_json: Why it is kept, as the JSON of a MetaMemory.
    """
    check_filled(text)
    body = {
        "content": text_content(text, embedding),
        "store": store,
        "emotion": emotion_vector(emotion),
        "meta": meta(meta_json),
    }
    with connect(options, creates=True) as memory:
        stored = memory.call("encode.store", given(body))
    if store == "working":
        warn("working memory isn't kept on disk: this is gone when the daemon stops, without one at once")
    show(stored, options, _stored_line)


def _stored_line(stored: Any) -> str:
    return f"Stored: {stored['record_id']} (store: {stored['store']}, fidelity: {stored['initial_fidelity']:g})"


def store_raw(
    text: str,
    /,
    *,
    session_id: str,
    topic_id: str | None = None,
    source: SourceName = "conversation",
    speaker: SpeakerName = "user",
    visibility: VisibilityName = "normal",
    secrecy_level: SecrecyName = "public",
    meta_json: str | None = None,
    options: Common,
) -> None:
    """Keep a text verbatim in the raw journal.

    Args:
        text: What was said; put -- before a text that begins with a dash.
        session_id: The session that it belongs to.
        topic_id: The topic that it belongs to.
        source: Where it comes from.
        speaker: Who said it.
        visibility: Who is shown it.
        secrecy_level: How secret it is.
        meta_json: Why it is kept, as the JSON of a MetaMemory.
    """
    check_filled(text)
    body = {
        "session_id": session_id,
        "topic_id": topic_id,
        "source": source,
        "speaker": speaker,
        "visibility": visibility,
        "secrecy_level": secrecy_level,
        "content": text_content(text),
        "meta": meta(meta_json),
    }
    with connect(options, creates=True) as memory:
        stored = memory.call("encode.store_raw", given(body))
    show(stored, options, pretty, lambda answer: rows_table(leaves(answer)))


def update(
    record_id: RecordIdText,
    text: str | None = None,
    /,
    *,
    emotion: str | None = None,
    meta_json: str | None = None,
    options: Common,
) -> None:
    """Correct a memory.

    Args:
        record_id: The memory's id.
        text: What it says from now on; put -- before a text that begins with a dash.
        emotion: What it felt like: joy, trust, fear, surprise, sadness, disgust, anger or anticipation.
        meta_json: Why it is kept, as the JSON of a MetaMemory.
    """
    if text is not None:
        check_filled(text)
    changes = given(
        {
            "content": None if text is None else text_content(text),
            "emotion": emotion_vector(emotion),
            "meta": meta(meta_json),
        }
    )
    if not changes:
        raise UsageError("nothing to change: give a text, --emotion or --meta-json")
    with connect(options) as memory:
        memory.call("encode.update", changes, path_params={"record_id": record_id})
    show({"record_id": record_id}, options, lambda answer: f"Updated: {answer['record_id']}")
