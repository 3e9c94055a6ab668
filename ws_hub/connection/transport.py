"""One WebSocket on one socket: reads events, shuts the socket down, and closes it.

It uses wsproto's frame parser and closing state, with a receiving half of
permessage-deflate of its own; outgoing frames are made in `frames`.

Which thread may use the socket, and how:

- `send` and, under TLS, the receive call run under `lock`: OpenSSL's state is not safe for
  two threads, and a descriptor must not be closed during a send. No send waits.
- Waiting runs outside the lock, so that no thread waits for a waiting one: the writer's
  wait in `poll`, the reader's in `recv` itself, which is one system call a message and
  releases the GIL once. Under TLS, and where sends on a blocking socket would block, the
  reader waits in `poll` as well.
- `shutdown` wakes both waits; `close` comes after both threads have ended, or else leaves
  the descriptor to the writer that still waits on it. Every connection ends with `close`
  or, in a forked child, `forget`: after either nothing uses the descriptor's number.
"""

from __future__ import annotations

import contextlib
import math
import select
import socket
import ssl
import struct
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage
from wsproto.events import Event as Parsed
from wsproto.extensions import Extension
from wsproto.frame_protocol import CloseReason, FrameDecoder, FrameProtocol, Opcode, RsvBits
from wsproto.utilities import LocalProtocolError

from ..errors import CloseCode
from ..protocol.compression import Inflation, most_compressed
from ..reentrant import Lock
from .fast_send import DirectSocket, keeps_blocking, receive_at_once
from .progress import measure

__all__ = [
    "Binary",
    "Broken",
    "Closed",
    "Event",
    "Inherited",
    "Pinged",
    "Ponged",
    "Text",
    "Transport",
    "wait_ready",
]

# Of a receive. Thousands of readers hold a buffer of that size while they wait. And the bytes of
# one receive are parsed and handled together: they must not be thousands of tiny frames.
_FIRST_BYTES = 1024
_RECEIVE_BYTES = 64 * 1024  # of one large frame, after its header
_NO_BITS = RsvBits(False, False, False)
_TLS_WAIT = 0.01  # seconds that the end of TLS waits for the reader
_LINGER_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Text:
    """A whole text message."""

    text: str


@dataclass(frozen=True, slots=True)
class Binary:
    """A whole binary message."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Pinged:
    """A ping; its payload goes into the pong."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Ponged:
    """A pong, asked for or not."""


@dataclass(frozen=True, slots=True)
class Closed:
    """The end of the input: the peer's Close frame, or 1006 without one."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Broken:
    """The peer broke RFC 6455 or a limit; the connection must end with `code`.

    `limit` is the name of the counter of the exceeded limit.
    """

    code: int
    reason: str
    limit: str = ""


Event = Text | Binary | Pinged | Ponged | Closed | Broken


class Parser(Protocol):
    """What parses the frames of a peer: wsproto's `Connection`, or what does as it does."""

    @property
    def state(self) -> ConnectionState: ...

    def receive_data(self, data: bytes) -> None: ...

    def events(self) -> Iterable[Parsed]: ...


class Inherited(Parser, Protocol):
    """What another reader of a connection leaves: the parser that it used, and its bytes.

    Until that reader has ended, it may be the one that the kernel gives the next bytes to.
    """

    def wait(self, timeout: float) -> bool:
        """Wait for messages that it has parsed, or its end; False when time is up."""

    def take(self) -> bytes | None:
        """Return the bytes that it has read and not parsed; None before its end."""


