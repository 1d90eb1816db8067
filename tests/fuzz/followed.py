"""One target under atheris, which follows the code to make inputs that go further into it.

`python -m tests.fuzz.followed TARGET [options of libFuzzer] [folders of inputs]`; it ends when an option says so.
To merge folders, libFuzzer starts itself: by the command that the variable FUZZ_COMMAND names.
"""

from __future__ import annotations

import os
import sys

import atheris

with atheris.instrument_imports(include=["cerememory", "tomllib"]):
    from tests.fuzz.targets import BY_NAME

COMMAND_VARIABLE = "FUZZ_COMMAND"


def main() -> None:
    name, *options = sys.argv[1:]
    atheris.Setup([os.environ.get(COMMAND_VARIABLE, sys.argv[0]), *options], BY_NAME[name].run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
