"""The rows of a history file: what a message, several, a channel and a key are in its tables.

Messages that come together share a row, each a line of it; a message with a key has its own. A
row stays until all of it is to go, and `first` says from where on it counts; behind a beginning
that stays, `behind` says it. No row has messages of a beginning and others.

Every function is for the thread that uses the connection, within a transaction of its own;
`reserve` and `release_reserved` make one.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..config import ChannelRule
from ..protocol.message import number
from .sqlite_file import transaction
from .store import MAX_STATES, Kept, Middle, Span, first_since, run_start

if TYPE_CHECKING:
    import sqlite3

__all__ = [
    "HEAD_COLUMNS",
    "INSERT",
    "MOST_PER_ROW",
    "NO_HEAD",
    "ChannelRow",
    "Exhausted",
    "Head",
    "channel_row",
    "drop_keys",
    "each_message",
    "extended",
    "first_since_time",
    "head_of",
    "in_range",
    "joined_rows",
    "keep_states",
    "published",
    "release_reserved",
    "reserve",
    "spans_of",
    "states_of",
    "trim",
    "until_large",
]

Row = tuple[int, int, "str | None", bytes]  # place of the first message, how many, key, texts

MOST_PER_ROW = 128  # messages of one row at most
_ROW_BYTES = 32 * 1024  # of a row that has several: it is read whole, for one of them too
INSERT = "INSERT INTO messages (channel, seq, rows, key, text) VALUES (?, ?, ?, ?, ?)"
_RESERVE = 100_000  # numbers that a wait for the disk makes usable
_PAGE_BYTES = 4 * 1024 * 1024  # of one page; a larger message is alone in its own
_OLDEST = "max((SELECT seq FROM messages WHERE channel = id ORDER BY seq LIMIT 1), first)"
_VARIABLES = 500  # of one statement; old builds of SQLite take 999


class Exhausted(Exception):
    """A channel has given all numbers that it may before the disk knows."""


@dataclass(frozen=True, slots=True)
class Head:
    """The beginning of a channel that stays, and the middle behind it: columns of its row.

    Args:
        first: the number of the first message of the beginning; 0 for none.
        last: of the last one; None as long as there is room for more.
        count: how many messages it has.
        size: their bytes.
        after: the number before the middle.
        behind: the number behind it; 0 for no middle.
        lost: bytes of the texts in those rows of the middle that are gone.
    """

    first: int = 0
    last: int | None = None
    count: int = 0
    size: int = 0
    after: int = 0
    behind: int = 0
    lost: int = 0

    @property
    def values(self) -> tuple[int | None, ...]:
        """What stands in the columns."""
        return (
            self.first, self.last, self.count, self.size, self.after, self.behind, self.lost
        )  # fmt: skip

    @property
    def stays(self) -> bool:
        """Whether there are messages that stay."""
        return self.count > 0

    def with_texts(
        self, texts: Sequence[bytes], number: int, rule: ChannelRule
    ) -> tuple[Head, int]:
        """Return it with as many texts as fit, and how many do.

        `number` is that of the first. Where it has no room for that, its `last` is 0.
        """
        ends = itertools.accumulate(map(len, texts), initial=self.size)
        fitting = sum(1 for end in ends if end <= rule.history_head_bytes) - 1
        fitting = max(min(fitting, rule.history_head_messages - self.count), 0)
        last = None
        if fitting < len(texts):
            last = number + fitting - 1 if fitting else 0
        size = self.size + sum(map(len, texts[:fitting]))
        return replace(self, last=last, count=self.count + fitting, size=size), fitting


NO_HEAD = Head()
HEAD_COLUMNS = ("head", "head_last", "head_count", "head_bytes", "after", "behind", "lost")
_HEAD = ", ".join(HEAD_COLUMNS)
# The first row behind the beginning: that of the middle which is not wholly gone, or the next.
_BEHIND = "SELECT seq, rows, text FROM messages WHERE channel = ? AND seq > ? ORDER BY seq LIMIT 1"


def extended(
    db: sqlite3.Connection, row: ChannelRow, rule: ChannelRule, texts: Sequence[bytes], first: int
) -> tuple[Head, list[int]]:
    """Return the beginning of a channel with new messages, and the places at which rows are cut.

    `first` is the number of the first of them.
    """
    head = row.head
    if not rule.history_head_bytes:  # nor had it, unless the rule is another one now
        _settle(db, row.id, head)
        return NO_HEAD, []
    if head.stays and row.first > head.first:
        head = _given_up(db, row.id, head)
    start = run_start(texts)
    if start is None and not row.count:
        start = 0
    if start is not None:
        head = replace(_settle(db, row.id, head), first=first + start, last=None, count=0, size=0)
    if not head.first or head.last is not None:
        return head, []
    at = start or 0
    head, fitting = head.with_texts(texts[at:], first + at, rule)
    if head.last is not None:
        # Asked, since an older release may have added some, which does not know of beginnings.
        last, count = db.execute(
            "SELECT max(seq + rows) - 1, total(rows) FROM messages WHERE channel = ? AND seq >= ?",
            (row.id, head.first),
        ).fetchone()
        last = head.last or (head.first - 1 if last is None else last)
        head = replace(head, last=last, count=int(count) + fitting)
    return head, [at, at + fitting]


def _given_up(db: sqlite3.Connection, id: int, head: Head) -> Head:
    """Have a channel no beginning: an older release has let go of some of it, and counted on.

    It took the lines of the middle in a row that is left for kept ones.
    """
    _settle(db, id, head)
    db.execute(
        "UPDATE channels SET (count, bytes) = (SELECT total(seq + rows - max(seq, first)),"
        " total(length(text) - rows + 1) FROM messages WHERE channel = id) WHERE id = ?",
        (id,),
    )
    return NO_HEAD


def _settle(db: sqlite3.Connection, id: int, head: Head) -> Head:
    """Have no row hold messages of the middle: what is behind it is to go from its front."""
    if not head.behind:
        return head
    seq, several, text = db.execute(_BEHIND, (id, head.after)).fetchone() or (head.behind, 0, b"")
    if seq >= head.behind:
        return head
    each = text.split(b"\n")
    gone, rest = each[: head.behind - seq], each[head.behind - seq :]
    size = sum(map(len, gone))
    db.execute("DELETE FROM messages WHERE channel = ? AND seq = ?", (id, seq))
    db.execute(INSERT, (id, head.behind, several - len(gone), None, b"\n".join(rest)))
    db.execute("UPDATE channels SET bytes = bytes - ? WHERE id = ?", (size, id))
    return replace(head, lost=head.lost + size)


@dataclass(frozen=True, slots=True)
class ChannelRow:
    """What is known of a channel.

    Args:
        id: in the tables.
        epoch: its numbering.
        seq: the last number given.
        reserved: no number is above this.
        first: what is below it is kept no longer.
        count: messages kept.
        head: its beginning.
    """

    id: int
    epoch: str
    seq: int
    reserved: int
    first: int
    count: int
    head: Head


def channel_row(db: sqlite3.Connection, channel: str, now: float) -> ChannelRow:
    """Return what is known of a channel, which is made if need be."""
    text = f"SELECT id, epoch, seq, reserved, first, count, {_HEAD} FROM channels WHERE name = ?"
    row = db.execute(text, (channel,)).fetchone()
    if row is None:
        # Not waited for: when this commit is lost, so is the file's epoch.
        db.execute(
            "INSERT INTO channels (name, epoch, seq, reserved, first, count, bytes, used, expires,"
            " published) SELECT ?, epoch, 0, ?, 1, 0, 0, ?, ?, 0 FROM meta",
            (channel, _RESERVE, now, now),
        )
        row = db.execute(text, (channel,)).fetchone()
    id, epoch, seq, reserved, first, count, *columns = row
    return ChannelRow(id, epoch, seq, reserved, first, count, Head(*columns))


def joined_rows(texts: Sequence[bytes], cuts: Sequence[int] = ()) -> Iterator[Row]:
    """Yield rows of messages without keys; none goes over one of the places in `cuts`.

    A row for each would cost a step of SQLite each, for which the GIL is given up.
    """
    at, ends = 0, sorted({*cuts, len(texts)} - {0})
    while at < len(texts):
        if at == ends[0]:
            del ends[0]
        part = texts[at : min(at + MOST_PER_ROW, ends[0])]
        while len(part) > 1 and sum(map(len, part)) > _ROW_BYTES:
            part = part[: len(part) // 2]
        text = b"\n".join(part)
        if text.count(b"\n") == len(part) - 1:
            yield at, len(part), None, text
        else:
            yield from ((at + place, 1, None, each) for place, each in enumerate(part))
        at += len(part)


def each_message(
    rows: Iterable[tuple[int, int, bytes, str | None]], backwards: bool
) -> Iterator[tuple[int, bytes, str | None]]:
    """Yield number, text and key of the messages of rows, which may come newest first."""
    for seq, count, text, key in rows:
        if count == 1:
            yield seq, text, key
            continue
        numbered = list(enumerate(text.split(b"\n"), seq))
        for number_, each in reversed(numbered) if backwards else numbered:
            yield number_, each, None


def reserve(db: sqlite3.Connection, channel: str, count: int) -> None:
    """Raise what channels have reserved, of all that have little left, and wait for the disk."""
    db.execute("PRAGMA synchronous=FULL")
    try:
        with transaction(db):
            db.execute(
                "UPDATE channels SET reserved = seq + ? WHERE reserved < seq + ?",
                (_RESERVE, _RESERVE // 2),
            )
            db.execute(
                "UPDATE channels SET reserved = max(reserved, seq + ?) WHERE name = ?",
                (count + _RESERVE, channel),
            )
    finally:
        db.execute("PRAGMA synchronous=NORMAL")


def release_reserved(db: sqlite3.Connection) -> None:
    """Give back what is reserved: should this commit be lost, there is a gap, and no more."""
    with transaction(db):
        db.execute("UPDATE channels SET reserved = seq WHERE reserved > seq")


def published(db: sqlite3.Connection, once: Sequence[str]) -> tuple[str, ...]:
    """Return those of some texts that messages were published with."""
    text = "SELECT 1 FROM published WHERE once = ?"
    return tuple(each for each in once if db.execute(text, (each,)).fetchone())


def drop_keys(db: sqlite3.Connection, id: int, keys: Sequence[str | None]) -> tuple[int, int]:
    """Delete what messages with these keys replace; return how many, and their bytes."""
    count = size = 0
    for key in {key for key in keys if key is not None}:
        for (length,) in db.execute(
            "DELETE FROM messages WHERE channel = ? AND key = ? RETURNING length(text)", (id, key)
        ).fetchall():
            count, size = count + 1, size + length
    return count, size


def keep_states(
    db: sqlite3.Connection, id: int, states: Mapping[int, bytes | None], ends: bool
) -> None:
    """Replace the states of some lines; None for those that have none. All go at an end."""
    new = [] if ends else [(id, line, text) for line, text in states.items() if text is not None]
    if not new and not db.execute("SELECT 1 FROM states WHERE channel = ?", (id,)).fetchone():
        return
    if ends:
        db.execute("DELETE FROM states WHERE channel = ?", (id,))
        return
    db.executemany(
        "DELETE FROM states WHERE channel = ? AND line = ?", [(id, line) for line in states]
    )
    db.executemany("INSERT INTO states (channel, line, text) VALUES (?, ?, ?)", new)
    db.execute(
        "DELETE FROM states WHERE channel = ? AND line IN (SELECT line FROM states"
        " WHERE channel = ? ORDER BY line DESC LIMIT -1 OFFSET ?)",
        (id, id, MAX_STATES),
    )


def states_of(db: sqlite3.Connection, channel: str) -> dict[int, bytes]:
    """Return the states of a channel, by their lines."""
    text = "SELECT line, text FROM states WHERE channel = (SELECT id FROM channels WHERE name = ?)"
    return dict(db.execute(f"{text} ORDER BY line", (channel,)).fetchall())


def trim(db: sqlite3.Connection, id: int, rule: ChannelRule, head: Head) -> None:
    """Have only messages within the bounds of the rule count; the last one stays.

    Those of a beginning that stays too: what is before it goes first, then what is behind it.
    """
    first, count, size = db.execute(
        "SELECT first, count, bytes FROM channels WHERE id = ?", (id,)
    ).fetchone()
    most, most_bytes = max(rule.history_messages, 1), rule.history_bytes
    if count <= 1 or (count <= most and size <= most_bytes):
        return
    left = _Left(count, size, most, most_bytes)
    if not head.stays:
        first, left, _ = _cut(db, id, (first, math.inf), left, count)
    elif first < head.first:
        first, left, _ = _cut(db, id, (first, head.first), left, math.inf)
    if head.stays and head.last is not None and first >= head.first:
        after, behind, lost = head.last, head.last + 1, 0
        if head.after == after:
            behind, lost = head.behind, head.lost
        before, loose = left.count, left.count - head.count
        begin, left, gone = _cut(db, id, (behind, math.inf), left, loose, after)
        if left.count < before:
            head = replace(head, after=after, behind=begin, lost=lost + gone)
    db.execute(
        "UPDATE channels SET first = ?, count = ?, bytes = ?, after = ?, behind = ?, lost = ?"
        " WHERE id = ?",
        (first, left.count, left.size, head.after, head.behind, head.lost, id),
    )


@dataclass(frozen=True, slots=True)
class _Left:
    """How many messages are left of a channel, and how many it may keep."""

    count: int
    size: int
    most: int
    most_bytes: int

    @property
    def is_within(self) -> bool:
        return self.count <= self.most and self.size <= self.most_bytes


def _cut(
    db: sqlite3.Connection,
    id: int,
    part: tuple[int, float],
    left: _Left,
    loose: float,
    after: int = -1,
) -> tuple[int, _Left, int]:
    """Drop the oldest messages of a part, as many as are to go; all but one of the `loose`.

    The part counts from its first number on, and has rows behind `after`. Returns from where on it
    counts then, what is left, and the bytes of the rows that are gone. The text of a row is read
    only where a bound in bytes lies within it.
    """
    (first, end), most, most_bytes = part, left.most, left.most_bytes
    count, size, gone = left.count, left.size, 0
    if left.is_within:
        return first, left, 0
    rows = db.execute(
        "SELECT seq, rows, length(text) FROM messages WHERE channel = ? AND seq > ? AND seq < ?"
        " ORDER BY seq",
        (id, after, in_range(end)),
    )
    for begin, several, length in rows:
        length -= several - 1
        there = begin + several - max(begin, first)
        if loose > there and (count - there >= most or size - length >= most_bytes):
            first, count, loose = begin + several, count - there, loose - there
            size, gone = size - length, gone + length
            continue
        spare = int(min(there, loose - 1))
        beyond, first = min(max(count - most, 0), spare), max(begin, first)
        if size > most_bytes:
            place = first + beyond - begin
            more = _beyond(db, (id, begin), place, size - most_bytes)
            beyond += min(more, spare - beyond)
        first, count = first + beyond, count - beyond
        if first == begin + several:
            size, gone = size - length, gone + length
        break
    else:
        first = first if end == math.inf else int(end)  # all of it is gone
    rows.close()
    db.execute(
        "DELETE FROM messages WHERE channel = ? AND seq > ? AND seq < ? AND seq + rows <= ?",
        (id, after, first, first),
    )
    return first, _Left(count, size, most, most_bytes), gone


def _beyond(db: sqlite3.Connection, row: tuple[int, int], place: int, size: int) -> int:
    """Return how many messages of a row, from a place on, are to go with the first bytes of it."""
    text = "SELECT text FROM messages WHERE channel = ? AND seq = ?"
    (joined,) = db.execute(text, row).fetchone()
    ends = list(itertools.accumulate(map(len, joined.split(b"\n"))))
    return max(bisect_left(ends, size) + 1 - place, 0)


def head_of(db: sqlite3.Connection, channel: str) -> tuple[int, Span, Head]:
    """Return id, numbers and beginning of a channel; -1 and none for one that has none."""
    row = db.execute(
        f"SELECT id, epoch, seq, {_OLDEST}, {_HEAD} FROM channels WHERE name = ?",
        (channel,),
    ).fetchone()
    if row is None:
        (epoch,) = db.execute("SELECT epoch FROM meta").fetchone()
        return -1, Span(epoch, 1, 0), NO_HEAD
    id, epoch, seq, first, *columns = row
    head = Head(*columns)
    if first is None:
        return id, Span(epoch, seq + 1, seq), NO_HEAD
    begin = head.first if head.stays else 0
    return id, Span(epoch, first, seq, (), _middle(db, id, head, first), begin), head


def _middle(db: sqlite3.Connection, id: int, head: Head, first: int) -> Middle | None:
    """Return what is gone between the messages of a channel, of which the first is kept."""
    if not head.behind or head.after < first:
        return None
    seq, _, text = db.execute(_BEHIND, (id, head.after)).fetchone()
    gone = text.split(b"\n")[: head.behind - seq] if seq < head.behind else []
    after = head.after
    return Middle(after, max(seq, head.behind) - after - 1, head.lost + sum(map(len, gone)))


def spans_of(db: sqlite3.Connection, channels: Sequence[str]) -> dict[str, Span]:
    """Return the numbers of those channels that have any."""
    found: dict[str, Span] = {}
    for start in range(0, len(channels), _VARIABLES):
        part = channels[start : start + _VARIABLES]
        rows = db.execute(
            f"SELECT name, epoch, seq, {_OLDEST} FROM channels"
            f" WHERE name IN ({','.join('?' * len(part))})",
            part,
        )
        for name, epoch, seq, first in rows:
            found[name] = Span(epoch, seq + 1 if first is None else first, seq)
    return found


def first_since_time(db: sqlite3.Connection, id: int, kept: Span, head: Head, time: float) -> int:
    """Return the number of the first kept message that is not older than a POSIX time."""

    def text_from(seq: int) -> bytes:
        seq = head.behind if head.after < seq < head.behind else seq
        rows = db.execute(
            "SELECT seq, rows, text, key FROM messages WHERE channel = ? AND seq > ?"
            " AND seq + rows > ? ORDER BY seq LIMIT 1",
            (id, seq - MOST_PER_ROW, seq),
        )
        return next((text for at, text, _ in each_message(rows, False) if at >= seq), b"")

    newest = db.execute(
        "SELECT seq + rows - 1 FROM messages WHERE channel = ? ORDER BY seq DESC LIMIT 1", (id,)
    ).fetchone()
    return first_since(kept.first, newest[0] if newest else 0, time, text_from)


def until_large(each: Iterable[tuple[int, bytes, str | None]]) -> Iterator[Kept]:
    """Yield messages, numbered, until they are as large together as a page may be."""
    size = 0
    for seq, text, key in each:
        size += len(text)
        if size > _PAGE_BYTES and size > len(text):
            return
        yield Kept(seq, number(text, seq), key)


def in_range(value: float) -> int:
    """Return a number that SQLite can take for one that may be any."""
    return int(min(max(value, -1), 2**62))
