"""The clients of a soak: those who stay, those who come and go, and those who are stuck.

Residents stay from the first message to the last, and now and then stop reading for a
moment. Visitors connect, listen, ask, come back for what they missed, and leave in every
way there is. Stuck ones never read, or 1 kB/s. All but the stuck keep a ledger of what
they got; what is wrong with it is told with the next figures.
"""

from __future__ import annotations

import collections
import json
import os
import random
import select
import socket
import struct
import threading
import time
from typing import Any

from .control import Answer, obey
from .ledger import NEWS, PACE, PROGRAMS, TARGETS, Ledger, Said, Spoiled
from .load import Crawler
from .wire import PONG, masked, upgrade

__all__ = ["Peer", "Visitors"]

_PATIENCE = 30.0  # seconds for an answer
_BUFFER_BYTES = 256 * 1024
_SMALL_BUFFER = 16 * 1024  # of a resident's kernel: what does not fit waits in the hub
_TINY_BUFFER = 4096  # of a stuck client's
_STUCK_FOR = 18.0  # seconds: until the hub has cut them, one way or the other
_RATES = (0, 1000)  # bytes a second that stuck clients read, in turn
_PAUSE = 0.1  # seconds that one resident does not read, one after the other
_BREATH = 0.03  # seconds between two visits: opening them alone would fill the time
_CLOSE = b"\x88\x82\x00\x00\x00\x00\x03\xe8"  # 1000
# All that is kept now and then; more often, and the clients would do nothing but read it.
_POSITIONS: tuple[dict[str, int], ...] = ({"since": 0}, *({"last": 10},) * 9)
_WAYS = ("close", "reset", "torn", "vanish")


class Peer:
    """One connection that keeps a ledger; a `with` block ends it."""

    def __init__(
        self, port: int, path: str, ledger: Ledger | None = None, *, buffer: int | None = None
    ) -> None:
        self.ledger = ledger or Ledger()
        self.lagged = 0
        self._leaving = False
        self.sock = socket.socket()
        try:
            if buffer is not None:  # counts only before connect()
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            self.sock.settimeout(_PATIENCE)
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.sock.connect(("127.0.0.1", port))
            self.sock.sendall(upgrade("127.0.0.1", port, path, os.urandom(16)))
            self._others = self.ledger.feed(self._read_head())
        except BaseException:
            self.sock.close()
            raise

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.sock.close()

    def _read_head(self) -> bytes:
        """Read the answer to the handshake; return what came after it."""
        data = b""
        while b"\r\n\r\n" not in data:
            more = self.sock.recv(_BUFFER_BYTES)
            if not more:
                raise Spoiled("the connection ended during the handshake")
            data += more
        head, _, rest = data.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101"):
            raise Spoiled(f"refused: {head[:40]!r}")
        return rest

    def say(self, text: str) -> None:
        """Send a text message."""
        self.sock.sendall(masked(text.encode()))

    def take(self) -> None:
        """Read what there is, answer pings, and catch up where the hub says so."""
        data = self.sock.recv(_BUFFER_BYTES)
        if not data:
            raise Spoiled("the connection ended without a Close frame")
        for each in self.ledger.feed(data):
            if self._leaving and each.kind != "close":
                continue  # nothing may be said after a Close frame
            if each.kind == "ping":
                self.sock.sendall(PONG)
            elif each.kind == "lagged":
                self.lagged += 1
                self._ask("subscribe", each.channel, since=each.seq)
            else:
                self._others.append(each)

    def await_other(self, kind: str, id: str | None = None) -> Said:
        """Read until something of that kind comes that is no publication."""
        while True:
            while self._others:
                found = self._others.pop(0)
                if found.kind == kind and found.body.get("id") == id:
                    return found
                if found.kind in ("close", "error"):
                    raise Spoiled(f"{found.kind} {found.number}: {found.body.get('data')!r}")
            self.take()

    def request(self, kind: str, channel: str, **position: int) -> None:
        """Subscribe or unsubscribe, and read up to the answer."""
        self._ask(kind, channel, **position)
        self.await_other("ack", f"{kind} {channel}")

    def _ask(self, kind: str, channel: str, **position: int) -> None:
        fields: dict[str, Any] = {"type": kind, "channel": channel, "id": f"{kind} {channel}"}
        if position.get("since") and channel in self.ledger.epochs:
            fields["epoch"] = self.ledger.epochs[channel]
        self.say(json.dumps({**fields, **position}))

    def leave(self, way: str) -> None:
        """End the connection: with a Close frame, a reset, half a frame, or just so."""
        if way == "close":
            self._leaving = True
            self.sock.sendall(_CLOSE)
            self.await_other("close")
            if self.sock.recv(1):
                raise Spoiled("something comes after the Close frame")
        elif way == "torn":
            self.sock.sendall(masked(b"x" * 100)[:50])
        elif way == "reset":
            linger = struct.pack("ii", 1, 0)
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.sock.close()


