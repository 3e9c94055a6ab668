"""What a client has received, channel by channel, in the order in which it came."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Any

from tests.chaos.plan import CHANNELS, END_VALUE

__all__ = ["Record", "Track"]


class Track:
    """What came of one channel.

    Attributes:
        seqs, values: the messages' numbers, and what they say.
        unnumbered: what messages say that have no number, since the store could not keep them.
        gaps: the gaps that the client was told: before which message, of how many.
    """

    def __init__(
        self,
        seqs: Iterable[int] = (),
        values: Iterable[int] = (),
        gaps: Iterable[tuple[int, int | None]] = (),
        unnumbered: Iterable[int] = (),
    ) -> None:
        self.seqs = array("q", seqs)  # a long run has millions
        self.values = array("q", values)
        self.gaps = list(gaps)
        self.unnumbered = array("q", unnumbered)

    def message(self, seq: int, value: int) -> None:
        self.seqs.append(seq)
        self.values.append(value)

    def gap(self, count: int | None) -> None:
        self.gaps.append((len(self.seqs), count))


class Record:
    """What one client has received.

    Attributes:
        kind: the kind of client.
        name: its user's name.
        tracks: what came of each channel.
        complaints: what went against the protocol.
        lagged: how often it was told that it was behind.
        present: the users that it was told are in the channel with presence.
        begun: whether something has come of each channel.
        ended: whether each channel has brought its end.
    """

    def __init__(self, kind: str, name: str) -> None:
        self.kind = kind
        self.name = name
        self.tracks = {channel: Track() for channel in CHANNELS}
        self.complaints: list[str] = []
        self.lagged = 0
        self.present: list[Any] = []
        self.begun = self.ended = False
        self._open = set(CHANNELS)

    def message(self, channel: str, seq: int | None, value: int) -> None:
        if seq is None:
            self.tracks[channel].unnumbered.append(value)
            return
        self.tracks[channel].message(seq, value)
        self.begun = self.begun or all(track.seqs for track in self.tracks.values())
        if value == END_VALUE:
            self._open.discard(channel)
            self.ended = not self._open
