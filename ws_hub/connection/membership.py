"""The admission of one connection, from its handshake to its end, as one state machine.

    NEW ────────────────────> ADMITTED ──leave──> LEAVING ──end──> GONE
     └─> AUTHENTICATING ─admit──┘                    ^
     └──────────┴────────── refuse, give up ─────────┘

Only the hub thread admits, refuses and ends; only the connection's reader authenticates, gives
up and leaves. Both may come at the same moment, so each step is made under one lock, the
registry's, which the caller holds.
"""

from __future__ import annotations

import enum

from ..reentrant import Event

__all__ = ["Membership", "Stage"]


class Stage(enum.Enum):
    """Where a connection is."""

    NEW = "its handshake is not answered yet"
    AUTHENTICATING = "accepted; the token of its first message is awaited"
    ADMITTED = "registered: it gets what is published"
    LEAVING = "refused, or at its end; the hub thread takes it out"
    GONE = "taken out"


_BEFORE = frozenset({Stage.NEW, Stage.AUTHENTICATING})


class Membership:
    """The stage of one connection.

    Attributes:
        stage: read without the lock by its reader, and by the hub thread, which each make some
            of the changes.
        settled: set by the hub thread when it has admitted, refused or ended this connection;
            waited for by the reader thread.
    """

    __slots__ = ("settled", "stage")

    def __init__(self) -> None:
        self.stage = Stage.NEW
        self.settled = Event()

    def authenticate(self) -> None:
        """Accept the handshake of a connection whose first message authenticates it.

        Threads: its reader, before another thread knows it.
        """
        assert self.stage is Stage.NEW
        self.stage = Stage.AUTHENTICATING

    def admit(self) -> bool:
        """Admit it; False when it is leaving already.

        Threads: the hub's, under the registry's lock.
        """
        if self.stage not in _BEFORE:
            return False
        self.stage = Stage.ADMITTED
        return True

    def refuse(self) -> bool:
        """Do not admit it; False when it was admitted or refused before.

        Threads: the hub's, under the registry's lock; and its reader, which gives up so.
        """
        if self.stage not in _BEFORE:
            return False
        self.stage = Stage.LEAVING
        return True

    def leave(self) -> None:
        """Begin its end: from here on `settled` is set by the hub thread that has ended it.

        Threads: its reader, under the registry's lock.
        """
        self.settled.clear()
        self.stage = Stage.LEAVING

    def end(self) -> None:
        """Note that the hub is without it.

        Threads: the hub's.
        """
        self.stage = Stage.GONE
        self.settled.set()

    @property
    def admitted(self) -> bool:
        """Whether it is admitted, and not leaving."""
        return self.stage is Stage.ADMITTED
