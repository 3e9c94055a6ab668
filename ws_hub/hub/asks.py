"""The questions of the application to its clients that wait for their answers.

A client answers with an `ack` or an `error` that has the id of the question. Only the client
that was asked can; the ids begin with a prefix of their own, so that an answer that comes too
late is for nobody, and every other `ack` or `error` is the application's as before.
"""

from __future__ import annotations

import itertools
import time
from typing import Any

from ..connection.connection import Connection
from ..errors import CloseCode, ConnectionClosed, WaitTimeout, WsHubError
from ..protocol.message import Message, MessageType
from ..protocol.requests import ASK_ID, refusal
from ..reentrant import Event, Lock

__all__ = ["Asks"]

_ANSWERS = (MessageType.ACK, MessageType.ERROR)


class _Ask:
    __slots__ = ("answer", "connection", "done", "failure")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.done = Event()  # set once, after one of the two below
        self.answer: Any = None
        self.failure: WsHubError | None = None


class Asks:
    """The questions of one life of a hub."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        # guards: everything below. Nothing is taken under it.
        self._lock = Lock()
        self._waiting: dict[str, _Ask] = {}
        self._ended = False

    def ask(self, connection: Connection, data: Any, timeout: float) -> Any:
        """Send a question and return the data of its answer.

        Threads: any but that of a callback for this client; blocks at most `timeout`.
        """
        deadline = time.monotonic() + timeout
        id, ask = f"{ASK_ID}{next(self._numbers)}", _Ask(connection)
        with self._lock:
            if self._ended:
                raise ConnectionClosed(CloseCode.GOING_AWAY, "the hub stops: ask before that")
            self._waiting[id] = ask
        try:
            # After that: a client whose sender takes this has not left yet, and `left` finds it.
            connection.send(Message(MessageType.ASK, data=data, id=id), timeout)
            if not ask.done.wait(max(deadline - time.monotonic(), 0.0)):
                raise WaitTimeout(
                    f"{connection!r} did not answer what it was asked within {timeout:g} s: pass "
                    "a longer timeout, or give the client an on_ask (a page: answerAsks)"
                )
        finally:
            with self._lock:
                self._waiting.pop(id, None)
        if ask.failure is not None:
            raise ask.failure
        return ask.answer

    def take(self, connection: Connection, message: Message) -> bool:
        """Take the answer to a question; return whether a message is one.

        Threads: the reader of the connection; does not wait.
        """
        id = message.id
        if message.type not in _ANSWERS or not isinstance(id, str) or not id.startswith(ASK_ID):
            return False
        ask = self._waiting.get(id)
        if ask is not None and ask.connection is connection:
            if message.type == MessageType.ERROR:
                ask.failure = refusal(message)
            ask.answer = message.data
            ask.done.set()
        return True

    def left(self, connection: Connection, code: int, reason: str) -> None:
        """Fail the questions to a client that has left.

        Threads: any; does not wait.
        """
        if self._waiting:
            self._fail(connection, code, reason)

    def end(self) -> None:
        """Fail all questions, and those that come later.

        Threads: the hub's; does not wait.
        """
        with self._lock:
            self._ended = True
        self._fail(None, CloseCode.GOING_AWAY, "the hub stops: ask before that")

    def _fail(self, connection: Connection | None, code: int, reason: str) -> None:
        with self._lock:
            waiting = list(self._waiting.values())
        for ask in waiting:
            if connection in (None, ask.connection) and not ask.done.is_set():
                ask.failure = ConnectionClosed(code, reason)
                ask.done.set()
