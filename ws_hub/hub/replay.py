"""Replays: kept messages sent in pieces, each client at its own pace.

Everything but `wake` runs on the hub thread, which owns it; nothing here waits.

A replay has a cursor in its channel's history, and its subscription is not live: what is
published meanwhile reaches it by way of the history. When the cursor has reached the last
message the subscription goes live, on the thread that delivers, so that every message
comes once, in order. A piece is offered to a client only when nothing waits for that
client and its socket has room, so that a slow one holds no more than a piece::

    READY ──offered: taken──> READY, behind the others
      │──nothing fits──> WAITING for its socket (Poller), its outbox (Sender), or its quota
      └──at the last message──> live, and gone from here
"""

from __future__ import annotations

import functools
import heapq
import itertools
import math
import queue
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

from ..connection.outbox import Room
from ..protocol.frames import text_frame
from ..protocol.message import Message, MessageType, encode
from .filtering import Sieve
from .history import History, Piece, Range
from .keyed import KeyedCursor
from .subscriptions import ChannelMap, Subscription

__all__ = ["HUB_THREAD", "REPLACED", "Gap", "Replays", "Source", "Viewer"]

HUB_THREAD = 4  # seconds that one of the hub thread counts as: all clients wait for that
REPLACED = "newer messages have taken their place"

_TURN = 0.0005  # seconds of a turn of the hub that replays may take
_REST = 0.0001  # seconds between such turns: others get the GIL, and the hub what they say
_AT_ONCE = 256 * 1024  # bytes that subscriptions of one turn get without waiting their turn
_RETRY = 0.05  # seconds until a socket is looked at again for which nobody waits
_LOOK = 1.0  # seconds between two looks at clients that may have left
_PATIENCE = 1.0  # seconds that a socket may be full and its client still be waited for
_FEW = 64  # replays of a client, among which those that have ended do not matter
_WAITS = 0.005  # seconds between two looks at what publishers wait for


class Source(Protocol):
    """What keeps the messages of a channel."""

    def piece(self, channel: str, epoch: str, after: int) -> Piece | None:
        """Return the messages behind a number, as many as fit a piece; None for none."""

    def is_far(self, channel: str, epoch: str, after: int) -> bool:
        """Return whether so much lies behind a number that it may be pushed out soon."""


class Viewer(Protocol):
    """What can be sent kept messages."""

    def offer_piece(self, frames: bytes, messages: int, drained: Callable[[], None]) -> Room:
        """Send a piece if nothing waits; else `drained` is called when nothing does."""

    def charge_bytes(self, count: int) -> float:
        """Note bytes that it is sent at its own request; return seconds until it may get more."""

    def charge_processing(self, seconds: float) -> None:
        """Charge seconds of processor time that were spent for it."""

    def count_skipped(self, messages: int) -> None:
        """Take note that it does not get so many messages."""

    def note_drops(self, channel: str, messages: int, reason: str) -> None:
        """Note which messages it did not get, and why."""

    def fileno(self) -> int:
        """Return the descriptor of its socket, to wait for room."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Messages that were let go by their history before a replay came to them.

    Args:
        subscription: the one that it is for.
        after: the last number that was sent.
        missed: how many messages are gone.
        is_told: whether the client has been told, and counts by the numbers, that some are.
    """

    subscription: Subscription[Any]
    after: int
    missed: int
    is_told: bool = False


class _Replay:
    """One subscription's way through what is kept."""

    __slots__ = ("after", "behind", "epoch", "middle", "source", "subscription", "whole")

    def __init__(
        self, subscription: Subscription[Any], epoch: str, after: int, source: Source, behind: bool
    ) -> None:
        self.subscription = subscription
        self.epoch = epoch
        self.after = after  # the last number sent
        self.source = source
        self.behind = behind
        self.whole = True  # the client was told that it gets everything
        self.middle = 0  # the last number of the middle that was missing when it began

    def piece(self) -> Piece | None:
        """Return what comes next; None for nothing."""
        return self.source.piece(self.subscription.channel, self.epoch, self.after)

    def late(self, piece: Piece) -> Gap | None:
        """Return the messages before a piece that were let go since the replay began; once."""
        last = piece.first + piece.holes - 1
        if piece.middle is None or self.middle >= last:
            return None
        after, self.middle = max(self.middle, self.after), last
        return Gap(self.subscription, self.after, last - after, is_told=not self.whole)


class _Queue:
    """The replays of one client, in the order of their turns, and what they wait for."""

    __slots__ = ("fd", "is_slow", "many", "replays", "target", "waiting_since", "wake")

    def __init__(self, target: Any, wake: Callable[[], None]) -> None:
        self.target = target
        self.wake = wake
        self.fd = -1  # what was watched last
        self.replays: OrderedDict[str, _Replay] = OrderedDict()
        self.many = _FEW  # with more replays than that, it is asked which have ended
        self.waiting_since: float | None = None  # None while it is ready
        self.is_slow = False  # whether publishers wait for it no more


