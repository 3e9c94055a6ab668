"""A Redis or Valkey server by its address: the names of keys, and connections to it.

All that is asked of redis-py is here. It does not repeat commands, and reconnects nothing by
itself: what uses a connection decides what a failure means. Each new connection goes to the node
that is the right one then: the server, the master that sentinels name, or a node of a cluster.
There, an application's keys are in a fixed number of shards: those of one are on one node.
"""

from __future__ import annotations

import re
import selectors
import ssl
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from ..errors import ConfigError, excerpt
from .redis_address import EXAMPLE, Node, RedisAddress
from .redis_nodes import Cluster, Finder, Fixed, Sentinels, Unknown, check_master, slot_of

__all__ = ["Matched", "RedisServer", "Session", "Subscription", "ready"]

_TIMEOUT = 3.0  # seconds of one answer, and of one connect
_SENTINEL_TIMEOUT = 1.0  # the same, of a sentinel or a node that is asked for others
SHARDS = 16  # of a cluster

# Answers of a node that is not, or not now, the one to ask. Scripts have them in their errors.
_REPLICA = re.compile(r"READONLY|read only replica", re.IGNORECASE)
_ELSEWHERE = {
    "": _REPLICA,
    "sentinel": re.compile(_REPLICA.pattern + "|MASTERDOWN|NOREPLICAS", re.IGNORECASE),
    "cluster": re.compile(
        _REPLICA.pattern + "|MASTERDOWN|non local key|^(MOVED|ASK|TRYAGAIN|CLUSTERDOWN) ",
        re.IGNORECASE,
    ),
}
_OF_CLUSTER = re.compile(r"^(MOVED|CROSSSLOT) ")
_FORBIDDEN = re.compile(
    r"ACL failure|no permissions? to|"
    r"can't (run this command|access at least one of the keys|publish to the channel)",
    re.IGNORECASE,
)
_OTHER_HOST = (62, 64)  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
_RIGHTS_HELP = "give the user the rights that docs/scaling.md lists"
_LOGIN_HELP = "set the user and the password of the server in its address"


