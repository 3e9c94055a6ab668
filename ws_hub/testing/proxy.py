"""A TCP proxy with the faults of a network."""

from __future__ import annotations

import select
import socket
import struct
import threading
from typing import Literal
from urllib.parse import urlsplit

from .. import threads

__all__ = ["FaultProxy"]

_TIMEOUT = 15.0  # seconds of a wait that only a failure reaches
_PIECE = 65536  # bytes
_SEGMENT = 1448  # bytes

_End = Literal["reset", "fin"]


class FaultProxy:
    """A TCP proxy on 127.0.0.1 that does to connections what networks do.

    ::

        with FaultProxy(server.host, server.port) as proxy:
            client = HubClient(proxy.through(server.url))
            proxy.black_hole()

    `black_hole` lets nothing through and says nothing, `heal` ends that and loses nothing;
    `reset` and `fin` end all connections; `refuse` takes no new ones until `accept`. It accepts
    from its construction on, with two threads for each connection and one for its port, all of
    which end in `close`, or at the end of its `with`.

    Args:
        host: the server's address.
        port: the server's port.
        buffer: bytes that the kernel holds of what the server sends, about; None for its own
            choice, of megabytes. With a few a client that is held up is soon behind.

    Attributes:
        host: the proxy's address.
        port: the proxy's port.
        latency: seconds by which each piece of a stream is late, in each direction; set it at
            any time, as `rate` and `chop`.
        rate: bytes a second, in each direction; None for no limit.
        chop: bytes that are written at once, at most; 1 tears everything apart.
        target: host and port of the server; set it at any time, and new connections lead there.
        accepted: how many connections have reached the server so far.
    """

    def __init__(self, host: str, port: int, *, buffer: int | None = None) -> None:
        self.latency = 0.0
        self.rate: float | None = None
        self.chop = _PIECE
        self.accepted = 0
        self.target = (host, port)
        self._buffer = buffer
        # guards: _holed, _links; waited on for a heal or an end. Taken before a link's lock.
        self._changed = threading.Condition()
        self._holed = False
        self._links: set[_Link] = set()
        # Changed by the thread that calls `accept` and `refuse`.
        self._listener: socket.socket | None = None
        self._acceptor: threading.Thread | None = None
        self.host, self.port = "127.0.0.1", 0
        self.accept()

    def __enter__(self) -> FaultProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- any thread, one at a time ---------------------------------------------------------

    @property
    def links(self) -> int:
        """How many connections there are."""
        with self._changed:
            return len(self._links)

    def through(self, url: str) -> str:
        """Return a URL of the server as one that leads through the proxy.

        Threads: any; does not wait.
        """
        return urlsplit(url)._replace(netloc=f"{self.host}:{self.port}").geturl()

    def accept(self) -> None:
        """Accept connections (again), on the same port. Idempotent.

        Threads: any, one at a time; does not wait.
        """
        if self._listener is not None:
            return
        listener = socket.create_server((self.host, self.port))
        self.port = listener.getsockname()[1]
        self._listener = listener
        self._acceptor = threads.start("ws-hub:proxy:accept", self._accept_all, listener)

    def refuse(self) -> None:
        """Refuse new connections from now on; those there are live on. Idempotent.

        Threads: any, one at a time; waits for a connection that is just being made.
        """
        listener, acceptor = self._listener, self._acceptor
        if listener is None:
            return
        self._listener = self._acceptor = None
        listener.shutdown(socket.SHUT_RDWR)  # wakes accept(); close() alone would not
        threads.join(acceptor, _TIMEOUT)
        listener.close()

    def black_hole(self) -> None:
        """Let nothing through; the sockets stay open.

        Threads: any; does not wait.
        """
        with self._changed:
            self._holed = True

    def heal(self) -> None:
        """Let through what was held back, and all that follows.

        Threads: any; does not wait.
        """
        with self._changed:
            self._holed = False
            self._changed.notify_all()

    def reset(self) -> None:
        """End every connection with RST on both sides.

        Threads: any; returns when they have ended.
        """
        self._end("reset")

    def fin(self) -> None:
        """End every connection with FIN on both sides.

        Threads: any; returns when they have ended.
        """
        self._end("fin")

    def close(self) -> None:
        """Refuse, end every connection, and join every thread. Idempotent.

        Threads: any, one at a time; returns when all has ended.
        """
        self.refuse()
        self._end("fin")

    def _end(self, how: _End) -> None:
        with self._changed:
            links = list(self._links)
            for link in links:
                link.end(how)
            self._changed.notify_all()
        for link in links:
            for thread in link.threads:
                threads.join(thread, _TIMEOUT)

    # --- accepting thread ------------------------------------------------------------------

    def _accept_all(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            # Under the lock although it waits for the server: a test that sees the connection
            # there, and then ends all there are, ends this one too.
            with self._changed:
                self._connect(near)

    def _connect(self, near: socket.socket) -> None:
        try:
            far = self._dial()
        except OSError:
            _reset(near)
            return
        self.accepted += 1
        link = _Link(near, far)
        self._links.add(link)
        link.threads = [
            threads.start("ws-hub:proxy:pump", self._pump, link, *ends)
            for ends in ((near, far), (far, near))
        ]

    def _dial(self) -> socket.socket:
        if self._buffer is None:
            return socket.create_connection(self.target, _TIMEOUT)
        family = socket.AF_INET6 if ":" in self.target[0] else socket.AF_INET
        far = socket.socket(family)
        try:
            far.settimeout(_TIMEOUT)
            far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._buffer)
            # The server's kernel holds a number of segments, which loopback makes very large.
            far.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, _SEGMENT)
            far.connect(self.target)
        except OSError:
            far.close()
            raise
        return far

    # --- pumping threads -------------------------------------------------------------------

    def _pump(self, link: _Link, source: socket.socket, drain: socket.socket) -> None:
        try:
            while link.wait(source, select.POLLIN):
                data = source.recv(_PIECE)
                if not data:
                    drain.shutdown(socket.SHUT_WR)
                    break
                self._carry(link, data, drain)
        except OSError:
            link.end("reset")  # one side is gone: the other one learns it at once
            with self._changed:  # the other pump may stand in a black hole
                self._changed.notify_all()
        finally:
            if link.leave():
                with self._changed:
                    self._links.discard(link)

    def _carry(self, link: _Link, data: bytes, drain: socket.socket) -> None:
        if self.latency:
            link.over.wait(self.latency)
        while data and not link.over.is_set():
            with self._changed:
                while self._holed and not link.over.is_set():
                    self._changed.wait()  # woken by `heal` and by `_end`
            if link.wait(drain, select.POLLOUT):
                sent = drain.send(data[: self.chop])
                data = data[sent:]
                if self.rate:
                    link.over.wait(sent / self.rate)


