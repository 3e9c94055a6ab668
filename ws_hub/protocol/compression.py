"""permessage-deflate (RFC 7692): negotiation, and compression of single messages.

Neither side keeps its window from one message to the next ("no context takeover"). So a
message is compressed once for all clients, and a connection costs no memory between two
messages.

A peer's message is never inflated beyond the size limit of a message, and a ping between
two frames of a message changes nothing: the stock parts fail in both (FAULTS 1.9, 1.21).
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

_WINDOW_BITS = 15  # size of the window, in both directions: RFC 7692's default
_WINDOWS = frozenset(map(str, range(8, _WINDOW_BITS + 1)))
_FLAGS = ("server_no_context_takeover", "client_no_context_takeover")
_TAIL = b"\x00\x00\xff\xff"  # every message is sent without it (RFC 7692 section 7.2.1)


# --- negotiation ---------------------------------------------------------------------------


def agree(offers: str) -> str:
    """Answer a client's Sec-WebSocket-Extensions header; "" accepts none of its offers.

    Every accepted offer gets the same answer. An offer with a smaller window for the server
    than the default is declined (RFC 7692 section 7.1.2.1), and so is one with parameters
    that the RFC does not define.
    """
    for offer in offers.split(","):
        parameters = _parameters(offer)
        if parameters is not None and all(_is_valid_in_offer(*each) for each in parameters.items()):
            return AGREED
    return ""


def check_answer(answer: str) -> None:
    """Raise ProtocolError unless a server's answer accepts the offer `OFFER`."""
    parameters = _parameters(answer)
    if (
        parameters is None
        # part of the offer, so the answer must repeat it
        or "server_no_context_takeover" not in parameters
        or not all(_is_valid_in_answer(*each) for each in parameters.items())
    ):
        reason = f"the server agreed on an extension that was not offered: {excerpt(answer)}"
        raise ProtocolError(CloseCode.PROTOCOL_ERROR, reason)


def _is_valid_in_offer(key: str, value: str | None) -> bool:
    if key == "client_max_window_bits":  # a hint, with or without a value
        return value is None or value in _WINDOWS
    if key == "server_max_window_bits":
        return value == str(_WINDOW_BITS)
    return key in _FLAGS and value is None


def _is_valid_in_answer(key: str, value: str | None) -> bool:
    if key == "server_max_window_bits":
        return value in _WINDOWS
    return key in _FLAGS and value is None


def _parameters(text: str) -> dict[str, str | None] | None:
    """Parse one permessage-deflate offer; None for another extension or a repeated parameter."""
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


# --- outgoing messages ---------------------------------------------------------------------


def begin(data: bytes) -> bytes:
    """Compress the beginning of a message, or all of it."""
    compressor = zlib.compressobj(zlib.Z_DEFAULT_COMPRESSION, zlib.DEFLATED, -_WINDOW_BITS)
    return compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH)


def finish(begun: bytes, rest: bytes = b"") -> bytes:
    """Return a message's payload: the compressed beginning, then up to 65,535 bytes stored.

    The rest becomes a stored block (RFC 1951 section 3.2.4). That is cheap and, unlike zlib,
    never releases the GIL.
    """
    if not rest:
        return begun.removesuffix(_TAIL)
    size = len(rest)
    # `begun` ends on a whole byte. The final zero byte begins the empty block that ends the
    # message (RFC 7692 section 7.2.1).
    return b"%b\x00%b%b\x00" % (begun, struct.pack("<HH", size, size ^ 0xFFFF), rest)


# --- incoming messages ---------------------------------------------------------------------


def most_compressed(size: int) -> int:
    """Return the size limit on the wire of a message that may inflate to `size` bytes.

    Some blocks inflate to nothing, and a hostile message could consist of them. The
    compressed form of an ordinary message is hardly larger than its text.
    """
    return 2 * size + 64


