"""What tests share: bounded waiting, full sockets, a raw WebSocket peer.

Must not import ws_hub: what checks the package must not lean on it.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import json
import os
import random
import socket
import ssl
import struct
import threading
import time
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage

__all__ = [
    "BINARY",
    "CLOSE",
    "CONTINUATION",
    "DEFLATE",
    "MAX_RATIO",
    "PING",
    "PONG",
    "TEXT",
    "TIMEOUT",
    "Frame",
    "RawPeer",
    "Response",
    "deflated",
    "fill",
    "free_port",
    "inflated",
    "once_a_run",
    "reset",
    "small_pair",
    "tcp_pair",
    "tls_pair",
    "wait_until",
    "without_usage",
]

TIMEOUT = 15.0  # seconds: the bound of every wait, which only a failure reaches

T = TypeVar("T")


def once_a_run(factory: pytest.TempPathFactory, name: str, make: Callable[[], str]) -> str:
    """Return a text that takes long to make, for fixtures of several tests.

    One of the processes that share the tests makes it; the others wait for that. The tests of
    a module are spread over all of them, so that a module's fixture is made in each.
    """
    folder = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # the run's own; below it are those of its processes
    made = folder / name
    with made.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            made.write_text(make(), encoding="utf-8")
        return made.read_text(encoding="utf-8")


def wait_until(predicate: Callable[[], T], timeout: float = TIMEOUT, what: str | None = None) -> T:
    """Return the first true value of `predicate()`; fail when `timeout` seconds bring none.

    For what gives no event to wait for: another process, the kernel, a counter.
    """
    deadline = time.monotonic() + timeout
    pause = 0.001
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() >= deadline:
            name = what or getattr(predicate, "__name__", repr(predicate))
            raise AssertionError(f"not within {timeout:g} s: {name}")
        time.sleep(pause)
        pause = min(pause * 2, 0.05)


def without_usage(status: dict[str, Any]) -> dict[str, Any]:
    """Return the data of a `process_status` without `usage`, which is never the same."""
    return {name: value for name, value in status.items() if name != "usage"}


# --- sockets -------------------------------------------------------------------------------

_given: deque[int] = deque(maxlen=1000)  # the last ports of `free_port`


def threads_at_rest(names: Iterable[str]) -> int:
    """Count threads that have nothing to do, by their names.

    Those of a crew count as two: a leader that stands alone, because the one that watched it
    went when it was not needed, gets another with the next thing that it handles.
    """
    counts = Counter(names)
    alone = sum(counts[name] == 1 for name in ("ws-hub:reader", "ws-hub:accept"))
    return sum(counts.values()) + alone


def free_port() -> int:
    """Return a port for a server that begins later, or that ends and comes back.

    It is outside of the range from which the kernel takes the ports of connections and of
    servers that ask for any: nothing else gets it meanwhile, and a client that tries it again
    and again is never connected to itself. Each of the processes that share the tests has
    ports of its own.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = 10_100 + worker % 16 * 1_400  # browsers refuse 10080; 32,500 is the end
    while True:
        port = first + random.SystemRandom().randrange(1_400)
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            if port not in _given:
                _given.append(port)
                return port


@contextlib.contextmanager
def small_pair(sndbuf: int = 4096) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Yield two connected sockets whose kernel buffers are as small as may be."""
    left, right = socket.socketpair()
    with left, right:
        for sock in (left, right):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, sndbuf)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, sndbuf)
            sock.settimeout(TIMEOUT)
        yield left, right


@contextlib.contextmanager
def tcp_pair(
    sndbuf: int | None = None, rcvbuf: int | None = None
) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Yield (server side, client side) of one TCP connection over loopback.

    `sndbuf` is for the server side's sending, `rcvbuf` for the client side's receiving.
    """
    with socket.socket() as listener, socket.socket() as client:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        client.settimeout(TIMEOUT)
        if rcvbuf is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        client.connect(listener.getsockname())
        server, _ = listener.accept()
        with server:
            server.settimeout(TIMEOUT)
            if sndbuf is not None:
                server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, sndbuf)
            yield server, client


