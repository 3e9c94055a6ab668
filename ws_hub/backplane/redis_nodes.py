"""Which node of several is to be asked: the master that sentinels name, a node of a cluster.

A finder opens connections by a function that it is given, and keeps none.

Threads: any; a call waits for one node after the other, a second for each at most.
"""

from __future__ import annotations

import binascii
import contextlib
from collections.abc import Callable
from typing import Any, Protocol

from ..reentrant import Lock
from .redis_address import Node

__all__ = ["Asker", "Cluster", "Finder", "Fixed", "Sentinels", "Unknown", "check_master", "slot_of"]

Asker = Callable[..., Any]  # the answer of a node to the words of a command, on a new connection


class Unknown(Exception):
    """Which node is to be asked cannot be found out."""


class Finder(Protocol):
    """Finds the node of a shard."""

    shards: int  # how many there are

    def find(self, shard: int) -> Node:
        """Return the node of a shard; raises Unknown."""

    def is_current(self, shard: int, node: Node) -> bool:
        """Return whether a node is the one that was found last; does not ask."""

    def look(self) -> None:
        """Ask anew, where it may have changed."""

    def failed(self, node: Node | None) -> None:
        """Note that a node was not what it was found for."""


class Fixed:
    """One server.

    Args:
        node: it.
    """

    shards = 1

    def __init__(self, node: Node) -> None:
        self._node = node

    def find(self, shard: int) -> Node:
        """Return it."""
        return self._node

    def is_current(self, shard: int, node: Node) -> bool:
        """Return True."""
        return True

    def look(self) -> None:
        """Do nothing: there is no other."""

    def failed(self, node: Node | None) -> None:
        """Do nothing: there is no other."""


class Sentinels:
    """The master that sentinels name.

    Args:
        nodes: the sentinels.
        service: the name that they have for it.
        ask: asks one of them; raises any of `faults`.
        faults: what it raises.
    """

    shards = 1

    def __init__(
        self,
        nodes: tuple[Node, ...],
        service: str,
        ask: Asker,
        faults: tuple[type[Exception], ...],
    ) -> None:
        self._nodes = nodes  # the last that has answered first; replaced whole
        self._service = service
        self._ask = ask
        self._faults = faults
        self._found: Node | None = None

    def find(self, shard: int) -> Node:
        """Return the master; raises Unknown where no sentinel knows it."""
        found = self._found = self._master()
        return found

    def is_current(self, shard: int, node: Node) -> bool:
        """Return whether it is the one that was named last."""
        return self._found == node

    def look(self) -> None:
        """Ask anew; without an answer nothing changes."""
        with contextlib.suppress(Unknown):
            self.find(0)

    def failed(self, node: Node | None) -> None:
        """Ask another sentinel next time: one that is cut off names an old master."""
        self._nodes = self._nodes[1:] + self._nodes[:1]

    def _master(self) -> Node:
        nodes, fault, answers = self._nodes, None, 0
        for place, node in enumerate(nodes):
            try:
                answer = self._ask(node, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service)
            except self._faults as error:
                fault = error
                continue
            answers += 1
            if answer:
                self._nodes = nodes[place:] + nodes[:place]
                return answer[0].decode(), int(answer[1])
        if answers:
            raise Unknown(f"its sentinels know no master {self._service!r}: check this name")
        raise Unknown(f"none of its sentinels answers: {fault}")


class Cluster:
    """The nodes of a cluster.

    Args:
        nodes: some of them.
        slots: the slot of each shard.
        ask: asks one of them; raises any of `faults`.
        faults: what it raises.
    """

    def __init__(
        self,
        nodes: tuple[Node, ...],
        slots: tuple[int, ...],
        ask: Asker,
        faults: tuple[type[Exception], ...],
    ) -> None:
        self.shards = len(slots)
        self._given = nodes
        self._slots = slots
        self._ask = ask
        self._faults = faults
        # guards: the questions to the cluster, by one thread at a time. Nothing is taken under it.
        self._lock = Lock()
        self._map: tuple[Node | None, ...] = ()  # the node of each shard; replaced whole
        self._known: tuple[Node, ...] = ()  # those that it has, replicas too; replaced whole

    def find(self, shard: int) -> Node:
        """Return the node of a shard; raises Unknown where the cluster has none."""
        known = self._map
        if not known:
            with self._lock:
                known = self._map = self._map or self._asked()
        node = known[shard]
        if node is None:
            self._map = ()
            raise Unknown(f"no node of the cluster serves the slot {self._slots[shard]}")
        return node

    def is_current(self, shard: int, node: Node) -> bool:
        """Return whether it has the shard, unless that is unknown."""
        known = self._map
        return not known or known[shard] == node

    def look(self) -> None:
        """Ask anew; without an answer nothing changes."""
        with contextlib.suppress(Unknown), self._lock:
            self._map = self._asked()

    def failed(self, node: Node | None) -> None:
        """Ask the cluster before the next use, and another node of it first."""
        self._map = ()
        if node is not None:
            self._known = (*[each for each in self._known if each != node], node)

    def _asked(self) -> tuple[Node | None, ...]:
        fault: Exception | None = None
        for node in dict.fromkeys([*self._known, *self._given]):
            try:
                answer = self._ask(node, "CLUSTER", "SLOTS")
            except self._faults as error:
                fault = error
                continue
            rows = [(row[0], row[1], [_node(each, node) for each in row[2:]]) for row in answer]
            found = tuple([_owner(rows, slot) for slot in self._slots])
            if any(found):
                all_nodes = [each for *_, nodes in rows for each in nodes]
                self._known = tuple(dict.fromkeys([node, *all_nodes]))
                return found
        raise Unknown(f"no node of the cluster tells which nodes it has: {fault}")


def check_master(answer: bytes, node: Node) -> None:
    """Raise Unknown where a node is, by what INFO returns, no master: sentinels may be late."""
    if b"role:master" not in answer:
        raise Unknown(f"{node[0]}:{node[1]} is a read only replica, and no master")


def _node(described: list[Any], asked: Node) -> Node:
    """Return a node of what CLUSTER SLOTS returns; one without a name is the one that was asked."""
    name = (described[0] or b"").decode()
    return (name if name not in ("", "?") else asked[0]), int(described[1])


def _owner(rows: list[tuple[int, int, list[Node]]], slot: int) -> Node | None:
    """Return the node of a slot: the first of its row."""
    for first, last, nodes in rows:
        if first <= slot <= last and nodes:
            return nodes[0]
    return None


def slot_of(tag: str) -> int:
    """Return the slot of keys with a hash tag: its CRC-16 (XMODEM) modulo 16,384."""
    return binascii.crc_hqx(tag.encode(errors="surrogatepass"), 0) % 16384
