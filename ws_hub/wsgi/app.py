"""Turns a WSGI request into a client of the hub, or refuses it.

Runs on the server's request thread, once for each connection::

    environ ─> admission ─> the server's socket ─> adoption ─> hub.connect ─> start

A connection whose TLS the server itself ends cannot be adopted: it is borrowed, and the
request thread stays and is its reader. The answer is 501 when the server gives no socket,
and when its only thread would have to stay. Our own server (`ws_hub.serve`) gives its
socket and its thread: when the request has ended and its objects are freed, the thread
asks for admission, and reads what has come with the request.
"""

from __future__ import annotations

import contextlib
import dataclasses
import email.utils
import functools
import inspect
import logging
import os
import re
import socket
import ssl
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

from ..access.admission import Admission, Decision
from ..access.proxies import Requester
from ..config import HubConfig
from ..connection.adoption import Replacement, adopt, check_spare, dismiss, leave
from ..connection.connection import Connection
from ..connection.transport import Inherited
from ..errors import AdoptionError, ConfigError, excerpt
from ..log import get_logger
from ..origin import advice, is_of_file
from ..protocol.handshake import FOREIGN, RETRY, Answer, Request, refusal
from .missing import SERVES_NONE, is_script, tell_of_script, watched
from .servers import (
    DIRECT_KEY,
    LEND_KEY,
    Environ,
    check_may_stay,
    expects_failures,
    find_socket,
    log_once,
    look_at_processes,
    socket_of,
    take_input,
)
from .starter import Starter, StartingHub

__all__ = [
    "check_hub",
    "check_path",
    "closed_reason",
    "handle",
    "middleware",
    "mount",
    "request_of",
    "split_absolute",
    "start",
]

logger = get_logger(__name__)

_NO_THREAD = refusal("503 Service Unavailable", "no thread is free", RETRY)

StartResponse = Callable[..., Any]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]

_ABSOLUTE = re.compile(r"https?://([^/?]*)(.*)\Z", re.IGNORECASE | re.DOTALL)


class AcceptingHub(Protocol):
    """The methods of the hub that a handshake needs; see `Hub` for each."""

    @property
    def admission(self) -> Admission: ...

    @property
    def config(self) -> HubConfig: ...

    @property
    def running(self) -> bool: ...

    @property
    def draining(self) -> bool: ...

    @property
    def started(self) -> bool: ...

    def connect(
        self,
        sock: socket.socket,
        *,
        greeting: bytes = b"",
        remote_address: str = "",
        received: bytes | Inherited = b"",
        borrowed: bool = False,
        decision: Decision | None = None,
    ) -> Connection: ...


