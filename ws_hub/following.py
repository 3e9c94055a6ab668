"""What a client follows: its channels, and in each the last message that it has had.

Must not know sockets, threads or clocks; messages in, messages to send out. It turns
"numbered messages over connections that break" into "each once, in order, or said to be
missing". Rules of this file:

- A message is taken when its number is the next one. A number that jumps is a gap, and
  the channel is subscribed again from the last one taken; until the server has
  acknowledged that, only the next number is taken, for the missing ones come again.
- Numbers that begin again without an acknowledgement are a new numbering: all of it is
  asked for.
- A position is sent without waiting to know who is there: a Go hub ignores fields that
  it does not know (INTEROP). When it turns out to be one, what it sent nobody can know.
- What is lost for good is returned as MessagesLost, never passed over.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from .errors import WsHubError, excerpt
from .message import Message, MessageType

__all__ = ["Following", "MessagesLost", "Verdict"]

_ID = "ws-hub:"
_MAX_LAGS = 3


class MessagesLost(WsHubError):
    """Messages are gone that no server keeps any more; what follows is whole again.

    Attributes:
        channel: which channel's; "" for messages that belong to none that is followed.
        count: how many; None when that cannot be known.
    """

    def __init__(self, channel: str, count: int | None, why: str) -> None:
        self.channel = channel
        self.count = count
        self.why = why
        where = f" of channel {excerpt(channel)}" if channel else ""
        super().__init__(f"{'some' if count is None else count} messages{where} are lost: {why}")

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), (self.channel, self.count, self.why)


@dataclass
class Verdict:
    """What to do about one message from the server.

    Args:
        deliver: whether the application gets it.
        send: what to send to the server.
        lost: what to report.
    """

    deliver: bool = True
    send: list[Message] = field(default_factory=list)
    lost: list[MessagesLost] = field(default_factory=list)


@dataclass
class _Channel:
    since: int | None  # what the application asked for: what came after this number,
    newest: int | None = None  # or so many of the newest
    last: int | None = None  # number of the last message taken
    epoch: str = ""  # the numbering it belongs to; "" until a server has named it
    pending: str = ""  # id of the subscription that has no answer yet
    restart: bool = False  # that subscription asks for a new numbering: nothing fits before
    named: bool = False  # that subscription names a position
    replaying: int = 0  # so many still to come are a replay, and may have been taken already
    behind: bool = False  # the application had no room; catches up when it has
    lags: int = 0  # so often lagged since the last message taken


class Following:
    """The subscriptions of one client. Its owner calls it under one lock."""

    def __init__(self) -> None:
        self._channels: dict[str, _Channel] = {}
        self._ids = itertools.count(1)
        self._pings: set[str] = set()
        self._unplaced = 0  # messages without a place in any numbering that had no room
        self.extensions: bool | None = None  # whether this connection's server knows them

    @property
    def channels(self) -> Collection[str]:
        """The names of the channels followed."""
        return frozenset(self._channels)

    # --- what the application wants --------------------------------------------------------

    def add(self, channel: str, since: int | None, newest: int | None = None) -> Message:
        """Follow a channel; return what subscribes to it."""
        found = self._channels.get(channel)
        if found is None or since is not None or newest is not None:
            found = self._channels[channel] = _Channel(since, newest)
        return self._subscribe(channel, found)

    def remove(self, channel: str) -> Message | None:
        """Follow a channel no longer; return what tells the server, None if it was not."""
        if self._channels.pop(channel, None) is None:
            return None
        return Message(MessageType.UNSUBSCRIBE, channel=channel, data=channel)

    def open(self) -> list[Message]:
        """Return what to say first on a new connection: who are you, and all channels."""
        self.extensions = None
        ping = self._new_id()
        self._pings = {ping}
        for channel in self._channels.values():
            channel.behind = False
        return [
            Message(MessageType.PING, id=ping),
            *(self._subscribe(name, channel) for name, channel in self._channels.items()),
        ]

    def _subscribe(
        self, name: str, channel: _Channel, *, restart: bool = False, skip: bool = False
    ) -> Message:
        channel.pending = self._new_id()
        channel.restart = restart
        since, newest, epoch = channel.since, channel.newest, ""
        if restart:
            since, newest = 0, None
        elif skip:
            since, newest = None, 0
        elif channel.last is not None:
            since, newest, epoch = channel.last, None, channel.epoch
        channel.named = since is not None or newest is not None
        return Message(
            MessageType.SUBSCRIBE,
            channel=name,
            data=name,
            id=channel.pending,
            since=since,
            epoch=epoch,
            last=newest,
        )

    def _new_id(self) -> str:
        return f"{_ID}{next(self._ids)}"

    # --- what the server says --------------------------------------------------------------

    def take(self, message: Message) -> Verdict:
        """Decide about the next message from the server."""
        if message.type == MessageType.PONG:
            return self._pong(message)
        if message.type in (MessageType.ACK, MessageType.ERROR) and _is_ours(message.id):
            return self._answer(message)
        channel = self._channels.get(message.channel)
        if channel is None or message.seq is None:
            return Verdict()
        if message.type == MessageType.LAGGED:
            return self._lagged(message.channel, message.seq, channel)
        return self._numbered(message.channel, message.seq, channel)

    def _pong(self, message: Message) -> Verdict:
        if message.id in self._pings:
            self._pings.clear()
            self.extensions = True
            return Verdict(deliver=False)
        if message.id is not None or not self._pings:
            return Verdict()  # the application's own
        self._pings.clear()
        self.extensions = False
        lost = []
        for name, channel in self._channels.items():
            if channel.last is not None:
                lost.append(MessagesLost(name, None, "the server keeps no history"))
                self._channels[name] = _Channel(None)
        return Verdict(deliver=False, lost=lost)

    def _answer(self, message: Message) -> Verdict:
        name = next((n for n, each in self._channels.items() if each.pending == message.id), None)
        if name is None:
            # Of a subscription given up since. An error is the application's to see.
            return Verdict(deliver=message.type == MessageType.ERROR)
        channel = self._channels[name]
        channel.pending = ""
        if message.type == MessageType.ACK:
            data = message.data if isinstance(message.data, dict) else {}
            return self._acknowledged(name, channel, data)
        self._channels[name] = _Channel(channel.since, channel.newest)
        verdict = Verdict()
        if channel.last is not None:
            verdict.lost.append(MessagesLost(name, None, "the server refused to go on"))
        return verdict

    def _acknowledged(self, name: str, channel: _Channel, data: dict[str, Any]) -> Verdict:
        verdict = Verdict(deliver=False)
        epoch, seq, replayed = data.get("epoch"), data.get("seq"), data.get("replayed", 0)
        recovered = data.get("recovered") is not False
        if not isinstance(epoch, str) or not _is_count(seq) or not _is_count(replayed):
            # A channel that keeps nothing has no positions.
            if channel.last is not None or not recovered:
                verdict.lost.append(MessagesLost(name, None, "the server keeps none"))
            self._channels[name] = _Channel(channel.since, channel.newest)
            return verdict
        base = max(seq - replayed, 0)  # the number before the first that comes now
        had = channel.since if channel.last is None else channel.last
        same = channel.last is None or (channel.epoch == epoch and not channel.restart)
        if channel.restart:
            if base:
                verdict.lost.append(MessagesLost(name, base, "no longer kept"))
        elif had is not None and not recovered:
            if not same or seq < had:
                verdict.lost.append(MessagesLost(name, None, "the numbering began again"))
            elif base > had:
                verdict.lost.append(MessagesLost(name, base - had, "no longer kept"))
        if same and channel.last is not None and seq >= channel.last:
            channel.last = max(base, channel.last)
        else:
            channel.last = base
        channel.epoch, channel.replaying, channel.restart = epoch, replayed, False
        if not channel.named:
            # Only who has named a position is told when it lags behind.
            verdict.send.append(self._subscribe(name, channel))
        return verdict

    def _lagged(self, name: str, seq: int, channel: _Channel) -> Verdict:
        """Catch up; the application sees the notice."""
        if channel.last is None:
            channel.last = seq
        channel.lags += 1
        if channel.lags > _MAX_LAGS:
            # What is missing does not fit the server's buffer at once and never will.
            verdict = Verdict(send=[self._subscribe(name, channel, skip=True)])
            if channel.lags == _MAX_LAGS + 1:
                why = "more than the server can send at once"
                verdict.lost.append(MessagesLost(name, None, why))
            return verdict
        return Verdict(send=[] if channel.behind else [self._subscribe(name, channel)])

    def _numbered(self, name: str, seq: int, channel: _Channel) -> Verdict:
        again, channel.replaying = channel.replaying > 0, max(channel.replaying - 1, 0)
        if channel.behind or (channel.pending and channel.restart):
            return Verdict(deliver=False)  # comes again
        if channel.last is None or seq == channel.last + 1:
            channel.last, channel.lags = seq, 0
            return Verdict()
        if seq <= channel.last:
            if channel.pending or again or not channel.epoch:
                return Verdict(deliver=False)  # had already
            return Verdict(deliver=False, send=[self._subscribe(name, channel, restart=True)])
        if channel.pending:
            return Verdict(deliver=False)
        if not channel.epoch:  # nobody who could send it again
            lost = MessagesLost(name, seq - channel.last - 1, "the server left them out")
            channel.last = seq
            return Verdict(lost=[lost])
        return Verdict(deliver=False, send=[self._subscribe(name, channel)])

    # --- when the application is too slow --------------------------------------------------

    def refused(self, message: Message) -> None:
        """Take back a message that was to be delivered: there was no room for it."""
        channel = self._channels.get(message.channel)
        if channel is None or message.seq is None or not channel.epoch:
            self._unplaced += 1
        elif not channel.behind:
            channel.behind = True
            channel.last = message.seq - 1

    def catch_up(self) -> Verdict:
        """Say what to send, and what is lost, now that there is room again."""
        verdict = Verdict(deliver=False)
        for name, channel in self._channels.items():
            if channel.behind:
                channel.behind = False
                verdict.send.append(self._subscribe(name, channel))
        if self._unplaced:
            count, self._unplaced = self._unplaced, 0
            verdict.lost.append(MessagesLost("", count, "they came faster than they were taken"))
        return verdict


def _is_ours(id: str | int | None) -> bool:
    return isinstance(id, str) and id.startswith(_ID)


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
