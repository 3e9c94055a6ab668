"""What has to end before the process does: the hubs that run.

Must not know what they are beyond `stop`. Python's `atexit` ends them in any case, last
of all; a server that tells earlier that its end has come (`gunicorn`) finds them here.
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
# has ended. Of a forked child's parent: hubs that do not run there, and whose stop is nothing.
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
