"""What the processes of one application tell each other, and what tells it.

The store numbers and keeps; the bus only tells. What is lost on it is noticed by the receiver,
because each sender numbers its notices: messages of channels with history are read from the
store then, others are counted as lost.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from .interest import ALL_CLIENTS, Interest, answers_topic, channel_topic, user_topic

if TYPE_CHECKING:
    from .store import HistoryStore

__all__ = ["ALWAYS", "Backplane", "BusStats", "Notice", "NoticeKind", "Receiver", "SharedClaims"]


class NoticeKind(enum.StrEnum):
    """What a notice is of.

    Attributes:
        PUBLISH: messages of the channel `name`, "" for all clients.
        USER: messages for all connections of the user `name`.
        DISCONNECT: the connections of the user `name` are to be closed.
        KEPT: the store has more messages, of any channels.
        KEYS: all keys of keyed channels are to be told.
        PRESENCE: who has joined or left, see `ws_hub.hub.shared_presence`.
        ASK: what a process has is to be answered, see `ws_hub.hub.survey`.
        ANSWER: the answer to the question `name`.
    """

    PUBLISH = "publish"
    USER = "user"
    DISCONNECT = "disconnect"
    KEPT = "kept"
    KEYS = "keys"
    PRESENCE = "presence"
    ASK = "ask"
    ANSWER = "answer"


ALWAYS = (NoticeKind.KEPT, NoticeKind.DISCONNECT)  # wait whatever else does, and get not too old


class Notice(NamedTuple):
    """What one process tells the others.

    Args:
        kind: what it is of.
        name: the channel, or the user.
        texts: the encoded messages.
        key: in a keyed channel the key of the message, else "".
        deletes: whether that key is deleted.
        time: when that was changed, in microseconds; the newest change of a key wins.
        origin: the process that has changed it, which decides between equal times.
        code: with which the connections are to be closed.
        reason: the same.
        stands_for: of how many notices of its sender it has the texts.
    """

    kind: NoticeKind
    name: str = ""
    texts: tuple[bytes, ...] = ()
    key: str = ""
    deletes: bool = False
    time: int = 0
    origin: str = ""
    code: int = 0
    reason: str = ""
    stands_for: int = 1

    @property
    def topic(self) -> bytes | None:
        """What one must want to need it, see `interest`; None for what every process needs."""
        if self.kind is NoticeKind.PUBLISH and not self.key:
            return channel_topic(self.name) if self.name else ALL_CLIENTS
        if self.kind is NoticeKind.USER:
            return user_topic(self.name)
        if self.kind is NoticeKind.ANSWER:
            return answers_topic(self.name)
        return None


@dataclass(frozen=True, slots=True)
class BusStats:
    """What a backplane has done in this process.

    Args:
        peers: other processes that are reached now.
        told: notices that were passed to a peer, each peer counted.
        received: notices of other processes.
        lost: notices of other processes that never came, or to them that found no room.
        invalid: what came over the bus and is no notice.
        connected: whether the server of the bus is reached; True for a bus without one.
        go_told: messages that were published for Go hubs, see `go_bridge`.
        go_refused: messages that were not, because Go hubs or their clients would drop them.
    """

    peers: int = 0
    told: int = 0
    received: int = 0
    lost: int = 0
    invalid: int = 0
    connected: bool = True
    go_told: int = 0
    go_refused: int = 0


class Receiver(Protocol):
    """What a backplane hands on to. Its methods are called on the backplane's thread."""

    def receive(self, notice: Notice, source: str) -> bool:
        """Take the next notice of a process; False where there is no room: it is offered again.

        `source` is the name of the process on the backplane.
        """

    def missed(self, count: int) -> None:
        """Notices of another process never came, at least so many."""

    def gone(self, source: str) -> None:
        """A process has ended, or cannot be reached any more."""

    def left(self) -> None:
        """Other processes may have ended: called soon after one has, and every few seconds."""


class SharedClaims(Protocol):
    """Names of which each is one process's alone. Any thread; may wait for a disk or a server."""

    def claim(self, name: str) -> bool:
        """Claim a name; False where this process or another has it. Raises OSError."""

    def release(self, name: str) -> None:
        """Let go of a name; idempotent."""

    def abandoned(self) -> list[str]:
        """Return the names whose process has ended without letting go, each to one caller."""


class Backplane(Protocol):
    """Tells the other processes of the application."""

    @property
    def history(self) -> HistoryStore | None:
        """Return a new store that all of them share, for a hub without one; None for none."""

    @property
    def claims(self) -> SharedClaims:
        """The names of which each is one process's alone."""

    def open(self, receiver: Receiver | None, interest: Interest | None = None) -> None:
        """Begin; raises ConfigError where that cannot be.

        What the interest does not have may be kept from the receiver; None for all of it.

        Without a receiver it only tells: nothing is received, and to the others this process is
        none of theirs (`BusStats.peers`).
        """

    def keep_rules(self, rules: str) -> str | None:
        """Keep the rules of the channels, see `rules`, for the processes that begin later.

        Returns those from before, where other processes run that may have them; else None. Once
        it is open. Raises OSError.
        """

    def kept_rules(self) -> str | None:
        """Return the rules that were kept last; None for none. Also where it is not open.

        Raises ConfigError where the backplane cannot be used, OSError where its server is not
        reached. May wait for a server.
        """

    def tell(self, notice: Notice) -> None:
        """Tell all others, in the order of the calls of each thread. Any thread; never waits."""

    def others(self) -> frozenset[str]:
        """Return the names of the other processes that are reached now. Any thread; no wait."""

    def stats(self) -> BusStats:
        """Return what it has done. Any thread; does not wait."""

    def close(self, timeout: float) -> None:
        """Pass on what was told, for so many seconds at most, and end. Idempotent."""
