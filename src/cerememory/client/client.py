"""CMP over HTTP from the caller's side: one method, `call`, for every operation of the protocol.

It owns retries and idempotency keys; connections are `connections`, their errors' classes `errors`. It is
synchronous and stands on the standard library alone, so that a process that only asks a daemon starts fast.

A failed try is repeated when repeating can't do harm: reads always; writes that carry an Idempotency-Key,
which the daemon answers with the first result however often they come; anything at all when the request never
left. Encode operations get a key of their own when the caller gives none.
"""

from __future__ import annotations

import http.client
import random
import socket
import ssl
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar
from urllib.parse import quote, urlencode

import msgspec

import cerememory
from cerememory.client.address import check_api_key, parse_address
from cerememory.client.archives import ARCHIVE_PATH, ArchiveStream, archive_in, import_head
from cerememory.client.connections import ConnectionPool
from cerememory.client.errors import HTTP_STATUS, error_of
from cerememory.client.patience import Patience
from cerememory.errors import ContentTooLarge, DaemonUnreachable, Overloaded, ValidationFailed
from cerememory.protocol import codec
from cerememory.protocol.namespaces import HEADER, check_name
from cerememory.protocol.operations import BY_NAME, Operation
from cerememory.protocol.replies import AuditConsistency

R = TypeVar("R")
CONNECT_TIMEOUT_S = 10.0
LOOK_S = 10.0  # for a look at the audit log, which nobody waits for
ANSWER_BYTES_MAX = 512 * 1_048_576
_PART_BYTES = 65_536


