"""The life of a hub: its thread, the clients it has, its start and its end.

Must not know what is published or how it is delivered, beyond handing it on.

    NEW ──start/run──> RUNNING ──stop──> STOPPING ──> CLOSING ──> STOPPED ──start──> RUNNING

In STOPPING the `at_stop` functions run and everything is still delivered, so that a
process that is ended gets its last words out. CLOSING refuses new messages, delivers
what is queued, closes every client with 1001 and joins every thread.

The hub thread is never the main thread: no signal handler runs on it, and none can cut
what it is in the middle of. The thread that ends a hub is there from its start: `stop`
starts none, so that a signal handler may call it, and so may an interpreter that ends.
"""

from __future__ import annotations

import enum
import functools
import itertools
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from .. import threads
from ..access.authenticators import said_yes
from ..config import HubConfig
from ..connection.client import Client
from ..connection.poller import Poller
from ..connection.writer_starter import Starter
from ..errors import CloseCode, HubNotRunning, WsHubError
from ..log import get_logger
from ..protocol.names import channel_rule, process_rule
from ..protocol.publication import Publication
from ..reentrant import Bell, Event, Intake, Lock, nested
from . import exits, prefork
from .callbacks import Callbacks, guarded
from .clients import Members
from .dispatcher import Dispatcher
from .history import History
from .listener import Listener
from .mailbox import Mailbox
from .pacing import Pacing
from .replay import Replays
from .stats import Counters
from .stop_hooks import LastWords
from .subscriptions import Channels

__all__ = ["Delivery", "Lifecycle"]

logger = get_logger(__name__)

_TURN_ITEMS = 1024
_TURN_BYTES = 1024 * 1024
_LEAST_TURN_BYTES = 64 * 1024
_ENVELOPE = 512  # bytes that an item costs beside its text, at most about
_MAX_NEWS = 1_000_000
_GRACE = 1.0  # seconds for what was told to end, beyond the close timeout
_RETRY = 1.0  # seconds until what has failed is tried again
_SHOWN = 5  # of what an end waits for, named in the log

Item = Publication | Callable[[], object]


class _State(enum.Enum):
    NEW = "not started"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Delivery:
    """A publication in the hub's queue, for receivers that are known when its turn comes.

    Args:
        publication: what they get.
        deliver: called with it on the hub thread.
    """

    publication: Publication
    deliver: Callable[[Publication], object]

    def __call__(self) -> None:
        """Deliver it."""
        self.deliver(self.publication)


