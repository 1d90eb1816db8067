"""Where a command's memories are: in the daemon that owns the data dir, in another one, or on the disk.

`connect` finds out and gives a `Memory`; a command asks it and can't tell which it is. With a `--server-url`
it is that daemon. Else the data dir decides: its running owner is asked, with the key that the owner left
there for local commands; without an owner the command owns it for as long as it works. An owner that is a
command itself is waited for: it lasts a moment.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cerememory.cli.options import KEY_VARIABLE, Options, UsageError, server_key
from cerememory.cli.output import note
from cerememory.cli.settings import check_start, load
from cerememory.cli.turns import take, take_unless_served
from cerememory.client import Client
from cerememory.client.address import parse_address
from cerememory.client.archives import ArchiveStream
from cerememory.client.patience import RETRY_FOR_S
from cerememory.client.probe import get
from cerememory.errors import Unauthorized
from cerememory.protocol.deadlines import OPERATION_S, SERIES_S, deadline_s
from cerememory.protocol.namespaces import check_name
from cerememory.storage.datadir import Owner, check_is_there, owner_of, read_token

if TYPE_CHECKING:
    from cerememory.config.settings import Settings

REMOTE_RETRY_FOR_S = 2.0  # somebody waits for the answer; a daemon that restarts is back by then
LATER_S = 5.0  # than the daemon itself gives up an operation: then it hangs
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
        return _keyed(Daemon(options.server_url, key, REMOTE_RETRY_FOR_S, options.namespace))
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
    return _keyed(Daemon(server_url(daemon.address), key, RETRY_FOR_S, options.namespace))


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


class Daemon:
    """A daemon that is waited for as long as it may work on an operation, and no longer: it may hang.

    Of an import nobody knows how long it takes, so whether the daemon lives is asked before it, once. Arguments as
    of `Client`.
    """

    def __init__(self, url: str, key: str | None, retry_for_s: float, namespace: str | None) -> None:
        self._url = url
        self._clients: dict[float | None, Client] = {}
        self._made = partial(Client, url, key, retry_for_s=retry_for_s, namespace=namespace)
        self._within(OPERATION_S)  # raises what is wrong with the arguments

    def call(
        self, operation_name: str, body: object | None = None, *, path_params: Mapping[str, str] | None = None
    ) -> Any:
        client = self._within(deadline_s(operation_name))
        return client.call(operation_name, body, path_params=path_params)

    def export_archive(self, request: Mapping[str, Any]) -> AbstractContextManager[ArchiveStream]:
        return self._within(SERIES_S).export_archive(request)

    def import_archive(self, chunks: Iterable[bytes], size_bytes: int, terms: Mapping[str, Any]) -> Any:
        get(parse_address(self._url), "/health")
        return self._within(None).import_archive(chunks, size_bytes, terms)

    def close(self) -> None:
        for client in self._clients.values():
            client.close()

    def _within(self, limit_s: float | None) -> Client:
        if limit_s not in self._clients:
            self._clients[limit_s] = self._made(timeout_s=None if limit_s is None else limit_s + LATER_S)
        return self._clients[limit_s]


@contextmanager
def _keyed(daemon: Daemon) -> Iterator[Memory]:
    """A daemon that wants another key is answered to with where a command takes it from."""
    try:
        with closing(daemon):
            yield daemon
    except Unauthorized as error:
        error.add_note(f"the key is that of --server-api-key-file, else of {KEY_VARIABLE}")
        raise


def server_url(address: str) -> str:
    """The URL by which this machine reaches what listens on `address` (`host:port`)."""
    host, _, port = address.rpartition(":")
    host = ANY_ADDRESS.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