class RedisServer:
    """A server, and the part of it that is one application's.

    Args:
        url: the address.

    Attributes:
        prefix: what all keys and channels of the application begin with.
        go: whether Go hubs use the same prefix, and are spoken to; see `go_bridge`.
        label: the address, without its password, for the log.
        shards: the number of parts of its keys; those of one are on one node.
        finder: what finds the node of a shard.
        failures: what is raised where the server is not reached, or refuses.
        timeout: seconds for which one answer is waited for.

    Raises TypeError, and ConfigError for an address that names no such server, or where redis-py
    is missing.

    Threads: any.
    """

    def __init__(self, url: str) -> None:
        given: object = url
        if not isinstance(given, str):
            raise TypeError(
                f"a RedisBackplane takes the address of a server, not {excerpt(url)}: "
                f"RedisBackplane({EXAMPLE})"
            )
        address = self._address = RedisAddress.parsed(url)
        self.prefix, self.label, self.go = address.prefix, address.label, address.go
        self.timeout = _TIMEOUT
        self._user = address.user or "default"
        library = _library()
        self.failures: tuple[type[Exception], ...] = (library.RedisError, OSError, Unknown)
        self.finder = self._finder()
        self.shards = self.finder.shards
        self._connection(address.url(address.nodes[0]))  # raises for what redis-py does not know

    def _finder(self) -> Finder:
        address = self._address
        if address.kind == "sentinel":
            return Sentinels(address.nodes, address.service, self._ask_sentinel, self.failures)
        if address.kind == "cluster":
            slots = tuple([slot_of(self._tag(shard)) for shard in range(SHARDS)])
            return Cluster(address.nodes, slots, self._ask_node, self.failures)
        return Fixed(address.nodes[0])

    # --- names -----------------------------------------------------------------------------

    @property
    def is_cluster(self) -> bool:
        """Whether it is a cluster."""
        return self._address.kind == "cluster"

    @property
    def bus(self) -> str:
        """The channel of the notices; of a cluster, that of its first shard."""
        return self.bus_of(0)

    def bus_of(self, shard: int) -> str:
        """Return the channel of the notices of a shard."""
        # The channels of a server are the same in all its databases; applications are not.
        database = self._address.database
        return self.key("bus", *([] if database == "0" else [database]), shard=shard)

    def key(self, *parts: str, shard: int = 0) -> str:
        """Return the name of a key or a channel."""
        begin = f"{{{self._tag(shard)}}}" if self.is_cluster else self.prefix
        return ":".join((begin, *parts))

    def shard_of(self, name: str) -> int:
        """Return the shard of a channel or of a user."""
        return slot_of(name) % self.shards if self.shards > 1 else 0

    def _tag(self, shard: int) -> str:
        return f"{self.prefix}:{shard}"

    # --- connections -----------------------------------------------------------------------

    def node_of(self, shard: int) -> Node | None:
        """Return the node of a shard: those with the same may share a connection; None: all do.

        Raises `failures`.
        """
        return self.finder.find(shard) if self.is_cluster else None

    def session(self, shard: int = 0) -> Session:
        """Return a new connection to what serves a shard. Raises `failures`."""
        return self._open(shard, Session)

    def subscribe(
        self, shards: Iterable[int], patterns: Sequence[str] = ()
    ) -> tuple[list[Subscription], Exception | None]:
        """Return connections, one for each node, that are subscribed to the bus of shards.

        And to patterns of channels, which a cluster has not.

        And the last error, where one of these cannot be had: one of `failures`.
        """
        nodes: dict[Node | None, list[int]] = {}
        made: list[Subscription] = []
        fault: Exception | None = None
        for shard in shards:
            try:
                nodes.setdefault(self.node_of(shard), []).append(shard)
            except self.failures as error:
                fault = error
        for node, each in nodes.items():
            try:
                made.append(self._subscription(each, patterns))
            except self.failures as error:
                self.finder.failed(node)
                fault = error
        return made, fault

    def _subscription(self, shards: list[int], patterns: Sequence[str]) -> Subscription:
        subscription = self._open(shards[0], Subscription)
        try:
            subscription.begin(
                "SSUBSCRIBE" if self.is_cluster else "SUBSCRIBE",
                {self.bus_of(shard): shard for shard in shards},
                patterns,
            )
        except BaseException:
            subscription.close()
            raise
        return subscription

    def publication(self, shard: int, body: bytes) -> tuple[str, str, bytes]:
        """Return the command that tells the bus something."""
        return "SPUBLISH" if self.is_cluster else "PUBLISH", self.bus_of(shard), body

    def listeners(self, session: Session) -> int:
        """Return how many connections, of those that a session reaches, hear the bus."""
        what = "SHARDNUMSUB" if self.is_cluster else "NUMSUB"
        return int(session.call("PUBSUB", what, self.bus)[1])

    def _open(self, shard: int, kind: type[L]) -> L:
        node = self.finder.find(shard)
        link = kind(self, self._connection(self._address.url(node)), (shard, node))
        try:
            link.connect()
            if self._address.kind == "sentinel":
                check_master(link.call("INFO", "replication"), node)
        except BaseException as error:
            link.close()
            if isinstance(error, self.failures):
                self.finder.failed(node)
            raise
        return link

    def _ask_node(self, node: Node, *words: str) -> Any:
        return self._ask(self._address.url(node), words)

    def _ask_sentinel(self, node: Node, *words: str) -> Any:
        return self._ask(self._address.sentinel_url(node), words)

    def _ask(self, url: str, words: Sequence[str]) -> Any:
        session = Session(self, self._connection(url, _SENTINEL_TIMEOUT))
        try:
            session.connect()
            return session.call(*words)
        finally:
            session.close()

    def _connection(self, url: str, timeout: float | None = None) -> Any:
        """Return a new connection of redis-py's. Does not connect."""
        library = _library()
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        settings: dict[str, Any] = {}
        address = self._address
        if address.is_tls and address.settings.get("ssl_cert_reqs") != "none":
            settings["ssl_check_hostname"] = True  # not all versions do
        try:
            pool = library.ConnectionPool.from_url(
                url,
                protocol=2,  # the same on all versions of the server and of redis-py
                decode_responses=False,
                health_check_interval=0,
                retry=Retry(NoBackoff(), 0),
                socket_connect_timeout=timeout or self.timeout,
                socket_keepalive=True,
                socket_timeout=timeout or self.timeout,
                **settings,
            )
            return pool.make_connection()
        except (TypeError, ValueError, library.RedisError) as error:
            raise ConfigError(f"{self.label} cannot be used: {excerpt(str(error))}") from error

    # --- faults ----------------------------------------------------------------------------

    @property
    def refusals(self) -> tuple[type[Exception], ...]:
        """What is raised where the server answers that it does not do it."""
        found: type[Exception] = _library().ResponseError
        return (found,)

    def is_elsewhere(self, error: Exception) -> bool:
        """Return whether an error is the answer of a node that is not the right one to ask."""
        exceptions = _library().exceptions
        kinds = exceptions.AskError, exceptions.TryAgainError, exceptions.ClusterDownError
        if self.is_cluster and isinstance(error, kinds):  # MovedError is an AskError
            return True
        if isinstance(error, exceptions.ReadOnlyError):
            return True
        text = _ELSEWHERE[self._address.kind]
        return isinstance(error, exceptions.ResponseError) and bool(text.search(str(error)))

    def forbidden(self, commands: Sequence[str]) -> Exception:
        """Return the error for commands that the user may not call."""
        error: Exception = _library().exceptions.NoPermissionError(
            f"the user {self._user!r} may not call {', '.join(commands)} on the keys and "
            f"channels of the prefix {self.prefix!r}: {_RIGHTS_HELP}"
        )
        return error

    def explained(self, error: Exception, *, connects: bool = False) -> Exception:
        """Return an error with what to do about it, or as it is."""
        exceptions, text = _library().exceptions, str(error)
        kind, help = type(error), None
        if isinstance(error, exceptions.AuthenticationError):
            help = f"{text}: {_LOGIN_HELP}"
        elif isinstance(error, exceptions.ResponseError):
            if isinstance(error, exceptions.NoPermissionError) or _FORBIDDEN.search(text):
                kind, help = exceptions.NoPermissionError, f"{text}: {_RIGHTS_HELP}"
            elif not self.is_cluster and (
                isinstance(error, (exceptions.MovedError, exceptions.ClusterCrossSlotError))
                or _OF_CLUSTER.match(text)  # not all versions have a class for each code
            ):
                kind = exceptions.ResponseError
                help = "it is a node of a cluster: use redis+cluster:// in the address"
        else:
            kind, help = exceptions.ConnectionError, _tls_help(error)
            if help is None and connects:
                help = self._other_port(text)
        return error if help is None else kind(help)

    def _other_port(self, text: str) -> str | None:
        """Return what to do where a server that expects TLS has got none, or the reverse."""
        if self._address.is_tls and re.search(r"time(d )?out", text, re.IGNORECASE):
            return f"{text}. Where its port has no TLS, use redis:// in the address"
        if not self._address.is_tls and re.search(r"closed by|reset by", text):
            return f"{text}. Where its port is one of TLS, use rediss:// in the address"
        return None


