"""A history store in one SQLite file: survives restarts and kill -9, shared by processes.

Rules of this file:

- A message and the number that it takes are one transaction. Several processes take their
  numbers from the same row, so that there is one numbering.
- A connection is never open across a fork: SQLite's locks are the process's, and a child
  would take those that it remembers for its own.

The file itself is `sqlite_file`'s, what stands in its rows `sqlite_rows`'s.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from ..config import ChannelRule
from ..errors import ConfigError, HistoryError, excerpt
from ..log import get_logger
from ..protocol.message import number
from ..validation import is_number
from .sqlite_file import FileConnection, network_type, transaction
from .sqlite_rows import (
    HEAD_COLUMNS,
    INSERT,
    MOST_PER_ROW,
    Exhausted,
    channel_row,
    drop_keys,
    each_message,
    extended,
    first_since_time,
    head_of,
    in_range,
    joined_rows,
    keep_states,
    published,
    release_reserved,
    reserve,
    spans_of,
    states_of,
    trim,
    until_large,
)
from .store import Kept, Page, Span, new_epoch, newest_of_keys

if TYPE_CHECKING:
    import sqlite3

__all__ = ["SqliteHistory"]

logger = get_logger(__name__)

T = TypeVar("T")
_MOST_PUBLISHED = 65_536  # keys; by number and not by age: a clock may be wrong
_FORGET = 30 * 86_400.0  # seconds until the numbering of an empty channel is forgotten
_SET_HEAD = ", ".join(f"{column} = ?" for column in HEAD_COLUMNS)
_CORRUPT = (11, 26)  # SQLITE_CORRUPT, SQLITE_NOTADB


class _Batch(NamedTuple):
    """What `append` was given."""

    channel: str
    texts: Sequence[bytes]
    keys: Sequence[str | None] | None
    ends: bool
    skip: int
    once: Sequence[str]
    states: Mapping[int, bytes | None]


class SqliteHistory:
    """Keeps the history of channels in a file: `HubConfig(history=SqliteHistory("hub.db"))`.

    Several processes of one machine may name the same file, each with an object of its own.
    The file, and those that SQLite puts beside it, are readable by their user alone.

    Args:
        path: the file, which is made if it is missing; its directory must be there.
        max_bytes: bytes of messages in the file; beyond it whole channels are forgotten, those
            first that clients may publish to, and of these the longest unused.
        clock: POSIX seconds.

    Raises TypeError, ConfigError.

    Threads: any; a call waits for the disk, and for other processes at most five seconds.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        max_bytes: int = 1024 * 1024 * 1024,
        clock: Callable[[], float] = time.time,
    ) -> None:
        given: object = path
        if not isinstance(given, (str, os.PathLike)) or not os.fspath(given):
            raise TypeError(
                f"a SqliteHistory takes the path of a file, not {excerpt(path)}: "
                'SqliteHistory("hub.db")'
            )
        name = os.fspath(path)
        if name.startswith((":", "file:")) or "\0" in name:  # to SQLite, something else
            raise ConfigError(
                f"history cannot be kept in {excerpt(name)}: it is the path of no file. Use one "
                'such as "hub.db"; a hub without SqliteHistory keeps its history in memory'
            )
        if not is_number(max_bytes) or max_bytes < 1:
            raise ConfigError(f"max_bytes must be a positive number, not {excerpt(max_bytes)}")
        self._path = Path(os.path.abspath(name))
        self._max_bytes = max_bytes
        self._clock = clock
        self._rule_for: Callable[[str], ChannelRule] | None = None
        self._renew()
        _stores.add(self)

    def _renew(self) -> None:
        # Two connections: a page is read while a commit waits for the disk.
        self._writer, self._reader = FileConnection(self._path), FileConnection(self._path)

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    def __repr__(self) -> str:
        return f"SqliteHistory({str(self._path)!r})"

    def open(self, rule_for: Callable[[str], ChannelRule]) -> None:
        """Begin: open the file, or make it.

        Raises ConfigError when the file cannot be used, so that a hub does not start: on a
        network file system, in a directory that is missing, or of another program.
        """
        if self._rule_for is not None:
            raise ConfigError(
                f"{self!r} is in use by another hub: give each hub a SqliteHistory of its own; "
                "they may name the same file"
            )
        kind = network_type(self._path.parent)
        if kind:
            raise ConfigError(
                f"history cannot be kept in {str(self._path)!r}: it is on a network file system "
                f"({kind}), where SQLite's locks do not work. Use a file on a disk of this machine"
            )
        if not self._path.parent.is_dir():
            raise ConfigError(
                f"history cannot be kept in {str(self._path)!r}: there is no directory "
                f"{str(self._path.parent)!r}. Make it, or use another file"
            )
        if self._path.exists() and not self._path.is_file():
            raise ConfigError(
                f"history cannot be kept in {str(self._path)!r}: it is a directory or a device. "
                "Use the path of a file, which is made if it is missing"
            )
        self._rule_for = rule_for
        try:
            self._run(self._writer, lambda db: None)
        except HistoryError as error:
            if self._path.is_file():  # it may be better later: a full disk
                logger.error("%s. Messages have no numbers until it can", error)
                return
            self._rule_for = None
            raise ConfigError(
                f"{error}. Use a file in a directory that this user may write to"
            ) from error
        except BaseException:
            self._rule_for = None
            raise

    def hurry(self, seconds: float) -> None:
        """Do nothing: a call waits for some seconds at most."""

    def close(self) -> None:
        """End: what was kept is on the disk then. Idempotent."""
        with contextlib.suppress(HistoryError):
            if self._writer.is_open:
                self._run(self._writer, release_reserved)
        self._rule_for = None
        self._reader.close()
        self._writer.close()

    # --- write -----------------------------------------------------------------------------

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
        """Number and keep messages, all or none; return their numbers: see `HistoryStore`."""
        batch = _Batch(channel, texts, keys, ends, skip, once, states or {})

        def write(db: sqlite3.Connection) -> Span:
            while True:
                try:
                    return self._append(db, batch)
                except Exhausted:
                    # Again: a process that ends gives back what all have reserved.
                    reserve(db, channel, skip + len(texts))

        return self._run(self._writer, write)

    def _append(self, db: sqlite3.Connection, batch: _Batch) -> Span:
        channel, texts, keys, ends, skip, once, states = batch
        rule, now = self._opened()(channel), self._clock()
        expires = now + (rule.history_ttl if ends else rule.history_idle_ttl)
        with transaction(db):
            row = channel_row(db, channel, now)
            id, epoch, seq = row.id, row.epoch, row.seq
            repeated = published(db, once)
            if repeated:
                return Span(epoch, seq + 1, seq, repeated)
            first, last = seq + skip + 1, seq + skip + len(texts)
            if last > row.reserved:
                raise Exhausted
            head, cuts = extended(db, row, rule, texts, first)
            if keys:
                rows = [(place, 1, key, text) for place, key, text in newest_of_keys(keys, texts)]
            else:
                rows = list(joined_rows(texts, cuts))
            count = sum(several for _, several, _, _ in rows)
            size = sum(len(text) - several + 1 for _, several, _, text in rows)
            gone, gone_bytes = drop_keys(db, id, keys) if keys else (0, 0)
            db.executemany(INSERT, [(id, first + place, *row) for place, *row in rows])
            # With the messages or not at all: what a kill cuts short may be published again.
            db.executemany("INSERT INTO published (once) VALUES (?)", [(each,) for each in once])
            change = count - gone, size - gone_bytes
            db.execute(
                "UPDATE channels SET seq = ?, count = count + ?, bytes = bytes + ?, used = ?,"
                f" expires = ?, published = ?, {_SET_HEAD} WHERE id = ?",
                (last, *change, now, expires, rule.publish, *head.values, id),
            )
            trim(db, id, rule, head)
            if states or ends:
                keep_states(db, id, states, ends)
        return Span(epoch, first, last)

    def expire(self, now: float) -> None:
        """Forget what is kept no longer at a POSIX time, and what is beyond `max_bytes`."""

        def forget(db: sqlite3.Connection) -> None:
            over = [id for (id,) in db.execute(
                "SELECT id FROM channels WHERE expires <= ? AND count > 0", (now,)
            )]  # fmt: skip
            (size,) = db.execute("SELECT total(bytes) FROM channels").fetchone()
            if size > self._max_bytes:
                for id, part in db.execute(
                    "SELECT id, bytes FROM channels WHERE count > 0 ORDER BY published DESC, used"
                ).fetchall():
                    if size <= self._max_bytes:
                        break
                    over.append(id)
                    size -= part
            for id in over:  # each on its own: a publisher waits for one channel at most
                with transaction(db):
                    db.execute("DELETE FROM messages WHERE channel = ?", (id,))
                    db.execute("DELETE FROM states WHERE channel = ?", (id,))
                    db.execute("UPDATE channels SET count = 0, bytes = 0 WHERE id = ?", (id,))
            old = "FROM published WHERE id <= (SELECT max(id) FROM published) - ?"
            if db.execute(f"SELECT 1 {old} LIMIT 1", (_MOST_PUBLISHED,)).fetchone():
                with transaction(db):
                    db.execute(f"DELETE {old}", (_MOST_PUBLISHED,))
            old = "FROM channels WHERE count = 0 AND expires <= ?"
            if db.execute(f"SELECT 1 {old} LIMIT 1", (now - _FORGET,)).fetchone():
                with transaction(db):
                    db.execute(f"DELETE {old}", (now - _FORGET,))
                    db.execute("DELETE FROM states WHERE channel NOT IN (SELECT id FROM channels)")
                    # A channel that is numbered again begins under another name.
                    db.execute("UPDATE meta SET epoch = ?", (new_epoch(),))

        self._run(self._writer, forget)

    # --- read ------------------------------------------------------------------------------

    def has_published(self, once: str) -> bool:
        """Return whether a message was appended with this text: see `HistoryStore`."""
        return self._run(self._reader, lambda db: bool(published(db, [once])))

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
        """Return at most `limit` kept messages: see `HistoryStore`."""

        def page(db: sqlite3.Connection) -> Page:
            with transaction(db, "BEGIN"):
                id, kept, head = head_of(db, channel)
                up_to, count, start = kept.last, limit, after
                if last is not None:
                    count = min(last, limit)
                if before is not None:
                    up_to = min(before - 1, kept.last)
                if since_time is not None:
                    start = first_since_time(db, id, kept, head, since_time) - 1
                backwards = start is None and (last is not None or before is not None)
                begin = max(start or 0, kept.first - 1)
                found = db.execute(
                    "SELECT seq, rows, text, key FROM messages"
                    " WHERE channel = ? AND seq > ? AND seq <= ?"
                    f" ORDER BY seq {'DESC' if backwards else 'ASC'}",
                    (id, in_range(begin - MOST_PER_ROW + 1), in_range(up_to)),
                )
                each = (
                    at
                    for at in each_message(found, backwards)
                    if begin < at[0] <= up_to and not head.after < at[0] < head.behind
                )
                messages = list(until_large(itertools.islice(each, max(count, 0))))
            return Page(kept, tuple(reversed(messages) if backwards else messages))

        return self._run(self._reader, page)

    def states(self, channels: Sequence[str]) -> list[Mapping[int, bytes]]:
        """Return the states of each of these channels, by their lines: see `HistoryStore`."""

        def look(db: sqlite3.Connection) -> list[Mapping[int, bytes]]:
            if not db.execute("SELECT 1 FROM states").fetchone():  # nearly always
                return [{} for _ in channels]
            with transaction(db, "BEGIN"):
                return [states_of(db, channel) for channel in channels]

        return self._run(self._reader, look)

    def snapshot(self, channel: str) -> Page:
        """Return the kept messages that have a key: the newest of each."""

        def page(db: sqlite3.Connection) -> Page:
            with transaction(db, "BEGIN"):
                id, kept, _ = head_of(db, channel)
                found = db.execute(
                    "SELECT seq, text, key FROM messages WHERE channel = ? AND key IS NOT NULL"
                    " ORDER BY seq",
                    (id,),
                ).fetchall()
            return Page(kept, tuple(Kept(seq, number(text, seq), key) for seq, text, key in found))

        return self._run(self._reader, page)

    def head(self, channel: str) -> Span:
        """Return the numbers from the oldest message kept to the last given."""
        return self._run(self._reader, lambda db: head_of(db, channel)[1])

    def heads(self, channels: Sequence[str]) -> list[Span]:
        """Return the `head` of each of these channels."""

        def look(db: sqlite3.Connection) -> list[Span]:
            with transaction(db, "BEGIN"):
                found = spans_of(db, channels)
                (epoch,) = db.execute("SELECT epoch FROM meta").fetchone()
            return [found.get(channel) or Span(epoch, 1, 0) for channel in channels]

        return self._run(self._reader, look)

    def version(self) -> object:
        """Return what is another value once another process has kept something; cheap."""
        # The writer's, which its own commits do not change. Each connection counts anew.
        writer = self._writer
        return self._run(
            writer, lambda db: (writer.opened, *db.execute("PRAGMA data_version").fetchone())
        )

    def names(self) -> list[str]:
        """Return the channels that keep something, longest unused first."""
        text = "SELECT name FROM channels WHERE count > 0 ORDER BY used, id"
        return self._run(self._reader, lambda db: [name for (name,) in db.execute(text)])

    # --- the file --------------------------------------------------------------------------

    def _opened(self) -> Callable[[str], ChannelRule]:
        if self._rule_for is None:
            raise HistoryError(f"{self!r} is not open: start the hub that it belongs to")
        return self._rule_for

    def _run(self, connection: FileConnection, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do something with the file; one that is damaged is set aside, and it is done anew."""
        import sqlite3

        self._opened()
        try:
            try:
                return connection.run(work)
            except sqlite3.DatabaseError as error:
                if _code(error) not in _CORRUPT:
                    raise
                connection.set_aside(error)
                return connection.run(work)
        except sqlite3.Error as error:
            raise HistoryError(f"history in {str(self._path)!r} cannot be used: {error}") from error

    def before_fork(self) -> None:
        """Close the connections: none may be open in two processes. The forking thread."""
        for connection in (self._writer, self._reader):
            connection.lock.acquire()
            connection.close()

    def in_parent(self) -> None:
        """Go on after a fork. The forking thread."""
        for connection in (self._writer, self._reader):
            connection.lock.release()

    def in_child(self) -> None:
        """Begin anew in a forked child: the hub's start opens it there."""
        self._rule_for = None
        self._renew()


def _code(error: Exception) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


# guards: nothing, each is only read and changed under the GIL by one call.
_stores: weakref.WeakSet[SqliteHistory] = weakref.WeakSet()
_forking: dict[int, list[SqliteHistory]] = {}  # the thread that forks -> what it has closed


def _before_fork() -> None:
    stores = _forking[threading.get_ident()] = list(_stores)
    for store in stores:
        store.before_fork()


def _in_parent() -> None:
    for store in _forking.pop(threading.get_ident(), ()):
        store.in_parent()


def _in_child() -> None:
    stores = _forking.pop(threading.get_ident(), ())
    _forking.clear()
    for store in stores:
        store.in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_in_parent, after_in_child=_in_child)
