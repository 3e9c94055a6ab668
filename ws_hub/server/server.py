"""The embedded HTTP server, for scripts, tests and demos.

It is the standard library's WSGI server with a few threads, one of which accepts, and more for
requests that wait. A WebSocket goes to the readers of its hub. For a public site mount
`hub.handler()` in the WSGI server of the rest of the site.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import selectors
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable
from typing import Any
from wsgiref.simple_server import WSGIServer

from .. import threads
from ..connection.connection import Connection
from ..crew import Crew
from ..errors import ConfigError, excerpt
from ..hub.hub import Hub
from ..log import get_logger
from ..protocol.handshake import RETRY, Answer, refusal
from ..reentrant import Event, Lock
from ..wsgi.app import Application, check_hub, middleware, start
from ..wsgi.servers import DIRECT_KEY
from .hosts import Hosts, parse_host
from .request import MAX_REQUEST_LINE, Handler, NoThread

__all__ = ["Server", "serve"]

logger = get_logger(__name__)

_NAME = "ws-hub:accept"
_GRACE = 1.0  # seconds for what was told to end
_QUEUE = 0.5  # seconds that a connection waits for another request to end
_TOGETHER = 16  # connections that are accepted before the first of them is answered
_PAUSE = 0.2  # seconds without accepting when descriptors or memory are exhausted
_BUSY = refusal("503 Service Unavailable", "too many requests at once", RETRY).to_bytes()
_NOT_FOUND = refusal("404 Not Found", "Not found")
_HOST_MISSING = refusal("400 Bad Request", "the Host header is missing")
_HOST_BAD = refusal("400 Bad Request", "the Host header names no host")
_HOST_FOREIGN = refusal(
    "403 Forbidden",
    "This server does not answer to that name. If the name is yours, give it: --allow-host on the "
    "command line, allowed_hosts= in Python.",
)
_INHERITS = not sys.platform.startswith("linux")  # what is accepted does not block either
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # reaches a wildcard address from here


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

    Starts the hub if it does not run; `Server.close` then stops it too.

    Args:
        hub: the hub.
        host: the address to bind; "0.0.0.0" for all addresses of this machine.
        port: the port to bind; 0 for a free one (`Server.port`).
        path: the path of the WebSocket.
        app: answers all other paths; None for 404.
        ssl_context: serves TLS with it; None for plain HTTP.
        allowed_hosts: further host names to answer to (`example.com`, `*.example.com`,
            "*" for every name). A server bound to a loopback address answers to
            `localhost`, `*.localhost`, loopback addresses and these names, and to others
            with 403; one bound elsewhere answers to every name, unless some are given.

    Raises OSError when the address cannot be bound, ConfigError for an empty `host`, a bad
    `path` or a bad name in `allowed_hosts`, TypeError for arguments of another type, and
    what `Hub.start` raises.

    Threads: any; returns at once.
    """
    threads.check_real("ws_hub.serve")
    server: Server | None = None
    try:
        server = Server(
            hub,
            (host, port),
            path,
            _not_found if app is None else app,
            ssl_context,
            allowed_hosts,
        )
        server._start()
        hub.start()
        return server
    except BaseException:  # KeyboardInterrupt among these
        if server is not None:
            server.close()
        raise


