"""The standard input of a program: what is written to it, and its end.

Writing never waits for ever: a program that reads nothing fills its pipe, and a program that
has ended reads nothing any more. So our end does not block, and a writer waits for room, for
the program's end and for its own time at once.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterator

from ..errors import WsHubError
from ..reentrant import Lock

__all__ = ["Input", "InputClosed", "InputTimeout"]

_AT_ONCE = 65536  # bytes of one write
_LOOK = 0.25  # seconds of one wait: then the main thread runs signal handlers
_EOF = b"\x04"  # what ends a terminal's input where its settings do not say


class InputClosed(WsHubError, BrokenPipeError):
    """A program takes no more input: it has closed it, it has ended, or it was given none."""


class InputTimeout(WsHubError, TimeoutError):
    """A program has not read its input in time.

    Attributes:
        written: bytes that its pipe, or its terminal, has taken; the rest is not written.
    """

    def __init__(self, text: str, written: int = 0) -> None:
        super().__init__(text)
        self.written = written


class Input:
    """Our end of a program's standard input; it owns its descriptors.

    Args:
        fd: the writing end of a pipe, or the master of a terminal.
        terminal: whether it is a terminal, whose input ends by a character.
        exit_fd: a pidfd of the program, which is copied; None on a system without.

    Attributes:
        whose: the program, for the texts of exceptions.

    Threads: any; one writes at a time.
    """

    def __init__(self, fd: int, *, terminal: bool, exit_fd: int | None) -> None:
        self._fd = fd
        self._exit_fd: int | None = None
        if exit_fd is not None:
            with contextlib.suppress(OSError):  # no free descriptor: it looks more often
                self._exit_fd = os.dup(exit_fd)
        self._terminal = terminal
        self.whose = "the program"
        # guards: the descriptors, _closed, _at_start. Held while a writer waits for room, and
        # nothing is taken under it.
        self._turn = Lock()
        self._closed = False  # no more may be written
        self._at_start = True  # of a line
        self._ended = False  # the program has; written once, without the lock
        os.set_blocking(fd, False)

    def write(self, data: bytes, timeout: float) -> None:
        """Write all of `data`; see `Process.write`."""
        deadline = time.monotonic() + timeout
        with self._in_turn(deadline, timeout):
            if self._closed:
                raise InputClosed(f"the input of {self.whose} is closed: write before that")
            self._write(data, deadline, timeout)

    def close(self, timeout: float) -> None:
        """End the input, behind what others are writing; see `Process.close_stdin`."""
        deadline = time.monotonic() + timeout
        with self._in_turn(deadline, timeout):
            if self._closed:
                return
            if not self._terminal:
                self._closed = True
                self._close_fds()
                return
            # Behind the beginning of a line, the first only has that read.
            end = self._end_character() * (1 if self._at_start else 2)
            with contextlib.suppress(InputClosed):
                self._write(end, deadline, timeout)
            self._closed = True

    def end(self) -> None:
        """Close the descriptors: the program has ended. Idempotent; does not wait."""
        self._ended = True
        if self._turn.acquire(blocking=False):  # else its holder does it
            try:
                self._closed = True
                self._close_fds()
            finally:
                self._turn.release()

    def forget(self) -> None:
        """Close the descriptors in a forked child, or the program's input would not end.

        Threads: the only one of the child, right after the fork.
        """
        # guards: as before.
        self._turn = Lock()
        self.end()

    @contextlib.contextmanager
    def _in_turn(self, deadline: float, timeout: float) -> Iterator[None]:
        # Not by `with`: the wait for another writer has a bound.
        if not self._turn.acquire(timeout=max(deadline - time.monotonic(), 0.0)):
            raise InputTimeout(
                f"another thread has been writing to {self.whose} for {timeout:g} s: give it "
                "a smaller timeout, or this one a longer"
            )
        try:
            yield
        finally:
            self._turn.release()
            if self._ended:
                self.end()

    def _write(self, data: bytes, deadline: float, timeout: float) -> None:
        assert self._turn.locked()
        written = 0
        while written < len(data):
            if self._ended:
                raise InputClosed(f"{self.whose} has ended: there is nothing that reads")
            try:
                with _without_sigpipe():
                    written += os.write(self._fd, data[written : written + _AT_ONCE])
            except BlockingIOError:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise InputTimeout(
                        f"{self.whose} has not read its input within {timeout:g} s, and "
                        f"{written:,} of {len(data):,} bytes are written: wait longer, or "
                        "terminate() it",
                        written,
                    ) from None
                self._wait(left)
            except OSError:  # EPIPE; EIO of a terminal
                raise InputClosed(f"{self.whose} has closed its input: nothing reads it") from None
            else:
                self._at_start = data[written - 1 : written] == b"\n"

    def _wait(self, seconds: float) -> None:
        """Wait until there is room, the program has ended, or for a moment."""
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        if self._exit_fd is not None:
            poll.register(self._exit_fd, select.POLLIN)
        ready = poll.poll(min(seconds, _LOOK) * 1000)
        if any(fd == self._exit_fd for fd, _ in ready):
            raise InputClosed(f"{self.whose} has ended: there is nothing that reads")

    def _end_character(self) -> bytes:
        import termios

        try:
            settings = termios.tcgetattr(self._fd)
        except termios.error:
            return _EOF
        character: bytes = settings[6][termios.VEOF]
        return character

    def _close_fds(self) -> None:
        fd, self._fd = self._fd, -1
        exit_fd, self._exit_fd = self._exit_fd, None
        for each in (fd, exit_fd):
            if each is not None and each >= 0:
                os.close(each)


@contextlib.contextmanager
def _without_sigpipe() -> Iterator[None]:
    """Have a write to a closed pipe fail, also where SIGPIPE would kill us.

    Python ignores it, and programs that end quietly in `| head` have it kill them.
    """
    if signal.getsignal(signal.SIGPIPE) is not signal.SIG_DFL:
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})
    try:
        yield
    finally:
        if signal.SIGPIPE not in before and signal.SIGPIPE in signal.sigpending():
            signal.sigwait({signal.SIGPIPE})
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
