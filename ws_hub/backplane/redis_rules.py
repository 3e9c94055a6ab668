"""The rules of an application on a Redis server, for the processes that have none.

One key has what `rules` writes, from the hub that has begun last. Each hub renews it with its
signs of life, puts it back where the server has lost it, and puts it there once a server that
was away is reached. It is kept for weeks after the last of them: what a job publishes meanwhile
to channels with history is there when the application is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import ConfigError, excerpt
from ..log import get_logger
from ..reentrant import Lock
from .redis_server import RedisServer

__all__ = ["RULES_SECONDS", "RedisRules", "kept_rules"]

logger = get_logger(__name__)

RULES_SECONDS = 30 * 86_400  # without a hub, until they are forgotten


def kept_rules(server: RedisServer) -> str | None:
    """Return the rules on a server; None for none.

    Raises OSError where it is not reached, ConfigError where it refuses.

    Threads: any; waits for the server, some seconds at most.
    """
    client: Any = server.client()
    try:
        found = client.get(server.key("rules"))
    except server.refusals as error:
        raise ConfigError(
            f"the rules in {server.label} cannot be read: {excerpt(str(error), 300)}"
        ) from error
    except server.failures as error:
        raise OSError(f"{server.label} is not reached: {excerpt(str(error), 300)}") from error
    finally:
        client.close()
    return None if found is None else found.decode(errors="replace")


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
        # guards: the two below. Nothing is taken under it.
        self._lock = Lock()
        self._own: str | None = None
        self._is_there = False  # the key has them, or those of a hub that has begun later
        self._is_lost = False  # the sender's: the server has lost the key

    def keep(self, rules: str, *, connected: bool) -> str | None:
        """Keep rules; return those from before, where other processes listen.

        Where the server is not reached now, they are kept by a later `beat`.
        """
        before, listeners = None, 0
        if connected:
            client: Any = self._server.client()
            try:
                before = client.set(self._key, rules, ex=RULES_SECONDS, get=True)
                ((_, listeners),) = client.pubsub_numsub(self._server.bus)
            except self._server.failures as error:
                logger.debug("the rules cannot be kept now: %s", error)
                connected = False
            finally:
                client.close()
        with self._lock:
            self._own, self._is_there = rules, connected
        return before.decode(errors="replace") if before and listeners > 1 else None

    def beat(self, pipe: Any) -> bool:
        """Have a pipeline renew them, by its next command; False where there are none."""
        with self._lock:
            own, is_there = self._own, self._is_there
        if own is None:
            return False
        if not is_there:
            pipe.set(self._key, own, ex=RULES_SECONDS, get=True)
        elif self._is_lost:
            pipe.set(self._key, own, ex=RULES_SECONDS, nx=True)
        else:
            pipe.expire(self._key, RULES_SECONDS)
        return True

    def answered(self, answer: Any, *, heard: bool) -> None:
        """Note the answer to that command, and whether another process is there."""
        if isinstance(answer, Exception):
            return
        with self._lock:
            own, was_there = self._own, self._is_there
            self._is_there = True
        self._is_lost = was_there and not self._is_lost and not answer
        if not was_there and own is not None and answer and heard:
            self._differs(own, answer.decode(errors="replace"))
