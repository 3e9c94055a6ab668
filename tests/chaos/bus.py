"""What connects the processes of a server, and keeps their history: a Redis or Valkey server.

It writes each command to its file, and the file to the disk, before it answers: so nothing that
it has answered is lost when it is killed. Each process reaches it by a network of its own.
"""

from __future__ import annotations

import contextlib

from tests.redis_servers import DURABLE, running
from ws_hub.testing import FaultProxy

__all__ = ["Bus"]


class Bus:
    """A server, and the networks to it.

    Args:
        program: its name in `tests.redis_servers.SERVERS`.
        count: how many processes reach it.
    """

    def __init__(self, program: str, count: int) -> None:
        self._stack = contextlib.ExitStack()
        self.server = self._stack.enter_context(running(program, *DURABLE))
        self.proxies = [
            self._stack.enter_context(FaultProxy(self.server.host, self.server.port))
            for _ in range(count)
        ]

    def address(self, place: int) -> str:
        """Return where one of the processes reaches it."""
        return self.server.url(port=self.proxies[place].port)

    def close(self) -> None:
        """End it, whatever state it is in. Idempotent."""
        self._stack.close()
