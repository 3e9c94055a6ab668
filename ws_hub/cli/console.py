"""Our terminal while a program of `ws-hub run` has it: what is typed, and its size.

A program with a terminal of its own gets each key as it is typed: ours is in raw mode then,
and the program's shows what is typed and makes the signals. Our terminal gets its settings
back when the program has ended, when we are stopped (SIGTSTP), and when we are killed: a
shell that waits at a pipe of ours sees our end (`_Restorer`).

A thread passes on what is typed. It reads, and changes settings, only while we are in the
foreground: `ws-hub run -- make &` leaves the terminal to the shell.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from .. import threads
from ..process.launch import Launched, launch, pipe
from ..process.process import Process
from ..process.stdin import InputClosed, InputTimeout
from ..reentrant import Lock

__all__ = ["Console", "terminal_size"]

_TERMINAL = 0  # the descriptor of what is typed
_WRITE_WITHIN = 0.25  # seconds of one write: meanwhile nothing is read
_LOOK = 0.25  # seconds between two looks at whether we are in the foreground
_MOST = 65536  # bytes that wait for the program
_READY_WITHIN = 5.0  # seconds in which the restorer has read the settings
_JOIN = 5.0
_BREAK = b"\x03"  # Ctrl-C
_BREAKS, _BREAK_WITHIN = 3, 1.0  # so many, within so many seconds, are for us


def terminal_size() -> tuple[int, int] | None:
    """Return columns and rows of our terminal; None without one."""
    for file in (sys.__stdout__, sys.__stdin__, sys.__stderr__):
        with contextlib.suppress(AttributeError, OSError, ValueError):
            size = os.get_terminal_size(file.fileno())  # type: ignore[union-attr]
            if size.columns > 0 and size.lines > 0:
                return size.columns, size.lines
    return None


class Console:
    """Passes on what is typed, and the size of our terminal, until `with` is left.

    Args:
        process: the program.
        typed: whether it gets what is typed; started with `stdin=True`.
        sized: whether it has a terminal.
        give_up: called when Ctrl-C was typed three times within a second: a program that has
            the keys may ignore it.

    Threads: the main thread.
    """

    def __init__(
        self, process: Process, *, typed: bool, sized: bool, give_up: Callable[[], object]
    ) -> None:
        self._process = process
        self._typed = typed
        self._sized = sized
        self._give_up = give_up
        self._settings = _Settings() if typed and sized else None
        self._breaks: list[float] = []  # when Ctrl-C was typed, with no other key since
        self._size = terminal_size()
        self._before: dict[int, Any] = {}
        self._over = False  # written by the main thread alone
        self._thread: threading.Thread | None = None
        self._woken, self._wake_fd = pipe()

    def __enter__(self) -> Console:
        os.set_blocking(self._wake_fd, False)
        if threading.current_thread() is threading.main_thread():
            self._handle(signal.SIGWINCH, lambda number, frame: self._wake())
            if self._settings is not None:
                self._handle(signal.SIGTSTP, self._stop)
                self._handle(signal.SIGCONT, self._go_on)
        self._thread = threads.start("ws-hub:console", self._run)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._over = True
        self._wake()
        if self._settings is not None:
            self._settings.close()
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if threads.join(self._thread, _JOIN):
            os.close(self._woken)
            os.close(self._wake_fd)

    # --- main thread, in signal handlers ----------------------------------------------------

    def _handle(self, number: int, handler: Callable[[int, FrameType | None], object]) -> None:
        self._before[number] = signal.signal(number, handler)

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_fd, b"x")

    def _stop(self, number: int, frame: FrameType | None) -> None:
        """Give the terminal back, and stop; whoever continues us finds it as it was."""
        assert self._settings is not None
        self._settings.suspend()
        # The default action, which leaves us going where no shell could continue us.
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        signal.signal(number, self._stop)
        self._settings.resume()
        self._wake()

    def _go_on(self, number: int, frame: FrameType | None) -> None:
        assert self._settings is not None
        self._settings.resume()  # the shell has set its own meanwhile, also after SIGSTOP
        self._wake()

    # --- thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        pending = b""
        while not self._over:
            pending = self._turn(pending)

    def _turn(self, pending: bytes) -> bytes:
        """Wait for a key or to be woken; return what was typed and is not taken yet."""
        reads = self._typed and len(pending) < _MOST and self._has_terminal()
        wait: float | None = _LOOK if self._typed else None
        if reads and pending:
            wait = 0.0
        ready = select.select([self._woken, _TERMINAL] if reads else [self._woken], [], [], wait)[0]
        if self._woken in ready:
            os.read(self._woken, 4096)
            self._follow_size()
            return pending
        if _TERMINAL in ready and self._has_terminal():
            pending += self._read()
        return self._write(pending) if pending else pending

    def _has_terminal(self) -> bool:
        """Return whether we may read what is typed; the terminal is in raw mode then."""
        if not _in_foreground():
            return False
        return self._settings is None or self._settings.make_raw()

    def _read(self) -> bytes:
        try:
            data = os.read(_TERMINAL, 4096)
        except OSError:  # EIO: it was hung up, or we are in the background by now
            data = b""
            if not _in_foreground():
                return data
        if not data:
            self._typed = False
            with contextlib.suppress(InputTimeout):
                self._process.close_stdin(_WRITE_WITHIN)
        elif self._settings is not None:
            self._look_for_breaks(data)
        return data

    def _look_for_breaks(self, data: bytes) -> None:
        if data.strip(_BREAK):
            self._breaks = []
            return
        now = time.monotonic()
        self._breaks = [*self._breaks, *[now] * len(data)][-_BREAKS:]
        if len(self._breaks) == _BREAKS and now - self._breaks[0] <= _BREAK_WITHIN:
            self._breaks = []
            self._give_up()

    def _write(self, data: bytes) -> bytes:
        """Write what the program takes; return the rest."""
        try:
            self._process.write(data, _WRITE_WITHIN)
        except InputTimeout as error:
            return data[error.written :]
        except InputClosed:
            if self._settings is None:
                self._typed = False  # what is typed now is for the shell
        return b""

    def _follow_size(self) -> None:
        size = terminal_size()
        if self._sized and size is not None and size != self._size:
            self._size = size
            self._process.resize(*size)


class _Settings:
    """The settings of our terminal: ours, and those for a program that has the keys.

    Threads: any.
    """

    def __init__(self) -> None:
        # guards: everything below. Nothing is taken under it.
        self._lock = Lock()
        self._before: list[Any] | None = None  # as they were, once they were changed
        self._raw: list[Any] = []  # as the system returns those of raw mode
        self._is_raw = False
        self._leaves = False  # none are to be changed: we stop, or it is over
        self._restorer: _Restorer | None = None

    def make_raw(self) -> bool:
        """Have each key read as it is typed; return whether that is so."""
        import termios
        import tty

        with self._lock:
            if self._leaves or self._is_raw:
                return self._is_raw and not self._leaves
            if self._restorer is None:
                self._restorer = _Restorer()
            try:
                now = termios.tcgetattr(_TERMINAL)
                if now != self._raw:
                    self._before = now
                tty.setraw(_TERMINAL, termios.TCSANOW)
                self._raw = termios.tcgetattr(_TERMINAL)
            except termios.error:  # it is hung up
                return False
            self._is_raw = True
            return True

    def suspend(self) -> None:
        """Restore the settings, until `resume`."""
        with self._lock:
            self._leaves = True
            self._restore_locked()

    def resume(self) -> None:
        """Have the next `make_raw` set them again."""
        with self._lock:
            self._leaves = self._is_raw = False

    def close(self) -> None:
        """Restore the settings for good."""
        with self._lock:
            self._leaves = True
            self._restore_locked()
            if self._restorer is not None:
                self._restorer.close()

    def _restore_locked(self) -> None:
        assert self._lock.locked()
        import termios

        if self._before is not None and self._is_raw and _in_foreground():
            with contextlib.suppress(termios.error):
                termios.tcsetattr(_TERMINAL, termios.TCSANOW, self._before)
        self._is_raw = False


class _Restorer:
    """A shell that restores the settings of our terminal when we are killed.

    Without /bin/sh or stty it does nothing.
    """

    _SCRIPT = 'before=$(stty -g) || exit; echo >&2; read -r end <&1 || stty "$before"'

    def __init__(self) -> None:
        self._shell: Launched | None = None
        reading, self._ours = pipe()
        ready, telling = pipe()
        try:
            argv = ["ws-hub-terminal", "-c", self._SCRIPT]
            path = {"PATH": os.environ.get("PATH", os.defpath)}
            # Its terminal is a copy of ours: opened by name, it could become its own.
            self._shell = launch("/bin/sh", argv, path, [_TERMINAL, reading, telling], "/")
        except OSError:
            return
        finally:
            os.close(reading)
            os.close(telling)
            if self._shell is not None:
                select.select([ready], [], [], _READY_WITHIN)  # it has read the settings
            os.close(ready)

    def close(self) -> None:
        """End it, with the settings as they are. Idempotent."""
        if self._ours < 0:
            return
        ours, self._ours = self._ours, -1
        if self._shell is not None:
            with contextlib.suppress(BrokenPipeError):
                os.write(ours, b"end\n")
            self._shell.kill()
            self._shell.reap()
            self._shell.close()
        os.close(ours)


def _in_foreground() -> bool:
    try:
        return os.tcgetpgrp(_TERMINAL) == os.getpgrp()
    except OSError:  # not the terminal of our session: nobody controls who may read
        return True
