"""The hub: who is connected, and one thread that passes on what is published.

Must not know subprocesses, Redis or Flask. The way of a message::

    any thread ──encode──> _broadcasts ──> hub thread: number, join, deliver ──> clients
    reader thread ──subscribe──> _broadcasts (its place among the messages)

One dispatching thread gives every client the messages of a channel in one order, and
a subscription a place in that order: its replay, then everything after it.

Lock order, top to bottom: hub → channel map → history → client (its transport). A call
that comes in on a thread that is inside another one, from a signal handler, a finaliser or
a log handler, waits for nothing; see `reentrant`.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import os
import queue
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TextIO

from ..access.admission import Entry
from ..access.authenticators import check_user
from ..backplane.publisher import EVERYBODY, Everybody, Publisher
from ..config import HubConfig
from ..connection.client import Client, Hooks
from ..connection.transport import Transport
from ..errors import ConnectionClosed, HubFull, HubNotRunning, LimitExceeded, excerpt
from ..log import get_logger
from ..process.process import log_handler, run_process, writer
from ..protocol.message import Message, MessageType, encode
from ..protocol.names import check_channel
from ..protocol.publication import Publication, publish
from ..protocol.requests import Subscribe, error
from ..reentrant import Event, nested
from ..validation import check_plain
from ..wsgi.app import handle
from .dispatcher import Activation
from .keeper import Keeper
from .lifecycle import Delivery
from .listener import Listener
from .request_handler import Actions, Reception
from .subscriptions import Full

__all__ = ["Hub"]

logger = get_logger(__name__)

_client_numbers = itertools.count(1)
_LISTENER_MESSAGES = 16_384
# Items in the hub's queue, with which clients may add to it. Each subscription costs a write
# of the hub thread; what is published is joined, the better the more it is.
_MOST_ASKED = 8
_MOST_PUBLISHED = 128
_HUB_THREAD = 4  # seconds that one of the hub thread counts as: everybody waits for that


class Hub(Keeper, Publisher):
    """Keeps the connections and passes on what is published.

    Usable from any thread, with no application or request context. It owns its
    clients, channels and threads; `start` or `run` brings it to life, `stop` ends all.

    Args:
        config: the settings; `HubConfig()` when left out.
    """

    def __init__(self, config: HubConfig | None = None) -> None:
        super().__init__(config if config is not None else HubConfig())
        self._reception = Reception(
            self._config,
            self._is_channel,
            self._rule_for,
            Actions(
                subscribe=functools.partial(self._subscribe, most=_MOST_ASKED),
                unsubscribe=self.unsubscribe,
                publish=self._publish_for,
                listeners=self.channel_subscriber_count,
                enqueue=self._enqueue,
                answer=functools.partial(self._enqueue, most=_MOST_ASKED),
                call=self._call,
                count=lambda name: self._counters.add(name),
            ),
        )

    def _reset(self) -> None:
        super()._reset()
        # One for all clients of this life: for each its own would be a dozen objects more.
        self._hooks = Hooks(
            opened=self._members.opened,
            admitted=self._roster.admitted,
            received=self._received,
            gone=self._roster.dismiss,
            finished=self._roster.finished,
            call=self._call,
            closing=self._roster.closing,
            count=self._counters.add,
            start=self._start_later,
            later=self._later,
            crowded=self._pacing.mark,
        )

    # --- any thread: publish (the methods are Publisher's) ---------------------------------

    def _publish(
        self,
        texts: Sequence[bytes],
        channel: str,
        timeout: float | None,
        *,
        over: bool = False,
        payer: Client | None = None,
    ) -> None:
        config = self._config
        if channel == "":
            overflow, kept = config.broadcast_overflow, False
        else:
            check_channel(channel, self._is_channel)
            rule = self._rule_for(channel)
            overflow, kept = rule.overflow, rule.history_messages > 0
        publications = [
            publish(
                text, channel, overflow, to_be_numbered=kept, compressed=config.compresses(text)
            )
            for text in texts
        ]
        publications[-1].over = over
        for publication in publications if payer is not None else ():
            publication.payer = payer
        if self._pacing.crowded:
            timeout = self._keep_pace(
                publications,
                (lambda client: self._channels.has(client, channel)) if channel != "" else _is_one,
                timeout,
            )
        self._enqueue(publications, timeout, most=None if payer is None else _MOST_PUBLISHED)

    @property
    def _is_process(self) -> Callable[[str], bool]:
        return self._process_rule

    def _keep_pace(
        self,
        publications: Sequence[Publication],
        receives: Callable[[Client], bool],
        timeout: float | None,
    ) -> float | None:
        """Wait for crowded receivers that read well; return what is left of the time."""
        wait = self._config.publish_timeout if timeout is None else timeout
        began = time.monotonic()
        size = sum([len(each.text) for each in publications])
        if (
            wait <= 0
            or self._is_hub_thread()
            or nested()
            or not self._pacing.is_loop(len(publications), size, began)
        ):
            return timeout
        # The last tenth is for the hub's queue: what is slow is no reason for HubFull.
        until = began + wait * 0.9
        for number in self._pacing.crowded:
            client = self._roster.find(number)
            if client is not None and receives(client):
                client.keep_pace(until - time.monotonic())
        return max(began + wait - time.monotonic(), 0.0)

    @contextlib.contextmanager
    def unpaced(self) -> Iterator[None]:
        """Publish from the calling thread, meanwhile, without being slowed to the clients.

        A client that is too slow for that misses messages, or is disconnected; see
        `HubConfig.pace_bytes`. `run_process` does so, unless it has backpressure.

        Threads: any; does not wait.
        """
        with self._pacing.exempt():
            yield

    def _enqueue(self, item: Any, timeout: float | None = None, *, most: int | None = None) -> None:
        """Queue something for the hub thread, after all that this thread has queued.

        What a client has asked for comes while fewer than `most` items wait, and leaves room
        for the application. Raises HubNotRunning, and HubFull when there is no room for
        `timeout` seconds.
        Within another call of the hub on this thread, and on the hub's own, it never waits.
        """
        if not self._accepting:
            raise self._not_running()
        try:
            self._broadcasts.put(item, block=False, most=most)
        except queue.Full:
            wait = self._config.publish_timeout if timeout is None else timeout
            self._wait_and_put(item, wait, most)
        # Looked at again after the put: what was put while this was true is dispatched
        # by the hub's last turn; what was put later may not be, and must not seem to be.
        if not self._accepting:
            raise HubNotRunning("the hub stopped while this was published")

    def _wait_and_put(self, item: Any, wait: float, most: int | None) -> None:
        # On the hub thread nobody else would make room, and to one that is within another
        # call of the hub nobody might: what that has half done may be waited for.
        if wait <= 0 or self._is_hub_thread() or nested():
            wait = 0.0
        try:
            self._broadcasts.put(item, block=wait > 0, timeout=wait, most=most)
        except queue.Full:
            raise HubFull(
                f"the hub's queue of {self._config.queue_size} messages was full for {wait:g} s"
            ) from None

    def _later(self, call: Callable[[], object]) -> None:
        self._enqueue(call, 0)

    def send_to_user(self, user_id: str, message: Message, *, timeout: float | None = None) -> None:
        """Send a message to all connections of a user, each browser tab of theirs.

        In order with everything else that is published; to nobody when the user is not
        here. Raises TypeError and InvalidName for a user id that is none,
        MessageEncodeError, HubNotRunning, HubFull.

        Threads: any; waits while the hub's queue is full, at most `timeout` seconds.
        """
        check_user(user_id)
        text = encode(message, time.time(), self._is_process)
        config = self._config
        publication = publish(
            text, "", config.broadcast_overflow, compressed=config.compresses(text)
        )
        if self._pacing.crowded:
            timeout = self._keep_pace(
                [publication], lambda client: client.user_id == user_id, timeout
            )
        deliver = functools.partial(self._to_user, user_id)
        self._enqueue(Delivery(publication, deliver), timeout)

    def wait_for_room(
        self, channel: str | Everybody = EVERYBODY, timeout: float | None = None
    ) -> bool:
        """Wait until nobody who listens to a channel is behind; without one, nobody at all.

        Nobody is when everything that was published before this call is on its way, at
        most half full is the outbox of each client that listens, and a client that came
        late has yet to read at most half of what the channel may keep. Whoever publishes
        much calls this now and then, and is slowed to the pace of the slowest client
        instead of having it skip messages. A client that reads nothing at all is cut
        after the write timeout, and waited for no longer. False after `timeout` seconds
        (None: `publish_timeout`). Raises InvalidName, HubNotRunning, HubFull.

        Threads: any but those of callbacks; blocks at most `timeout`.
        """
        if channel is not EVERYBODY:
            check_channel(channel, self._is_channel)
        if timeout is None:
            timeout = self._config.publish_timeout
        deadline = time.monotonic() + timeout
        dispatched = Event()
        near = None if channel is EVERYBODY else channel
        self._enqueue(functools.partial(self._replays.when_near, near, dispatched.set), timeout)
        if not dispatched.wait(0.0 if nested() else deadline - time.monotonic()):
            return False
        clients = self.all_clients() if channel is EVERYBODY else self.clients(channel)
        return all(client.wait_for_room(deadline - time.monotonic()) for client in clients)

    # --- any thread: subscribe -------------------------------------------------------------

    def subscribe(
        self, client: Client, channel: str, *, since: int | None = None, epoch: str = ""
    ) -> None:
        """Have a client listen to a channel; again is no change.

        It counts at once and gets everything that is published from now on, after
        what `since` and `epoch` ask for (PROTOCOL, History). Raises InvalidName,
        LimitExceeded, ConnectionClosed when the client is gone, HubNotRunning, HubFull.

        Threads: any; waits while the hub's queue is full.
        """
        check_channel(channel, self._is_channel)
        self._subscribe(client, Subscribe(channel, None, since, epoch))

    def _subscribe(self, target: Any, request: Subscribe, *, most: int | None = None) -> None:
        if self._channels.busy:  # this thread is in the middle of a change of the map
            self._later(functools.partial(self._subscribe, target, request))
            return
        channel = request.channel
        limit, in_all = self._config.max_subscriptions, self._config.max_subscriptions_in_all
        if isinstance(target, Listener):
            in_all = None  # clients must not be able to crowd out the application
        try:
            subscription = self._channels.add(target, channel, limit, in_all)
        except Full:
            self._counters.add("refused_subscriptions_in_all")
            raise LimitExceeded(f"there are {in_all} subscriptions already") from None
        except OverflowError:
            self._counters.add("refused_subscriptions")
            raise LimitExceeded(f"{target!r} listens to {limit} channels already") from None
        if subscription is None:
            if isinstance(target, Listener):  # closed by the hub's end: nobody else has it yet
                raise HubNotRunning("the hub stopped while this was subscribed")
            raise ConnectionClosed(1006, f"{target!r} is gone")
        activation = Activation(
            subscription, request.since, request.epoch, request.last, request.id
        )
        activate = functools.partial(self._activate, activation)
        if self._is_hub_thread():  # put off by another call, which was told that it is accepted
            self._broadcasts.force(activate)
            return
        try:
            self._enqueue(activate, most=most)
        except (HubFull, HubNotRunning):
            self._channels.withdraw(subscription)
            raise

    def unsubscribe(self, client: Client, channel: str) -> bool:
        """Have a client listen to a channel no more; say whether it did.

        Threads: any; does not wait.
        """
        if self._channels.busy:
            self._later(functools.partial(self._channels.remove, client, channel))
            return self._channels.get(client, channel) is not None
        return self._channels.remove(client, channel)

    def listen(self, channel: str, function: Callable[[Message], object]) -> Listener:
        """Call a function with each message of a channel, inside this process.

        It runs on a thread of its own, in order, until the listener is closed or the
        hub stops; what it raises is logged. Raises InvalidName, HubNotRunning, HubFull,
        ConfigError for a coroutine function.

        Threads: any; waits while the hub's queue is full.
        """
        check_channel(channel, self._is_channel)
        check_plain("function", function)
        life = self._finished
        if not self._accepting:
            raise self._not_running()
        listener = Listener(
            channel,
            functools.partial(self._call, function),
            guard=self._guard,
            on_closed=self._forget_listener,
            max_messages=_LISTENER_MESSAGES,
            name=f"ws-hub:listener:{excerpt(channel)}",
        )
        try:
            self._keep_listener(listener)
            self._channels.enter(listener)
            self._subscribe(listener, Subscribe(channel))
            if life is not self._finished:  # its end may have closed this, and a start followed
                raise HubNotRunning("the hub stopped while this was subscribed")
        except BaseException:
            listener.close()
            raise
        return listener

    # --- any thread: connections -----------------------------------------------------------

    def recheck(self, client: Client) -> list[str]:
        """Ask `channel_authoriser` anew about all that a client listens to.

        What is refused now it hears no more; it is told by an `error` with the code
        `forbidden` for each. Returns those channels. Raises HubNotRunning, HubFull.

        Threads: any; runs the authoriser, waits while the hub's queue is full.
        """
        return self._reception.recheck(client)

    def connect(
        self,
        sock: socket.socket,
        *,
        greeting: bytes = b"",
        remote_address: str = "",
        received: bytes = b"",
        borrowed: bool = False,
        entry: Entry | None = None,
    ) -> Client:
        """Return a client for a socket whose opening handshake was accepted.

        The caller then calls its `start()`, or its `run()` to lend its own thread; the
        client closes the socket at its end unless it is `borrowed`. `greeting` goes out
        once it is registered, `received` came in already. `entry` is what the door said
        of it, and who it is.

        Threads: any.
        """
        config = self._config
        transport = Transport(
            sock,
            max_message_size=config.max_message_size,
            max_fragments=config.max_fragments,
            message_timeout=config.message_timeout,
            compression=entry is not None and entry.answer.compression,
            received=received,
            borrowed=borrowed,
        )
        client = Client(
            next(_client_numbers),
            transport,
            config,
            self._hooks,
            self._channels,
            remote_address=remote_address,
            greeting=greeting,
        )
        if entry is not None:
            client.verify, client.mark = entry.verify, entry.mark
            client.network, client.payer = entry.network, entry.payer
            if entry.identity is not None:
                client.identify(entry.identity)
        return client

    # --- reader threads --------------------------------------------------------------------

    def _received(self, client: Client, data: str | bytes) -> None:
        if self._config.lenient and isinstance(data, bytes):
            with contextlib.suppress(UnicodeDecodeError):
                data = data.decode()
        take = self._reception.receive if client.verify is None else self._members.lobby.hear
        # An error of ours in one message must not end a connection.
        failed = object()
        if self._guard(take, client, data, default=failed) is failed:
            self._guard(client.reply, error("internal error", "internal"))

    def _publish_for(self, client: Client, channel: str, data: object) -> None:
        """Send to a channel what a client publishes, at its cost."""
        text = encode(Message(MessageType.EVENT, channel=channel, data=data), time.time())
        self._publish([text], channel, None, payer=client)

    # --- hub thread ------------------------------------------------------------------------

    def _activate(self, activation: Activation) -> None:
        """Let a subscription go live, at the cost of its client."""
        began = time.thread_time()
        self._dispatcher.activate(activation)
        client = activation.subscription.subscriber
        if isinstance(client, Client):
            client.charge_processing(_HUB_THREAD * (time.thread_time() - began))

    def _to_user(self, user_id: str, publication: Publication) -> None:
        clients = self._members.users.of(user_id)
        self._dispatcher.dispatch([publication], clients, time.monotonic())

    # --- conveniences that point upward ----------------------------------------------------

    def handler(self) -> Callable[..., Iterable[bytes]]:
        """Return a WSGI application that accepts WebSocket connections for this hub.

        Threads: any.
        """
        return self.handle_websocket

    def handle_websocket(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        """Accept one WebSocket connection, or answer why not, as a WSGI application.

        Threads: a request thread, which it gives back at once; under TLS inside the
        server, when the connection is over.
        """
        return handle(self, environ, start_response)

    def run_process(
        self,
        argv: Sequence[str],
        process_id: str | None = None,
        *,
        pty: bool = False,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        on_line: Callable[[str, str], object] | None = None,
        backpressure: bool = False,
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
        )

    def log_handler(self, channel: str, level: int = logging.NOTSET) -> logging.Handler:
        """Return a logging handler that sends records to a channel as events.

        Threads: any.
        """
        return log_handler(self, channel, level)

    def writer(self, process_id: str) -> TextIO:
        """Return a text file whose lines go to the channel of a process id.

        Threads: any.
        """
        return writer(self, process_id)


def _is_one(client: Client) -> bool:
    return True  # a receiver of a broadcast
