"""`cerememory mcp`: the MCP proxy. Reads no configuration."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from cyclopts import Parameter
from cyclopts.validators import Number

from cerememory.cli.arguments import Common, WholeNumber
from cerememory.cli.options import UsageError
from cerememory.cli.quick import TIMEOUT_S_MAX, run_proxy

TimeoutS: TypeAlias = Annotated[WholeNumber, Parameter(validator=Number(gte=1, lte=TIMEOUT_S_MAX))]


def mcp(
    *,
    server_api_key: str | None = None,
    server_timeout_secs: TimeoutS | None = None,
    options: Common,
) -> int:
    """Give an MCP client, on stdin and stdout, the tools of the daemon at --server-url.

    Args:
        server_api_key: The daemon's key; better given as CEREMEMORY_SERVER_API_KEY or by --server-api-key-file.
        server_timeout_secs: Seconds that a call may take with its retries; any time without it.
    """
    if options.server_url is None:
        raise UsageError("--server-url is missing: where is the daemon?")
    return run_proxy(
        options.server_url, server_api_key, server_timeout_secs, options.namespace, options.server_api_key_file
    )
