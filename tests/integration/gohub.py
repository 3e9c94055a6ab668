"""Servers on bare sockets: one that does as it is told, and one that is a Go hub on the wire.

Must not import ws_hub. `RawServer` runs a function for each connection, which may break
every rule. `GoHub` writes what the Go hubs of both kinds write (INTEROP): queued messages
joined by newlines in one text message, which its WebSocket library cuts into frames of a
kilobyte; an empty Close frame; a pong without id; silence where it succeeds and where it
does not understand. Its pings are answered in time, by pongs, or it cuts the client.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

from tests.support import CLOSE, CONTINUATION, PING, PONG, TEXT, TIMEOUT, Frame, wait_until

__all__ = ["GoHub", "RawServer", "ServerPeer"]

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_WRITE_BUFFER = 1024
_QUEUE = 256
_TIMESTAMP = "2026-02-20T02:17:56.123456789+01:00"  # a Go host's local time


class ServerPeer:
    """The server's side of one connection; reading is bounded by `timeout` seconds."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.headers: dict[str, str] = {}
        self.request_line = ""
        self.request = b""
        self._buffer = b""

    def read_request(self) -> dict[str, str]:
        """Read the head of an HTTP request; return its headers by lower-case name."""
        while b"\r\n\r\n" not in self._buffer:
            self._more()
        self.request, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        self.request_line, *lines = self.request.decode("latin-1").split("\r\n")
        self.headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            self.headers[name.strip().lower()] = value.strip()
        return self.headers

    def answer(self) -> str:
        """Return the head that accepts the request, without its last empty line."""
        key = self.headers["sec-websocket-key"].encode()
        accept = base64.b64encode(hashlib.sha1(key + _GUID).digest()).decode()
        return (
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {accept}\r\n"
        )

    def accept(self, *headers: str) -> None:
        """Read the request and accept it."""
        self.read_request()
        extra = "".join(f"{header}\r\n" for header in headers)
        self.send_raw((self.answer() + extra + "\r\n").encode())

    def send_raw(self, data: bytes) -> None:
        self.sock.sendall(data)

    def send_frame(
        self, opcode: int, payload: bytes = b"", *, fin: bool = True, length: int | None = None
    ) -> None:
        self.send_raw(frame(opcode, payload, fin=fin, length=length))

    def send_json(self, value: Any) -> None:
        self.send_frame(TEXT, json.dumps(value).encode())

    def send_close(self, code: int | None = 1000, reason: str = "") -> None:
        payload = b"" if code is None else struct.pack("!H", code) + reason.encode()
        self.send_frame(CLOSE, payload)

    def recv_frame(self) -> Frame:
        first, second = self._exactly(2)
        assert second & 0x80, "a client must mask"
        size = second & 0x7F
        if size == 126:
            size = struct.unpack("!H", self._exactly(2))[0]
        elif size == 127:
            size = struct.unpack("!Q", self._exactly(8))[0]
        mask = self._exactly(4)
        data = self._exactly(size)
        payload = bytes(byte ^ mask[index % 4] for index, byte in enumerate(data))
        return Frame(first & 0x0F, payload, bool(first & 0x80), first >> 4 & 7, masked=True)

    def recv_json(self, kind: str = "") -> Any:
        """Return the next message, or the next of a type; control frames are passed over."""
        while True:
            got = self.recv_frame()
            if got.opcode == TEXT and (not kind or got.json["type"] == kind):
                return got.json

    def recv_close(self) -> tuple[int, str]:
        while True:
            got = self.recv_frame()
            if got.opcode == CLOSE:
                return got.close

    def recv_end(self) -> None:
        """Read to the end of the connection."""
        with contextlib.suppress(EOFError, ConnectionError):
            while True:
                self._more()

    def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._more()
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    def _more(self) -> None:
        data = self.sock.recv(65536)
        if not data:
            raise EOFError("the connection ended")
        self._buffer += data


def frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, length: int | None = None
) -> bytes:
    """One unmasked frame; `length` claims another length than the payload has."""
    size = len(payload) if length is None else length
    first = (0x80 if fin else 0) | opcode
    if size < 126:
        return struct.pack("!BB", first, size) + payload
    if size < 1 << 16:
        return struct.pack("!BBH", first, 126, size) + payload
    return struct.pack("!BBQ", first, 127, size) + payload


