"""The subscriptions: a map of channels to subscribers, and back.

The map is changed under its lock by any thread, and iterated over a copy made under it.

A subscriber must `enter` before it can subscribe and is forgotten whole by `leave`:
a subscription that arrives later finds it gone, so that none outlives its subscriber.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from .. import threads
from ..backplane.interest import ALL_CLIENTS, Interest, channel_topic
from ..protocol.filters import Filter
from ..reentrant import Lock

__all__ = ["ChannelMap", "Full", "Group", "Subscription"]

S = TypeVar("S", bound=Hashable)


class Full(OverflowError):
    """There are as many subscriptions in all channels together as there may be."""


class Subscription(Generic[S]):
    """One subscriber of one channel.

    Attributes:
        live: whether messages are delivered to it. Not yet while what it missed is
            still to be replayed; not any more while it lags. Owned by the hub thread.
        recovers: whether it asked by position, and so understands `lagged`. Owned by
            the hub thread.
        requests: how many have asked for it and were not turned down. Under the map's lock.
        placed: whether a message that is published now reaches it: its activation has its
            place in the hub's queue. Under the map's lock.
        announced: whether its begin was announced, and its end was not. Under the map's lock.
        listed: whether it is told of presence. Under the map's lock; read without it.
        after: the number behind which it has been sent everything, or is being; None
            before that is known. Owned by the hub thread.
        filter: which messages it gets; None for all. Changed by the hub thread, under the
            map's lock; read by either.
    """

    __slots__ = (
        "after", "announced", "channel", "filter", "listed", "live", "placed", "recovers",
        "requests", "subscriber",
    )  # fmt: skip

    def __init__(self, subscriber: S, channel: str) -> None:
        self.subscriber = subscriber
        self.channel = channel
        self.live = False
        self.recovers = False
        self.requests = 1
        self.placed = False
        self.announced = False
        self.listed = False
        self.after: int | None = None
        self.filter: Filter | None = None


class Group(Generic[S]):
    """The subscriptions of one channel that have equal filters.

    Attributes:
        filter: their filter.
        members: the subscriptions. Under the map's lock.
        told: the last number that those of them that are live were sent, or an earlier one.
            Owned by the hub thread.
    """

    __slots__ = ("filter", "members", "told")

    def __init__(self, filter: Filter) -> None:
        self.filter = filter
        self.members: dict[S, Subscription[S]] = {}
        self.told = 0


class _Listeners(dict[S, Subscription[S]]):
    """The subscriptions of one channel, and by their filters those that have any."""

    __slots__ = ("groups",)

    def __init__(self) -> None:
        super().__init__()
        self.groups: dict[Filter, Group[S]] = {}


class ChannelMap(Generic[S]):
    """The map of channels to subscribers, and back.

    Args:
        on_first: called with the name of a channel that got its first subscriber, which
            has its place by then: see `place`.
        on_last: called with the name of a channel that lost its last such one.
        on_begun: called with each subscription that `announce` announces.
        on_ended: called with each of these when it has ended, and with whether its
            subscriber has left.
        on_delisted: the same, for each that `enlist` has listed.
        interest: has the channels that have subscribers, for the other processes; None for nobody.

    The functions are called under the lock, so that their order is the true one: they may only pass
    the news on.
    """

    def __init__(
        self,
        on_first: Callable[[str], None] = lambda channel: None,
        on_last: Callable[[str], None] = lambda channel: None,
        on_begun: Callable[[Subscription[S]], None] = lambda subscription: None,
        on_ended: Callable[[Subscription[S], bool], None] = lambda subscription, left: None,
        on_delisted: Callable[[Subscription[S], bool], None] = lambda subscription, left: None,
        *,
        interest: Interest | None = None,
    ) -> None:
        self._renew_lock()
        self._channels: dict[str, _Listeners[S]] = {}
        self._subscribers: dict[S, dict[str, Subscription[S]]] = {}
        self._total = 0
        self._reached: dict[str, int] = {}  # of each channel, how many are placed
        self._torn = False  # whether the first map and the counts lag behind the second
        self._on_first = on_first
        self._on_last = on_last
        self._on_begun = on_begun
        self._on_ended = on_ended
        self._on_delisted = on_delisted
        self._interest = interest
        threads.forget_after_fork(self)

    def _renew_lock(self) -> None:
        # guards: everything below. Taken after the hub's lock, before any client's and any
        # transport's and the interest's; nothing but the five callables is called under it.
        self._lock = Lock()

    def forget(self) -> None:
        """Forget all, in a forked child, where the parent's clients may still be asked.

        Threads: the only one of a forked child.
        """
        self._renew_lock()  # a thread of the parent may have the other one for ever
        self._channels, self._subscribers, self._total, self._torn = {}, {}, 0, False
        self._reached = {}

    @property
    def busy(self) -> bool:
        """Whether the calling thread is in the middle of a change, and may not begin another."""
        return self._lock.locked()

    def enter(self, subscriber: S) -> None:
        """Let a subscriber subscribe from now on."""
        with self._lock:
            if self._interest is not None and not self._subscribers:
                self._interest.begin(ALL_CLIENTS)
            self._subscribers.setdefault(subscriber, {})

    def leave(self, subscriber: S) -> list[str]:
        """Forget a subscriber and all it listened to; return those channels. Idempotent."""
        with self._lock:
            self._mend_locked()
            self._torn = True
            was_there = subscriber in self._subscribers
            subscriptions = self._subscribers.pop(subscriber, {})
            if self._interest is not None and was_there and not self._subscribers:
                self._interest.end(ALL_CLIENTS)
            for channel in subscriptions:
                self._drop_locked(subscriber, channel)
            self._torn = False
            return list(subscriptions)

    def add(
        self, subscriber: S, channel: str, limit: int, in_all: int | None = None
    ) -> Subscription[S] | None:
        """Subscribe; the subscription that exists already is returned as it is.

        None when the subscriber is not here (any more). Raises OverflowError when it
        listens to `limit` channels already, Full when all together have `in_all`
        subscriptions.
        """
        with self._lock:
            self._mend_locked()
            own = self._subscribers.get(subscriber)
            if own is None:
                return None
            found = own.get(channel)
            if found is not None:
                found.requests += 1
                return found
            if len(own) >= limit:
                raise OverflowError(f"{limit} subscriptions")
            if in_all is not None and self._total >= in_all:
                raise Full(f"{in_all} subscriptions in all")
            subscription = Subscription(subscriber, channel)
            self._torn = True
            own[channel] = subscription
            listeners = self._channels.get(channel)
            if listeners is None:
                self._want(channel)  # first: other processes know of it when this returns
                listeners = self._channels[channel] = _Listeners()
            listeners[subscriber] = subscription
            self._total += 1
            self._torn = False
            return subscription

    def place(self, subscription: Subscription[S]) -> bool:
        """Count a subscription as reached from now on; False when it has ended already.

        Its activation has its place in the hub's queue, and is perhaps done.
        """
        with self._lock:
            target, channel = subscription.subscriber, subscription.channel
            if self.get(target, channel) is not subscription:
                return False
            if not subscription.placed:
                self._mend_locked()
                self._torn = True
                subscription.placed = True
                self._reached[channel] = self._reached.get(channel, 0) + 1
                if self._reached[channel] == 1:
                    self._on_first(channel)
                self._torn = False
            return True

    def announce(self, subscription: Subscription[S]) -> None:
        """Announce that a subscription has begun: once, and not when it has ended already.

        Its end is announced too then. Not part of `add`: one that is withdrawn has never begun.
        """
        with self._lock:
            if not subscription.announced and self.place(subscription):
                subscription.announced = True
                self._on_begun(subscription)

    def set_filter(self, subscription: Subscription[S], filter: Filter | None) -> None:
        """Set which messages a subscription gets; no change when it has ended.

        Threads: the hub's.
        """
        with self._lock:
            self._mend_locked()
            channel = subscription.channel
            if self.get(subscription.subscriber, channel) is not subscription:
                return
            self._torn = True
            _take_out_of_group(self._channels[channel], subscription)
            subscription.filter = filter
            _put_in_group(self._channels[channel], subscription)
            self._torn = False

    def enlist(self, subscription: Subscription[S]) -> bool:
        """Have the end of a subscription told to presence; False when it has ended already."""
        with self._lock:
            target, channel = subscription.subscriber, subscription.channel
            subscription.listed = self.get(target, channel) is subscription
            return subscription.listed

    def remove(self, subscriber: S, channel: str) -> bool:
        """Unsubscribe; say whether there was a subscription."""
        with self._lock:
            self._mend_locked()
            own = self._subscribers.get(subscriber, {})
            if channel not in own:
                return False
            self._torn = True
            del own[channel]
            self._drop_locked(subscriber, channel)
            self._torn = False
            return True

    def withdraw(self, subscription: Subscription[S]) -> None:
        """Take back one request; the subscription ends with its last one."""
        with self._lock:
            subscription.requests -= 1
            target, channel = subscription.subscriber, subscription.channel
            if not subscription.requests and self.get(target, channel) is subscription:
                self.remove(target, channel)

    def _mend_locked(self) -> None:
        """Finish what KeyboardInterrupt has cut: what each subscriber has is what counts."""
        assert self._lock.locked()
        if not self._torn:
            return
        before, reached = self._channels, self._reached
        for former in before.values():
            for subscription in former.values():
                if self.get(subscription.subscriber, subscription.channel) is not subscription:
                    self._end_locked(subscription)
        channels: dict[str, _Listeners[S]] = {}
        for subscriber, own in self._subscribers.items():
            for channel, subscription in own.items():
                listeners = channels.setdefault(channel, _Listeners())
                listeners[subscriber] = subscription
                _put_in_group(listeners, subscription)
        for channel in channels.keys() - before.keys():
            self._want(channel)
        self._channels, self._total = channels, sum(map(len, channels.values()))
        for channel in before.keys() - channels.keys():
            self._want_no_more(channel)
        self._reached = {}
        for channel, listeners in channels.items():
            if placed := sum(each.placed for each in listeners.values()):
                self._reached[channel] = placed
        self._torn = False
        for channel in self._reached.keys() - reached.keys():
            self._on_first(channel)
        for channel in reached.keys() - self._reached.keys():
            self._on_last(channel)

    def _drop_locked(self, subscriber: S, channel: str) -> None:
        assert self._lock.locked()
        listeners = self._channels[channel]
        subscription = listeners[subscriber]
        self._end_locked(subscription)
        if listeners.groups:
            _take_out_of_group(listeners, subscription)
        del listeners[subscriber]
        self._total -= 1
        if subscription.placed:
            self._reached[channel] -= 1
            if not self._reached[channel]:
                del self._reached[channel]
                self._on_last(channel)
        if not listeners:
            del self._channels[channel]  # an empty channel costs nothing (FAULTS 19)
            self._want_no_more(channel)

    def _want(self, channel: str) -> None:
        if self._interest is not None:
            self._interest.begin(channel_topic(channel))

    def _want_no_more(self, channel: str) -> None:
        if self._interest is not None:
            self._interest.end(channel_topic(channel))

    def _end_locked(self, subscription: Subscription[S]) -> None:
        assert self._lock.locked()
        if subscription.announced:
            subscription.announced = False
            self._on_ended(subscription, subscription.subscriber not in self._subscribers)
        if subscription.listed:
            subscription.listed = False
            self._on_delisted(subscription, subscription.subscriber not in self._subscribers)

    def get(self, subscriber: S, channel: str) -> Subscription[S] | None:
        """Return the subscription of one subscriber to one channel."""
        with self._lock:
            return self._subscribers.get(subscriber, {}).get(channel)

    def has(self, subscriber: S, channel: str) -> bool:
        """Say whether somebody listens to a channel; without the lock.

        For publishers, which may be signal handlers on a thread that has it.
        """
        own = self._subscribers.get(subscriber)
        return own is not None and channel in own

    def subscriptions(self, channel: str) -> list[Subscription[S]]:
        """Return a copy of the subscriptions of a channel, oldest first."""
        with self._lock:
            return list(self._channels.get(channel, {}).values())

    def listeners(
        self, channel: str
    ) -> tuple[list[Subscription[S]], list[tuple[Group[S], list[Subscription[S]]]]]:
        """Return copies of the subscriptions of a channel, and of each group with a filter."""
        with self._lock:
            listeners = self._channels.get(channel)
            if listeners is None:
                return [], []
            groups = listeners.groups
            if groups:
                return list(listeners.values()), [
                    (group, list(group.members.values())) for group in groups.values()
                ]
            return list(listeners.values()), []

    def of(self, subscriber: S) -> list[str]:
        """Return the channels that a subscriber listens to, oldest first."""
        with self._lock:
            return list(self._subscribers.get(subscriber, {}))

    def names(self) -> list[str]:
        """Return the channels that somebody listens to."""
        with self._lock:
            return list(self._channels)

    def count(self, channel: str) -> int:
        """Return how many listen to a channel."""
        with self._lock:
            return len(self._channels.get(channel, {}))

    def reached(self, channel: str) -> int:
        """Return how many of these a message reaches that is published now."""
        with self._lock:
            return self._reached.get(channel, 0)

    def has_subscribers(self, channel: str) -> bool:
        """Say whether a channel has subscribers."""
        return self.count(channel) > 0

    @property
    def total(self) -> int:
        """How many subscriptions there are in all channels."""
        with self._lock:
            return self._total

    def __len__(self) -> int:
        with self._lock:
            return len(self._channels)


def _put_in_group(listeners: _Listeners[S], subscription: Subscription[S]) -> None:
    """Note the filter of a subscription, if it has one. Under the map's lock."""
    filter = subscription.filter
    if filter is None:
        return
    group = listeners.groups.get(filter)
    if group is None:
        group = listeners.groups[filter] = Group(filter)
    group.members[subscription.subscriber] = subscription


def _take_out_of_group(listeners: _Listeners[S], subscription: Subscription[S]) -> None:
    """Forget the filter of a subscription, if it has one. Under the map's lock."""
    filter = subscription.filter
    group = None if filter is None else listeners.groups.get(filter)
    if group is not None and filter is not None:
        group.members.pop(subscription.subscriber, None)
        if not group.members:
            del listeners.groups[filter]
