"""`cerememory-recorder doctor`."""

from __future__ import annotations

import time
from pathlib import Path

from cerememory.cli.recorder.settings import SERVER_URL, api_key, check_server_url, spool_path, working_directory
from cerememory.client import Client
from cerememory.client.address import parse_address
from cerememory.domain.visible import visible
from cerememory.recorder.delivery import REQUEST_S
from cerememory.recorder.doctor import examined
from cerememory.recorder.events import Moment

FAILED = 1


def doctor(
    *, server_url: str = SERVER_URL, spool_dir: Path | None = None, skip_raw_ingest_probe: bool = False
) -> int:
    """Look whether recording works: one line a check, exit code 1 when one fails.

    Args:
        server_url: The daemon; its key comes from CEREMEMORY_SERVER_API_KEY.
        spool_dir: Where events wait (CEREMEMORY_RECORDER_SPOOL_DIR, else ~/.cerememory/recorder/spool).
        skip_raw_ingest_probe: Store nothing; a raw recall is tried instead.
    """
    check_server_url(server_url)
    moment = Moment(working_directory(), time.time_ns())
    has_failed = False
    with Client(server_url, api_key(), REQUEST_S, retry_for_s=0.0) as client:
        address = parse_address(server_url)
        for finding in examined(client, address, spool_path(spool_dir), moment, skip_probe=skip_raw_ingest_probe):
            print(visible(" ".join(str(finding).split())), flush=True)
            has_failed |= not finding.is_ok
    return FAILED if has_failed else 0
