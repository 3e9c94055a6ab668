"""The reconnecting client: its public methods, and the loop that connects again.

The thread in `connect()` opens the connections (`connector`), waits between the attempts
(`retries`) and runs every callback, in order. What is sent and received over a connection
is the `session`'s. Any thread may send, subscribe and close.
"""

from __future__ import annotations

import datetime
import enum
import itertools
import random as random_module
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any, Never
from urllib.parse import urlsplit

from .. import threads
from ..backplane.store import HistoryPage, Middle
from ..errors import (
    ConfigError,
    HubError,
    InvalidName,
    MaxRetriesExceeded,
    MessageDecodeError,
    MessageEncodeError,
    WsHubError,
    excerpt,
)
from ..log import get_logger
from ..protocol.filters import AnyFilter, filter_of
from ..protocol.json_text import to_json
from ..protocol.message import (
    AnyMessage,
    Message,
    MessageType,
    as_message,
    decode,
    encode,
    timestamp,
)
from ..protocol.names import AnyId, channel_text, key_text
from ..protocol.presence import Presence
from ..protocol.requests import ack, error
from ..reentrant import Event
from ..validation import (
    check_bound,
    check_function,
    check_named,
    check_position,
    check_positions,
    check_words,
    posix_time,
)
from .config import ReconnectConfig
from .connection import Connection
from .connector import Connector, parse_target
from .retries import Retries
from .session import Ended, Presented, Session
from .subscriptions import MessagesLost, Start

__all__ = ["ConnectionState", "MessagesLost", "ReconnectingClient"]

logger = get_logger(__name__)

_numbers = itertools.count(1)
# Characters. A request carries the name twice, each character as at most six bytes: less
# than the 64 KiB at which a hub ends the connection, and every later one for the same reason.
_MAX_NAME = 4096
_CLOSE_GRACE = 0.8  # seconds that close() takes at most
_HANDSHAKE_GRACE = 0.4  # seconds of these for the server's Close frame


class ConnectionState(enum.Enum):
    """The state of a ReconnectingClient; between attempts it is DISCONNECTED."""

    DISCONNECTED = "disconnected"
    CONNECTING = "connecting"
    CONNECTED = "connected"


