"""A published message as encoded bytes, and batches of publications joined into one write.

A publication is encoded once, in the thread that publishes. The hub thread numbers and
frames it when it dispatches it, and joins the publications for the same clients, so that a
burst is one write a client.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from ..config import Overflow
from ..errors import MessageEncodeError, excerpt
from . import compression
from .frames import deflated_frame, text_frame
from .message import (
    MAX_MESSAGE_BYTES,
    STATUS_PREFIX,
    Message,
    MessageType,
    begins_run,
    decode,
    encode,
    number,
)

__all__ = [
    "NO_LINE",
    "UNSTAMPED",
    "USAGE_LINE",
    "Batch",
    "Delivery",
    "Key",
    "Output",
    "Payer",
    "Publication",
    "Stamp",
    "channel_of",
    "compress",
    "has_status",
    "publish",
    "publish_all",
    "restored",
    "skip",
    "state_of",
    "without_data",
]


NO_LINE = -1
USAGE_LINE = -2  # in place of a line: what the program of the channel uses, a state as well
_TAIL = 64  # bytes at the end of a message, which hold its line and its number
_LINE = re.compile(rb',"line":(\d{1,18})(?:,"seq":\d+)?\}\Z')
_WAITING = ("latest", "drop_oldest")


class Payer(Protocol):
    """The account that is charged for a publication's delivery."""

    def charge_processing(self, seconds: float) -> None:
        """Charge seconds of processor time; never waits."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """What a publish did in this process, when its hub thread had dispatched it.

    It counts the subscribers of this process alone: with a backplane those of others get the
    message as well, and are not waited for. `Hub.count` asks how many there are in all.

    Subscribers that are neither `queued` nor `dropped` are excluded, have a filter that it does
    not pass, or get it by the replay that they are in; or they are behind in a channel that may
    leave messages out, and get it later, or a newer one.

    Args:
        seq: its number (of several pieces that of the last) in a channel that keeps history;
            None in others, and of a message that the history store could not keep.
        subscribers: the clients and listeners of the channel; of a broadcast all clients.
        queued: those whose socket or outbox has taken all of it. That their peers have
            received it is not known.
        dropped: those whose outbox was full; they missed some of it, or were disconnected.
    """

    seq: int | None
    subscribers: int
    queued: int
    dropped: int


@dataclass(frozen=True, slots=True)
class Key:
    """What a message of a keyed channel is the newest state of.

    Args:
        text: the key.
        deletes: whether the message deletes it.
    """

    text: str
    deletes: bool = False


class Output(NamedTuple):
    """What the messages of a program's output are, in their order.

    Args:
        lines: the number of the line of each; None where they have none.
        states: the places of those that are states: what comes later replaces them.
    """

    lines: Sequence[int] | None
    states: Sequence[int]


class Stamp(NamedTuple):
    """When, and by which process, a key was changed. The greatest one of a key is its newest.

    Args:
        time: microseconds since 1970; above that of all changes that its process knew of.
        origin: names the process.
    """

    time: int
    origin: str


UNSTAMPED = Stamp(0, "")


@dataclass(slots=True, eq=False)
class Publication:
    """One encoded message. Once queued, only the hub thread changes it.

    Args:
        text: its JSON text.
        frame: the text as one WebSocket frame; b"" until it is numbered.
        compressed: the frame for clients with compression; `frame` itself where compression
            would not make it smaller.
        channel: the channel that it is published to; "" for every client.
        overflow: what happens when a client is behind; see `ChannelRule`.
        ends_channel: whether it is the last of its channel for the time being.
        seq: its position in a channel that keeps history, else 0.
        unfinished: the compressed text without its end, until it is numbered.
        payer: the client that published it and pays for its delivery; None for the
            application.
        exclude: the ids of the clients that it is not delivered to live.
        epoch: the numbering of `seq`, where a store has numbered it.
        key: its key in a keyed channel, else "".
        deletes: whether it deletes that key.
        once: what a client's repetition of it has in common with it, else "".
        stamp: of the change of the key, where another process has made it; else set as it is
            kept.
        repeats: whether it was found to be such a repetition: it is neither kept nor delivered.
        former: the frame of what it replaces in a keyed channel; b"" for nothing.
        state: whether it is a state of a line of a program's output, or of what the program
            uses, which is delivered and takes no place in the history.
        line: of a state the number of its line; NO_LINE for none, USAGE_LINE for a status that
            says what the program uses. See `of_line`.
        begins_run: whether it says that a program has been started.
    """

    text: bytes
    frame: bytes
    compressed: bytes
    channel: str
    overflow: Overflow
    ends_channel: bool = False
    seq: int = 0
    unfinished: bytes = b""
    payer: Payer | None = None
    exclude: frozenset[int] = frozenset()
    epoch: str = ""
    key: str = ""
    deletes: bool = False
    stamp: Stamp = UNSTAMPED
    once: str = ""
    repeats: bool = False
    former: bytes = b""
    line: int = NO_LINE
    state: bool = False
    begins_run: bool = False

    @property
    def waits(self) -> bool:
        """Whether it waits outside the outbox for a client that is behind."""
        return self.key != "" or self.overflow in _WAITING

    @property
    def of_line(self) -> int:
        """The number of the line of a program's output that it is of; NO_LINE for none."""
        if self.state:
            return self.line
        found = _LINE.search(self.text, max(len(self.text) - _TAIL, 0))
        return int(found[1]) if found else NO_LINE

    @property
    def ends_lines(self) -> bool:
        """Whether no line of its channel may change behind it."""
        return not self.state and (self.ends_channel or self.text.startswith(STATUS_PREFIX))

    @property
    def message(self) -> Message:
        """The message as receivers decode it: decoded anew each time, so that no data is shared."""
        return decode(self.text.decode())

    def number(self, seq: int) -> None:
        """Set its position in its channel, also in its text and its frames."""
        self.seq = seq
        text = self.text
        self.text = numbered = number(text, seq)
        self.frame = self.compressed = text_frame(numbered)
        if self.unfinished:  # the compressed form of `text` without its "}"
            end = numbered[len(text) - 1 :]
            self.compressed = _smaller(compression.finish(self.unfinished, end), self.frame)
            self.unfinished = b""

    def leave_unnumbered(self) -> None:
        """Have it delivered without a number, as its store could not keep it."""
        self.frame = self.compressed = text_frame(self.text)
        self.unfinished = b""


