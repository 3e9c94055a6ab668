"""A small threaded HTTP server for a hub: for scripts, tests and demos.

Must not know what is published. The standard library's WSGI server with a thread a
request; that of a WebSocket becomes its client's reader. For a public site mount
`hub.handler()` in the server that you trust with the rest of it.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Callable, Collection, Iterable
from typing import Any
from wsgiref.simple_server import WSGIServer

from .. import threads
from ..errors import ConfigError, excerpt
from ..hub.hub import Hub
from ..log import get_logger
from ..protocol.handshake import RETRY, Answer, refusal
from ..reentrant import Event, Lock
from ..wsgi.app import DIRECT_KEY, Application, middleware
from .hosts import Hosts, parse_host
from .request import MAX_REQUEST_LINE, Handler

__all__ = ["Server", "serve"]

logger = get_logger(__name__)

_GRACE = 1.0
_QUEUE = 0.5  # seconds that a connection waits for others' requests to end
_BREATH = 0.2  # seconds without accepting when descriptors or memory have run out
_BUSY = refusal("503 Service Unavailable", "too many requests at once", RETRY).to_bytes()
_NOT_FOUND = refusal("404 Not Found", "Not found")
_HOST_MISSING = refusal("400 Bad Request", "the Host header is missing")
_HOST_BAD = refusal("400 Bad Request", "the Host header names no host")
_HOST_FOREIGN = refusal(
    "403 Forbidden",
    "This server does not answer to that name. If the name is yours, give it: --allow-host on the "
    "command line, allowed_hosts= in Python.",
)
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # how to reach a wildcard from here


def serve(
    hub: Hub,
    host: str = "127.0.0.1",
    port: int = 0,
    path: str = "/ws",
    app: Application | None = None,
    ssl_context: ssl.SSLContext | None = None,
    allowed_hosts: Collection[str] = (),
) -> Server:
    """Serve a hub's WebSocket at `path`, and `app` elsewhere, in the background.

    Bound to a loopback address, it answers to `localhost`, `*.localhost` and loopback
    addresses, and to what `allowed_hosts` names beside these (`example.com`,
    `*.example.com`, "*" for every name); to other names with 403. Bound elsewhere, it
    answers to every name, unless `allowed_hosts` names some.

    Starts the hub if it does not run; `close()` then stops it too. Port 0 takes a free
    one. Raises OSError when the address cannot be bound, ConfigError for an empty `host` (all
    addresses are "0.0.0.0") and as `Hub.start` does.

    Threads: any; returns at once.
    """
    threads.check_real("ws_hub.serve")
    server: Server | None = None
    try:
        server = Server(hub, (host, port), path, app or _not_found, ssl_context, allowed_hosts)
        server._start()
        hub.start()
        return server
    except BaseException:  # KeyboardInterrupt among these
        if server is not None:
            server.close()
        raise


class Server:
    """A running server. Made by `serve`; ended by `close` or by leaving its `with`.

    Attributes:
        host: the address it listens on.
        port: the port it listens on.
        url: the WebSocket's URL, as seen from this machine.
    """

    def __init__(
        self,
        hub: Hub,
        address: tuple[str, int],
        path: str,
        app: Application,
        ssl_context: ssl.SSLContext | None,
        allowed_hosts: Collection[str] = (),
    ) -> None:
        wanted: object = address[0]
        if not isinstance(wanted, str) or not wanted.strip():
            # "" is what a variable holds that nobody has set; a socket takes it for everywhere.
            raise ConfigError(
                f"host must be an address or a name, not {excerpt(wanted)}: 127.0.0.1 for "
                "this machine alone, 0.0.0.0 for all its addresses"
            )
        self._hub = hub
        self._owns_hub = not hub.running  # then `close` stops it, too
        Hosts(address[0], allowed_hosts)  # what it cannot work with, before there is a port
        self._closed = Event()
        self._thread: threading.Thread | None = None
        server: _ThreadingServer | None = None
        try:
            self._server = server = _ThreadingServer(
                address,
                ssl_context,
                patience=hub.config.handshake_timeout,
                most=hub.config.max_handshakes,
                hub=hub,
            )
            hosts = Hosts(server.server_name, allowed_hosts)
            server.set_app(_Named(middleware(app, hub, path), hosts))
            self.host, self.port = server.server_name, server.server_port
            scheme = "wss" if ssl_context else "ws"
            near = _LOOPBACK.get(self.host, self.host)
            shown = f"[{near}]" if ":" in near else near
            self.url = f"{scheme}://{shown}:{self.port}{path}"
            threads.forget_after_fork(self)
        except BaseException:
            if server is not None:
                server.server_close()
            raise

    def _start(self) -> None:
        """Accept from now on, until `close`: not before somebody is there to call it."""
        self._thread = threads.start("ws-hub:accept", self._accept)

    def close(self) -> None:
        """Stop accepting, end the requests under way, and the hub if `serve` started it.

        Idempotent. WebSocket connections are the hub's: they end with it.

        Threads: any; waits for the hub's end, a few seconds at most.
        """
        if self._closed.is_set():
            return
        self._closed.set()
        self._server.wake()
        threads.join(self._thread, _GRACE)
        self._server.server_close()
        if self._owns_hub:
            self._hub.stop()
        self._server.end_requests(_GRACE)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def forget(self) -> None:
        """Give up the descriptors in a forked child: it would keep port and peers waiting.

        Threads: the only one there is, right after the fork.
        """
        self._closed.set()
        self._server.discard()

    # --- accept thread ---------------------------------------------------------------------

    def _accept(self) -> None:
        self._thread = threading.current_thread()  # also where its start was interrupted
        while not self._closed.is_set():
            self._server.accept()  # woken by a connection; close() makes one
            if self._server.exhausted:
                # The connection stays in the listener's queue and would be tried again
                # at once, for ever (FAULTS 43).
                self._server.exhausted = False
                self._closed.wait(_BREATH)


class _ThreadingServer(WSGIServer):
    """WSGIServer with a named, tracked thread for each request, and TLS.

    Args:
        address: where it listens.
        ssl_context: of the TLS that it ends; None for none.
        patience: seconds that a request's head may take in all (FAULTS 7).
        most: requests at one time; the next is not accepted until one ends, and answered
            with 503 where none does.
        hub: whose admission counts requests that are late or find no room, and refuses
            some before there is a thread for them.
    """

    request_queue_size = 1024
    allow_reuse_address = True

    def __init__(
        self,
        address: tuple[str, int],
        ssl_context: ssl.SSLContext | None,
        *,
        patience: float,
        most: int,
        hub: Hub,
    ) -> None:
        self.patience = patience
        self._most = most
        self._hub = hub
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        self.exhausted = False  # the accept thread's: whether the last accept failed
        self._closing = False  # written by whoever closes, before it wakes the accept thread
        self._ssl_context = ssl_context
        self._numbers = itertools.count(1)
        # guards: _sockets, _threads, _lent, _ending. Taken alone.
        self._lock = Lock()
        self._sockets: dict[int, socket.socket] = {}
        self._threads: dict[int, threading.Thread] = {}
        self._lent: set[int] = set()  # readers by now, although not in _threads yet
        self._ending = False  # whether requests are cut
        # guards: how many requests there are; taken by the accept thread, which waits at
        # most _QUEUE seconds, and given back by their threads.
        self._room = threading.BoundedSemaphore(most)
        self._crowded = False  # the accept thread's: whether it has waited in vain
        # Of a kind that takes no descriptor of its own.
        self._selector = getattr(selectors, "PollSelector", selectors.SelectSelector)()
        super().__init__(address, Handler)

    def server_activate(self) -> None:
        super().server_activate()
        self._selector.register(self.socket, selectors.EVENT_READ)

    def server_bind(self) -> None:
        # Not HTTPServer's: that looks up the host's name, which can take seconds.
        with contextlib.suppress(OSError):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        address = self.socket.getsockname()
        self.server_address = address
        self.server_name, self.server_port = address[0], address[1]
        self.setup_environ()

    # --- any thread ------------------------------------------------------------------------

    def wake(self) -> None:
        """Make `accept` return: it waits for a connection, so it gets one."""
        self._closing = True
        host = _LOOPBACK.get(self.server_name, self.server_name)
        with contextlib.suppress(OSError), socket.socket(self.address_family) as sock:
            sock.settimeout(_GRACE)
            sock.connect((host, self.server_port))

    def end_requests(self, timeout: float) -> None:
        """Cut the requests under way and wait for their threads."""
        deadline = time.monotonic() + timeout
        with self._lock:
            self._ending = True
            for request in self._sockets.values():
                _cut(request)
            under_way = list(self._threads.values())
        for thread in under_way:
            threads.join(thread, deadline - time.monotonic())

    def discard(self) -> None:
        """Close every descriptor, in a forked child; the lock may be held for ever there."""
        for sock in (self.socket, *self._sockets.values()):
            with contextlib.suppress(OSError):
                sock.close()

    # --- accept thread ---------------------------------------------------------------------

    def accept(self) -> None:
        """Wait for a connection and start its request's thread.

        Not `handle_request`, which makes a selector for each connection. Nor an accept
        that waits: it takes its descriptor before, when all may be in use.
        """
        self._selector.select()
        # While there is no room the rest wait in the kernel's queue; not for ever, and not
        # one after the other, if those that are in have come to stay.
        room = self._room.acquire(timeout=0.0 if self._crowded else _QUEUE)
        if not room and not self._crowded:  # once, until there is room again
            logger.warning(
                "max_handshakes: %d requests are under way, others are refused", self._most
            )
        self._crowded = not room
        try:
            request, client_address = self.get_request()
        except OSError as error:
            if not isinstance(error, ConnectionError):  # the peer left while it waited
                self.exhausted = True
                logger.warning("cannot accept a connection: %s", error)
            if room:
                self._room.release()
            return
        if not room and not self._closing:
            self._hub.door.crowded()
            self._turn_away(request, _BUSY)
        elif not self._closing:
            answer = self._hub.door.turn_away(client_address[0], functools.partial(_peek, request))
            if answer is None:
                self.process_request(request, client_address)
                return
            self._turn_away(request, answer.to_bytes())
        self.shutdown_request(request)
        if room:
            self._room.release()

    def process_request(self, request: Any, client_address: Any) -> None:
        number = next(self._numbers)
        self._keep(number, request)
        try:
            thread = threads.start(
                f"ws-hub:request:{number}", self._serve, number, request, client_address
            )
        except RuntimeError as error:  # can't start new thread: this one is refused
            logger.warning("request from %s refused: %s", excerpt(client_address), error)
            self._turn_away(request, _BUSY)
            self._done(number, request)
            return
        with self._lock:
            # One that has answered may not have ended yet: kept until it is seen to have.
            for ended in [n for n, each in self._threads.items() if not each.is_alive()]:
                del self._threads[ended]
            if number in self._lent:
                self._lent.remove(number)
            else:
                self._threads[number] = thread

    def _turn_away(self, request: socket.socket, answer: bytes) -> None:
        """Answer a request for which there is no thread, without waiting for it to come."""
        if self._ssl_context is not None:  # its handshake would have to be waited for
            return
        request.setblocking(False)
        with contextlib.suppress(OSError):  # it has not come yet
            request.recv(MAX_REQUEST_LINE)
        with contextlib.suppress(OSError):
            request.send(answer)

    # --- request threads -------------------------------------------------------------------

    def _serve(self, number: int, request: socket.socket, client_address: Any) -> None:
        client = None
        try:
            if self._ssl_context is not None:
                request.settimeout(self.patience)
                # Known to `end_requests` before it waits: what it was made of is no socket now.
                request = self._ssl_context.wrap_socket(
                    request, server_side=True, do_handshake_on_connect=False
                )
                self._keep(number, request)
                request.do_handshake()
            client = Handler(request, client_address, self).client
        except OSError as error:  # the peer's doing: went away, no TLS, too slow
            if isinstance(error, TimeoutError):
                self._hub.door.late()
            logger.debug("request from %s ended: %s", excerpt(client_address), error)
        except Exception:  # noqa: BLE001 - the top of a thread
            logger.exception("request from %s failed", excerpt(client_address))
        finally:
            self._done(number, None if client is not None else request)
        if client is not None:
            client.occupy()

    def _keep(self, number: int, request: socket.socket) -> None:
        with self._lock:
            self._sockets[number] = request
            if self._ending:
                _cut(request)

    def _done(self, number: int, request: socket.socket | None) -> None:
        """Forget a request, and close its connection unless that is a client's now."""
        with self._lock:
            self._sockets.pop(number, None)
            if request is None and self._threads.pop(number, None) is None:
                self._lent.add(number)  # its thread is the client's, too: the hub joins it
        self._room.release()
        if request is not None:
            self.shutdown_request(request)