def handle(hub: AcceptingHub, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Accept a WebSocket connection for a hub, or answer with a refusal.

    Threads: a request thread, which it keeps for the whole connection where the server
    ends TLS (see `ws_hub.wsgi.app`).
    """
    _check_environ(environ)
    requester = hub.admission.requester(environ)
    decision = hub.admission.decide(
        request_of(environ, requester), environ, requester, closed=closed_reason(hub)
    )
    answer = decision.answer
    look_at_processes(environ, hub.config.backplane)
    if not answer.accepted:
        _advise(hub, answer, environ, decision.reason)
        return _refuse(answer, environ, requester, start_response, decision.reason)
    try:
        sock = find_socket(environ)
        if LEND_KEY in environ:
            check_spare(sock.fileno())
            environ[LEND_KEY](functools.partial(_connect, hub, sock, decision, requester))
            start_response(answer.status, [])
            return ()
        if isinstance(sock, ssl.SSLSocket):
            check_may_stay(environ)
            check_spare(sock.fileno())
            return _stay(hub, sock, decision, requester, environ, start_response)
        ours, replacement = adopt(sock.fileno(), broken=expects_failures(environ))
    except AdoptionError as error:
        log_once(str(error), str(error), logging.ERROR)
        answer = refusal("501 Not Implemented", str(error))
        return _refuse(answer, environ, requester, start_response)
    except OSError as error:
        logger.warning("connection refused: %s", error)
        answer = refusal("503 Service Unavailable", "no descriptor is free", RETRY)
        return _refuse(answer, environ, requester, start_response)
    connection = _connect(hub, ours, decision, requester, _read_ahead(environ, replacement))
    start(connection)
    # What the server writes from now on goes to the replacement, if anywhere; the status is for
    # its access log.
    start_response(answer.status, [])
    return _Unsent(replacement)


def start(connection: Connection, before_wait: Callable[[], bool] | None = None) -> None:
    """Let a connection live, or refuse it where it needs a thread and none is free.

    Threads: that of the request; see `Connection.start`.
    """
    try:
        connection.start(before_wait)
    except RuntimeError as error:  # can't start new thread
        logger.warning("connection refused: %s", error)
        connection.refuse(_NO_THREAD)
        connection.discard()


def closed_reason(hub: AcceptingHub) -> str:
    """Say why a hub admits nobody at the moment; "" when it does.

    Threads: any.
    """
    if hub.draining:
        return "the server restarts"
    return "" if hub.running else "the hub is not running"


def _advise(hub: AcceptingHub, answer: Answer, environ: Environ, reason: str) -> None:
    """Say how to mend what keeps out the first browser of a new application."""
    if answer.status.startswith("503") and not hub.started:
        log_once(
            "start",
            f"handshake refused with 503: the hub was not started in this process, {os.getpid()}. "
            "Call hub.start() in the process that serves, or middleware(app, hub, start=True)",
        )
    elif answer.status.startswith("401"):
        log_once(
            "login",
            f"handshake refused with 401: {excerpt(reason or answer.text)}. So says the "
            "authenticator; later refusals are logged at the level INFO",
        )
    elif answer.status.startswith("426"):  # the handler alone is mounted
        path = environ.get("PATH_INFO", "")
        if is_script(path):
            tell_of_script(path, answer.status, SERVES_NONE)
    elif answer.text == FOREIGN and "HTTP_ORIGIN" in environ:
        origin, host = environ["HTTP_ORIGIN"], environ.get("HTTP_HOST", "")
        log_once(
            "file" if is_of_file(origin) else "origin",
            f"handshake refused with 403: a page of the origin {excerpt(origin)} may not connect "
            f"to {excerpt(host)}. {advice(origin)}",
            each="" if is_of_file(origin) else origin,
        )


def _check_environ(environ: object) -> None:
    if not isinstance(environ, dict) or "REQUEST_METHOD" not in environ:
        raise TypeError(
            "hub.handler() returns a WSGI application, which takes environ and start_response, "
            f"not {excerpt(environ)}: mount it in a WSGI server"
        )


class ServingHub(AcceptingHub, StartingHub, Protocol):
    """What the middleware needs of the hub."""


def middleware(
    app: Application, hub: ServingHub, path: str = "/ws", *, start: bool = False
) -> Application:
    """Return a WSGI app that serves `path` with the hub and everything else with `app`.

    The returned app is for any thread of a WSGI server. With `start` the first request that a
    process gets starts the hub there, once. Raises TypeError for arguments of another type,
    also when they are swapped, ConfigError for a path that no request can have.

    Threads: any.
    """
    check_hub("middleware(app, hub)", hub)
    given: object = app
    if not callable(given):
        raise TypeError(
            "middleware(app, hub) takes the WSGI application first, then the hub, not "
            f"{excerpt(given)}"
        )
    if any(map(inspect.iscoroutinefunction, (given, type(given).__call__))):
        raise TypeError(
            f"middleware(app, hub) takes a WSGI application, and {excerpt(given)} is one of "
            "asyncio (ASGI): run the hub beside it, by serve(hub)"
        )
    check_path("path", path)
    return mount(app, hub, path, Starter(hub) if start else None)


def mount(
    app: Application,
    hub: AcceptingHub,
    path: str,
    starter: Starter | None = None,
    *,
    advice: str = SERVES_NONE,
) -> Application:
    """Return the app of `middleware`, for arguments that were checked.

    `advice` is logged when a page asks `app` for the browser client in vain.

    Threads: any.
    """

    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if starter is not None:
            starter.start()
        plain = _without_absolute_form(environ)
        if plain.get("PATH_INFO") == path:
            return handle(hub, plain, start_response)
        return app(environ, watched(plain, start_response, path, advice))

    return application


def check_hub(call: str, hub: object) -> None:
    """Raise TypeError for what is no hub, naming the call that was given it."""
    if isinstance(hub, type) or not hasattr(type(hub), "admission"):
        raise TypeError(f"{call} takes a Hub as hub, not {excerpt(hub)}: pass what Hub() returns")


def check_path(name: str, path: object) -> None:
    """Raise for what cannot be the path of a request: TypeError, ConfigError for a bad text."""
    if not isinstance(path, str):
        raise TypeError(f'{name} must be a path, such as "/ws", not {excerpt(path)}')
    if not path.startswith("/") or "?" in path or "#" in path:
        raise ConfigError(
            f'{name} must begin with a slash and have no query, such as "/ws", not {excerpt(path)}'
        )


def split_absolute(target: str) -> tuple[str, str] | None:
    """Return host and path of a request target in absolute form; None for other forms.

    That host counts, not the Host header's (RFC 9112 section 3.2.2).
    """
    match = _ABSOLUTE.match(target)
    if match is None:
        return None
    return match[1], match[2] if match[2].startswith("/") else "/" + match[2]


def _without_absolute_form(environ: Environ) -> Environ:
    """Return an environ with host and path apart: wsgiref leaves `http://host/path` whole."""
    found = split_absolute(environ.get("PATH_INFO", ""))
    if found is None or not found[0] or "@" in found[0]:
        return environ
    return {**environ, "HTTP_HOST": found[0], "PATH_INFO": found[1]}


class _Unsent:
    """A response body for the replacement, which is released once the server has written it."""

    def __init__(self, replacement: Replacement | None, body: Sequence[bytes] = ()) -> None:
        self._replacement = replacement
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._body)

    def close(self) -> None:
        if self._replacement is not None:
            self._replacement.release()


def _connect(
    hub: AcceptingHub,
    sock: socket.socket,
    decision: Decision,
    requester: Requester,
    received: bytes,
    *,
    borrowed: bool = False,
) -> Connection:
    return hub.connect(
        sock,
        greeting=decision.answer.to_bytes(),
        remote_address=requester.address,
        received=received,
        borrowed=borrowed,
        decision=decision,
    )


def _stay(
    hub: AcceptingHub,
    sock: ssl.SSLSocket,
    decision: Decision,
    requester: Requester,
    environ: Environ,
    start_response: StartResponse,
) -> Iterable[bytes]:
    """Run the connection on the request thread: the TLS state is in this socket object."""
    sock.setblocking(False)  # before `take_input`, which must not wait
    connection = _connect(hub, sock, decision, requester, take_input(environ), borrowed=True)
    try:
        connection.run()
    finally:
        replacement = leave(sock.fileno())
        # With its TLS state the socket would fail the server's writes, which it would log.
        # SSLSocket.shutdown drops that state: writes go to the replacement, and a read finds
        # the end.
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RD)
    start_response(decision.answer.status, [])
    return _Unsent(replacement)


def request_of(environ: Environ, requester: Requester) -> Request:
    """Return the facts of a request that a handshake depends on."""
    headers = {
        key[5:].replace("_", "-").lower(): value
        for key, value in environ.items()
        if key.startswith("HTTP_")
    }
    if requester.host is not None:
        headers["host"] = requester.host
    if environ.get("CONTENT_LENGTH"):
        headers["content-length"] = environ["CONTENT_LENGTH"]
    return Request(
        method=environ["REQUEST_METHOD"],
        http_version=environ.get("SERVER_PROTOCOL", ""),
        # wsgiref does not know of TLS on the socket below it.
        scheme="https" if isinstance(socket_of(environ), ssl.SSLSocket) else requester.scheme,
        headers=headers,
        direct=bool(environ.get(DIRECT_KEY)),
    )


def _refuse(
    answer: Answer,
    environ: Environ,
    requester: Requester,
    start_response: StartResponse,
    reason: str = "",
) -> Iterable[bytes]:
    """Answer a handshake with a refusal, and end its connection.

    A proxy that passes an upgrade on may treat the connection as a tunnel whatever the
    answer is: a request after it would bypass the proxy's checks (FAULTS 5). So the
    connection is taken from the server and ended here.
    """
    if not answer.status.startswith("426"):
        why = excerpt(reason or answer.body.decode().strip())
        logger.info("handshake from %s refused: %s", excerpt(requester.address), why)
    if environ["REQUEST_METHOD"] == "HEAD":
        answer = dataclasses.replace(answer, body=b"")
    sock = socket_of(environ)
    # Our own server serves one request per connection; an HTTP/2 connection is shared.
    shared = not str(environ.get("SERVER_PROTOCOL", "")).startswith("HTTP/1.")
    if sock is None or LEND_KEY in environ or shared:
        start_response(answer.status, list(answer.headers))
        return [answer.body]
    extra = ("Date", email.utils.formatdate(usegmt=True)), ("Connection", "close")
    last = dataclasses.replace(answer, headers=[*answer.headers, *extra])
    replacement = dismiss(sock, last.to_bytes(), broken=expects_failures(environ))
    take_input(environ)  # otherwise the server would read it as the next request
    # For the server's access log.
    start_response(answer.status, list(answer.headers))
    return _Unsent(replacement, [answer.body])


def _read_ahead(environ: Environ, replacement: Replacement) -> bytes:
    """Return what the server read beyond the request of an adopted connection.

    Safe only after the adoption: the next read of the server's buffer reaches the
    replacement, which must not make it wait.
    """
    replacement.end_input()
    return take_input(environ)
