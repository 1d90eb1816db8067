"""CMP over HTTP from the caller's side, for event loops: asyncio and trio, through anyio.

What stands in `client` holds here, too. A call that is cancelled closes its connection; whether the daemon has
done what it was asked isn't known then, as after `DaemonUnreachable`, and with the same idempotency key it is safe
to ask again.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import anyio

from cerememory.client.answers import is_ok
from cerememory.client.archives import AsyncArchiveStream, AsyncBinaryReader, AsyncChunks, async_pieces_of
from cerememory.client.asks import Ask
from cerememory.client.async_connections import AsyncConnection, AsyncConnectionPool
from cerememory.client.async_operations import AsyncOperations
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


class AsyncClient(AsyncOperations):
    """A daemon's operations; for the tasks of one event loop, and as an async context manager that closes it.

    Arguments and errors are those of `Client`; time is the event loop's.
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
    ) -> None:
        self._session = Session(server_url, api_key, timeout_s, retry_for_s, namespace, chance)
        self._connections = AsyncConnectionPool(self._session.caller.address, connect_timeout_s, tls)
        self._closing = anyio.Event()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
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

    async def call(
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
        return await self._tried(ask, self._session.answers.json)

    @asynccontextmanager
    async def export_archive(
        self, request: Export | Mapping[str, Any] | None = None
    ) -> AsyncIterator[AsyncArchiveStream]:
        """The archive that is asked for, to be read inside the block.

        `timeout_s` is for what comes before it, and for each part anew.
        """
        sent = self._session.caller.export(request)
        async with AsyncExitStack() as stack:
            connection, head = await self._patiently(lambda patience: self._begin(sent, patience, stack))
            archive = self._session.answers.archive(head)
            chunks = AsyncChunks(lambda: self._part(connection))
            yield AsyncArchiveStream(**archive.described(), chunks=chunks)

    async def import_archive(
        self,
        source: AsyncIterable[bytes] | AsyncBinaryReader,
        size_bytes: int | None,
        terms: ImportTerms | Mapping[str, Any],
        *,
        idempotency_key: str | None = None,
    ) -> Imported:
        """Send an archive, once: a binary file, or pieces of it, that has `size_bytes` (None: not known).

        The reply to a dry run is an `ImportPlanned`.
        """
        sent = self._session.caller.import_(terms, size_bytes, idempotency_key)
        patience = self._session.patience(anyio.current_time)
        async with async_pieces_of(source) as pieces:
            answer = await self._exchange(sent, patience, pieces)
        return self._session.answers.reply(answer, imported_as(terms))

    async def audit_checkpoint(self) -> bytes:
        """The daemon's checkpoint of its audit log, as it signed it; tried once."""
        return self._session.answers.body(await self._look("/v1/audit/checkpoint"))

    async def audit_consistency(self, old: int, new: int) -> tuple[bytes, ...]:
        """The hashes that are to prove that the log of `new` entries begins with the `old`; tried once."""
        return self._session.answers.consistency(await self._look(f"/v1/audit/proof?old={old}&new={new}"))

    async def _ask(self, ask: Ask, kind: type[R]) -> R:
        return await self._tried(ask, lambda answer: self._session.answers.reply(answer, kind))

    async def _tell(self, ask: Ask) -> None:
        await self._tried(ask, self._session.answers.body)

    async def _tried(self, ask: Ask, read: Callable[[HttpAnswer], R]) -> R:
        request = self._session.caller.request(ask)

        async def attempt(patience: Patience) -> R:
            return read(await self._exchange(request, patience))

        return await self._patiently(attempt)

    async def _look(self, target: str) -> HttpAnswer:
        patience = self._session.brief_patience(anyio.current_time)
        return await self._exchange(self._session.caller.look(target), patience)

    async def _patiently(self, attempt: Callable[[Patience], Awaitable[R]]) -> R:
        """What `attempt` returns, tried again as long as there is time."""
        patience = self._session.patience(anyio.current_time)
        while True:
            try:
                return await attempt(patience)
            except Overloaded as error:
                self._session.note_refusal(error)
                pause_s = patience.pause_after(error)
                if pause_s is None or self._closing.is_set():
                    raise
            with anyio.move_on_after(pause_s):
                await self._closing.wait()

    async def _exchange(
        self, request: HttpRequest, patience: Patience, pieces: AsyncIterator[bytes] | None = None
    ) -> HttpAnswer:
        async with self._lent(request, patience) as connection:
            try:
                answer = await connection.perform(connection.http.exchange(request), patience, pieces)
            except Broken as broken:
                raise self._session.answers.none_came(broken) from None
        self._session.note(answer.head)
        return answer

    async def _begin(
        self, request: HttpRequest, patience: Patience, stack: AsyncExitStack
    ) -> tuple[AsyncConnection, Head]:
        """An answer of which only the head was read; its connection is given back when `stack` is closed."""
        async with AsyncExitStack() as attempt:
            connection = await attempt.enter_async_context(self._lent(request, patience))
            try:
                head = await connection.perform(connection.http.ask(request), patience)
                if not is_ok(head):
                    body = await connection.perform(connection.http.rest(ANSWER_BYTES_MAX), patience)
                    self._session.answers.body(HttpAnswer(head, body))
            except Broken as broken:
                raise self._session.answers.none_came(broken) from None
            stack.push_async_exit(attempt.pop_all())
        return connection, head

    async def _part(self, connection: AsyncConnection) -> bytes:
        try:
            return await connection.perform(connection.http.part(), self._session.patience(anyio.current_time))
        except Broken as broken:
            raise self._session.answers.archive_broke_off(broken) from None

    def _lent(self, request: HttpRequest, patience: Patience) -> AbstractAsyncContextManager[AsyncConnection]:
        """A kept connection may break under the request, so one that can't be repeated gets its own."""
        return self._connections.lent(patience, is_new=not request.is_repeatable)
