"""How a program is run: the bounds of its time, and which attempt it is.

Pure arithmetic: `Watch` is told the time and does nothing by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..validation import check_count, check_wait

__all__ = ["GRACE", "IDLE_TIMEOUT", "TIMEOUT", "Terms", "Watch"]

GRACE = 2.0  # seconds from SIGTERM to SIGKILL
TIMEOUT, IDLE_TIMEOUT = "timeout", "idle_timeout"  # the reasons of an end, as on the wire


@dataclass(frozen=True, slots=True)
class Terms:
    """The bounds of a program's time, and the number of the attempt.

    Args:
        timeout: seconds until the program is ended; None for no bound.
        idle_timeout: seconds without output until it is ended; None for no bound.
        grace: seconds from SIGTERM to SIGKILL, whatever it is ended for.
        attempt: which attempt at the same work this is, from 1; None where none is counted.
    """

    timeout: float | None = None
    idle_timeout: float | None = None
    grace: float = GRACE
    attempt: int | None = None

    def __post_init__(self) -> None:
        for name in ("timeout", "idle_timeout"):
            if getattr(self, name) is not None:
                check_wait(self, name)
        check_wait(self, "grace")
        if self.attempt is not None:
            check_count(self, "attempt", least=1)


class Watch:
    """Says when a program has used up its time. Owned by the streaming thread.

    Args:
        terms: the bounds.
        now: when the program was started, by the monotonic clock.
    """

    __slots__ = ("_idle_timeout", "_quiet_since", "_timeout_at")

    def __init__(self, terms: Terms, now: float) -> None:
        self._timeout_at = None if terms.timeout is None else now + terms.timeout
        self._idle_timeout = terms.idle_timeout
        self._quiet_since = now

    def touch(self, now: float) -> None:
        """Note output, or the end of a wait in which none was read."""
        self._quiet_since = max(self._quiet_since, now)

    def disarm(self) -> None:
        """Bound nothing any more."""
        self._timeout_at = self._idle_timeout = None

    def due(self) -> float | None:
        """Return when to look at it next."""
        moments = [each for each in (self._timeout_at, self._idle_at()) if each is not None]
        return min(moments) if moments else None

    def expired(self, now: float, *, reading: bool) -> str:
        """Return the bound that is reached; "" for none.

        `reading`: whether output would have been read if there were any. A program is not
        idle while it waits for us.
        """
        if self._timeout_at is not None and self._timeout_at <= now:
            return TIMEOUT
        idle_at = self._idle_at()
        return IDLE_TIMEOUT if reading and idle_at is not None and idle_at <= now else ""

    def _idle_at(self) -> float | None:
        return None if self._idle_timeout is None else self._quiet_since + self._idle_timeout
