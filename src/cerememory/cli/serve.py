"""`cerememory serve`: the daemon, from its configuration to the last released lock."""

from __future__ import annotations

import errno
import gc
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from typing import Annotated

import structlog
import trio
from cyclopts import Parameter
from cyclopts.validators import Number

from cerememory import __version__, failpoints
from cerememory.actors.assembly import open_storage, opened
from cerememory.actors.engine import Engine
from cerememory.cli.arguments import WholeNumber
from cerememory.cli.groups import ungrouped
from cerememory.cli.options import Options
from cerememory.cli.reload import Reloader
from cerememory.cli.settings import check_start, load
from cerememory.cli.turns import take
from cerememory.cli.watchdog import watch
from cerememory.config.settings import Settings
from cerememory.config.sources import Loaded
from cerememory.errors import ConfigInvalid
from cerememory.grpc.tls import tls_context
from cerememory.http.gate import Gate
from cerememory.http.routes import Routes
from cerememory.http.server import Server, bind
from cerememory.mcp.endpoint import Endpoint
from cerememory.protocol.records import STORES
from cerememory.storage.api_keys import KeyFile, usable
from cerememory.storage.audit_loss import accept_loss
from cerememory.storage.datadir import DataDir
from cerememory.telemetry import logs
from cerememory.telemetry.log_files import LogFiles
from cerememory.telemetry.metrics import Metrics
from cerememory.telemetry.sd_notify import Notifier

GARBAGE_YOUNG, GARBAGE_OLDER = 10_000, 20  # Python: 700 and 10
OPTIONS = {"http.port": "--port", "grpc.port": "--grpc-port"}
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
Service = tuple[Callable[..., Awaitable[None]], socket.socket]  # what serves, and where it listens
SWITCH_INTERVAL_S = 0.0005  # the writer's thread shouldn't wait 5 ms for the loop to give the interpreter away


def command(
    *,
    port: WholeNumber | None = None,
    grpc_port: WholeNumber | None = None,
    workers: Annotated[WholeNumber, Parameter(validator=Number(gte=1))] = 1,
    accept_audit_loss: bool = False,
    options: Annotated[Options, Parameter(parse=False)],
) -> None:
    """Run the daemon.

    Args:
        port: TCP port of the HTTP service (http.port).
        grpc_port: TCP port of the gRPC service (grpc.port).
        workers: Processes that serve.
        accept_audit_loss: Go on with an audit log that doesn't verify; what was found is set aside and recorded.
    """
    if workers > 1:
        raise ConfigInvalid("--workers: this version can't do that yet; leave it out")
    read = partial(load, options, {"http.port": port, "grpc.port": grpc_port})
    serve(read, os.environ, accept_audit_loss=accept_audit_loss)


def serve(read: Callable[[], Loaded], environ: Mapping[str, str], *, accept_audit_loss: bool = False) -> None:
    """Serve until SIGTERM or SIGINT; at SIGHUP `read` the configuration again.

    Raises `StartRefused` when the daemon may not start.
    """
    loaded = read()
    settings = loaded.settings
    check_start(loaded, for_serve=True)
    if failpoints.arm_from(environ) and settings.auth.enabled:
        raise ConfigInvalid(f"{failpoints.VARIABLE}: is for tests, and refused together with auth.enabled")
    tls_context(settings.grpc)  # before anything is touched
    logs.configure(settings.log.level, settings.log.format)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    with ungrouped(), take(settings.data_dir, _say) as directory:
        if accept_audit_loss and settings.security.audit_log_enabled:
            _accept_audit_loss(settings, directory)
        trio.run(_serve, read, loaded, directory)


def _say(message: str) -> None:
    """To whoever waits for the daemon, before it serves anybody."""
    structlog.get_logger(__name__).warning(message)
    Notifier.of(os.environ).status(message)


def _accept_audit_loss(settings: Settings, directory: DataDir) -> None:
    log, keys = settings.security.audit_log_path, settings.security.audit_key_path
    with closing(open_storage(settings, directory)) as storage:
        reason = accept_loss(storage, log, keys, time.time_ns())
    if reason is not None:
        structlog.get_logger(__name__).warning("audit loss accepted, and recorded", path=str(log), reason=reason)


