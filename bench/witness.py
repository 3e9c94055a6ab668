"""The honest users of a hub that is attacked: what they wait for, and how long.

The same in both runs of a pair, whatever else happens to the hub. Some clients get
messages, which say when they were due; a plain request goes to a page of the same server,
and the next one when that has been answered. One process, one thread, epoll: what it takes
to read is in both runs of a pair.
"""

from __future__ import annotations

import json
import os
import re
import select
import socket
import time
from collections.abc import Sequence

from .control import Answer, asked, obey
from .wire import masked, upgrade

__all__ = ["NEWS", "Witness"]

NEWS = "news"  # the channel that they listen to

_PATIENCE = 30.0  # seconds for a handshake
_NO_ANSWER = 10.0  # seconds after which a plain request counts as failed, with that time
_PAUSE = 0.01  # seconds between two plain requests
_BUFFER_BYTES = 1024 * 1024
_DUE = re.compile(rb"at:(\d+);")
_SUBSCRIBE = json.dumps({"type": "subscribe", "channel": NEWS, "id": 1}).encode()
_LONGEST = 32  # bytes of such a mark at most


class Witness:
    """A few clients, and a plain request at a time."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._socks: dict[int, socket.socket] = {}
        self._rests: dict[int, bytes] = {}  # of a read: a mark may begin in it
        self._got: dict[int, int] = {}  # messages that came, by descriptor
        self._buffer = bytearray(_BUFFER_BYTES)
        self._messages: list[int] = []
        self._requests: list[int] = []
        self._failed = 0
        self._lost = 0
        self._port = 0

    # --- requests --------------------------------------------------------------------------

    def arrive(self, *, port: int, path: str, clients: int) -> None:
        """Connect, and subscribe."""
        self._port = port
        for _ in range(clients):
            sock = socket.create_connection(("127.0.0.1", port), _PATIENCE)
            self._socks[sock.fileno()] = sock
            sock.sendall(upgrade("127.0.0.1", port, path, os.urandom(16)))
            if not sock.recv(4096).startswith(b"HTTP/1.1 101"):
                raise ConnectionError("refused")
            sock.sendall(
                masked(json.dumps({"type": "subscribe", "channel": NEWS, "id": 1}).encode())
            )
            if b'"ack"' not in sock.recv(4096):
                raise ConnectionError("not subscribed")
            sock.setblocking(False)
            self._rests[sock.fileno()] = b""
            self._got[sock.fileno()] = 0
            self._poll.register(sock, select.EPOLLIN)

    def watch(self, *, seconds: float) -> None:
        """Read until the next request comes; make plain requests for so many seconds."""
        ended = time.monotonic() + seconds
        pause = 0.0
        while not asked():
            now = time.monotonic()
            if pause <= now < ended:
                self._request()
                pause = time.monotonic() + _PAUSE
            else:
                self._read(self._poll.poll(_PAUSE))

    def settle(self, *, messages: int, dues: Sequence[int], timeout: float) -> Answer:
        """Wait until each client has so many messages in all; return what was seen since then.

        `messages` and `requests` are times in ns, `failed` are requests that were not
        answered, `lost` clients were cut. `missing` are messages that did not come; they
        count with the time for which they have been due, of the latest of `dues`.
        """
        ended = time.monotonic() + timeout
        while any(self._got[fd] < messages for fd in self._socks) and time.monotonic() < ended:
            self._read(self._poll.poll(_PAUSE))
        now = time.monotonic_ns()
        missing = [max(messages - got, 0) for got in self._got.values()]
        for count in missing:
            self._messages += [now - due for due in dues[max(len(dues) - count, 0) :]]
        seen = {
            "messages": self._messages,
            "requests": self._requests,
            "missing": sum(missing),
            "failed": self._failed,
            "lost": self._lost,
        }
        self._messages, self._requests, self._failed = [], [], 0
        return seen

    # --- reading ---------------------------------------------------------------------------

    def _read(self, events: list[tuple[int, int]]) -> None:
        """Read what came for the clients, and note how late each message is."""
        for fd, _ in events:
            if fd not in self._socks:
                continue  # that of a plain request, which is looked at where it is made
            try:
                size = self._socks[fd].recv_into(self._buffer)
            except OSError:
                size = 0
            if not size:
                self._lost += 1
                self._poll.unregister(fd)
                self._socks.pop(fd).close()
                continue
            now = time.monotonic_ns()
            data = self._rests[fd] + self._buffer[:size]
            end = 0
            for mark in _DUE.finditer(data):
                self._messages.append(now - int(mark[1]))
                self._got[fd] += 1
                end = mark.end()
            self._rests[fd] = data[end:][-_LONGEST:]

    def _request(self) -> None:
        """Make one plain request on a connection of its own, and read meanwhile."""
        head = f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\nConnection: close\r\n\r\n"
        began, answer = time.monotonic_ns(), b""
        ended = time.monotonic() + _NO_ANSWER
        with socket.socket() as sock:
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", self._port))
            self._poll.register(sock, select.EPOLLOUT)
            over = False
            while not over and time.monotonic() < ended:
                events = self._poll.poll(_PAUSE)
                for fd, event in events:
                    if fd != sock.fileno():
                        continue
                    try:
                        if event & select.EPOLLOUT:
                            sock.send(head.encode())
                            self._poll.modify(sock, select.EPOLLIN)
                        else:
                            more = sock.recv(4096)
                            answer, over = answer + more, not more
                    except OSError:
                        over = True
                self._read(events)
            self._poll.unregister(sock)
        self._requests.append(time.monotonic_ns() - began)
        self._failed += not answer.startswith(b"HTTP/1.1 200")


def main() -> None:
    """Serve one run."""
    witness = Witness()
    obey({name: getattr(witness, name) for name in ("arrive", "watch", "settle")})


if __name__ == "__main__":
    main()
