"""What waits for clients that are behind, in channels that may leave messages out.

The rules of such channels are `overflow="latest"` and `"drop_oldest"`. A message that meets a
client with a backlog is not queued for that client: it is kept here once, for all clients of the
channel that are behind, and each of them has a cursor (see `replay`). What is pushed out before
a cursor came to it is a gap, which is counted.

Everything here runs on the hub thread, which owns it; nothing here waits. A channel of which no
client is behind keeps nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..config import ChannelRule
from ..protocol.publication import Publication
from .history import History, Piece, Position

__all__ = ["OverflowStore"]

_MOST_BYTES = 64 * 1024 * 1024  # of memory, for all channels together, or one outbox if larger


class OverflowStore:
    """The newest messages of the channels of which some client is behind.

    Args:
        rule_for: returns the rule of a channel.
        is_heard: says whether a channel has subscribers.
        max_messages: messages that wait in a channel that drops the oldest.
        max_bytes: bytes of these.
    """

    def __init__(
        self,
        rule_for: Callable[[str], ChannelRule],
        is_heard: Callable[[str], bool],
        max_messages: int,
        max_bytes: int,
    ) -> None:
        latest = ChannelRule(pattern="*", history_messages=1)
        oldest = ChannelRule(pattern="*", history_messages=max_messages, history_bytes=max_bytes)
        most = max(_MOST_BYTES, max_bytes)
        self._history = History(
            lambda channel: latest if rule_for(channel).overflow == "latest" else oldest,
            is_heard,
            max_bytes=most,
            max_published_bytes=most,
        )
        self._kept: set[str] = set()  # the channels that keep something
        # Of the dispatch under way: what nobody is behind with yet, and the numbers of the rest.
        self._runs: dict[str, list[Publication]] = {}
        self._numbers: dict[Publication, int] = {}

    def take(self, channel: str, run: Sequence[Publication]) -> None:
        """Take what is about to be delivered in a channel."""
        if channel in self._kept:
            self._keep(channel, run)
        else:
            self._runs.setdefault(channel, []).extend(run)

    def position(self, publication: Publication) -> Position:
        """Return the position right before a publication that is being delivered.

        It is kept from here on, with all that follows it in its channel.
        """
        channel = publication.channel
        run = self._runs.pop(channel, None)
        if run is not None:
            self._keep(channel, run)
        return Position(
            self._history.locate(channel).position.epoch, self._numbers[publication] - 1
        )

    def _keep(self, channel: str, run: Sequence[Publication]) -> None:
        first = self._history.next_seq(channel)
        self._history.extend(channel, [each.frame for each in run], 0.0)
        self._numbers.update((each, first + index) for index, each in enumerate(run))
        self._kept.add(channel)

    def settle(self) -> None:
        """Forget what was delivered, at the end of a dispatch."""
        if self._runs or self._numbers:
            self._runs, self._numbers = {}, {}

    def release(self, is_awaited: Callable[[str], bool]) -> None:
        """Forget the messages of the channels of which no client is behind any more."""
        if not self._kept:
            return
        for channel in [each for each in self._kept if not is_awaited(each)]:
            self._history.free(channel)
            self._kept.remove(channel)

    def piece(self, channel: str, epoch: str, after: int) -> Piece | None:
        """Return the messages behind a number; see `History.piece`."""
        return self._history.piece(channel, epoch, after)

    def is_far(self, channel: str, epoch: str, after: int) -> bool:
        """Return whether so much lies behind a number that it may be pushed out soon."""
        return self._history.is_far(channel, epoch, after)
