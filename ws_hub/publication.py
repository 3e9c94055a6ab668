"""One published message on its way out, and several of them joined into one write.

Must not know sockets, outboxes, or who receives. A publication is encoded once, in
the thread that publishes; the hub numbers and frames it when it dispatches it, and
joins what goes to the same clients, so that a burst is one write a client.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .config import Overflow
from .frames import text_frame
from .message import Message, decode, number

__all__ = ["Batch", "Publication", "publish"]


@dataclass(slots=True, eq=False)
class Publication:
    """One message, encoded. Once queued, only the hub thread changes it.

    Args:
        text: its JSON text.
        frame: the text as one WebSocket frame; b"" until it is numbered.
        channel: where it goes; "" for every client.
        overflow: what a client's full outbox means for it.
        over: whether it is the last of its channel for the time being.
        seq: its position in a channel that keeps history, else 0.
    """

    text: bytes
    frame: bytes
    channel: str
    overflow: Overflow
    over: bool = False
    seq: int = 0

    @property
    def message(self) -> Message:
        """The message as its receivers see it: read anew, so that nobody shares its data."""
        return decode(self.text.decode())

    def number(self, seq: int) -> None:
        """Give it its place in its channel, on the wire as well."""
        self.seq = seq
        self.text = number(self.text, seq)
        self.frame = text_frame(self.text)


def publish(
    text: bytes,
    channel: str,
    overflow: Overflow,
    *,
    to_be_numbered: bool = False,
) -> Publication:
    """Return an encoded message for `channel`, or for every client when that is ""."""
    return Publication(text, b"" if to_be_numbered else text_frame(text), channel, overflow)


class Batch:
    """Publications that the same clients get, and their frames as one string of bytes."""

    __slots__ = ("frames", "messages", "publications")

    def __init__(self, publications: Sequence[Publication]) -> None:
        self.publications = publications
        self.messages = len(publications)
        self.frames = b"".join([publication.frame for publication in publications])
