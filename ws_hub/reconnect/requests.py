"""The requests of a client that wait for their answers.

No I/O and no clock. Rules of this file:

- A request is sent once. When the connection is lost before the answer, the server may have
  carried it out, and only the application knows whether that may happen twice; so the call
  fails. One that may be repeated is sent again on the next connection.
- A subscription is repeated anyway; a call that waits for one waits for its acknowledgement
  on whichever connection that comes.
- A call on the thread that runs the callbacks waits for no other connection: that thread makes
  the connections.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

from ..errors import WsHubError
from ..protocol.message import Message, MessageType
from ..protocol.requests import refusal
from ..reentrant import Event

__all__ = ["Call", "Requests"]

# Another one than that of `subscriptions`, whose answers are for nobody else.
_ID = "ws-hub.request:"
_ANSWERS = (MessageType.ACK, MessageType.ERROR, MessageType.PONG)


class Call:
    """One call that waits for an answer.

    Args:
        text: the encoded request; b"" where a subscription is waited for, which is sent by others.
        repeats: whether it is sent again when the connection is lost.

    Attributes:
        sent: whether it is sent on the present connection.
    """

    __slots__ = ("_answer", "_done", "_failure", "repeats", "sent", "text")

    def __init__(self, text: bytes = b"", *, repeats: bool) -> None:
        self.text = text
        self.repeats = repeats
        self.sent = not text
        self._done = Event()  # set once, after one of the two below
        self._answer: object = None
        self._failure: WsHubError | None = None

    def answer(self, data: object) -> None:
        """End the call with the data of the answer."""
        self._answer = data
        self._done.set()

    def fail(self, failure: WsHubError) -> None:
        """End the call with an exception."""
        self._failure = failure
        self._done.set()

    def wait(self, timeout: float) -> bool:
        """Wait until the call has ended; return whether it has."""
        return self._done.wait(timeout)

    def result(self) -> object:
        """Return the data of the answer, or raise what the call has failed with."""
        if self._failure is not None:
            raise self._failure
        return self._answer


class Requests:
    """The calls of one client that wait. Its owner calls every method under one lock."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._calls: dict[str, Call] = {}  # by the id of the request, in order
        self._subscribing: list[tuple[str, Call]] = []  # by the channel

    def new_id(self) -> str:
        """Return an id for a request."""
        return f"{_ID}{next(self._numbers)}"

    def add(self, id: str, call: Call) -> None:
        """Have a call wait for the answer with an id."""
        self._calls[id] = call

    def add_subscribing(self, channel: str, call: Call) -> None:
        """Have a call wait for the acknowledgement of a subscription."""
        self._subscribing.append((channel, call))

    def remove(self, call: Call) -> None:
        """Forget a call that has ended, or waits no longer."""
        self._calls = {id: each for id, each in self._calls.items() if each is not call}
        self._subscribing = [each for each in self._subscribing if each[1] is not call]

    def unsent(self) -> Iterator[bytes]:
        """Yield the texts to send on a new connection, and count them as sent."""
        for call in self._calls.values():
            if not call.sent:
                call.sent = True
                yield call.text

    def take(self, message: Message) -> bool:
        """End the call that a message answers; return whether it is an answer to a request.

        An answer for which nobody waits any more is one as well.
        """
        id = message.id
        if message.type not in _ANSWERS or not isinstance(id, str) or not id.startswith(_ID):
            return False
        call = self._calls.pop(id, None)
        if call is not None and message.type == MessageType.ERROR:
            call.fail(refusal(message))
        elif call is not None:
            call.answer(message.data)
        return True

    @property
    def subscribing(self) -> list[tuple[str, Call]]:
        """The channels whose subscriptions are waited for, each with the call."""
        return list(self._subscribing)

    def lost(self, failure: Callable[[], WsHubError]) -> None:
        """Fail the calls that a lost connection ends; the others are sent again."""
        for call in self._waiting():
            if call.sent and not call.repeats:
                call.fail(failure())
                self.remove(call)
            call.sent = False

    def end(self, failure: Callable[[], WsHubError]) -> None:
        """Fail all calls."""
        for call in self._waiting():
            call.fail(failure())
        self._calls, self._subscribing = {}, []

    def _waiting(self) -> list[Call]:
        return [*self._calls.values(), *(call for _, call in self._subscribing)]
