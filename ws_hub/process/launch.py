"""Starts one program with a session of its own, default signals, and three descriptors.

`posix_spawn(3)` does all of it, in C: no Python code runs between fork and exec, where a
lock that another thread held stays locked for ever (FAULTS 26). A program that cannot be
executed raises an error here, and is not an exit code of something in between.

`os.posix_spawn` can neither set the working directory nor close descriptors that other
code has left inheritable; so the C function is called through ctypes.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .usage import Resources

__all__ = ["Launched", "launch", "pipe"]

_DARWIN = sys.platform == "darwin"
_SETSIGDEF, _SETSIGMASK = 0x04, 0x08
_SETSID = 0x0400 if _DARWIN else 0x80
_CLOEXEC_DEFAULT = 0x4000  # macOS: only descriptors named by the file actions are inherited
_OPAQUE = 1024  # bytes; posix_spawnattr_t has 336, the other types less
_FIRST_OTHER = 3  # the first descriptor that a program does not get

# These stay ignored when we ignore them, as in POSIX shells: nohup, and `&` in a script,
# rely on it. Every other signal is set to its default: a program that ignores SIGTERM
# cannot be ended, one that ignores SIGCHLD learns no exit code.
_AS_INHERITED = ("SIGHUP", "SIGINT", "SIGQUIT")
_FIXED = ("SIGKILL", "SIGSTOP")

_SHELL = "/bin/sh"
_FIRST_LINE = 256  # bytes that are looked at for a NUL, as shells do


class Launched:
    """A program that was started. Only this class reaps it.

    Attributes:
        pid: its process id, and that of its session and process group.
        exit_fd: a pidfd, readable once the program has exited; None on a system without.
        resources: what it has used, once `reap` has returned an exit code.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.exit_fd = _open_pidfd(pid)
        self._status: int | None = None  # on a system that reports an exit only by reaping
        self.resources: Resources | None = None

    def exited(self) -> bool:
        """Return whether it has exited, without reaping it.

        Threads: any, one at a time.
        """
        try:
            return self._look() is not None
        except ChildProcessError:
            return True

    def taken(self) -> bool:
        """Return whether other code has reaped it: its process id may be reused by now.

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
            pid, status, resources = os.wait4(self.pid, os.WNOHANG)
            self._status, self.resources = (status, resources) if pid else (None, None)
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

        None when that cannot be known: SIGCHLD is ignored, or other code of this process
        waits for any child and has got the exit code instead.
        """
        try:
            if self.exit_fd is not None:
                # By the pidfd: the process id may be reused, once other code has reaped it.
                found = os.waitid(os.P_PIDFD, self.exit_fd, os.WEXITED | os.WNOWAIT)
                assert found is not None
                exited = found.si_code == os.CLD_EXITED
                code = found.si_status if exited else -found.si_status
                self._reap_with_resources(code)
                return code
            if self._status is None:
                _, self._status, self.resources = os.wait4(self.pid, 0)
            return os.waitstatus_to_exitcode(self._status)
        except ChildProcessError:
            return None

    def _reap_with_resources(self, code: int) -> None:
        """Reap it, by the only call that reports what it has used."""
        with contextlib.suppress(ChildProcessError):  # other code has been faster
            pid, status, resources = os.wait4(self.pid, os.WNOHANG)
            if pid and os.waitstatus_to_exitcode(status) == code:
                self.resources = resources

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
    except OSError:  # Linux before 5.3; or it has exited and other code has reaped it
        return None


def launch(
    path: str,
    argv: Sequence[str],
    env: Mapping[str, str],
    files: Sequence[int | str],
    cwd: str | None = None,
) -> Launched:
    """Start the program at `path` as the leader of a session of its own.

    `files` become its descriptors 0, 1 and 2: a path is opened for reading and writing (a
    terminal becomes its controlling one); a number is one of our descriptors, or an earlier
    one of the three. The program gets no other descriptor, blocks no signal, and ignores
    none but SIGHUP, SIGINT and SIGQUIT where we ignore them. A script without `#!` is run
    by /bin/sh; a file with a NUL in its first line is not taken for a script.

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
    """Return a pipe's two ends; neither is descriptor 0, 1 or 2, even if these are closed."""
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
    """Return our descriptors that a program would inherit."""
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
