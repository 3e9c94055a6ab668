"""The settings of a hub, checked when they are made.

Must not know the class it configures: a callback's arguments are untyped here and
described where they are called. Nothing is corrected in silence: a value that cannot
work raises ConfigError with the field's name. Times are seconds, sizes are bytes,
counts are messages or as named.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from .checks import (
    check_callables,
    check_count,
    check_flag,
    check_many,
    check_networks,
    check_origins,
    check_overflow,
    check_seconds,
    check_text,
    check_wait,
)
from .errors import ConfigError

__all__ = [
    "DEFAULT_HEARTBEAT_INTERVAL",
    "DEFAULT_PONG_TIMEOUT",
    "DEFAULT_WRITE_TIMEOUT",
    "ChannelRule",
    "HubConfig",
    "Overflow",
]

DEFAULT_HEARTBEAT_INTERVAL = 30.0
DEFAULT_PONG_TIMEOUT = 60.0
DEFAULT_WRITE_TIMEOUT = 10.0

KIB = 1024
MIB = 1024 * KIB

Overflow = Literal["disconnect", "drop"]
Callback = Callable[..., Any]


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
        check_text(self, "pattern", "a shell pattern", "")
        check_count(self, "history_messages", least=0)
        check_count(self, "history_bytes", least=1)
        check_seconds(self, "history_ttl")
        check_seconds(self, "history_idle_ttl")
        check_flag(self, "replay")
        check_flag(self, "publish")
        check_overflow(self, "overflow")

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
        check_origin: called with the environ of a handshake, says whether its Origin
            may connect, in place of the two above; only True does.
        trusted_proxies: addresses and networks (`10.0.0.0/8`; "unix" for a Unix socket)
            whose `X-Forwarded-*` headers are believed.
        authenticator: called with the environ of a handshake, returns an AuthResult;
            None lets everybody in.
        auth_by_message: who brings no token may send it as first message.
        auth_timeout: seconds that such a client has for that.
        on_auth_failure: called with the environ and the AuthResult of a refusal.
        channel_authoriser: called with client and channel, on the client's reader
            thread, says whether the client may listen to it; only True does.
        publish_authoriser: the same for what a client publishes, where the channel's
            rule allows that at all.
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
    check_origin: Callable[[Any], bool] | None = None
    trusted_proxies: Collection[str] = ()
    authenticator: Callback | None = None
    auth_by_message: bool = False
    auth_timeout: float = 10.0
    on_auth_failure: Callback | None = None
    channel_authoriser: Callback | None = None
    publish_authoriser: Callback | None = None
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
            "auth_timeout",
        ):
            check_wait(self, name)
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
            check_count(self, name, least=1)
        if self.max_connections is not None:
            check_count(self, "max_connections", least=1)
        check_overflow(self, "broadcast_overflow")
        check_origins(self, "allowed_origins")
        check_many(self, "rules", ChannelRule, "ChannelRule")
        check_networks(self, "trusted_proxies")
        check_flag(self, "require_origin")
        check_flag(self, "auth_by_message")
        if self.check_origin is not None and (self.allowed_origins or self.require_origin):
            raise ConfigError(
                "check_origin decides alone: not with allowed_origins, require_origin"
            )
        if self.auth_by_message and self.authenticator is None:
            raise ConfigError("auth_by_message needs an authenticator")
        check_callables(
            self,
            "channel_name",
            "check_origin",
            "authenticator",
            "on_auth_failure",
            "channel_authoriser",
            "publish_authoriser",
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
