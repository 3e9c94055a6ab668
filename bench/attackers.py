"""One attacker: a process with raw sockets that makes a hub work, told by JSON lines.

The same whether a hub or a sink is at the other end. A kind of attack is what is said once
a connection is open, what is said again and again after that, how fast what comes is read,
and when the connection is given up for another. Every attacker has an address of its own
among 127.0.0.0/8, because a hub may count by address.
"""

from __future__ import annotations

import json
import math
import os
import random
import resource
import select
import socket
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

from .control import Answer, asked, obey
from .wire import masked, upgrade

__all__ = ["KEPT", "KINDS", "MADE_UP", "Attacker", "Kind", "address", "compressed", "nested"]

KEPT = "process:log"  # a channel with 4 MiB of history
MADE_UP = "chat:"  # the prefix of channels to which clients may publish
_WIDEST = 64 * 1024  # bytes of a message that a hub takes by default
_DEEPEST = 126  # nested arrays that a hub takes, below an object
_BUFFER_BYTES = 256 * 1024
_SMALL_BUFFER = 4096  # receive buffer of an attacker that reads slowly: so it is slow at once
_PATIENCE = 5.0  # seconds for a handshake
_AT_A_TIME = 8  # connections that are opened between two looks at the others
_TICK = 0.02  # seconds between two looks at how much may be sent or read by now

Say = Callable[[random.Random], bytes]


@dataclass(frozen=True)
class Kind:
    """What an attacker does.

    Args:
        hello: says something when a connection is open.
        say: makes the next thing that is said, and the next; None for an attacker that
            says nothing more.
        reads: bytes a second that it reads; None for all that comes.
        lasts: how many such things a connection lasts; None for as long as it may.
        offer: whether it offers compression.
        breath: seconds after the end of a connection, or a refusal, until it connects anew.
    """

    hello: bytes = b""
    say: Say | None = None
    reads: int | None = None
    lasts: int | None = None
    offer: bool = False
    breath: float = 0.25


def _request(kind: str, **fields: object) -> bytes:
    return masked(json.dumps({"type": kind, **fields}).encode())


def _always(data: bytes) -> Say:
    return lambda chance: data


def nested() -> bytes:
    """Return a message as long as may be, of arrays in arrays as deep as may be."""
    one = "[" * _DEEPEST + "]" * _DEEPEST
    empty = '{"type":"ping","data":[]}'
    many = (_WIDEST - len(empty)) // (len(one) + 1)
    return empty.replace("[]", f"[{','.join([one] * many)}]").encode()


