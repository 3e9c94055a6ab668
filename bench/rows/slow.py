"""What one client that does not read costs all the others."""

from __future__ import annotations

from ..servers import PEERS
from ..stage import Stage
from .base import Incomplete, Plan, Row, Sample, Setup, percentile

__all__ = ["ROWS"]

# Together more than the buffers of a slow client's connection hold, in every plan: about
# 7.5 MB, of which the kernel takes 2.5 to 4.
_SIZE = 64 * 1024
_BROADCASTS = 120
_GIVE_UP = 2.0  # seconds without a whole broadcast: a server that waits for a slow client
_RATES = (0, 1000)  # bytes a second that the slow clients read


def _p99(stage: Stage) -> float:
    """Return the 99th percentile, in ms, of the time until the last healthy client has it."""
    found: list[float] = []
    for _ in range(_BROADCASTS):
        burst = stage.burst(size=_SIZE, timeout=_GIVE_UP)
        if burst.complete < burst.clients:
            raise Incomplete(
                f"after {len(found)} broadcasts {burst.clients - burst.complete} of "
                f"{burst.clients} healthy clients got nothing for {_GIVE_UP:g} s"
            )
        found.append(burst.seconds * 1000)
    return percentile(found, 0.99)


def _beside_slow_ones(stage: Stage, plan: Plan) -> Sample:
    without = _p99(stage)
    for rate in _RATES:
        stage.connect(1, slow=rate)
    before = stage.server.usage().rss_bytes
    slowed = _p99(stage)
    grown = stage.server.usage().rss_bytes - before
    stage.disconnect(slow=len(_RATES))
    return Sample(slowed, {"without": without, "ratio": slowed / without, "MB grown": grown / 1e6})


ROWS = (
    Row(
        "slow-clients",
        "beside 100 clients one never reads and one reads 1 kB/s: p99 milliseconds until the "
        "last of the 100 has read a broadcast of 64 KiB; beside it the same without the two",
        "ms",
        _beside_slow_ones,
        ("ws_hub", *PEERS),
        Setup(clients=100),
    ),
)
