"""How much a peer may send in a time.

Must not know clocks, sockets, or what is counted: time is an argument.
"""

from __future__ import annotations

import math

__all__ = ["Allowance", "Bucket"]


class Bucket:
    """Tokens that come back with time: so many a second, and a store for a burst.

    Args:
        rate: tokens that come back in a second; None for as many as are taken.
        burst: how many there are at most, and at first.
    """

    __slots__ = ("_burst", "_level", "_rate", "_since", "_then")

    def __init__(self, rate: float | None, burst: int) -> None:
        self._rate = math.inf if rate is None else rate
        self._burst = float(burst)
        self._level = self._burst
        self._then = 0.0  # of the last look; at the first one the store is full anyhow
        self._since: float | None = None  # when it was overdrawn, until half is back

    def take(self, amount: int, now: float) -> float:
        """Take tokens, more than there are as well; return the seconds until they are back.

        That is 0.0 for as many as there were.
        """
        if self._rate == math.inf:
            return 0.0
        level = self._level + (now - self._then) * self._rate
        if level > self._burst:
            level = self._burst
        level -= amount
        self._level, self._then = level, now
        if level < 0:
            if self._since is None:
                self._since = now
            return -level / self._rate
        if self._since is not None and level * 2 >= self._burst:
            self._since = None
        return 0.0

    def overdrawn(self, now: float) -> float:
        """Return for how many seconds it has been overdrawn, until half of it is back."""
        return 0.0 if self._since is None else now - self._since


class Allowance:
    """What one peer may send: messages, and control frames.

    Args:
        messages: of the messages.
        controls: of the pings and pongs.
        patience: seconds for which messages may come faster than they may; None for ever.
    """

    __slots__ = ("_controls", "_messages", "_patience")

    def __init__(self, messages: Bucket, controls: Bucket, patience: float | None) -> None:
        self._messages = messages
        self._controls = controls
        self._patience = math.inf if patience is None else patience

    def allows(self, controls: int, now: float) -> bool:
        """Say whether so many control frames are no more than may come."""
        return self._controls.take(controls, now) == 0.0

    def rest(self, messages: int, now: float) -> float | None:
        """Return for how many seconds to read nothing after so many messages.

        None when messages have come too fast for too long.
        """
        rest = self._messages.take(messages, now)
        if rest and self._messages.overdrawn(now) > self._patience:
            return None
        return rest
