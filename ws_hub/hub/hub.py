"""The hub: one thread that consumes three queues and delivers what is published.

The way of a message::

    any thread ──encode──> broadcasts ──> hub thread: number, join, deliver ──> clients
    reader thread ──subscribe──> broadcasts (its place among the messages)

One dispatching thread gives every client the messages of a channel in one order, and
a subscription a place in that order: its replay, then everything after it.

Lock order, top to bottom: hub → subscriptions → history → client (its transport). A call
that comes in on a thread that is inside another one, from a signal handler, a finaliser or
a log handler, waits for nothing; see `reentrant`.

The hub thread is never the main thread: no signal handler runs on it, and none can cut
what it is in the middle of.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import itertools
import logging
import os
import queue
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Never, Self, TextIO

from .. import threads
from ..access.admission import Admission, Decision
from ..access.authenticators import is_permitted, user_text
from ..access.contexts import Context
from ..backplane.addresses import VARIABLE
from ..backplane.bus import Backplane, BusStats, Notice, NoticeKind
from ..backplane.publisher import ALL_CLIENTS, NOBODY, AbstractPublisher, AllClients, client_ids
from ..backplane.store import HistoryPage, Page, Span
from ..config import ChannelRule, HubConfig
from ..connection.backlog import Explanation
from ..connection.client import Client
from ..connection.connection import Connection
from ..connection.transport import Inherited, Transport
from ..errors import (
    CloseCode,
    ConfigError,
    ConnectionClosed,
    HistoryError,
    HubFull,
    HubNotRunning,
    LimitExceeded,
    WaitTimeout,
    WsHubError,
    excerpt,
)
from ..log import get_logger
from ..mask.masks import MaskEnv
from ..process.log_file import ProcessLog
from ..process.log_reader import LogMatches, LogPage, LogSource
from ..process.process import HasFileno, Process, find_process, run_process
from ..process.terms import GRACE
from ..process.writers import log_handler, writer
from ..protocol.filters import AnyFilter, filter_of
from ..protocol.frames import close_frame
from ..protocol.handshake import Answer
from ..protocol.json_text import fast_encoder, json_encoder
from ..protocol.message import AnyMessage, Encoder, Message, MessageType, as_message, decode
from ..protocol.names import (
    AnyId,
    channel_rule,
    channel_text,
    check_channel,
    id_text,
    process_rule,
    refuse_channel,
)
from ..protocol.presence import Presence
from ..protocol.publication import (
    NO_LINE,
    Delivery,
    Key,
    Output,
    Publication,
    Stamp,
    publish_all,
)
from ..protocol.requests import Publish, ReadHistory, ShowPresence, Subscribe, error
from ..reentrant import Event, Lock, ReentrantQueue, Wakeup, nested
from ..validation import (
    check_bound,
    check_function,
    check_named,
    check_position,
    check_positions,
    check_timeout,
    posix_time,
)
from ..wsgi.app import handle
from ..wsgi.attach import attach
from ..wsgi.servers import log_once
from . import exits, prefork, shutdown
from .attempts import Attempts
from .dispatcher import Activation
from .handlers import (
    MISSING,
    Handlers,
    OnChannel,
    OnConnect,
    OnDisconnect,
    OnMessage,
    OnName,
    OnStart,
)
from .items import (
    Call,
    Fill,
    Item,
    Missing,
    Notices,
    PresenceQuery,
    Publications,
    Queues,
    RoomWait,
    UserPublication,
    Watched,
    size_of,
    slots_of,
)
from .keyed import misplaced_key
from .life import Life, State
from .listener import Listener
from .logs import Logs
from .replay import HUB_THREAD
from .stats import HubStats
from .statuses import status_of
from .subscriptions import Full
from .survey import Instance, Question, Report
from .visitors import refuse_reader

__all__ = ["Hub"]

logger = get_logger(__name__)

_numbers = itertools.count(1)
_LISTENER_MESSAGES = 16_384
# Items in the hub's queue, with which clients may add to it. Each subscription costs a write
# of the hub thread; what is published is joined, the better the more it is.
_MOST_ASKED = 8
_MOST_PUBLISHED = 128
_TURN_ITEMS = 1024
_TURN_BYTES = 1024 * 1024
_LEAST_TURN_BYTES = 64 * 1024
_STOPPED_BEFORE = "the hub stopped while this was subscribed: start() it, and call listen again"
# What waits for a commit, and what is in the hands of the recorder, is on its way to the same
# outboxes as what waits in the hub's queue: see `pacing`. In bytes it is less, because a program
# keeps this queue full, and each other message waits as long as all that is in it takes.
_INTAKE_PART, _INTAKE_BYTES_PART = 4, 8
_RETRY = 1.0  # seconds until what has failed is tried again


class Hub(AbstractPublisher):
    """Keeps the connections and passes on what is published.

    Usable from any thread, with no application or request context. It owns its
    clients, channels and threads; `start` or `run` brings it to life, `stop` ends all.

    Args:
        config: the settings; `HubConfig()` when left out.
        backplane: in place of `HubConfig.backplane`.

    Raises TypeError for another kind of settings, ConfigError for another backplane.
    """

    def __init__(
        self, config: HubConfig | None = None, *, backplane: Backplane | str | None = None
    ) -> None:
        super().__init__()
        config = HubConfig() if config is None else _checked(config)
        self._backplane = backplane
        self._parent: int | None = None  # the process that this hub runs in, if not this one
        self._warned = False  # of that, once
        self._handlers = Handlers(config)  # for all lives
        self._inside = _Inside(self)
        self._context: Callable[[], Context] = contextlib.nullcontext
        self.attempts = Attempts(self)
        self.logs = Logs(lambda: self._config.logs, self.history, self._inside.states)
        self._renew_lock()
        self._set_config(config)
        self._life = self._new_life()  # replaced whole, by `start` under the lock
        threads.forget_after_fork(self)
        exits.made.add(self)

    def _set_config(self, config: HubConfig) -> None:
        if self._backplane is not None:
            config = replace(config, backplane=self._backplane)
        elif config.backplane is None and os.environ.get(VARIABLE):
            config = replace(config, backplane=os.environ[VARIABLE])
        self._config = config
        own = None if config.channel_name is None else self._is_name
        self._is_channel = channel_rule(own)
        default = config.json_default
        to_json = fast_encoder() if default is None else json_encoder(default)
        self._encoder = Encoder(to_json, process_rule(own))
        # A rule is looked up for every message; matching patterns each time would cost
        # more than delivering it.
        self._rule_for = functools.lru_cache(4096)(config.rule_for)
        # An eighth of an outbox: see `pacing` for why.
        self._turn_bytes = min(_TURN_BYTES, max(config.outbox_bytes // 8, _LEAST_TURN_BYTES))

    def _renew_lock(self) -> None:
        # guards: _life, and its `state`, `listeners` and `claimed`. The first in the order:
        # never taken while another lock is held.
        self._lock = Lock()

    def _new_life(self) -> Life:
        config, wakeup, intake = self._config, Wakeup(), Wakeup()
        places, most_bytes = config.queue_size, config.queue_bytes_or_default
        kept_places, kept_bytes = places // _INTAKE_PART or 1, most_bytes // _INTAKE_BYTES_PART or 1
        slots = functools.partial(slots_of, places, most_bytes)
        kept_slots = functools.partial(slots_of, kept_places, kept_bytes)
        queues = Queues(
            wakeup,
            registers=ReentrantQueue(wakeup),
            unregisters=ReentrantQueue(wakeup),
            broadcasts=ReentrantQueue(wakeup, places, slots),
            intake=(intake, ReentrantQueue(intake, kept_places, kept_slots)),
        )
        return Life(config, queues, self._inside, self._handlers)

    def forget(self) -> None:
        """Start clean in a forked child: threads, locks and connections are the parent's.

        Threads: the only one there is, right after the fork.
        """
        if self._life.state not in (State.NEW, State.STOPPED):
            self._parent, self._warned = os.getppid(), False
        self._renew_lock()
        self._life = self._new_life()
        self.logs.forget()

    # --- hub thread ------------------------------------------------------------------------

    def _loop(self, life: Life) -> None:
        with self._lock:
            if life.claimed:  # its start was interrupted, and is taken back
                return
            life.claimed = True
        try:
            while life.state is not State.CLOSING:
                self._turn()
        finally:  # KeyboardInterrupt comes by here too
            with self._lock:
                if life.state is not State.CLOSING:
                    life.state = State.STOPPING
            life.at_stop.run(life.callbacks.call)
            self._end(life)

    def _turn(self, timeout: float | None = None) -> None:
        """Wait until there is something to do, at most `timeout` seconds, and do it."""
        life, now = self._life, time.monotonic()
        left = self._do_due(life, now) - now
        # Woken by each put to a queue; otherwise in time for pings and old history.
        life.wakeup.wait(min(left, threads.longest_wait() if timeout is None else timeout))
        life.guard(self._drain, life)
        life.guard(life.dispatcher.replay)  # after all that is new

    def _do_due(self, life: Life, now: float) -> float:
        """Do what is due; return when to look again, in monotonic seconds."""
        looks = life.history.expire, life.registry.beat, life.clients.expire
        times = [float(life.guard(look, now, default=now + _RETRY)) for look in looks]
        keyed = life.stores.keyed
        if keyed.next_expiry <= now:
            life.guard(keyed.expire, now)
        if life.state is State.RUNNING:  # later each client would tell all others that it leaves
            if life.presence.next_turn() <= now:
                life.guard(life.presence.turn, now, life.dispatcher.send)
            times.append(life.presence.next_turn())
        if life.keys is not None:
            if life.keys.next_turn() <= now:
                life.guard(life.keys.turn, now)
            times.append(life.keys.next_turn())
        return min(*times, keyed.next_expiry, life.replays.next_turn())

    def _drain(self, life: Life) -> int:
        """Do what waits in the three queues, a turn's worth; return how many items that were.

        Publications are taken first and delivered last: a client whose registration was
        queued before a message was published gets that message.
        """
        items = self._take(life)
        # Departures first: a client that is new finds the room that another one has left.
        while not life.unregisters.empty():
            life.registry.unregister(life.unregisters.get_nowait())
        while not life.registers.empty():
            life.registry.register(life.registers.get_nowait(), admit=life.state.admits)
        for kind, run in itertools.groupby(items, type):
            if kind is Publication:
                clients = life.registry.snapshot
                life.guard(life.dispatcher.dispatch, list(run), clients, time.monotonic())
            else:
                for item in run:
                    life.guard(self._do, life, item)
        return len(items)

    def _take(self, life: Life) -> list[Item]:
        """Take what is in the broadcast queue, as much as one turn may hold."""
        items: list[Item] = []
        size = 0
        try:
            while len(items) < _TURN_ITEMS and size < self._turn_bytes:
                item = life.broadcasts.get_nowait()
                size += size_of(item)
                if isinstance(item, Publications):
                    items += item.each
                else:
                    items.append(item)
        except queue.Empty:
            return items
        life.wakeup.signal()  # there may be more
        return items

    def _do(self, life: Life, item: Item) -> None:
        """Do what an item asks for that is no publication for a channel or all clients."""
        match item:
            case Activation():
                self._activate(life, item)
            case UserPublication():
                clients = life.clients.users.of(item.user_id)
                life.dispatcher.dispatch([item.publication], clients, time.monotonic())
            case Watched():
                self._deliver_watched(life, item)
            case Notices():
                for message in item.messages:
                    item.connection.notify(message)
            case PresenceQuery():
                self._answer_presence(life, item)
            case RoomWait():
                life.replays.when_near(item.channel, item.reached)
            case Call():
                item.function()
            case Fill():
                life.dispatcher.fill(item.channel, item.filled, time.monotonic())
            case Missing():
                life.dispatcher.leave_out(item.channel, item.seq)
            case _:
                raise TypeError(f"the hub thread does nothing for {excerpt(item)}")

    def _deliver_watched(self, life: Life, item: Watched) -> None:
        try:
            dispatch, clients = life.dispatcher.dispatch_watched, life.registry.snapshot
            item.outcome.append(dispatch(item.each, clients, time.monotonic()))
        finally:
            item.done.set()

    def _activate(self, life: Life, activation: Activation) -> None:
        """Make a subscription live, at the cost of its client."""
        began, presence = time.thread_time(), ""
        subscription = activation.subscription
        if self._rule_for(subscription.channel).presence:
            presence = life.presence.enter(subscription, time.monotonic())
        life.dispatcher.activate(activation, presence)
        if isinstance(subscription.subscriber, Connection):
            self._charge(subscription.subscriber, began, len(presence))

    @staticmethod
    def _charge(connection: Connection, began: float, size: int) -> None:
        """Charge a client the hub thread's time since then, and bytes that it was sent."""
        connection.charge_processing(HUB_THREAD * (time.thread_time() - began))
        if size:
            connection.charge_bytes(size)

    def _answer_presence(self, life: Life, query: PresenceQuery) -> None:
        """Say who is present, as the subscribers of the channel know it, at the client's cost."""
        began, channel = time.thread_time(), query.request.channel
        state = life.presence.state(channel)
        life.dispatcher.answer_presence(query.connection, query.request.id, channel, state)
        self._charge(query.connection, began, len(state))

    def _end(self, life: Life) -> None:
        """Deliver what is queued, then end every connection and every thread."""
        try:
            with self._lock:
                life.state = State.CLOSING  # nothing is accepted from here on
            while life.guard(self._drain, life, default=0):
                pass
            if life.recorder is not None:
                shutdown.await_recorder(life, functools.partial(self._drain, life))
            if life.relay is not None:
                life.guard(life.relay.close, shutdown.GRACE)
            with self._lock:
                listeners = list(life.listeners)
            ended = shutdown.end(life, functools.partial(self._drain, life), listeners)
            if not ended:
                logger.warning(
                    "left behind at the end of the hub: %s still runs", shutdown.awaited(life)
                )
        finally:
            exits.unregister(self)
            life.ring.close()
            with self._lock:
                life.state = State.STOPPED  # last: from here on `start` makes a new life
            life.finished.set()

    # --- any thread: start and stop --------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether messages are delivered and, unless it drains, clients admitted.

        Threads: any.
        """
        return self._life.state.open

    @property
    def started(self) -> bool:
        """Whether it was started in this process, also if it has stopped since.

        Threads: any.
        """
        return self._life.state is not State.NEW

    @property
    def draining(self) -> bool:
        """Whether `drain` was called: nobody is admitted any more.

        Threads: any.
        """
        return self._life.drained

    @property
    def config(self) -> HubConfig:
        """The settings.

        Threads: any.
        """
        return self._config

    def configure(self, config: HubConfig) -> None:
        """Replace the settings, where they are known later than the hub is made.

        Raises WsHubError while the hub runs: stop it first.

        Threads: any; does not wait.
        """
        with self._lock:
            life = self._life
            if life.state not in (State.NEW, State.STOPPED):
                raise WsHubError("cannot configure() a hub that runs: stop() it first")
            self._set_config(_checked(config))
            self._handlers.configure(config)
            self._life = self._new_life()
            if life.state is State.NEW:
                self._life.at_stop = life.at_stop  # what waits for the first start

    def set_context(self, context: Callable[[], AbstractContextManager[object]]) -> None:
        """Set the context of callbacks that are for no client: it is entered around each call.

        For a web framework, as Flask's `app.app_context`. Callbacks that are for a client run in
        the context of its handshake instead, where the framework has set one.

        Threads: any; does not wait.
        """
        check_function("context", context, "")
        self._context = context

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
                life = self._life
                state = life.state
            if state.open:
                return self
            if state in (State.STOPPING, State.CLOSING):
                self._await_end(life)
                continue
            self._begin(launch=True)  # or another thread was faster

    def _await_end(self, life: Life) -> None:
        bound = self._bound
        if self._is_awaited(life):
            raise WsHubError(
                "cannot start() the hub: it is stopping, and cannot end before this call returns. "
                "Call start() on another thread, or later"
            )
        if not life.finished.wait(bound):
            raise WsHubError(
                f"cannot start() the hub: it has not stopped within {bound:g} s, and waits for "
                f"{shutdown.awaited(life)}. Have that end, or use another Hub"
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
            life = self._life
            if begun and not here:
                life.finished.wait()
        except BaseException:
            self._stop(self._bound)
            raise
        if not begun:
            raise WsHubError(
                "cannot run() the hub: it is running already, or has yet to stop. Call either "
                "run() or start(), once"
            )
        if here:
            life.thread = threading.current_thread()
            self._loop(life)

    def _begin(self, *, launch: bool = False) -> bool:
        """Begin a life, on a thread of its own or on the caller's; False when there is one.

        Where that fails or is interrupted, the hub is ended.
        """
        begun = False
        try:
            with self._lock:
                if self._life.state not in (State.NEW, State.STOPPED):
                    return False
                if self._life.state is State.STOPPED:
                    self._life = self._new_life()
                life = self._life
                begun = True
                life.state = State.RUNNING
            life.launch(self._wind_down)
            exits.register(self)
            prefork.watch()
            if life.state is State.STOPPING:  # asked for before there was a thread to ask
                self._ask_for_the_end(life)
            self._parent = None
            if launch:
                life.owns_thread = True
                life.thread = threads.start("ws-hub:run", self._loop, life)
            life.tell_start()
        except BaseException:  # no more threads, or KeyboardInterrupt
            if begun:
                self._take_back(life)
            raise
        return True

    def _take_back(self, life: Life) -> None:
        """End a hub whose start has failed or was interrupted."""
        with self._lock:
            life.state = State.STOPPING
            claimed, life.claimed = life.claimed, True
        if claimed:  # the thread is there, although its start was not seen to its end
            self._stop(None)
        else:
            self._end(life)

    def stop(self, timeout: float | None = None) -> None:
        """End everything: `at_stop` functions, then clients with 1001, then all threads.

        Idempotent. Waits until it is done, at most `timeout` seconds (None: twice the
        close timeout and some); from a callback of this hub, from its own thread and from
        a signal handler or a finaliser that interrupts a call of the hub, returns at once
        while the hub ends.

        Threads: any, callbacks and signal handlers included.
        """
        check_timeout("timeout", timeout)
        if not self._is_awaited(self._life):
            self._stop(self._bound if timeout is None else timeout)
        else:
            self._stop(None)

    def _is_awaited(self, life: Life) -> bool:
        """Say whether the end of a life waits for the calling thread."""
        return self._is_hub_thread() or life.callbacks.inside or nested()

    def _is_hub_thread(self) -> bool:
        thread = self._life.thread
        return thread is not None and thread.ident == threading.get_ident()

    @property
    def _bound(self) -> float:
        return 2 * self._config.close_timeout + 5 * shutdown.GRACE

    def _stop(self, bound: float | None) -> None:
        """Ask for the end, and wait for it so many seconds."""
        with self._lock:
            life = self._life
            if life.state in (State.NEW, State.STOPPED):
                return
            if life.state is not State.CLOSING:
                life.state = State.STOPPING  # before the next line: see `_begin`
        # By each call: one that was interrupted is made good by the next.
        self._ask_for_the_end(life)
        if bound is None:
            return
        if not life.finished.wait(bound):
            logger.warning(
                "the hub has not ended within %g s: it waits for %s",
                bound,
                shutdown.awaited(life),
            )
        elif life.owns_thread:
            threads.join(life.thread, shutdown.GRACE)

    def _ask_for_the_end(self, life: Life) -> None:
        if life.stopper is not None:
            life.stopper.post(life)

    def drain(self, timeout: float = 10.0, *, spread: float | None = None) -> None:
        """Let all clients go, for a restart without a storm; `stop()` comes after it.

        From now on a handshake gets 503 with Retry-After. Clients are closed with 1012 in
        batches over `timeout` seconds, each told to come back at a moment of its own of the
        next `spread` seconds (None: five, or more for more than a thousand clients).
        Clients that are still connected get what is published. Returns when the last is closed,
        or the hub stops; no change when the hub does not run. Raises ValueError for a
        negative time. From a signal handler within a call of the hub, all are told at once.

        Threads: any; blocks at most `timeout` and a moment.
        """
        if timeout is None:
            raise TypeError("timeout must be a number of seconds, not None: drain(10.0)")
        check_timeout("timeout", timeout)
        check_timeout("spread", spread)
        if nested():
            timeout = 0.0  # this thread may have half done what the hub thread waits for
        if timeout < 0 or (spread is not None and spread < 0):
            raise ValueError(
                f"timeout={timeout} and spread={spread} of drain() must not be negative"
            )
        with self._lock:
            life = self._life
            if not life.state.open:
                return
            life.state, life.drained = State.DRAINING, True
        registry = life.registry
        self._settle(life)
        if spread is None:
            spread = shutdown.spread_of(len(registry))
        departures = shutdown.Departures(time.monotonic(), timeout, spread, random.random)
        while present := registry.connections():
            now = time.monotonic()
            for connection, reason in departures.due(now, present):
                connection.close(CloseCode.RESTART, reason)
            pause = departures.pause(now)
            if not pause or not life.state.open or life.finished.wait(pause):
                return

    def _settle(self, life: Life) -> None:
        """Wait until every client that was admitted before this is registered."""
        settled = Event()
        try:
            # In a turn of the hub, calls come after the registrations.
            life.broadcasts.put(Call(settled.set), not nested(), self._config.close_timeout)
        except queue.Full:
            return  # a client that is registered later is met by a later batch, or by stop()
        settled.wait(0.0 if nested() else self._config.close_timeout)  # set by the hub thread

    def at_stop(self, function: Callable[[], object]) -> Callable[[], None]:
        """Call a function once when the hub stops, while it still delivers.

        Returns what takes that back. What the function raises is logged. Raises TypeError for
        what cannot be called, ConfigError for a coroutine function. A thread that waits for
        this must be a daemon: at its end Python waits for all others before it stops the hub.

        Threads: any; the function runs on a thread of the hub's.
        """
        check_function("function", function, "")
        return self._life.at_stop.add(function)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    # --- stop thread -----------------------------------------------------------------------

    def _wind_down(self, life: Life) -> None:
        try:
            life.at_stop.run(life.callbacks.call)
        finally:
            with self._lock:
                if life.state is State.STOPPING:
                    life.state = State.CLOSING
            life.wakeup.signal()

    # --- any thread: publish (as `AbstractPublisher` has it) ---------------------------------

    def _publish(
        self,
        texts: Sequence[bytes],
        channel: str,
        timeout: float | None,
        *,
        ends_channel: bool = False,
        exclude: frozenset[int] = NOBODY,
        wait: float | None = None,
        of: Key | Output | None = None,
        payer: Connection | None = None,
        once: str = "",
    ) -> Delivery | None:
        if timeout is not None:
            check_timeout("timeout", timeout)
        if wait is not None:
            wait = check_bound("wait", wait)
            self._check_may_wait()
        rule, kept, keyed = None, False, False
        if channel != "":
            if not self._is_channel(channel):
                refuse_channel(channel)
            rule = self._rule_for(channel)
            kept, keyed = rule.numbered, rule.keyed
        publications = self._publications(texts, channel, rule)
        publications[-1].ends_channel, publications[-1].once = ends_channel, once
        if isinstance(of, Output):
            _describe(publications, of)
        key = of if isinstance(of, Key) else None
        if keyed or key is not None:
            if key is None or not keyed:
                raise misplaced_key(channel, key)
            publications[-1].key, publications[-1].deletes = key.text, key.deletes
        if exclude or payer is not None:
            for publication in publications:
                publication.payer, publication.exclude = payer, exclude
        if self._life.pacing.crowded and not publications[0].waits:
            receives = functools.partial(self._receives, channel)
            timeout = self._keep_pace(publications, receives, timeout, payer)
        if wait is not None:
            watched = Watched(tuple(publications), [], Event())
            self._enqueue(watched, timeout, channel=channel)
        else:
            # Nearly always one: then no wrapper is made.
            item = publications[0] if len(publications) == 1 else Publications(tuple(publications))
            most = None if payer is None else _MOST_PUBLISHED
            self._enqueue(item, timeout, most=most, channel=channel)
        relay = self._life.relay
        if relay is not None and not kept:
            relay.publish(channel, texts)
        return None if wait is None else self._outcome(watched, wait)

    def _publications(
        self, texts: Sequence[bytes], channel: str, rule: ChannelRule | None
    ) -> list[Publication]:
        """Return the publications of encoded messages; raises MessageEncodeError.

        The rule is the channel's; None for what is for no channel.
        """
        config = self._config
        overflow = config.broadcast_overflow if rule is None else rule.overflow
        kept = rule is not None and rule.numbered
        compresses = config.compresses if config.compression else None
        return publish_all(texts, channel, overflow, to_be_numbered=kept, compresses=compresses)

    def _check_may_wait(self) -> None:
        if self._is_hub_thread() or nested():
            raise WsHubError(
                "cannot publish with wait= within another call of the hub, as in a signal handler: "
                "leave wait out there"
            )

    def _outcome(self, item: Watched, wait: float) -> Delivery:
        """Wait until publications are dispatched; return what that did."""
        if not item.done.wait(wait):  # set by the hub thread
            raise WaitTimeout(
                f"the message is queued and was not dispatched within {wait:g} s, and may be yet: "
                "pass a longer wait, or publish less"
            )
        if not item.outcome:
            raise WsHubError(
                "the hub met an error of its own while it delivered the message, which the log "
                "has: send it again if it may come twice"
            )
        return item.outcome[0]

    def _receives(self, channel: str, connection: Connection) -> bool:
        return channel == "" or self._life.channels.has(connection, channel)

    def _keep_pace(
        self,
        publications: Sequence[Publication],
        receives: Callable[[Connection], bool],
        timeout: float | None,
        payer: Connection | None = None,
    ) -> float | None:
        """Wait for crowded receivers that read well; return what is left of the time."""
        # A thread that reads many clients is no loop, although it publishes for all of them.
        source = self._life.callbacks.connection if payer is None else payer
        wait = self._config.publish_timeout if timeout is None else timeout
        began = time.monotonic()
        size = sum([len(each.text) for each in publications])
        if (
            wait <= 0
            or self._is_hub_thread()
            or nested()
            or not self._life.pacing.is_loop(len(publications), size, began, source)
        ):
            return timeout
        # The last tenth is for the hub's queue: what is slow is no reason for HubFull.
        until = began + wait * 0.9
        for number in self._life.pacing.crowded:
            connection = self._life.registry.find(number)
            if connection is not None and receives(connection):
                self._life.readers.before_wait()
                connection.keep_pace(until - time.monotonic())
        return max(began + wait - time.monotonic(), 0.0)

    @contextlib.contextmanager
    def unpaced(self) -> Iterator[None]:
        """Publish from the calling thread, meanwhile, without being slowed to the clients.

        A client that is too slow for that misses messages, or is disconnected; see
        `HubConfig.pace_bytes`. `run_process` does so, unless it has backpressure.

        Threads: any; does not wait.
        """
        with self._life.pacing.exempt():
            yield

    def _enqueue(
        self,
        item: Item,
        timeout: float | None = None,
        *,
        most: int | None = None,
        channel: str | None = "",
    ) -> None:
        """Queue something for the hub thread, after all that this thread has queued.

        With a history store that is so for each channel, since those with history have their
        messages pass the store first; None for what comes after all of them.

        What a client has asked for comes while fewer than `most` items wait, and leaves room
        for the application. Raises HubNotRunning, and HubFull when there is no room for
        `timeout` seconds.
        Within another call of the hub on this thread, and on the hub's own, it never waits.
        """
        life = self._life
        if not life.state.accepts:
            raise self._not_running()
        way = life.broadcasts if life.recorder is None else life.queue_for(channel)
        try:
            way.put(item, block=False, most=most)
        except queue.Full:
            wait = self._config.publish_timeout if timeout is None else timeout
            self._wait_and_put(way, item, wait, most)
        # Looked at again after the put: what was put while this was true is dispatched
        # by the hub's last turn; what was put later may not be, and must not seem to be.
        # But a request that is answered from the queue would be answered a second time by what
        # is raised here (FAULTS 66); without an answer its client has the Close frame.
        answered = most is not None and isinstance(item, Activation | Notices | PresenceQuery)
        if not answered and not life.state.accepts:
            raise HubNotRunning(
                "the hub stopped while this was published, so it may reach nobody: publish before "
                "stop(), or use hub.at_stop for the last messages"
            )

    def _wait_and_put(
        self, way: ReentrantQueue[Item], item: Item, wait: float, most: int | None
    ) -> None:
        # On the hub thread nobody else would make room, and to one that is within another
        # call of the hub nobody might: what that has half done may be waited for.
        if wait <= 0 or self._is_hub_thread() or nested():
            wait = 0.0
        if wait and way.full():
            self._life.readers.before_wait()
        try:
            way.put(item, block=wait > 0, timeout=wait, most=most)
        except queue.Full:
            what = "hub's queue" if way is self._life.broadcasts else "queue of the history store"
            raise HubFull(
                f"the {what} of {way.maxsize} messages was full for {wait:g} s, "
                "and this one is not queued: publish less often or join messages, pass a longer "
                "timeout, or raise HubConfig(queue_size=...)"
            ) from None

    def send_to_user(
        self,
        user_id: AnyId,
        message: AnyMessage,
        *_unnamed: Never,
        exclude: Client | Iterable[Client] = (),
        timeout: float | None = None,
    ) -> None:
        """Send a message to all connections of a user, each browser tab of theirs.

        In order with everything else that is published, but for channels with history where
        a history store keeps it; to nobody when the user is not here. `exclude` is a client
        that does not get it, or several. An int or a UUID means its text, a mapping a message
        as in `broadcast`. Raises TypeError and InvalidName for a user id that is none,
        MessageEncodeError, HubNotRunning, HubFull.

        Threads: any; waits while the hub's queue is full, at most `timeout` seconds.
        """
        check_named(_unnamed, "send_to_user(user_id, message, exclude=client)")
        check_timeout("timeout", timeout)
        user, left_out = user_text(user_id), client_ids(exclude)
        text = self._encoder.encode(as_message(message), time.time())
        (publication,) = self._publications([text], "", None)
        publication.exclude = left_out
        if self._life.pacing.crowded:
            receives = functools.partial(_is_of, user)
            timeout = self._keep_pace([publication], receives, timeout)
        self._enqueue(UserPublication(user, publication), timeout)
        if self._life.relay is not None:
            self._life.relay.send_to_user(user, text)

    def ask(self, client: Client, data: Any = None, timeout: float = 10.0) -> Any:
        """Ask a client, and return the data of its answer.

        Our clients answer by their `on_ask`. Raises HubError when the answer is an error
        ("not_found" of a client without `on_ask`), WaitTimeout when none comes within `timeout`
        seconds, SendTimeout when its outbox is full for as long, ConnectionClosed as soon as
        the client leaves or the hub stops, MessageEncodeError for data without a JSON form.

        Within a callback for the same client, whose answer could not be read meanwhile, and
        within another call of the hub, as in a signal handler, it raises WsHubError at once.

        Threads: any but those; blocks at most `timeout`.
        """
        timeout, life = check_bound("timeout", timeout), self._life
        connection = self._connection_of(client)
        if life.callbacks.is_for(connection) or self._is_hub_thread() or nested():
            raise WsHubError(
                f"cannot ask {connection!r} within its own callback, or within another call of the "
                "hub, which its answer would have to wait for: call ask() on another thread"
            )
        return life.asks.ask(connection, data, timeout)

    def wait_for_room(
        self, channel: str | AllClients = ALL_CLIENTS, timeout: float | None = None
    ) -> bool:
        """Wait until no subscriber of a channel is behind; without a channel, no client at all.

        None is behind when everything that was published before this call is dispatched, the
        outbox of each subscriber is at most half full, and each replay has at most half of
        the channel's history before it. A thread that publishes much calls this now and
        then, and is slowed to the slowest client instead of having it skip messages. A
        client that reads nothing is disconnected after the write timeout, and not waited
        for any longer. False after `timeout` seconds
        (None: `publish_timeout`). Raises InvalidName, HubNotRunning, HubFull.

        Threads: any but those of callbacks; blocks at most `timeout`.
        """
        if channel is not ALL_CLIENTS:
            check_channel(channel, self._is_channel)
        check_timeout("timeout", timeout)
        if timeout is None:
            timeout = self._config.publish_timeout
        deadline = time.monotonic() + timeout
        dispatched = Event()
        near = None if channel is ALL_CLIENTS else channel
        self._enqueue(RoomWait(near, dispatched.set), timeout, channel=near)
        if not dispatched.wait(0.0 if nested() else deadline - time.monotonic()):
            return False
        connections = self._life.registry.connections() if near is None else self._listening(near)
        return all(each.wait_for_room(deadline - time.monotonic()) for each in connections)

    def _not_running(self) -> HubNotRunning:
        """Return what to raise in place of publishing."""
        if self._parent is None:
            return HubNotRunning(
                "the hub is not running: call start() before this, in the process that serves; a "
                "hub that another process starts has none of its clients"
            )
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
        return is_permitted(
            "channel_name",
            lambda: bool(self._life.callbacks.call(rule, name, default=False, bare=True)),
        )

    # --- any thread: subscribe -------------------------------------------------------------

    def subscribe(
        self,
        client: Client,
        channel: str,
        *_unnamed: Never,
        since: int | None = None,
        epoch: str = "",
        filter: AnyFilter | None = None,
    ) -> None:
        """Have a client listen to a channel; again is no change, but for the filter.

        It counts at once and gets everything that is published from now on, after
        what `since` and `epoch` ask for (PROTOCOL, History). With a filter, such as
        `{"level": ["error"]}`, it gets the messages whose data has each of these fields, with
        one of the values; the newest call decides, also without one. Raises InvalidName,
        LimitExceeded, ConnectionClosed when the client is gone, HubNotRunning, HubFull,
        TypeError and ValueError for what is no filter.

        Threads: any; waits while the hub's queue is full.
        """
        check_named(_unnamed, "subscribe(client, channel, since=0)")
        check_channel(channel, self._is_channel)
        check_position("since", since)
        given: object = epoch
        if not isinstance(given, str):
            raise TypeError(f"epoch must be text, the epoch of a message, not {excerpt(given)}")
        request = Subscribe(channel, None, since, epoch, filter=filter_of(filter))
        self._subscribe(self._connection_of(client), request)

    def _subscribe(self, target: Any, request: Subscribe, *, most: int | None = None) -> None:
        life = self._life
        if life.channels.busy:  # this thread is in the middle of a change of the map
            self._inside.later(functools.partial(self._subscribe, target, request))
            return
        channel = request.channel
        limit, in_all = self._config.max_subscriptions, self._config.max_subscriptions_in_all
        if isinstance(target, Listener):
            in_all = None  # clients must not be able to crowd out the application
        try:
            subscription = life.channels.add(target, channel, limit, in_all)
        except Full:
            life.counters.add("refused_subscriptions_in_all")
            raise LimitExceeded(
                f"cannot subscribe to {excerpt(channel)}: there are {in_all} subscriptions "
                "already, the limit HubConfig(max_subscriptions_in_all=...)"
            ) from None
        except OverflowError:
            life.counters.add("refused_subscriptions")
            raise LimitExceeded(
                f"cannot subscribe to {excerpt(channel)}: {target!r} has {limit} channels already, "
                "the limit HubConfig(max_subscriptions=...). unsubscribe() it from one, or "
                "raise that"
            ) from None
        if subscription is None:
            if isinstance(target, Listener):  # closed by the hub's end: nobody else has it yet
                raise HubNotRunning(_STOPPED_BEFORE)
            raise ConnectionClosed(CloseCode.ABNORMAL, _gone(target))
        activation = Activation(
            subscription,
            request.since,
            request.epoch,
            request.last,
            request.id,
            request.since_time,
            request.filter,
        )
        if self._is_hub_thread():  # put off by another call, which was told that it is accepted
            life.queue_for(channel).force(activation)
        else:
            try:
                self._enqueue(activation, most=most, channel=channel)
            except (HubFull, HubNotRunning):
                life.channels.withdraw(subscription)
                raise
        # Now that it has its place: what its callbacks publish comes after that.
        life.channels.announce(subscription)

    def history(
        self,
        channel: str,
        *_unnamed: Never,
        since: int | None = None,
        before: int | None = None,
        last: int | None = None,
        since_time: datetime.datetime | float | None = None,
        limit: int = 1000,
    ) -> HistoryPage:
        """Return kept messages of a channel, a page of them, oldest first.

        Those after the number `since`, the newest below `before`, the newest `last`, or those
        from a time on (POSIX seconds, or a datetime with its time zone); the oldest without
        any of these. A page has at most `limit` messages and some megabytes. Raises
        InvalidName, HubNotRunning, HistoryError, and ValueError for two of these at once.

        Threads: any; with a history store, waits for the disk.
        """
        check_named(_unnamed, "history(channel, since=0)")
        check_channel(channel, self._is_channel)
        check_positions("history", since_time, since=since, before=before, last=last)
        check_position("limit", limit)
        moment = posix_time("since_time", since_time)
        page = self._read(ReadHistory(channel, None, since, before, last, moment, limit))
        messages = tuple(decode(each.text.decode()) for each in page.messages)
        kept = page.kept
        return HistoryPage(kept.epoch, kept.first, kept.last, messages, kept.middle)

    def _read(self, request: ReadHistory) -> Page:
        life = self._life
        if not life.state.accepts:
            raise self._not_running()
        if not self._rule_for(request.channel).history_messages:
            return Page(Span("", 1, 0), ())
        assert request.limit is not None
        return life.store.read(
            request.channel,
            after=request.since,
            before=request.before,
            since_time=request.since_time,
            last=request.last,
            limit=request.limit,
        )

    def unsubscribe(self, client: Client, channel: str) -> bool:
        """Have a client listen to a channel no more; say whether it did.

        Threads: any; does not wait.
        """
        channel = channel_text(channel)
        try:
            return self._unsubscribe(self._connection_of(client), channel)
        except ConnectionClosed:
            return False

    def _unsubscribe(self, connection: Connection, channel: str) -> bool:
        channels = self._life.channels
        if channels.busy:
            self._inside.later(functools.partial(channels.remove, connection, channel))
            return channels.get(connection, channel) is not None
        return channels.remove(connection, channel)

    def _connection_of(self, client: Client) -> Connection:
        """Return the connection of a client.

        Raises TypeError for anything else, ConnectionClosed when it has left this hub.
        """
        given: object = client
        if not isinstance(given, Client):
            raise _no_client(given)
        connection = self._life.registry.find(client.id)
        if connection is None:
            raise ConnectionClosed(CloseCode.ABNORMAL, _gone(client))
        return connection

    def listen(self, channel: str, function: Callable[[Message], object]) -> Listener:
        """Call a function with each message of a channel, inside this process.

        It runs on a thread of its own, in order, until the listener is closed or the
        hub stops; what it raises is logged. Raises InvalidName, HubNotRunning, HubFull,
        TypeError for what cannot be called, ConfigError for a coroutine function.

        Threads: any; waits while the hub's queue is full.
        """
        check_channel(channel, self._is_channel)
        check_function("function", function, "message")
        life = self._life
        if not life.state.accepts:
            raise self._not_running()
        listener = Listener(
            channel,
            functools.partial(life.callbacks.call, function),
            guard=life.guard,
            on_closed=functools.partial(self._forget_listener, life),
            max_messages=_LISTENER_MESSAGES,
            name=f"ws-hub:listener:{excerpt(channel)}",
        )
        try:
            with self._lock:
                life.listeners.add(listener)
            life.channels.enter(listener)
            self._subscribe(listener, Subscribe(channel))
            if life is not self._life:  # its end may have closed this, and a start followed
                raise HubNotRunning(_STOPPED_BEFORE)
        except BaseException:
            listener.close()
            raise
        return listener

    def _forget_listener(self, life: Life, listener: Listener) -> None:
        if life.channels.busy:  # a finaliser closes it, in the middle of a change of the map
            # Beyond the bound: there are no more of these than listeners.
            life.broadcasts.force(Call(functools.partial(self._forget_listener, life, listener)))
            return
        life.channels.leave(listener)
        with self._lock:
            life.listeners.discard(listener)

    # --- any thread: callbacks -------------------------------------------------------------

    def on_start(self, function: OnStart = MISSING) -> OnStart:
        """Have a function called without arguments when the hub has started: `@hub.on_start`.

        At each start, in all lives of the hub and in forked processes; not for one that has
        been. It may publish. What takes long, or loops, needs a thread of its own: the functions
        for channels wait for it, and so does the end of the hub. See `at_stop` for the end.

        Threads: any; the function runs on `ws-hub:notify`, and `start` does not wait for it.
        """
        return self._handlers.add("start", function)

    def on_connect(self, function: OnConnect = MISSING) -> OnConnect:
        """Have a function called with each client that connects: `@hub.on_connect`.

        After `HubConfig.on_connect` and those registered before, before the first message of
        the client is handled. From now on, in all lives of the hub. Raises ConfigError for
        what is no function, or a coroutine function; so do the other decorators. More about
        callbacks: docs/callbacks.md.

        Threads: any; the function runs on the client's reader thread.
        """
        return self._handlers.add("connect", function)

    def on_disconnect(self, function: OnDisconnect = MISSING) -> OnDisconnect:
        """Have a function called with each client that is gone: `@hub.on_disconnect`.

        It gets the client, the close code and the reason; the hub is without the client, whose
        `subscriptions()` are those of its end until the last such function has returned.

        Threads: any; the function runs on the client's reader thread, last.
        """
        return self._handlers.add("disconnect", function)

    def on_slow_client(self, function: OnConnect = MISSING) -> OnConnect:
        """Have a function called with each client that becomes slow: `@hub.on_slow_client`.

        When its outbox is half full, once until it is a quarter full again, and not for each
        message. After `HubConfig.on_slow_client` and those registered before. See `explain`.

        Threads: any; the function runs on `ws-hub:notify`, which all clients share.
        """
        return self._handlers.add("slow_client", function)

    def on(self, type: str = MISSING) -> Callable[[OnMessage], OnMessage]:
        """Have a function called with client and message of a type: `@hub.on("chat")`.

        What it returns is the data of the answer, if the client asked for one. There is one
        function for a type; `HubConfig.on_message` is called before it. Raises ConfigError
        for a type that has a function already or that the hub handles itself.

        Threads: any; the function runs on the client's reader thread.
        """
        return self._handlers.for_type(type)

    def on_subscribe(self, pattern: str = MISSING) -> Callable[[OnChannel], OnChannel]:
        """Have a function called for subscriptions that begin: `@hub.on_subscribe("room:*")`.

        It gets the client and the channel, once for each subscription of a client to a
        channel that matches the pattern (see ChannelRule), whether the client asked for it or
        the application. What it publishes to the channel reaches the client.

        Threads: any; the function runs on the client's reader thread, or on `ws-hub:notify`
        for what the application does while that thread waits for its peer.
        """
        return self._handlers.for_channels("subscribe", pattern)

    def on_unsubscribe(self, pattern: str = MISSING) -> Callable[[OnChannel], OnChannel]:
        """Have a function called for subscriptions that end: `@hub.on_unsubscribe("room:*")`.

        As `on_subscribe`, and after it; once for each subscription, also when the client
        disconnects, before `on_disconnect`.

        Threads: any; the function runs on the same threads as that of `on_subscribe`.
        """
        return self._handlers.for_channels("unsubscribe", pattern)

    def on_first_subscriber(self, pattern: str = MISSING) -> Callable[[OnName], OnName]:
        """Have a function called for channels with a first subscriber.

        Written `@hub.on_first_subscriber("sensor:*")`, above a function that gets the name of a
        channel that matches the pattern; `HubConfig.on_first_subscriber` is called before it.
        Listeners of `listen` count as subscribers. What it publishes reaches that subscriber.

        Threads: any; the function runs on `ws-hub:notify`, in order.
        """
        return self._handlers.for_channels("first_subscriber", pattern)

    def on_last_unsubscribe(self, pattern: str = MISSING) -> Callable[[OnName], OnName]:
        """Have a function called for channels that have lost their last subscriber.

        Written `@hub.on_last_unsubscribe("sensor:*")`, as `on_first_subscriber`.

        Threads: any; the function runs on `ws-hub:notify`, in order.
        """
        return self._handlers.for_channels("last_unsubscribe", pattern)

    # --- any thread: connections -----------------------------------------------------------

    def recheck(self, client: Client) -> list[str]:
        """Ask `channel_authoriser` anew about all that a client listens to.

        What is refused now it hears no more; it is told by an `error` with the code
        `forbidden` for each. Returns those channels. Raises HubNotRunning, HubFull.

        Threads: any; runs the authoriser, waits while the hub's queue is full.
        """
        try:
            return self._life.requests.recheck(self._connection_of(client))
        except ConnectionClosed:
            return []

    def connect(
        self,
        sock: socket.socket,
        *,
        greeting: bytes = b"",
        remote_address: str = "",
        received: bytes | Inherited = b"",
        borrowed: bool = False,
        decision: Decision | None = None,
    ) -> Connection:
        """Return the connection of a socket whose opening handshake was accepted.

        The caller then calls its `start()`, or its `run()` to lend its own thread; it
        closes the socket at its end unless that is `borrowed`. `greeting` goes out once it
        is registered; without one, the handshake was answered elsewhere, and a refusal is
        a Close frame. `received` came in already. `decision` is the decision of admission,
        with its identity.

        Threads: any.
        """
        config, life = self._config, self._life
        transport = Transport(
            sock,
            max_message_size=config.max_message_size,
            max_fragments=config.max_fragments,
            message_timeout=config.message_timeout,
            compression=decision is not None and decision.answer.compression,
            received=received,
            borrowed=borrowed,
        )
        return Connection(
            next(_numbers),
            transport,
            config,
            life,
            remote_address=remote_address,
            greeting=greeting,
            decision=decision,
        )

    @property
    def admission(self) -> Admission:
        """What decides about handshakes.

        Threads: any.
        """
        return self._life.admission

    def refuse_reader(self, environ: Mapping[str, Any], channel: str) -> Answer | None:
        """Return why an HTTP request may not read a channel, by what subscribers are asked.

        None where it may: its Origin, the authenticator and `channel_authoriser` permit it.

        Threads: a request thread; runs the application's checks.
        """
        life = self._life
        return refuse_reader(self._config, life.admission, life.callbacks, channel, environ)

    def disconnect(
        self, user_id: AnyId, code: int = CloseCode.UNAUTHENTICATED, reason: str = ""
    ) -> int:
        """Close all connections of a user; return how many there were in this process.

        Also those that are on their way in, authenticated before this call. So first
        take away what the authenticator goes by, then call this: nobody slips through. With
        a backplane those to other processes as well, which are not counted.
        With 4401 and 4403 our clients do not come back. An int or a UUID means its text;
        raises TypeError and InvalidName for a user id that is none.

        Threads: any, callbacks included; does not wait.
        """
        user = user_text(user_id)
        close_frame(code, reason)  # raises before anything has happened
        if self._life.relay is not None:
            self._life.relay.disconnect(user, code, reason)
        return self._close_user(user, code, reason)

    def _close_user(self, user_id: str, code: int, reason: str) -> int:
        connections = self._life.clients.users.revoke(user_id)
        for connection in connections:
            connection.close(code, reason)
        return len(connections)

    # --- any thread: looking ---------------------------------------------------------------

    def client_count(self) -> int:
        """Return how many clients are connected.

        Threads: any.
        """
        return len(self._life.registry)

    def explain(self, client: Client) -> Explanation:
        """Return why a client is behind: what waits for it, what it did not get, and why.

        Also of one that has left. Raises TypeError for what is no client.

        Threads: any; does not wait.
        """
        given: object = client
        if not isinstance(given, Client):
            raise _no_client(given)
        return client.explain()

    def all_clients(self) -> list[Client]:
        """Return the connected clients, oldest first.

        Threads: any.
        """
        return _clients_of(self._life.registry.connections())

    def clients(self, channel: str) -> list[Client]:
        """Return the clients that listen to a channel, oldest subscription first.

        Threads: any.
        """
        return _clients_of(self._listening(channel_text(channel)))

    def _listening(self, channel: str) -> list[Connection]:
        found = (each.subscriber for each in self._life.channels.subscriptions(channel))
        return [each for each in found if isinstance(each, Connection)]

    def presence(self, channel: str) -> Presence:
        """Return who is present in a channel: its users, with the connections of each.

        As its subscribers are told, a user whose last connection has ended less than
        `ChannelRule.presence_grace` ago included. Raises ConfigError for a channel whose rule
        has no presence; `clients` returns the clients of any channel.

        Threads: any.
        """
        name = channel_text(channel)
        if not self._rule_for(name).presence:
            raise ConfigError(
                f"channel {excerpt(name)} has no presence: set ChannelRule(pattern=..., "
                "presence=True), or use clients(channel)"
            )
        return self._life.presence.of(name)

    def user_clients(self, user_id: AnyId) -> list[Client]:
        """Return the connections of a user, oldest first.

        An int or a UUID means its text; raises TypeError and InvalidName for a user id that
        is none.

        Threads: any.
        """
        return _clients_of(self._life.clients.users.of(user_text(user_id)))

    def channel_count(self) -> int:
        """Return how many channels somebody listens to.

        Threads: any.
        """
        return len(self._life.channels)

    def all_channels(self) -> list[str]:
        """Return the channels that somebody listens to.

        Threads: any.
        """
        return self._life.channels.names()

    def kept_channels(self) -> list[str]:
        """Return the channels that keep history, longest unused first.

        Threads: any; with a history store, waits for the disk.
        """
        try:
            return self._life.store.names()
        except HistoryError:  # the store is not open, or has failed
            return self._life.history.names()

    def statuses(self, channels: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Return the status of the program of each of these channels, as its messages have it.

        `{"process:build": {"status": "exited", "exitCode": 0}}`. Left out are channels without a
        program, and those of which nothing is known in this process: their messages are in a
        history store, and none has been used here.

        Threads: any; waits for no store.
        """
        history = self._life.history
        found = {channel: status_of(history, channel) for channel in channels}
        return {channel: status for channel, status in found.items() if status is not None}

    def channel_subscriber_count(self, channel: str) -> int:
        """Return how many listen to a channel, `listen` included.

        All of them get what is published from now on.

        Threads: any.
        """
        return self._life.channels.reached(channel_text(channel))

    def has_subscribers(self, channel: str) -> bool:
        """Say whether anybody listens to a channel: whether output is worth making.

        Whoever does gets what is published from now on.

        Threads: any.
        """
        return self._life.channels.reached(channel_text(channel)) > 0

    def count(self, channel: str, timeout: float = 1.0) -> int:
        """Return how many listen to a channel in all processes that a backplane connects.

        As `channel_subscriber_count`, which is this process alone, of each of them at this moment.
        Raises WaitTimeout where one of them does not answer within `timeout` seconds,
        HubNotRunning, InvalidName, and WsHubError within another call of the hub.

        Threads: any; blocks at most `timeout`, and not without a backplane.
        """
        check_channel(channel, self._is_channel)
        return sum([each.subscribers for each in self._ask_all(Question(channel), timeout)])

    def is_connected(self, user_id: AnyId, timeout: float = 1.0) -> bool:
        """Return whether a user has a connection to any process that a backplane connects.

        False is certain: raises WaitTimeout where nobody has one, and a process does not answer
        within `timeout` seconds. `user_clients` returns the connections to this process. Raises
        as `count` does, and TypeError and InvalidName for a user id that is none.

        Threads: any; blocks at most `timeout`, and not where the user is connected here.
        """
        user = user_text(user_id)

        def is_here(report: Report) -> bool:
            return report.connections > 0

        question = Question(user=user, is_enough=is_here)
        return any(map(is_here, self._ask_all(question, timeout)))

    def instances(self, timeout: float = 1.0) -> list[Instance]:
        """Return all processes that a backplane connects, this one first, and what each has.

        One that does not answer within `timeout` seconds is left out. Raises HubNotRunning,
        and WsHubError within another call of the hub.

        Threads: any; blocks at most `timeout`, and not without a backplane.
        """
        own, *others = self._ask_all(Question(needs_all=False), timeout)
        return [replace(own.instance, is_own=True), *[each.instance for each in others]]

    def _ask_all(self, question: Question, timeout: float) -> list[Report]:
        """Return the report of this process, and those of the others that are needed."""
        timeout, life = check_bound("timeout", timeout), self._life
        if not life.state.accepts:
            raise self._not_running()
        own = self._inside.report(question.channel, question.user)
        if life.relay is None or question.is_enough(own):
            return [own]
        if self._is_hub_thread() or nested():
            raise WsHubError(
                "cannot ask other processes within another call of the hub, as in a signal "
                "handler: do so on a thread of its own"
            )
        return [own, *life.relay.survey.ask(question, timeout)]

    def stats(self) -> HubStats:
        """Return what the hub counts.

        Threads: any.
        """
        history, config = self._life.history.usage(), self.config
        relay = self._life.relay
        bus = BusStats() if relay is None else relay.stats()
        return HubStats(
            peers=bus.peers,
            bus_told=bus.told,
            bus_received=bus.received,
            bus_lost=bus.lost,
            bus_invalid=bus.invalid,
            bus_down=not bus.connected,
            go_told=bus.go_told,
            go_refused=bus.go_refused,
            clients=self.client_count(),
            io_uring=self._life.ring.is_open,
            channels=len(self._life.channels),
            subscriptions=self._life.channels.total,
            queued=sum(each.qsize() for each in self._life.waiting),
            history_bytes=history.kept,
            history_bytes_in_all=config.history_bytes_in_all,
            published_history_bytes=history.published,
            published_history_bytes_in_all=config.published_history_bytes_in_all,
            history_dropped=history.dropped,
            keyed_bytes=self._life.stores.keyed.cost,
            **self._life.counters.snapshot(),
        )

    # --- any thread: conveniences ----------------------------------------------------------

    def handler(self, *request: object) -> Callable[..., Iterable[bytes]]:
        """Return a WSGI application that accepts WebSocket connections for this hub.

        It takes no arguments. Called as an application itself, by a server that was given
        `hub.handler` for `hub.handler()`, it raises TypeError.

        Threads: any.
        """
        if request:
            raise TypeError(
                "hub.handler is not the WSGI application, hub.handler() returns it: mount "
                "hub.handler(), or middleware(app, hub)"
            )
        return self.handle_websocket

    def handle_websocket(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        """Accept one WebSocket connection, or answer why not, as a WSGI application.

        Threads: a request thread, which it gives back at once; under TLS inside the
        server, when the connection is over.
        """
        return handle(self, environ, start_response)

    def attach(
        self,
        ws: Any,
        *_unnamed: Never,
        user_id: AnyId | None = None,
        claims: Mapping[str, Any] | None = None,
    ) -> None:
        """Make a client of a connection that simple_websocket has accepted, until it ends.

        For a route of flask-sock; see `ws_hub.wsgi.attach.attach`, which this calls.

        Threads: the request thread of the connection; blocks until that has ended.
        """
        check_named(_unnamed, 'attach(ws, user_id="7")')
        attach(self, ws, user_id=user_id, claims=claims)

    def run_process(
        self,
        argv: Sequence[str],
        process_id: AnyId | None = None,
        *,
        pty: bool | tuple[int, int] = False,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        on_line: Callable[[str, str], object] | None = None,
        backpressure: bool = False,
        mask: Iterable[str | bytes | MaskEnv | re.Pattern[str]] = (),
        timeout: float | None = None,
        idle_timeout: float | None = None,
        grace: float = GRACE,
        attempt: int | None = None,
        stdin: bool | HasFileno = False,
        log: ProcessLog | str | os.PathLike[str] | bool | None = None,
    ) -> Any:
        """Start a program and stream its output to the channel of its process id.

        See `ws_hub.process.run_process`, which this calls.

        Threads: any; does not wait for the program.
        """
        return run_process(
            self,
            argv,
            process_id,
            pty=pty,
            cwd=cwd,
            env=env,
            on_line=on_line,
            backpressure=backpressure,
            mask=mask,
            timeout=timeout,
            idle_timeout=idle_timeout,
            grace=grace,
            attempt=attempt,
            stdin=stdin,
            log=log,
        )

    def claim_process(self, process_id: AnyId) -> Callable[[], object]:
        """Claim a process id for this process, among all that the backplane connects.

        Returns what lets go of it. `run_process` does this for its programs; for one that is
        streamed by other means it is yours to call. When this process ends without letting go,
        the viewers of that id get the status `lost`. Without a backplane it does nothing. Raises
        InvalidName, ProcessAlreadyRunning when another process has it, or this one, and OSError.

        Threads: any; waits for the file system alone.
        """
        name, relay = id_text(process_id, "process id"), self._life.relay
        self.process_channel(name)  # raises InvalidName
        return (lambda: None) if relay is None else relay.claim(name)

    def add_log(self, process_id: AnyId, path: str | os.PathLike[str] | None) -> None:
        """Have the lines of a program be read from a file, as `run_process` with a log does.

        None has them read from what its channel keeps, also where an earlier run left a file.
        For the text log that another process has written: a folder that all of them know,
        `HubConfig.logs`, needs no such call. Raises InvalidName.

        Threads: any; does not wait.
        """
        name = id_text(process_id, "process id")
        self.process_channel(name)  # raises InvalidName
        self.logs.add(name, "" if path is None else os.path.abspath(path))

    def read_log(
        self,
        process_id: AnyId,
        *,
        first: int | None = None,
        before: int | None = None,
        last: int | None = None,
        lines: int = 1000,
        attempt: int | None = None,
    ) -> LogPage:
        """Return lines of a program's output, a page of them, oldest first, by their numbers.

        `lines` of them from the number `first` on, the last ones below the number `before`, or
        the newest `last`, as without any of these. They come from the file of its log
        (`run_process(log=...)`), else from what the channel keeps. A page has some megabytes at
        most; the next one begins at `page.lines[-1].number + 1`. Each line has its stream and its
        time, where they are known. With `attempt` they are the last lines of an earlier attempt
        (`run_process(attempt=...)`), as far as they are kept. A first read of a file of many
        gigabytes takes more than the two seconds after which it returns: `complete` is then
        False, as a `LogPage` says. Raises InvalidName, HubNotRunning, HistoryError, and
        ValueError for two positions at once.

        Threads: any; waits for the disk, some two seconds at most.
        """
        check_positions("read_log", None, first=first, before=before, last=last)
        check_position("lines", lines)
        logs, source = self.logs, self._log_of(process_id, attempt)
        return logs.page(source, lines if last is None else last, first=first, before=before)

    def search_log(
        self,
        process_id: AnyId,
        text: str,
        *,
        first: int = 1,
        limit: int = 1000,
        ignore_case: bool = False,
    ) -> LogMatches:
        """Return the lines of a program's output, from a number on, that contain a text.

        It ends at `limit` lines, or after two seconds, and says where to go on. Colours are
        left out of account. Raises as `read_log`, ValueError for no text.

        Threads: any; waits for the disk.
        """
        given: object = text
        if not isinstance(given, str) or not given or "\n" in given:
            raise ValueError(f"text must be the part of a line to look for, not {excerpt(text)}")
        check_position("first", first)
        check_position("limit", limit)
        source = self._log_of(process_id)
        return self.logs.search(source, text, first, limit, ignore_case=ignore_case)[0]

    def _log_of(self, process_id: AnyId, attempt: int | None = None) -> LogSource:
        name = id_text(process_id, "process id")
        channel = self.process_channel(name)
        if attempt is None:
            return self.logs.source(channel, name)
        check_position("attempt", attempt)
        return self.attempts.read(name, attempt)[0]

    def log_handler(self, channel: str, level: int = logging.NOTSET) -> logging.Handler:
        """Return a logging handler that sends records to a channel as events.

        Threads: any.
        """
        return log_handler(self, channel, level)

    def writer(self, process_id: AnyId, *, stream: str = "stdout") -> TextIO:
        """Return a text file whose lines go to the channel of a process id.

        `stream` is "stdout" or "stderr".

        Threads: any.
        """
        return writer(self, process_id, stream=stream)


def _checked(config: object) -> HubConfig:
    if not isinstance(config, HubConfig):
        raise TypeError(
            f"a Hub takes a HubConfig, not {excerpt(config)}: Hub(HubConfig(...)); an "
            "application is given to middleware(app, hub), or to serve(hub, app=app)"
        )
    return config


class _Inside:
    """What the parts of a hub ask of it, on a client's reader thread where nothing else is said.

    Args:
        hub: the hub.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    @property
    def encoder(self) -> Encoder:
        """What encodes all messages of the application. Any thread."""
        return self._hub._encoder

    def rule_for(self, channel: str) -> ChannelRule:
        """Return the rule of a channel. Any thread."""
        return self._hub._rule_for(channel)

    def publications(self, notice: Notice) -> list[Publication]:
        """See `RelayingHub`."""
        hub = self._hub
        if not hub._life.state.accepts:
            return []
        channel = notice.name if notice.kind is NoticeKind.PUBLISH else ""
        rule = hub._rule_for(channel) if channel else None
        found = hub._publications(notice.texts, channel, rule)
        if rule is not None and rule.keyed and notice.key:
            found[-1].key, found[-1].deletes = notice.key, notice.deletes
            found[-1].stamp = Stamp(max(notice.time, 1), notice.origin)
        elif rule is not None and rule.numbered:
            # Kept here, it would be by each process.
            log_once(
                "other rules",
                f"another process publishes to {excerpt(channel)} by other rules, or a Go hub "
                "does: that is not kept, and in a keyed channel it is not delivered. Give all "
                "processes the same rules, and the channels that Go hubs publish to no history",
            )
            if rule.keyed:
                return []
            for publication in found:
                publication.leave_unnumbered()
        return found

    def report(self, channel: str | None, user: str | None) -> Report:
        """See `RelayingHub`."""
        life = self._hub._life
        instance = Instance(
            host=socket.gethostname(),
            pid=os.getpid(),
            clients=len(life.registry),
            users=len(life.clients.users),
            channels=len(life.channels),
            subscriptions=life.channels.total,
        )
        return Report(
            instance,
            0 if channel is None else life.channels.reached(channel),
            0 if user is None else len(life.clients.users.of(user)),
        )

    def program_lost(self, process_id: str) -> None:
        """See `RelayingHub`."""
        self._hub._life.guard(self._tell_lost, process_id)

    def _tell_lost(self, process_id: str) -> None:
        with contextlib.suppress(HubNotRunning):
            self._hub.send_process_status(process_id, "lost")

    def post(self, call: Callable[[], object]) -> None:
        """See `RelayingHub`."""
        self._hub._life.post(call)

    def close_user(self, user_id: str, code: int, reason: str) -> int:
        """See `RelayingHub`."""
        return self._hub._close_user(user_id, code, reason)

    def is_channel(self, name: str) -> bool:
        """Return whether something is the name of a channel. Any thread."""
        return self._hub._is_channel(name)

    def later(self, call: Callable[[], object]) -> None:
        """Have something called on the hub thread, soon. Any thread; never waits."""
        self._hub._enqueue(Call(call), 0)

    def context(self) -> Context:
        """Return the context of callbacks that are for no client. Any thread."""
        return self._hub._context()

    def subscribe(self, connection: Connection, request: Subscribe) -> None:
        """Subscribe a client, as it has asked for; waits while clients may not queue more."""
        self._hub._subscribe(connection, request, most=_MOST_ASKED)

    def unsubscribe(self, connection: Connection, channel: str) -> None:
        """Unsubscribe a client. Any thread; does not wait."""
        self._hub._unsubscribe(connection, channel)

    def publish(self, connection: Connection, request: Publish) -> None:
        """Send to a channel what a client publishes, at its cost; waits as `subscribe` does.

        With an idempotency key, unless a store says that a hub before this one has done so.
        """
        channel, data, name = request.channel, request.data, request.key
        once = self._once(connection, request)
        with contextlib.suppress(HistoryError):  # it goes out without a number, if at all
            if once and self._hub._life.store.has_published(once):
                return
        message = Message(MessageType.EVENT, channel=channel, data=data, key=name)
        text = self.encoder.encode(message, time.time())
        key = Key(name, data is None) if name else None
        self._hub._publish([text], channel, None, of=key, payer=connection, once=once)

    def _once(self, connection: Connection, request: Publish) -> str:
        """Return what a publish and its repetition have in common where a store remembers it."""
        life, channel, key = self._hub._life, request.channel, request.idempotency_key
        if not key or life.queue_for(channel) is life.broadcasts:
            return ""
        user = connection.user_id or ""
        return f"{len(user)} {len(channel)} {user}{channel}{key}"  # no two are the same

    def read(self, request: ReadHistory) -> Page:
        """Return a page of kept messages; waits for a disk where a store does."""
        return self._hub._read(request)

    def answer(self, connection: Connection, channel: str, answer: Message) -> None:
        """Answer a publish, once its message is kept where a store keeps it."""
        hub = self._hub
        if hub._life.queue_for(channel) is not hub._life.broadcasts:
            with contextlib.suppress(HubFull, HubNotRunning):
                notices = Notices(connection, (answer,))
                hub._enqueue(notices, most=_MOST_PUBLISHED, channel=channel)
                return
        connection.reply(answer)

    def states(self, channel: str) -> Mapping[int, bytes]:
        """Return the states beside a channel's history. Any thread; waits for a store."""
        return self._hub._life.store.states([channel])[0]

    def program(self, process_id: str) -> Process | None:
        """Return the program of a process id that runs here. Any thread."""
        return find_process(self._hub, process_id)

    def tell(self, event: str, data: Any, *, channel: str, timeout: float | None) -> None:
        """Publish an event in a channel. Any thread; waits as publishing does."""
        self._hub.send_event(event, data, channel=channel, timeout=timeout)

    def refuse(self, activation: Activation) -> bool:
        """Refuse a client's subscription that a store cannot answer. The recorder's thread.

        It may ask again. The application's own go on without a replay: False.
        """
        subscription, life = activation.subscription, self._hub._life
        connection = subscription.subscriber
        if activation.id is None or not isinstance(connection, Connection):
            return False
        life.channels.withdraw(subscription)
        text = "Subscribe: history cannot be read, try again"
        answer = error(text, "internal", id=activation.id, channel=subscription.channel)
        life.broadcasts.force(Notices(connection, (answer,)))
        return True

    def subscribers(self, channel: str) -> int:
        """Return how many subscribers a channel has. Any thread; does not wait."""
        return self._hub.channel_subscriber_count(channel)

    def show_presence(self, connection: Connection, request: ShowPresence) -> None:
        """Have a client told who is present in a channel; waits as `subscribe` does."""
        query, channel = PresenceQuery(connection, request), request.channel
        self._hub._enqueue(query, most=_MOST_ASKED, channel=channel)

    def notify(
        self, connection: Connection, messages: Sequence[Message], *, asked: bool, channel: str = ""
    ) -> None:
        """Send messages of the hub's own to a client, at their place among the publications.

        `asked` is whether that answers a request, of which only some may wait. Any thread;
        waits while the hub's queue is full.
        """
        self._hub._enqueue(
            Notices(connection, tuple(messages)),
            most=_MOST_ASKED if asked else None,
            channel=channel,
        )

    def call(
        self,
        function: Callable[..., Any],
        *args: Any,
        connection: Connection,
        default: Any,
        passes: type[Exception] | tuple[()] = (),
    ) -> Any:
        """Call a user's function for a client; what it raises is logged, and is `default`.

        But for an exception of the kind `passes`, which is raised again.
        """
        callbacks = self._hub._life.callbacks
        return callbacks.call(
            function, *args, connection=connection, default=default, passes=passes
        )

    def count(self, name: str) -> None:
        """Count something, by its name in `HubStats`. Any thread."""
        self._hub._life.counters.add(name)


def _no_client(given: object) -> TypeError:
    return TypeError(
        f"client must be a Client, not {excerpt(given)}: callbacks get one, and "
        "all_clients() and user_clients(user_id) return them"
    )


def _describe(publications: Sequence[Publication], output: Output) -> None:
    """Have publications know of which lines of a program's output they are states."""
    for at in output.states:
        publications[at].state = True
        publications[at].line = NO_LINE if output.lines is None else output.lines[at]


def _gone(client: object) -> str:
    """Return the reason of a ConnectionClosed: what all_clients() does not return any more."""
    return f"{client!r} has disconnected: all_clients() has the others"


def _is_of(user_id: str, connection: Connection) -> bool:
    return connection.user_id == user_id


def _clients_of(connections: Iterable[Connection]) -> list[Client]:
    """Return the clients of connections, without those that have ended meanwhile."""
    return [client for each in connections if (client := each.client) is not None]
