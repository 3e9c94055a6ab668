"""Sends what the hub logs to where an application's log goes: the handlers of `app.logger`.

Records of ws_hub reach the root logger's handlers by themselves. An application may have its
handlers at `app.logger` alone, and Flask's own is there; those get each record here, once.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterator

from flask import Flask

__all__ = ["forward"]

_ROOT = logging.getLogger("ws_hub")


def forward(app: Flask) -> None:
    """Send the records of ws_hub to an application's log as well.

    For all hubs of the process: a record does not say which hub it is of.

    Threads: any.
    """
    _FORWARDER.apps.add(app)
    if _FORWARDER not in _ROOT.handlers:
        _ROOT.addHandler(_FORWARDER)


class _Forwarder(logging.Handler):
    """Hands records to the loggers of some applications.

    Attributes:
        apps: the applications. Not kept alive by this.
    """

    def __init__(self) -> None:
        super().__init__()
        self.apps: weakref.WeakSet[Flask] = weakref.WeakSet()

    def handle(self, record: logging.LogRecord) -> bool:
        """Hand a record to each handler that does not get it otherwise.

        Without a lock of its own: the handlers have theirs.
        """
        own = [each for each in _handlers(logging.getLogger(record.name)) if each is not self]
        if any(
            isinstance(each, logging.NullHandler) and each not in logging.root.handlers
            for each in own
        ):
            return True  # ws_hub was silenced
        reached = list(own)
        for app in list(self.apps):
            if app.logger.isEnabledFor(record.levelno):
                reached += [each for each in _handlers(app.logger) if each not in reached]
        for handler in reached[len(own) :]:
            if handler is not self and record.levelno >= handler.level:
                handler.handle(record)
        if (
            not reached
            and logging.lastResort is not None
            and record.levelno >= logging.lastResort.level
        ):
            # Python's own, which is used where a logger has no handler at all. It has this one.
            logging.lastResort.handle(record)
        return True


def _handlers(logger: logging.Logger | None) -> Iterator[logging.Handler]:
    """Yield the handlers that a logger's records reach."""
    while logger is not None:
        yield from logger.handlers
        logger = logger.parent if logger.propagate else None


_FORWARDER = _Forwarder()
