"""The configuration of a command: from the common options, the environment and the file."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from types import MappingProxyType

from cerememory.cli.options import Options
from cerememory.config.sources import Loaded
from cerememory.config.sources import load as load_sources

NOTHING: Mapping[str, object] = MappingProxyType({})


def load(options: Options, overrides: Mapping[str, object] = NOTHING, *, only: Collection[str] = ()) -> Loaded:
    """The settings, with `overrides` of the command line by dotted name. Raises `ConfigInvalid`.

    `only` names the keys that a command uses, when it should work whatever is wrong with the others.
    """
    told = {"data_dir": options.data_dir, **overrides}
    return load_sources(options.config, os.environ, told, only=only)
