"""A file of SQLite and a connection to it: its schema, and what becomes of a damaged one.

The file is in WAL mode with synchronous=normal: a commit is there for every process at once,
whatever becomes of the one that made it. A power failure can lose the newest commits. So each
channel has a `reserved` number, which no number exceeds. To raise it is a commit that waits for
the disk. A file that was not closed before the machine started anew goes on behind it: a number
that may have been given is not given again.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ..errors import ConfigError
from ..log import get_logger
from ..reentrant import Lock
from .store import new_epoch

if TYPE_CHECKING:
    import sqlite3

__all__ = ["FileConnection", "alone", "network_type", "transaction"]

logger = get_logger(__name__)

T = TypeVar("T")

_ID = 0x77736862  # "wshb": that a file is of ws_hub
_VERSION = 3
_PATIENCE = 5.0  # seconds for which a file is waited for that others use
_PAUSE = 0.01  # seconds between two tries, where SQLite does not wait itself
_OF_MESSAGES = 2  # there `bytes` counted the messages kept, not all of a row
_SCHEMA = """
CREATE TABLE meta (boot TEXT NOT NULL, epoch TEXT NOT NULL);
CREATE TABLE channels (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, epoch TEXT NOT NULL,
    seq INTEGER NOT NULL, reserved INTEGER NOT NULL,  -- the last number; none is above this
    first INTEGER NOT NULL,                           -- what is below it is kept no longer
    count INTEGER NOT NULL,                           -- messages kept
    bytes INTEGER NOT NULL,                           -- of the texts in its rows
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
_MOUNTS = "/proc/self/mountinfo"
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_PROCESS = secrets.token_hex(16)
# SQLite's locks and its shared memory do not work between the machines that mount these.
_NETWORK = frozenset(
    "nfs nfs4 cifs smb smb2 smb3 smbfs ncpfs afs ceph coda glusterfs lustre beegfs gpfs"
    " fuse.sshfs fuse.glusterfs fuse.s3fs fuse.ceph fuse.juicefs fuse.gcsfuse fuse.rclone"
    " davfs fuse.davfs2 orangefs".split()
)


class FileConnection:
    """One connection of this process to the file; made at its first use.

    Args:
        path: the file.

    Threads: any, one at a time; they wait for the disk.
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
        if self._leaves_replaced():
            logger.error("the history file %s was replaced: using the new one", self._path)
        with self.lock:
            if self._db is None:
                self._db = _connect(self._path)
                self._inode = _inode_of(self._path)
                self.opened += 1
            return work(self._db)

    def _leaves_replaced(self) -> bool:
        """Close the connection to a file that another one stands in place of."""
        with self.lock:
            if self._db is None or self._inode == _inode_of(self._path):
                return False
            self.close()
        return True

    def set_aside(self, error: Exception) -> None:
        """Rename a damaged file, unless another process was faster."""
        with self.lock, alone(self._path.parent):
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
    db = sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
    try:
        _prepare(db, path)
    except BaseException:
        db.close()
        raise
    return db


def _to_wal(db: sqlite3.Connection) -> str:
    """Have the file be in WAL mode; return the mode that it has.

    Where another process does the same, SQLite does not wait: both could wait for each other.
    """
    import sqlite3

    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            (mode,) = db.execute("PRAGMA journal_mode=WAL").fetchone()
            return str(mode)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                raise
        time.sleep(_PAUSE)


# Of lines that may still change, the newest of each. Made where it is missing: the rest of a
# file of an older release is the same, and that does not mind.
_STATES = """
CREATE TABLE IF NOT EXISTS states (
    channel INTEGER NOT NULL, line INTEGER NOT NULL, text BLOB NOT NULL,
    PRIMARY KEY (channel, line)
) WITHOUT ROWID
"""
# Of channels that keep their beginning. Added where they are missing, likewise.
_HEADS = (
    "head INTEGER NOT NULL DEFAULT 0",  # the number of the first message of the beginning
    "head_last INTEGER",  # of the last one; NULL as long as there is room for more
    "head_count INTEGER NOT NULL DEFAULT 0",  # of its messages
    "head_bytes INTEGER NOT NULL DEFAULT 0",
    "after INTEGER NOT NULL DEFAULT 0",  # the number before the middle
    "behind INTEGER NOT NULL DEFAULT 0",  # the number behind it; 0 for no middle
    "lost INTEGER NOT NULL DEFAULT 0",  # bytes of the texts in those rows of it that are gone
)


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    # Before anything is changed, and as of one moment: another process may be making it.
    with transaction(db, "BEGIN"):
        _is_new(db, path)
    mode = _to_wal(db)
    if mode != "wal":
        raise ConfigError(
            f"history cannot be kept in {str(path)!r}: its file system knows no WAL mode, only "
            f"{mode}. Use a file on a disk of this machine"
        )
    # A channel that overwrites itself is copied from the log less often so; 16 MB of it.
    db.execute("PRAGMA wal_autocheckpoint=4000")
    db.execute("PRAGMA journal_size_limit=16777216")
    # Where it is on by default, pages that are free are written once more, as zeros: a third
    # of the cost of a channel that overwrites itself.
    db.execute("PRAGMA secure_delete=OFF")
    db.execute("PRAGMA synchronous=FULL")
    with transaction(db):
        if _is_new(db, path):
            for statement in _SCHEMA.split(";\n"):
                db.execute(statement)
            db.execute("INSERT INTO meta VALUES ('', ?)", (new_epoch(),))
            db.execute(f"PRAGMA application_id={_ID}")
            db.execute(f"PRAGMA user_version={_VERSION}")
        if db.execute("PRAGMA user_version").fetchone() == (_OF_MESSAGES,):
            db.execute(
                "UPDATE channels SET bytes = (SELECT coalesce(sum(length(text) - rows + 1), 0)"
                " FROM messages WHERE channel = id)"
            )
            db.execute(f"PRAGMA user_version={_VERSION}")
        db.execute(_STATES)
        _add_heads(db)
        boot = _boot()
        if db.execute("SELECT boot FROM meta").fetchone() != (boot,):
            # The machine, for all that is known, has started anew: commits may be lost.
            db.execute("UPDATE channels SET seq = reserved WHERE seq < reserved")
            db.execute("UPDATE meta SET boot = ?, epoch = ?", (boot, new_epoch()))
    db.execute("PRAGMA synchronous=NORMAL")


def _add_heads(db: sqlite3.Connection) -> None:
    there = {name for _, name, *_ in db.execute("PRAGMA table_info(channels)")}
    for column in _HEADS:
        if column.partition(" ")[0] not in there:
            db.execute(f"ALTER TABLE channels ADD COLUMN {column}")


def _is_new(db: sqlite3.Connection, path: Path) -> bool:
    """Return whether a file is empty; raises ConfigError when it is not one of ours."""
    (id,), (version,) = (
        db.execute(f"PRAGMA {name}").fetchone() for name in ("application_id", "user_version")
    )
    if id == _ID and version in (_OF_MESSAGES, _VERSION):
        return False
    if id != _ID and not db.execute("SELECT 1 FROM sqlite_master").fetchone():
        return True
    what = "another version of ws_hub" if id == _ID else "another program"
    raise ConfigError(
        f"history cannot be kept in {str(path)!r}: the file is of {what}. Use another one"
    )


@contextlib.contextmanager
def transaction(db: sqlite3.Connection, begin: str = "BEGIN IMMEDIATE") -> Iterator[None]:
    """Have all statements take effect together, or none where an exception comes.

    Threads: that which uses the connection.
    """
    db.execute(begin)
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _boot() -> str:
    """Return what names this start of the machine, or of the process where nothing does."""
    try:
        return Path(_BOOT_ID).read_text("ascii").strip()
    except OSError:
        return _PROCESS


def _inode_of(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


@contextlib.contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Have no other process rename files of this directory meanwhile, where that can be.

    Threads: any; waits for those that do.
    """
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
