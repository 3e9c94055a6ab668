"""What it costs to keep history: in memory, and in a file."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator

from ..stage import Process, Stage
from .base import Incomplete, Plan, Row, Sample, Setup, percentile, subscribe, whole

__all__ = ["ROWS"]

_LINES = 1_000_000
_WIDTH = 80
_VIEWERS = 10
_STREAM = 20_000
_TURNS = 4
_MESSAGES = 200  # to the others, while no program runs
_GAP = 0.002  # seconds between two messages: the load answers, and is asked again
_TIMEOUT = 120.0
_SERVERS = "ws_hub, memory", "ws_hub, file"
_OTHERS = Setup(clients=20, each=2, share=20, prefix="beside-")
_KEPT, _PLAIN = "beside-0", "beside-1"

_numbers = itertools.count()


def _program(stage: Stage, plan: Plan) -> Sample:
    """Measure a program's lines a second, and messages to others before and meanwhile."""
    count, process = plan.times(_LINES), f"history-{next(_numbers)}"
    # What it is late to read, because the viewers have its core, is not the server's doing.
    stage.load.prefer(on=True)
    try:
        alone = _milliseconds(stage, iter(range(plan.times(_MESSAGES))))
        with _viewers(stage, plan, process) as viewers:
            before = stage.server.usage().cpu_seconds
            viewers.tell("collect", messages=count, timeout=_TIMEOUT)
            viewers.answer()
            stage.server.ask("begin_lines", count=count, width=_WIDTH, process=process)
            beside = _milliseconds(stage, itertools.takewhile(
                lambda _: not viewers.has_answered(), itertools.count()
            ))  # fmt: skip
            readings = viewers.answer(_TIMEOUT)["clients"]
            stage.server.ask("end_lines", _TIMEOUT)
            cpu = stage.server.usage().cpu_seconds - before
    finally:
        stage.load.prefer(on=False)
    if any(each["messages"] < count for each in readings):
        raise Incomplete("not every viewer got all lines")
    found = {
        f"{name} p{share * 100:.0f} ms{when}": percentile(times[channel], share)
        for name, channel in (("kept", _KEPT), ("plain", _PLAIN))
        for share in (0.5, 0.99)
        for when, times in (("", beside), (" alone", alone))
    }
    found["cpu us a line"] = cpu / count * 1e6
    return Sample(count / max(each["seconds"] for each in readings), found)


@contextlib.contextmanager
def _viewers(stage: Stage, plan: Plan, process: str) -> Iterator[Process]:
    """Connect viewers of a program, from a process of their own."""
    viewers, before = Process(stage.load_core, "bench.load"), stage.connected
    try:
        hello = [[subscribe(f"process:{process}")]]
        stage.connect(plan.clients(_VIEWERS), hello=hello, load=viewers)
        yield viewers
    finally:
        viewers.close()
        stage.connected = before
        stage.await_clients(before)


def _milliseconds(stage: Stage, turns: Iterator[int]) -> dict[str, list[float]]:
    """Publish to the others, once to each channel a turn; return how long each took."""
    found: dict[str, list[float]] = {_KEPT: [], _PLAIN: []}
    for _ in itertools.chain([0], turns):
        for channel, times in found.items():
            times.append(whole(stage.burst(targets=[channel], timeout=_TIMEOUT)).seconds * 1000)
            time.sleep(_GAP)
    return found


def _channel(stage: Stage, plan: Plan) -> Sample:
    """Measure a channel with history, and beside it one without, in turns."""
    count = plan.times(_STREAM)
    seconds, cpu = dict.fromkeys((_PLAIN, _KEPT), 0.0), dict.fromkeys((_PLAIN, _KEPT), 0.0)
    for channel in (_PLAIN, _KEPT) * _TURNS:
        before = stage.server.usage().cpu_seconds
        seconds[channel] += whole(stage.burst(count // _TURNS, targets=[channel])).seconds
        cpu[channel] += stage.server.usage().cpu_seconds - before
    return Sample(
        count / seconds[_KEPT],
        {
            "without history": count / seconds[_PLAIN],
            "cpu us": cpu[_KEPT] / count * 1e6,
            "cpu us without": cpu[_PLAIN] / count * 1e6,
        },
    )


ROWS = (
    Row(
        "history-program",
        f"a program prints {_LINES:,} lines of {_WIDTH} characters, each kept, and read by "
        f"{_VIEWERS} viewers: lines a second until the last viewer has all; beside it milliseconds "
        "of messages to 20 other clients meanwhile, and alone, in a channel that is kept (from the "
        "call over the commit until it is read) and in one that is not",
        "lines/s",
        _program,
        _SERVERS,
        _OTHERS,
        higher=True,
    ),
    Row(
        "history-channel",
        "messages a second to one channel with history from one thread, each read by its 20 "
        "subscribers; beside it the same to a channel without, and the processor time of both",
        "messages/s",
        _channel,
        _SERVERS,
        _OTHERS,
        higher=True,
    ),
)