class Inflater:
    """Inflates one incoming compressed message, within a size limit.

    Args:
        max_bytes: bytes that the message may inflate to.
    """

    __slots__ = ("_left", "_left_compressed", "_stream")

    def __init__(self, max_bytes: int) -> None:
        self._stream = zlib.decompressobj(-_WINDOW_BITS)
        self._left = max_bytes
        self._left_compressed = most_compressed(max_bytes)

    def feed(self, data: bytes) -> bytes:
        """Inflate the next piece; raises ProtocolError for invalid data or data over the limit."""
        self._left_compressed -= len(data)
        if self._left_compressed < 0:
            raise ProtocolError(CloseCode.TOO_BIG, "compressed message too long")
        inflated = self._inflate(data)
        # zlib keeps data after the end without bound; see `finish`
        if len(self._stream.unused_data) > 1:
            raise ProtocolError(CloseCode.INVALID_DATA, "data behind the end of compressed data")
        return inflated

    def finish(self) -> bytes:
        """Return the data that the end of the message completes; raises ProtocolError."""
        inflated = self._inflate(_TAIL)
        # A block with the BFINAL bit (section 7.2.3.4) is followed by one more byte, which the
        # tail turns into an empty block. Some implementations omit that byte.
        if self._stream.eof and self._stream.unused_data not in (b"\x00" + _TAIL, _TAIL):
            raise ProtocolError(CloseCode.INVALID_DATA, "data behind the end of compressed data")
        return inflated

    def _inflate(self, data: bytes) -> bytes:
        try:
            # One byte more than allowed: zlib may hold output back although it has consumed all
            # input, and a limit of 0 means no limit.
            inflated = self._stream.decompress(data, self._left + 1)
        except zlib.error as error:
            raise ProtocolError(CloseCode.INVALID_DATA, "bad compressed data") from error
        self._left -= len(inflated)
        if self._left < 0:
            raise ProtocolError(CloseCode.TOO_BIG, "compressed message inflates to too much")
        return inflated


class Inflation(Extension):
    """The receiving half of the extension on one connection, for wsproto's parser.

    Args:
        max_message_size: bytes in one message.

    Attributes:
        fault: the error that made the parser give up, or None.
    """

    name = NAME

    def __init__(self, max_message_size: int) -> None:
        self._max_message_size = max_message_size
        self._inflater: Inflater | None = None  # set while a compressed message arrives
        self._control = False  # whether the current frame is a control frame
        self.fault: ProtocolError | None = None

    def enabled(self) -> bool:
        """Return True: the extension was negotiated."""
        return True

    def offer(self) -> bool | str:
        """Offer nothing: the handshake is handled elsewhere."""
        return False

    def frame_inbound_header(
        self,
        proto: FrameDecoder | FrameProtocol,
        opcode: Opcode,
        rsv: RsvBits,
        payload_length: int,
    ) -> CloseReason | RsvBits:
        """Begin a frame: RSV1 on the first frame of a message marks a compressed message."""
        self._control = opcode.iscontrol()
        if not self._control and opcode is not Opcode.CONTINUATION:
            self._inflater = Inflater(self._max_message_size) if rsv.rsv1 else None
        elif rsv.rsv1:
            reason = "RSV1 on a frame that begins no message"
            return self._fail(ProtocolError(CloseCode.PROTOCOL_ERROR, reason))
        return RsvBits(True, False, False)

    def frame_inbound_payload_data(
        self, proto: FrameDecoder | FrameProtocol, data: bytes
    ) -> bytes | CloseReason:
        """Inflate a piece of a frame that belongs to a compressed message."""
        if self._control or self._inflater is None:
            return data
        try:
            return self._inflater.feed(data)
        except ProtocolError as fault:
            return self._fail(fault)

    def frame_inbound_complete(
        self, proto: FrameDecoder | FrameProtocol, fin: bool
    ) -> bytes | CloseReason | None:
        """Inflate the end of a message at its last frame."""
        if self._control or self._inflater is None or not fin:
            return None
        inflater, self._inflater = self._inflater, None
        try:
            return inflater.finish()
        except ProtocolError as fault:
            return self._fail(fault)

    def _fail(self, fault: ProtocolError) -> CloseReason:
        self.fault = fault
        return CloseReason(fault.code)
