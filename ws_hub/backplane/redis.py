"""A backplane over a Redis or Valkey server, for the processes of several machines.

    any thread   tell() -> RedisSender, on "ws-hub:bus-send" -> PUBLISH <prefix>:bus
    SUBSCRIBE <prefix>:bus -> RedisListener, on "ws-hub:bus" -> receiver.receive()

What goes over it is described in `envelopes`. What serves no clients has no listener.
"""

from __future__ import annotations

import functools
import secrets
from collections.abc import Callable

from ..errors import ConfigError, WsHubError
from ..reentrant import Lock, nested
from ..threads import forget_after_fork
from .bus import BusStats, Notice, NoticeKind, Receiver
from .interest import Interest
from .peers import Counts
from .reach import Reach
from .reception import Reception
from .redis_claims import RedisClaims
from .redis_history import RedisHistory
from .redis_listener import RedisListener
from .redis_rules import RedisRules, kept_rules
from .redis_sender import RedisSender
from .redis_server import RedisServer
from .rules import compare

__all__ = ["AddressedRedis", "RedisBackplane"]

Differs = Callable[[str, str], object]

_PATIENCE = 1.0  # seconds for which a start waits for the server
_APART = (
    "Clients of this process get what is published here; what other processes publish is missing "
    "until it is back"
)
_UNTOLD = "What is published waits for ten seconds, and is lost then"


class _Life:
    """The parts of a backplane from one `open` to its `close`."""

    def __init__(
        self, server: RedisServer, receiver: Receiver | None, told: Counts, differs: Differs
    ) -> None:
        self.source = secrets.token_hex(16)
        listens = receiver is not None
        parts, meanwhile = (
            (("subscribe", "publish"), _APART) if listens else (("publish",), _UNTOLD)
        )
        self.reach = Reach(server.label, parts, meanwhile)
        self.claims = RedisClaims(server, self.source, self.reach)
        self.rules = RedisRules(server, differs)
        renews = self.claims, self.rules
        self.sender = RedisSender(server, self.source, renews, self.reach, told, listens=listens)
        self.listener: RedisListener | None = None
        self.is_ending = False  # under the backplane's lock

    def start(self) -> None:
        if self.listener is not None:
            self.listener.start()
        self.sender.start()
        if not nested():
            self.reach.wait(_PATIENCE)

    def finish(self, timeout: float) -> None:
        # In this order: the last word of the sender wakes the listener.
        self.sender.finish(timeout)
        if self.listener is not None:
            self.listener.finish(0.0)
        self.claims.close()

    def peers(self) -> int:
        if not self.reach.is_up:
            return 0
        return self.sender.heard if self.listener is None else self.listener.peers()


