"""Who is present in each channel, and what subscribers are told of it: the state alone.

No I/O and no clock: the time is an argument. Rules of this file:

- The hub thread owns all changes. The lock is for `of`, which any thread may ask.
- Entries join and leave at once; what subscribers know, `published`, follows in `step`, which
  compares the two. So what goes back and forth between two steps is never told, and a burst of
  joins is one message. A list is always of what is published: the next changes continue it.
- A subscriber gets the list, then its own join as the first change.
- The last connection of a user is held, still present, for the grace time after its end; its
  user's next connection takes its place in the same step.
- Where entries come from is not known here: those of other processes have ids of their own, see
  `shared_presence`.
"""

from __future__ import annotations

import heapq
import itertools
import json
import math
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from ..config import ChannelRule
from ..protocol.presence import Presence, entry_text, grouped
from ..reentrant import Lock

__all__ = ["Entry", "News", "PresenceState"]

T = TypeVar("T", bound=Hashable)

_PAUSE = 0.1  # seconds between two messages to a channel, at least
_PER_SECOND = 10_000  # deliveries a second that a channel's presence makes at most, about
_SETTLE = 0.5  # seconds for which one that has unsubscribed is present: it may begin anew


@dataclass(frozen=True, slots=True)
class Entry(Generic[T]):
    """One connection in one channel.

    Args:
        user: the user's id; None for a connection without one, which is a member of its own.
        connection: its id, unique among all sources.
        text: what subscribers are told, as JSON.
        token: what stands for this subscription; `leave` of an older one changes nothing.
        until: the end of the time for which it is held; None while it is connected.
    """

    user: str | None
    connection: str
    text: str
    token: T
    until: float | None = None


@dataclass(frozen=True, slots=True)
class News(Generic[T]):
    """What the subscribers of a channel are told.

    Args:
        channel: the channel.
        data: the data of the message, as JSON.
        joined: the tokens of the entries that are told of; empty where `data` is a state.
    """

    channel: str
    data: str
    joined: tuple[T, ...] = ()


class _Channel(Generic[T]):
    __slots__ = ("changed", "entries", "free", "listing", "published", "rule", "state", "told",
                 "users")  # fmt: skip

    def __init__(self, rule: ChannelRule) -> None:
        self.rule = rule
        self.entries: dict[str, Entry[T]] = {}
        self.users: dict[str, dict[str, None]] = {}  # user -> its connections, oldest first
        self.listing = rule.presence is True  # whether members are listed; else counted
        self.published: dict[str, Entry[T]] = {}  # what is told, where they are listed
        self.changed: dict[str, None] = {}  # the ids that may differ from that
        self.state = ""  # what is published, as JSON; "" when that has to be made anew
        self.told = False  # whether a step is due
        self.free = -math.inf  # when the next message may be sent

    def counts(self, entries: dict[str, Entry[T]]) -> str:
        """Return both numbers, as the fields of a JSON object."""
        users = {each.user for each in entries.values()}
        anonymous = sum([each.user is None for each in entries.values()])
        return f'"users":{len(users - {None}) + anonymous},"connections":{len(entries)}'


