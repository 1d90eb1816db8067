"""What a coding agent waits for at each hook, and what redaction costs: seconds of CPU and of the clock.

Run by itself: `python bench/recorder.py`. No daemon is needed, for a hook never asks it; each starts a drain that
finds nobody, in a spool that goes with the run.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from cerememory.domain.redaction import redact_text
from cerememory.recorder import hook_script

ROUNDS = 20
RECORDER = Path(sys.executable).with_name("cerememory-recorder")
PAYLOAD = {"session_id": "bench", "hook_event_name": "PostToolUse", "tool_response": "x" * 4_000}
EVENT = {"session_id": "bench", "event_type": "tool_result", "content": "x" * 4_000}
NOBODY = "http://127.0.0.1:9"
TEXT_CHARS = 262_144


def measured(run: Callable[[], object]) -> str:
    """Medians of the CPU time of child processes and of the time that passed."""
    cpu, passed = [], []
    for _ in range(ROUNDS):
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        run()
        passed.append(time.perf_counter() - started)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return f"{statistics.median(passed) * 1_000:6.0f} ms, CPU {statistics.median(cpu) * 1_000:4.0f} ms"


def process(command: list[str], stdin: object, folder: str) -> Callable[[], object]:
    env = {"CEREMEMORY_RECORDER_SPOOL_DIR": f"{folder}/spool", "CEREMEMORY_RECORDER_BIN": str(RECORDER)}
    text = json.dumps(stdin)
    return lambda: subprocess.run(command, input=text, text=True, capture_output=True, check=True, env=env)


def main() -> None:
    detached = [str(RECORDER), "ingest", "--detach", "--server-url", NOBODY]
    with tempfile.TemporaryDirectory() as folder:
        hook = [sys.executable, "-IS", hook_script.__file__]
        print("a hook               ", measured(process(hook, PAYLOAD, folder)))
        print("its recorder         ", measured(process(detached, EVENT, folder)))
        print("cerememory-recorder --help", measured(process([str(RECORDER), "--help"], None, folder)))
    source = "".join(path.read_text() for path in sorted(Path(__file__).parents[1].glob("src/**/*.py")))[
        :TEXT_CHARS
    ]
    started = time.perf_counter()
    for _ in range(ROUNDS):
        redact_text(source)
    each_ms = (time.perf_counter() - started) / ROUNDS * 1_000
    print(f"redacting {TEXT_CHARS} characters of source code {each_ms:.0f} ms")


if __name__ == "__main__":
    main()
