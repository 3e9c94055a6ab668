"""The writing half of a connection: directly to the socket, or through the outbox.

Joins an Outbox and a Transport under the transport's lock. A frame that finds the outbox
empty is sent by the calling thread, without waiting for the socket; the bytes that the
kernel does not take are left to the writer thread. So the hub thread never waits for a
client, and most connections have no writer thread: it is started for the first backlog.

The states of a sender::

    OPEN ──finish()──> CLOSING ──peer answered, or time is up──> ENDED
      └──────────────────────────── end(), expire() ─────────────^
"""

from __future__ import annotations

import enum
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from ..errors import CloseCode, SendTimeout
from ..protocol.frames import close_frame, ping_frame
from ..reentrant import nested
from ..threads import DeferredThread, LazyCondition
from .outbox import Outbox, Room
from .progress import Progress
from .transport import Transport

__all__ = ["Sender"]

T = TypeVar("T")

_PING = ping_frame()
_CHECKS = 4  # checks of the acknowledged bytes in a write timeout
_PACE_PERIOD = 1.0  # seconds over which the pace of a crowded peer is measured


class _State(enum.Enum):
    OPEN = enum.auto()
    CLOSING = enum.auto()
    ENDED = enum.auto()


class _Load(enum.Enum):
    """How full the outbox is, and whether publishers wait for it."""

    LIGHT = enum.auto()
    CROWDED = enum.auto()  # from half full until a quarter full: publishers wait
    SLOW = enum.auto()  # was crowded and read too slowly: publishers do not wait until it is empty


