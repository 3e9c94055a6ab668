"""Loggers that never raise into the thread that logs.

Must not know what is logged. `logging` catches what a handler's `emit` raises, but not
what a handler or a filter raises elsewhere; the threads here serve all clients, and none
of them is to end because a disk is full (FAULTS 62).
"""

from __future__ import annotations

import functools
import logging

__all__ = ["get_logger"]


def get_logger(name: str) -> logging.Logger:
    """Return the logger of that name, made safe; what a handler raises goes to stderr.

    Threads: any.
    """
    logger = logging.getLogger(name)
    logger.handle = functools.partial(_handle, logger)  # type: ignore[method-assign]
    return logger


def _handle(logger: logging.Logger, record: logging.LogRecord) -> None:
    try:
        type(logger).handle(logger, record)
    except Exception:  # noqa: BLE001 - the user's handler: the thread goes on
        logging.Handler().handleError(record)