class _Link:
    """A connection that is made once: a new one is another, of a server anew.

    Args:
        server: the server.
        connection: one of redis-py's, not connected.
        of: the shard and the node that it was made for, if any.

    Raises what `RedisServer.failures` has.

    Threads: one at a time.
    """

    def __init__(
        self, server: RedisServer, connection: Any, of: tuple[int, Node] | None = None
    ) -> None:
        self._server = server
        self._connection = connection
        self._of = of

    @property
    def is_current(self) -> bool:
        """Whether its node is the one that serves its shard, as far as that is known."""
        return self._of is None or self._server.finder.is_current(*self._of)

    def connect(self) -> None:
        """Connect."""
        self._explaining(self._connection.connect, connects=True)

    def has_ended(self) -> bool:
        """Return whether the server has ended it, as far as that is known; between two calls."""
        try:
            return bool(self._connection.can_read(0))
        except self._server.failures:
            return True

    def call(self, *words: Any) -> Any:
        """Return the answer to a command, texts as bytes."""
        self._connection.send_command(*words, check_health=False)
        return self._explaining(self._read)

    def close(self) -> None:
        """Close the connection; idempotent. In a forked child, the child's copy of it."""
        self._connection.disconnect()

    def _read(self) -> Any:
        return self._connection.read_response(disable_decoding=True)

    def _explaining(self, work: Callable[[], Any], *, connects: bool = False) -> Any:
        try:
            return work()
        except self._server.failures as error:
            explained = self._server.explained(error, connects=connects)
            if explained is error:
                raise
            raise explained from error


