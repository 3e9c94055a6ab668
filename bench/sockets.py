"""How many sockets four workers hold: `python -m bench.scale --sockets`.

Descriptors are one limit, memory the other; the smaller one is named. Clients come from several
addresses of the loopback network, because one of them has no more than some 28,000 ports.
"""

from __future__ import annotations

import contextlib
import itertools
import resource
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .fleet import Fleet
from .machine import facts
from .result import short
from .stage import Process, ProcessFailed

__all__ = ["AIM", "Limit", "limits", "main", "measure"]

AIM = 40_000
_WORKERS = 4
_SOURCES = [f"127.0.0.{number}" for number in range(1, 9)]
_DESCRIPTORS = 500  # of each process, left for everything else
_BYTES = 60_000  # that a socket is expected to take of the machine, both of its ends together
_FREE = 0.75  # of the memory that is available may be taken
_STEP = 500  # clients that connect at a time
_FIRST = 100
_MESSAGES = 5
_TIMEOUT = 60.0


@dataclass(frozen=True)
class Limit:
    """What a machine has room for, and why."""

    sockets: int
    why: str


def limits(workers: int = _WORKERS) -> list[Limit]:
    """Return what bounds the number of sockets, the tightest first."""
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    found = [
        Limit(
            workers * (descriptors - _DESCRIPTORS),
            f"RLIMIT_NOFILE {descriptors:,}, of each of {workers} workers",
        )
    ]
    memory = _available() * _FREE
    found.append(Limit(int(memory / _BYTES), f"{memory / 1e6:,.0f} MB of memory"))
    return sorted(found, key=lambda limit: limit.sockets)


def _available() -> int:
    """Return how many bytes of memory are available."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def measure(count: int, backplane: str, workers: int = _WORKERS) -> dict[str, Any]:
    """Open so many sockets; return what they take, and how long a message to all takes."""
    each = resource.getrlimit(resource.RLIMIT_NOFILE)[1] - _DESCRIPTORS
    with contextlib.ExitStack() as stack:
        loads = []
        for _ in range(-(-count // each)):
            loads.append(Process(None, "bench.readers"))
            stack.callback(loads[-1].close)
        fleet = Fleet("ws_hub", workers, backplane=backplane)
        stack.callback(fleet.close)
        first = min(_FIRST, count // 2)
        _connect(fleet, loads[0], first)  # the first bring imports and pools
        fleet.await_clients(first)
        before, free = [worker.usage() for worker in fleet.workers], _available()
        began = time.monotonic()
        opened, note = _open(fleet, loads, first, count)
        fleet.await_clients(opened)
        seconds = time.monotonic() - began
        after, left = [worker.usage() for worker in fleet.workers], _available()
        pairs = list(zip(before, after, strict=True))
        added = max(opened - first, 1)
        times = [_message(fleet, loads, opened) for _ in range(_MESSAGES)]
        return {
            "sockets": opened,
            "workers": fleet.spread(),
            "loads": len(loads),
            "note": note,
            "connects/s": added / seconds,
            "kB of a worker each": sum(b.rss_bytes - a.rss_bytes for a, b in pairs) / added / 1e3,
            "kB of the machine each": (free - left) / added / 1e3,
            "threads each": sum(b.threads - a.threads for a, b in pairs) / added,
            "one to all ms": statistics.median(times) * 1e3,
        }


def _open(fleet: Fleet, loads: Sequence[Process], opened: int, count: int) -> tuple[int, str]:
    """Open sockets until there are so many, or one is refused; return how many, and why."""
    for turn in itertools.count():
        more = min(_STEP, count - opened)
        if more <= 0:
            return opened, ""
        try:
            _connect(fleet, loads[turn % len(loads)], more)
        except ProcessFailed as failure:
            return opened, str(failure)
        opened += more
    raise AssertionError


def _connect(fleet: Fleet, load: Process, count: int) -> None:
    path = fleet.workers[0].hello["path"]
    load.ask("connect", port=fleet.port, path=path, count=count, sources=_SOURCES)


def _message(fleet: Fleet, loads: Sequence[Process], count: int) -> float:
    """Return the seconds until all clients have read one message."""
    for load in loads:
        load.tell("read", messages=1, timeout=_TIMEOUT)
    for load in loads:
        load.answer()
    published = fleet.workers[0].ask("publish", count=1, size=160)
    read = [load.answer() for load in loads]
    if (had := sum(each["messages"] for each in read)) != count:
        raise ProcessFailed(f"{had} of {count} clients read a message")
    return float(max(each["done"] for each in read) - published["began"]) / 1e9


def main(count: int, backplane: str) -> int:
    """Open as many of so many sockets as may be, and print what they take."""
    tightest = limits()[0]
    wanted = min(count, tightest.sockets)
    machine = facts()
    print(f"{machine['cpu']}, {machine['cores']} cores, {machine['python']}")
    bound = f"limited by {tightest.why}" if wanted < count else "no limit of the machine met"
    print(f"{wanted:,} sockets of {count:,}: {bound}", flush=True)
    try:
        found = measure(wanted, backplane)
    except ProcessFailed as failure:
        print(failure)
        return 1
    for name, value in found.items():
        text = short(value) if isinstance(value, int | float) else str(value)
        if text:
            print(f"{name:24} {text}")
    return 0
