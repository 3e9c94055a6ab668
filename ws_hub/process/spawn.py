"""One child process: pipes or a terminal, signals, and the end of its session.

The child leads a session and a process group, so that the processes that it has started
can be found. It inherits no descriptor but the three that it is given. Its input is at its
end, unless it is given one.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import struct
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .. import threads
from ..errors import ConfigError, WsHubError, excerpt
from ..mask.masks import Masks
from ..reentrant import Lock
from ..validation import is_terminal_length
from .guard import Guard
from .launch import Launched, launch, pipe
from .session import Session
from .stdin import Input
from .usage import PeakMemory, Usage

__all__ = [
    "Child",
    "ProcessStartError",
    "Stdin",
    "Terminal",
    "check_argv",
    "check_cwd",
    "check_env",
    "check_size",
    "check_stdin",
    "check_terminal",
    "signal_name",
]

_DEFAULT_ROWS, _DEFAULT_COLUMNS = 24, 80
_KILLED_WITHIN = 1.0  # seconds after SIGKILL until a process counts as unkillable


Terminal = bool | tuple[int, int]  # whether there is one; or its columns and rows
Stdin = bool | int  # whether it is written to; or our descriptor that becomes its input


class ProcessStartError(WsHubError, OSError):
    """A program cannot be started; `__cause__` is the system's error."""

    def without(self, masks: Masks) -> ProcessStartError:
        """Return the same without secrets."""
        text, cause = masks.text(str(self)), self.__cause__
        if isinstance(cause, OSError):
            cause = type(cause)(cause.errno, cause.strerror, masks.value(cause.filename))
        elif cause is not None:
            cause = type(cause)(masks.text(str(cause)))
        error = ProcessStartError(text)
        error.__cause__ = cause
        return error


def check_argv(argv: Sequence[str]) -> list[str]:
    """Return argv as a list; raises ConfigError unless it is a sequence of strings."""
    if isinstance(argv, (str, bytes)):
        raise ConfigError(
            f"argv must be a sequence of strings, not {excerpt(argv)}: there is no shell "
            "that would split it; shlex.split does"
        )
    if not isinstance(argv, Iterable):
        raise ConfigError(
            f'argv must be a sequence of strings, such as ["make", "all"], not {excerpt(argv)}'
        )
    command = list(argv)
    if not command or not all(isinstance(part, str) for part in command):
        raise ConfigError(f"argv must be a list of one string or more, not {excerpt(command)}")
    return command


def check_env(env: object) -> dict[str, str] | None:
    """Return a copy of the environment; raises ConfigError unless it holds strings."""
    if env is None:
        return None
    if not isinstance(env, Mapping):
        raise ConfigError(f"env must be a mapping of strings to strings, not {excerpt(env)}")
    copied = dict(env)
    for name, value in copied.items():
        if not all(isinstance(part, str) for part in (name, value)):
            pair = f"{excerpt(name)}: {excerpt(value)}"
            raise ConfigError(f"env must be a mapping of strings to strings, not {{{pair}}}")
    return copied


def check_cwd(cwd: object) -> None:
    """Raise ConfigError for what is no path."""
    if cwd is not None and not isinstance(cwd, (str, os.PathLike)):
        raise ConfigError(f"cwd must be the path of a directory or None, not {excerpt(cwd)}")


def check_size(columns: object, rows: object) -> None:
    """Raise ConfigError for what is no size of a terminal."""
    for name, value in (("columns", columns), ("rows", rows)):
        if not is_terminal_length(value):
            raise ConfigError(
                f"{name} must be a whole number from 1 to 65535, not {excerpt(value)}"
            )


def check_terminal(pty: object) -> Terminal:
    """Return whether a program gets a terminal, or the size of that; raises ConfigError."""
    if isinstance(pty, bool):
        return pty
    if not isinstance(pty, tuple) or len(pty) != 2:
        raise ConfigError(f"pty must be True, False or (columns, rows), not {excerpt(pty)}")
    check_size(*pty)
    return pty[0], pty[1]


def check_stdin(stdin: object) -> Stdin:
    """Return whether a program gets input, or the descriptor of a file that it gets as such.

    Raises ConfigError for what is neither.
    """
    if isinstance(stdin, bool):
        return stdin
    try:
        fd = stdin.fileno()  # type: ignore[attr-defined]
    except (AttributeError, OSError, ValueError):  # io.UnsupportedOperation is both
        fd = None
    if not isinstance(fd, int):
        raise ConfigError(f"stdin must be True, False or an open file, not {excerpt(stdin)}")
    return fd


