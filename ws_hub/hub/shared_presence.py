"""The presence of several processes: tells the others of our connections, applies what they tell.

Each process has the entries of all in its own `PresenceState`, where it joins, updates and holds
them by the same rules. No I/O and no clock: the time is an argument. Rules of this file:

- A process has a token, which the ids of its connections end with. It tells only of these, and
  is believed only of these.
- It numbers what it tells. A process that finds a number missing asks for the whole, as one does
  that begins; the answer goes to all.
- It repeats its last number every few seconds, so that what was told last and lost is noticed
  too. A process that is not heard for some time, or whose end is known, is gone: its
  connections count as ended, and their users are held as if they had been cut.
- One that is held is known to those that were there at its end. The whole has only what is
  connected.

The hub thread owns everything here, but for the queue of what was heard.
"""

from __future__ import annotations

import json
import math
import secrets
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..backplane.bus import Notice, NoticeKind
from ..config import ChannelRule
from ..errors import excerpt
from ..log import get_logger
from ..protocol.json_text import to_json
from ..protocol.presence import entry_text
from .presence import Entry, PresenceState

__all__ = ["Remote", "SharedPresence"]

logger = get_logger(__name__)

_RENEW_EVERY = 5.0  # seconds between two repetitions of the last number
_SILENCE = 20.0  # seconds without any after which a process is gone
_ASK_EVERY = 1.0  # seconds between two requests to one process
_ANSWER_EVERY = 0.2  # seconds between two answers
_PIECE_CHARACTERS = 32_768  # of entries in one notice, about
_MOST_HEARD = 1_000  # notices that wait for the hub thread
_MOST_TAKEN = 8  # of these in one turn
_EVERYBODY = ""  # in the place of a token


class Remote:
    """Stands for the subscription of a client of another process."""

    __slots__ = ()


@dataclass(slots=True)
class _Process:
    """What is known of another process.

    Args:
        source: its name on the backplane.
        number: of what it told last.
        until: when it is gone, unless it is heard before.
        entries: its connected entries, by channel and id.
        whole: while it tells the whole, what that has had so far; else None.
    """

    source: str
    number: int
    until: float
    entries: dict[str, dict[str, Remote]] = field(default_factory=dict)
    whole: set[tuple[str, str]] | None = None

    def pairs(self) -> list[tuple[str, str]]:
        """Return the channel and the id of each entry."""
        return [(channel, id) for channel, entries in self.entries.items() for id in entries]


class _Heard(NamedTuple):
    """A notice of another process, or, with no text, its end."""

    source: str
    text: bytes


