"""Everything that the OpenAPI document describes, asked of a real daemon over loopback, as it is and as it isn't.

schemathesis makes requests that the document allows and requests that it doesn't, and compares each answer with
what the document says: status, headers, content type, body. A failure is also any answer over 499, 2xx for what
the document does not allow, and the refusal of what it allows for a reason that a schema could have named.
"""

from __future__ import annotations

import json
import random
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.core.result import Ok
from schemathesis.core.transport import Response
from schemathesis.specs.openapi import checks

from cerememory.http.rules import MCP_PATH
from tests.support.calls import UNLIMITED
from tests.support.daemon import WAIT_S, Daemon

EXAMPLES = 2  # of one operation in one round
WAYS_MIN = 24  # an operation asked rightly, or wrongly; so many are, however slow the machine is
# Any value of the first is taken, another made in its place; a commit number that never comes is waited for.
LEFT_OUT = frozenset({"RequestId", "Sequence"})
CHECKS = (
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
)
# The daemon's words for what no schema can say of a request.
BEYOND_SCHEMAS = (
    "expected integer, got number",  # 2.0 is an integer to JSON Schema
    "expected integer or null, got number",
    "an item that is no integer from 0 to 255",  # 2.0 again
    "text must be UTF-8",
    "not readable as JSON",  # the data of a structured block
    "at most 1024 are allowed",  # bytes; a schema counts characters
    "nested deeper than",
    "must not be after",
    "nothing is selected",
    "confirm: must be true",
    "must be given",
    "is given here and in",
    "X-Archive-Passphrase: expected base64url",
    "is not recognised",
    "selective needs",
    "missing field; with dry_run",  # record_ids, which a list of what could be restored needs none of
    "give old and new, or entry and size",
    "is more than",
    "expected a number, got",  # one of more than 20 digits
    "needs an LLM provider",
    "expected the next_cursor of an answer",
    "decryption_key: must not be empty",
)


@dataclass
class Findings:
    """`asked` and `failed` count requests by their operation; each of `failures` says how to repeat it."""

    asked: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def note(self, label: str, case: Case[Any], answer: Response, reason: str) -> None:
        self.failed[label] += 1
        if self.failed[label] == 1:
            shown = f"{answer.status_code} {answer.content[:500]!r}"
            self.failures.append(f"{label}: {reason}\n{case.as_curl_command()}\nanswered {shown}")


def ask_everything(findings: Findings, *, seed: int, seconds: float) -> None:
    """As many rounds as the seconds allow, `WAYS_MIN` at least; what is asked depends on the seed alone."""
    with _daemon() as url:
        document = described(url)
        ask(findings, document, url, seed=seed, seconds=seconds)


@contextmanager
def _daemon() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder, Daemon(Path(folder, "data"), env=UNLIMITED) as daemon:
        yield daemon.url
        assert daemon.stop() == 0


def described(url: str) -> dict[str, Any]:
    """The daemon's document, without the headers that are `LEFT_OUT`."""
    with urllib.request.urlopen(f"{url}/v1/openapi.json", timeout=WAIT_S) as answer:
        document: dict[str, Any] = json.load(answer)
    for methods in document["paths"].values():
        for operation in methods.values():
            parameters = operation.get("parameters", [])
            operation["parameters"] = [
                p for p in parameters if p.get("$ref", "").rpartition("/")[2] not in LEFT_OUT
            ]
    return document


def ask(findings: Findings, document: dict[str, Any], url: str, *, seed: int, seconds: float) -> None:
    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=url)
    modes = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    operations = [result.ok() for result in schema.get_all_operations() if isinstance(result, Ok)]
    assert len(operations) == sum(map(len, document["paths"].values())), "an operation that can't be read"
    todo = [(operation, mode) for operation in operations for mode in modes]
    rng = random.Random(seed)
    until, left = time.monotonic() + seconds, WAYS_MIN
    with requests.Session() as session:
        while time.monotonic() < until or left > 0:
            rng.shuffle(todo)
            for operation, mode in todo:
                if time.monotonic() < until or left > 0:
                    _ask_some(findings, operation, mode, session, rng.randrange(2**32))
                    left -= 1


def _ask_some(
    findings: Findings, operation: Any, mode: GenerationMode, session: requests.Session, seed: int
) -> None:
    @seeded(seed)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=[*HealthCheck],
    )
    @given(operation.as_strategy(generation_mode=mode))
    def asks(case: Case[Any]) -> None:
        answer = case.call(session=session, timeout=WAIT_S)
        findings.asked[operation.label] += 1
        for reason in faults(case, answer, mode):
            findings.note(operation.label, case, answer, reason)

    with suppress(Unsatisfiable):  # what takes nothing can't be asked wrongly
        asks()


def faults(case: Case[Any], answer: Response, mode: GenerationMode) -> Iterator[str]:
    """What is wrong with `answer`."""
    if _is_of_the_library(answer):
        return
    if answer.status_code >= 500:
        yield "the daemon failed"
    try:
        case.validate_response(answer, checks=[*CHECKS])
    except (Failure, FailureGroup) as failure:
        yield str(failure)
    if case.path == MCP_PATH:  # a message that isn't taken is refused in an answer of its own, whatever the status
        return
    if mode is GenerationMode.NEGATIVE and answer.status_code < 300:
        yield "what the document doesn't allow was taken"
    if mode is GenerationMode.POSITIVE and answer.status_code in (400, 413):
        message = answer.json()["message"]
        if not any(words in message for words in BEYOND_SCHEMAS):
            yield f"what the document allows was refused: {message}"


def _is_of_the_library(answer: Response) -> bool:
    """A head that can't be read, such as one with a made-up Content-Length, doesn't get as far as the daemon."""
    return answer.status_code == 400 and not answer.content and "x-request-id" not in answer.headers
