"""Recorded conversations with the reference: sends each request anew and compares the answer's shape.

A case names a request and the answer that the reference gave. `${NAME}` in a path or body is a value saved from
an earlier answer, `${text:…}` the bytes of a text. Compared are status, content type, Retry-After and request
id, the keys at every depth, the JSON types, and the values of the keys that are the same in every run; more
keys than the reference has are no difference.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.calls import Answer, Caller

SAME_EVERY_RUN = frozenset(
    {
        *("code", "status", "store", "modality", "format", "capture_status", "schema_version", "relation"),
        *("association_type", "edge_type", "weight", "associations_created", "associations_inferred"),
        *("visibility", "secrecy_level", "source", "speaker", "initial_fidelity", "count", "total_nodes"),
        *("records_deleted", "records_imported", "groups_processed", "raw_records_processed"),
        *("episodic_summaries_created", "semantic_nodes_created"),
    }
)
CALLERS_OWN = frozenset({"details", "metadata"})
MAY_BE_EMPTY = frozenset({"estimated_threshold_date"})
RESULTS = frozenset({"memories", "records", "buckets", "results"})
_TEXT = re.compile(r"\$\{text:(.*)\}", re.S)
_NAME = re.compile(r"\$\{(\w+)\}")
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True)
class Compared:
    """`differences` is empty when ours answered as the reference did."""

    name: str
    differences: list[str]


def replay(cases: Path, caller: Caller) -> list[Compared]:
    """Every case in its order, against the daemon of `caller`, which has to be fresh."""
    saved: dict[str, Any] = {}
    return [_replay_one(case, caller, saved) for case in json.loads(cases.read_text())]


def _replay_one(case: dict[str, Any], caller: Caller, saved: dict[str, Any]) -> Compared:
    try:
        path, body = _filled(case["path"], saved), _filled(case.get("body"), saved)
    except KeyError as missing:
        return Compared(case["name"], [f"needs {missing}, which no answer had"])
    if path.startswith("/v1/recall"):
        caller.until_indexed()
    if "raw" in case:
        answer = caller.send(case["method"], path, case["raw"].encode(), _headers(case, has_body=True))
    else:
        answer = caller.ask(case["method"], path, body, _headers(case, has_body=body is not None))
    for name, where in case.get("save", {}).items():
        _save(saved, name, where, answer.json)
    return Compared(case["name"], list(_differences(case["expect"], answer)))


def _headers(case: dict[str, Any], *, has_body: bool) -> dict[str, str]:
    kind = {"Content-Type": "application/json"} if has_body else {}
    return {**kind, **case.get("headers", {})}


def _filled(value: Any, saved: dict[str, Any]) -> Any:
    if isinstance(value, dict):
        return {name: _filled(item, saved) for name, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, saved) for item in value]
    if not isinstance(value, str):
        return value
    if text := _TEXT.fullmatch(value):
        return list(text[1].encode())
    if name := _NAME.fullmatch(value):
        return saved[name[1]]
    return _NAME.sub(lambda match: str(saved[match[1]]), value)


def _save(saved: dict[str, Any], name: str, where: str, found: Any) -> None:
    for step in where.split("."):
        try:
            found = found[int(step)] if step.isdigit() else found[step]
        except (KeyError, IndexError, TypeError):
            return
    saved[name] = found


def _differences(wanted: dict[str, Any], answer: Answer) -> Iterator[str]:
    kind = answer.headers.get("content-type", "").partition(";")[0]
    head: dict[str, object] = {
        "status": answer.status,
        "retry_after": "retry-after" in answer.headers,
        "request_id": "x-request-id" in answer.headers,
    }
    if wanted["body"] is not None or wanted["status"] < 400:
        head["content_type"] = kind
    for name, got in head.items():
        if got != wanted[name]:
            yield f"{name}: {wanted[name]!r} in the reference, {got!r} here"
    yield from _below(wanted["body"], answer.json, "body")


def _below(wanted: Any, got: Any, where: str) -> Iterator[str]:
    if wanted is None:
        return
    if _kind(wanted) != _kind(got):
        yield f"{where}: {_kind(wanted)} in the reference, {_kind(got)} here"
    elif isinstance(wanted, dict):
        for name, value in wanted.items():
            yield from _field(name, value, got, f"{where}.{name}")
    elif isinstance(wanted, list):
        yield from _items(wanted, got, where)


def _field(name: str, wanted: Any, owner: dict[str, Any], where: str) -> Iterator[str]:
    if name not in owner:
        yield f"{where}: missing"
        return
    got = owner[name]
    if name in CALLERS_OWN or (name in MAY_BE_EMPTY and got is None):
        return
    comparable = name in SAME_EVERY_RUN and not isinstance(wanted, (dict, list)) and not _ID.fullmatch(str(wanted))
    if comparable and wanted != got:
        yield f"{where}: {wanted!r} in the reference, {got!r} here"
    yield from _below(wanted, got, where)


def _items(wanted: list[Any], got: list[Any], where: str) -> Iterator[str]:
    """The first of each stands for all; numbers in a list are bytes."""
    if not wanted and got and where.rpartition(".")[2] in RESULTS:
        yield f"{where}: none in the reference, {len(got)} here"
    elif wanted and not isinstance(wanted[0], int):
        if not got:
            yield f"{where}: items in the reference, none here"
        else:
            yield from _below(wanted[0], got[0], f"{where}[0]")


def _kind(value: Any) -> str:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return "number" if is_number else type(value).__name__
