"""The hubs that run in this process, to be stopped before it ends.

Python's `atexit` stops them in any case, last of all; a server that announces its end
earlier (`gunicorn`) finds them here.
"""

from __future__ import annotations

import atexit
import functools
import os
import weakref
from collections.abc import Callable
from typing import Any, Protocol

from ..config import HubConfig
from ..log import get_logger
from .stats import HubStats

__all__ = ["Stoppable", "made", "register", "running", "unregister"]

logger = get_logger(__name__)


class Stoppable(Protocol):
    """What runs until it is stopped."""

    def stop(self, timeout: float | None = None) -> None:
        """End; idempotent."""

    def stats(self) -> HubStats:
        """Return what it has counted."""

    @property
    def running(self) -> bool:
        """Whether it runs in this process."""

    @property
    def config(self) -> HubConfig:
        """Its settings."""


# The hubs of this process, for as long as there are any, whether they run or not.
made: weakref.WeakSet[Any] = weakref.WeakSet()

# guards: nothing, it is changed and copied by one call each. Written when a hub starts or
# has ended. In a forked child, also the hubs of its parent: there their `stop` does nothing.
_running: dict[int, tuple[Any, Callable[[], None]]] = {}


def register(thing: Stoppable) -> None:
    """Have `thing.stop()` called when the interpreter exits."""
    end = functools.partial(_end, thing)
    atexit.register(end)
    _running[id(thing)] = thing, end


def unregister(thing: Stoppable) -> None:
    """Take that back; idempotent."""
    found = _running.pop(id(thing), None)
    if found is not None:
        atexit.unregister(found[1])


def running() -> list[Any]:
    """Return what is registered, oldest first."""
    return [thing for thing, _ in [*_running.values()]]


def _end(thing: Stoppable) -> None:
    ran = thing.running
    thing.stop()  # first: it delivers what is queued
    unheard = _unheard(thing) if ran else 0
    if unheard:
        logger.warning(
            "the hub of this process, %d, has ended: it has published %d messages, and had no "
            "client to send them to. Those of another process are not its own: publish as a "
            "client of that, ReconnectingClient(url).publish(channel, data)",
            os.getpid(),
            unheard,
        )


def _unheard(hub: Stoppable) -> int:
    """Return how many messages were published and could reach nobody."""
    stats = hub.stats()
    shared = hub.config.history is not None or hub.config.backplane is not None
    if stats.connected or stats.delivered or shared:
        return 0
    return stats.published
