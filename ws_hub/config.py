"""The settings of a hub, checked when they are made.

An invalid value raises ConfigError with the field's name; nothing is corrected silently.
Times are seconds, sizes are bytes, counts are messages or as named. Callbacks are typed
without their arguments, so that this module imports none of the classes they get.
"""

from __future__ import annotations

import fnmatch
import functools
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeVar, cast

from .errors import ConfigError, excerpt
from .validation import (
    check_callables,
    check_choice,
    check_count,
    check_flag,
    check_named,
    check_networks,
    check_no_classes,
    check_origins,
    check_rate,
    check_seconds,
    check_text,
    check_wait,
    is_path,
)

__all__ = [
    "DEFAULT_HEARTBEAT_INTERVAL",
    "DEFAULT_HISTORY_BYTES",
    "DEFAULT_PONG_TIMEOUT",
    "DEFAULT_PUBLISHED_HISTORY_BYTES",
    "DEFAULT_WRITE_TIMEOUT",
    "ChannelRule",
    "HubConfig",
    "Overflow",
    "as_rules",
]

DEFAULT_HEARTBEAT_INTERVAL = 30.0
DEFAULT_PONG_TIMEOUT = 60.0
DEFAULT_WRITE_TIMEOUT = 10.0

KIB = 1024
MIB = 1024 * KIB

DEFAULT_HISTORY_BYTES = 256 * MIB
DEFAULT_PUBLISHED_HISTORY_BYTES = 32 * MIB

Overflow = Literal["disconnect", "drop", "drop_oldest", "latest"]
MAX_PRESENCE_LIMIT = 10_000  # a list of so many fits one message
Callback = Callable[..., Any]
T = TypeVar("T")


def _named(kind: type[T]) -> type[T]:
    """Have a class of settings refuse unknown names with the nearest, or with where they belong.

    A builtin's error would only repeat the name, or count arguments.
    """
    made = cast(Callable[..., None], vars(kind)["__init__"])
    settings = fields(cast(Any, kind))
    own = [each.name for each in settings]
    unnamed = sum(not each.kw_only for each in settings)
    what = kind.__name__

    @functools.wraps(made)
    def init(self: object, *args: Any, **given: Any) -> None:
        check_named(args[unnamed:], _EXAMPLES[what])
        for name in given:
            if name not in own:
                use = _elsewhere(name, own)
                raise TypeError(f"{what} has no {name}: {use}")
        made(self, *args, **given)

    setattr(kind, "__init__", init)  # noqa: B010 - a type checker would take it for the signature
    return kind


_EXAMPLES = {
    "ChannelRule": 'ChannelRule("chat:*", history_messages=100)',
    "HubConfig": "HubConfig(max_connections=500, rules=[...])",
}


def _elsewhere(name: str, own: Sequence[str]) -> str:
    """Say what to use for a name of a setting that is not one of a class's own."""
    near = _nearest(name, own)
    if any(each.startswith(f"{name}_") for each in near):
        return f"use {' or '.join(near)}"
    if name in _RULE_FIELDS:
        return f"it is one of a rule, set it by rules=[ChannelRule('chat:*', {name}=...)]"
    if name in {each.name for each in fields(HubConfig)}:
        return f"set it by HubConfig({name}=...), for all channels"
    return f"use {' or '.join(near) or 'one of the documented'}"


def _nearest(name: str, own: Sequence[str]) -> Sequence[str]:
    """Return the names that may be meant: those that begin so, else those that look so."""
    import difflib  # not at start-up: only a mistake needs it

    begun = [each for each in own if each.startswith(f"{name}_")]
    return begun or difflib.get_close_matches(name, own)


