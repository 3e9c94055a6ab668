"""What was said in a channel: its last messages, numbered.

Must not know sockets, threads or who listens; time is an argument. Other stores can
follow: the hub uses `next_seq`, `append`, `replay`, `names` and `expire`, no more, and
numbers a channel from one thread only.
"""

from __future__ import annotations

import math
import secrets
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

from .config import ChannelRule
from .reentrant import Lock

__all__ = ["History", "Position", "Replay"]

_MAX_CHANNELS = 10_000  # beyond it the longest unused is freed


@dataclass(frozen=True, slots=True)
class Position:
    """Where a channel stands: the numbering, and the last number given."""

    epoch: str
    seq: int


@dataclass(frozen=True, slots=True)
class Replay:
    """What a subscriber is to get first.

    Args:
        position: where the channel stands after these frames.
        frames: the missed messages, as frames, in order.
        recovered: whether they are all that was missed.
    """

    position: Position
    frames: Sequence[bytes]
    recovered: bool


class _Channel:
    __slots__ = ("epoch", "expires", "frames", "seq", "size")

    def __init__(self, epoch: str) -> None:
        self.epoch = epoch
        self.seq = 0
        self.frames: deque[bytes] = deque()
        self.size = 0
        self.expires = math.inf


class History:
    """The kept messages of all channels that keep any.

    Args:
        rule_for: returns what holds for a channel.
        new_epoch: names a new numbering.
    """

    def __init__(
        self,
        rule_for: Callable[[str], ChannelRule],
        new_epoch: Callable[[], str] = lambda: secrets.token_hex(6),
    ) -> None:
        self._rule_for = rule_for
        self._new_epoch = new_epoch
        # guards: everything below. Taken after the hub's lock; nothing is taken under it.
        self._lock = Lock()
        self._channels: OrderedDict[str, _Channel] = OrderedDict()  # longest unused first
        # Channels that keep nothing, not yet or not any more, but have a numbering: a
        # position given out stays good, and who still listens, whom nobody tells of a new
        # numbering, takes no message for an old one. They cannot crowd out what is kept.
        self._awaited: OrderedDict[str, _Channel] = OrderedDict()
        self._next_expiry = math.inf

    def next_seq(self, channel: str) -> int:
        """Return the number that the next message of a channel will have."""
        with self._lock:
            found = self._channels.get(channel) or self._awaited.get(channel)
            return found.seq + 1 if found else 1

    def extend(
        self, channel: str, frames: Sequence[bytes], now: float, *, over: bool = False
    ) -> None:
        """Keep the next messages of a channel.

        `over` says that the last is the last for the time being (a process has exited):
        the channel is freed history_ttl seconds later instead of history_idle_ttl.
        """
        rule = self._rule_for(channel)
        with self._lock:
            kept = self._open_locked(channel)
            kept.seq += len(frames)
            kept.frames.extend(frames)
            kept.size += sum(map(len, frames))
            while len(kept.frames) > rule.history_messages or (
                kept.size > rule.history_bytes and len(kept.frames) > 1
            ):
                kept.size -= len(kept.frames.popleft())
            kept.expires = now + (rule.history_ttl if over else rule.history_idle_ttl)
            self._next_expiry = min(self._next_expiry, kept.expires)

    def _open_locked(self, channel: str) -> _Channel:
        assert self._lock.locked()
        kept = self._channels.get(channel)
        if kept is None:
            kept = self._awaited.pop(channel, None) or _Channel(self._new_epoch())
            self._channels[channel] = kept
            if len(self._channels) > _MAX_CHANNELS:
                self._free_locked(next(iter(self._channels)))
        self._channels.move_to_end(channel)
        return kept

    def _look_locked(self, channel: str) -> _Channel:
        assert self._lock.locked()
        kept = self._channels.get(channel) or self._awaited.get(channel)
        if kept is None:
            kept = _Channel(self._new_epoch())
            self._await_locked(channel, kept)
        return kept

    def _free_locked(self, channel: str) -> None:
        """Forget what was said in a channel, but not how far it was numbered."""
        assert self._lock.locked()
        kept = self._channels.pop(channel)
        kept.frames.clear()
        kept.size = 0
        self._await_locked(channel, kept)

    def _await_locked(self, channel: str, empty: _Channel) -> None:
        assert self._lock.locked()
        self._awaited[channel] = empty
        if len(self._awaited) > _MAX_CHANNELS:
            self._awaited.popitem(last=False)

    def replay(
        self, channel: str, *, since: int | None = None, epoch: str = "", last: int | None = None
    ) -> Replay:
        """Return what a subscriber that stands at `since` in `epoch` has missed.

        `since=0` without an epoch asks for all that is kept, and gets it; `last` asks
        for the newest messages. A position of another epoch, of the future, or of
        which something is no longer kept gets what there is and `recovered` False.
        """
        with self._lock:
            kept = self._look_locked(channel)
            position = Position(kept.epoch, kept.seq)
            if last is not None:
                count, recovered = min(max(last, 0), len(kept.frames)), True
            elif since is None:
                count, recovered = 0, True
            elif since == 0 and not epoch:
                count, recovered = len(kept.frames), True
            elif (epoch and epoch != kept.epoch) or not 0 <= since <= kept.seq:
                count, recovered = len(kept.frames), False
            else:
                missed = kept.seq - since
                count = min(missed, len(kept.frames))
                recovered = count == missed
            start = len(kept.frames) - count
            return Replay(position, list(islice(kept.frames, start, None)), recovered)

    def names(self) -> list[str]:
        """Return the channels that keep something."""
        with self._lock:
            return list(self._channels)

    def expire(self, now: float) -> float:
        """Free the channels whose time is up; return when to call again."""
        with self._lock:
            if now >= self._next_expiry:
                for name in [n for n, kept in self._channels.items() if kept.expires <= now]:
                    self._free_locked(name)
                self._next_expiry = min(
                    (kept.expires for kept in self._channels.values()), default=math.inf
                )
            return self._next_expiry
