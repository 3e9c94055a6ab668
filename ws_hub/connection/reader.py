"""What reads one connection, from its admission to its last callback.

It runs on one thread at a time: on one of its own to the end (`run`), or on the threads that
`readers` shares among all connections, which call `turn` when there is input.
"""

from __future__ import annotations

import contextvars
import threading
import time
from typing import Protocol

from ..threads import Visit
from .client import Client
from .receiver import End, Receiver
from .transport import Transport

__all__ = ["Readable", "Reader", "Waiting"]


class Readable(Protocol):
    """What a reader asks of its connection."""

    @property
    def id(self) -> int:
        """Its number."""

    @property
    def transport(self) -> Transport:
        """Its socket."""

    def new_client(self) -> Client:
        """Return what the application sees of it, which the reader keeps."""

    @property
    def is_pending(self) -> bool:
        """Whether `settle` is to be called before its input is handled."""

    @property
    def is_decided(self) -> bool:
        """Whether `settle` need not wait any more."""

    def enter(self) -> bool:
        """Ask for its admission; False when it was refused at once."""

    def settle(self, patience: float) -> bool:
        """Call `on_connect` once it is admitted; False when it is refused, or that is late."""

    def receiver(self) -> Receiver:
        """Return what handles its input."""

    def shut(self, end: End | None) -> tuple[int, str]:
        """End it; return its close code and reason. Nothing uses its socket afterwards."""

    def leave(self, client: Client | None, code: int, reason: str) -> None:
        """Close its socket, take it out of the hub, and call `on_disconnect`."""


class Waiting(Protocol):
    """Threads that wait for the input of many readers."""

    def part(self, reader: Reader) -> None:
        """Do not wait for this one any more."""


class Reader:
    """The reader of one connection: what stays of it between two inputs.

    Args:
        connection: the connection.
        silence: the pong timeout, in seconds.
        patience: for how many seconds its admission may take.

    Attributes:
        connection: as given.
        visit: what `Connection.join` waits for.
        over: whether the connection has ended, and its last callback as well.
        due: when the silence of its peer ends it, or its admission is late, in monotonic seconds.
        noticed: when they saw that it is due, in monotonic seconds: before it, they may have
            to handle many others. 0.0 for not.
        readers: the threads that may wait for its input; None where it has one of its own.
        is_parked: whether they wait for it. Under their lock.
        look_at: when they look at `due`, in monotonic seconds; 0.0 for never. Under their lock.
        has_only_begun: whether `on_connect` was called, and nothing was received since.
    """

    __slots__ = (
        "_client", "_context", "_patience", "_receiver", "_silence", "connection", "due",
        "has_only_begun", "is_parked", "look_at", "noticed", "over", "readers", "visit",
    )  # fmt: skip

    def __init__(self, connection: Readable, silence: float, patience: float) -> None:
        self.connection = connection
        self._silence, self._patience = silence, patience
        self._client: Client | None = connection.new_client()
        self._receiver: Receiver | None = None  # made for the first input
        # As a thread of its own has it: what a callback sets here is for this client alone.
        self._context = contextvars.Context()
        self.visit = Visit()
        self.over = False
        self.due = self.noticed = 0.0
        self.readers: Waiting | None = None
        self.is_parked = self.has_only_begun = False
        self.look_at = 0.0

    def run(self) -> None:
        """Read until the connection has ended.

        Threads: one without other work; blocks.
        """
        if not self._begin():
            return
        self.visit.thread = threading.get_ident()
        end: End | None = None
        try:
            if self._settle():
                end = self._receives().run()
        finally:
            self._finish(end)

    def begin(self) -> bool:
        """Ask for the connection's admission; False when it is over already. Does not wait.

        Where there is a callback for it, the first turn has that called.
        """
        return self._context.run(self._begin)

    def _begin(self) -> bool:
        self.visit.thread = threading.get_ident()
        entered = False
        try:
            entered = self.connection.enter()
        finally:
            if not entered:
                self._finish(None)
            self.visit.thread = 0
        patience = self._patience if self.connection.is_pending else self._silence
        self.due = time.monotonic() + patience
        return entered

    def _settle(self) -> bool:
        """Have `on_connect` called, if it is still to be; False when it is not admitted."""
        connection = self.connection
        if not connection.is_pending:
            return True
        admitted = connection.settle(max(self.due - time.monotonic(), 0.0))
        self.noticed, self.due = 0.0, time.monotonic() + self._silence
        return admitted

    def turn(self, timeout: float) -> bool:
        """Handle one receive, waiting at most `timeout` seconds; return whether there was any.

        The first one calls `on_connect` instead, where there is one. What waits for input longer
        than the pong timeout, or is over, has its end here too.
        """
        return self._context.run(self._take_turn, timeout)

    def _take_turn(self, timeout: float) -> bool:
        self.visit.thread = threading.get_ident()
        end: End | bool | None = None
        try:
            if not self.connection.is_pending:
                end = self._receive(timeout)
            elif self._settle():
                end, self.has_only_begun = False, True
        finally:
            if not isinstance(end, bool):
                self._finish(end)
            self.visit.thread = 0
        return end is not False

    def _receive(self, timeout: float) -> End | bool:
        receiver = self._receives()
        end = receiver.turn(timeout)
        now = time.monotonic()
        if end is False:
            if now < self.due:
                return False
            since, noticed = self.due - self._silence, self.noticed or now
            end = receiver.judge_silence(since, noticed) or False
        self.noticed, self.has_only_begun = 0.0, False
        self.due = now + self._silence
        return end

    def finish(self, end: End) -> None:
        """End a connection that nothing can read any more."""
        self._context.run(self._end, end)

    def _end(self, end: End) -> None:
        self.visit.thread = threading.get_ident()
        try:
            self._settle()  # both callbacks are called, or neither
        finally:
            self._finish(end)

    def _receives(self) -> Receiver:
        if self._receiver is None:
            self._receiver = self.connection.receiver()
        return self._receiver

    def _finish(self, end: End | None) -> None:
        code, reason = 0, ""
        try:
            code, reason = self.connection.shut(end)
        finally:
            if self.readers is not None:
                self.readers.part(self)  # before its descriptor's number is another's
            client, self._client = self._client, None
            try:
                self.connection.leave(client, code, reason)
            finally:
                self.over = True
                self.visit.end()
