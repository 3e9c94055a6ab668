"""Starts a hub with the first request that a process gets.

So a process that only imports the application (gunicorn's master with `--preload`, the
parent of a reloader, a shell) has no threads of the hub, and each forked worker has its own.
"""

from __future__ import annotations

import threading
from typing import Protocol, Self

from .. import threads
from ..errors import ConfigError
from ..log import get_logger

__all__ = ["Starter", "StartingHub"]

logger = get_logger(__name__)


class StartingHub(Protocol):
    """What this needs of the hub."""

    def start(self) -> Self:
        """Run the hub on a background thread; see `Hub.start`."""


class Starter:
    """Starts a hub once in a process: after `hub.stop()` it stays stopped.

    Args:
        hub: the hub.

    Attributes:
        started: whether that was done.
    """

    def __init__(self, hub: StartingHub) -> None:
        self._hub = hub
        self.forget()
        threads.forget_after_fork(self)

    def forget(self) -> None:
        """Start anew, in a forked child.

        Threads: the child's only one, right after the fork.
        """
        # guards: started. Taken before the hub's lock.
        self._lock = threading.Lock()
        self.started = False

    def start(self) -> None:
        """Start the hub, unless this was done before; what keeps it from starting is logged.

        Threads: any; waits for a start on another thread.
        """
        if self.started:
            return
        try:
            with self._lock:
                self._start_locked()
        except RuntimeError as error:  # no more threads: pages are still served
            logger.warning("cannot start the hub: %s", error)
        except ConfigError as error:  # permanent: pages are still served, handshakes get 503
            logger.error("cannot start the hub with these settings: %s", error)

    def _start_locked(self) -> None:
        assert self._lock.locked()
        if self.started:  # another request has started it meanwhile
            return
        try:
            self._hub.start()
        except ConfigError:
            self.started = True
            raise
        self.started = True
