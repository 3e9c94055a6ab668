"""What viewers that come late to a long log cost all the others."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Sequence

from ..stage import Process, Stage
from .base import Incomplete, Plan, Row, Sample, Setup, percentile

__all__ = ["ROWS"]

_VIEWERS = 1000
_LINES = 7500
_SIZE = 400  # bytes of a line, of 550 in all: together 4 MB, and all of it is kept
_MESSAGES = 300  # without the viewers
_GAP = 0.002  # seconds between two messages: the load answers, and is asked again
_PATIENCE = 120.0  # seconds until the last viewer has everything
_STEP = 500  # lines to publish in one request

_OTHERS = Setup(clients=20, each=1, share=20)

_numbers = itertools.count()


def _late(stage: Stage, plan: Plan) -> Sample:
    """Measure messages to the others, first alone, then while the log is replayed."""
    viewers = plan.clients(plan.times(_VIEWERS))
    process = f"late-{next(_numbers)}"
    for _ in range(_LINES // _STEP):
        # One after the other: it is the hub's queue that slows a publisher otherwise.
        stage.server.ask("publish", count=_STEP, size=_SIZE, targets=[f"process:{process}"])
    targets = _OTHERS.channels(plan)
    # It shares its core with the viewers: what it is late to read is not the server's doing.
    stage.load.prefer(on=True)
    without = _milliseconds(stage, targets, iter(range(plan.times(_MESSAGES))).__next__)
    late = Process(stage.load_core, "bench.late")
    try:
        late.ask("connect", port=stage.port, path=stage.path, count=viewers)
        stage.connected += viewers
        stage.await_clients(stage.connected)
        before = stage.server.usage().rss_bytes
        most = before
        late.tell("watch", channel=f"process:{process}", messages=_LINES, timeout=_PATIENCE)

        def more() -> None:
            nonlocal most
            most = max(most, stage.server.usage().rss_bytes)
            if late.has_answered():
                raise StopIteration

        beside = _milliseconds(stage, targets, more)
        answer = late.answer()
        late.ask("leave")
    finally:
        stage.load.prefer(on=False)
        late.close()
        stage.connected -= viewers
        stage.await_clients(stage.connected)
    if answer["complete"] < viewers:
        raise Incomplete(f"{viewers - answer['complete']} of {viewers} did not get the log whole")
    return Sample(
        percentile(beside, 0.99),
        {
            "delay": percentile(beside, 0.99) - percentile(without, 0.99),
            "without": percentile(without, 0.99),
            "p50": percentile(beside, 0.5),
            "p50 without": percentile(without, 0.5),
            "messages": len(beside),
            "MB grown": (most - before) / 1e6,
            "seconds": answer["seconds"],
        },
    )


def _milliseconds(stage: Stage, targets: Sequence[str], more: Callable[[], object]) -> list[float]:
    """Publish to the others until `more` raises StopIteration; return how long each took."""
    found: list[float] = []
    with contextlib.suppress(StopIteration):
        while True:
            more()
            burst = stage.burst(targets=targets, timeout=_PATIENCE)
            if burst.complete < burst.clients:
                raise Incomplete(f"a message took more than {_PATIENCE:g} s")
            found.append(burst.seconds * 1000)
            time.sleep(_GAP)
    return found


ROWS = (
    Row(
        "late-viewers",
        f"while {_VIEWERS:,} viewers, readers in a process of their own, get a log of 4 MB that "
        f"they came late to: milliseconds of a broadcast to 20 other clients, p99; without the "
        "viewers, and the delay that they are, beside it",
        "ms",
        _late,
        setup=_OTHERS,
        once=True,
    ),
)
