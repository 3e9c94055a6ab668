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
from ..access.quotas import Quotas, user_payer
from ..backplane.interest import Interest
from ..config import HubConfig
from ..connection.connection import Connection
from ..connection.membership import Stage
from ..errors import CloseCode
from ..protocol.handshake import refusal
from .callbacks import guarded
from .items import Queues
from .pending import PendingClients
from .registry import Registry
from .stats import Counters
from .subscriptions import ChannelMap
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
        interest: has the users, for the other processes; None for nobody.
    """

    def __init__(
        self,
        config: HubConfig,
        channels: ChannelMap[Any],
        counters: Counters,
        queues: Queues,
        interest: Interest | None = None,
    ) -> None:
        self._config = config
        self._channels = channels
        self._counters = counters
        self._wakeup = queues.wakeup
        self.users: Users[Connection] = Users(interest)
        self.quotas = Quotas(config)
        self._from_address: Capacity[Connection] = Capacity(config.max_connections_per_address)
        self._of_user: Capacity[Connection] = Capacity(config.max_connections_per_user)
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
        return self.quotas.wait(payer, time.monotonic())

    def bars_anybody(self) -> bool:
        """Say whether there may be a payer that may open no connection."""
        return self.quotas.bars_anybody(time.monotonic())

    # --- reader threads --------------------------------------------------------------------

    def opened(self, connection: Connection) -> bool:
        """Register a client, or keep it pending until it has authenticated.

        False when it is refused; then it has been answered.
        """
        answer = _FULL
        self._enter_account(connection, connection.payer)
        # Admission has looked already, but others may have come in since.
        if wait := self._must_wait(connection):
            answer = in_debt(wait)
        elif connection.network and not self._from_address.enter(connection, connection.network):
            self._counters.add("crowded_addresses")
            answer = CROWDED_ADDRESS
        elif not self._enter_user(connection):
            answer = CROWDED_USER
        elif connection.verify is None:
            if self.registry.open(connection):
                return True
        elif self.pending.enter(connection):
            self._greet(connection)
            return True
        connection.refuse(answer)
        return False

    def _greet(self, connection: Connection) -> None:
        connection.membership.authenticate()
        self.users.enter(connection, "", time.monotonic() + self._config.auth_timeout)
        self._wakeup.signal()  # the hub thread may be asleep for longer than that
        connection.accept()

    def _enter_user(self, connection: Connection) -> bool:
        if connection.user_id is None or self._of_user.enter(connection, connection.user_id):
            return True
        self._counters.add("crowded_users")
        return False

    def _admit(self, connection: Connection) -> bool:
        if not self._enter_user(connection):
            connection.close(CloseCode.POLICY, "too many connections of this user")
            return False
        # Its costs were charged to its address until it had authenticated.
        self._leave_account(connection)
        self._enter_account(connection, user_payer(connection.user_id or ""))
        if self._must_wait(connection):
            connection.close(CloseCode.POLICY, "too much was asked for by this user")
            return False
        if self.registry.open(connection) and self.registry.admitted(connection):
            return True
        connection.close(CloseCode.TRY_AGAIN, "the hub takes no more")
        return False

    def _enter_account(self, connection: Connection, payer: str) -> None:
        connection.payer = payer
        connection.account = self.quotas.enter(payer, time.monotonic())

    def _leave_account(self, connection: Connection) -> None:
        account, connection.account = connection.account, None
        if account is not None:
            self.quotas.leave(account, time.monotonic())

    def _must_wait(self, connection: Connection) -> float:
        wait = self.quotas.wait(connection.payer, time.monotonic())
        if wait:
            self._counters.add("barred")
        return wait

    def _may_wait(self, waiting: int) -> bool:
        """Say whether one more may wait; under the pending clients' lock."""
        most, most_waiting = self._config.max_connections, self._config.max_waiting
        if most_waiting is not None and waiting >= most_waiting:
            self._counters.add("crowded_pending")
            return False
        if most is not None and len(self.registry) + waiting >= most:
            self._counters.add("refused")
            return False
        return True

    def _leave(self, connection: Connection) -> None:
        self._from_address.leave(connection)
        self._of_user.leave(connection)
        self._leave_account(connection)
        self.pending.leave(connection)
        self.users.leave(connection)
        self._channels.leave(connection)

    # --- hub thread ------------------------------------------------------------------------

    def _enter(self, connection: Connection) -> None:
        self._channels.enter(connection)
        if connection.user_id is not None:
            end = math.inf
            if connection.expires_at is not None:
                end = time.monotonic() + connection.expires_at - time.time()
            self.users.enter(connection, connection.user_id, end, connection.mark)

    def _refuse(self, connection: Connection) -> None:
        if connection.membership.stage is Stage.NEW:
            connection.refuse(_FULL)
        # Else its handshake was answered long ago, and `pending` tells it.

    def expire(self, now: float) -> float:
        """End clients whose time for a closing handshake, for authentication, or as a user is up.

        Returns when to look again.
        """
        over, next_look = self.users.due(now)
        for connection in over:
            guarded(self._counters, self._end, connection)
        return min(next_look, self.registry.expire(now))

    def _end(self, connection: Connection) -> None:
        if connection.membership.stage is Stage.AUTHENTICATING:
            self._counters.add("auth_timeouts")
            connection.close(CloseCode.UNAUTHENTICATED, "no token in time")
        else:
            self._counters.add("expired")
            connection.close(CloseCode.UNAUTHENTICATED, "authentication is over")