class PresenceState(Generic[T]):
    """The entries of all channels with presence.

    Args:
        max_held: entries that are held at one time; more leave at once.
    """

    def __init__(self, max_held: int = 100_000) -> None:
        self._max_held = max_held
        # guards: everything below. Taken alone: nothing is taken or called under it.
        self._lock = Lock()
        self._channels: dict[str, _Channel[T]] = {}
        # When to look at what: a channel's next message, or with an id the end of a hold. Holds
        # that have been overtaken stay until then.
        self._due: list[tuple[float, int, str, str]] = []
        self._order = itertools.count()
        self._held = 0

    # --- any thread ------------------------------------------------------------------------

    def of(self, channel: str, rule: ChannelRule) -> Presence:
        """Return who is present at this moment."""
        with self._lock:
            found = self._channels.get(channel)
            entries = [] if found is None else list(found.entries.values())
            listing = rule.presence is True if found is None else found.listing
        members = grouped(
            (each.connection, each.user, json.loads(each.text).get("info")) for each in entries
        )
        return Presence(len(members), len(entries), members if listing else None)

    # --- hub thread ------------------------------------------------------------------------

    def join(self, channel: str, rule: ChannelRule, entry: Entry[T], now: float) -> None:
        """Add an entry, or put it in the place of the one with its id."""
        with self._lock:
            found = self._channels.get(channel)
            if found is None:
                found = self._channels[channel] = _Channel(rule)
            self._put(found, entry)
            if entry.user is not None:
                own = found.users.setdefault(entry.user, {})
                own[entry.connection] = None
                for other in list(own):
                    if found.entries[other].until is not None:
                        self._remove(found, other)  # this one has taken its place
            self._touch(channel, found, entry.connection, now)

    def update(self, channel: str, connection: str, text: str, now: float) -> bool:
        """Change what is told of an entry, if it is there; return whether that changes."""
        with self._lock:
            found = self._channels.get(channel)
            entry = None if found is None else found.entries.get(connection)
            if found is None or entry is None or entry.text == text:
                return False
            self._put(found, replace(entry, text=text))
            self._touch(channel, found, connection, now)
        return True

    def leave(self, channel: str, connection: str, token: T, now: float, *, gone: bool) -> bool:
        """End an entry: at once, or when it has been held for a time; False where it has ended.

        `gone` says that the connection has ended; otherwise it has unsubscribed.
        """
        with self._lock:
            found = self._channels.get(channel)
            entry = None if found is None else found.entries.get(connection)
            if found is None or entry is None or entry.token is not token:
                return False
            seconds = self._hold(found, entry) if gone else min(_SETTLE, found.rule.presence_grace)
            if seconds and self._held < self._max_held:
                self._put(found, replace(entry, until=now + seconds))
                self._look(now + seconds, channel, connection)
            else:
                self._remove(found, connection)
                self._touch(channel, found, connection, now)
        return True

    @staticmethod
    def _hold(found: _Channel[T], entry: Entry[T]) -> float:
        """Return for how long a connection that has ended stays present."""
        if entry.user is None:
            return 0.0  # what comes back has another id
        others = [found.entries[each] for each in found.users[entry.user]]
        if any(each.until is None and each is not entry for each in others):
            return 0.0
        return found.rule.presence_grace

    def state(self, channel: str, rule: ChannelRule) -> str:
        """Return what is published, as JSON."""
        with self._lock:
            found = self._channels.get(channel)
            if found is None:
                found = _Channel(rule)
            if not found.state:
                found.state = self._state(found, found.published)
            return found.state

    def step(self, now: float) -> list[News[T]]:
        """End what was held for long enough; return the messages that are due."""
        news: list[News[T]] = []
        due: list[str] = []  # published at the end: with what was held until now
        with self._lock:
            while self._due and self._due[0][0] <= now:
                _, _, channel, connection = heapq.heappop(self._due)
                if connection:
                    self._end_hold(channel, connection, now)
                else:
                    due.append(channel)
            for channel in due:
                if found := self._channels.get(channel):
                    news += self._publish(channel, found, now)
        return news

    def _end_hold(self, channel: str, connection: str, now: float) -> None:
        found = self._channels.get(channel)
        entry = None if found is None else found.entries.get(connection)
        # Else it has come back, or is held anew.
        if found and entry and entry.until is not None and entry.until <= now:
            self._remove(found, connection)
            self._touch(channel, found, connection, now)

    def next_step(self) -> float:
        """Return when `step` has something to do."""
        return self._due[0][0] if self._due else math.inf

    def _put(self, found: _Channel[T], entry: Entry[T]) -> None:
        before = found.entries.get(entry.connection)
        self._held += (entry.until is not None) - (before is not None and before.until is not None)
        found.entries[entry.connection] = entry

    def _remove(self, found: _Channel[T], connection: str) -> None:
        entry = found.entries.pop(connection)
        self._held -= entry.until is not None
        found.changed[connection] = None
        if entry.user is not None:
            own = found.users[entry.user]
            del own[connection]
            if not own:
                del found.users[entry.user]

    def _touch(self, channel: str, found: _Channel[T], connection: str, now: float) -> None:
        found.changed[connection] = None
        if not found.told:
            found.told = True
            self._look(max(now, found.free), channel)

    def _look(self, when: float, channel: str, connection: str = "") -> None:
        heapq.heappush(self._due, (when, next(self._order), channel, connection))

    def _publish(self, channel: str, found: _Channel[T], now: float) -> list[News[T]]:
        """Bring what subscribers know up to what is; return the message for that, if any."""
        found.told = False
        found.free = now + _PAUSE + len(found.entries) / _PER_SECOND
        changed, found.changed = found.changed, {}
        if not found.entries:
            del self._channels[channel]
        limit = found.rule.presence_limit
        listing = found.rule.presence is True
        listing = listing and len(found.entries) <= (limit if found.listing else limit * 9 // 10)
        if listing and found.listing:
            return self._changes(channel, found, changed)
        before = found.state or self._state(found, found.published)
        found.listing = listing
        found.published = dict(found.entries) if listing else {}
        found.state = self._state(found, found.entries)
        return [News(channel, found.state)] if found.state != before else []

    @staticmethod
    def _changes(channel: str, found: _Channel[T], changed: dict[str, None]) -> list[News[T]]:
        joined: list[Entry[T]] = []
        left: list[str] = []
        for connection in changed:
            entry, before = found.entries.get(connection), found.published.get(connection)
            if entry is not None and (before is None or before.text != entry.text):
                found.published[connection] = entry
                joined.append(entry)
            elif entry is None and before is not None:
                del found.published[connection]
                left.append(entry_text(before.user, connection))
        if not joined and not left:
            return []
        found.state = ""
        join = ",".join([each.text for each in joined])
        data = f'{{"join":[{join}],"leave":[{",".join(left)}]}}'
        return [News(channel, data, tuple([each.token for each in joined]))]

    @staticmethod
    def _state(found: _Channel[T], entries: dict[str, Entry[T]]) -> str:
        members = ",".join([each.text for each in entries.values()])
        tail = f',"members":[{members}]' if found.listing else ""
        return f"{{{found.counts(entries)}{tail}}}"
