"""Computes the wait before a reconnect, and formats and parses a server's requested wait.

Attempt, limits and randomness are arguments.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from .errors import excerpt

__all__ = ["MAX_ASKED", "calculate_backoff", "come_back", "full_jitter", "wait_asked"]

MAX_ASKED = 3600.0  # seconds that a server may ask for: more is probably a mistake
_ASKED = re.compile(r"come back after ([0-9]{1,9}) ms")


def calculate_backoff(
    attempt: int, initial: float = 1.0, maximum: float = 30.0, multiplier: float = 2.0
) -> float:
    """Return the backoff before a reconnect, in seconds, growing exponentially.

    It is `initial * multiplier ** (attempt - 1)`, at most `maximum`. Attempts count from 1;
    smaller ones count as 1.

    Args:
        attempt: the number of the attempt.
        initial: seconds before the first attempt.
        maximum: seconds at most.
        multiplier: factor from one attempt to the next.

    Threads: any; does not wait.
    """
    given: object = attempt
    if not isinstance(given, (int, float)):
        raise TypeError(f"attempt must be the number of a retry, from 1, not {excerpt(given)}")
    try:
        delay = initial * multiplier ** (max(attempt, 1) - 1)
    except OverflowError:
        return maximum
    return min(delay, maximum)


def full_jitter(delay: float, random: Callable[[], float]) -> float:
    """Return a random wait from 0 to `delay` seconds, uniformly distributed.

    `random` returns numbers in [0, 1). The jitter spreads the reconnects of a thousand clients
    that lost their server at the same moment (FAULTS 50).
    """
    return delay * random()


def come_back(seconds: float) -> str:
    """Return the reason of a Close frame that asks to reconnect after so many seconds.

    A sentence, because clients other than ws_hub's show it to people.
    """
    return f"server restarting; come back after {round(seconds * 1000)} ms"


def wait_asked(reason: str) -> float | None:
    """Return the seconds that a Close frame's reason asks to wait; None without a request."""
    found = _ASKED.search(reason)
    return None if found is None else min(int(found[1]) / 1000, MAX_ASKED)
