"""One child process with a session of its own: pipes or a terminal, signals, its end.

Must not know lines, the hub, or threads other than by its lock. It is the leader of its
session and process group, so that a signal reaches what it has started as well; it
inherits no descriptor but the three that it is given.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import struct
import subprocess
import threading
from collections.abc import Mapping, Sequence
from typing import IO

from .errors import ConfigError, WsHubError, excerpt

__all__ = ["Child", "ProcessStartError", "check_argv", "signal_name"]

# The shell only opens the terminal, which makes it the controlling one of the session
# that it leads, and becomes the command. In Python this would take a `preexec_fn`: our
# code, and everybody's fork hooks, in the copy of a process whose other threads may
# hold any lock (FAULTS 26).
_IN_TERMINAL = ("/bin/sh", "-c", 'exec "$@" <>"$0"')

_DEFAULT_ROWS, _DEFAULT_COLUMNS = 24, 80


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


def signal_name(number: int) -> str:
    """Return "SIGKILL" for 9; "SIG35" where a signal has no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"


class Child:
    """A command that runs. Whoever starts one reads its streams, reaps it and closes it.

    Args:
        argv: the command and its arguments.
        terminal: run it in a pseudo-terminal, its one stream then being "stdout".
        cwd: where it runs; None for here.
        env: its environment; None for ours.

    Raises ProcessStartError when it cannot be started.

    Attributes:
        pid: its process id, and that of its group.
        streams: name -> descriptor to read from, until `close_stream`.
        exit_fd: a descriptor that becomes readable at its exit; None where the system
            has none: then `exited` must be asked now and then.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        terminal: bool = False,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        # guards: reaping. A signal goes out only while the pid cannot be another's.
        # The last lock in the order; held for system calls that do not wait.
        self._lock = threading.Lock()
        self._reaped = False
        self._files: list[IO[bytes]] = []
        try:
            if terminal:
                self._popen, self.streams = _start_in_terminal(argv, cwd, env)
            else:
                self._popen, self._files = _start_with_pipes(argv, cwd, env)
                names = ("stdout", "stderr")
                self.streams = {n: f.fileno() for n, f in zip(names, self._files, strict=True)}
        except (OSError, ValueError) as error:
            raise ProcessStartError(f"cannot start {excerpt(argv[0])}: {error}") from error
        self.pid = self._popen.pid
        self.exit_fd = _exit_descriptor(self.pid)

    def signal(self, number: int) -> None:
        """Send a signal to the child and its group; nothing happens once it is reaped.

        Threads: any; does not wait.
        """
        with self._lock:
            if not self._reaped:
                self._signal_locked(number)

    def _signal_locked(self, number: int) -> None:
        assert self._lock.locked()
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):
            # macOS answers EPERM for a group of which only a zombie is left.
            pass

    def exited(self) -> bool:
        """Say whether the child itself is over; it may have left others in its group."""
        if not hasattr(os, "waitid"):  # macOS before Python 3.13
            with self._lock:
                return self._popen.poll() is not None
        try:
            flags = os.WEXITED | os.WNOHANG | os.WNOWAIT  # its pid stays taken until `reap`
            return os.waitid(os.P_PID, self.pid, flags) is not None
        except ChildProcessError:  # somebody else has reaped it, or SIGCHLD is ignored
            return True

    def reap(self, *, kill_group: bool) -> int:
        """Return the exit code of a child that is over, or minus its signal.

        `kill_group` ends what it has left in its group.
        """
        with self._lock:
            if kill_group and not self._reaped:
                self._signal_locked(signal.SIGKILL)
            code = self._popen.wait()
            self._reaped = True
            return code

    def close_stream(self, name: str) -> None:
        """Stop reading a stream."""
        fd = self.streams.pop(name)
        for file in self._files:
            if file.fileno() == fd:
                self._files.remove(file)
                file.close()
                return
        os.close(fd)

    def close(self) -> None:
        """Close every descriptor."""
        for name in list(self.streams):
            self.close_stream(name)
        if self.exit_fd is not None:
            os.close(self.exit_fd)
            self.exit_fd = None


def _exit_descriptor(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):  # not Linux, or a kernel before 5.3
        return None


def _start_with_pipes(
    argv: Sequence[str], cwd: str | os.PathLike[str] | None, env: Mapping[str, str] | None
) -> tuple[subprocess.Popen[bytes], list[IO[bytes]]]:
    popen = subprocess.Popen(
        argv,
        bufsize=0,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=cwd,
        env=env,
        start_new_session=True,
    )
    assert popen.stdout is not None and popen.stderr is not None
    return popen, [popen.stdout, popen.stderr]


def _start_in_terminal(
    argv: Sequence[str], cwd: str | os.PathLike[str] | None, env: Mapping[str, str] | None
) -> tuple[subprocess.Popen[bytes], dict[str, int]]:
    if not hasattr(os, "openpty"):
        raise OSError("this platform has no pseudo-terminals")
    environment = dict(os.environ if env is None else env)
    environment.setdefault("TERM", "xterm-256color")
    # The shell would say it with exit code 127, in words of its own.
    program = _find(argv[0], cwd, environment)
    master, slave = os.openpty()
    try:
        _set_size(slave, environment)
        popen = subprocess.Popen(
            [*_IN_TERMINAL, os.ttyname(slave), program, *argv[1:]],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=cwd,
            env=environment,
            start_new_session=True,
        )
    except BaseException:
        os.close(master)
        raise
    finally:
        os.close(slave)  # or the terminal would not end with the child
    return popen, {"stdout": master}


def _find(program: str, cwd: str | os.PathLike[str] | None, environment: Mapping[str, str]) -> str:
    """Return the path of a program as `execvp` would find it from `cwd`."""
    here = os.fspath(cwd) if cwd is not None else os.curdir
    if cwd is not None and not os.path.isdir(here):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), here)
    if os.path.dirname(program):
        path = os.path.join(here, program)
        if os.path.isdir(path) or (os.path.exists(path) and not os.access(path, os.X_OK)):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), program)
        if os.path.exists(path):
            return program
    else:
        found = shutil.which(program, path=environment.get("PATH", os.defpath))
        if found is not None:
            return found
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), program)


def _set_size(terminal: int, environment: Mapping[str, str]) -> None:
    import fcntl
    import termios

    rows = _whole(environment.get("LINES"), _DEFAULT_ROWS)
    columns = _whole(environment.get("COLUMNS"), _DEFAULT_COLUMNS)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def _whole(text: str | None, default: int) -> int:
    return int(text) if text and text.isdecimal() and 0 < int(text) < 65536 else default