@_named
@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelRule:
    """The rule for the channels with a name that matches a pattern. Immutable.

    `ChannelRule("chat:*", history_messages=100, replay=True)`; only the pattern has no name.

    Args:
        pattern: a shell pattern (`process:*`); the first rule that matches counts.
        history_messages: messages that the channel keeps; 0 keeps none.
        history_bytes: bytes of encoded messages that it keeps at most.
        history_head_bytes: of these, bytes for the beginning: the first messages of the newest
            run of a program, or since the channel kept nothing, stay; what is behind them is
            dropped first. They get the same share of `history_messages`. 0 keeps the newest alone.
        history_ttl: seconds that a process channel's history is kept after the process
            has exited.
        history_idle_ttl: seconds that a history is kept after its last message
            otherwise.
        replay: whether a subscription without a position gets the whole history.
        overflow: what happens to messages of this channel for a client that does not read
            fast enough: `drop` drops what meets its full outbox, `disconnect` closes it with
            1013 then. `latest` keeps only the newest message for it while anything else
            waits to be sent, `drop_oldest` the newest ones, as many as an outbox holds; such
            a channel has no history, and slows no publisher. What is dropped is counted.
        publish: whether clients may publish to the channel; their data reaches the
            subscribers as an `event`.
        keyed: whether each message has a key, and the channel keeps the newest of each: a
            subscriber gets these first, then the changes. A client that is behind gets the
            newest of what has changed, with `drop` from a full outbox on. It forgets its
            keys `history_idle_ttl` seconds after the last change, unless it has subscribers.
        max_keys: keys that a keyed channel keeps, within `history_bytes`; beyond it the
            longest unchanged key is deleted, for its subscribers too.
        presence: whether the subscribers are told who else is there: True with a list of the
            users and their connections, "count" with two numbers. See docs/presence.md.
        presence_grace: seconds for which a user whose last connection has ended is still
            present, so that a reconnect is not seen.
        presence_limit: connections that are listed; with more of them the channel is told
            their number alone, until there are a tenth fewer.

    Raises ConfigError for an invalid value, and for one that would do nothing: `replay` or a
    bound of the history without `history_messages`, `max_keys` without `keyed`, and a bound of
    the presence without `presence`.

    Threads: any.
    """

    pattern: str = field(kw_only=False)
    history_messages: int = 0
    history_bytes: int = 4 * MIB
    history_head_bytes: int = 0
    history_ttl: float = 300.0
    history_idle_ttl: float = 86_400.0
    replay: bool = False
    overflow: Overflow = "drop"
    publish: bool = False
    keyed: bool = False
    max_keys: int = 1000
    presence: bool | Literal["count"] = False
    presence_grace: float = 15.0
    presence_limit: int = 1000

    def __post_init__(self) -> None:
        check_text(self, "pattern", "a shell pattern", "")
        check_count(self, "history_messages", least=0)
        check_count(self, "history_bytes", least=1)
        check_count(self, "history_head_bytes", least=0)
        check_seconds(self, "history_ttl")
        check_seconds(self, "history_idle_ttl")
        check_flag(self, "replay")
        check_flag(self, "publish")
        self._check_presence()
        check_flag(self, "keyed")
        check_count(self, "max_keys", least=1)
        check_choice(self, "overflow", ("disconnect", "drop", "drop_oldest", "latest"))
        self._check_what_is_left_out()
        if not self.history_messages:
            self._check_history_is_off()
        elif self.history_head_bytes >= self.history_bytes:
            raise ConfigError(
                f"history_head_bytes={self.history_head_bytes} leaves no room for the newest "
                f"messages: use less than history_bytes={self.history_bytes}"
            )

    def _check_what_is_left_out(self) -> None:
        """Refuse a channel that is to keep what it leaves out, and keys together with a history."""
        if self.history_messages and self.overflow in ("drop_oldest", "latest"):
            raise ConfigError(
                f"overflow={self.overflow!r} leaves messages out, and history_messages keeps "
                "them for clients that missed some: leave one of both out"
            )
        if self.keyed and self.history_messages:
            raise ConfigError(
                "keyed=True keeps the newest message of each key, and history_messages the last "
                "of all: leave one of both out, or use two channels"
            )
        if self.keyed and self.overflow == "drop_oldest":
            raise ConfigError(
                "keyed=True keeps one message of each key for a client that is behind, so that "
                'none is the oldest: use overflow="latest", or leave overflow out'
            )
        if not self.keyed and self.max_keys != 1000:
            raise ConfigError(
                "max_keys needs keyed=True: only such a channel keeps the newest message of each "
                "key"
            )

    def _check_history_is_off(self) -> None:
        """Refuse what says something about a history that is not kept."""
        for each in fields(self):
            name = each.name
            if (name != "replay" and not name.startswith("history_")) or getattr(
                self, name
            ) == each.default:
                continue
            if not self.keyed:
                raise ConfigError(
                    f"{name} needs history_messages, the number of messages that the channel "
                    f"keeps: ChannelRule({excerpt(self.pattern)}, history_messages=100, ...)"
                )
            if name not in ("history_bytes", "history_idle_ttl"):
                raise ConfigError(
                    f"{name} does nothing with keyed=True: each subscriber gets the newest of "
                    "each key, for as long as history_idle_ttl says; leave it out"
                )

    @property
    def numbered(self) -> bool:
        """Whether messages are numbered and kept: a history, or the newest of each key.

        Threads: any.
        """
        return self.keyed or self.history_messages > 0

    @property
    def history_head_messages(self) -> int:
        """How many messages the beginning may have: its share of `history_messages`.

        Threads: any.
        """
        return self.history_messages * self.history_head_bytes // self.history_bytes

    def _check_presence(self) -> None:
        if self.presence != "count":
            if not isinstance(self.presence, bool):
                raise ConfigError(
                    f"presence must be True, False or 'count', not {excerpt(self.presence)}"
                )
        check_seconds(self, "presence_grace")
        check_count(self, "presence_limit", least=1)
        for each in fields(self):
            name = each.name
            if name.startswith("presence_") and not self.presence:
                if getattr(self, name) != each.default:
                    raise ConfigError(
                        f"{name} needs presence=True or 'count': only such a channel tells its "
                        "subscribers who is there"
                    )
        if self.presence_limit > MAX_PRESENCE_LIMIT:
            raise ConfigError(
                f"presence_limit must be at most {MAX_PRESENCE_LIMIT}, not {self.presence_limit}: "
                "use presence='count' for channels with more members"
            )

    def matches(self, channel: str) -> bool:
        """Return whether this rule applies to `channel`.

        Threads: any.
        """
        return fnmatch.fnmatchcase(channel, self.pattern)

    def covers(self, other: ChannelRule) -> bool:
        """Return whether this rule certainly matches all channels that another one matches.

        Threads: any.
        """
        if self.pattern == other.pattern or self.pattern == "*":
            return True
        # Where only stars match more than themselves, they match the wildcards of the other.
        plain = not set("?[") & set(self.pattern) and "[" not in other.pattern
        return plain and self.matches(other.pattern)


