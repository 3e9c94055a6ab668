"""A client that comes back: connects, subscribes, delivers, and connects again.

Must not know sockets or frames (`dial`, `link`), nor what is said over a connection
(`conversation`). The thread in `connect()` dials, waits between the attempts, and runs
every callback, in order; any thread sends, subscribes and closes.
"""

from __future__ import annotations

import enum
import itertools
import random as random_module
import threading
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any
from urllib.parse import urlsplit

from .. import threads
from ..errors import ConfigError, InvalidName, MaxRetriesExceeded, WsHubError, excerpt
from ..log import get_logger
from ..protocol.message import Message, MessageType, encode
from ..reentrant import Event
from .config import ReconnectConfig
from .connection import Link
from .connector import Dial, parse_target
from .retries import Retries
from .session import Conversation, Gone
from .subscriptions import MessagesLost

__all__ = ["ConnectionState", "MessagesLost", "ReconnectingClient"]

logger = get_logger(__name__)

_numbers = itertools.count(1)
# Characters. A request has it twice, each at most six bytes: in all less than the 64 KiB at
# which a hub ends the connection, and would end each one after it.
_MAX_NAME = 4096
_CLOSE_GRACE = 0.8  # seconds that close() takes at most
_HANDSHAKE_GRACE = 0.4  # seconds of them that the server has to answer


class ConnectionState(enum.Enum):
    """Where a ReconnectingClient stands; between attempts it is DISCONNECTED."""

    DISCONNECTED = "disconnected"
    CONNECTING = "connecting"
    CONNECTED = "connected"


