"""The newest message of each key, in keyed channels, numbered like a history.

A subscriber gets the newest of every key, then the changes. One that comes back with a position
gets what has changed since: for each key its newest message, or its deletion. The same way leads
a client that was behind to the present, so that it costs no memory how far it is behind.

Deletions are kept as long as there are at most as many as there may be keys. A position from
before the oldest one that is kept gets all keys, and is told that this is all there is.

Everything here runs on the hub thread, which owns it; any thread may ask for `cost`.
"""

from __future__ import annotations

import heapq
import math
import secrets
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from ..backplane.store import new_epoch
from ..config import ChannelRule
from ..errors import MessageEncodeError, excerpt
from ..log import get_logger
from ..protocol.frames import payload_of
from ..protocol.message import Message, MessageType, encode, unnumbered
from ..protocol.publication import UNSTAMPED, Key, Publication, Stamp, publish
from .history import Piece, Position, Range, SparsePiece

__all__ = ["KeyedCursor", "KeyedRange", "KeyedStore", "misplaced_key"]

logger = get_logger(__name__)

_MAX_CHANNELS = 10_000
_PIECE_BYTES = 64 * 1024
_CUTS_BYTES = 2 * 1024 * 1024  # of pieces, kept to be shared
# What things take beside their text, in CPython, rounded up.
_CHANNEL_COST = 2048
_KEY_COST = 512


class _Entry(NamedTuple):
    """The newest message of a key."""

    seq: int
    frame: bytes
    stamp: Stamp


class _Channel:
    """The keys of one channel.

    Attributes:
        values: the newest message of each key, the longest unchanged first.
        gone: the deletions of keys, oldest first.
        horizon: the number of the newest deletion that is not kept any more.
        numbers, keys: what was given each number, in order; what has been replaced since is
            taken out now and then.
        size: bytes of the values.
        stamps: a heap of the stamps of all values, and of some that are none any more; None until
            it is needed.
        cost: bytes of memory that it takes, about.
    """

    __slots__ = (
        "cost", "epoch", "expires", "gone", "horizon", "keys", "numbers", "seq", "size", "stamps",
        "values", "warned",
    )  # fmt: skip

    def __init__(self, epoch: str) -> None:
        self.epoch = epoch
        self.seq = 0
        self.values: dict[str, _Entry] = {}
        self.gone: dict[str, _Entry] = {}
        self.horizon = 0
        self.numbers: list[int] = []
        self.keys: list[str] = []
        self.size = 0
        self.cost = _CHANNEL_COST
        self.expires = math.inf
        self.warned = False
        self.stamps: list[tuple[Stamp, str]] | None = None

    def oldest(self) -> str:
        """Return the key whose newest change is the oldest: the same in all processes.

        The order of `values` is that in which changes came to this one.
        """
        if self.stamps is None or len(self.stamps) > 2 * len(self.values) + 64:
            self.stamps = [(entry.stamp, key) for key, entry in self.values.items()]
            heapq.heapify(self.stamps)
        while True:
            stamp, key = self.stamps[0]
            entry = self.values.get(key)
            if entry is not None and entry.stamp == stamp:
                return key
            heapq.heappop(self.stamps)

    def put(self, publication: Publication) -> None:
        """Number the newest message of a key, or the deletion of one, and keep it."""
        key = publication.key
        publication.number(self.seq + 1)  # first: it may raise
        self.seq += 1
        publication.former = self._take_out(self.values, key)
        self._take_out(self.gone, key)
        entry = _Entry(self.seq, publication.frame, publication.stamp)
        (self.gone if publication.deletes else self.values)[key] = entry
        self.cost += len(entry.frame) + _KEY_COST
        if not publication.deletes:
            self.size += len(entry.frame)
            if self.stamps is not None:
                heapq.heappush(self.stamps, (entry.stamp, key))
        self.numbers.append(self.seq)
        self.keys.append(key)
        if len(self.numbers) > 2 * (len(self.values) + len(self.gone)) + 64:
            kept = [index for index in range(len(self.numbers)) if self.at(index) is not None]
            self.numbers = [self.numbers[index] for index in kept]
            self.keys = [self.keys[index] for index in kept]

    def _take_out(self, entries: dict[str, _Entry], key: str) -> bytes:
        """Forget what is kept of a key; return its frame, b"" for nothing."""
        entry = entries.pop(key, None)
        if entry is None:
            return b""
        self.cost -= len(entry.frame) + _KEY_COST
        if entries is self.values:
            self.size -= len(entry.frame)
        return entry.frame

    def newest(self, key: str) -> _Entry | None:
        """Return the newest message of a key, or its deletion; None for neither."""
        return self.values.get(key) or self.gone.get(key)

    def at(self, index: int) -> _Entry | None:
        """Return what was given a number; None when it was replaced since."""
        entry = self.newest(self.keys[index])
        return entry if entry is not None and entry.seq == self.numbers[index] else None

    def forget_deletions(self, most: int) -> None:
        """Forget the oldest deletions, beyond so many."""
        while len(self.gone) > most:
            key = next(iter(self.gone))
            self.horizon = self.gone[key].seq
            self._take_out(self.gone, key)

    def after(self, number: int, fresh: int) -> Iterator[tuple[int, bytes | None]]:
        """Yield what was given numbers behind one, None for what is not to be sent.

        Deletions up to `fresh` are not: they are of keys that the receiver never had.
        """
        for index in range(bisect_right(self.numbers, number), len(self.numbers)):
            entry, key = self.at(index), self.keys[index]
            if entry is None or (entry.seq <= fresh and key in self.gone):
                yield self.numbers[index], None
            else:
                yield entry.seq, entry.frame


