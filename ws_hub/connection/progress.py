"""What the peer's kernel has acknowledged: whether a connection gets on, slowly or not at all.

Must not know frames, outboxes, locks or clocks: time is an argument. Rules of this file:

- Progress is bytes that the kernel of the peer has acknowledged. That the socket is
  writable says less: `poll` reports it when a third of the send buffer is free, which may
  be a megabyte, minutes of a slow reader.
- A receiver opens its window in steps (64 KiB on loopback, a sixteenth of a large buffer).
  So each 4,000 bytes that are acknowledged buy a second of silence, and what is bought and
  not used is saved, up to six timeouts.
- Bytes count as a sign of life unless they may be our pings: a peer whose kernel acknowledges
  nothing else has a program that does not answer them.
"""

from __future__ import annotations

import ctypes
import math
import os
import socket
import sys
from collections.abc import Callable

__all__ = ["Progress", "measure"]

_BYTES_A_SECOND = 4_000  # of a peer that is slow, and not yet stalled
_SAVED = 6  # timeouts
_PINGS = 192  # bytes: as much as two of ours are, in records of TLS 1.2 with a long MAC

# Of the kernel's `struct tcp_info`: the least that has what is read below (Linux 4.6).
_INFO_BYTES = 148
_HAS_INFO = sys.platform == "linux" and hasattr(socket, "TCP_INFO")
_TCP_FAMILIES = (socket.AF_INET, socket.AF_INET6)
_SIOCOUTQ = 0x5411


def _load() -> Callable[..., int] | None:
    """Return libc's `ioctl`, called with the GIL held, which `fcntl.ioctl` lets go of."""
    if sys.platform != "linux":
        return None
    try:
        function = ctypes.PyDLL(None, use_errno=True).ioctl
    except (OSError, AttributeError):  # no libc by that way
        return None
    function.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)
    function.restype = ctypes.c_int
    return function


_ioctl = _load()


def measure(sock: socket.socket, taken: int) -> tuple[int, bool]:
    """Return how many bytes are acknowledged, and whether others are on their way.

    Only the difference of two numbers means something. Where the system does not tell,
    acknowledged is what the kernel has `taken` from us. Raises OSError.
    """
    if _HAS_INFO and sock.family in _TCP_FAMILIES:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
        if len(info) == _INFO_BYTES:
            # tcpi_unacked, tcpi_bytes_acked, tcpi_notsent_bytes
            outstanding = any(info[24:28]) or any(info[144:148])
            return int.from_bytes(info[120:128], sys.byteorder), outstanding
    if _ioctl is not None:
        # Of a Unix socket it counts the memory that is in use, a little more.
        queued = ctypes.c_int()
        if _ioctl(sock.fileno(), _SIOCOUTQ, ctypes.byref(queued)) < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
        return taken - queued.value, queued.value > 0
    return taken, False


class Progress:
    """How one peer gets on with what it is sent.

    Args:
        timeout: seconds that it may acknowledge nothing while something waits.
        now: monotonic seconds, as everywhere here.

    Attributes:
        total: bytes seen to be acknowledged.
    """

    __slots__ = ("_acknowledged", "_moved", "_outstanding", "_saved", "_since", "_timeout", "total")

    def __init__(self, timeout: float, now: float) -> None:
        self._timeout = timeout
        self._acknowledged = 0
        self._outstanding = False
        self._saved = 0.0  # seconds
        self._since = now  # when something was last acknowledged, or began to wait
        self._moved = -math.inf  # when something was last acknowledged that was no ping alone
        self.total = 0

    def look(self, now: float, acknowledged: int, outstanding: bool) -> None:
        """Take note of what `measure` says; `outstanding` counts what waits behind it too."""
        gained = acknowledged - self._acknowledged
        self._acknowledged = acknowledged
        waited, self._outstanding = self._outstanding, outstanding
        if gained <= 0:
            return
        self.total += gained
        left = max(self._saved - (now - self._since), 0.0)
        self._saved = min(left + gained / _BYTES_A_SECOND, _SAVED * self._timeout)
        self._since = now
        if waited or outstanding or gained > _PINGS:
            self._moved = now

    def begin(self, now: float) -> None:
        """Take note that from now on something waits."""
        self._since = now

    def silence(self, now: float) -> float:
        """Return for how many seconds nothing was acknowledged."""
        return now - self._since

    def patience(self, now: float) -> float:
        """Return for how many seconds more nothing need be acknowledged; 0 or less: stalled."""
        return self._since + self._timeout + self._saved - now

    def is_alive(self, now: float, timeout: float) -> bool:
        """Say whether what was acknowledged lately shows that the peer lives.

        Lately is within `timeout` seconds, and longer by what is saved: so long it may read
        what its kernel has, before it comes to our ping.
        """
        return now < self._moved + timeout + self._saved
