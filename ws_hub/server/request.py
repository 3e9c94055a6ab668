"""One HTTP request of the embedded server: read within a deadline, and answered.

The standard library parses the request and writes the response. Added here: a deadline for
the head, the socket and the thread for a WebSocket, and an access log that goes through
`logging` and contains no tokens; and for the usual head, which arrives whole and has nothing
unusual in it, a parser that takes a third of the time. When thousands of clients come at once,
each call that gives up the GIL is one more wait behind all of them: a handshake makes no call
of the socket that it does not need.
"""

from __future__ import annotations

import io
import re
import socket
import ssl
import time
import urllib.parse
from collections.abc import Callable
from typing import IO, Any, cast
from wsgiref.simple_server import ServerHandler, WSGIRequestHandler

from ..connection.connection import Connection
from ..connection.fast_send import keeps_blocking, receive_at_once
from ..errors import excerpt
from ..log import get_logger
from ..wsgi.app import split_absolute
from ..wsgi.servers import LEND_KEY, SOCKET_KEY

__all__ = ["MAX_REQUEST_LINE", "Handler", "NoThread"]

logger = get_logger(__name__)

MAX_REQUEST_LINE = 65_536
_QUERY = re.compile(r"\?\S*")
# The only heads that are parsed here (RFC 9112 sections 3 and 5): without a body, and without what
# the environ cannot tell apart. Whatever else a peer sends is the standard library's to judge.
_PLAIN = re.compile(
    rb"(GET|HEAD) (/[!-~]*) (HTTP/1\.[01])\r\n"
    rb"((?:(?!(?i:content|transfer)-)[!#$%&'*+.^`|~0-9A-Za-z-]+:[\t -~]*\r\n){0,64})\r\n"
)


class NoThread(OSError):
    """A request has to wait for its peer, and no thread is free to do so."""


class Handler(WSGIRequestHandler):
    """Handles one request; gives its socket to the application.

    Attributes:
        lent: the hub's connection on this socket, once it is a WebSocket.
        input: reads the socket.
    """

    connection: socket.socket
    input: _Patient
    lent: Connection | None = None
    _fields: list[tuple[str, str]] | None = None  # of a plain head; None for another

    def setup(self) -> None:
        """Make `rfile` a file with a deadline."""
        super().setup()
        server = cast(Any, self.server)  # ours
        self.input = _Patient(self.connection, server.patience, server.before_wait)
        self.rfile = io.BufferedReader(self.input)

    def handle(self) -> None:
        """Read the head and let the application answer."""
        if not self._parse_plain() and not self._parse():
            return
        if not self._take_absolute_form():
            self.send_error(400)
            return
        self.input.deadline = None
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

    def _parse(self) -> bool:
        """Parse the head as the standard library does; False when it is answered."""
        self.raw_requestline = self.rfile.readline(MAX_REQUEST_LINE + 1)
        if len(self.raw_requestline) > MAX_REQUEST_LINE:
            self.requestline = self.request_version = self.command = ""
            self.send_error(414)
            return False
        return self.parse_request()

    def _parse_plain(self) -> bool:
        """Do what `_parse` does with a head that is here and plain; False for any other."""
        rfile = cast(io.BufferedReader, self.rfile)
        match = _PLAIN.match(rfile.peek())
        if match is None:
            return False
        rfile.read(match.end())
        method, target, version, fields = (each.decode("ascii") for each in match.groups())
        self.requestline = f"{method} {target} {version}"
        self.command, self.request_version = method, version
        self.path = "/" + target.lstrip("/") if target.startswith("//") else target
        self._fields = [
            (name, value.strip(" \t"))
            for name, _, value in (field.partition(":") for field in fields.split("\r\n")[:-1])
        ]
        return True

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
        if self._fields is not None:
            environ = self._plain_environ(self._fields)
        else:
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

    def _plain_environ(self, fields: list[tuple[str, str]]) -> dict[str, Any]:
        """Return the environ of a plain head, as the base class makes it of any."""
        environ: dict[str, Any] = self.server.base_environ.copy()  # type: ignore[attr-defined]
        path, _, query = self.path.partition("?")
        environ |= {
            "SERVER_PROTOCOL": self.request_version,
            "SERVER_SOFTWARE": self.server_version,
            "REQUEST_METHOD": self.command,
            "PATH_INFO": urllib.parse.unquote(path, "iso-8859-1"),
            "QUERY_STRING": query,
            "REMOTE_ADDR": self.client_address[0],
            "CONTENT_TYPE": "text/plain",
        }
        for name, value in fields:
            key = name.replace("-", "_").upper()
            if key not in environ:  # such as Server-Name, which has no meaning
                key = f"HTTP_{key}"
                environ[key] = f"{environ[key]},{value}" if key in environ else value
        return environ

    def _lend(self, connect: Callable[[bytes], Connection]) -> None:
        self.input.end()
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

    def start_response(self, *args: Any, **kwargs: Any) -> Any:
        if self.request_handler.lent is None:  # type: ignore[attr-defined]  # wsgiref's own way
            self.request_handler.input.limit()  # type: ignore[attr-defined]
        return super().start_response(*args, **kwargs)

    def finish_response(self) -> None:
        if self.request_handler.lent is None:  # type: ignore[attr-defined]  # wsgiref's own way
            super().finish_response()
        # Otherwise the hub sends the response, when it has registered the client.

    def cleanup_headers(self) -> None:
        super().cleanup_headers()
        self.headers["Connection"] = "close"  # type: ignore[attr-defined]  # start_response made them


class _Patient(io.RawIOBase):
    """Reads a request from its socket, up to a deadline for all of its head.

    Args:
        sock: the connection.
        patience: seconds that the head may take, and then each wait for the peer.
        before_wait: called before a wait; False when nothing may wait here.

    Attributes:
        deadline: when the head has to be here, in monotonic seconds; None once it is.
    """

    def __init__(
        self, sock: socket.socket, patience: float, before_wait: Callable[[], bool]
    ) -> None:
        self._sock = sock
        self._before_wait = before_wait
        self._patience = patience
        self._limited = False
        # Mostly the head is here already. That cannot be asked under TLS, nor of a socket with a
        # timeout, which the application may have set for all (`socket.setdefaulttimeout`).
        self._asks = keeps_blocking(sock) and sock.gettimeout() is None
        self._ended = False
        self.deadline: float | None = time.monotonic() + patience

    def limit(self) -> None:
        """Have each wait for the peer, to read or to write, take at most so long from now on."""
        if not self._limited:
            self._limited = True
            self._sock.settimeout(self._patience)

    def end(self) -> None:
        """Report the end of input from now on: further bytes belong to the client."""
        self._ended = True

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._ended:
            return 0
        if self.deadline is None:
            self.limit()
            return self._sock.recv_into(buffer)
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the request took too long to arrive")
        if self._asks:
            self._asks = False
            try:
                data = receive_at_once(self._sock, len(buffer))
                buffer[: len(data)] = data
                return len(data)
            except BlockingIOError:
                pass  # not yet
        if not self._before_wait():
            raise NoThread
        self._sock.settimeout(left)
        return self._sock.recv_into(buffer)
