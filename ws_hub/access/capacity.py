"""How many connections there are of each group, and no more than there may be.

Must not know sockets, or what a group is. A place is taken by a connection on its way in
and given back at its end, by whoever learns of that first.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

from ..reentrant import Lock

__all__ = ["Places"]

C = TypeVar("C", bound=Hashable)


class Places(Generic[C]):
    """The places of all groups.

    Args:
        most: how many connections of one group there may be; None for no bound.
    """

    def __init__(self, most: int | None) -> None:
        self._most = most
        # guards: everything below. Taken alone.
        self._lock = Lock()
        self._groups: dict[C, str] = {}
        self._counts: dict[str, int] = {}

    def has_room(self, group: str) -> bool:
        """Say whether one more may come; who asks has no place by that."""
        if self._most is None:
            return True
        with self._lock:
            return self._counts.get(group, 0) < self._most

    def enter(self, client: C, group: str) -> bool:
        """Take a place for a connection, which has none yet; False when there is none."""
        if self._most is None:
            return True
        with self._lock:
            count = self._counts.get(group, 0)
            if count >= self._most:
                return False
            self._groups[client] = group
            self._counts[group] = count + 1
            return True

    def leave(self, client: C) -> None:
        """Give the place of a connection back. Idempotent."""
        if self._most is None:
            return
        with self._lock:
            group = self._groups.pop(client, None)
            if group is None:
                return
            self._counts[group] -= 1
            if not self._counts[group]:
                del self._counts[group]  # a group that is gone costs nothing
