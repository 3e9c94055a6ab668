"""Measures what a peer's kernel acknowledges: whether a peer reads, slowly or not at all.

Time is an argument. Rules of this file:

- Progress is bytes that the peer's kernel has acknowledged. A writable socket says less:
  `poll` reports it when a third of the send buffer is free, which may be a megabyte, or
  minutes of a slow reader.
- A receiver opens its window in steps (64 KiB on loopback, a sixteenth of a large buffer).
  So each 4,000 acknowledged bytes allow one more second of silence. Unused seconds are
  kept as credit, up to six timeouts.
- Bytes count as a sign of life unless they may be pings alone: if a peer's kernel
  acknowledges nothing else, its program does not answer them. It may delay that by 40 ms
  and more, so a ping that is outstanding says nothing either.
"""

from __future__ import annotations

import ctypes
import math
import os
import socket
import sys
from collections.abc import Callable

__all__ = ["Progress", "measure"]

_BYTES_A_SECOND = 4_000  # the rate below which a peer counts as stalled
_MAX_CREDIT = 6  # timeouts
_PINGS = 192  # bytes: two pings, in records of TLS 1.2 with a long MAC

# The size of the oldest `struct tcp_info` with the fields that are read below (Linux 4.6).
_INFO_BYTES = 148
_HAS_INFO = sys.platform == "linux" and hasattr(socket, "TCP_INFO")
_TCP_FAMILIES = (socket.AF_INET, socket.AF_INET6)
_SIOCOUTQ = 0x5411


def _load() -> Callable[..., int] | None:
    """Return libc's `ioctl`, called with the GIL held, which `fcntl.ioctl` releases."""
    if sys.platform != "linux":
        return None
    try:
        function = ctypes.PyDLL(None, use_errno=True).ioctl
    except (OSError, AttributeError):  # no libc to be loaded
        return None
    function.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)
    function.restype = ctypes.c_int
    return function


_ioctl = _load()


def measure(sock: socket.socket, taken: int) -> tuple[int, int]:
    """Return how many bytes are acknowledged, and how many more are outstanding.

    Of the first only the difference between two results is meaningful. Where the system does
    not tell, the bytes that the kernel has `taken` count as acknowledged. Raises OSError.
    """
    acknowledged = least = None
    if _HAS_INFO and sock.family in _TCP_FAMILIES:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
        if len(info) == _INFO_BYTES:
            # tcpi_unacked (segments), tcpi_bytes_acked, tcpi_notsent_bytes
            least = _number(info[24:28]) + _number(info[144:148])
            acknowledged = _number(info[120:128])
            if not least:
                return acknowledged, 0
    if _ioctl is not None:
        # For a Unix socket it counts the memory in use, which is a little more.
        queued = ctypes.c_int()
        if _ioctl(sock.fileno(), _SIOCOUTQ, ctypes.byref(queued)) < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
        return taken - queued.value if acknowledged is None else acknowledged, queued.value
    return taken if acknowledged is None else acknowledged, least or 0


def _number(field: bytes) -> int:
    return int.from_bytes(field, sys.byteorder)


class Progress:
    """How a peer progresses with the bytes that it is sent.

    Args:
        timeout: seconds for which it may acknowledge nothing while something waits.
        now: monotonic seconds, as in all methods.

    Attributes:
        total: bytes seen to be acknowledged.
    """

    __slots__ = (
        "_acknowledged",
        "_moved",
        "_waited",
        "_credit",
        "_since",
        "_timeout",
        "total",
    )

    def __init__(self, timeout: float, now: float) -> None:
        self._timeout = timeout
        self._acknowledged = 0
        self._waited = False  # whether more than pings was outstanding at the last update
        self._credit = 0.0  # seconds
        self._since = now  # when something was last acknowledged, or began to wait
        self._moved = -math.inf  # when bytes other than pings were last acknowledged
        self.total = 0

    def update(self, now: float, acknowledged: int, outstanding: int) -> None:
        """Update it by the result of `measure`; `outstanding` also counts the outbox's bytes."""
        gained = acknowledged - self._acknowledged
        self._acknowledged = acknowledged
        waited, self._waited = self._waited, outstanding > _PINGS
        if gained <= 0:
            return
        self.total += gained
        left = max(self._credit - (now - self._since), 0.0)
        self._credit = min(left + gained / _BYTES_A_SECOND, _MAX_CREDIT * self._timeout)
        self._since = now
        if waited or self._waited or gained > _PINGS:
            self._moved = now

    def begin(self, now: float) -> None:
        """Restart the timeout: a backlog begins now."""
        self._since = now

    def silence(self, now: float) -> float:
        """Return for how many seconds nothing was acknowledged."""
        return now - self._since

    def time_left(self, now: float) -> float:
        """Return the seconds left until the peer counts as stalled; 0 or less when it does."""
        return self._since + self._timeout + self._credit - now

    def is_alive(self, now: float, timeout: float) -> bool:
        """Return whether recent acknowledgements show that the peer lives.

        Recent is within `timeout` seconds plus the credit: for that long it may read what its
        kernel has buffered before it reaches our ping.
        """
        return now < self._moved + timeout + self._credit