class Lifecycle:
    """What Hub is built on: everything that happens on the hub's own thread."""

    def __init__(self, config: HubConfig) -> None:
        self._config = config
        self._callbacks = Callbacks(lambda: self._counters.add("callback_errors"))
        self._call = self._callbacks.call
        own = None if config.channel_name is None else self._is_name
        self._is_channel = channel_rule(own)
        self._process_rule = process_rule(own)
        # A rule is looked up for every message; matching patterns each time would cost
        # more than delivering it.
        self._rule_for = functools.lru_cache(4096)(config.rule_for)
        self._parent: int | None = None  # the process that this hub runs in, if not this one
        self._warned = False  # of that, once
        # An eighth of an outbox: see `pacing` for why.
        self._turn_bytes = min(_TURN_BYTES, max(config.outbox_bytes // 8, _LEAST_TURN_BYTES))
        self._renew_lock()
        self._reset()
        threads.forget_after_fork(self)

    def _renew_lock(self) -> None:
        # guards: _state, _listeners, _claimed. The first in the order: never taken while
        # another lock is held.
        self._lock = Lock()

    def _reset(self) -> None:
        """Be as new. Under the lock, unless nobody else knows this hub yet."""
        self._listeners: set[Listener] = set()
        self._last_words = LastWords()
        self._bell = Bell()  # what the hub thread sleeps on; rung by whoever has news for it
        # guards: itself; filled by any thread, which waits while it is full; emptied by
        # the hub thread. Holds publications and, in their place among them, calls.
        config = self._config
        self._broadcasts: Intake[list[Publication] | Callable[[], object]] = Intake(
            self._bell, config.queue_size, functools.partial(_slots_of, config)
        )
        self._pacing = Pacing()
        self._accepting = False  # written by the hub thread and by start
        self._admitting = True  # written by drain; read by the hub thread
        self._closing = False  # written by the stop thread; read by the hub thread
        self._claimed = False  # whether its end is somebody's to see to: the hub thread's
        self._finished = Event()
        self._thread: threading.Thread | None = None  # where the hub lives
        self._owns_thread = False  # whether that thread is ours, and ends with the hub
        self._notifier: Mailbox[tuple[Callable[[str], Any], str]] | None = None
        self._starter: Starter | None = None
        self._stopper: Mailbox[Event] | None = None
        self._counters = Counters()
        self._channels: Channels[Any] = Channels(
            functools.partial(self._notify, self._config.on_first_subscriber),
            functools.partial(self._notify, self._config.on_last_unsubscribe),
        )
        self._members = Members(self._config, self._channels, self._counters, bell=self._bell)
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
            awake=self._bell.ring,
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
        self._state = _State.NEW  # last: where this was interrupted, the next start does it again

    def forget(self) -> None:
        """Start clean in a forked child: threads, locks and connections are the parent's.

        Threads: the only one there is, right after the fork.
        """
        if self._state in (_State.RUNNING, _State.STOPPING):
            self._parent, self._warned = os.getppid(), False
        self._callbacks.forget()
        self._renew_lock()
        self._reset()

    # --- any thread ------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether messages are delivered and, unless it drains, clients admitted.

        Threads: any.
        """
        return self._state is _State.RUNNING

    @property
    def config(self) -> HubConfig:
        """The settings.

        Threads: any.
        """
        return self._config

    def start(self) -> Self:
        """Run the hub on a background thread; return it. No change when it runs already.

        A hub that is stopping has ended first, and starts anew. Raises WsHubError where
        that cannot be waited for: on a thread that its end waits for (a callback, a
        signal handler within a call of the hub), or because it takes too long, ConfigError
        under the monkey-patching of gevent or eventlet.

        Threads: any; waits for the end of a stop that is under way.
        """
        threads.check_real("a hub")
        while True:
            with self._lock:
                state, finished = self._state, self._finished
            if state is _State.RUNNING:
                return self
            if state is _State.STOPPING:
                self._await_end(finished)
                continue
            self._begin(launch=True)  # or another thread was faster

    def _await_end(self, finished: Event) -> None:
        bound = self._bound
        if self._is_awaited():
            raise WsHubError("the hub is stopping, and cannot end before this call returns")
        if not finished.wait(bound):
            raise WsHubError(
                f"the hub has not stopped within {bound:g} s: it waits for {self._awaited()}"
            )

    def run(self) -> None:
        """Run the hub until `stop()` is called, on the calling thread where that may be.

        The main thread waits instead, for a hub thread: a signal handler of its own could
        cut what that is in the middle of. KeyboardInterrupt ends the hub as `stop()` does,
        and is raised again. Raises WsHubError when it runs already,
        ConfigError as `start` does.

        Threads: any, one at a time; blocks.
        """
        threads.check_real("a hub")
        here = threading.current_thread() is not threading.main_thread()
        try:
            begun = self._begin(launch=not here)
            if begun and not here:
                self._finished.wait()
        except BaseException:
            self._stop(self._bound)
            raise
        if not begun:
            raise WsHubError("the hub is running already, or has yet to stop")
        if here:
            self._thread = threading.current_thread()
            self._loop(self._finished)

    def stop(self, timeout: float | None = None) -> None:
        """End everything: `at_stop` functions, then clients with 1001, then all threads.

        Idempotent. Waits until it is done, at most `timeout` seconds (None: twice the
        close timeout and some); from a callback of this hub, from its own thread and from
        a signal handler or a finaliser that interrupts a call of the hub, returns at once
        while the hub ends.

        Threads: any, callbacks and signal handlers included.
        """
        if not self._is_awaited():
            self._stop(self._bound if timeout is None else timeout)
        else:
            self._stop(None)

    def _is_awaited(self) -> bool:
        """Say whether the end of the hub waits for the calling thread."""
        return self._is_hub_thread() or self._callbacks.inside or nested()

    def _is_hub_thread(self) -> bool:
        return self._thread is not None and self._thread.ident == threading.get_ident()

    @property
    def _bound(self) -> float:
        return 2 * self._config.close_timeout + 5 * _GRACE

    def _stop(self, bound: float | None) -> None:
        """Ask for the end, and wait for it so long."""
        with self._lock:
            if self._state in (_State.NEW, _State.STOPPED):
                return
            self._state = _State.STOPPING  # before the next line: see `_begin`
            stopper, finished = self._stopper, self._finished  # of this life, as the rest
            thread, owned = self._thread, self._owns_thread
        # By each call: one that was interrupted is made good by the next.
        if stopper is not None:
            stopper.post(finished)
        if bound is None:
            return
        if not finished.wait(bound):
            logger.warning(
                "the hub has not ended within %g s: it waits for %s", bound, self._awaited()
            )
        elif owned:
            threads.join(thread, _GRACE)

    def _awaited(self) -> str:
        """Name what an end waits for: callbacks that run, and clients."""
        running = self._callbacks.running()
        found = [name if client is None else f"{name} for {client!r}" for name, client in running]
        busy = {client for _, client in running}
        found += [
            f"{client!r}, which has not answered the Close frame"
            for client in self._roster.remaining()
            if client not in busy
        ]
        if len(found) > _SHOWN:
            found[_SHOWN:] = [f"{len(found) - _SHOWN} more"]
        return "; ".join(found) or "its own thread"

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

    def _not_running(self) -> HubNotRunning:
        """Return what to raise in place of publishing."""
        if self._parent is None:
            return HubNotRunning("the hub is not running: start() it before publishing")
        text = (
            f"the hub runs in process {self._parent}, of which this one, {os.getpid()}, is a "
            "fork: start() it here as well"
        )
        if not self._warned:
            self._warned = True
            logger.warning("%s. What is published here reaches nobody", text)
        return HubNotRunning(text)

    def _is_name(self, name: str) -> bool:
        """Ask the rule for names that was set; an exception is a no."""
        rule = self._config.channel_name
        assert rule is not None
        return said_yes("channel_name", lambda: bool(self._call(rule, name, default=False)))

    def _guard(self, function: Callable[..., Any], *args: Any, default: Any = None) -> Any:
        return guarded(self._counters, function, *args, default=default)

    def _notify(self, function: Callable[[str], Any] | None, channel: str) -> None:
        # Under the channel map's lock: passes the news on, so that its order is true.
        if function is not None and self._notifier is not None:
            self._notifier.post((function, channel))

    def _start_later(
        self, name: str, target: Callable[[], None], step: Callable[[], bool]
    ) -> threads.Later | None:
        if self._starter is None:
            return None
        thread = threads.Later(name, target, step)
        self._starter.post(thread)
        return thread

    def _keep_listener(self, listener: Listener) -> None:
        with self._lock:
            self._listeners.add(listener)

    def _forget_listener(self, listener: Listener) -> None:
        if self._channels.busy:  # a finaliser closes it, in the middle of a change of the map
            # Beyond the bound: there are no more of these than listeners.
            self._broadcasts.force(functools.partial(self._forget_listener, listener))
            return
        self._channels.leave(listener)
        with self._lock:
            self._listeners.discard(listener)

    def _begin(self, *, launch: bool = False) -> bool:
        """Begin a life, on a thread of its own or on the caller's; False when there is one.

        Where that fails or is interrupted, the hub is ended.
        """
        config, begun = self._config, False
        try:
            with self._lock:
                if self._state in (_State.RUNNING, _State.STOPPING):
                    return False
                if self._state is _State.STOPPED:
                    self._reset()
                begun = True
                self._state = _State.RUNNING
            # The hub thread must not wait until a thread has started: another one does.
            self._starter = Starter("ws-hub:starter")
            self._stopper = Mailbox("ws-hub:stop", self._wind_down, 1)
            if config.on_first_subscriber is not None or config.on_last_unsubscribe is not None:
                self._notifier = Mailbox("ws-hub:notify", lambda news: self._call(*news), _MAX_NEWS)
            exits.register(self)
            prefork.watch()
            self._accepting = True
            if self._state is _State.STOPPING:  # asked for before there was whom to ask
                self._stopper.post(self._finished)
            self._parent = None
            if launch:
                self._owns_thread = True
                self._thread = threads.start("ws-hub:run", self._loop, self._finished)
        except BaseException:  # no more threads, or KeyboardInterrupt
            if begun:
                self._take_back()
            raise
        return True

    def _take_back(self) -> None:
        """End a hub whose start has failed or was interrupted."""
        with self._lock:
            self._state = _State.STOPPING
            claimed, self._claimed = self._claimed, True
        if claimed:  # the thread is there, although its start was not seen to its end
            self._stop(None)
        else:
            self._end()

    # --- stop thread -----------------------------------------------------------------------

    def _wind_down(self, finished: Event) -> None:
        try:
            self._last_words.run(self._call)
        finally:
            if finished is self._finished:  # not one that was left behind by the life before
                self._closing = True
                self._bell.ring()

    # --- hub thread ------------------------------------------------------------------------

    def _loop(self, finished: Event) -> None:
        with self._lock:
            # Its start was interrupted, and is taken back; there may be another life by now.
            if self._claimed or finished is not self._finished:
                return
            self._claimed = True
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
        left = self._keep_house(now) - now
        # Woken by whoever fills a queue; otherwise in time for pings and old history.
        left = min(left, threads.longest_wait()) if timeout is None else min(left, timeout)
        self._bell.wait(left)
        self._guard(self._work)
        self._guard(self._dispatcher.replay)  # after all that is new

    def _keep_house(self, now: float) -> float:
        """Do what is due; return when to look again, in monotonic seconds."""
        looks = self._history.expire, self._roster.beat, self._members.expire
        times = [float(self._guard(look, now, default=now + _RETRY)) for look in looks]
        return min(*times, self._replays.next_turn())

    def _work(self) -> int:
        # Messages first, then registrations, then delivery: a client that was registered
        # before a message was published is there when that message is delivered.
        items = self._collect()
        self._roster.settle(admit=self._admitting)
        for published, group in itertools.groupby(items, lambda i: isinstance(i, Publication)):
            if published:
                everybody = self._roster.everybody
                self._guard(self._dispatcher.dispatch, list(group), everybody, time.monotonic())
            else:
                for call in group:
                    self._guard(call)  # type: ignore[arg-type]  # sorted out by the key
        return len(items)

    def _collect(self) -> list[Item]:
        """Take what is queued, as much as one turn may hold."""
        items: list[Item] = []
        size = 0
        try:
            while len(items) < _TURN_ITEMS and size < self._turn_bytes:
                item = self._broadcasts.get_nowait()
                size += _size_of(item)
                if isinstance(item, list):
                    items += item
                else:
                    items.append(item)
        except queue.Empty:
            return items
        self._bell.ring()  # there may be more
        return items

    def _evict(self, target: Any) -> None:
        """Cut a client that does not read; it counts as gone from now."""
        self._roster.remove(target)
        self._channels.leave(target)
        target.evict("too slow: the outbox is full")

    def _end(self) -> None:
        """Deliver what is queued, then end every connection and every thread."""
        finished = self._finished
        try:
            self._end_all()
        finally:
            exits.unregister(self)
            with self._lock:
                self._state = _State.STOPPED  # last: from here on `start` makes all of it anew
            finished.set()

    def _end_all(self) -> None:
        self._accepting = False
        while self._guard(self._work, default=0):
            pass
        roster = self._roster
        waiting = self._members.lobby.shut()
        deadline = time.monotonic() + self._config.close_timeout
        self._close_clients(waiting, time.monotonic() + self._config.close_timeout / 2)
        self._await_clients(deadline)
        # Those as well who were cut before: nobody else ends the wait for their answer now.
        for client in (*roster.remaining(), *waiting):
            self._guard(client.abort)
        deadline = max(deadline, time.monotonic()) + _GRACE
        self._await_clients(deadline)
        roster.shut()
        late: list[Client | Listener] = [*roster.join(deadline)]
        late += [each for each in waiting if not each.join(deadline - time.monotonic())]
        with self._lock:
            listeners = list(self._listeners)
        for listener in listeners:
            listener.close()
        late += [each for each in listeners if not each.join(deadline - time.monotonic())]
        for helper in (self._notifier, self._stopper):
            if helper is not None:
                helper.close(drop=False)
                helper.join(deadline - time.monotonic())
        self._poller.close()
        self._poller.join(deadline - time.monotonic())
        if self._starter is not None:
            self._starter.close()
            self._starter.join(deadline - time.monotonic())
        if late:
            logger.warning("left behind at the end of the hub: %s still runs", self._awaited())

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
                self._guard(client.close, code, reason)
        while late:
            now = time.monotonic()
            for client in late:
                if now >= until or not self._replays.holds(client):
                    self._guard(client.close, code, reason)
            if now >= until:
                return
            late = [client for client in late if self._replays.holds(client)]
            self._bell.wait(min(until, self._replays.next_turn()) - now)  # woken by room
            self._guard(self._dispatcher.replay)

    def _await_clients(self, deadline: float) -> None:
        self._roster.settle(admit=False)
        while self._roster.everybody and (left := deadline - time.monotonic()) > 0:
            self._bell.wait(left)  # woken when a client is gone
            self._roster.settle(admit=False)


def _slots_of(config: HubConfig, item: list[Publication] | Callable[[], object]) -> int:
    """Return what something in the hub's queue takes of its room for `queue_size` messages."""
    return 1 + _size_of(item) * config.queue_size // config.queue_bytes_or_default


def _size_of(item: list[Publication] | Callable[[], object]) -> int:
    """Return what something in the hub's queue counts for, in bytes."""
    if isinstance(item, Delivery):
        return len(item.publication.text) + _ENVELOPE
    if not isinstance(item, list):
        return _ENVELOPE
    if len(item) == 1:  # nearly always
        return len(item[0].text) + _ENVELOPE
    size = _ENVELOPE * len(item)
    for each in item:
        size += len(each.text)
    return size
