"""One server under test and its clients: two processes, each on a core of its own.

The first core that the run may use is the server's, the last one the load's, for every
server alike; with one core there is nothing to pin. Where a thread of the server computes
meanwhile, that thread has the last core and the load the one before it. A thread that
shares the publishing one's core gets the GIL only when the kernel lets it run, and hides
what the row is about: the GIL is let go of, and somebody takes it.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .control import Answer
from .machine import cores
from .programs import PROGRAMS
from .servers import CONTENDERS
from .usage import Usage, forget_peak, usage_of

__all__ = ["Burst", "Process", "ProcessFailed", "Stage", "installed", "missing", "staged"]

_ROOT = Path(__file__).resolve().parent.parent
_PATIENCE = 90.0  # seconds for an answer
_STUCK = 2.0  # seconds that publishing calls may last once the clients have given up
_END = 5.0  # seconds that a process gets to end


class ProcessFailed(Exception):
    """A server or a load could not do what it was told."""


class Process:
    """A bench process on one core, told what to do by JSON lines."""

    def __init__(
        self, core: int | None, module: str, *args: str, env: Mapping[str, str] | None = None
    ) -> None:
        self._what = " ".join((module, *args))
        self._read = b""  # of the next answers
        self._child = subprocess.Popen(
            [sys.executable, "-m", module, *args],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **(env or {})},
        )
        if core is not None:
            os.sched_setaffinity(self._child.pid, {core})
        self._serving: int | None = None  # a child of that process

    @property
    def serving(self) -> int:
        """The process that has the clients."""
        return self._serving or self._child.pid

    def serve_from(self, pid: int | None) -> None:
        """Measure this child of the process, and stop it too when the process is stopped."""
        self._serving = pid

    def tell(self, do: str, **arguments: Any) -> None:
        """Send a request."""
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            raise ProcessFailed(f"{self._what} has ended") from None

    def answered(self, timeout: float = 0.0) -> bool:
        """Say whether some of an answer is there, or the end, within so many seconds."""
        assert self._child.stdout is not None
        return bool(self._read) or bool(select.select([self._child.stdout], [], [], timeout)[0])

    def answer(self, timeout: float = _PATIENCE) -> Answer:
        """Wait for the answer to the oldest request that has none."""
        assert self._child.stdout is not None
        ended = time.monotonic() + timeout
        while b"\n" not in self._read:
            left = max(ended - time.monotonic(), 0)
            if not select.select([self._child.stdout], [], [], left)[0]:
                self._child.kill()
                raise ProcessFailed(f"{self._what} did not answer for {timeout:g} s")
            more = os.read(self._child.stdout.fileno(), 65536)
            if not more:
                raise ProcessFailed(f"{self._what} has ended")
            self._read += more
        line, _, self._read = self._read.partition(b"\n")
        answer: Answer = json.loads(line)
        if "error" in answer:
            raise ProcessFailed(f"{self._what}: {answer['error']}")
        return answer

    def has_answered(self) -> bool:
        """Say whether the answer is there, without waiting."""
        return bool(select.select([self._child.stdout], [], [], 0)[0])

    def ask(self, do: str, patience: float = _PATIENCE, /, **arguments: Any) -> Answer:
        """Send a request and wait so many seconds for its answer."""
        self.tell(do, **arguments)
        return self.answer(patience)

    def usage(self) -> Usage:
        """Return what the process holds and has used, seen from outside.

        A process whose threads all want the GIL is late to say it, and slower for being
        asked.
        """
        return usage_of(self.serving)

    def forget_peak(self) -> None:
        """Let the peak of the process's memory begin where the memory is now."""
        forget_peak(self.serving)

    def prefer(self, *, on: bool) -> None:
        """Let the process run as soon as it can, before all others, where that is allowed.

        For a load that sleeps mostly, beside processes that do not.
        """
        if not hasattr(os, "sched_setscheduler"):
            return
        policy, priority = (os.SCHED_RR, 1) if on else (os.SCHED_OTHER, 0)
        with contextlib.suppress(PermissionError):
            os.sched_setscheduler(self._child.pid, policy, os.sched_param(priority))

    def pause(self, *, on: bool) -> None:
        """Stop the process, threads and all, or let it go on."""
        number = signal.SIGSTOP if on else signal.SIGCONT
        if self._serving is not None and self._child.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._serving, number)
        self._child.send_signal(number)

    def kill(self) -> None:
        """End the process at once, as when memory has run out."""
        self._child.kill()
        self._child.wait()

    def close(self) -> None:
        """Let the process end; kill it when it does not."""
        assert self._child.stdin is not None and self._child.stdout is not None
        self.pause(on=False)
        with contextlib.suppress(BrokenPipeError):
            self._child.stdin.close()
        try:
            self._child.wait(_END)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._child.stdout.close()


