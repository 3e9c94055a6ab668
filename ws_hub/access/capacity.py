"""Limits the number of connections in each group, such as those of one address.

A connection is counted when it is admitted and released when it ends, by whichever thread
notices the end first.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

from ..reentrant import Lock

__all__ = ["Capacity"]

C = TypeVar("C", bound=Hashable)


class Capacity(Generic[C]):
    """The number of connections in each group.

    Args:
        most: connections that one group may have; None for no limit.
    """

    def __init__(self, most: int | None) -> None:
        self._most = most
        # guards: everything below. Taken alone.
        self._lock = Lock()
        self._groups: dict[C, str] = {}
        self._counts: dict[str, int] = {}

    def has_room(self, group: str) -> bool:
        """Return whether one more connection is within the limit; reserves nothing."""
        if self._most is None:
            return True
        with self._lock:
            return self._counts.get(group, 0) < self._most

    def enter(self, client: C, group: str) -> bool:
        """Count a connection that is not counted yet; False, and not counted, above the limit."""
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
        """Release a connection. Idempotent."""
        if self._most is None:
            return
        with self._lock:
            group = self._groups.pop(client, None)
            if group is None:
                return
            self._counts[group] -= 1
            if not self._counts[group]:
                del self._counts[group]  # an empty group uses no memory
