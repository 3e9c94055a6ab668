"""How many: connecting, and ten thousand that mostly wait."""

from __future__ import annotations

import resource
import statistics
import time

from ..servers import PEERS
from ..stage import ProcessFailed, Stage, Usage
from .base import Incomplete, Plan, Row, Sample, Setup, whole

__all__ = ["ROWS"]

_CONNECTS = 200
_CROWD = 10_000
_RESERVE = 500  # descriptors left for everything else
_IDLE_SECONDS = 31.0  # one heartbeat of each client falls into it
_BROADCASTS = 5
_PATIENCE = 5.0  # seconds for the end of some connections at once
_LEAVING = 120.0  # seconds for the end of the whole crowd's, threads and all
_RING = 160  # from so many on a broadcast takes descriptors that the hub keeps
_FIRST = 100  # clients that came and went before the crowd: the first bring imports and pools


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
    stage.connect(max(plan.clients(_FIRST), _RING))
    whole(stage.burst(timeout=30.0))
    stage.disconnect(timeout=_PATIENCE)
    before = stage.server.usage()
    seconds = stage.connect(count)["seconds"]
    full = stage.server.usage()
    stage.load.ask("idle", seconds=_IDLE_SECONDS * plan.work)
    later = stage.server.usage()
    bursts = [whole(stage.burst(timeout=30.0)).seconds for _ in range(_BROADCASTS)]
    idle = (later.cpu_seconds - full.cpu_seconds) / (later.now - full.now)
    end, note = leave(stage, before)
    return Sample(
        (full.rss_bytes - before.rss_bytes) / count / 1000,
        {
            "clients": count,
            "threads each": (full.threads - before.threads) / count,
            "connects/s": count / seconds,
            "idle % of a core": idle * 100,
            "one to all ms": statistics.median(bursts) * 1000,
            **end,
        },
        note if count == wanted else f"no room for {wanted:,} clients here; {note}".strip("; "),
    )


def leave(stage: Stage, before: Usage, *, within: float = _LEAVING) -> tuple[dict[str, float], str]:
    """Close all connections at once; return when all was gone, or else what is left over.

    The end of the whole crowd may take `within` seconds.
    """
    stage.load.ask("disconnect")
    began = time.monotonic()
    while _is_more(after := stage.server.usage(), before):
        if after.now > began + within:
            break
        time.sleep(0.05)
    left = {
        "threads left": after.threads - before.threads,
        "descriptors left": after.descriptors - before.descriptors,
        "MB left": (after.rss_bytes - before.rss_bytes) / 1e6,
    }
    if _is_more(after, before):
        return left, f"{within:g} s after all had left at once, not all was gone"
    stage.connected = 0
    stage.await_clients(0)
    return {"all gone s": after.now - began, **left}, ""


def _is_more(after: Usage, before: Usage) -> bool:
    """Say whether threads or descriptors are left over."""
    return after.threads > before.threads or after.descriptors > before.descriptors


def _room() -> int:
    """Return how many clients descriptors allow."""
    return max(resource.getrlimit(resource.RLIMIT_NOFILE)[1] - _RESERVE, 1)


ROWS = (
    Row(
        "connects",
        f"{_CONNECTS} connections, 64 handshakes at a time, until the server has registered "
        "the last: connections a second",
        "connects/s",
        _connects,
        ("ws_hub", "ws_hub, Werkzeug", *PEERS),
        higher=True,
    ),
    Row(
        "connects-gunicorn",
        "the same on gunicorn -k gthread --threads 4, one worker, beside an event loop of its own",
        "connects/s",
        _connects,
        ("ws_hub, gunicorn", "floor, gunicorn", "websockets asyncio"),
        Setup(alone=True),
        higher=True,
    ),
    Row(
        "crowd",
        f"{_CROWD:,} clients connected to one process, heartbeats on: resident kB a client",
        "kB",
        _crowd,
        ("ws_hub, heartbeats",),
        Setup(alone=True),  # a figure of memory and of one core: nobody beside it
        once=True,
        full=True,
    ),
)