class Burst:
    """What became of one burst of publications.

    Attributes:
        seconds: from before the first call until the last client had its last message.
        publishing: seconds that the calls took.
        clients: how many should have had every message; slow ones do not count.
        complete: how many had.
        messages: how many came in, at all clients together.
        dropped: how many the hub says it dropped.
        bytes: how many came in, at clients that take compressed messages.
    """

    def __init__(self, published: Answer, received: Answer) -> None:
        self.seconds: float = (received["done"] - published["began"]) / 1e9
        self.publishing: float = (published["ended"] - published["began"]) / 1e9
        self.clients: int = received["clients"]
        self.complete: int = received["complete"]
        self.messages: int = received["messages"]
        self.dropped: int = published.get("dropped", 0)
        self.bytes: int = received["bytes"]
        if received["extra"]:
            raise ProcessFailed(f"{received['extra']} messages more than were published")

    @property
    def rate(self) -> float:
        """Messages delivered a second."""
        return self.messages / self.seconds


class Stage:
    """A server under test and its load.

    Args:
        name: of the server.
        spinner: keep the last core for the thread that `spin` starts.
    """

    def __init__(self, name: str, *, spinner: bool = False) -> None:
        self.name = name
        found = cores()
        pinned = len(found) > 1 and hasattr(os, "sched_setaffinity")
        self._spare = found[-1] if pinned else None
        self.load_core = found[-2 if spinner else -1] if pinned else None
        self.server = Process(found[0] if pinned else None, "bench.servers", name)
        self.load = Process(self.load_core, "bench.load")
        try:
            self._hello = self.server.ask("hello")
            self.server.serve_from(self._hello.get("serving"))
        except ProcessFailed:
            self.close()
            raise
        self.connected = 0

    @property
    def port(self) -> int:
        """Where the server listens, on 127.0.0.1."""
        return int(self._hello["port"])

    @property
    def path(self) -> str:
        """Where its WebSocket is."""
        return str(self._hello["path"])

    def connect(
        self,
        count: int,
        *,
        hello: Sequence[Sequence[str]] = ((),),
        slow: int | None = None,
        offer: bool = False,
        buffer: int | None = None,
        load: Process | None = None,
    ) -> Answer:
        """Connect clients until the server has registered all; see `Load.connect`.

        The answer's `seconds` are from the first dial until then. They are of another
        process than the stage's own where one is given.
        """
        load = load or self.load
        load.tell(
            "connect",
            port=self.port,
            path=self._hello["path"],
            greeting=self._hello["greeting"],
            count=count,
            hello=hello,
            slow=slow,
            offer=offer,
            buffer=buffer,
        )
        answer = load.answer()
        self.connected += count
        reached = self.await_clients(self.connected)
        return {**answer, "seconds": (reached["now"] - answer["began"]) / 1e9}

    def disconnect(self, *, slow: int = 0, timeout: float = 60.0) -> float:
        """Close every connection, or only the slow ones, of which there are that many.

        Returns the seconds until the server has noticed. Raises ProcessFailed when it
        has not within `timeout` seconds.
        """
        closed = self.load.ask("disconnect", slow=bool(slow))
        self.connected = self.connected - slow if slow else 0
        return float(self.await_clients(self.connected, timeout)["now"] - closed["began"]) / 1e9

    def await_clients(self, count: int, timeout: float = 60.0) -> Answer:
        """Wait until the server has exactly that many clients; say when that was."""
        # A server that is busy with its clients may be late to answer even that.
        return self.server.ask("await_clients", timeout + _STUCK, count=count, timeout=timeout)

    def spin(self, *, on: bool) -> None:
        """Start or end the thread of the server that computes in pure Python."""
        self.server.ask("spin", on=on, core=self._spare)

    def burst(
        self,
        messages: int = 1,
        *,
        size: int = 160,
        targets: Sequence[str] = ("",),
        each: int | None = None,
        clients: int | None = None,
        threads: int = 1,
        timeout: float = 20.0,
    ) -> Burst:
        """Publish, and wait until every client has what it should have.

        Args:
            messages: publications to each target.
            size: bytes of each message.
            targets: "" for everybody, or channels.
            each: messages that each client is to get; None for `messages`.
            clients: how many are to get them, the first that connected; None for all.
            threads: publishing threads.
            timeout: seconds that the clients wait.
        """
        wanted = messages if each is None else each
        self.load.tell("expect", messages=wanted, clients=clients, timeout=timeout)
        self.load.answer()
        self.server.tell("publish", count=messages, size=size, targets=targets, threads=threads)
        received = self.load.answer()
        try:
            published = self.server.answer(_STUCK)
        except ProcessFailed:
            raise ProcessFailed(
                f"publishing blocks: {received['clients'] - received['complete']} of "
                f"{received['clients']} clients got nothing for {timeout:g} s, and the call "
                "did not return"
            ) from None
        return Burst(published, received)

    def lines(self, count: int, *, width: int, process: str, timeout: float) -> Burst:
        """Stream a program's lines to every client; wait until each has all of them."""
        self.load.tell("expect", messages=count, timeout=timeout)
        self.load.answer()
        self.server.tell("lines", count=count, width=width, process=process)
        received = self.load.answer(timeout + _STUCK)
        return Burst(self.server.answer(timeout), received)

    def request(self, seconds: float, *, timeout: float) -> Answer:
        """Make plain HTTP requests of the server; see `Load.request`."""
        return self.load.ask("request", port=self.port, path="/", seconds=seconds, timeout=timeout)

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Let the server run meanwhile, and only then.

        All servers of a row share a core, and some never rest: a thread that looks ten
        times a second for input, a thousand times over, would be in every other's figure.
        """
        self.server.pause(on=False)
        try:
            yield
        finally:
            self.server.pause(on=True)

    def close(self) -> None:
        """End both processes."""
        # In this order: a server that loses a thousand clients is slow to hear anything.
        self.server.close()
        self.load.close()


def installed(name: str) -> bool:
    """Say whether what a server needs is installed."""
    contender = CONTENDERS[name]
    if contender.program is not None:
        return PROGRAMS[contender.program].find() is not None
    if contender.needs is None:
        return True
    module, distribution = contender.needs
    if importlib.util.find_spec(module) is None:
        return False
    return int(importlib.metadata.version(distribution).partition(".")[0]) >= contender.least


def missing(name: str) -> str:
    """Return what must be installed for a server."""
    contender = CONTENDERS[name]
    if contender.program is not None:
        return PROGRAMS[contender.program].needs
    return contender.needs[1] if contender.needs else ""


@contextlib.contextmanager
def staged(name: str, *, spinner: bool = False) -> Iterator[Stage]:
    """Run a stage, and end it whatever happens."""
    stage = Stage(name, spinner=spinner)
    try:
        yield stage
    finally:
        stage.close()
