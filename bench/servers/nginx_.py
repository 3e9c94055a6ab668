"""nginx with its module nchan: a publication is an HTTP request.

The same as for ws_hub: the message, its clients, and the moment from which it is timed,
before the publishing call. What differs: the server is a process beside the one that
publishes, on the same core. The call is a POST on one connection that is kept, written
ready made to a raw socket, and the call returns when nginx has answered: that is after it
has written to every client, in a loop on its only thread. Nothing is joined, so that a
burst is a send for each client and message, and a request for each message. The module
leaves Nagle's algorithm on, so that the kernel may join what a client has not yet confirmed.
No client offers compression, pings are off, and no message is kept for later clients.

nginx runs as one process, without a master, so that none outlives this one: the worker of
a master goes on when that is killed. The event loop is the same.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from ..programs import PROGRAMS, nchan
from .base import Publish, Server, end_with_parent, ready_text

__all__ = ["Nchan"]

_CONNECTIONS = 20_000
_PATIENCE = 30.0  # seconds for an answer of nginx
_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
_CONFIG = """
load_module {module};
daemon off;
master_process off;
error_log stderr error;
pid nginx.pid;
events {{ worker_connections {connections}; }}
http {{
    access_log off;
    {temporary}
    keepalive_requests 1000000000;
    keepalive_timeout 1d;
    client_body_buffer_size 1m;
    server {{
        listen 127.0.0.1:{port} backlog=1024 reuseport;
        location = /publish {{
            nchan_publisher;
            nchan_channel_id everybody;
            nchan_store_messages off;
        }}
        location = /ws {{
            nchan_subscriber websocket;
            nchan_channel_id everybody;
            nchan_subscriber_first_message newest;
        }}
    }}
}}
"""


class Nchan(Server):
    """A publisher's location, and one of its subscribers."""

    path = "/ws"

    def start(self) -> int:
        with tempfile.TemporaryDirectory() as folder, socket.socket() as reserved:
            # nginx cannot choose a port: this socket, which never listens, keeps one for it.
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            reserved.bind(("127.0.0.1", 0))
            port = int(reserved.getsockname()[1])
            temporary = " ".join(f"{name}_temp_path {name};" for name in _TEMPORARY)
            config = _CONFIG.format(
                module=nchan(), connections=_CONNECTIONS, temporary=temporary, port=port
            )
            Path(folder, "nginx.conf").write_text(config, encoding="ascii")
            self._child = subprocess.Popen(
                [str(PROGRAMS["nginx"].find()), "-p", folder, "-c", "nginx.conf", "-e", "stderr"],
                preexec_fn=end_with_parent,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
            self._counting = self._connect(port)
            self._publishing = self._connect(port)
            # Answered: from here on it needs no file, because bodies fit into its buffers.
            self.clients()
        return port

    def _connect(self, port: int) -> _Connection:
        """Connect as soon as nginx listens."""
        ended = time.monotonic() + _PATIENCE
        while self._child.poll() is None and time.monotonic() < ended:
            with contextlib.suppress(ConnectionRefusedError):
                return _Connection(port)
            time.sleep(0.01)
        raise RuntimeError(f"nginx does not listen; exit code {self._child.poll()}")

    def serving(self) -> int:
        return self._child.pid

    def clients(self) -> int:
        status, body = self._counting.ask(b"GET", b"")
        if status == 404:  # there is no channel before the first client
            return 0
        return int(json.loads(body)["subscribers"])

    def publisher(self, target: str, size: int, count: int) -> Publish:
        text, connection = ready_text(target, size).encode(), self._publishing
        request = _request(b"POST", text)

        def publish() -> None:
            status, _ = connection.exchange(request)
            if status not in (201, 202):  # with, and without a subscriber
                raise ConnectionError(f"nginx answered a publication with {status}")

        return publish

    def end(self) -> None:
        """End nginx, and then this process, at once."""
        self._child.kill()
        self._child.wait()
        super().end()


class _Connection:
    """One that is kept to the publisher's location."""

    def __init__(self, port: int) -> None:
        self._sock = socket.create_connection(("127.0.0.1", port), _PATIENCE)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, method: bytes, body: bytes) -> tuple[int, bytes]:
        return self.exchange(_request(method, body))

    def exchange(self, request: bytes) -> tuple[int, bytes]:
        """Send a ready request; return the status and the body of the answer."""
        self._sock.sendall(request)
        answer = b""
        while True:
            more = self._sock.recv(65536)
            if not more:
                raise ConnectionError("nginx has closed the connection")
            answer += more
            head, end, body = answer.partition(b"\r\n\r\n")
            if end:
                # Of a fixed order and spelling: nginx writes it.
                length = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
                if len(body) >= length:
                    return int(head[9:12]), body


def _request(method: bytes, body: bytes) -> bytes:
    return (
        b"%b /publish HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/json\r\nContent-Length: %d"
        b"\r\n\r\n%b" % (method, len(body), body)
    )