class Sender:
    """All writes of one connection. The connection's reader ends it.

    Args:
        transport: the connection.
        outbox: an outbox of its own: empty, or with bytes that precede all frames (the answer
            to the handshake); frames that are sent before `greet` wait behind these.
        write_timeout: seconds that a backlog may wait without acknowledgement, plus the credit
            of earlier ones (see `progress`).
        close_timeout: seconds from `finish` until the connection may be cut (`expire`).
        start: starts a thread soon, and does not wait. Its arguments are the thread's function
            and one that does a step of its work where no thread can be started. Returns None
            when it cannot. Called under the lock.
        crowded: called under the lock with True when the outbox becomes crowded, and with
            False when it is no longer; see `keep_pace`.
        clock: returns monotonic seconds.

    Attributes:
        dropped: queued messages that were discarded: the peer did not read them.
        stalled: whether the connection was ended by the write timeout.
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
        "_pace_mark",
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
        start: Callable[[Callable[[], None], Callable[[], bool]], DeferredThread | None],
        crowded: Callable[[bool], None] = lambda crowded: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._crowded = crowded
        self._load = _Load.LIGHT
        # time and acknowledged bytes at the start of the measurement of its pace
        self._pace_mark = (0.0, 0)
        self._transport = transport
        self._start = start
        self._write_timeout = write_timeout
        self._close_timeout = close_timeout
        self._clock = clock
        self._lock = transport.lock
        # guards: everything below, together with the transport's socket. It is the transport's
        # lock: the last in the order. Waited on by the writer thread (for work), by `put` (for
        # room), by `drain` (for an empty outbox).
        self._changed = LazyCondition(self._lock)
        # Open while the state is OPEN and the outbox is empty: then any thread sends its frame.
        self._direct = transport.direct
        self._outbox = outbox
        self._state = _State.OPEN
        self._writer: DeferredThread | None = None  # set when the first backlog begins
        self._deadline = 0.0  # when CLOSING ends
        self._progress = Progress(write_timeout, clock())
        self._taken = 0  # bytes of backlogs that the kernel took
        self._cause: tuple[int, str] | None = None
        self.dropped = 0
        self._drained: Callable[[], None] | None = None  # called once when the outbox is empty
        self.stalled = False  # set once, by the writer thread
        if not outbox.size:
            self._direct.open()

    # --- any thread ------------------------------------------------------------------------

    @property
    def cause(self) -> tuple[int, str] | None:
        """The close code and reason of this side, if it ended the connection, else None."""
        with self._lock:
            return self._cause

    def verdict(self, code: int, reason: str) -> tuple[int, str]:
        """Return the final close code and reason, given those that the reader saw."""
        cause = self.cause
        if cause is None or (cause[0] == CloseCode.ABNORMAL and code != cause[0]):
            # A failed write knows less than the Close frame that the peer had sent before.
            return code, reason
        return cause

    @property
    def waiting(self) -> tuple[int, int]:
        """The number of messages, and of bytes, in the outbox."""
        with self._lock:
            return self._outbox.messages, self._outbox.size

    @property
    def oldest(self) -> float:
        """The seconds that the oldest message in the outbox has waited; 0.0 for none."""
        with self._lock:
            return self._outbox.oldest

    @property
    def is_behind(self) -> bool:
        """Whether something waits in the outbox of a connection that is open."""
        with self._lock:
            return self._state is _State.OPEN and self._outbox.size > 0

    def offer(self, frames: bytes, messages: int, *, beyond: bool = False) -> bool:
        """Send whole frames now or queue them; never wait.

        False, and nothing is kept, when they do not fit. Returns True without sending when the
        connection is closing.
        """
        with self._lock:
            return self._state is not _State.OPEN or self._offer_locked(frames, messages, beyond)

    def deliver(self, frames: bytes, each: Sequence[bytes]) -> int:
        """Send a burst now or queue it; never wait.

        `frames` are `each`, joined. Returns the number of frames that are sent or queued: all of
        them when the connection is closing.
        """
        with self._lock:
            if self._state is not _State.OPEN:
                return len(each)
            if self._outbox.size:
                kept = self._outbox.take(frames, each)
                self._update_load_locked()
                return kept
            sent = self._send_locked(frames)
            if sent == len(frames) or self._state is not _State.OPEN:
                return len(each)
            return self.begin_locked(frames, each, sent)

    def offer_piece(self, frames: bytes, messages: int, drained: Callable[[], None]) -> Room:
        """Send a piece of a replay if the outbox is empty and the kernel has room; never wait.

        The outbox then queues the rest, the same bytes that others are sent. If the outbox is not
        empty, `drained` is called once when it is or when the connection is closing: under the
        lock, so it must not take another lock that is held for long.
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

        False when the connection is closing. Raises SendTimeout.
        """
        deadline = self._clock() + min(timeout, threading.TIMEOUT_MAX / 2)
        with self._lock:
            while self._state is _State.OPEN:
                if self._change_or_cut_locked(self._offer_locked, frame, 1):
                    return True
                left = 0.0 if nested() else deadline - self._clock()
                if left <= 0:
                    raise SendTimeout(
                        f"its outbox was full for {timeout:g} s: {self._outbox.messages} messages, "
                        f"{self._outbox.size} bytes wait. It reads too slowly: send less, pass a "
                        "longer timeout, or close() it"
                    )
                self._changed.wait(left)  # woken by the writer's progress and by the end
            return False

    def wait_for_room(self, timeout: float) -> bool:
        """Wait until the outbox is at most half full, or the connection is closing.

        False after `timeout` seconds.
        """
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

        Reading well is to acknowledge `pace_bytes` a second. A peer that is slower, over a second
        or `at_once`, is not waited for again until its outbox is empty. Returns whether the wait
        was in vain: the peer was too slow, or disconnected.
        """
        deadline = self._clock() + timeout
        with self._lock:
            while self._load is _Load.CROWDED and self._state is _State.OPEN:
                now = self._clock()
                due = self._pace_mark[0] + (0.0 if at_once else _PACE_PERIOD) - now
                if due <= 0:
                    self._judge_pace_locked(pace_bytes)
                elif now >= deadline:
                    break
                else:
                    # Woken by the writer's progress, another thread's measurement, and the end.
                    self._changed.wait(min(due, deadline - now))
            return self._load is _Load.SLOW

    def control(self, frame: bytes) -> None:
        """Send a pong ahead of the queued messages; never wait."""
        with self._lock:
            if self._state is _State.OPEN:
                self._control_locked(frame)

    def ping(self) -> None:
        """Send a ping ahead of the queued messages; never wait."""
        with self._lock:
            if self._state is _State.OPEN:
                # Before the ping: its acknowledgement by the peer's kernel is no sign of life.
                self._update_progress_locked()
                self._control_locked(_PING)

    def finish(self, code: int, reason: str, *, now: bool = False) -> bool:
        """Begin the closing handshake: the queued messages, then a Close frame.

        `now` drops the messages that have not begun: for a client that does not read, or one that
        has closed already. The connection then has `close_timeout` seconds. The first call counts:
        later ones, and those after the end, return False. Raises ValueError, without effect, for a
        code that must not be sent.
        """
        frame = close_frame(code, reason)  # first: it may raise
        with self._lock:
            if self._state is not _State.OPEN:
                return False
            self._cause = (code, reason)
            self._change_or_cut_locked(self._finish_locked, frame, now)
            return True

    def _finish_locked(self, frame: bytes, now: bool) -> bool:
        assert self._lock.locked()
        self._set_state_locked(_State.CLOSING)
        self._deadline = self._clock() + self._close_timeout
        if now:
            self.dropped += self._outbox.clear()
            self._control_locked(frame)
        else:
            self._offer_locked(frame, 0, beyond=True)
        self._changed.notify_all()
        return True

    def answer_close(self, code: int) -> bool:
        """Answer the peer's Close frame; messages that have not begun are dropped.

        Does not set `cause`, and sends nothing where the peer's frame was an answer. Never
        waits: False while something is still to be written, for `drain`.
        """
        with self._lock:
            if self._state is _State.OPEN:
                self._set_state_locked(_State.CLOSING)
                self._deadline = self._clock() + self._close_timeout
                self._outbox.clear()
                self._control_locked(close_frame(code))
                self._changed.notify_all()
            return self._state is _State.ENDED or not self._outbox.size

    def drain(self) -> None:
        """Wait until everything queued is written, or the close timeout is over."""
        with self._lock:
            while self._state is _State.CLOSING and self._outbox.size:
                left = self._deadline - self._clock()
                if left <= 0:
                    return
                self._changed.wait(left)  # woken by the writer's progress and by the end

    def end(self) -> None:
        """End writing; the writer thread returns."""
        with self._lock:
            self._end_locked()

    def expire(self) -> None:
        """Cut the connection if its close timeout is over."""
        with self._lock:
            if self._state is _State.CLOSING and self._clock() >= self._deadline:
                self.dropped += self._outbox.discard()
                self._cut_locked()

    # --- the only thread of a forked child -------------------------------------------------

    def forget(self) -> None:
        """End without writing to the peer: the connection is the parent's."""
        self._transport.forget()
        self._lock = self._transport.lock
        self._changed = LazyCondition(self._lock)
        # without `crowded(False)`: only the parent's publishers wait for it
        self._load = _Load.LIGHT
        with self._lock:
            self._cause = (CloseCode.ABNORMAL, "the connection belongs to the parent process")
            self._end_locked()

    # --- hub thread ------------------------------------------------------------------------

    def greet(self) -> None:
        """Send the answer to the handshake, then the frames queued behind it; never wait."""
        with self._lock:
            while self._outbox.size and self._state is not _State.ENDED:
                if not self._advance_locked():
                    self._wake_writer_locked()
                    return

    # --- reader thread ---------------------------------------------------------------------

    def is_acknowledged(self, timeout: float) -> bool:
        """Return whether the peer's kernel acknowledged bytes within `timeout` seconds.

        Then the peer lives, although it sends nothing: the ping is queued behind a backlog.
        """
        with self._lock:
            self._update_progress_locked()
            return self._progress.is_alive(self._clock(), timeout)

    def pause(self, seconds: float) -> bool:
        """Wait for `seconds`; False as soon as the connection is closing."""
        deadline = self._clock() + seconds
        with self._lock:
            while self._state is _State.OPEN and (left := deadline - self._clock()) > 0:
                # Woken by the end, and by the writer's progress.
                self._changed.wait(min(left, threading.TIMEOUT_MAX))
            return self._state is _State.OPEN

    def join(self, timeout: float) -> None:
        """Wait, after `end`, for the writer's end: it must not use a reused descriptor."""
        writer = self._writer  # does not change after `end`
        if writer is not None:
            writer.join(timeout)

    # --- the thread that starts writers ----------------------------------------------------

    def push(self) -> bool:
        """Do the writer's work without waiting; False when the connection has ended.

        For a connection without a writer thread, because none can be started.
        """
        with self._lock:
            while self._state is not _State.ENDED and self._outbox.size:
                if not self._advance_locked():
                    self._update_progress_locked()
                    if self._progress.time_left(self._clock()) <= 0:
                        self._give_up_locked()
                    break
            return self._state is not _State.ENDED

    # --- writer thread ---------------------------------------------------------------------

    def run(self) -> None:
        """Write the backlog, and later ones, until the connection ends."""
        while self.turn():
            pass

    def turn(self) -> bool:
        """Wait for work and do one step of it; False at the end."""
        with self._lock:
            if not self._await_work_locked():
                return False
            if self._advance_locked() or self._has_ended_locked():
                return True
            self._update_progress_locked()
            time_left = self._progress.time_left(self._clock())
            if time_left <= 0:
                self._give_up_locked()
                return True
        # Outside the lock: the hub thread must be able to queue meanwhile. Not for long: a socket
        # may be far from writable while its peer reads.
        self._transport.wait_writable(min(time_left, self._write_timeout / _CHECKS))
        return True

    def _await_work_locked(self) -> bool:
        """Wait until something is queued; False when the connection has ended."""
        assert self._lock.locked()
        while self._state is not _State.ENDED:
            if self._outbox.size:
                return True
            self._changed.wait()  # woken by work and by the end
        return False

    def _give_up_locked(self) -> None:
        """End the connection by the write timeout: its peer acknowledges nothing."""
        assert self._lock.locked()
        self.stalled = True
        if self._cause is None:
            silence = self._progress.silence(self._clock())
            reason = f"write timeout: nothing acknowledged for {silence:.1f} s"
            self._cause = (CloseCode.ABNORMAL, reason)
        self.dropped += self._outbox.discard()
        self._cut_locked()

    # --- under the lock --------------------------------------------------------------------

    def _change_or_cut_locked(self, change: Callable[..., T], *args: Any) -> T:
        """Make a change that an exception may cut off: KeyboardInterrupt, or want of memory.

        It is then unknown how much of a frame was sent, so the connection ends.
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
            # The writer is at work or waits for room: queueing keeps the order.
            taken = self._outbox.offer(frames, messages, beyond=beyond)
            self._update_load_locked()
            return taken
        sent = self._send_locked(frames)
        if sent < len(frames) and self._state is not _State.ENDED:
            self._change_or_cut_locked(
                self._begin_locked, self._outbox.begin, frames, messages, sent
            )
        return True

    def begin_locked(self, frames: bytes, each: Sequence[bytes], sent: int) -> int:
        """Queue the rest of a burst, of which the kernel took `sent` bytes, for the writer.

        Returns the number of its frames that are sent or queued.
        """
        assert self._lock.locked()
        torn = len(self._direct.torn)
        kept: int = self._change_or_cut_locked(
            self._begin_locked, self._outbox.take, frames, each, sent, torn
        )
        return kept

    def _begin_locked(self, queue: Callable[..., T], *args: Any) -> T:
        """Queue what the kernel did not take, for the writer."""
        assert self._lock.locked()
        self._direct.shut()
        queued = queue(*args)
        self._wake_writer_locked()
        return queued

    def _wake_writer_locked(self) -> None:
        """Wake the writer for a backlog that begins now; the first one starts its thread."""
        assert self._lock.locked()
        self._update_progress_locked()
        self._progress.begin(self._clock())
        self._update_load_locked()
        if self._writer is None:
            self._writer = self._start(self.run, self.push)
            if self._writer is None:
                self._cut_locked()
        self._changed.notify_all()

    def _advance_locked(self) -> bool:
        """Write a piece of the outbox; return whether the kernel took it whole."""
        assert self._lock.locked()
        chunk = self._outbox.head()
        sent = self._send_locked(chunk)
        if sent:
            self._taken += sent
            self._outbox.advance(sent)
            if not self._outbox.size and self._state is _State.OPEN:
                self._direct.open()
                self._notify_drained_locked()
            self._update_load_locked()
            self._changed.notify_all()
        return sent == len(chunk)

    def _update_load_locked(self) -> None:
        """Call `crowded` when the outbox becomes crowded, and when it is no longer."""
        assert self._lock.locked()
        outbox, load = self._outbox, self._load
        if load is _Load.LIGHT:
            if (
                outbox.size * 2 > outbox.max_bytes or outbox.messages * 2 > outbox.max_messages
            ) and self._state is _State.OPEN:
                self._load = _Load.CROWDED
                self._update_progress_locked()
                self._pace_mark = (self._clock(), self._progress.total)
                self._crowded(True)
        elif load is _Load.CROWDED:
            if outbox.size * 4 <= outbox.max_bytes and outbox.messages * 4 <= outbox.max_messages:
                self._load = _Load.LIGHT
                self._crowded(False)
        elif not outbox.size:
            self._load = _Load.LIGHT

    def _judge_pace_locked(self, pace_bytes: int) -> None:
        """Decide whether publishers go on waiting for a crowded peer."""
        assert self._lock.locked()
        self._update_progress_locked()
        since, before = self._pace_mark
        now, total = self._clock(), self._progress.total
        self._pace_mark = (now, total)
        if total - before <= pace_bytes * (now - since):  # `at_once`: 0 <= 0
            self._load = _Load.SLOW
            self._crowded(False)
            self._changed.notify_all()

    def _has_ended_locked(self) -> bool:
        assert self._lock.locked()
        return self._state is _State.ENDED

    def _update_progress_locked(self) -> None:
        """Update the progress by the bytes that the peer's kernel has acknowledged."""
        assert self._lock.locked()
        measured = self._transport.measure_locked(self._taken)
        if measured is not None:
            acknowledged, outstanding = measured
            outstanding += self._outbox.size
            self._progress.update(self._clock(), acknowledged, outstanding)

    def _control_locked(self, frame: bytes) -> None:
        assert self._lock.locked()
        if not self._outbox.size:
            self._offer_locked(frame, 0)
        else:
            self._outbox.control(frame)

    def _send_locked(self, data: bytes) -> int:
        """Send without waiting; an error ends the connection, and the reader reports it."""
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
        """End writing, and shut the socket down, which wakes the reader to release everything."""
        assert self._lock.locked()
        self._end_locked()
        self._transport.shutdown_locked()

    def _set_state_locked(self, state: _State) -> None:
        assert self._lock.locked()
        self._state = state
        self._direct.shut()
        if self._load is _Load.CROWDED:
            self._load = _Load.SLOW
            self._crowded(False)
        self._notify_drained_locked()

    def _notify_drained_locked(self) -> None:
        assert self._lock.locked()
        drained, self._drained = self._drained, None
        if drained is not None:
            drained()

    def _end_locked(self) -> None:
        assert self._lock.locked()
        self._set_state_locked(_State.ENDED)
        self._changed.notify_all()