channel_of: Callable[[Publication], str] = operator.attrgetter("channel")  # for groupby


def has_status(publications: Sequence[Publication]) -> bool:
    """Return whether one of several messages is the status of a program."""
    return any([each.text.startswith(STATUS_PREFIX) for each in publications])


def restored(text: bytes, seq: int, epoch: str, channel: str, overflow: Overflow) -> Publication:
    """Return the publication of a message that another process has published and numbered."""
    frame = text_frame(text)
    return Publication(
        text, frame, frame, channel, overflow, seq=seq, epoch=epoch, begins_run=begins_run(text)
    )


def state_of(text: bytes, line: int, channel: str, overflow: Overflow) -> Publication:
    """Return the publication of a state of a line that another process has published."""
    frame = text_frame(text)
    return Publication(text, frame, frame, channel, overflow, line=line, state=True)


def skip(publication: Publication, seconds: float) -> Publication:
    """Return what an excluded client gets in place of a numbered message: the number alone.

    Without it the client would take the missing number for a loss.
    """
    message = Message(MessageType.SKIP, channel=publication.channel, seq=publication.seq)
    return _in_place(publication, message, seconds)


def without_data(publication: Publication, seconds: float) -> Publication:
    """Return what deletes a key, for those that had its value and do not get the new one."""
    channel, key, seq = publication.channel, publication.key, publication.seq
    message = Message(MessageType.EVENT, channel=channel, key=key, seq=seq)
    return _in_place(publication, message, seconds)