class RawServer:
    """Runs `handler(peer)` on a thread for each connection; what it raises fails the test.

    An end of the connection is no failure. `with RawServer(handler) as server:` joins all
    threads at the end, and shuts down what is still open first.
    """

    def __init__(
        self,
        handler: Callable[[ServerPeer], None],
        *,
        port: int = 0,
        ssl_context: ssl.SSLContext | None = None,
        rcvbuf: int | None = None,
    ) -> None:
        self._handler = handler
        self._ssl_context = ssl_context
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if rcvbuf is not None:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        self._listener.bind(("127.0.0.1", port))
        self._listener.listen(64)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"{'ws' if ssl_context is None else 'wss'}://127.0.0.1:{self.port}/ws"
        self.accepted = 0
        self.failures: list[BaseException] = []
        # guards: _sockets, _threads. Taken alone.
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def __enter__(self) -> RawServer:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.close()
        if kind is None and self.failures:
            raise self.failures[0]

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join(TIMEOUT)
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """End every connection there is and join its thread."""
        with self._lock:
            for sock in self._sockets:
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)
            threads = self._threads[1:]
        for thread in threads:
            thread.join(TIMEOUT)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            with self._lock:
                self._sockets.append(sock)
                self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        try:
            sock.settimeout(TIMEOUT)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._ssl_context is not None:
                plain, sock = sock, self._ssl_context.wrap_socket(sock, server_side=True)
                with self._lock:
                    self._sockets.remove(plain)
                    self._sockets.append(sock)
            self._handler(ServerPeer(sock))
        except (EOFError, ConnectionError, ssl.SSLError, BrokenPipeError):
            pass
        except BaseException as error:  # noqa: BLE001 - the test's, raised where it can see it
            self.failures.append(error)
        finally:
            with self._lock:
                if sock in self._sockets:
                    self._sockets.remove(sock)
                sock.close()


class _Client:
    """One connection of a GoHub: a reader thread, a writer thread, a queue of 256."""

    def __init__(self, peer: ServerPeer) -> None:
        self.peer = peer
        self.channels: set[str] = set()
        # guards: queue, closed. Taken alone.
        self.changed = threading.Condition()
        self.queue: list[bytes] = []
        self.closed = False

    def put(self, *messages: bytes) -> bool:
        """Queue messages that will be joined; False when one of them has no room."""
        with self.changed:
            fits = len(self.queue) + len(messages) <= _QUEUE
            if fits:
                self.queue += messages
            self.changed.notify()
            return fits

    def end(self) -> None:
        with self.changed:
            self.closed = True
            self.changed.notify()


