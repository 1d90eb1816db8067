"""`cerememory namespaces`: whose memories are in a data dir, read beside a running daemon too."""

from __future__ import annotations

from contextlib import closing

from cerememory.cli.arguments import Common
from cerememory.cli.output import show
from cerememory.cli.settings import load
from cerememory.cli.stores import LOCATED, open_readonly, refuse_remote
from cerememory.storage.namespaces import names_in


def namespaces(*, options: Common) -> None:
    """List the namespaces that something was ever stored in, the default one first."""
    refuse_remote(options)
    settings = load(options, only=LOCATED).settings
    with closing(open_readonly(settings)) as storage:
        show(names_in(storage), options, "\n".join)
