"""Who is let into a hub, and who is sent out of it again.

Must not know what is published. The door asks before a connection exists; what is here
ends those that exist.
"""

from __future__ import annotations

import time

from ..access.admission import Door
from ..access.authenticators import check_user
from ..config import HubConfig
from ..errors import CloseCode
from ..protocol.frames import close_frame
from .overview import Overview

__all__ = ["Keeper"]


class Keeper(Overview):
    """A running hub that has a door."""

    def __init__(self, config: HubConfig) -> None:
        super().__init__(config)
        self._door = Door(
            self._config,
            count=lambda name: self._counters.add(name),
            mark=lambda: self._members.users.mark(),
            has_room=lambda network, user: self._members.has_room(network, user),
            must_wait=lambda payer: self._members.budget.wait(payer, time.monotonic()),
            bars_anybody=lambda: self._members.budget.bars_anybody(time.monotonic()),
            call=self._call,
        )

    @property
    def door(self) -> Door:
        """What decides about handshakes.

        Threads: any.
        """
        return self._door

    def disconnect(
        self, user_id: str, code: int = CloseCode.UNAUTHENTICATED, reason: str = ""
    ) -> int:
        """Close all connections of a user; return how many there were.

        Also those that are on their way in, authenticated before this call. So first
        take away what the authenticator goes by, then call this: nobody slips through.
        With 4401 and 4403 our clients do not come back. Raises TypeError and InvalidName
        for a user id that is none.

        Threads: any, callbacks included; does not wait.
        """
        check_user(user_id)
        close_frame(code, reason)  # raises before anything has happened
        clients = self._members.users.revoke(user_id)
        for client in clients:
            client.close(code, reason)
        return len(clients)
