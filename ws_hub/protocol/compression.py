"""permessage-deflate (RFC 7692): what is agreed on, and messages there and back.

Must not know sockets, JSON, or who is connected. Neither side keeps its window from one
message to the next ("no context takeover"). So what was compressed once serves every
client, as a plain frame does, and a connection costs no memory between two messages.

What a peer sends is never inflated beyond the bound of a message, and a ping between two
frames of a message changes nothing: the stock parts fail in both (FAULTS 1.9, 1.21).
"""

from __future__ import annotations

import struct
import zlib

from wsproto.extensions import Extension
from wsproto.frame_protocol import CloseReason, FrameDecoder, FrameProtocol, Opcode, RsvBits

from ..errors import CloseCode, ProtocolError, excerpt

__all__ = [
    "AGREED",
    "OFFER",
    "Inflater",
    "Inflation",
    "agree",
    "begin",
    "check_answer",
    "finish",
    "most_compressed",
]

NAME = "permessage-deflate"
AGREED = OFFER = f"{NAME}; server_no_context_takeover; client_no_context_takeover"

_BITS = 15  # of the window, in both directions: RFC 7692's default
_WINDOWS = frozenset(map(str, range(8, _BITS + 1)))
_FLAGS = ("server_no_context_takeover", "client_no_context_takeover")
_TAIL = b"\x00\x00\xff\xff"  # which a message is sent without (RFC 7692 section 7.2.1)


# --- what is agreed on ---------------------------------------------------------------------


def agree(offers: str) -> str:
    """Answer a client's Sec-WebSocket-Extensions header; "" when nothing in it will do.

    The answer is always the same, or none: a client that asks for a smaller window of
    ours than the usual one is declined (RFC 7692 section 7.1.2.1), and one with parameters
    that the RFC does not know as well.
    """
    for offer in offers.split(","):
        parameters = _parameters(offer)
        if parameters is not None and all(_may_be_asked(*each) for each in parameters.items()):
            return AGREED
    return ""


def check_answer(answer: str) -> None:
    """Raise ProtocolError for an answer to our own offer that we cannot live with."""
    parameters = _parameters(answer)
    if (
        parameters is None
        or "server_no_context_takeover" not in parameters  # which was offered, and must be kept
        or not all(_may_be_answered(*each) for each in parameters.items())
    ):
        reason = f"an extension that nobody offered: {excerpt(answer)}"
        raise ProtocolError(CloseCode.PROTOCOL_ERROR, reason)


def _may_be_asked(key: str, value: str | None) -> bool:
    if key == "client_max_window_bits":  # a hint, with or without a value
        return value is None or value in _WINDOWS
    if key == "server_max_window_bits":
        return value == str(_BITS)
    return key in _FLAGS and value is None


def _may_be_answered(key: str, value: str | None) -> bool:
    if key == "server_max_window_bits":
        return value in _WINDOWS
    return key in _FLAGS and value is None


def _parameters(text: str) -> dict[str, str | None] | None:
    """Read one permessage-deflate; None for anything else, and for what is said twice."""
    name, *parameters = (part.strip() for part in text.split(";"))
    if name.lower() != NAME:
        return None
    found: dict[str, str | None] = {}
    for parameter in parameters:
        key, equals, value = (part.strip() for part in parameter.partition("="))
        key = key.lower()
        if key in found:
            return None
        if len(value) > 1 and value[0] == value[-1] == '"':
            value = value[1:-1]
        found[key] = value if equals else None
    return found


# --- out -----------------------------------------------------------------------------------


def begin(data: bytes) -> bytes:
    """Compress the beginning of a message, or all of it."""
    compressor = zlib.compressobj(zlib.Z_DEFAULT_COMPRESSION, zlib.DEFLATED, -_BITS)
    return compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH)


def finish(begun: bytes, rest: bytes = b"") -> bytes:
    """Return a message's payload: what was begun, and up to 65,535 bytes as they are.

    Cheap, and never lets go of the GIL, as zlib does: the rest becomes a stored block
    (RFC 1951 section 3.2.4).
    """
    if not rest:
        return begun.removesuffix(_TAIL)
    size = len(rest)
    # The beginning ends on a whole byte. The last byte begins the empty block that ends all.
    return b"%b\x00%b%b\x00" % (begun, struct.pack("<HH", size, size ^ 0xFFFF), rest)


# --- in ------------------------------------------------------------------------------------


