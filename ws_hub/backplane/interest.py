"""Which notices a process wants to be told of, in memory that its peers can read.

A notice is of a topic: the messages of a channel, those for a user, or for all clients. A process
has a table with a byte for each value that the hash of a topic may have, and sets that of a topic
before it confirms a subscription to anybody. The table is shared with the other processes of the
machine, which look at it when they publish: there is nothing to be told, and so nothing that
could come too late, or be lost. Rules of this file:

- A byte is set while the process has the topic, or another one with the same hash. So a notice
  may come that is not needed, and none that is needed is left out.
- A process that has not shared a table, because its system or its version has none, wants all.
- What a process needs whether it has subscribers or not has no topic: changes of keyed channels,
  presence, the ends of a user's connections, and that the store has more.
- The memory has no file. It is sealed: no peer can make it shorter while another one reads it.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import zlib
from collections.abc import Iterable
from typing import NamedTuple

from ..reentrant import Lock

__all__ = [
    "ALL_CLIENTS",
    "Audience",
    "Interest",
    "Table",
    "answers_topic",
    "channel_topic",
    "user_topic",
]

# A million of them: with 10,000 channels in a process a hundredth of all others are taken for one.
TABLE_BYTES = 1 << 20
_MASK = TABLE_BYTES - 1
_NOBODY: tuple[str, ...] = ()

ALL_CLIENTS = b"*"  # the topic of what is for all clients


def channel_topic(channel: str) -> bytes:
    """Return the topic of the messages of a channel."""
    return b"c" + channel.encode("utf-8", "surrogatepass")


def user_topic(user: str) -> bytes:
    """Return the topic of the messages for a user."""
    return b"u" + user.encode("utf-8", "surrogatepass")


def answers_topic(question: str) -> bytes:
    """Return the topic of the answers to a question."""
    return b"q" + question.encode("utf-8", "surrogatepass")


def _slot_of(topic: bytes) -> int:
    return zlib.crc32(topic) & _MASK


class Interest:
    """The topics of this process. `begin` and `end` come in pairs; a topic may begin twice.

    Threads: any; those of `share` and `close` are the backplane's.
    """

    def __init__(self) -> None:
        # guards: everything below. Taken after the locks of the subscriptions and the users;
        # nothing is taken under it.
        self._lock = Lock()
        self._begun: dict[int, list[None]] = {}  # one item for each topic that has begun
        self._table: mmap.mmap | None = None
        self._descriptor = -1  # of the table

    def begin(self, topic: bytes) -> None:
        """Want what is of a topic; when this returns, all others know it."""
        slot = _slot_of(topic)
        with self._lock:
            self._begun.setdefault(slot, []).append(None)
            if self._table is not None:
                self._table[slot] = 1

    def end(self, topic: bytes) -> None:
        """Want it no more."""
        slot = _slot_of(topic)
        with self._lock:
            begun = self._begun.get(slot)
            if not begun:
                return
            begun.pop()
            if begun:
                return
            if self._table is not None:
                self._table[slot] = 0
            del self._begun[slot]
            if begun:  # by a call that has interrupted this one
                self._begun[slot] = begun
                if self._table is not None:
                    self._table[slot] = 1

    def wants(self, topic: bytes | None) -> bool:
        """Return whether this process needs what is of a topic; None is what all need."""
        return topic is None or _slot_of(topic) in self._begun

    def share(self) -> int:
        """Make the table; return its descriptor, -1 where the system has no such memory."""
        with self._lock:
            if self._table is None:
                with contextlib.suppress(OSError):
                    self._make_locked()
            return self._descriptor

    def _make_locked(self) -> None:
        assert self._lock.locked()
        try:
            import fcntl
        except ImportError:
            return
        if not (hasattr(os, "memfd_create") and hasattr(fcntl, "F_ADD_SEALS")):
            return
        descriptor = os.memfd_create("ws_hub", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(descriptor, TABLE_BYTES)
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
            table = mmap.mmap(descriptor, TABLE_BYTES)
        except BaseException:
            os.close(descriptor)
            raise
        for slot in self._begun:
            table[slot] = 1
        self._table, self._descriptor = table, descriptor

    def close(self) -> None:
        """Let go of the table. Idempotent."""
        with self._lock:
            self.forget()

    def forget(self) -> None:
        """Let go of the child's copy of the table, in a forked child."""
        # Not under the lock, which a thread that is gone may have.
        table, self._table = self._table, None
        descriptor, self._descriptor = self._descriptor, -1
        if table is not None:
            table.close()
        if descriptor >= 0:
            os.close(descriptor)


class Table:
    """The topics of another process.

    Args:
        descriptor: of the table that it shares; the caller closes it.

    Raises OSError and ValueError for what is no such table.

    Threads: any.
    """

    def __init__(self, descriptor: int) -> None:
        import fcntl

        size, seals = os.fstat(descriptor).st_size, fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
        if size != TABLE_BYTES or not seals & fcntl.F_SEAL_SHRINK:
            raise ValueError(f"not a table of topics: {size} bytes")
        # Closed with its last reference: a thread that publishes may just read it.
        self._bytes = mmap.mmap(descriptor, TABLE_BYTES, access=mmap.ACCESS_READ)

    def has(self, slot: int) -> bool:
        """Return whether the process wants a topic of that hash."""
        return self._bytes[slot] != 0


class _Peer(NamedTuple):
    """Another process: the name of its socket, and its table, None for one that wants all."""

    name: str
    table: Table | None


class Audience:
    """The other processes that are reached, and what they want; it does not change.

    Args:
        peers: their names, with the table of each.
    """

    def __init__(self, peers: Iterable[tuple[str, Table | None]] = ()) -> None:
        self._peers = [_Peer(name, table) for name, table in peers]

    def __len__(self) -> int:
        return len(self._peers)

    @property
    def names(self) -> frozenset[str]:
        """The names of all of them."""
        return frozenset([each.name for each in self._peers])

    def uninterested(self, topic: bytes | None) -> tuple[str, ...] | None:
        """Return the names of those that do not want a topic; None where nobody does.

        All want what has none.

        Threads: any; does not wait.
        """
        if not self._peers:
            return None
        if topic is None:
            return _NOBODY
        slot = _slot_of(topic)
        found = [name for name, table in self._peers if table is not None and not table.has(slot)]
        return None if len(found) == len(self._peers) else tuple(found)
