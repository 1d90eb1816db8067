"""CMP over HTTP, from the caller's side."""

from cerememory.client.client import Client
from cerememory.errors import DaemonBusy, DaemonUnreachable

__all__ = ["Client", "DaemonBusy", "DaemonUnreachable"]
