"""What a client follows: its channels, and in each the last message that it has had.

Must not know sockets, threads or clocks; messages in, messages to send out. It turns
"numbered messages over connections that break" into "each once, in order, or said to be
missing". Rules of this file:

- A numbered message counts from the server's answer to the newest subscription on. What
  comes before that answer belongs to an older subscription, or comes again.
- Between an unsubscription and the server's answer to it, messages of that channel are
  leftovers and dropped. A Go hub never answers: there they are dropped until the channel
  is subscribed again.
- A message is taken when its number is the next one. A number that jumps is a gap, and
  the channel is subscribed again from the last one taken. Within a replay a hole is no
  gap: states that were replaced are not kept.
- Numbers that fall are a new numbering, or one message twice: the channel is subscribed
  again, and the answer tells which. Of a new numbering all comes.
- A position is sent without waiting to know who is there: a Go hub ignores fields that
  it does not know (INTEROP). When it turns out to be one, what it sent nobody can know.
- A server that is too busy for a subscription is asked again later; nothing is lost by that.
- What is lost for good is returned as MessagesLost, never passed over.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from ..errors import WsHubError, excerpt
from ..protocol.message import Message, MessageType

__all__ = ["Following", "MessagesLost", "Verdict"]

_ID = "ws-hub:"
_MAX_LAGS = 3
_BUSY = ("internal", "rate_limited")  # codes of errors that are the server's trouble, not ours
_MAX_LEFT = 1024  # unsubscribed channels that a Go hub, which never answers, makes us remember


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
        retry: whether `retry` is to be called after a while.
    """

    deliver: bool = True
    send: list[Message] = field(default_factory=list)
    lost: list[MessagesLost] = field(default_factory=list)
    retry: bool = False


@dataclass
class _Channel:
    since: int | None  # what the application asked for: what came after this number,
    newest: int | None = None  # or so many of the newest
    last: int | None = None  # number of the last message taken
    epoch: str = ""  # the numbering it belongs to; "" until a server has named it
    pending: str = ""  # id of the newest subscription, while it has no answer
    busy: bool = False  # the server had no time for the last subscription
    live: bool = False  # this connection's server has answered: its numbers count
    fell: bool = False  # so the pending subscription was sent because the numbers fell
    head: int = 0  # the newest number at the last answer: up to it, messages are its replay
    replaying: int = 0  # so many of them are still to come, and may have been taken already
    had: int | None = None  # the first of them tells how many after this number are lost
    behind: bool = False  # the application had no room; catches up when it has
    lags: int = 0  # so often lagged since the last message taken