class _Request(NamedTuple):
    """What goes over the wire, the same bytes at every try."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes | Iterable[bytes] | None
    is_repeatable: bool = True  # also a write, for it has an idempotency key; but not one whose body is a stream


class _Answer(NamedTuple):
    status: int
    retry_after: str | None
    body: bytes


class Client:
    """A daemon's operations; usable from any thread, and as a context manager that closes it.

    `timeout_s` limits a whole call with its retries (None: no limit), `connect_timeout_s` each connection.
    `retry_for_s` limits how long after a first failure new tries start; None stands for what `timeout_s`
    leaves, or 10 s; 0 for a single try. `namespace` None is the daemon's default one. `clock` gives seconds from
    any start, `wait` waits for seconds, `chance` gives the jitter (0 to 1). Raises `ValidationFailed` for a URL,
    key or namespace that can't be used.
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
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], object] | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._address = parse_address(server_url)
        check_api_key(api_key, self._address)
        if namespace is not None:
            check_name(namespace)
        self._api_key = api_key
        self._timeout_s = timeout_s
        self._retry_for_s = retry_for_s
        self._namespace = namespace
        self._connections = ConnectionPool(self._address, connect_timeout_s)
        self._closing = threading.Event()
        self._clock = clock
        self._wait = self._closing.wait if wait is None else wait
        self._chance = chance

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
        """The decoded JSON answer of an operation, None when it has none.

        `body` is anything that the codec dumps. Raises the class of the daemon's error with its message,
        details and `retry_after_s`; `DaemonBusy` for its reasons to be busy; `DaemonUnreachable` when no
        answer came in time.
        """
        operation = BY_NAME[operation_name]
        request = self._request(operation, body, path_params or {}, query or {}, idempotency_key, headers or {})
        return self._patiently(lambda patience: self._read(self._exchange(request, patience)))

    @contextmanager
    def export_archive(self, body: object) -> Iterator[ArchiveStream]:
        """The archive that an export request asks for, to be read inside the block. Raises what `call` does."""
        request = _Request(
            method="POST",
            target=self._address.prefix + ARCHIVE_PATH,
            headers=self._headers(True, None),
            body=codec.dump(body),
        )
        connection, response = self._patiently(lambda patience: self._begin(request, patience))
        with closing(connection), response:
            yield archive_in(response, self._address.url)

    def import_archive(self, chunks: Iterable[bytes], size_bytes: int, terms: Mapping[str, Any]) -> Any:
        """The decoded answer to an archive of `size_bytes`, sent once; `terms` as in an import request."""
        target, headers = import_head(terms, size_bytes)
        request = _Request(
            method="PUT",
            target=self._address.prefix + target,
            headers={**self._headers(False, None), **headers},
            body=chunks,
            is_repeatable=False,
        )
        patience = Patience(self._timeout_s, self._retry_for_s, self._clock, self._chance)
        return self._read(self._exchange(request, patience))

    @property
    def url(self) -> str:
        return self._address.url

    @property
    def namespace(self) -> str | None:
        """What its calls are about; None for the daemon's default."""
        return self._namespace

    @property
    def connections_opened(self) -> int:
        """How many there have been; it grows when a daemon comes back, and when calls are made at once."""
        return self._connections.opened

    def audit_checkpoint(self) -> bytes:
        """The daemon's checkpoint of its audit log, as it signed it; tried once. Raises what `call` does."""
        return self._look_at("/v1/audit/checkpoint")

    def audit_consistency(self, old: int, new: int) -> tuple[bytes, ...]:
        """The hashes that are to prove that the log of `new` entries begins with the `old`; tried once."""
        proof = codec.parse(self._look_at(f"/v1/audit/proof?old={old}&new={new}"), AuditConsistency)
        try:
            return tuple(bytes.fromhex(text) for text in proof.hashes)
        except ValueError:
            raise ValidationFailed("hashes: not hex") from None

    def _look_at(self, target: str) -> bytes:
        request = _Request("GET", self._address.prefix + target, self._headers(False, None), None)
        answer = self._exchange(request, Patience(LOOK_S, 0.0, self._clock, self._chance))
        if answer.status != http.HTTPStatus.OK:
            raise error_of(answer.status, answer.body, answer.retry_after, self._address.url)
        return answer.body

    def _patiently(self, attempt: Callable[[Patience], R]) -> R:
        """What `attempt` returns, tried again as long as there is time."""
        patience = Patience(self._timeout_s, self._retry_for_s, self._clock, self._chance)
        while True:
            try:
                return attempt(patience)
            except Overloaded as error:
                pause_s = _pause_s(error, patience)
                if pause_s is None or self._closing.is_set():
                    raise
            self._wait(pause_s)

    def _request(
        self,
        operation: Operation,
        body: object | None,
        path_params: Mapping[str, str],
        query: Mapping[str, str],
        idempotency_key: str | None,
        headers: Mapping[str, str],
    ) -> _Request:
        if idempotency_key is None and operation.mutates:
            idempotency_key = str(uuid.uuid4())
        path = operation.path.format_map({name: quote(value, safe="") for name, value in path_params.items()})
        return _Request(
            method=operation.method,
            target=self._address.prefix + path + (f"?{urlencode(query)}" if query else ""),
            headers={**self._headers(body is not None, idempotency_key), **headers},
            body=None if body is None else codec.dump(body),
        )

    def _headers(self, has_body: bool, idempotency_key: str | None) -> dict[str, str]:
        headers = {"Accept": "application/json", "User-Agent": f"cerememory/{cerememory.__version__}"}
        if has_body:
            headers["Content-Type"] = "application/json"
        if self._api_key is not None:
            headers["Authorization"] = f"Bearer {self._api_key}"
        if self._namespace is not None:
            headers[HEADER] = self._namespace
        if idempotency_key is not None:
            headers["Idempotency-Key"] = idempotency_key
        return headers

    def _exchange(self, request: _Request, patience: Patience) -> _Answer:
        connection = self._connect(request, patience)
        is_reusable = False
        try:
            answer, is_reusable = _converse(connection, request, patience)
            return answer
        except (OSError, http.client.HTTPException) as error:
            message = f"{self._address.url} gave no answer: {_reason(error)}"
            raise DaemonUnreachable(message, was_sent=True) from error
        finally:
            if is_reusable:
                self._connections.give_back(connection)
            else:
                connection.close()

    def _begin(
        self, request: _Request, patience: Patience
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """An answer of which only the head was read, on a connection of its own."""
        connection = self._connect(request, patience)
        sock = connection.sock  # which the connection gives up, to an answer that is the last one
        try:
            sock.settimeout(patience.remaining_s())
            connection.request(request.method, request.target, body=request.body, headers=request.headers)
            response = connection.getresponse()
            if response.status != http.HTTPStatus.OK:
                body = _read_body(response, sock, patience)
                self._read(_Answer(response.status, response.getheader("Retry-After"), body))
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise DaemonUnreachable(
                f"{self._address.url} gave no answer: {_reason(error)}", was_sent=True
            ) from error
        except BaseException:
            connection.close()
            raise
        return connection, response

    def _connect(self, request: _Request, patience: Patience) -> http.client.HTTPConnection:
        """A kept connection may break under the request, so one that can't be repeated gets its own."""
        connect = self._connections.take if request.is_repeatable else self._connections.open
        try:
            return connect(patience.remaining_s())
        except ssl.SSLCertVerificationError as error:
            message = f"server_url: {self._address.url} isn't trusted: {error.verify_message}"
            raise ValidationFailed(message) from error
        except OSError as error:
            raise DaemonUnreachable(
                f"{self._address.url} can't be reached: {_reason(error)}; is the daemon running?",
                was_sent=False,
            ) from error

    def _read(self, answer: _Answer) -> Any:
        if not 200 <= answer.status < 300:
            raise error_of(answer.status, answer.body, answer.retry_after, self._address.url)
        if not answer.body:
            return None
        try:
            return msgspec.json.decode(answer.body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            message = f"server_url: {self._address.url} answered with what isn't JSON; is it a Cerememory daemon?"
            raise ValidationFailed(message, details={HTTP_STATUS: answer.status}) from None


def _pause_s(error: Overloaded, patience: Patience) -> float | None:
    """How long to wait before a request is tried again after `error`; None for "not again"."""
    if isinstance(error, DaemonUnreachable):  # which is no answer, and can't say when to come again
        return patience.pause_s(0.0)
    return patience.pause_s(float(error.retry_after_s or 0))


def _converse(
    connection: http.client.HTTPConnection, request: _Request, patience: Patience
) -> tuple[_Answer, bool]:
    """Sends `request` and reads the whole answer; with it, whether the connection can be used again."""
    sock = connection.sock
    sock.settimeout(patience.remaining_s())
    was_taken = False
    with suppress(BrokenPipeError, ConnectionResetError):  # an early refusal (413, 401) is there to be read
        connection.request(request.method, request.target, body=request.body, headers=request.headers)
        was_taken = True
    with connection.getresponse() as response:
        body = _read_body(response, sock, patience)
        answer = _Answer(response.status, response.getheader("Retry-After"), body)
        return answer, was_taken and not response.will_close


def _read_body(response: http.client.HTTPResponse, sock: socket.socket, patience: Patience) -> bytes:
    parts: list[bytes] = []
    size_bytes = 0
    while part := response.read1(_PART_BYTES):
        parts.append(part)
        size_bytes += len(part)
        if size_bytes > ANSWER_BYTES_MAX:
            raise ContentTooLarge(f"the answer is over {ANSWER_BYTES_MAX} bytes, ask for less at once")
        sock.settimeout(patience.remaining_s())  # the limit is on the call, not on each part
    if response.length:  # `read1` doesn't tell an early end
        raise http.client.IncompleteRead(b"", response.length)
    return b"".join(parts)


def _reason(error: OSError | http.client.HTTPException) -> str:
    if isinstance(error, TimeoutError):
        return "the time limit passed"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error) or type(error).__name__
