"""From a WSGI request to a client of the hub.

Must not know Flask, processes or reconnecting clients. What happens here runs on the
server's request thread, once a connection::

    environ ─> door ─> the server's socket ─> adoption ─> hub.connect ─> start

Where the connection cannot be adopted because the server itself ends TLS, the request
thread stays and plays the reader. A server that gives no socket is answered with 501,
and so is one whose only thread would have to stay. Our own server gives socket and thread:
when the request is over, and what it needed is freed, its thread becomes the reader.
"""

from __future__ import annotations

import contextlib
import dataclasses
import email.utils
import functools
import io
import re
import socket
import ssl
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

from ..access.admission import Door, Entry
from ..access.proxies import Seen
from ..connection.adoption import ThrowAway, adopt, check_spare, dismiss, leave
from ..connection.client import Client
from ..connection.transport import Inherited
from ..errors import AdoptionError, excerpt
from ..log import get_logger
from ..protocol.handshake import RETRY, Answer, Request, refusal

__all__ = [
    "closed_reason",
    "handle",
    "middleware",
    "request_of",
    "split_absolute",
    "take_input",
]

logger = get_logger(__name__)

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]

SOCKET_KEY = "ws_hub.socket"  # where our own server puts its socket
# What our own server wants called with what makes a client of its socket, given the bytes
# that came in already: it lends that client its thread.
LEND_KEY = "ws_hub.lend"
# Set by our own server: who asks is on this machine, and nothing before us ends TLS.
DIRECT_KEY = "ws_hub.direct"
_ABSOLUTE = re.compile(r"https?://([^/?]*)(.*)\Z", re.IGNORECASE | re.DOTALL)
_SOCKET_KEYS = (SOCKET_KEY, "werkzeug.socket", "gunicorn.socket")


class AcceptingHub(Protocol):
    """What a request needs of the hub that it asks for; see `Hub` for the methods."""

    @property
    def door(self) -> Door: ...

    @property
    def running(self) -> bool: ...

    @property
    def draining(self) -> bool: ...

    def connect(
        self,
        sock: socket.socket,
        *,
        greeting: bytes = b"",
        remote_address: str = "",
        received: bytes | Inherited = b"",
        borrowed: bool = False,
        entry: Entry | None = None,
    ) -> Client: ...