class ReconnectingClient:
    """A WebSocket client that reconnects until it is closed.

    There are three ways to run it: `connect()` blocks; `start()` does the same on a thread
    of its own, and so does `with`; `for message in client` starts it if necessary and
    yields its messages. Messages go to `on_message` if that is set, otherwise to the
    iterations; with neither they stay in the queue, within its bounds.

    A closed client cannot be started again.

    Args:
        config: a ReconnectConfig, or a URL.
        clock: returns monotonic seconds.
        wait: waits between two attempts: for an event, at most so many seconds, and returns
            whether it is set. With `clock` what a test needs (`ws_hub.testing.FakeClock`).
        random: returns numbers in [0, 1), for the jitter.
        settings: fields of the ReconnectConfig, when `config` is a URL.

    Raises ConfigError for a setting, or a URL, with which no attempt can succeed.
    """

    def __init__(
        self,
        config: ReconnectConfig | str,
        *_unnamed: Never,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[Event, float], bool] = Event.wait,
        random: Callable[[], float] = random_module.random,
        **settings: Any,
    ) -> None:
        check_named(_unnamed, 'ReconnectingClient("ws://...", token="...")')
        if isinstance(config, str):
            config = ReconnectConfig(url=config, **settings)
        elif not isinstance(config, ReconnectConfig):
            raise TypeError(
                f"a ReconnectingClient takes a URL or a ReconnectConfig, not {excerpt(config)}: "
                'ReconnectingClient("ws://...")'
            )
        elif settings:
            raise ConfigError(
                f"{', '.join(sorted(settings))} must be set in the ReconnectConfig, which is given "
                "as well: ReconnectConfig(url=..., ...)"
            )
        for name, function in (("clock", clock), ("wait", wait), ("random", random)):
            check_function(name, function)
        parse_target(config)  # raises ConfigError now, not at every attempt
        self._config = config
        self._clock = clock
        self._wait = wait
        self._random = random
        self._number = next(_numbers)
        parts = urlsplit(config.url)
        # For logs: without the query, which may carry a token (FAULTS 52).
        self._name = f"{parts.scheme}://{parts.netloc}{parts.path}"
        self._reset()
        threads.forget_after_fork(self)

    def _reset(self) -> None:
        # guards: _connector, _thread, _failure. Taken before the session's lock.
        # Re-entrant: a signal handler may close a client of its own thread.
        self._lock = threading.RLock()
        self._connector: Connector | None = None
        self._thread: threading.Thread | None = None  # the one in connect()
        self._failure: BaseException | None = None  # what ended the last connect()
        self._idle = Event()  # set while no thread is in connect()
        self._idle.set()
        self._closed = Event()
        self._session = Session(self._config, self._name, self._clock, self._random)

    def forget(self) -> None:
        """Drop the parent's connection in a forked child, and keep the subscriptions.

        Threads: the only one of the child, right after the fork.
        """
        closed, subscriptions = self._closed.is_set(), self._session.discard()
        self._reset()
        self._session.resume(subscriptions)
        if closed:
            self._closed.set()

    # --- any thread ------------------------------------------------------------------------

    @property
    def state(self) -> ConnectionState:
        """The state of the client at this moment.

        Threads: any; never blocks.
        """
        with self._lock:
            if self._session.connected:
                return ConnectionState.CONNECTED
            if self._connector is not None:
                return ConnectionState.CONNECTING
            return ConnectionState.DISCONNECTED

    @property
    def extensions(self) -> bool | None:
        """Whether the server acknowledges requests and keeps history.

        None while there is no connection, or the server has not shown it yet.

        Threads: any; never blocks.
        """
        return self._session.extensions

    def subscriptions(self) -> Collection[str]:
        """Return the channels to which every connection of the client subscribes.

        Threads: any; never blocks.
        """
        return self._session.channels

    def snapshot(self, channel: str) -> dict[str, Message]:
        """Return the newest message of each key of a keyed channel, by its key.

        As far as it has been received, which may be further than `on_message` has got; what was
        known stays while there is no connection. Empty for a channel that is not keyed, or not
        subscribed.

        Threads: any; does not wait.
        """
        return self._session.snapshot(channel_text(channel))

    def presence(self, channel: str) -> Presence | None:
        """Return who is present in a subscribed channel, as far as its server has told.

        None when that has told nothing: there is no ack yet, or the channel has no presence. In
        a time without a connection it is what was known at its end. `on_presence` is
        called with the changes.

        Threads: any; never blocks.
        """
        return self._session.presence(channel_text(channel))

    @property
    def unsent(self) -> tuple[int, int]:
        """How many messages wait for a connection (`send_buffer`), and how many were dropped.

        Threads: any; never blocks.
        """
        return self._session.unsent

    def connect(self) -> None:
        """Connect, and connect again whenever the connection ends, until `close()`.

        Returns after `close()`. Raises MaxRetriesExceeded, whose cause is the last
        failure, when the retries are used up. Failures that every retry would meet again
        are raised at once: HandshakeRefused for a 401 or 403, ConnectionClosed for a close
        code 4401 or 4403, ConfigError when the server does not read the token where
        `token_in` puts it. Raises RuntimeError when another thread is in `connect()`.

        Threads: one at a time; blocks. All callbacks run on it.
        """
        threads.check_one_kind("ReconnectingClient")
        with self._lock:
            if self._thread is not None:
                raise RuntimeError(
                    "connect() runs on another thread already: call it, or start(), once"
                )
            if self._closed.is_set():
                return
            self._begin(threading.current_thread())
        self._connect()

    def start(self) -> ReconnectingClient:
        """Run `connect` on a thread of its own; return the client.

        What `connect` raises is logged, and raised again by an iteration. Does nothing
        when the client is started already.

        Threads: any; returns at once.
        """
        threads.check_one_kind("ReconnectingClient")
        with self._lock:
            if self._thread is None and not self._closed.is_set():
                # Under the lock, which the new thread needs before it can end: so `_thread`
                # is set before that thread sets it back to None.
                self._begin(None)
                try:
                    self._thread = threads.start(
                        f"ws-hub:connect:{self._number}", self._connect_logged
                    )
                except RuntimeError:  # can't start new thread
                    self._session.end()
                    self._idle.set()
                    raise
        return self

    def _begin(self, thread: threading.Thread | None) -> None:
        self._thread = thread
        self._failure = None
        self._idle.clear()
        self._session.begin()

    def close(self) -> None:
        """End the connection, or the attempt, and do not reconnect. Idempotent.

        Messages and reports that are still queued for callbacks are dropped; an open
        connection still gets its on_disconnect.

        Threads: any, callbacks included; returns within a second. A callback, a `dialer`
        or a name lookup that is running at that time ends later, by itself.
        """
        # Not the injected clock: this is the caller's time.
        deadline = time.monotonic() + _CLOSE_GRACE
        with self._lock:
            self._closed.set()
            connector, thread = self._connector, self._thread
        if connector is not None:
            connector.abort()
        self._session.stop(_HANDSHAKE_GRACE)
        self._session.join(deadline - time.monotonic())
        if thread is not threading.current_thread():
            self._idle.wait(max(deadline - time.monotonic(), 0.0))
            if thread is not None and thread.name == f"ws-hub:connect:{self._number}":
                threads.join(thread, deadline - time.monotonic())

    def send(self, message: AnyMessage) -> None:
        """Send one message to the server.

        A mapping of a message's fields, with a `type`, is a message as well. Without a
        connection it is kept if `send_buffer` says so, until `close()` or the last retry.
        Raises MessageEncodeError when it has no JSON form; NotConnected when there is no
        connection and it is not kept, or when the connection failed before all of the message
        was sent: then the server may or may not have received it.

        Threads: any; blocks at most write_timeout seconds.
        """
        self._session.send(as_message(message))

    def request(self, message: AnyMessage, timeout: float = 30.0) -> Any:
        """Send a message and return the data of the server's answer.

        It waits for a connection, and is sent once. Raises HubError when the answer is an
        error; WaitTimeout when none comes within `timeout` seconds, NotConnected when the
        connection is lost before, or the client closed: then it may have been carried out or
        not. On the thread of the callbacks it raises NotConnected at once when there is no
        connection. Raises ValueError for a message with an `id`, which is given here.

        Threads: any, callbacks included; blocks at most `timeout` and write_timeout seconds.
        """
        message, timeout = as_message(message), check_bound("timeout", timeout)
        if message.id is not None:
            raise ValueError(
                f"the id {excerpt(message.id)} must be left out of a request, which is given one: "
                "send() sends a message as it is"
            )
        waits = not self._is_callback_thread()
        return self._session.request(message, timeout, repeats=False, waits=waits)

    def publish(
        self,
        channel: str,
        data: Any = None,
        *_unnamed: Never,
        key: AnyId | None = None,
        wait: float | None = None,
        idempotency_key: str | None = None,
    ) -> None:
        """Publish to a channel, where the server allows it; subscribers get an event.

        Args:
            channel: its name.
            data: any JSON value.
            key: for a keyed channel: what this is the newest state of; None as data deletes it.
            wait: seconds to wait for the server to accept it. It is sent again when the
                connection is lost, with the same key, so that it counts once. None waits for
                nothing: a refusal then comes as an `error` message.
            idempotency_key: at most 128 bytes, the same for each attempt of one publish, also
                by another client of the same user. None for a random one.

        Raises NotConnected as `send` does, InvalidName for a bad key; with `wait` what
        `request` raises.

        Threads: any, callbacks included, on whose thread it is not repeated; blocks at most
        `wait` and write_timeout seconds.
        """
        check_named(_unnamed, "publish(channel, data, wait=10.0)")
        if idempotency_key is not None:
            check_words("idempotency_key", idempotency_key)
        elif wait is not None:
            idempotency_key = secrets.token_urlsafe(16)
        message = Message(
            MessageType.PUBLISH,
            channel=_checked_channel(channel),
            data=data,
            key="" if key is None else key_text(key),
            idempotency_key=idempotency_key or "",
        )
        if wait is None:
            self._session.send(message)
            return
        timeout, waits = check_bound("wait", wait), not self._is_callback_thread()
        self._session.request(message, timeout, repeats=True, waits=waits)

    def _is_callback_thread(self) -> bool:
        with self._lock:
            return self._thread is threading.current_thread()

    def subscribe(
        self,
        channel: str,
        *_unnamed: Never,
        since: int | None = None,
        last: int | None = None,
        since_time: datetime.datetime | float | None = None,
        filter: AnyFilter | None = None,
        wait: float | None = None,
    ) -> None:
        """Subscribe to a channel, now if connected, and after every reconnect.

        After a reconnect the client asks by itself for the messages that it missed. Of a channel
        that is subscribed already the filter is replaced: by none where none is given.

        Args:
            channel: its name.
            since: ask for the messages after this number (`seq`); 0 for all that the
                server keeps.
            last: ask for this many of the newest messages.
            since_time: ask for the messages from this time on: POSIX seconds, or a datetime
                with its time zone.
            filter: get only messages whose data has each of these fields, with one of the
                values: `{"level": ["error", "warning"]}`. At most 8 fields, 64 values, and
                1,024 bytes as JSON. A Go hub ignores it, and sends all.
            wait: seconds to wait for the server's acknowledgement. The subscription stays
                when it does not come in time. None waits for nothing.

        Raises TypeError for a name that is not a str, InvalidName for an empty or overlong
        one (the server's own rule decides about the others), ValueError for two of `since`,
        `last` and `since_time`, for a negative number, for no moment and for a filter beyond
        its bounds, TypeError for what is no number or no filter, MessageEncodeError for a name
        with a lone surrogate. With `wait`: HubError when the server refuses it, or acknowledges
        nothing ("unsupported"); WaitTimeout; NotConnected when the client is closed, or on the
        thread of the callbacks has no connection.

        Threads: any; blocks at most `wait` and write_timeout seconds.
        """
        check_named(
            _unnamed,
            "subscribe(channel, since=0); messages go to on_message of the ReconnectConfig",
        )
        channel = _checked_channel(channel)
        wait = None if wait is None else check_bound("wait", wait)
        check_positions("subscribe", since_time, since=since, last=last)
        start = Start(since, last, _time_text(since_time), filter_of(filter))
        # Raises here, in the caller: a request that cannot be encoded would end the next
        # connection, and every one after it.
        encode(Message(MessageType.SUBSCRIBE, channel=channel))
        self._session.subscribe(channel, start)
        if wait is not None:
            self._session.subscribed(channel, wait, waits=not self._is_callback_thread())

    def history(
        self,
        channel: str,
        *,
        since: int | None = None,
        before: int | None = None,
        last: int | None = None,
        since_time: datetime.datetime | float | None = None,
        limit: int = 1000,
        timeout: float = 30.0,
    ) -> HistoryPage:
        """Return kept messages of a channel, a page of them, oldest first.

        Those after the number `since`, the newest below `before`, the newest `last`, or those
        from a time on (POSIX seconds, or a datetime with its time zone); the oldest without
        any of these. A page has at most `limit` messages, and at most what its server sends at
        once. A channel need not be subscribed. Raises what `request` raises ("forbidden" for a
        channel to which this client may not subscribe), and ValueError for two of these at once.

        Threads: any, callbacks included, on whose thread it is not repeated after a lost
        connection; blocks at most `timeout` and write_timeout seconds.
        """
        timeout = check_bound("timeout", timeout)
        check_positions("history", since_time, since=since, before=before, last=last)
        check_position("limit", limit)
        message = Message(
            MessageType.HISTORY,
            channel=_checked_channel(channel),
            since=since,
            before=before,
            last=last,
            since_time=_time_text(since_time),
            limit=limit,
        )
        waits = not self._is_callback_thread()
        answer = self._session.request(message, timeout, repeats=True, waits=waits)
        return _page(answer)

    def unsubscribe(self, channel: str) -> None:
        """End the subscription to a channel; does nothing when there is none.

        Threads: any; blocks at most write_timeout seconds.
        """
        self._session.unsubscribe(channel_text(channel))

    def calculate_backoff(self, attempt: int) -> float:
        """Return the seconds before retry number `attempt` (from 1), without jitter.

        Threads: any; never blocks.
        """
        return Retries(self._config, self._random).backoff(attempt)

    def __iter__(self) -> Iterator[Message]:
        """Yield the messages as they arrive; start the client if it is not started.

        Ends when the client is closed. When `connect` gives up, the iteration raises the
        same exception after the last message. Each message goes to one of several
        iterations. Raises RuntimeError when `on_message` is set.

        Threads: any; blocks.
        """
        if self._config.on_message is not None:
            raise RuntimeError(
                "cannot iterate, as messages go to on_message: leave that out of the "
                "ReconnectConfig"
            )
        self.start()
        while (message := self._session.next_message()) is not None:
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
                self._thread = None
            self._session.end()
            self._idle.set()

    def _run(self) -> None:
        retries = Retries(self._config, self._random)
        connected = False  # at least once so far
        attempts = 0  # since the last connection ended
        while True:
            failure: Exception
            attempts += 1
            try:
                connection = self._connect_once()
            except (OSError, WsHubError) as error:
                failure, retry = error, retries.failed(error)
                if not self._closed.is_set():
                    logger.info("no connection to %s: %s", self._name, excerpt(str(error)))
                    self._call("on_error", error)
            else:
                ended = self._run_connection(connection, attempts if connected else 0)
                connected, attempts, failure = True, 0, ended.end
                retry = retries.failed(failure, ended.held)
                self._call(
                    "on_disconnect",
                    int(ended.end.code),
                    ended.end.reason,
                    retry and not self._closed.is_set(),
                )
            if not retry:
                self._give_up(failure)
            if self._wait(self._closed, retries.wait(failure) if retry else 0):
                return

    def _give_up(self, failure: Exception) -> None:
        if self._closed.is_set():
            return
        if Retries.is_final(failure):
            raise failure
        raise MaxRetriesExceeded(
            f"{self._name}: {self._config.max_retries} retries failed, the last with "
            f"{excerpt(str(failure))}; set max_retries=0 to retry for ever"
        ) from failure

    def _connect_once(self) -> Connection:
        connector = Connector(self._config, self._clock)
        with self._lock:
            if self._closed.is_set():
                raise ConnectionAbortedError("closed")
            self._connector = connector
        try:
            return connector.run()
        except BaseException as error:
            with self._lock:
                self._connector = None
            if isinstance(error, (OSError, WsHubError)) or not isinstance(error, Exception):
                raise
            logger.exception("the dialer for %s failed", self._name)
            raise ConnectionError(
                f"the dialer failed, and must return a WebSocket: {excerpt(error)}"
            ) from error

    def _run_connection(self, connection: Connection, attempts: int) -> Ended:
        """Run callbacks for one connection until it has ended.

        `attempts` is how many it took to reconnect, 0 for the first connection.
        """
        try:
            assert self._connector is not None  # only this thread changes it
            auth_message = self._connector.auth_message
            self._session.open(connection, f"ws-hub:receive:{self._number}", auth_message)
            with self._lock:
                self._connector = (
                    None  # only now: until here close() ends the connection through it
                )
            self._call("on_connect")
            if attempts:
                self._call("on_reconnect", attempts)
            while True:
                event = self._session.next_event()
                if isinstance(event, Ended):
                    if event.connection is connection:  # not of one that an exception has cut short
                        return event
                elif not self._closed.is_set():
                    if isinstance(event, Message) and self._is_ask(event):
                        self._answer(event)
                    elif isinstance(event, Message):
                        self._call("on_message", event)
                    elif isinstance(event, Presented):
                        change = event.change
                        self._call("on_presence", change.channel, *change.differences())
                    else:
                        self._call("on_error", event.exception())
        finally:
            connection.shutdown()  # after KeyboardInterrupt or SystemExit it is still open
            self._session.join(_HANDSHAKE_GRACE)

    def _is_ask(self, message: Message) -> bool:
        return message.type == MessageType.ASK and self._config.on_ask is not None

    def _answer(self, message: Message) -> None:
        """Answer what the server asks by the callback for that."""
        assert self._config.on_ask is not None
        failed = error("internal error", "internal", id=message.id)
        try:
            answer = ack(message.id, self._config.on_ask(message.data))
        except HubError as refusal:
            answer = error(refusal.text, refusal.code, id=message.id)
        except Exception as raised:
            logger.exception("on_ask of the client of %s raised", self._name)
            answer = failed
            self._call("on_error", raised)
        if message.id is None:
            return
        try:
            self._session.answer(answer)
        except MessageEncodeError as raised:
            logger.exception(
                "on_ask of the client of %s answered what has no JSON form", self._name
            )
            self._session.answer(failed)
            self._call("on_error", raised)

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


