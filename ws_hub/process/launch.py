"""Starts one program: a session of its own, clean signals, and three descriptors.

Must not know what the program is for, or what it prints. `posix_spawn(3)` does all of it,
in C: no code of ours runs between fork and exec, where a lock that another thread held is
held for ever (FAULTS 26); a program that cannot be executed is an error here, and not an
exit code of something in between.

`os.posix_spawn` has no directory to start in, and no way to close what others have left
inheritable; so it is called through ctypes.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["Launched", "launch", "pipe"]

_DARWIN = sys.platform == "darwin"
_SETSIGDEF, _SETSIGMASK = 0x04, 0x08
_SETSID = 0x0400 if _DARWIN else 0x80
_CLOEXEC_DEFAULT = 0x4000  # macOS: the program has what the file actions name, no more
_OPAQUE = 1024  # bytes; posix_spawnattr_t has 336, the others less
_FIRST_OTHER = 3  # the first descriptor that no program gets

# What is ignored stays ignored for these, as POSIX shells have it: nohup, and `&` in a
# script, ask for that. Whatever else we ignore is our own affair: a program whose SIGTERM
# is ignored cannot be ended, one whose SIGCHLD is ignored learns no exit code.
_AS_INHERITED = ("SIGHUP", "SIGINT", "SIGQUIT")
_FIXED = ("SIGKILL", "SIGSTOP")

_SHELL = "/bin/sh"
_FIRST_LINE = 256  # bytes that are looked at for a NUL, as shells do


class Launched:
    """A program that was started, until it is reaped: the one place that waits for it.

    Attributes:
        pid: its process id, and that of its session and process group.
        exit_fd: a pidfd, which is readable from its exit on; None where there is none.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.exit_fd = _open_pidfd(pid)
        self._status: int | None = None  # where only reaping tells that it is over

    def exited(self) -> bool:
        """Say whether it is over. It is not reaped by that.

        Threads: any, one at a time.
        """
        try:
            return self._look() is not None
        except ChildProcessError:
            return True

    def taken(self) -> bool:
        """Say whether somebody else has reaped it: its number may be another's by now.

        Threads: any, one at a time.
        """
        try:
            self._look()
        except ChildProcessError:
            return True
        return False

    def _look(self) -> object:
        if self.exit_fd is not None:
            return os.waitid(os.P_PIDFD, self.exit_fd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if hasattr(os, "waitid"):
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if self._status is None:  # macOS before Python 3.13
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._status = status if pid else None
        return self._status

    def kill(self) -> None:
        """Send SIGKILL to the program alone."""
        try:
            if self.exit_fd is not None:
                signal.pidfd_send_signal(self.exit_fd, signal.SIGKILL)
            elif not self.taken():
                os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def reap(self) -> int | None:
        """Wait for its end; return the exit code, or minus the signal that ended it.

        None when that cannot be known: SIGCHLD is ignored, or another part of this
        process waits for any child, and was told instead.
        """
        try:
            if self.exit_fd is not None:
                found = os.waitid(os.P_PIDFD, self.exit_fd, os.WEXITED)
                assert found is not None
                exited = found.si_code == os.CLD_EXITED
                return found.si_status if exited else -found.si_status
            if self._status is None:
                self._status = os.waitpid(self.pid, 0)[1]
            return os.waitstatus_to_exitcode(self._status)
        except ChildProcessError:
            return None

    def close(self) -> None:
        """Close the descriptor."""
        if self.exit_fd is not None:
            os.close(self.exit_fd)
            self.exit_fd = None


def _open_pidfd(pid: int) -> int | None:
    if not (hasattr(os, "pidfd_open") and hasattr(os, "waitid")):
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:  # a kernel before 5.3; or it is over, and reaped by others
        return None


def launch(
    path: str,
    argv: Sequence[str],
    env: Mapping[str, str],
    files: Sequence[int | str],
    cwd: str | None = None,
) -> Launched:
    """Start the program at `path` as the leader of a session of its own.

    `files` become its descriptors 0, 1 and 2: a path is opened for reading and writing, a
    terminal then being its controlling one; a number names a descriptor of ours, or one of
    the three that comes before. It has no other descriptor, blocks no signal, and ignores
    none but SIGHUP, SIGINT and SIGQUIT where we do. A script without `#!` is the shell's;
    a file with a NUL in its first line is none.

    Raises OSError, and ValueError for text with a NUL.
    """
    sys.audit("os.posix_spawn", path, argv, env)
    if cwd is not None and _addchdir is None:
        # A C library from before 2019.
        argv = ["sh", "-c", 'cd "$0" && exec "$@"', cwd, path, *argv[1:]]
        path, cwd = _SHELL, None
    try:
        return Launched(_spawn(path, argv, env, files, cwd))
    except OSError as error:
        if error.errno != errno.ENOEXEC or _is_binary(os.path.join(cwd or "", path)):
            raise
    return Launched(_spawn(_SHELL, ["sh", path, *argv[1:]], env, files, cwd))


def _is_binary(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return b"\0" in file.read(_FIRST_LINE).partition(b"\n")[0]
    except OSError:  # executable, and not readable: no shell could run it
        return True


def pipe() -> tuple[int, int]:
    """Return a pipe's two ends; neither is 0, 1 or 2, also where these are closed."""
    import fcntl

    reading, writing = os.pipe()
    high: list[int] = []
    try:
        for fd in (reading, writing):
            high.append(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FIRST_OTHER))
    except OSError:
        for fd in high:
            os.close(fd)
        raise
    finally:
        os.close(reading)
        os.close(writing)
    return high[0], high[1]


def _spawn(
    path: str,
    argv: Sequence[str],
    env: Mapping[str, str],
    files: Sequence[int | str],
    cwd: str | None,
) -> int:
    texts = [f"{name}={value}" for name, value in env.items()]
    if any("=" in name for name in env):
        raise ValueError("illegal environment variable name")
    pid = ctypes.c_int()
    program, arguments, environment = _text(path), _texts(argv), _texts(texts)
    actions, attributes = _opaque(), _opaque()
    _check(_c("posix_spawn_file_actions_init")(actions))
    try:
        _check(_c("posix_spawnattr_init")(attributes))
        try:
            _describe(attributes)
            _redirect(actions, files, cwd)
            _check(
                _c("posix_spawn")(
                    ctypes.byref(pid), program, actions, attributes, arguments, environment
                ),
                path,
            )
        finally:
            _c("posix_spawnattr_destroy")(attributes)
    finally:
        _c("posix_spawn_file_actions_destroy")(actions)
    return pid.value


def _describe(attributes: Any) -> None:
    flags = _SETSID | _SETSIGMASK | _SETSIGDEF | (_CLOEXEC_DEFAULT if _DARWIN else 0)
    _check(_c("posix_spawnattr_setflags")(attributes, ctypes.c_short(flags)))
    _check(_c("posix_spawnattr_setsigmask")(attributes, _signals(())))
    kept = {getattr(signal, name) for name in (*_AS_INHERITED, *_FIXED)}
    default = signal.valid_signals() - kept
    _check(_c("posix_spawnattr_setsigdefault")(attributes, _signals(default)))


def _redirect(actions: Any, files: Sequence[int | str], cwd: str | None) -> None:
    for fd, file in enumerate(files):
        if isinstance(file, str):
            adds = _c("posix_spawn_file_actions_addopen")
            _check(adds(actions, fd, _text(file), os.O_RDWR, ctypes.c_uint(0)))
        else:
            _check(_c("posix_spawn_file_actions_adddup2")(actions, file, fd))
    if _addclosefrom is not None:
        _check(_addclosefrom(actions, _FIRST_OTHER))
    elif not _DARWIN:
        for fd in _inheritable():
            _check(_c("posix_spawn_file_actions_addclose")(actions, fd))
    if cwd is not None:
        assert _addchdir is not None
        _check(_addchdir(actions, _text(cwd)))


def _inheritable() -> list[int]:
    """Return our descriptors that a program would get."""
    found = []
    for name in os.listdir("/dev/fd"):
        try:
            if int(name) >= _FIRST_OTHER and os.get_inheritable(int(name)):
                found.append(int(name))
        except OSError:  # the one that listed the directory
            continue
    return found


# --- C -------------------------------------------------------------------------------------


def _load() -> Any:
    try:
        return ctypes.CDLL(None)
    except (OSError, TypeError):  # Windows
        return None


_libc = _load()


def _c(name: str) -> Callable[..., int]:
    function: Callable[..., int] | None = _optional(name)
    if function is None:
        raise OSError(errno.ENOSYS, f"this platform has no {name}")
    return function


def _optional(name: str) -> Any:
    return getattr(_libc, name, None)


_addchdir = _optional("posix_spawn_file_actions_addchdir_np")
_addclosefrom = _optional("posix_spawn_file_actions_addclosefrom_np")


def _check(code: int, path: str | None = None) -> None:
    # These functions return the error instead of setting errno.
    if code:
        raise OSError(code, os.strerror(code), *([path] if path else []))


def _opaque() -> Any:
    return ctypes.create_string_buffer(_OPAQUE)


def _signals(numbers: Any) -> Any:
    found = _opaque()
    _c("sigemptyset")(found)
    for number in numbers:
        _c("sigaddset")(found, int(number))
    return found


def _text(text: str) -> bytes:
    data = os.fsencode(text)
    if b"\0" in data:
        raise ValueError("embedded null byte")
    return data


def _texts(texts: Sequence[str]) -> Any:
    encoded = [_text(text) for text in texts]
    return (ctypes.c_char_p * (len(encoded) + 1))(*encoded, None)
