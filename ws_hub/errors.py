"""The exceptions of ws_hub, grouped by cause (the caller or the peer), and the close codes.

The tree::

    WsHubError
    ├── ConfigError (ValueError)            an invalid setting
    │   └── ProcessAlreadyRunning           a process id that is in use
    ├── InvalidName (ValueError)            a channel name or process id outside the rules
    ├── MessageEncodeError (ValueError)     data that has no JSON form
    ├── HubNotRunning (RuntimeError)        not started yet, or stopped
    ├── HubFull                             the hub's queue stayed full
    ├── HistoryError                        a history store that cannot write or read now
    ├── LimitExceeded                       a limit of the settings is reached
    ├── SendTimeout (TimeoutError)          one client's outbox stayed full
    ├── ConnectionClosed (ConnectionError)  the connection has ended: code, reason
    ├── NotConnected (ConnectionError)      a client or a Publisher without a server
    ├── HandshakeRefused (ConnectionError)  a server refused the handshake: HTTP status
    ├── HubError                            the answer to a request is an error: code, text
    ├── WaitTimeout (TimeoutError)          no answer within the time that was allowed
    ├── MaxRetriesExceeded (ConnectionError)
    ├── ProcessStartError (OSError)         in `spawn`: a program that cannot be started
    ├── InputClosed (BrokenPipeError)       in `stdin`: a program takes no more input
    ├── InputTimeout (TimeoutError)         in `stdin`: a program does not read its input
    ├── MessagesLost                        in `following`: a gap, with the channel
    ├── AdoptionError (RuntimeError)        a server without a socket to adopt
    └── PeerError                           the peer broke a rule
        ├── MessageDecodeError              answered with an `error` message
        └── ProtocolError                   answered with a close code
"""

from __future__ import annotations

import enum

__all__ = [
    "AdoptionError",
    "CloseCode",
    "ConfigError",
    "ConnectionClosed",
    "HandshakeRefused",
    "HistoryError",
    "HubError",
    "HubFull",
    "HubNotRunning",
    "InvalidName",
    "LimitExceeded",
    "MaxRetriesExceeded",
    "MessageDecodeError",
    "MessageEncodeError",
    "NotConnected",
    "PeerError",
    "ProcessAlreadyRunning",
    "ProtocolError",
    "SendTimeout",
    "WaitTimeout",
    "WsHubError",
    "excerpt",
    "is_retryable",
]


class CloseCode(enum.IntEnum):
    """The close codes that ws_hub sends or understands (RFC 6455 section 7.4)."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    NO_STATUS = 1005  # never on the wire: the peer's Close frame was empty
    ABNORMAL = 1006  # never on the wire: the connection ended without a Close frame
    INVALID_DATA = 1007
    POLICY = 1008
    TOO_BIG = 1009
    INTERNAL = 1011
    RESTART = 1012
    TRY_AGAIN = 1013
    UNAUTHENTICATED = 4401
    FORBIDDEN = 4403


_FINAL_CODES = frozenset({CloseCode.UNAUTHENTICATED, CloseCode.FORBIDDEN})
_FINAL_STATUSES = frozenset({401, 403})


def is_retryable(code: int) -> bool:
    """Return whether a client that was closed with this code should reconnect.

    `code` is a close code, or the HTTP status of a refused handshake. Only refusals for
    authentication or authorisation are final: they would be repeated.
    """
    return code not in _FINAL_CODES and code not in _FINAL_STATUSES


def excerpt(value: object, limit: int = 100) -> str:
    """Return the repr of a value for an error text or a log, cut to `limit` characters.

    Every value from a peer that is logged goes through here: a repr has no raw control
    characters (FAULTS 54). A value without a repr is shown by its type: the error text of an
    exception must not raise another exception.
    """
    if isinstance(value, (str, bytes)) and len(value) > limit:
        value = value[:limit]
        return repr(value) + "..."
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - a user's class, or nested too deeply
        return f"<{type(value).__name__} without a repr>"
    return text if len(text) <= limit else text[:limit] + "..."


class WsHubError(Exception):
    """The root of all exceptions that ws_hub raises on purpose."""


class ConfigError(WsHubError, ValueError):
    """A setting is invalid; the text names the field and the value."""


class ProcessAlreadyRunning(ConfigError):
    """The process id of a program to be started is that of one that runs on the same hub.

    A ConfigError, as `except ConfigError` and `except ValueError` around a start have caught
    it for as long as there was no name for it.

    Attributes:
        process_id: the process id.
    """

    def __init__(self, process_id: str) -> None:
        self.process_id = process_id
        super().__init__(
            f"process_id {excerpt(process_id)} is running already: wait for its end, or leave "
            "the id out to get a new one"
        )

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), (self.process_id,)


class InvalidName(WsHubError, ValueError):
    """A channel name or a process id is outside the protocol's rules."""


