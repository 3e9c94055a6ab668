"""One published message on its way out, and several of them joined into one write.

Must not know sockets, outboxes, or who receives. A publication is encoded once, in
the thread that publishes; the hub numbers and frames it when it dispatches it, and
joins what goes to the same clients, so that a burst is one write a client.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ..config import Overflow
from ..errors import MessageEncodeError, excerpt
from . import compression
from .frames import deflated_frame, text_frame
from .message import MAX_MESSAGE_BYTES, Message, decode, number

__all__ = ["Batch", "Payer", "Publication", "compress", "publish"]


class Payer(Protocol):
    """Who pays for what is done."""

    def charge_processing(self, seconds: float) -> None:
        """Charge processor time; never waits."""


@dataclass(slots=True, eq=False)
class Publication:
    """One message, encoded. Once queued, only the hub thread changes it.

    Args:
        text: its JSON text.
        frame: the text as one WebSocket frame; b"" until it is numbered.
        packed: the frame for clients that take compressed ones; `frame` itself where
            that would not be smaller.
        channel: where it goes; "" for every client.
        overflow: what a client's full outbox means for it.
        over: whether it is the last of its channel for the time being.
        seq: its position in a channel that keeps history, else 0.
        begun: the text compressed, but for its end, until it is numbered.
        payer: whose publication it is, and who pays for its delivery: a client; None for
            the application.
    """

    text: bytes
    frame: bytes
    packed: bytes
    channel: str
    overflow: Overflow
    over: bool = False
    seq: int = 0
    begun: bytes = b""
    payer: Payer | None = None

    @property
    def message(self) -> Message:
        """The message as its receivers see it: read anew, so that nobody shares its data."""
        return decode(self.text.decode())

    def number(self, seq: int) -> None:
        """Give it its place in its channel, on the wire as well."""
        self.seq = seq
        before = len(self.text) - 1  # bytes of what `begun` stands for
        self.text = number(self.text, seq)
        self.frame = self.packed = text_frame(self.text)
        if self.begun:
            end = self.text[before:]
            self.packed = _smaller(compression.finish(self.begun, end), self.frame)
            self.begun = b""


def publish(
    text: bytes,
    channel: str,
    overflow: Overflow,
    *,
    to_be_numbered: bool = False,
    compressed: bool = False,
) -> Publication:
    """Return an encoded message for `channel`, or for every client when that is "".

    `compressed` is for the thread that publishes: the hub's would let go of the GIL.
    Raises MessageEncodeError for what no client takes: each would drop its connection,
    come back, and where it is kept get it again.
    """
    if len(text) > MAX_MESSAGE_BYTES:
        raise MessageEncodeError(
            f"a message of {len(text)} bytes is refused, clients take {MAX_MESSAGE_BYTES}: "
            f"{excerpt(text[:200].decode(errors='replace'))}"
        )
    if to_be_numbered:
        begun = (
            compression.begin(text[:-1]) if compressed else b""
        )  # its number comes before the "}"
        return Publication(text, b"", b"", channel, overflow, begun=begun)
    frame = text_frame(text)
    return Publication(
        text, frame, compress(text, frame) if compressed else frame, channel, overflow
    )


def compress(text: bytes, frame: bytes) -> bytes:
    """Return a compressed frame of an encoded message; its plain one where that is smaller."""
    return _smaller(compression.finish(compression.begin(text)), frame)


def _smaller(payload: bytes, frame: bytes) -> bytes:
    packed = deflated_frame(payload)
    return packed if len(packed) < len(frame) else frame


class Batch:
    """Publications that the same clients get, each as a frame, and those joined.

    Args:
        publications: what they get.
        packed: whether they take compressed frames.
    """

    __slots__ = ("each", "frames", "messages", "publications")

    def __init__(self, publications: Sequence[Publication], packed: bool = False) -> None:
        self.publications = publications
        self.messages = len(publications)
        self.each = (
            [publication.packed for publication in publications]
            if packed
            else [publication.frame for publication in publications]
        )
        self.frames = b"".join(self.each)