def _peek(request: socket.socket) -> bytes:
    """Return what has come of a request, and leave it there."""
    try:
        return request.recv(MAX_REQUEST_LINE, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except OSError:  # nothing yet
        return b""


def _cut(request: socket.socket) -> None:
    with contextlib.suppress(OSError):
        socket.socket.shutdown(request, socket.SHUT_RDWR)  # of TLS the plain one below


class _Named:
    """An application that is asked by the server's own names alone.

    Args:
        app: what answers then.
        hosts: the names.
    """

    def __init__(self, app: Application, hosts: Hosts) -> None:
        self._app = app
        self._hosts = hosts

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        host = environ.get("HTTP_HOST")
        if host is None:
            # RFC 9112 section 3.2. What is older than HTTP/1.1 need not send it.
            if environ["SERVER_PROTOCOL"] == "HTTP/1.1" or not self._hosts.open:
                return _say(_HOST_MISSING, environ, start_response)
            return self._app(environ, start_response)
        name = parse_host(host)
        if name is None:
            return _say(_HOST_BAD, environ, start_response)
        if not self._hosts.answers_to(name):
            _complain(excerpt(host))
            return _say(_HOST_FOREIGN, environ, start_response)
        if self._hosts.is_direct(name):
            environ[DIRECT_KEY] = True
        return self._app(environ, start_response)


@functools.lru_cache(64)
def _complain(host: str) -> None:
    """Log a name that is not ours: once, not for every request of a page."""
    logger.warning("requests for the host %s are refused: allowed_hosts does not name it", host)


def _not_found(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    return _say(_NOT_FOUND, environ, start_response)


def _say(
    answer: Answer, environ: dict[str, Any], start_response: Callable[..., Any]
) -> Iterable[bytes]:
    start_response(answer.status, list(answer.headers))
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [answer.body]
