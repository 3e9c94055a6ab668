"""What is measured of several workers: connecting, bursts, one message to all, and one listener.

Bursts and messages are a closed loop: the next is published when every client has read the
last one. The publisher is another worker each time, so that no worker's clients are always
those of the one that publishes. What is first is not counted.
"""

from __future__ import annotations

import contextlib
import itertools
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from .fleet import Fleet, Worker
from .rows.base import Sample, percentile
from .stage import Process, ProcessFailed

__all__ = ["REDIS", "FleetTrial", "Plan"]

_TIMEOUT = 30.0  # seconds for all clients to read
_LONG = 0.5  # seconds that a burst may be expected to take
_TRIED = 10  # messages of a burst from which that is told
_LISTENERS = 8  # one of so many clients listens, where only one worker has listeners
_CHANNELS = "quiet", "loud"  # of one worker's listeners, and of all workers'

REDIS = "redis"  # in the place of the address of a backplane


@dataclass(frozen=True)
class Plan:
    """How much of it.

    Args:
        repeats: runs of each number of workers, in turn.
        seconds: that each figure is taken from.
        clients: in all workers together.
        messages: of a burst.
        size: bytes of a message.
        workers: how many, in turn.
        backplanes: what connects them, in turn: an address, as WS_HUB_BACKPLANE has it, or
            "redis" for a server of the bench's own.
        peers: whether Flask-SocketIO is measured too, where it and a Redis server are there.
    """

    repeats: int = 3
    seconds: float = 2.0
    clients: int = 400
    messages: int = 500
    size: int = 160
    workers: Sequence[int] = (1, 2, 4)
    backplanes: Sequence[str] = ("local", REDIS)
    peers: bool = True


@dataclass
class Spent:
    """What processes took meanwhile: of a core, and in seconds of the CPU."""

    seconds: float = 0.0
    workers: list[float] = field(default_factory=list)
    load: float = 0.0

    def cores(self) -> dict[str, float]:
        """Return how many cores they had."""
        return {
            "cores of the workers": sum(self.workers) / self.seconds,
            "cores of the load": self.load / self.seconds,
        }


@dataclass
class _Burst:
    seconds: float
    calls: float
    messages: int
    at: list[float]  # seconds until each client had its last message


