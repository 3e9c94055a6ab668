"""Token buckets: limits of a rate with a burst. Time is an argument."""

from __future__ import annotations

import math

__all__ = ["Bucket"]


class Bucket:
    """A bucket that refills at a rate, up to a burst.

    Args:
        rate: tokens that are refilled in a second; None for no limit.
        burst: tokens in a full bucket, which it is at first.
        max_debt: seconds that a debt takes to be refilled at most; tokens taken beyond that
            are not owed.
    """

    __slots__ = ("_burst", "_level", "_max_debt", "_rate", "_overdrawn_since", "_updated")

    def __init__(self, rate: float | None, burst: float, max_debt: float = math.inf) -> None:
        self._rate = math.inf if rate is None else rate
        self._burst = float(burst)
        self._max_debt = max_debt
        self._level = self._burst
        # time of the last change; before the first one the bucket is full in any case
        self._updated = 0.0
        self._overdrawn_since: float | None = None  # when it was overdrawn; None from half full on

    def take(self, amount: float, now: float) -> float:
        """Take tokens, even more than there are; return the seconds until the debt is refilled.

        0.0 when there were enough.
        """
        if self._rate == math.inf:
            return 0.0
        level = self._level + (now - self._updated) * self._rate
        if level > self._burst:
            level = self._burst
        level -= amount
        level = max(level, -self._rate * self._max_debt)
        self._level, self._updated = level, now
        if level < 0:
            if self._overdrawn_since is None:
                self._overdrawn_since = now
            return -level / self._rate
        if self._overdrawn_since is not None and level * 2 >= self._burst:
            self._overdrawn_since = None
        return 0.0

    def set_rate(self, rate: float) -> None:
        """Change the rate from the last change of the level on."""
        self._rate = rate

    def take_available(self, amount: float, now: float) -> float:
        """Take the tokens that are available; return how many of `amount` were missing."""
        if self._rate == math.inf:
            return 0.0
        there = max(self._level_at(now), 0.0)
        if amount <= there:
            self.take(amount, now)
            return 0.0
        self.take(there, now)
        return amount - there

    def wait(self, amount: float, now: float) -> float:
        """Return what `take` would return, and take nothing."""
        if self._rate == math.inf:
            return 0.0
        return max(amount - self._level_at(now), 0.0) / self._rate

    def full(self, now: float) -> bool:
        """Return whether the bucket is full, as a new one is."""
        return self._rate == math.inf or self._level_at(now) >= self._burst

    def overdrawn_for(self, now: float) -> float:
        """Return for how many seconds it has been overdrawn; it counts until it is half full."""
        return 0.0 if self._overdrawn_since is None else now - self._overdrawn_since

    def _level_at(self, now: float) -> float:
        return min(self._level + (now - self._updated) * self._rate, self._burst)
