"""The end of a hub's clients: draining in batches, and the shutdown of a life.

Two things spread the returns of clients over time, so that a deploy is no storm: the
batches, for every client, and the text of the Close frame, for those that understand it
(`backoff.come_back`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence

from ..backoff import come_back
from ..connection.connection import Connection
from ..errors import CloseCode
from ..log import get_logger
from .life import Life
from .listener import Listener

__all__ = ["GRACE", "Departures", "await_recorder", "awaited", "end", "spread_of"]

logger = get_logger(__name__)

_PACE = 0.1  # seconds between batches
_SPREAD = 5.0  # seconds over which those of one moment come back, when they are few
_PER_SECOND = 200  # clients that come back in a second, when they are many
GRACE = 1.0  # seconds for what was told to end, beyond the close timeout
_SHOWN = 5  # of what an end waits for, named in the log


def spread_of(clients: int) -> float:
    """Return the seconds over which so many clients come back."""
    return max(_SPREAD, clients / _PER_SECOND)


class Departures:
    """Decides which client is closed when, and when each is told to reconnect.

    Args:
        began: monotonic seconds.
        timeout: seconds from the first batch to the last.
        spread: seconds over which the returns are spread.
        random: yields numbers in [0, 1).
    """

    def __init__(
        self, began: float, timeout: float, spread: float, random: Callable[[], float]
    ) -> None:
        self._end = began + timeout
        self._spread = spread
        self._random = random
        self._told: set[int] = set()

    def due(self, now: float, present: Collection[Connection]) -> Iterator[tuple[Connection, str]]:
        """Yield the clients of `present` that are closed now, each with its Close reason."""
        waiting = [each for each in present if each.id not in self._told]
        batches = int(max(self._end - now, 0.0) / _PACE) + 1
        for connection in waiting[: -(-len(waiting) // batches)]:
            self._told.add(connection.id)
            yield connection, come_back(self._spread * self._random())

    def pause(self, now: float) -> float:
        """Return the seconds until the next batch; 0 when there is none."""
        return min(max(self._end - now, 0.0), _PACE)


def awaited(life: Life) -> str:
    """Name what the end of a life waits for: callbacks that run, and clients."""
    running = life.callbacks.running()
    found = [name if client is None else f"{name} for {client!r}" for name, client in running]
    busy = {client for _, client in running}
    found += [
        f"{connection!r}, which has not answered the Close frame"
        for connection in life.registry.remaining()
        if connection not in busy
    ]
    if len(found) > _SHOWN:
        found[_SHOWN:] = [f"{len(found) - _SHOWN} more"]
    return "; ".join(found) or "its own thread"


def await_recorder(life: Life, settle: Callable[[], object]) -> None:
    """Have all that was accepted be committed, and deliver it; `settle` empties the queues.

    Threads: the hub's; blocks at most the close timeout and a moment.
    """
    recorder = life.recorder
    assert recorder is not None
    recorder.close(life.config.close_timeout)
    deadline = time.monotonic() + life.config.close_timeout
    while not recorder.ended.is_set() and (left := deadline - time.monotonic()) > 0:
        life.wakeup.wait(left)  # woken by what it hands over, and by its end
        life.guard(settle)
    recorder.abandon()
    if not recorder.join(GRACE):
        logger.error(
            "the history store has not kept within %g s what was published; it waits for its "
            "disk, and these messages may be lost",
            life.config.close_timeout,
        )
    while life.guard(settle, default=0):
        pass


def end(life: Life, settle: Callable[[], object], listeners: Sequence[Listener]) -> bool:
    """Close every connection and join every thread of a life; say whether all have ended.

    Args:
        life: in the state CLOSING.
        settle: empties the hub's queues.
        listeners: those that are open.

    Threads: the hub's; blocks at most twice the close timeout and some.
    """
    timeout = life.config.close_timeout
    life.asks.end()
    waiting = life.clients.pending.shut()
    deadline = time.monotonic() + timeout
    _close_clients(life, waiting, time.monotonic() + timeout / 2)
    _await_clients(life, settle, deadline)
    # Those as well that were cut before: nothing else ends the wait for their answer now.
    for connection in (*life.registry.remaining(), *waiting):
        life.guard(connection.abort)
    deadline = max(deadline, time.monotonic()) + GRACE
    _await_clients(life, settle, deadline)
    life.registry.shut()
    life.guard(settle)  # what was queued before that
    late: list[Connection | Listener] = [*life.registry.join(deadline)]
    late += [each for each in waiting if not each.join(deadline - time.monotonic())]
    for listener in listeners:
        listener.close()
    late += [each for each in listeners if not each.join(deadline - time.monotonic())]
    life.join_helpers(deadline)
    return not late


def _close_clients(life: Life, waiting: Sequence[Connection], until: float) -> None:
    """Close every client, one that is behind when its replays are over, or time is up.

    So the last lines of a process that is ended reach a viewer that came late.
    """
    code, reason = CloseCode.GOING_AWAY, "server going away"
    late: list[Connection] = []
    for connection in (*life.registry.snapshot, *waiting):
        if life.replays.holds(connection):
            late.append(connection)
        else:
            life.guard(connection.close, code, reason)
    while late:
        now = time.monotonic()
        for connection in late:
            if now >= until or not life.replays.holds(connection):
                life.guard(connection.close, code, reason)
        if now >= until:
            return
        late = [each for each in late if life.replays.holds(each)]
        life.wakeup.wait(min(until, life.replays.next_turn()) - now)  # woken by room
        life.guard(life.dispatcher.replay)


def _await_clients(life: Life, settle: Callable[[], object], deadline: float) -> None:
    life.guard(settle)
    while life.registry.snapshot and (left := deadline - time.monotonic()) > 0:
        life.wakeup.wait(left)  # woken when a client is gone
        life.guard(settle)