class SharedPresence:
    """Exchanges the presence of this process with that of the others.

    Args:
        state: the entries of all.
        rule_for: the rule of a channel.
        tell: tells the other processes; never waits.
        awake: wakes the hub thread.
    """

    def __init__(
        self,
        state: PresenceState[Any],
        rule_for: Callable[[str], ChannelRule],
        tell: Callable[[Notice], object],
        awake: Callable[[], object],
    ) -> None:
        self._state = state
        self._rule_for = rule_for
        self._tell = tell
        self._awake = awake
        self._token = secrets.token_hex(4)
        # Changed by single calls: filled by the backplane's thread, emptied by the hub thread.
        self._heard: deque[_Heard] = deque()
        # Of the hub thread.
        self._own: dict[str, dict[str, str]] = {}  # channel -> id -> entry, of what is connected
        # What is to be told: the entry of one that joins, whether the client of one that leaves
        # has gone.
        self._changes: dict[str, dict[str, str | bool]] = {}
        self._number = 0  # of what was told last
        self._asks: dict[str, None] = {_EVERYBODY: None}  # whom to ask
        self._is_asked = False
        self._next_answer = -math.inf
        self._next_renewal = math.inf
        self._last_turn = -math.inf
        self._processes: dict[str, _Process] = {}
        self._next_asks: dict[str, float] = {}  # when a process may be asked again

    # --- the backplane's thread ----------------------------------------------------------------

    def hear(self, source: str, text: bytes) -> bool:
        """Take what a process of this name on the backplane tells; False without room."""
        if len(self._heard) >= _MOST_HEARD:
            return False
        self._heard.append(_Heard(source, text))
        self._awake()
        return True

    def gone(self, source: str) -> None:
        """Note the end of a process."""
        self._heard.append(_Heard(source, b""))
        self._awake()

    # --- hub thread: of this process -----------------------------------------------------------

    def id_of(self, number: int) -> str:
        """Return the id of a client of this process, which no other process has."""
        return f"{number}-{self._token}"

    def joined(self, channel: str, id: str, text: str) -> None:
        """Tell of an entry that is new, or has another text."""
        self._own.setdefault(channel, {})[id] = text
        self._changes.setdefault(channel, {})[id] = text

    def left(self, channel: str, id: str, gone: bool) -> None:
        """Tell of the end of an entry; `gone` says that its client has ended."""
        own = self._own.get(channel, {})
        if own.pop(id, None) is not None and not own:
            del self._own[channel]
        self._changes.setdefault(channel, {})[id] = gone

    def next_turn(self) -> float:
        """Return when to call `turn` again, in monotonic seconds."""
        if self._heard or self._changes or self._asks:
            return -math.inf
        look = self._last_turn + _RENEW_EVERY if self._processes else math.inf
        answer = self._next_answer if self._is_asked else math.inf
        return min(look, answer, self._next_renewal)

    def turn(self, now: float) -> None:
        """Apply what was heard, and tell what is to be told."""
        if now - self._last_turn > 2 * _RENEW_EVERY:
            # This process has stood still: nobody could be heard.
            for known in self._processes.values():
                known.until = now + _SILENCE
        self._last_turn = now
        self._take(now)
        for token in [each for each, known in self._processes.items() if known.until <= now]:
            self._end(token, now)
        asks, self._asks = self._asks, {}
        for token in asks:
            self._send({"ask": token})
        answers = self._is_asked and now >= self._next_answer
        if self._changes:
            self._tell_changes(now)  # the whole does not say how one has left
        if answers:
            self._is_asked, self._next_answer = False, now + _ANSWER_EVERY
            self._tell_whole(now)
        elif now >= self._next_renewal:
            self._next_renewal = now + _RENEW_EVERY
            self._send({"from": self._token, "n": self._number})

    def _tell_changes(self, now: float) -> None:
        changes, self._changes = self._changes, {}
        for piece in _pieces(changes):
            self._send_next(piece, now)

    def _tell_whole(self, now: float) -> None:
        pieces = list(_pieces(self._own)) or ["{}"]
        for index, piece in enumerate(pieces):
            first = ',"first":true' if index == 0 else ""
            last = ',"last":true' if index == len(pieces) - 1 else ""
            self._send_next(piece, now, first + last)

    def _send_next(self, channels: str, now: float, flags: str = "") -> None:
        self._number += 1
        self._next_renewal = now + _RENEW_EVERY
        head = f'{{"from":"{self._token}","n":{self._number}{flags}'
        self._tell(Notice(NoticeKind.PRESENCE, texts=(f'{head},"channels":{channels}}}'.encode(),)))

    def _send(self, fields: dict[str, object]) -> None:
        self._tell(Notice(NoticeKind.PRESENCE, texts=(to_json(fields).encode(),)))

    # --- hub thread: of others -------------------------------------------------------------------

    def _take(self, now: float) -> None:
        """Apply what was heard, some of it: the hub thread has other things to do."""
        for _ in range(min(len(self._heard), _MOST_TAKEN)):
            source, text = self._heard.popleft()
            if not text:
                for token in [t for t, each in self._processes.items() if each.source == source]:
                    self._end(token, now)
                continue
            try:
                self._apply(source, json.loads(text), now)
            except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
                logger.warning(
                    "another process tells of presence what is not understood (%r): %s",
                    error,
                    excerpt(text),
                )

    def _apply(self, source: str, told: dict[str, Any], now: float) -> None:
        if "ask" in told:
            self._is_asked = self._is_asked or told["ask"] in (_EVERYBODY, self._token)
            return
        token, number, channels = str(told["from"]), int(told["n"]), told.get("channels")
        if token == self._token:
            return
        known = self._processes.get(token)
        if channels is not None and (told.get("first") or (known is None and number == 1)):
            if known is None:
                known = self._processes[token] = _Process(source, number, now)
            known.whole = set() if told.get("first") else None
        elif number != (0 if known is None else known.number + (channels is not None)):
            self._ask(token, now)
            channels = None
        if known is None:
            return
        known.source, known.until = source, now + _SILENCE
        if channels is not None:
            known.number = number
            for channel, change in channels.items():
                self._change(token, known, channel, change, now)
            if told.get("last"):
                self._end_whole(known, now)

    def _ask(self, token: str, now: float) -> None:
        if now >= self._next_asks.get(token, now):
            self._next_asks = {each: at for each, at in self._next_asks.items() if at > now}
            self._next_asks[token] = now + _ASK_EVERY
            self._asks[token] = None

    def _change(
        self, token: str, known: _Process, channel: str, change: dict[str, Any], now: float
    ) -> None:
        rule = self._rule_for(channel)
        if not rule.presence:
            return  # it has other rules
        entries = known.entries.setdefault(channel, {})
        for told in change.get("join", ()):
            user, id = told["user"], told["connection"]
            if not isinstance(user, str | None) or not id.endswith(f"-{token}"):
                raise ValueError(f"not an entry of process {token}")
            text = entry_text(user, id, to_json(told["info"]) if "info" in told else "")
            if known.whole is not None:
                known.whole.add((channel, id))
            if id in entries:
                self._state.update(channel, id, text, now)
            else:
                entries[id] = Remote()
                self._state.join(channel, rule, Entry(user, id, text, entries[id]), now)
        for id, gone in change.get("leave", ()):
            self._leave(known, channel, id, now, gone=bool(gone))

    def _leave(self, known: _Process, channel: str, id: str, now: float, *, gone: bool) -> None:
        entries = known.entries.get(channel, {})
        remote = entries.pop(id, None)
        if not entries:
            known.entries.pop(channel, None)
        if remote is not None:
            self._state.leave(channel, id, remote, now, gone=gone)

    def _end_whole(self, known: _Process, now: float) -> None:
        """End what the whole did not have; it has ended since it was told."""
        whole, known.whole = known.whole, None
        if whole is not None:
            for channel, id in known.pairs():
                if (channel, id) not in whole:
                    self._leave(known, channel, id, now, gone=True)

    def _end(self, token: str, now: float) -> None:
        known = self._processes.pop(token)
        for channel, id in known.pairs():
            self._leave(known, channel, id, now, gone=True)


def _pieces(channels: Mapping[str, Mapping[str, str | bool]]) -> Iterator[str]:
    """Return what is told of channels as JSON, in objects of a bounded size."""
    piece: list[str] = []
    size = 0
    for channel, entries in channels.items():
        joins: list[str] = []
        leaves: list[str] = []
        for id, told in entries.items():
            if isinstance(told, str):
                joins.append(told)
            else:
                leaves.append(to_json([id, told]))
            size += len(told) if isinstance(told, str) else len(leaves[-1])
            if size >= _PIECE_CHARACTERS:
                yield f"{{{','.join([*piece, _changes_text(channel, joins, leaves)])}}}"
                piece, joins, leaves, size = [], [], [], 0
        if joins or leaves:
            piece.append(_changes_text(channel, joins, leaves))
    if piece:
        yield f"{{{','.join(piece)}}}"


def _changes_text(channel: str, joins: list[str], leaves: list[str]) -> str:
    return f'{to_json(channel)}:{{"join":[{",".join(joins)}],"leave":[{",".join(leaves)}]}}'
