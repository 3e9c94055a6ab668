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
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import CloseCode, SendTimeout
from ..protocol.frames import close_frame, ping_frame
from ..reentrant import nested
from ..threads import Changes, Later
from .outbox import Outbox, Room
from .progress import Progress
from .transport import Transport

__all__ = ["Sender"]

_PING = ping_frame()
_LOOKS = 4  # at what is acknowledged, in a write timeout
_JUDGEMENT = 1.0  # seconds of a crowded peer's reading that its pace is judged by
_BRIEFLY = 0.05  # seconds, for a lock that is held for microseconds


class _State(enum.Enum):
    OPEN = enum.auto()
    CLOSING = enum.auto()
    ENDED = enum.auto()


class _Load(enum.Enum):
    """How full the outbox is, and what that says to publishers."""

    LIGHT = enum.auto()
    CROWDED = enum.auto()  # more than half full, until a quarter: worth waiting for
    SLOW = enum.auto()  # was crowded, and read too slowly: until nothing waits


class Sender:
    """All writes of one connection. The reader of that connection drives its life.

    Args:
        transport: the connection.
        outbox: an outbox of its own: empty, or with bytes that come before all frames (the
            answer to the handshake); what is sent before `greet` was called waits for those.
        write_timeout: seconds that a backlog may wait with nothing being acknowledged, and
            some more for what was (see `progress`).
        close_timeout: seconds from `finish` until the connection may be cut (`expire`).
        start: starts a thread soon, and does not wait: from what that runs, and what does a
            piece of it where none can be had. None when it will not. Called under the lock.
        crowded: called under the lock when the outbox is worth waiting for, and when it is
            so no longer; see `keep_pace`.
        clock: monotonic seconds.

    Attributes:
        dropped: messages that waited and were thrown away: the peer did not read them.
        stalled: whether it gave up on a peer that acknowledged nothing.
    """

    __slots__ = (
        "_cause",
        "_changed",
        "_clock",
        "_close_timeout",
        "_crowded",
        "_deadline",
        "_direct",
        "_drained",
        "_judged",
        "_load",
        "_lock",
        "_outbox",
        "_progress",
        "_state",
        "_start",
        "_taken",
        "_transport",
        "_write_timeout",
        "_writer",
        "dropped",
        "stalled",
    )

    def __init__(
        self,
        transport: Transport,
        outbox: Outbox,
        *,
        write_timeout: float,
        close_timeout: float,
        start: Callable[[Callable[[], None], Callable[[], bool]], Later | None],
        crowded: Callable[[bool], None] = lambda crowded: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._crowded = crowded
        self._load = _Load.LIGHT
        self._judged = (0.0, 0)  # since when, and from how many bytes on, its pace is judged
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
        self._progress = Progress(write_timeout, clock())
        self._taken = 0  # bytes of backlogs that the kernel took
        self._cause: tuple[int, str] | None = None
        self.dropped = 0
        self._drained: Callable[[], None] | None = None  # called once when nothing waits
        self.stalled = False  # set once, by the writer thread
        if not outbox.size:
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

    def deliver(self, frames: bytes, each: Sequence[bytes]) -> int:
        """Send a burst now or queue it; never wait.

        `frames` are `each`, joined. Returns how many of them are sent or kept, all of them
        when the connection is ending.
        """
        with self._lock:
            if self._state is not _State.OPEN:
                return len(each)
            if self._outbox.size:
                kept = self._outbox.take(frames, each)
                self._weigh_locked()
                return kept
            sent = self._send_locked(frames)
            if sent == len(frames) or self._state is not _State.OPEN:
                return len(each)
            return self.begin_locked(frames, each, sent)

    def offer_piece(self, frames: bytes, messages: int, drained: Callable[[], None]) -> Room:
        """Send a piece of a replay if nothing waits and the kernel has room; never wait.

        The outbox then keeps what did not fit, the same bytes that others are sent. Where
        something waits, `drained` is called once when that is written or the connection
        is ending: under the lock, so it may not take another one that matters.
        """
        with self._lock:
            if self._state is not _State.OPEN:
                return Room.ENDED
            if self._outbox.size:
                self._drained = drained
                return Room.QUEUED
            if not self._direct.has_room():
                return Room.FULL
            self._offer_locked(frames, messages)
            return Room.TAKEN

    def put(self, frame: bytes, timeout: float) -> bool:
        """Send one message, waiting up to `timeout` seconds for room.

        False when the connection is ending. Raises SendTimeout.
        """
        deadline = self._clock() + min(timeout, threading.TIMEOUT_MAX / 2)
        with self._lock:
            while self._state is _State.OPEN:
                if self._whole_locked(self._offer_locked, frame, 1):
                    return True
                left = 0.0 if nested() else deadline - self._clock()
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

    def keep_pace(self, pace_bytes: int, timeout: float, *, at_once: bool = False) -> bool:
        """Wait while the outbox is crowded and its peer reads well, at most `timeout` seconds.

        Well is when the peer's kernel acknowledges `pace_bytes` a second. A peer that does
        not, in a second, or `at_once`, is waited for no more until nothing waits for it.
        Says whether the wait was in vain: for one that was too slow, or left.
        """
        deadline = self._clock() + timeout
        with self._lock:
            while self._load is _Load.CROWDED and self._state is _State.OPEN:
                now = self._clock()
                due = self._judged[0] + (0.0 if at_once else _JUDGEMENT) - now
                if due <= 0:
                    self._judge_locked(pace_bytes)
                elif now >= deadline:
                    break
                else:
                    # Woken by the writer's progress, another's judgement, and the end.
                    self._changed.wait(min(due, deadline - now))
            return self._load is _Load.SLOW

    def control(self, frame: bytes) -> None:
        """Send a pong, ahead of waiting messages; never wait."""
        with self._lock:
            if self._state is _State.OPEN:
                self._control_locked(frame)

    def ping(self) -> None:
        """Send a ping, ahead of waiting messages; never wait."""
        with self._lock:
            if self._state is _State.OPEN:
                # Before it: a ping that the peer's kernel acknowledges is no sign of life.
                self._look_locked()
                self._control_locked(_PING)

    def finish(self, code: int, reason: str, *, now: bool = False) -> bool:
        """Begin the closing handshake: everything queued, then a Close frame.

        `now` drops what has not begun to be written: for a client that does not read,
        or one that has closed already. From here on the connection has close_timeout
        seconds. The first call counts: False for the others, and after the end. Raises
        ValueError for a code that must not be sent, and nothing happens.
        """
        frame = close_frame(code, reason)  # first: it may raise
        with self._lock:
            if self._state is not _State.OPEN:
                return False
            self._cause = (code, reason)
            self._whole_locked(self._finish_locked, frame, now)
            return True

    def _finish_locked(self, frame: bytes, now: bool) -> bool:
        assert self._lock.locked()
        self._leave_locked(_State.CLOSING)
        self._deadline = self._clock() + self._close_timeout
        if now:
            self.dropped += self._outbox.clear()
            self._control_locked(frame)
        else:
            self._offer_locked(frame, 0, beyond=True)
        self._changed.notify_all()
        return True

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
                self.dropped += self._outbox.discard()
                self._cut_locked()

    # --- the only thread of a forked child -------------------------------------------------

    def forget(self) -> None:
        """Be at the end, without a word to the peer: the connection is the parent's."""
        self._transport.forget()
        self._lock = self._transport.lock
        self._changed = Changes(self._lock)
        self._load = _Load.LIGHT  # and nothing is said: the parent's publishers wait for it
        with self._lock:
            self._cause = (CloseCode.ABNORMAL, "the connection belongs to the parent process")
            self._end_locked()

    # --- hub thread ------------------------------------------------------------------------

    def greet(self) -> None:
        """Send the greeting, and behind it what came before its time; never wait."""
        with self._lock:
            while self._outbox.size and self._state is not _State.ENDED:
                if not self._advance_locked():
                    self._call_writer_locked()
                    return

    # --- reader thread ---------------------------------------------------------------------

    def is_acknowledged(self, timeout: float) -> bool:
        """Say whether the peer's kernel acknowledged what it was sent, within `timeout` seconds.

        Then the peer lives, although it says nothing: our ping is behind what it reads.
        """
        with self._lock:
            self._look_locked()
            return self._progress.is_alive(self._clock(), timeout)

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

    def push(self) -> bool:
        """Do without waiting what the writer would do; False when the connection has ended.

        For a connection whose writer cannot be had.
        """
        with self._lock:
            while self._state is not _State.ENDED and self._outbox.size:
                if not self._advance_locked():
                    self._look_locked()
                    if self._progress.patience(self._clock()) <= 0:
                        self._give_up_locked()
                    break
            return self._state is not _State.ENDED

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
            if self._advance_locked() or self._has_ended_locked():
                return True
            self._look_locked()
            patience = self._progress.patience(self._clock())
            if patience <= 0:
                self._give_up_locked()
                return True
        # Outside the lock: the hub thread must be able to queue while this one waits. Not
        # for long: a socket may be far from writable while its peer reads on.
        self._transport.wait_writable(min(patience, self._write_timeout / _LOOKS))
        return True

    def _await_work_locked(self) -> bool:
        """Wait until something is to be written; False when the connection has ended."""
        assert self._lock.locked()
        while self._state is not _State.ENDED:
            if self._outbox.size:
                return True
            self._changed.wait()  # woken by work and by the end
        return False

    def _give_up_locked(self) -> None:
        """End a connection whose peer takes nothing."""
        assert self._lock.locked()
        self.stalled = True
        if self._cause is None:
            silence = self._progress.silence(self._clock())
            reason = f"write timeout: nothing acknowledged for {silence:.1f} s"
            self._cause = (CloseCode.ABNORMAL, reason)
        self.dropped += self._outbox.discard()
        self._cut_locked()

    # --- under the lock --------------------------------------------------------------------

    def _whole_locked(self, change: Callable[..., bool], *args: Any) -> bool:
        """Make a change that KeyboardInterrupt may cut on the main thread, alone of all.

        Nobody could say then how much of a frame is out: that ends the connection.
        """
        assert self._lock.locked()
        try:
            return change(*args)
        except BaseException:
            self._cut_locked()
            raise

    def _offer_locked(self, frames: bytes, messages: int, beyond: bool = False) -> bool:
        assert self._lock.locked()
        if self._outbox.size:
            # The writer is at work or waits for room: order before speed.
            taken = self._outbox.offer(frames, messages, beyond=beyond)
            self._weigh_locked()
            return taken
        sent = self._send_locked(frames)
        if sent < len(frames) and self._state is not _State.ENDED:
            self._direct.shut()
            self._outbox.begin(frames, messages, sent)
            self._call_writer_locked()
        return True

    def begin_locked(self, frames: bytes, each: Sequence[bytes], sent: int) -> int:
        """Leave the rest of a burst, of which the kernel took `sent` bytes, to the writer.

        Returns how many of its frames are sent or kept.
        """
        assert self._lock.locked()
        self._direct.shut()
        kept = self._outbox.take(frames, each, sent, len(self._direct.torn))
        self._call_writer_locked()
        return kept

    def _call_writer_locked(self) -> None:
        """Have the writer deal with a backlog that has just begun."""
        assert self._lock.locked()
        self._look_locked()
        self._progress.begin(self._clock())
        self._weigh_locked()
        if self._writer is None:
            self._writer = self._start(self.run, self.push)
            if self._writer is None:
                self._cut_locked()
        self._changed.notify_all()

    def _advance_locked(self) -> bool:
        """Write a piece of what waits; say whether the kernel took it whole."""
        assert self._lock.locked()
        chunk = self._outbox.head()
        sent = self._send_locked(chunk)
        if sent:
            self._taken += sent
            self._outbox.advance(sent)
            if not self._outbox.size and self._state is _State.OPEN:
                self._direct.open()
                self._tell_drained_locked()
            self._weigh_locked()
            self._changed.notify_all()
        return sent == len(chunk)

    def _weigh_locked(self) -> None:
        """Tell publishers when the outbox becomes crowded, and when it is so no longer."""
        assert self._lock.locked()
        outbox, load = self._outbox, self._load
        if load is _Load.LIGHT:
            if (
                outbox.size * 2 > outbox.max_bytes or outbox.messages * 2 > outbox.max_messages
            ) and self._state is _State.OPEN:
                self._load = _Load.CROWDED
                self._look_locked()
                self._judged = (self._clock(), self._progress.total)
                self._crowded(True)
        elif load is _Load.CROWDED:
            if outbox.size * 4 <= outbox.max_bytes and outbox.messages * 4 <= outbox.max_messages:
                self._load = _Load.LIGHT
                self._crowded(False)
        elif not outbox.size:
            self._load = _Load.LIGHT

    def _judge_locked(self, pace_bytes: int) -> None:
        """Decide whether a crowded peer is worth waiting for."""
        assert self._lock.locked()
        self._look_locked()
        since, before = self._judged
        now, total = self._clock(), self._progress.total
        self._judged = (now, total)
        if total - before <= pace_bytes * (now - since):  # at once: nothing, in no time
            self._load = _Load.SLOW
            self._crowded(False)
            self._changed.notify_all()

    def _has_ended_locked(self) -> bool:
        assert self._lock.locked()
        return self._state is _State.ENDED

    def _look_locked(self) -> None:
        """Take note of what the peer's kernel has acknowledged."""
        assert self._lock.locked()
        measured = self._transport.measure_locked(self._taken)
        if measured is not None:
            acknowledged, outstanding = measured
            waits = outstanding or bool(self._outbox.size)
            self._progress.look(self._clock(), acknowledged, waits)

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
        if self._load is _Load.CROWDED:
            self._load = _Load.SLOW
            self._crowded(False)
        self._tell_drained_locked()

    def _tell_drained_locked(self) -> None:
        assert self._lock.locked()
        drained, self._drained = self._drained, None
        if drained is not None:
            drained()

    def _end_locked(self) -> None:
        assert self._lock.locked()
        self._leave_locked(_State.ENDED)
        self._changed.notify_all()