def most_compressed(size: int) -> int:
    """Return how many bytes a message that inflates to at most `size` may take on the wire.

    There are blocks that inflate to nothing, and a message could be full of them. An honest
    one hardly grows.
    """
    return 2 * size + 64


class Inflater:
    """One compressed message on its way in, bounded.

    Args:
        max_bytes: bytes that it may inflate to.
    """

    __slots__ = ("_left", "_left_compressed", "_stream")

    def __init__(self, max_bytes: int) -> None:
        self._stream = zlib.decompressobj(-_BITS)
        self._left = max_bytes
        self._left_compressed = most_compressed(max_bytes)

    def feed(self, data: bytes) -> bytes:
        """Inflate some more; raises ProtocolError for what is broken, or too much."""
        self._left_compressed -= len(data)
        if self._left_compressed < 0:
            raise ProtocolError(CloseCode.TOO_BIG, "compressed message too long")
        inflated = self._inflate(data)
        if len(self._stream.unused_data) > 1:  # zlib would keep all that comes; see `finish`
            raise ProtocolError(CloseCode.INVALID_DATA, "data behind the end of compressed data")
        return inflated

    def finish(self) -> bytes:
        """Return what the end of the message brings; raises ProtocolError."""
        inflated = self._inflate(_TAIL)
        # After a block that says it is the last (section 7.2.3.4) comes one more byte, which
        # the tail makes an empty block. Some forget it.
        if self._stream.eof and self._stream.unused_data not in (b"\x00" + _TAIL, _TAIL):
            raise ProtocolError(CloseCode.INVALID_DATA, "data behind the end of compressed data")
        return inflated

    def _inflate(self, data: bytes) -> bytes:
        try:
            # One more than there may be: so much can be pending although all was consumed,
            # and 0 would be no bound.
            inflated = self._stream.decompress(data, self._left + 1)
        except zlib.error as error:
            raise ProtocolError(CloseCode.INVALID_DATA, "bad compressed data") from error
        self._left -= len(inflated)
        if self._left < 0:
            raise ProtocolError(CloseCode.TOO_BIG, "compressed message inflates to too much")
        return inflated


class Inflation(Extension):
    """The extension as wsproto's parser wants it: what comes in, on one connection.

    Args:
        max_message_size: bytes in one message.

    Attributes:
        fault: what was wrong, when the parser has given up because of it.
    """

    name = NAME

    def __init__(self, max_message_size: int) -> None:
        self._max_message_size = max_message_size
        self._inflater: Inflater | None = None  # while a compressed message comes in
        self._control = False  # whether the frame that comes in is a control frame
        self.fault: ProtocolError | None = None

    def enabled(self) -> bool:
        """Say that it was agreed on."""
        return True

    def offer(self) -> bool | str:
        """Offer nothing: the handshake is made elsewhere."""
        return False

    def frame_inbound_header(
        self,
        proto: FrameDecoder | FrameProtocol,
        opcode: Opcode,
        rsv: RsvBits,
        payload_length: int,
    ) -> CloseReason | RsvBits:
        """Take note of a frame: RSV1 on the first of a message says that it is compressed."""
        self._control = opcode.iscontrol()
        if not self._control and opcode is not Opcode.CONTINUATION:
            self._inflater = Inflater(self._max_message_size) if rsv.rsv1 else None
        elif rsv.rsv1:
            reason = "RSV1 on a frame that begins no message"
            return self._broken(ProtocolError(CloseCode.PROTOCOL_ERROR, reason))
        return RsvBits(True, False, False)

    def frame_inbound_payload_data(
        self, proto: FrameDecoder | FrameProtocol, data: bytes
    ) -> bytes | CloseReason:
        """Inflate a piece of a frame, if it belongs to a compressed message."""
        if self._control or self._inflater is None:
            return data
        try:
            return self._inflater.feed(data)
        except ProtocolError as fault:
            return self._broken(fault)

    def frame_inbound_complete(
        self, proto: FrameDecoder | FrameProtocol, fin: bool
    ) -> bytes | CloseReason | None:
        """Inflate the end of a message with its last frame."""
        if self._control or self._inflater is None or not fin:
            return None
        inflater, self._inflater = self._inflater, None
        try:
            return inflater.finish()
        except ProtocolError as fault:
            return self._broken(fault)

    def _broken(self, fault: ProtocolError) -> CloseReason:
        self.fault = fault
        return CloseReason(fault.code)
