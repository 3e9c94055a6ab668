"""ws_hub beside its peers and the floor: one message to many, and echoes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace

from ..servers import PEERS, PYTHON_PEERS
from ..stage import Burst, Stage
from ..wire import echo_text
from .base import Plan, Row, Sample, Setup, bursts, percentile, whole

__all__ = ["ROWS"]

_EVERYBODY = ("floor", "floor in C", "ws_hub", *PEERS)
_ECHOES = (
    "ws_hub",
    "websockets asyncio",
    "websockets loop",
    "flask-sock",
    "flask-websockets",
    "websocket-server",
    "picows",
    "Node ws",
    "bun publish",
)
_COMPRESSING = (
    "ws_hub, compression",
    "websockets asyncio, compression",
    "websockets pool, compression",
    "flask-sock, compression",
)
_BURST = 100
_REPORT = 4000  # bytes
_LONG_ENOUGH = 1.0  # seconds after which a sample beside a spinner ends
_TIMEOUT = 60.0


def _milliseconds(burst: Burst) -> float:
    return burst.seconds * 1000


def _rate(burst: Burst) -> float:
    return burst.rate


def _one(stage: Stage, plan: Plan) -> Sample:
    return bursts(stage, _milliseconds, plan.times(40))


def _hundred(stage: Stage, plan: Plan) -> Sample:
    return bursts(stage, _rate, plan.times(10), _BURST)


def _packed(stage: Stage, plan: Plan) -> Sample:
    """Return the median rate, and how many bytes of the network one message takes."""
    sizes: list[float] = []

    def rate(burst: Burst) -> float:
        sizes.append(burst.bytes / burst.messages)
        return burst.rate

    sample = bursts(stage, rate, plan.times(10), _BURST, size=_REPORT)
    return replace(sample, extra={"bytes a message": statistics.median(sizes), **sample.extra})


def _beside_a_spinner(stage: Stage, plan: Plan) -> Sample:
    """Return the median, and the 95th percentile: a stall is there or not, as threads wake."""
    found: list[float] = []
    stage.spin(on=True)
    try:
        ended = time.monotonic() + _LONG_ENOUGH
        while len(found) < plan.times(40) and (not found or time.monotonic() < ended):
            found.append(_milliseconds(whole(stage.burst())))
    finally:
        stage.spin(on=False)
    return Sample(statistics.median(found), {"p95 ms": percentile(found, 0.95)})


def _echo(clients: int, count: int) -> Callable[[Stage, Plan], Sample]:
    """Return a sample of the median time from a client's send to its answer."""

    def sample(stage: Stage, plan: Plan) -> Sample:
        found = stage.load.ask(
            "exchange",
            texts=[echo_text("echo", 64)],
            clients=plan.clients(clients),
            count=plan.times(count),
            timeout=_TIMEOUT,
        )["ns"]
        return Sample(statistics.median(found) / 1000, {"p99 us": percentile(found, 0.99) / 1000})

    return sample


def _relay(stage: Stage, plan: Plan) -> Sample:
    found = stage.load.ask(
        "exchange",
        texts=[echo_text("relay", 64)],
        clients=1,
        count=plan.times(1000),
        timeout=_TIMEOUT,
    )["ns"]
    return Sample(statistics.median(found) / 1000, {"p99 us": percentile(found, 0.99) / 1000})


def _fan_out(clients: int, *, full: bool = False) -> tuple[Row, ...]:
    setup = Setup(clients=clients, alone=full)
    return (
        Row(
            f"one-to-{clients}",
            f"milliseconds from the publishing call until the last of {clients:,} clients has "
            "read the message; the next begins when all have it",
            "ms",
            _one,
            ("floor", "floor in C", "ws_hub", "ws_hub, loop", *PEERS),
            setup,
            full=full,
        ),
        Row(
            f"burst-to-{clients}",
            f"messages a second that {clients:,} clients read, {_BURST} published back to back",
            "messages/s",
            _hundred,
            ("floor", "floor in C", "floor joined", *_EVERYBODY[2:]),
            setup,
            higher=True,
            full=full,
        ),
    )


_ALONE = Setup(clients=1)
_HUNDRED = Setup(clients=100)

ROWS = (
    *_fan_out(100),
    Row(
        "one-to-100-busy",
        "the same as one-to-100, while a thread of the server's process computes in pure Python",
        "ms",
        _beside_a_spinner,
        ("floor", "ws_hub", *PYTHON_PEERS),
        Setup(clients=100, spinner=True),
    ),
    Row(
        "burst-packed",
        "messages a second that 100 clients read that take compressed messages: tables of "
        f"{_REPORT:,} bytes of JSON, {_BURST} published back to back",
        "messages/s",
        _packed,
        _COMPRESSING,
        Setup(clients=100, offer=True),
        higher=True,
    ),
    *_fan_out(1000),
    *_fan_out(5000, full=True),
    Row(
        "echo",
        "microseconds from a client's send until it has read the answer, JSON read and written "
        "by all servers, one client",
        "us",
        _echo(1, 1000),
        _ECHOES,
        _ALONE,
    ),
    Row(
        "echo-relay",
        "the same by way of everybody: client, on_message, broadcast, hub thread, client",
        "us",
        _relay,
        ("ws_hub",),
        _ALONE,
    ),
    Row(
        "echo-100",
        "the same as echo, 100 clients at once, each with one message under way",
        "us",
        _echo(100, 40),
        _ECHOES,
        _HUNDRED,
    ),
)