@contextlib.contextmanager
def tls_pair(
    certificate: Path, sndbuf: int | None = None, rcvbuf: int | None = None
) -> Iterator[tuple[ssl.SSLSocket, ssl.SSLSocket]]:
    """Yield (server side, client side) of one TLS connection over loopback."""
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ours.load_cert_chain(certificate)
    theirs = ssl.create_default_context(cafile=str(certificate))
    with tcp_pair(sndbuf, rcvbuf) as (near, far):
        made: list[ssl.SSLSocket] = []
        shake = threading.Thread(
            target=lambda: made.append(ours.wrap_socket(near, server_side=True))
        )
        shake.start()
        try:
            with theirs.wrap_socket(far, server_hostname="localhost") as client:
                shake.join(TIMEOUT)
                with made[0] as server:
                    yield server, client
        finally:
            shake.join(TIMEOUT)


def fill(sock: socket.socket, chunk: bytes = b"x" * 1024) -> int:
    """Send until the kernel has no room; return how many bytes it took."""
    timeout = sock.gettimeout()
    sock.setblocking(False)
    taken = 0
    try:
        while True:
            taken += sock.send(chunk)
    except BlockingIOError:
        return taken
    finally:
        sock.settimeout(timeout)


def short_writes(seed: int, most: int) -> Callable[[int, bytes, int, int], int]:
    """A `send(2)` that takes a random part of what it is given, or nothing."""
    chance = random.Random(seed)

    def send(fd: int, data: bytes, size: int, flags: int) -> int:
        part = data[: chance.randint(0, most)]
        try:
            return os.write(fd, part) if part else 0
        except BlockingIOError:
            return 0

    return send


def messages_in(data: bytes) -> list[object]:
    """What a peer's parser makes of a stream; fails when a frame is torn."""
    parser = Connection(ConnectionType.CLIENT)
    parser.receive_data(data)
    found: list[object] = []
    text = ""
    for event in parser.events():
        assert not isinstance(event, BytesMessage)
        if isinstance(event, TextMessage):
            text += event.data
            if event.message_finished:
                found.append(text)
                text = ""
        elif isinstance(event, (Ping, Pong)):
            found.append(bytes(event.payload))
        elif isinstance(event, CloseConnection):
            found.append(event.code)
    return found


def reset(sock: socket.socket) -> None:
    """Close a TCP socket so that the far end gets RST and not FIN."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


# --- compression, by zlib alone ------------------------------------------------------------

DEFLATE = [("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits")]
MAX_RATIO = 1032  # bytes that one byte can inflate to: zlib's own figure


def deflated(data: bytes, level: int = 9) -> bytes:
    """A message's payload as any peer would compress it (RFC 7692 section 7.2.1)."""
    stream = zlib.compressobj(level, zlib.DEFLATED, -15)
    return (stream.compress(data) + stream.flush(zlib.Z_SYNC_FLUSH))[:-4]


def inflated(payload: bytes) -> bytes:
    """What a peer makes of that (section 7.2.2)."""
    return zlib.decompressobj(-15).decompress(payload + b"\0\0\xff\xff")


# --- a WebSocket peer that may break every rule --------------------------------------------

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


@dataclass(frozen=True)
class Frame:
    """One frame as it came."""

    opcode: int
    payload: bytes
    fin: bool = True
    rsv: int = 0
    masked: bool = False

    @property
    def text(self) -> str:
        return self.payload.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.payload)

    @property
    def close(self) -> tuple[int, str]:
        """Code and reason of a Close frame; 1005 for an empty one."""
        assert self.opcode == CLOSE, self
        if not self.payload:
            return 1005, ""
        return struct.unpack("!H", self.payload[:2])[0], self.payload[2:].decode()


@dataclass(frozen=True)
class Response:
    """The head of an HTTP response, and the body if the server told its length."""

    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes = b""