def signal_name(number: int) -> str:
    """Return a signal's name, as "SIGKILL" for 9; "SIG35" for one without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"


class Child:
    """A running program. Its owner reads its streams, reaps it and closes it.

    After a fork, in the forked child, signalling and reaping do nothing.

    Args:
        argv: the program and its arguments.
        terminal: run it in a pseudo-terminal, of that size or of COLUMNS x LINES; its only
            stream is then "stdout".
        cwd: its working directory; None for ours.
        env: its environment; None for ours.
        stdin: True for an `input` that is written to; a descriptor that becomes its input.

    Raises ProcessStartError when it cannot be started.

    Attributes:
        pid: its process id, and that of its session and process group.
        streams: name -> descriptor to read from, until `close_stream`.
        size: columns and rows of its terminal; None where it has none.
        input: our end of its input, for stdin=True; else None.
        peak: the memory that it has had so far.
        usage: what it has used; None until it is reaped, and where that cannot be known.
    """

    usage: Usage | None = None
    input: Input | None = None
    peak: PeakMemory | None = None

    def __init__(
        self,
        argv: Sequence[str],
        *,
        terminal: Terminal = False,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        stdin: Stdin = False,
    ) -> None:
        self._renew_lock()
        self._over = False  # reaped; or a forked child, to which it does not belong
        self._guard = _guard(argv[0])
        start = _start_in_terminal if terminal else _start_with_pipes
        here = None if cwd is None else os.fspath(cwd)
        environment = os.environ if env is None else env
        try:
            self.size = _terminal_size(environment, terminal) if terminal else None
            files = _Files(stdin, argv, here, environment, self._guard, self.size)
            self._program, self.streams, writing = start(files)
        except BaseException as error:
            self._guard.close()
            if not isinstance(error, (OSError, ValueError)):
                raise
            raise ProcessStartError(f"cannot start {excerpt(argv[0])}: {error}") from error
        self.pid = self._program.pid
        if writing is not None:
            self.input = Input(
                writing,
                terminal=bool(terminal),
                exit_fd=self.exit_fd,
            )
        self._guard.watch(self.pid)
        self.peak = PeakMemory(self.pid)
        self._session = Session(self.pid)
        threads.forget_after_fork(self)

    def _renew_lock(self) -> None:
        # guards: reaping, and the closing of streams. A signal is sent only while the process
        # id cannot be reused, a size set only while the descriptor cannot.
        # Taken before the session's lock; held for system calls that do not wait.
        self._lock = Lock()

    def forget(self) -> None:
        """Leave the program to the parent, in a forked child.

        Threads: the only one of the child, right after the fork.
        """
        self._renew_lock()
        self._over = True
        self._guard.forget()
        if self.input is not None:
            self.input.forget()
        self.close()

    @property
    def exit_fd(self) -> int | None:
        """A descriptor that becomes readable when the child exits.

        None on a system without pidfds: there `exited` must be polled.
        """
        return self._program.exit_fd

    def signal(self, number: int) -> None:
        """Send a signal to the child and its process group; does nothing once it is reaped.

        Threads: any; does not wait.
        """
        with self._lock:
            self._signal_group(number)

    def signal_all(self, number: int) -> None:
        """Send a signal to every process of its session, whatever the process group.

        Threads: any; does not wait.
        """
        with self._lock:
            # With no free descriptor /proc cannot be read; killpg needs no descriptor.
            if not self._over and self.pid not in self._session.signal(number):
                self._signal_group(number)

    def _signal_group(self, number: int) -> None:
        assert self._lock.locked()
        if self._over or self._program.taken():
            return
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):
            # macOS answers EPERM for a group of which only a zombie is left.
            pass

    def end_session(self, until: float) -> bool:
        """Wait for the end of its session, then kill what is left; return False if that fails.

        `until` is when SIGKILL is due, by the monotonic clock.

        Threads: the one that reaps; blocks until then and a second longer at most.
        """
        # Without the lock, so that other threads can send signals meanwhile.
        if self._over or self._session.wait(until):
            return True
        return self._session.kill(max(until, time.monotonic()) + _KILLED_WITHIN)

    def exited(self) -> bool:
        """Return whether the child itself has exited; its session may have other processes."""
        with self._lock:
            return self._over or self._program.exited()

    def reap(self) -> int | None:
        """Return the exit code of a child that has exited, or minus its signal.

        None when it cannot be known. Processes that it has left running are no longer
        guarded.
        """
        if self._over:
            return None
        self._guard.close()
        with self._lock:
            self._over = True
            code = self._program.reap()
        if self._program.resources is not None and self.peak is not None:
            self.usage = self.peak.usage(self._program.resources)
        return code

    def look(self, now: float) -> None:
        """Look at what it has used so far, by the monotonic clock now and then."""
        if self.peak is not None:
            self.peak.look(now)

    def close_stream(self, name: str) -> None:
        """Stop reading a stream."""
        with self._lock:  # `resize` uses the descriptor
            os.close(self.streams.pop(name))

    def resize(self, columns: int, rows: int) -> bool:
        """Set the size of its terminal; return whether it has one that is open.

        Threads: any; does not wait.
        """
        with self._lock:
            fd = self.streams.get("stdout")
            if self.size is None or fd is None:
                return False
            _set_size(fd, columns, rows)  # the system sends SIGWINCH
            self.size = (columns, rows)
            return True

    def shows_input(self) -> bool:
        """Return whether its terminal shows what is typed; True without one."""
        import termios

        with self._lock:
            fd = self.streams.get("stdout")
            if self.size is None or fd is None:
                return self.size is None
            try:
                return bool(termios.tcgetattr(fd)[3] & termios.ECHO)
            except termios.error:
                return False

    def close(self) -> None:
        """Close every descriptor."""
        if self.input is not None:
            self.input.end()
        for name in list(self.streams):
            self.close_stream(name)
        self._program.close()


def _guard(program: str) -> Guard:
    try:
        return Guard()
    except OSError as error:
        raise ProcessStartError(f"cannot guard {excerpt(program)}: {error}") from error


@dataclass(frozen=True, slots=True)
class _Files:
    """What a program is started with."""

    stdin: Stdin
    argv: Sequence[str]
    cwd: str | None
    env: Mapping[str, str]
    guard: Guard
    size: tuple[int, int] | None

    def launch(self, files: Sequence[int | str], env: Mapping[str, str]) -> Launched:
        """Start the program with these files as its descriptors 0, 1 and 2."""
        return launch(_find(self.argv[0], self.cwd, env), self.argv, env, files, self.cwd)


# The program, the descriptors to read from by their names, and the one to write to.
_Started = tuple[Launched, dict[str, int], int | None]


def _start_with_pipes(given: _Files) -> _Started:
    ours: dict[str, int] = {}
    theirs: list[int] = []
    try:
        for name in ("stdout", "stderr"):
            ours[name], end = pipe()
            theirs.append(end)
        source: int | str = os.devnull
        if given.stdin is True:
            source, ours["stdin"] = pipe()
            theirs.append(source)
        elif given.stdin is not False:
            source = _copy(given.stdin)
            theirs.append(source)
        given.guard.expect(theirs[0])
        program = given.launch([source, *theirs[:2]], given.env)
        return program, ours, ours.pop("stdin", None)
    except BaseException:
        _close_all(ours.values())
        raise
    finally:
        _close_all(theirs)


def _start_in_terminal(given: _Files) -> _Started:
    if not hasattr(os, "openpty"):
        raise OSError("this platform has no pseudo-terminals: leave pty out")
    environment = dict(given.env)
    environment.setdefault("TERM", "xterm-256color")
    master, slave = os.openpty()
    ours, theirs = [master], [slave]  # open otherwise, it would not end with the program
    try:
        assert given.size is not None
        _set_up(slave, given.size, has_input=given.stdin is True)
        # Opened by its name in the child, it becomes the controlling terminal there.
        files: list[int | str] = [os.ttyname(slave), 0, 0]
        if not isinstance(given.stdin, bool):
            theirs.append(_copy(given.stdin))
            files = [theirs[-1], os.ttyname(slave), 1]
        elif given.stdin:
            ours.append(_copy(master))
        given.guard.expect(None)
        program = given.launch(files, environment)
        return program, {"stdout": master}, ours[1] if len(ours) > 1 else None
    except BaseException:
        _close_all(ours)
        raise
    finally:
        _close_all(theirs)


def _copy(fd: int) -> int:
    """Return another number for an open file, which is none of 0, 1 and 2."""
    import fcntl

    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)


def _close_all(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)


def _find(program: str, cwd: str | None, environment: Mapping[str, str]) -> str:
    """Return the path of a program as `execvp` would find it from `cwd`."""
    if cwd is not None and not os.path.isdir(cwd):
        # Raised here: from posix_spawn it would look as if the program were missing.
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), cwd)
    if os.path.dirname(program):
        path = os.path.join(cwd or os.curdir, program)
        if os.path.isdir(path) or (os.path.exists(path) and not os.access(path, os.X_OK)):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), program)
        return program
    found = shutil.which(program, path=environment.get("PATH", os.defpath))
    if found is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), program)
    return os.path.abspath(found) if cwd is not None else found


def _set_size(terminal: int, columns: int, rows: int) -> None:
    import fcntl
    import termios

    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def _set_up(terminal: int, size: tuple[int, int], *, has_input: bool) -> None:
    """Give a terminal its size; without input, make every read of it return its end.

    In canonical mode a program would wait for a line that is never typed; an EOF character
    written in advance would be flushed by a program that asks for a password. With VMIN 0
    and VTIME 0 each read returns nothing, at once. Programs that turn the echo off leave
    these as they are; one that puts the terminal into raw mode waits.
    """
    import termios

    _set_size(terminal, *size)
    if has_input:
        return
    settings = termios.tcgetattr(terminal)
    settings[3] &= ~termios.ICANON
    settings[6][termios.VMIN] = settings[6][termios.VTIME] = 0
    termios.tcsetattr(terminal, termios.TCSANOW, settings)


def _terminal_size(environment: Mapping[str, str], asked: Terminal) -> tuple[int, int]:
    """Return the columns and rows of a program's terminal."""
    if not isinstance(asked, bool):
        return asked
    rows = _whole(environment.get("LINES"), _DEFAULT_ROWS)
    return _whole(environment.get("COLUMNS"), _DEFAULT_COLUMNS), rows


def _whole(text: str | None, default: int) -> int:
    return int(text) if text and text.isdecimal() and 0 < int(text) < 65536 else default
