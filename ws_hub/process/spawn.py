"""One child process: pipes or a terminal, signals, its end and that of all its session.

Must not know lines, the hub, or threads other than by its lock. The child is the leader of
its session and process group, so that what it has started can be found; it inherits no
descriptor but the three that it is given, and its input is at its end.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import struct
import time
from collections.abc import Iterable, Mapping, Sequence

from .. import threads
from ..errors import ConfigError, WsHubError, excerpt
from ..reentrant import Lock
from .guard import Guard
from .launch import Launched, launch, pipe
from .session import Session

__all__ = ["Child", "ProcessStartError", "check_argv", "check_env", "signal_name"]

_DEFAULT_ROWS, _DEFAULT_COLUMNS = 24, 80
_KILLED_WITHIN = 1.0  # seconds that what got SIGKILL has to be gone


class ProcessStartError(WsHubError, OSError):
    """A command could not be started; `__cause__` is the system's error."""


def check_argv(argv: Sequence[str]) -> list[str]:
    """Return the command as a list; raises ConfigError when it is no sequence of strings."""
    if isinstance(argv, (str, bytes)):
        raise ConfigError(
            f"argv must be a sequence of strings, not {excerpt(argv)}: there is no shell "
            "that would split it; shlex.split does"
        )
    command = list(argv)
    if not command or not all(isinstance(part, str) for part in command):
        raise ConfigError(f"argv must be one string or more, not {excerpt(command)}")
    return command


def check_env(env: object) -> dict[str, str] | None:
    """Return a copy of the environment; raises ConfigError when it is not of strings."""
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


def signal_name(number: int) -> str:
    """Return "SIGKILL" for 9; "SIG35" where a signal has no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"


class Child:
    """A command that runs. Whoever starts one reads its streams, reaps it and closes it.

    In a forked child of ours it is nobody's to signal or to reap: there, all of that does
    nothing.

    Args:
        argv: the command and its arguments.
        terminal: run it in a pseudo-terminal, its one stream then being "stdout".
        cwd: where it runs; None for here.
        env: its environment; None for ours.

    Raises ProcessStartError when it cannot be started.

    Attributes:
        pid: its process id, and that of its group.
        streams: name -> descriptor to read from, until `close_stream`.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        terminal: bool = False,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._renew_lock()
        self._over = False  # reaped, or another process's
        self._guard = _guard(argv[0])
        start = _start_in_terminal if terminal else _start_with_pipes
        try:
            self._program, self.streams = start(argv, cwd, env, self._guard)
        except BaseException as error:
            self._guard.close()
            if not isinstance(error, (OSError, ValueError)):
                raise
            raise ProcessStartError(f"cannot start {excerpt(argv[0])}: {error}") from error
        self.pid = self._program.pid
        self._guard.watch(self.pid)
        self._session = Session(self.pid)
        threads.forget_after_fork(self)

    def _renew_lock(self) -> None:
        # guards: reaping. A signal goes out only while the pid cannot be another's.
        # Taken before the session's; held for system calls that do not wait.
        self._lock = Lock()

    def forget(self) -> None:
        """Leave the program to the process that has started it.

        Threads: the only one there is, right after a fork.
        """
        self._renew_lock()
        self._over = True
        self._guard.forget()
        self.close()

    @property
    def exit_fd(self) -> int | None:
        """A descriptor that becomes readable at its exit.

        None where the system has none: then `exited` must be asked now and then.
        """
        return self._program.exit_fd

    def signal(self, number: int) -> None:
        """Send a signal to the child and its group; nothing happens once it is reaped.

        Threads: any; does not wait.
        """
        with self._lock:
            self._signal_group(number)

    def signal_all(self, number: int) -> None:
        """Send a signal to all that it has started as well, whatever the group.

        Threads: any; does not wait.
        """
        with self._lock:
            # Without a descriptor, none can be found in /proc: the group needs none.
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
        """Wait for the end of all that it has started, then kill it.

        `until` is when SIGKILL is due, by the monotonic clock. False when something lives
        all the same.

        Threads: the one that reaps; blocks until then and a little longer.
        """
        # Without the lock: others may send their signals meanwhile.
        if self._over or self._session.wait(until):
            return True
        return self._session.kill(max(until, time.monotonic()) + _KILLED_WITHIN)

    def exited(self) -> bool:
        """Say whether the child itself is over; it may have left others in its session."""
        with self._lock:
            return self._over or self._program.exited()

    def reap(self) -> int | None:
        """Return the exit code of a child that is over, or minus its signal.

        None when it cannot be known. What it has left running runs on, unguarded.
        """
        if self._over:
            return None
        self._guard.close()
        with self._lock:
            self._over = True
            return self._program.reap()

    def close_stream(self, name: str) -> None:
        """Stop reading a stream."""
        os.close(self.streams.pop(name))

    def close(self) -> None:
        """Close every descriptor."""
        for name in list(self.streams):
            self.close_stream(name)
        self._program.close()


