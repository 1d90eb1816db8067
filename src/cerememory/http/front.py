"""The Quart-Trio application: finds the route of a request and renders errors of routing in our envelope.

The gate has done everything that concerns all requests, and has read the body; Quart's own limits, timeouts,
sessions and error pages are off.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import quart
from quart_trio import QuartTrio
from werkzeug.exceptions import MethodNotAllowed, NotFound

from cerememory.errors import CerememoryError, NoRoute, WrongMethod
from cerememory.http.exchange import Exchange, Response
from cerememory.http.routes import Call, Route

EXCHANGE = "cerememory.exchange"  # where the gate leaves it in the ASGI scope's state
BODY = "cerememory.body"
_PART = re.compile(r"\{(\w+)\}")


def build(routes: list[Route], answer_error: Callable[[Exchange, CerememoryError], Response]) -> QuartTrio:
    """The application of `routes`; a known error is answered by `answer_error`, any other leaves it."""
    app = QuartTrio("cerememory", static_folder=None)
    app.config.update(MAX_CONTENT_LENGTH=None, BODY_TIMEOUT=None, RESPONSE_TIMEOUT=None, PROPAGATE_EXCEPTIONS=True)
    app.url_map.merge_slashes = False  # a redirect would be a page of HTML
    for route in routes:
        app.add_url_rule(
            _PART.sub(r"<\1>", route.path),
            f"{route.method} {route.path}",
            _view(route),
            methods=[route.method],
            provide_automatic_options=False,
        )

    async def on_error(error: Exception) -> quart.Response:
        return _quart_response(answer_error(_exchange(), _known(error)))

    for kind in (NotFound, MethodNotAllowed, CerememoryError):
        app.register_error_handler(kind, on_error)
    return app


def _view(route: Route) -> Any:
    async def view(**params: str) -> quart.Response:
        exchange = _exchange()
        route.check(exchange.grant)  # the gate may have found another for an odd path, or for HEAD
        body: bytes = quart.request.scope["state"][BODY]
        return _quart_response(await route.handler(Call(exchange, body, params)))

    return view


def _exchange() -> Exchange:
    exchange: Exchange = quart.request.scope["state"][EXCHANGE]
    return exchange


def _quart_response(response: Response) -> quart.Response:
    made = quart.Response(response.body, status=response.status)
    made.headers.clear()
    for name, value in response.head():
        made.headers.add(name.decode("latin-1"), value.decode("latin-1"))
    return made


def _known(error: Exception) -> CerememoryError:
    """A routing error of Quart's as one of ours."""
    if isinstance(error, CerememoryError):
        return error
    method, path = quart.request.method[:32], quart.request.path[:256]
    if isinstance(error, MethodNotAllowed):
        allowed = tuple(sorted(set(error.valid_methods or ()) - {"OPTIONS"}))
        return WrongMethod(f"{path}: the method {method} isn't allowed here", allowed)
    return NoRoute(f"{method} {path}: no such route")
