"""What filters of subscriptions cost: a message is looked at once for all that are equal."""

from __future__ import annotations

from collections.abc import Mapping

from ..servers.base import LEVELS
from ..stage import Stage
from .base import Plan, Row, Sample, Setup, subscribe, whole

__all__ = ["ROWS"]

_CLIENTS = 100
_MESSAGES = 20_000
_TURNS = 4
_EVERY, _ONE = sorted({*LEVELS}), [LEVELS[-1]]  # levels that pass: of each message, of one in ten
# Of each channel the levels that pass, and whether each client has a filter that is its own.
_CHANNELS: Mapping[str, tuple[list[str], bool]] = {
    "levels:none": ([], False),
    "levels:every": (_EVERY, False),
    "levels:one": (_ONE, False),
    "levels:own": (_ONE, True),
}


def _hello(client: int) -> list[str]:
    requests: list[str] = []
    for channel, (levels, own) in _CHANNELS.items():
        filter = {"filter": {"level": [*levels, *[f"of-{client}"] * own]}} if levels else {}
        requests.append(subscribe(channel, **filter))
    return requests


def _filtered(stage: Stage, plan: Plan) -> Sample:
    """Publish to each channel in turns; return messages a second and the processor time."""
    count = plan.times(_MESSAGES) // _TURNS // len(LEVELS) * len(LEVELS) or len(LEVELS)
    clients = plan.clients(_CLIENTS)
    stage.connect(clients, hello=[_hello(client) for client in range(clients)])
    seconds, cpu = dict.fromkeys(_CHANNELS, 0.0), dict.fromkeys(_CHANNELS, 0.0)
    for channel in [*_CHANNELS] * _TURNS:
        one_in_ten = _CHANNELS[channel][0] == _ONE
        each = count // len(LEVELS) if one_in_ten else count
        before = stage.server.usage().cpu_seconds
        seconds[channel] += whole(stage.burst(count, targets=[channel], each=each)).seconds
        cpu[channel] += stage.server.usage().cpu_seconds - before
    stage.disconnect()
    published = count * _TURNS
    rates = {channel: published / seconds[channel] for channel in _CHANNELS}
    microseconds = {channel: cpu[channel] / published * 1e6 for channel in _CHANNELS}
    return Sample(
        rates["levels:one"],
        {
            "own filters": rates["levels:own"],
            "every message passes": rates["levels:every"],
            "no filters": rates["levels:none"],
            "cpu us": microseconds["levels:one"],
            "cpu us own": microseconds["levels:own"],
            "cpu us every": microseconds["levels:every"],
            "cpu us none": microseconds["levels:none"],
        },
    )


ROWS = (
    Row(
        "filters",
        f"messages a second, published to a channel whose {_CLIENTS} subscribers have equal "
        f"filters that one in {len(LEVELS)} passes; beside it with filters that are each another, "
        "with equal ones that every message passes, and without; and the processor time of each",
        "messages/s",
        _filtered,
        ("ws_hub",),
        Setup(prefix="filters-"),
        higher=True,
    ),
)