class _FrameHeaders(Extension):
    """Sees each frame's header before its payload, as an extension of wsproto's parser.

    Not an extension of the protocol: nothing is negotiated, and no bit is used.

    Args:
        max_message_size: bytes in one message.

    Attributes:
        missing: bytes of the frame's payload that have not arrived.
        oversized: whether a frame was refused because its message would be too large.
    """

    __slots__ = ("_control", "_limit", "_max_message_size", "_size", "missing", "oversized")

    name = "headers"

    def __init__(self, max_message_size: int) -> None:
        self._max_message_size = max_message_size
        self._limit = max_message_size  # limit of the current message
        self._size = 0  # bytes of the current message so far
        self._control = False  # whether the current frame is a control frame
        self.missing = 0
        self.oversized = False

    def enabled(self) -> bool:
        """Return True: the parser calls it."""
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
        """Begin a frame, or refuse it before its payload arrives.

        Called again for the same frame when its header arrives in pieces.
        """
        self.missing = payload_length
        self._control = opcode.iscontrol()
        if not self._control:
            if opcode is not Opcode.CONTINUATION:
                size = self._max_message_size
                self._size, self._limit = 0, most_compressed(size) if rsv.rsv1 else size
            if self._size + payload_length > self._limit:
                self.oversized = True
                return CloseReason.MESSAGE_TOO_BIG
        return _NO_BITS

    def frame_inbound_payload_data(
        self, proto: FrameDecoder | FrameProtocol, data: bytes
    ) -> bytes | CloseReason:
        """Count a piece of a frame; return it unchanged."""
        self.missing -= len(data)
        if not self._control:
            self._size += len(data)
        return data


