"""The clients of every server under test: one process, one thread, epoll and raw recv.

The same for every server, but for how a connection is opened. It reads into one
preallocated buffer and counts messages by counting a byte (see `wire`), so that a read
costs about a microsecond beside the system call, whatever it holds.

That it is not the bound is measured in each run: the `floor` row is the cheapest server
that Python can be, a bare loop of sends of one ready frame, and `floor joined` hands over
in one send what a burst amounts to. Both feed this same process. A server whose figure is
below the floor's is bound by itself; only one that reaches the joined floor could be
bound from here.
"""

from __future__ import annotations

import gc
import itertools
import os
import resource
import select
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .control import Answer, obey, say
from .wire import MARK, PING, PONG, Frames, frames, masked, upgrade

__all__ = ["Load", "dial", "prepare", "read_head"]

_BUFFER_BYTES = 1024 * 1024
_AT_A_TIME = 64  # handshakes under way while connecting
_PATIENCE = 60.0  # seconds for a handshake, or for an answer to what is sent at the start
_FEW = 16  # clients that are read between two looks at a plain request
_TICK = 0.005  # seconds between two looks at what clients with a rate may read
_SMALL_BUFFER = 4096  # receive buffer of a slow client, so that it is slow at once
_NO_PORT = 24  # IP_BIND_ADDRESS_NO_PORT of ip(7)
_END_OF_HEAD = b"\r\n\r\n"


