"""Clients that come late: each reads all that a channel keeps, as fast as it can.

A process of its own, which gives way to the load that measures: what that load waits for
is then the server, and not these.
"""

from __future__ import annotations

import os
import resource
import select
import socket
import time

from .control import Answer, obey
from .load import dial, read_head
from .rows.base import subscribe
from .wire import MARK, masked

__all__ = ["Latecomers"]

_BUFFER_BYTES = 1024 * 1024
_NICE = 10
_RECEIVE_BYTES = 256 * 1024  # or a thousand times what grows by itself is more than the kernel has


class Latecomers:
    """Some connections that subscribe at one moment."""

    def __init__(self) -> None:
        self._socks: dict[int, socket.socket] = {}

    def connect(self, *, port: int, path: str, count: int) -> None:
        """Connect clients that say nothing yet."""
        for _ in range(count):
            sock = dial(port, path)
            read_head(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
            sock.setblocking(False)
            self._socks[sock.fileno()] = sock

    def watch(self, *, channel: str, messages: int, timeout: float) -> Answer:
        """Subscribe to a channel from its beginning; read until each has so many messages.

        Returns how many have, and the seconds until the last had.
        """
        request = masked(subscribe(channel, since=0).encode())
        left = dict.fromkeys(self._socks, messages + 1)  # an ack carries the mark too
        poll, buffer = select.epoll(), bytearray(_BUFFER_BYTES)
        began = now = time.monotonic()
        try:
            for fd, sock in self._socks.items():
                poll.register(fd, select.EPOLLIN)
                sock.send(request)
            while any(n > 0 for n in left.values()) and now - began < timeout:
                for fd, _ in poll.poll(0.1):
                    try:
                        size = self._socks[fd].recv_into(buffer)
                    except ConnectionError:
                        size = 0
                    if not size:
                        poll.unregister(fd)
                    left[fd] -= buffer.count(MARK, 0, size)
                now = time.monotonic()
        finally:
            poll.close()
        complete = sum(n == 0 for n in left.values())
        return {"complete": complete, "seconds": now - began}

    def leave(self) -> None:
        """Close every connection."""
        for sock in self._socks.values():
            sock.close()
        self._socks.clear()


def main() -> None:
    """Serve one stage."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    os.nice(_NICE)
    late = Latecomers()
    obey({name: getattr(late, name) for name in ("connect", "watch", "leave")})


if __name__ == "__main__":
    main()