class Transport:
    """One WebSocket connection, the server's side.

    Args:
        sock: a connected socket that belongs to it, past the HTTP request.
        max_message_size: bytes in one message, across fragments.
        max_fragments: frames in one message.
        message_timeout: seconds to wait, in all, for the rest of one message or control
            frame; None for ever.
        compression: whether permessage-deflate was agreed on.
        received: bytes that arrived together with the HTTP request; or what another reader of
            this connection leaves, its parser included, whose extensions are then used.
        borrowed: whether the descriptor belongs to another owner, which closes it.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        max_message_size: int,
        max_fragments: int,
        message_timeout: float | None = None,
        compression: bool = False,
        received: bytes | Inherited = b"",
        borrowed: bool = False,
    ) -> None:
        self.direct = DirectSocket(sock)
        self.lock = self.direct.lock
        self.compression = compression
        self._sock = sock
        self._polls = not keeps_blocking(sock)
        if self._polls or sock.gettimeout() is not None:  # each call gives up the GIL
            sock.setblocking(not self._polls)
        # A second small message must not wait until the first is acknowledged (RFC 896).
        with contextlib.suppress(OSError):  # a Unix socket has no such option
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._closed = False
        self._watched = False  # whether the writer waits on the descriptor
        self._borrowed = borrowed
        # Everything below is owned by the reader thread.
        self._receive_timeout = -1.0  # timeout of a blocking receive, once it is set
        # Made for the first byte: most of thousands of watching clients never send one.
        self._parser: Parser | None = None
        self._other: Inherited | None = None  # until the other reader has ended
        # the events of the last receive that are not returned yet
        self._pending_events: Iterator[Event] = iter(())
        self._headers = _FrameHeaders(max_message_size)
        self._inflation = Inflation(max_message_size) if compression else None
        self._held_back = False  # whether `_pending_events` may have more
        self._received = b""
        if isinstance(received, bytes):
            self._received = received
        else:
            self._parser = self._other = received
        # Of one receive: a few compressed bytes can inflate to many.
        self._reads_little = compression or self._other is not None
        self._max_message_size = max_message_size
        self._max_fragments = max_fragments
        self._message_timeout = math.inf if message_timeout is None else message_timeout
        self._parts: list[str] | list[bytes] = []
        self._size = 0
        self._fragments = 0
        self._in_message = False  # whether a message has begun and not ended
        self._unfinished = False  # the same of a message or any frame
        self._waited = 0.0  # seconds waited for the rest of that

    # --- any thread, under the lock --------------------------------------------------------

    def shutdown_locked(self) -> None:
        """Do what `shutdown` does, with the lock held."""
        assert self.lock.locked()
        if not self._closed:
            self._end_tls_locked()
            with contextlib.suppress(OSError):  # the peer has disconnected: ENOTCONN
                # On a TLS socket this is the plain shutdown of the socket below it.
                socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def measure_locked(self, taken: int) -> tuple[int, int] | None:
        """Return the result of `progress.measure`; None when the connection has ended."""
        assert self.lock.locked()
        if self._closed:
            return None
        try:
            return measure(self._sock, taken)
        except OSError:  # the peer has disconnected
            return None

    def _end_tls_locked(self) -> None:
        """Send the end of TLS; without it the peer must assume a truncation by a third party."""
        assert self.lock.locked()
        if isinstance(self._sock, ssl.SSLSocket):
            # Sent without waiting; its answer, which SSLWantReadError asks for, is not awaited.
            # If the reader is inside OpenSSL for long, it is not sent.
            with contextlib.suppress(OSError, ValueError):
                self.direct.inside_tls(self._sock.unwrap, _TLS_WAIT)

    # --- any thread ------------------------------------------------------------------------

    def fileno(self) -> int:
        """Return the socket's descriptor; -1 once it is closed."""
        return self._sock.fileno()

    def wait_writable(self, timeout: float) -> bool:
        """Wait until the kernel has room or the connection has ended; False after `timeout`."""
        with self.lock:
            if self._closed:
                return True
            self._watched = True
            fd = self._sock.fileno()
        try:
            if self.direct.tls is not None:
                # Writable is not enough: the reader may be inside OpenSSL.
                began = time.monotonic()
                if not self.direct.tls.acquire(timeout=max(timeout, 0.0)):
                    return False
                self.direct.tls.release()
                timeout -= time.monotonic() - began
            return wait_ready(fd, timeout, write=True)
        finally:
            self._end_watch()

    def _end_watch(self) -> None:
        with self.lock:
            self._watched = False
            if self._closed:
                self._release_locked()

    @property
    def is_plain(self) -> bool:
        """Whether its input is waited for at its descriptor, and read by this alone."""
        return not self._polls and self._other is None and not self._borrowed

    def shutdown(self) -> None:
        """End the connection in both directions and wake the threads that wait on it.

        Closing alone wakes no thread and leaves a blocked one behind (FAULTS 1.4).
        """
        with self.lock:
            self.shutdown_locked()

    def close(self) -> None:
        """Release the descriptor, as soon as the writer does not wait on it. Idempotent."""
        with self.lock:
            if not self._closed:
                self._closed = True
                self.direct.forget()
                if not self._watched:  # otherwise the writer would wait on a reused number
                    self._release_locked()

    def _release_locked(self) -> None:
        assert self.lock.locked()
        if not self._borrowed:
            self._sock.close()

    def forget(self) -> None:
        """Do what `close` does, in a forked child: the connection is the parent's.

        The lock is replaced: the old one may be held by a thread that the child does not have.
        """
        # guards: what the old one did, at its place in the order.
        self.lock = self.direct.lock = Lock()
        self._watched = False
        self.close()

    # --- reader thread ---------------------------------------------------------------------

    @property
    def is_settled(self) -> bool:
        """Whether what was received is handled, and ends with the end of a frame or message."""
        return not (self._unfinished or self.has_more)

    @property
    def has_more(self) -> bool:
        """Whether something was received that is not handled, for which no more has to come."""
        return bool(self._received) or self._held_back

    def receive(self, timeout: float) -> list[Event] | None:
        """Return the received events, or None when nothing arrived for `timeout` seconds.

        The list is empty when bytes arrived that complete no message: the peer lives. `Closed` and
        `Broken` are last in their list; nothing is received after them. Events that are not
        returned at once are returned by the next call.
        """
        if events := self._next_events():
            return events
        if self._other is not None:
            return self._receive_other(self._other, timeout)
        if not self._unfinished:
            data = self._read(timeout)
        else:
            # Only the waiting counts: a slow callback between two receives is not the peer's
            # fault.
            began, left = time.monotonic(), self._message_timeout - self._waited
            data = self._read(min(timeout, left))
            self._waited += time.monotonic() - began
            if data is None and left <= timeout:
                return [self._too_slow()]
        if data is None:
            return None
        if isinstance(data, Closed):
            return [data]
        self._pending_events = self._events(data)
        events = self._next_events()
        if self._unfinished and self._waited > self._message_timeout:
            events.append(self._too_slow())
        return events

    def _receive_other(self, other: Inherited, timeout: float) -> list[Event] | None:
        """Return what another reader has received: until its end, the socket is not read here."""
        if not other.wait(timeout):
            return None
        data = other.take()
        if data is not None:
            self._other, self._received = None, data
        self._pending_events = self._events(b"")  # the messages that it has parsed
        return self._next_events()

    def _next_events(self) -> list[Event]:
        """Return the next received events, about as many as hold one large message together.

        A few compressed bytes may inflate to many messages, all of which cost work.
        """
        events: list[Event] = []
        size = 0
        self._held_back = False
        for event in self._pending_events:
            events.append(event)
            if isinstance(event, (Text, Binary)):
                size += len(event.text if isinstance(event, Text) else event.data)
                if size >= self._max_message_size:
                    self._held_back = True
                    break
        return events

    def _too_slow(self) -> Broken:
        reason = f"message not whole within {self._message_timeout:g} s"
        return Broken(CloseCode.POLICY, reason, "slow_messages")

    def _read(self, timeout: float) -> bytes | Closed | None:
        """Wait for bytes; None when none arrive for `timeout` seconds, or are here for 0."""
        deadline = time.monotonic() + timeout
        most = self._receive_bytes()
        data, self._received = self._received[:most], self._received[most:]
        at_once = timeout <= 0 and not self._polls
        if not data and not self._polls and not at_once and timeout != self._receive_timeout:
            self._set_receive_timeout(timeout)
        waits = self._polls
        while not data:
            if waits and not self._pending() and not self._readable(deadline - time.monotonic()):
                return None
            try:
                data = self._recv(most, at_once)
            except (BlockingIOError, InterruptedError, ssl.SSLWantReadError):
                if at_once:
                    return None
                waits = True  # after a blocking receive too: check the timeout
                continue
            except ssl.SSLWantWriteError:  # TLS must first write a record of its own
                if not wait_ready(self._sock.fileno(), deadline - time.monotonic(), write=True):
                    return None
                continue
            except OSError as error:
                return Closed(CloseCode.ABNORMAL, error.strerror or str(error))
            if not data:
                return Closed(CloseCode.ABNORMAL, "connection lost")
        return data

    def linger(self, timeout: float) -> None:
        """Read and discard until the peer has ended the connection too, within bounds.

        Closing with unread input makes the kernel send a reset, which can destroy the Close frame
        before the peer has read its reason.
        """
        with self.lock, contextlib.suppress(OSError):
            if self._closed:
                return
            self._end_tls_locked()
            socket.socket.shutdown(self._sock, socket.SHUT_WR)
        deadline = time.monotonic() + timeout
        left = _LINGER_BYTES
        while left > 0 and self._readable(deadline - time.monotonic()):
            try:
                data = socket.socket.recv(self._sock, _RECEIVE_BYTES)
            except OSError:
                return
            if not data:
                return
            left -= len(data)

    def _set_receive_timeout(self, timeout: float) -> None:
        """Have the kernel end a blocking receive after `timeout` seconds."""
        seconds, rest = divmod(max(round(timeout * 1e6), 1), 1_000_000)  # 0 means for ever
        wait = struct.pack("@ll", seconds, rest)
        try:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, wait)
        except OSError:  # another layout of struct timeval
            self._polls = True
            with contextlib.suppress(OSError):  # closed already; the receive raises that
                self._sock.setblocking(False)
        self._receive_timeout = timeout

    def _receive_bytes(self) -> int:
        """Return how much to receive: the rest of a large frame at once, otherwise a little."""
        missing = self._headers.missing
        if missing <= _FIRST_BYTES or self._reads_little:
            return _FIRST_BYTES
        return min(missing, _RECEIVE_BYTES)

    def _recv(self, most: int, at_once: bool) -> bytes:
        if self.direct.tls is not None:
            # Not the other lock: OpenSSL reads records without data until they end, and meanwhile
            # no thread may be kept from sending on this connection.
            with self.direct.tls:
                return self._sock.recv(most)
        if self._polls:
            return self._sock.recv(most)
        if at_once:
            data = receive_at_once(self._sock, _FIRST_BYTES)
        else:
            data = self._sock.recv(_FIRST_BYTES)
        if len(data) == _FIRST_BYTES < most:
            # nothing more yet, or an error that the next receive raises
            with contextlib.suppress(OSError):
                data += self._sock.recv(most - _FIRST_BYTES, socket.MSG_DONTWAIT)
        return data

    def _pending(self) -> bool:
        # Bytes that OpenSSL has decrypted already are invisible to poll (FAULTS 1b).
        if self.direct.tls is None:
            return False
        with self.direct.tls:
            return not self._closed and self._sock.pending() > 0  # type: ignore[attr-defined]

    def _readable(self, timeout: float) -> bool:
        return wait_ready(self._sock.fileno(), timeout, write=False)

    def _events(self, data: bytes) -> Iterator[Event]:
        if self._parser is None:
            extensions: list[Extension] = [self._headers]
            if self._inflation is not None:
                extensions.append(self._inflation)
            self._parser = Connection(ConnectionType.SERVER, extensions)
        parser = self._parser
        try:
            parser.receive_data(data)
        except LocalProtocolError:  # bytes after the peer's Close frame
            return
        # Unless there is no data: reset below when a message or control frame is complete.
        self._unfinished = self._unfinished or bool(data)
        for event in parser.events():
            if isinstance(event, (TextMessage, BytesMessage)):
                message = self._assemble(event)
                if message is None:
                    continue
                yield message
                if isinstance(message, Broken):
                    self._unfinished = False
                    return
            elif isinstance(event, (Ping, Pong)):
                if not self._in_message:
                    self._unfinished, self._waited = False, 0.0
                yield Pinged(bytes(event.payload)) if isinstance(event, Ping) else Ponged()
            elif isinstance(event, CloseConnection):
                self._unfinished = False
                reason = event.reason or ""
                if parser.state is ConnectionState.OPEN:
                    # The parser found a violation; the peer sent no Close frame.
                    yield self._extension_fault() or Broken(event.code, reason)
                else:
                    yield Closed(event.code, reason)
                return

    def _extension_fault(self) -> Broken | None:
        """Return the fault that an extension of the parser found; None for the parser's own."""
        if self._headers.oversized:
            return self._oversized()
        fault = self._inflation.fault if self._inflation is not None else None
        if fault is None:
            return None
        limit = "oversized_messages" if fault.code == CloseCode.TOO_BIG else ""
        return Broken(fault.code, fault.reason, limit)

    def _oversized(self) -> Broken:
        reason = f"message over {self._max_message_size} bytes"
        return Broken(CloseCode.TOO_BIG, reason, "oversized_messages")

    def _assemble(self, event: TextMessage | BytesMessage) -> Text | Binary | Broken | None:
        """Add a piece of a message, within the limits; return the message when it is whole."""
        piece = event.data
        self._size += (
            len(piece.encode()) if isinstance(piece, str) and not piece.isascii() else len(piece)
        )
        if self._size > self._max_message_size:
            return self._oversized()
        if event.frame_finished:
            self._fragments += 1
            if self._fragments > self._max_fragments:
                reason = f"message in over {self._max_fragments} fragments"
                return Broken(CloseCode.POLICY, reason, "fragmented_messages")
        if piece:
            self._parts.append(piece)  # type: ignore[arg-type]  # one message is of one kind
        if not event.message_finished:
            self._in_message = self._unfinished = True
            return None
        self._in_message = self._unfinished = False
        self._waited = 0.0
        parts, self._parts = self._parts, []
        self._size = self._fragments = 0
        if isinstance(event, TextMessage):
            return Text("".join(parts))  # type: ignore[arg-type]
        return Binary(b"".join(parts))  # type: ignore[arg-type]


def wait_ready(fd: int, timeout: float, *, write: bool) -> bool:
    """Wait until a descriptor can be read, or written; False after `timeout` seconds."""
    if fd < 0:  # closed: the next use of the socket raises that
        return True
    timeout = max(timeout, 0.0)
    if not hasattr(select, "poll"):  # Windows
        read, wrote, _ = select.select([] if write else [fd], [fd] if write else [], [], timeout)
        return bool(read or wrote)
    poller = select.poll()
    poller.register(fd, select.POLLOUT if write else select.POLLIN)
    # Rounded up: a wait cut short by a fraction of a millisecond would spin.
    return bool(poller.poll(int(timeout * 1000) + 1))