@dataclass(frozen=True, slots=True)
class KeyedRange(Range):
    """What a subscriber is to get first.

    Args:
        count: how many messages that is.
        fresh: up to this number deletions are of keys that it never had.
    """

    count: int = 0
    fresh: int = 0

    @property
    def messages(self) -> int:
        """How many messages are to be replayed."""
        return self.count


class KeyedStore:
    """The keyed channels of a hub.

    Channels that clients may publish to have a bound of their own, as in the history.

    Args:
        rule_for: returns the rule of a channel.
        is_heard: says whether a channel has subscribers: it is not forgotten for its age.
        max_bytes: bytes of memory that the channels which only the application publishes to may
            take.
        max_published_bytes: bytes of those that clients may publish to.
        new_epoch: names a new numbering.

    Attributes:
        announce: called with each change that was made in this process, and its text without
            a number, where others are to be told; else None.
    """

    def __init__(
        self,
        rule_for: Callable[[str], ChannelRule],
        is_heard: Callable[[str], bool],
        max_bytes: int,
        max_published_bytes: int,
        new_epoch: Callable[[], str] = new_epoch,
    ) -> None:
        self._rule_for = rule_for
        self._is_heard = is_heard
        self._new_epoch = new_epoch
        self._unused = new_epoch()  # of all channels without keys; replaced when one is forgotten
        # By whether clients may publish to them; the longest unchanged first.
        self._channels: dict[bool, OrderedDict[str, _Channel]] = {
            False: OrderedDict(),
            True: OrderedDict(),
        }
        self._costs = {False: 0, True: 0}
        self._bounds = {False: max_bytes, True: max_published_bytes}
        self._cuts: OrderedDict[tuple[str, str, int, int, int], SparsePiece] = OrderedDict()
        self._cuts_bytes = 0
        self.announce: Callable[[Publication, bytes], object] | None = None
        self._origin = secrets.token_hex(4)
        self._time = 0  # of the newest stamp
        self.next_expiry = math.inf  # when to call `expire`, in monotonic seconds

    @property
    def cost(self) -> int:
        """Bytes of memory that all channels take. Any thread."""
        return self._costs[False] + self._costs[True]

    # --- write -----------------------------------------------------------------------------

    def keep(self, publication: Publication, now: float, seconds: float) -> list[Publication]:
        """Number and keep a message; return it, and the deletions of keys that are too many.

        Nothing is returned, nor kept, where another process has made the change and the key
        has a newer one. `seconds` is the wall clock's time, `now` that of the clock which
        channels expire by.
        """
        name = publication.channel
        rule = self._rule_for(name)
        channel = self._open(name, rule.publish)
        if publication.stamp != UNSTAMPED:
            self._time = max(self._time, publication.stamp.time)
            known = channel.newest(publication.key)
            if known is not None and known.stamp >= publication.stamp:
                return []
        before, kept = channel.cost, [publication]
        try:
            self._put(channel, publication, seconds)
            while len(channel.values) > rule.max_keys or (
                channel.size > rule.history_bytes and len(channel.values) > 1
            ):
                oldest = channel.oldest()
                self._warn(name, channel, oldest)
                kept.append(_deletion(publication, oldest, seconds))
                # Not told: each process does it. A stamp of its own would delete the key where
                # another one has been deleted in its place.
                kept[-1].stamp = channel.values[oldest].stamp
                self._put(channel, kept[-1], seconds)
            channel.forget_deletions(rule.max_keys)
        finally:
            self._costs[rule.publish] += channel.cost - before
        channel.expires = now + rule.history_idle_ttl
        self.next_expiry = min(self.next_expiry, channel.expires)
        self._shrink(rule.publish)
        return kept

    def _put(self, channel: _Channel, publication: Publication, seconds: float) -> None:
        """Keep a message; stamp it and tell of it when it is of this process."""
        if publication.stamp != UNSTAMPED:
            channel.put(publication)
            return
        # Above all that are known: what is changed later here is newer, whatever the clocks say.
        self._time = max(self._time + 1, int(seconds * 1e6))
        publication.stamp, text = Stamp(self._time, self._origin), publication.text
        channel.put(publication)
        if self.announce is not None:
            self.announce(publication, text)

    def _open(self, name: str, published: bool) -> _Channel:
        channels = self._channels[published]
        channel = channels.get(name)
        if channel is None:
            channel = channels[name] = _Channel(self._unused)
            self._costs[published] += channel.cost
        channels.move_to_end(name)
        return channel

    def _warn(self, name: str, channel: _Channel, key: str) -> None:
        if not channel.warned:
            channel.warned = True
            logger.warning(
                "channel %s has more keys than its rule allows (max_keys, history_bytes): the "
                "longest unchanged are deleted, %s first",
                excerpt(name),
                excerpt(key),
            )

    def _shrink(self, published: bool) -> None:
        """Forget the longest unchanged channels, beyond the bounds; the last one stays."""
        channels = self._channels[published]
        while len(channels) > 1 and (
            len(channels) > _MAX_CHANNELS or self._costs[published] > self._bounds[published]
        ):
            self._forget(next(iter(channels)), published)

    def _forget(self, name: str, published: bool) -> None:
        self._costs[published] -= self._channels[published].pop(name).cost
        self._unused = self._new_epoch()  # it begins again under another name

    def expire(self, now: float) -> None:
        """Forget channels that nothing has changed in for long; call it at `next_expiry`."""
        self.next_expiry = math.inf
        for published, channels in self._channels.items():
            for name, channel in list(channels.items()):
                if channel.expires <= now and self._is_heard(name):
                    channel.expires = now + self._rule_for(name).history_idle_ttl
                if channel.expires <= now:
                    self._forget(name, published)
                else:
                    self.next_expiry = min(self.next_expiry, channel.expires)

    # --- read ------------------------------------------------------------------------------

    def _find(self, name: str) -> _Channel | None:
        return self._channels[self._rule_for(name).publish].get(name)

    def position(self, name: str) -> Position:
        """Return where a channel stands."""
        channel = self._find(name)
        return (
            Position(self._unused, 0) if channel is None else Position(channel.epoch, channel.seq)
        )

    def locate(
        self, name: str, *, since: int | None = None, epoch: str = "", last: int | None = None
    ) -> KeyedRange:
        """Return what a subscriber that stands at `since` in `epoch` is to get.

        `since=0` without an epoch gets all keys, `last` those that have changed last. A position
        of another epoch, of the future, or from before the deletions that are kept gets all keys
        and `recovered` False: what it has besides these does not exist any more.
        """
        channel, position = self._find(name), self.position(name)
        head = position.seq
        if last is not None:
            entries = list(channel.values.values())[-last:] if channel is not None and last else []
            after = entries[0].seq - 1 if entries else head
            return KeyedRange(position, after, True, count=len(entries), fresh=head)
        if since is None:
            return KeyedRange(position, head, True)
        known = not epoch or epoch == position.epoch
        horizon = 0 if channel is None else channel.horizon
        if known and since and horizon <= since <= head:
            missed = [] if channel is None else channel.after(since, 0)
            count = sum(frame is not None for _, frame in missed)
            return KeyedRange(position, since, True, count=count)
        count = 0 if channel is None else len(channel.values)
        return KeyedRange(position, 0, known and not since, count=count, fresh=head)

    def piece(self, name: str, epoch: str, after: int, fresh: int) -> SparsePiece | None:
        """Return what has changed behind a number, as much as fits a piece; None for nothing.

        `fresh` is that of the range. Of deletions that are not kept any more, and were to be
        sent, the piece tells by its first number, as one of a history does.
        """
        channel = self._find(name)
        if channel is None or channel.epoch != epoch or after >= channel.seq:
            return None
        if channel.horizon > max(after, fresh):
            return SparsePiece(b"", channel.horizon + 1, channel.horizon, channel.seq)
        place = name, epoch, after, fresh, channel.seq
        found = self._cuts.get(place)
        if found is None:
            frames, size, last = list[bytes](), 0, after
            for number, frame in channel.after(after, fresh):
                if frame is not None:
                    if frames and size + len(frame) > _PIECE_BYTES:
                        break
                    frames.append(frame)
                    size += len(frame)
                last = number
            else:
                last = channel.seq
            if not frames:
                return None
            joined = b"".join(frames)
            found = SparsePiece(joined, after + 1, last, channel.seq, count=len(frames))
            self._share(place, found)
        return found

    def _share(self, place: tuple[str, str, int, int, int], piece: SparsePiece) -> None:
        self._cuts[place] = piece
        self._cuts_bytes += len(piece.frames)
        while self._cuts_bytes > _CUTS_BYTES:
            _, dropped = self._cuts.popitem(last=False)
            self._cuts_bytes -= len(dropped.frames)

    def all_keys(self) -> list[tuple[str, str]]:
        """Return the channel and the key of everything that is kept, deletions included."""
        return [
            (name, key)
            for channels in self._channels.values()
            for name, channel in channels.items()
            for key in (*channel.gone, *channel.values)
        ]

    def newest(self, name: str, key: str) -> tuple[bytes, bool, Stamp] | None:
        """Return the newest message of a key, its text without the number; None for none.

        And whether it is a deletion, and its stamp.
        """
        channel = self._find(name)
        entry = None if channel is None else channel.newest(key)
        if channel is None or entry is None:
            return None
        text = unnumbered(payload_of(entry.frame), entry.seq)
        return text, key in channel.gone, entry.stamp

    def is_far(self, name: str, epoch: str, after: int) -> bool:
        """Return whether more has changed behind a number than half of what there may be."""
        channel = self._find(name)
        if channel is None or channel.epoch != epoch:
            return False
        return (channel.seq - after) * 2 > self._rule_for(name).max_keys


