"""Decides whether a program that has ended is started again, and how long that is waited for.

Time and randomness are arguments.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Literal, get_args

from ..backoff import calculate_backoff, full_jitter

__all__ = ["POLICIES", "Policy", "Restarts"]

Policy = Literal["no", "on-failure", "always"]
POLICIES: tuple[Policy, ...] = get_args(Policy)

_FIRST = 0.5  # seconds before the first restart, at most
_MOST = 30.0  # seconds before any restart, at most
_LONG = 10.0  # seconds after which a program counts as having run well


class Restarts:
    """The restarts of one program: when the next one is due.

    The wait doubles with each restart, up to 30 s, and half of it is random, so that programs
    which fail of the same cause do not start at the same moment. A program that has run for ten
    seconds begins anew.

    Args:
        policy: `no`, `on-failure` or `always`.
        random: returns numbers in [0, 1).

    Attributes:
        count: restarts since the program last ran well.
    """

    def __init__(self, policy: Policy, random: Callable[[], float] = random.random) -> None:
        self._policy = policy
        self._random = random
        self.count = 0

    def after(self, *, failed: bool, ran: float) -> float | None:
        """Return the seconds until the program is started again; None for never.

        Args:
            failed: whether it has ended otherwise than with exit code 0.
            ran: seconds for which it has run.
        """
        if self._policy == "no" or (self._policy == "on-failure" and not failed):
            return None
        self.count = 1 if ran >= _LONG else self.count + 1
        half = calculate_backoff(self.count, _FIRST, _MOST) / 2
        return half + full_jitter(half, self._random)