_RULE_FIELDS = tuple(each.name for each in fields(ChannelRule))
_RULES = (
    'write [ChannelRule("chat:*", history_messages=100)], or '
    '[{"pattern": "chat:*", "history_messages": 100}]'
)


def as_rules(given: object) -> tuple[ChannelRule, ...]:
    """Return rules; a mapping in their place has the fields of one, as in a file of settings.

    Raises ConfigError for anything else, and for what a ChannelRule refuses.

    Threads: any.
    """
    if isinstance(given, (str, bytes)) or not isinstance(given, Sequence):
        raise ConfigError(f"rules must be a list, not {excerpt(given)}: {_RULES}")
    return tuple(each if isinstance(each, ChannelRule) else _as_rule(each) for each in given)


def _as_rule(given: object) -> ChannelRule:
    if not isinstance(given, Mapping):
        raise ConfigError(f"rules must hold ChannelRule or dict, not {excerpt(given)}: {_RULES}")
    for key in given:
        if key not in _RULE_FIELDS:
            near = _nearest(str(key), _RULE_FIELDS) or _RULE_FIELDS
            raise ConfigError(
                f"rules: {excerpt(key)} in {excerpt(given)} is no field of a ChannelRule: use "
                + " or ".join(near)
            )
    if "pattern" not in given:
        raise ConfigError(f"rules: {excerpt(given)} needs a pattern, for its channels: {_RULES}")
    try:
        return ChannelRule(**given)
    except ConfigError as error:
        raise ConfigError(f"rules: {error}, in {excerpt(given)}") from None


# More messages than the bytes hold: of the smallest, these are some 25,000.
PROCESS_RULE = ChannelRule(
    pattern="process:*", history_messages=40_000, history_head_bytes=MIB, replay=True
)
ATTEMPTS_RULE = ChannelRule(pattern="attempts:*", history_messages=10, replay=True)
_NO_RULE = ChannelRule(pattern="*")