@dataclass(frozen=True, slots=True)
class KeyedCursor:
    """The source of one replay of a keyed channel.

    Args:
        store: the store.
        fresh: as in `KeyedRange`.
    """

    store: KeyedStore
    fresh: int = 0

    def piece(self, channel: str, epoch: str, after: int) -> Piece | None:
        """Return what has changed behind a number; None for nothing."""
        return self.store.piece(channel, epoch, after, self.fresh)

    def is_far(self, channel: str, epoch: str, after: int) -> bool:
        """Return whether much has changed behind a number."""
        return self.store.is_far(channel, epoch, after)


def _deletion(cause: Publication, key: str, seconds: float) -> Publication:
    """Return the message that deletes a key, because another one has taken its place."""
    message = Message(MessageType.EVENT, channel=cause.channel, key=key)
    text = encode(message, seconds)
    deletion = publish(text, cause.channel, cause.overflow, to_be_numbered=True)
    deletion.key, deletion.deletes = key, True
    return deletion


def misplaced_key(channel: str, key: Key | None) -> MessageEncodeError:
    """Return what to raise for a key where there is none, or where one is missing.

    Threads: any.
    """
    if key is None:
        return MessageEncodeError(
            f"channel {excerpt(channel)} is keyed, and this message has no key: pass key=..., the "
            "name of what it is the newest state of, or use another channel"
        )
    if not channel:
        return MessageEncodeError(
            f"a broadcast keeps no keys, and this event has the key {excerpt(key.text)}: pass "
            "channel=..., of a keyed channel, or leave key out"
        )
    return MessageEncodeError(
        f"channel {excerpt(channel)} keeps no keys, and this message has the key "
        f"{excerpt(key.text)}: set ChannelRule(pattern={excerpt(channel)}, keyed=True), or leave "
        "key out"
    )
