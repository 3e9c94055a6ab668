"""What a process tells the others, until the backplane's thread sends it."""

from __future__ import annotations

import contextlib
import queue
import time
from collections.abc import Callable
from typing import NamedTuple

from ..reentrant import ReentrantQueue, Wakeup
from .bus import Notice, NoticeKind
from .notices import MOST_JOINED, encode, joined
from .peers import MAX_WAITING_BYTES

__all__ = ["Told", "ToldQueue"]

_SLOT_BYTES = 512  # what was told is measured in these
# Messages that wait for one channel go as one notice, within these bounds and MOST_JOINED: each
# notice costs its receivers more than a message in it does.
_JOINED_BYTES = 64 * 1024
_JOINED_SECONDS = 1.0  # between the first and the last


class Told(NamedTuple):
    """A notice to be sent, encoded once for all.

    Args:
        kind: its kind.
        tail: what `notices.encode` has returned for it.
        at: when it was told, in monotonic seconds.
        without: the names of the processes that it is not for.
        name: of the channel or the user.
        joins: whether messages for the same channel may go with it.
        stands_for: how many notices it is, see `joined`.
    """

    kind: NoticeKind
    tail: bytes
    at: float
    without: tuple[str, ...] = ()
    name: str = ""
    joins: bool = False
    stands_for: int = 1

    def goes_with(self, other: Told) -> bool:
        """Whether it can be sent in one notice with an earlier one."""
        return (
            self.joins
            and other.joins
            and self.name == other.name
            and self.without == other.without
            and self.at - other.at < _JOINED_SECONDS
        )


def _slots_of(told: Told) -> int:
    return 1 + len(told.tail) // _SLOT_BYTES


class ToldQueue:
    """Notices to be sent, within a bound. `put` never waits.

    Those of the kind KEPT wait as one, and these and DISCONNECT whatever else does.

    Args:
        wake: wakes the thread that sends.
        max_tail_bytes: bytes of a notice that can be sent.
        clock: monotonic seconds.
    """

    def __init__(
        self, wake: Wakeup, max_tail_bytes: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._wake = wake
        self._max_tail_bytes = max_tail_bytes
        self._clock = clock
        # guards: itself: notices to be sent.
        self._told: ReentrantQueue[Told] = ReentrantQueue(
            wake, MAX_WAITING_BYTES // _SLOT_BYTES, _slots_of
        )
        # guards: itself: of each notice that found no room in `_told`, which it was not for.
        self._dropped: queue.SimpleQueue[tuple[str, ...]] = queue.SimpleQueue()
        self._has_kept = False  # whether a KEPT waits
        self._ahead: Told | None = None  # the thread's own: taken, and yet to be returned

    # --- any thread --------------------------------------------------------------------------

    def put(self, notice: Notice, without: tuple[str, ...] = ()) -> None:
        """Have the thread send a notice; never waits. Raises ValueError, see `encode`."""
        if notice.kind is NoticeKind.KEPT:
            self._put_kept(notice)
            return
        joins = notice.kind is NoticeKind.PUBLISH and not notice.key and bool(notice.texts)
        told = Told(notice.kind, encode(notice), self._clock(), without, notice.name, joins)
        if notice.kind is NoticeKind.DISCONNECT:
            self._told.force(told)  # few and small; a user must not stay because others talk
            return
        if len(told.tail) <= self._max_tail_bytes:
            with contextlib.suppress(queue.Full):
                self._told.put(told, block=False)
                return
        self._dropped.put(without)
        self._wake.signal()

    def _put_kept(self, notice: Notice) -> None:
        if self._has_kept:
            return  # the thread has yet to take it: it will tell of this as well
        try:
            self._has_kept = True
            # Without room, as it cannot be lost: it has no number.
            self._told.force(Told(notice.kind, encode(notice), self._clock()))
        except BaseException:
            self._has_kept = False
            raise

    def __len__(self) -> int:
        return len(self._told.queue) + (self._ahead is not None)

    def dropped(self) -> int:
        """Return the number of lost notices that `take_dropped` has not returned yet."""
        return self._dropped.qsize()

    # --- the thread --------------------------------------------------------------------------

    def take(self) -> Told | None:
        """Return the next notice, with the messages that go with it; None for none."""
        told = self._next()
        if told is None:
            return None
        if told.kind is NoticeKind.KEPT:
            # Before it is sent: what is told from now on comes after that.
            self._has_kept = False
        return self._joined(told) if told.joins else told

    def _next(self) -> Told | None:
        told, self._ahead = self._ahead, None
        if told is None:
            with contextlib.suppress(queue.Empty):
                told = self._told.get()
        return told

    def _joined(self, told: Told) -> Told:
        """Return a notice as one with those that follow and go with it."""
        tails, size = [told.tail], len(told.tail)
        while len(tails) < MOST_JOINED:
            following = self._next()
            if following is None:
                break
            size += len(following.tail)
            if size > _JOINED_BYTES or not following.goes_with(told):
                self._ahead = following
                break
            tails.append(following.tail)
        if len(tails) == 1:
            return told
        return told._replace(tail=joined(tails), stands_for=len(tails))

    def take_dropped(self) -> int:
        """Return how many notices were lost since the last call."""
        return len(self.take_lost())

    def take_lost(self) -> list[tuple[str, ...]]:
        """Return for each notice that was lost since the last call which it was not for."""
        found: list[tuple[str, ...]] = []
        with contextlib.suppress(queue.Empty):
            while True:
                found.append(self._dropped.get_nowait())
        return found