def compressed(payload: bytes) -> bytes:
    """Return a compressed message in a frame of its own."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(payload) + packer.flush(zlib.Z_SYNC_FLUSH)
    frame = bytearray(masked(packed.removesuffix(b"\x00\x00\xff\xff")))
    frame[0] |= 0x40  # RSV1
    return bytes(frame)


def _publications(chance: random.Random) -> bytes:
    """Return a publication to a channel that there has not been."""
    return _request("publish", channel=f"{MADE_UP}{chance.getrandbits(48):x}", data="x" * 60_000)


def _churn(chance: random.Random) -> bytes:
    """Return a hundred subscriptions to unknown channels, each ended at once."""
    names = [f"process:{chance.getrandbits(48):x}" for _ in range(100)]
    return b"".join(
        _request(kind, channel=name, id=1)
        for name in names
        for kind in ("subscribe", "unsubscribe")
    )


_REPLAY = _request("subscribe", channel=KEPT, since=0, id=1)
_IN_TURN = _request("unsubscribe", channel=KEPT, id=2) + _REPLAY
_PINGS = _request("ping") * 500

KINDS = {
    "long-ids": Kind(
        say=_always(_request("subscribe", channel="x", id="i" * 60_000)), reads=100_000
    ),
    "ids-120": Kind(
        say=_always(_request("subscribe", channel="x", id="i" * 120) * 100), reads=100_000
    ),
    "replays": Kind(hello=_REPLAY, say=_always(_REPLAY * 10)),
    "replays-in-turn": Kind(hello=_REPLAY, say=_always(_IN_TURN * 10)),
    "published-history": Kind(say=_publications),
    "json-pings": Kind(say=_always(_PINGS)),
    "ws-pings": Kind(say=_always((b"\x89\xfd\x00\x00\x00\x00" + b"x" * 125) * 300)),
    "nested": Kind(say=_always(masked(nested()))),
    "compressed": Kind(say=_always(compressed(nested())), offer=True),
    "reconnects": Kind(say=_always(_PINGS), lasts=20, breath=0.01),  # 10,000 messages
    "subscribe-churn": Kind(say=_churn),
    "slow-readers": Kind(reads=0),
    "late-viewers": Kind(hello=_REPLAY),
}


def address(number: int) -> str:
    """Return an address of this machine that nobody else has, not 127.0.0.1."""
    return f"127.{1 + number // 62_500}.{number // 250 % 250}.{1 + number % 250}"


@dataclass
class _Peer:
    """One connection."""

    sock: socket.socket
    owed: memoryview = field(default_factory=lambda: memoryview(b""))
    said: int = 0
    mask: int = -1


class Attacker:
    """Everything that one attacker has."""

    def __init__(self) -> None:
        self._buffer = bytearray(_BUFFER_BYTES)
        self._poll = select.epoll()
        self._peers: dict[int, _Peer] = {}

    def attack(
        self,
        *,
        kind: str,
        port: int,
        path: str,
        number: int,
        connections: int = 1,
        rate: float | None = None,
        most: float = 60.0,
        enough: float = math.inf,
        seed: int = 0,
    ) -> Answer:
        """Attack until the next request comes, for at most so many seconds.

        Args:
            kind: of the attack.
            port: of the hub, or of the sink, on 127.0.0.1.
            path: of its WebSocket.
            number: of the first of its addresses; each connection has one.
            connections: how many it keeps open; those that end are replaced.
            rate: bytes a second that it sends at most.
            most: seconds.
            enough: bytes that have come when it ends before that.
            seed: of what it makes up.

        Returns how many bytes went `up` and came `down`, how many connections were
        `opened`, were `refused`, and were `cut` by the other end, and the `seconds`.
        """
        self._kind, self._chance = KINDS[kind], random.Random(seed)
        self._where = (port, path)
        self._counts = dict.fromkeys(("up", "down", "opened", "refused", "cut"), 0)
        began = time.monotonic()
        free = [number + each for each in range(connections)]
        names: dict[int, int] = {}  # descriptor -> number of its address
        again = began  # when to connect next
        try:
            while (now := time.monotonic()) < began + most and not asked():
                if self._counts["down"] >= enough:
                    break
                for _ in range(_AT_A_TIME if now >= again else 0):
                    peer = self._dial(free[-1]) if free else None
                    if peer is None:
                        again = time.monotonic() + self._kind.breath
                        break
                    names[peer.sock.fileno()] = free.pop()
                since = now - began
                may_send = rate is None or self._counts["up"] < rate * since
                for fd in self._turn(may_send=may_send, since=since):
                    free.append(names.pop(fd))
                    again = time.monotonic() + self._kind.breath
            return {**self._counts, "seconds": time.monotonic() - began}
        finally:
            for fd in list(self._peers):
                self._forget(fd)

    def _dial(self, number: int) -> _Peer | None:
        """Open a connection and say hello; None when it is refused."""
        port, path = self._where
        sock = socket.socket()
        try:
            sock.settimeout(_PATIENCE)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if self._kind.reads is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALL_BUFFER)
            sock.bind((address(number), 0))
            sock.connect(("127.0.0.1", port))
            request = upgrade("127.0.0.1", port, path, os.urandom(16), offer=self._kind.offer)
            sock.sendall(request)
            head = sock.recv(4096)  # a hub sends it in one piece; what follows is as good as read
            if not head.startswith(b"HTTP/1.1 101"):
                raise ConnectionError("refused")
            sock.setblocking(False)
        except OSError:
            sock.close()
            self._counts["refused"] += 1
            return None
        self._counts["opened"] += 1
        peer = _Peer(sock, memoryview(self._kind.hello))
        self._peers[sock.fileno()] = peer
        self._poll.register(sock, 0)
        self._aim(peer, may_send=True)
        return peer

    def _aim(self, peer: _Peer, *, may_send: bool) -> None:
        """Wait for what can be done at a connection now."""
        mask = select.EPOLLRDHUP
        if self._kind.reads is None:
            mask |= select.EPOLLIN
        if may_send and (peer.owed or self._kind.say is not None):
            mask |= select.EPOLLOUT
        if mask != peer.mask:
            peer.mask = mask
            self._poll.modify(peer.sock, mask)

    def _turn(self, *, may_send: bool, since: float) -> list[int]:
        """Send and read what can be; return the descriptors that were given up."""
        if self._kind.say is not None:
            for peer in self._peers.values():
                self._aim(peer, may_send=may_send)
        ended = []
        for fd, event in self._poll.poll(_TICK):
            if not self._attend(self._peers[fd], event):
                ended.append(fd)
        if self._kind.reads:
            self._read_slowly(since)
        for fd in ended:
            self._forget(fd)
        return ended

    def _attend(self, peer: _Peer, event: int) -> bool:
        """Send and read at one connection; False when it is over."""
        if self._kind.reads is not None and event & (select.EPOLLRDHUP | select.EPOLLHUP):
            self._counts["cut"] += 1  # what is unread stays so
            return False
        try:
            if event & select.EPOLLIN and not self._read(peer):
                self._counts["cut"] += 1
                return False
            if event & select.EPOLLOUT:
                return self._send(peer)
        except BlockingIOError:
            return True
        except OSError:
            self._counts["cut"] += 1
            return False
        if event & (select.EPOLLERR | select.EPOLLHUP):
            self._counts["cut"] += 1
            return False
        return True

    def _send(self, peer: _Peer) -> bool:
        """Send some more; False when the connection has lasted as long as it shall."""
        if not peer.owed:
            if peer.said == self._kind.lasts:
                return False
            if self._kind.say is not None:
                peer.said += 1
                peer.owed = memoryview(self._kind.say(self._chance))
        sent = peer.sock.send(peer.owed)
        self._counts["up"] += sent
        peer.owed = peer.owed[sent:]
        if not peer.owed:
            self._aim(peer, may_send=True)
        return True

    def _read(self, peer: _Peer, most: int = 0) -> bool:
        """Read what is there; False at the end."""
        size = peer.sock.recv_into(self._buffer, most)
        self._counts["down"] += size
        return size > 0

    def _read_slowly(self, since: float) -> None:
        for peer in self._peers.values():
            may = int((self._kind.reads or 0) * since) - self._counts["down"]
            if may <= 0:
                return
            try:
                self._read(peer, min(may, _BUFFER_BYTES))
            except OSError:
                continue  # nothing there, or cut: the next look at it says which

    def _forget(self, fd: int) -> None:
        peer = self._peers.pop(fd)
        self._poll.unregister(fd)
        peer.sock.close()


def main() -> None:
    """Serve one attacker; a request that ends an attack is `rest`."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    obey({"attack": Attacker().attack, "rest": lambda: None})


if __name__ == "__main__":
    main()
