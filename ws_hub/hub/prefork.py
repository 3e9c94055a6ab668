"""A warning of hubs that run in the master of a server whose workers are forks of it.

No server is imported: a master is known by the module that forks.

A worker's hub is another one, with the clients: the master's has none, ever, and what is
published there reaches nobody, without an error (FAULTS 77). Only gunicorn's hooks
(`gunicorn`) hear of it from the server; without them the first fork tells.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
import weakref
from typing import Any

from ..log import get_logger
from .exits import running

__all__ = ["except_of", "warn", "watch"]

logger = get_logger(__name__)

_MASTERS = frozenset({"gunicorn.arbiter"})  # modules that fork nothing but workers

# Hubs that have no clients anywhere, because what they publish is told; by single calls.
_tells: weakref.WeakSet[Any] = weakref.WeakSet()

_warned = False  # written and read by the thread that forks: the master's main thread


def except_of(hub: object) -> None:
    """Have a hub that only tells not be warned of.

    Threads: any.
    """
    _tells.add(hub)


def warn(log: logging.Logger) -> None:
    """Warn of the hubs that run in this process, a master; once in its life.

    Threads: the one that forks.
    """
    global _warned  # noqa: PLW0603 - one process, one master
    hubs = [hub for hub in running() if hub not in _tells]
    if not hubs or _warned:
        return
    _warned = True
    log.warning(
        "%d hub(s) of ws_hub run in gunicorn's master, process %d, before the fork: what is "
        "published there reaches nobody. start() the hub in each worker instead",
        len(hubs),
        os.getpid(),
    )


@functools.cache
def watch() -> None:
    """Have every later fork looked at; idempotent.

    Threads: any.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_parent=_forked)


def _forked() -> None:
    # A program may fork beside its hub as it likes (`multiprocessing`): the hub goes on, with
    # its clients. So what counts is the module that called `os.fork`.
    if sys._getframe(1).f_globals.get("__name__") in _MASTERS:
        warn(logger)
