"""Who is a client, and who waits to be one: the roster, the lobby, and whose they are.

Must not know what is published. Each client comes by `opened` and goes by the roster's
`dismiss`, both on its reader thread; it counts as its user's while it is in the roster.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from .channels import Channels
from .client import Client
from .config import HubConfig
from .errors import CloseCode
from .lobby import Lobby
from .roster import Roster
from .stats import Counters
from .users import Users

__all__ = ["Members"]


class Members:
    """The clients of a hub.

    Args:
        config: the hub's settings.
        channels: who listens to what; left by whoever leaves.
        counters: what is counted.
        awake: wakes the hub thread.
    """

    def __init__(
        self,
        config: HubConfig,
        channels: Channels[Any],
        counters: Counters,
        awake: Callable[[], None],
    ) -> None:
        self._config = config
        self._channels = channels
        self._counters = counters
        self._awake = awake
        self.users: Users[Client] = Users()
        self.roster = Roster(
            config,
            awake=awake,
            enter=self._enter,
            refuse=self._refuse,
            leave=self._leave,
            counters=counters,
        )
        self.lobby = Lobby(self._has_room, self._admit, self.users.mark)

    # --- reader threads --------------------------------------------------------------------

    def opened(self, client: Client) -> bool:
        """Register a client, or have it wait while it has to say who it is."""
        if client.verify is None:
            return self.roster.open(client)
        if not self.lobby.enter(client):
            self._counters.add("refused")
            return False
        self.users.enter(client, "", time.monotonic() + self._config.auth_timeout)
        self._awake()  # the hub thread may be asleep for longer than that
        client.welcome()
        return True

    def _admit(self, client: Client) -> bool:
        return self.roster.open(client) and self.roster.admitted(client)

    def _has_room(self, waiting: int) -> bool:
        most = self._config.max_connections
        return most is None or len(self.roster) + waiting < most

    def _leave(self, client: Client) -> None:
        self.lobby.leave(client)
        self.users.leave(client)
        self._channels.leave(client)

    # --- hub thread ------------------------------------------------------------------------

    def _enter(self, client: Client) -> None:
        self._channels.enter(client)
        if client.user_id is not None:
            end = math.inf
            if client.expires_at is not None:
                end = time.monotonic() + client.expires_at - time.time()
            self.users.enter(client, client.user_id, end, client.mark)

    def _refuse(self, client: Client) -> None:
        if client.verify is None:
            client.refuse()
        # Else its handshake was answered long ago, and the lobby tells it.

    def expire(self, now: float) -> float:
        """End whose time is up: for a closing handshake, for saying who it is, or as a user.

        Returns when to look again.
        """
        over, next_look = self.users.due(now)
        for client in over:
            reason = "authentication is over" if client.verify is None else "no token in time"
            client.close(CloseCode.UNAUTHENTICATED, reason)
        return min(next_look, self.roster.expire(now))
