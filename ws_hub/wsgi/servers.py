"""Where each WSGI server keeps a request's socket, and the bytes that it has read ahead.

PEP 3333 defines neither. Werkzeug and gunicorn put the socket into the environ; wsgiref
is followed through the file that it reads requests from; the server of `ws_hub.serve`
sets keys of its own. What differs between servers stands here, and nowhere else in the
package.
"""

from __future__ import annotations

import functools
import io
import socket
from typing import Any

from ..errors import AdoptionError, excerpt
from ..log import get_logger

__all__ = [
    "DIRECT_KEY",
    "LEND_KEY",
    "SOCKET_KEY",
    "Environ",
    "check_may_stay",
    "complain",
    "find_socket",
    "socket_of",
    "take_input",
]

logger = get_logger(__name__)

Environ = dict[str, Any]

SOCKET_KEY = "ws_hub.socket"  # where our own server puts its socket
# What our own server wants called with what makes a client of its socket, given the bytes
# that came in already: it lends that client its thread.
LEND_KEY = "ws_hub.lend"
# Set by our own server: who asks is on this machine, and nothing before us ends TLS.
DIRECT_KEY = "ws_hub.direct"
_SOCKET_KEYS = (SOCKET_KEY, "werkzeug.socket", "gunicorn.socket")


def find_socket(environ: Environ) -> socket.socket:
    """Return the socket of a request; raises AdoptionError."""
    sock = socket_of(environ)
    if sock is None:
        raise AdoptionError(
            f"the server {excerpt(environ.get('SERVER_SOFTWARE', ''))} gives no socket: WebSocket "
            "works under gunicorn (sync and gthread), Werkzeug, wsgiref and ws_hub.serve"
        )
    return sock


def socket_of(environ: Environ) -> socket.socket | None:
    """Return the socket of a request; None where the server gives none."""
    for key in _SOCKET_KEYS:
        sock = environ.get(key)
        if isinstance(sock, socket.socket):
            return sock
    # wsgiref hands over the file it reads requests from. The socket below it and not
    # just its number: only so is it seen whether there is TLS on it.
    raw = getattr(environ.get("wsgi.input"), "raw", None)
    sock = getattr(raw, "_sock", None)
    return sock if isinstance(sock, socket.socket) else None


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


def check_may_stay(environ: Environ) -> None:
    """Raise AdoptionError where a request that stays would end the whole worker.

    gunicorn's sync worker has one thread; when that does not come back, the master
    takes it for hung and kills it.
    """
    if "gunicorn.socket" in environ and not environ.get("wsgi.multithread"):
        raise AdoptionError(
            "gunicorn's sync worker cannot keep a WebSocket under TLS of its own: use "
            "--worker-class gthread, or end TLS in a proxy"
        )


@functools.lru_cache(64)
def complain(text: str) -> None:
    """Log what the server lacks: once, not for every client that tries."""
    logger.error("%s", text)
