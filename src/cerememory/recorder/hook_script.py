"""A hook of a coding agent: what happened goes to cerememory-recorder, and the session goes on.

The client runs this file at its hooks, with the hook's payload as JSON on stdin. It makes a Capture Event of it,
hands it to `cerememory-recorder ingest --detach`, which takes the secrets out and puts it into the spool, and
returns within 0.3 s, whatever the recorder or the daemon does: the recorder goes on alone then. It always exits
with 0 and blocks nothing. It needs the standard library of Python 3.8 alone, and runs wherever it was copied to.

Installed by `cerememory-recorder install-hook`, which sets the three constants below.
"""

from __future__ import annotations

import json
import os
import select
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:  # what isn't needed to run isn't loaded: a session waits for this
    from collections.abc import Mapping
    from typing import IO, Any

CLIENT = "codex"
SERVER_URL = "http://127.0.0.1:8420"
RECORDER = ""  # where no other is named or found

STARTED = time.monotonic()
WAIT_S = 0.2  # since then, for client and recorder; with the start of Python before it it stays below 0.3 s
PAYLOAD_BYTES_MAX = 16 * 1_048_576
PART_BYTES = 1_048_576
EVENT_BYTES_MAX = 1_048_576  # what the recorder is told to take; a longer content is cut
CUT_BYTES = 262_144  # of each end at most; less of a text that JSON makes longer

# The fields of a payload that become the event's content, by the hook's name: the first of them that is there. A
# pair is a type for when that field is there and not blank.
USER, ASSISTANT, CALL, RESULT = "user_message", "assistant_message", "tool_call", "tool_result"
SUMMARY, COMMAND, CHANGE, ERROR = "session_summary", "command", "file_change", "error"
CODEX = {
    "UserPromptSubmit": (USER, ("prompt", "user_prompt", "message")),
    "PreToolUse": (CALL, ("tool_input", "input")),
    "PostToolUse": (RESULT, ("tool_response", "tool_output", "output")),
}
EVENTS: dict[str, dict[str, tuple[str, tuple[str, ...]]]] = {
    "codex": CODEX,
    "claude-code": {
        **CODEX,
        "PostToolUseFailure": (ERROR, ("error",)),
        "Stop": (ASSISTANT, ("last_assistant_message",)),
        "SubagentStop": (ASSISTANT, ("last_assistant_message",)),
    },
    "cursor": {
        "beforeSubmitPrompt": (USER, ("prompt",)),
        "afterAgentResponse": (ASSISTANT, ("text",)),
        "beforeShellExecution": (CALL, ("command",)),
        "afterShellExecution": (COMMAND, ("command", "output")),
        "beforeMCPExecution": (CALL, ("tool_input",)),
        "afterMCPExecution": (RESULT, ("result_json",)),
        "preToolUse": (CALL, ("tool_input",)),
        "postToolUse": (RESULT, ("tool_output",)),
        "postToolUseFailure": (ERROR, ("error_message",)),
        "afterFileEdit": (CHANGE, ("file_path", "edits")),
    },
}
TOGETHER = (COMMAND, CHANGE)  # of which all fields are the content
SAID = ("last_assistant_message", "message", "summary", "text", "reason", "status")  # at any other hook
SESSIONS = ("session_id", "conversation_id", "thread_id")
TURNS = ("turn_id", "prompt_id", "generation_id")
ACTIONS = ("action_id", "tool_use_id", "tool_call_id")
KEPT = (
    *("tool_name", "tool_call_id", "tool_use_id", "action_id", "exit_code", "status", "cwd", "transcript_path"),
    *("hook_event_name", "model", "duration", "file_path", "agent_type"),
)
ANSWERS = {("cursor", "beforeSubmitPrompt"): {"continue": True}}


def main() -> int:
    try:
        payload = json.loads(read(0), parse_constant=str, parse_float=number, parse_int=integer)
        payload = payload if isinstance(payload, dict) else {"message": payload}
        answer = ANSWERS.get((CLIENT, name_of(payload)))
        if answer is not None:
            print(json.dumps(answer), flush=True)  # noqa: T201 - the hook's answer
        record(event_of(payload, os.environ))
    except (OSError, ValueError, RecursionError) as error:
        print(f"cerememory-recorder hook: {error}", file=sys.stderr)  # noqa: T201
    return 0