class Load:
    """The connections of one stage."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._socks: dict[int, socket.socket] = {}
        self._buffer = bytearray(_BUFFER_BYTES)
        self._left: dict[int, int] = {}
        self._at: dict[int, int] = {}  # when each client had its last message (ns)
        self._deadline = 0.0
        self._frames: dict[int, Frames] = {}  # of clients that take compressed messages
        self._crawler = Crawler()

    # --- connecting ------------------------------------------------------------------------

    def connect(
        self,
        *,
        port: int,
        path: str,
        count: int,
        hello: Sequence[Sequence[str]] = ((),),
        greeting: str | None = None,
        slow: int | None = None,
        offer: bool = False,
        buffer: int | None = None,
        sources: Sequence[str] = (),
    ) -> Answer:
        """Open connections, several handshakes at a time; return when the first began.

        Args:
            port: of the server, on 127.0.0.1.
            path: of its WebSocket.
            count: how many.
            hello: what each says first, in turn; each text is answered with one mark.
            greeting: a text that is sent once connected and answered without a mark.
            slow: None for clients that are measured; else bytes a second that these
                read, unmeasured; 0 for never.
            offer: whether they take compressed messages: then frames are counted.
            buffer: bytes of their receive buffers; None for what the kernel likes.
            sources: addresses that they come from, in turn; none for what the kernel likes.
        """
        if slow is not None:
            buffer = _SMALL_BUFFER
        began = time.monotonic_ns()
        opened: list[socket.socket] = []
        source = itertools.cycle(sources or ("",))
        while len(opened) < count:
            batch = [
                dial(port, path, buffer=buffer, offer=offer, source=next(source))
                for _ in range(min(_AT_A_TIME, count - len(opened)))
            ]
            for sock in batch:
                head = read_head(sock)
                if offer and b"permessage-deflate" not in head:
                    raise RuntimeError("the server does not compress")
                if greeting is not None:
                    sock.sendall(masked(greeting.encode()))
                    _read_frames(sock, 2)
            opened += batch
        if slow is not None:
            for sock in opened:
                self._crawler.add(sock, slow)
            return {"began": began}
        for index, sock in enumerate(opened):
            # Before it is told not to block: thousands of requests are more than fits.
            sock.sendall(b"".join(masked(said.encode()) for said in hello[index % len(hello)]))
            sock.setblocking(False)
            self._socks[sock.fileno()] = sock
            if offer:
                self._frames[sock.fileno()] = Frames()
        for sock in opened:
            self._poll.register(sock.fileno(), select.EPOLLIN)
        said_by = [len(hello[index % len(hello)]) for index in range(count)]
        wanted = {sock.fileno(): n for sock, n in zip(opened, said_by, strict=True) if n}
        self._receive(wanted, _PATIENCE)
        if any(n > 0 for n in self._left.values()):
            raise RuntimeError("not every client was answered")
        return {"began": began}

    def ask(self, *, text: str) -> None:
        """Let every client say something, and read nothing of what comes for it."""
        for sock in self._socks.values():
            sock.send(masked(text.encode()))

    # --- measuring -------------------------------------------------------------------------

    def expect(self, *, messages: int, timeout: float, clients: int | None = None) -> Answer:
        """Say "ready", then receive until every client has `messages` more.

        Or until the first so many clients have; what the others get is too much. Returns
        the moment at which the last one had them (monotonic ns), how many clients have
        them all, and how many messages came in.
        """
        say({"ready": True})
        wanted = dict.fromkeys(self._socks, 0)
        chosen = list(self._socks)[:clients]
        wanted.update(dict.fromkeys(chosen, messages))
        before = sum(each.bytes for each in self._frames.values())
        done = self._receive(wanted, timeout)
        left = [self._left[fd] for fd in chosen]
        return {
            "done": done,
            "clients": len(chosen),
            "complete": sum(n <= 0 for n in left),
            "messages": sum(messages - n for n in left),
            "extra": -sum(min(n, 0) for n in self._left.values()),
            "bytes": sum(each.bytes for each in self._frames.values()) - before,
        }

    def _receive(self, wanted: dict[int, int], timeout: float) -> int:
        """Count down `wanted` until nothing is missing; return when the last one came."""
        self._left, self._at = left, at = wanted, dict[int, int]()
        buffer, poll, ended = self._buffer, self._poll.poll, time.monotonic() + timeout
        receive = {fd: sock.recv_into for fd, sock in self._socks.items()}
        count, now, streams = buffer.count, time.monotonic_ns, self._frames
        missing = sum(n > 0 for n in left.values())
        last = now()
        while missing > 0:
            events = poll(max(ended - time.monotonic(), 0))
            if not events and time.monotonic() >= ended:
                break
            for fd, _ in events:
                size = receive[fd](buffer)
                if not size:
                    self._poll.unregister(fd)  # lost: it stays short of what it should have
                    missing -= left.get(fd, 0) > 0
                    continue
                if streams:
                    marks = streams[fd].feed(bytes(buffer[:size]))
                else:
                    marks = count(MARK, 0, size)
                if marks and fd in left:
                    had = left[fd]
                    left[fd] = had - marks
                    if had > 0 >= had - marks:
                        missing -= 1
                        at[fd] = last = now()
        return last

    def collect(
        self, *, messages: int, timeout: float, rates: Sequence[int | None] = (None,)
    ) -> Answer:
        """Say "ready", then read until each client has so many messages, or has been cut.

        A client with a rate reads no more than that many bytes a second, like one behind
        a link that is no faster. Returns, for each client, how many `messages` and `bytes`
        it got, in how many `seconds`, and whether it was `cut`.
        """
        say({"ready": True})
        began = time.monotonic()
        found = [_Reading(rates[index % len(rates)]) for index in range(len(self._socks))]
        reading = dict(zip(self._socks, found, strict=True))
        for fd, each in reading.items():
            if each.rate is not None:
                self._poll.unregister(fd)
        while reading and (now := time.monotonic() - began) < timeout:
            ready = [fd for fd, each in reading.items() if each.rate is not None]
            ready += [fd for fd, _ in self._poll.poll(_TICK)]
            for fd in ready:
                if fd in reading and self._take(fd, reading[fd], now, messages):
                    del reading[fd]
        for each in reading.values():
            each.seconds = time.monotonic() - began
        return {
            "clients": [
                {key: getattr(each, key) for key in ("messages", "bytes", "seconds", "cut")}
                for each in found
            ]
        }

    def _take(self, fd: int, each: _Reading, now: float, messages: int) -> bool:
        """Read what one client may; say whether it has all, or is no longer connected."""
        may = _BUFFER_BYTES if each.rate is None else int(each.rate * now) - each.bytes
        if may <= 0:
            return False
        try:
            size = self._socks[fd].recv_into(self._buffer, min(may, _BUFFER_BYTES))
        except BlockingIOError:
            return False
        except OSError:
            size = 0
        each.bytes += size
        each.messages += self._buffer.count(MARK, 0, size)
        each.cut = not size
        if size and each.messages < messages:
            return False
        each.seconds = now
        if each.rate is None:
            self._poll.unregister(fd)
        return True

    def exchange(self, *, texts: Sequence[str], clients: int, count: int, timeout: float) -> Answer:
        """Let each client send the texts in turn, each when the last was answered.

        Each answer carries one mark. Returns every latency in ns and the whole time.
        """
        ready = [masked(said.encode()) for said in texts]
        fds = list(self._socks)[:clients]
        sent = dict.fromkeys(fds, 0)
        began_at = dict.fromkeys(fds, 0)
        latencies: list[int] = []
        ended = time.monotonic() + timeout
        began = time.monotonic_ns()

        def send(fd: int) -> None:
            frame = ready[sent[fd] % len(ready)]
            sent[fd] += 1
            began_at[fd] = time.monotonic_ns()
            self._socks[fd].send(frame)

        for fd in fds:
            send(fd)
        while len(latencies) < count * len(fds):
            events = self._poll.poll(max(ended - time.monotonic(), 0))
            if not events and time.monotonic() >= ended:
                raise TimeoutError(f"{len(latencies)} answers after {timeout:g} s")
            for fd, _ in events:
                size = self._socks[fd].recv_into(self._buffer)
                if not size:
                    raise ConnectionError("the server closed a connection")
                for _ in range(self._buffer.count(MARK, 0, size)):
                    latencies.append(time.monotonic_ns() - began_at[fd])
                    if sent[fd] < count:
                        send(fd)
        return {"ns": latencies, "seconds": (time.monotonic_ns() - began) / 1e9}

    def request(self, *, port: int, path: str, seconds: float, timeout: float) -> Answer:
        """Make plain requests, one after the other, each on a connection of its own.

        As many as begin within so many seconds; at least one. What comes for the clients
        meanwhile is read, and counted as `messages`; a look at the answer is never
        further away than a few reads of that. Returns the time of each request in ns,
        from dialling until the server has closed.
        """
        head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n"
        over = time.monotonic() + seconds
        found: list[int] = []
        messages = 0
        while not found or time.monotonic() < over:
            began, answer = time.monotonic_ns(), b""
            with socket.create_connection(("127.0.0.1", port), timeout) as sock:
                sock.sendall(head.encode())
                self._poll.register(sock.fileno(), select.EPOLLIN)
                ended, closed = time.monotonic() + timeout, False
                while not closed:
                    events = self._poll.poll(max(ended - time.monotonic(), 0), _FEW)
                    if time.monotonic() >= ended:
                        raise TimeoutError(f"no answer to a plain request for {timeout:g} s")
                    for fd, _ in events:
                        if fd == sock.fileno():
                            more = sock.recv(4096)
                            answer, closed = answer + more, not more
                            continue
                        size = self._socks[fd].recv_into(self._buffer)
                        if not size:
                            raise ConnectionError("the server closed a connection")
                        messages += self._buffer.count(MARK, 0, size)
            if not answer.startswith(b"HTTP/1.1 200"):
                raise ConnectionError(f"answered {answer[:100]!r}")
            found.append(time.monotonic_ns() - began)
        return {"ns": found, "messages": messages}

    def idle(self, *, seconds: float) -> Answer:
        """Answer pings and nothing else for a while; return how many there were."""
        ended, pings = time.monotonic() + seconds, 0
        while (left := ended - time.monotonic()) > 0:
            for fd, _ in self._poll.poll(left):
                size = self._socks[fd].recv_into(self._buffer)
                if not size:
                    raise ConnectionError("the server closed an idle connection")
                if bytes(self._buffer[:size]) == PING:
                    self._socks[fd].send(PONG)
                    pings += 1
        return {"pings": pings}

    def disconnect(self, *, slow: bool = False) -> Answer:
        """Close every connection at once, as peers that vanish do; or only the slow ones."""
        self._crawler.close()
        self._crawler = Crawler()
        if not slow:
            for sock in self._socks.values():
                sock.close()
            self._socks.clear()
            self._frames.clear()
        return {"began": time.monotonic_ns()}


@dataclass
class _Reading:
    """What one client has read, and how fast it may."""

    rate: int | None
    messages: int = 0
    bytes: int = 0
    seconds: float = 0.0
    cut: bool = False


class Crawler:
    """Reads some connections slowly, on a thread of its own, and counts nothing."""

    def __init__(self) -> None:
        self._socks: list[tuple[socket.socket, int]] = []
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, sock: socket.socket, bytes_a_second: int) -> None:
        """Take over a connection."""
        sock.setblocking(False)
        self._socks.append((sock, bytes_a_second))
        if bytes_a_second and self._thread is None:
            self._thread = threading.Thread(target=self._crawl, name="crawler", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End the thread and every connection."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        for sock, _ in self._socks:
            sock.close()

    def _crawl(self) -> None:
        while not self._over.wait(0.1):
            for sock, rate in self._socks:
                if not rate:
                    continue
                try:
                    sock.recv(max(rate // 10, 1))
                except (BlockingIOError, ConnectionError):
                    continue  # nothing there, or cut by the server: slow all the same


def dial(
    port: int,
    path: str,
    *,
    buffer: int | None = None,
    offer: bool = False,
    source: str = "",
) -> socket.socket:
    """Connect, from one address, and ask for the upgrade; `buffer` is of a receive buffer."""
    sock = socket.socket()
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if source:
        # The kernel chooses the port when it knows the far end: each address has all of them.
        sock.setsockopt(socket.IPPROTO_IP, _NO_PORT, 1)
        sock.bind((source, 0))
    if buffer is not None:  # counts only before connect()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    sock.settimeout(_PATIENCE)
    try:
        sock.connect(("127.0.0.1", port))
        sock.sendall(upgrade("127.0.0.1", port, path, os.urandom(16), offer=offer))
    except OSError:
        sock.close()
        raise
    return sock


def read_head(sock: socket.socket) -> bytes:
    """Read the answer to the handshake and not a byte more: a message may follow."""
    while True:
        head, end, _ = sock.recv(4096, socket.MSG_PEEK).partition(_END_OF_HEAD)
        if not head:
            raise ConnectionError("closed during the handshake")
        if end:
            break
    if not head.startswith(b"HTTP/1.1 101"):
        raise ConnectionError(f"refused: {head.splitlines()[0]!r}")
    return sock.recv(len(head) + len(end))


def _read_frames(sock: socket.socket, count: int) -> None:
    """Read that many whole frames."""
    data = b""
    while len(list(frames(data))) < count:
        more = sock.recv(4096)
        if not more:
            raise ConnectionError("closed during the greeting")
        data += more


def prepare() -> None:
    """Have as many descriptors as may be, and no collections."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    gc.disable()  # nothing here makes circles; a collection would look like a slow server


def main() -> None:
    """Serve one stage."""
    prepare()
    load = Load()
    methods: dict[str, Callable[..., Any]] = {
        name: getattr(load, name)
        for name in (
            *("ask", "collect", "connect", "disconnect", "exchange", "expect", "idle"),
            "request",
        )
    }
    obey(methods)


if __name__ == "__main__":
    main()
