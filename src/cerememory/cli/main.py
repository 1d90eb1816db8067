"""`cerememory`: runs a command, and says in one line what went wrong.

Exit codes: 0 done, 1 failed, 2 a command line that means nothing, 130 interrupted, 141 nobody reads the output.
What a command prints is its own; errors, warnings and logs go to stderr.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import traceback
from collections.abc import Callable
from functools import partial
from io import TextIOWrapper

from cerememory.cli.options import UsageError, command_of, read_common
from cerememory.domain.visible import visible
from cerememory.errors import CerememoryError, ConfigInvalid, answer_of

FAILED = 1
USAGE = 2
INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
NOBODY_ELSE = 0o077  # whatever a command writes, its owner alone may read
NOT_READ = 141  # 128 + SIGPIPE

Command = Callable[[], int | None]
Load = Callable[[list[str]], Command]


def main() -> None:
    begin()
    if command_of(sys.argv[1:]) == "serve":  # a wish to reload, which would end the daemon that has no handler yet
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    sys.exit(run(sys.argv[1:], kept(command)))


def begin() -> None:
    """What a process of one command does first."""
    os.umask(NOBODY_ELSE)
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:  # closed: a file that is opened would have its number, and get its output
            _open_nowhere(number)
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115 - as long as the process


def _open_nowhere(number: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere == number:
        os.set_inheritable(number, True)
    else:
        os.dup2(nowhere, number)
        os.close(nowhere)


def kept(load: Load) -> Load:
    """`load`, for a process of one command: what is loaded stays, so no search for garbage ever looks at it.

    Not even the last one, at the end of the process, which would take a tenth of a short command's time. Where
    interrupts end the process (`cli.entry`), they do so before and after the command alone.
    """

    def load_kept(argv: list[str]) -> Command:
        gc.disable()
        loaded = load(argv)
        gc.freeze()
        gc.enable()
        return partial(_interruptible, loaded)

    return load_kept


def _interruptible(command: Command) -> int | None:
    """What `command` returns. An interrupt raises KeyboardInterrupt in it, so that it ends in order."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_DFL:
        return command()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return command()
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def command(argv: list[str]) -> Command:
    """The command that `argv` means; what it needs is imported here, for most of a command's time is loading."""
    if argv[:1] == ["mcp"]:
        from cerememory.cli.quick import usual

        if (proxy := usual(argv[1:])) is not None:
            return proxy
    from cerememory.cli.commands import asks_for_overview

    if asks_for_overview(read_common(argv)[1]):
        from cerememory.cli.overview import show

        return show
    from cerememory.cli.app import parse

    return parse(argv)


def run(argv: list[str], load: Load = command) -> int:
    """The exit code of the command that `argv` means; `load` makes that command of it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = load(argv)() or 0
        print(end="", flush=True)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _drop_output()
        return NOT_READ
    except Exception as error:  # noqa: BLE001 - the outermost surface
        return _answer(error, is_verbose="--verbose" in argv)
    return code


def _drop_output() -> None:
    """What is still in the buffer goes nowhere, instead of failing again at exit."""
    _open_nowhere(sys.stdout.fileno())


def _answer(error: Exception, is_verbose: bool) -> int:
    """Says what went wrong; the exit code."""
    print(visible(_message(error)), file=sys.stderr)
    if is_verbose and not isinstance(error, UsageError):
        print(visible("".join(traceback.format_exception(error))), file=sys.stderr, end="")
    if isinstance(error, UsageError):
        return USAGE
    return answer_of(error).exit_code if isinstance(error, CerememoryError) else FAILED


def _message(error: Exception) -> str:
    """One line, but for a configuration with several problems: that is such a line for each."""
    if isinstance(error, ConfigInvalid):
        return "\n".join(f"error: {problem}" for problem in _reason(error).splitlines())
    return f"error: {' '.join(_reason(error).splitlines())}"


def _reason(error: Exception) -> str:
    if isinstance(error, CerememoryError):
        return " ".join([str(error), *(f"({note})" for note in _notes(error))])
    if isinstance(error, UsageError):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.filename or 'system'}: {error.strerror or error}"
    if isinstance(error, UnicodeEncodeError):
        return "an argument isn't valid UTF-8"
    return f"unexpected {type(error).__name__}: {error} (--verbose shows where)"


def _notes(error: CerememoryError) -> list[str]:
    """What was noted on the way, and the request id: the daemon's log has its failures' reason under it."""
    request_id = (error.details or {}).get("request_id")
    return [*getattr(error, "__notes__", ()), *([f"request {request_id}"] if request_id else [])]


if __name__ == "__main__":
    main()