class Session(_Link):
    """A connection for commands."""

    def calls(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """Return the answers to commands that are sent in one go; of some it may be an error."""
        packed = self._connection.pack_commands(commands)
        self._connection.send_packed_command(packed, check_health=False)
        answers: list[Any] = []
        for _ in commands:
            try:
                answers.append(self._explaining(self._read))
            except self._server.refusals as error:
                answers.append(error)
        return answers

    def all(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """Return the answers to commands that are sent in one go; raises the first error."""
        answers = self.calls(commands)
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    def run(self, text: str, digest: str, keys: Sequence[str], words: Sequence[Any]) -> Any:
        """Return what a script returns, which the server may have to be told."""
        try:
            return self.call("EVALSHA", digest, len(keys), *keys, *words)
        except _library().exceptions.NoScriptError:
            return self.call("EVAL", text, len(keys), *keys, *words)


class Matched(NamedTuple):
    """A body that came in a channel with a pattern.

    Args:
        channel: the channel.
        body: the body.
    """

    channel: bytes
    body: bytes


class Subscription(_Link):
    """A connection that is subscribed to channels, and to patterns of them.

    redis-py's own loop waits for ever on a connection whose peer is gone without a word: so
    it is asked, and read, one message at a time.
    """

    def __init__(
        self, server: RedisServer, connection: Any, of: tuple[int, Node] | None = None
    ) -> None:
        super().__init__(server, connection, of)
        self.heard = self.pinged = 0.0  # when anything came on it, and was asked for; its reader's
        self._early: deque[Any] = deque()  # answers that `read` has to return yet
        self._fault: Exception | None = None  # while it was looked at, which `read` raises
        self._has_moved = False  # a channel of it has another node now
        self._shards: dict[bytes, int] = {}

    @property
    def is_current(self) -> bool:
        """Whether its node is the one that serves its shards, as far as that is known."""
        if self._has_moved or self._of is None:
            return False
        _, node = self._of
        return all([self._server.finder.is_current(shard, node) for shard in self._shards.values()])

    def begin(
        self, command: str, channels: Mapping[str, int], patterns: Sequence[str] = ()
    ) -> None:
        """Subscribe to the channels of shards, and to patterns."""
        self._shards = {name.encode(): shard for name, shard in channels.items()}
        for name in channels:  # of a cluster, their slots differ
            self._connection.send_command(command, name, check_health=False)
        if patterns:
            self._connection.send_command("PSUBSCRIBE", *patterns, check_health=False)
        missing = len(channels) + len(patterns)
        confirmed = command.lower().encode(), b"psubscribe"
        while missing:
            answer = self._explaining(self._read)
            if isinstance(answer, list) and answer[0] in confirmed:
                missing -= 1
            else:  # it has come before all of them were subscribed to
                self._early.append(answer)

    def ping(self) -> None:
        """Ask for a sign of life, which `read` gets."""
        self._connection.send_command("PING", check_health=False)

    @property
    def node(self) -> Node | None:
        """The node that it was made for."""
        return None if self._of is None else self._of[1]

    @property
    def shards(self) -> Iterable[int]:
        """The shards whose channels it hears."""
        return self._shards.values()

    def has_data(self, timeout: float) -> bool:
        """Return whether there is something to read within so many seconds, or it has ended."""
        try:
            return bool(self._early or self._connection.can_read(timeout))
        except self._server.failures as error:
            self._fault = error
            return True

    def fileno(self) -> int:
        """Return the descriptor, to wait for it."""
        number: int = self._connection._sock.fileno()
        return number

    def read(self) -> tuple[int, bytes] | Matched | None:
        """Return the next body and its shard, or what matches; None for another sign of life."""
        if self._early:
            answer = self._early.popleft()
        elif self._fault is not None:
            raise self._fault
        else:
            answer = self._explaining(self._read)
        if isinstance(answer, list) and answer[0] == b"pmessage":
            return Matched(*answer[2:])
        if not isinstance(answer, list) or len(answer) != 3:
            return None
        kind, channel, body = answer
        if kind in (b"message", b"smessage"):
            shard = self._shards.get(channel)
            return None if shard is None else (shard, body)
        if kind == b"sunsubscribe":  # the slot has another node now
            self._has_moved = True
            self._server.finder.failed(None)
        return None


def ready(subscriptions: Sequence[Subscription], timeout: float) -> list[Subscription]:
    """Return those with something to read, after at most so many seconds."""
    if len(subscriptions) == 1:
        return [each for each in subscriptions if each.has_data(timeout)]
    found = [each for each in subscriptions if each.has_data(0)]
    if found:
        return found
    with selectors.DefaultSelector() as selector:
        for each in subscriptions:
            selector.register(each, selectors.EVENT_READ)
        selector.select(timeout)
    return [each for each in subscriptions if each.has_data(0)]


L = TypeVar("L", bound=_Link)


def _library() -> Any:
    try:
        import redis
    except ImportError as error:
        raise ConfigError('a RedisBackplane needs redis-py: pip install "ws_hub[redis]"') from error
    return redis


def _tls_help(error: BaseException) -> str | None:
    """Return what to do about an error of TLS; None for another error."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    if cause is None:
        return None
    if isinstance(cause, ssl.SSLCertVerificationError):
        if cause.verify_code in _OTHER_HOST:
            return (
                f"its certificate is one of another host ({cause.verify_message}): use a name "
                "that it has in the address"
            )
        return (
            f"its certificate is not trusted ({cause.verify_message}): set the file of the "
            "authority that has signed it in the address, as in ?ssl_ca_certs=/etc/ssl/redis.pem"
        )
    return (
        f"no TLS with it is possible ({cause}): where it wants a certificate of its clients, set "
        "ssl_certfile and ssl_keyfile in the address; where its port has no TLS, use redis://"
    )
