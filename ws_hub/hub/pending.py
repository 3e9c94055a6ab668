"""Pending connections: accepted ones that have yet to authenticate, in a first message.

No publication reaches a pending connection, and of what it sends only the first message
counts,

    {"type": "auth", "data": TOKEN}

which is verified on its reader thread. Another message, a token that is refused, and the
end of the time (kept by the hub thread) close it with 4401.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from ..connection.connection import Connection
from ..errors import CloseCode, MessageDecodeError
from ..protocol.message import MessageType, decode
from ..protocol.requests import ack
from ..reentrant import Lock

__all__ = ["PendingClients"]


class PendingClients:
    """The connections that wait.

    Args:
        has_room: says, from how many wait, whether one more may.
        admit: takes a client into the hub; closes it, and returns False, when it may not.
        mark: returns the mark of a client whose token is verified from now on.
        any_case: whether keys of its message may be of any case.
    """

    def __init__(
        self,
        has_room: Callable[[int], bool],
        admit: Callable[[Connection], bool],
        mark: Callable[[], int],
        any_case: bool = False,
    ) -> None:
        self._has_room = has_room
        self._admit = admit
        self._mark = mark
        self._any_case = any_case
        # guards: everything below. Taken before the registry's lock.
        self._lock = Lock()
        self._open = True
        self._waiting: dict[Connection, bool] = {}  # whether it has said anything yet

    # --- reader threads --------------------------------------------------------------------

    def enter(self, connection: Connection) -> bool:
        """Let a client wait; False when there is no room for it."""
        with self._lock:
            if not self._open or not self._has_room(len(self._waiting)):
                return False
            self._waiting[connection] = False
            return True

    def leave(self, connection: Connection) -> None:
        """Forget a connection. Idempotent."""
        with self._lock:
            self._waiting.pop(connection, None)

    def hear(self, connection: Connection, data: str | bytes) -> None:
        """Take what a client says: the first message, and nothing after it."""
        with self._lock:
            if self._waiting.get(connection, True):
                return
            self._waiting[connection] = True
        token, id = _introduction(data, self._any_case)
        if token is None or connection.verify is None:
            connection.close(CloseCode.UNAUTHENTICATED, "say who you are first")
            return
        connection.mark = self._mark()  # a user that was revoked before may have a new token by now
        connection.will_call()  # an authenticator may have to ask somebody
        result = connection.verify(token)
        if not result.valid:
            code = CloseCode.FORBIDDEN if result.forbidden else CloseCode.UNAUTHENTICATED
            connection.close(code, "forbidden" if result.forbidden else "unauthorised")
            return
        connection.set_identity(result)
        if not self._admit(connection):
            return
        connection.verify = None
        self.leave(connection)
        if id is not None:
            connection.reply(ack(id, {"user": connection.user_id}))
        connection.call_on_connect()

    # --- hub thread ------------------------------------------------------------------------

    def shut(self) -> list[Connection]:
        """Accept no connection any more; return the pending ones."""
        with self._lock:
            self._open = False
            return list(self._waiting)

    @property
    def connections(self) -> Collection[Connection]:
        """The pending connections, not copied."""
        return self._waiting.keys()


def _introduction(data: str | bytes, any_case: bool) -> tuple[str | None, str | int | None]:
    """Return the token and the id of a first message; None for what is none."""
    try:
        message = decode(data, any_case=any_case) if isinstance(data, str) else None
    except MessageDecodeError:
        message = None
    if message is None or message.type != MessageType.AUTH or not isinstance(message.data, str):
        return None, None
    return message.data, message.id
