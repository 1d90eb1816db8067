"""The entry point of `cerememory`: runs a command, and says in one line what went wrong.

Exit codes: 0 done, 1 failed, 2 a command line that means nothing, 130 interrupted, 141 nobody reads the output.
What a command prints is its own; errors, warnings and logs go to stderr.
"""

from __future__ import annotations

import os
import sys
import traceback

from cerememory.errors import CerememoryError, answer_of

FAILED = 1
USAGE = 2
INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
NOT_READ = 141  # 128 + SIGPIPE


def main() -> None:
    sys.exit(run(sys.argv[1:]))


def run(argv: list[str]) -> int:
    """The exit code of the command that `argv` names."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        code = _run(argv)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing is left to fail at exit
        return NOT_READ
    except Exception as error:  # noqa: BLE001 - the outermost surface
        return _answer(_single(error), is_verbose="--verbose" in argv)
    return code


def _run(argv: list[str]) -> int:
    from cerememory.cli.app import UsageError, parse  # here, for `mcp` does without

    try:
        command = parse(argv)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE
    return command() or 0


def _single(error: Exception) -> Exception:
    """What is alone in the groups that nurseries make."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _answer(error: Exception, is_verbose: bool) -> int:
    """Say what went wrong; the exit code."""
    print(_message(error), file=sys.stderr)
    if is_verbose:
        traceback.print_exception(error)
    return answer_of(error).exit_code if isinstance(error, CerememoryError) else FAILED


def _message(error: Exception) -> str:
    if isinstance(error, CerememoryError):
        text = str(error)
        request_id = (error.details or {}).get("request_id")
        ...
    return ""
