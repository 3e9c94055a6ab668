"""Clients that read, only not as fast as a hub can send, and whether they are kept."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from ..stage import Process, Stage
from .base import Plan, Row, Sample, Setup, subscribe

__all__ = ["ROWS"]

_BROADCASTS = 20_000
_SIZE = 16 * 1024
_READERS = 5
_LINK = 2_000_000  # bytes a second
_LINK_BUFFER = 64 * 1024  # bytes that a link and the kernel behind it hold
_SILENCE = 30.0  # seconds that a storm may take beyond what its readers need
_ANSWER = 120.0  # seconds for an answer of a server that publishes as fast as it can
_PACE = 5_000_000  # bytes a second that the slowest machine's readers read
_LINE = 420  # characters of a line; so many of them are above 4 MiB
_LINES = 10_000
_RATES = (5_000, 20_000, 100_000)  # bytes a second
_WATCHED = 30.0  # seconds: three times as long as a peer may take nothing at all
_LOOK = 0.05  # seconds between two looks at how many are connected
_LOG = "process:log"


def _storm(processes: int, rate: int | None, *, stuck: bool) -> Callable[[Stage, Plan], Sample]:
    """Return a sample of a loop of broadcasts to five readers in so many processes."""

    def sample(stage: Stage, plan: Plan) -> Sample:
        count = plan.times(_BROADCASTS)
        timeout = _SILENCE + count * _SIZE / (rate or _PACE)
        with _loads(processes) as loads:
            buffer = None if rate is None else _LINK_BUFFER
            for load in loads:
                stage.connect(_READERS // processes, load=load, buffer=buffer)
            if stuck:
                stage.connect(1, slow=0)
            stage.server.forget_peak()
            before = stage.server.usage().rss_bytes
            for load in loads:
                load.tell("collect", messages=count, timeout=timeout, rates=[rate])
                load.answer()
            stage.server.tell("publish", count=count, size=_SIZE)
            readers = [each for load in loads for each in load.answer(timeout + _ANSWER)["clients"]]
            published = stage.server.answer(timeout + _ANSWER)
            peak = stage.server.usage().peak_rss_bytes
        stage.disconnect()
        return Sample(
            max(each["seconds"] for each in readers),
            {
                "whole": sum(each["messages"] >= count for each in readers),
                "cut": sum(each["cut"] for each in readers),
                "fewest messages": min(each["messages"] for each in readers),
                "of": count,
                "publishing s": (published["ended"] - published["began"]) / 1e9,
                "MB grown": (peak - before) / 1e6,
            },
        )

    return sample


@contextlib.contextmanager
def _loads(count: int) -> Iterator[list[Process]]:
    loads: list[Process] = []
    try:
        for _ in range(count):
            loads.append(Process(None, "bench.load"))
        yield loads
    finally:
        for load in loads:
            load.close()


def _slow_replay(stage: Stage, plan: Plan) -> Sample:
    """Return how long the first of the readers to be cut stayed, or how long was watched."""
    stage.server.ask("publish", count=_LINES, size=_LINE, targets=[_LOG])
    watched = max(_WATCHED * plan.work, 0.5)
    with _loads(1) as (load,):
        stage.connect(len(_RATES), load=load)
        load.ask("ask", text=subscribe(_LOG))
        load.tell("collect", messages=2 * _LINES, timeout=watched, rates=_RATES)
        load.answer()
        began, first = time.monotonic(), 0.0
        # Asked of the hub: what a client that is cut has in its kernel it reads for a while.
        while not load.answered(_LOOK):
            if not first and stage.server.ask("stats")["clients"] < len(_RATES):
                first = time.monotonic() - began
        readers = load.answer(_ANSWER)["clients"]
        cut = len(_RATES) - stage.server.ask("stats")["clients"]
    stage.disconnect()
    read = {
        f"kB read at {rate / 1000:g} kB/s": each["bytes"] / 1000
        for rate, each in zip(_RATES, readers, strict=True)
    }
    return Sample(first or watched, {"cut": cut, **read})


def _storm_row(name: str, who: str, sample: Callable[[Stage, Plan], Sample]) -> Row:
    return Row(
        name,
        f"{_BROADCASTS:,} broadcasts of 16 kB in a loop to {who}: seconds until the last of the "
        f"{_READERS} has all, or has been cut; beside it how many got everything",
        "s",
        sample,
        ("ws_hub, heartbeats",),
        Setup(alone=True, prefix=f"{name}-"),  # by which it has a server of its own
        once=True,
        full=True,
    )


_ONE, _FIVE = f"{_READERS} readers in one process", f"{_READERS} readers in five processes"
_STUCK, _SLOWER = "beside a client that never reads", "over links of 2 MB/s"
ROWS = (
    _storm_row("storm", _ONE, _storm(1, None, stuck=False)),
    _storm_row("storm-five", _FIVE, _storm(5, None, stuck=False)),
    _storm_row("storm-stuck", f"{_ONE}, {_STUCK}", _storm(1, None, stuck=True)),
    _storm_row("storm-five-stuck", f"{_FIVE}, {_STUCK}", _storm(5, None, stuck=True)),
    _storm_row("storm-links", f"{_ONE}, {_SLOWER}, {_STUCK}", _storm(1, _LINK, stuck=True)),
    _storm_row("storm-five-links", f"{_FIVE}, {_SLOWER}, {_STUCK}", _storm(5, _LINK, stuck=True)),
    Row(
        "slow-replay",
        f"three clients read a replay of 4 MiB at 5, 20 and 100 kB/s: seconds that the first to "
        f"be cut stayed, of {_WATCHED:g}",
        "s",
        _slow_replay,
        ("ws_hub, heartbeats",),
        Setup(alone=True, prefix="slow-replay-"),
        higher=True,
        once=True,
        full=True,
    ),
)
