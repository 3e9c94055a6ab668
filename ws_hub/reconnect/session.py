"""The session of a client with its server, over one connection after another.

Subscriptions, positions and undelivered messages outlive the connections. Each connection
has a receiving thread, which reads, answers pings, and never runs a user's code: what it
has for the callbacks goes through a bounded inbox.

A slow callback makes the inbox full. Then reading stops for `queue_patience` seconds,
and the network slows the server down; nothing is lost. A longer stall must not leave
pings unanswered: reading goes on, and messages that find no room are dropped. Those of a
channel with history are requested again once there is room; the others are counted and
reported.
"""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Callable, Collection, Hashable, Iterable
from dataclasses import dataclass
from typing import Any

from .. import threads
from ..backoff import full_jitter
from ..errors import (
    CloseCode,
    ConnectionClosed,
    HubError,
    MessageDecodeError,
    NotConnected,
    WaitTimeout,
    WsHubError,
    excerpt,
)
from ..log import get_logger
from ..protocol.json_text import json_encoder
from ..protocol.message import Encoder, Message, MessageType, decode, encode, split_batch
from ..protocol.presence import Presence
from ..protocol.requests import ASK_ID, refusal
from ..protocol.requests import error as error_reply
from .config import ReconnectConfig
from .connection import Connection, Skipped
from .inbox import Inbox
from .presence import PresenceChange
from .requests import Call, Requests
from .subscriptions import MessagesLost, Start, Subscriptions

__all__ = ["Ended", "Event", "Presented", "Report", "Session"]

logger = get_logger(__name__)

# Times the initial backoff: the wait before a subscription is repeated that the server was
# too busy for.
_BUSY_WAIT = 2


@dataclass(frozen=True, slots=True)
class Ended:
    """The last event of a connection: why it ended, and how many seconds it lasted."""

    connection: Connection
    end: ConnectionClosed
    held: float


@dataclass(frozen=True, slots=True)
class Report:
    """An error for on_error, and how many earlier ones of its kind are merged into it."""

    error: WsHubError
    before: int = 0

    @property
    def kind(self) -> Hashable:
        """Reports of the same kind may be merged."""
        if isinstance(self.error, MessagesLost):
            return MessagesLost, self.error.channel
        return (type(self.error),)

    @staticmethod
    def merge(older: Event, newer: Event) -> Event:
        """Return one report for two of a kind: counts of lost messages are added."""
        assert isinstance(older, Report) and isinstance(newer, Report)
        first, second = older.error, newer.error
        if isinstance(first, MessagesLost) and isinstance(second, MessagesLost):
            known = first.count is not None and second.count is not None
            count = (first.count or 0) + (second.count or 0) if known else None
            return Report(MessagesLost(first.channel, count, second.why))
        return Report(second, older.before + newer.before + 1)

    def exception(self) -> WsHubError:
        """Return the error, with a note about those that are merged into it."""
        if self.before:
            self.error.add_note(f"{self.before} more like it went before")
        return self.error


@dataclass(frozen=True, slots=True)
class Presented:
    """A change of presence for on_presence; further ones that wait are merged into it."""

    change: PresenceChange

    @staticmethod
    def merge(older: Event, newer: Event) -> Event:
        """Return one change for two of a channel."""
        assert isinstance(older, Presented) and isinstance(newer, Presented)
        return Presented(older.change.then(newer.change))


Event = Message | Report | Presented | Ended


