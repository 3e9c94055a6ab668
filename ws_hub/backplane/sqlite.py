"""A history store in one SQLite file: survives restarts and kill -9, shared by processes.

Rules of this file:

- A message and the number that it takes are one transaction. Several processes take their
  numbers from the same row, so that there is one numbering.
- The file is in WAL mode with synchronous=normal: a commit is there for every process at
  once, whatever becomes of the one that made it. A power failure can lose the newest commits.
- So each channel has a `reserved` number, which no number exceeds. To raise it is a commit
  that waits for the disk. A file that was not closed before the machine started anew goes on
  behind it: a number that may have been given is not given again.
- Messages that come together share a row, each a line of it; a message with a key has its
  own. A row stays until all of it is to go, and `first` says from where on it counts.
- A connection is never open across a fork: SQLite's locks are the process's, and a child
  would take those that it remembers for its own.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ..config import ChannelRule
from ..errors import ConfigError, HistoryError, excerpt
from ..log import get_logger
from ..protocol.message import number
from ..reentrant import Lock
from ..validation import is_number
from .store import Kept, Page, Span, first_since

if TYPE_CHECKING:
    import sqlite3

__all__ = ["SqliteHistory", "network_type"]

logger = get_logger(__name__)

T = TypeVar("T")
_Row = tuple[int, int, "str | None", bytes]  # place of the first message, how many, key, texts

_ID = 0x77736862  # "wshb": that a file is of ws_hub
_VERSION = 2
_SCHEMA = """
CREATE TABLE meta (boot TEXT NOT NULL, epoch TEXT NOT NULL);
CREATE TABLE channels (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, epoch TEXT NOT NULL,
    seq INTEGER NOT NULL, reserved INTEGER NOT NULL,  -- the last number; none is above this
    first INTEGER NOT NULL,                           -- what is below it is kept no longer
    count INTEGER NOT NULL, bytes INTEGER NOT NULL,   -- of the messages kept
    used REAL NOT NULL, expires REAL NOT NULL,        -- POSIX times
    published INTEGER NOT NULL                        -- whether clients may publish to it
);
CREATE TABLE messages (  -- a row is one message, or several that follow each other, a line each
    channel INTEGER NOT NULL, seq INTEGER NOT NULL, rows INTEGER NOT NULL, key TEXT,
    text BLOB NOT NULL, PRIMARY KEY (channel, seq)
) WITHOUT ROWID;
CREATE UNIQUE INDEX keys ON messages (channel, key) WHERE key IS NOT NULL;
CREATE TABLE published (  -- with an idempotency key
    id INTEGER PRIMARY KEY, once TEXT NOT NULL UNIQUE
);
"""
_MOST_PUBLISHED = 65_536  # keys; by number and not by age: a clock may be wrong
_ROW = 128  # messages of one row at most
_ROW_BYTES = 32 * 1024  # of a row that has several: it is read whole, for one of them too
_INSERT = "INSERT INTO messages (channel, seq, rows, key, text) VALUES (?, ?, ?, ?, ?)"
_RESERVE = 100_000  # numbers that a wait for the disk makes usable
_FORGET = 30 * 86_400.0  # seconds until the numbering of an empty channel is forgotten
_PAGE_BYTES = 4 * 1024 * 1024  # of one page; a larger message is alone in its own
_OLDEST = "max((SELECT seq FROM messages WHERE channel = id ORDER BY seq LIMIT 1), first)"
_VARIABLES = 500  # of one statement; old builds of SQLite take 999
_CORRUPT = (11, 26)  # SQLITE_CORRUPT, SQLITE_NOTADB
_MOUNTS = "/proc/self/mountinfo"
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_PROCESS = secrets.token_hex(16)
# SQLite's locks and its shared memory do not work between the machines that mount these.
_NETWORK = frozenset(
    "nfs nfs4 cifs smb smb2 smb3 smbfs ncpfs afs ceph coda glusterfs lustre beegfs gpfs"
    " fuse.sshfs fuse.glusterfs fuse.s3fs fuse.ceph fuse.juicefs fuse.gcsfuse fuse.rclone"
    " davfs fuse.davfs2 orangefs".split()
)


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
        if not is_number(max_bytes) or max_bytes < 1:
            raise ConfigError(f"max_bytes must be a positive number, not {excerpt(max_bytes)}")
        self._path = Path(os.path.abspath(os.fspath(path)))
        self._max_bytes = max_bytes
        self._clock = clock
        self._rule_for: Callable[[str], ChannelRule] | None = None
        self._renew()
        _stores.add(self)

    def _renew(self) -> None:
        # Two connections: a page is read while a commit waits for the disk.
        self._writer, self._reader = _Connection(self._path), _Connection(self._path)

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

    def close(self) -> None:
        """End: what was kept is on the disk then. Idempotent."""
        with contextlib.suppress(HistoryError):
            if self._writer.is_open:
                self._run(self._writer, _seal)
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
    ) -> Span:
        """Number and keep messages, all or none; return their numbers: see `HistoryStore`."""

        def write(db: sqlite3.Connection) -> Span:
            try:
                return self._append(db, channel, texts, keys, ends, skip, once)
            except _Exhausted:
                _reserve(db, channel, skip + len(texts))
                return self._append(db, channel, texts, keys, ends, skip, once)

        return self._run(self._writer, write)

    def _append(
        self,
        db: sqlite3.Connection,
        channel: str,
        texts: Sequence[bytes],
        keys: Sequence[str | None] | None,
        ends: bool,
        skip: int,
        once: Sequence[str],
    ) -> Span:
        rule, now = self._opened()(channel), self._clock()
        expires = now + (rule.history_ttl if ends else rule.history_idle_ttl)
        rows = list(_newest_of_keys(keys, texts) if keys else _joined(texts))
        count = sum(several for _, several, _, _ in rows)
        size = sum(len(text) - several + 1 for _, several, _, text in rows)
        with _transaction(db):
            id, epoch, seq, reserved = _row_of(db, channel, now)
            first, last = seq + skip + 1, seq + skip + len(texts)
            if last > reserved:
                raise _Exhausted
            gone, gone_bytes = _drop_keys(db, id, keys) if keys else (0, 0)
            db.executemany(_INSERT, [(id, first + place, *row) for place, *row in rows])
            # With the messages or not at all: what a kill cuts short may be published again.
            db.executemany(
                "INSERT OR IGNORE INTO published (once) VALUES (?)", [(each,) for each in once]
            )
            change = count - gone, size - gone_bytes
            db.execute(
                "UPDATE channels SET seq = ?, count = count + ?, bytes = bytes + ?, used = ?,"
                " expires = ?, published = ? WHERE id = ?",
                (last, *change, now, expires, rule.publish, id),
            )
            _trim(db, id, rule)
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
                with _transaction(db):
                    db.execute("DELETE FROM messages WHERE channel = ?", (id,))
                    db.execute("UPDATE channels SET count = 0, bytes = 0 WHERE id = ?", (id,))
            old = "FROM published WHERE id <= (SELECT max(id) FROM published) - ?"
            if db.execute(f"SELECT 1 {old} LIMIT 1", (_MOST_PUBLISHED,)).fetchone():
                with _transaction(db):
                    db.execute(f"DELETE {old}", (_MOST_PUBLISHED,))
            old = "FROM channels WHERE count = 0 AND expires <= ?"
            if db.execute(f"SELECT 1 {old} LIMIT 1", (now - _FORGET,)).fetchone():
                with _transaction(db):
                    db.execute(f"DELETE {old}", (now - _FORGET,))
                    # A channel that is numbered again begins under another name.
                    db.execute("UPDATE meta SET epoch = ?", (_new_epoch(),))

        self._run(self._writer, forget)

    # --- read ------------------------------------------------------------------------------

    def has_published(self, once: str) -> bool:
        """Return whether a message was appended with this text: see `HistoryStore`."""
        text = "SELECT 1 FROM published WHERE once = ?"
        return self._run(self._reader, lambda db: db.execute(text, (once,)).fetchone() is not None)

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
            with _transaction(db, "BEGIN"):
                id, kept = _head_of(db, channel)
                up_to, count, start = kept.last, limit, after
                if last is not None:
                    count = min(last, limit)
                if before is not None:
                    up_to = min(before - 1, kept.last)
                if since_time is not None:
                    start = _start_of(db, id, kept, since_time) - 1
                backwards = start is None and (last is not None or before is not None)
                begin = max(start or 0, kept.first - 1)
                found = db.execute(
                    "SELECT seq, rows, text, key FROM messages"
                    " WHERE channel = ? AND seq > ? AND seq <= ?"
                    f" ORDER BY seq {'DESC' if backwards else 'ASC'}",
                    (id, _in_range(begin - _ROW + 1), _in_range(up_to)),
                )
                each = (at for at in _each(found, backwards) if begin < at[0] <= up_to)
                messages = list(_until_large(itertools.islice(each, max(count, 0))))
            return Page(kept, tuple(reversed(messages) if backwards else messages))

        return self._run(self._reader, page)

    def snapshot(self, channel: str) -> Page:
        """Return the kept messages that have a key: the newest of each."""

        def page(db: sqlite3.Connection) -> Page:
            with _transaction(db, "BEGIN"):
                id, kept = _head_of(db, channel)
                found = db.execute(
                    "SELECT seq, text, key FROM messages WHERE channel = ? AND key IS NOT NULL"
                    " ORDER BY seq",
                    (id,),
                ).fetchall()
            return Page(kept, tuple(Kept(seq, number(text, seq), key) for seq, text, key in found))

        return self._run(self._reader, page)

    def head(self, channel: str) -> Span:
        """Return the numbers from the oldest message kept to the last given."""
        return self._run(self._reader, lambda db: _head_of(db, channel)[1])

    def heads(self, channels: Sequence[str]) -> list[Span]:
        """Return the `head` of each of these channels."""

        def look(db: sqlite3.Connection) -> list[Span]:
            with _transaction(db, "BEGIN"):
                found = _spans_of(db, channels)
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

    def _run(self, connection: _Connection, work: Callable[[sqlite3.Connection], T]) -> T:
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


class _Connection:
    """One connection of this process to the file; made at its first use.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        # guards: the connection: SQLite's own lock does not keep a transaction together.
        # The last in the order; it is held while waiting for the disk, never by the hub thread.
        self.lock = Lock()
        self._db: sqlite3.Connection | None = None
        self._inode: tuple[int, int] | None = None
        self.opened = 0  # how many connections it has been so far

    @property
    def is_open(self) -> bool:
        """Whether there is a connection."""
        return self._db is not None

    def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Return what `work` does with the connection; raises sqlite3.Error."""
        with self.lock:
            if self._db is not None and self._inode != _inode_of(self._path):
                logger.error("the history file %s was replaced: using the new one", self._path)
                self.close()
            if self._db is None:
                self._db = _connect(self._path)
                self._inode = _inode_of(self._path)
                self.opened += 1
            return work(self._db)

    def set_aside(self, error: Exception) -> None:
        """Rename a damaged file, unless another process was faster."""
        with self.lock, _alone(self._path.parent):
            inode = self._inode or _inode_of(self._path)
            self.close()
            if inode != _inode_of(self._path):
                return
            aside = f"{self._path}.damaged-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
            for end in ("", "-wal", "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    os.rename(f"{self._path}{end}", aside + end)
            logger.error(
                "the history file %s is damaged (%s): it was renamed to %s, and history begins "
                "anew. Clients are told that messages are lost",
                self._path,
                error,
                aside,
            )

    def close(self) -> None:
        """Close it; the next use opens it again."""
        import sqlite3

        with self.lock:
            db, self._db, self._inode = self._db, None, None
            if db is not None:
                with contextlib.suppress(sqlite3.Error):
                    db.close()


def _connect(path: Path) -> sqlite3.Connection:
    import sqlite3

    try:
        # Made here, so that nobody else can read it. Not opened where it exists: to close
        # it again would give up the locks that SQLite has in this process.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        pass
    except OSError as error:
        raise sqlite3.OperationalError(str(error)) from error
    db = sqlite3.connect(path, timeout=5.0, isolation_level=None, check_same_thread=False)
    try:
        _prepare(db, path)
    except BaseException:
        db.close()
        raise
    return db


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    _is_new(db, path)  # before anything is changed
    (mode,) = db.execute("PRAGMA journal_mode=WAL").fetchone()
    if mode != "wal":
        raise ConfigError(
            f"history cannot be kept in {str(path)!r}: its file system knows no WAL mode, only "
            f"{mode}. Use a file on a disk of this machine"
        )
    # A channel that overwrites itself is copied from the log less often so; 16 MB of it.
    db.execute("PRAGMA wal_autocheckpoint=4000")
    db.execute("PRAGMA journal_size_limit=16777216")
    db.execute("PRAGMA synchronous=FULL")
    with _transaction(db):
        if _is_new(db, path):
            for statement in _SCHEMA.split(";\n"):
                db.execute(statement)
            db.execute("INSERT INTO meta VALUES ('', ?)", (_new_epoch(),))
            db.execute(f"PRAGMA application_id={_ID}")
            db.execute(f"PRAGMA user_version={_VERSION}")
        boot = _boot()
        if db.execute("SELECT boot FROM meta").fetchone() != (boot,):
            # The machine, for all that is known, has started anew: commits may be lost.
            db.execute("UPDATE channels SET seq = reserved WHERE seq < reserved")
            db.execute("UPDATE meta SET boot = ?, epoch = ?", (boot, _new_epoch()))
    db.execute("PRAGMA synchronous=NORMAL")


def _is_new(db: sqlite3.Connection, path: Path) -> bool:
    """Return whether a file is empty; raises ConfigError when it is not one of ours."""
    (id,), (version,) = (
        db.execute(f"PRAGMA {name}").fetchone() for name in ("application_id", "user_version")
    )
    if (id, version) == (_ID, _VERSION):
        return False
    if id != _ID and not db.execute("SELECT 1 FROM sqlite_master").fetchone():
        return True
    what = "another version of ws_hub" if id == _ID else "another program"
    raise ConfigError(
        f"history cannot be kept in {str(path)!r}: the file is of {what}. Use another one"
    )


class _Exhausted(Exception):
    """A channel has given all numbers that it may before the disk knows."""


@contextlib.contextmanager
def _transaction(db: sqlite3.Connection, begin: str = "BEGIN IMMEDIATE") -> Iterator[None]:
    db.execute(begin)
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _row_of(db: sqlite3.Connection, channel: str, now: float) -> tuple[int, str, int, int]:
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


def _joined(texts: Sequence[bytes]) -> Iterator[_Row]:
    """Yield rows of messages without keys.

    A row for each would cost a step of SQLite each, for which the GIL is given up.
    """
    at = 0
    while at < len(texts):
        part = texts[at : at + _ROW]
        while len(part) > 1 and sum(map(len, part)) > _ROW_BYTES:
            part = part[: len(part) // 2]
        text = b"\n".join(part)
        if text.count(b"\n") == len(part) - 1:
            yield at, len(part), None, text
        else:
            yield from ((at + place, 1, None, each) for place, each in enumerate(part))
        at += len(part)


def _each(
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


def _reserve(db: sqlite3.Connection, channel: str, count: int) -> None:
    """Raise what channels have reserved, of all that have little left, and wait for the disk."""
    db.execute("PRAGMA synchronous=FULL")
    try:
        with _transaction(db):
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


def _seal(db: sqlite3.Connection) -> None:
    """Give back what is reserved: should this commit be lost, there is a gap, and no more."""
    with _transaction(db):
        db.execute("UPDATE channels SET reserved = seq WHERE reserved > seq")


def _newest_of_keys(keys: Sequence[str | None], texts: Sequence[bytes]) -> Iterator[_Row]:
    """Yield rows of the messages that no later one replaces."""
    newest = {key: place for place, key in enumerate(keys)}
    for place, (key, text) in enumerate(zip(keys, texts, strict=True)):
        if key is None or newest[key] == place:
            yield place, 1, key, text


def _drop_keys(db: sqlite3.Connection, id: int, keys: Sequence[str | None]) -> tuple[int, int]:
    """Delete what messages with these keys replace; return how many, and their bytes."""
    count = size = 0
    for key in {key for key in keys if key is not None}:
        for (length,) in db.execute(
            "DELETE FROM messages WHERE channel = ? AND key = ? RETURNING length(text)", (id, key)
        ).fetchall():
            count, size = count + 1, size + length
    return count, size


def _trim(db: sqlite3.Connection, id: int, rule: ChannelRule) -> None:
    """Delete the oldest messages beyond the bounds of the rule; the last one stays."""
    first, count, size = db.execute(
        "SELECT first, count, bytes FROM channels WHERE id = ?", (id,)
    ).fetchone()
    most = max(rule.history_messages, 1)
    if count <= 1 or (count <= most and size <= rule.history_bytes):
        return
    rows = db.execute(
        "SELECT seq, rows, text, key FROM messages WHERE channel = ? ORDER BY seq", (id,)
    )
    for row in rows:
        begin, several, joined, _ = row
        length = len(joined) - several + 1
        beyond = count - several >= most or size - length >= rule.history_bytes
        if begin >= first and beyond and count > several:  # all of it
            first, count, size = begin + several, count - several, size - length
            continue
        for seq, text, _ in _each([row], False):
            if seq >= first and (count > most or size > rule.history_bytes) and count > 1:
                first, count, size = seq + 1, count - 1, size - len(text)
        if count <= 1 or (count <= most and size <= rule.history_bytes):
            break
    rows.close()
    db.execute(
        "DELETE FROM messages WHERE channel = ? AND seq < ? AND seq + rows <= ?", (id, first, first)
    )
    db.execute(
        "UPDATE channels SET first = ?, count = ?, bytes = ? WHERE id = ?", (first, count, size, id)
    )


def _head_of(db: sqlite3.Connection, channel: str) -> tuple[int, Span]:
    row = db.execute(
        f"SELECT id, epoch, seq, {_OLDEST} FROM channels WHERE name = ?",
        (channel,),
    ).fetchone()
    if row is None:
        (epoch,) = db.execute("SELECT epoch FROM meta").fetchone()
        return -1, Span(epoch, 1, 0)
    id, epoch, seq, first = row
    return id, Span(epoch, seq + 1 if first is None else first, seq)


def _spans_of(db: sqlite3.Connection, channels: Sequence[str]) -> dict[str, Span]:
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


def _start_of(db: sqlite3.Connection, id: int, kept: Span, time: float) -> int:
    def text_from(seq: int) -> bytes:
        rows = db.execute(
            "SELECT seq, rows, text, key FROM messages WHERE channel = ? AND seq > ?"
            " AND seq + rows > ? ORDER BY seq LIMIT 1",
            (id, seq - _ROW, seq),
        )
        return next((text for at, text, _ in _each(rows, False) if at >= seq), b"")

    newest = db.execute(
        "SELECT seq + rows - 1 FROM messages WHERE channel = ? ORDER BY seq DESC LIMIT 1", (id,)
    ).fetchone()
    return first_since(kept.first, newest[0] if newest else 0, time, text_from)


def _until_large(each: Iterable[tuple[int, bytes, str | None]]) -> Iterator[Kept]:
    size = 0
    for seq, text, key in each:
        size += len(text)
        if size > _PAGE_BYTES and size > len(text):
            return
        yield Kept(seq, number(text, seq), key)


def _in_range(value: int) -> int:
    """Return a number that SQLite can take for one that may be any."""
    return min(max(value, -1), 2**62)


def _new_epoch() -> str:
    return secrets.token_hex(6)


def _boot() -> str:
    """Return what names this start of the machine, or of the process where nothing does."""
    try:
        return Path(_BOOT_ID).read_text("ascii").strip()
    except OSError:
        return _PROCESS


def _code(error: Exception) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _inode_of(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Have no other process rename files of this directory meanwhile, where that can be."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    fd = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def network_type(directory: Path) -> str:
    """Return the type of the file system of a directory when it is a network's, else ""."""
    try:
        lines = Path(_MOUNTS).read_text(errors="replace").splitlines()
    except OSError:
        return ""  # no Linux
    where = os.path.realpath(directory)
    found, longest = "", -1
    for line in lines:
        mounted, _, rest = line.partition(" - ")
        point = mounted.split(" ")[4].encode().decode("unicode_escape")
        below = point.rstrip("/") + "/"
        if (where + "/").startswith(below) and len(below) >= longest:
            found, longest = rest.split(" ")[0], len(below)
    return found if found in _NETWORK else ""


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
