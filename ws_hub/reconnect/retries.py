"""Decides whether a failed attempt or a lost connection is retried, and after how long.

Failures in a row make the backoff grow. A connection that lasted `stable_after` seconds
ends the row; one that was merely opened does not: otherwise a server that accepts and
drops connections would be tried once a second for ever.
"""

from __future__ import annotations

from collections.abc import Callable

from ..backoff import calculate_backoff, full_jitter, wait_asked
from ..errors import CloseCode, ConfigError, ConnectionClosed, HandshakeRefused, is_retryable
from .config import ReconnectConfig

__all__ = ["Retries"]

# Close codes that a server usually sends to all of its clients at once.
_SENT_TO_ALL = frozenset({CloseCode.GOING_AWAY, CloseCode.RESTART, CloseCode.TRY_AGAIN})
_SPREAD = 5.0  # seconds over which those clients reconnect, if max_backoff allows it


class Retries:
    """Counts the failures of one client and computes its waits.

    Args:
        config: the bounds.
        random: returns numbers in [0, 1).
    """

    def __init__(self, config: ReconnectConfig, random: Callable[[], float]) -> None:
        self._config = config
        self._random = random
        self.failures = 0  # in a row; also the number of the next retry

    def backoff(self, attempt: int) -> float:
        """Return the seconds before retry number `attempt`, from 1, without jitter."""
        config = self._config
        return calculate_backoff(
            attempt, config.initial_backoff, config.max_backoff, config.backoff_multiplier
        )

    def failed(self, failure: Exception, held: float | None = None) -> bool:
        """Count a failure; return whether a retry follows.

        `held` is how many seconds the connection lasted, None when there was none.
        """
        if held is not None and held >= self._config.stable_after:
            self.failures = 0
        self.failures += 1
        most = self._config.max_retries
        return not self.is_final(failure) and (most == 0 or self.failures <= most)

    @staticmethod
    def is_final(failure: Exception) -> bool:
        """Return whether every retry would meet the same failure again."""
        return isinstance(failure, ConfigError) or not is_retryable(_code_of(failure))

    def wait(self, failure: Exception) -> float:
        """Return the seconds to wait now: jittered, and no less than the server asked for.

        A server that asks one client to wait has perhaps asked many: up to as long again
        is added at random, so that they do not all return at the same moment.
        """
        seconds, jitter = self.backoff(self.failures), self._config.jitter
        asked = _asked(failure)
        if _code_of(failure) in _SENT_TO_ALL:
            jitter = True
            if asked is None:
                seconds = min(max(seconds, _SPREAD), self._config.max_backoff)
        if asked is None:
            return full_jitter(seconds, self._random) if jitter else seconds
        seconds = max(seconds, asked)
        return asked + full_jitter(seconds, self._random) if jitter else seconds


def _asked(failure: Exception) -> float | None:
    """Return the seconds that the server asked to wait, if it did."""
    if isinstance(failure, HandshakeRefused):
        return failure.retry_after
    if isinstance(failure, ConnectionClosed) and failure.code in _SENT_TO_ALL:
        return wait_asked(failure.reason)
    return None


def _code_of(failure: Exception) -> int:
    """Return the close code or HTTP status of a failure; 0, which is retried, for others."""
    if isinstance(failure, HandshakeRefused):
        return failure.status
    return failure.code if isinstance(failure, ConnectionClosed) else 0
