"""The file in the directory of a LocalBackplane that has the rules of the application.

    {"by":"417-1093848","rules":{...}}

`by` is the process that has written it, and when that began; `rules` is what `rules` writes.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from pathlib import Path

from .socket_directory import began
from .sqlite_file import alone

__all__ = ["RulesFile"]

_NAME = "rules.json"
_MAX_BYTES = 16 * 1024 * 1024  # of a file that somebody else has put there


class RulesFile:
    """The file, whether it is there or not.

    Args:
        directory: of the backplane; nobody else may write to it.

    Threads: any; they wait for the file system.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def read(self) -> str | None:
        """Return the rules; None where there are none. Raises OSError."""
        return self._read()[1]

    def swap(self, rules: str) -> tuple[str | None, bool]:
        """Write the rules; return those from before, and whether another process's still runs.

        Whoever reads it meanwhile gets those from before, or these. Raises OSError.
        """
        own = _process(os.getpid())
        with alone(self._directory):
            by, before = self._read()
            self._write(f'{{"by":{json.dumps(own)},"rules":{rules}}}\n')
        pid = by.partition("-")[0]
        return before, by != own and pid.isdecimal() and by == _process(int(pid))

    def _read(self) -> tuple[str, str | None]:
        """Return the process that has written them, and the rules; what is damaged as it is."""
        path = self._directory / _NAME
        try:
            with open(path, encoding="utf-8", errors="replace", opener=_no_link) as file:
                text = file.read(_MAX_BYTES)
        except FileNotFoundError:
            return "", None
        try:
            found = json.loads(text)
            return str(found["by"]), json.dumps(found["rules"])
        except (ValueError, LookupError, TypeError, RecursionError):
            return "", text

    def _write(self, text: str) -> None:
        unnamed = self._directory / f".{secrets.token_hex(4)}"
        try:
            fd = os.open(unnamed, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with open(fd, "w", encoding="utf-8") as file:
                file.write(text)
            os.rename(unnamed, self._directory / _NAME)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(unnamed)
            raise


def _no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)  # nor wait for a pipe's writer


def _process(pid: int) -> str:
    """Return what no other process has had, or will have: where the system says when it began."""
    return f"{pid}-{began(pid)}"
