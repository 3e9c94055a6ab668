"""The presence of a client's channels, as the acks and messages of its server tell of it.

No I/O and no clock. What is known of a channel outlives a connection, until the ack of the
next one: a reconnect of this client is no leave of all others.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..protocol.message import Message
from ..protocol.presence import Member, Presence, PresenceView, difference

__all__ = ["ChannelPresence", "PresenceChange"]

_NOBODY = Presence(members=())


@dataclass(frozen=True, slots=True)
class PresenceChange:
    """A change of the presence of a channel.

    Args:
        channel: the channel.
        before: what was known.
        after: what is known now.
    """

    channel: str
    before: Presence
    after: Presence

    def differences(self) -> tuple[tuple[Member, ...], tuple[Member, ...]]:
        """Return the members that have joined, and those that have left."""
        return difference(self.before, self.after)

    def then(self, later: PresenceChange) -> PresenceChange:
        """Return this change and a later one of the same channel as one."""
        return PresenceChange(self.channel, self.before, later.after)


class ChannelPresence:
    """What is known of each channel. Its owner calls every method under one lock."""

    def __init__(self) -> None:
        self._views: dict[str, PresenceView] = {}

    def of(self, channel: str) -> Presence | None:
        """Return who is present in a channel; None where nothing was told of that."""
        view = self._views.get(channel)
        return None if view is None else view.presence

    def acknowledged(self, channel: str, state: object) -> PresenceChange | None:
        """Take the state in the ack of a subscription; None is the ack of a channel without."""
        if not isinstance(state, dict):
            self.forget(channel)
            return None
        before = self.of(channel)
        view = self._views[channel] = PresenceView()
        view.take(state)
        return _changed(channel, before or _NOBODY, view.presence)

    def take(self, message: Message) -> PresenceChange | None:
        """Take a message of type `presence` of a channel that has a view."""
        view = self._views[message.channel]
        before = view.presence
        view.take(message.data)
        return _changed(message.channel, before, view.presence)

    def forget(self, channel: str) -> None:
        """Forget a channel that is not subscribed to any more."""
        self._views.pop(channel, None)

    def __contains__(self, channel: str) -> bool:
        return channel in self._views


def _changed(channel: str, before: Presence, after: Presence) -> PresenceChange | None:
    return None if before == after else PresenceChange(channel, before, after)
