"""Presence on the wire: who is in a channel, as its subscribers are told.

The state of a channel is `{"users": n, "connections": n, "members": [entry, ...]}`, without
`members` where they are only counted; an entry is `{"user", "connection", "info"}`. A message
carries a state, which replaces all that was told before, or `{"join": [entry, ...],
"leave": [entry, ...]}`. Joins count before leaves, so that a user who changes connections
never seems to go.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .json_text import to_json
from .message import MessageType, timestamp

__all__ = [
    "Member",
    "Presence",
    "PresenceView",
    "difference",
    "entry_text",
    "grouped",
    "presence_message",
    "with_state",
]

_PLACE = b'"presence":null'


@dataclass(frozen=True, slots=True)
class Member:
    """One user of a channel with presence, however many connections that user has.

    A connection without a user is a member of its own.

    Args:
        user: the user's id; None for a connection that is not authenticated.
        connections: the `info` of each connection by its id, oldest first; None for none.

    Threads: any; immutable, unless its info is changed.
    """

    user: str | None
    connections: Mapping[str, Any]

    @property
    def info(self) -> Any:
        """The info of the newest connection that has any, else None.

        Threads: any.
        """
        newest = reversed(list(self.connections.values()))
        return next((each for each in newest if each is not None), None)


@dataclass(frozen=True, slots=True)
class Presence:
    """Who is present in a channel, at one moment.

    Args:
        users: how many users, each connection without a user counted as one.
        connections: how many connections.
        members: the users, the longest present first; None where they are only counted.

    Threads: any; immutable.
    """

    users: int = 0
    connections: int = 0
    members: tuple[Member, ...] | None = None


def grouped(entries: Iterable[tuple[str, str | None, Any]]) -> tuple[Member, ...]:
    """Return the members of connections, each given as its id, its user and its info."""
    found: dict[object, tuple[str | None, dict[str, Any]]] = {}
    for connection, user, info in entries:
        key = ("", connection) if user is None else user
        found.setdefault(key, (user, {}))[1][connection] = info
    return tuple(Member(user, connections) for user, connections in found.values())


# --- encoding ------------------------------------------------------------------------------


def entry_text(user: str | None, connection: str, info: str = "") -> str:
    """Return an entry as JSON; `info` is JSON text, "" for none."""
    tail = f',"info":{info}' if info else ""
    return f'{{"user":{to_json(user)},"connection":{to_json(connection)}{tail}}}'


def presence_message(channel: str, data: str, seconds: float) -> bytes:
    """Return the message that carries a state or changes, which are JSON text already.

    Put together from texts: a list is encoded once, however many clients get it.
    """
    return (
        f'{{"type":"{MessageType.PRESENCE}","channel":{to_json(channel)},"data":{data},'
        f'"timestamp":"{timestamp(seconds)}"}}'
    ).encode()


def with_state(ack: bytes, state: str) -> bytes:
    """Put a state, as JSON text, into an encoded ack whose data has `presence` null.

    A quote within a name or an id is escaped, so nothing else in an ack looks like that.
    """
    return ack.replace(_PLACE, b'"presence":' + state.encode(), 1)


# --- decoding ------------------------------------------------------------------------------


@dataclass(slots=True)
class PresenceView:
    """What a subscriber knows of a channel's presence, from the states and changes it gets.

    What has another form than those of this module is left out.
    """

    users: int = 0
    connections: int = 0
    entries: dict[str, tuple[str, str | None, Any]] | None = field(default_factory=dict)

    def take(self, data: object) -> None:
        """Take the data of one message, or the state in an ack."""
        if not isinstance(data, dict):
            return
        if isinstance(data.get("users"), int) and isinstance(data.get("connections"), int):
            self.users, self.connections = data["users"], data["connections"]
            self.entries = _entries(data["members"]) if "members" in data else None
        elif self.entries is not None:
            self.entries |= _entries(data.get("join"))
            for connection in _entries(data.get("leave")):
                self.entries.pop(connection, None)
            self.connections = len(self.entries)
            self.users = len(grouped(self.entries.values()))

    @property
    def presence(self) -> Presence:
        """What is known now."""
        members = None if self.entries is None else grouped(self.entries.values())
        return Presence(self.users, self.connections, members)


def _entries(value: object) -> dict[str, tuple[str, str | None, Any]]:
    found = {}
    for each in value if isinstance(value, list) else ():
        if isinstance(each, dict) and isinstance(each.get("connection"), str):
            user = each.get("user")
            if user is None or isinstance(user, str):
                found[each["connection"]] = each["connection"], user, each.get("info")
    return found


def difference(before: Presence, after: Presence) -> tuple[tuple[Member, ...], tuple[Member, ...]]:
    """Return the members that have joined, and those that have left."""
    old = {_key(each): each for each in before.members or ()}
    new = {_key(each): each for each in after.members or ()}
    joined = tuple(each for key, each in new.items() if key not in old)
    return joined, tuple(each for key, each in old.items() if key not in new)


def _key(member: Member) -> object:
    return ("", *member.connections) if member.user is None else member.user
