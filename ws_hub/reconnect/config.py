"""The settings of a reconnecting client, checked when they are made.

A value that cannot work raises ConfigError with the field's name; none is corrected
silently. Times are seconds, sizes are bytes, counts are messages or as named.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..errors import ConfigError, excerpt
from ..validation import (
    check_callables,
    check_choice,
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
        max_backoff: the longest backoff in seconds.
        backoff_multiplier: the factor between one backoff and the next.
        max_retries: retries in a row that may fail before the client gives up; 0 for no
            bound.
        jitter: draw each wait evenly from 0 to the backoff.
        stable_after: seconds that a connection must last before the retries count from 1
            again.
        headers: HTTP headers of the handshake (`Authorization`, `Cookie`).
        token: the credential to send; a text, or a function that returns a fresh one,
            called before each attempt on the thread in `connect()`. None sends none.
        token_in: how the token is sent: as `header` (`Authorization: Bearer`), as
            `subprotocol` (the way of browsers; a server that selects no subprotocol has
            not read it, which is final), or as the first `message` (for a hub that
            expects it there).
        origin: the Origin header to send; None sends none.
        subprotocols: offered in the handshake; a server need not select one.
        dialer: called with this config; returns a connected websocket-client
            `WebSocket`. None for the built-in one.
        ssl_context: for `wss://`; None for the system's certificates.
        connect_timeout: seconds for TCP, TLS and handshake together.
        ping_interval: seconds without a byte from the server after which it is pinged.
        ping_timeout: seconds from that ping until a server that has sent no byte counts
            as gone, and the connection ends.
        write_timeout: seconds that one send may take.
        max_message_size: bytes in one WebSocket message. A Go hub joins up to 257
            messages of 64 KiB, with a newline between, in one: a little over 16 MiB. A
            larger message is discarded while it is read, and reported as MessagesLost;
            one of more than 256 MiB ends the connection (1009).
        compression: offer permessage-deflate (RFC 7692), and compress messages of 256
            bytes or more if the server agrees.
        queue_size: messages that may wait for a slow callback.
        queue_bytes: bytes of text that may wait for a slow callback.
        queue_patience: seconds for which reading stops once that queue is full, until
            half of it is free. After that reading goes on, because pings must be
            answered: messages that find no room are requested again later when their
            channel has history, and otherwise counted and reported as MessagesLost.
        send_buffer: messages of `send` and `publish` that are kept while there is no
            connection, and sent in order on the next one, behind the subscriptions; 0 for none.
        send_buffer_overflow: what a further one does: `refuse` raises NotConnected,
            `drop_oldest` and `drop_newest` drop one, which `ReconnectingClient.unsent` counts.
        json_default: called with each value in data that JSON does not know, as `default` of
            `json.dumps`. None for `ws_hub.json_default`; see `HubConfig.json_default`.
        on_connect: called without arguments after each connection. This and the other
            callbacks run in order, on the thread in `connect()`.
        on_disconnect: called with the close code, the reason and whether a retry follows,
            once for each on_connect.
        on_reconnect: called after the on_connect of every connection but the first, with
            the number of attempts since the connection was lost, 1 when the first one
            succeeded.
        on_message: called with each message.
        on_ask: called with the data of what the server asks (`hub.ask`); returns the data of
            the answer, or raises HubError. None answers with the error "not_found".
        on_presence: called with a channel, the members that have joined and those that have
            left, each a tuple of `Member`, when the presence of a subscribed channel has changed;
            both are empty when only its numbers or an info have. See docs/presence.md.
        on_error: called with an exception: why an attempt failed, a text from the server
            that is no message, messages that are lost, what a callback raised. When more
            than 256 reports wait for a slow callback, further ones of a kind are merged.
    """

    url: str = field(kw_only=False)
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
    send_buffer: int = 0
    send_buffer_overflow: Literal["refuse", "drop_oldest", "drop_newest"] = "refuse"
    json_default: Callable[[Any], Any] | None = None
    on_connect: Callback | None = None
    on_disconnect: Callback | None = None
    on_reconnect: Callback | None = None
    on_message: Callback | None = None
    on_ask: Callback | None = None
    on_presence: Callback | None = None
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
        self._check_token()
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
        check_count(self, "send_buffer", least=0)
        check_choice(self, "send_buffer_overflow", ("refuse", "drop_oldest", "drop_newest"))
        if self.send_buffer_overflow != "refuse" and not self.send_buffer:
            raise ConfigError(
                "send_buffer_overflow needs send_buffer, the number of messages that are kept "
                "while there is no connection: send_buffer=100"
            )
        check_callables(
            self,
            dialer="config",
            json_default="value",
            on_connect="",
            on_disconnect="code, reason, retries",
            on_reconnect="attempts",
            on_message="message",
            on_ask="data",
            on_presence="channel, joined, left",
            on_error="error",
        )

    def _check_token(self) -> None:
        if callable(self.token):
            check_plain("token", self.token)
        elif self.token is not None:
            check_text(self, "token", "a text, a function or None", "")
            if not is_line(self.token):  # without its value: the error may be logged
                raise ConfigError(
                    "token must be one line of text, without lone surrogates: strip() what a "
                    "file says"
                )
        if self.token_in not in ("header", "subprotocol", "message"):
            raise ConfigError(
                "token_in must be 'header', 'subprotocol' or 'message', "
                f"not {excerpt(self.token_in)}"
            )
        if self.token is not None and "authorization" in map(str.lower, self.headers):
            raise ConfigError(
                "token must not stand beside an Authorization among the headers: leave one of "
                "them out"
            )
