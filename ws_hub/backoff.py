"""How long to wait before the next attempt, and how a server asks for a wait.

Must not know clocks or sockets: attempt, bounds and randomness are arguments.
"""

from __future__ import annotations

import re
from collections.abc import Callable

__all__ = ["MAX_ASKED", "calculate_backoff", "come_back", "full_jitter", "wait_asked"]

MAX_ASKED = 3600.0  # seconds that a server may ask for: more looks like a mistake
_ASKED = re.compile(r"come back after ([0-9]{1,9}) ms")


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


def come_back(seconds: float) -> str:
    """Return the reason of a Close frame that asks to come back after so many seconds.

    A sentence, because others than our clients show it to people.
    """
    return f"server restarting; come back after {round(seconds * 1000)} ms"


def wait_asked(reason: str) -> float | None:
    """Return the seconds that a Close frame's reason asks to wait; None when it does not."""
    found = _ASKED.search(reason)
    return None if found is None else min(int(found[1]) / 1000, MAX_ASKED)
