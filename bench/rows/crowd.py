"""How many: connecting, and ten thousand that mostly wait.

Must not know how a server keeps its connections.
"""

from __future__ import annotations

import resource
import statistics
from pathlib import Path

from ..servers import PEERS
from ..stage import ProcessFailed, Stage
from .base import Incomplete, Plan, Row, Sample, whole

__all__ = ["ROWS"]

_CONNECTS = 200
_CROWD = 10_000
_RESERVE = 500  # descriptors and threads left for everything else
_IDLE_SECONDS = 31.0  # one heartbeat of each client falls into it
_BROADCASTS = 5
_PATIENCE = 5.0  # seconds for the end of all connections at once


def _connects(stage: Stage, plan: Plan) -> Sample:
    count = plan.clients(_CONNECTS)
    seconds = stage.connect(count)["seconds"]
    try:
        stage.disconnect(timeout=_PATIENCE)
    except ProcessFailed:
        raise Incomplete(
            f"{_PATIENCE:g} s after all clients had left, some still counted as connected"
        ) from None
    return Sample(count / seconds)


def _crowd(stage: Stage, plan: Plan) -> Sample:
    wanted = plan.clients(_CROWD)
    count = min(wanted, _room())
    before = stage.server.ask("usage")
    seconds = stage.connect(count)["seconds"]
    full = stage.server.ask("usage")
    stage.load.ask("idle", seconds=_IDLE_SECONDS * plan.work)
    later = stage.server.ask("usage")
    bursts = [whole(stage.burst(timeout=30.0)).seconds for _ in range(_BROADCASTS)]
    note = "" if count == wanted else f"no room for {wanted:,} clients here"
    end: dict[str, float] = {}
    try:
        end["all gone s"] = stage.disconnect(timeout=_PATIENCE)
        after = stage.server.ask("usage")
        end["descriptors left"] = after["descriptors"] - before["descriptors"]
    except ProcessFailed:
        note += f"; all left at once, and {_PATIENCE:g} s later were not all gone"
    idle = (later["cpu_seconds"] - full["cpu_seconds"]) / (later["now"] - full["now"])
    return Sample(
        (full["rss_bytes"] - before["rss_bytes"]) / count / 1000,
        {
            "clients": count,
            "threads each": (full["threads"] - before["threads"]) / count,
            "connects/s": count / seconds,
            "idle % of a core": idle * 100,
            "one to all ms": statistics.median(bursts) * 1000,
            **end,
        },
        note.strip("; "),
    )


def _room() -> int:
    """Return how many clients descriptors and thread numbers allow, two threads each."""
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    try:
        numbers = int(Path("/proc/sys/kernel/pid_max").read_text(encoding="ascii"))
    except OSError:
        numbers = 2 * descriptors
    return max(min(descriptors, numbers // 2) - _RESERVE, 1)


ROWS = (
    Row(
        "connects",
        f"{_CONNECTS} connections, 64 handshakes at a time, until the server has registered "
        "the last: connections a second",
        "connects/s",
        _connects,
        ("ws_hub", *PEERS),
        higher=True,
    ),
    Row(
        "crowd",
        f"{_CROWD:,} clients connected to one process, heartbeats on: resident kB a client",
        "kB",
        _crowd,
        ("ws_hub, heartbeats",),
        once=True,
    ),
)
