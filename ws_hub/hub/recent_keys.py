"""The idempotency keys of the newest publishes of clients: a publish that is repeated counts once.

A client that lost its connection before the ack repeats its publish with the same key, on a
connection of its own. So a key belongs to a user, or to all clients without one: nothing else
is the same on both connections. How many are kept is counted by payer, so that a client that
publishes much makes the hub forget its own keys first.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from ..reentrant import Event, Lock

__all__ = ["Claim", "RecentKeys"]

_MAX_AGE = 300.0  # seconds
_MAX_OF_PAYER = 1024
_MAX_KEYS = 65_536
_MAX_BYTES = 32 * 1024 * 1024
_OVERHEAD = 512  # bytes of memory that a key takes beside its texts, about

Key = tuple[str, str, str]  # the user or "", the channel, the key

_SETTLED = Event()
_SETTLED.set()


class Claim:
    """The right of one thread to carry out the publish of a key.

    Attributes:
        settled: set when it is known whether the publish was carried out.
        carried_out: whether it was.
    """

    __slots__ = ("at", "carried_out", "key", "payer", "settled")

    def __init__(self, payer: str, key: Key, at: float) -> None:
        self.payer = payer
        self.key = key
        self.at = at
        self.settled = Event()
        self.carried_out = False

    @property
    def size(self) -> int:
        """The bytes of memory that it counts for."""
        return sum(map(len, self.key)) + len(self.payer) + _OVERHEAD


class RecentKeys:
    """The keys of the newest publishes, bounded in number, bytes and age.

    Args:
        clock: returns monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # guards: everything below. Nothing is taken under it.
        self._lock = Lock()
        # Ordered: to find the first of a dict from which many were deleted takes ever longer.
        self._claims: OrderedDict[Key, Claim] = OrderedDict()  # oldest first
        self._of_payer: dict[str, OrderedDict[Key, None]] = {}  # oldest first
        self._bytes = 0

    def __len__(self) -> int:
        with self._lock:
            return len(self._claims)

    def begin(self, payer: str, key: Key, timeout: float) -> Claim | None:
        """Return the claim to carry out a publish; None when that has been done.

        While another thread is at it, waits for the outcome. Raises TimeoutError when that is
        not known within `timeout` seconds.

        Threads: any; blocks at most `timeout`.
        """
        deadline = self._clock() + timeout
        while True:
            with self._lock:
                found = self._claims.get(key)
                if found is not None and self._clock() - found.at > _MAX_AGE:
                    self._remove_locked(found)
                    found = None
                if found is None:
                    return self._add_locked(payer, key)
            if not found.settled.wait(max(deadline - self._clock(), 0.0)):  # set by `end`
                raise TimeoutError
            if found.carried_out:
                return None

    def end(self, claim: Claim, carried_out: bool) -> None:
        """Say whether the publish was carried out; if not, the next one with its key is.

        Threads: any; does not wait.
        """
        with self._lock:
            claim.carried_out = carried_out
            if not carried_out and self._claims.get(claim.key) is claim:
                self._remove_locked(claim)
        settled, claim.settled = claim.settled, _SETTLED  # which takes no memory of its own
        settled.set()

    def _add_locked(self, payer: str, key: Key) -> Claim:
        assert self._lock.locked()
        claim = Claim(payer, key, self._clock())
        own = self._of_payer.setdefault(payer, OrderedDict())
        if len(own) >= _MAX_OF_PAYER:
            self._remove_locked(self._claims[next(iter(own))])
            own = self._of_payer.setdefault(payer, OrderedDict())
        own[key] = None
        self._claims[key] = claim
        self._bytes += claim.size
        while (
            len(self._claims) > _MAX_KEYS
            or self._bytes > _MAX_BYTES
            or claim.at - next(iter(self._claims.values())).at > _MAX_AGE
        ):
            self._remove_locked(next(iter(self._claims.values())))
        return claim

    def _remove_locked(self, claim: Claim) -> None:
        assert self._lock.locked()
        del self._claims[claim.key]
        self._bytes -= claim.size
        own = self._of_payer[claim.payer]
        del own[claim.key]
        if not own:
            del self._of_payer[claim.payer]
