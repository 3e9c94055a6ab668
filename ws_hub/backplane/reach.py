"""Whether a backplane reaches its broker, over all the connections that it needs.

Says so in the log when that changes: once when it is lost, once when it is back.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from ..backoff import calculate_backoff, full_jitter
from ..errors import excerpt
from ..log import get_logger
from ..reentrant import Event, Lock

__all__ = ["Reach", "retry_wait"]

logger = get_logger(__name__)

_RETRY_FIRST, _RETRY_MOST, _RETRY_LEAST = 0.25, 2.0, 0.05  # seconds


class Reach:
    """The state of a backplane's connections to its broker.

    Args:
        broker: what it is called in the log.
        parts: the names of the connections.
        meanwhile: what it means for this process that the broker is not reached.
        clock: monotonic seconds.

    Threads: any; only `wait` waits.
    """

    def __init__(
        self,
        broker: str,
        parts: tuple[str, ...],
        meanwhile: str,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._broker = broker
        self._meanwhile = meanwhile
        self._clock = clock
        # guards: what follows. Nothing is taken under it.
        self._lock = Lock()
        self._missing = set(parts)
        self._since = clock()  # all are there, or one is missing
        self._was_up = self._has_failed = False  # ever
        self._is_told = False  # the log says that one is missing
        self._decided = Event()

    def wait(self, seconds: float) -> None:
        """Wait until all are there for the first time, or one has failed."""
        self._decided.wait(seconds)

    @property
    def is_up(self) -> bool:
        """Whether all connections are there."""
        return not self._missing

    def has(self, part: str) -> bool:
        """Return whether a connection is there."""
        return part not in self._missing

    def is_settled(self, seconds: float) -> bool:
        """Return whether all are there, for so many seconds unless none has failed so far."""
        with self._lock:
            lasts = not self._has_failed or self._clock() - self._since >= seconds
            return lasts and not self._missing

    def up(self, part: str) -> None:
        """Note that a connection is there."""
        with self._lock:
            if part not in self._missing:
                return
            self._missing.remove(part)
            if self._missing:
                return
            now = self._clock()
            away, self._since = now - self._since, now
            was_told, self._is_told = self._is_told, False
            self._was_up = True
        self._decided.set()
        if was_told:
            logger.warning("the backplane reaches %s again, after %.1f s", self._broker, away)
        else:
            logger.info("the backplane reaches %s", self._broker)

    def down(self, part: str, error: BaseException) -> None:
        """Note that a connection has ended, or cannot be made."""
        with self._lock:
            if not self._missing:
                self._since = self._clock()
            self._missing.add(part)
            was_told, self._is_told, self._has_failed = self._is_told, True, True
        self._decided.set()
        if not was_told:
            logger.warning(
                "the backplane %s %s: %s. %s",
                "has lost" if self._was_up else "cannot reach",
                self._broker,
                excerpt(str(error), 300),
                self._meanwhile,
            )


def retry_wait(attempt: int) -> float:
    """Return the seconds before an attempt to connect, of so many in a row."""
    most = calculate_backoff(attempt, _RETRY_FIRST, _RETRY_MOST)
    return max(full_jitter(most, random.random), _RETRY_LEAST)
