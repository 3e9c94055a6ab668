"""What a client and its server say to each other, over one connection after another.

Must not know how connections are made, or when again. A receiving thread for each
connection reads, answers pings, and never runs a user's code: what it has for the
callbacks goes through an inbox that is bounded. Subscriptions, positions and undelivered
messages outlive the connections.

A slow callback makes the inbox full. Then reading stops for `queue_patience` seconds,
and the network slows the server down; nothing is lost. A longer stall must not leave
pings unanswered, so reading goes on, and what has no room is let go: from a channel with
history it is fetched again once there is room; of the rest the number is reported.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Collection, Hashable, Iterable
from dataclasses import dataclass

from .. import threads
from ..backoff import full_jitter
from ..errors import (
    CloseCode,
    ConnectionClosed,
    MessageDecodeError,
    NotConnected,
    WsHubError,
    excerpt,
)
from ..log import get_logger
from ..protocol.message import Message, decode, encode, split_batch
from .config import ReconnectConfig
from .connection import Link, Skipped
from .inbox import Inbox
from .subscriptions import Following, MessagesLost

__all__ = ["Conversation", "Event", "Gone", "Report"]

logger = get_logger(__name__)

_BUSY_WAIT = 2  # times the initial backoff, until a server that was too busy is asked again


@dataclass(frozen=True, slots=True)
class Gone:
    """The last event of a connection: why it ended, and how many seconds it had held."""

    link: Link
    end: ConnectionClosed
    held: float


@dataclass(frozen=True, slots=True)
class Report:
    """An error that the application is told of, and how many like it went before."""

    error: WsHubError
    before: int = 0

    @property
    def kind(self) -> Hashable:
        """What it may be merged with."""
        if isinstance(self.error, MessagesLost):
            return MessagesLost, self.error.channel
        return (type(self.error),)

    @staticmethod
    def merge(older: Event, newer: Event) -> Event:
        """Return one report for two of a kind: lost messages are added up."""
        assert isinstance(older, Report) and isinstance(newer, Report)
        first, second = older.error, newer.error
        if isinstance(first, MessagesLost) and isinstance(second, MessagesLost):
            known = first.count is not None and second.count is not None
            count = (first.count or 0) + (second.count or 0) if known else None
            return Report(MessagesLost(first.channel, count, second.why))
        return Report(second, older.before + newer.before + 1)

    def exception(self) -> WsHubError:
        """Return the error, with a note about those that went before."""
        if self.before:
            self.error.add_note(f"{self.before} more like it went before")
        return self.error


Event = Message | Report | Gone


class Conversation:
    """One client's side of the talk.

    Args:
        config: bounds, and whether there is an on_message.
        name: what the server is called in logs.
        clock: monotonic seconds.
        random: yields numbers in [0, 1), for the jitter.
    """

    def __init__(
        self,
        config: ReconnectConfig,
        name: str,
        clock: Callable[[], float],
        random: Callable[[], float],
    ) -> None:
        self._name = name
        self._random = random
        self._busy_wait = _BUSY_WAIT * config.initial_backoff
        self._clock = clock
        self._has_callback = config.on_message is not None
        # guards: the link, the receiver and what is followed, so that subscriptions go
        # out in the order in which they changed. Taken before a stream's lock. Re-entrant:
        # a signal handler may close a client of its own thread.
        self._lock = threading.RLock()
        self._link: Link | None = None
        self._receiver: threading.Thread | None = None
        self._following = Following()
        self._awaited = False  # set once, by the first iteration
        bounds = config.queue_size, config.queue_bytes, config.queue_patience, clock
        self._events: Inbox[Event] = Inbox(*bounds)
        self._messages: Inbox[Message] = Inbox(*bounds)

    # --- any thread ------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Whether there is a connection."""
        with self._lock:
            return self._link is not None

    @property
    def extensions(self) -> bool | None:
        """Whether the server knows the extensions; None when that is not known."""
        with self._lock:
            return self._following.extensions if self._link is not None else None

    @property
    def channels(self) -> Collection[str]:
        """The channels subscribed."""
        with self._lock:
            return self._following.channels

    def send(self, message: Message) -> None:
        """Send one message and wait until it is out; raises NotConnected."""
        text = encode(message)
        with self._lock:
            link = self._link
            if link is None:
                raise NotConnected(f"not connected to {self._name}")
            mark = link.queue(text)
        try:
            link.flush(mark)
        except OSError as error:
            raise NotConnected(f"the connection to {self._name} broke: {error}") from error

    def subscribe(self, channel: str, since: int | None, newest: int | None) -> None:
        """Follow a channel, from now on and over every connection."""
        with self._lock:
            link, mark = self._queue(self._following.add(channel, since, newest))
        self._flush(link, mark)

    def unsubscribe(self, channel: str) -> None:
        """Follow a channel no longer."""
        with self._lock:
            message = self._following.remove(channel)
            link, mark = self._queue([message] if message is not None else [])
        self._flush(link, mark)

    def next_message(self) -> Message | None:
        """Wait for a message, where there is no on_message; None at the end of all."""
        self._awaited = True
        message = self._messages.take()
        if self._messages.was_relieved():
            self._catch_up()
        return message

    def stop(self, grace: float) -> None:
        """Say no more and end the connection, at most `grace` seconds after this."""
        with self._lock:
            link = self._link
        self._events.stop()
        self._messages.stop()
        self._messages.end()
        if link is not None:
            link.start_close()
            link.over.wait(grace)
            link.shutdown()

    def join(self, timeout: float) -> None:
        """Wait for the receiving thread of a connection that has been ended."""
        with self._lock:
            receiver = self._receiver
        threads.join(receiver, timeout)

    def discard(self) -> Following:
        """Let go of the connection in a forked child; return what was followed."""
        if self._link is not None:
            self._link.discard()
        return self._following

    def resume(self, following: Following) -> None:
        """Go on with what another conversation followed."""
        with self._lock:
            self._following = following

    def _queue(self, messages: Iterable[Message]) -> tuple[Link | None, int]:
        """Queue messages on the link, if there is one; the caller has the lock."""
        link, mark = self._link, 0
        if link is not None:
            for message in messages:
                mark = link.queue(encode(message))
        return link, mark

    def _flush(self, link: Link | None, mark: int) -> None:
        if link is not None:
            try:
                link.flush(mark)
            except OSError as error:  # remembered, and said again on the next connection
                logger.debug("not sent to %s: %s", self._name, error)

    def _report(self, errors: Iterable[WsHubError]) -> None:
        for error in errors:
            logger.warning("%s: %s", self._name, error)
            report = Report(error)
            self._events.report(report.kind, report, Report.merge)

    def _catch_up(self) -> None:
        """Fetch, or report, what had no room while somebody was slow."""
        with self._lock:
            verdict = self._following.catch_up()
            link, mark = self._queue(verdict.send)
        self._flush(link, mark)
        self._report(verdict.lost)

    # --- the thread in connect() -----------------------------------------------------------

    def begin(self) -> None:
        """Let iterations wait for messages (again)."""
        self._messages.begin()

    def end(self) -> None:
        """Let iterations end after the last message."""
        self._messages.end()

    def open(self, link: Link, thread_name: str, introduction: Message | None = None) -> None:
        """Go on over a new connection: say who we are and what is followed, and read."""
        with self._lock:
            self._link = link
            try:
                first = [introduction] if introduction is not None else []
                _, mark = self._queue([*first, *self._following.open()])
                self._receiver = threads.start(thread_name, self._receive, link, self._clock())
            except BaseException as error:
                # A thread that cannot start, or a request that has no form. Without a receiver
                # nothing else would tell of the end that this connection has.
                self._link = None
                link.finish()
                if not isinstance(error, Exception):
                    raise
                logger.warning("%s: the connection cannot be used: %s", self._name, excerpt(error))
                end = ConnectionClosed(CloseCode.ABNORMAL, str(error))
                self._events.report((type(end),), Report(end), Report.merge)
                self._events.post(Gone(link, end, 0))
                return
        self._flush(link, mark)

    def next_event(self) -> Event:
        """Wait for what comes next for the callbacks; Gone is a connection's last."""
        event = self._events.take()
        assert event is not None  # this inbox never ends
        if self._events.was_relieved():
            self._catch_up()
        return event

    # --- receiving thread ------------------------------------------------------------------

    def _receive(self, link: Link, since: float) -> None:
        end = ConnectionClosed(CloseCode.INTERNAL, "the receiving thread failed")
        try:
            while True:
                received = link.receive()
                if isinstance(received, Skipped):
                    self._skipped(received)
                    continue
                if isinstance(received, bytes):
                    self._report([MessageDecodeError("a binary message")])
                    continue
                for text in split_batch(received):
                    self._receive_text(link, text)
        except ConnectionClosed as closed:
            end = closed
        finally:
            with self._lock:
                if self._link is link:
                    self._link = None
            try:
                link.finish()
            finally:  # the thread in connect() waits for this, and for nothing else
                self._events.post(Gone(link, end, self._clock() - since))

    def _skipped(self, message: Skipped) -> None:
        with self._lock:
            self._following.skipped()
        # Perhaps several of a Go hub's, and nobody can know of which channel.
        self._report([MessagesLost("", None, message.why)])

    def _receive_text(self, link: Link, text: str) -> None:
        try:
            message = decode(text)
        except MessageDecodeError as error:
            self._report([error])
            return
        with self._lock:
            verdict = self._following.take(message)
            for answer in verdict.send:
                link.offer(encode(answer))
        self._report(verdict.lost)
        if verdict.retry:
            wait = full_jitter(self._busy_wait, self._random)
            link.call_later(wait, functools.partial(self._retry, link))
        if verdict.deliver and not self._offer(message, len(text)):
            with self._lock:
                self._following.refused(message)

    def _retry(self, link: Link) -> None:
        with self._lock:
            for request in self._following.retry():
                link.offer(encode(request))

    def _offer(self, message: Message, size: int) -> bool:
        if self._has_callback:
            return self._events.offer(message, size)
        # Nobody has ever iterated: perhaps nobody will, so nothing waits for it.
        return self._messages.offer(message, size, wait=self._awaited)