class Server:
    """A running server. `serve` makes it; `close`, or leaving its `with`, ends it.

    Attributes:
        host: the address that it listens on.
        port: the port that it listens on.
        url: the WebSocket's URL for clients on this machine.
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
        check_hub("serve(hub, app=app)", hub)
        wanted: object = address[0]
        if not isinstance(wanted, str) or not wanted.strip():
            # "" may be a setting that is missing, and would bind all addresses.
            raise ConfigError(
                f"host must be an address or a name, not {excerpt(wanted)}: 127.0.0.1 for "
                "this machine alone, 0.0.0.0 for all its addresses"
            )
        port: object = address[1]
        if not isinstance(port, int) or isinstance(port, bool) or not 0 <= port <= 65_535:
            raise ConfigError(
                f"port must be a number from 0, for a free one, to 65535, not {excerpt(port)}"
            )
        context: object = ssl_context
        if context is not None and not isinstance(context, ssl.SSLContext):
            raise TypeError(
                f"ssl_context must be an ssl.SSLContext or None, not {excerpt(context)}"
            )
        self._hub = hub
        self._owns_hub = not hub.running  # then `close` stops it
        Hosts(address[0], allowed_hosts)  # raises ConfigError before a port is bound
        self._closed = Event()
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
            server.set_app(_HostCheck(middleware(app, hub, path), hosts))
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
        """Start to accept. Not in the constructor: its caller must be able to call `close`."""
        self._server.begin()

    def close(self) -> None:
        """Stop accepting, end the current requests, and stop the hub if `serve` started it.

        WebSocket connections belong to the hub and end with it. Idempotent.

        Threads: any; waits for the hub's end, a few seconds at most.
        """
        if self._closed.is_set():
            return
        self._closed.set()
        self._server.end_accepting()
        self._server.server_close()
        if self._owns_hub:
            self._hub.stop()
        self._server.end_requests(_GRACE, clients=self._owns_hub)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def forget(self) -> None:
        """Close the descriptors in a forked child, which would keep the port in use.

        Threads: the only one of the child, right after the fork.
        """
        self._closed.set()
        self._server.discard()


class _Request:
    """A connection that was accepted, and whose request is not answered yet."""

    __slots__ = ("address", "number", "socket")

    def __init__(self, number: int, sock: socket.socket, address: tuple[Any, ...]) -> None:
        self.number = number
        self.socket = sock
        self.address = address


class _ThreadingServer(WSGIServer):
    """WSGIServer whose requests are answered by a crew of threads, and TLS.

    The thread that accepts a connection answers its request too, while another one is ready to
    accept the next.

    Args:
        address: the address to listen on.
        ssl_context: serves TLS with it; None for plain HTTP.
        patience: seconds that a request's head may take in all (FAULTS 7).
        most: requests at one time; the next connection is accepted when one ends, and
            answered with 503 when none does in time.
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
        self._crew: Crew[_Request] = Crew(_NAME, self)
        self._closing = Event()
        self._accepts_no_more = Event()  # set by the thread that waited last
        self._ssl_context = ssl_context
        self._numbers = itertools.count(1)
        # guards: _sockets, _lent, _ending. Taken alone.
        self._lock = Lock()
        self._sockets: dict[int, socket.socket] = {}
        self._lent: set[threading.Thread] = set()  # those that are at a WebSocket's beginning
        self._ending = False  # requests are being ended
        # guards: the number of requests; acquired by the thread that accepts, which waits at
        # most _QUEUE seconds, and released when the request is answered.
        self._room = threading.BoundedSemaphore(most)
        self._crowded = False  # of the thread that accepts: its last wait got no room
        # A kind that needs no descriptor of its own.
        self._selector = getattr(selectors, "PollSelector", selectors.SelectSelector)()
        super().__init__(address, Handler)

    def server_activate(self) -> None:
        super().server_activate()
        self.socket.setblocking(False)
        self._selector.register(self.socket, selectors.EVENT_READ)

    def server_bind(self) -> None:
        # Not HTTPServer's method: that resolves the host's name, which can take seconds.
        with contextlib.suppress(OSError):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self.socket.bind(self.server_address)
        except OSError as error:
            host, port = str(self.server_address[0]), self.server_address[1]
            raise OSError(
                error.errno,
                f"cannot serve on {host}:{port}: {error.strerror or error}. Pass an address of "
                "this machine, and another port or 0 for a free one",
            ) from error
        address = self.socket.getsockname()
        self.server_address = address
        self.server_name, self.server_port = address[0], address[1]
        self.setup_environ()

    # --- any thread ------------------------------------------------------------------------

    def begin(self) -> None:
        """Begin to accept. Raises RuntimeError when the system has no more threads."""
        self._crew.begin()

    def end_accepting(self) -> None:
        """Accept nothing more; a connection to the server itself wakes the thread that waits."""
        self._closing.set()
        if self._crew.close():
            host = _LOOPBACK.get(self.server_name, self.server_name)
            with contextlib.suppress(OSError), socket.socket(self.address_family) as sock:
                sock.settimeout(_GRACE)
                sock.connect((host, self.server_port))
            self._accepts_no_more.wait(_GRACE)

    def before_wait(self) -> bool:
        """Have another thread accept, where the calling one does; False when there is none."""
        return self._crew.hand_over()

    def end_requests(self, timeout: float, *, clients: bool) -> None:
        """End the current requests and wait for their threads.

        With `clients` also for those that are at a WebSocket: the hub has ended these.
        """
        with self._lock:
            self._ending = True
            for request in self._sockets.values():
                _cut(request)
            lent = set() if clients else set(self._lent)
        self._crew.join(time.monotonic() + timeout, lent)

    def discard(self) -> None:
        """Close every descriptor in a forked child, and accept nothing there.

        Without the lock: at the fork another thread of the parent may have held it.
        """
        self._crew.forget()
        for sock in (self.socket, *self._sockets.values()):
            with contextlib.suppress(OSError):
                sock.close()

    # --- the thread that accepts; see `Work` -----------------------------------------------

    def wait(self) -> list[_Request]:
        """Wait for connections; return their requests, as far as they are to be answered.

        It replaces `handle_request`, which makes a selector for each connection. It does
        not block in accept(2), which allocates its descriptor before it waits. Several at a
        time: while requests are answered, each call that gives up the GIL hands it to the hub's
        thread, which registers the client before, and back.
        """
        self._selector.select()
        found: list[_Request] = []
        try:
            while len(found) < _TOGETHER and not self._closing.is_set():
                # Without room for a request, further connections stay in the kernel's queue: the
                # first for _QUEUE seconds, the others not at all until there is room again.
                room = self._room.acquire(timeout=0.0 if self._crowded or found else _QUEUE)
                if not room and found:
                    break
                if not room and not self._crowded:  # logged once, until there is room again
                    logger.warning(
                        "max_handshakes: %d requests are under way, others are refused", self._most
                    )
                self._crowded = not room
                request = self._accept(room)
                if request is None:
                    if room:
                        self._room.release()
                    break
                found.append(request)
        finally:
            if self._closing.is_set():
                self._accepts_no_more.set()
        return found

    def _accept(self, room: bool) -> _Request | None:
        """Accept a connection; None when there is none, or it was turned away."""
        try:
            sock, client_address = self.get_request()
        except BlockingIOError:  # no more
            return None
        except OSError as error:
            if not isinstance(error, ConnectionError):  # not: the peer has left meanwhile
                logger.warning("cannot accept a connection: %s", error)
                # The connection stays in the listener's queue and would be tried again
                # at once, for ever (FAULTS 43).
                self._closing.wait(_PAUSE)
            return None
        if _INHERITS and sock.gettimeout() is None:
            sock.setblocking(True)
        answer: bytes | None = None
        if not self._closing.is_set():
            if not room:
                self._hub.admission.crowded()
                answer = _BUSY
            elif (
                early := self._hub.admission.refuse_early(
                    client_address[0], functools.partial(_peek, sock)
                )
            ) is not None:
                answer = early.to_bytes()
            else:
                request = _Request(next(self._numbers), sock, client_address)
                self._keep(request.number, sock)
                return request
        if answer is not None:
            self._turn_away(sock, answer)
        self.shutdown_request(sock)
        return None

    def _turn_away(self, request: socket.socket, answer: bytes) -> None:
        """Answer a request that gets no thread, without waiting for its bytes."""
        if self._ssl_context is not None:  # would need to wait for the TLS handshake
            return
        request.setblocking(False)
        with contextlib.suppress(OSError):  # no byte of it has arrived yet
            request.recv(MAX_REQUEST_LINE)
        with contextlib.suppress(OSError):
            request.send(answer)

    # --- the threads of the requests; see `Work` -------------------------------------------

    def handle(self, request: _Request) -> None:
        """Answer a request, or begin a WebSocket."""
        thread = threading.current_thread()
        thread.name = f"ws-hub:request:{request.number}"
        try:
            self._serve(request)
        except BaseException:  # noqa: BLE001 - SystemExit of an application; the others go on
            logger.exception("thread %s failed", thread.name)
        finally:
            thread.name = _NAME

    def part(self, request: _Request) -> None:
        """Nothing to do: `wait` returns each request once."""

    def keep(self, request: _Request) -> None:
        """Nothing to do: the request is answered."""

    def is_over(self) -> bool:
        """Return True: nothing more is accepted once it is closed."""
        return True

    def end(self) -> None:
        """Nothing to do: what accepts is closed by `Server.close`."""

    def _serve(self, request: _Request) -> None:
        sock, connection = request.socket, None
        try:
            if self._ssl_context is not None:
                if not self.before_wait():
                    raise NoThread
                sock.settimeout(self.patience)
                # Kept before its handshake waits, so that `end_requests` can shut it down: the
                # wrapped socket object has no descriptor any more.
                sock = self._ssl_context.wrap_socket(
                    sock, server_side=True, do_handshake_on_connect=False
                )
                self._keep(request.number, sock)
                sock.do_handshake()
            elif self._crew.is_cautious:
                self.before_wait()
            connection = Handler(sock, request.address, self).lent
        except NoThread:
            logger.warning("request from %s refused: no thread is free", excerpt(request.address))
            self._turn_away(sock, _BUSY)
        except OSError as error:  # the peer has left, speaks no TLS, or is too slow
            if isinstance(error, TimeoutError):
                self._hub.admission.late()
            logger.debug("request from %s ended: %s", excerpt(request.address), error)
        except Exception:  # noqa: BLE001 - the top of a request
            logger.exception("request from %s failed", excerpt(request.address))
        finally:
            self._done(request.number, None if connection is not None else sock)
        if connection is not None:
            self._start(connection)

    def _start(self, connection: Connection) -> None:
        """Begin a WebSocket; messages that came with its request are handled here."""
        thread = threading.current_thread()
        with self._lock:
            self._lent.add(thread)
        try:
            start(connection, self.before_wait)
        finally:
            with self._lock:
                self._lent.discard(thread)

    def _keep(self, number: int, request: socket.socket) -> None:
        with self._lock:
            self._sockets[number] = request
            if self._ending:
                _cut(request)

    def _done(self, number: int, request: socket.socket | None) -> None:
        """Remove a request, and close its connection unless a client has it now."""
        with self._lock:
            self._sockets.pop(number, None)
        self._room.release()
        if request is not None:
            self.shutdown_request(request)


