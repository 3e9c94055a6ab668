"""What numbers and keeps the messages of channels: the interface of a history store.

A store gives each message of a channel its number, one above the one before, under the
channel's epoch, and keeps the newest within the channel's rule. A number is never given
twice under one epoch. Texts are encoded messages; a store adds their `seq` when it reads.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..config import ChannelRule
from ..protocol.message import STATUS_PREFIX, Message, begins_run, parse_timestamp

__all__ = [
    "MAX_STATES",
    "HistoryPage",
    "HistoryStore",
    "Kept",
    "Middle",
    "Page",
    "Span",
    "first_since",
    "moment",
    "new_epoch",
    "newest_of_keys",
    "run_start",
]


@dataclass(frozen=True, slots=True)
class Middle:
    """Messages that a channel has let go, between its beginning and its newest messages.

    Args:
        after: the number before the first of them, the last of the beginning.
        messages: how many numbers are missing.
        total_bytes: bytes of the encoded messages; of those that this process had, where it reads
            from its memory.
    """

    after: int
    messages: int
    total_bytes: int

    @property
    def last(self) -> int:
        """The number of the last of them.

        Threads: any.
        """
        return self.after + self.messages

    def fields(self) -> dict[str, int]:
        """Return it as on the wire.

        Threads: any.
        """
        return {"after": self.after, "messages": self.messages, "bytes": self.total_bytes}


@dataclass(frozen=True, slots=True)
class Span:
    """Numbers that follow each other, of one numbering.

    Args:
        epoch: the numbering.
        first: the first number; one above the last when there is none.
        last: the last number.
        repeated: of what `append` was given as `once`, what was published before; then it has
            kept nothing.
        middle: of the kept messages, what was let go between them; None for nothing.
        begin: of these, the number of the first that the beginning has; 0 for none.
    """

    epoch: str
    first: int
    last: int
    repeated: tuple[str, ...] = ()
    middle: Middle | None = None
    begin: int = 0


@dataclass(frozen=True, slots=True)
class Kept:
    """One kept message.

    Args:
        seq: its number.
        text: its JSON text, `seq` included.
        key: its key, in a channel that keeps the newest message of each.
    """

    seq: int
    text: bytes
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Some of the kept messages of a channel, oldest first.

    Args:
        kept: from the oldest message kept to the last number given.
        messages: those of this page.
    """

    kept: Span
    messages: tuple[Kept, ...]


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """Some of the kept messages of a channel, as `Hub.history` returns them, oldest first.

    For the page after it ask for `since=page.messages[-1].seq`, for the one before it for
    `before=page.messages[0].seq`; a page without messages is behind the end.

    Args:
        epoch: the numbering of the channel.
        first: number of the oldest message that is kept; one above `last` for none.
        last: the last number given.
        messages: those of this page.
        middle: what was let go between the beginning that is kept and the newest messages; None
            for nothing. Its numbers are missing between two messages.
    """

    epoch: str
    first: int
    last: int
    messages: tuple[Message, ...]
    middle: Middle | None = None


MAX_STATES = 256  # of a channel: of lines that may still change


class HistoryStore(Protocol):
    """Numbers and keeps messages. Any thread may call it; a call may wait for a disk.

    What cannot be done now (a full disk) raises HistoryError, and may work later.
    """

    def open(self, rule_for: Callable[[str], ChannelRule]) -> None:
        """Begin; `rule_for` returns what a channel keeps. Raises ConfigError."""

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
        """Number and keep messages, all or none; return their numbers.

        A message with a key replaces the one before it with that key. `ends` says that the
        last is the last for the time being (`ChannelRule.history_ttl`). `skip` leaves out so
        many numbers first, for messages that could not be kept. `once` are texts that
        `has_published` knows from then on, those of the newest 65,536 messages that have one;
        each is one channel's alone. Where it knows some of them already, nothing is kept, and
        `Span.repeated` names them: another process has published that meanwhile. `states` has
        the newest state of each line of a program's output that may still change, None for
        lines that have none any more; it is given only where there are lines, then also without
        texts. They take no numbers; `ends` forgets all of them.
        Where the channel's rule has `history_head_bytes`, the first messages of the newest run of
        a program (`run_start`) stay, and what is behind them is let go first.
        """

    def states(self, channels: Sequence[str]) -> list[Mapping[int, bytes]]:
        """Return the states of each of these channels, by their lines."""

    def has_published(self, once: str) -> bool:
        """Return whether a message was appended with this text, before a restart as well."""

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
        """Return at most `limit` kept messages, at least one where there is one.

        Those that follow the number `after`, the newest below `before`, those from a POSIX
        time on, or the newest `last`; the oldest when none is given.
        """

    def snapshot(self, channel: str) -> Page:
        """Return the kept messages that have a key: the newest of each."""

    def head(self, channel: str) -> Span:
        """Return the numbers from the oldest message kept to the last given."""

    def heads(self, channels: Sequence[str]) -> list[Span]:
        """Return the `head` of each of these channels; `middle` and `begin` may be left out."""

    def version(self) -> object:
        """Return what is another value once another process has kept something; cheap."""

    def names(self) -> list[str]:
        """Return the channels that keep something, longest unused first."""

    def expire(self, now: float) -> None:
        """Forget what is kept no longer at a POSIX time."""

    def hurry(self, seconds: float) -> None:
        """Have no call wait for what is away longer than so many seconds from now: the hub ends.

        Any thread; does not wait.
        """

    def close(self) -> None:
        """End; idempotent. What was kept is there after another `open`."""


def moment(text: bytes) -> float:
    """Return the `timestamp` of an encoded message as POSIX time; 0 when it has none."""
    _, found, rest = text.rpartition(b'"timestamp":"')  # data, which may hold one, is before it
    try:
        return parse_timestamp(rest[: rest.find(b'"')].decode()).timestamp() if found else 0.0
    except ValueError:
        return 0.0


def first_since(first: int, last: int, time: float, text_from: Callable[[int], bytes]) -> int:
    """Return the number of the first message of a POSIX time or later; last + 1 for none.

    `text_from` returns the first text at or above a number. It looks at a few only: the times
    of a channel rise, but for those that an application sets itself.
    """
    while first <= last:
        middle = (first + last) // 2
        if moment(text_from(middle)) < time:
            first = middle + 1
        else:
            last = middle - 1
    return first


def run_start(texts: Sequence[bytes]) -> int | None:
    """Return the place of the last text that begins a run of a program; None for none."""
    # Texts of a type that sorts behind are rare, and one comparison of all is a call.
    if not texts or max(texts) < STATUS_PREFIX:
        return None
    return max((place for place, text in enumerate(texts) if begins_run(text)), default=None)


def new_epoch() -> str:
    """Return the name of a numbering that there has not been.

    Threads: any.
    """
    return secrets.token_hex(6)


def newest_of_keys(
    keys: Sequence[str | None], texts: Sequence[bytes]
) -> Iterator[tuple[int, str | None, bytes]]:
    """Yield the messages that no later one replaces: their places, their keys, their texts."""
    newest = {key: place for place, key in enumerate(keys)}
    for place, (key, text) in enumerate(zip(keys, texts, strict=True)):
        if key is None or newest[key] == place:
            yield place, key, text