async def _serve(read: Callable[[], Loaded], loaded: Loaded, directory: DataDir) -> None:
    settings = loaded.settings
    address = f"{settings.http.bind_address}:{settings.http.port}"
    listening = _listen("http.port", settings.http.bind_address, settings.http.port)
    directory.announce(address)
    metrics = Metrics([store.value for store in STORES])
    token = directory.make_token() if settings.auth.enabled else None
    async with opened(settings, directory, metrics) as engine:
        routes = Routes(engine, metrics if settings.http.metrics_enabled else None, Endpoint(engine).answer)
        gate = Gate(settings, routes, metrics, token, KeyFile(settings.data_dir))
        services: list[Service] = [(Server(gate, settings).serve, listening)]
        if settings.grpc.port is not None:
            services.append(_grpc(settings, settings.grpc.port, engine, routes, gate, metrics))
        announce = partial(_banner, loaded, address)
        notifier = Notifier.of(os.environ)
        reloader = Reloader(read, settings, gate, LogFiles(), notifier)
        await _until_signalled(services, engine, announce, reloader, notifier)


def _listen(key: str, address: str, port: int) -> socket.socket:
    try:
        return bind(address, port)
    except OSError as error:
        hint = f"; {OPTIONS[key]} takes another" if error.errno == errno.EADDRINUSE else ""
        raise ConfigInvalid(f"{key}: {address}:{port} can't be listened on: {error.strerror}{hint}") from None


def _grpc(settings: Settings, port: int, engine: Engine, routes: Routes, gate: Gate, metrics: Metrics) -> Service:
    from cerememory.grpc.service import GrpcService  # most daemons have no use for it

    service = GrpcService(settings, engine, routes, gate.admission, metrics)
    return service.serve, _listen("grpc.port", settings.http.bind_address, port)


async def _until_signalled(
    services: list[Service],
    engine: Engine,
    announce: Callable[[Engine], None],
    reloader: Reloader,
    notifier: Notifier,
) -> None:
    stop, had_terminal = trio.Event(), sys.stderr.isatty()
    with _signals() as signals:  # before anybody is told
        async with trio.open_nursery() as nursery:
            for serve_on, listening in services:
                await nursery.start(serve_on, listening, stop)
            announce(engine)
            notifier.ready("serving")
            _spare_the_collector()
            async with trio.open_nursery() as watching:
                watching.start_soon(watch, engine, notifier)
                watching.start_soon(engine.keep_measuring)
                await _until_stopped(signals, reloader, had_terminal)
                watching.cancel_scope.cancel()
            notifier.stopping("finishing what is under way")
            engine.drain()
            stop.set()


@contextmanager
def _signals() -> Iterator[AsyncIterator[int]]:
    """Signals, as long as the block lasts. Those that come later change nothing: the daemon is stopping already,
    in order, and in bounded time.
    """
    passed: set[int] = set()
    for each in SIGNALS:
        signal.signal(each, lambda number, _frame: passed.add(number))
    with trio.open_signal_receiver(*SIGNALS) as signals:
        for number in [*passed]:  # which came before there was a receiver
            signal.raise_signal(number)
        yield signals


async def _until_stopped(signals: AsyncIterator[int], reloader: Reloader, had_terminal: bool) -> None:
    """SIGHUP is a wish to reload, unless it came of a terminal that was closed."""
    while await anext(signals) == signal.SIGHUP:
        if had_terminal and not sys.stderr.isatty():
            _leave_terminal()
            return
        await reloader.reload()


def _leave_terminal() -> None:
    """It was closed, and whatever is still said goes nowhere, instead of failing."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for fd in (sys.stdout.fileno(), sys.stderr.fileno()):
        os.dup2(nowhere, fd)
    os.close(nowhere)


def _spare_the_collector() -> None:
    """What the start has made stays for the process's life: it needn't be looked at again and again. And requests
    leave few cycles, so that the collector may come less often.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_YOUNG, GARBAGE_OLDER, GARBAGE_OLDER)


def _grpc_line(settings: Settings) -> list[str]:
    """In front of the last line: who has read that one can ask."""
    if settings.grpc.port is None:
        return []
    how = "without TLS" if settings.grpc.tls_cert_path is None else "with TLS"
    return [f"  gRPC    {settings.http.bind_address}:{settings.grpc.port}, {how}"]


def _banner(loaded: Loaded, address: str, engine: Engine) -> None:
    """What runs here: where its data is, how many records it holds, where it listens."""
    settings = loaded.settings
    stored = usable(settings.data_dir, time.time_ns()) if settings.auth.enabled else ()
    keys = len(settings.auth.api_keys) + len(stored)
    lines = [
        f"Cerememory v{__version__}",
        f"  Data    {settings.data_dir.absolute()} ({engine.record_count()} records)",
        f"  Config  {loaded.config_path or 'defaults'}",
        f"  LLM     {settings.llm.provider}",
        f"  Auth    {f'enabled ({keys} key(s))' if settings.auth.enabled else 'disabled'}",
        *_grpc_line(settings),
        f"  HTTP    listening on {address}",
    ]
    print("\n".join(lines), flush=True)
