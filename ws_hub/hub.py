"""The hub: who is connected, and one thread that passes on what is published.

Must not know subprocesses, Redis or Flask. The way of a message::

    any thread ──encode──> _broadcasts ──> hub thread: number, join, deliver ──> clients
    reader thread ──subscribe──> _broadcasts (its place among the messages)

One dispatching thread gives every client the messages of a channel in one order, and
a subscription a place in that order: its replay, then everything after it.

Lock order, top to bottom: hub → channel map → history → client (its transport).
"""

from __future__ import annotations

import functools
import itertools
import logging
import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TextIO

from .channels import Full
from .client import Client, Hooks
from .commands import Subscribe
from .config import HubConfig
from .dispatch import Activation
from .door import Entry
from .errors import (
    ConnectionClosed,
    HubFull,
    HubNotRunning,
    LimitExceeded,
    excerpt,
)
from .keeper import Keeper
from .listener import Listener
from .log import get_logger
from .message import Message, check_channel, encode
from .publication import Publication, publish
from .publisher import Publisher
from .reception import Actions, Reception
from .transport import Transport

__all__ = ["Hub"]

logger = get_logger(__name__)

_client_numbers = itertools.count(1)
_LISTENER_MESSAGES = 16_384


class Hub(Keeper, Publisher):
    """Keeps the connections and passes on what is published.

    Usable from any thread, with no application or request context. It owns its
    clients, channels and threads; `start` or `run` brings it to life, `stop` ends all.

    Args:
        config: the settings; `HubConfig()` when left out.
    """

    def __init__(self, config: HubConfig | None = None) -> None:
        super().__init__(config or HubConfig())
        self._reception = Reception(
            self._config,
            self._is_channel,
            self._rule_for,
            Actions(
                subscribe=self._subscribe,
                unsubscribe=self.unsubscribe,
                publish=self.send_to_channel,
                enqueue=self._enqueue,
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
        )

    # --- any thread: publish (the methods are Publisher's) ---------------------------------

    def _publish(
        self, texts: Sequence[bytes], channel: str, timeout: float | None, *, over: bool = False
    ) -> None:
        config = self._config
        if not channel:
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
        self._enqueue(publications, timeout)

    def _enqueue(self, item: Any, timeout: float | None = None) -> None:
        """Queue something for the hub thread.

        Raises HubNotRunning, and HubFull when there is no room for `timeout` seconds.
        """
        if not self._accepting:
            raise HubNotRunning("the hub is not running: start() it before publishing")
        wait = self._config.publish_timeout if timeout is None else timeout
        if threading.current_thread() is self._thread:
            wait = 0.0  # a log handler of ours on our own logger: nobody else makes room
        try:
            self._broadcasts.put(
                item, block=wait > 0, timeout=min(max(wait, 0.0), threading.TIMEOUT_MAX)
            )
        except queue.Full:
            raise HubFull(
                f"the hub's queue of {self._config.queue_size} messages was full for {wait:g} s"
            ) from None
        self._awake()
        # Looked at again after the put: what was put while this was true is dispatched
        # by the hub's last turn; what was put later may not be, and must not seem to be.
        if not self._accepting:
            raise HubNotRunning("the hub stopped while this was published")

    def send_to_user(self, user_id: str, message: Message, *, timeout: float | None = None) -> None:
        """Send a message to all connections of a user, each browser tab of theirs.

        In order with everything else that is published; to nobody when the user is not
        here. Raises MessageEncodeError, HubNotRunning, HubFull.

        Threads: any; waits while the hub's queue is full, at most `timeout` seconds.
        """
        text = encode(message, time.time())
        config = self._config
        publication = publish(
            text, "", config.broadcast_overflow, compressed=config.compresses(text)
        )
        self._enqueue(functools.partial(self._to_user, user_id, publication), timeout)

    def wait_for_room(self, channel: str, timeout: float) -> bool:
        """Wait until nobody who listens to a channel is behind.

        Nobody is when everything that was published before this call is on its way, at
        most half full is the outbox of each client that listens, and a client that came
        late has yet to read at most half of what the channel may keep. Whoever publishes
        much calls this now and then, and is slowed to the pace of the slowest client
        instead of having it skip messages. A client that reads nothing at all is cut
        after the write timeout, and waited for no longer. False after `timeout` seconds.
        Raises InvalidName, HubNotRunning, HubFull.

        Threads: any but those of callbacks; blocks at most `timeout`.
        """
        check_channel(channel, self._is_channel)
        deadline = time.monotonic() + timeout
        dispatched = threading.Event()
        self._enqueue(functools.partial(self._replays.when_near, channel, dispatched.set), timeout)
        if not dispatched.wait(max(deadline - time.monotonic(), 0.0)):
            return False
        return all(
            client.wait_for_room(deadline - time.monotonic()) for client in self.clients(channel)
        )

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

    def _subscribe(self, target: Any, request: Subscribe) -> None:
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
            raise ConnectionClosed(1006, f"{target!r} is gone")
        activation = Activation(
            subscription, request.since, request.epoch, request.last, request.id
        )
        try:
            self._enqueue(functools.partial(self._dispatcher.activate, activation))
        except (HubFull, HubNotRunning):
            if not subscription.live:
                self._channels.remove(target, channel)
            raise

    def unsubscribe(self, client: Client, channel: str) -> bool:
        """Have a client listen to a channel no more; say whether it did.

        Threads: any; does not wait.
        """
        return self._channels.remove(client, channel)

    def listen(self, channel: str, function: Callable[[Message], object]) -> Listener:
        """Call a function with each message of a channel, inside this process.

        It runs on a thread of its own, in order, until the listener is closed or the
        hub stops; what it raises is logged. Raises InvalidName, HubNotRunning, HubFull.

        Threads: any; waits while the hub's queue is full.
        """
        check_channel(channel, self._is_channel)
        if not self._accepting:
            raise HubNotRunning("the hub is not running: start() it before listening")
        listener = Listener(
            channel,
            functools.partial(self._call, function),
            on_closed=self._forget_listener,
            max_messages=_LISTENER_MESSAGES,
            name=f"ws-hub:listener:{excerpt(channel)}",
        )
        self._keep_listener(listener)
        self._channels.enter(listener)
        try:
            self._subscribe(listener, Subscribe(channel))
        except (HubFull, HubNotRunning):
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
            client.network = entry.network
            if entry.identity is not None:
                client.identify(entry.identity)
        return client

    # --- reader threads --------------------------------------------------------------------

    def _received(self, client: Client, data: str | bytes) -> None:
        if client.verify is None:
            self._reception.receive(client, data)
        else:
            self._members.lobby.hear(client, data)

    # --- hub thread ------------------------------------------------------------------------

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
        from .wsgi import handle

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
        from .process import run_process

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
        from .process import log_handler

        return log_handler(self, channel, level)

    def writer(self, process_id: str) -> TextIO:
        """Return a text file whose lines go to the channel of a process id.

        Threads: any.
        """
        from .process import writer

        return writer(self, process_id)
