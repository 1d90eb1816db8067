"""Golden conversations: whole exchanges with the real application, compared as text.

`CEREMEMORY_TEST_REWRITE_GOLDEN=1 pytest tests/protocol` writes the files anew; their diff is then reviewed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from cerememory.config.settings import RateLimitSettings
from tests.support.conversation import Conversation, check_against
from tests.support.engine import raw_body, settings_for, store_body, text_block
from tests.support.gated import BARE, KEYS, Gated, bare, gated, with_auth
from tests.support.logged import quiet
from tests.support.memory_storage import MemoryStorage

FOLDER = Path(__file__).parent / "conversations"
UNKNOWN = "0191aaaa-0000-7000-8000-00000000ffff"


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Gated]:
    with quiet():
        async with gated(tmp_path) as opened:
            yield opened


async def a_moment() -> None:
    """For what happens behind an answer: what recalls do to memories, and the index."""
    await trio.sleep(2)


async def test_a_day_of_an_agent(daemon: Gated, autojump_clock: MockClock) -> None:
    talk = Conversation(daemon.client)
    talk.heading("The agent wakes up")
    await talk.ask("GET", "/health")
    await talk.ask("GET", "/readiness")
    await talk.ask("POST", "/v1/recall/query", {"cue": {}})

    talk.heading("It remembers a fact, what it did step by step, and what it only needs for a moment")
    meta = {"intent": "Know where things are", "tags": ["kitchen"], "confidence": 0.9}
    context = {"source": "conversation", "session_id": "s-1"}
    body = store_body(
        "The red kettle is in the kitchen", meta=meta, context=context, metadata={"room": 7}, emotion={"joy": 0.5}
    )
    kettle = (await talk.ask("POST", "/v1/encode", body)).json["record_id"]
    steps = [store_body(f"Step {i}: {what}") for i, what in enumerate(("fill it", "boil it", "pour it"), 1)]
    await talk.ask("POST", "/v1/encode/batch", {"records": steps, "infer_associations": True})
    await talk.ask("POST", "/v1/encode", store_body("the water is hot", store="working"))
    await talk.ask(
        "POST", "/v1/encode", store_body("Kettles boil water", summary="about kettles", embedding=[0.5, 1.0])
    )

    talk.heading("It keeps what was said, word for word")
    await talk.ask("POST", "/v1/encode/raw", raw_body("Where is the kettle?", topic_id="tea"))
    thought = raw_body("They mean the red one", speaker="assistant", visibility="private_scratch")
    await talk.ask("POST", "/v1/encode/raw/batch", {"records": [thought, raw_body("Thanks!", "s-2")]})

    talk.heading("It recalls, by words and by meaning, and is reminded of both")
    await a_moment()
    await talk.ask("POST", "/v1/recall/query", {"cue": {"text": "red kettle"}, "limit": 1})
    await talk.ask("POST", "/v1/recall/query", {"cue": {"embedding": [1.0, 2.0]}, "recall_mode": "perfect"})
    await a_moment()

    talk.heading("The kettle moves; an edit against an old version is refused, a retried one happens once")
    moved = {"content": {"blocks": [text_block("The red kettle is in the cellar")]}}
    retried = {"if-match": "1", "idempotency-key": "move-1"}
    for _ in range(2):
        await talk.ask("PATCH", f"/v1/encode/{kettle}", moved, retried)
    await talk.ask("PATCH", f"/v1/encode/{kettle}", moved, {"if-match": "1"})
    await talk.ask("POST", "/v1/recall/query", {"cue": {"text": "cellar"}, "reconsolidate": False})
    accept = "application/vnd.cmp+json;bytes=base64"
    await talk.ask("GET", f"/v1/introspect/record/{kettle}", b"", {"accept": accept})

    talk.heading("It looks up what was said")
    await talk.ask("POST", "/v1/recall/raw", {"session_id": "s-1"})
    await talk.ask("POST", "/v1/recall/raw", {"query": "red", "include_private_scratch": True})

    talk.heading("At the end of the day it counts")
    await talk.ask("GET", "/v1/introspect/stats")
    check_against(FOLDER / "day.txt", talk.text())


async def test_recalls_within_a_scope(daemon: Gated, autojump_clock: MockClock) -> None:
    talk = Conversation(daemon.client)
    talk.heading("Two kettles, of two conversations")
    said = [("red", "Ada", "s-1", ["kitchen"], 7), ("blue", "Tom", "s-2", ["kitchen", "old"], "7")]
    bodies = [
        store_body(
            f"The {colour} kettle leaks",
            embedding=[1.0, 0.0],
            context={"session_id": session, "source": source},
            metadata={"room": room},
            meta={"tags": tags},
        )
        for colour, source, session, tags, room in said
    ]
    blue = (await talk.ask("POST", "/v1/encode/batch", {"records": bodies})).json["results"][1]["record_id"]
    await a_moment()

    talk.heading("Each is found by what it alone has, whatever the cue")
    plain = {"reconsolidate": False, "recall_mode": "perfect"}
    for cue, scope in (
        ({"text": "kettle"}, {"session_id": "s-1", "tags": ["kitchen"]}),
        ({"embedding": [0.5, 1.0]}, {"source": "Tom"}),
        ({"embedding": [1.0, 1.0]}, {"metadata": {"room": 7.0}}),
        ({}, {"tags": ["old", "kitchen"], "metadata": {}}),
    ):
        await talk.ask("POST", "/v1/recall/query", {"cue": cue, "scope": scope, **plain})

    talk.heading("It moves to another scope with its tags")
    await talk.ask("PATCH", f"/v1/encode/{blue}", {"meta": {"tags": ["new"]}})
    for tag in ("old", "new"):
        await talk.ask("POST", "/v1/recall/query", {"cue": {"text": "kettle"}, "scope": {"tags": [tag]}, **plain})

    talk.heading("What can't be asked for")
    for refused in ({"session": "s-1"}, {"metadata": {"_context": {"source": "Tom"}}}, {"tags": "kitchen"}):
        await talk.ask("POST", "/v1/recall/query", {"cue": {}, "scope": refused})
    check_against(FOLDER / "scope.txt", talk.text())


async def test_a_walk_along_associations(daemon: Gated, autojump_clock: MockClock) -> None:
    talk = Conversation(daemon.client)
    talk.heading("Three steps, each linked to the next, and why the last one was taken")
    steps = [store_body(f"Step {i}: {what}") for i, what in enumerate(("fill it", "boil it", "pour it"), 1)]
    batch = {"records": steps, "infer_associations": True}
    ids = [stored["record_id"] for stored in (await talk.ask("POST", "/v1/encode/batch", batch)).json["results"]]
    edge = {"target_id": ids[2], "association_type": "causal", "weight": 0.9}
    meta = {"intent": "tea", "context_edges": [{"target_id": ids[2], "relation": "motivated_by"}]}
    guests = store_body("Guests are coming", summary="guests", associations=[edge], meta=meta, emotion={"joy": 1})
    await talk.ask("POST", "/v1/encode", guests)

    talk.heading("What hangs together with the first step, and with the guests")
    await talk.ask("POST", f"/v1/recall/associate/{ids[0]}", {"limit": 1})
    await talk.ask("POST", f"/v1/recall/associate/{ids[0]}", {"association_types": ["causal"]})
    await talk.ask("POST", f"/v1/recall/associate/{UNKNOWN}", {})
    await talk.ask("POST", f"/v1/recall/associate/{ids[0]}", {"depth": 9})

    talk.heading("Guests bring to mind what was done for them")
    await a_moment()
    cue = {"cue": {"text": "guests"}, "limit": 2, "reconsolidate": False}
    await talk.ask("POST", "/v1/recall/query", cue)

    talk.heading("The whole picture, without a center and around one")
    await talk.ask("POST", "/v1/recall/graph", {"include_meta": True})
    await talk.ask("POST", "/v1/recall/graph", {"center_id": ids[0], "depth": 1, "edge_types": ["SEQUENTIAL"]})
    await talk.ask("POST", "/v1/recall/graph", {"center_id": UNKNOWN})

    talk.heading("What was joyful, by the month")
    span = {"start": "2027-01-01T00:00:00Z", "end": "2028-01-01T00:00:00Z"}
    joyful = {"range": span, "granularity": "month", "emotion_filter": {"joy": 0.2}}
    await talk.ask("POST", "/v1/recall/timeline", joyful)
    await talk.ask("POST", "/v1/recall/timeline", {"range": {"start": span["end"], "end": span["start"]}})
    check_against(FOLDER / "associations.txt", talk.text())


async def test_a_night(daemon: Gated, autojump_clock: MockClock) -> None:
    talk = Conversation(daemon.client)
    talk.heading("What was said over the day, some of it in secret")
    said = [
        raw_body("the tide is high at five", topic_id="tides"),
        raw_body("we sail with the tide", topic_id="tides", speaker="assistant"),
        raw_body("the safe opens with 1234", topic_id="tides", secrecy_level="secret"),
        raw_body("buy bread, then more bread", "s-2"),
    ]
    await talk.ask("POST", "/v1/encode/raw/batch", {"records": said})

    talk.heading("A dream is tried, dreamt, and not dreamt again")
    secrets = {"secrecy_levels": ["public", "sensitive", "secret"]}
    await talk.ask("POST", "/v1/lifecycle/dream-tick", {"dry_run": True, **secrets})
    for _ in range(2):
        await talk.ask("POST", "/v1/lifecycle/dream-tick", secrets, {"idempotency-key": "night-1"})
    await talk.ask("POST", "/v1/lifecycle/dream-tick", {})

    talk.heading("What it made, and what the journal says of it")
    cue = {"cue": {"text": "tide"}, "stores": ["episodic"], "reconsolidate": False}
    await talk.ask("POST", "/v1/recall/query", cue)
    await talk.ask("POST", "/v1/recall/raw", {"session_id": "s-1", "limit": 1})

    talk.heading("Two memories say the same; what was lived becomes knowledge, once")
    for text in ("The ferry leaves at nine", "the ferry  leaves at NINE"):
        await talk.ask("POST", "/v1/encode", store_body(text, embedding=[0.5, 1.0]))
    await talk.ask("POST", "/v1/lifecycle/consolidate", {"strategy": "full", "dry_run": True})
    for strategy in ("full", "full", "incremental"):
        await talk.ask("POST", "/v1/lifecycle/consolidate", {"strategy": strategy})
    await talk.ask("POST", "/v1/lifecycle/consolidate", {"strategy": "selective"})

    talk.heading("In the morning it counts")
    await talk.ask("GET", "/v1/introspect/stats")
    check_against(FOLDER / "night.txt", talk.text())


async def test_a_gallery_of_errors(daemon: Gated, autojump_clock: MockClock) -> None:
    talk = Conversation(daemon.client)
    talk.heading("No such place, no such way")
    await talk.ask("GET", "/v1/nowhere")
    await talk.ask("GET", "/v1/encode")
    await talk.ask("DELETE", f"/v1/encode/{UNKNOWN}")

    talk.heading("A body that can't be read")
    await talk.ask("POST", "/v1/encode", b"{nope")
    await talk.ask("POST", "/v1/encode", b"{}", {"content-type": "text/plain"})
    await talk.ask("POST", "/v1/encode", {"store": "episodic"})
    await talk.ask("POST", "/v1/encode", store_body("x", store="astral"))
    await talk.ask("POST", "/v1/encode", {"content": {"blocks": []}})
    block: dict[str, Any] = {"modality": "text", "format": "text/plain"}
    await talk.ask("POST", "/v1/encode", {"content": {"blocks": [{**block, "data": "text"}]}})
    await talk.ask("POST", "/v1/encode", b'{"content":{"blocks":[{"modality":"text","format":"t","data":[255]}]}}')
    records = [store_body("fine"), store_body("not fine", embedding=[])]
    await talk.ask("POST", "/v1/encode/batch", {"records": records})
    await talk.ask("POST", "/v1/encode/raw", raw_body("x", " "))
    await talk.ask("POST", "/v1/recall/query", {"cue": {"text": "x"}, "limit": -1})
    await talk.ask("POST", "/v1/recall/query", {"cue": {"image": [1, 2, 3]}})
    header = {"protocol": "cmp", "version": "2.0", "request_id": UNKNOWN, "timestamp": "2026-01-01T00:00:00Z"}
    await talk.ask("POST", "/v1/encode", {**store_body("x"), "header": header})

    talk.heading("Something that isn't there, or has changed")
    await talk.ask("GET", "/v1/introspect/record/abc")
    await talk.ask("GET", f"/v1/introspect/record/{UNKNOWN}")
    await talk.ask("PATCH", f"/v1/encode/{UNKNOWN}", {"metadata": {}})
    stored = (await talk.ask("POST", "/v1/encode", store_body("x"), {"idempotency-key": "k-1"})).json
    await talk.ask("POST", "/v1/encode", store_body("y"), {"idempotency-key": "k-1"})
    await talk.ask("PATCH", f"/v1/encode/{stored['record_id']}", {"metadata": {}}, {"if-match": "7"})
    await talk.ask("GET", "/v1/introspect/stats", b"", {"x-cerememory-sequence": "99"})

    talk.heading("A header that isn't understood")
    await talk.ask("GET", "/v1/introspect/stats", b"", {"x-cerememory-namespace": "no name"})
    await talk.ask("GET", "/v1/introspect/stats", b"", {"x-cerememory-sequence": "soon"})
    await talk.ask("POST", "/v1/encode", store_body("x"), {"origin": "https://evil.example"})
    await talk.ask("GET", "/v1/introspect/stats", b"", {"host": "evil.example"})
    check_against(FOLDER / "errors.txt", talk.text())


async def test_what_a_stranger_hears(autojump_clock: MockClock) -> None:
    limited = replace(with_auth(BARE), rate_limit=RateLimitSettings(requests_per_second=1, burst=3))
    talk = Conversation(bare(limited))
    talk.heading("Nobody gets in without a key, and guessing is slow")
    await talk.ask("GET", "/health")
    await talk.ask("GET", "/v1/introspect/stats")
    await talk.ask("GET", "/v1/nowhere", b"", {"authorization": "Bearer guess"})
    await talk.ask("GET", "/v1/nowhere", b"", {"authorization": f"Bearer {KEYS[0]}"})
    await talk.ask("GET", "/v1/nowhere", b"", {"authorization": f"Bearer {KEYS[0]}"})
    check_against(FOLDER / "stranger.txt", talk.text())


async def test_a_bad_day_of_the_daemon(tmp_path: Path, autojump_clock: MockClock) -> None:
    storage = MemoryStorage()
    settings = settings_for(tmp_path, rate_limit=BARE.rate_limit)
    with quiet():
        async with gated(tmp_path, settings=settings, storage=storage) as daemon:
            talk = Conversation(daemon.client)
            talk.heading("The disk fails")
            await talk.ask("POST", "/v1/encode", store_body("before"))
            storage.break_disk()
            await talk.ask("POST", "/v1/encode", store_body("meanwhile"))
            await talk.ask("GET", "/readiness")
            await talk.ask("GET", "/health")
            talk.heading("It works again")
            storage.mend_disk()
            await a_moment()
            await talk.ask("GET", "/readiness")
            await talk.ask("POST", "/v1/encode", store_body("afterwards"))
            talk.heading("The daemon is told to stop")
            daemon.running.engine.drain()
            await talk.ask("GET", "/readiness")
    check_against(FOLDER / "bad_day.txt", talk.text())
