"""The directory in which each process of an application has a socket for the others.

Rules of this file:

- Everything in the directory is of one user, and nobody else can look into it: this is what
  keeps others from the bus.
- A socket is listening before it has the name under which others look for it. So one that
  refuses connections is of a process that has ended, and its file may be removed.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import stat
import struct
import sys
from pathlib import Path

from ..errors import ConfigError, excerpt
from .notices import is_socket_name

__all__ = ["SocketDirectory", "began", "new_name", "peer_of"]

# Bytes of a path in sockaddr_un, without the NUL at its end.
_MAX_PATH_BYTES = 107 if sys.platform == "linux" else 103
_BACKLOG = 1024  # connections of others that wait while this process is stopped
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


def new_name() -> str:
    """Return a file name for a socket of this process that no other has."""
    return f"{os.getpid()}-{secrets.token_hex(4)}.sock"


def peer_of(sock: socket.socket) -> tuple[int, bool]:
    """Return the process id of a peer, and whether its user is one to listen to.

    Where the system does not say, the id is 0, and the directory alone keeps others out.
    """
    if not hasattr(socket, "SO_PEERCRED"):
        return 0, True
    data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(data)
    return pid, uid in (0, os.geteuid())


def began(pid: int) -> str:
    """Return when a process began, in ticks since the machine did; "0" for one that there is not.

    A number is given to another process some day.

    Threads: any.
    """
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return "0"


class SocketDirectory:
    """The directory, and the sockets in it.

    Args:
        path: an absolute path.

    Threads: any, one at a time; nothing waits but for the file system.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def check_name(self, name: str) -> None:
        """Raise ConfigError where no socket could have this name."""
        if not hasattr(socket, "AF_UNIX"):
            raise ConfigError(
                "a LocalBackplane needs Unix sockets, which this system has not: run the "
                "application in one process"
            )
        length = len(os.fsencode(self._path_of(name)))
        if length > _MAX_PATH_BYTES:
            raise ConfigError(
                f"the path of a socket in {excerpt(str(self.path))} has {length} bytes, and at "
                f"most {_MAX_PATH_BYTES} are possible: use a directory with a shorter path, such "
                "as /run/myapp"
            )

    def prepare(self) -> None:
        """Make the directory, or check that it is safe. Raises ConfigError."""
        try:
            self._make()
            self._check(os.lstat(self.path))
        except OSError as error:
            raise self.unusable(error) from error

    def is_there(self) -> bool:
        """Return whether there is the directory. Raises ConfigError where it is not safe."""
        try:
            self._check(os.lstat(self.path))
        except FileNotFoundError:
            return False
        except OSError as error:
            raise self.unusable(error) from error
        return True

    def _make(self) -> None:
        missing = []
        for path in (self.path, *self.path.parents):
            if os.path.lexists(path):
                break
            missing.append(path)
        for path in reversed(missing):
            with contextlib.suppress(FileExistsError):  # another process was faster
                os.mkdir(path, 0o700)

    def _check(self, found: os.stat_result) -> None:
        fault = ""
        if stat.S_ISLNK(found.st_mode):
            fault = "is a symbolic link: name the directory itself"
        elif not stat.S_ISDIR(found.st_mode):
            fault = "is no directory: remove it, or use another path"
        elif found.st_uid != os.geteuid():
            fault = (
                f"belongs to user {found.st_uid}, and this process is of user {os.geteuid()}: "
                "use a directory of its own, which a LocalBackplane makes itself"
            )
        elif found.st_mode & 0o077:
            fault = (
                f"can be accessed by other users (mode {stat.S_IMODE(found.st_mode):04o}): "
                "chmod 700 it, or use one that is missing, to be made"
            )
        if fault:
            raise ConfigError(f"the directory of a LocalBackplane, {str(self.path)!r}, {fault}")

    def unusable(self, error: OSError) -> ConfigError:
        """Return what to raise where the system refuses to use it."""
        return ConfigError(
            f"a LocalBackplane cannot use {str(self.path)!r}: {error.strerror or error}. Use a "
            "directory on a disk of this machine in which this user may make files"
        )

    def listen(self, name: str) -> tuple[socket.socket, tuple[int, int]]:
        """Return a listening socket of that name, and what tells its file from others.

        Raises ConfigError.
        """
        unnamed = f"{self.path}/.{secrets.token_hex(4)}"  # no longer than the name
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.bind(unnamed)
            sock.listen(_BACKLOG)
            os.chmod(unnamed, 0o600)
            found = os.lstat(unnamed)
            # Only now: see the rules of this file.
            os.rename(unnamed, self._path_of(name))
        except BaseException as error:
            sock.close()
            with contextlib.suppress(OSError):
                os.unlink(unnamed)
            if isinstance(error, OSError):
                raise self.unusable(error) from error
            raise
        return sock, (found.st_dev, found.st_ino)

    def has(self, name: str, identity: tuple[int, int]) -> bool:
        """Return whether the file of that name is the one that `listen` made."""
        try:
            found = os.lstat(self._path_of(name))
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == identity

    def names(self) -> list[str]:
        """Return the names of all sockets, those of dead processes included."""
        try:
            return sorted(filter(is_socket_name, os.listdir(self.path)))
        except OSError:
            return []  # somebody has removed it

    def connect(self, name: str) -> socket.socket | None:
        """Return a connection to a socket; None where there is none now.

        The file of a process that has ended is removed.
        """
        path = self._path_of(name)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # A link may lead out of the directory, and a plain file refuses as well.
            if stat.S_ISSOCK(os.lstat(path).st_mode):
                sock.setblocking(False)
                sock.connect(path)
                if peer_of(sock)[1]:
                    return sock
        except ConnectionRefusedError:
            self.remove(name)
        except OSError:
            pass  # gone, or it has no room for connections now
        except BaseException:
            sock.close()
            raise
        sock.close()
        return None

    def is_used(self) -> bool:
        """Return whether a process listens here; files of those that have ended are removed."""
        self.listening()
        return bool(self.names())

    def listening(self) -> int:
        """Return how many processes accept connections; files of ended ones are removed."""
        count = 0
        for name in self.names():
            sock = self.connect(name)
            if sock is not None:
                sock.close()
                count += 1
        return count

    def remove(self, name: str) -> None:
        """Remove a socket's file, if it is there."""
        with contextlib.suppress(OSError):
            os.unlink(self._path_of(name))

    def _path_of(self, name: str) -> str:
        return f"{self.path}/{name}"
