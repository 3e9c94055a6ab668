"""The writing half of a connection: straight to the socket, or by way of the outbox.

Must not know channels, JSON or the hub. Joins an Outbox and a Transport under the
transport's lock. A frame that finds nothing waiting is sent by whoever brings it,
without waiting for the socket; what the kernel does not take is the writer thread's
work. So the hub thread never waits for a client, and in the usual case there is no
writer thread: it is asked for when the first backlog begins.

The life of a sender::

    OPEN ──finish()──> CLOSING ──peer answered, or time is up──> ENDED
      └──────────────────────────── end(), expire() ─────────────^
"""

from __future__ import annotations

import enum
import threading
import time
from collections.abc import Callable

from .errors import CloseCode, SendTimeout
from .frames import close_frame
from .outbox import Outbox
from .transport import Transport
from .workers import Changes, Later

__all__ = ["Sender"]


class _State(enum.Enum):
    OPEN = enum.auto()
    CLOSING = enum.auto()
    ENDED = enum.auto()


class Sender:
    """All writes of one connection. The reader of that connection drives its life.

    Args:
        transport: the connection.
        outbox: an empty outbox of its own.
        write_timeout: seconds that a backlog may wait without one byte being taken.
        close_timeout: seconds from `finish` until the connection may be cut (`expire`).
        start: starts a thread soon, and does not wait: from what that runs, and what is
            called when it cannot be had. None when it will not. Called under the lock.
        greeting: bytes that come before all frames (the answer to the handshake); what is
            sent before `greet` was called waits for it.
        clock: monotonic seconds.

    Attributes:
        stalled: whether it gave up on a peer that took nothing.
    """

    __slots__ = (
        "_cause",
        "_changed",
        "_clock",
        "_close_timeout",
        "_deadline",
        "_direct",
        "_lock",
        "_outbox",
        "_progress",
        "_state",
        "_start",
        "_transport",
        "_write_timeout",
        "_writer",
        "stalled",
    )

    def __init__(
        self,
        transport: Transport,
        outbox: Outbox,
        *,
        write_timeout: float,
        close_timeout: float,
        start: Callable[[Callable[[], None], Callable[[RuntimeError], None]], Later | None],
        greeting: bytes = b"",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._transport = transport
        self._start = start
        self._write_timeout = write_timeout
        self._close_timeout = close_timeout
        self._clock = clock
        self._lock = transport.lock
        # guards: everything below, together with the transport's socket. It is the
        # transport's lock: the last in the order. Waited on by the writer thread (for
        # work), by `put` (for room), by `drain` (for an empty outbox).
        self._changed = Changes(self._lock)
        # Open while the state is and nothing waits: then whoever has a frame may send it.
        self._direct = transport.direct
        self._outbox = outbox
        self._state = _State.OPEN
        self._writer: Later | None = None  # once one was needed
        self._deadline = 0.0  # when CLOSING ends
        self._progress = clock()  # when the socket last took a byte of a backlog
        self._cause: tuple[int, str] | None = None
        self.stalled = False  # set once, by the writer thread
        if greeting:
            outbox.begin(greeting, 0, 0)
        else:
            self._direct.open()

    # --- any thread ------------------------------------------------------------------------

    @property
    def cause(self) -> tuple[int, str] | None:
        """The close code and reason that this side gave first, if it did."""
        with self._lock:
            return self._cause

    def verdict(self, code: int, reason: str) -> tuple[int, str]:
        """Return how the connection ended, given how its reader saw it end."""
        cause = self.cause
        if cause is None or (cause[0] == CloseCode.ABNORMAL and code != cause[0]):
            # A write that broke knows less than what the peer had said before it went.
            return code, reason
        return cause

    @property
    def waiting(self) -> tuple[int, int]:
        """How many messages and how many bytes wait."""
        with self._lock:
            return self._outbox.messages, self._outbox.size

    def offer(self, frames: bytes, messages: int, *, beyond: bool = False) -> bool:
        """Send whole frames now or queue them; never wait.

        False when they do not fit: none of them is kept then. True, and nothing
        happens, when the connection is ending: who sends to the dead has lost nothing.
        """
        with self._lock:
            return self._state is not _State.OPEN or self._offer_locked(frames, messages, beyond)

    def put(self, frame: bytes, timeout: float) -> bool:
        """Send one message, waiting up to `timeout` seconds for room.

        False when the connection is ending. Raises SendTimeout.
        """
        deadline = self._clock() + min(timeout, threading.TIMEOUT_MAX / 2)
        with self._lock:
            while self._state is _State.OPEN:
                if self._offer_locked(frame, 1):
                    return True
                left = deadline - self._clock()
                if left <= 0:
                    raise SendTimeout(
                        f"no room for {timeout:g} s: {self._outbox.messages} messages, "
                        f"{self._outbox.size} bytes wait"
                    )
                self._changed.wait(left)  # woken by the writer's progress and by the end
            return False

    def wait_for_room(self, timeout: float) -> bool:
        """Wait until half of what may wait is free, or the connection is ending."""
        outbox, deadline = self._outbox, self._clock() + timeout
        with self._lock:
            while self._state is _State.OPEN:
                if (
                    outbox.messages * 2 <= outbox.max_messages
                    and outbox.size * 2 <= outbox.max_bytes
                ):
                    return True
                left = deadline - self._clock()
                if left <= 0:
                    return False
                self._changed.wait(left)  # woken by the writer's progress and by the end
            return True

    def control(self, frame: bytes) -> None:
        """Send a ping or a pong, ahead of waiting messages; never wait."""
        with self._lock:
            if self._state is _State.OPEN:
                self._control_locked(frame)

    def finish(self, code: int, reason: str, *, now: bool = False) -> None:
        """Begin the closing handshake: everything queued, then a Close frame.

        `now` drops what has not begun to be written: for a client that does not read,
        or one that has closed already. From here on the connection has close_timeout
        seconds. The first call counts. Raises ValueError for a code that must not be
        sent, and nothing happens.
        """
        frame = close_frame(code, reason)  # first: it may raise
        with self._lock:
            if self._state is not _State.OPEN:
                return
            self._leave_locked(_State.CLOSING)
            self._cause = (code, reason)
            self._deadline = self._clock() + self._close_timeout
            if now:
                self._outbox.clear()
                self._control_locked(frame)
            else:
                self._offer_locked(frame, 0, beyond=True)
            self._changed.notify_all()

    def answer_close(self, code: int) -> None:
        """Answer the peer's Close frame; what has not begun to be written is dropped.

        Not a cause of ours, and nothing to answer where the peer answered us.
        """
        with self._lock:
            if self._state is _State.OPEN:
                self._leave_locked(_State.CLOSING)
                self._deadline = self._clock() + self._close_timeout
                self._outbox.clear()
                self._control_locked(close_frame(code))
                self._changed.notify_all()
        self.drain()

    def drain(self) -> None:
        """Wait until everything queued is written, or the closing time is up."""
        with self._lock:
            while self._state is _State.CLOSING and self._outbox.size:
                left = self._deadline - self._clock()
                if left <= 0:
                    return
                self._changed.wait(left)  # woken by the writer's progress and by the end

    def end(self) -> None:
        """Stop writing; the writer thread returns."""
        with self._lock:
            self._end_locked()

    def expire(self) -> None:
        """Cut a connection whose closing time is up."""
        with self._lock:
            if self._state is _State.CLOSING and self._clock() >= self._deadline:
                self._cut_locked()

    # --- hub thread ------------------------------------------------------------------------

    def greet(self) -> None:
        """Send the greeting, and behind it what came before its time; never wait."""
        with self._lock:
            while self._outbox.size and self._state is not _State.ENDED:
                if not self._advance_locked():
                    self._call_writer_locked()
                    return

    # --- reader thread ---------------------------------------------------------------------

    def rest(self, seconds: float) -> bool:
        """Wait for so long, or until the connection is ending; False then."""
        deadline = self._clock() + seconds
        with self._lock:
            while self._state is _State.OPEN and (left := deadline - self._clock()) > 0:
                # Woken by the end, and by the writer's progress.
                self._changed.wait(min(left, threading.TIMEOUT_MAX))
            return self._state is _State.OPEN

    def join(self, timeout: float) -> None:
        """Wait, after `end`, until the writer has left: it must not meet a reused descriptor."""
        writer = self._writer  # changes no more
        if writer is not None:
            writer.join(timeout)

    # --- the thread that starts writers ----------------------------------------------------

    def _without_writer(self, error: RuntimeError) -> None:
        with self._lock:
            if self._state is not _State.ENDED:
                self._cause = self._cause or (CloseCode.ABNORMAL, f"no thread to write: {error}")
                self._cut_locked()

    # --- writer thread ---------------------------------------------------------------------

    def run(self) -> None:
        """Write what waits, ping in between, until the connection ends."""
        while self._turn():
            pass

    def _turn(self) -> bool:
        """Wait for work and do one piece of it; False at the end."""
        with self._lock:
            if not self._await_work_locked():
                return False
            if self._advance_locked():
                return True
            patience = self._progress + self._write_timeout - self._clock()
        # Outside the lock: the hub thread must be able to queue while this one waits.
        if patience <= 0 or not self._transport.wait_writable(patience):
            self._give_up()
        return True

    def _await_work_locked(self) -> bool:
        """Wait until something is to be written; False when the connection has ended."""
        assert self._lock.locked()
        while self._state is not _State.ENDED:
            if self._outbox.size:
                return True
            self._changed.wait()  # woken by work and by the end
        return False

    def _give_up(self) -> None:
        """End a connection whose peer takes nothing."""
        with self._lock:
            if self._state is _State.ENDED:
                return
            stalled = self._clock() - self._progress
            if stalled < self._write_timeout:
                return
            self.stalled = True
            if self._cause is None:
                self._cause = (
                    CloseCode.ABNORMAL,
                    f"write timeout: nothing taken for {stalled:.1f} s",
                )
            self._cut_locked()

    # --- under the lock --------------------------------------------------------------------

    def _offer_locked(self, frames: bytes, messages: int, beyond: bool = False) -> bool:
        assert self._lock.locked()
        if self._outbox.size:
            # The writer is at work or waits for room: order before speed.
            return self._outbox.offer(frames, messages, beyond=beyond)
        sent = self._send_locked(frames)
        if sent < len(frames) and self._state is not _State.ENDED:
            self.begin_locked(frames, messages, sent)
        return True

    def begin_locked(self, frames: bytes, messages: int, sent: int) -> None:
        """Leave the rest of a direct send, of which the kernel took `sent`, to the writer."""
        assert self._lock.locked()
        self._direct.shut()
        self._outbox.begin(frames, messages, sent)
        self._progress = self._clock()
        self._call_writer_locked()

    def _call_writer_locked(self) -> None:
        assert self._lock.locked()
        if self._writer is None:
            self._writer = self._start(self.run, self._without_writer)
            if self._writer is None:
                self._cut_locked()
        self._changed.notify_all()

    def _advance_locked(self) -> bool:
        """Write a piece of what waits; say whether the kernel took it whole."""
        assert self._lock.locked()
        chunk = self._outbox.head()
        sent = self._send_locked(chunk)
        if sent:
            self._outbox.advance(sent)
            if not self._outbox.size and self._state is _State.OPEN:
                self._direct.open()
            self._progress = self._clock()
            self._changed.notify_all()
        return sent == len(chunk)

    def _control_locked(self, frame: bytes) -> None:
        assert self._lock.locked()
        if not self._outbox.size:
            self._offer_locked(frame, 0)
        else:
            self._outbox.control(frame)

    def _send_locked(self, data: bytes) -> int:
        """Send without waiting; a broken connection ends here, and the reader says so."""
        assert self._lock.locked()
        try:
            return self._direct.send(data)
        except OSError as error:
            self._broken_locked(error)
            return 0

    def _broken_locked(self, error: OSError) -> None:
        assert self._lock.locked()
        if self._cause is None:
            self._cause = (CloseCode.ABNORMAL, error.strerror or str(error))
        self._cut_locked()

    def _cut_locked(self) -> None:
        """End writing and wake the reader, which tidies up."""
        assert self._lock.locked()
        self._end_locked()
        self._transport.shutdown_locked()

    def _leave_locked(self, state: _State) -> None:
        assert self._lock.locked()
        self._state = state
        self._direct.shut()

    def _end_locked(self) -> None:
        assert self._lock.locked()
        self._leave_locked(_State.ENDED)
        self._changed.notify_all()
