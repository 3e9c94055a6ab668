"""What one more costs: clients, channels, bytes, subscribers. A row a point."""

from __future__ import annotations

from ..stage import Burst, Stage
from ..wire import ENVELOPE
from .base import Plan, Point, Row, Sample, Setup, bursts

__all__ = ["ROWS"]

_CLIENTS = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
_CHANNELS = (10, 100, 1000, 5000, 10_000, 20_000, 50_000, 100_000)
_BYTES = (16, 256, 1024, 4096, 8192, 16_384, 32_768, 65_536)
_SUBSCRIBERS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_HOLDERS = 100  # clients that share the channels; each may listen to 1,024
_BURSTS = 40
_TIMEOUT = 60.0


def _microseconds(burst: Burst) -> float:
    return burst.seconds * 1e6


def _clients(count: int) -> Row:
    def sample(stage: Stage, plan: Plan) -> Sample:
        return bursts(stage, _microseconds, plan.times(_BURSTS))

    return Row(
        f"clients-{count}",
        "microseconds from a broadcast until the last of all clients has read it",
        "us",
        sample,
        ("floor", "floor in C", "ws_hub"),
        Setup(clients=count),
        full=True,
        point=Point("clients", count, "client"),
    )


def _channels(count: int) -> Row:
    holders = min(count, _HOLDERS)
    setup = Setup(clients=holders, each=count // holders)

    def sample(stage: Stage, plan: Plan) -> Sample:
        targets = setup.channels(plan)
        return bursts(
            stage,
            _microseconds,
            plan.times(_BURSTS),
            targets=targets,
            each=setup.each,
            timeout=_TIMEOUT,
        )

    return Row(
        f"channels-{count}",
        "microseconds to publish once to each channel in turn, until the last is read; "
        f"each has one subscriber, of {_HOLDERS} clients in all (or as many as channels)",
        "us",
        sample,
        setup=setup,
        full=True,
        point=Point("channels", count, "channel"),
    )


def _size(data: int) -> Row:
    def sample(stage: Stage, plan: Plan) -> Sample:
        return bursts(stage, _microseconds, plan.times(_BURSTS), size=data + ENVELOPE)

    return Row(
        f"size-{data}",
        "microseconds from a broadcast of so much data until the last of 100 clients has read "
        f"it; type and timestamp, {ENVELOPE} bytes, come on top",
        "us",
        sample,
        ("floor", "ws_hub"),
        Setup(clients=100),
        full=True,
        point=Point("size", data, "byte"),
    )


def _subscribers(count: int) -> Row:
    def sample(stage: Stage, plan: Plan) -> Sample:
        return bursts(
            stage,
            _microseconds,
            plan.times(_BURSTS),
            targets=[f"{_AUDIENCES.prefix}{count}"],
            clients=plan.clients(count),
        )

    return Row(
        f"subscribers-{count}",
        "microseconds from a message to one channel until the last of its subscribers has read "
        f"it; {_AUDIENCES.clients:,} clients are connected",
        "us",
        sample,
        setup=_AUDIENCES,
        full=True,
        point=Point("subscribers", count, "subscriber"),
    )


_AUDIENCES = Setup(clients=_SUBSCRIBERS[-1], prefix="first-", audiences=_SUBSCRIBERS)

ROWS = (
    *map(_clients, _CLIENTS),
    *map(_channels, _CHANNELS),
    *map(_size, _BYTES),
    *map(_subscribers, _SUBSCRIBERS),
)
