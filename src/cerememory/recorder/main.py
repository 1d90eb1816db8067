"""The entry point of `cerememory-recorder`."""

from __future__ import annotations

import sys


def main() -> None:
    sys.exit("error: recording isn't available in this version; store-raw of cerememory keeps what is said")