class Replays:
    """All replays of a hub that have not reached the present.

    Args:
        history: what is sent.
        channels: the subscriptions.
        watch: has a function called once a descriptor has room; False when nobody can.
        unwatch: takes that back.
        awake: wakes the hub thread.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        history: History,
        channels: ChannelMap[Any],
        *,
        watch: Callable[[int, Callable[[], None]], bool],
        unwatch: Callable[[int, Callable[[], None]], None],
        awake: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._history = history
        self._channels = channels
        self._watch = watch
        self._unwatch = unwatch
        self._awake = awake
        self._clock = clock
        self._sieve = Sieve()
        self._queues: dict[Any, _Queue] = {}
        # All replays of each channel, with their targets. A channel that was looked at for
        # publishers goes to the end.
        self._by_channel: OrderedDict[str, dict[_Replay, _Queue]] = OrderedDict()
        self._near = 0  # how many channels at its end were looked at, and are near
        self._ready: deque[_Queue] = deque()
        self._resting: list[tuple[float, int, _Queue]] = []  # a heap: when each may go on
        self._order = itertools.count()
        self._at_once = _AT_ONCE
        self._next_look = math.inf
        self.skipped = 0  # messages that were replaced before clients that are behind got them
        self._publishers: list[tuple[str | None, Callable[[], object]]] = []
        self._next_wait = 0.0
        # guards: itself. Filled by any thread, under the transport's lock among others;
        # emptied by the hub thread.
        self._woken: queue.SimpleQueue[Any] = queue.SimpleQueue()

    # --- any thread ------------------------------------------------------------------------

    def wake(self, target: Any) -> None:
        """Note that a client may have room again."""
        self._woken.put(target)
        self._awake()

    # --- hub thread ------------------------------------------------------------------------

    def holds(self, target: Any) -> bool:
        """Say whether something is being replayed to a client."""
        return target in self._queues

    def position(self, subscription: Subscription[Any]) -> int | None:
        """Return the last number that a replay has sent; None when there is no replay."""
        queued = self._queues.get(subscription.subscriber)
        replay = queued.replays.get(subscription.channel) if queued is not None else None
        if replay is None or replay.subscription is not subscription:
            return None
        return replay.after

    def is_awaited(self, channel: str) -> bool:
        """Say whether there are replays of a channel."""
        return channel in self._by_channel

    def begin(
        self,
        subscription: Subscription[Any],
        epoch: str,
        after: int,
        source: Source | None = None,
        *,
        behind: bool = False,
        missed: Range | None = None,
    ) -> None:
        """Replay what follows a number, then let the subscription go live.

        It takes the place of a replay of the same channel to the same client. Not much is
        sent at once, where there is room: a channel that keeps little has let it go soon.
        `source` keeps the messages, the history if that is left out. `behind` says that the
        subscription was live, and its client could not be sent more: nobody has asked for
        this, so that it costs the client nothing. `missed` is what the client has been told.
        """
        target, channel = subscription.subscriber, subscription.channel
        subscription.live = False
        queued = self._queues.get(target)
        if queued is None:
            queued = _Queue(target, functools.partial(self.wake, target))
        self._remove(queued, channel)
        replay = _Replay(subscription, epoch, after, source or self._history, behind)
        if missed is not None:
            replay.whole, replay.middle = missed.recovered, missed.middle
        queued.replays[channel] = replay
        self._by_channel.setdefault(channel, {})[replay] = queued
        if len(queued.replays) > queued.many:
            self._drop_ended(queued)
        piece = replay.piece()
        if piece is None:
            self._finish(queued, channel)
        elif (
            subscription.filter is None  # it takes a look at each message: in its turn
            and piece.last == piece.head
            and piece.first == after + 1
            and piece.middle is None
            and len(piece.frames) <= self._at_once
            and len(queued.replays) == 1
            and queued.waiting_since is None
            and self._may(queued)
        ):
            self._at_once -= len(piece.frames)
            self._offer(queued, replay, piece)
        if queued.replays and target not in self._queues:
            self._queues[target] = queued
            if queued.waiting_since is None:
                self._ready.append(queued)

    def end(self, subscription: Subscription[Any]) -> None:
        """Replay nothing more of a subscription."""
        queued = self._queues.get(subscription.subscriber)
        if queued is not None:
            self._remove(queued, subscription.channel)

    def show_states(self, subscription: Subscription[Any]) -> None:
        """Send the states of lines that may still change, to a subscription that is live now."""
        states = self._history.states(subscription.channel)
        if states and subscription.filter is None and subscription.subscriber.replayable:
            subscription.subscriber.offer(b"".join(states.values()), len(states))

    def when_near(self, channel: str | None, call: Callable[[], object]) -> None:
        """Call a function once the replays of a channel are near enough to the present.

        None stands for all channels.
        They are when none has yet to send more than half of what the channel may keep:
        publishing faster than that would push messages out before they are sent. A client whose
        socket was full for a second is waited for no more.
        """
        if self._by_channel if channel is None else channel in self._by_channel:
            self._publishers.append((channel, call))
        else:
            call()

    def turn(self) -> Iterator[Gap]:
        """Send pieces for half a millisecond, to one client after the other.

        Yields each gap when it is found; the replay goes on behind it, unless `end` is
        called.
        """
        now = self._clock()
        self._at_once = _AT_ONCE
        self._wake_up(now)
        if now >= self._next_look:
            self._look(now)
        while self._ready:
            queued = self._ready.popleft()
            gap = self._step(queued)
            if gap is not None:
                yield gap
            if not queued.replays:
                self._drop(queued)
            elif queued.waiting_since is None:
                self._ready.append(queued)
            if self._clock() >= now + _TURN:
                break
        self._call_publishers(now)

    def next_turn(self) -> float:
        """Return when to call `turn` again, unless woken before."""
        now = self._clock()
        if self._ready:
            return now + _REST
        times = [self._next_look]
        if self._resting:
            times.append(self._resting[0][0])
        if self._publishers:
            times.append(max(self._next_wait, now + _WAITS))
        return min(times)

    def _wake_up(self, now: float) -> None:
        """Let go on those that have room, or may get more."""
        woken = [self._woken.get_nowait() for _ in range(self._woken.qsize())]
        while self._resting and self._resting[0][0] <= now:
            woken.append(heapq.heappop(self._resting)[2].target)
        for target in woken:
            queued = self._queues.get(target)
            if queued is not None and queued.waiting_since is not None:
                queued.waiting_since = None
                self._ready.append(queued)

    def _look(self, now: float) -> None:
        """Forget those that have left, which nothing else may tell of."""
        self._next_look = math.inf
        for queued in list(self._queues.values()):
            if queued.waiting_since is None:
                continue
            if self._next(queued) is not None:
                self._next_look = now + _LOOK
                queued.is_slow |= now - queued.waiting_since >= _PATIENCE
            else:
                self._drop(queued)

    def _drop(self, queued: _Queue) -> None:
        if self._queues.get(queued.target) is queued:
            del self._queues[queued.target]
        if queued.waiting_since is not None:
            self._unwatch(queued.fd, queued.wake)

    def _remove(self, queued: _Queue, channel: str) -> _Replay | None:
        """Forget a replay, if there is one; return it."""
        replay = queued.replays.pop(channel, None)
        if replay is not None:
            replays = self._by_channel[channel]
            del replays[replay]
            if not replays:
                del self._by_channel[channel]
                self._near = max(self._near - 1, 0)  # it may have been one of those
        return replay

    def _drop_ended(self, queued: _Queue) -> None:
        """Forget all replays that have ended, which their turn would come to late.

        As seldom as there are many: it costs each replay that begins a look or two.
        """
        get = self._channels.get
        for channel, replay in list(queued.replays.items()):
            if get(queued.target, channel) is not replay.subscription:
                self._remove(queued, channel)
        queued.many = max(_FEW, 2 * len(queued.replays))

    def _next(self, queued: _Queue) -> _Replay | None:
        """Return the next replay; forget those before it that have ended.

        A client that has left has no subscription any more, so that all of them go.
        """
        while queued.replays:
            channel, replay = next(iter(queued.replays.items()))
            if self._channels.get(queued.target, channel) is replay.subscription:
                return replay
            self._remove(queued, channel)
        return None

    def _may(self, queued: _Queue) -> bool:
        """Say whether a client may get more; if not, it rests until it may."""
        rest = queued.target.charge_bytes(0)
        if rest <= 0:
            return True
        self._rest(queued, rest)
        return False

    def _rest(self, queued: _Queue, seconds: float) -> None:
        self._wait(queued)
        heapq.heappush(self._resting, (self._clock() + seconds, next(self._order), queued))

    def _wait(self, queued: _Queue) -> None:
        queued.waiting_since = self._clock()
        self._next_look = min(self._next_look, queued.waiting_since + _LOOK)

    def _step(self, queued: _Queue) -> Gap | None:
        """Send the next piece of one client, if that is possible now."""
        replay = self._next(queued)
        if replay is None or not self._may(queued):
            return None
        channel = replay.subscription.channel
        piece = replay.piece()
        if piece is None:
            self._finish(queued, channel)
            return None
        if piece.first > replay.after + 1:
            gap = Gap(replay.subscription, replay.after, piece.first - replay.after - 1)
            replay.after = piece.first - 1
            return gap
        late = replay.late(piece)
        if late is not None:
            return late
        if replay.subscription.filter is not None:
            piece = self._sift(replay, piece)
        elif piece.middle is not None and replay.subscription.recovers:
            piece = replace(piece, frames=_gap_frame(channel, replay, piece) + piece.frames)
        self._offer(queued, replay, piece)
        return None

    def _sift(self, replay: _Replay, piece: Piece) -> Piece:
        """Take out what does not pass the filter, at the cost of the client that asked."""
        subscription, source = replay.subscription, replay.source
        assert subscription.filter is not None
        fresh = source.fresh if isinstance(source, KeyedCursor) else None
        numbered = fresh is not None or source is self._history
        began = time.thread_time()
        left = self._sieve.sift(
            subscription.channel,
            piece,
            subscription.filter,
            fresh,
            numbered and subscription.recovers,
        )
        if not replay.behind:
            spent = HUB_THREAD * (time.thread_time() - began)
            subscription.subscriber.charge_processing(spent)
            # What is only looked at is slowed like what is sent: nothing may pass for long.
            subscription.subscriber.charge_bytes(max(len(piece.frames) - len(left.frames), 0))
        return left

    def _offer(self, queued: _Queue, replay: _Replay, piece: Piece) -> None:
        channel, room = replay.subscription.channel, Room.TAKEN
        if piece.frames:  # else nothing passes
            room = queued.target.offer_piece(piece.frames, piece.messages, queued.wake)
        if room is Room.TAKEN:
            skipped = piece.last - replay.after - piece.messages - piece.omitted
            if replay.behind and skipped:
                self.skipped += skipped
                queued.target.count_skipped(skipped)
                queued.target.note_drops(channel, skipped, REPLACED)
            replay.after = piece.last
            queued.replays.move_to_end(channel)  # the other channels' turns come first
            if not replay.behind:
                queued.target.charge_bytes(len(piece.frames))
            if piece.last == piece.head:
                self._finish(queued, channel)
        elif room is Room.ENDED:
            for each in list(queued.replays):
                self._remove(queued, each)
        elif room is Room.QUEUED:
            self._wait(queued)
        else:
            queued.fd = queued.target.fileno()
            if self._watch(queued.fd, queued.wake):
                self._wait(queued)
            else:
                self._rest(queued, _RETRY)

    def _finish(self, queued: _Queue, channel: str) -> None:
        """Let a subscription go live: everything before this moment has been sent."""
        replay = self._remove(queued, channel)
        assert replay is not None
        replay.subscription.live = True
        if replay.source is self._history:
            self.show_states(replay.subscription)

    def _call_publishers(self, now: float) -> None:
        if not self._publishers or now < self._next_wait:
            return
        began = self._clock()
        far = {channel for channel, _ in self._publishers if channel and self._is_far(channel)}
        all_near = self._look_at_all(began + _TURN)
        # A tenth of the time at most, however many viewers there are to look at.
        ended = self._clock()
        self._next_wait = ended + max(_WAITS, 9 * (ended - began))
        waiting, self._publishers = self._publishers, []
        for channel, call in waiting:
            if channel in far or (channel is None and not all_near):
                self._publishers.append((channel, call))
            else:
                call()

    def _look_at_all(self, until: float) -> bool:
        """Say whether all channels are near; ended by the first that is far, and in time.

        The next look goes on where this one ended.
        """
        if all(channel is not None for channel, _ in self._publishers):
            return False  # nobody asks
        while self._near < len(self._by_channel):
            channel = next(iter(self._by_channel))
            if self._is_far(channel):
                self._near = 0
                return False
            self._by_channel.move_to_end(channel)
            self._near += 1
            if self._clock() >= until:
                return False
        self._near = 0
        return True

    def _is_far(self, channel: str) -> bool:
        """Say whether a viewer that is not slow is far from the present of a channel."""
        return any(
            not queued.is_slow
            and self._channels.get(queued.target, channel) is replay.subscription
            and replay.source.is_far(channel, replay.epoch, replay.after)
            for replay, queued in self._by_channel.get(channel, {}).items()
        )


def _gap_frame(channel: str, replay: _Replay, piece: Piece) -> bytes:
    """Return the message that names what is missing before a piece."""
    assert piece.middle is not None
    data = {"after": replay.after, "messages": piece.holes}
    if replay.after <= piece.middle.after:  # else a part of it, whose bytes are not known
        data["bytes"] = piece.middle.total_bytes
    return text_frame(
        encode(Message(MessageType.HISTORY_GAP, channel=channel, data=data), time.time())
    )
