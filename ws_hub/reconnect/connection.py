"""One open WebSocket, the client's side: messages in, whole frames out, pings answered.

Must not know JSON, channels, or what happens after the end. Frames are built and taken
apart by websocket-client; what it leaves open (FAULTS 1d) is closed here: a frame that is
too large is known by its declared length before any of it is read, no send and no close
can hang, and after a send that failed the connection ends, because half a frame may be out.

A message over the limit is read and thrown away piece by piece, and the connection goes
on: ended, it would meet the same message again after each reconnect.
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

__all__ = ["Link", "Skipped"]

_MAX_FRAGMENTS = 32_768  # a Go hub cuts one joined message into frames of a kilobyte
_MAX_SKIPPED = 256 * 1024 * 1024  # bytes of one message that are read to be thrown away
_PIECE = 64 * 1024
_MAX_UNSENT_PONG = 64 * 1024  # with more than this unsent the peer does not read pongs
_MAX_UNSENT = 1024 * 1024
_MIN_COMPRESSED = 256  # bytes of a message; fewer hardly become less
_FIRST = (ABNF.OPCODE_TEXT, ABNF.OPCODE_BINARY)
_CONTROL = (ABNF.OPCODE_CLOSE, ABNF.OPCODE_PING, ABNF.OPCODE_PONG)


@dataclass(frozen=True, slots=True)
class Skipped:
    """A message that was thrown away: it was larger than the limit.

    Args:
        why: its size, and which setting is the limit.
    """

    why: str


class _Frames(frame_buffer):
    """websocket-client's frame reader, which keeps no frame that is too large.

    Args:
        read: returns bytes of the stream.
        room: how many bytes the next data frame may have.
        compression: whether permessage-deflate was agreed on.

    Attributes:
        compressed: whether a compressed message begins with the last frame.
        skipped: how many bytes of the last frame were thrown away: all, or none.
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
        if self.compressed:  # what is left of RSV bits is nobody's, and refused
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
        # Nothing is buffered here beyond the length, and a server's frame has no mask.
        self.skipped, left, self.length = self.length, self.length, 0
        while left:
            left -= len(self.recv(min(left, _PIECE)))


class Link:
    """One open connection.

    Args:
        stream: the socket, past the handshake; the link owns it from now on.
        received: bytes that came in together with the handshake.
        config: how much may come, and how long things may take.
        compression: whether permessage-deflate was agreed on.
        clock: monotonic seconds.
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
        self.over = Event()  # set when the reader has left
        self._closing = False  # set once, by whoever closes; read by the reader
        # The rest belongs to the reader.
        self._frames = _Frames(self._read, self._room, compression)
        self._inflater: Inflater | None = None  # while a compressed message comes in
        self._received = received
        self._at = 0
        self._heard = clock()
        self._pinged: float | None = None
        self._due: tuple[float, Callable[[], None]] | None = None
        self._parts: list[bytes] = []
        self._size = 0
        self._fragments = 0
        self._skipping = False  # the message that comes in is too large
        self._opcode: int | None = None

    # --- any thread ------------------------------------------------------------------------

    def queue(self, text: bytes) -> int:
        """Queue one text message without waiting; return its mark for `flush`."""
        if self._compression and len(text) >= _MIN_COMPRESSED:
            payload = finish(begin(text))
            return self._stream.append(_frame(payload, ABNF.OPCODE_TEXT, compressed=True))
        return self._stream.append(_frame(text, ABNF.OPCODE_TEXT))

    def offer(self, text: bytes) -> None:
        """Send one text message without waiting: what does not fit is the reader's to send.

        A server that makes us answer and does not read the answers is not served further.
        """
        self.queue(text)
        self._push()
        if self._stream.unsent > _MAX_UNSENT:
            self._stream.shutdown("the server does not read")

    def flush(self, mark: int) -> None:
        """Wait until what was queued up to `mark` is out, at most write_timeout seconds.

        Raises OSError, and the connection is over: half a frame may be out.
        """
        deadline = self._clock() + self._write_timeout
        try:
            while events := self._stream.push(mark):
                if not self._stream.wait(events, deadline):
                    raise TimeoutError(f"not sent within {self._write_timeout:g} s")
        except ConnectionError:
            # It ended on the other side: what the server said last is still to be read,
            # and nothing more can be sent.
            raise
        except OSError as error:
            self._stream.shutdown(f"a send failed: {_why(error)}")
            raise

    def start_close(self, code: int = CloseCode.NORMAL) -> None:
        """Begin the closing handshake without waiting; the reader sees its end."""
        self._closing = True
        self._say_close(struct.pack("!H", code))

    def shutdown(self) -> None:
        """End the connection at once and wake whoever waits for it."""
        self._stream.shutdown("ended on this side")

    def discard(self) -> None:
        """Let go of the connection in a forked child."""
        self._stream.discard()

    def _say_close(self, payload: bytes) -> None:
        self._stream.append(_frame(payload, ABNF.OPCODE_CLOSE))
        self._push()

    def _push(self) -> int:
        """Send what goes without waiting; a failure is the reader's to find out and tell."""
        try:
            return self._stream.push()
        except OSError:
            return 0

    # --- receiving thread ------------------------------------------------------------------

    def receive(self) -> str | bytes | Skipped:
        """Wait for the next message; pings are answered and sent meanwhile.

        Raises ConnectionClosed at the end, with the code and reason that the server
        gave: 1005 for an empty Close frame, 1006 when there was none.
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
        """Have the reader call a function while it waits, unless it is to call one already."""
        if self._due is None:
            self._due = self._clock() + seconds, function

    def finish(self) -> None:
        """Give the socket back; the last act of the reader."""
        self._stream.close()
        self.over.set()

    def _own(self, end: ConnectionClosed) -> ConnectionClosed:
        return ConnectionClosed(CloseCode.NORMAL) if self._closing else end

    def _refuse(self, code: int, reason: str) -> ConnectionClosed:
        self._say_close(struct.pack("!H", code))
        return ConnectionClosed(code, reason)

    def _handle(self, opcode: int, fin: bool, data: bytes) -> str | bytes | Skipped | None:
        if opcode == ABNF.OPCODE_PING:
            if self._stream.unsent < _MAX_UNSENT_PONG:
                self._stream.append(_frame(data, ABNF.OPCODE_PONG))
                self._push()
        elif opcode == ABNF.OPCODE_CLOSE:
            if not self._closing:
                self._say_close(data)  # the code received, not always 1000
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
        """Return 1 to `size` bytes, however long they take while the server shows life."""
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
            # Before any deadline is looked at: after a stall of this process the answer
            # may be lying in the buffer (FAULTS 34).
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
    # Whole and masked; RSV1 says that it is compressed (RFC 7692 section 6).
    return ABNF(1, int(compressed), 0, 0, opcode, 1, payload).format()


def _why(error: OSError) -> str:
    return error.strerror or str(error)
