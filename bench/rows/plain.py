"""What sockets cost the ordinary requests of the same WSGI server.

The rows share one server: the first finds no socket connected, the second connects them,
the third finds them connected.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

from ..stage import ProcessFailed, Stage
from .base import Incomplete, Plan, Row, Sample, Setup, percentile

__all__ = ["ROWS"]

_SOCKETS = 2000
_SECONDS = 1.0  # of requests, in each sample
_EVERY = 0.1  # seconds between two broadcasts
NO_ANSWER = 5.0  # seconds without an answer to a plain request: there will be none


def _alone(stage: Stage, plan: Plan) -> Sample:
    found = stage.request(_SECONDS * plan.work, timeout=NO_ANSWER)["ns"]
    p50, p99 = statistics.median(found), percentile(found, 0.99)
    return Sample(p99 / 1e6, {"p50": p50 / 1e6, "requests/s": len(found) / sum(found) * 1e9})


def _beside_sockets(stage: Stage, plan: Plan) -> Sample:
    _seat(stage, plan.clients(_SOCKETS))
    return _alone(stage, plan)


def _beside_broadcasts(stage: Stage, plan: Plan) -> Sample:
    _seat(stage, plan.clients(_SOCKETS))
    stage.server.ask("repeat", every=_EVERY)
    try:
        return _alone(stage, plan)
    finally:
        stage.server.ask("repeat", every=None)


def _seat(stage: Stage, count: int) -> None:
    """Connect 1, 2, 4 ... clients in all, as long as a plain request is answered."""
    while stage.connected < count:
        stage.connect(min(max(stage.connected, 1), count - stage.connected))
        try:
            stage.request(0, timeout=NO_ANSWER)
        except ProcessFailed:
            raise Incomplete(
                f"with {stage.connected} sockets connected a plain request got no answer "
                f"for {NO_ANSWER:g} s"
            ) from None


def _row(name: str, counts: str, sample: Callable[[Stage, Plan], Sample]) -> Row:
    servers = ("ws_hub, gunicorn", "flask-sock, gunicorn")
    return Row(name, counts, "ms", sample, servers, Setup(alone=True))


ROWS = (
    _row(
        "plain",
        "p99 milliseconds of a plain HTTP request to gunicorn -k gthread --threads 4, one worker, "
        "each on a connection of its own, one after the other; no socket is connected",
        _alone,
    ),
    _row(
        f"plain-{_SOCKETS}",
        f"the same while {_SOCKETS:,} sockets are connected to the worker",
        _beside_sockets,
    ),
    _row(
        f"plain-{_SOCKETS}-live",
        f"the same while {1 / _EVERY:g} broadcasts a second go to all of them",
        _beside_broadcasts,
    ),
)
