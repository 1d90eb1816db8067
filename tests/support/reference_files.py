"""Files that were recorded from the reference implementation, as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "fixtures" / "reference"
AUDIT = (FOLDER / "audit.jsonl").read_bytes()
CASES: list[dict[str, Any]] = json.loads((FOLDER / "http" / "cases.json").read_text(encoding="utf-8"))
