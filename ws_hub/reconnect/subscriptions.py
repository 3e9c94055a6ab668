"""The subscriptions of a client, and its position in each channel.

No I/O and no clock: messages from the server go in, decisions and requests to send come
out. Numbered messages over connections that fail become messages that are delivered once
and in order, or reported as lost. Rules of this file:

- A numbered message counts once the server has acknowledged the newest subscription. What
  arrives before that belongs to an older subscription, or is sent again.
- Between an unsubscription and its acknowledgement, messages of that channel are dropped.
  A Go hub acknowledges nothing: there they are dropped until the channel is subscribed
  again.
- A message is taken when its number is the next one. A number that jumps is a gap: the
  channel is subscribed again from the last position. Within a replay a jump is a loss where
  the acknowledgement is not recovered, and nothing where it is.
- A number that falls is either a new numbering or a message sent twice: the channel is
  subscribed again, and the acknowledgement tells which. Of a new numbering all messages
  are requested.
- In a sparse subscription a hole is no gap: its server leaves messages out, and says `lagged`
  when one is lost. One with a filter is one, and that of a keyed channel: the newest message of
  each key is its state. An acknowledgement that is not recovered begins a new state, all of
  which follows.
- A position is sent before the kind of server is known: a Go hub ignores fields that it
  does not know (INTEROP). When the server turns out to be one, its earlier messages
  cannot be counted.
- A subscription for which the server is too busy is repeated later; nothing is lost.
- Messages that are lost for good are always returned as MessagesLost.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any, TypeGuard

from ..errors import WsHubError, excerpt
from ..protocol.filters import Filter
from ..protocol.message import Message, MessageType, SubscribeMessage
from .presence import ChannelPresence, PresenceChange

__all__ = ["MessagesLost", "Start", "Subscriptions", "Verdict"]

_ID = "ws-hub:"
_MAX_LAGS = 3
_BUSY = ("internal", "rate_limited")  # codes of refusals that a later request may not meet
# Unsubscriptions without an acknowledgement that are remembered: a Go hub never sends one.
_MAX_LEFT = 1024


class MessagesLost(WsHubError):
    """Messages are lost for good; the messages that follow are complete again.

    Attributes:
        channel: the channel's name; "" for messages of no subscribed channel.
        count: how many messages; None when the number is not known.
        why: the reason.
        total_bytes: bytes of the messages; None when the server has not said that.
    """

    def __init__(
        self, channel: str, count: int | None, why: str, total_bytes: int | None = None
    ) -> None:
        self.channel = channel
        self.count = count
        self.why = why
        self.total_bytes = total_bytes
        where = f" of channel {excerpt(channel)}" if channel else ""
        size = "" if total_bytes is None else f" ({total_bytes:,} bytes)"
        many = "some" if count is None else count
        super().__init__(f"{many} messages{where} are lost{size}: {why}")

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), (self.channel, self.count, self.why, self.total_bytes)


@dataclass
class Verdict:
    """The decision about one message from the server.

    Args:
        deliver: whether the application gets the message.
        send: requests to send to the server.
        lost: losses to report.
        retry: whether to call `Subscriptions.retry` after a while.
        presence: a change of a channel's presence to report.
    """

    deliver: bool = True
    send: list[Message] = field(default_factory=list)
    lost: list[MessagesLost] = field(default_factory=list)
    retry: bool = False
    presence: PresenceChange | None = None


@dataclass(frozen=True, slots=True)
class Start:
    """Where a subscription starts, until there is a position; from now on without any of these.

    Args:
        since: behind this number.
        last: with this many of the newest messages.
        since_time: with what is from this time on, RFC 3339.
        filter: which messages; None for all. It is meant at any start, also at a position.
    """

    since: int | None = None
    last: int | None = None
    since_time: str = ""
    filter: Filter | None = None

    @property
    def names_position(self) -> bool:
        """Whether it says anything but from now on."""
        return bool(self.since_time) or not (self.since is self.last is None)


@dataclass
class _Channel:
    start: Start  # what the application asked for
    last: int | None = None  # the position: number of the last message taken
    epoch: str = ""  # the numbering of `last`; "" until a server has named it
    pending: str = ""  # id of the newest subscription, until it is acknowledged
    busy: bool = False  # the server was too busy for the last subscription
    live: bool = False  # acknowledged on this connection: its numbers count
    fell: bool = False  # the pending subscription was sent because a number fell
    head: int = 0  # the newest number when it was acknowledged: the replay ends with it
    replaying: int = 0  # replayed messages still to come; some may have been taken before
    whole: bool = True  # nothing is missing in the replay, though numbers may be
    had: int | None = None  # what lies between this number and the replay's next is lost
    behind: bool = False  # the inbox had no room; requested again when there is
    # The last number of what the server has let go, and its bytes, where it has said so.
    middle: tuple[int, int | None] = (-1, None)
    lags: int = 0  # `lagged` messages since the last message taken
    sparse: bool = False  # whether the server leaves messages out
    keyed: bool = False  # whether it keeps the newest message of each key
    state: dict[str, Message] = field(default_factory=dict)  # the newest of each key


class Subscriptions:
    """The subscriptions of one client. Its owner calls every method under one lock."""

    def __init__(self) -> None:
        self._channels: dict[str, _Channel] = {}
        # Channel -> id of its unsubscription, until that is acknowledged.
        self._left: dict[str, str] = {}
        self._ids = itertools.count(1)
        self._pings: set[str] = set()
        # Channel -> messages without a number there that found no room in the inbox.
        self._unplaced: dict[str, int] = {}
        self._skipped = 0  # messages of unknown channels, over max_message_size
        self.presence = ChannelPresence()
        self.extensions: bool | None = None  # whether this connection's server knows them

    @property
    def channels(self) -> Collection[str]:
        """The names of the subscribed channels."""
        return frozenset(self._channels)

    def snapshot(self, channel: str) -> dict[str, Message]:
        """Return the newest message of each key of a channel."""
        found = self._channels.get(channel)
        return {} if found is None else dict(found.state)

    # --- requests of the application -------------------------------------------------------

    def add(self, channel: str, start: Start) -> list[Message]:
        """Add a subscription; return the requests to send.

        A channel that is subscribed already starts again where `start` says. Where that is
        from now on, it is requested again only when the server has refused or ended it, or with
        another filter: it goes on behind the last message then. The state of a keyed channel
        begins anew.
        """
        former = self._channels.get(channel)
        same = former is not None and former.start.filter == start.filter
        if former is not None and same and not start.names_position:
            return [] if former.pending or former.live else [self._subscribe(channel, former)]
        found = self._channels[channel] = _Channel(start)
        if former is None:
            return [self._subscribe(channel, found)]
        if start.names_position or former.keyed:
            return self._anew(channel, found)
        found.start = replace(former.start, filter=start.filter)
        found.last, found.epoch = former.last, former.epoch
        return [self._subscribe(channel, found)]

    def remove(self, channel: str) -> Message | None:
        """Remove a subscription; return the request to send, None if there was none."""
        if self._channels.pop(channel, None) is None:
            return None
        self.presence.forget(channel)
        return self._unsubscribe(channel)

    def open(self) -> list[Message]:
        """Return the first requests on a new connection: a ping and all subscriptions.

        The answer to the ping tells whether the server knows the extensions.
        """
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
        start, epoch = channel.start, ""
        if skip:
            start = Start(last=0)
        elif channel.last is not None:
            start, epoch = Start(since=channel.last), channel.epoch
        filter = channel.start.filter
        return SubscribeMessage(
            MessageType.SUBSCRIBE,
            channel=name,
            data=name,
            id=channel.pending,
            since=start.since,
            epoch=epoch,
            last=start.last,
            since_time=start.since_time,
            filter=None if filter is None else filter.value,
        )

    def _unsubscribe(self, name: str) -> Message:
        self._left.pop(name, None)  # so that the dict stays in the order of the requests
        self._left[name] = id = self._new_id()
        if len(self._left) > _MAX_LEFT:
            del self._left[next(iter(self._left))]
        return Message(MessageType.UNSUBSCRIBE, channel=name, data=name, id=id)

    def _anew(self, name: str, channel: _Channel, *, fell: bool = False) -> list[Message]:
        # A server need not replay to an existing subscription: end it first.
        return [self._unsubscribe(name), self._subscribe(name, channel, fell=fell)]

    def _new_id(self) -> str:
        return f"{_ID}{next(self._ids)}"

    # --- messages from the server ----------------------------------------------------------

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
            self.presence.forget(name)
            return Verdict()
        if message.type == MessageType.PRESENCE and name in self.presence:
            # What is left over of an older subscription says nothing any more.
            change = None if name in self._left else self.presence.take(message)
            return Verdict(deliver=False, presence=change)
        if message.type == MessageType.HISTORY_GAP:
            if not channel.pending:
                channel.middle = _middle_of(message.data)
            return Verdict(deliver=False)
        if seq is None:
            # After unsubscribe and subscribe: it belongs to the old subscription until the
            # unsubscription is acknowledged.
            old = self.extensions is True and name in self._left
            # An unnumbered message ahead of older ones that are requested again.
            early = channel.epoch != "" and (channel.behind or channel.pending != "")
            return Verdict(deliver=not old and not early)
        if message.type == MessageType.LAGGED:
            return self._lagged(name, channel)
        verdict = self._numbered(name, seq, channel)
        if message.key and verdict.deliver:
            if message.data is None:
                channel.state.pop(message.key, None)
            else:
                channel.state[message.key] = message
        if message.type == MessageType.SKIP:  # the number of a message that is for others
            verdict.deliver = False
        return verdict

    def standing(self, name: str) -> bool | None:
        """Return whether a subscription is acknowledged; None while that is not known."""
        channel = self._channels.get(name)
        if channel is not None and not channel.live and (channel.pending or channel.busy):
            return None
        return channel is not None and channel.live

    def retry(self) -> list[Message]:
        """Return the subscriptions for which the server was too busy."""
        return [
            self._subscribe(name, channel, fell=channel.fell)
            for name, channel in self._channels.items()
            if channel.busy
        ]

    def skipped(self) -> None:
        """Count a message of an unknown channel that was over max_message_size."""
        self._skipped += 1

    def _pong(self, message: Message) -> Verdict:
        if message.id in self._pings:
            self._pings.clear()
            self.extensions = True
            return Verdict(deliver=False)
        if message.id is not None or not self._pings:
            return Verdict()  # the answer to a ping of the application
        self._pings.clear()
        self.extensions = False
        lost = []
        for name, channel in self._channels.items():
            channel.pending = ""  # this server acknowledges nothing
            self.presence.forget(name)
            if channel.last is not None:
                lost.append(MessagesLost(name, None, "the server keeps no history"))
                self._channels[name] = _Channel(Start(filter=channel.start.filter))
        return Verdict(deliver=False, lost=lost)

    def _answer(self, message: Message) -> Verdict:
        for name, id in self._left.items():
            if id == message.id:
                del self._left[name]
                return Verdict(deliver=False)
        name = next((n for n, each in self._channels.items() if each.pending == message.id), "")
        if not name:
            return Verdict(deliver=False)  # of a subscription that was removed since
        channel = self._channels[name]
        if message.type == MessageType.ACK:
            data = message.data if isinstance(message.data, dict) else {}
            verdict = self._acknowledged(name, channel, data)
            verdict.presence = self.presence.acknowledged(name, data.get("presence"))
            return verdict
        if message.code in _BUSY:
            channel.pending, channel.busy, channel.live = "", True, False
            return Verdict(deliver=False, retry=True)
        self._channels[name] = _Channel(channel.start)
        self.presence.forget(name)
        verdict = Verdict()
        if channel.last is not None:
            verdict.lost.append(MessagesLost(name, None, "the server refused to go on"))
        return verdict

    def _acknowledged(self, name: str, channel: _Channel, data: dict[str, Any]) -> Verdict:
        verdict = Verdict(deliver=False)
        epoch, seq, replayed = data.get("epoch"), data.get("seq"), data.get("replayed", 0)
        recovered = data.get("recovered") is not False
        if not isinstance(epoch, str) or not _is_count(seq) or not _is_count(replayed):
            # A channel without history has no positions.
            if channel.last is not None or not recovered:
                verdict.lost.append(MessagesLost(name, None, "the server keeps none"))
            self._channels[name] = _Channel(channel.start, live=True)
            return verdict
        channel.sparse = data.get("sparse") is True
        channel.keyed = data.get("keyed") is True
        channel.whole = recovered or channel.sparse
        if channel.keyed and not recovered:
            if channel.last is not None:
                why = "the present state follows"
                verdict.lost.append(MessagesLost(name, None, why))
            channel.state.clear()
            channel.last, recovered = None, True
        had = channel.start.since if channel.last is None else channel.last
        same = had is None or had <= seq
        same = same and (channel.last is None or channel.epoch == epoch)
        if channel.fell and not same:
            channel.had = 0  # all messages of the old numbering had been taken
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
    def _count_lost(name: str, channel: _Channel, next: int, verdict: Verdict) -> None:
        """Report how many messages the history does not have before the next that it has."""
        had, channel.had = channel.had, None
        if had is not None and next > had + 1:
            last, size = channel.middle
            size = size if last == next - 1 else None
            verdict.lost.append(MessagesLost(name, next - had - 1, "not kept", size))

    def _lagged(self, name: str, channel: _Channel) -> Verdict:
        """Request the missing messages; the application gets the `lagged` message too."""
        if channel.pending or not channel.live:
            return Verdict()  # of an older subscription: the newest one fills the gap
        channel.lags += 1
        if channel.lags > _MAX_LAGS:
            # The replay does not fit the server's outbox, and would lag again every time.
            verdict = Verdict(send=[self._subscribe(name, channel, skip=True)])
            if channel.lags == _MAX_LAGS + 1:
                why = "more than the server can send at once"
                verdict.lost.append(MessagesLost(name, None, why))
            return verdict
        return Verdict(send=[] if channel.behind else [self._subscribe(name, channel)])

    def _numbered(self, name: str, seq: int, channel: _Channel) -> Verdict:
        if channel.behind or channel.pending:
            # It is sent again, or was not requested. Not even the next number is taken: the
            # numbering may be a new one.
            return Verdict(deliver=False)
        last = channel.last
        replayed = channel.replaying > 0 and seq <= channel.head
        channel.replaying = channel.replaying - 1 if replayed else 0
        if last is not None and seq <= last:
            if replayed or not channel.epoch:
                return Verdict(deliver=False)  # taken before
            return Verdict(deliver=False, send=self._anew(name, channel, fell=True))
        verdict = Verdict()
        # What is missing at the end of a replay is reported with the message behind it.
        self._count_lost(name, channel, seq if replayed else channel.head + 1, verdict)
        if replayed and not channel.whole:
            channel.had = seq
        elif not replayed and (channel.live or last is not None):
            hole = seq - max(last or 0, channel.head) - 1
            if channel.sparse:
                hole = 0
            if hole > self._skipped and channel.epoch:
                verdict.deliver, verdict.send = False, self._anew(name, channel)
                return verdict
            if hole > 0:
                why = (
                    "larger than max_message_size" if channel.epoch else "the server left them out"
                )
                self._skipped -= min(hole, self._skipped)
                verdict.lost.append(MessagesLost(name, hole, why))
        over = replayed and not channel.replaying
        channel.last = max(seq, channel.head) if over else seq
        channel.lags = 0
        return verdict

    # --- a full inbox ----------------------------------------------------------------------

    def refused(self, message: Message) -> None:
        """Take back a message that was to be delivered and found no room."""
        if message.type == MessageType.LAGGED:
            return  # its number is not its own, and the missing messages are requested
        channel = self._channels.get(message.channel)
        if channel is None or message.seq is None or not channel.epoch:
            name = "" if channel is None else message.channel
            self._unplaced[name] = self._unplaced.get(name, 0) + 1
        elif not channel.behind:
            channel.behind = True
            channel.last = message.seq - 1

    def catch_up(self) -> Verdict:
        """Return the requests to send and the losses to report, now that there is room."""
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
    """Return whether a message ends a subscription; a refused publish has `Publish: ...`."""
    return (
        message.type == MessageType.ERROR
        and message.id is None
        and message.code == "forbidden"
        and str(message.data).startswith("Subscribe:")
    )


def _middle_of(data: Any) -> tuple[int, int | None]:
    """Return the last number of what a `history_gap` names, and its bytes where it has them."""
    fields = data if isinstance(data, dict) else {}
    after, messages, size = (fields.get(name) for name in ("after", "messages", "bytes"))
    if not _is_count(after) or not _is_count(messages):
        return -1, None
    return after + messages, size if _is_count(size) else None


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
