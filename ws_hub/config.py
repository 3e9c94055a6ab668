"""The settings of a hub and of a reconnecting client, checked when they are made.

Must not know the classes it configures: a callback's arguments are untyped here and
described where they are called. Nothing is corrected in silence: a value that cannot
work raises ConfigError with the field's name. Times are seconds, sizes are bytes,
counts are messages or as named.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from .errors import ConfigError, excerpt

__all__ = [
    "DEFAULT_HEARTBEAT_INTERVAL",
    "DEFAULT_PONG_TIMEOUT",
    "DEFAULT_WRITE_TIMEOUT",
    "ChannelRule",
    "HubConfig",
    "Overflow",
    "ReconnectConfig",
]

DEFAULT_HEARTBEAT_INTERVAL = 30.0
DEFAULT_PONG_TIMEOUT = 60.0
DEFAULT_WRITE_TIMEOUT = 10.0

# poll(2) counts milliseconds in a C int: a longer wait than 24 days overflows it.
_LONGEST_WAIT = 1_000_000.0

KIB = 1024
MIB = 1024 * KIB

Overflow = Literal["disconnect", "drop"]
Callback = Callable[..., Any]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check_text(config: object, name: str, what: str, start: str | tuple[str, ...]) -> None:
    value = getattr(config, name)
    if not isinstance(value, str) or not value or not value.startswith(start):
        raise ConfigError(f"{name} must be {what}, not {excerpt(value)}")


def _check_seconds(config: object, name: str) -> None:
    value = getattr(config, name)
    if not _is_number(value) or not 0 < value < math.inf:
        raise ConfigError(f"{name} must be a positive number of seconds, not {excerpt(value)}")


def _check_wait(config: object, name: str) -> None:
    _check_seconds(config, name)
    value = getattr(config, name)
    if value > _LONGEST_WAIT:
        raise ConfigError(
            f"{name} must be at most {_LONGEST_WAIT:,.0f} seconds, not {excerpt(value)}"
        )


def _check_flag(config: object, name: str) -> None:
    value = getattr(config, name)
    if not isinstance(value, bool):
        raise ConfigError(f"{name} must be True or False, not {excerpt(value)}")


def _check_many(config: object, name: str, kind: type, what: str) -> None:
    """Check a collection of `kind`; a string is none, though it holds strings."""
    value = getattr(config, name)
    if isinstance(value, (str, bytes)) or not isinstance(value, Collection):
        raise ConfigError(f"{name} must be a collection of {what}, not {excerpt(value)}")
    for item in value:
        if not isinstance(item, kind):
            raise ConfigError(f"{name} must hold {what}, not {excerpt(item)}")


def _check_count(config: object, name: str, *, least: int) -> None:
    value = getattr(config, name)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{name} must be a whole number from {least}, not {excerpt(value)}")


def _check_overflow(config: object, name: str) -> None:
    value = getattr(config, name)
    if value not in ("disconnect", "drop"):
        raise ConfigError(f"{name} must be 'disconnect' or 'drop', not {excerpt(value)}")


def _check_headers(config: object, name: str) -> None:
    value = getattr(config, name)
    if not isinstance(value, Mapping):
        raise ConfigError(f"{name} must map names to values, not {excerpt(value)}")
    for item in (*value.keys(), *value.values()):
        if not isinstance(item, str):
            raise ConfigError(f"{name} must hold strings, not {excerpt(item)}")


def _check_callables(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and not callable(value):
            raise ConfigError(f"{name} must be callable or None, not {excerpt(value)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelRule:
    """What holds for the channels whose name matches a pattern.

    Args:
        pattern: a shell pattern (`process:*`); the first rule that matches counts.
        history_messages: how many messages the channel keeps; 0 keeps none.
        history_bytes: how many bytes of encoded messages it keeps at most.
        history_ttl: seconds that a process channel's history is kept after the process
            has exited.
        history_idle_ttl: seconds that a history is kept after its last message
            otherwise.
        replay: whether a subscription that names no position gets all that is kept.
        overflow: what a full outbox means for a message of this channel: `drop` it
            for that client, counted, or `disconnect` the client with 1013.
        publish: whether a client may publish to the channel; its data reaches the
            subscribers as an `event`.
    """

    pattern: str
    history_messages: int = 0
    history_bytes: int = 4 * MIB
    history_ttl: float = 300.0
    history_idle_ttl: float = 86_400.0
    replay: bool = False
    overflow: Overflow = "drop"
    publish: bool = False

    def __post_init__(self) -> None:
        _check_text(self, "pattern", "a shell pattern", "")
        _check_count(self, "history_messages", least=0)
        _check_count(self, "history_bytes", least=1)
        _check_seconds(self, "history_ttl")
        _check_seconds(self, "history_idle_ttl")
        _check_flag(self, "replay")
        _check_flag(self, "publish")
        _check_overflow(self, "overflow")

    def matches(self, channel: str) -> bool:
        """Say whether this rule is about `channel`."""
        return fnmatch.fnmatchcase(channel, self.pattern)


PROCESS_RULE = ChannelRule(pattern="process:*", history_messages=10_000, replay=True)
_NO_RULE = ChannelRule(pattern="*")


@dataclass(frozen=True, slots=True, kw_only=True)
class HubConfig:
    """The settings of a Hub.

    Args:
        heartbeat_interval: seconds between the pings that a client gets.
        pong_timeout: seconds of silence after which a client counts as gone; above
            the heartbeat interval.
        write_timeout: seconds that a backlog may wait without the client taking one
            byte.
        close_timeout: seconds that a closing handshake may take; `stop()` takes about
            as long in all.
        publish_timeout: seconds that a publishing thread waits while the hub's queue
            is full, before HubFull.
        queue_size: messages that the hub's queue holds.
        outbox_messages: messages that may wait for one client.
        outbox_bytes: bytes that may wait for one client.
        broadcast_overflow: what a full outbox means for a broadcast.
        max_message_size: bytes in one message from a client, across its fragments;
            more closes with 1009.
        max_fragments: frames in one message from a client; more closes with 1008.
        max_subscriptions: channels that one client may listen to.
        max_connections: clients at one time; the next gets 503. None for no bound.
        rules: what holds for which channels; the first match counts. By default
            process channels keep their last 10,000 lines or 4 MiB.
        channel_name: says whether a channel name is allowed; None for the rule of
            the protocol.
        allowed_origins: origins (`https://example.com`) that may connect beside the
            request's own; "*" allows all.
        require_origin: refuse a handshake without an Origin header.
        on_connect: called with the client, on its reader thread, before anything it
            sent is handled.
        on_disconnect: called with the client, the close code and the reason, on its
            reader thread, last, once.
        on_message: called with the client and each message of a type that the hub
            does not handle itself, on its reader thread.
        on_first_subscriber: called with a channel's name when somebody begins to
            listen to it; on one thread of the hub's, in order.
        on_last_unsubscribe: called with a channel's name when nobody listens any
            more; on the same thread.
    """

    heartbeat_interval: float = DEFAULT_HEARTBEAT_INTERVAL
    pong_timeout: float = DEFAULT_PONG_TIMEOUT
    write_timeout: float = DEFAULT_WRITE_TIMEOUT
    close_timeout: float = 5.0
    publish_timeout: float = 10.0
    queue_size: int = 1024
    outbox_messages: int = 16_384
    outbox_bytes: int = 8 * MIB
    broadcast_overflow: Overflow = "disconnect"
    max_message_size: int = 64 * KIB
    max_fragments: int = 1024
    max_subscriptions: int = 1024
    max_connections: int | None = None
    rules: Sequence[ChannelRule] = (PROCESS_RULE,)
    channel_name: Callable[[str], bool] | None = None
    allowed_origins: Collection[str] = ()
    require_origin: bool = False
    on_connect: Callback | None = None
    on_disconnect: Callback | None = None
    on_message: Callback | None = None
    on_first_subscriber: Callback | None = None
    on_last_unsubscribe: Callback | None = None

    def __post_init__(self) -> None:
        for name in (
            "heartbeat_interval",
            "pong_timeout",
            "write_timeout",
            "close_timeout",
            "publish_timeout",
        ):
            _check_wait(self, name)
        if self.pong_timeout <= self.heartbeat_interval:
            raise ConfigError(
                f"pong_timeout must be above heartbeat_interval: {self.pong_timeout!r} is "
                f"not above {self.heartbeat_interval!r}"
            )
        for name in (
            "queue_size",
            "outbox_messages",
            "outbox_bytes",
            "max_message_size",
            "max_fragments",
            "max_subscriptions",
        ):
            _check_count(self, name, least=1)
        if self.max_connections is not None:
            _check_count(self, "max_connections", least=1)
        _check_overflow(self, "broadcast_overflow")
        _check_many(self, "allowed_origins", str, "origins")
        _check_many(self, "rules", ChannelRule, "ChannelRule")
        _check_flag(self, "require_origin")
        _check_callables(
            self,
            "channel_name",
            "on_connect",
            "on_disconnect",
            "on_message",
            "on_first_subscriber",
            "on_last_unsubscribe",
        )

    def rule_for(self, channel: str) -> ChannelRule:
        """Return the first rule that matches, or one that keeps no history."""
        for rule in self.rules:
            if rule.matches(channel):
                return rule
        return _NO_RULE


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconnectConfig:
    """The settings of a ReconnectingClient.

    Args:
        url: `ws://` or `wss://`.
        initial_backoff: seconds before the first retry.
        max_backoff: seconds that no wait exceeds.
        backoff_multiplier: how much longer each wait is than the one before.
        max_retries: retries in a row that may fail before giving up; 0 for no bound.
        jitter: draw each wait evenly from 0 to the backoff.
        stable_after: seconds that a connection must hold before the attempts count
            from 1 again.
        headers: HTTP headers of the handshake (`Authorization`, `Cookie`).
        origin: the Origin header to send; None sends none.
        subprotocols: offered in the handshake.
        dialer: called with this config, returns a connected websocket-client
            `WebSocket`; None for our own.
        ssl_context: for `wss://`; None for the system's certificates.
        connect_timeout: seconds for TCP, TLS and handshake together.
        ping_interval: seconds of silence after which the server is pinged.
        ping_timeout: seconds without a byte, from that ping on, until the server
            counts as gone.
        write_timeout: seconds that one send may take.
        max_message_size: bytes in one WebSocket message; a Go hub joins up to 257
            messages in one.
        queue_size: messages that may wait for a slow callback.
        queue_bytes: bytes of text that may wait for a slow callback.
        queue_patience: seconds that reading stops while that queue is full, from when it
            is full until half of it is free; after them reading goes on (pings must be
            answered) and what has no room is fetched again later from a channel with
            history, or else counted and reported as MessagesLost.
        on_connect: called with nothing after each connection, on the thread in
            `connect()`, as all of these are, in order.
        on_disconnect: called with code, reason and whether a retry follows, once for
            each on_connect.
        on_reconnect: called with the number of attempts it took, after the on_connect of
            each connection but the first.
        on_message: called with each message.
        on_error: called with an exception: what made an attempt fail, a text from the
            server that is no message, messages that are lost, what a callback raised.
    """

    url: str
    initial_backoff: float = 1.0
    max_backoff: float = 30.0
    backoff_multiplier: float = 2.0
    max_retries: int = 0
    jitter: bool = True
    stable_after: float = 5.0
    headers: Mapping[str, str] = field(default_factory=dict)
    origin: str | None = None
    subprotocols: Sequence[str] = ()
    dialer: Callback | None = None
    ssl_context: Any = None
    connect_timeout: float = 10.0
    ping_interval: float = 25.0
    ping_timeout: float = 10.0
    write_timeout: float = DEFAULT_WRITE_TIMEOUT
    max_message_size: int = 16 * MIB
    queue_size: int = 1024
    queue_bytes: int = 32 * MIB
    queue_patience: float = 5.0
    on_connect: Callback | None = None
    on_disconnect: Callback | None = None
    on_reconnect: Callback | None = None
    on_message: Callback | None = None
    on_error: Callback | None = None

    def __post_init__(self) -> None:
        _check_text(self, "url", "a ws:// or wss:// URL", ("ws://", "wss://"))
        for name in (
            "initial_backoff",
            "max_backoff",
            "connect_timeout",
            "ping_interval",
            "ping_timeout",
            "write_timeout",
            "queue_patience",
        ):
            _check_wait(self, name)
        if self.stable_after != 0:
            _check_wait(self, "stable_after")
        _check_flag(self, "jitter")
        _check_headers(self, "headers")
        if self.origin is not None:
            _check_text(self, "origin", "an origin or None", "")
        _check_many(self, "subprotocols", str, "subprotocols")
        if self.max_backoff < self.initial_backoff:
            raise ConfigError(
                f"max_backoff must not be below initial_backoff: {self.max_backoff!r} is "
                f"below {self.initial_backoff!r}"
            )
        multiplier = self.backoff_multiplier
        if not _is_number(multiplier) or not 1 <= multiplier < math.inf:
            raise ConfigError(f"backoff_multiplier must be at least 1, not {excerpt(multiplier)}")
        _check_count(self, "max_retries", least=0)
        _check_count(self, "max_message_size", least=1)
        _check_count(self, "queue_size", least=1)
        _check_count(self, "queue_bytes", least=1)
        _check_callables(
            self,
            "dialer",
            "on_connect",
            "on_disconnect",
            "on_reconnect",
            "on_message",
            "on_error",
        )