@_named
@dataclass(frozen=True, slots=True, kw_only=True)
class HubConfig:
    """The settings of a Hub. Immutable.

    Raises ConfigError for an invalid value or combination, naming the field.

    Args:
        heartbeat_interval: seconds between the pings to a client.
        pong_timeout: seconds of silence after which a client counts as disconnected, if its
            system has acknowledged no bytes of its backlog either; must be above the
            heartbeat interval.
        write_timeout: seconds that a backlog may wait while the client's system acknowledges
            nothing. Each 4,000 bytes that it acknowledges allow one more second; unused
            seconds are kept as credit, up to six write timeouts.
        close_timeout: seconds that a closing handshake may take; `stop()` takes about
            as long in all.
        publish_timeout: seconds that a publishing thread waits while the hub's queue
            is full, before HubFull.
        queue_size: messages that the hub's queue holds.
        queue_bytes: bytes that the hub's queue holds, where each message counts for its text
            and 512 more; one message may exceed it. None for a quarter of `outbox_bytes`, at
            least 256 KiB.
        outbox_messages: messages that may wait for one client; at least eight times
            `queue_size` where loops are to be slowed (see `pace_bytes`).
        outbox_bytes: bytes that may wait for one client.
        pace_bytes: bytes a second: threads that publish in a loop wait, within
            `publish_timeout`, for a client that reads at least that fast, when its outbox is
            half full. A slower client misses messages, or is disconnected. A thread that
            published less than 64 KiB and 128 messages within a second never waits, and
            neither does a publish with `timeout=0`. None to wait for no client.
        broadcast_overflow: what a full outbox means for a broadcast: `disconnect` or
            `drop`; see `ChannelRule.overflow`.
        max_message_size: bytes in one message from a client, across its fragments;
            more closes with 1009.
        max_fragments: frames in one message from a client; more closes with 1008.
        message_timeout: seconds to wait for the rest of a message that has begun; more
            closes with 1008. None for no limit.
        max_message_rate: messages a second that a payer may send in the long run, on all
            its connections; a payer that sends more is read more slowly. A payer is the
            user of a connection, else its address as seen through trusted proxies (for
            IPv6: its network of 64 bits), else that connection alone. None for no limit.
        message_burst: messages that a payer may send at once beyond that rate.
        max_processing_rate: seconds of processor time a second that a payer may make the
            hub spend in the long run: on its messages, and on the callbacks for them. A payer
            that uses more is read more slowly, and closed with 1008 when it owes more than
            ten seconds. None for no limit.
        processing_burst: seconds of processor time that a payer may use at once beyond that
            rate.
        max_processing_rate_in_all: the rate for all payers together; a payer that uses less
            than a tenth of its own rate, or less than its part of this one, is not slowed by
            it. None for no limit.
        max_byte_rate: bytes a second that a payer may make the hub keep or send in the long
            run: answers, replays, and its publications, once a subscriber. None for no limit.
        byte_burst: bytes that a payer may make the hub keep or send at once beyond that rate.
        max_byte_rate_in_all: bytes a second for all payers together, as with processing.
            None for no limit.
        flood_timeout: seconds for which a client may be slowed by these limits before it is
            closed with 1008; None for ever.
        max_control_rate: pings and pongs a second that a connection may send in the long
            run; more closes with 1008. A payer that sends more on all its connections
            together is read more slowly. None for no limit.
        control_burst: pings and pongs that may arrive at once beyond that rate.
        max_subscriptions: channels that one client may subscribe to.
        max_subscriptions_in_all: subscriptions in all channels together, beyond which no
            client can add one. None for no limit.
        max_connections: clients at one time; the next gets 503. None for no limit.
        max_connections_per_address: connections at one time from one address (for IPv6:
            from one network of 64 bits), as seen through trusted proxies; the next gets
            429. None for no limit: behind a proxy that is not named in
            `trusted_proxies`, all clients have the address of that proxy.
        max_connections_per_user: connections at one time of one user; the next gets 429,
            or 1008 after a first message. None for no limit.
        max_waiting: connections at one time that have yet to authenticate (see
            `auth_by_message`); the next gets 503. None for no limit.
        handshake_timeout: seconds that `serve` waits for the head of a request, and a new
            connection for the hub thread, before it is refused.
        max_handshakes: requests that `serve` answers at one time, including handshakes that
            are not WebSockets yet; the next waits briefly, then gets 503.
        compression: whether to accept permessage-deflate (RFC 7692) from clients that offer
            it; read docs/security.md first.
        compression_min_size: bytes of JSON from which on a message is compressed, where
            that makes it smaller.
        io_uring: whether to send broadcasts to 160 clients and more by io_uring(7), where the
            system has it and lets the process use it; `hub.stats().io_uring` tells whether it
            does. False for a loop of sends, which does the same and takes longer.
        history_bytes_in_all: bytes of memory that the histories of all channels may take
            together; beyond it the oldest messages are dropped from the channel that has
            been unused for longest, of the kind that is being written to.
        published_history_bytes_in_all: the same for the channels that clients may publish
            to, which also count among all.
        history: where channels keep their history: a `SqliteHistory("hub.db")` for one that
            outlives the process; None for memory. What keyed channels and presence know is
            in memory all the same. See docs/recovery.md.
        backplane: what tells the other processes of the application: "local" for the workers of
            one gunicorn, "local:///run/app/hub" for all processes that name this directory,
            "redis://host:6379/0" for those of several machines, or a LocalBackplane or
            RedisBackplane; None for none, unless the environment has WS_HUB_BACKPLANE. See
            docs/scaling.md.
        logs: the folder of the logs that programs write (`run_process(log=True)`), made when it
            is needed; logs of other processes, and of earlier ones, are found here. None for
            none. See docs/processes.md.
        usage_interval: seconds between two samples of what a program uses that `run_process` has
            started: its processor time and its memory, in its status. 0 for none.
        attempt_bytes: bytes of the last lines of a program that are kept when another attempt
            at the same work begins (`run_process(attempt=2)`); 0 for none.
        rules: the rules for channels; the first match counts. A mapping in place of a
            ChannelRule has its fields, as a file of settings says them; a type checker wants
            a ChannelRule. After them comes one of the hub's own: process channels
            (`process:*`) keep 40,000 messages or 4 MiB, the first MiB of it and the last three,
            and those of earlier attempts (`attempts:*`) their last 10 messages, unless a rule of
            yours matches them.
        channel_name: returns whether a channel name is allowed, and with `process:` before
            it a process id; called at every use of a name, and an exception is a refusal.
            None for the rules of the protocol. "" is never allowed.
        json_default: called with each value in data that JSON does not know, on the thread
            that publishes, returns what stands for it, as `default` of `json.dumps`; what it
            raises refuses the message. None for `ws_hub.json_default`: dates, times, UUIDs,
            Decimals, paths, enumerations and dataclasses. With one of your own, orjson (the
            extra `fast`), which would not ask it for all of these, is not used.
        lenient: accept what old frontends of a Go hub send: keys in any case (`Type`), and
            JSON in binary frames.
        allowed_origins: origins (`https://example.com`, `tauri://localhost`) that may
            connect beside the request's own; `https://*.example.com` allows every host
            below a domain; `null` and `file://` allow pages from files and sandboxes; "*"
            allows all.
        require_origin: refuse a handshake without an Origin header.
        check_origin: called with the environ of a handshake, returns whether its Origin
            may connect, in place of the two above; only True allows it.
        trusted_proxies: addresses and networks (`10.0.0.0/8`; "unix" for a Unix socket) of
            proxies; only their `X-Forwarded-*` headers are believed.
        authenticator: called with the environ of a handshake, returns an AuthResult;
            None allows every client.
        auth_by_message: a client without a token may send one as its first message.
        auth_timeout: seconds that such a client has for that.
        on_auth_failure: called with the environ and the AuthResult of a refusal.
        channel_authoriser: called with client and channel, on the client's reader
            thread, returns whether the client may subscribe to it; only True allows it.
        publish_authoriser: the same for a client's publications, where the channel's
            rule allows them at all.
        input_authoriser: called with client, process id and "input", "stop" or "kill", returns
            whether the client may do that to a program, which this process runs or another
            one that a backplane connects; None: none may.
        log_input: whether what a client writes to a program is told to its viewers, with the
            user; False: only that something was written. What a terminal does not show, such
            as a password, is never told.
        on_connect: called with the client, on its reader thread, before any of its
            messages is handled.
        on_disconnect: called with the client, the close code and the reason, on its
            reader thread, last, once.
        on_message: called with the client and each message of a type that the hub
            does not handle itself, on its reader thread. More such functions are registered
            by decorators of the hub: docs/callbacks.md.
        on_slow_client: called with a client whose outbox has become half full, once until it is
            a quarter full again; on one thread of the hub's. `hub.explain(client)` says more.
        on_first_subscriber: called with a channel's name when it gets its first
            subscriber; on one thread of the hub's, in order.
        on_last_unsubscribe: called with a channel's name when it has lost its last
            subscriber; on the same thread.

    Threads: any.
    """

    heartbeat_interval: float = DEFAULT_HEARTBEAT_INTERVAL
    pong_timeout: float = DEFAULT_PONG_TIMEOUT
    write_timeout: float = DEFAULT_WRITE_TIMEOUT
    close_timeout: float = 5.0
    publish_timeout: float = 10.0
    queue_size: int = 1024
    queue_bytes: int | None = None
    outbox_messages: int = 16_384
    outbox_bytes: int = 8 * MIB
    pace_bytes: int | None = 1_000_000
    broadcast_overflow: Overflow = "disconnect"
    max_message_size: int = 64 * KIB
    max_fragments: int = 1024
    message_timeout: float | None = 60.0
    max_message_rate: float | None = 1000.0
    message_burst: int = 600
    max_processing_rate: float | None = 0.2
    processing_burst: float = 0.5
    max_processing_rate_in_all: float | None = 0.25
    max_byte_rate: float | None = 16.0 * MIB
    byte_burst: int = 64 * MIB
    max_byte_rate_in_all: float | None = 64.0 * MIB
    flood_timeout: float | None = None
    max_control_rate: float | None = 100.0
    control_burst: int = 1000
    max_subscriptions: int = 1024
    max_subscriptions_in_all: int | None = 1_000_000
    max_connections: int | None = None
    max_connections_per_address: int | None = None
    max_connections_per_user: int | None = 128
    max_waiting: int | None = 1000
    handshake_timeout: float = 10.0
    max_handshakes: int = 512
    compression: bool = False
    compression_min_size: int = 256
    io_uring: bool = True
    history_bytes_in_all: int = DEFAULT_HISTORY_BYTES
    published_history_bytes_in_all: int = DEFAULT_PUBLISHED_HISTORY_BYTES
    history: Any = None
    backplane: Any = None
    logs: str | os.PathLike[str] | None = None
    usage_interval: float = 5.0
    attempt_bytes: int = 64 * KIB
    rules: Sequence[ChannelRule] = ()
    channel_name: Callable[[str], bool] | None = None
    json_default: Callable[[Any], Any] | None = None
    lenient: bool = False
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
    input_authoriser: Callback | None = None
    log_input: bool = True
    on_connect: Callback | None = None
    on_disconnect: Callback | None = None
    on_message: Callback | None = None
    on_slow_client: Callback | None = None
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
            "handshake_timeout",
            "processing_burst",
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
            "message_burst",
            "byte_burst",
            "control_burst",
            "max_subscriptions",
            "max_handshakes",
            "compression_min_size",
            "history_bytes_in_all",
            "published_history_bytes_in_all",
        ):
            check_count(self, name, least=1)
        if self.usage_interval != 0 or self.usage_interval is False:
            check_wait(self, "usage_interval")
        check_count(self, "attempt_bytes", least=0)
        self._check_what_may_be_none()
        if self.check_origin is not None and (self.allowed_origins or self.require_origin):
            raise ConfigError(
                "check_origin must not stand beside allowed_origins or require_origin: leave "
                "one out"
            )
        if self.auth_by_message and self.authenticator is None:
            raise ConfigError(
                "auth_by_message needs an authenticator, which gets the token: set both"
            )
        self._check_kinds()
        self._check_what_does_nothing()

    def _check_what_does_nothing(self) -> None:
        """Refuse rules that never apply, and functions that are never called."""
        if self.on_auth_failure is not None and self.authenticator is None:
            raise ConfigError(
                "on_auth_failure needs an authenticator, without which nobody is refused: set both"
            )
        if self.history is not None and not self.keeps_history:
            raise ConfigError(
                "history has nothing to keep, as no rule has history_messages: "
                "rules=[ChannelRule('chat:*', history_messages=1000)], or leave history out"
            )
        for number, rule in enumerate(self.rules):
            for before in self.rules[:number]:
                if before.covers(rule):
                    raise ConfigError(
                        f"rules: the one for {excerpt(rule.pattern)} never applies, as the one for "
                        f"{excerpt(before.pattern)} stands before it, and the first that matches "
                        "counts: put the narrower first, or leave one out"
                    )
        if self.publish_authoriser is not None and not any(each.publish for each in self.rules):
            raise ConfigError(
                "publish_authoriser needs a rule with publish=True, without which no client may "
                "publish: rules=[ChannelRule('chat:*', publish=True)]"
            )

    @property
    def keeps_history(self) -> bool:
        """Return whether a rule keeps history: one that was given, or the one after them."""
        given = any(rule.history_messages for rule in self.rules)
        return given or not any(rule.covers(PROCESS_RULE) for rule in self.rules)

    def _check_kinds(self) -> None:
        if self.history is not None and not callable(getattr(self.history, "append", None)):
            raise ConfigError(
                'history must be a history store, such as SqliteHistory("hub.db"), not '
                f"{excerpt(self.history)}"
            )
        backplane = self.backplane
        if not isinstance(backplane, str | None) and (
            isinstance(backplane, type) or not callable(getattr(backplane, "tell", None))
        ):
            raise ConfigError(
                'backplane must be an address, such as "local", or an object, not '
                f"{excerpt(backplane)}"
            )
        check_choice(self, "broadcast_overflow", ("disconnect", "drop"))
        logs = self.logs
        if logs is not None and not is_path(logs):
            raise ConfigError(
                f"logs must be the path of a folder, such as 'builds', not {excerpt(logs)}"
            )
        check_origins(self, "allowed_origins")
        # Of a frozen instance: what was given may be mappings, and a list may change.
        object.__setattr__(self, "rules", as_rules(self.rules))
        check_networks(self, "trusted_proxies")
        check_flag(self, "compression")
        check_flag(self, "io_uring")
        check_flag(self, "lenient")
        check_flag(self, "require_origin")
        check_flag(self, "auth_by_message")
        check_flag(self, "log_input")
        authorisers = "channel_authoriser", "publish_authoriser", "input_authoriser"
        check_no_classes(self, "check_origin", "authenticator", *authorisers)
        check_callables(
            self,
            channel_name="name",
            json_default="value",
            check_origin="environ",
            authenticator="environ",
            on_auth_failure="environ, result",
            channel_authoriser="client, channel",
            publish_authoriser="client, channel",
            input_authoriser="client, process_id, action",
            on_connect="client",
            on_disconnect="client, code, reason",
            on_message="client, message",
            on_slow_client="client",
            on_first_subscriber="channel",
            on_last_unsubscribe="channel",
        )

    def _check_what_may_be_none(self) -> None:
        for name in (
            "queue_bytes",
            "pace_bytes",
            "max_subscriptions_in_all",
            "max_connections",
            "max_connections_per_address",
            "max_connections_per_user",
            "max_waiting",
        ):
            if getattr(self, name) is not None:
                check_count(self, name, least=1)
        for name in ("message_timeout", "flood_timeout"):
            if getattr(self, name) is not None:
                check_wait(self, name)
        for name in (
            "max_message_rate",
            "max_control_rate",
            "max_processing_rate",
            "max_processing_rate_in_all",
            "max_byte_rate",
            "max_byte_rate_in_all",
        ):
            if getattr(self, name) is not None:
                check_rate(self, name)

    @property
    def queue_bytes_or_default(self) -> int:
        """The bytes that the hub's queue holds."""
        if self.queue_bytes is not None:
            return self.queue_bytes
        return max(self.outbox_bytes // 4, 256 * KIB)

    def compresses(self, text: bytes) -> bool:
        """Return whether an encoded message is compressed for clients with compression.

        Threads: any.
        """
        return self.compression and len(text) >= self.compression_min_size

    def rule_for(self, channel: str) -> ChannelRule:
        """Return the first rule that matches, or one that keeps no history.

        Threads: any.
        """
        for rule in (*self.rules, PROCESS_RULE, ATTEMPTS_RULE):
            if rule.matches(channel):
                return rule
        return _NO_RULE