def _guard(program: str) -> Guard:
    try:
        return Guard()
    except OSError as error:
        raise ProcessStartError(f"cannot guard {excerpt(program)}: {error}") from error


def _start_with_pipes(
    argv: Sequence[str],
    cwd: str | os.PathLike[str] | None,
    env: Mapping[str, str] | None,
    guard: Guard,
) -> tuple[Launched, dict[str, int]]:
    streams: dict[str, int] = {}
    theirs: list[int] = []
    try:
        for name in ("stdout", "stderr"):
            streams[name], end = pipe()
            theirs.append(end)
        guard.expect(theirs[0])
        return _launch(argv, [os.devnull, *theirs], cwd, env), streams
    except BaseException:
        _close_all(streams.values())
        raise
    finally:
        _close_all(theirs)


def _start_in_terminal(
    argv: Sequence[str],
    cwd: str | os.PathLike[str] | None,
    env: Mapping[str, str] | None,
    guard: Guard,
) -> tuple[Launched, dict[str, int]]:
    if not hasattr(os, "openpty"):
        raise OSError("this platform has no pseudo-terminals")
    environment = dict(os.environ if env is None else env)
    environment.setdefault("TERM", "xterm-256color")
    master, slave = os.openpty()
    try:
        _set_up(slave, environment)
        # Opened by its name in the child, it becomes the controlling terminal there.
        files: list[int | str] = [os.ttyname(slave), 0, 0]
        guard.expect(None)
        return _launch(argv, files, cwd, environment), {"stdout": master}
    except BaseException:
        os.close(master)
        raise
    finally:
        os.close(slave)  # or the terminal would not end with the child


def _launch(
    argv: Sequence[str],
    files: Sequence[int | str],
    cwd: str | os.PathLike[str] | None,
    env: Mapping[str, str] | None,
) -> Launched:
    environment = os.environ if env is None else env
    here = None if cwd is None else os.fspath(cwd)
    program = _find(argv[0], here, environment)
    return launch(program, argv, environment, files, here)


def _close_all(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)


def _find(program: str, cwd: str | None, environment: Mapping[str, str]) -> str:
    """Return the path of a program as `execvp` would find it from `cwd`."""
    if cwd is not None and not os.path.isdir(cwd):
        # Said here, or it would look like the program's own error.
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


def _set_up(terminal: int, environment: Mapping[str, str]) -> None:
    """Give a terminal its size, and put its input at the end.

    In canonical mode a reader waits for a line that nobody types, with a prompt that nobody
    can answer; an EOF character would be flushed by whatever asks for a password. A read
    that need not bring a byte (VMIN 0, VTIME 0) returns nothing at once, every time. Programs
    that turn the echo off leave that as it is; one that puts the terminal into raw mode
    waits.
    """
    import fcntl
    import termios

    rows = _whole(environment.get("LINES"), _DEFAULT_ROWS)
    columns = _whole(environment.get("COLUMNS"), _DEFAULT_COLUMNS)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    settings = termios.tcgetattr(terminal)
    settings[3] &= ~termios.ICANON
    settings[6][termios.VMIN] = settings[6][termios.VTIME] = 0
    termios.tcsetattr(terminal, termios.TCSANOW, settings)


def _whole(text: str | None, default: int) -> int:
    return int(text) if text and text.isdecimal() and 0 < int(text) < 65536 else default