class GoHub:
    """A hub as the Go original is on the wire.

    Args:
        release: "13d9422" knows the channel of a subscription in `data` only, and drops a
            channel's message for a client whose queue is full; "HEAD" looks into
            `channel` first, and cuts that client.
        heartbeat: seconds between pings.
        pong_timeout: seconds after which a client without a pong is cut; nothing else
            counts as life.
        port: 0 for a free one.
    """

    def __init__(
        self,
        release: Literal["13d9422", "HEAD"] = "HEAD",
        *,
        heartbeat: float = 30.0,
        pong_timeout: float = 60.0,
        port: int = 0,
    ) -> None:
        self.release = release
        self._heartbeat = heartbeat
        self._pong_timeout = pong_timeout
        self.pongs = 0
        self.timeouts = 0
        # guards: _clients. Taken before a client's condition.
        self._lock = threading.Lock()
        self._clients: list[_Client] = []
        self._server = RawServer(self._serve, port=port)
        self.port, self.url = self._server.port, self._server.url

    def __enter__(self) -> GoHub:
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self.stop()
        self._server.__exit__(*exc_info)

    # --- what a test asks for --------------------------------------------------------------

    @property
    def clients(self) -> int:
        with self._lock:
            return len(self._clients)

    def wait_subscribed(self, channel: str) -> None:
        wait_until(lambda: list(self._subscribers(channel)), what=f"{channel} subscribed")

    def wait_unsubscribed(self, channel: str) -> None:
        wait_until(lambda: not list(self._subscribers(channel)), what=f"{channel} unsubscribed")

    def broadcast(self, *messages: dict[str, Any]) -> None:
        """Send messages to everybody; several in one call are joined."""
        with self._lock:
            self._send(self._clients, messages, cut=True)

    def send_to_channel(self, channel: str, *messages: dict[str, Any]) -> None:
        with self._lock:
            members = [each for each in self._clients if channel in each.channels]
            named = tuple({**each, "channel": channel} for each in messages)
            self._send(members, named, cut=self.release == "HEAD")

    def stop(self) -> None:
        """Close every connection as a stopping hub does: an empty Close frame."""
        with self._lock:
            ended = list(self._clients)
            for client in ended:
                client.end()
        # One that has come back by then is another.
        wait_until(lambda: not self._any_of(ended), what="all clients gone")

    def cut(self) -> None:
        """End every connection without a Close frame."""
        self._server.cut()

    # --- what it does ----------------------------------------------------------------------

    def _any_of(self, clients: list[_Client]) -> bool:
        with self._lock:
            return any(each is other for each in self._clients for other in clients)

    def _subscribers(self, channel: str) -> Iterator[_Client]:
        with self._lock:
            yield from [each for each in self._clients if channel in each.channels]

    def _send(
        self, clients: list[_Client], messages: tuple[dict[str, Any], ...], *, cut: bool
    ) -> None:
        encoded = [_encode(message) for message in messages]
        for client in clients:
            if not client.put(*encoded) and cut:
                client.end()

    def _serve(self, peer: ServerPeer) -> None:
        peer.accept()
        peer.sock.settimeout(self._pong_timeout)
        client = _Client(peer)
        with self._lock:
            self._clients.append(client)
        writer = threading.Thread(target=self._write, args=(client,), daemon=True)
        writer.start()
        try:
            self._read(client)
        finally:
            with self._lock:
                self._clients.remove(client)
            client.end()
            writer.join(TIMEOUT)

    def _read(self, client: _Client) -> None:
        deadline = time.monotonic() + self._pong_timeout
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                self.timeouts += 1
                return
            client.peer.sock.settimeout(left)
            try:
                got = client.peer.recv_frame()
            except TimeoutError:
                continue
            if got.opcode == PONG:
                self.pongs += 1
                deadline = time.monotonic() + self._pong_timeout
            elif got.opcode == CLOSE:
                return
            elif got.opcode not in (PING,):
                self._understand(client, got.payload)

    def _understand(self, client: _Client, payload: bytes) -> None:
        try:
            message = json.loads(payload)
            kind = message["type"]
        except (ValueError, KeyError, TypeError):
            return  # in silence
        data = message.get("data")
        target = data if isinstance(data, str) else ""
        if self.release == "HEAD":
            target = message.get("channel") or target
        if kind == "subscribe" and target:
            client.channels.add(target)
        elif kind == "unsubscribe":
            client.channels.discard(target)
        elif kind == "ping":
            client.put(_encode({"type": "pong"}))

    def _write(self, client: _Client) -> None:
        next_ping = time.monotonic() + self._heartbeat
        with contextlib.suppress(OSError):
            while True:
                with client.changed:
                    left = next_ping - time.monotonic()
                    if not client.queue and not client.closed and left > 0:
                        client.changed.wait(left)
                    batch, client.queue = client.queue, []
                    over = client.closed and not batch
                if batch:
                    client.peer.send_raw(_gorilla(b"\n".join(batch)))
                if over:
                    client.peer.send_raw(frame(CLOSE))
                    break
                if time.monotonic() >= next_ping:
                    client.peer.send_raw(frame(PING))
                    next_ping = time.monotonic() + self._heartbeat
        with contextlib.suppress(OSError):
            client.peer.sock.shutdown(socket.SHUT_RDWR)


def _encode(message: dict[str, Any]) -> bytes:
    text = json.dumps({**message, "timestamp": _TIMESTAMP}, separators=(",", ":"))
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text.encode()


def _gorilla(payload: bytes) -> bytes:
    """One text message as the Go hubs' library writes it: frames of one buffer each."""
    pieces = [
        payload[start : start + _WRITE_BUFFER] for start in range(0, len(payload), _WRITE_BUFFER)
    ]
    return b"".join(
        frame(CONTINUATION if index else TEXT, piece, fin=index == len(pieces) - 1)
        for index, piece in enumerate(pieces)
    )
