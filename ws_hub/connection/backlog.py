"""Why a client is behind: what waits for it, and what it did not get."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["Drops", "Explanation"]

_MAX_CHANNELS = 1024


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a client is behind, at one moment.

    Args:
        messages: the number of messages in its outbox.
        bytes: their bytes.
        oldest: seconds that the oldest of them has waited; 0.0 for none.
        dropped: the number of messages that it did not get, by channel; broadcasts under "".
            What was discarded when it was disconnected is in `Client.dropped` alone.
        reason: why it was disconnected, else why a message was last dropped; "" for neither.
    """

    messages: int
    bytes: int
    oldest: float
    dropped: Mapping[str, int]
    reason: str


class Drops:
    """The messages that one client did not get. Changed by the hub thread alone.

    Attributes:
        reason: why the last of them was dropped.
    """

    __slots__ = ("_by_channel", "reason")

    def __init__(self) -> None:
        self._by_channel: dict[str, int] = {}
        self.reason = ""

    def add(self, channel: str, messages: int, reason: str) -> None:
        """Count messages of a channel; beyond 1,024 channels it counts no further ones."""
        self.reason = reason
        if channel in self._by_channel or len(self._by_channel) < _MAX_CHANNELS:
            self._by_channel[channel] = self._by_channel.get(channel, 0) + messages

    def by_channel(self) -> Mapping[str, int]:
        """Return a copy of the counts. Any thread."""
        return MappingProxyType(self._by_channel.copy())
