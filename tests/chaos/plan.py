"""What a run is made of: its channels, its publishers, its clients, its faults in time.

The faults are drawn from a seed: two runs with one seed plan the same. What they meet
differs, because processes and threads go on by themselves.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ws_hub import Message

__all__ = [
    "ALL",
    "BEGIN",
    "BUS",
    "CHANNELS",
    "END",
    "END_VALUE",
    "FIRM",
    "FORGETFUL",
    "KEPT_BRIEFLY",
    "LIFE",
    "LOOSE",
    "MARK",
    "PRESENT",
    "PROXIES",
    "REMOTE",
    "SERVER",
    "Fault",
    "Plan",
    "data_of",
    "event_of",
    "parts_of",
    "schedule",
    "value_of",
]

FORGETFUL = "chaos:short"  # keeps so little that there are gaps to be told
KEPT_BRIEFLY = 150  # messages
PRESENT = "chaos:present"
CHANNELS = (PRESENT, "chaos:long", FORGETFUL)

# Publishers. Of `LOOSE` it may be lost what was accepted just before a kill, of the others
# nothing that was accepted.
MARK, LOOSE, FIRM = range(3)
BEGIN, END = 1, 2  # the marks: the first message of each channel, and the last
REMOTE = (3, 4)  # they publish as clients, with keys that are idempotent
_NUMBERS = 10**12
LIFE = 1_000_000  # numbers of one life of a server's process

PROXIES = 6
SERVER, BUS = -1, -2  # in the place of a proxy
ALL = -1  # in the place of a process


def event_of(publisher: int, number: int) -> Message:
    """Return a numbered message of a publisher."""
    return Message("event", data=data_of(publisher, number))


def data_of(publisher: int, number: int) -> dict[str, Any]:
    return {"publisher": publisher, "number": number, "text": "x" * 60}


def value_of(data: Any) -> int:
    """Return publisher and number of a message's data, as one number."""
    return int(data["publisher"]) * _NUMBERS + int(data["number"])


def parts_of(value: int) -> tuple[int, int]:
    """Return publisher and number."""
    return divmod(value, _NUMBERS)


END_VALUE = MARK * _NUMBERS + END


@dataclass(frozen=True)
class Plan:
    """How much of it.

    Args:
        seconds: of load and faults.
        clients: in all.
        seed: what the faults are drawn from.
        page: whether one client is a page in Chromium.
        node: whether some are on Node.
        disk: whether the server's file cannot be written to now and then.
        workers: the processes of the server; faults meet one of them at a time.
        bus: the program that connects them and keeps their history, which meets faults as well,
            of `tests.redis_servers.SERVERS`; "" for a directory and a file.
        patience: seconds for all clients to catch up at the end.
    """

    seconds: float = 120.0
    clients: int = 50
    seed: int = 1
    page: bool = True
    node: bool = True
    disk: bool = False
    workers: int = 1
    bus: str = ""
    patience: float = 60.0


@dataclass(frozen=True, order=True)
class Fault:
    """One moment of the plan.

    Args:
        at: seconds from the beginning.
        kind: what is done.
        proxy: which proxy it is done to, from 0 on; below that the server, or what connects
            its processes.
        amount: how much, how long it will last, or the process that it meets.
        ends: whether this is its end.
    """

    at: float
    kind: str
    proxy: int = SERVER
    amount: float = 0.0
    ends: bool = False


def schedule(plan: Plan) -> list[Fault]:
    """Return the faults of a run, in order."""
    chance = random.Random(plan.seed)
    lanes = [list(_of_server(random.Random(chance.random()), plan.seconds))]
    for proxy in range(PROXIES):
        lanes.append(list(_of_proxy(random.Random(chance.random()), plan.seconds, proxy)))
    disk = random.Random(chance.random())
    if plan.disk:
        lanes.append(list(_of_disk(disk, plan.seconds)))
    bus = random.Random(chance.random())
    if plan.bus:
        lanes.append(list(_of_bus(bus, plan.seconds, plan.workers)))
    return list(heapq.merge(*lanes))


def _of_server(chance: random.Random, seconds: float) -> Iterator[Fault]:
    at = chance.uniform(1.0, 2.0)
    kinds = ("kill", "pause", "clock", "restart")
    first = chance.sample(kinds, 4)  # each once, in a short run too
    while at < seconds:
        kind = first.pop() if first else chance.choices(kinds, (6, 2, 2, 1))[0]
        if kind == "clock":
            offset = chance.choice((-7200.0, -10.0, 0.0, 10.0, 7200.0))
            yield Fault(at, kind, amount=offset)
        else:
            lasts = chance.uniform(0.5, 2.0) if kind == "pause" else chance.uniform(0.0, 1.0)
            yield Fault(at, kind, amount=lasts)
            at += lasts
            yield Fault(at, kind, amount=lasts, ends=True)
        at += chance.uniform(1.0, 5.0)


def _of_disk(chance: random.Random, seconds: float) -> Iterator[Fault]:
    """Yield locks of the file, some longer than the server waits for it."""
    at = chance.uniform(5.0, 15.0)
    while at < seconds:
        lasts = chance.uniform(2.0, 9.0)
        yield Fault(at, "disk", amount=lasts)
        at += lasts
        yield Fault(at, "disk", amount=lasts, ends=True)
        at += chance.uniform(10.0, 30.0)


_OF_BUS = {
    # kind: (weight, most of its seconds)
    "bus kill": (3, 3.0),
    "bus pause": (3, 7.0),
    "bus cut": (3, 4.0),
    "bus black hole": (3, 8.0),
    "bus unsubscribe": (2, 0.0),
}


def _of_bus(chance: random.Random, seconds: float, workers: int) -> Iterator[Fault]:
    """Yield the faults of what connects the processes; the amount is the process that it meets.

    Those of the network meet one process, or all of them.
    """
    at = chance.uniform(0.5, 1.0)
    first = chance.sample(list(_OF_BUS), len(_OF_BUS))  # each once, in a short run too
    while at < seconds:
        most = 1.0 if first else math.inf
        weights = [weight for weight, _ in _OF_BUS.values()]
        kind = first.pop() if first else chance.choices(list(_OF_BUS), weights)[0]
        lasts = min(chance.uniform(0.2, 1.0) * _OF_BUS[kind][1], most)
        whom = float(chance.choice([ALL, *range(workers)]))
        yield Fault(at, kind, BUS, whom)
        if lasts:
            at += lasts
            yield Fault(at, kind, BUS, whom, ends=True)
        at += chance.uniform(0.3, 1.0 if first else 5.0)


_OF_PROXY = {
    # kind: (weight, least, most of its seconds)
    "reset": (3, 0.0, 0.0),
    "fin": (2, 0.0, 0.0),
    "refuse": (2, 0.5, 2.0),
    "black hole": (4, 0.5, 5.0),
    "late": (2, 1.0, 3.0),
    "slow": (2, 1.0, 3.0),
    "chopped": (2, 0.5, 1.5),
    "torn": (2, 0.2, 0.8),
}


def _of_proxy(chance: random.Random, seconds: float, proxy: int) -> Iterator[Fault]:
    at = chance.uniform(1.0, 4.0)
    while at < seconds:
        kind = chance.choices(list(_OF_PROXY), [each[0] for each in _OF_PROXY.values()])[0]
        _, least, most = _OF_PROXY[kind]
        lasts = chance.uniform(least, most)
        yield Fault(at, kind, proxy, lasts)
        if lasts:
            at += lasts
            yield Fault(at, kind, proxy, lasts, ends=True)
        at += chance.uniform(0.5, 4.0)