class Visitors:
    """All clients of one soak, and what went wrong at them."""

    def __init__(self) -> None:
        self._port, self._path = 0, ""
        self._poll = select.epoll()
        self.residents: dict[int, Peer] = {}
        # guards: _faults, _counts. Taken by every thread of this process.
        self._lock = threading.Lock()
        self._faults: list[str] = []
        self._counts: collections.Counter[str] = collections.Counter()
        self._leaving = threading.Event()
        self._resting = threading.Event()
        self._coming: list[threading.Thread] = []

    # --- requests --------------------------------------------------------------------------

    def arrive(self, *, port: int, path: str, residents: int) -> None:
        """Connect those who stay, before anything is said, and begin to read."""
        self._port, self._path = port, path
        for number in range(residents):
            peer = Peer(port, path, Ledger(whole=True), buffer=_SMALL_BUFFER)
            # One program each: what paces itself uses a quarter of an outbox at a time, and
            # two of them beside the others would be more than the half that is free.
            program = f"process:{PROGRAMS[number % len(PROGRAMS)]}"
            for channel in (PACE, *filter(None, TARGETS), program):
                peer.request("subscribe", channel)
            peer.sock.setblocking(False)
            self.residents[peer.sock.fileno()] = peer
            self._poll.register(peer.sock, select.EPOLLIN)
        self._residing = threading.Thread(target=self._reside, name="residents", daemon=True)
        self._residing.start()

    def go(self, *, visitors: int, stuck: int) -> None:
        """Let others come and go, and some be stuck."""
        self._resting.clear()
        self._coming = [
            threading.Thread(target=self._visit_again, args=(number,), daemon=True)
            for number in range(visitors)
        ]
        if stuck:
            self._coming.append(
                threading.Thread(target=self._be_stuck_again, args=(stuck,), daemon=True)
            )
        for thread in self._coming:
            thread.start()

    def rest(self) -> None:
        """Wait until all but the residents have left."""
        self._resting.set()
        for thread in self._coming:
            thread.join(2 * _PATIENCE)
            if thread.is_alive():
                self._fault("a visitor does not leave")

    def usage(self) -> Answer:
        """Return what has been counted, and what went wrong."""
        staying = list(self.residents.values())  # copied: one that fails is taken out
        with self._lock:
            return {
                **self._counts,
                "cpu_seconds": time.process_time(),
                "messages": sum(each.ledger.messages for each in staying),
                "faults": list(self._faults),
            }

    def catch_up(self, *, said: dict[str, int], timeout: float) -> None:
        """Wait until every resident has each stream to its end; a fault when one has not."""
        deadline = time.monotonic() + timeout
        for fd, peer in list(self.residents.items()):
            for stream, count in said.items():
                while (found := peer.ledger.count(stream)) < count and fd in self.residents:
                    if time.monotonic() > deadline:
                        self._fault(f"a resident has {found} of {count} messages of {stream!r}")
                        return
                    time.sleep(0.01)

    def leave(self) -> None:
        """Close the connections of all residents."""
        self._leaving.set()
        self._residing.join(_PATIENCE)
        for peer in self.residents.values():
            peer.sock.close()

    # --- who stays -------------------------------------------------------------------------

    def _reside(self) -> None:
        """Read for all residents but the one whose turn it is to pause."""
        paused: Peer | None = None
        turn = 0
        changes = time.monotonic()
        while self.residents and not self._leaving.is_set():
            for fd, _ in self._poll.poll(_PAUSE):
                self._read(fd, self.residents[fd])
            if time.monotonic() >= changes:
                if paused is not None and paused.sock.fileno() in self.residents:
                    self._poll.register(paused.sock, select.EPOLLIN)
                turn += 1
                staying = list(self.residents.values())
                paused = staying[turn % len(staying)] if staying else None
                if paused is not None:
                    self._poll.unregister(paused.sock)
                changes = time.monotonic() + _PAUSE

    def _read(self, fd: int, peer: Peer) -> None:
        try:
            peer.take()
            if peer.lagged:
                raise Spoiled("it lags, though whoever publishes waits for it")
        except (OSError, Spoiled) as error:
            self._fault(f"resident: {type(error).__name__}: {error}")
            self._poll.unregister(fd)
            del self.residents[fd]
            peer.sock.close()

    # --- who comes and goes ----------------------------------------------------------------

    def _visit_again(self, number: int) -> None:
        chance = random.Random(number)
        while not self._resting.wait(chance.uniform(0, 2 * _BREATH)):
            try:
                self._visit(chance)
            except (OSError, Spoiled) as error:
                self._fault(f"visitor: {type(error).__name__}: {error}")
                return

    def _visit(self, chance: random.Random) -> None:
        """Come, listen and ask; leave; come back for what was missed, and leave for good."""
        with Peer(self._port, self._path) as peer:
            peer.request("subscribe", PACE)
            peer.request("subscribe", NEWS, **chance.choice(_POSITIONS))
            other = chance.choice((*TARGETS[2:], *(f"process:{each}" for each in PROGRAMS)))
            peer.request("subscribe", other, **chance.choice(_POSITIONS))
            self._talk(peer)
            peer.request("unsubscribe", other)
            self._talk(peer)
            peer.leave(chance.choice(_WAYS))
        ledger = peer.ledger.successor()
        with Peer(self._port, self._path, ledger) as again:
            again.request("subscribe", NEWS, since=ledger.position(NEWS))
            again.request("subscribe", PACE)
            self._talk(again)
            again.leave(chance.choice(_WAYS))
        with self._lock:
            self._counts["visits"] += 2
            self._counts["visited"] += peer.ledger.messages + ledger.messages
            self._counts["lagged"] += peer.lagged + again.lagged

    def _talk(self, peer: Peer) -> None:
        """Have something echoed, among all that is said meanwhile."""
        for number in range(3):
            peer.say(json.dumps({"type": "echo", "data": number}))
            if peer.await_other("echo").body["data"] != number:
                raise Spoiled("an echo of something else")

    # --- who is stuck ----------------------------------------------------------------------

    def _be_stuck_again(self, count: int) -> None:
        while not self._resting.is_set():
            crawler = Crawler()
            try:
                for number in range(count):
                    peer = Peer(self._port, self._path, buffer=_TINY_BUFFER)
                    peer.say(json.dumps({"type": "subscribe", "channel": NEWS}))
                    crawler.add(peer.sock, _RATES[number % len(_RATES)])
                self._resting.wait(_STUCK_FOR)
            except (OSError, Spoiled) as error:
                self._fault(f"stuck: {type(error).__name__}: {error}")
                return
            finally:
                crawler.close()
            with self._lock:
                self._counts["stuck"] += count

    def _fault(self, text: str) -> None:
        with self._lock:
            if len(self._faults) < 100:
                self._faults.append(text)


def main() -> None:
    """Serve one soak."""
    visitors = Visitors()
    names = ("arrive", "go", "rest", "usage", "catch_up", "leave")
    obey({name: getattr(visitors, name) for name in names})


if __name__ == "__main__":
    main()
