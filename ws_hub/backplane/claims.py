"""Names of which each is one process's alone: of the programs that an application runs.

A claim is a file that its process has locked. The system lets go of the lock when the process
ends, however it does; whoever locks the file then knows that the claim was abandoned.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from pathlib import Path

from .. import threads
from ..log import get_logger
from ..reentrant import Lock

__all__ = ["Claims"]

_FILE = re.compile(r"[0-9a-f]{32}")
_TRIES, _MOMENT = 100, 0.001  # seconds

logger = get_logger(__name__)


class Claims:
    """The claims of the processes that share a directory.

    Args:
        directory: where the files are; made when it is first needed.

    Threads: any; waits for the file system alone.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._own: dict[str, int] = {}  # name -> descriptor of the locked file
        self._renew_lock()
        threads.forget_after_fork(self)

    def _renew_lock(self) -> None:
        # guards: _own. Nothing is taken under it.
        self._lock = Lock()

    def claim(self, name: str) -> bool:
        """Claim a name; False where this process or another has it. Raises OSError."""
        with self._lock:
            if name in self._own:
                return False
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = _take_at_last(self._path(name))
            if fd is None:
                return False
            os.ftruncate(fd, 0)
            os.pwrite(fd, name.encode(errors="surrogatepass"), 0)
            self._own[name] = fd
            return True

    def release(self, name: str) -> None:
        """Let go of a name; idempotent."""
        with self._lock:
            fd = self._own.pop(name, None)
            if fd is not None:
                _end(self._path(name), fd)

    def close(self) -> None:
        """Let go of all names."""
        with self._lock:
            for name in [*self._own]:
                self.release(name)

    def abandoned(self) -> list[str]:
        """Return the names whose process has ended without letting go; they are free now.

        Each is returned to one caller alone.
        """
        found = list[str]()
        with self._lock, contextlib.suppress(FileNotFoundError):
            for path in self._files():
                fd = _take(path)
                if fd is not None:
                    try:
                        name = os.pread(fd, 65536, 0).decode(errors="surrogatepass")
                    finally:
                        _end(path, fd)
                    found += [name] if name else []
        return found

    def forget(self) -> None:
        """Close what is the parent's, in a forked child; its locks are the parent's as well."""
        self._renew_lock()
        for fd in self._own.values():
            os.close(fd)
        self._own = {}

    def _files(self) -> list[Path]:
        return [each for each in self._directory.iterdir() if _FILE.fullmatch(each.name)]

    def _path(self, name: str) -> Path:
        return (
            self._directory / hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:32]
        )


def _take(path: Path, *, create: bool = False) -> int | None:
    """Return the descriptor of a file that is locked now; None where another process has it."""
    import fcntl  # not on every system

    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
    while True:
        try:
            fd = os.open(path, flags, 0o600)
        except FileNotFoundError:
            return None  # its process has let go
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(fd), os.stat(path)):
                return fd
        os.close(fd)  # it was removed between the two calls


def _take_at_last(path: Path) -> int | None:
    """Do the same; but who has a file that is empty yet has it for a moment, or writes its name."""
    for _ in range(_TRIES):
        fd = _take(path, create=True)
        if fd is not None:
            return fd
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_size:
                return None
        time.sleep(_MOMENT)
    return None


def _end(path: Path, fd: int) -> None:
    """Remove a locked file, then let go of it: who opened it before looks again."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    os.close(fd)
