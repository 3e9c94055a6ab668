"""What a row is: a name, what it counts, and how one sample of it is taken."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..stage import Burst, Stage
from ..wire import MARK

__all__ = [
    "Incomplete",
    "Plan",
    "Point",
    "Row",
    "Sample",
    "Setup",
    "bursts",
    "percentile",
    "subscribe",
    "whole",
]

_ENOUGH = 0.3  # seconds after which a sample takes no further burst
_LONG = 0.5  # seconds that a burst may be expected to take


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Args:
        repeats: samples of each figure.
        work: factor for how many messages, calls and seconds a sample takes.
        crowd: factor for how many clients there are; below 1 only in tests.
    """

    repeats: int = 5
    work: float = 1.0
    crowd: float = 1.0

    def times(self, count: int) -> int:
        """Return how often to do what a full run does `count` times."""
        return max(round(count * self.work), 4)

    def clients(self, count: int) -> int:
        """Return how many clients stand for `count`; none stay none, one stays one."""
        return max(round(count * self.crowd), min(count, 2))


@dataclass(frozen=True)
class Setup:
    """Who is connected, and listens to what, while samples are taken.

    Args:
        clients: how many connect.
        each: channels that each client subscribes to.
        share: clients that listen to each of these channels.
        prefix: of the channels' names.
        audiences: instead of channels that are shared out, one channel for each of these
            numbers, to which the first so many clients subscribe.
        offer: whether they offer compression; then it must be agreed on.
        spinner: whether a thread of the server will compute, on a core of its own.
        alone: measure one server after the other: together they would need more threads
            than a machine has numbers for.
    """

    clients: int = 0
    each: int = 0
    share: int = 1
    prefix: str = "channel-"
    audiences: tuple[int, ...] = ()
    offer: bool = False
    spinner: bool = False
    alone: bool = False

    def channels(self, plan: Plan) -> list[str]:
        """Return the names of all channels; [""] for everybody when there are none."""
        share = plan.clients(self.share) if self.share > 1 else 1
        count = plan.clients(self.clients) * self.each // share
        return [f"{self.prefix}{number}" for number in range(count)] or [""]

    def seat(self, stage: Stage, plan: Plan) -> None:
        """Connect the clients and let them subscribe."""
        if self.clients:
            stage.connect(plan.clients(self.clients), hello=self._hello(plan), offer=self.offer)

    def _hello(self, plan: Plan) -> list[list[str]]:
        """Return what each client subscribes to."""
        clients = range(plan.clients(self.clients))
        if self.audiences:
            return [
                [subscribe(f"{self.prefix}{n}") for n in self.audiences if client < plan.clients(n)]
                for client in clients
            ]
        channels = self.channels(plan)
        return [
            [
                subscribe(channels[(client * self.each + turn) % len(channels)])
                for turn in range(self.each)
            ]
            for client in clients
        ]


@dataclass(frozen=True)
class Sample:
    """One repeat of a row: its figure, and what else it showed."""

    value: float
    extra: Mapping[str, float] = field(default_factory=dict)
    note: str = ""


class Incomplete(Exception):
    """A server did not do what the row measures; the text goes into the table."""


@dataclass(frozen=True)
class Point:
    """Where a row stands in a sweep, whose rows differ in one quantity alone.

    Args:
        sweep: its name, by which all its rows are asked for.
        x: the quantity.
        of: what one of it is called.
    """

    sweep: str
    x: float
    of: str


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Args:
        name: as in the table, and for `--rows` unless it is a point of a sweep.
        counts: what the figure is, in one sentence.
        unit: of the figure.
        sample: takes one sample.
        servers: who is measured.
        setup: what must be connected; rows with the same share their processes.
        higher: whether more is better.
        once: whether one sample is all that there is time for.
        full: whether only a full run, or its name, asks for it.
        point: its place in a sweep; None when it stands for itself.
    """

    name: str
    counts: str
    unit: str
    sample: Callable[[Stage, Plan], Sample]
    servers: tuple[str, ...] = ("ws_hub",)
    setup: Setup = Setup()
    higher: bool = False
    once: bool = False
    full: bool = False
    point: Point | None = None

    @property
    def group(self) -> str:
        """The name that asks for it: its sweep's, or its own."""
        return self.point.sweep if self.point else self.name


def subscribe(channel: str, kind: str = "subscribe", **fields: Any) -> str:
    """Return a request whose ack carries one mark."""
    return json.dumps({"type": kind, "channel": channel, "id": MARK.decode(), **fields})


def percentile(values: list[float] | list[int], share: float) -> float:
    """Return the value that `share` of all are not above."""
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


def bursts(
    stage: Stage, figure: Callable[[Burst], float], times: int, messages: int = 1, **how: Any
) -> Sample:
    """Return the median of up to so many closed-loop bursts; `how` goes to `Stage.burst`.

    The next burst begins when every client has the last one whole. A server that would
    take seconds for one gets shorter bursts. Raises Incomplete when some client did not
    get everything.
    """
    note = ""
    if messages > 1:
        single = whole(stage.burst(**how)).seconds
        if single * messages > _LONG:
            messages = max(int(_LONG / single), 2)
            note = f"bursts of {messages}"
    found: list[Burst] = []
    ended = time.monotonic() + _ENOUGH
    while len(found) < times and (not found or time.monotonic() < ended):
        found.append(whole(stage.burst(messages, **how)))
    calls = messages * len(how.get("targets", ("",)))
    return Sample(
        statistics.median(map(figure, found)),
        {"us a call": statistics.median(burst.publishing for burst in found) / calls * 1e6},
        note,
    )


def whole(burst: Burst) -> Burst:
    """Return the burst; raise Incomplete unless every client got all of it."""
    if burst.complete < burst.clients:
        raise Incomplete(
            f"{burst.clients - burst.complete} of {burst.clients} clients did not get everything"
        )
    return burst
