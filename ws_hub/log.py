"""Loggers that never raise into the thread that logs, and a filter that hides tokens.

Must not know what is logged. `logging` catches what a handler's `emit` raises, but not
what a handler or a filter raises elsewhere; the threads here serve all clients, and none
of them is to end because a disk is full (FAULTS 62).
"""

from __future__ import annotations

import functools
import logging
import re

__all__ = ["MaskTokens", "get_logger"]


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


class MaskTokens(logging.Filter):
    """Hides tokens in the URLs that a server's access log is full of (FAULTS 52).

    For the logger that writes them: `logging.getLogger("werkzeug").addFilter(MaskTokens())`;
    `gunicorn.access` is gunicorn's.

    Args:
        names: of the parameters whose values are hidden.
    """

    def __init__(self, *names: str) -> None:
        super().__init__()
        alternatives = "|".join(map(re.escape, names or ("token", "access_token")))
        self._token = re.compile(rf"([?&](?:{alternatives})=)[^&\s\"'#]+")

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record through, without tokens."""
        try:
            text = record.getMessage()
        except Exception:  # noqa: BLE001 - a record that cannot be formatted: its handler says so
            return True
        masked = self._token.sub(r"\1***", text)
        if masked != text:
            record.msg, record.args = masked, None
        return True
