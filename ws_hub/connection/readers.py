"""The threads that read the connections of a hub.

A connection that is quiet has no thread. One thread waits for the input of all by epoll(7), and
handles what comes; `crew` has another one take over when a callback keeps it. A connection
whose handling was slow, whose message has not arrived whole, whose peer has to pause, or that
talks while all others are quiet, keeps its thread, until it has been quiet for a second, or
for ten while callbacks wait.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import select
import threading
import time
from collections.abc import Callable, Iterator

from .. import threads
from ..crew import Crew
from ..errors import CloseCode
from ..log import get_logger
from .fast_send import wait_for_input
from .reader import Reader
from .receiver import End
from .transport import Transport

__all__ = ["NO_THREAD", "Readers"]

logger = get_logger(__name__)

_NAME = "ws-hub:reader"
NO_THREAD = End(CloseCode.ABNORMAL, "no thread is free")
_LINGER = 1.0  # seconds for which a connection that had a thread keeps it
_LINGERS = 10  # as many of these while callbacks wait
_ALONE = 8  # messages of one client, with none of another between them: then it gets a thread
_SOON = 0.05  # seconds between two of these, at most
_LONGEST = 3600.0  # seconds of one wait
_AVAILABLE = hasattr(select, "epoll") and hasattr(os, "eventfd")


class Readers:
    """The connections that wait for input, and the threads that handle it."""

    def __init__(self) -> None:
        self._crew: Crew[Reader] = Crew(_NAME, self)
        # guards: everything below, and `is_parked` and `look_at` of each reader. The crew's.
        self._lock = self._crew.lock
        self._epoll: select.epoll | None = None
        self._wake = -1  # an eventfd, which ends a wait
        self._closed = self._warned = False
        self._parked: dict[int, Reader] = {}  # by descriptor
        self._talker = 0  # the number of the client that was heard last; 0 for several, or none
        self._heard = 0.0  # when that was
        self._alone = 0  # how often in a row it was that client
        # When to look at which reader: its moment, the number of its connection, its descriptor.
        # What is not its `look_at` is void, and dropped when its moment has come.
        self._due: list[tuple[float, int, int]] = []
        self._called: list[int] = []  # descriptors whose readers have something to do, unheard

    # --- any thread ------------------------------------------------------------------------

    def takes(self, transport: Transport) -> bool:
        """Say whether a connection can be read here."""
        return transport.is_plain and self._opens()

    def begin(self) -> None:
        """Have a thread wait for input. Raises RuntimeError when the system has none."""
        if self._opens():
            self._crew.begin()

    def _opens(self) -> bool:
        """Open what input is waited for by, unless it is; False when that is not possible."""
        if self._epoll is None and _AVAILABLE:
            try:
                with self._lock:
                    self._open_locked()
            except OSError as error:
                if not self._warned:  # at each connection it would be said again
                    self._warned = True
                    logger.warning("each connection has a thread of its own: %s", error)
        return self._epoll is not None

    def _open_locked(self) -> None:
        assert self._lock.locked()
        if self._epoll is not None or self._closed:
            return
        epoll, wake = select.epoll(), -1
        try:
            wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            epoll.register(wake, select.EPOLLIN)
        except BaseException:
            epoll.close()
            if wake >= 0:
                os.close(wake)
            raise
        self._epoll, self._wake = epoll, wake
        threads.forget_after_fork(self)

    def adopt(self, reader: Reader, may_keep: Callable[[], bool] = lambda: True) -> None:
        """Begin with a reader, and read it from then on.

        `may_keep` is asked before it stays on the calling thread; where it may not, it ends.

        Threads: one without other work; blocks while the reader has something to do.
        """
        if not reader.begin():
            return
        if reader.connection.transport.is_settled and self._begins(reader) and self.park(reader):
            return
        if may_keep():
            self.keep(reader)
        else:
            reader.finish(NO_THREAD)

    def _begins(self, reader: Reader) -> bool:
        try:
            self.begin()
        except RuntimeError as error:
            logger.warning("%r keeps its thread: %s", reader.connection, error)
            return False
        return True

    def park(self, reader: Reader) -> bool:
        """Wait for the input of a reader from now on; False when that is not possible."""
        try:
            with self._lock:
                return self._park_locked(reader, reader.connection.transport.fileno())
        except OSError as error:
            logger.warning("%r keeps its thread: %s", reader.connection, error)
            return False

    def _park_locked(self, reader: Reader, fd: int) -> bool:
        assert self._lock.locked()
        if self._closed or self._epoll is None:
            return False
        reader.readers = self
        reader.is_parked = True
        self._parked[fd] = reader
        try:
            wait_for_input(self._epoll, fd)
        except OSError:
            self._forget_locked(reader, fd)
            raise
        self._time_locked(reader, fd)
        if reader.connection.is_pending and reader.connection.is_decided:
            self._call_locked(fd)  # too early for `look`
        return True

    def look(self, fd: int) -> None:
        """Have the reader of a descriptor take a turn without input: its admission is decided."""
        with self._lock:
            if fd in self._parked:
                self._call_locked(fd)

    def _call_locked(self, fd: int) -> None:
        assert self._lock.locked()
        self._called.append(fd)
        if len(self._called) == 1:
            self._wake_locked()

    def _time_locked(self, reader: Reader, fd: int) -> None:
        """Have a look at a reader when it is due."""
        assert self._lock.locked()
        reader.look_at = moment = reader.due
        heapq.heappush(self._due, (moment, reader.connection.id, fd))
        if self._due[0][0] == moment:
            self._wake_locked()  # it waits for a later one
        elif len(self._due) > 2 * len(self._parked) + 16:
            self._purge_locked()

    def _wake_locked(self) -> None:
        assert self._lock.locked()
        if self._wake >= 0:
            os.eventfd_write(self._wake, 1)

    def part(self, reader: Reader) -> None:
        """Do not wait for the input of a reader any more. Idempotent."""
        with self._lock:
            if reader.is_parked:
                fd = reader.connection.transport.fileno()
                self._forget_locked(reader, fd)
                assert self._epoll is not None
                with contextlib.suppress(OSError):
                    self._epoll.unregister(fd)

    def _forget_locked(self, reader: Reader, fd: int) -> None:
        assert self._lock.locked()
        reader.is_parked, reader.look_at = False, 0.0
        self._parked.pop(fd, None)

    def before_wait(self) -> None:
        """Have another thread read the others, where the calling one does: it will wait."""
        self._crew.hand_over()

    def before_call(self) -> None:
        """Do the same before a callback, or what else may wait, where callbacks did lately."""
        if self._crew.is_cautious:
            self._crew.hand_over()

    def after_call(self, seconds: float) -> None:
        """Note how long a callback took."""
        self._crew.note(seconds)

    def close(self) -> None:
        """Have the threads end, when the connections that wait have. Idempotent."""
        with self._lock:
            self._closed = True
            if self._crew.close():
                self._wake_locked()
            elif self._crew.is_empty:
                self.end()

    def join(self, deadline: float) -> bool:
        """Wait for the threads until a monotonic moment; return whether all have ended."""
        return self._crew.join(deadline)

    def forget(self) -> None:
        """Close the descriptors, in a forked child.

        Threads: the only one of the child.
        """
        self._crew.forget()
        self._lock = self._crew.lock
        self._parked.clear()
        self.end()

    # --- the threads of the crew; see `Work` -----------------------------------------------

    def is_over(self) -> bool:
        """Say whether no connection waits for input any more: none comes once it is closed."""
        return not self._parked

    def end(self) -> None:
        """Close the descriptors, which no thread uses any more."""
        self._closed = True
        epoll, self._epoll = self._epoll, None
        wake, self._wake = self._wake, -1
        if epoll is not None:
            epoll.close()
            os.close(wake)

    def wait(self) -> list[Reader]:
        """Wait for input; return the readers that have some, or were silent for too long."""
        epoll = self._epoll
        assert epoll is not None
        with self._lock:
            due = self._due[0][0] - time.monotonic() if self._due else _LONGEST
        events = epoll.poll(max(min(due, _LONGEST), 0.0))
        with self._lock:
            parked, found = self._parked, []
            for fd, _ in events:
                reader = parked.get(fd)
                if reader is not None:
                    found.append(reader)
                elif fd == self._wake:
                    with contextlib.suppress(BlockingIOError):
                        os.eventfd_read(fd)
            now = time.monotonic()
            self._note_locked(found, now)
            # Each once: when another thread keeps a reader, this one must not come to it again.
            if self._called or (self._due and self._due[0][0] <= now):
                called = [parked[fd] for fd in self._called if fd in parked]
                self._called.clear()
                found = list(dict.fromkeys([*found, *called, *self._silent_locked(now)]))
        return found

    def _note_locked(self, found: list[Reader], now: float) -> None:
        """Count how often in a row one client alone had something to say."""
        assert self._lock.locked()
        talker = found[0].connection.id if len(found) == 1 else 0
        goes_on = talker != 0 and talker == self._talker and now - self._heard < _SOON
        self._alone = self._alone + 1 if goes_on else 0
        self._talker, self._heard = talker, now

    def _silent_locked(self, now: float) -> Iterator[Reader]:
        """Yield the readers that are due, which are not looked at again."""
        assert self._lock.locked()
        while self._due and self._due[0][0] <= now:
            moment, number, fd = heapq.heappop(self._due)
            reader = self._timed_locked(moment, number, fd)
            if reader is None:
                continue
            if reader.due > now:  # it has been heard since
                reader.look_at = reader.due
                heapq.heappush(self._due, (reader.look_at, number, fd))
            else:
                reader.look_at, reader.noticed = 0.0, now
                yield reader

    def _timed_locked(self, moment: float, number: int, fd: int) -> Reader | None:
        """Return the reader of an entry; None for an entry that is void."""
        assert self._lock.locked()
        reader = self._parked.get(fd)
        if reader is None or reader.connection.id != number or reader.look_at != moment:
            return None
        return reader

    def _purge_locked(self) -> None:
        """Drop the entries that are void."""
        assert self._lock.locked()
        self._due = [each for each in self._due if self._timed_locked(*each)]
        heapq.heapify(self._due)

    def handle(self, reader: Reader) -> None:
        """Handle one receive of a reader."""
        # A receive that waits is faster than waiting first; a switch for each of many is not.
        if self._alone >= _ALONE and self._crew.hand_over():
            return
        transport = reader.connection.transport
        self._turn(reader, 0.0)
        while not (reader.over or transport.is_settled or self._crew.hand_over()):
            if not transport.has_more:
                break
            self._turn(reader, 0.0)  # there is no other thread, and no event for what is here
        if reader.over:
            return
        # Its silence may end it before its admission would have been late.
        if not 0.0 < reader.look_at <= reader.due and reader.is_parked:
            with self._lock:
                if reader.is_parked:
                    self._time_locked(reader, transport.fileno())

    def keep(self, reader: Reader) -> None:
        """Read on the calling thread until nothing has come for a while."""
        transport, quiet = reader.connection.transport, 0
        # A client that has connected need not talk soon: where `on_connect` waits, each of a crowd
        # would have a thread for long.
        if reader.has_only_begun and transport.is_settled and self.park(reader):
            return
        while not reader.over:
            quiet = 0 if self._turn(reader, _LINGER) else quiet + 1
            # Where callbacks wait, its next message would have to get a thread first, and so
            # would those of all others, one after the other.
            enough = quiet >= (_LINGERS if self._crew.is_cautious else 1)
            if enough and transport.is_settled and self.park(reader):
                return

    def _turn(self, reader: Reader, timeout: float) -> bool:
        thread = threading.current_thread()
        thread.name = f"{_NAME}:{reader.connection.id}"
        try:
            return reader.turn(timeout)
        except BaseException:  # noqa: BLE001 - the connection is over; the others go on
            logger.exception("thread %s died", thread.name)
            return True
        finally:
            thread.name = _NAME
