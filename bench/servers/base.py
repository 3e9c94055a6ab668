"""What every server under test answers to: await clients, publish, repeat, spin.

Each library's module says only how it does these. A publication is made on a thread that
is not the server's own, as an application's would be, and timed from the moment before the
call.
"""

from __future__ import annotations

import abc
import ctypes
import functools
import importlib.metadata
import itertools
import json
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from ..control import Answer, obey
from ..wire import report, text

__all__ = [
    "LEVELS",
    "REPORTS",
    "Publish",
    "Server",
    "echo",
    "end_with_parent",
    "prepare",
    "ready_text",
    "reports",
]

Publish = Callable[[], object]

REPORTS = 16
LEVELS = ("debug", "info", "note") * 3 + ("error",)  # of ten messages that follow each other
_PDEATHSIG = 1  # PR_SET_PDEATHSIG of prctl(2)


class Server(abc.ABC):
    """One server under test.

    Attributes:
        path: of its WebSocket.
        greeting: what a client has to send once connected, without an answer that counts.
        distribution: whose version the results name; None for our own code.
    """

    path = "/"
    greeting: str | None = None
    distribution: str | None = None

    def __init__(self) -> None:
        self._spinning = threading.Event()
        self._spinner: threading.Thread | None = None
        self._silent = threading.Event()
        self._repeater: threading.Thread | None = None

    # --- what a server is ------------------------------------------------------------------

    @abc.abstractmethod
    def start(self) -> int:
        """Listen on 127.0.0.1; return the port."""

    @abc.abstractmethod
    def clients(self) -> int:
        """Return how many clients a publication reaches."""

    @abc.abstractmethod
    def publisher(self, target: str, size: int, count: int) -> Publish:
        """Return what publishes one message of `size` bytes; it is called `count` times.

        The target is "" for every client. A peer gets its message ready made: that it
        need not encode is to its advantage.
        """

    # --- requests --------------------------------------------------------------------------

    def main(self) -> None:
        """Start, then carry out requests until the input ends."""
        prepare()
        self.run()

    def run(self) -> None:
        """Start, then carry out requests, in this process."""
        port = self.start()
        version = importlib.metadata.version(self.distribution) if self.distribution else ""
        answer = {
            "port": port,
            "path": self.path,
            "greeting": self.greeting,
            "version": version,
            "serving": self.serving(),
        }
        obey({"hello": lambda: answer, **self.requests()})
        self.end()

    def serving(self) -> int | None:
        """Return the process that has the clients; None when it is this one."""
        return None

    def end(self) -> None:
        """End the process at once."""
        # Without a word to the clients, which are gone, and without waiting for threads:
        # a peer with a thousand of them takes longer to end than to be measured.
        os._exit(0)

    def requests(self) -> dict[str, Callable[..., Answer | None]]:
        """Return the requests that this server answers, by name."""
        return {
            "await_clients": self.await_clients,
            "publish": self.publish,
            "repeat": self.repeat,
            "spin": self.spin,
        }

    def await_clients(self, *, count: int, timeout: float) -> Answer:
        """Wait until a publication reaches exactly `count` clients; say when."""
        deadline = time.monotonic() + timeout
        while self.clients() != count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.clients()} clients, not {count}")
            time.sleep(0.001)
        return {"now": time.monotonic_ns()}

    def publish(
        self, *, count: int, size: int, targets: Sequence[str] = ("",), threads: int = 1
    ) -> Answer:
        """Publish to each target `count` times in all, on one or several threads."""
        share = count // threads
        calls = [self.publisher(target, size, count) for target in targets]
        if threads == 1:
            began = time.monotonic_ns()
            _publish(calls, share)
            return {"began": began, "ended": time.monotonic_ns()}
        ready = threading.Barrier(threads + 1)

        def work() -> None:
            ready.wait()
            _publish(calls, share)

        workers = [threading.Thread(target=work) for _ in range(threads)]
        for worker in workers:
            worker.start()
        began = time.monotonic_ns()
        ready.wait()
        for worker in workers:
            worker.join()
        return {"began": began, "ended": time.monotonic_ns()}

    def repeat(self, *, every: float | None, size: int = 160) -> None:
        """Publish to everybody every so many seconds, on a thread, until told None."""
        if every is not None:
            self._silent.clear()
            publish = self.publisher("", size, 1)
            self._repeater = threading.Thread(
                target=self._repeat, args=(publish, every), name="repeater", daemon=True
            )
            self._repeater.start()
        elif self._repeater is not None:
            self._silent.set()
            self._repeater.join()

    def _repeat(self, publish: Publish, every: float) -> None:
        while not self._silent.wait(every):
            publish()

    def spin(self, *, on: bool, core: int | None = None) -> None:
        """Start or end a thread that computes in pure Python: a report being rendered."""
        if on:
            self._spinning.set()
            self._spinner = threading.Thread(
                target=self._spin, args=(core,), name="spinner", daemon=True
            )
            self._spinner.start()
        elif self._spinner is not None:
            self._spinning.clear()
            self._spinner.join()

    def _spin(self, core: int | None) -> None:
        if core is not None:
            os.sched_setaffinity(0, {core})  # of this thread alone
        number = 0
        while self._spinning.is_set():
            number = (number * 1103515245 + 12345) & 0x7FFFFFFF


def prepare() -> None:
    """Let this process end with its parent, and have as many descriptors as it may."""
    end_with_parent()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def end_with_parent() -> None:
    """Let the kernel kill this process when the one that started it has ended."""
    # The end of the input would do, but for a process that is stopped: it does not read.
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PDEATHSIG, signal.SIGKILL)


def _publish(calls: Sequence[Publish], count: int) -> None:
    for _ in range(count):
        for call in calls:
            call()


def ready_text(target: str, size: int) -> str:
    """Return the message that a peer, which has no channels here, publishes."""
    if target:
        raise ValueError("only ws_hub has channels here")
    return text(size)


def reports(size: int) -> Iterator[str]:
    """Return messages that can be compressed, more of them than a window remembers."""
    return itertools.cycle(
        [text(size, functools.partial(report, number)) for number in range(REPORTS)]
    )


def echo(text: str) -> str:
    """Return the answer to a request, read and written as JSON like any application's."""
    request = json.loads(text)
    return json.dumps({"type": "echo", "data": request["data"]})