class Following:
    """The subscriptions of one client. Its owner calls it under one lock."""

    def __init__(self) -> None:
        self._channels: dict[str, _Channel] = {}
        self._left: dict[str, str] = {}  # channel → id of its unsubscription without an answer
        self._ids = itertools.count(1)
        self._pings: set[str] = set()
        # Channel -> messages without a place in its numbering that had no room.
        self._unplaced: dict[str, int] = {}
        self._skipped = 0  # messages of unknown channels that this connection was too small for
        self.extensions: bool | None = None  # whether this connection's server knows them

    @property
    def channels(self) -> Collection[str]:
        """The names of the channels followed."""
        return frozenset(self._channels)

    # --- what the application wants --------------------------------------------------------

    def add(self, channel: str, since: int | None, newest: int | None = None) -> list[Message]:
        """Follow a channel; return what subscribes to it.

        One that is followed already is begun anew when a position is given, and else
        asked for again only when the server has refused or ended it.
        """
        found = self._channels.get(channel)
        if found is None:
            found = self._channels[channel] = _Channel(since, newest)
            return [self._subscribe(channel, found)]
        if since is None and newest is None:
            return [] if found.pending or found.live else [self._subscribe(channel, found)]
        found = self._channels[channel] = _Channel(since, newest)
        return self._anew(channel, found)

    def remove(self, channel: str) -> Message | None:
        """Follow a channel no longer; return what tells the server, None if it was not."""
        if self._channels.pop(channel, None) is None:
            return None
        return self._unsubscribe(channel)

    def open(self) -> list[Message]:
        """Return what to say first on a new connection: who are you, and all channels."""
        self.extensions = None
        ping = self._new_id()
        self._pings = {ping}
        self._left.clear()
        self._skipped = 0
        for channel in self._channels.values():
            channel.behind = channel.live = False
        return [
            Message(MessageType.PING, id=ping),
            *(self._subscribe(name, channel) for name, channel in self._channels.items()),
        ]

    def _subscribe(
        self, name: str, channel: _Channel, *, fell: bool = False, skip: bool = False
    ) -> Message:
        channel.pending, channel.busy = self._new_id(), False
        channel.fell = fell
        since, newest, epoch = channel.since, channel.newest, ""
        if skip:
            since, newest = None, 0
        elif channel.last is not None:
            since, newest, epoch = channel.last, None, channel.epoch
        return Message(
            MessageType.SUBSCRIBE,
            channel=name,
            data=name,
            id=channel.pending,
            since=since,
            epoch=epoch,
            last=newest,
        )

    def _unsubscribe(self, name: str) -> Message:
        self._left.pop(name, None)  # so that the newest stand last
        self._left[name] = id = self._new_id()
        if len(self._left) > _MAX_LEFT:
            del self._left[next(iter(self._left))]
        return Message(MessageType.UNSUBSCRIBE, channel=name, data=name, id=id)

    def _anew(self, name: str, channel: _Channel, *, fell: bool = False) -> list[Message]:
        # A server need not replay to a subscription that is live: that one ends first.
        return [self._unsubscribe(name), self._subscribe(name, channel, fell=fell)]

    def _new_id(self) -> str:
        return f"{_ID}{next(self._ids)}"

    # --- what the server says --------------------------------------------------------------

    def take(self, message: Message) -> Verdict:
        """Decide about the next message from the server."""
        if message.type == MessageType.PONG:
            return self._pong(message)
        if message.type in (MessageType.ACK, MessageType.ERROR) and _is_ours(message.id):
            return self._answer(message)
        name, seq = message.channel, message.seq
        channel = self._channels.get(name)
        if channel is None:
            return Verdict(deliver=name not in self._left)
        if _is_end(message) and not channel.pending:
            channel.live = False
            return Verdict()
        if seq is None:
            # Of a channel left and subscribed again: ours says where the new one begins.
            old = self.extensions is True and name in self._left
            # A state that is not kept: older messages are being fetched, and it is over.
            early = channel.epoch != "" and (channel.behind or channel.pending != "")
            return Verdict(deliver=not old and not early)
        if message.type == MessageType.LAGGED:
            return self._lagged(name, channel)
        return self._numbered(name, seq, channel)

    def retry(self) -> list[Message]:
        """Return what subscribes to the channels that the server had no time for."""
        return [
            self._subscribe(name, channel, fell=channel.fell)
            for name, channel in self._channels.items()
            if channel.busy
        ]

    def skipped(self) -> None:
        """Note that a message, of whatever channel, was too large to be taken."""
        self._skipped += 1

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
            channel.pending = ""  # nothing is answered
            if channel.last is not None:
                lost.append(MessagesLost(name, None, "the server keeps no history"))
                self._channels[name] = _Channel(None)
        return Verdict(deliver=False, lost=lost)

    def _answer(self, message: Message) -> Verdict:
        for name, id in self._left.items():
            if id == message.id:
                del self._left[name]
                return Verdict(deliver=False)
        name = next((n for n, each in self._channels.items() if each.pending == message.id), "")
        if not name:
            return Verdict(deliver=False)  # of a subscription given up since
        channel = self._channels[name]
        if message.type == MessageType.ACK:
            data = message.data if isinstance(message.data, dict) else {}
            return self._acknowledged(name, channel, data)
        if message.code in _BUSY:
            channel.pending, channel.busy, channel.live = "", True, False
            return Verdict(deliver=False, retry=True)
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
            self._channels[name] = _Channel(channel.since, channel.newest, live=True)
            return verdict
        had = channel.since if channel.last is None else channel.last
        same = had is None or had <= seq
        same = same and (channel.last is None or channel.epoch == epoch)
        if channel.fell and not same:
            channel.had = 0  # all of the old numbering had come
        elif had is None or recovered:
            channel.had = None
        elif same:
            channel.had = had
        else:
            channel.had = None
            verdict.lost.append(MessagesLost(name, None, "the numbering began again"))
        if not same and channel.last is not None:
            channel.last = 0
        channel.pending, channel.fell, channel.live = "", False, True
        channel.epoch, channel.head, channel.replaying = epoch, seq, replayed
        if not replayed:
            self._count_lost(name, channel, seq + 1, verdict)
            channel.last = seq
        return verdict

    @staticmethod
    def _count_lost(name: str, channel: _Channel, first: int, verdict: Verdict) -> None:
        """Report what is no longer kept, now that the first of what is kept is known."""
        had, channel.had = channel.had, None
        if had is not None and first > had + 1:
            verdict.lost.append(MessagesLost(name, first - had - 1, "no longer kept"))

    def _lagged(self, name: str, channel: _Channel) -> Verdict:
        """Catch up; the application sees the notice."""
        if channel.pending or not channel.live:
            return Verdict()  # an older subscription's: the newest one catches up
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
        if channel.behind or channel.pending:
            # Comes again, or was never asked for. Not even the next number is taken: the
            # numbering may have begun again.
            return Verdict(deliver=False)
        last = channel.last
        replayed = channel.replaying > 0 and seq <= channel.head
        channel.replaying = channel.replaying - 1 if replayed else 0
        if last is not None and seq <= last:
            if replayed or not channel.epoch:
                return Verdict(deliver=False)  # had already
            return Verdict(deliver=False, send=self._anew(name, channel, fell=True))
        verdict = Verdict()
        if replayed:
            self._count_lost(name, channel, seq, verdict)
        elif channel.live or last is not None:
            hole = seq - max(last or 0, channel.head) - 1
            if hole > self._skipped and channel.epoch:
                return Verdict(deliver=False, send=self._anew(name, channel))
            if hole > 0:
                why = (
                    "larger than max_message_size" if channel.epoch else "the server left them out"
                )
                self._skipped -= min(hole, self._skipped)
                verdict.lost.append(MessagesLost(name, hole, why))
        # What the end of a replay lacks was replaced as well.
        over = replayed and not channel.replaying
        channel.last = max(seq, channel.head) if over else seq
        channel.lags = 0
        return verdict

    # --- when the application is too slow --------------------------------------------------

    def refused(self, message: Message) -> None:
        """Take back a message that was to be delivered: there was no room for it."""
        if message.type == MessageType.LAGGED:
            return  # its number is not its own, and what it is about is being fetched
        channel = self._channels.get(message.channel)
        if channel is None or message.seq is None or not channel.epoch:
            name = "" if channel is None else message.channel
            self._unplaced[name] = self._unplaced.get(name, 0) + 1
        elif not channel.behind:
            channel.behind = True
            channel.last = message.seq - 1

    def catch_up(self) -> Verdict:
        """Say what to send, and what is lost, now that there is room again."""
        verdict = Verdict(deliver=False)
        for name, channel in self._channels.items():
            if channel.behind:
                channel.behind = False
                verdict.send += self._anew(name, channel)
        unplaced, self._unplaced = self._unplaced, {}
        for name, count in unplaced.items():
            verdict.lost.append(MessagesLost(name, count, "they came faster than they were taken"))
        return verdict


def _is_ours(id: str | int | None) -> bool:
    return isinstance(id, str) and id.startswith(_ID)


def _is_end(message: Message) -> bool:
    """Say whether a server has ended a subscription; a refused publish says `Publish: ...`."""
    return (
        message.type == MessageType.ERROR
        and message.id is None
        and message.code == "forbidden"
        and str(message.data).startswith("Subscribe:")
    )


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
