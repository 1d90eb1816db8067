"""`cerememory mcp`: the MCP proxy. Reads no configuration."""

from __future__ import annotations

import os
from typing import Annotated

from cyclopts import Parameter, validators

from cerememory.cli.arguments import Common
from cerememory.cli.memory import KEY_VARIABLE
