"""Counters, and what a hub says of itself.

Counting takes no clock and no socket.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from ..reentrant import Lock

__all__ = ["Counters", "HubStats"]


@dataclass(frozen=True, slots=True)
class HubStats:
    """What a hub counts, at one moment.

    Args:
        clients: connected now.
        channels: with at least one subscriber.
        subscriptions: in all channels.
        queued: messages in the hub's queue.
        history_bytes: bytes of memory that all histories take.
        history_bytes_in_all: how many they may take.
        published_history_bytes: those of channels that clients may publish to.
        published_history_bytes_in_all: how many these may take.
        keyed_bytes: bytes of memory that keyed channels take.
        history_dropped: messages that a history let go because of these two bounds.
        peers: other processes that a backplane reaches now.
        bus_told: notices to them, each of them counted.
        bus_received: notices of theirs.
        bus_lost: notices of theirs that never came, or to them that found no room.
        bus_invalid: what came over a backplane's server and is no notice.
        bus_down: whether a backplane does not reach its server, and tells and hears nobody.
        go_told: messages that a backplane has published for Go hubs.
        go_refused: messages that it has not, because these or their clients would drop them.
        history_failed: messages that were delivered without a number, because the history
            store could not keep them.
        connected: clients ever connected.
        refused: connections refused because there is no room.
        crowded_addresses: connections refused because there are as many from their
            address as may be.
        crowded_users: connections refused because their user has as many as may be.
        crowded_pending: connections refused because as many as may be are pending: they have
            yet to authenticate.
        crowded_handshakes: connections that `serve` answered with 503 because as many
            requests as may be are under way.
        slow_handshakes: requests that `serve` cut because their head took too long.
        foreign_origins: handshakes refused for where they come from.
        unauthenticated: handshakes and first messages that an authenticator refused.
        auth_timeouts: connections closed because no token came as first message in time.
        expired: connections closed because their authentication was over.
        io_uring: whether broadcasts are sent by io_uring: known from the first one to 32
            clients on; see HubConfig.io_uring.
        published: messages taken from the hub's queue.
        delivered: messages given to a client's connection, once a client.
        dropped: messages that a client did not get because its outbox was full, and those
            in it when the client was cut for not reading (counted when its connection ends).
        slow_disconnects: clients cut because they do not read: their outbox was full.
        write_timeouts: connections cut because the peer acknowledged nothing of what waits.
        pong_timeouts: connections cut because nothing came from the peer, not even pongs.
        oversized_messages: connections closed for a message of too many bytes.
        fragmented_messages: connections closed for a message in too many fragments.
        slow_messages: connections closed for a message that took too long to come.
        slowed: pauses in the reading of clients that sent more, or asked for more, than
            they may.
        message_floods: connections closed because they did so for too long.
        overdrafts: connections closed because more processing was asked for than may be.
        barred: connections refused because their payer has yet to wait for that.
        control_floods: connections closed for too many pings and pongs.
        bad_messages: messages answered with an error for their form.
        bad_channels: requests answered with an error for a channel's name.
        refused_subscriptions: subscriptions refused because the client has as many as
            may be.
        refused_subscriptions_in_all: subscriptions refused because the hub has.
        callback_errors: callbacks that raised.
        internal_errors: errors of the hub's own, each of which is in the log.
    """

    clients: int = 0
    channels: int = 0
    subscriptions: int = 0
    queued: int = 0
    history_bytes: int = 0
    history_bytes_in_all: int = 0
    published_history_bytes: int = 0
    published_history_bytes_in_all: int = 0
    keyed_bytes: int = 0
    history_dropped: int = 0
    history_failed: int = 0
    peers: int = 0
    bus_told: int = 0
    bus_received: int = 0
    bus_lost: int = 0
    bus_invalid: int = 0
    bus_down: bool = False
    go_told: int = 0
    go_refused: int = 0
    connected: int = 0
    refused: int = 0
    crowded_addresses: int = 0
    crowded_users: int = 0
    crowded_pending: int = 0
    crowded_handshakes: int = 0
    slow_handshakes: int = 0
    foreign_origins: int = 0
    unauthenticated: int = 0
    auth_timeouts: int = 0
    expired: int = 0
    io_uring: bool = False
    published: int = 0
    delivered: int = 0
    dropped: int = 0
    slow_disconnects: int = 0
    write_timeouts: int = 0
    pong_timeouts: int = 0
    oversized_messages: int = 0
    fragmented_messages: int = 0
    slow_messages: int = 0
    slowed: int = 0
    message_floods: int = 0
    overdrafts: int = 0
    barred: int = 0
    control_floods: int = 0
    bad_messages: int = 0
    bad_channels: int = 0
    refused_subscriptions: int = 0
    refused_subscriptions_in_all: int = 0
    callback_errors: int = 0
    internal_errors: int = 0


class Counters:
    """Thread-safe monotonic counters, by name."""

    def __init__(self) -> None:
        # guards: the counters. Taken after any other lock; nothing is taken under it.
        self._lock = Lock()
        # Of a type that knows its zero, so that to add is one step, which nothing comes between.
        self._numbers: defaultdict[str, int] = defaultdict(int)

    def add(self, name: str, amount: int = 1) -> None:
        """Increase a counter."""
        with self._lock:
            self._numbers[name] += amount

    def snapshot(self) -> dict[str, int]:
        """Return all counters as they are now."""
        with self._lock:
            return dict(self._numbers)
