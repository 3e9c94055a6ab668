"""A hub with everything going on at once: `python -m bench.servers.soak`, for `bench.soak`.

Publishes numbered messages (see `ledger`) from several threads as fast as its healthy
clients read, streams programs one after the other, and listens to itself. What goes wrong
here is noted, and told with the next figures.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import dataclasses
import gc
import itertools
import logging
import os
import random
import re
import resource
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, ClassVar

from ws_hub import ChannelRule, Hub, HubConfig, Message
from ws_hub.protocol.names import process_channel

from ..control import Answer
from ..ledger import LINES, NEWS, PACE, PROGRAMS, TARGETS, said
from ..usage import usage_of
from .hub import HubServer

__all__ = ["Soak"]

_PATIENCE = 30.0  # seconds that healthy clients may take to read half an outbox
_STEADY = 0.5  # seconds without a change
_LISTENS = 2.0  # seconds that a listener lives
_MOST_FAULTS = 100
_PUBLISHERS = 3
_BURSTS = (1, 10, 100)
# Messages of one thread between two waits. With half an outbox read, and a quarter for a
# program, those of all fit in what is left (16,384 messages).
_AHEAD = 1000
# Names come round again: a hub remembers how far ten thousand channels were numbered, so
# that with ever new names its memory would grow for hours before it stops, by design.
_JOBS = 20
_BREATH = 0.5  # seconds between two runs of a program: its lines alone would fill the time
_JOB = 'echo begun; echo "beside it" >&2; exit 3'


class Soak(HubServer):
    """A hub under load; `go` and `rest` begin and end it."""

    # Short, so that what they do happens many times a minute.
    heartbeats: ClassVar[dict[str, Any]] = {"heartbeat_interval": 5.0, "pong_timeout": 20.0}

    def __init__(self) -> None:
        super().__init__()
        rules = (
            ChannelRule(pattern=NEWS, history_messages=2000),
            ChannelRule(pattern="process:job-*", history_messages=100, history_ttl=0.5),
            ChannelRule(pattern="process:*", history_messages=5000, replay=True),
        )
        self.hub = Hub(HubConfig(on_message=self._answer, rules=rules, **self.heartbeats))
        # guards: _faults, _counts. Nothing is taken under it.
        self._lock = threading.Lock()
        self._faults: list[str] = []
        self._counts: collections.Counter[str] = collections.Counter()
        self._resting = threading.Event()
        self._working: list[threading.Thread] = []
        # Stream -> how many messages it has had; each is one thread's, read when all rest.
        self._said: dict[str, int] = {}
        logger = logging.getLogger("ws_hub")
        logger.addHandler(_Alarm(self._fault))
        logger.propagate = False  # that a slow client is cut is what it is there for

    def requests(self) -> dict[str, Callable[..., Answer | None]]:
        own = {"go": self.go, "rest": self.rest, "settle": self.settle, "usage": self.usage}
        return {**super().requests(), **own}

    # --- requests --------------------------------------------------------------------------

    def go(self) -> None:
        """Begin all work."""
        self._resting.clear()
        work: list[tuple[Callable[..., None], object]] = []
        work += [(self._publish, number) for number in range(_PUBLISHERS)]
        work += [(self._stream, process_id) for process_id in PROGRAMS]
        work += [(self._run_jobs, "job"), (self._listen, NEWS)]
        self._working = [
            threading.Thread(target=self._work, args=each, name=f"soak:{each[1]}") for each in work
        ]
        for thread in self._working:
            thread.start()

    def rest(self) -> Answer:
        """End all work; return how many messages each stream has had."""
        self._resting.set()
        for thread in self._working:
            thread.join(_PATIENCE * 2)
            if thread.is_alive():
                self._fault(f"{thread.name} does not end")
        return {"said": dict(self._said)}

    def settle(self, *, clients: int, timeout: float) -> Answer:
        """Wait until only what stays is there; return what that takes.

        `blocks` and `used_bytes` are what Python and malloc have given out, once the
        collector has run; `held_bytes` is what is resident when malloc has given back what
        it can.
        """
        self.await_clients(count=clients, timeout=timeout)
        base = {NEWS, *map(process_channel, PROGRAMS)}
        deadline = time.monotonic() + timeout
        while self.hub.stats().queued or set(self.hub.kept_channels()) - base:
            if time.monotonic() > deadline:
                raise TimeoutError(f"kept: {self.hub.kept_channels()}")
            time.sleep(0.01)
        found = self._usage_once_steady(deadline)
        gc.collect()
        found["blocks"] = sys.getallocatedblocks()
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallinfo2"):  # glibc 2.33
            libc.mallinfo2.restype = _Mallinfo
            info = libc.mallinfo2()
            found["used_bytes"] = info.uordblks + info.hblkhd
        if hasattr(libc, "malloc_trim"):  # glibc
            libc.malloc_trim(0)
        return {**found, "held_bytes": self.usage()["rss_bytes"]}

    def usage(self) -> Answer:
        """Return what the process takes, what the hub has done, and what went wrong."""
        stats = self.hub.stats()
        names = (re.sub(r"\d+", "#", thread.name) for thread in threading.enumerate())
        return {
            **dataclasses.asdict(usage_of(os.getpid())),
            "highest_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "kinds": collections.Counter(names),
            "clients": stats.clients,
            "connected": stats.connected,
            "published": stats.published,
            "delivered": stats.delivered,
            "dropped": stats.dropped,
            "cut": stats.slow_disconnects,
            "programs": self._counted("programs"),
            "listened": self._counted("listened"),
            "faults": self._faults_so_far(),
        }

    def _usage_once_steady(self, deadline: float) -> Answer:
        """Wait until threads and descriptors have stopped changing."""
        found, since = self.usage(), time.monotonic()
        while time.monotonic() - since < _STEADY and time.monotonic() < deadline:
            time.sleep(0.05)
            now = self.usage()
            if any(now[key] != found[key] for key in ("threads", "descriptors")):
                since = time.monotonic()
            found = now
        return found

    # --- work ------------------------------------------------------------------------------

    def _fault(self, text: str) -> None:
        with self._lock:
            if len(self._faults) < _MOST_FAULTS:
                self._faults.append(text)

    def _faults_so_far(self) -> list[str]:
        with self._lock:
            return list(self._faults)

    def _count(self, name: str, amount: int = 1) -> None:
        with self._lock:
            self._counts[name] += amount

    def _counted(self, name: str) -> int:
        with self._lock:
            return self._counts[name]

    def _work(self, work: Callable[[Any], None], argument: object) -> None:
        try:
            work(argument)
        except Exception as error:  # noqa: BLE001 - it ends the soak, which says why
            self._fault(f"{threading.current_thread().name}: {type(error).__name__}: {error}")

    def _publish(self, number: int) -> None:
        """Say bursts to everybody and to channels, at the pace of who listens to PACE."""
        chance = random.Random(number)
        ahead = 0
        while not self._resting.is_set():
            target = chance.choice(TARGETS)
            stream = f"{target or 'all'}/{number}"
            burst = chance.choice(_BURSTS)
            for _ in range(burst):
                count = self._said.get(stream, 0)
                message = Message("event", data=said(stream, count))
                if target:
                    self.hub.send_to_channel(target, message)
                else:
                    self.hub.broadcast(message)
                self._said[stream] = count + 1
            ahead += burst
            if ahead >= _AHEAD:
                ahead = 0
                if not self.hub.wait_for_room(PACE, _PATIENCE):
                    raise TimeoutError("a healthy client is not served")

    def _stream(self, process_id: str) -> None:
        """Run a real program again and again, at the pace of its viewers."""
        argv = ["seq", "1", str(LINES)]
        while not self._resting.wait(_BREATH):
            self._expect(0, self.hub.run_process(argv, process_id, backpressure=True).wait())

    def _run_jobs(self, name: str) -> None:
        """Run short programs under many names, with output that nobody may be watching."""
        for number in itertools.count():
            if self._resting.wait(0.1):
                return
            process_id = f"{name}-{number % _JOBS}"
            self._expect(3, self.hub.run_process(["sh", "-c", _JOB], process_id).wait())

    def _expect(self, code: int, found: int) -> None:
        self._count("programs")
        if found != code:
            raise RuntimeError(f"a program ended with {found}, not {code}")

    def _listen(self, channel: str) -> None:
        """Listen inside the process, and again."""
        while not self._resting.is_set():
            self._listen_for_a_while(channel)

    def _listen_for_a_while(self, channel: str) -> None:
        """Listen to a channel with history; what is missing must have been counted."""
        heard: list[int] = []
        listener = self.hub.listen(channel, lambda message: heard.append(message.seq or 0))
        self._resting.wait(_LISTENS)
        listener.close()
        if not listener.join(_PATIENCE):
            raise TimeoutError("a listener does not end")
        self._count("listened", len(heard))
        gaps = [later - earlier - 1 for earlier, later in itertools.pairwise(heard)]
        if min(gaps, default=0) < 0 or sum(gaps) > listener.dropped:
            raise RuntimeError(f"a listener missed {sum(gaps)}, {listener.dropped} dropped")


class _Mallinfo(ctypes.Structure):
    """What mallinfo2(3) returns, of all arenas together."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks"),
            *("uordblks", "fordblks", "keepcost"),
        )
    )


class _Alarm(logging.Handler):
    """Tells what the hub logs as an error: it should meet none."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__(logging.ERROR)
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        self._tell(record.getMessage())


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        Soak().main()
