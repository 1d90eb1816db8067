"""The versions of MCP that are spoken, and what differs between them here.

Their messages are the same but for what a client of an earlier version leaves unread (annotations,
`structuredContent`, output schemas), and for batches, which one version had.
"""

from __future__ import annotations

import re

from cerememory.errors import ValidationFailed

VERSIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
WITH_BATCHES = {"2025-03-26"}

_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


def agreed_version(asked: object) -> str:
    """The client's own, or the last one before it; the first for one before all. Raises `ValidationFailed`."""
    if not isinstance(asked, str) or not _DATE.fullmatch(asked):
        raise ValidationFailed("protocolVersion: must be a date such as 2025-11-25")
    return max((version for version in VERSIONS if version <= asked), default=VERSIONS[0])
