"""The clients of several workers: they know their addresses, and when each had its message.

A worker knows its clients by the same addresses, so that the two can be put together.
"""

from __future__ import annotations

from collections.abc import Sequence

from .control import Answer, obey, say
from .load import Load, prepare

__all__ = ["Readers"]


class Readers(Load):
    """A load of `bench.load` that can be asked for some of its clients."""

    def addresses(self) -> Answer:
        """Return where each client comes from, in the order in which they connected."""
        found = (sock.getsockname() for sock in self._socks.values())
        return {"addresses": [f"{host}:{port}" for host, port in found]}

    def read(self, *, messages: int, timeout: float, chosen: Sequence[int] | None = None) -> Answer:
        """Say "ready", then read until the chosen clients, or all, have so many messages.

        Returns when the last one had them (monotonic ns), how many came in and how many
        too many, and when each of those chosen was there: None for one that was not.
        """
        say({"ready": True})
        fds = list(self._socks)
        if chosen is not None:
            fds = [fds[index] for index in chosen]
        wanted = dict.fromkeys(self._socks, 0) | dict.fromkeys(fds, messages)
        done = self._receive(wanted, timeout)
        return {
            "done": done,
            "messages": sum(messages - self._left[fd] for fd in fds),
            "extra": -sum(min(left, 0) for left in self._left.values()),
            "at": [self._at.get(fd) for fd in fds],
        }


def main() -> None:
    """Serve one run."""
    prepare()
    load = Readers()
    obey({name: getattr(load, name) for name in ("addresses", "connect", "read")})


if __name__ == "__main__":
    main()