class MessageEncodeError(WsHubError, ValueError):
    """A message has no JSON form (NaN, a set, a lone surrogate); nothing of it was sent."""


class HubNotRunning(WsHubError, RuntimeError):
    """The hub was not started, or has stopped; nothing was queued."""


class HubFull(WsHubError):
    """The hub's queue had no room within the time allowed; the message was not queued."""


class HistoryError(WsHubError):
    """A history store cannot write or read at the moment: its disk is full, or has failed."""


class LimitExceeded(WsHubError):
    """A limit of the settings is reached; the text names it."""


class SendTimeout(WsHubError, TimeoutError):
    """A client's outbox had no room within the time allowed; the message was not queued."""


class ConnectionClosed(WsHubError, ConnectionError):
    """The connection has ended.

    Attributes:
        code: the close code, 1005 and 1006 included (RFC 6455 section 7.1.5).
        reason: the reason of the Close frame, or what ended the connection.
    """

    def __init__(self, code: int, reason: str = "") -> None:
        self.code = code
        self.reason = reason
        super().__init__(f"connection closed: {int(code)} {excerpt(reason)}")

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), (self.code, self.reason)


class NotConnected(WsHubError, ConnectionError):
    """A ReconnectingClient, or a Publisher that begins, reaches nobody; nothing was sent."""


class HandshakeRefused(WsHubError, ConnectionError):
    """A server answered the opening handshake with an HTTP status other than 101.

    Attributes:
        status: the HTTP status.
        reason: the reason in the answer.
        retry_after: seconds that the server asked to wait (RFC 9110 section 10.2.3), or None.
    """

    def __init__(self, status: int, reason: str = "", retry_after: float | None = None) -> None:
        self.status = status
        self.reason = reason
        self.retry_after = retry_after
        super().__init__(f"handshake refused: HTTP {status} {excerpt(reason)}")

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), (self.status, self.reason, self.retry_after)


class HubError(WsHubError):
    """The answer to a request is an error.

    Raised in a function for the messages of a type (`hub.on`) or for what the server asks
    (`on_ask`), it is sent to the peer as an `error` with this code and text. The calls that
    wait for an answer raise it when the answer is an `error`. Any other exception of such a
    function is logged, and sent as `internal` without its text.

    Args:
        code: a word for programs, such as "not_found"; docs/protocol.md lists those of the hub.
        text: for people; the peer gets it as it is.
    """

    def __init__(self, code: str, text: str = "") -> None:
        given: tuple[object, object] = code, text
        if not all(isinstance(each, str) for each in given) or not code:
            raise TypeError(
                f"HubError takes a code and a text, each a str, not {excerpt(given)}: "
                'HubError("not_found", "there is no order 7")'
            )
        self.code = code
        self.text = text
        super().__init__(f"{excerpt(code)}: {excerpt(text, 1000)}")

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), (self.code, self.text)


class WaitTimeout(WsHubError, TimeoutError):
    """No answer came within the time allowed; what was asked for may still happen."""


class MaxRetriesExceeded(WsHubError, ConnectionError):
    """A ReconnectingClient used up its retries; `__cause__` is the last failure."""


class AdoptionError(WsHubError, RuntimeError):
    """A WSGI server provides no socket that a connection could keep."""


class PeerError(WsHubError):
    """The peer broke a rule."""


class MessageDecodeError(PeerError, ValueError):
    """A peer's text is not a message. The connection stays; the peer gets an `error` message.

    Attributes:
        id: the `id` that the peer sent, when it could be read, else None.
        code: the `code` of the `error` message to answer with.
    """

    def __init__(
        self, text: str, *, id: str | int | None = None, code: str = "bad_message"
    ) -> None:
        self.id = id
        self.code = code
        super().__init__(text)


class ProtocolError(PeerError):
    """A peer's frames break RFC 6455 or a limit; the connection ends with `code`.

    Attributes:
        code: the close code.
        reason: the reason of the Close frame.
    """

    def __init__(self, code: int, reason: str) -> None:
        self.code = code
        self.reason = reason
        super().__init__(f"{int(code)} {excerpt(reason)}")

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), (self.code, self.reason)
