"""What waits in the queues of the hub thread: a frozen type for each thing that it does."""

from __future__ import annotations

import queue
from collections.abc import Callable
from dataclasses import dataclass

from ..connection.connection import Connection
from ..protocol.message import Message
from ..protocol.publication import Delivery, Publication
from ..protocol.requests import ShowPresence
from ..reentrant import Event, ReentrantQueue, Wakeup
from .dispatcher import Activation
from .history import Filled

__all__ = [
    "Call",
    "Fill",
    "Item",
    "Missing",
    "Notices",
    "PresenceQuery",
    "Publications",
    "Queues",
    "RoomWait",
    "UserPublication",
    "Watched",
    "size_of",
    "slots_of",
]

_ENVELOPE = 512  # bytes that an item costs beside its text, at most about


@dataclass(frozen=True, slots=True)
class Publications:
    """Publications of one call, delivered without anything between them."""

    each: tuple[Publication, ...]


@dataclass(frozen=True, slots=True)
class UserPublication:
    """A publication for all connections that a user has when its turn comes."""

    user_id: str
    publication: Publication


@dataclass(frozen=True, slots=True)
class Watched:
    """Publications of one call whose thread waits until they are dispatched.

    A type of its own, so that all others are dispatched without a look at whether somebody
    waits.

    Args:
        each: the publications, delivered without anything between them.
        outcome: gets what they did; nothing where the hub has met an error of its own.
        done: set after that.
    """

    each: tuple[Publication, ...]
    outcome: list[Delivery]
    done: Event


@dataclass(frozen=True, slots=True)
class Notices:
    """Messages of the hub's own to one client, at their place among the publications."""

    connection: Connection
    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class PresenceQuery:
    """A client's request for the presence of a channel, answered at its place in the queue."""

    connection: Connection
    request: ShowPresence


@dataclass(frozen=True, slots=True)
class RoomWait:
    """A publisher that waits until no replay is far behind.

    Args:
        channel: whose replays; None for all channels.
        reached: called when none is far behind any more.
    """

    channel: str | None
    reached: Callable[[], object]


@dataclass(frozen=True, slots=True)
class Call:
    """A call of the hub's own that could not be made where it was asked for.

    It came from within another call of the hub (a signal handler, a finaliser), or has to
    take its place among what is queued.
    """

    function: Callable[[], object]


@dataclass(frozen=True, slots=True)
class Fill:
    """What a store has of a channel, for the cache of those that subscribe to it.

    Args:
        channel: the channel.
        filled: its messages.
    """

    channel: str
    filled: Filled


@dataclass(frozen=True, slots=True)
class Missing:
    """A store has messages of a channel that cannot be read now, and later ones follow here.

    Args:
        channel: the channel.
        seq: the number before the first of them.
    """

    channel: str
    seq: int


Item = (
    Publication
    | Publications
    | UserPublication
    | Watched
    | Activation
    | Notices
    | PresenceQuery
    | RoomWait
    | Call
    | Fill
    | Missing
)


@dataclass(frozen=True, slots=True)
class Queues:
    """The three queues of the hub thread, which any thread fills and it empties.

    Args:
        bell: what it sleeps on; rung by each put, and for other news.
        registers: clients that are to be admitted. No bound: each is in it at most once.
        unregisters: clients that are to be taken out, likewise.
        broadcasts: what is published, and what has a place among it. Publishers wait while
            it is full.
        intake: what wakes the recorder, and its queue: with a history store, what is for
            channels with history passes that first.
    """

    wakeup: Wakeup
    registers: queue.Queue[Connection]
    unregisters: queue.Queue[Connection]
    broadcasts: ReentrantQueue[Item]
    intake: tuple[Wakeup, ReentrantQueue[Item]]


def size_of(item: Item) -> int:
    """Return for how many bytes an item counts."""
    match item:
        case Publication():  # nearly always
            return len(item.text) + _ENVELOPE
        case Publications() | Watched():
            return sum([len(each.text) for each in item.each], _ENVELOPE * len(item.each))
        case UserPublication():
            return len(item.publication.text) + _ENVELOPE
    return _ENVELOPE


def slots_of(places: int, most_bytes: int, item: Item) -> int:
    """Return how many of the places of a queue an item takes that holds so many bytes."""
    return 1 + size_of(item) * places // most_bytes
