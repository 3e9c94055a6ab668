"""Loggers that never raise into the calling thread, and a filter that hides tokens.

`logging` catches exceptions of a handler's `emit`, but not those that a handler or a filter
raises elsewhere. The threads of ws_hub serve all clients, and none of them may end because
a disk is full (FAULTS 62).
"""

from __future__ import annotations

import functools
import logging
import re

__all__ = ["MaskTokens", "get_logger"]


def get_logger(name: str) -> logging.Logger:
    """Return the logger of that name, made safe: exceptions of its handlers go to stderr.

    Threads: any.
    """
    logger = logging.getLogger(name)
    logger.handle = functools.partial(_handle, logger)  # type: ignore[method-assign]
    return logger


def _handle(logger: logging.Logger, record: logging.LogRecord) -> None:
    try:
        type(logger).handle(logger, record)
    except Exception:  # noqa: BLE001 - a user's handler: the thread must go on
        logging.Handler().handleError(record)


class MaskTokens(logging.Filter):
    """A logging filter that hides tokens in the URLs of an access log (FAULTS 52).

    Add it to the logger of the access log: `logging.getLogger("werkzeug").addFilter(MaskTokens())`
    for Werkzeug; gunicorn's is `gunicorn.access`.

    Args:
        names: the query parameters to hide the values of; by default `token` and
            `access_token`.

    Threads: any.
    """

    def __init__(self, *names: str) -> None:
        super().__init__()
        alternatives = "|".join(map(re.escape, names or ("token", "access_token")))
        self._token = re.compile(rf"([?&](?:{alternatives})=)[^&\s\"'#]+")

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass, with its tokens replaced."""
        try:
            text = record.getMessage()
        except Exception:  # noqa: BLE001 - an unformattable record: its handler reports it
            return True
        masked = self._token.sub(r"\1***", text)
        if masked != text:
            record.msg, record.args = masked, None
        return True
