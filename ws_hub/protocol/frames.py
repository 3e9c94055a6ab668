"""Encodes WebSocket frames (RFC 6455 section 5.2), each once for all its receivers.

Frames from a server are not masked, so the same bytes serve every client, and several
frames joined are one write.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from ..errors import excerpt

__all__ = [
    "MAX_CONTROL_BYTES",
    "binary_frame",
    "close_frame",
    "deflated_frame",
    "payload_of",
    "ping_frame",
    "pong_frame",
    "split",
    "text_frame",
]

MAX_CONTROL_BYTES = 125  # RFC 6455 section 5.5

_FIN = 0x80
_RSV1 = 0x40
_TEXT, _BINARY, _CLOSE, _PING, _PONG = 0x1, 0x2, 0x8, 0x9, 0xA


_medium, _long = struct.Struct("!BBH").pack, struct.Struct("!BBQ").pack


def _frame(opcode: int, payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        return bytes((_FIN | opcode, size)) + payload
    if size < 1 << 16:
        return _medium(_FIN | opcode, 126, size) + payload
    return _long(_FIN | opcode, 127, size) + payload


def text_frame(payload: bytes) -> bytes:
    """Return one whole text message; `payload` must be UTF-8."""
    size = len(payload)
    if 126 <= size < 1 << 16:  # nearly always: a call less for each message
        return _medium(_FIN | _TEXT, 126, size) + payload
    return _frame(_TEXT, payload)


def payload_of(frame: bytes) -> bytes:
    """Return the payload of a frame that one of these functions has made."""
    return frame[{126: 4, 127: 10}.get(frame[1], 2) :]


def split(frames: bytes) -> Iterator[bytes]:
    """Yield each of the frames that were joined, of those that these functions have made."""
    start = 0
    while start < len(frames):
        size, header = frames[start + 1], 2
        if size == 126:
            (size,), header = struct.unpack_from("!H", frames, start + 2), 4
        elif size == 127:
            (size,), header = struct.unpack_from("!Q", frames, start + 2), 10
        end = start + header + size
        yield frames[start:end]
        start = end


def deflated_frame(payload: bytes) -> bytes:
    """Return one whole compressed text message (RFC 7692 section 6)."""
    return _frame(_RSV1 | _TEXT, payload)


def binary_frame(payload: bytes) -> bytes:
    """Return one whole binary message."""
    return _frame(_BINARY, payload)


def ping_frame(payload: bytes = b"") -> bytes:
    """Return a ping; raises ValueError over 125 bytes."""
    return _control(_PING, payload)


def pong_frame(payload: bytes = b"") -> bytes:
    """Return a pong; raises ValueError over 125 bytes."""
    return _control(_PONG, payload)


def close_frame(code: int, reason: str = "") -> bytes:
    """Return a Close frame; a long reason is cut between characters to fit.

    Code 1005 stands for an empty Close frame (RFC 6455 section 7.4.1). Raises ValueError for
    a code that must not be on the wire.
    """
    given: tuple[object, object] = code, reason
    if not isinstance(given[0], int) or not isinstance(given[1], str):
        raise TypeError(
            f"close() takes a code, a whole number, and a reason, a str, not {excerpt(given)}"
        )
    if code == 1005:
        return _control(_CLOSE, b"")
    if not (1000 <= code <= 1014 or 3000 <= code <= 4999) or code in (1004, 1006):
        raise ValueError(
            f"close code {code} must not be sent: use 1000 for a normal end, or one of your own "
            "from 4000 to 4999 (RFC 6455 section 7.4)"
        )
    text = reason.encode("utf-8", "replace")[: MAX_CONTROL_BYTES - 2]
    text = text.decode("utf-8", "ignore").encode()
    return _control(_CLOSE, struct.pack("!H", code) + text)


def _control(opcode: int, payload: bytes) -> bytes:
    if len(payload) > MAX_CONTROL_BYTES:
        raise ValueError(f"a control frame carries at most 125 bytes, not {len(payload)}")
    return _frame(opcode, payload)
