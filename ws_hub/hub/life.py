"""One life of a hub, from its start to its end: its state, its parts and its helper threads.

    NEW ──start, run──> RUNNING ──drain──> DRAINING
                           │                  │
                           └───────stop───────┴──> STOPPING ──> CLOSING ──> STOPPED

In STOPPING the `at_stop` functions run and everything is still delivered, so that a process
that is ended gets its last output out. CLOSING accepts no new messages, delivers what is
queued, closes every client with 1001 and joins every thread. A hub that starts again gets a
new life: nothing is reset in place.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from .. import threads
from ..access.admission import Admission
from ..access.contexts import Context
from ..backplane.addresses import backplane_of
from ..backplane.bus import Backplane
from ..backplane.interest import Interest
from ..backplane.rules import share
from ..backplane.store import HistoryStore
from ..config import HubConfig
from ..connection.connection import Connection
from ..connection.poller import Poller
from ..connection.readers import Readers
from ..connection.ring import Ring
from ..connection.writer_starter import ThreadStarter
from ..errors import CloseCode
from ..process.process import Process
from ..protocol.message import Encoder
from ..reentrant import Event, ReentrantQueue
from .asks import Asks
from .callbacks import Callbacks, guarded
from .clients import Clients
from .control import Programs
from .dispatcher import Activation, Dispatcher
from .handlers import ChannelHandler, Handlers
from .items import Item, Queues
from .listener import Listener
from .mailbox import Mailbox
from .memory import MemoryHistory
from .pacing import Pacing
from .presence_feed import PresenceFeed
from .recorder import Recorder
from .relay import Relay, RelayingHub
from .replay import Replays
from .request_handler import Actions, RequestHandler
from .shared_control import SharedControl
from .shared_keys import SharedKeys
from .stats import Counters
from .stop_hooks import StopHooks
from .stores import Stores
from .subscriptions import ChannelMap, Subscription

__all__ = ["Life", "State"]

_MAX_NEWS = 1_000_000


def _shared(config: HubConfig) -> tuple[Backplane | None, HistoryStore | None]:
    """Return the backplane, and the store of one's own or that all its processes share."""
    backplane, store = backplane_of(config.backplane), config.history
    if store is None and backplane is not None and config.keeps_history:
        store = backplane.history
    return backplane, store


class State(enum.Enum):
    """Where a life of a hub is.

    Attributes:
        accepts: whether messages are taken, and delivered.
        admits: whether connections become clients.
        open: whether the hub shows itself as running.
    """

    NEW = "not started", False, True, False
    RUNNING = "running", True, True, True
    DRAINING = "draining", True, False, True
    STOPPING = "stopping", True, True, False
    CLOSING = "closing", False, False, False
    STOPPED = "stopped", False, False, False

    def __init__(self, _: str, accepts: bool, admits: bool, open: bool) -> None:
        self.accepts = accepts
        self.admits = admits
        self.open = open


class Upward(Actions, RelayingHub, Protocol):
    """What the parts of a life ask of the hub."""

    @property
    def encoder(self) -> Encoder:
        """What encodes all messages of the application. Any thread."""

    def later(self, call: Callable[[], object]) -> None:
        """Have something called on the hub thread; raises HubFull. Any thread; never waits."""

    def context(self) -> Context:
        """Return the context of callbacks that are for no client. Any thread."""

    def program(self, process_id: str) -> Process | None:
        """Return the program of a process id that runs here. Any thread."""

    def tell(self, event: str, data: Any, *, channel: str, timeout: float | None) -> None:
        """Publish an event in a channel; raises HubFull and HubNotRunning. Any thread."""

    def refuse(self, activation: Activation) -> bool:
        """Refuse a client's subscription that a store cannot answer. The recorder's thread."""