class Session:
    """The client's side of the session: its subscriptions, its queues, its connection.

    Args:
        config: the bounds, and whether there is an on_message.
        name: the server's name in logs and errors.
        clock: returns monotonic seconds.
        random: returns numbers in [0, 1), for the jitter.
    """

    def __init__(
        self,
        config: ReconnectConfig,
        name: str,
        clock: Callable[[], float],
        random: Callable[[], float],
    ) -> None:
        self._name = name
        self._encoder = Encoder(json_encoder(config.json_default))
        self._random = random
        self._busy_wait = _BUSY_WAIT * config.initial_backoff
        self._clock = clock
        self._has_callback = config.on_message is not None
        self._answers = config.on_ask is not None
        self._tells_presence = config.on_presence is not None
        # guards: the connection, the receiver and the subscriptions, so that requests are
        # sent in the order in which the subscriptions changed. Taken before a stream's lock.
        # Re-entrant: a signal handler may close a client of its own thread.
        self._lock = threading.RLock()
        self._connection: Connection | None = None
        self._receiver: threading.Thread | None = None
        self._subscriptions = Subscriptions()
        self._requests = Requests(config.send_buffer, config.send_buffer_overflow)
        self._begun = False  # whether there is a thread in connect()
        self._awaited = False  # set once, by the first iteration: messages have a consumer
        bounds = config.queue_size, config.queue_bytes, config.queue_patience, clock
        self._events: Inbox[Event] = Inbox(*bounds)
        self._messages: Inbox[Message] = Inbox(*bounds)

    # --- any thread ------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Whether there is a connection."""
        with self._lock:
            return self._connection is not None

    @property
    def extensions(self) -> bool | None:
        """Whether the server knows the extensions; None while that is not known."""
        with self._lock:
            return self._subscriptions.extensions if self._connection is not None else None

    @property
    def channels(self) -> Collection[str]:
        """The names of the subscribed channels."""
        with self._lock:
            return self._subscriptions.channels

    @property
    def unsent(self) -> tuple[int, int]:
        """How many messages are kept for the next connection, and how many were dropped."""
        with self._lock:
            return self._requests.kept, self._requests.dropped

    def snapshot(self, channel: str) -> dict[str, Message]:
        """Return the newest message of each key of a channel."""
        with self._lock:
            return self._subscriptions.snapshot(channel)

    def presence(self, channel: str) -> Presence | None:
        """Return what is known of the presence of a channel; None for nothing."""
        with self._lock:
            return self._subscriptions.presence.of(channel)

    def send(self, message: Message) -> None:
        """Send one message and wait until the kernel has it, or keep it; raises NotConnected."""
        text = self._encoder.encode(message)
        with self._lock:
            connection = self._connection
            if connection is None:
                if self._begun and self._requests.keep(text):
                    return
                raise NotConnected(
                    f"not connected to {self._name}, so nothing was sent: send in on_connect, or "
                    "again later, or set send_buffer"
                )
            mark = connection.queue(text)
        try:
            connection.flush(mark)
        except OSError as error:
            raise NotConnected(
                f"the connection to {self._name} broke while this was sent, and it may have "
                f"arrived or not: send again after on_connect ({error})"
            ) from error

    def answer(self, message: Message) -> None:
        """Send an answer, if the connection is there still: no other one could need it."""
        text = self._encoder.encode(message)
        with self._lock:
            connection = self._connection
            mark = 0 if connection is None else connection.queue(text)
        self._flush(connection, mark)

    def subscribe(self, channel: str, start: Start) -> None:
        """Subscribe to a channel, from now on and on every connection."""
        with self._lock:
            connection, mark = self._queue(self._subscriptions.add(channel, start))
        self._flush(connection, mark)

    def request(self, message: Message, timeout: float, *, repeats: bool, waits: bool) -> Any:
        """Send a request and return the data of its answer, waiting for a connection first.

        `repeats`: it is sent again when the connection is lost. Without `waits` there is no
        other connection to wait for. Raises HubError, NotConnected, WaitTimeout.
        """
        with self._lock:
            id = self._requests.new_id()
        text = self._encoder.encode(dataclasses.replace(message, id=id))
        call, mark = Call(text, repeats=repeats and waits), 0
        with self._lock:
            connection = self._connection
            self._check_connected(waits)
            self._requests.add(id, call)
            if connection is not None:
                mark, call.sent = connection.queue(text), True
        self._flush(connection, mark)
        return self._await(call, timeout, f"the {excerpt(message.type)} request")

    def subscribed(self, channel: str, timeout: float, *, waits: bool) -> None:
        """Wait until a subscription is acknowledged; raises what `request` raises."""
        call = Call(repeats=waits)
        with self._lock:
            self._check_connected(waits)
            self._requests.add_subscribing(channel, call)
            self._settle_subscribing(None)
        self._await(call, timeout, f"the subscription to {excerpt(channel)}")

    def _check_connected(self, waits: bool) -> None:
        """Raise when a call would wait for a connection that cannot come."""
        if not self._begun:
            raise NotConnected(
                f"the client of {self._name} does not run, so no answer can come: start() it "
                "before, and close() it after"
            )
        if self._connection is None and not waits:
            raise NotConnected(
                f"not connected to {self._name}, and the thread of this callback makes the next "
                "connection: send requests from on_connect, or from another thread"
            )

    def _await(self, call: Call, timeout: float, what: str) -> Any:
        try:
            if not call.wait(timeout):
                raise WaitTimeout(
                    f"{what} was not answered by {self._name} within {timeout:g} s, and may be "
                    "carried out still: pass a longer time, or see whether the server answers "
                    "requests (a Go hub does not)"
                )
            return call.result()
        finally:
            with self._lock:
                self._requests.remove(call)

    def _settle_subscribing(self, message: Message | None) -> None:
        """End the calls whose subscription is acknowledged, or refused by a message."""
        for channel, call in self._requests.subscribing:
            standing = self._subscriptions.standing(channel)
            if standing is None and self._subscriptions.extensions is not False:
                continue
            if standing:
                call.answer(None)
            elif channel not in self._subscriptions.channels:
                call.fail(HubError("closed", f"unsubscribe({excerpt(channel)}) came first"))
            elif message is not None and message.type == MessageType.ERROR:
                call.fail(refusal(message))
            else:
                call.fail(HubError("unsupported", f"{self._name} acknowledges no subscriptions"))
            self._requests.remove(call)

    def unsubscribe(self, channel: str) -> None:
        """End the subscription to a channel."""
        with self._lock:
            message = self._subscriptions.remove(channel)
            self._settle_subscribing(None)
            connection, mark = self._queue([message] if message is not None else [])
        self._flush(connection, mark)

    def next_message(self) -> Message | None:
        """Wait for a message for an iteration; return None after the last one."""
        self._awaited = True
        message = self._messages.take()
        if self._messages.was_relieved():
            self._catch_up()
        return message

    def stop(self, grace: float) -> None:
        """Drop what is queued and end the connection, after `grace` seconds at most."""
        with self._lock:
            connection = self._connection
            unsent = self._end_requests()
        self._warn_of(unsent)
        self._events.stop()
        self._messages.stop()
        self._messages.end()
        if connection is not None:
            connection.start_close()
            connection.over.wait(grace)
            connection.shutdown()

    def join(self, timeout: float) -> None:
        """Wait for the receiving thread of a connection that was ended."""
        with self._lock:
            receiver = self._receiver
        threads.join(receiver, timeout)

    def discard(self) -> Subscriptions:
        """Drop the connection in a forked child; return the subscriptions."""
        if self._connection is not None:
            self._connection.discard()
        return self._subscriptions

    def resume(self, subscriptions: Subscriptions) -> None:
        """Take over the subscriptions of another session."""
        with self._lock:
            self._subscriptions = subscriptions

    def _end_requests(self) -> int:
        """End them; return how many were not sent. The caller holds the lock."""
        self._begun = False
        return self._requests.end(
            lambda: NotConnected(
                f"the client of {self._name} has ended before the answer, and the request may "
                "have been carried out or not: close() it when such calls have returned"
            )
        )

    def _warn_of(self, unsent: int) -> None:
        if unsent:
            logger.warning(
                "%s: %d messages were not sent, as there was no connection", self._name, unsent
            )

    def _lose_requests(self, why: object) -> None:
        self._requests.lost(
            lambda: NotConnected(
                f"the connection to {self._name} was lost before the answer, and the request may "
                f"have been carried out or not: ask the server before you send it again ({why})"
            )
        )

    def _queue(self, messages: Iterable[Message]) -> tuple[Connection | None, int]:
        """Queue messages on the connection, if there is one; the caller holds the lock.

        Returns that connection and the mark to flush.
        """
        connection, mark = self._connection, 0
        if connection is not None:
            for message in messages:
                mark = connection.queue(encode(message))
        return connection, mark

    def _flush(self, connection: Connection | None, mark: int) -> None:
        if connection is not None:
            try:
                connection.flush(mark)
            except OSError as error:  # the next connection sends all subscriptions again
                logger.debug("not sent to %s: %s", self._name, error)

    def _report(self, errors: Iterable[WsHubError]) -> None:
        for error in errors:
            logger.warning("%s: %s", self._name, error)
            report = Report(error)
            self._events.report(report.kind, report, Report.merge)

    def _catch_up(self) -> None:
        """Request again, or report, the messages that found no room in an inbox."""
        with self._lock:
            verdict = self._subscriptions.catch_up()
            connection, mark = self._queue(verdict.send)
        self._flush(connection, mark)
        self._report(verdict.lost)

    # --- the thread in connect() -----------------------------------------------------------

    def begin(self) -> None:
        """Let iterations and requests wait (again)."""
        with self._lock:
            self._begun = True
        self._messages.begin()

    def end(self) -> None:
        """Let iterations end after the last message, and requests at once."""
        with self._lock:
            unsent = self._end_requests()
        self._warn_of(unsent)
        self._messages.end()

    def open(
        self, connection: Connection, thread_name: str, auth_message: Message | None = None
    ) -> None:
        """Start receiving on a new connection; send the token and the subscriptions first.

        `auth_message` carries the token where it is sent as a message.
        """
        try:
            with self._lock:
                mark = self._use(connection, thread_name, auth_message)
        except Exception as error:  # noqa: BLE001 - this connection's end, like any other
            logger.warning("%s: the connection cannot be used: %s", self._name, excerpt(error))
            end = ConnectionClosed(CloseCode.ABNORMAL, str(error))
            self._events.report((type(end),), Report(end), Report.merge)
            self._events.post(Ended(connection, end, 0))
        else:
            self._flush(connection, mark)

    def _use(self, connection: Connection, thread_name: str, auth_message: Message | None) -> int:
        """Have a new connection be the one in use; the caller holds the lock.

        Returns the mark to flush.
        """
        self._connection = connection
        try:
            first = [auth_message] if auth_message is not None else []
            _, mark = self._queue([*first, *self._subscriptions.open()])
            for text in self._requests.unsent():
                mark = connection.queue(text)
            self._receiver = threads.start(thread_name, self._receive, connection, self._clock())
        except BaseException as error:
            # A thread that cannot start, or a request that cannot be encoded. Without a
            # receiver nothing else would report the end of this connection.
            self._connection = None
            self._lose_requests(error)
            connection.finish()
            raise
        return mark

    def next_event(self) -> Event:
        """Wait for the next event for the callbacks; Ended is the last of a connection."""
        event = self._events.take()
        assert event is not None  # this inbox never ends
        if self._events.was_relieved():
            self._catch_up()
        return event

    # --- receiving thread ------------------------------------------------------------------

    def _receive(self, connection: Connection, since: float) -> None:
        end = ConnectionClosed(CloseCode.INTERNAL, "the receiving thread failed")
        try:
            while True:
                received = connection.receive()
                if isinstance(received, Skipped):
                    self._skipped(received)
                    continue
                if isinstance(received, bytes):
                    self._report([MessageDecodeError("a binary message")])
                    continue
                for text in split_batch(received):
                    self._receive_text(connection, text)
        except ConnectionClosed as closed:
            end = closed
        finally:
            with self._lock:
                if self._connection is connection:
                    self._connection = None
                    self._lose_requests(end)
            try:
                connection.finish()
            finally:  # always: the thread in connect() waits for nothing but this event
                self._events.post(Ended(connection, end, self._clock() - since))

    def _skipped(self, message: Skipped) -> None:
        with self._lock:
            self._subscriptions.skipped()
        # A Go hub joins messages, so these may be several; their channels are unknown.
        self._report([MessagesLost("", None, message.why)])

    def _receive_text(self, connection: Connection, text: str) -> None:
        try:
            message = decode(text)
        except MessageDecodeError as error:
            self._report([error])
            return
        with self._lock:
            if self._requests.take(message):
                return
            verdict = self._subscriptions.take(message)
            if self._requests.subscribing:
                self._settle_subscribing(message)
            for answer in verdict.send:
                connection.offer(encode(answer))
        self._report(verdict.lost)
        if verdict.presence is not None and self._tells_presence:
            kind = PresenceChange, verdict.presence.channel
            self._events.report(kind, Presented(verdict.presence), Presented.merge)
        if verdict.retry:
            wait = full_jitter(self._busy_wait, self._random)
            connection.call_later(wait, functools.partial(self._retry, connection))
        if message.type == MessageType.ASK and self._is_ask(message):
            self._asked(connection, message, len(text))
        elif verdict.deliver and not self._offer(message, len(text)):
            with self._lock:
                self._subscriptions.refused(message)

    def _is_ask(self, message: Message) -> bool:
        """Return whether a message is a question, and not a type of the application's own."""
        return self._answers or str(message.id).startswith(ASK_ID)

    def _asked(self, connection: Connection, message: Message, size: int) -> None:
        """Have the callback answer what the server asks, or say that there is none."""
        if not self._answers:
            answer = error_reply("this client has no on_ask", "not_found", id=message.id)
        elif self._events.offer(message, size):
            return
        else:
            answer = error_reply("this client is too busy", "limit", id=message.id)
        if message.id is not None:
            connection.offer(encode(answer))

    def _retry(self, connection: Connection) -> None:
        with self._lock:
            for request in self._subscriptions.retry():
                connection.offer(encode(request))

    def _offer(self, message: Message, size: int) -> bool:
        if self._has_callback:
            return self._events.offer(message, size)
        # Before the first iteration there may never be one: reading does not wait for it.
        return self._messages.offer(message, size, wait=self._awaited)
