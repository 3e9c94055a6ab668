"""A Redis or Valkey server by its address: the names of keys, and connections to it.

All that is asked of redis-py is here. It does not repeat commands, and reconnects nothing by
itself: who uses a connection decides what a failure means.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast
from urllib.parse import parse_qsl, urlencode, urlsplit

from ..errors import ConfigError, excerpt

if TYPE_CHECKING:
    import redis

__all__ = ["Matched", "RedisServer", "Session", "Subscription"]

_TIMEOUT = 3.0  # seconds of one answer, and of one connect
_SCHEMES = {"redis": "redis", "rediss": "rediss", "valkey": "redis", "valkeys": "rediss"}
_PREFIX = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_SETTINGS = re.compile(r"db|client_name|ssl_[a-z_]+")
_EXAMPLE = '"redis://localhost:6379/0?prefix=ws"'


class RedisServer:
    """A server, and the part of it that is one application's.

    Args:
        url: the address.

    Attributes:
        prefix: what all keys and channels of the application begin with.
        bus: the channel of its notices.
        go: whether Go hubs use the same prefix, and are spoken to; see `go_bridge`.
        label: the address, without its password, for the log.
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
                f"RedisBackplane({_EXAMPLE})"
            )
        try:
            parts = urlsplit(url)
            host, port, user = parts.hostname, parts.port, parts.username
            settings = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
        except ValueError:
            raise _not_an_address(url) from None
        scheme = _SCHEMES.get(parts.scheme)
        path = parts.path.strip("/")
        if scheme is None or not host or parts.fragment or (path and not path.isdecimal()):
            raise _not_an_address(url)
        self.prefix = settings.pop("prefix", "ws")
        if not _PREFIX.fullmatch(self.prefix):
            raise ConfigError(
                f"{excerpt(self.prefix)} is no prefix of a RedisBackplane: use up to 64 letters, "
                "digits and any of _ . : -"
            )
        go = settings.pop("go", "0")
        if go not in ("0", "1"):
            raise ConfigError(
                f"go={excerpt(go)} is no setting of a RedisBackplane's address: use go=1 where Go "
                "hubs with the same prefix are to get and send messages, else leave it out"
            )
        self.go = go == "1"
        for name in settings:
            if not _SETTINGS.fullmatch(name):
                raise ConfigError(
                    f"{excerpt(name)} is no setting of a RedisBackplane's address: it takes "
                    "prefix, go, db, client_name and those of TLS, such as ssl_ca_certs"
                )
        self._url = parts._replace(scheme=scheme, query=urlencode(settings)).geturl()
        database = settings.get("db", path or "0")
        where = f"{host}:{port or 6379}/{database}"
        self.label = f"{parts.scheme}://{f'{user}@' if user else ''}{where}?prefix={self.prefix}"
        self.timeout = _TIMEOUT
        # The channels of a server are the same in all its databases; applications are not.
        self.bus = self.key("bus") if database == "0" else self.key("bus", database)
        self.client()  # raises for a setting that redis-py does not know
        self.failures: tuple[type[Exception], ...] = (_library().RedisError, OSError)

    def key(self, *parts: str) -> str:
        """Return the name of a key or a channel."""
        return ":".join((self.prefix, *parts))

    def client(self) -> redis.Redis:
        """Return a new client, with connections of its own. Does not connect."""
        library = _library()
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        try:
            client = library.Redis.from_url(
                self._url,
                protocol=2,  # the same on all versions of the server and of redis-py
                decode_responses=False,
                health_check_interval=0,
                retry=Retry(NoBackoff(), 0),
                socket_connect_timeout=self.timeout,
                socket_keepalive=True,
                socket_timeout=self.timeout,
            )
            client.connection_pool.make_connection()
        except (TypeError, ValueError, library.RedisError) as error:
            raise ConfigError(f"{self.label} cannot be used: {excerpt(str(error))}") from error
        return cast("redis.Redis", client)

    @property
    def refusals(self) -> tuple[type[Exception], ...]:
        """What is raised where the server answers that it does not do it."""
        found: type[Exception] = _library().ResponseError
        return (found,)

    def is_of_replica(self, error: Exception) -> bool:
        """Return whether an error is the answer of a server that others write to."""
        return isinstance(error, _library().exceptions.ReadOnlyError)

    def session(self) -> Session:
        """Return a new connection. Raises `failures`."""
        return Session(self.client().connection_pool.make_connection())

    def subscribe(self, channel: str, patterns: Sequence[str] = ()) -> Subscription:
        """Return a connection that is subscribed to a channel and patterns. Raises `failures`."""
        subscription = Subscription(self.client().connection_pool.make_connection())
        try:
            subscription.begin(channel, patterns)
        except BaseException:
            subscription.close()
            raise
        return subscription


