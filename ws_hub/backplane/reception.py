"""Hands what others tell to the receiver of a backplane, and counts it."""

from __future__ import annotations

from collections.abc import Callable

from ..log import get_logger
from .bus import Notice, Receiver
from .interest import Interest
from .peers import Counts

__all__ = ["Reception"]

logger = get_logger(__name__)


class Reception:
    """Calls a receiver. What that raises is logged: the backplane's thread goes on.

    Args:
        receiver: the receiver; None for a backplane that only sends.
        counts: what to count in.
        interest: what the receiver needs; None for all.

    Threads: that of the backplane.
    """

    def __init__(
        self, receiver: Receiver | None, counts: Counts, interest: Interest | None = None
    ) -> None:
        self._receiver = receiver
        self._counts = counts
        self._interest = interest

    def needs(self, notice: Notice) -> bool:
        """Return whether a notice is anything to the receiver."""
        return self._interest is None or self._interest.wants(notice.topic)

    def offer(self, notice: Notice, source: str) -> bool:
        """Hand a notice on; False where there is no room for it."""
        if self._receiver is not None:
            if self._call(self._receiver.receive, notice, source) is False:
                return False
            self._counts.received += notice.stands_for
        return True

    def missed(self, count: int) -> None:
        """Count and tell of notices that never came."""
        if count > 0:
            self._counts.lost += count
            if self._receiver is not None:
                self._call(self._receiver.missed, count)

    def gone(self, source: str) -> None:
        """Tell of the end of a process."""
        if self._receiver is not None:
            self._call(self._receiver.gone, source)

    def left(self) -> None:
        """Tell that processes may have ended."""
        if self._receiver is not None:
            self._call(self._receiver.left)

    def _call(self, function: Callable[..., object], *args: object) -> object:
        try:
            return function(*args)
        except Exception:  # noqa: BLE001 - it is not this thread's, which has to go on
            logger.exception("the receiver of the backplane failed")
            return None
