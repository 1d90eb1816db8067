"""Where the processes of `cerememory` and `cerememory-recorder` begin.

Most of a short command's time is loading, with nothing under way that would have to end in order. So an interrupt
ends the process there as it does one that knows nothing of interrupts: at once, without a word, and the shell sees
why. `main.kept` has it raise KeyboardInterrupt for as long as the command itself runs.
"""

from __future__ import annotations

import signal


def cerememory() -> None:
    _end_at_interrupts()
    from cerememory.cli.main import main

    main()


def recorder() -> None:
    _end_at_interrupts()
    from cerememory.cli.recorder.main import main

    main()


def _end_at_interrupts() -> None:
    """Unless they are ignored, as those of a command in the background are."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
