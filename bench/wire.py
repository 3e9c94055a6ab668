"""The client's half of a WebSocket, as far as a load needs it: bytes in, bytes out.

It does no I/O. Every measured message carries MARK exactly once, and nothing else on the
wire does: a client counts messages by counting one byte, which cannot be cut in two by the
end of a read and costs a memchr, not a parser. A frame's length may look like the mark:
`text` refuses such sizes, and a count above what was published fails the row.
"""

from __future__ import annotations

import base64
import json
import random
import struct
from collections.abc import Callable, Iterator

__all__ = [
    "ENVELOPE",
    "MARK",
    "PING",
    "PONG",
    "Frames",
    "echo_text",
    "frames",
    "masked",
    "padding",
    "report",
    "text",
    "upgrade",
]

MARK = b"|"
ENVELOPE = 68  # bytes of a hub's message that are not its data: type, timestamp, quotes
PING = b"\x89\x00"  # what servers send as a heartbeat when it carries nothing
PONG = b"\x8a\x80\x00\x00\x00\x00"
_OFFER = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
_WORDS = "running exited failed queued build deploy alpha beta gamma delta eu-west us-east".split()
_TEXT = 0x81
_MASK = b"\x00\x00\x00\x00"  # a client must mask; with zeros the payload is its own mask


def padding(size: int) -> str:
    """Return `size` characters with the mark in front."""
    return MARK.decode() + "x" * (size - 1)


def report(number: int, size: int) -> str:
    """Return `size` characters that compress as a table of jobs does, each number another."""
    chance = random.Random(number)
    rows: list[str] = []
    while sum(map(len, rows)) < size:
        name, state, place = (chance.choice(_WORDS) for _ in range(3))
        rows.append(f"id: {chance.randrange(10**6)}, name: {name}, {state} in {place}; ")
    return "".join(rows)[:size]


def text(size: int, fill: Callable[[int], str] = padding) -> str:
    """Return a JSON message of `size` bytes, by default one that carries the mark once."""
    empty = json.dumps({"type": "event", "data": ""})
    if MARK in size.to_bytes(8, "big"):
        raise ValueError(f"the length {size} carries the mark")
    if size <= len(empty):
        raise ValueError(f"a message has more than {len(empty)} bytes, not {size}")
    return json.dumps({"type": "event", "data": fill(size - len(empty))})


def echo_text(kind: str, size: int) -> str:
    """Return a message of a type that a server answers."""
    return json.dumps({"type": kind, "data": padding(size)})


def upgrade(host: str, port: int, path: str, key: bytes, *, offer: bool = False) -> bytes:
    """Return the opening request; `key` is 16 bytes; `offer` is of compression."""
    return (
        f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Key: {base64.b64encode(key).decode()}\r\n{_OFFER if offer else ''}\r\n"
    ).encode()


def masked(payload: bytes) -> bytes:
    """Return a client's text frame."""
    size = len(payload)
    if size < 126:
        return struct.pack("!BB", _TEXT, 0x80 | size) + _MASK + payload
    if size < 1 << 16:
        return struct.pack("!BBH", _TEXT, 0x80 | 126, size) + _MASK + payload
    return struct.pack("!BBQ", _TEXT, 0x80 | 127, size) + _MASK + payload


def frames(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield first byte and payload of each whole server frame in `data`."""
    at = 0
    while at + 2 <= len(data):
        start, end = _span(data, at)
        if end > len(data):
            return
        yield data[at], data[start:end]
        at = end


def _span(data: bytes, at: int) -> tuple[int, int]:
    """Return where the payload of the frame at `at` begins and ends.

    Both are beyond the data where that ends within the head.
    """
    size, start = data[at + 1] & 0x7F, at + 2
    if size >= 126:
        width = 2 if size == 126 else 8
        size = int.from_bytes(data[start : start + width], "big")
        start += width
    return start, start + size


class Frames:
    """Counts the whole frames of a stream, wherever its reads cut it, and its bytes.

    For compressed messages, in which no byte can be looked for.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self._rest = b""  # the beginning of a head
        self._skip = 0  # bytes of a frame that are still to come

    def feed(self, data: bytes) -> int:
        """Take the next bytes; return how many frames end in them."""
        self.bytes += len(data)
        at, ended = min(self._skip, len(data)), 0
        if self._skip:
            self._skip -= at
            ended += not self._skip
        data, at = self._rest + data[at:], 0
        while len(data) - at >= 2:
            start, end = _span(data, at)
            if start > len(data):
                break
            at = end
            if at > len(data):
                self._skip = at - len(data)
                at = len(data)
                break
            ended += 1
        self._rest = data[at:]
        return ended
