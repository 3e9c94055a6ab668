"""One published message on its way out, and several of them joined into one write.

Must not know sockets, outboxes, or who receives. A publication is encoded once, in
the thread that publishes; the hub numbers and frames it when it dispatches it, and
joins what goes to the same clients, so that a burst is one write a client.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from .config import Overflow
from .frames import text_frame
from .message import Message, encode, number

__all__ = ["Batch", "Publication", "publish"]


@dataclass(frozen=True, slots=True)
class Publication:
    """One message, encoded.

    Args:
        message: what was published.
        text: its JSON text, without `seq`.
        frame: the text as one WebSocket frame, with `seq` where it is numbered; b""
            before that.
        channel: where it goes; "" for every client.
        overflow: what a client's full outbox means for it.
        seq: its position in a channel that keeps history, else 0.
    """

    message: Message
    text: bytes
    frame: bytes
    channel: str
    overflow: Overflow
    seq: int = 0

    @property
    def delivered(self) -> Message:
        """The message as its receivers see it."""
        return dataclasses.replace(self.message, seq=self.seq) if self.seq else self.message

    def numbered(self, seq: int) -> Publication:
        """Return this publication with its `seq` in place and on the wire."""
        frame = text_frame(number(self.text, seq))
        return Publication(self.message, self.text, frame, self.channel, self.overflow, seq)


def publish(
    message: Message, channel: str, overflow: Overflow, *, to_be_numbered: bool = False
) -> Publication:
    """Encode a message for `channel`, or for every client when that is "".

    Raises MessageEncodeError.
    """
    text = encode(message)
    frame = b"" if to_be_numbered else text_frame(text)
    return Publication(message, text, frame, channel, overflow)


class Batch:
    """Publications that the same clients get, and their frames as one string of bytes."""

    __slots__ = ("frames", "messages", "publications")

    def __init__(self, publications: Sequence[Publication]) -> None:
        self.publications = publications
        self.messages = len(publications)
        self.frames = b"".join([publication.frame for publication in publications])
