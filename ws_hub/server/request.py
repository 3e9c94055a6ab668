"""One HTTP request of the embedded server: read within a deadline, and answered.

The standard library parses the request and writes the response. Added here: a deadline for
the head, the socket and the thread for a WebSocket, and an access log that goes through
`logging` and contains no tokens.
"""

from __future__ import annotations

import io
import re
import socket
import ssl
import time
from collections.abc import Callable
from typing import IO, Any, cast
from wsgiref.simple_server import ServerHandler, WSGIRequestHandler

from ..connection.connection import Connection
from ..errors import excerpt
from ..log import get_logger
from ..wsgi.app import split_absolute
from ..wsgi.servers import LEND_KEY, SOCKET_KEY

__all__ = ["MAX_REQUEST_LINE", "Handler"]

logger = get_logger(__name__)

MAX_REQUEST_LINE = 65_536
_QUERY = re.compile(r"\?\S*")


class Handler(WSGIRequestHandler):
    """Handles one request; gives its socket to the application.

    Attributes:
        lent: the hub's connection on this socket, once it is a WebSocket.
    """

    connection: socket.socket
    lent: Connection | None = None

    def setup(self) -> None:
        """Make `rfile` a file with a deadline."""
        super().setup()
        self._patience: float = self.server.patience  # type: ignore[attr-defined]  # ours
        self._head = _Patient(self.connection, time.monotonic() + self._patience)
        self.rfile = io.BufferedReader(self._head)

    def handle(self) -> None:
        """Read the head and let the application answer."""
        self.raw_requestline = self.rfile.readline(MAX_REQUEST_LINE + 1)
        if len(self.raw_requestline) > MAX_REQUEST_LINE:
            self.requestline = self.request_version = self.command = ""
            self.send_error(414)
            return
        if not self.parse_request():
            return
        if not self._take_absolute_form():
            self.send_error(400)
            return
        self._head.deadline = None
        self.connection.settimeout(self._patience)
        # Not the base class's handler: that sets wsgi.multithread to False.
        handler = _Response(
            cast("IO[bytes]", self.rfile),
            self.wfile,  # type: ignore[arg-type]  # as wsgiref itself does
            self.get_stderr(),
            self.get_environ(),
            multithread=True,
        )
        handler.request_handler = self  # type: ignore[attr-defined]  # wsgiref's own way
        handler.run(self.server.get_app())  # type: ignore[attr-defined]  # a WSGIServer

    def _take_absolute_form(self) -> bool:
        """Turn `GET http://host/path` into Host and path; return False without a host."""
        found = split_absolute(self.path)
        if found is None:
            return True
        host, self.path = found
        if "Host" in self.headers:  # HTTP/1.1 without it is refused, whatever the target
            self.headers.replace_header("Host", host)
        return bool(host) and "@" not in host

    def get_environ(self) -> dict[str, Any]:
        """Return the WSGI environ, with the socket and the function for LEND_KEY."""
        # In the environ `X_Forwarded_For` and the proxy's X-Forwarded-For have the same key.
        for name in [name for name in self.headers if "_" in name]:
            del self.headers[name]
        environ = super().get_environ()
        environ[SOCKET_KEY] = self.connection
        environ[LEND_KEY] = self._lend
        environ["REMOTE_PORT"] = str(self.client_address[1])
        if isinstance(self.connection, ssl.SSLSocket):
            environ["wsgi.url_scheme"] = "https"
            environ["HTTPS"] = "on"  # wsgiref derives wsgi.url_scheme from it
        return environ

    def _lend(self, connect: Callable[[bytes], Connection]) -> None:
        self._head.end()
        self.lent = connect(cast(io.BufferedReader, self.rfile).read1())

    def address_string(self) -> str:
        """Return the peer's address."""
        return str(self.client_address[0])

    def log_message(self, format: str, *args: Any) -> None:
        """Log a line of the access log, at DEBUG."""
        # Without the query, which may carry a token (FAULTS 52).
        line = _QUERY.sub("?***", format % args)
        logger.debug("%s %s", self.address_string(), excerpt(line, 300))


class _Response(ServerHandler):
    """A response in HTTP/1.1, which WebSocket clients require even of a refusal."""

    http_version = "1.1"
    # Not the process's environment: a variable HTTP_PROXY would count as a header, and the
    # rest would be copied for every request.
    os_environ: dict[str, str] = {}

    def finish_response(self) -> None:
        if self.request_handler.lent is None:  # type: ignore[attr-defined]  # wsgiref's own way
            super().finish_response()
        # Otherwise the hub sends the response, when it has registered the client.

    def cleanup_headers(self) -> None:
        super().cleanup_headers()
        self.headers["Connection"] = "close"  # type: ignore[attr-defined]  # start_response made them


class _Patient(io.RawIOBase):
    """Reads a request from its socket, up to a deadline for all of it."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock = sock
        self._ended = False
        self.deadline: float | None = deadline

    def end(self) -> None:
        """Report the end of input from now on: further bytes belong to the client."""
        self._ended = True

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._ended:
            return 0
        if self.deadline is not None:
            left = self.deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("the request took too long to arrive")
            self._sock.settimeout(left)
        return self._sock.recv_into(buffer)