def handle(hub: AcceptingHub, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Accept a WebSocket connection for a hub, or answer why not.

    Threads: a request thread; see the module's text.
    """
    seen = hub.door.see(environ)
    entry = hub.door.knock(request_of(environ, seen), environ, seen, closed=closed_reason(hub))
    answer = entry.answer
    if not answer.accepted:
        return _refuse(answer, environ, seen, start_response, entry.reason)
    try:
        sock = _find_socket(environ)
        if LEND_KEY in environ:
            check_spare(sock.fileno())
            environ[LEND_KEY](functools.partial(_connect, hub, sock, entry, seen))
            start_response(answer.status, [])
            return ()
        if isinstance(sock, ssl.SSLSocket):
            _check_may_stay(environ)
            check_spare(sock.fileno())
            return _stay(hub, sock, entry, seen, environ, start_response)
        ours, throw_away = adopt(sock.fileno())
    except AdoptionError as error:
        _complain(str(error))
        answer = refusal("501 Not Implemented", str(error))
        return _refuse(answer, environ, seen, start_response)
    except OSError as error:
        logger.warning("connection refused: %s", error)
        answer = refusal("503 Service Unavailable", "no descriptor is free", RETRY)
        return _refuse(answer, environ, seen, start_response)
    client = _connect(hub, ours, entry, seen, _read_ahead(environ, throw_away))
    try:
        client.start()
    except RuntimeError as error:  # can't start new thread
        logger.warning("connection refused: %s", error)
        answer = refusal("503 Service Unavailable", "no thread is free", RETRY)
        client.refuse(answer)
        client.discard()
    # What the server writes now goes to the throw-away; its access log tells the truth.
    start_response(answer.status, [])
    return _Unsent(throw_away)


def closed_reason(hub: AcceptingHub) -> str:
    """Say why a hub admits nobody at the moment; "" when it does.

    Threads: any.
    """
    if hub.draining:
        return "the server restarts"
    return "" if hub.running else "the hub is not running"


def middleware(app: Application, hub: AcceptingHub, path: str = "/ws") -> Application:
    """Return a WSGI app that serves `path` with the hub and everything else with `app`.

    Threads: any.
    """

    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        plain = _without_absolute_form(environ)
        if plain.get("PATH_INFO") == path:
            return handle(hub, plain, start_response)
        return app(environ, start_response)

    return application


def split_absolute(target: str) -> tuple[str, str] | None:
    """Return host and path of a request in absolute form, None where it is in another.

    The host that it names counts, and not the header's (RFC 9112 section 3.2.2).
    """
    match = _ABSOLUTE.match(target)
    if match is None:
        return None
    return match[1], match[2] if match[2].startswith("/") else "/" + match[2]


def _without_absolute_form(environ: Environ) -> Environ:
    """Return an environ whose path is one: wsgiref passes `http://host/path` on as it came."""
    found = split_absolute(environ.get("PATH_INFO", ""))
    if found is None or not found[0] or "@" in found[0]:
        return environ
    return {**environ, "HTTP_HOST": found[0], "PATH_INFO": found[1]}


class _Unsent:
    """A response to a throw-away; its end tells that the server has written what it wanted."""

    def __init__(self, throw_away: ThrowAway | None, body: Sequence[bytes] = ()) -> None:
        self._throw_away = throw_away
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._body)

    def close(self) -> None:
        if self._throw_away is not None:
            self._throw_away.release()


def _connect(
    hub: AcceptingHub,
    sock: socket.socket,
    entry: Entry,
    seen: Seen,
    received: bytes,
    *,
    borrowed: bool = False,
) -> Client:
    return hub.connect(
        sock,
        greeting=entry.answer.to_bytes(),
        remote_address=seen.address,
        received=received,
        borrowed=borrowed,
        entry=entry,
    )


def _stay(
    hub: AcceptingHub,
    sock: ssl.SSLSocket,
    entry: Entry,
    seen: Seen,
    environ: Environ,
    start_response: StartResponse,
) -> Iterable[bytes]:
    """Live on the request thread: the state of TLS is in this socket object."""
    sock.setblocking(False)  # before what the server read ahead is taken: it must not wait
    client = _connect(hub, sock, entry, seen, take_input(environ), borrowed=True)
    try:
        client.run()
    finally:
        throw_away = leave(sock.fileno())
        # The server's writes would fail on what is left of TLS, and it would log that.
        # Without it they go to the throw-away; reading finds the end.
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RD)
    start_response(entry.answer.status, [])
    return _Unsent(throw_away)


def _check_may_stay(environ: Environ) -> None:
    """Raise AdoptionError where a request that stays would end the whole worker.

    gunicorn's sync worker has one thread; when that does not come back, the master
    takes it for hung and kills it.
    """
    if "gunicorn.socket" in environ and not environ.get("wsgi.multithread"):
        raise AdoptionError(
            "gunicorn's sync worker cannot keep a WebSocket under TLS of its own: use "
            "--worker-class gthread, or end TLS in a proxy"
        )


def request_of(environ: Environ, seen: Seen) -> Request:
    """Return the facts of a request that a handshake depends on."""
    headers = {
        key[5:].replace("_", "-").lower(): value
        for key, value in environ.items()
        if key.startswith("HTTP_")
    }
    if seen.host is not None:
        headers["host"] = seen.host
    if environ.get("CONTENT_LENGTH"):
        headers["content-length"] = environ["CONTENT_LENGTH"]
    return Request(
        method=environ["REQUEST_METHOD"],
        http_version=environ.get("SERVER_PROTOCOL", ""),
        # wsgiref does not know of the TLS that somebody has put below it.
        scheme="https" if isinstance(_socket_of(environ), ssl.SSLSocket) else seen.scheme,
        headers=headers,
        direct=bool(environ.get(DIRECT_KEY)),
    )


def _refuse(
    answer: Answer,
    environ: Environ,
    seen: Seen,
    start_response: StartResponse,
    reason: str = "",
) -> Iterable[bytes]:
    """Answer a handshake with a refusal, and end its connection.

    A proxy that passes an upgrade on may take the connection for a tunnel whatever the
    answer is: a request behind it would get past what the proxy checks (FAULTS 5). So
    whatever a server would do with the connection, it has none any more.
    """
    if not answer.status.startswith("426"):
        why = excerpt(reason or answer.body.decode().strip())
        logger.info("handshake from %s refused: %s", excerpt(seen.address), why)
    if environ["REQUEST_METHOD"] == "HEAD":
        answer = dataclasses.replace(answer, body=b"")
    sock = _socket_of(environ)
    # Our own server takes one request a connection; that of an HTTP/2 server is everybody's.
    shared = not str(environ.get("SERVER_PROTOCOL", "")).startswith("HTTP/1.")
    if sock is None or LEND_KEY in environ or shared:
        start_response(answer.status, list(answer.headers))
        return [answer.body]
    extra = ("Date", email.utils.formatdate(usegmt=True)), ("Connection", "close")
    last = dataclasses.replace(answer, headers=[*answer.headers, *extra])
    throw_away = dismiss(sock, last.to_bytes())
    take_input(environ)  # or the server would take it for the next request
    # For the server's access log.
    start_response(answer.status, list(answer.headers))
    return _Unsent(throw_away, [answer.body])


@functools.lru_cache(64)
def _complain(text: str) -> None:
    """Log what the server lacks: once, not for every client that tries."""
    logger.error("%s", text)


def _find_socket(environ: Environ) -> socket.socket:
    """Return the socket of a request; raises AdoptionError."""
    sock = _socket_of(environ)
    if sock is None:
        raise AdoptionError(
            f"the server {excerpt(environ.get('SERVER_SOFTWARE', ''))} gives no socket: WebSocket "
            "works under gunicorn (sync and gthread), Werkzeug, wsgiref and ws_hub.serve"
        )
    return sock


def _socket_of(environ: Environ) -> socket.socket | None:
    for key in _SOCKET_KEYS:
        sock = environ.get(key)
        if isinstance(sock, socket.socket):
            return sock
    # wsgiref hands over the file it reads requests from. The socket below it and not
    # just its number: only so is it seen whether there is TLS on it.
    raw = getattr(environ.get("wsgi.input"), "raw", None)
    sock = getattr(raw, "_sock", None)
    return sock if isinstance(sock, socket.socket) else None


def _read_ahead(environ: Environ, throw_away: ThrowAway) -> bytes:
    """Return what the server read beyond the request of an adopted connection.

    Safe only after the swap: the reader's next look at the descriptor finds the
    throw-away, which must not make it wait.
    """
    throw_away.end_input()
    return take_input(environ)


def take_input(environ: Environ) -> bytes:
    """Return what the server has read and not used, where it can be had.

    Also taken so that the server does not read it as the next request.
    """
    stream = environ.get("wsgi.input")
    if isinstance(stream, io.BufferedReader):
        try:
            return stream.read1()
        except (OSError, ValueError):
            return b""
    # gunicorn keeps it two objects down, three when the request has a body in chunks;
    # where another version does not, it stays there.
    reader = getattr(stream, "reader", None)
    for owner in (reader, getattr(reader, "req", None)):
        unreader = getattr(owner, "unreader", None)
        if unreader is not None:
            break
    buffer = getattr(unreader, "buf", None)
    if not isinstance(buffer, io.BytesIO):
        return b""
    data = buffer.getvalue()
    buffer.seek(0)
    buffer.truncate()
    return data
