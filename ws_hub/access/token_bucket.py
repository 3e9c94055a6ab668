"""Token buckets: how much of something may be used in a time.

Must not know clocks, sockets, or what is counted: time is an argument.
"""

from __future__ import annotations

import math

__all__ = ["Bucket"]


class Bucket:
    """Tokens that come back with time: so many a second, and a store for a burst.

    Args:
        rate: tokens that come back in a second; None for as many as are taken.
        burst: how many there are at most, and at first.
        most_debt: seconds that a debt takes to be paid at most; what is taken beyond it is
            not owed.
    """

    __slots__ = ("_burst", "_level", "_most_debt", "_rate", "_since", "_then")

    def __init__(self, rate: float | None, burst: float, most_debt: float = math.inf) -> None:
        self._rate = math.inf if rate is None else rate
        self._burst = float(burst)
        self._most_debt = most_debt
        self._level = self._burst
        self._then = 0.0  # of the last look; at the first one the store is full anyhow
        self._since: float | None = None  # when it was overdrawn, until half is back

    def take(self, amount: float, now: float) -> float:
        """Take tokens, more than there are as well; return the seconds until they are back.

        That is 0.0 for as many as there were.
        """
        if self._rate == math.inf:
            return 0.0
        level = self._level + (now - self._then) * self._rate
        if level > self._burst:
            level = self._burst
        level -= amount
        level = max(level, -self._rate * self._most_debt)
        self._level, self._then = level, now
        if level < 0:
            if self._since is None:
                self._since = now
            return -level / self._rate
        if self._since is not None and level * 2 >= self._burst:
            self._since = None
        return 0.0

    def repace(self, rate: float) -> None:
        """Have tokens come back at another rate from the last look on."""
        self._rate = rate

    def cover(self, amount: float, now: float) -> float:
        """Take tokens as far as there are any; return how many of the amount were not there."""
        if self._rate == math.inf:
            return 0.0
        there = max(self._level_at(now), 0.0)
        if amount <= there:
            self.take(amount, now)
            return 0.0
        self.take(there, now)
        return amount - there

    def wait(self, amount: float, now: float) -> float:
        """Return what `take` would, and take nothing."""
        if self._rate == math.inf:
            return 0.0
        return max(amount - self._level_at(now), 0.0) / self._rate

    def full(self, now: float) -> bool:
        """Say whether it is as new: nothing of it is in use."""
        return self._rate == math.inf or self._level_at(now) >= self._burst

    def overdrawn(self, now: float) -> float:
        """Return for how many seconds it has been overdrawn, until half of it is back."""
        return 0.0 if self._since is None else now - self._since

    def _level_at(self, now: float) -> float:
        return min(self._level + (now - self._then) * self._rate, self._burst)
