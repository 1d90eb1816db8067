"""The configuration of a command: from the common options, the environment and the file.

What reads it is loaded when it is asked for: a command that is told which daemon to ask needs none.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from cerememory.cli.options import Options

if TYPE_CHECKING:
    from cerememory.config.sources import Loaded

NOTHING: Mapping[str, object] = MappingProxyType({})


def load(options: Options, overrides: Mapping[str, object] = NOTHING, *, only: Collection[str] = ()) -> Loaded:
    """The settings, with `overrides` of the command line by dotted name. Raises `ConfigInvalid`.

    `only` names the keys that a command uses, when it should work whatever is wrong with the others.
    """
    from cerememory.config.sources import load as load_sources

    told = {"data_dir": options.data_dir, **overrides}
    return load_sources(options.config, os.environ, told, only=only)


def check_start(loaded: Loaded, *, for_serve: bool) -> None:
    """Raise `ConfigInvalid` unless a command may start so. Keys of the data dir count as those of the settings."""
    from cerememory.config.checks import check

    auth = loaded.settings.auth
    needs_keys = auth.enabled and not auth.api_keys
    has_stored_keys = needs_keys and _has_stored_keys(loaded)
    check(loaded.settings, for_serve, loaded.origins, has_stored_keys=has_stored_keys)


def _has_stored_keys(loaded: Loaded) -> bool:
    from cerememory.storage.api_keys import usable  # here, for few need it

    return bool(usable(loaded.settings.data_dir, time.time_ns()))