class _Link:
    """The two sockets of one proxied connection; the last pump to leave closes them."""

    def __init__(self, near: socket.socket, far: socket.socket) -> None:
        self.threads: list[threading.Thread] = []
        self.over = threading.Event()
        self._sockets = (near, far)
        self._how: _End = "fin"
        self._wake_read, self._wake_write = socket.socketpair()
        # guards: _pumps, _how, the closing of the sockets.
        self._lock = threading.Lock()
        self._pumps = 2
        for sock in self._sockets:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def wait(self, sock: socket.socket, events: int) -> bool:
        """Wait for a socket; False when the connection is over instead."""
        poller = select.poll()  # no select(), which knows only low descriptors
        poller.register(self._wake_read, select.POLLIN)
        poller.register(sock, events)
        ready = [fd for fd, _ in poller.poll()]
        return self._wake_read.fileno() not in ready

    def end(self, how: _End) -> None:
        """Have both pumps leave; the sockets then end with `how`."""
        with self._lock:
            if self._pumps and not self.over.is_set():
                self._how = how
                self.over.set()
                self._wake_write.send(b"!")  # never read: it wakes both, for good

    def leave(self) -> bool:
        """Count one pump out; True for the last one, which closes."""
        with self._lock:
            self._pumps -= 1
            if self._pumps:
                return False
            for sock in self._sockets:
                if self._how == "reset":
                    _reset(sock)
                else:
                    sock.close()
            self._wake_read.close()
            self._wake_write.close()
            return True


def _reset(sock: socket.socket) -> None:
    """Close a TCP socket so that the far end gets RST and not FIN."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
