"""Where a command's memories are: in the daemon that owns the data dir, in another one, or on the disk.

`connect` finds out and gives a `Memory`; a command asks it and can't tell which it is. With a `--server-url`
it is that daemon. Else the data dir decides: its running owner is asked, with the key that the owner left
there for local commands; without an owner the command owns it for as long as it works.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

from cerememory.cli.options import KEY_VARIABLE, Options, UsageError, server_key
from cerememory.cli.settings import check_start, load
from cerememory.client import Client
from cerememory.client.archives import ArchiveStream
from cerememory.errors import DataDirLocked, Unauthorized
from cerememory.storage.datadir import Owner, owner_of, read_token

RETRY_FOR_S = 2.0  # somebody waits for the answer; a daemon that restarts is back by then
ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class Memory(Protocol):
    def call(
        self, operation_name: str, body: object | None = None, *, path_params: Mapping[str, str] | None = None
    ) -> Any:
        """The decoded JSON answer of an operation, None when it has none. Raises what the operation does."""
        ...

    def export_archive(self, request: Mapping[str, Any], /) -> AbstractContextManager[ArchiveStream]:
        """The archive that an export request asks for, to be read inside the block."""
        ...

    def import_archive(self, chunks: Iterable[bytes], size_bytes: int, terms: Mapping[str, Any], /) -> Any:
        """The reply to an archive of `size_bytes`, typed or as JSON; `terms` as in an import request."""
        ...


def connect(options: Options) -> AbstractContextManager[Memory]:
    """Raises `StartRefused` when the data dir can't be used, `UsageError` for options that contradict."""
    if options.server_url is not None:
        if options.offline:
            raise UsageError("--server-url and --offline exclude each other")
        key = server_key(options.server_api_key_file)
        return _keyed(Client(options.server_url, key, retry_for_s=RETRY_FOR_S, namespace=options.namespace))
    loaded = load(options)
    check_start(loaded, for_serve=False)
    path = loaded.settings.data_dir
    owner = None if options.offline else owner_of(path)
    if owner is not None:
        return _ask_owner(path, owner, options)
    from cerememory.cli.offline import offline  # here, for it loads the whole daemon

    return offline(loaded.settings, options.namespace, is_verbose=options.verbose)


def _ask_owner(path: Path, owner: Owner, options: Options) -> AbstractContextManager[Memory]:
    if not owner.address:
        raise DataDirLocked(f"{path}: in use by {owner}, a command; try again when it is done")
    key = read_token(path) or server_key(options.server_api_key_file)
    return _keyed(Client(server_url(owner.address), key, namespace=options.namespace))


@contextmanager
def _keyed(client: Client) -> Iterator[Memory]:
    """A daemon that wants another key is answered to with where a command takes it from."""
    try:
        with client:
            yield client
    except Unauthorized as error:
        error.add_note(f"the key is that of --server-api-key-file, else of {KEY_VARIABLE}")
        raise


def server_url(address: str) -> str:
    """The URL by which this machine reaches what listens on `address` (`host:port`)."""
    host, _, port = address.rpartition(":")
    host = ANY_ADDRESS.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
