"""A backplane for the processes of one machine, without a broker: Unix sockets in a directory.

What goes over the sockets is described in `notices`, who connects to whom in `exchange`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from ..config import ChannelRule
from ..errors import ConfigError, WsHubError, excerpt
from ..reentrant import Lock
from ..threads import forget_after_fork
from .bus import BusStats, Notice, Receiver
from .claims import Claims
from .exchange import Exchange
from .interest import Interest
from .peers import Counts
from .rules_file import RulesFile
from .socket_directory import SocketDirectory
from .sqlite import SqliteHistory

__all__ = ["AddressedBackplane", "LocalBackplane"]

# In the directory, beside the sockets. No address can name them.
_HISTORY, _PROGRAMS = "history.db", ".programs"


class _Local:
    """A backplane over the sockets in a directory.

    Args:
        find: returns the directory; called when it is needed, in the process that uses it.

    Threads: any.
    """

    def __init__(self, find: Callable[[], Path]) -> None:
        self._find = find
        self._renew()
        forget_after_fork(self)

    def _renew(self) -> None:
        # guards: _exchange, against two opens at once; no other is taken inside it.
        self._lock = Lock()
        self._exchange: Exchange | None = None
        self._claims: Claims | None = None
        self._counts = Counts()

    @property
    def directory(self) -> Path:
        """The directory of the sockets."""
        return self._find()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.directory)!r})"

    @property
    def history(self) -> SqliteHistory:
        """Return a new store in the directory."""
        return _SharedHistory(self._find)

    @property
    def claims(self) -> Claims:
        """The names of which each is one process's alone; once it is open."""
        if self._claims is None:
            raise WsHubError(f"{self!r} is not open: start the hub that it belongs to")
        return self._claims

    def open(self, receiver: Receiver | None, interest: Interest | None = None) -> None:
        """Begin; those that are there already are told from now on. None receives nothing.

        The others leave out what the interest does not have.

        Raises ConfigError when the directory cannot be used: it is accessible to others, of
        another user or no directory, or its path is too long for a socket.

        Threads: any; waits for the file system only.
        """
        directory = self.directory
        exchange = Exchange(SocketDirectory(directory), receiver, self._counts, interest)
        with self._lock:
            is_free = self._exchange is None
            if is_free:
                self._exchange = exchange
        if not is_free:
            exchange.forget()
            raise ConfigError(
                f"{self!r} is in use by another hub: give each hub a LocalBackplane of its own; "
                "they may name the same directory"
            )
        self._claims = Claims(directory / _PROGRAMS)
        try:
            exchange.start()
        except BaseException:
            with self._lock:
                if self._exchange is exchange:
                    self._exchange = None
            raise

    def keep_rules(self, rules: str) -> str | None:
        """Keep the rules of the channels in the directory; return other processes' from before.

        None where no other one runs. Raises OSError.

        Threads: any; waits for the file system.
        """
        before, runs = RulesFile(self.directory).swap(rules)
        return before if runs or self.stats().peers else None

    def kept_rules(self) -> str | None:
        """Return the rules in the directory; None where there are none, or no directory.

        Raises ConfigError when the directory cannot be used.

        Threads: any; waits for the file system.
        """
        directory = SocketDirectory(self.directory)
        try:
            return RulesFile(directory.path).read() if directory.is_there() else None
        except OSError as error:
            raise directory.unusable(error) from error

    def tell(self, notice: Notice) -> None:
        """Tell all others, in the order of the calls of each thread; nobody when not open.

        Raises ValueError for a text with a line feed.

        Threads: any, also from a signal handler or a finaliser; never waits.
        """
        exchange = self._exchange
        if exchange is not None:
            exchange.tell(notice)

    def others(self) -> frozenset[str]:
        """Return the names of the other processes that are reached now.

        Threads: any; does not wait.
        """
        exchange = self._exchange
        return frozenset() if exchange is None else exchange.others()

    def stats(self) -> BusStats:
        """Return what it has done since it was made.

        Threads: any; does not wait.
        """
        exchange, counts = self._exchange, self._counts
        peers, dropped = (exchange.peers(), exchange.dropped()) if exchange else (0, 0)
        return BusStats(peers, counts.told, counts.received, counts.lost + dropped)

    def close(self, timeout: float) -> None:
        """Write out what was told, for at most `timeout` seconds, and end. Idempotent.

        It may be opened again. What arrives meanwhile is still received; called by the
        receiver, or by a signal handler inside another call, it does not wait for the end.

        Threads: any; waits at most `timeout` seconds, and one more for a receiver that hangs.
        """
        with self._lock:
            exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.finish(timeout)
            self.claims.close()

    def forget(self) -> None:
        """Be a new one that is not open, in a forked child; its Exchange closes the sockets.

        Threads: the only one of a forked child.
        """
        self._renew()


class LocalBackplane(_Local):
    """Tells the other processes of this machine that name the same directory.

    Each process has an object of its own; all are of one user. The directory is made if it is
    missing, for that user alone. At most 16 MiB wait for the thread, and as much for each
    other process, for example while that is stopped; what does not fit is lost, and the
    receiver learns of it.

    Args:
        directory: has a short path on a disk of this machine, such as "/run/myapp".

    Raises TypeError, ConfigError.

    Threads: any.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        given: object = directory
        name = os.fspath(given) if isinstance(given, (str, os.PathLike)) else None
        if not isinstance(name, str) or not name:
            raise TypeError(
                f"a LocalBackplane takes the path of a directory, not {excerpt(directory)}: "
                'LocalBackplane("/run/myapp")'
            )
        if "\0" in name:
            raise ConfigError(f"a LocalBackplane cannot use {excerpt(name)}: it is no path")
        path = Path(os.path.abspath(name))
        super().__init__(lambda: path)


_addressed: set[Path] = set()  # directories in use by an address; changed by single calls


class AddressedBackplane(_Local):
    """What an address names: of one hub of a process, as another one's messages are not its own.

    Args:
        address: the address.
        find: returns the directory.

    Threads: any.
    """

    def __init__(self, address: str, find: Callable[[], Path]) -> None:
        super().__init__(find)
        self._address = address
        self._used: Path | None = None

    def open(self, receiver: Receiver | None, interest: Interest | None = None) -> None:
        """See `LocalBackplane`; raises ConfigError also where another hub has the address."""
        directory = self.directory
        if receiver is None:  # it takes nothing that is another one's
            super().open(receiver, interest)
            return
        if directory in _addressed:
            raise ConfigError(
                f"another hub of this process has the backplane {excerpt(self._address)}: give "
                'each a name, as in "local?name=chat", the same one in every process'
            )
        _addressed.add(directory)
        self._used = directory
        try:
            super().open(receiver, interest)
        except BaseException:
            self.close(0.0)
            raise

    def close(self, timeout: float) -> None:
        """See `LocalBackplane`."""
        super().close(timeout)
        used, self._used = self._used, None
        if used is not None:
            _addressed.discard(used)

    def forget(self) -> None:
        """See `LocalBackplane`."""
        super().forget()
        _addressed.clear()
        self._used = None


class _SharedHistory(SqliteHistory):
    """A store in a directory that is known, and there, when the backplane has begun."""

    def __init__(self, find: Callable[[], Path]) -> None:
        self._find = find
        super().__init__(_HISTORY)

    def open(self, rule_for: Callable[[str], ChannelRule]) -> None:
        """See `SqliteHistory`."""
        self._path = self._find() / _HISTORY
        self._renew()
        super().open(rule_for)
