"""CMP over HTTP from the caller's side, for threads. `async_client` is the same for event loops.

A failed try is repeated when repeating can't do harm: reads always; writes, for they carry an Idempotency-Key,
which the daemon answers with the first result however often they come; anything at all when the request never
left. What a request is, what an answer means and when a try is repeated stands in modules without I/O, which both
clients share; here is what sends, waits and receives. It loads no more than h11 and the codec, so that a process
that only asks a daemon starts fast.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from cerememory.client.answers import is_ok
from cerememory.client.archives import ArchiveStream, BinaryReader, pieces_of
from cerememory.client.asks import Ask
from cerememory.client.connections import Connection, ConnectionPool
from cerememory.client.operations import Operations
from cerememory.client.patience import Patience
from cerememory.client.replies import imported_as
from cerememory.client.session import CONNECT_TIMEOUT_S, Session
from cerememory.client.wire import ANSWER_BYTES_MAX, Broken, Head, HttpAnswer, HttpRequest
from cerememory.errors import Overloaded
from cerememory.protocol.replies import Imported
from cerememory.protocol.requests import Export, ImportTerms

if TYPE_CHECKING:
    import ssl

R = TypeVar("R")


class Client(Operations):
    """A daemon's operations; usable from any thread, and as a context manager that closes it.

    `timeout_s` limits a whole call with its retries (None: no limit), `connect_timeout_s` each connection.
    `retry_for_s` limits how long after a first failure new tries start; None stands for what `timeout_s`
    leaves, or 10 s; 0 for a single try. `namespace` None is the daemon's default one. `tls` says whom an https://
    URL trusts, None for whom the system does. `clock` gives seconds from any start, `wait` waits for seconds,
    `chance` gives the jitter (0 to 1). Raises `ValidationFailed` for a URL, key or namespace that can't be used.

    Every call raises the class of the daemon's error (`cerememory.errors`) with its message, `code`, `request_id`,
    `details` and `retry_after_s`; `DaemonBusy` for the daemon's reasons to be busy; `DaemonUnreachable` when no
    answer came in time.
    """

    def __init__(
        self,
        server_url: str,
        api_key: str | None = None,
        timeout_s: float | None = None,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        retry_for_s: float | None = None,
        *,
        namespace: str | None = None,
        tls: ssl.SSLContext | None = None,
        chance: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], object] | None = None,
    ) -> None:
        self._session = Session(server_url, api_key, timeout_s, retry_for_s, namespace, chance)
        self._connections = ConnectionPool(self._session.caller.address, connect_timeout_s, tls)
        self._closing = threading.Event()
        self._clock = clock
        self._wait = self._closing.wait if wait is None else wait

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends retries and closes idle connections; a call under way keeps its own until it is done."""
        self._closing.set()
        self._connections.close()

    @property
    def url(self) -> str:
        return self._session.caller.address.url

    @property
    def namespace(self) -> str | None:
        """What its calls are about; None for the daemon's default."""
        return self._session.caller.namespace

    @property
    def sequence(self) -> int | None:
        """The commit number of the newest write that it was acknowledged; None before the first."""
        return self._session.sequence

    @property
    def connections_opened(self) -> int:
        """How many there have been; it grows when a daemon comes back, and when calls are made at once."""
        return self._connections.opened

    def call(
        self,
        operation_name: str,
        body: object | None = None,
        *,
        path_params: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """The decoded JSON answer of an operation, None when it has none; the methods by name are typed.

        `body` is anything that the codec dumps.
        """
        ask = Ask(operation_name, body, path_params or {}, query or {}, idempotency_key, headers or {})
        return self._tried(ask, self._session.answers.json)

    @contextmanager
    def export_archive(self, request: Export | Mapping[str, Any] | None = None) -> Iterator[ArchiveStream]:
        """The archive that is asked for, to be read inside the block.

        `timeout_s` is for what comes before it, and for each part anew.
        """
        sent = self._session.caller.export(request)
        with ExitStack() as stack:
            connection, head = self._patiently(
                lambda patience: self._begin(self._ready(sent, patience), patience, stack)
            )
            archive = self._session.answers.archive(head)
            yield ArchiveStream(**archive.described(), chunks=iter(lambda: self._part(connection), b""))

    def import_archive(
        self,
        source: Iterable[bytes] | BinaryReader,
        size_bytes: int | None,
        terms: ImportTerms | Mapping[str, Any],
        *,
        idempotency_key: str | None = None,
    ) -> Imported:
        """Send an archive, once: a binary file, or pieces of it, that has `size_bytes` (None: not known).

        The reply to a dry run is an `ImportPlanned`.
        """
        sent = self._session.caller.import_(terms, size_bytes, idempotency_key)
        patience = self._session.patience(self._clock)
        answer = self._exchange(sent, patience, pieces_of(source))
        return self._session.answers.reply(answer, imported_as(terms))

    def audit_checkpoint(self) -> bytes:
        """The daemon's checkpoint of its audit log, as it signed it; tried once."""
        return self._session.answers.body(self._look("/v1/audit/checkpoint"))

    def audit_consistency(self, old: int, new: int) -> tuple[bytes, ...]:
        """The hashes that are to prove that the log of `new` entries begins with the `old`; tried once."""
        return self._session.answers.consistency(self._look(f"/v1/audit/proof?old={old}&new={new}"))

    def _ask(self, ask: Ask, kind: type[R]) -> R:
        return self._tried(ask, lambda answer: self._session.answers.reply(answer, kind))

    def _tell(self, ask: Ask) -> None:
        self._tried(ask, self._session.answers.body)

    def _tried(self, ask: Ask, read: Callable[[HttpAnswer], R]) -> R:
        request = self._session.caller.request(ask)
        return self._patiently(lambda patience: read(self._exchange(self._ready(request, patience), patience)))

    def _ready(self, request: HttpRequest, patience: Patience) -> HttpRequest:
        """What is sent for `request`, called for each try; what it raises is how the try failed.

        `patience` is the call's, which goes on meanwhile.
        """
        return request

    def _look(self, target: str) -> HttpAnswer:
        return self._exchange(self._session.caller.look(target), self._session.brief_patience(self._clock))

    def _patiently(self, attempt: Callable[[Patience], R]) -> R:
        """What `attempt` returns, tried again as long as there is time."""
        patience = self._session.patience(self._clock)
        while True:
            try:
                return attempt(patience)
            except Overloaded as error:
                self._session.note_refusal(error)
                pause_s = patience.pause_after(error)
                if pause_s is None or self._closing.is_set():
                    raise
            self._wait(pause_s)

    def _exchange(self, request: HttpRequest, patience: Patience, pieces: Iterable[bytes] = ()) -> HttpAnswer:
        with self._lent(request, patience) as connection:
            try:
                answer = connection.perform(connection.http.exchange(request), patience, pieces)
            except Broken as broken:
                raise self._session.answers.none_came(broken) from None
        self._session.note(answer.head)
        return answer

    def _begin(self, request: HttpRequest, patience: Patience, stack: ExitStack) -> tuple[Connection, Head]:
        """An answer of which only the head was read; its connection is given back when `stack` is closed."""
        with ExitStack() as attempt:
            connection = attempt.enter_context(self._lent(request, patience))
            try:
                head = connection.perform(connection.http.ask(request), patience)
                if not is_ok(head):
                    body = connection.perform(connection.http.rest(ANSWER_BYTES_MAX), patience)
                    self._session.answers.body(HttpAnswer(head, body))
            except Broken as broken:
                raise self._session.answers.none_came(broken) from None
            stack.push(attempt.pop_all())
        return connection, head

    def _part(self, connection: Connection) -> bytes:
        try:
            return connection.perform(connection.http.part(), self._session.patience(self._clock))
        except Broken as broken:
            raise self._session.answers.archive_broke_off(broken) from None

    def _lent(self, request: HttpRequest, patience: Patience) -> AbstractContextManager[Connection]:
        """A kept connection may break under the request, so one that can't be repeated gets its own."""
        return self._connections.lent(patience, is_new=not request.is_repeatable)