def _peek(request: socket.socket) -> bytes:
    """Return the bytes of a request received so far, without consuming them."""
    try:
        return request.recv(MAX_REQUEST_LINE, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except OSError:  # nothing yet
        return b""


def _cut(request: socket.socket) -> None:
    with contextlib.suppress(OSError):
        # socket.socket's own: an SSLSocket's would drop the TLS state that its thread uses.
        socket.socket.shutdown(request, socket.SHUT_RDWR)


class _HostCheck:
    """A WSGI application that refuses requests for other names than the server's.

    Args:
        app: answers the other requests.
        hosts: the server's names.
    """

    def __init__(self, app: Application, hosts: Hosts) -> None:
        self._app = app
        self._hosts = hosts

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        host = environ.get("HTTP_HOST")
        if host is None:
            # RFC 9112 section 3.2. HTTP/1.0 need not send a Host.
            if environ["SERVER_PROTOCOL"] == "HTTP/1.1" or not self._hosts.open:
                return _respond(_HOST_MISSING, environ, start_response)
            return self._app(environ, start_response)
        name = parse_host(host)
        if name is None:
            return _respond(_HOST_BAD, environ, start_response)
        if not self._hosts.answers_to(name):
            _warn_of_host(excerpt(host))
            return _respond(_HOST_FOREIGN, environ, start_response)
        if self._hosts.is_direct(name):
            environ[DIRECT_KEY] = True
        return self._app(environ, start_response)


@functools.lru_cache(64)
def _warn_of_host(host: str) -> None:
    """Log a name that the server does not answer to: once, not at every request."""
    logger.warning("requests for the host %s are refused: allowed_hosts does not name it", host)


def _not_found(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    return _respond(_NOT_FOUND, environ, start_response)


def _respond(
    answer: Answer, environ: dict[str, Any], start_response: Callable[..., Any]
) -> Iterable[bytes]:
    start_response(answer.status, list(answer.headers))
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [answer.body]