def read(fd: int) -> bytes:
    """What is there until it ends, or the time is over for a client that doesn't end it."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    parts, size_bytes = [], 0
    while size_bytes < PAYLOAD_BYTES_MAX and poll.poll(left_ms()) and (part := os.read(fd, PART_BYTES)):
        parts.append(part)
        size_bytes += len(part)
    return b"".join(parts)


def number(text: str) -> float | str:
    """What is no number to others, as it is too large, stays the text that it is; so do NaN and Infinity."""
    value = float(text)
    return value if abs(value) < float("inf") else text


def integer(text: str) -> int | str:
    """One with more digits than Python reads stays the text that it is."""
    try:
        return int(text)
    except ValueError:
        return text


def left_ms() -> float:
    return max(0.0, STARTED + WAIT_S - time.monotonic()) * 1_000


def name_of(payload: dict[str, Any]) -> str:
    return str(payload.get("hook_event_name") or payload.get("event") or "")


def event_of(payload: dict[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    """The Capture Event of a payload."""
    kind, content = told_by(payload)
    named = f"{CLIENT.upper().replace('-', '_')}_SESSION_ID"
    event = {
        "session_id": environ.get(named, "").strip() or first(payload, SESSIONS) or f"{CLIENT}-local",
        "event_type": kind,
        "content": content,
        "source": CLIENT,
        "timestamp": timestamp(time.time_ns()),
        "turn_id": first(payload, TURNS),
        "action_id": first(payload, ACTIONS),
        "metadata": {name: payload[name] for name in KEPT if payload.get(name) is not None},
    }
    return {name: value for name, value in event.items() if value is not None}


def told_by(payload: dict[str, Any]) -> tuple[str, Any]:
    """The event's type and what there is to keep of it: never blank."""
    name = name_of(payload)
    kind, fields = EVENTS[CLIENT].get(name, (SUMMARY, SAID))
    told = {field: payload[field] for field in fields if not is_blank(payload.get(field))}
    if told and kind in TOGETHER:
        return kind, told
    if told:
        return kind, next(iter(told.values()))
    if kind == ASSISTANT:  # which says nothing here: that a turn ended is still worth a line
        kind = SUMMARY
    return kind, next((payload[field] for field in SAID if not is_blank(payload.get(field))), name or "hook")


def is_blank(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def first(payload: dict[str, Any], names: tuple[str, ...]) -> str | None:
    """The first of the fields that is there and says something, as text."""
    return next((str(payload[name]) for name in names if not is_blank(payload.get(name))), None)


def timestamp(now: int) -> str:
    """RFC 3339 of nanoseconds since the epoch."""
    seconds, nanos = divmod(now, 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{nanos:09d}Z"


def record(event: dict[str, Any]) -> None:
    """Hands the event to the recorder, and waits a moment for it to be done. `OSError` when there is none."""
    line = line_of(event)
    arguments = ["ingest", "--detach", "--server-url", SERVER_URL, "--max-event-bytes", str(EVENT_BYTES_MAX)]
    ended, held = os.pipe()  # the recorder holds one end as long as it lives
    with unseen_file() as stdin:
        stdin.write(line + b"\n")
        stdin.seek(0)
        os.set_inheritable(held, True)
        start(arguments, stdin.fileno())
    os.close(held)
    wait_for_end(ended)


def line_of(event: dict[str, Any]) -> bytes:
    """What the recorder takes. `ValueError` for an event that is too long but for its content."""
    line, end_bytes = dump(event), CUT_BYTES
    while len(line) > EVENT_BYTES_MAX and end_bytes:
        line = dump({**event, "content": cut(event["content"], end_bytes)})
        end_bytes //= 2
    if len(line) > EVENT_BYTES_MAX:
        raise ValueError("the event is too long even without its content")
    return line


def dump(event: dict[str, Any]) -> bytes:
    return json.dumps(event, ensure_ascii=False).encode("utf-8", "replace")


def start(arguments: list[str], stdin: int) -> None:
    """The recorder: CEREMEMORY_RECORDER_BIN, or what is found on PATH, or the one that installed this."""
    named = os.environ.get("CEREMEMORY_RECORDER_BIN")
    try:
        spawn([named or "cerememory-recorder", *arguments], stdin)
    except FileNotFoundError:
        if named or not RECORDER:
            raise
        spawn([RECORDER, *arguments], stdin)


def spawn(command: list[str], stdin: int) -> None:
    """In a session of its own, so that what ends the hook doesn't end it."""
    nowhere = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_WRONLY, 0) for fd in (1, 2)]
    files = [(os.POSIX_SPAWN_DUP2, stdin, 0), *nowhere]
    try:
        os.posix_spawnp(command[0], command, os.environ, file_actions=files, setsid=True)
    except NotImplementedError:
        os.posix_spawnp(command[0], command, os.environ, file_actions=files)


def wait_for_end(ended: int) -> None:
    """Until the other end of the pipe is closed, or the time is over: then the recorder goes on by itself."""
    poll = select.poll()
    poll.register(ended, select.POLLIN)
    poll.poll(left_ms())
    os.close(ended)


def cut(content: Any, end_bytes: int) -> str:
    """The beginning and the end of a content, or all of it when that is no longer."""
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    data = text.encode("utf-8", "replace")
    left = len(data) - 2 * end_bytes
    kept = [data[:end_bytes].decode("utf-8", "ignore"), data[-end_bytes:].decode("utf-8", "ignore")]
    return min(text, f"\n[{left} bytes left out]\n".join(kept), key=len)


def unseen_file() -> IO[bytes]:
    """A file without a name, and in memory where the system has that: its content still has its secrets."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("event"), "w+b")
    import tempfile  # here, for it takes a while to load

    return tempfile.TemporaryFile()


if __name__ == "__main__":
    sys.exit(main())
