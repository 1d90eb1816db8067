"""Names of namespaces, and the header that has them; which memories are in one is the storage's matter."""

from __future__ import annotations

import re

from cerememory.errors import ValidationFailed

HEADER = "X-Cerememory-Namespace"
DEFAULT_NAME = "default"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,63}")


def check_name(name: str, where: str = "namespace") -> None:
    """Raises `ValidationFailed`, whose message begins with `where`: the header or field that `name` was in."""
    if _NAME.fullmatch(name) is None:
        raise ValidationFailed(
            f"{where}: expected 1 to 64 letters, digits or . _ : @ -, the first a letter or digit,"
            f" got {name[:80]!r}"
        )
