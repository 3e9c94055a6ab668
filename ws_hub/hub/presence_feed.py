"""What subscribers are told of presence: the way from subscriptions to messages.

The channel map says which subscriptions end, on any thread; the hub thread takes that from a
queue, steps the state (`presence`), and sends what is due. A subscriber whose outbox had no room
for a change gets no further ones, and the whole state as soon as it has room: never a list that
is wrong in silence. What other processes tell changes the same state; see `shared_presence`.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from ..backplane.bus import Notice
from ..config import ChannelRule
from ..connection.connection import Connection
from ..protocol.presence import Presence, entry_text, presence_message
from ..protocol.publication import Publication, publish
from .presence import Entry, News, PresenceState
from .shared_presence import Remote, SharedPresence
from .subscriptions import ChannelMap, Subscription

__all__ = ["PresenceFeed", "Send"]

# Sends a publication to targets; returns those that have no room for it.
Send = Callable[[Sequence[Any], Publication], Sequence[Any]]

_Token = Subscription[Any] | Remote

_RETRY = 1.0  # seconds until one that had no room is tried again


class PresenceFeed:
    """The presence of a hub's channels.

    Args:
        channels: the subscriptions.
        rule_for: the rule of a channel.
        awake: wakes the hub thread.

    Attributes:
        shared: exchanges it with other processes; None until `share`.
    """

    def __init__(
        self,
        channels: ChannelMap[Any],
        rule_for: Callable[[str], ChannelRule],
        awake: Callable[[], None],
    ) -> None:
        self._channels = channels
        self._rule_for = rule_for
        self._awake = awake
        self._state: PresenceState[_Token] = PresenceState()
        self.shared: SharedPresence | None = None
        # Changed by single calls: filled by any thread, emptied by the hub thread. A subscription
        # that has ended, with whether its client has left; or a connection with another info.
        self._told: deque[tuple[Subscription[Any], bool] | Connection] = deque()
        # Of the hub thread.
        self._behind: dict[Subscription[Any], None] = {}  # those that miss changes
        self._retry = math.inf

    def share(self, tell: Callable[[Notice], object]) -> SharedPresence:
        """Exchange it with other processes; before the hub thread begins."""
        self.shared = SharedPresence(self._state, self._rule_for, tell, self._awake)
        return self.shared

    # --- any thread ------------------------------------------------------------------------

    def ended(self, subscription: Subscription[Any], left: bool) -> None:
        """Note the end of a subscription that was listed; under the lock of the map."""
        self._told.append((subscription, left))
        self._awake()

    def renewed(self, connection: Connection) -> None:
        """Note that a client has another info."""
        self._told.append(connection)
        self._awake()

    def of(self, channel: str) -> Presence:
        """Return who is present in a channel that has presence."""
        return self._state.of(channel, self._rule_for(channel))

    # --- hub thread ------------------------------------------------------------------------

    def enter(self, subscription: Subscription[Any], now: float) -> str:
        """Begin to tell a subscriber, whose client joins; return the state that it begins with.

        "" when the subscription has ended.
        """
        self._take(now)
        if not self._channels.enlist(subscription):
            return ""
        self._behind.pop(subscription, None)
        channel, subscriber = subscription.channel, subscription.subscriber
        state = self.state(channel)
        if isinstance(subscriber, Connection):
            id = self._id_of(subscriber)
            text = entry_text(subscriber.user_id, id, subscriber.info)
            entry: Entry[_Token] = Entry(subscriber.user_id, id, text, subscription)
            self._state.join(channel, self._rule_for(channel), entry, now)
            if self.shared is not None:
                self.shared.joined(channel, id, text)
        return state

    def _id_of(self, subscriber: Any) -> str:
        return str(subscriber.id) if self.shared is None else self.shared.id_of(subscriber.id)

    def state(self, channel: str) -> str:
        """Return the state of a channel as its subscribers have been told it, as JSON."""
        return self._state.state(channel, self._rule_for(channel))

    def next_turn(self) -> float:
        """Return when to call `turn` again, in monotonic seconds."""
        if self._told:
            return -math.inf
        times = self._state.next_step(), self._retry
        return min(times) if self.shared is None else min(*times, self.shared.next_turn())

    def turn(self, now: float, send: Send) -> None:
        """Send what is due."""
        self._take(now)
        if self.shared is not None:
            self.shared.turn(now)
        for news in self._state.step(now):
            listed = [each for each in self._channels.subscriptions(news.channel) if each.listed]
            self._send(news, [each for each in listed if each not in self._behind], now, send)
        if now >= self._retry:
            self._catch_up(now, send)

    def _take(self, now: float) -> None:
        while self._told:
            told = self._told.popleft()
            if isinstance(told, Connection):
                self._renew(told, now)
            else:
                self._leave(*told, now)

    def _renew(self, connection: Connection, now: float) -> None:
        id = self._id_of(connection)
        text = entry_text(connection.user_id, id, connection.info)
        for channel in connection.channels():
            if self._state.update(channel, id, text, now) and self.shared is not None:
                self.shared.joined(channel, id, text)

    def _leave(self, subscription: Subscription[Any], left: bool, now: float) -> None:
        self._behind.pop(subscription, None)
        channel, id = subscription.channel, self._id_of(subscription.subscriber)
        was_there = self._state.leave(channel, id, subscription, now, gone=left)
        if was_there and self.shared is not None:
            self.shared.left(channel, id, left)

    def _send(
        self,
        news: News[_Token],
        subscriptions: Sequence[Subscription[Any]],
        now: float,
        send: Send,
    ) -> None:
        """Send a message, at the cost of the clients that have joined."""
        began = time.thread_time()
        text = presence_message(news.channel, news.data, time.time())
        of = {each.subscriber: each for each in subscriptions}
        for target in send(list(of), publish(text, news.channel, "drop")):
            self._behind[of[target]] = None
            self._retry = min(self._retry, now + _RETRY)
        seconds = time.thread_time() - began
        for each in news.joined:
            if isinstance(each, Remote):
                continue  # its client pays where it is
            # Their leaves are paid with that: there may be nobody left to pay then.
            each.subscriber.charge_processing(2 * seconds / len(news.joined))
            each.subscriber.charge_bytes(2 * len(text) * len(of) // len(news.joined))

    def _catch_up(self, now: float, send: Send) -> None:
        """Send the state to those that have missed changes, where there is room by now."""
        behind, self._behind, self._retry = self._behind, {}, math.inf
        waiting: dict[str, list[Subscription[Any]]] = {}
        for each in behind:
            waiting.setdefault(each.channel, []).append(each)
        for channel, subscriptions in waiting.items():
            self._send(News(channel, self.state(channel)), subscriptions, now, send)
