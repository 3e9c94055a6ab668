"""Whether to try again, and when: the arithmetic of a client that comes back.

Must not know clocks, sockets or threads. What it counts are failures in a row; a
connection that held for `stable_after` seconds ends the row, one that was merely opened
does not, or a server that accepts and drops would be met once a second for ever.
"""

from __future__ import annotations

from collections.abc import Callable

from .backoff import calculate_backoff, full_jitter
from .errors import CloseCode, ConnectionClosed, HandshakeRefused, is_retryable
from .reconnect_config import ReconnectConfig

__all__ = ["Retries"]

_JITTER_ALWAYS = frozenset({CloseCode.RESTART, CloseCode.TRY_AGAIN})


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
        return not is_retryable(_code_of(failure))

    def wait(self, failure: Exception) -> float:
        """Return the seconds to wait now: jittered, and no less than the server asked for."""
        seconds = self.backoff(self.failures)
        if self._config.jitter or _code_of(failure) in _JITTER_ALWAYS:
            seconds = full_jitter(seconds, self._random)
        if isinstance(failure, HandshakeRefused) and failure.retry_after is not None:
            seconds = max(seconds, failure.retry_after)
        return seconds


def _code_of(failure: Exception) -> int:
    """Return the close code or HTTP status of a failure; 0, which is retried, for others."""
    if isinstance(failure, HandshakeRefused):
        return failure.status
    return failure.code if isinstance(failure, ConnectionClosed) else 0