class FleetTrial:
    """One run of one fleet; the rows in this order."""

    def __init__(self, fleet: Fleet, load: Process, plan: Plan) -> None:
        self._fleet, self._load, self._plan = fleet, load, plan
        self._turn = itertools.cycle(fleet.workers)

    # --- rows ------------------------------------------------------------------------------

    def connects(self) -> Sample:
        """Connect all clients; the last is counted when the workers have all of them."""
        hello, count = self._fleet.workers[0].hello, self._plan.clients
        with self._spent() as spent:
            began = self._load.ask(
                "connect",
                path=hello["path"],
                port=self._fleet.port,
                greeting=hello["greeting"],
                count=count,
            )["began"]
            seconds = (self._fleet.await_clients(count) - began) / 1e9
        spread = self._fleet.spread()
        each = {
            "us of the workers each": sum(spent.workers) / count * 1e6,
            "us of the load each": spent.load / count * 1e6,
            "fewest in a worker": min(spread),
            "most": max(spread),
        }
        return Sample(count / seconds, each)

    def bursts(self, *, everybody: bool) -> Sample:
        """Publish bursts to all, each by one worker, or a part of each by every worker."""
        fleet, messages, note = self._fleet, self._plan.messages, ""
        # The faster of two, which is what it costs; the other one may have met other work.
        tried = min(self._burst([next(self._turn)], _TRIED).seconds for _ in "12")
        if (each := tried / _TRIED) * messages > _LONG:
            messages = max(int(_LONG / each), 2)
        share = max(messages // len(fleet.workers), 1)
        self._burst([next(self._turn)], messages)
        found = []
        with self._spent() as spent:
            for _ in self._while():
                if everybody:
                    found.append(self._burst(fleet.workers, share))
                else:
                    found.append(self._burst([next(self._turn)], messages))
        if messages < self._plan.messages:
            note = f"bursts of {messages}"
        calls = share if everybody else messages
        delivered = sum(each.messages for each in found)
        return Sample(
            statistics.median(each.messages / each.seconds for each in found),
            {
                "us a call": statistics.median(each.calls for each in found) / calls * 1e6,
                "ns of the workers a delivery": sum(spent.workers) / delivered * 1e9,
                # What bounds the deliveries where each worker has a core of its own.
                "ns of the busiest": max(spent.workers) / delivered * 1e9,
                **spent.cores(),
            },
            note,
        )

    def singles(self) -> dict[str, Sample]:
        """Publish one message at a time to all; when the last, and when each has read it."""
        homes = self._homes()
        ends, own, others = [], [], []
        delivered = 0
        self._burst([next(self._turn)], 1)
        with self._spent() as spent:
            for _ in self._while():
                publisher = next(self._turn)
                burst = self._burst([publisher], 1)
                ends.append(burst.seconds * 1000)
                delivered += burst.messages
                for home, at in zip(homes, burst.at, strict=True):
                    (own if home == publisher.pid else others).append(at * 1000)
        extra = {
            "deliveries/s": delivered / sum(ends) * 1000,
            "us of the workers a delivery": sum(spent.workers) / delivered * 1e6,
            "us of the load": spent.load / delivered * 1e6,
            **spent.cores(),
        }
        rows = {"one-to-all": _milliseconds(ends, extra)}
        if own:
            rows["own clients"] = _milliseconds(own)
        if others and own:
            rows["others' clients"] = _milliseconds(others)
        return rows

    def listened(self, *, everywhere: bool) -> Sample:
        """Publish bursts to a channel to which clients of the publishing worker listen.

        No others do, or, `everywhere`, a client of each other worker that has any.
        """
        channel = _CHANNELS[everywhere]
        homes, workers = self._homes(), self._fleet.workers
        addresses = self._load.ask("addresses")["addresses"]
        publisher = max(workers, key=lambda worker: homes.count(worker.pid))
        at_home = [index for index, home in enumerate(homes) if home == publisher.pid]
        chosen = at_home[: max(self._plan.clients // _LISTENERS, 1)]
        if everywhere:
            others = [each.pid for each in workers if each is not publisher]
            chosen += [homes.index(pid) for pid in others if pid in homes]
        where = [addresses[index] for index in chosen]
        for each in workers if everywhere else [publisher]:
            each.ask("listen", channel=channel, addresses=where)
        messages, told = self._plan.messages, publisher.ask("stats")["bus_told"]
        warm = self._burst([publisher], messages, chosen, channel)
        found = [warm]
        with self._spent() as spent:
            for _ in self._while():
                found.append(self._burst([publisher], messages, chosen, channel))
        told = publisher.ask("stats")["bus_told"] - told
        published = messages * len(found)
        others = sum(spent.workers) - spent.workers[workers.index(publisher)]
        calls = [each.calls / messages * 1e6 for each in found[1:]]
        extra = {
            "deliveries/s": statistics.median(each.messages / each.seconds for each in found[1:]),
            "us of the others a message": others / (published - messages) * 1e6,
            "notices a message": told / published,
            "listeners": len(chosen),
        }
        return Sample(statistics.median(calls), extra)

    # --- parts of them ---------------------------------------------------------------------

    def _burst(
        self,
        publishers: Sequence[Worker],
        count: int,
        chosen: Sequence[int] | None = None,
        target: str = "",
    ) -> _Burst:
        """Have each publisher publish so many; wait until all clients, or these, have them."""
        wanted = count * len(publishers)
        self._load.tell("read", messages=wanted, timeout=_TIMEOUT, chosen=chosen)
        self._load.answer()
        for each in publishers:
            each.tell("publish", count=count, size=self._plan.size, targets=[target])
        published = [each.answer() for each in publishers]
        read = self._load.answer()
        began = min(each["began"] for each in published)
        clients = self._plan.clients if chosen is None else len(chosen)
        if read["messages"] != clients * wanted or read["extra"]:
            raise ProcessFailed(f"{read['messages']} messages read, not {clients * wanted}")
        return _Burst(
            (read["done"] - began) / 1e9,
            max(each["ended"] - each["began"] for each in published) / 1e9,
            read["messages"],
            [(at - began) / 1e9 for at in read["at"]],
        )

    def _homes(self) -> list[int]:
        """Return the worker of each client, in the order of the load; 0 where it is not told."""
        if self._fleet.workers[0].hello["greeting"] is not None:
            return [0] * self._plan.clients
        homes = {
            address: worker.pid
            for worker in self._fleet.workers
            for address in worker.ask("addresses")["addresses"]
        }
        return [homes[address] for address in self._load.ask("addresses")["addresses"]]

    def _while(self) -> Iterator[None]:
        """Say yes as long as the plan has it, and once at least."""
        ended = time.monotonic() + self._plan.seconds
        yield
        while time.monotonic() < ended:
            yield

    @contextlib.contextmanager
    def _spent(self) -> Iterator[Spent]:
        """Yield what is filled in when the block ends."""
        spent, everybody = Spent(), [*self._fleet.workers, self._load]
        before = [each.usage() for each in everybody]
        yield spent
        after = [each.usage() for each in everybody]
        *spent.workers, spent.load = (
            late.cpu_seconds - early.cpu_seconds for early, late in zip(before, after, strict=True)
        )
        spent.seconds = after[0].now - before[0].now


def _milliseconds(values: list[float], extra: dict[str, float] | None = None) -> Sample:
    return Sample(statistics.median(values), {"p99": percentile(values, 0.99), **(extra or {})})
