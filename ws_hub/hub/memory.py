"""The history store in memory: what a hub keeps when it has no other store.

The hub thread numbers and keeps by way of the `History` itself; this is the same history for
those that read it, and a store of its own where there is no hub.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

from ..backplane.store import Kept, Page, Span, first_since, run_start
from ..config import ChannelRule
from ..errors import HistoryError
from ..protocol.frames import payload_of, text_frame
from ..protocol.message import number
from ..reentrant import Lock
from .history import History, Position

__all__ = ["MemoryHistory"]

_MOST_PUBLISHED = 65_536


class MemoryHistory:
    """A `HistoryStore` in memory.

    Args:
        history: what is kept; None for one of its own, from `open` on.
        clock: POSIX seconds.
    """

    def __init__(
        self, history: History | None = None, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._history = history
        self._clock = clock
        self._keys: dict[str, dict[str, int]] = {}
        self._published: OrderedDict[str, None] = OrderedDict()  # oldest first
        # guards: _keys, _published, and that a number is given and used at once. Before the
        # history's.
        self._lock = Lock()

    def open(self, rule_for: Callable[[str], ChannelRule]) -> None:
        """Begin; `rule_for` returns what a channel keeps."""
        if self._history is None:
            self._history = History(rule_for)

    def hurry(self, seconds: float) -> None:
        """Do nothing: no call waits."""

    def close(self) -> None:
        """End; what was kept is there for as long as this is."""

    @property
    def _kept(self) -> History:
        if self._history is None:
            raise HistoryError(f"{self!r} is not open: start the hub that it belongs to")
        return self._history

    def append(
        self,
        channel: str,
        texts: Sequence[bytes],
        *,
        keys: Sequence[str | None] | None = None,
        ends: bool = False,
        skip: int = 0,
        once: Sequence[str] = (),
        states: Mapping[int, bytes | None] | None = None,
    ) -> Span:
        """Number and keep messages; return their numbers."""
        with self._lock:
            kept = self._kept.span(channel)
            repeated = tuple(each for each in once if each in self._published)
            if repeated:
                return Span(kept.epoch, kept.last + 1, kept.last, repeated)
            for each in once:
                self._published[each] = None
                if len(self._published) > _MOST_PUBLISHED:
                    del self._published[next(iter(self._published))]
            first = kept.last + skip + 1
            frames = [text_frame(number(text, seq)) for seq, text in enumerate(texts, first)]
            after = Position(kept.epoch, first - 1) if skip else None
            if frames:
                self._kept.extend(
                    channel, frames, self._clock(), ends=ends, after=after, begins=run_start(texts)
                )
            changes = {line: text and text_frame(text) for line, text in (states or {}).items()}
            if ends:
                changes |= dict.fromkeys(self._kept.states(channel))
            if changes:
                self._kept.show(channel, changes, self._clock())
            for seq, key in enumerate(keys or (), first):
                if key is not None:
                    self._keys.setdefault(channel, {})[key] = seq
            return Span(kept.epoch, first, first + len(texts) - 1)

    def states(self, channels: Sequence[str]) -> list[Mapping[int, bytes]]:
        """Return the states of each of these channels, by their lines."""
        found = [self._kept.states(channel) for channel in channels]
        return [{line: payload_of(frame) for line, frame in each.items()} for each in found]

    def has_published(self, once: str) -> bool:
        """Return whether a message was appended with this text."""
        with self._lock:
            return once in self._published

    def read(
        self,
        channel: str,
        *,
        after: int | None = None,
        before: int | None = None,
        since_time: float | None = None,
        last: int | None = None,
        limit: int = 1000,
    ) -> Page:
        """Return at most `limit` kept messages."""
        kept, history = self.head(channel), self._kept
        first, most = kept.first, limit
        if since_time is not None:
            first = first_since(
                kept.first, kept.last, since_time, lambda seq: history.text(channel, seq)
            )
        elif after is not None:
            first = max(after + 1, kept.first)
        elif last is not None or before is not None:
            up_to = kept.last if before is None else min(before - 1, kept.last)
            most = max(limit if last is None else min(last, limit), 0)
            first = history.before_newest(channel, most, up_to) + 1
            found = [each for each in self._messages(channel, first, most) if each.seq <= up_to]
            return Page(kept, tuple(found))
        return Page(kept, tuple(self._messages(channel, first, most)))

    def _messages(self, channel: str, first: int, most: int) -> list[Kept]:
        found = self._kept.frames(channel, first, max(most, 0))
        return [Kept(seq, payload_of(frame)) for seq, frame in found]

    def snapshot(self, channel: str) -> Page:
        """Return the kept messages that have a key: the newest of each."""
        kept = self.head(channel)
        with self._lock:
            keys = {seq: key for key, seq in self._keys.get(channel, {}).items()}
        found = self._messages(channel, kept.first, kept.last - kept.first + 1)
        named = (Kept(each.seq, each.text, keys.get(each.seq)) for each in found)
        return Page(kept, tuple(each for each in named if each.key is not None))

    def head(self, channel: str) -> Span:
        """Return the numbers from the oldest message kept to the last given."""
        return self._kept.span(channel)

    def heads(self, channels: Sequence[str]) -> list[Span]:
        """Return the `head` of each of these channels."""
        return [self.head(channel) for channel in channels]

    def version(self) -> object:
        """Return None always: no other process keeps anything in this memory."""
        return None

    def names(self) -> list[str]:
        """Return the channels that keep something, longest unused first."""
        return self._kept.names()

    def expire(self, now: float) -> None:
        """Forget what is kept no longer at a POSIX time; not for the history of a hub."""
        self._kept.expire(now)
        with self._lock:
            named = set(self._kept.names())
            self._keys = {name: keys for name, keys in self._keys.items() if name in named}
