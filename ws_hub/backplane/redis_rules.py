"""The rules of an application on a Redis server, for the processes that have none.

One key has what `rules` writes, from the hub that has begun last. Each hub renews it with its
signs of life, puts it back where the server has lost it, and puts it there once a server that
was away is reached. It is kept for weeks after the last of them: what a job publishes meanwhile
to channels with history is there when the application is.
"""

from __future__ import annotations

import contextlib
import enum
import logging
from collections.abc import Callable
from typing import Any

from ..errors import ConfigError, excerpt
from ..log import get_logger
from .redis_links import Links
from .redis_server import RedisServer

__all__ = ["RULES_SECONDS", "RedisRules", "kept_rules"]

logger = get_logger(__name__)

RULES_SECONDS = 30 * 86_400  # without a hub, until they are forgotten


def kept_rules(server: RedisServer) -> str | None:
    """Return the rules on a server; None for none.

    Raises OSError where it is not reached, ConfigError where it refuses.

    Threads: any; waits for the server, some seconds at most.
    """
    links = Links(server)
    try:
        found = links.run(lambda session: session.call("GET", server.key("rules")))
    except server.failures as error:
        if isinstance(error, server.refusals) and not server.is_elsewhere(error):
            raise ConfigError(
                f"the rules in {server.label} cannot be read: {excerpt(str(error), 300)}"
            ) from error
        raise OSError(f"{server.label} is not reached: {excerpt(str(error), 300)}") from error
    finally:
        links.close()
    return None if found is None else found.decode(errors="replace")


class _Step(enum.Enum):
    """What the next sign of life does.

    Each may be done twice: the answer to the first may have been lost.
    """

    LOOK = "for other rules, before they are replaced"
    PUT = "the rules there"
    RENEW = "them"
    PUT_BACK = "them, unless another hub has"


class RedisRules:
    """What one life of a backplane leaves.

    Args:
        server: the server.
        differs: called with the rules that were there before, where they are late: when a
            server is reached only after the hub has begun, and others hear it.

    Threads: any; `beat` and `answered` that of the sender.
    """

    def __init__(self, server: RedisServer, differs: Callable[[str, str], object]) -> None:
        self._server = server
        self._key = server.key("rules")
        self._differs = differs
        self._own: str | None = None  # set once, by `keep`, behind the step
        # The sender's, once there are rules.
        self._step = _Step.LOOK
        self._before: str | None = None  # what was there

    def keep(self, rules: str, *, connected: bool) -> str | None:
        """Keep rules, once; return those from before, where other processes listen.

        Where the server is not reached now, they are kept by a later `beat`.
        """
        before, listeners = None, 0
        if connected:
            try:
                with contextlib.closing(self._server.session()) as session:
                    before = session.call("SET", self._key, rules, "EX", RULES_SECONDS, "GET")
                    listeners = self._server.listeners(session)
                self._step = _Step.RENEW
            except self._server.failures as error:
                is_refused = isinstance(error, self._server.refusals)
                level = logging.WARNING if is_refused else logging.DEBUG
                logger.log(
                    level,
                    "the rules of the channels cannot be kept in %s now: %s",
                    self._server.label,
                    excerpt(str(error), 300),
                )
        self._own = rules
        return before.decode(errors="replace") if before and listeners > 1 else None

    def beat(self) -> list[tuple[Any, ...]]:
        """Return the command of the next step; none where there are no rules."""
        own, key = self._own, self._key
        if own is None:
            return []
        match self._step:
            case _Step.LOOK:
                return [("GET", key)]
            case _Step.PUT:
                return [("SET", key, own, "EX", RULES_SECONDS)]
            case _Step.RENEW:
                return [("EXPIRE", key, RULES_SECONDS)]
            case _Step.PUT_BACK:
                return [("SET", key, own, "EX", RULES_SECONDS, "NX")]

    def answered(self, answer: Any, *, heard: bool) -> None:
        """Note the answer to that command, and whether another process is there."""
        if isinstance(answer, Exception):
            return
        match self._step:
            case _Step.LOOK:
                self._step = _Step.PUT
                self._before = None if answer is None else answer.decode(errors="replace")
            case _Step.PUT:
                self._step = _Step.RENEW
                # Not with the step before: then this process may have begun to listen just now,
                # and one other seems to be none.
                if heard and self._before is not None and self._own is not None:
                    self._differs(self._own, self._before)
            case _Step.RENEW if not answer:
                self._step = _Step.PUT_BACK
            case _:
                self._step = _Step.RENEW