class RedisBackplane:
    """Tells the other processes, of any machine, that name the same server and prefix.

    Each process has an object of its own. While the server is away, the hub goes on for its own
    clients: what it publishes meanwhile waits for ten seconds, in at most 16 MiB, and is lost
    to the others then, which they learn of.

    Args:
        url: the server, such as "redis://user:password@host:6379/0?prefix=ws"; "rediss://" with
            TLS, "valkey://" and "valkeys://" the same. Applications
            with another prefix or another database do not hear each other. With "&go=1" it also
            exchanges broadcasts and the messages of channels without history with Go hubs, by
            the Redis bridge of these.

    Raises TypeError, and ConfigError for another address, or without redis-py.

    Threads: any.
    """

    def __init__(self, url: str) -> None:
        self._server = RedisServer(url)
        self._renew()
        forget_after_fork(self)

    def _renew(self) -> None:
        # guards: _life and its `is_ending`, against two opens or ends; no other is taken inside it.
        self._lock = Lock()
        self._life: _Life | None = None
        self._told, self._heard = Counts(), Counts()
        self._store = secrets.token_hex(16)  # the name of the store on the bus
        self._has_store = False  # which tells by itself what it keeps

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._server.label!r})"

    @property
    def history(self) -> RedisHistory:
        """Return a new store on the server."""
        self._has_store = True
        return RedisHistory(self._server, self._store)

    @property
    def claims(self) -> RedisClaims:
        """The names of which each is one process's alone; once it is open."""
        life = self._life
        if life is None:
            raise WsHubError(f"{self!r} is not open: start the hub that it belongs to")
        return life.claims

    def keep_rules(self, rules: str) -> str | None:
        """Keep the rules of the channels on the server; return other processes' from before.

        None where no other one listens, or the server is away: then they are kept, and other
        ones warned of, once it is there.

        Threads: any; waits for the server.
        """
        life = self._life
        if life is None:
            return None
        return life.rules.keep(rules, connected=life.reach.is_up)

    def kept_rules(self) -> str | None:
        """Return the rules on the server; None for none.

        Raises OSError where it is not reached, ConfigError where it refuses.

        Threads: any; waits for the server, some seconds at most.
        """
        return kept_rules(self._server)

    def open(self, receiver: Receiver | None, interest: Interest | None = None) -> None:
        """Begin; also where the server is not reached, which is tried until `close`.

        None receives nothing. Raises ConfigError where another hub has it.

        Threads: any; waits for the server, at most one second.
        """
        life = _Life(self._server, receiver, self._told, functools.partial(compare, self))
        if receiver is not None:
            own, greet = (life.source, self._store), life.sender.greet
            reception = Reception(receiver, self._heard, interest)
            life.listener = RedisListener(
                self._server, own, reception, life.reach, self._heard, greet=greet
            )
        with self._lock:
            is_free = self._life is None
            if is_free:
                self._life = life
        if not is_free:
            raise ConfigError(
                f"{self!r} is in use by another hub: give each hub a RedisBackplane of its own; "
                "they may name the same server"
            )
        try:
            life.start()
        except BaseException:
            self.close(0.0)
            raise

    def tell(self, notice: Notice) -> None:
        """Tell all others, in the order of the calls of each thread; nobody when not open.

        Raises ValueError for a text with a line feed.

        Threads: any, also from a signal handler or a finaliser; never waits.
        """
        life = self._life
        if life is None or life.is_ending:
            return
        if not (self._has_store and notice.kind is NoticeKind.KEPT):
            life.sender.tell(notice)

    def others(self) -> frozenset[str]:
        """Return the names of the other processes that are reached now.

        Threads: any; does not wait.
        """
        life = self._life
        listener = None if life is None else life.listener
        return frozenset() if listener is None else listener.others()

    def stats(self) -> BusStats:
        """Return what it has done since it was made.

        Threads: any; does not wait.
        """
        life, told, heard = self._life, self._told, self._heard
        lost = told.lost + heard.lost + (life.sender.dropped() if life else 0)
        return BusStats(
            peers=life.peers() if life else 0,
            told=told.told,
            received=heard.received,
            lost=lost,
            invalid=heard.invalid,
            connected=life is not None and life.reach.is_up,
            go_told=told.go_told,
            go_refused=told.go_refused,
        )

    def close(self, timeout: float) -> None:
        """Send what was told, for at most `timeout` seconds, and end. Idempotent.

        It may be opened again. Called by the receiver, or by a signal handler inside another
        call, it does not wait for the end.

        Threads: any; waits at most `timeout` seconds, and two more for a server that hangs.
        """
        with self._lock:
            life = self._life
            if life is None or life.is_ending:
                return
            life.is_ending = True
        try:
            life.finish(timeout)
        finally:
            # Now: the receiver is called to the end, and asks for the claims.
            with self._lock:
                self._life = None

    def forget(self) -> None:
        """Be a new one that is not open, in a forked child.

        Threads: the only one of a forked child.
        """
        # The others are closed with their last reference. redis-py knows them for those of
        # another process, and says nothing to the server.
        if self._life is not None and self._life.listener is not None:
            self._life.listener.forget()
        self._renew()


_addressed: set[str] = set()  # servers and prefixes in use by an address; by single calls


class AddressedRedis(RedisBackplane):
    """What an address names: of one hub of a process, as another one's messages are not its own.

    Args:
        address: the address.

    Threads: any.
    """

    def open(self, receiver: Receiver | None, interest: Interest | None = None) -> None:
        """See `RedisBackplane`; raises ConfigError also where another hub has the address."""
        label = self._server.label
        if receiver is None:  # it takes nothing that is another one's
            super().open(receiver)
            return
        if label in _addressed:
            raise ConfigError(
                f"another hub of this process has the backplane {label}: give each a prefix, as "
                'in "?prefix=chat", the same one in every process'
            )
        _addressed.add(label)
        try:
            super().open(receiver, interest)
        except BaseException:
            _addressed.discard(label)
            raise

    def close(self, timeout: float) -> None:
        """See `RedisBackplane`."""
        life = self._life
        super().close(timeout)
        if life is not None and life.listener is not None:
            _addressed.discard(self._server.label)

    def forget(self) -> None:
        """See `RedisBackplane`."""
        super().forget()
        _addressed.clear()
