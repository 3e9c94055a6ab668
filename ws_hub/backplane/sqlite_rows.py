"""The rows of a history file: what a message, several, a channel and a key are in its tables.

Messages that come together share a row, each a line of it; a message with a key has its own. A
row stays until all of it is to go, and `first` says from where on it counts.

Every function is for the thread that uses the connection, within a transaction of its own;
`reserve` and `release_reserved` make one.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from ..config import ChannelRule
from ..protocol.message import number
from .sqlite_file import transaction
from .store import MAX_STATES, Kept, Span, first_since

if TYPE_CHECKING:
    import sqlite3

__all__ = [
    "INSERT",
    "MOST_PER_ROW",
    "Exhausted",
    "channel_row",
    "drop_keys",
    "each_message",
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


def channel_row(db: sqlite3.Connection, channel: str, now: float) -> tuple[int, str, int, int]:
    """Return id, epoch, last number and reserved number of a channel, which is made if need be."""
    text = "SELECT id, epoch, seq, reserved FROM channels WHERE name = ?"
    row = db.execute(text, (channel,)).fetchone()
    if row is None:
        # Not waited for: when this commit is lost, so is the file's epoch.
        db.execute(
            "INSERT INTO channels (name, epoch, seq, reserved, first, count, bytes, used, expires,"
            " published) SELECT ?, epoch, 0, ?, 1, 0, 0, ?, ?, 0 FROM meta",
            (channel, _RESERVE, now, now),
        )
        row = db.execute(text, (channel,)).fetchone()
    found: tuple[int, str, int, int] = row
    return found


def joined_rows(texts: Sequence[bytes]) -> Iterator[Row]:
    """Yield rows of messages without keys.

    A row for each would cost a step of SQLite each, for which the GIL is given up.
    """
    at = 0
    while at < len(texts):
        part = texts[at : at + MOST_PER_ROW]
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


def trim(db: sqlite3.Connection, id: int, rule: ChannelRule) -> None:
    """Have only messages within the bounds of the rule count; the last one stays.

    The text of a row is read only where a bound in bytes lies within it.
    """
    first, count, size = db.execute(
        "SELECT first, count, bytes FROM channels WHERE id = ?", (id,)
    ).fetchone()
    most, most_bytes = max(rule.history_messages, 1), rule.history_bytes
    if count <= 1 or (count <= most and size <= most_bytes):
        return
    rows = db.execute(
        "SELECT seq, rows, length(text) FROM messages WHERE channel = ? ORDER BY seq", (id,)
    )
    for begin, several, length in rows:
        length -= several - 1
        there = begin + several - max(begin, first)
        if count > there and (count - there >= most or size - length >= most_bytes):
            first, count, size = begin + several, count - there, size - length
            continue
        beyond = max(count - most, 0)
        first, count = max(begin, first) + beyond, count - beyond
        if size > most_bytes:
            beyond = _beyond(db, (id, begin), first - begin, size - most_bytes)
            beyond = min(beyond, count - 1)
            first, count = first + beyond, count - beyond
        if first == begin + several:
            size -= length
        break
    rows.close()
    db.execute(
        "DELETE FROM messages WHERE channel = ? AND seq < ? AND seq + rows <= ?", (id, first, first)
    )
    db.execute(
        "UPDATE channels SET first = ?, count = ?, bytes = ? WHERE id = ?", (first, count, size, id)
    )


def _beyond(db: sqlite3.Connection, row: tuple[int, int], place: int, size: int) -> int:
    """Return how many messages of a row, from a place on, are to go with the first bytes of it."""
    text = "SELECT text FROM messages WHERE channel = ? AND seq = ?"
    (joined,) = db.execute(text, row).fetchone()
    ends = list(itertools.accumulate(map(len, joined.split(b"\n"))))
    return max(bisect_left(ends, size) + 1 - place, 0)


def head_of(db: sqlite3.Connection, channel: str) -> tuple[int, Span]:
    """Return the id and the numbers of a channel; -1 and none for one that has none."""
    row = db.execute(
        f"SELECT id, epoch, seq, {_OLDEST} FROM channels WHERE name = ?",
        (channel,),
    ).fetchone()
    if row is None:
        (epoch,) = db.execute("SELECT epoch FROM meta").fetchone()
        return -1, Span(epoch, 1, 0)
    id, epoch, seq, first = row
    return id, Span(epoch, seq + 1 if first is None else first, seq)


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


def first_since_time(db: sqlite3.Connection, id: int, kept: Span, time: float) -> int:
    """Return the number of the first kept message that is not older than a POSIX time."""

    def text_from(seq: int) -> bytes:
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


def in_range(value: int) -> int:
    """Return a number that SQLite can take for one that may be any."""
    return min(max(value, -1), 2**62)
