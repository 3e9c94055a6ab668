"""Where each WSGI server keeps a request's socket, and the bytes that it has read ahead.

PEP 3333 defines neither. Werkzeug and gunicorn put the socket into the environ; wsgiref
is followed through the file that it reads requests from, Django's `runserver`, which is of
its family, through one more; the server of `ws_hub.serve`
sets keys of its own. What differs between servers stands here, and nowhere else in the
package.
"""

from __future__ import annotations

import io
import logging
import socket
from typing import Any

from ..backplane.addresses import is_alone
from ..errors import AdoptionError, excerpt
from ..log import get_logger

__all__ = [
    "DIRECT_KEY",
    "LEND_KEY",
    "PROCESSES",
    "SOCKET_KEY",
    "Environ",
    "check_may_stay",
    "expects_failures",
    "find_socket",
    "has_one_thread",
    "log_once",
    "logged",
    "look_at_processes",
    "socket_of",
    "take_input",
    "warned_of_processes",
]

logger = get_logger(__name__)

PROCESSES = (
    "Each worker has a hub and clients of its own: what is published in one does not reach the "
    "clients of the others. Connect them, by WS_HUB_BACKPLANE=local in the environment or by "
    'HubConfig(backplane="local"), or use one worker and more threads (gunicorn -k gthread '
    "--workers 1 --threads 8)"
)

Environ = dict[str, Any]

SOCKET_KEY = "ws_hub.socket"  # the socket, from our own server
# A function of our own server. It is called with a function that takes the bytes received
# so far and makes the client; that client gets the thread of the request.
LEND_KEY = "ws_hub.lend"
# True from our own server when the peer is on this machine and no proxy ends TLS before us.
DIRECT_KEY = "ws_hub.direct"
_SOCKET_KEYS = (SOCKET_KEY, "werkzeug.socket", "gunicorn.socket")


def find_socket(environ: Environ) -> socket.socket:
    """Return the socket of a request; raises AdoptionError where the server gives none."""
    sock = socket_of(environ)
    if sock is None:
        raise AdoptionError(
            f"the server {excerpt(environ.get('SERVER_SOFTWARE', ''))} gives no socket: WebSocket "
            "works under gunicorn (sync and gthread), Werkzeug, wsgiref (Django's runserver) and "
            "ws_hub.serve"
        )
    return sock


def socket_of(environ: Environ) -> socket.socket | None:
    """Return the socket of a request; None where the server gives none."""
    for key in _SOCKET_KEYS:
        sock = environ.get(key)
        if isinstance(sock, socket.socket):
            return sock
    # wsgiref gives the file that it reads requests from. The socket object below it, not
    # just the descriptor: its type shows whether it carries TLS.
    raw = getattr(_stream(environ), "raw", None)
    sock = getattr(raw, "_sock", None)
    return sock if isinstance(sock, socket.socket) else None


def take_input(environ: Environ) -> bytes:
    """Return and remove the bytes that the server has read beyond the request.

    Empty where the server's buffer cannot be reached. Left there, the server would read
    them as the next request.
    """
    stream = _stream(environ)
    if isinstance(stream, io.BufferedReader):
        try:
            return stream.read1()
        except (OSError, ValueError):
            return b""
    # gunicorn keeps its buffer two objects down, three when the request has a chunked body;
    # in a version that does not, the bytes stay there.
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


def _stream(environ: Environ) -> Any:
    """Return the file of a request; that of wsgiref, which Django's `runserver` wraps."""
    stream = environ.get("wsgi.input")
    if type(stream).__module__ == "django.core.handlers.wsgi":
        return getattr(getattr(stream, "_read", None), "__self__", stream)
    return stream


def has_one_thread(environ: Environ) -> bool:
    """Return whether a request that stays would end the whole worker.

    gunicorn's sync worker has one thread; while a request occupies it, the master gets no
    heartbeat from the worker and kills it.
    """
    return "gunicorn.socket" in environ and not environ.get("wsgi.multithread")


def expects_failures(environ: Environ) -> bool:
    """Return whether the server takes a write that fails for a client that has gone.

    gunicorn logs the request as ever then, and ends the connection. One that it can write to it
    keeps alive: its main thread polls it, and a thread of the pool is given it to find the end.
    """
    return "gunicorn.socket" in environ


def check_may_stay(environ: Environ) -> None:
    """Raise AdoptionError where a request that stays would end the whole worker."""
    if has_one_thread(environ):
        raise AdoptionError(
            "gunicorn's sync worker cannot keep a WebSocket under TLS of its own: use "
            "--worker-class gthread, or end TLS in a proxy"
        )


logged: dict[str, object] = {}  # kinds of records of this process; added to by single calls
_FEW = 8


def log_once(kind: str, text: str, level: int = logging.WARNING, *, each: str = "") -> None:
    """Log what the application or its server lacks: once a kind in a process.

    Once, because peers repeat a handshake as often as they like; with `each`, once for each of
    the first few of these.

    Threads: any.
    """
    mark = object()
    if each:
        key = f"{kind}: {excerpt(each)}"
        if key not in logged and sum(of.startswith(f"{kind}: ") for of in [*logged]) >= _FEW:
            return
        kind = key
    if logged.setdefault(kind, mark) is mark:
        logger.log(level, "%s", text)


def warned_of_processes() -> None:
    """Note that somebody has warned of several processes.

    Threads: any.
    """
    logged["processes"] = True


def look_at_processes(environ: Environ, backplane: object) -> None:
    """Warn where requests are served by several processes whose hubs nothing connects.

    Threads: any.
    """
    if environ.get("wsgi.multiprocess") is not True:
        return
    if backplane is None:
        log_once("processes", f"this server has several processes. {PROCESSES}")
    elif is_alone(backplane):
        log_once(
            "processes",
            'this server has several processes, which the backplane "local" does not find, as it '
            'knows those of gunicorn alone: name a directory, "local:///run/app/hub"',
        )
