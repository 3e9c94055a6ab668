"""One open WebSocket, the client's side: messages in, whole frames out, pings answered.

Must not know JSON, channels, or what happens after the end. Frames are built and taken
apart by websocket-client; what it leaves open (FAULTS 1d) is closed here: a frame is
refused by its declared length before any of it is read, no send and no close can hang,
and after a send that failed the connection ends, because half a frame may be out.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from websocket import ABNF, WebSocketException, frame_buffer

from . import deflate
from .deflate import Inflater
from .errors import CloseCode, ConnectionClosed, ProtocolError
from .reconnect_config import ReconnectConfig
from .reentrant import Event
from .stream import READ, WRITE, Stream

__all__ = ["Link"]

_MAX_FRAGMENTS = 32_768  # a Go hub cuts one joined message into frames of a kilobyte
_MAX_UNSENT_PONG = 64 * 1024  # with more than this unsent the peer does not read pongs
_MAX_UNSENT = 1024 * 1024
_MIN_COMPRESSED = 256  # bytes of a message; fewer hardly become less
_FIRST = (ABNF.OPCODE_TEXT, ABNF.OPCODE_BINARY)
_CONTROL = (ABNF.OPCODE_CLOSE, ABNF.OPCODE_PING, ABNF.OPCODE_PONG)


class _Frames(frame_buffer):
    """websocket-client's frame reader, which refuses a frame before it reads it."""

    def __init__(
        self, read: Callable[[int], bytes], room: Callable[[], int], compression: bool
    ) -> None:
        super().__init__(read, skip_utf8_validation=False)
        self._room = room
        self._compression = compression
        self.compressed = False  # whether a compressed message begins with the last frame

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
        if self.header[4] not in _CONTROL and self.length > self._room():
            raise ProtocolError(CloseCode.TOO_BIG, f"a frame of {self.length} bytes is too much")


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
        self._frames = _Frames(self._read, lambda: self._max_message_size - self._size, compression)
        self._inflater: Inflater | None = None  # while a compressed message comes in
        self._received = received
        self._at = 0
        self._heard = clock()
        self._pinged: float | None = None
        self._parts: list[bytes] = []
        self._size = 0
        self._opcode: int | None = None

    # --- any thread ------------------------------------------------------------------------

    def queue(self, text: bytes) -> int:
        """Queue one text message without waiting; return its mark for `flush`."""
        if self._compression and len(text) >= _MIN_COMPRESSED:
            payload = deflate.finish(deflate.begin(text))
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

    def receive(self) -> str | bytes:
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

    def finish(self) -> None:
        """Give the socket back; the last act of the reader."""
        self._stream.close()
        self.over.set()

    def _own(self, end: ConnectionClosed) -> ConnectionClosed:
        return ConnectionClosed(CloseCode.NORMAL) if self._closing else end

    def _refuse(self, code: int, reason: str) -> ConnectionClosed:
        self._say_close(struct.pack("!H", code))
        return ConnectionClosed(code, reason)

    def _handle(self, opcode: int, fin: bool, data: bytes) -> str | bytes | None:
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

    def _assemble(self, opcode: int, fin: bool, data: bytes) -> str | bytes | None:
        if (opcode == ABNF.OPCODE_CONT) == (self._opcode is None):
            raise ProtocolError(CloseCode.PROTOCOL_ERROR, "fragment out of order")
        if self._opcode is None:
            self._opcode = opcode
            self._inflater = None
            if self._frames.compressed:
                self._inflater = Inflater(self._max_message_size)
        if self._inflater is not None:
            data = self._inflater.feed(data)
            data += self._inflater.finish() if fin else b""
        self._parts.append(data)
        self._size += len(data)
        if not fin:
            if len(self._parts) >= _MAX_FRAGMENTS:
                raise ProtocolError(CloseCode.TOO_BIG, f"message over {_MAX_FRAGMENTS} frames")
            return None
        data, opcode = b"".join(self._parts), self._opcode
        self._parts, self._size, self._opcode = [], 0, None
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
            # Before any deadline is looked at: after a stall of this process the answer
            # may be lying in the buffer (FAULTS 34).
            data = self._stream.receive()
            if data:
                self._heard, self._pinged = self._clock(), None
                return data
            if data is not None:
                raise ConnectionClosed(CloseCode.ABNORMAL, "connection lost")
            events = READ | (WRITE if self._push() else 0)
            self._stream.wait(events, self._next_deadline())

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
