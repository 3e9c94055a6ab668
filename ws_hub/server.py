"""A small threaded HTTP server for a hub: for scripts, tests and demos.

Must not know what is published. The standard library's WSGI server with a thread a
request; WebSocket connections do not hold theirs. For a public site mount
`hub.handler()` in the server that you trust with the rest of it.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from . import workers
from .errors import excerpt
from .hub import Hub
from .wsgi import SOCKET_KEY, STAYS_KEY, Application, middleware

__all__ = ["Server", "serve"]

logger = logging.getLogger(__name__)

_REQUEST_TIMEOUT = 10.0  # seconds that a request may take to arrive (FAULTS 7)
_GRACE = 1.0


def serve(
    hub: Hub,
    host: str = "127.0.0.1",
    port: int = 0,
    path: str = "/ws",
    app: Application | None = None,
    ssl_context: ssl.SSLContext | None = None,
) -> Server:
    """Serve a hub's WebSocket at `path`, and `app` elsewhere, in the background.

    Starts the hub if it does not run; `close()` then stops it too. Port 0 takes a free
    one. Raises OSError when the address cannot be bound.

    Threads: any; returns at once.
    """
    started = not hub.running
    server = Server(hub, (host, port), path, app or _not_found, ssl_context, started)
    if started:
        hub.start()
    return server


class Server:
    """A running server. Made by `serve`; ended by `close` or by leaving its `with`.

    Attributes:
        host: the address it listens on.
        port: the port it listens on.
        url: the WebSocket's URL.
    """

    def __init__(
        self,
        hub: Hub,
        address: tuple[str, int],
        path: str,
        app: Application,
        ssl_context: ssl.SSLContext | None,
        owns_hub: bool,
    ) -> None:
        self._hub = hub
        self._owns_hub = owns_hub
        self._server = _ThreadingServer(address, ssl_context)
        self._server.set_app(middleware(app, hub, path))
        self.host, self.port = self._server.server_name, self._server.server_port
        scheme = "wss" if ssl_context else "ws"
        shown = f"[{self.host}]" if ":" in self.host else self.host
        self.url = f"{scheme}://{shown}:{self.port}{path}"
        self._closed = threading.Event()
        self._thread = workers.start("ws-hub:accept", self._accept)

    def close(self) -> None:
        """Stop accepting, end the requests under way, and the hub if `serve` started it.

        Idempotent. WebSocket connections are the hub's: they end with it.

        Threads: any; waits for the hub's end, a few seconds at most.
        """
        if self._closed.is_set():
            return
        self._closed.set()
        self._server.wake()
        workers.join(self._thread, _GRACE)
        self._server.server_close()
        if self._owns_hub:
            self._hub.stop()
        self._server.end_requests(_GRACE)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _accept(self) -> None:
        while not self._closed.is_set():
            self._server.handle_request()  # woken by a connection; close() makes one


class _ThreadingServer(WSGIServer):
    """WSGIServer with a named, tracked thread for each request, and TLS."""

    request_queue_size = 1024
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], ssl_context: ssl.SSLContext | None) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        self._ssl_context = ssl_context
        self._numbers = itertools.count(1)
        # guards: _sockets, _threads. Taken alone.
        self._lock = threading.Lock()
        self._sockets: dict[int, socket.socket] = {}
        self._threads: dict[int, threading.Thread] = {}
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # Not HTTPServer's: that looks up the host's name, which can take seconds.
        with contextlib.suppress(OSError):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        address = self.socket.getsockname()
        self.server_address = address
        self.server_name, self.server_port = address[0], address[1]
        self.setup_environ()

    def wake(self) -> None:
        """Make `handle_request` return: it waits for a connection, so it gets one."""
        family = self.address_family
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.server_name, self.server_name)
        with socket.socket(family) as sock, contextlib.suppress(OSError):
            sock.settimeout(_GRACE)
            sock.connect((host, self.server_port))

    def process_request(self, request: Any, client_address: Any) -> None:
        number = next(self._numbers)
        self._keep(number, request)
        try:
            thread = workers.start(
                f"ws-hub:request:{number}", self._serve, number, request, client_address
            )
        except RuntimeError as error:  # can't start new thread: this one is refused
            logger.warning("request from %s refused: %s", excerpt(client_address), error)
            self._done(number, request)
            return
        with self._lock:
            if number in self._sockets:
                self._threads[number] = thread

    def _serve(self, number: int, request: socket.socket, client_address: Any) -> None:
        try:
            request.settimeout(_REQUEST_TIMEOUT)
            if self._ssl_context is not None:
                request = self._ssl_context.wrap_socket(request, server_side=True)
                self._keep(number, request)
            self.finish_request(request, client_address)
        except OSError as error:  # the peer's doing: went away, no TLS, too slow
            logger.debug("request from %s ended: %s", excerpt(client_address), error)
        except Exception:  # noqa: BLE001 - the top of a thread
            logger.exception("request from %s failed", excerpt(client_address))
        finally:
            self._done(number, request)

    def _keep(self, number: int, request: socket.socket) -> None:
        with self._lock:
            self._sockets[number] = request

    def _done(self, number: int, request: socket.socket) -> None:
        with self._lock:
            self._sockets.pop(number, None)
            self._threads.pop(number, None)
        self.shutdown_request(request)

    def let_go(self, request: socket.socket) -> None:
        """Leave a request that became a WebSocket to the hub, which says goodbye to it."""
        with self._lock:
            for number in [each for each, sock in self._sockets.items() if sock is request]:
                del self._sockets[number]
                self._threads.pop(number, None)

    def end_requests(self, timeout: float) -> None:
        """Cut the requests under way and wait for their threads."""
        deadline = time.monotonic() + timeout
        with self._lock:
            for request in self._sockets.values():
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(request, socket.SHUT_RDWR)
            threads = list(self._threads.values())
        for thread in threads:
            workers.join(thread, deadline - time.monotonic())


class _Handler(WSGIRequestHandler):
    """One request; hands its socket to the application and logs through `logging`."""

    timeout = _REQUEST_TIMEOUT

    def get_environ(self) -> dict[str, Any]:
        environ = super().get_environ()
        environ[SOCKET_KEY] = self.connection
        environ[STAYS_KEY] = functools.partial(self.server.let_go, self.connection)  # type: ignore[attr-defined]  # ours
        environ["REMOTE_PORT"] = str(self.client_address[1])
        if isinstance(self.connection, ssl.SSLSocket):
            environ["wsgi.url_scheme"] = "https"
        return environ

    def address_string(self) -> str:
        return str(self.client_address[0])

    def log_message(self, format: str, *args: Any) -> None:
        logger.debug("%s %s", self.address_string(), excerpt(format % args, 300))


def _not_found(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    body = b"Not found\n"
    headers = [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))]
    start_response("404 Not Found", headers)
    return [body]
