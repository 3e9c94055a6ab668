"""The life of a hub: its thread, the clients it has, its start and its end.

Must not know what is published or how it is delivered, beyond handing it on.

    NEW ──start/run──> RUNNING ──stop──> STOPPING ──> CLOSING ──> STOPPED ──start──> RUNNING

In STOPPING the `at_stop` functions run and everything is still delivered, so that a
process that is ended gets its last words out. CLOSING refuses new messages, delivers
what is queued, closes every client with 1001 and joins every thread.
"""

from __future__ import annotations

import enum
import functools
import itertools
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Self

from . import exits, workers
from .channels import Channels
from .client import Client
from .config import HubConfig
from .dispatch import Dispatcher
from .errors import CloseCode, WsHubError
from .history import History
from .last_words import LastWords
from .listener import Listener
from .log import get_logger
from .mailbox import Mailbox
from .members import Members
from .message import is_channel_name
from .poller import Poller
from .publication import Publication
from .replay import Replays
from .stats import Counters

__all__ = ["Lifecycle"]

logger = get_logger(__name__)

_TURN_ITEMS = 1024
_TURN_BYTES = 1024 * 1024
_MAX_NEWS = 1_000_000
_GRACE = 1.0  # seconds for what was told to end, beyond the close timeout


class _State(enum.Enum):
    NEW = "not started"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"


