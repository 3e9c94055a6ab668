"""One connected client, as an application sees it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol

from ..errors import CloseCode
from ..protocol.frames import close_frame
from ..protocol.message import AnyMessage, Message, as_message
from ..validation import check_timeout
from .backlog import Explanation

__all__ = ["Client"]


class Link(Protocol):
    """The connection of a client; see `Client` for each name."""

    @property
    def id(self) -> int: ...

    @property
    def remote_address(self) -> str: ...

    @property
    def connected_at(self) -> float: ...

    @property
    def user_id(self) -> str | None: ...

    @property
    def claims(self) -> Mapping[str, Any]: ...

    @property
    def expires_at(self) -> float | None: ...

    @property
    def last_error(self) -> str: ...

    @property
    def compression(self) -> bool: ...

    @property
    def dropped(self) -> int: ...

    @property
    def waiting(self) -> tuple[int, int]: ...

    def explain(self) -> Explanation: ...

    @property
    def info(self) -> str: ...

    def set_info(self, info: object) -> None: ...

    def send(self, message: Message, timeout: float | None) -> None: ...

    def wait_for_room(self, timeout: float) -> bool: ...

    def close(self, code: int, reason: str) -> None: ...

    def abort(self) -> None: ...

    def subscriptions(self) -> list[str]: ...


class Client:
    """One connected client. Made by the hub; passed to every callback.

    Every method and attribute is safe on any thread, also after the connection has ended.

    Attributes:
        state: a dict for the application's own data about this client.
    """

    __slots__ = ("__weakref__", "_link", "state")

    def __init__(self, link: Link) -> None:
        self._link = link
        self.state: dict[str, Any] = {}

    def __repr__(self) -> str:
        return repr(self._link)

    @property
    def id(self) -> int:
        """A number for logs; unique in the process, not a secret."""
        return self._link.id

    @property
    def remote_address(self) -> str:
        """The peer's address, as the server, or a trusted proxy, reports it."""
        return self._link.remote_address

    @property
    def connected_at(self) -> float:
        """When it connected, in POSIX seconds."""
        return self._link.connected_at

    @property
    def user_id(self) -> str | None:
        """The id of the authenticated user, else None."""
        return self._link.user_id

    @property
    def claims(self) -> Mapping[str, Any]:
        """More facts about the user; read-only at every depth."""
        return self._link.claims

    @property
    def expires_at(self) -> float | None:
        """When its authentication expires and it is closed, in POSIX seconds; None for never."""
        return self._link.expires_at

    @property
    def last_error(self) -> str:
        """The last error of this connection; "" for none."""
        return self._link.last_error

    @property
    def compression(self) -> bool:
        """Whether permessage-deflate is used (RFC 7692)."""
        return self._link.compression

    @property
    def dropped(self) -> int:
        """The number of messages that it did not get because it did not read.

        They were refused by its full outbox, or discarded there when it was disconnected for
        that. What waits there when its peer ends the connection is not counted.
        """
        return self._link.dropped

    @property
    def waiting(self) -> tuple[int, int]:
        """The number of messages, and of bytes, in its outbox."""
        return self._link.waiting

    def explain(self) -> Explanation:
        """Return what waits for it, what it did not get, and why.

        Threads: any; does not wait.
        """
        return self._link.explain()

    @property
    def info(self) -> Any:
        """What is told of it in channels with presence, see `set_info`; None for nothing.

        A copy each time: to change it does not change what is told.

        Threads: any.
        """
        text = self._link.info
        return json.loads(text) if text else None

    def set_info(self, info: Any) -> None:
        """Set what the members of channels with presence are told of this client; None: nothing.

        Any JSON value of at most 1,024 bytes, as a name or a state; see docs/presence.md. It counts
        for this connection, in all of its channels, from now on: they are told of a change. Set in
        `on_connect` it is there before the first subscription. Raises LimitExceeded for a larger
        one, MessageEncodeError for one without a JSON form.

        Threads: any; does not wait.
        """
        self._link.set_info(info)

    def send(self, message: AnyMessage, timeout: float | None = None) -> None:
        """Send a message to this client alone, waiting while its outbox is full.

        A mapping is a message as in `Hub.broadcast`. Messages of one thread arrive in order.
        Returns when the message is in the socket or the outbox, not when the peer has
        received it. Raises SendTimeout after `timeout` seconds (None: waits until the write
        timeout ends the connection), ConnectionClosed when the connection has ended,
        MessageEncodeError for a message without a JSON form.

        Within another call for this client, as from a signal handler or a finaliser, the hub
        thread sends it soon after. If the outbox is full then, the message is dropped and counted.

        Threads: any; blocks at most `timeout`, and never within another call of the hub.
        """
        check_timeout("timeout", timeout)
        self._link.send(as_message(message), timeout)

    def wait_for_room(self, timeout: float) -> bool:
        """Wait until the outbox is at most half full; False after `timeout` seconds.

        True at once when the connection has ended.

        Threads: any; blocks at most `timeout`.
        """
        given: object = timeout
        if given is None:
            raise TypeError("timeout must be a number of seconds, not None: wait_for_room(10.0)")
        check_timeout("timeout", given)
        return self._link.wait_for_room(timeout)

    def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Close the connection: queued messages are sent, then the closing handshake begins.

        Idempotent; the first code counts. The peer has `close_timeout` seconds to answer. Raises
        ValueError for a code that must not be sent (RFC 6455 section 7.4). Within another call
        for this client, as from a signal handler, the hub thread closes it soon after: then
        SendTimeout says that the hub's queue is full, ConnectionClosed that the hub has stopped.

        Threads: any, callbacks and signal handlers included; does not wait.
        """
        close_frame(code, reason)  # raises before anything has happened
        self._link.close(code, reason)

    def abort(self) -> None:
        """Cut the connection without a closing handshake.

        Threads: any; does not wait.
        """
        self._link.abort()

    def subscriptions(self) -> list[str]:
        """Return the channels that this client is subscribed to, oldest first.

        At its end, those that it had: until the last `on_disconnect` has returned.

        Threads: any.
        """
        return self._link.subscriptions()
