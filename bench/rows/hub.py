"""ws_hub alone: the counterparts of the Go original's benchmarks, over real sockets.

Where the Go benchmarks count calls into channels of memory, these count what arrived at
the clients: a message that was only queued is not delivered.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from ..stage import Stage
from .base import Incomplete, Plan, Row, Sample, Setup, percentile, subscribe, whole

__all__ = ["ROWS"]

_THREADS = 4
_LINES = 1_000_000
_TIMEOUT = 60.0


def _stream(setup: Setup, count: int, threads: int = 1) -> Callable[[Stage, Plan], Sample]:
    """Return a sample of publications a second, each delivered to all who should get it."""

    def sample(stage: Stage, plan: Plan) -> Sample:
        channels = setup.channels(plan)
        messages = plan.times(count) // threads * threads
        each = messages * max(setup.each, 1)
        burst = stage.burst(
            messages, targets=channels, each=each, threads=threads, timeout=_TIMEOUT
        )
        if burst.messages != each * stage.connected:
            raise Incomplete(f"{each * stage.connected - burst.messages} messages did not arrive")
        published = messages * len(channels)
        return Sample(
            published / burst.seconds,
            {"delivered/s": burst.rate, "us a call": burst.publishing / published * 1e6},
        )

    return sample


def _program(stage: Stage, plan: Plan) -> Sample:
    """Return lines a second of a program, until its last viewer has the last one."""
    count = plan.times(_LINES)
    before = stage.server.usage().rss_bytes
    process = _VIEWERS.channels(plan)[0].removeprefix("process:")
    burst = whole(stage.lines(count, width=80, process=process, timeout=_TIMEOUT))
    grown = stage.server.usage().rss_bytes - before
    extra = {"delivered/s": burst.rate, "dropped": burst.dropped, "MB grown": grown / 1e6}
    return Sample(count / burst.seconds, extra)


def _round_trip(texts: Sequence[str], clients: int, count: int) -> Callable[[Stage, Plan], Sample]:
    """Return a sample of requests a second, with their latencies beside it."""

    def sample(stage: Stage, plan: Plan) -> Sample:
        found = stage.load.ask(
            "exchange",
            texts=texts,
            clients=plan.clients(clients),
            count=plan.times(count) // len(texts) * len(texts),
            timeout=_TIMEOUT,
        )
        nanoseconds = found["ns"]
        return Sample(
            len(nanoseconds) / len(texts) / found["seconds"],
            {
                "p50 us": statistics.median(nanoseconds) / 1000,
                "p99 us": percentile(nanoseconds, 0.99) / 1000,
            },
        )

    return sample


def _encode(stage: Stage, plan: Plan) -> Sample:
    found = stage.server.ask("encode", count=plan.times(20_000), size=160)
    return Sample(found["encode"], {"decode": found["decode"]})


def _encode_fast(stage: Stage, plan: Plan) -> Sample:
    found = stage.server.ask("encode_event", count=plan.times(20_000))
    if "orjson" not in found:
        raise Incomplete("orjson is not installed")
    plain, fast = found["json"], found["orjson"]
    return Sample(fast, {"standard library": plain, "times faster": plain / fast})


def _cycle(threads: int, count: int) -> Callable[[Stage, Plan], Sample]:
    def sample(stage: Stage, plan: Plan) -> Sample:
        cycles = plan.times(count) // threads * threads
        found = stage.server.ask("cycle", count=cycles, threads=threads)
        return Sample(cycles / found["seconds"])

    return sample


_HUNDRED = Setup(clients=100)
_FIFTY = Setup(clients=50, each=1, share=50)
_MANY = Setup(clients=100, each=10)
_VIEWERS = Setup(clients=10, each=1, share=10, prefix="process:bench-")
_CYCLE = [subscribe("cycle"), subscribe("cycle", "unsubscribe")]


def _rate(
    name: str,
    counts: str,
    sample: Callable[[Stage, Plan], Sample],
    setup: Setup,
    unit: str = "messages/s",
) -> Row:
    return Row(name, counts, unit, sample, setup=setup, higher=True)


ROWS = (
    Row(
        "encode",
        "microseconds for one 160-byte message to JSON and a frame; beside it, reading one",
        "us",
        _encode,
    ),
    Row(
        "encode-fast",
        "microseconds for one event of nested data to JSON, with the extra [fast]; beside it, "
        "without",
        "us",
        _encode_fast,
    ),
    _rate(
        "broadcast",
        "broadcasts a second from one thread, each read by 100 clients",
        _stream(_HUNDRED, 2000),
        _HUNDRED,
    ),
    _rate(
        "broadcast-parallel",
        f"broadcasts a second from {_THREADS} threads, each read by 100 clients",
        _stream(_HUNDRED, 2000, _THREADS),
        _HUNDRED,
    ),
    _rate(
        "channel",
        "messages a second to one channel from one thread, each read by its 50 subscribers",
        _stream(_FIFTY, 2000),
        _FIFTY,
    ),
    _rate(
        "channel-parallel",
        f"messages a second to one channel from {_THREADS} threads, each read by 50 subscribers",
        _stream(_FIFTY, 2000, _THREADS),
        _FIFTY,
    ),
    _rate(
        "many-channels",
        "messages a second, in turn to 1,000 channels of one subscriber, 100 clients in all",
        _stream(_MANY, 5),
        _MANY,
    ),
    _rate(
        "process-output",
        "send_process_output() lines a second of 80 characters, numbered and kept, "
        "each read by 10 viewers",
        _stream(_VIEWERS, 20_000),
        _VIEWERS,
        "lines/s",
    ),
    Row(
        "process-million",
        f"a program prints {_LINES:,} lines of 80 characters, each read by 10 viewers, the "
        "program slowed to the slowest of them: lines a second until the last viewer has all",
        "lines/s",
        _program,
        setup=_VIEWERS,
        higher=True,
        once=True,
    ),
    _rate(
        "subscribe",
        "subscribe and unsubscribe over the wire, both acked, one client: cycles a second",
        _round_trip(_CYCLE, 1, 1000),
        _HUNDRED,
        "cycles/s",
    ),
    _rate(
        "subscribe-concurrent",
        "the same, 100 clients at once on one channel: cycles a second of all together",
        _round_trip(_CYCLE, 100, 40),
        _HUNDRED,
        "cycles/s",
    ),
    _rate(
        "subscribe-call",
        "hub.subscribe() and hub.unsubscribe() from one thread: cycles a second",
        _cycle(1, 4000),
        _HUNDRED,
        "cycles/s",
    ),
    _rate(
        "subscribe-call-parallel",
        "the same from 8 threads on 10 channels that they share",
        _cycle(8, 4000),
        _HUNDRED,
        "cycles/s",
    ),
)
