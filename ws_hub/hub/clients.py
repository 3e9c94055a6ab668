"""The clients of a hub: registered ones, pending ones, their users, and their quotas.

A connection enters by `opened` and leaves by the registry's `dismiss`, both on its reader
thread; it counts as a connection of its user while it is registered. It counts against the
limits on connections of one address and of one user from before its handshake, or its
token, is answered until its socket is closed.
"""

from __future__ import annotations

import math
import time
from typing import Any

from ..access.admission import CROWDED_ADDRESS, CROWDED_USER, in_debt
from ..access.capacity import Capacity
from ..access.quotas import Budget, user_payer
from ..config import HubConfig
from ..connection.client import Client
from ..errors import CloseCode
from ..protocol.handshake import refusal
from .callbacks import guarded
from .items import Queues
from .pending import PendingClients
from .registry import Registry
from .stats import Counters
from .subscriptions import Channels
from .users import Users

__all__ = ["Clients"]

_FULL = refusal("503 Service Unavailable", "the hub takes no more", ("Retry-After", "1"))


class Clients:
    """The clients of a hub.

    Args:
        config: the hub's settings.
        channels: the subscriptions; a client that leaves is taken out of them.
        counters: what is counted.
        queues: those of the hub thread.
    """

    def __init__(
        self,
        config: HubConfig,
        channels: Channels[Any],
        counters: Counters,
        queues: Queues,
    ) -> None:
        self._config = config
        self._channels = channels
        self._counters = counters
        self._bell = queues.bell
        self.users: Users[Client] = Users()
        self.budget = Budget(config)
        self._from_address: Capacity[Client] = Capacity(config.max_connections_per_address)
        self._of_user: Capacity[Client] = Capacity(config.max_connections_per_user)
        self.registry = Registry(
            config,
            queues=queues,
            enter=self._enter,
            refuse=self._refuse,
            leave=self._leave,
            counters=counters,
        )
        self.pending = PendingClients(self._may_wait, self._admit, self.users.mark, config.lenient)

    # --- any thread ------------------------------------------------------------------------

    def has_room(self, network: str, user: str) -> bool:
        """Say whether one more may come from a network, of a user; "" for none."""
        return self._from_address.has_room(network) and self._of_user.has_room(user)

    def mark(self) -> int:
        """Return the mark of a client that is authenticated from now on; see `Users`."""
        return self.users.mark()

    def wait(self, payer: str) -> float:
        """Return for how many seconds a payer may open no connection; 0.0 for none."""
        return self.budget.wait(payer, time.monotonic())

    def bars_anybody(self) -> bool:
        """Say whether there may be a payer that may open no connection."""
        return self.budget.bars_anybody(time.monotonic())

    # --- reader threads --------------------------------------------------------------------

    def opened(self, client: Client) -> bool:
        """Register a client, or keep it pending until it has authenticated.

        False when it is refused; then it has been answered.
        """
        answer = _FULL
        self._enter_account(client, client.payer)
        # Admission has looked already, but others may have come in since.
        if wait := self._must_wait(client):
            answer = in_debt(wait)
        elif client.network and not self._from_address.enter(client, client.network):
            self._counters.add("crowded_addresses")
            answer = CROWDED_ADDRESS
        elif not self._enter_user(client):
            answer = CROWDED_USER
        elif client.verify is None:
            if self.registry.open(client):
                return True
        elif self.pending.enter(client):
            self._greet(client)
            return True
        client.refuse(answer)
        return False

    def _greet(self, client: Client) -> None:
        self.users.enter(client, "", time.monotonic() + self._config.auth_timeout)
        self._bell.ring()  # the hub thread may be asleep for longer than that
        client.welcome()

    def _enter_user(self, client: Client) -> bool:
        if client.user_id is None or self._of_user.enter(client, client.user_id):
            return True
        self._counters.add("crowded_users")
        return False

    def _admit(self, client: Client) -> bool:
        if not self._enter_user(client):
            client.close(CloseCode.POLICY, "too many connections of this user")
            return False
        # Its costs were charged to its address until it had authenticated.
        self._leave_account(client)
        self._enter_account(client, user_payer(client.user_id or ""))
        if self._must_wait(client):
            client.close(CloseCode.POLICY, "too much was asked for by this user")
            return False
        if self.registry.open(client) and self.registry.admitted(client):
            return True
        client.close(CloseCode.TRY_AGAIN, "the hub takes no more")
        return False

    def _enter_account(self, client: Client, payer: str) -> None:
        client.payer = payer
        client.account = self.budget.enter(payer, time.monotonic())

    def _leave_account(self, client: Client) -> None:
        account, client.account = client.account, None
        if account is not None:
            self.budget.leave(account, time.monotonic())

    def _must_wait(self, client: Client) -> float:
        wait = self.budget.wait(client.payer, time.monotonic())
        if wait:
            self._counters.add("barred")
        return wait

    def _may_wait(self, waiting: int) -> bool:
        """Say whether one more may wait; under the pending clients' lock."""
        most, most_waiting = self._config.max_connections, self._config.max_waiting
        if most_waiting is not None and waiting >= most_waiting:
            self._counters.add("crowded_lobby")
            return False
        if most is not None and len(self.registry) + waiting >= most:
            self._counters.add("refused")
            return False
        return True

    def _leave(self, client: Client) -> None:
        self._from_address.leave(client)
        self._of_user.leave(client)
        self._leave_account(client)
        self.pending.leave(client)
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
            client.refuse(_FULL)
        # Else its handshake was answered long ago, and `pending` tells it.

    def expire(self, now: float) -> float:
        """End clients whose time for a closing handshake, for authentication, or as a user is up.

        Returns when to look again.
        """
        over, next_look = self.users.due(now)
        for client in over:
            guarded(self._counters, self._end, client)
        return min(next_look, self.registry.expire(now))

    def _end(self, client: Client) -> None:
        if client.verify is None:
            self._counters.add("expired")
            client.close(CloseCode.UNAUTHENTICATED, "authentication is over")
        else:
            self._counters.add("auth_timeouts")
            client.close(CloseCode.UNAUTHENTICATED, "no token in time")