def _in_place(publication: Publication, message: Message, seconds: float) -> Publication:
    frame = text_frame(text := encode(message, seconds))
    channel, overflow, key = publication.channel, publication.overflow, publication.key
    return Publication(text, frame, frame, channel, overflow, seq=publication.seq, key=key)


def publish(
    text: bytes,
    channel: str,
    overflow: Overflow,
    *,
    to_be_numbered: bool = False,
    compressed: bool = False,
) -> Publication:
    """Return the publication of one encoded message, see `publish_all`."""
    compresses = (lambda text: True) if compressed else None
    (publication,) = publish_all(
        [text], channel, overflow, to_be_numbered=to_be_numbered, compresses=compresses
    )
    return publication


def publish_all(
    texts: Sequence[bytes],
    channel: str,
    overflow: Overflow,
    *,
    to_be_numbered: bool = False,
    compresses: Callable[[bytes], bool] | None = None,
) -> list[Publication]:
    """Return the publications of encoded messages for `channel`; "" is every client.

    A call for each line of a program would cost as much as all else here. What `compresses`
    names is compressed on this, the publishing thread, because zlib would make the hub thread
    release the GIL. Raises MessageEncodeError for a message over the size limit of clients: each
    receiver would drop its connection, reconnect, and get it again from history.
    """
    for text in texts:
        if len(text) > MAX_MESSAGE_BYTES:
            raise MessageEncodeError(
                f"message of {len(text)} bytes refused, over the limit of {MAX_MESSAGE_BYTES}: "
                f"{excerpt(text[:200].decode(errors='replace'))}"
            )
    if to_be_numbered:
        found = [Publication(text, b"", b"", channel, overflow) for text in texts]
        found[0].begins_run = begins_run(texts[0])  # a status comes alone
    else:
        found = [
            Publication(text, frame, frame, channel, overflow)
            for text, frame in zip(texts, map(text_frame, texts), strict=True)
        ]
    if compresses is not None:
        for each in found:
            if not compresses(each.text):
                continue
            if to_be_numbered:  # `seq` is inserted before the "}"
                each.unfinished = compression.begin(each.text[:-1])
            else:
                each.compressed = compress(each.text, each.frame)
    return found


def compress(text: bytes, frame: bytes) -> bytes:
    """Return an encoded message as a compressed frame; its plain frame where that is smaller."""
    return _smaller(compression.finish(compression.begin(text)), frame)


def _smaller(payload: bytes, frame: bytes) -> bytes:
    packed = deflated_frame(payload)
    return packed if len(packed) < len(frame) else frame


class Batch:
    """Publications for the same clients: the frame of each, and all frames joined.

    Args:
        publications: the publications, in order.
        compressed: whether these clients take compressed frames.
    """

    __slots__ = ("_parts", "compressed", "each", "frames", "messages", "publications")

    def __init__(self, publications: Sequence[Publication], compressed: bool = False) -> None:
        self._parts: tuple[Batch | None, list[Publication]] | None = None
        self.compressed = compressed
        self.publications = publications
        self.messages = len(publications)
        self.each = (
            [publication.compressed for publication in publications]
            if compressed
            else [publication.frame for publication in publications]
        )
        self.frames = b"".join(self.each)

    def parts(self) -> tuple[Batch | None, list[Publication]]:
        """Return what a client with a backlog queues, None for nothing, and what waits outside.

        Made once, when the first such client asks.
        """
        if self._parts is None:
            waiting = [each for each in self.publications if each.overflow in _WAITING]
            others = [each for each in self.publications if each.overflow not in _WAITING]
            part = Batch(others, self.compressed) if waiting and others else None
            self._parts = part, waiting
        return self._parts
