"""Where a command's memories are: in the daemon that owns the data dir, in another one, or on the disk.

`connect` finds out and gives a `Memory`; a command asks it and can't tell which it is. With a `--server-url`
it is that daemon. Else the data dir decides: its running owner is asked, with the key that the owner left
there for local commands; without an owner the command owns it for as long as it works. An owner that is a
command itself is waited for: it lasts a moment.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cerememory.cli.options import KEY_VARIABLE, Options, UsageError, server_key
from cerememory.cli.output import note
from cerememory.cli.settings import check_start, load
from cerememory.cli.turns import take, take_unless_served
from cerememory.client import Client
from cerememory.client.archives import ArchiveStream
from cerememory.errors import Unauthorized
from cerememory.protocol.namespaces import check_name
from cerememory.storage.datadir import Owner, check_is_there, owner_of, read_token

if TYPE_CHECKING:
    from cerememory.config.settings import Settings

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


def connect(options: Options, *, creates: bool = False) -> AbstractContextManager[Memory]:
    """Raises `StartRefused` when the data dir can't be used, `UsageError` for options that contradict.

    Entering waits for other commands that own the data dir, as `turns.take` does. `creates`: a data dir that
    isn't there is made, for what brings data in; without it, it raises `DataDirUnusable`.
    """
    if options.server_url is not None:
        if options.offline:
            raise UsageError("--server-url and --offline exclude each other")
        key = server_key(options.server_api_key_file)
        return _keyed(Client(options.server_url, key, retry_for_s=RETRY_FOR_S, namespace=options.namespace))
    loaded = load(options)
    check_start(loaded, for_serve=False)
    path = loaded.settings.data_dir
    if options.namespace is not None:
        check_name(options.namespace)
    if not creates:
        check_is_there(path)
    owner = None if options.offline else owner_of(path)
    if owner is not None and owner.address:
        return _ask_daemon(path, owner, options)
    return _own(loaded.settings, options)


def _ask_daemon(path: Path, daemon: Owner, options: Options) -> AbstractContextManager[Memory]:
    key = read_token(path) or server_key(options.server_api_key_file)
    return _keyed(Client(server_url(daemon.address), key, namespace=options.namespace))


@contextmanager
def _own(settings: Settings, options: Options) -> Iterator[Memory]:
    """The data dir itself; or the daemon that came to own it while it was waited for."""
    from cerememory.cli.offline import offline  # here, for it loads the whole daemon

    path = settings.data_dir
    taken = take(path, note) if options.offline else take_unless_served(path, note)
    if isinstance(taken, Owner):
        with _ask_daemon(path, taken, options) as memory:
            yield memory
    else:
        with offline(settings, taken, options.namespace, is_verbose=options.verbose) as memory:
            yield memory


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
