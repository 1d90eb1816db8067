"""One target under atheris, which follows the code to make inputs that go further into it.

`python -m tests.fuzz.followed TARGET [options of libFuzzer] [folders of inputs]`; ends by itself only when told so.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["cerememory", "tomllib"]):
    from tests.fuzz.targets import BY_NAME


def main() -> None:
    name, *options = sys.argv[1:]
    atheris.Setup([sys.argv[0], *options], BY_NAME[name].run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
