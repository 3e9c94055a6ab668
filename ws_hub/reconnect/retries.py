"""Whether to try again, and when: the arithmetic of a client that comes back.

Must not know clocks, sockets or threads. What it counts are failures in a row; a
connection that held for `stable_after` seconds ends the row, one that was merely opened
does not, or a server that accepts and drops would be met once a second for ever.
"""

from __future__ import annotations

from collections.abc import Callable

from ..backoff import calculate_backoff, full_jitter, wait_asked
from ..errors import CloseCode, ConfigError, ConnectionClosed, HandshakeRefused, is_retryable
from .config import ReconnectConfig

__all__ = ["Retries"]

# What a server says to many at once.
_SAID_TO_ALL = frozenset({CloseCode.GOING_AWAY, CloseCode.RESTART, CloseCode.TRY_AGAIN})
_SPREAD = 5.0  # seconds over which they come back, where the bounds allow


class Retries:
    """The failures of one client, and what follows from them.

    Args:
        config: the bounds.
        random: yields numbers in [0, 1).
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
        """Count a failure; say whether a retry follows.

        `held` is how many seconds the connection lasted, None when there was none.
        """
        if held is not None and held >= self._config.stable_after:
            self.failures = 0
        self.failures += 1
        most = self._config.max_retries
        return not self.is_final(failure) and (most == 0 or self.failures <= most)

    @staticmethod
    def is_final(failure: Exception) -> bool:
        """Say whether the same answer would come again, however often one asks."""
        return isinstance(failure, ConfigError) or not is_retryable(_code_of(failure))

    def wait(self, failure: Exception) -> float:
        """Return the seconds to wait now: jittered, and no less than the server asked for.

        Who is asked to wait is perhaps one of many that were told the same: the wait is
        drawn from as long again.
        """
        seconds, jitter = self.backoff(self.failures), self._config.jitter
        asked = _asked(failure)
        if _code_of(failure) in _SAID_TO_ALL:
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
    if isinstance(failure, ConnectionClosed) and failure.code in _SAID_TO_ALL:
        return wait_asked(failure.reason)
    return None


def _code_of(failure: Exception) -> int:
    """Return the close code or HTTP status of a failure; 0, which is retried, for others."""
    if isinstance(failure, HandshakeRefused):
        return failure.status
    return failure.code if isinstance(failure, ConnectionClosed) else 0