class ReconnectingClient:
    """A WebSocket client that reconnects until it is closed.

    Give it a ReconnectConfig, or a URL and the config's fields as keywords. It is used
    in one of three ways: `connect()` blocks; `start()` does the same on a thread, and
    so does `with`; `for message in client` starts it if need be and yields its messages.
    Messages go to `on_message` if that is set, else to whoever iterates; without either
    they wait, within the bounds of the queue.

    A closed client stays closed.

    Args:
        config: a ReconnectConfig, or a URL.
        clock: monotonic seconds.
        random: yields numbers in [0, 1), for the jitter.
        settings: fields of the config, when a URL is given.
    """

    def __init__(
        self,
        config: ReconnectConfig | str,
        *,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = random_module.random,
        **settings: Any,
    ) -> None:
        if isinstance(config, str):
            config = ReconnectConfig(url=config, **settings)
        elif settings:
            raise ConfigError(f"{sorted(settings)} belong into the ReconnectConfig")
        parse_target(config)  # raises now what no attempt could mend
        self._config = config
        self._clock = clock
        self._random = random
        self._number = next(_numbers)
        parts = urlsplit(config.url)
        # For logs: without the query, where tokens are (FAULTS 52).
        self._name = f"{parts.scheme}://{parts.netloc}{parts.path}"
        self._reset()
        threads.forget_after_fork(self)

    def _reset(self) -> None:
        # guards: _dial, _connector, _failure. Taken before the conversation's lock.
        # Re-entrant: a signal handler may close a client of its own thread.
        self._lock = threading.RLock()
        self._dial: Dial | None = None
        self._connector: threading.Thread | None = None  # whoever is in connect()
        self._failure: BaseException | None = None  # what ended the last connect()
        self._idle = Event()  # nobody is in connect()
        self._idle.set()
        self._closed = Event()
        self._talk = Conversation(self._config, self._name, self._clock, self._random)

    def forget(self) -> None:
        """Start clean in a forked child: the parent's connection is not ours to use.

        Threads: only the one of the child.
        """
        closed, following = self._closed.is_set(), self._talk.discard()
        self._reset()
        self._talk.resume(following)
        if closed:
            self._closed.set()

    # --- any thread ------------------------------------------------------------------------

    @property
    def state(self) -> ConnectionState:
        """Where it stands at this moment."""
        with self._lock:
            if self._talk.connected:
                return ConnectionState.CONNECTED
            if self._dial is not None:
                return ConnectionState.CONNECTING
            return ConnectionState.DISCONNECTED

    @property
    def extensions(self) -> bool | None:
        """Whether the server answers requests and keeps history; None: not known (yet)."""
        return self._talk.extensions

    def subscriptions(self) -> Collection[str]:
        """Return the channels that are subscribed now and after every reconnect.

        Threads: any; never blocks.
        """
        return self._talk.channels

    def connect(self) -> None:
        """Connect, and connect again whenever the connection ends, until `close()`.

        Returns when it was closed. Raises MaxRetriesExceeded, whose cause is the last
        failure, when the retries are used up; HandshakeRefused for a 401 or 403,
        ConnectionClosed for a close code 4401 or 4403, and ConfigError where the server
        has no use for the token as it is sent, which would come again;
        RuntimeError when it is connecting already.

        Threads: one at a time; blocks. All callbacks run on it.
        """
        threads.check_one_kind("ReconnectingClient")
        with self._lock:
            if self._connector is not None:
                raise RuntimeError("this client is connected by another thread")
            if self._closed.is_set():
                return
            self._begin(threading.current_thread())
        self._connect()

    def start(self) -> ReconnectingClient:
        """Do what `connect` does on a thread of its own; return the client.

        What `connect` would raise is logged, and raised by an iteration. Does nothing
        when it is started already.

        Threads: any; returns at once.
        """
        threads.check_one_kind("ReconnectingClient")
        with self._lock:
            if self._connector is None and not self._closed.is_set():
                # Under the lock, which the new thread takes before it lets go again.
                self._begin(None)
                try:
                    self._connector = threads.start(
                        f"ws-hub:connect:{self._number}", self._connect_logged
                    )
                except RuntimeError:  # can't start new thread
                    self._talk.end()
                    self._idle.set()
                    raise
        return self

    def _begin(self, connector: threading.Thread | None) -> None:
        self._connector = connector
        self._failure = None
        self._idle.clear()
        self._talk.begin()

    def close(self) -> None:
        """End the connection, or the attempt, and stop for good. Idempotent.

        Callbacks that wait for their turn are not run any more, but for the on_disconnect
        of an open connection.

        Threads: any, callbacks included; returns within a second. A callback, a dialer of
        yours or a name lookup that still runs then ends in its own time.
        """
        # Not the injected clock: this is the caller's time.
        deadline = time.monotonic() + _CLOSE_GRACE
        with self._lock:
            self._closed.set()
            dial, connector = self._dial, self._connector
        if dial is not None:
            dial.abort()
        self._talk.stop(_HANDSHAKE_GRACE)
        self._talk.join(deadline - time.monotonic())
        if connector is not threading.current_thread():
            self._idle.wait(max(deadline - time.monotonic(), 0.0))
            if connector is not None and connector.name == f"ws-hub:connect:{self._number}":
                threads.join(connector, deadline - time.monotonic())

    def send(self, message: Message) -> None:
        """Send one message to the server.

        Raises MessageEncodeError; NotConnected when there is no connection, or when it
        broke before everything was out: then it may or may not have arrived.

        Threads: any; blocks at most write_timeout seconds.
        """
        self._talk.send(message)

    def subscribe(self, channel: str, *, since: int | None = None, last: int | None = None) -> None:
        """Listen to a channel, now if connected, and after every reconnect.

        `since` asks for what came after that number, 0 for all that is kept; `last` for
        so many of the newest messages. After a reconnect what was missed is fetched
        without being asked for. Raises InvalidName for what is no name at all (the
        server's rule decides about the others), ValueError for a negative number or for
        both, MessageEncodeError for a lone surrogate or a number that is not whole.

        Threads: any; blocks at most write_timeout seconds.
        """
        name: object = channel
        if not isinstance(name, str) or not name:
            raise InvalidName(f"channel name {excerpt(name)} is refused")
        if len(name) > _MAX_NAME:
            raise InvalidName(
                f"channel name {excerpt(name)} is refused: over {_MAX_NAME} characters"
            )
        for what, count in (("since", since), ("last", last)):
            if count is not None and count < 0:
                raise ValueError(f"{what} must not be negative: {count}")
        if since is not None and last is not None:
            raise ValueError(f"since={since} and last={last}: one of them")
        # Raises now, or never: what has no form would end the next connection, and all after it.
        encode(Message(MessageType.SUBSCRIBE, channel=channel, since=since, last=last))
        self._talk.subscribe(channel, since, last)

    def unsubscribe(self, channel: str) -> None:
        """Listen to a channel no longer; does nothing when it was not listened to.

        Threads: any; blocks at most write_timeout seconds.
        """
        self._talk.unsubscribe(channel)

    def calculate_backoff(self, attempt: int) -> float:
        """Return the seconds before retry number `attempt`, from 1, without jitter.

        Threads: any; never blocks.
        """
        return Retries(self._config, self._random).backoff(attempt)

    def __iter__(self) -> Iterator[Message]:
        """Yield the messages as they come; starts the client unless it is started.

        Ends when the client is closed; raises what `connect` would when it gives up,
        after the last message. Several iterations share the messages.

        Threads: any; blocks.
        """
        if self._config.on_message is not None:
            raise RuntimeError("messages go to on_message; leave it out to iterate")
        self.start()
        while (message := self._talk.next_message()) is not None:
            yield message
        with self._lock:
            failure = self._failure
        if failure is not None:
            raise failure

    def __enter__(self) -> ReconnectingClient:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # --- the thread in connect() -----------------------------------------------------------

    def _connect_logged(self) -> None:
        try:
            self._connect()
        except WsHubError as error:
            logger.error("gave up %s: %s", self._name, error)

    def _connect(self) -> None:
        failure: BaseException | None = None
        try:
            self._run()
        except BaseException as error:
            failure = error
            raise
        finally:
            with self._lock:
                self._failure = failure
                self._connector = None
            self._talk.end()
            self._idle.set()

    def _run(self) -> None:
        retries = Retries(self._config, self._random)
        connected = False  # ever
        attempts = 0  # of this outage
        while True:
            failure: Exception
            attempts += 1
            try:
                link = self._dial_once()
            except (OSError, WsHubError) as error:
                failure, retry = error, retries.failed(error)
                if not self._closed.is_set():
                    logger.info("no connection to %s: %s", self._name, excerpt(str(error)))
                    self._call("on_error", error)
            else:
                gone = self._live(link, attempts if connected else 0)
                connected, attempts, failure = True, 0, gone.end
                retry = retries.failed(failure, gone.held)
                self._call(
                    "on_disconnect",
                    int(gone.end.code),
                    gone.end.reason,
                    retry and not self._closed.is_set(),
                )
            if not retry:
                self._give_up(failure)
            if self._closed.wait(retries.wait(failure) if retry else 0):
                return

    def _give_up(self, failure: Exception) -> None:
        if self._closed.is_set():
            return
        if Retries.is_final(failure):
            raise failure
        raise MaxRetriesExceeded(
            f"{self._name}: {self._config.max_retries} retries failed"
        ) from failure

    def _dial_once(self) -> Link:
        dial = Dial(self._config, self._clock)
        with self._lock:
            if self._closed.is_set():
                raise ConnectionAbortedError("closed")
            self._dial = dial
        try:
            return dial.run()
        except BaseException as error:
            with self._lock:
                self._dial = None
            if isinstance(error, (OSError, WsHubError)) or not isinstance(error, Exception):
                raise
            logger.exception("the dialer for %s failed", self._name)
            raise ConnectionError(f"the dialer failed: {excerpt(error)}") from error

    def _live(self, link: Link, attempts: int) -> Gone:
        """Run one connection to its end; `attempts` that it took are 0 for the first one."""
        try:
            assert self._dial is not None  # of this link, and this thread's to change
            introduction = self._dial.introduction
            self._talk.open(link, f"ws-hub:receive:{self._number}", introduction)
            with self._lock:
                self._dial = None  # only now: until here close() ends the link through it
            self._call("on_connect")
            if attempts:
                self._call("on_reconnect", attempts)
            while True:
                event = self._talk.next_event()
                if isinstance(event, Gone):
                    if event.link is link:  # not of one that an exception has cut short
                        return event
                elif not self._closed.is_set():
                    if isinstance(event, Message):
                        self._call("on_message", event)
                    else:
                        self._call("on_error", event.exception())
        finally:
            link.shutdown()  # after KeyboardInterrupt or SystemExit it is still open
            self._talk.join(_HANDSHAKE_GRACE)

    def _call(self, name: str, *args: object) -> None:
        callback = getattr(self._config, name)
        if callback is None:
            return
        try:
            callback(*args)
            return
        except Exception as error:
            logger.exception("%s of the client of %s raised", name, self._name)
            raised = error
        if name != "on_error":
            self._call("on_error", raised)