def _time_text(since_time: object) -> str:
    """Return a time as the wire has it; "" for None."""
    moment = posix_time("since_time", since_time)
    if moment is None:
        return ""
    try:
        return timestamp(moment)
    except (ValueError, OverflowError, OSError) as error:
        raise ValueError(
            f"since_time must be a time of the years 1 to 9999, not {excerpt(since_time)}: pass "
            "time.time() - 3600 for the last hour"
        ) from error


def _middle(found: object) -> Middle | None:
    """Return what an answer says that its channel has let go."""
    match found:
        case {"after": int(after), "messages": int(messages), "bytes": int(size)}:
            return Middle(after, messages, size)
    return None


def _page(answer: object) -> HistoryPage:
    """Return the page in the answer to a `history` request."""
    middle = answer.get("middle") if isinstance(answer, dict) else None
    match answer:
        case {"epoch": str(epoch), "first": int(first), "seq": int(last), "messages": list(found)}:
            try:
                messages = tuple(decode(to_json(each)) for each in found)
                return HistoryPage(epoch, first, last, messages, _middle(middle))
            except MessageDecodeError:
                pass  # the same as any other value
    raise HubError("unsupported", "the server's answer is no page of messages")


def _checked_channel(channel: object) -> str:
    """Return a channel's name, which the server's own rule decides about."""
    name = channel_text(channel)
    if not name:
        raise InvalidName("channel name '' is refused: it must be 1 character or more")
    if len(name) > _MAX_NAME:
        raise InvalidName(
            f"channel name {excerpt(name)} is refused: it must be at most {_MAX_NAME} characters"
        )
    return name