class Life:
    """What is made for one start of a hub and ends with its stop.

    Args:
        config: the hub's settings.
        queues: what the hub thread consumes.
        hub: the hub.
        handlers: the functions of the application.

    Attributes:
        state: guarded by the hub's lock; read without it.
        encoder: encodes all messages of the application.
        drained: whether its clients were let go; written under the hub's lock.
        listeners: guarded by the hub's lock.
        claimed: whether a thread has taken on the end of this life; guarded by the hub's lock.
        finished: set when the life is over.
        thread: the hub thread.
        owns_thread: whether that thread is the hub's own, and ends with it.
        ring: what sends broadcasts by io_uring, where it may.
    """

    def __init__(self, config: HubConfig, queues: Queues, hub: Upward, handlers: Handlers) -> None:
        self.config = config
        self.handlers = handlers
        self.encoder = hub.encoder
        self.state = State.NEW
        self.drained = False
        self.wakeup = queues.wakeup
        self.registers = queues.registers
        self.unregisters = queues.unregisters
        self.broadcasts = queues.broadcasts
        self.listeners: set[Listener] = set()
        self.claimed = False
        self.finished = Event()
        self.thread: threading.Thread | None = None
        self.owns_thread = False
        self.ring = Ring()
        self.at_stop = StopHooks()
        self.counters = Counters()
        self.readers = Readers()
        self.callbacks = Callbacks(self.counters, hub.context, self._takes_nothing, self.readers)
        self.pacing = Pacing()
        # What is wanted of the other processes, where there can be any.
        interest = None if config.backplane is None else Interest()
        self.channels = self._new_channels(interest)
        self.presence = PresenceFeed(self.channels, hub.rule_for, self.wakeup.signal)
        self.clients = Clients(config, self.channels, self.counters, queues, interest)
        self.registry = self.clients.registry
        self.asks = Asks()
        self.programs = Programs(hub.program, hub.tell, config.log_input)
        self.requests = self._new_requests(hub)
        # Not by a method of its own: each message of a client would pass one more.
        self.received = self.requests.receive
        self.admission = Admission(
            config, self.clients, count=self.counters.add, call=self.callbacks.call
        )
        self.stores = Stores.of(config, hub.rule_for, self.channels.has_subscribers)
        self.history = self.stores.history
        self.poller = Poller(self.start_later)
        self.replays = self._new_replays()
        self.dispatcher = self._new_dispatcher(hub)
        backplane, given = _shared(config)
        # What is asked for kept messages; without one of its own, the history in memory.
        self.store = MemoryHistory(self.history) if given is None else given
        self.recorder = None if given is None else self._new_recorder(queues, hub)
        self.keys: SharedKeys | None = None
        self.relay: Relay | None = None
        if backplane is not None and interest is not None:
            self.relay = self._new_relay(backplane, hub, interest)
        self._backplane = backplane
        self._hub = hub
        self._slow: set[int] = set()  # clients whose on_slow_client is about to be called
        self._notifier: Mailbox[Callable[[], object]] | None = None
        self._starter: ThreadStarter | None = None
        self.stopper: Mailbox[Life] | None = None

    def _new_channels(self, interest: Interest | None) -> ChannelMap[Any]:
        return ChannelMap(
            self._first_came,
            self._last_left,
            self._begun,
            self._ended,
            self._delisted,
            interest=interest,
        )

    def _new_requests(self, hub: Upward) -> RequestHandler:
        hear, answered = self.clients.pending.hear, self.asks.take
        return RequestHandler(
            self.config, self.handlers, hub, hear, self.guard, answered, self.programs
        )

    def _new_replays(self) -> Replays:
        return Replays(
            self.history,
            self.channels,
            watch=self.poller.watch,
            unwatch=self.poller.unwatch,
            awake=self.wakeup.signal,
        )

    def _new_dispatcher(self, hub: Upward) -> Dispatcher:
        made = Dispatcher(
            self.channels,
            self.stores,
            self.replays,
            hub.rule_for,
            self._evict,
            self.counters,
            self.config.compression,
        )
        if self.config.io_uring:
            made.send_to_each = self.ring.send_to_each
        return made

    def _new_recorder(self, queues: Queues, hub: Upward) -> Recorder:
        return Recorder(
            self.store,
            self.history,
            hub.rule_for,
            queues,
            hub.refuse,
            self.channels.has_subscribers,
            self.counters,
        )

    def _new_relay(self, backplane: Backplane, hub: Upward, interest: Interest) -> Relay:
        recorder = self.recorder
        look = None if recorder is None else recorder.look_soon
        rules = self.config.rules
        presence = self.presence if any([each.presence for each in rules]) else None
        if any([each.keyed for each in rules]):
            self.keys = SharedKeys(self.stores.keyed, backplane.tell, self.wakeup.signal)
        relay = Relay(backplane, hub, self.broadcasts, look, presence, self.keys, interest)
        relay.control = SharedControl(self.programs, relay.survey, self._takes_nothing)
        self.programs.elsewhere = relay.control
        if recorder is not None:
            recorder.announce = relay.kept
        return relay

    def launch(self, wind_down: Callable[[Life], None]) -> None:
        """Start the helper threads.

        The thread that ends a life is there from its start: `stop` starts none, so that a
        signal handler may call it, and so may an interpreter that ends.

        Args:
            wind_down: called with this life on the stop thread, once it is told to end.
        """
        self.readers.begin()
        with contextlib.ExitStack() as begun:  # what fails leaves nothing behind
            if self.relay is not None:
                self.relay.open()
                begun.callback(self.relay.close, 0.0)
            if self._backplane is not None:
                share(self._backplane, self.config)
            self.store.open(self._hub.rule_for)
            begun.callback(self.store.close)
            if self.recorder is not None:
                self.recorder.start()
            begun.pop_all()
        # The hub thread must not wait until a thread has started: another one does.
        self._starter = ThreadStarter("ws-hub:starter")
        self.stopper = Mailbox("ws-hub:stop", wind_down, 1)
        self._notifier = Mailbox("ws-hub:notify", lambda call: call(), _MAX_NEWS)
        if self.relay is not None:
            self.relay.left()  # processes that were killed before this one began

    # --- any thread ------------------------------------------------------------------------

    def tell_start(self) -> None:
        """Have the functions for the start called, before those for channels."""
        for function in self.handlers.start:
            self.post(functools.partial(self.callbacks.call, function))

    def guard(self, function: Callable[..., Any], *args: Any, default: Any = None) -> Any:
        """Call something of ours; what it raises is logged and counted, and is `default`."""
        return guarded(self.counters, function, *args, default=default)

    def start_later(
        self, name: str, target: Callable[[], None], step: Callable[[], bool]
    ) -> threads.DeferredThread | None:
        """Have a thread started soon, for a `target`; until then, `step` does its work."""
        if self._starter is None:
            return None
        thread = threads.DeferredThread(name, target, step)
        self._starter.post(thread)
        return thread

    def queue_for(self, channel: str | None) -> ReentrantQueue[Item]:
        """Return the queue for what has a place among a channel's messages. Any thread.

        "" for what is for no channel, None for what comes after the messages of all channels.
        """
        recorder = self.recorder
        if recorder is None or channel == "":
            return self.broadcasts
        kept = channel is None or self._hub.rule_for(channel).history_messages
        return recorder.queue if kept else self.broadcasts

    @property
    def waiting(self) -> Sequence[ReentrantQueue[Item]]:
        """The queues of what is published. Any thread."""
        return [self.broadcasts, *([self.recorder.queue] if self.recorder else [])]

    # --- for a connection; see `ConnectionHub` -------------------------------------------------

    def opened(self, connection: Connection) -> bool:
        """Ask for the admission of a connection. Its reader thread."""
        return self.clients.opened(connection)

    def admitted(self, connection: Connection, patience: float | None = None) -> bool:
        """Wait for the decision about its admission. Its reader thread."""
        return self.registry.admitted(connection, patience)

    def left(self, connection: Connection, *, wait: bool) -> None:
        """Take a connection out. Its reader thread."""
        self.asks.left(connection, CloseCode.ABNORMAL, "it left before it had answered")
        self.programs.left(connection)
        self.registry.dismiss(connection, wait)

    def reader_ended(self, connection: Connection) -> None:
        """Note that the reader thread of a connection is at its end. That thread."""
        self.registry.reader_ended(connection)

    @property
    def on_connect(self) -> Sequence[Callable[..., Any]]:
        """The functions for a client that is admitted. Any thread."""
        return self.handlers.connect

    @property
    def on_disconnect(self) -> Sequence[Callable[..., Any]]:
        """The functions for a client that is gone. Any thread."""
        return self.handlers.disconnect

    def call(self, function: Callable[..., Any], *args: Any, connection: Connection) -> Any:
        """Call a user's function for a connection. Its reader thread."""
        return self.callbacks.call(function, *args, connection=connection)

    def closing(self, connection: Connection) -> None:
        """Start the `close_timeout` of a peer. Any thread."""
        self.registry.closing(connection)

    def subscriptions(self, connection: Connection) -> list[str]:
        """Return the channels of a connection. Any thread."""
        return self.channels.of(connection)

    def count(self, name: str, times: int = 1) -> None:
        """Count an event. Any thread."""
        self.counters.add(name, times)

    def crowded(self, number: int, crowded: bool) -> None:
        """Note whether an outbox is crowded. Any thread, under a transport's lock."""
        self.pacing.mark(number, crowded)
        if crowded and self.handlers.slow_client and number not in self._slow:
            self._slow.add(number)
            self.post(functools.partial(self._tell_slow, number))

    def info_changed(self, connection: Connection) -> None:
        """Tell the channels with presence of another info. Any thread."""
        self.presence.renewed(connection)

    def call_later(self, call: Callable[[], object]) -> None:
        """Have something called on the hub thread. Any thread; never waits."""
        self._hub.later(call)

    # --- under the lock of the subscriptions: posted, so that the order is true ---------------

    def _first_came(self, channel: str) -> None:
        self._tell(self.handlers.first_subscriber, channel)

    def _last_left(self, channel: str) -> None:
        self._tell(self.handlers.last_unsubscribe, channel)

    def _tell(self, handlers: Sequence[ChannelHandler], channel: str) -> None:
        for handler in handlers:
            if handler.rule.matches(channel):
                self.post(functools.partial(self.callbacks.call, handler.function, channel))

    def _begun(self, subscription: Subscription[Any]) -> None:
        self._queue(subscription, self.handlers.subscribe)

    def _ended(self, subscription: Subscription[Any], left: bool) -> None:
        subscriber = subscription.subscriber
        seen = self.handlers.disconnect or self.handlers.unsubscribe
        if left and seen and isinstance(subscriber, Connection):
            subscriber.last_channels.append(subscription.channel)
        self._queue(subscription, self.handlers.unsubscribe, left)

    def _delisted(self, subscription: Subscription[Any], left: bool) -> None:
        self.presence.ended(subscription, left)

    def _queue(
        self,
        subscription: Subscription[Any],
        handlers: Sequence[ChannelHandler],
        left: bool = False,
    ) -> None:
        """Queue the calls about a subscription, for its client's reader where that is near."""
        connection = subscription.subscriber
        if not handlers or not isinstance(connection, Connection):
            return
        call = functools.partial(self._call_handlers, connection, handlers, subscription.channel)
        # The reader of a client that has left is at its end, and makes what waits.
        if connection.queue_call(call) and not left:
            self.post(connection.make_calls)

    def post(self, call: Callable[[], object]) -> None:
        """Have something called on the notify thread. Any thread; never waits."""
        if self._notifier is not None:
            self._notifier.post(call)

    def _takes_nothing(self) -> bool:
        return not self.state.accepts

    # --- reader threads, and the notify thread ---------------------------------------------

    def _call_handlers(
        self, connection: Connection, handlers: Sequence[ChannelHandler], channel: str
    ) -> None:
        for handler in handlers:
            if handler.rule.matches(channel):
                client = connection.client
                self.callbacks.call(handler.function, client, channel, connection=connection)

    def _tell_slow(self, number: int) -> None:
        """Call the functions for a client that has become slow. The notify thread."""
        self._slow.discard(number)
        connection = self.registry.find(number)
        client = None if connection is None else connection.client
        for function in self.handlers.slow_client if client is not None else ():
            self.callbacks.call(function, client, connection=connection)

    # --- hub thread ------------------------------------------------------------------------

    def _evict(self, target: Any) -> None:
        """Disconnect a client that does not read; it counts as gone from now."""
        self.registry.remove(target)
        self.channels.leave(target)
        target.evict("too slow: the outbox is full")
        self.asks.left(target, CloseCode.TRY_AGAIN, "it is too slow, and was disconnected")

    def join_helpers(self, deadline: float) -> None:
        """End the helper threads, after what waits for them; wait until a monotonic moment."""
        for mailbox in (self._notifier, self.stopper):
            if mailbox is not None:
                mailbox.close(drop=False)
                mailbox.join(deadline - time.monotonic())
        self.poller.close()
        self.poller.join(deadline - time.monotonic())
        self.readers.close()
        self.readers.join(deadline)
        if self._starter is not None:
            self._starter.close()
            self._starter.join(deadline - time.monotonic())