class Lifecycle:
    """What Hub is built on: everything that happens on the hub's own thread."""

    def __init__(self, config: HubConfig) -> None:
        self._config = config
        self._is_channel = config.channel_name or is_channel_name
        # A rule is looked up for every message; matching patterns each time would cost
        # more than delivering it.
        self._rule_for = functools.lru_cache(4096)(config.rule_for)
        # .depth: callbacks of ours this thread is in, whichever life of the hub began them.
        self._inside = threading.local()
        self._renew_lock()
        self._reset()
        workers.forget_after_fork(self)

    def _renew_lock(self) -> None:
        # guards: _state, _listeners. The first in the order: never taken while
        # another lock is held. Reentrant, because a signal handler may call `stop` on the
        # thread that `run` lives on, whatever that thread was doing.
        self._lock = threading.RLock()

    def _reset(self) -> None:
        """Be as new. Under the lock, unless nobody else knows this hub yet."""
        self._state = _State.NEW
        self._listeners: set[Listener] = set()
        self._last_words = LastWords()
        # guards: itself; filled by any thread, which waits while it is full; emptied by
        # the hub thread. Holds publications and, in their place among them, calls.
        self._broadcasts: queue.Queue[list[Publication] | Callable[[], object]] = queue.Queue(
            self._config.queue_size
        )
        self._wake = threading.Event()  # set by whoever fills a queue
        self._accepting = False  # written by the hub thread and by start
        self._admitting = True  # written by drain; read by the hub thread
        self._closing = False  # written by the stop thread; read by the hub thread
        self._finished = threading.Event()
        self._thread: threading.Thread | None = None  # where the hub lives
        self._owns_thread = False  # whether that thread is ours, and ends with the hub
        self._notifier: Mailbox[tuple[Callable[[str], Any], str]] | None = None
        self._starter: Mailbox[workers.Later] | None = None
        self._counters = Counters()
        self._channels: Channels[Any] = Channels(
            functools.partial(self._notify, self._config.on_first_subscriber),
            functools.partial(self._notify, self._config.on_last_unsubscribe),
        )
        self._members = Members(self._config, self._channels, self._counters, self._awake)
        self._roster = self._members.roster
        self._history = History(
            self._rule_for,
            lambda channel: self._channels.count(channel) > 0,
            max_bytes=self._config.history_bytes_in_all,
            max_published_bytes=self._config.published_history_bytes_in_all,
        )
        self._poller = Poller(self._start_later)
        self._replays = Replays(
            self._history,
            self._channels,
            watch=self._poller.watch,
            unwatch=self._poller.unwatch,
            awake=self._awake,
        )
        self._dispatcher = Dispatcher(
            self._channels,
            self._history,
            self._replays,
            self._rule_for,
            self._evict,
            self._counters,
            self._config.compression,
        )

    def forget(self) -> None:
        """Start clean in a forked child: threads, locks and connections are the parent's.

        Threads: the only one there is, right after the fork.
        """
        for client in (*self._roster.everybody, *self._members.lobby.everybody):
            client.discard()
        self._renew_lock()
        self._reset()

    # --- any thread ------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether messages are delivered and, unless it drains, clients admitted.

        Threads: any.
        """
        with self._lock:
            return self._state is _State.RUNNING

    @property
    def config(self) -> HubConfig:
        """The settings.

        Threads: any.
        """
        return self._config

    def start(self) -> Self:
        """Run the hub on a background thread; return it. No change when it runs already.

        Threads: any; does not wait.
        """
        try:
            self._begin()
        except WsHubError:
            return self
        try:
            self._thread = workers.start("ws-hub:run", self._loop)
        except RuntimeError:
            self._end()
            raise
        self._owns_thread = True
        return self

    def run(self) -> None:
        """Run the hub on the calling thread until `stop()` is called.

        KeyboardInterrupt ends it as `stop()` does, and is raised again. Raises
        WsHubError when it runs already.

        Threads: any, one at a time; blocks.
        """
        self._begin()
        self._thread = threading.current_thread()
        self._loop()

    def stop(self, timeout: float | None = None) -> None:
        """End everything: `at_stop` functions, then clients with 1001, then all threads.

        Idempotent. Waits until it is done, at most `timeout` seconds (None: twice the
        close timeout and some); from a callback of this hub, from its own thread and
        from a signal handler upon it, returns at once while the hub ends.

        Threads: any, callbacks included.
        """
        with self._lock:
            if self._state in (_State.NEW, _State.STOPPED):
                return
            first = self._state is _State.RUNNING
            self._state = _State.STOPPING
            finished, thread = self._finished, self._thread  # of this life
            owned = self._owns_thread
        if first:
            try:
                workers.start("ws-hub:stop", self._wind_down)
            except RuntimeError:  # no threads left: then here
                self._wind_down()
        inside = getattr(self._inside, "depth", 0) > 0
        if inside or threading.current_thread() is thread:
            return
        bound = 2 * self._config.close_timeout + 5 * _GRACE if timeout is None else timeout
        if not finished.wait(bound):
            logger.warning("the hub has not ended within %g s: a callback holds it", bound)
        elif owned:
            workers.join(thread, _GRACE)

    def at_stop(self, function: Callable[[], object]) -> Callable[[], None]:
        """Call a function once when the hub stops, while it still delivers.

        Returns what takes that back. What the function raises is logged.

        Threads: any; the function runs on a thread of the hub's.
        """
        return self._last_words.add(function)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def _awake(self) -> None:
        if not self._wake.is_set():
            self._wake.set()

    def _call(
        self,
        function: Callable[..., Any],
        *args: Any,
        client: Client | None = None,
        default: Any = None,
    ) -> Any:
        """Call a user's function; what it raises is logged, counted, and goes no further."""
        self._inside.depth = getattr(self._inside, "depth", 0) + 1
        try:
            return function(*args)
        except BaseException as error:  # noqa: BLE001 - user code: the hub goes on
            self._counters.add("callback_errors")
            if client is not None:
                client.last_error = repr(error)
            logger.exception("callback %r failed, client %r", function, client)
            return default
        finally:
            self._inside.depth -= 1

    def _notify(self, function: Callable[[str], Any] | None, channel: str) -> None:
        # Under the channel map's lock: passes the news on, so that its order is true.
        if function is not None and self._notifier is not None:
            self._notifier.post((function, channel))

    def _start_later(
        self, name: str, target: Callable[[], None], failed: Callable[[RuntimeError], None]
    ) -> workers.Later | None:
        thread = workers.Later(name, target, failed)
        return thread if self._starter is not None and self._starter.post(thread) else None

    def _keep_listener(self, listener: Listener) -> None:
        with self._lock:
            self._listeners.add(listener)

    def _forget_listener(self, listener: Listener) -> None:
        self._channels.leave(listener)
        with self._lock:
            self._listeners.discard(listener)

    def _begin(self) -> None:
        with self._lock:
            if self._state in (_State.RUNNING, _State.STOPPING):
                raise WsHubError(f"the hub is {self._state.value} already")
            if self._state is _State.STOPPED:
                self._reset()
            self._state = _State.RUNNING
        config = self._config
        try:
            # The hub thread must not wait until a thread has started: another one does.
            self._starter = Mailbox("ws-hub:starter", workers.Later.start, _MAX_NEWS)
            if config.on_first_subscriber is not None or config.on_last_unsubscribe is not None:
                self._notifier = Mailbox("ws-hub:notify", lambda news: self._call(*news), _MAX_NEWS)
        except RuntimeError:
            self._end()
            raise
        exits.register(self)
        self._accepting = True

    # --- stop thread -----------------------------------------------------------------------

    def _wind_down(self) -> None:
        try:
            self._last_words.run(self._call)
        finally:
            self._closing = True
            self._awake()

    # --- hub thread ------------------------------------------------------------------------

    def _loop(self) -> None:
        try:
            while not self._closing:
                self._turn()
        finally:  # KeyboardInterrupt comes by here too
            with self._lock:
                self._state = _State.STOPPING
            self._last_words.run(self._call)
            self._end()

    def _turn(self, timeout: float | None = None) -> None:
        """Wait for something to do, at most `timeout` seconds, and do it."""
        now = time.monotonic()
        members = self._members
        left = min(self._history.expire(now), self._roster.beat(now), members.expire(now)) - now
        left = min(left, self._replays.next_turn() - now)
        if timeout is not None:
            left = min(left, timeout)
        # Woken by whoever fills a queue; otherwise in time for pings and old history.
        self._wake.wait(min(max(left, 0.0), workers.longest_wait()))
        self._wake.clear()
        self._work()
        self._replay()  # after all that is new

    def _replay(self) -> None:
        try:
            self._dispatcher.replay()
        except Exception:  # noqa: BLE001 - the top of a thread: all clients live by it
            logger.exception("the hub met an error of its own")

    def _work(self) -> int:
        # Messages first, then registrations, then delivery: a client that was registered
        # before a message was published is there when that message is delivered.
        items = self._collect()
        self._roster.settle(admit=self._admitting)
        for published, group in itertools.groupby(items, lambda i: isinstance(i, Publication)):
            try:
                if published:
                    self._dispatcher.dispatch(
                        list(group),  # type: ignore[arg-type]  # sorted out by the key
                        self._roster.everybody,
                        time.monotonic(),
                    )
                else:
                    for call in group:
                        call()  # type: ignore[operator]
            except Exception:  # noqa: BLE001 - the top of a thread: all clients live by it
                logger.exception("the hub met an error of its own")
        return len(items)

    def _collect(self) -> list[Publication | Callable[[], object]]:
        """Take what is queued, as much as one turn may hold."""
        items: list[Publication | Callable[[], object]] = []
        size = 0
        try:
            while len(items) < _TURN_ITEMS and size < _TURN_BYTES:
                item = self._broadcasts.get_nowait()
                if isinstance(item, list):
                    items += item
                    size += sum([len(each.text) for each in item])
                else:
                    items.append(item)
        except queue.Empty:
            return items
        self._wake.set()  # there may be more
        return items

    def _evict(self, target: Any) -> None:
        """Cut a client that does not read; it counts as gone from now."""
        self._roster.remove(target)
        self._channels.leave(target)
        target.evict("too slow: the outbox is full")

    def _end(self) -> None:
        """Deliver what is queued, then end every connection and every thread."""
        self._accepting = False
        while self._work():
            pass
        roster = self._roster
        waiting = self._members.lobby.shut()
        deadline = time.monotonic() + self._config.close_timeout
        self._close_clients(waiting, time.monotonic() + self._config.close_timeout / 2)
        self._await_clients(deadline)
        # Those as well who were cut before: nobody else ends the wait for their answer now.
        for client in (*roster.remaining(), *waiting):
            client.abort()
        deadline = max(deadline, time.monotonic()) + _GRACE
        self._await_clients(deadline)
        roster.shut()
        roster.join(deadline)
        for client in waiting:
            client.join(deadline - time.monotonic())
        with self._lock:
            self._state = _State.STOPPED
            listeners = list(self._listeners)
        for listener in listeners:
            listener.close()
        for listener in listeners:
            listener.join(deadline - time.monotonic())
        self._poller.close()
        self._poller.join(deadline - time.monotonic())
        for mailbox in (self._starter, self._notifier):
            if mailbox is not None:
                mailbox.close(drop=False)
                mailbox.join(deadline - time.monotonic())
        exits.unregister(self)
        self._finished.set()

    def _close_clients(self, waiting: Sequence[Client], until: float) -> None:
        """Close every client, one that is behind when its replays are over, or time is up.

        So the last lines of a process that is ended reach a viewer that came late.
        """
        code, reason = CloseCode.GOING_AWAY, "server going away"
        late: list[Client] = []
        for client in (*self._roster.everybody, *waiting):
            if self._replays.holds(client):
                late.append(client)
            else:
                client.close(code, reason)
        while late:
            now = time.monotonic()
            for client in late:
                if now >= until or not self._replays.holds(client):
                    client.close(code, reason)
            if now >= until:
                return
            late = [client for client in late if self._replays.holds(client)]
            self._wake.wait(min(until, self._replays.next_turn()) - now)  # woken by room
            self._wake.clear()
            self._replay()

    def _await_clients(self, deadline: float) -> None:
        self._roster.settle(admit=False)
        while self._roster.everybody and (left := deadline - time.monotonic()) > 0:
            self._wake.wait(left)  # woken when a client is gone
            self._wake.clear()
            self._roster.settle(admit=False)
