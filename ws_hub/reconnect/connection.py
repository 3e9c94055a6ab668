"""One open WebSocket, the client's side: messages in, whole frames out, pings answered.

websocket-client builds and parses the frames. What it lacks (FAULTS 1d) is added here: a
frame that is too large is recognised by its declared length before its payload is read,
no send and no close can hang, and after a failed send the connection ends, because half a
frame may have been sent.

A message over the limit is read and discarded piece by piece, and the connection stays
open: ended, it would meet the same message again after each reconnect.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from websocket import ABNF, WebSocketException, frame_buffer

from ..errors import CloseCode, ConnectionClosed, ProtocolError
from ..protocol.compression import Inflater, begin, finish
from ..reentrant import Event
from .config import ReconnectConfig
from .stream import READ, WRITE, Stream

__all__ = ["Connection", "Skipped"]

_MAX_FRAGMENTS = 32_768  # a Go hub cuts one joined message into frames of a kilobyte
_MAX_SKIPPED = 256 * 1024 * 1024  # bytes of one message that are read and discarded
_PIECE = 64 * 1024
_MAX_UNSENT_PONG = 64 * 1024  # unsent bytes beyond which no pong is queued: none is read
_MAX_UNSENT = 1024 * 1024  # unsent bytes at which `offer` ends the connection
_MIN_COMPRESSED = 256  # bytes of a message; shorter ones hardly become smaller
_FIRST = (ABNF.OPCODE_TEXT, ABNF.OPCODE_BINARY)
_CONTROL = (ABNF.OPCODE_CLOSE, ABNF.OPCODE_PING, ABNF.OPCODE_PONG)


@dataclass(frozen=True, slots=True)
class Skipped:
    """A message that was discarded because it is larger than the limit.

    Args:
        why: its size, and the setting that is the limit.
    """

    why: str


class _Frames(frame_buffer):
    """websocket-client's frame reader; it keeps no frame that is too large.

    Args:
        read: returns bytes of the stream.
        room: returns how many bytes the next data frame may have.
        compression: whether permessage-deflate was agreed on.

    Attributes:
        compressed: whether a compressed message begins with the last frame.
        skipped: how many bytes of the last frame were discarded: all or none.
    """

    def __init__(
        self, read: Callable[[int], bytes], room: Callable[[], int], compression: bool
    ) -> None:
        super().__init__(read, skip_utf8_validation=False)
        self._room = room
        self._compression = compression
        self.compressed = False
        self.skipped = 0

    def recv_header(self) -> None:
        super().recv_header()
        assert self.header is not None
        fin, rsv1, rsv2, rsv3, opcode, masked, length = self.header
        self.compressed = bool(rsv1) and self._compression and opcode in _FIRST
        if self.compressed:  # any RSV bit that is left is refused by the base class
            self.header = (fin, 0, rsv2, rsv3, opcode, masked, length)
        if masked:
            raise ProtocolError(CloseCode.PROTOCOL_ERROR, "masked frame from a server")
        if opcode in _CONTROL and (not fin or length > 125):
            raise ProtocolError(CloseCode.PROTOCOL_ERROR, "control frame too long or in pieces")

    def recv_length(self) -> None:
        super().recv_length()
        assert self.header is not None and self.length is not None
        self.skipped = 0
        if self.header[4] in _CONTROL or self.length <= self._room():
            return
        if self.length > _MAX_SKIPPED:
            reason = f"a frame of {self.length} bytes, far over max_message_size"
            raise ProtocolError(CloseCode.TOO_BIG, reason)
        # The base class has read up to the length; a server's frame has no mask after it.
        self.skipped, left, self.length = self.length, self.length, 0
        while left:
            left -= len(self.recv(min(left, _PIECE)))


class Connection:
    """One open connection; its receiving thread drives it.

    Args:
        stream: the socket, after the handshake; the connection owns it from now on.
        received: bytes that arrived together with the handshake's response.
        config: the limits and timeouts.
        compression: whether permessage-deflate was agreed on.
        clock: returns monotonic seconds.
    """

    def __init__(
        self,
        stream: Stream,
        received: bytes,
        config: ReconnectConfig,
        *,
        compression: bool = False,
        clock: Callable[[], float],
    ) -> None:
        self._stream = stream
        self._max_message_size = config.max_message_size
        self._ping_interval = config.ping_interval
        self._ping_timeout = config.ping_timeout
        self._write_timeout = config.write_timeout
        self._compression = compression
        self._clock = clock
        self.over = Event()  # set when the receiving thread has finished
        self._closing = False  # set once, by `start_close`; read by the receiving thread
        # The rest belongs to the receiving thread.
        self._frames = _Frames(self._read, self._room, compression)
        self._inflater: Inflater | None = None  # while a compressed message is received
        self._received = received
        self._at = 0
        self._heard = clock()
        self._pinged: float | None = None
        self._due: tuple[float, Callable[[], None]] | None = None
        self._parts: list[bytes] = []
        self._size = 0
        self._fragments = 0
        self._skipping = False  # the message that is being received is too large
        self._opcode: int | None = None

    # --- any thread ------------------------------------------------------------------------

    def queue(self, text: bytes) -> int:
        """Queue one text message without waiting; return its mark for `flush`."""
        if self._compression and len(text) >= _MIN_COMPRESSED:
            payload = finish(begin(text))
            return self._stream.append(_frame(payload, ABNF.OPCODE_TEXT, compressed=True))
        return self._stream.append(_frame(text, ABNF.OPCODE_TEXT))

    def offer(self, text: bytes) -> None:
        """Send one text message without waiting; the receiving thread sends what is left.

        Ends the connection to a server that causes answers and does not read them.
        """
        self.queue(text)
        self._push()
        if self._stream.unsent > _MAX_UNSENT:
            self._stream.shutdown("the server does not read")

    def flush(self, mark: int) -> None:
        """Wait until all is sent up to `mark`, for write_timeout seconds at most.

        Raises OSError; then the connection ends, because half a frame may have been sent.
        """
        deadline = self._clock() + self._write_timeout
        try:
            while events := self._stream.push(mark):
                if not self._stream.wait(events, deadline):
                    raise TimeoutError(f"not sent within {self._write_timeout:g} s")
        except ConnectionError:
            # The server has ended it. Not shut down here: its last messages and its Close
            # frame may still be unread.
            raise
        except OSError as error:
            self._stream.shutdown(f"a send failed: {_why(error)}")
            raise

    def start_close(self, code: int = CloseCode.NORMAL) -> None:
        """Begin the closing handshake without waiting; the receiving thread completes it."""
        self._closing = True
        self._send_close(struct.pack("!H", code))

    def shutdown(self) -> None:
        """End the connection at once and wake every thread that waits for it."""
        self._stream.shutdown("ended on this side")

    def discard(self) -> None:
        """Close the descriptor in a forked child."""
        self._stream.discard()

    def _send_close(self, payload: bytes) -> None:
        self._stream.append(_frame(payload, ABNF.OPCODE_CLOSE))
        self._push()

    def _push(self) -> int:
        """Send without waiting; the receiving thread finds and reports a failure."""
        try:
            return self._stream.push()
        except OSError:
            return 0

    # --- receiving thread ------------------------------------------------------------------

    def receive(self) -> str | bytes | Skipped:
        """Wait for the next message; answer and send pings meanwhile.

        Raises ConnectionClosed at the end, with the server's close code and reason: 1005
        for an empty Close frame, 1006 without one (RFC 6455 section 7.1.5).
        """
        try:
            while True:
                frame = self._frames.recv_frame()
                assert isinstance(frame.data, bytes)
                message = self._handle(frame.opcode, bool(frame.fin), frame.data)
                if message is not None:
                    return message
        except ConnectionClosed as end:
            raise self._own(end) from None
        except ProtocolError as fault:
            raise self._refuse(fault.code, fault.reason) from fault
        except WebSocketException as fault:
            raise self._refuse(CloseCode.PROTOCOL_ERROR, str(fault)) from fault
        except OSError as error:
            raise self._own(ConnectionClosed(CloseCode.ABNORMAL, _why(error))) from error

    def call_later(self, seconds: float, function: Callable[[], None]) -> None:
        """Have the receiving thread call a function later, unless one is due already."""
        if self._due is None:
            self._due = self._clock() + seconds, function

    def finish(self) -> None:
        """Close the socket; the last act of the receiving thread."""
        self._stream.close()
        self.over.set()

    def _own(self, end: ConnectionClosed) -> ConnectionClosed:
        return ConnectionClosed(CloseCode.NORMAL) if self._closing else end

    def _refuse(self, code: int, reason: str) -> ConnectionClosed:
        self._send_close(struct.pack("!H", code))
        return ConnectionClosed(code, reason)

    def _handle(self, opcode: int, fin: bool, data: bytes) -> str | bytes | Skipped | None:
        if opcode == ABNF.OPCODE_PING:
            if self._stream.unsent < _MAX_UNSENT_PONG:
                self._stream.append(_frame(data, ABNF.OPCODE_PONG))
                self._push()
        elif opcode == ABNF.OPCODE_CLOSE:
            if not self._closing:
                self._send_close(data)  # with the code received (RFC 6455 section 5.5.1)
            if not data:
                raise ConnectionClosed(CloseCode.NO_STATUS)
            raise ConnectionClosed(struct.unpack("!H", data[:2])[0], data[2:].decode())
        elif opcode != ABNF.OPCODE_PONG:
            return self._assemble(opcode, fin, data)
        return None

    def _room(self) -> int:
        return -1 if self._skipping else self._max_message_size - self._size

    def _assemble(self, opcode: int, fin: bool, data: bytes) -> str | bytes | Skipped | None:
        if (opcode == ABNF.OPCODE_CONT) == (self._opcode is None):
            raise ProtocolError(CloseCode.PROTOCOL_ERROR, "fragment out of order")
        if self._opcode is None:
            self._opcode, self._size, self._fragments, self._skipping = opcode, 0, 0, False
            self._inflater = Inflater(self._max_message_size) if self._frames.compressed else None
        self._fragments += 1
        if self._skipping or self._frames.skipped:
            self._skip(self._frames.skipped)
        else:
            self._add(data, fin)
        if not fin:
            if self._fragments >= _MAX_FRAGMENTS:
                raise ProtocolError(CloseCode.TOO_BIG, f"message over {_MAX_FRAGMENTS} frames")
            return None
        return self._finish_message()

    def _add(self, data: bytes, fin: bool) -> None:
        if self._inflater is not None:
            try:
                data = self._inflater.feed(data)
                data += self._inflater.finish() if fin else b""
            except ProtocolError as fault:
                if fault.code != CloseCode.TOO_BIG:
                    raise
                self._skip(0)
                return
        self._parts.append(data)
        self._size += len(data)

    def _skip(self, size: int) -> None:
        self._skipping = True
        self._parts = []
        self._size += size
        if self._size > _MAX_SKIPPED:
            reason = f"a message of over {_MAX_SKIPPED} bytes, far over max_message_size"
            raise ProtocolError(CloseCode.TOO_BIG, reason)

    def _finish_message(self) -> str | bytes | Skipped:
        data, opcode = b"".join(self._parts), self._opcode
        size, inflated = self._size, self._inflater is not None
        skipped, self._skipping = self._skipping, False
        self._parts, self._size, self._opcode, self._inflater = [], 0, None, None
        if skipped:
            what = "a compressed message" if inflated else f"a message of {size} bytes"
            return Skipped(f"{what} is over max_message_size ({self._max_message_size} bytes)")
        if opcode == ABNF.OPCODE_BINARY:
            return data
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise ProtocolError(CloseCode.INVALID_DATA, "text that is not UTF-8") from error

    def _read(self, size: int) -> bytes:
        """Return 1 to `size` bytes; wait for them as long as the server answers pings."""
        if self._at >= len(self._received):
            self._received, self._at = self._fill(), 0
        piece = self._received[self._at : self._at + size]
        self._at += len(piece)
        return piece

    def _fill(self) -> bytes:
        while True:
            if self._due is not None and self._clock() >= self._due[0]:
                function, self._due = self._due[1], None
                function()
            # Before the deadlines are checked: after a stall of this process the pong may
            # be in the kernel's buffer already (FAULTS 34).
            data = self._stream.receive()
            if data:
                self._heard, self._pinged = self._clock(), None
                return data
            if data is not None:
                raise ConnectionClosed(CloseCode.ABNORMAL, "connection lost")
            events = READ | (WRITE if self._push() else 0)
            deadline = self._next_deadline()
            self._stream.wait(events, min(deadline, self._due[0]) if self._due else deadline)

    def _next_deadline(self) -> float:
        now = self._clock()
        if self._pinged is None:
            if now < self._heard + self._ping_interval:
                return self._heard + self._ping_interval
            self._pinged = now
            self._stream.append(_frame(b"", ABNF.OPCODE_PING))
            self._push()
        elif now >= self._pinged + self._ping_timeout:
            raise ConnectionClosed(
                CloseCode.ABNORMAL, f"no sign of life for {now - self._heard:.1f} s"
            )
        return self._pinged + self._ping_timeout


def _frame(payload: bytes, opcode: int, compressed: bool = False) -> bytes:
    # Unfragmented and masked; RSV1 marks a compressed message (RFC 7692 section 6).
    return ABNF(1, int(compressed), 0, 0, opcode, 1, payload).format()


def _why(error: OSError) -> str:
    return error.strerror or str(error)
