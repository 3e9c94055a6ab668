"""The hubs that run in this process, to be stopped before it ends.

Python's `atexit` stops them in any case, last of all; a server that announces its end
earlier (`gunicorn`) finds them here.
"""

from __future__ import annotations

import atexit
from typing import Any, Protocol

__all__ = ["Stoppable", "register", "running", "unregister"]


class Stoppable(Protocol):
    """What runs until it is stopped."""

    def stop(self, timeout: float | None = None) -> None:
        """End; idempotent."""


# guards: nothing, it is changed and copied by one call each. Written when a hub starts or
# has ended. In a forked child, also the hubs of its parent: there their `stop` does nothing.
_running: dict[int, Any] = {}


def register(thing: Stoppable) -> None:
    """Have `thing.stop()` called when the interpreter exits."""
    atexit.register(thing.stop)
    _running[id(thing)] = thing


def unregister(thing: Stoppable) -> None:
    """Take that back; idempotent."""
    atexit.unregister(thing.stop)
    _running.pop(id(thing), None)


def running() -> list[Any]:
    """Return what is registered, oldest first."""
    return list(_running.values())
