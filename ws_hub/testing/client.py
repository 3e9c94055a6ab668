"""A client for tests: it says what it expects, and shows what has arrived when that does not.

It is no reconnecting client: it has one connection, made by the same code. A thread of its own
receives and answers pings, so that the hub sees what it sees of a browser, whatever the test
does meanwhile.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Never, TypeVar

from .. import threads
from ..errors import CloseCode, ConfigError, ConnectionClosed, MessageDecodeError, excerpt
from ..origin import origin_of
from ..protocol.filters import AnyFilter, filter_of
from ..protocol.message import (
    Message,
    MessageType,
    SubscribeMessage,
    decode,
    encode,
    split_batch,
)
from ..reconnect.config import ReconnectConfig
from ..reconnect.connection import Connection
from ..reconnect.connector import Connector
from ..reentrant import Lock
from ..validation import check_named, check_words

__all__ = ["HubClient"]

T = TypeVar("T")

_numbers = itertools.count(1)
_SETTINGS = frozenset(
    "compression connect_timeout dialer headers max_message_size origin ssl_context subprotocols"
    " token token_in".split()
)
_CLOSE_GRACE = 2.0  # seconds that the server has to answer a Close frame
_ROUND_TRIP = "ws_hub.testing"  # a channel that nobody subscribes to; begins the ids of requests
_SHOWN = 20  # arrivals in a failure, the newest ones
_LONGEST = 300  # characters of one of them


@dataclass(slots=True)
class _Arrival:
    """One message as it came.

    Attributes:
        message: None when the text is no message.
        text: as it came, for a failure to show.
        expected: whether an `expect` has returned it.
    """

    message: Message | None
    text: str
    expected: bool = False

    def __str__(self) -> str:
        text = self.text if len(self.text) <= _LONGEST else self.text[:_LONGEST] + "..."
        note = "not a message: " if self.message is None else ""
        return f"  {note}{text}" + ("  (returned by an expect)" if self.expected else "")


@dataclass(frozen=True, slots=True)
class _Conditions:
    """What a message has to be for an expect: None, and `...` for data, stand for any."""

    type: str | None
    channel: str | None
    data: Any

    def match(self, arrival: _Arrival) -> bool:
        message = arrival.message
        if arrival.expected:
            return False
        if message is None:
            return self == _ANY
        return (
            self.type in (None, message.type)
            and self.channel in (None, message.channel)
            and bool(self.data is ... or self.data == message.data)
        )

    def __str__(self) -> str:
        fields = [
            f"{name}={value!r}"
            for name, value in (("type", self.type), ("channel", self.channel))
            if value is not None
        ]
        if self.data is not ...:
            fields.append(f"data={self.data!r}")
        return "a message" + (f" with {', '.join(fields)}" if fields else "")


_ANY = _Conditions(None, None, ...)


class HubClient:
    """A WebSocket client for tests, connected when it is made.

    ::

        with HubClient(server.url) as client:
            client.subscribe("news")
            hub.send_event("saved", {"id": 7}, channel="news")
            assert client.expect(type="event").data["data"] == {"id": 7}
            client.expect_nothing()

    It is among the hub's clients then, unless its token goes as the first message. A message that
    arrives is kept until an `expect` returns it; those that do not match stay for a later one. So
    a test may expect messages in any order; `expect()` without conditions returns them in theirs.

    Args:
        url: `ws://` or `wss://`: `Server.url`, `AppServer.url`, or that of another process.
        timeout: seconds that `expect` and the other methods wait.
        settings: those of ReconnectConfig that are about one connection: `headers`, `origin`,
            `token`, `token_in`, `subprotocols`, `ssl_context`, `compression`,
            `max_message_size`, `connect_timeout`, `dialer`. The `origin` is the server's own, as
            a browser sends it from a page of the same site; None sends none.

    Raises HandshakeRefused when the server answers with another status than 101, an OSError when
    it cannot be reached, ConfigError for a setting.
    """

    def __init__(self, url: str, *, timeout: float = 10.0, **settings: Any) -> None:
        if foreign := settings.keys() - _SETTINGS:
            raise ConfigError(
                f"a HubClient has no setting {', '.join(sorted(foreign))}; it has "
                f"{', '.join(sorted(_SETTINGS))} of ReconnectConfig, and timeout"
            )
        check_words("url", url)
        if "origin" not in settings:
            settings["origin"] = origin_of(url)
        config = ReconnectConfig(url=url, **settings)
        self.url = url
        self._timeout = timeout
        self._number = next(_numbers)
        self._requests = itertools.count(1)
        # guards: everything below; waited on for an arrival and for the end. No lock is taken
        # under it.
        self._lock = Lock()
        self._changed = threading.Condition(self._lock)
        self._arrivals: list[_Arrival] = []
        self._replies: dict[str, Message] = {}  # to requests of its own, by their id
        self._end: ConnectionClosed | None = None
        connector = Connector(config, time.monotonic)
        self._connection: Connection = connector.run()
        try:
            if connector.auth_message is not None:
                self.send(connector.auth_message)
            self._thread = threads.start(f"ws-hub:testing:{self._number}", self._receive)
        except BaseException:
            self._connection.finish()
            raise

    def __enter__(self) -> HubClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- any thread: what arrives ----------------------------------------------------------

    @property
    def received(self) -> list[Message]:
        """The messages that have arrived and that no `expect` has returned yet."""
        with self._lock:
            return [each.message for each in self._arrivals if each.message and not each.expected]

    def expect(
        self,
        *_unnamed: Never,
        type: str | None = None,
        channel: str | None = None,
        data: Any = ...,
        timeout: float | None = None,
    ) -> Message:
        """Wait for a message and return it: the oldest one that matches and is not returned yet.

        Fails with an AssertionError that lists what has arrived, after `timeout` seconds, or
        at once when the connection has ended without it.

        Args:
            type: its type; None for any.
            channel: its channel, "" for none; None for any.
            data: what its data is equal to; left out for any. `unittest.mock.ANY` and objects
                with an `__eq__` of their own may be inside.
            timeout: seconds; None for the client's own.

        Threads: any; waits up to `timeout` seconds.
        """
        check_named(_unnamed, 'expect(type="event", channel="news")')
        wanted = _Conditions(type, channel, data)
        with self._lock:
            found = self._wait(lambda: self._first_locked(wanted), timeout)
            if found is None:
                raise AssertionError(self._report_locked(f"{wanted} has not arrived"))
            if found.message is None:
                raise AssertionError(self._report_locked("what has arrived is no message"))
            found.expected = True
            return found.message

    def expect_nothing(
        self,
        *,
        type: str | None = None,
        channel: str | None = None,
        data: Any = ...,
        for_: float = 0.0,
    ) -> None:
        """Make sure that no message has been sent which no `expect` has returned.

        Does not wait for what may come: by a `round_trip` it knows that all has arrived that was
        published before. `for_` is for what the application publishes later, on a thread of its
        own. Fails with an AssertionError that lists what has arrived, and also when the connection
        has ended: then it would prove nothing.

        Args:
            type: only messages of this type; None for any.
            channel: only those of this channel; None for any.
            data: only those with this data; left out for any.
            for_: seconds for which none may arrive.

        Threads: any; waits for `for_` seconds and one round trip.
        """
        unwanted = _Conditions(type, channel, data)
        if self._wait(lambda: self._first_locked(unwanted), for_) is None:
            self.round_trip()
        with self._lock:
            if self._first_locked(unwanted) is not None:
                raise AssertionError(self._report_locked(f"{unwanted} was not to arrive"))

    def round_trip(self, timeout: float | None = None) -> None:
        """Return when the hub has handled all that this client has sent, and sent all before it.

        A request goes to the hub and takes its place in the hub's queue; its answer comes after
        every message that was published before this call, by any thread of the hub's process.
        A replay of a channel's history that is under way may go on after it. Fails with an
        AssertionError when no answer comes.

        Threads: any; waits up to `timeout` seconds, the client's own without one.
        """
        # Of all requests this one asks no authoriser, calls no callback and changes nothing.
        request = Message(MessageType.UNSUBSCRIBE, channel=_ROUND_TRIP)
        self._request(request, "a round trip", timeout)

    def closed(self, timeout: float | None = None) -> tuple[int, str]:
        """Wait for the end of the connection; return the server's close code and reason.

        The code is 1005 for an empty Close frame, 1006 when the connection ended without one,
        1000 when this client has closed it. Fails with an AssertionError when the connection
        has not ended in time.

        Threads: any; waits up to `timeout` seconds, the client's own without one.
        """
        with self._lock:
            end = self._wait(lambda: self._end, timeout)
            if end is None:
                raise AssertionError(self._report_locked("the end has not come"))
            return int(end.code), end.reason

    # --- any thread: what is sent ----------------------------------------------------------

    def send(self, message: Message | str) -> None:
        """Send a message, or a text as it is.

        Its reply, if it has an `id`, is a message as any other: `expect(type="ack")`. Raises
        MessageEncodeError when the message has no JSON form, ConnectionClosed when the
        connection has ended.

        Threads: any; waits until the kernel has it.
        """
        text = message.encode() if isinstance(message, str) else encode(message)
        mark = self._connection.queue(text)
        try:
            self._connection.flush(mark)
        except OSError as error:
            with self._lock:
                end = self._end or ConnectionClosed(CloseCode.ABNORMAL, str(error))
            raise ConnectionClosed(end.code, end.reason) from error

    def subscribe(
        self,
        channel: str,
        *_unnamed: Never,
        since: int | None = None,
        epoch: str = "",
        last: int | None = None,
        filter: AnyFilter | None = None,
        timeout: float | None = None,
    ) -> dict[str, Any]:
        """Subscribe to a channel, and wait until the hub has said so; return the data of its ack.

        Fails with an AssertionError when the hub refuses. To test for a refusal, send the
        request: `send(Message("subscribe", channel=channel))`, and `expect(type="error")`.

        Args:
            channel: its name.
            since: ask for the messages after this number (`seq`); 0 for all that are kept.
            epoch: the numbering that `since` belongs to.
            last: ask for this many of the newest messages.
            filter: get only messages whose data has these fields, each with one of the values.
            timeout: seconds; None for the client's own.

        Threads: any; waits up to `timeout` seconds.
        """
        check_named(_unnamed, "subscribe(channel, since=0)")
        kind = MessageType.SUBSCRIBE
        wanted = filter_of(filter)
        request = SubscribeMessage(
            kind,
            channel=channel,
            since=since,
            epoch=epoch,
            last=last,
            filter=None if wanted is None else wanted.value,
        )
        answer: dict[str, Any] = self._request(request, f"subscribe {excerpt(channel)}", timeout)
        return answer

    def unsubscribe(self, channel: str, timeout: float | None = None) -> None:
        """Unsubscribe from a channel, and wait until no message of it can follow.

        Threads: any; waits up to `timeout` seconds, the client's own without one.
        """
        request = Message(MessageType.UNSUBSCRIBE, channel=channel)
        self._request(request, f"unsubscribe {excerpt(channel)}", timeout)

    def close(self, code: int = CloseCode.NORMAL) -> None:
        """Close the connection with a Close frame, and wait for its end. Idempotent.

        What has arrived can still be expected.

        Threads: any; returns within a few seconds.
        """
        self._connection.start_close(code)
        self._connection.over.wait(_CLOSE_GRACE)
        self._connection.shutdown()
        threads.join(self._thread, _CLOSE_GRACE)

    # --- inside ----------------------------------------------------------------------------

    def _request(self, message: Message, what: str, timeout: float | None) -> Any:
        """Send a request with an id of its own; return the data of its ack."""
        id = f"{_ROUND_TRIP}:{next(self._requests)}"
        with contextlib.suppress(ConnectionClosed):  # the report below says so
            self.send(replace(message, id=id))
        with self._lock:
            reply = self._wait(lambda: self._replies.pop(id, None), timeout)
            if reply is None:
                raise AssertionError(self._report_locked(f"{what}: no answer"))
            if reply.type == MessageType.ERROR:
                raise AssertionError(f"{what}: refused, {reply.code or 'no code'}: {reply.data}")
            return reply.data

    def _wait(self, find: Callable[[], T | None], timeout: float | None) -> T | None:
        """Wait until `find`, under the lock, returns something; None when nothing can come."""
        deadline = time.monotonic() + (self._timeout if timeout is None else timeout)
        with self._lock:
            while (found := find()) is None and self._end is None:
                left = deadline - time.monotonic()
                if left <= 0:
                    return None
                self._changed.wait(left)
            return found

    def _first_locked(self, wanted: _Conditions) -> _Arrival | None:
        assert self._lock.locked()
        return next((each for each in self._arrivals if wanted.match(each)), None)

    def _report_locked(self, what: str) -> str:
        """Return the text of a failure: what is wrong, and all that one needs to see why."""
        assert self._lock.locked()
        end, arrived = self._end, self._arrivals
        state = "open" if end is None else f"closed, {int(end.code)} {excerpt(end.reason)}"
        lines = [f"{what}; the connection is {state}; arrived: {len(arrived) or 'nothing'}"]
        if len(arrived) > _SHOWN:
            lines.append(f"  ({len(arrived) - _SHOWN} earlier ones)")
        return "\n".join([*lines, *map(str, arrived[-_SHOWN:])])

    # --- receiving thread ------------------------------------------------------------------

    def _receive(self) -> None:
        end = ConnectionClosed(CloseCode.INTERNAL, "the receiving thread failed")
        try:
            while True:
                received = self._connection.receive()
                if isinstance(received, str):
                    for text in split_batch(received):
                        self._arrived(text)
                else:
                    self._keep(_Arrival(None, str(received)))
        except ConnectionClosed as closed:
            end = closed
        finally:
            self._connection.finish()
            with self._changed:
                self._end = end
                self._changed.notify_all()

    def _arrived(self, text: str) -> None:
        try:
            message = decode(text)
        except MessageDecodeError:
            self._keep(_Arrival(None, text))
            return
        id = message.id
        if isinstance(id, str) and id.startswith(_ROUND_TRIP):
            with self._changed:
                self._replies[id] = message
                self._changed.notify_all()
        else:
            self._keep(_Arrival(message, text))

    def _keep(self, arrival: _Arrival) -> None:
        with self._changed:
            self._arrivals.append(arrival)
            self._changed.notify_all()
