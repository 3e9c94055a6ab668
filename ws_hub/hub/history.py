"""The last messages of the channels that keep any, numbered and joined.

No I/O and no clock: time is an argument. The hub thread alone numbers, keeps, locates and
cuts; any thread may ask which channels have history and how much memory it takes.

Messages are kept in blocks. A block that is full is joined once, for good: the same bytes
are the history and a piece of every replay that passes by. Only a piece that begins or
ends inside a block is cut out of it, and shared by all replays that need the same part.

Where a rule has `history_head_bytes`, the first messages of the newest run are the channel's
beginning, which stays: whole blocks. What is before them, of earlier runs, is dropped first, then
what is behind them, so that there is one middle at most::

    blocks   [ before ][   head   ] ...the middle... [ behind ] fresh

Where a store numbers and keeps (`hub.recorder`), this is the cache of the newest messages:
they come with their numbers, of which some may be left out between two blocks.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, islice

from ..backplane.store import MAX_STATES, Middle, Span, first_since, new_epoch
from ..config import DEFAULT_HISTORY_BYTES, DEFAULT_PUBLISHED_HISTORY_BYTES, ChannelRule
from ..protocol.frames import payload_of
from ..protocol.publication import USAGE_LINE
from ..reentrant import Lock

__all__ = ["Filled", "History", "Piece", "Position", "Range", "SparsePiece", "Usage"]

_MAX_CHANNELS = 10_000
_SEQ = len(b',"seq":')  # before the digits of a number
_BLOCK_BYTES = 64 * 1024
_BLOCK_MESSAGES = 512
_CUTS_BYTES = 2 * 1024 * 1024  # of pieces that are no whole blocks, kept to be shared
_NO_STATES: Mapping[int, bytes] = {}
# What things take beside their text, in CPython, rounded up.
_CHANNEL_COST = 1024
_BLOCK_COST = 256
_FRAME_COST = 48
_END_COST = 4


@dataclass(frozen=True, slots=True)
class Position:
    """Where a channel stands: the numbering, and the last number given."""

    epoch: str
    seq: int


@dataclass(frozen=True, slots=True)
class Range:
    """What a subscriber is to get first.

    Args:
        position: where the channel stands now.
        after: the number before the first message that the subscriber is to get.
        recovered: whether that is all that the subscriber missed.
        holes: how many of the numbers behind that are of no message that is kept.
        middle: the last number behind that which its history has let go; 0 for none.
    """

    position: Position
    after: int
    recovered: bool
    holes: int = 0
    middle: int = 0

    @property
    def messages(self) -> int:
        """How many messages are to be replayed."""
        return self.position.seq - self.after - self.holes


@dataclass(frozen=True, slots=True)
class Piece:
    """Kept messages that follow each other, joined.

    Args:
        frames: the messages; b"" when none are kept.
        first: number of the first; above the one that was asked for when those before
            it are no longer kept.
        last: number of the last.
        head: the last number of the channel.
        holes: how many numbers, from the first on, are of no message that is kept.
        omitted: how many messages were taken out, which do not pass a filter.
        middle: what its history has let go, where these numbers are of that; None for nothing.
    """

    frames: bytes
    first: int
    last: int
    head: int
    holes: int = 0
    omitted: int = 0
    middle: Middle | None = None

    @property
    def messages(self) -> int:
        """How many messages it holds."""
        return self.last - self.first + 1 - self.holes


@dataclass(frozen=True, slots=True)
class SparsePiece(Piece):
    """Some of the messages between two numbers, joined.

    Args:
        count: how many messages it holds.
    """

    count: int = 0

    @property
    def messages(self) -> int:
        """How many messages it holds."""
        return self.count


@dataclass(frozen=True, slots=True)
class Usage:
    """What the histories take.

    Args:
        kept: bytes of memory of all histories.
        published: bytes of those that clients may publish to.
        dropped: messages that were let go because of the bounds over all histories.
    """

    kept: int
    published: int
    dropped: int


class _Block:
    """Messages that were joined.

    Attributes:
        joined: the messages.
        ends: where each of them ends.
        extra: bytes of each that are no text, see `_extra`.
        first: the number of the first of them.
        begin: the number of the first that is kept.
    """

    __slots__ = ("begin", "ends", "extra", "first", "joined")

    def __init__(self, frames: Sequence[bytes], first: int, extra: int | None) -> None:
        lengths = list(map(len, frames))
        self.joined = b"".join(frames)
        self.ends = array("I", accumulate(lengths))
        self.extra = _extra(lengths, first) if extra is None else extra
        self.first = self.begin = first

    @property
    def last(self) -> int:
        return self.first + len(self.ends) - 1

    @property
    def cost(self) -> int:
        return len(self.joined) + _END_COST * len(self.ends) + _BLOCK_COST

    def offset(self, number: int) -> int:
        """Return where a message begins."""
        return self.ends[number - self.first - 1] if number > self.first else 0

    def size(self, count: int) -> int:
        """Return how many bytes of text so many of its oldest messages have."""
        begin, place = self.begin, self.begin - self.first
        if isinstance(self.extra, int):
            extra = self.extra * count
        else:
            extra = sum(self.extra[place : place + count])
        return self.offset(begin + count) - self.offset(begin) - extra

    def until(self, size: int) -> int:
        """Return how many of its oldest messages have so many bytes of text."""
        there = self.last - self.begin + 1
        return bisect_left(range(there), size, lo=1, key=self.size)


class _Channel:
    """What one channel keeps: blocks, and behind them messages that fill no block yet."""

    __slots__ = (
        "before", "blocks", "cost", "count", "epoch", "expires", "fresh", "fresh_bytes",
        "fresh_extra", "head", "head_bytes", "head_count", "is_open", "lost", "seq", "size",
        "states", "used", "whole",
    )  # fmt: skip

    def __init__(self, position: Position) -> None:
        self.epoch = position.epoch
        self.seq = position.seq
        self.count = 0  # messages kept; fewer than numbers where some are of no message
        self.whole = True  # whether it has what its rule keeps, and lost nothing to a bound
        self.blocks: list[_Block] = []
        self.fresh: list[bytes] = []
        self.fresh_bytes = 0
        self.fresh_extra: int | None = None  # see `_extra`; None where they have not the same
        self.size = 0  # bytes of the texts of the messages kept, without their numbers
        self.cost = _CHANNEL_COST  # bytes of memory that it takes, about
        self.expires = math.inf
        self.used = 0  # when last written to, among all channels
        self.states: dict[int, bytes] = {}  # of lines that may still change, the newest of each
        self.lost: tuple[int, int] | None = None  # the last number before the middle, its bytes
        self.begin()

    def begin(self) -> None:
        """Have the next message be the first of the beginning: that of another run may go."""
        self._join()
        self.before, self.head = len(self.blocks), 0  # blocks; while it is open, the rest
        self.head_bytes = self.head_count = 0
        self.is_open = True

    def close_head(self) -> None:
        """Have the next message be behind the beginning."""
        self._join()
        head = self.blocks[self.before :]
        self.head, self.is_open = len(head), False
        self.head_count = sum([block.last - block.begin + 1 for block in head])

    @property
    def head_first(self) -> int:
        """The number of the first message of the beginning; 0 where there is none."""
        if not self.head_count:
            return 0
        index = self.before
        return self.blocks[index].begin if index < len(self.blocks) else self._fresh_first

    @property
    def first(self) -> int:
        """The number of the oldest message kept; that of the next one where there is none."""
        return self.blocks[0].begin if self.blocks else self._fresh_first

    def skip(self, seq: int) -> None:
        """Leave out the numbers up to one."""
        self._join()  # within a block the numbers follow each other
        self.seq = seq

    def add(self, frames: Sequence[bytes], rule: ChannelRule) -> None:
        """Keep the next messages."""
        if self.is_open:
            count = self._to_head(frames, rule)
            if count == len(frames):
                return
            self.close_head()
            frames = frames[count:]
        self.append(frames)

    def _to_head(self, frames: Sequence[bytes], rule: ChannelRule) -> int:
        """Keep as many messages as the beginning has room for; return how many."""
        most = rule.history_head_messages - self.head_count
        ends = accumulate(_sizes(frames, self.seq + 1), initial=self.head_bytes)
        fitting = sum(1 for end in islice(ends, 1, None) if end <= rule.history_head_bytes)
        part, before = frames[: max(min(fitting, most), 0)], self.size
        self.append(part)
        self.head_bytes += self.size - before
        self.head_count += len(part)
        return len(part)

    def append(self, frames: Sequence[bytes]) -> None:
        """Keep the next messages, of the beginning as long as that is open."""
        if not frames:
            return
        lengths = list(map(len, frames))
        length, extra = sum(lengths), _extra(lengths, self.seq + 1)
        self.size += length - _total(extra, len(frames))
        self.cost += length + _FRAME_COST * len(frames)
        each_extra = extra if isinstance(extra, int) else None
        if not self.fresh:
            self.fresh_extra = each_extra
        elif self.fresh_extra != each_extra:
            self.fresh_extra = None
        for frame, length in zip(frames, lengths, strict=True):
            if self.fresh_bytes + length > _BLOCK_BYTES or len(self.fresh) >= _BLOCK_MESSAGES:
                self._join()
                self.fresh_extra = each_extra
            self.fresh.append(frame)
            self.fresh_bytes += length
            self.seq += 1
        self.count += len(frames)

    def show(self, changes: Mapping[int, bytes | None]) -> None:
        """Replace the states of some lines; None for those that have none any more."""
        for line, frame in changes.items():
            former = self.states.pop(line, None)
            if former is not None:
                self.cost -= len(former) + _FRAME_COST
            if frame is not None:
                self.states[line] = frame
                self.cost += len(frame) + _FRAME_COST
        while len(self.states) > MAX_STATES:
            self.cost -= len(self.states.pop(next(iter(self.states)))) + _FRAME_COST

    def _join(self) -> None:
        if not self.fresh:
            return  # the next message is larger than a block
        block = _Block(self.fresh, self._fresh_first, self.fresh_extra)
        self.blocks.append(block)
        self.cost += block.cost - self.fresh_bytes - _FRAME_COST * len(self.fresh)
        self.fresh, self.fresh_bytes = [], 0

    @property
    def _fresh_first(self) -> int:
        return self.seq - len(self.fresh) + 1

    def trim(self, rule: ChannelRule) -> None:
        """Drop what its rule does not keep: what is before the beginning, then what is behind it.

        The last message stays.
        """
        while True:
            beyond, size = self.count - rule.history_messages, self.size - rule.history_bytes
            loose = self.count - self.head_count - (not self.is_open)
            if (beyond <= 0 and size <= 0) or loose <= 0:
                return
            index = 0 if self.before else self.head
            if index < len(self.blocks):
                block = self.blocks[index]
                there, part = block.last - block.begin + 1, block.until(size) if size > 0 else 0
            else:
                there, part = len(self.fresh), 0
                if size > 0:
                    sizes = _sizes(self.fresh, self._fresh_first)
                    part = len(_until(accumulate(sizes), size))
            self._drop(index, min(max(beyond, part), there, loose))

    def _drop(self, index: int, count: int) -> None:
        """Forget the oldest messages of a block, or of those that fill none."""
        if self.before <= index and (self.is_open or index < self.before + self.head):
            self.head_count -= count
        if index < len(self.blocks):
            block = self.blocks[index]
            dropped = block.size(count)
            block.begin += count
            if block.begin > block.last:
                self._delete(index)
        else:
            lengths = list(map(len, self.fresh[:count]))
            length = sum(lengths)
            dropped = length - _total(_extra(lengths, self._fresh_first), count)
            del self.fresh[:count]
            self.fresh_bytes -= length
            self.cost -= length + _FRAME_COST * count
        self.size -= dropped
        self.count -= count
        if index:
            self._note_lost(self.blocks[index - 1].last, dropped)

    def _delete(self, index: int) -> None:
        self.cost -= self.blocks.pop(index).cost
        if index < self.before:
            self.before -= 1
        elif index < self.before + self.head:
            self.head -= 1

    def _note_lost(self, after: int, size: int) -> None:
        known = self.lost[1] if self.lost is not None and self.lost[0] == after else 0
        self.lost = after, known + size

    @property
    def middle(self) -> Middle | None:
        """What was dropped between two messages that are kept."""
        if self.lost is None or self.lost[0] < self.first:
            return None
        after, size = self.lost
        index = bisect_left(self.blocks, after + 1, key=lambda block: block.last)
        first = self.blocks[index].begin if index < len(self.blocks) else self._fresh_first
        return Middle(after, first - after - 1, size)

    def drop_memory(self, need: int, least: int) -> int:
        """Forget the oldest messages that take so many bytes of memory, about.

        Those of the beginning too. Stops after a block, which is enough for one look, and keeps
        the `least` newest messages. Returns how many messages were forgotten.
        """
        if self.blocks:
            count = self.blocks[0].last - self.blocks[0].begin + 1
        else:
            costs = accumulate(len(frame) + _FRAME_COST for frame in self.fresh)
            count = sum(1 for _ in _until(costs, need))
        count = max(min(count, self.count - least), 0)  # it may have states alone
        if count:
            self._drop(0, count)
        return count

    def cut(self, first: int) -> tuple[int, int, Callable[[], bytes], bool]:
        """Find the piece that begins with a number, or the next that is of a message.

        Returns the numbers of its first and last message, what makes its bytes, and whether
        these are bytes that are kept anyway. There is none: the first is above the last.
        """
        index = bisect_left(self.blocks, first, key=lambda block: block.last)
        if index == len(self.blocks):
            start = max(first - self._fresh_first, 0)
            fresh = self.fresh
            return self._fresh_first + start, self.seq, lambda: b"".join(fresh[start:]), False
        block = self.blocks[index]
        first = max(first, block.begin)
        offset = block.offset(first)
        return first, block.last, lambda: block.joined[offset:], not offset

    def holes(self, after: int) -> int:
        """Return how many numbers behind one are of no message."""
        if self.count == self.seq - self.first + 1:  # nearly always
            return 0
        blocks = [block for block in self.blocks if block.last > after]
        kept = sum(block.last - max(block.begin - 1, after) for block in blocks)
        return self.seq - after - kept - (self.seq - max(self._fresh_first - 1, after))

    def before_newest(self, count: int, up_to: int) -> int:
        """Return the number before the newest messages up to a number, or before all."""
        after = up_to
        spans = [(block.begin, block.last) for block in self.blocks]
        for first, last in reversed([*spans, (self._fresh_first, self.seq)]):
            there = min(last, up_to) - first + 1
            if there > 0 < count:
                after = max(min(last, up_to) - count, first - 1)
                count -= there
        return after

    def frames(self, first: int) -> Iterator[tuple[int, bytes]]:
        """Yield the messages from a number on, each with its own."""
        for block in self.blocks:
            for number in range(max(first, block.begin), block.last + 1):
                yield number, block.joined[block.offset(number) : block.offset(number + 1)]
        for number, frame in enumerate(self.fresh, self._fresh_first):
            if number >= first:
                yield number, frame


def _header(length: int) -> int:
    """Return how many bytes of a frame stand before its text."""
    return 2 if length < 128 else 4 if length < 65_540 else 10


def _extra(lengths: Sequence[int], first: int) -> int | array[int]:
    """Return how many bytes of each frame are not of its text without its number.

    `lengths` are those of the frames, `first` is the number of the first. One number where they
    have the same, as nearly all that are near each other. A text counts as in a store, where it
    has no number.
    """
    header, digits = _header(lengths[0]), len(str(first))
    if len(lengths) == 1:
        return header + _SEQ + digits
    same = _header(min(lengths)) == header == _header(max(lengths))
    if same and len(str(first + len(lengths) - 1)) == digits:
        return header + _SEQ + digits
    extra = (_header(length) + _SEQ + len(str(seq)) for seq, length in enumerate(lengths, first))
    return array("I", extra)


def _total(extra: int | array[int], count: int) -> int:
    return extra * count if isinstance(extra, int) else sum(extra)


def _sizes(frames: Sequence[bytes], first: int) -> Iterator[int]:
    """Yield how many bytes of text each frame has, without its number."""
    for seq, frame in enumerate(frames, first):
        yield len(frame) - _header(len(frame)) - _SEQ - len(str(seq))


def _until(values: accumulate[int], bound: int) -> Sequence[int]:
    """Return the values up to the first that reaches a bound."""
    found = []
    for value in values:
        found.append(value)
        if value >= bound:
            break
    return found


class Filled:
    """What a store has of a channel, joined by another thread, for `History.install`.

    Args:
        span: what the store has; without `begin` it keeps no beginning, and nor does this.
        seq: the last number given.
        messages: number and frame of each message, oldest first.
        rule: the channel's.
    """

    __slots__ = ("kept",)

    def __init__(
        self, span: Span, seq: int, messages: Iterable[tuple[int, bytes]], rule: ChannelRule
    ) -> None:
        self.kept = kept = _Channel(Position(span.epoch, 0))
        middle = span.middle
        for number, frame in messages:
            if middle is not None and kept.count and kept.seq <= middle.after < number:
                kept.close_head()  # where the store has it
                kept.lost = middle.after, middle.total_bytes
            if number > kept.seq + 1:
                kept.skip(number - 1)
            if number == span.begin:
                kept.begin()
            elif not kept.count and number > span.begin:
                kept.close_head()  # its messages are not here, or there is none
            if middle is not None and number <= middle.after:
                kept.append([frame])
            else:
                kept.add([frame], rule)
        if seq > kept.seq:
            kept.skip(seq)


class _Kind:
    """The channels that share a bound.

    Attributes:
        channels: those that keep something, longest unused first.
        awaited: positions of those that keep nothing any more but have a numbering: a
            position given out stays good, and a subscriber, which is not told of a new
            numbering, takes no message for an old one.
        cost: bytes of memory that they take.
    """

    __slots__ = ("awaited", "channels", "cost", "max_bytes")

    def __init__(self, max_bytes: int) -> None:
        self.channels: OrderedDict[str, _Channel] = OrderedDict()
        self.awaited: OrderedDict[str, Position] = OrderedDict()
        self.cost = 0
        self.max_bytes = max_bytes

    def position(self, channel: str) -> Position | None:
        """Return where a channel stands; None when it has no numbering."""
        kept = self.channels.get(channel)
        return Position(kept.epoch, kept.seq) if kept else self.awaited.get(channel)


class History:
    """The kept messages of all channels that keep any.

    Channels that clients may publish to have a bound of their own, so that clients
    cannot push out what the application keeps, neither messages nor numberings.

    Args:
        rule_for: returns what holds for a channel.
        is_heard: says whether a channel has subscribers: its numbering is not forgotten.
        max_bytes: bytes of memory that all histories together may take.
        max_published_bytes: bytes of those that clients may publish to.
        new_epoch: names a new numbering.
        max_channels: channels of each kind; beyond it the longest unused is freed.
    """

    def __init__(
        self,
        rule_for: Callable[[str], ChannelRule],
        is_heard: Callable[[str], bool] = lambda channel: False,
        *,
        max_bytes: int = DEFAULT_HISTORY_BYTES,
        max_published_bytes: int = DEFAULT_PUBLISHED_HISTORY_BYTES,
        new_epoch: Callable[[], str] = new_epoch,
        max_channels: int = _MAX_CHANNELS,
    ) -> None:
        self._max_channels = max_channels
        self._rule_for = rule_for
        self._is_heard = is_heard
        self._new_epoch = new_epoch
        self._max_bytes = max_bytes
        # guards: everything below. Taken after the hub's lock; nothing is taken under it.
        self._lock = Lock()
        self._own = _Kind(max_bytes)
        self._published = _Kind(max_published_bytes)
        # The numbering of every channel that was never numbered: to ask for one makes
        # none. It is replaced whenever a numbering is forgotten, so that the channel whose
        # numbering that was, begins again under another name.
        self._epoch = new_epoch()
        self._cuts: OrderedDict[tuple[str, str, int, int], bytes] = OrderedDict()
        self._cuts_bytes = 0
        self._next_expiry = math.inf
        self._uses = 0
        self._dropped = 0

    # --- any thread ------------------------------------------------------------------------

    def names(self) -> list[str]:
        """Return the channels that keep something, longest unused first."""
        with self._lock:
            found = [
                (kept.used, name)
                for kind in (self._own, self._published)
                for name, kept in kind.channels.items()
            ]
        return [name for _, name in sorted(found)]

    def usage(self) -> Usage:
        """Return what the histories take."""
        with self._lock:
            published = self._published.cost
            return Usage(self._own.cost + published, published, self._dropped)

    def has_states(self, channel: str, *, of_lines: bool = False) -> bool:
        """Return whether a channel has states, or such of lines, which may still change."""
        with self._lock:
            kept = self._kind(channel).channels.get(channel)
            if kept is None or not kept.states:
                return False
            return not of_lines or len(kept.states) > (USAGE_LINE in kept.states)

    def states(self, channel: str) -> Mapping[int, bytes]:
        """Return the states of the lines of a channel that may still change, by their lines."""
        with self._lock:
            kept = self._kind(channel).channels.get(channel)
            return dict(sorted(kept.states.items())) if kept and kept.states else _NO_STATES

    def is_whole(self, channel: str) -> bool:
        """Return whether all that a channel may keep is here, as far as a store has it."""
        with self._lock:
            kept = self._kind(channel).channels.get(channel)
            return kept is not None and kept.whole

    def most_of(self, channel: str) -> int:
        """Return how many bytes to read of a channel at most: others are not to lose all."""
        return self._kind(channel).max_bytes // 2

    def span(self, channel: str) -> Span:
        """Return the numbers from the oldest message kept to the last given."""
        with self._lock:
            kind = self._kind(channel)
            position = kind.position(channel) or Position(self._epoch, 0)
            kept, seq = kind.channels.get(channel), position.seq
            if kept is None or not kept.count:
                return Span(position.epoch, seq + 1, seq)
            return Span(position.epoch, kept.first, seq, (), kept.middle, kept.head_first)

    def frames(self, channel: str, first: int, most: int) -> list[tuple[int, bytes]]:
        """Return kept messages from a number on, each with its own."""
        with self._lock:
            kept = self._kind(channel).channels.get(channel)
            return list(islice(kept.frames(first), most)) if kept else []

    def before_newest(self, channel: str, count: int, up_to: int) -> int:
        """Return the number before the newest messages up to a number, or before all."""
        with self._lock:
            kept = self._kind(channel).channels.get(channel)
            return kept.before_newest(count, up_to) if kept else up_to

    # --- hub thread: write -----------------------------------------------------------------

    def next_seq(self, channel: str) -> int:
        """Return the number that the next message of a channel will have."""
        with self._lock:
            kind = self._kind(channel)
            found = kind.channels.get(channel) or kind.awaited.get(channel)
            return found.seq + 1 if found else 1

    def extend(
        self,
        channel: str,
        frames: Sequence[bytes],
        now: float,
        *,
        ends: bool = False,
        after: Position | None = None,
        begins: int | None = None,
    ) -> Position | None:
        """Keep the next messages of a channel.

        `ends` says that the last is the last for the time being (a process has exited):
        the channel is freed history_ttl seconds later instead of history_idle_ttl. `after`
        is where a store has numbered them, `begins` the place of the one with which a program's
        run begins. Returns where the channel stood when it has another numbering from here on.
        """
        rule = self._rule_for(channel)
        kind = self._published if rule.publish else self._own
        renewed = None
        with self._lock:
            if after is not None:
                renewed = self._place_locked(kind, channel, after)
            kept = self._open_locked(kind, channel)
            before = kept.cost
            if begins is not None and rule.history_head_bytes:
                kept.add(frames[:begins], rule)
                kept.begin()
                frames = frames[begins:]
            kept.add(frames, rule)
            kept.trim(rule)
            kind.cost += kept.cost - before
            kept.expires = now + (rule.history_ttl if ends else rule.history_idle_ttl)
            if kept.expires < self._next_expiry:
                self._next_expiry = kept.expires
            while (need := self._need_locked(kind)) > 0 and self._drop_locked(kind, kept, need):
                pass
        if len(kind.awaited) > self._max_channels:
            self._forget(kind)
        return renewed

    def show(self, channel: str, changes: Mapping[int, bytes | None], now: float) -> None:
        """Replace the states of some lines of a channel; None for lines that have none any more.

        A state is not numbered, and is kept beside the messages until it is replaced.
        """
        rule = self._rule_for(channel)
        kind = self._published if rule.publish else self._own
        with self._lock:
            if channel not in kind.channels and not any(changes.values()):
                return
            kept = self._open_locked(kind, channel)
            before = kept.cost
            kept.show(changes)
            kind.cost += kept.cost - before
            if kept.expires == math.inf:
                kept.expires = now + rule.history_idle_ttl
                self._next_expiry = min(self._next_expiry, kept.expires)
            while (need := self._need_locked(kind)) > 0 and self._drop_locked(kind, kept, need):
                pass

    def _place_locked(self, kind: _Kind, channel: str, after: Position) -> Position | None:
        """Have the next message of a channel follow a position; return one it renumbers."""
        assert self._lock.locked()
        position = kind.position(channel)
        if position == after:
            return None
        renewed = position if position and position.epoch != after.epoch else None
        kept = kind.channels.get(channel)
        if kept is not None and not renewed and after.seq > kept.seq:
            before = kept.cost
            kept.skip(after.seq)
            kind.cost += kept.cost - before
        else:
            self._install_locked(kind, channel, _Channel(after))
            kind.channels[channel].whole = not after.seq
        return renewed

    def install(self, channel: str, filled: Filled, now: float) -> Position | None:
        """Keep what a store has, in place of what is kept; return a position it renumbers."""
        rule = self._rule_for(channel)
        kind = self._published if rule.publish else self._own
        with self._lock:
            position = kind.position(channel)
            kept = filled.kept
            self._install_locked(kind, channel, kept)
            kept.expires = now + rule.history_idle_ttl
            self._next_expiry = min(self._next_expiry, kept.expires)
            if not kept.count:  # to ask for a channel takes no place among those that keep
                self._free_locked(kind, channel)
            while (need := self._need_locked(kind)) > 0 and self._drop_locked(kind, kept, need):
                pass
        if len(kind.awaited) > self._max_channels:
            self._forget(kind)
        return position if position and position.epoch != kept.epoch else None

    def _install_locked(self, kind: _Kind, channel: str, kept: _Channel) -> None:
        assert self._lock.locked()
        if channel in kind.channels:
            self._free_locked(kind, channel)
        kind.awaited.pop(channel, None)
        kind.channels[channel] = kept
        kind.cost += kept.cost
        self._uses += 1
        kept.used = self._uses
        if len(kind.channels) > self._max_channels:
            self._free_locked(kind, next(iter(kind.channels)))

    def _kind(self, channel: str) -> _Kind:
        return self._published if self._rule_for(channel).publish else self._own

    def _open_locked(self, kind: _Kind, channel: str) -> _Channel:
        assert self._lock.locked()
        kept = kind.channels.get(channel)
        if kept is None:
            position = kind.awaited.pop(channel, None) or Position(self._epoch, 0)
            kept = kind.channels[channel] = _Channel(position)
            kept.whole = not position.seq  # a store may have what was freed here
            kind.cost += kept.cost
            if len(kind.channels) > self._max_channels:
                self._free_locked(kind, next(iter(kind.channels)))
        kind.channels.move_to_end(channel)
        self._uses += 1
        kept.used = self._uses
        return kept

    def _need_locked(self, kind: _Kind) -> int:
        """Return how many bytes the channels of a kind have to give back."""
        assert self._lock.locked()
        over_all = self._own.cost + self._published.cost - self._max_bytes
        over = kind.cost - kind.max_bytes
        return over if over > over_all else over_all

    def _drop_locked(self, kind: _Kind, written: _Channel, need: int) -> int:
        """Let the longest unused channel of a kind lose its oldest messages, up to a block.

        What was just written stays when nothing else is left of its kind. Returns how many
        messages are gone, and a channel that held none counts as one.
        """
        assert self._lock.locked()
        name, kept = next(iter(kind.channels.items()))
        if kept is not written and (kept.cost <= need or not kept.count):
            dropped = kept.count
            self._free_locked(kind, name)
            self._dropped += dropped
            return max(dropped, 1)
        before = kept.cost
        dropped = kept.drop_memory(need, 1 if kept is written else 0)
        kept.whole = kept.whole and not dropped
        kind.cost += kept.cost - before
        self._dropped += dropped
        return dropped

    def _free_locked(self, kind: _Kind, channel: str) -> None:
        """Forget what was said in a channel, but not how far it was numbered."""
        assert self._lock.locked()
        kept = kind.channels.pop(channel)
        kind.cost -= kept.cost
        kind.awaited[channel] = Position(kept.epoch, kept.seq)

    def free(self, channel: str) -> None:
        """Forget the messages of a channel, but not how far it was numbered."""
        kind = self._kind(channel)
        with self._lock:
            if channel in kind.channels:
                self._free_locked(kind, channel)
        if len(kind.awaited) > self._max_channels:
            self._forget(kind)

    def _forget(self, kind: _Kind) -> None:
        """Forget the oldest numberings of channels without subscribers, beyond the bound."""
        # Each look is at one channel, and its subscribers are asked for without the lock: the
        # channel map's is taken before it. No other thread changes what is looked at.
        for _ in range((len(kind.awaited) - self._max_channels) * 2):
            channel = next(iter(kind.awaited))
            heard = self._is_heard(channel)
            with self._lock:
                if heard:
                    kind.awaited.move_to_end(channel)
                    continue
                del kind.awaited[channel]
                self._epoch = self._new_epoch()
            if len(kind.awaited) <= self._max_channels:
                return

    def expire(self, now: float) -> float:
        """Free the channels whose time is up; return when to call again."""
        if now >= self._next_expiry:
            for kind in (self._own, self._published):
                with self._lock:
                    over = [name for name, kept in kind.channels.items() if kept.expires <= now]
                    for name in over:
                        self._free_locked(kind, name)
                if len(kind.awaited) > self._max_channels:
                    self._forget(kind)
            with self._lock:
                every = (*self._own.channels.values(), *self._published.channels.values())
                self._next_expiry = min((kept.expires for kept in every), default=math.inf)
        return self._next_expiry

    # --- hub thread: read ------------------------------------------------------------------

    def locate(
        self, channel: str, *, since: int | None = None, epoch: str = "", last: int | None = None
    ) -> Range:
        """Return what a subscriber that stands at `since` in `epoch` has missed.

        `since=0` without an epoch asks for all that is kept, and gets it; `last` asks
        for the newest messages. A position of another epoch, of the future, or of
        which something is no longer kept gets what there is and `recovered` False. So does
        any in front of numbers that are of no message.
        """
        with self._lock:
            kind = self._kind(channel)
            position = kind.position(channel) or Position(self._epoch, 0)
            kept = kind.channels.get(channel)
            head = position.seq
            oldest = kept.first - 1 if kept else head  # before the first that is kept
            if last is not None:
                after = kept.before_newest(max(last, 0), head) if kept else head
                return _range(kept, position, after)
            if since is None:
                return Range(position, head, True)
            known = not epoch or epoch == position.epoch
            after = max(since, oldest) if known and 0 <= since <= head else oldest
            if since == 0 and not epoch:
                return _range(kept, position, oldest)
            return _range(kept, position, after, known and after == since)

    def locate_time(self, channel: str, time: float) -> Range:
        """Return what a subscriber is to get that asks for the messages from a POSIX time on."""
        kept = self.span(channel)
        start = first_since(kept.first, kept.last, time, lambda seq: self.text(channel, seq))
        found = self.locate(channel, since=start - 1, epoch=kept.epoch)
        # The first that is kept may not have been the first of that time.
        return replace(found, recovered=found.recovered and (start > kept.first or kept.first == 1))

    def text(self, channel: str, seq: int) -> bytes:
        """Return the text of the first message from a number on; b"" for none. Any thread."""
        found = self.frames(channel, seq, 1)
        return payload_of(found[0][1]) if found else b""

    def piece(self, channel: str, epoch: str, after: int) -> Piece | None:
        """Return the messages behind a number, as many as all replays share.

        None when there are none: the number is the last of its numbering.
        """
        with self._lock:
            kind = self._kind(channel)
            position = kind.position(channel)
            if position is None or position.epoch != epoch or after >= position.seq:
                return None
            kept = kind.channels.get(channel)
            asked = max(after + 1, kept.first) if kept else position.seq + 1
            if kept is None or asked > kept.seq:
                return Piece(b"", position.seq + 1, position.seq, position.seq)
            first, last, make, shared = kept.cut(asked)
            if first > last:
                return None  # the numbers that are left are of no message
            frames = make() if shared else self._cut_locked((channel, epoch, first, last), make)
            middle = kept.middle if first > asked else None
            if middle is not None and middle.last + 1 != first:
                middle = None  # these are others
            return Piece(frames, asked, last, kept.seq, first - asked, middle=middle)

    def _cut_locked(self, key: tuple[str, str, int, int], make: Callable[[], bytes]) -> bytes:
        """Return a part of a block, the same bytes for all replays that need it soon."""
        assert self._lock.locked()
        found = self._cuts.get(key)
        if found is None:
            found = self._cuts[key] = make()
            self._cuts_bytes += len(found)
        self._cuts.move_to_end(key)
        while self._cuts_bytes > _CUTS_BYTES:
            _, dropped = self._cuts.popitem(last=False)
            self._cuts_bytes -= len(dropped)
        return found

    def is_far(self, channel: str, epoch: str, after: int) -> bool:
        """Say whether more lies behind a number than half of what the channel may keep."""
        rule = self._rule_for(channel)
        with self._lock:
            kept = self._kind(channel).channels.get(channel)
            if kept is None or kept.epoch != epoch or not kept.count:
                return False
            unread = min(kept.seq - after, kept.count)
            return (
                unread * 2 > rule.history_messages
                or kept.size * unread // kept.count * 2 > rule.history_bytes
            )


def _range(kept: _Channel | None, position: Position, after: int, whole: bool = True) -> Range:
    """Return what follows a number; what `whole` says, and no hole in it, makes it recovered."""
    holes = kept.holes(after) if kept else 0
    middle = kept.middle if kept and holes else None
    last = middle.last if middle and middle.last > after else 0
    return Range(position, after, whole and not holes, holes, last)
