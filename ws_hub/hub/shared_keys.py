"""The keyed channels of several processes: tells the others of changes, and of all keys on request.

Each process keeps all keys. A change has a stamp, of the time and of the process that made it, and
the newest stamp of a key wins everywhere (`KeyedStore.keep`); so all have the same in the end, in
whatever order they are told. For the same reason all keys may be told at any time, to everybody:
a process asks for that when it begins, and when it has lost a notice. They go out in pieces, so
that they find room among what else is told.

The hub thread owns everything here, but for the two flags that the backplane's thread sets.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

from ..backplane.bus import Notice, NoticeKind
from ..protocol.publication import Publication, Stamp
from .keyed import KeyedStore

__all__ = ["SharedKeys"]

_ASK_EVERY = 5.0  # seconds between two requests for all keys
_PIECE_BYTES = 256 * 1024
_PAUSE = 0.05  # seconds between two pieces


class SharedKeys:
    """Exchanges the keyed channels of this process with those of the others.

    Args:
        store: the keyed channels.
        tell: tells the other processes; never waits.
        awake: wakes the hub thread.
    """

    def __init__(
        self,
        store: KeyedStore,
        tell: Callable[[Notice], object],
        awake: Callable[[], object],
    ) -> None:
        self._store = store
        self._tell = tell
        self._awake = awake
        store.announce = self._announce
        # Set by the backplane's thread, cleared by the hub thread before it acts on them.
        self._is_asked = False
        self._asks = True
        # Of the hub thread.
        self._waiting: deque[tuple[str, str]] = deque()  # channels and keys to be told
        self._next_ask = -math.inf
        self._next_piece = -math.inf

    # --- the backplane's thread ----------------------------------------------------------------

    def asked(self) -> None:
        """Have all keys told soon."""
        self._is_asked = True
        self._awake()

    def missed(self) -> None:
        """Ask the others for all keys: a change may have been lost."""
        self._asks = True
        self._awake()

    # --- hub thread ------------------------------------------------------------------------------

    def next_turn(self) -> float:
        """Return when to call `turn` again, in monotonic seconds."""
        ask = self._next_ask if self._asks else math.inf
        return min(ask, self._next_piece if self._is_asked or self._waiting else math.inf)

    def turn(self, now: float) -> None:
        """Ask, and tell a piece of what was asked for."""
        if self._asks and now >= self._next_ask:
            self._asks, self._next_ask = False, now + _ASK_EVERY
            self._tell(Notice(NoticeKind.KEYS))
        if now >= self._next_piece:
            if self._is_asked and not self._waiting:
                self._is_asked = False
                self._waiting.extend(self._store.all_keys())
            self._tell_piece()
            self._next_piece = now + _PAUSE

    def _tell_piece(self) -> None:
        size = 0
        while self._waiting and size < _PIECE_BYTES:
            channel, key = self._waiting.popleft()
            found = self._store.newest(channel, key)
            if found is not None:  # forgotten since
                text, deletes, stamp = found
                size += len(text)
                self._tell(_notice(channel, text, key, deletes, stamp))

    def _announce(self, publication: Publication, text: bytes) -> None:
        """Tell of a change that was made here; `text` has no number."""
        channel, key, deletes = publication.channel, publication.key, publication.deletes
        self._tell(_notice(channel, text, key, deletes, publication.stamp))


def _notice(channel: str, text: bytes, key: str, deletes: bool, stamp: Stamp) -> Notice:
    time, origin = stamp
    return Notice(
        NoticeKind.PUBLISH, channel, (text,), key=key, deletes=deletes, time=time, origin=origin
    )