class RawPeer:
    """A WebSocket client on a bare socket: it sends what it is told, allowed or not.

    `with RawPeer(host, port) as peer:` has shaken hands; `handshake=False` leaves
    even that to the test. Reading is bounded by `timeout` seconds; EOFError is the
    end of the connection, ConnectionError an RST.
    """

    def __init__(
        self,
        host: str,
        port: int,
        path: str = "/ws",
        *,
        headers: Iterable[tuple[str, str]] = (),
        handshake: bool = True,
        rcvbuf: int | None = None,
        ssl_context: ssl.SSLContext | None = None,
        timeout: float = TIMEOUT,
    ) -> None:
        self.host, self.port, self.path = host, port, path
        self.response: Response | None = None
        self._buffer = b""
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        try:
            if rcvbuf is not None:  # only counts before connect()
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
            sock.settimeout(timeout)
            sock.connect((host, port))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if ssl_context is not None:
                sock = ssl_context.wrap_socket(sock, server_hostname=host)
            self.sock = sock
            if handshake:
                self.handshake(headers)
        except BaseException:
            sock.close()
            raise

    @classmethod
    def on(cls, sock: socket.socket) -> RawPeer:
        """Return a peer on a socket that is past the handshake."""
        peer = cls.__new__(cls)
        peer.host, peer.port, peer.path = "", 0, ""
        peer.response, peer.sock, peer._buffer = None, sock, b""
        return peer

    def __enter__(self) -> RawPeer:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    # --- opening -----------------------------------------------------------

    def handshake(self, headers: Iterable[tuple[str, str]] = ()) -> Response:
        """Upgrade; fails unless the answer is a correct 101."""
        key = base64.b64encode(os.urandom(16)).decode()
        self.send_raw(self.request(headers, key=key))
        response = self.read_response()
        assert response.status == 101, response
        accept = base64.b64encode(hashlib.sha1(key.encode() + _GUID).digest()).decode()
        assert response.headers["sec-websocket-accept"] == accept, response
        return response

    def request(
        self,
        headers: Iterable[tuple[str, str]] = (),
        *,
        key: str = "dGhlIHNhbXBsZSBub25jZQ==",
        method: str = "GET",
        version: str = "HTTP/1.1",
    ) -> bytes:
        """Return an upgrade request; a header in `headers` replaces ours; "" leaves it out."""
        fields = {
            "Host": f"[{self.host}]:{self.port}"
            if ":" in self.host
            else f"{self.host}:{self.port}",
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Key": key,
            "Sec-WebSocket-Version": "13",
        }
        own = {name.lower(): name for name in fields}
        extra = []
        for name, value in headers:
            if name.lower() in own:
                fields[own[name.lower()]] = value
            else:
                extra.append((name, value))
        lines = [f"{method} {self.path} {version}"]
        lines += [f"{name}: {value}" for name, value in (*fields.items(), *extra) if value]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def read_response(self) -> Response:
        """Read one HTTP response; what follows it stays for `recv_frame`."""
        while b"\r\n\r\n" not in self._buffer:
            self._more()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        status_line, *lines = head.decode("latin-1").split("\r\n")
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        body = b""
        if headers.get("content-length"):
            body = self.recv_exactly(int(headers["content-length"]))
        self.response = Response(int(status_line.split()[1]), headers, body)
        return self.response

    # --- sending -----------------------------------------------------------

    def send_raw(self, data: bytes) -> None:
        self.sock.sendall(data)

    def send_frame(
        self,
        opcode: int,
        payload: bytes = b"",
        *,
        fin: bool = True,
        rsv: int = 0,
        mask: bytes | None = b"\x01\x02\x03\x04",
        length: int | None = None,
        form: int | None = None,
    ) -> None:
        """Send one frame of any shape; see `frame`."""
        self.send_raw(
            self.frame(opcode, payload, fin=fin, rsv=rsv, mask=mask, length=length, form=form)
        )

    @staticmethod
    def frame(
        opcode: int,
        payload: bytes = b"",
        *,
        fin: bool = True,
        rsv: int = 0,
        mask: bytes | None = b"\x01\x02\x03\x04",
        length: int | None = None,
        form: int | None = None,
    ) -> bytes:
        """Return one frame of any shape.

        `mask=None` sends it unmasked; `length` claims another length than the
        payload has; `form` (7, 16 or 64) forces how the length is written.
        """
        size = len(payload) if length is None else length
        form = form or (7 if size < 126 else 16 if size < 1 << 16 else 64)
        first = (0x80 if fin else 0) | rsv << 4 | opcode
        bit = 0 if mask is None else 0x80
        if form == 7:
            head = struct.pack("!BB", first, bit | size)
        elif form == 16:
            head = struct.pack("!BBH", first, bit | 126, size)
        else:
            head = struct.pack("!BBQ", first, bit | 127, size)
        if mask is None:
            return head + payload
        return head + mask + _masked(payload, mask)

    def send_text(self, text: str) -> None:
        self.send_frame(TEXT, text.encode())

    def send_json(self, value: Any) -> None:
        self.send_text(json.dumps(value))

    def send_close(self, code: int | None = 1000, reason: str = "") -> None:
        payload = b"" if code is None else struct.pack("!H", code) + reason.encode()
        self.send_frame(CLOSE, payload)

    # --- receiving ---------------------------------------------------------

    def recv_frame(self) -> Frame:
        """Read the next frame, of whatever kind."""
        first, second = self.recv_exactly(2)
        size = second & 0x7F
        if size == 126:
            size = struct.unpack("!H", self.recv_exactly(2))[0]
        elif size == 127:
            size = struct.unpack("!Q", self.recv_exactly(8))[0]
        mask = self.recv_exactly(4) if second & 0x80 else None
        payload = self.recv_exactly(size)
        if mask is not None:
            payload = _masked(payload, mask)
        return Frame(
            opcode=first & 0x0F,
            payload=payload,
            fin=bool(first & 0x80),
            rsv=first >> 4 & 0x7,
            masked=mask is not None,
        )

    def recv_text(self) -> str:
        """Read the next text frame; pings before it are answered, anything else fails."""
        while True:
            frame = self.recv_frame()
            if frame.opcode == PING:
                self.send_frame(PONG, frame.payload)
            else:
                assert frame.opcode == TEXT, frame
                return frame.text

    def recv_json(self) -> Any:
        return json.loads(self.recv_text())

    def recv_close(self) -> tuple[int, str]:
        """Read past everything up to the Close frame; return its code and reason."""
        while True:
            frame = self.recv_frame()
            if frame.opcode == CLOSE:
                return frame.close

    def recv_eof(self) -> bytes:
        """Read to the end of the connection; return what came before it."""
        with contextlib.suppress(EOFError):
            while True:
                self._more()
        rest, self._buffer = self._buffer, b""
        return rest

    def recv_exactly(self, size: int) -> bytes:
        if size > len(self._buffer):
            pieces, have = [self._buffer], len(self._buffer)
            while have < size:
                self._buffer = b""
                self._more()
                pieces.append(self._buffer)
                have += len(self._buffer)
            self._buffer = b"".join(pieces)
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    def _more(self) -> None:
        data = self.sock.recv(65536)
        if not data:
            raise EOFError("the connection ended")
        self._buffer += data

    # --- ending ------------------------------------------------------------

    def close(self, code: int | None = 1000, reason: str = "") -> tuple[int, str]:
        """Close with a handshake; return what the server answered."""
        self.send_close(code, reason)
        answer = self.recv_close()
        self.sock.close()
        return answer

    def reset(self) -> None:
        """End with RST."""
        reset(self.sock)


def _masked(payload: bytes, mask: bytes) -> bytes:
    size = len(payload)
    repeated = (mask * (size // 4 + 1))[:size]
    value = int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")
    return value.to_bytes(size, "big")
