"""The settings of a reconnecting client, checked when they are made.

Must not know the class it configures: a callback's arguments are untyped here and
described where they are called. Nothing is corrected in silence: a value that cannot
work raises ConfigError with the field's name. Times are seconds, sizes are bytes,
counts are messages or as named.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..errors import ConfigError, excerpt
from ..validation import (
    check_callables,
    check_count,
    check_flag,
    check_headers,
    check_many,
    check_plain,
    check_text,
    check_wait,
    is_line,
    is_number,
)

__all__ = ["ReconnectConfig"]

MIB = 1024 * 1024

Callback = Callable[..., Any]


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
        token: says who we are; a text, or a function that returns a fresh one, called
            before each connection on the thread in `connect()`. None sends none.
        token_in: how it is sent: as `header` (`Authorization: Bearer`), as `subprotocol`
            (what browsers can do; a server that selects none has not seen it, which is
            final), or as first `message` (for a hub that waits for it).
        origin: the Origin header to send; None sends none.
        subprotocols: offered in the handshake; a server need not select one.
        dialer: called with this config, returns a connected websocket-client
            `WebSocket`; None for our own.
        ssl_context: for `wss://`; None for the system's certificates.
        connect_timeout: seconds for TCP, TLS and handshake together.
        ping_interval: seconds of silence after which the server is pinged.
        ping_timeout: seconds without a byte, from that ping on, until the server
            counts as gone.
        write_timeout: seconds that one send may take.
        max_message_size: bytes in one WebSocket message. A Go hub joins up to 257 of 64
            KiB in one, with a newline between: a little over 16 MiB. A larger message is
            thrown away while it comes in and reported as MessagesLost; the connection
            ends (1009) only where one is over 256 MiB.
        compression: offer permessage-deflate (RFC 7692), and compress what is long if the
            server agrees.
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
        on_reconnect: called with the number of attempts that this outage took, 1 when the
            first succeeded, after the on_connect of each connection but the first.
        on_message: called with each message.
        on_error: called with an exception: what made an attempt fail, a text from the
            server that is no message, messages that are lost, what a callback raised.
            Where very many wait for a slow callback, those of a kind are one.
    """

    url: str
    initial_backoff: float = 1.0
    max_backoff: float = 30.0
    backoff_multiplier: float = 2.0
    max_retries: int = 0
    jitter: bool = True
    stable_after: float = 5.0
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    token: str | Callable[[], str] | None = field(default=None, repr=False)
    token_in: Literal["header", "subprotocol", "message"] = "header"
    origin: str | None = None
    subprotocols: Sequence[str] = ()
    dialer: Callback | None = None
    ssl_context: Any = None
    connect_timeout: float = 10.0
    ping_interval: float = 25.0
    ping_timeout: float = 10.0
    write_timeout: float = 10.0
    max_message_size: int = 17 * MIB
    compression: bool = False
    queue_size: int = 1024
    queue_bytes: int = 32 * MIB
    queue_patience: float = 5.0
    on_connect: Callback | None = None
    on_disconnect: Callback | None = None
    on_reconnect: Callback | None = None
    on_message: Callback | None = None
    on_error: Callback | None = None

    def __post_init__(self) -> None:
        check_text(self, "url", "a ws:// or wss:// URL", ("ws://", "wss://"))
        for name in (
            "initial_backoff",
            "max_backoff",
            "connect_timeout",
            "ping_interval",
            "ping_timeout",
            "write_timeout",
            "queue_patience",
        ):
            check_wait(self, name)
        if self.stable_after != 0:
            check_wait(self, "stable_after")
        check_flag(self, "jitter")
        check_flag(self, "compression")
        check_headers(self, "headers")
        if callable(self.token):
            check_plain("token", self.token)
        elif self.token is not None:
            check_text(self, "token", "a text, a function or None", "")
            if not is_line(self.token):  # its value is not for a log
                raise ConfigError("token must be one line of text, without lone surrogates")
        if self.token_in not in ("header", "subprotocol", "message"):
            raise ConfigError(
                "token_in must be 'header', 'subprotocol' or 'message', "
                f"not {excerpt(self.token_in)}"
            )
        if self.token is not None and "authorization" in map(str.lower, self.headers):
            raise ConfigError("token must not stand beside an Authorization among the headers")
        if self.origin is not None:
            check_text(self, "origin", "an origin or None", "")
        check_many(self, "subprotocols", str, "subprotocols")
        if self.max_backoff < self.initial_backoff:
            raise ConfigError(
                f"max_backoff must not be below initial_backoff: {self.max_backoff!r} is "
                f"below {self.initial_backoff!r}"
            )
        multiplier = self.backoff_multiplier
        if not is_number(multiplier) or not 1 <= multiplier < math.inf:
            raise ConfigError(f"backoff_multiplier must be at least 1, not {excerpt(multiplier)}")
        check_count(self, "max_retries", least=0)
        check_count(self, "max_message_size", least=1)
        check_count(self, "queue_size", least=1)
        check_count(self, "queue_bytes", least=1)
        check_callables(
            self,
            "dialer",
            "on_connect",
            "on_disconnect",
            "on_reconnect",
            "on_message",
            "on_error",
        )
