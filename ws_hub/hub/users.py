"""The connections of each user, and when each of them expires.

The map is changed under its lock by any thread, and iterated over a copy made under it.

A user who is revoked while a connection of theirs is on its way in, authenticated and not
here yet, must not slip through. So each handshake takes a mark before it authenticates its user,
and the connection of a user who was revoked after that mark has expired when it arrives.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

from ..backplane.interest import Interest, user_topic
from ..reentrant import Lock

__all__ = ["Users"]

C = TypeVar("C", bound=Hashable)

_PAUSE = 1.0  # seconds between two looks at all: a connection may end so much late
_REMEMBERED = 1024  # users whose revocation is remembered one by one


class Users(Generic[C]):
    """The connections of each user, and when each of them ends.

    Args:
        interest: has the users that have any, for the other processes; None for nobody.
    """

    def __init__(self, interest: Interest | None = None) -> None:
        # guards: everything below. Taken after the registry's lock, before the interest's.
        self._lock = Lock()
        self._interest = interest
        self._users: dict[str, dict[C, None]] = {}  # dict for a set that keeps the order
        self._clients: dict[C, str] = {}
        self._ends: dict[C, float] = {}
        self._next = math.inf  # when to look again; never later than the first end
        self._marks = 0
        self._revoked: OrderedDict[str, int] = OrderedDict()  # newest last
        self._forgotten = 0  # the newest revocation that is not in there any more

    def mark(self) -> int:
        """Return a mark; users who are revoked after it can be told by it."""
        with self._lock:
            return self._marks

    def enter(self, client: C, user: str, end: float, mark: int = 0) -> None:
        """Note the user of a connection, "" for none (yet), and when it expires.

        `end` counts as `due` does; infinity for never. Again replaces what was noted.
        """
        with self._lock:
            if user:
                self._clients[client] = user
                if self._interest is not None and user not in self._users:
                    self._interest.begin(user_topic(user))
                self._users.setdefault(user, {})[client] = None
                if max(self._revoked.get(user, 0), self._forgotten) > mark:
                    end = -math.inf
            self._ends.pop(client, None)
            if end < math.inf:
                self._ends[client] = end
                self._next = min(self._next, end)

    def leave(self, client: C) -> None:
        """Forget a connection. Idempotent."""
        with self._lock:
            self._ends.pop(client, None)
            user = self._clients.pop(client, "")
            if user:
                own = self._users[user]
                del own[client]
                if not own:
                    del self._users[user]
                    if self._interest is not None:
                        self._interest.end(user_topic(user))

    def __len__(self) -> int:
        with self._lock:
            return len(self._users)

    def of(self, user: str) -> list[C]:
        """Return the connections of a user, oldest first."""
        with self._lock:
            return list(self._users.get(user, ()))

    def revoke(self, user: str) -> list[C]:
        """Revoke what was authenticated as a user until now; return its connections."""
        with self._lock:
            self._marks += 1
            self._revoked[user] = self._marks
            self._revoked.move_to_end(user)
            if len(self._revoked) > _REMEMBERED:
                # All connections on their way in then count as revoked, rather than none.
                self._forgotten = self._revoked.popitem(last=False)[1]
            return list(self._users.get(user, ()))

    def due(self, now: float) -> tuple[list[C], float]:
        """Return the connections that have expired, each once, and when to ask again."""
        with self._lock:
            if now < self._next:
                return [], self._next
            over = [client for client, end in self._ends.items() if end <= now]
            for client in over:
                del self._ends[client]
            # Not at each end of its own: that would be a look at all for each of them.
            self._next = max(min(self._ends.values(), default=math.inf), now + _PAUSE)
            return over, self._next
