"""What can be seen of a hub from outside: who is there, and what is counted.

Must not know how any of it comes about; nothing here changes anything.
"""

from __future__ import annotations

from ..access.authenticators import check_user
from ..connection.client import Client
from .shutdown import Draining
from .stats import HubStats

__all__ = ["Overview"]


class Overview(Draining):
    """A running hub that can be looked at."""

    def client_count(self) -> int:
        """Return how many clients are connected.

        Threads: any.
        """
        return len(self._roster)

    def all_clients(self) -> list[Client]:
        """Return the connected clients, oldest first.

        Threads: any.
        """
        return self._roster.clients()

    def clients(self, channel: str) -> list[Client]:
        """Return the clients that listen to a channel, oldest subscription first.

        Threads: any.
        """
        found = (each.subscriber for each in self._channels.subscriptions(channel))
        return [each for each in found if isinstance(each, Client)]

    def user_clients(self, user_id: str) -> list[Client]:
        """Return the connections of a user, oldest first.

        Raises TypeError and InvalidName for a user id that is none.

        Threads: any.
        """
        check_user(user_id)
        return self._members.users.of(user_id)

    def channel_count(self) -> int:
        """Return how many channels somebody listens to.

        Threads: any.
        """
        return len(self._channels)

    def all_channels(self) -> list[str]:
        """Return the channels that somebody listens to.

        Threads: any.
        """
        return self._channels.names()

    def kept_channels(self) -> list[str]:
        """Return the channels that keep history, longest unused first.

        Threads: any.
        """
        return self._history.names()

    def channel_subscriber_count(self, channel: str) -> int:
        """Return how many listen to a channel, `listen` included.

        Threads: any.
        """
        return self._channels.count(channel)

    def has_subscribers(self, channel: str) -> bool:
        """Say whether anybody listens to a channel: whether output is worth making.

        Threads: any.
        """
        return self._channels.count(channel) > 0

    def stats(self) -> HubStats:
        """Return what the hub counts.

        Threads: any.
        """
        history, config = self._history.usage(), self.config
        return HubStats(
            clients=self.client_count(),
            channels=len(self._channels),
            subscriptions=self._channels.total,
            queued=self._broadcasts.qsize(),
            history_bytes=history.kept,
            history_bytes_in_all=config.history_bytes_in_all,
            published_history_bytes=history.published,
            published_history_bytes_in_all=config.published_history_bytes_in_all,
            history_dropped=history.dropped,
            **self._counters.snapshot(),
        )
