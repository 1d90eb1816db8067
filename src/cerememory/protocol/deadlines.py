"""How long a daemon works on an operation before it answers that it is busy, and so how long to wait for it.

An import has none, for it takes as long as its archive is; nor has an export until it begins to be sent.
"""

from __future__ import annotations

OPERATION_S = 30.0
SERIES_S = 600.0  # an import that is taken back is one transaction; secrets are looked for in large texts, too
COMPACT_S = 600.0

_LONG_S = {"lifecycle.undo_import": SERIES_S, "lifecycle.redact": SERIES_S, "lifecycle.compact": COMPACT_S}


def deadline_s(operation_name: str) -> float:
    return _LONG_S.get(operation_name, OPERATION_S)
