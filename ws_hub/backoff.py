"""How long to wait before the next attempt.

Must not know clocks or sockets: attempt, bounds and randomness are arguments.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["calculate_backoff", "full_jitter"]


def calculate_backoff(
    attempt: int, initial: float = 1.0, maximum: float = 30.0, multiplier: float = 2.0
) -> float:
    """Return `initial * multiplier ** (attempt - 1)` seconds, at most `maximum`.

    Attempts count from 1; smaller ones count as 1.
    """
    try:
        delay = initial * multiplier ** (max(attempt, 1) - 1)
    except OverflowError:
        return maximum
    return min(delay, maximum)


def full_jitter(delay: float, random: Callable[[], float]) -> float:
    """Return a wait drawn evenly from 0 to `delay` seconds.

    `random` yields numbers in [0, 1). Of a thousand clients that lost their server
    at one moment no two come back together (FAULTS 50).
    """
    return delay * random()
