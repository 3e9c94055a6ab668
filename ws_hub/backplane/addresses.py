"""What the address of a backplane names, and where the processes of one server meet.

Threads: any.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from ..errors import ConfigError, excerpt

if TYPE_CHECKING:
    from .bus import Backplane

__all__ = ["VARIABLE", "backplane_of", "family_directory", "is_alone", "without_password"]

VARIABLE = "WS_HUB_BACKPLANE"  # of the environment
_ARBITER = "gunicorn.arbiter"
_LOCAL = re.compile(r"local(?:://(/[^/?#][^?#]*))?(?:\?name=([A-Za-z0-9_-]{1,32}))?")
_SERVER = re.compile(r"(?:redis|valkey)[a-z+]*://", re.IGNORECASE)
_FAMILY = re.compile(r"(\d+)-(\d+)")


def backplane_of(given: Backplane | str | None) -> Backplane | None:
    """Return the backplane that is given, or that an address names.

    Raises ConfigError for an address that names none.
    """
    if not isinstance(given, str):
        return given
    if _SERVER.match(given):
        from .redis import AddressedRedis  # as below, and without redis-py

        return AddressedRedis(given)
    found = _LOCAL.fullmatch(given)
    if found is None or "\0" in unquote(given):
        raise ConfigError(
            f'{excerpt(given)} is no address of a backplane: use "local" for the workers of one '
            'server, or "local:///run/app/hub" (three slashes) for the processes that name a '
            'directory. A second hub of the same process has a name: "local?name=chat". For '
            'several machines use the address of a Redis or Valkey server, "redis://host:6379/0"'
        )
    from .local import AddressedBackplane  # a hub without one does without its modules

    path, name = found[1], found[2] or ""

    def find() -> Path:
        return (family_directory() if path is None else Path(unquote(path))) / name

    return AddressedBackplane(given, find)


def without_password(given: object) -> object:
    """Return an address as it may be shown, or what is given in place of one."""
    return re.sub(r"//[^/@]*@", "//***@", given) if isinstance(given, str) else given


def is_alone(given: object) -> bool:
    """Return whether an address is for this process's family, and that is this process alone."""
    found = _LOCAL.fullmatch(given) if isinstance(given, str) else None
    if found is None or found[1] is not None:
        return False
    with contextlib.suppress(ConfigError):  # the hub has not begun either
        return family_directory().name.startswith(f"{os.getpid()}-")
    return False


@functools.cache  # a fork of this process is of its family
def family_directory() -> Path:
    """Return the directory of this process's family: of a server and its workers.

    A process that is alone is a family of its own. Directories of families that have ended are
    removed. Raises ConfigError where another user may change it.
    """
    from .socket_directory import SocketDirectory, began

    base, head = Path(tempfile.gettempdir()) / f"ws-hub-{os.geteuid()}", _head()
    SocketDirectory(base).prepare()  # who has made it could exchange what is in it
    with contextlib.suppress(OSError):
        for each in base.iterdir():
            found = _FAMILY.fullmatch(each.name)
            if not found or began(int(found[1])) == found[2]:
                continue
            # A child may outlive the head, and a name is a directory below.
            if not any(SocketDirectory(path).is_used() for path in (each, *each.iterdir())):
                shutil.rmtree(each, ignore_errors=True)
    return base / f"{head}-{began(head)}"


def _head() -> int:
    """Return the process that the family is named after."""
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None:
        return parent.pid
    return os.getppid() if _is_worker() else os.getpid()


def _is_worker() -> bool:
    """Return whether this is a worker of gunicorn: its main thread never leaves what forked it."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None:
        if frame.f_code.co_name == "spawn_worker" and frame.f_globals.get("__name__") == _ARBITER:
            return True
        frame = frame.f_back
    return False
