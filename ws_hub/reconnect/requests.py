"""The requests of a client that wait for their answers, and messages that wait to be sent.

No I/O and no clock. Rules of this file:

- A request is sent once. When the connection is lost before the answer, the server may have
  carried it out, and only the application knows whether that may happen twice; so the call
  fails. One that may be repeated is sent again on the next connection.
- A subscription is repeated anyway; a call that waits for one waits for its acknowledgement
  on whichever connection that comes.
- A call on the thread that runs the callbacks waits for no other connection: that thread makes
  the connections.
- A message that nobody waits for is kept while there is no connection, if that is asked for,
  and sent on the next one, in the order of the calls. Then it is forgotten: like any other it
  is sent once.
"""

from __future__ import annotations

import itertools
from collections import deque
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
    """The calls of one client that wait. Its owner calls every method under one lock.

    Args:
        most_kept: messages that are kept while there is no connection.
        overflow: what a further one does: see `ReconnectConfig.send_buffer_overflow`.

    Attributes:
        dropped: messages that were dropped because so many were kept already.
    """

    def __init__(self, most_kept: int = 0, overflow: str = "refuse") -> None:
        self._most_kept = most_kept
        self._overflow = overflow
        self.dropped = 0
        self._numbers = itertools.count(1)
        self._calls: dict[str, Call] = {}  # by the id of the request, in order
        self._kept: deque[str] = deque()  # of these: what nobody waits for, oldest first
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

    @property
    def kept(self) -> int:
        """How many messages wait to be sent that nobody waits for."""
        return len(self._kept)

    def keep(self, text: bytes) -> bool:
        """Keep a message for the next connection; False when it is refused."""
        if len(self._kept) >= self._most_kept:
            if not self._most_kept or self._overflow == "refuse":
                return False
            self.dropped += 1
            if self._overflow == "drop_newest":
                return True
            del self._calls[self._kept.popleft()]
        id = self.new_id()
        self._calls[id] = Call(text, repeats=True)
        self._kept.append(id)
        return True

    def unsent(self) -> Iterator[bytes]:
        """Yield the texts to send on a new connection, and count them as sent."""
        for id, call in list(self._calls.items()):
            if not call.sent:
                call.sent = True
                yield call.text
            if self._kept and self._kept[0] == id:  # only now: the caller has sent it
                self._kept.popleft()
                del self._calls[id]

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

    def end(self, failure: Callable[[], WsHubError]) -> int:
        """Fail all calls; return how many messages were kept, and are dropped."""
        for call in self._waiting():
            call.fail(failure())
        kept = len(self._kept)
        self._calls, self._subscribing = {}, []
        self._kept.clear()
        return kept

    def _waiting(self) -> list[Call]:
        return [*self._calls.values(), *(call for _, call in self._subscribing)]