class Session:
    """A connection that is made once: a new one is another session, of a server anew.

    Args:
        connection: one of redis-py's, not connected.

    Raises what `RedisServer.failures` has.

    Threads: one at a time.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        connection.connect()

    def check(self) -> None:
        """Raise where the server has ended the connection, as far as is known here."""
        self._connection.can_read(0)

    def call(self, *words: Any) -> Any:
        """Return the answer to a command, texts as bytes."""
        self._connection.send_command(*words, check_health=False)
        return self._connection.read_response(disable_decoding=True)

    def run(self, text: str, digest: str, keys: Sequence[str], words: Sequence[Any]) -> Any:
        """Return what a script returns, which the server may have to be told."""
        try:
            return self.call("EVALSHA", digest, len(keys), *keys, *words)
        except _library().exceptions.NoScriptError:
            return self.call("EVAL", text, len(keys), *keys, *words)

    def close(self) -> None:
        """Close the connection; idempotent. In a forked child, the child's copy of it."""
        self._connection.disconnect()


class Matched(NamedTuple):
    """A body that came in a channel with a pattern.

    Args:
        channel: the channel.
        body: the body.
    """

    channel: bytes
    body: bytes


class Subscription:
    """A connection that is subscribed to a channel, and to patterns of channels.

    redis-py's own loop waits for ever on a connection whose peer is gone without a word: so
    it is asked, and read, one message at a time.

    Args:
        connection: one of redis-py's, not connected.

    Threads: one.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._early: list[bytes | Matched] = []  # came before all was subscribed to

    def begin(self, channel: str, patterns: Sequence[str] = ()) -> None:
        """Connect and subscribe; raises what `RedisServer.failures` has."""
        self._connection.connect()
        self._connection.send_command("SUBSCRIBE", channel, check_health=False)
        if patterns:
            self._connection.send_command("PSUBSCRIBE", *patterns, check_health=False)
        missing = 1 + len(patterns)
        while missing:
            found = _bodies_of(self._connection.read_response(disable_decoding=True))
            self._early += found
            if not found:
                missing -= 1

    def ping(self) -> None:
        """Ask for a sign of life, which `read` gets."""
        self._connection.send_command("PING", check_health=False)

    def read(self, timeout: float) -> list[bytes | Matched] | None:
        """Return the next body, or none with another sign of life; None after `timeout` seconds."""
        if self._early:
            early, self._early = self._early, []
            return early
        if not self._connection.can_read(timeout):
            return None
        return _bodies_of(self._connection.read_response(disable_decoding=True))

    def close(self) -> None:
        """Close the connection; idempotent. In a forked child, the child's copy of it."""
        self._connection.disconnect()


def _bodies_of(answer: Any) -> list[bytes | Matched]:
    """Return the body that a subscribed connection has brought; none for another answer."""
    match answer:
        case [b"message", _, body]:
            return [body]
        case [b"pmessage", _, channel, body]:
            return [Matched(channel, body)]
    return []


def _library() -> Any:
    try:
        import redis
    except ImportError as error:
        raise ConfigError('a RedisBackplane needs redis-py: pip install "ws_hub[redis]"') from error
    return redis


def _not_an_address(url: str) -> ConfigError:
    # Without what may be a password.
    shown = re.sub(r"//[^/@]*@", "//***@", url)
    return ConfigError(
        f"{excerpt(shown)} is no address of a Redis server: use one such as {_EXAMPLE}"
    )
