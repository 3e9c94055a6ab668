"""The registry of connected clients, changed by the hub thread.

A reader thread queues its client; the hub thread registers it and answers its handshake, so
that a client that has the answer gets every later broadcast.
The callbacks of its reader come after that: `on_connect` sees the hub with the client,
`on_disconnect` without it. The hub thread also keeps the times: pings, and how
long a peer has for its answer to a Close frame.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence

from ..config import HubConfig
from ..connection.connection import Connection
from ..connection.membership import Stage
from ..log import get_logger
from ..reentrant import Lock
from .callbacks import guarded
from .items import Queues
from .stats import Counters

__all__ = ["Registry"]

logger = get_logger(__name__)

_PINGS = 64  # that are sent without a pause
_PAUSE = 0.005  # seconds of such a pause
_TOGETHER = 0.25  # seconds that a ping may come late, so that several go out together


class Registry:
    """The connected clients.

    Args:
        config: the hub's settings.
        queues: to which clients are added, and whose bell wakes the hub thread.
        enter: called on the hub thread with each client that is admitted.
        refuse: called on the hub thread with each that is not.
        leave: called with each client that is over, on its reader thread as soon as it is
            and on the hub thread when that has taken it out.
        counters: what is counted.
    """

    def __init__(
        self,
        config: HubConfig,
        *,
        queues: Queues,
        enter: Callable[[Connection], None],
        refuse: Callable[[Connection], None],
        leave: Callable[[Connection], object],
        counters: Counters,
    ) -> None:
        self._max_clients = config.max_connections
        self._heartbeat_interval = config.heartbeat_interval
        # How long a reader thread waits for the hub thread: at its client's start, and end.
        self._start_patience = config.handshake_timeout
        self._patience = config.close_timeout  # the hub thread too, for a Close frame
        self._queues = queues
        self._enter = enter
        self._refuse = refuse
        self._leave = leave
        self._counters = counters
        # guards: everything below. Taken after the hub's lock; nothing is taken under it.
        self._lock = Lock()
        self._open = True
        self._connections: dict[int, Connection] = {}  # changed by the hub thread only
        self._snapshot: tuple[Connection, ...] | None = None  # of the hub thread
        self._readers: set[Connection] = set()  # whose reader thread has not ended
        # The clients that have to answer a Close frame, and by when; the earliest first.
        self._closings: deque[tuple[float, Connection]] = deque()
        # Of the hub thread. When the ping of which client is due, the earliest first: all wait
        # equally long. By number, so that a client that has left is not kept alive.
        self._beats: deque[tuple[float, int]] = deque()

    # --- any thread ------------------------------------------------------------------------

    def __len__(self) -> int:
        with self._lock:
            return len(self._connections)

    def connections(self) -> list[Connection]:
        """Return a copy of the connections that are admitted, oldest first."""
        with self._lock:
            return list(self._connections.values())

    def find(self, number: int) -> Connection | None:
        """Return a connection by its number; without the lock, as a signal handler may ask."""
        return self._connections.get(number)

    def closing(self, connection: Connection) -> None:
        """Note that a client's peer has `close_timeout` seconds to answer its Close frame."""
        with self._lock:
            self._closings.append((time.monotonic() + self._patience, connection))
        self._queues.wakeup.signal()

    # --- reader threads --------------------------------------------------------------------

    def open(self, connection: Connection) -> bool:
        """Ask for a client to be registered; False when nobody is any more."""
        with self._lock:
            # Under the lock: what is queued before `shut` is settled, always.
            if not self._open:
                return False
            self._readers.add(connection)
            self._queues.registers.put(connection)
        return True

    def admitted(self, connection: Connection, patience: float | None = None) -> bool:
        """Wait until the hub has decided whether a client is in; say so, once for all.

        A hub thread that is later than `patience`, or else `handshake_timeout`, finds that it
        has left: what is said here stays, so that both callbacks of a client run or neither
        (FAULTS 68).
        """
        patience = self._start_patience if patience is None else patience
        connection.membership.settled.wait(patience)  # set by the hub thread
        with self._lock:
            late = connection.membership.refuse()
            admitted = connection.membership.admitted
        if late:
            self._counters.add("refused")
            logger.warning(
                "%r is refused: the hub thread has not come to it within %g s, as it is busy",
                connection,
                self._start_patience,
            )
        return admitted

    def dismiss(self, connection: Connection, wait: bool) -> None:
        """Take a client out; wait until the hub is without it if asked to."""
        self._leave(connection)
        with self._lock:
            if not self._open:
                return
            connection.membership.leave()
            self._queues.unregisters.put(connection)
        if wait:
            connection.membership.settled.wait(self._patience)  # set by the hub thread

    def reader_ended(self, connection: Connection) -> None:
        """Note that a reader thread is at its end."""
        with self._lock:
            self._readers.discard(connection)

    # --- hub thread ------------------------------------------------------------------------

    @property
    def snapshot(self) -> Sequence[Connection]:
        """The clients of this moment, for this thread; a change makes a new sequence.

        Kept, because to copy thousands for each broadcast is to touch each of them twice.
        """
        if self._snapshot is None:
            self._snapshot = tuple(self._connections.values())
        return self._snapshot

    def unregister(self, connection: Connection) -> None:
        """Take out a client that has ended."""
        self.remove(connection)
        # Again: it may have been let in after it had left.
        guarded(self._counters, self._leave, connection)
        connection.membership.end()

    def register(self, connection: Connection, *, admit: bool) -> None:
        """Take in a client, or refuse it: for want of room, or where `admit` is false."""
        if connection.membership.stage in (Stage.LEAVING, Stage.GONE):
            return  # it is in `unregisters`, or was
        if not guarded(self._counters, self._decide, connection, admit, default=True):
            self._counters.add("refused")
            guarded(self._counters, self._refuse, connection)
            with self._lock:
                connection.membership.refuse()
        connection.decided()

    def _decide(self, connection: Connection, admit: bool) -> bool:
        """Take a client in; False when it is to be refused."""
        most = self._max_clients
        if not admit or (most is not None and len(self._connections) >= most):
            return False
        self._enter(connection)
        with self._lock:
            # Under the lock: its reader decides in the same way that it waits no longer.
            admitted = connection.membership.admit()
            if admitted:
                self._connections[connection.id] = connection
        if not admitted:
            self._leave(connection)  # its end has come by above, or will
            return True
        self._snapshot = None
        self._beats.append((time.monotonic() + self._heartbeat_interval, connection.id))
        self._counters.add("connected")
        connection.accept()
        return True

    def expire(self, now: float) -> float:
        """Cut the clients whose closing time is up; return when to look again, as `beat` does."""
        while True:
            with self._lock:
                if not self._closings:
                    return math.inf
                due, connection = self._closings[0]
                if due > now:
                    return due
                self._closings.popleft()
            guarded(self._counters, connection.expire)

    def beat(self, now: float) -> float:
        """Ping the clients whose ping is due; return when to look again, in monotonic seconds.

        From this thread and not from each client's writer: that is one thread to wake for
        the pings of a quarter of a second, instead of one for each.
        """
        # So many, then a pause, unless that were too few to be in time: what is published waits
        # for them, and where each pong wakes a thread of its own, these fight for the GIL.
        most = max(_PINGS, int(2 * len(self._beats) * _PAUSE / self._heartbeat_interval) + 1)
        while self._beats and self._beats[0][0] <= now:
            if not most:
                return now + _PAUSE
            most -= 1
            _, number = self._beats.popleft()
            connection = self._connections.get(number)
            if connection is not None:
                self._beats.append((now + self._heartbeat_interval, number))
                guarded(self._counters, connection.ping)
        if not self._beats:
            return math.inf
        return self._beats[0][0] + min(self._heartbeat_interval / 20, _TOGETHER)

    def remove(self, connection: Connection) -> None:
        """Forget a client at once; idempotent."""
        with self._lock:
            self._connections.pop(connection.id, None)
        self._snapshot = None

    def shut(self) -> None:
        """Register and unregister nothing more; what is queued already has to be settled."""
        with self._lock:
            self._open = False

    def remaining(self) -> list[Connection]:
        """Return a copy of the clients whose reader thread has not ended, registered or not."""
        with self._lock:
            return list(self._readers)

    def join(self, deadline: float) -> list[Connection]:
        """Wait for the reader threads until a moment of the monotonic clock; return the late."""
        return [each for each in self.remaining() if not each.join(deadline - time.monotonic())]
