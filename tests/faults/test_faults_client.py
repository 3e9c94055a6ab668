"""Hostile and broken servers against the client: rows 1d and 2 of the list of faults."""

from __future__ import annotations

import contextlib
import errno
import gc
import itertools
import json
import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import websocket

from tests.integration.clients import Seen, await_inside
from tests.integration.gohub import RawServer, ServerPeer, frame
from tests.support import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    TIMEOUT,
    deflated,
    inflated,
    reset,
    tcp_pair,
    wait_until,
)
from ws_hub import ConnectionState, Message, NotConnected, ReconnectConfig, ReconnectingClient
from ws_hub import threads as workers
from ws_hub.errors import ConnectionClosed, HandshakeRefused, MaxRetriesExceeded, ProtocolError
from ws_hub.protocol import compression
from ws_hub.reconnect.connection import Connection
from ws_hub.reconnect.inbox import Inbox
from ws_hub.reconnect.stream import READ, Stream
from ws_hub.testing import FaultProxy


def idle(peer: ServerPeer) -> None:
    """Accept, read, and answer the Close frame."""
    peer.accept()
    peer.recv_close()
    peer.send_close()


def failure_of(handler: Callable[[ServerPeer], None], **settings: Any) -> BaseException:
    """What the one attempt, or connection, with such a server ended with."""
    settings = {"max_retries": 1, "stable_after": 100.0, "connect_timeout": TIMEOUT, **settings}
    with RawServer(handler) as server, Seen(server.url, **settings).connect() as seen:
        error = seen.outcome()
        assert error is not None
        cause = error.__cause__ if isinstance(error, MaxRetriesExceeded) else error
        assert cause is not None
        return cause


def after_accept(
    misbehave: Callable[[ServerPeer], None], codes: list[int]
) -> Callable[[ServerPeer], None]:
    def serve(peer: ServerPeer) -> None:
        peer.accept()
        misbehave(peer)
        codes.append(peer.recv_close()[0])

    return serve


# --- frames that must not be taken ---------------------------------------------------------

TORN = {
    "masked frame": (lambda p: p.send_raw(b"\x81\x81\x01\x02\x03\x04a"), 1002),
    "reserved bit": (lambda p: p.send_raw(b"\xc1\x01a"), 1002),
    "reserved opcode": (lambda p: p.send_raw(b"\x83\x01a"), 1002),
    "long ping": (lambda p: p.send_frame(PING, b"x" * 126), 1002),
    "ping in pieces": (lambda p: p.send_frame(PING, b"x", fin=False), 1002),
    "close of one byte": (lambda p: p.send_frame(CLOSE, b"x"), 1002),
    "close with a code that is none": (lambda p: p.send_close(999), 1002),
    "close with a code that is never sent": (lambda p: p.send_close(1006), 1002),
    "continuation of nothing": (lambda p: p.send_frame(CONTINUATION, b"x"), 1002),
    "a message inside a message": (
        lambda p: (p.send_frame(TEXT, b"x", fin=False), p.send_frame(TEXT, b"y")),
        1002,
    ),
    "text that is not UTF-8": (lambda p: p.send_frame(TEXT, b"\xff"), 1007),
    "text cut inside a character": (lambda p: p.send_frame(TEXT, "ü".encode()[:1]), 1007),
    "a frame of a gigabyte": (lambda p: p.send_frame(TEXT, b"x", length=1 << 30), 1009),
    "a frame of 2^63 bytes": (lambda p: p.send_frame(TEXT, b"x", length=1 << 63), 1009),
    "endless empty fragments": (
        lambda p: (
            p.send_frame(TEXT, b"", fin=False),
            p.send_raw(frame(CONTINUATION, b"", fin=False) * 33_000),
        ),
        1009,
    ),
}


@pytest.mark.parametrize("name", TORN)
def test_fault_16_57_a_frame_that_breaks_the_rules_ends_the_connection(name: str) -> None:
    misbehave, code = TORN[name]
    codes: list[int] = []
    error = failure_of(after_accept(misbehave, codes), max_message_size=1000)
    assert isinstance(error, ConnectionClosed)
    assert error.code == code
    assert error.reason
    assert codes == [code] * 2


# --- compression ---------------------------------------------------------------------------

AGREED = "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover"
RSV1 = 0x40


def packed(data: bytes, *, fin: bool = True) -> bytes:
    """A frame that begins a compressed message."""
    plain = frame(TEXT, data, fin=fin)
    return bytes([plain[0] | RSV1]) + plain[1:]


HELLO = deflated(b'{"type":"event","data":"hello hello hello"}')
BOMB = deflated(b"x" * 1_000_000)
BAD_DATA = {
    "no data at all": ([packed(b"\xff\xff\xff")], 1007),
    "no UTF-8": ([packed(deflated(b"\xff"))], 1007),
    "RSV1 in the middle": (
        [packed(HELLO[:5], fin=False), bytes([RSV1 | 0x80, 1]) + HELLO[5:6]],
        1002,
    ),
    "RSV1 on a ping": ([bytes([RSV1 | 0x80 | PING, 0])], 1002),
    "RSV2 as well": ([bytes([0x20 | packed(HELLO)[0]]) + packed(HELLO)[1:]], 1002),
}


@pytest.mark.parametrize("name", BAD_DATA)
def test_fault_57_compressed_data_that_breaks_the_rules_ends_the_connection(name: str) -> None:
    pieces, code = BAD_DATA[name]
    codes: list[int] = []

    def serve(peer: ServerPeer) -> None:
        peer.accept(AGREED)
        peer.send_raw(b"".join(pieces))
        codes.append(peer.recv_close()[0])

    error = failure_of(serve, max_message_size=1000, compression=True)
    assert isinstance(error, ConnectionClosed) and error.code == code, error
    assert codes == [code] * 2


def test_fault_13_the_client_takes_pings_between_compressed_fragments() -> None:
    def serve(peer: ServerPeer) -> None:
        peer.accept(AGREED)
        for _ in range(2):
            peer.send_raw(packed(HELLO[:5], fin=False) + frame(PING, b"between"))
            peer.send_raw(frame(CONTINUATION, HELLO[5:]) + frame(TEXT, b'{"type":"event"}'))
        peer.recv_close()
        peer.send_close()

    with RawServer(serve) as server, Seen(server.url, compression=True) as seen:
        seen.start()
        seen.wait_data("hello hello hello", None, "hello hello hello", None)


def test_what_the_client_sends_is_compressed_where_it_is_long() -> None:
    got: list[bytes] = []

    def serve(peer: ServerPeer) -> None:
        headers = peer.read_request()
        assert headers["sec-websocket-extensions"] == compression.OFFER
        peer.send_raw((peer.answer() + AGREED + "\r\n\r\n").encode())
        while (received := peer.recv_frame()).opcode != CLOSE:
            if received.rsv:
                assert received.rsv == RSV1 >> 4
                got.append(inflated(received.payload))
            else:
                got.append(received.payload)
        peer.send_close()

    with RawServer(serve) as server, Seen(server.url, compression=True) as seen:
        seen.start().connected()
        seen.client.send(Message("a", data="b" * 1000))
        seen.client.send(Message("a", data="b"))
        wait_until(lambda: len(got) == 3)
    assert [json.loads(each).get("data") for each in got[1:]] == ["b" * 1000, "b"]


@pytest.mark.parametrize(
    "answered",
    [
        "permessage-deflate",  # would keep its window, which we asked it not to
        "permessage-deflate; server_no_context_takeover; client_max_window_bits=15",
        "permessage-deflate; server_no_context_takeover; server_max_window_bits=16",
        "permessage-deflate; server_no_context_takeover=yes",
        "permessage-deflate; server_no_context_takeover, permessage-deflate",
        "x-webkit-deflate-frame",
    ],
)
def test_an_answer_about_compression_that_was_not_asked_for_is_a_failed_attempt(
    answered: str,
) -> None:
    def serve(peer: ServerPeer) -> None:
        peer.accept(f"Sec-WebSocket-Extensions: {answered}")

    error = failure_of(serve, compression=True)
    assert isinstance(error, ProtocolError) and "extension" in str(error)


def test_a_server_that_compresses_although_it_did_not_agree_breaks_the_rules() -> None:
    def serve(peer: ServerPeer) -> None:
        peer.accept()
        peer.send_raw(packed(HELLO))  # which was not agreed on
        assert peer.recv_close()[0] == 1002

    error = failure_of(serve, compression=True)
    assert isinstance(error, ConnectionClosed) and error.code == 1002


def test_fault_57_a_gigabyte_is_refused_before_it_is_read() -> None:
    codes: list[int] = []

    def flood(peer: ServerPeer) -> None:
        peer.send_frame(TEXT, b"x" * 100_000, length=1 << 30)

    error = failure_of(after_accept(flood, codes))
    assert isinstance(error, ConnectionClosed) and error.code == 1009
    assert "1073741824" in error.reason


def test_a_message_of_the_limit_passes() -> None:
    text = b'{"type":"event","data":"' + b"x" * 974 + b'"}'

    def serve(peer: ServerPeer) -> None:
        peer.accept()
        peer.send_frame(TEXT, text[:500], fin=False)
        peer.send_frame(PING, b"between")
        peer.send_frame(CONTINUATION, text[500:])
        assert peer.recv_frame().json["type"] == "ping"
        pong = peer.recv_frame()
        assert (pong.opcode, pong.payload) == (PONG, b"between")
        peer.recv_end()

    assert len(text) == 1000
    with RawServer(serve) as server, Seen(server.url, max_message_size=1000) as seen:
        seen.start()
        seen.wait_data("x" * 974)


def test_a_message_that_comes_byte_by_byte_comes_whole() -> None:
    def serve(peer: ServerPeer) -> None:
        peer.accept()
        peer.send_json({"type": "event", "data": "ü"})
        peer.recv_end()

    with RawServer(serve) as server, FaultProxy("127.0.0.1", server.port) as proxy:
        proxy.chop = 1
        with Seen(f"ws://127.0.0.1:{proxy.port}/ws") as seen:
            seen.start()
            seen.wait_data("ü")


@pytest.mark.parametrize(
    ("code", "reason"), [(1000, ""), (1001, "going"), (1011, "ü"), (1013, "x" * 123), (4999, "z")]
)
def test_a_close_is_told_and_echoed_as_it_was_received(code: int, reason: str) -> None:
    answers: list[tuple[int, str]] = []

    def serve(peer: ServerPeer) -> None:
        peer.accept()
        peer.send_close(code, reason)
        answers.append(peer.recv_close())
        peer.recv_end()

    error = failure_of(serve)
    assert isinstance(error, ConnectionClosed)
    assert (error.code, error.reason) == (code, reason)
    assert answers == [(code, reason)] * 2


def test_an_empty_close_is_1005_and_echoed_empty() -> None:
    answers: list[tuple[int, str]] = []

    def serve(peer: ServerPeer) -> None:
        peer.accept()
        peer.send_close(None)
        answers.append(peer.recv_close())

    error = failure_of(serve)
    assert isinstance(error, ConnectionClosed) and error.code == 1005
    assert answers == [(1005, "")] * 2


@pytest.mark.parametrize("how", ["fin", "rst", "mid-frame"])
def test_fault_31_an_end_without_a_close_is_1006(how: str, caplog: Any) -> None:
    def serve(peer: ServerPeer) -> None:
        peer.accept()
        peer.recv_json("ping")
        if how == "mid-frame":
            peer.send_frame(TEXT, b"x", length=100)
        if how == "rst":
            reset(peer.sock)

    error = failure_of(serve)
    assert isinstance(error, ConnectionClosed) and error.code == 1006
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize("code", [4401, 4403])
def test_fault_50_a_close_that_would_come_again_is_not_retried(code: int) -> None:
    def serve(peer: ServerPeer) -> None:
        peer.accept()
        peer.send_close(code, "no")
        peer.recv_end()

    with RawServer(serve) as server, Seen(server.url).connect() as seen:
        error = seen.outcome()
        assert isinstance(error, ConnectionClosed) and error.code == code
        assert seen.of("disconnect") == [("disconnect", code, "no", False)]
        assert server.accepted == 1


# --- handshakes ----------------------------------------------------------------------------


def answer(text: str) -> Callable[[ServerPeer], None]:
    def serve(peer: ServerPeer) -> None:
        peer.read_request()
        peer.send_raw(text.encode())
        peer.recv_end()

    return serve


@pytest.mark.parametrize("status", [401, 403])
def test_fault_50_a_refusal_that_would_come_again_is_not_retried(status: int) -> None:
    handler = answer(f"HTTP/1.1 {status} No\r\nContent-Length: 99999999999\r\n\r\n")
    with RawServer(handler) as server, Seen(server.url).connect() as seen:
        error = seen.outcome()
        assert isinstance(error, HandshakeRefused) and error.status == status
        assert server.accepted == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_fault_57_no_redirect_is_followed(status: int) -> None:
    asked: list[dict[str, str]] = []

    def thief(peer: ServerPeer) -> None:
        asked.append(peer.read_request())

    with RawServer(thief) as other:
        error = failure_of(
            answer(f"HTTP/1.1 {status} Moved\r\nLocation: {other.url}\r\n\r\n"),
            headers={"Authorization": "Bearer SECRET", "Cookie": "sid=1"},
        )
        assert isinstance(error, HandshakeRefused) and error.status == status
        assert other.accepted == 0 and not asked


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ("Retry-After: 120", 120.0),
        ("Retry-After: 99999999999999999999", 3600.0),
        (
            "Date: Fri, 20 Feb 2026 01:00:00 GMT\r\nRetry-After: Fri, 20 Feb 2026 01:01:30 GMT",
            90.0,
        ),
        (
            "Date: Fri, 20 Feb 2026 02:00:00 GMT\r\nRetry-After: Fri, 20 Feb 2026 01:00:00 GMT",
            0.0,
        ),
        ("Retry-After: Fri, 20 Feb 2026 01:01:30 GMT", None),
        ("Retry-After: soon", None),
        ("Retry-After: 7\r\nRetry-After: 9", 7.0),
        ("Retry-After: soon\r\nRetry-After: 9", None),
        (
            "Date: Fri, 20 Feb 2026 01:00:00 GMT\r\nRetry-After: Fri, 20 Feb 2026 01:01:30 GMT\r\n"
            "Date: Fri, 20 Feb 2026 01:01:00 GMT\r\nRetry-After: 1",
            90.0,
        ),
        ("X: y", None),
    ],
)
def test_fault_50_retry_after_is_read(headers: str, seconds: float | None) -> None:
    with (
        RawServer(answer(f"HTTP/1.1 503 Busy\r\n{headers}\r\n\r\n")) as server,
        Seen(server.url).start() as seen,
    ):
        (error,) = seen.wait("error")
        assert isinstance(error, HandshakeRefused)
        assert (error.status, error.reason, error.retry_after) == (503, "Busy", seconds)


def test_fault_50_retry_after_is_waited_for_and_a_close_does_not_wait() -> None:
    handler = answer("HTTP/1.1 429 Slow down\r\nRetry-After: 600\r\n\r\n")
    with RawServer(handler) as server, Seen(server.url).start() as seen:
        seen.wait("error")
        seen.close_at_once()
        assert server.accepted == 1


NO_HANDSHAKE = {
    "no HTTP": "SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "no status": "HTTP/1.1\r\n\r\n",
    "a status that is none": "HTTP/1.1 1O1 Switching\r\n\r\n",
    "no upgrade": "HTTP/1.1 101 Switching Protocols\r\n\r\n",
    "wrong key": "HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
    "an extension": "HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n",
}


@pytest.mark.parametrize("name", NO_HANDSHAKE)
def test_an_answer_that_is_no_handshake_is_a_failed_attempt(name: str) -> None:
    assert isinstance(failure_of(answer(NO_HANDSHAKE[name])), ProtocolError)


def test_subprotocol_that_was_not_offered_fails_the_attempt() -> None:
    def serve(peer: ServerPeer) -> None:
        peer.accept("Sec-WebSocket-Protocol: other")

    assert isinstance(failure_of(serve, subprotocols=["mine"]), ProtocolError)


def test_an_end_during_the_handshake_is_a_failed_attempt() -> None:
    assert isinstance(failure_of(lambda peer: None), ConnectionError)


def test_a_head_without_end_is_a_failed_attempt() -> None:
    def flood(peer: ServerPeer) -> None:
        peer.read_request()
        peer.send_raw(b"HTTP/1.1 101 S\r\n")
        while True:
            peer.send_raw(b"X: " + b"y" * 1000 + b"\r\n")

    error = failure_of(flood)
    assert isinstance(error, ProtocolError)
    assert "65536" in str(error)


def test_fault_7_a_head_that_drips_meets_the_deadline() -> None:
    stop = threading.Event()

    def drip(peer: ServerPeer) -> None:
        peer.read_request()
        while not stop.wait(0.02):
            peer.send_raw(b"H")

    begin = time.monotonic()
    error = failure_of(drip, connect_timeout=0.3)
    stop.set()
    assert isinstance(error, TimeoutError)
    assert time.monotonic() - begin < TIMEOUT


@pytest.mark.parametrize("tls", [False, True])
def test_a_silent_server_meets_the_deadline(tls: bool) -> None:
    with RawServer(lambda peer: peer.recv_end()) as server:
        url = server.url.replace("ws:", "wss:") if tls else server.url
        with Seen(url, connect_timeout=0.2, max_retries=1).connect() as seen:
            error = seen.outcome()
    assert error is not None and isinstance(error.__cause__, TimeoutError)


def test_what_comes_together_with_the_handshake_is_not_lost() -> None:
    def serve(peer: ServerPeer) -> None:
        peer.read_request()
        first = frame(TEXT, b'{"type":"event","data":1}')
        peer.send_raw(f"{peer.answer()}\r\n".encode() + first)
        peer.send_json({"type": "event", "data": 2})
        peer.recv_end()

    with RawServer(serve) as server, Seen(server.url) as seen:
        seen.start()
        seen.wait_data(1, 2)


@pytest.fixture
def jar() -> Iterator[Any]:
    """websocket-client's cookie jar, which is one for the process; left as it was."""
    from websocket._handshake import CookieJar

    before = dict(CookieJar.jar)
    yield CookieJar
    CookieJar.jar.clear()
    CookieJar.jar.update(before)


def test_a_cookie_of_one_handshake_is_never_sent_by_another(jar: Any) -> None:
    asked: list[dict[str, str]] = []

    def serve(peer: ServerPeer) -> None:
        peer.accept("Set-Cookie: sid=first; Domain=localhost; Path=/")
        asked.append(peer.headers)
        peer.recv_close()

    with RawServer(serve) as server:
        url = server.url.replace("127.0.0.1", "localhost")
        for headers in ({}, {}, {"Cookie": "own=1"}):
            with Seen(url, headers=headers) as seen:
                seen.start().connected()
        assert not jar.jar, "nor by anybody else in this process"
        # Nor do we send what somebody else's handshake has put there.
        jar.add("sid=other; Domain=localhost")
        assert jar.get("localhost")
        for headers in ({}, {"Cookie": "own=1"}):
            with Seen(url, headers=headers) as seen:
                seen.start().connected()
    assert [each.get("cookie") for each in asked] == [None, None, "own=1", None, "own=1"]


def test_no_origin_is_sent_unless_it_is_set() -> None:
    asked: list[dict[str, str]] = []

    def serve(peer: ServerPeer) -> None:
        peer.accept()
        asked.append(peer.headers)
        peer.recv_close()

    with RawServer(serve) as server:
        for origin in (None, "https://example.com"):
            with Seen(server.url, origin=origin) as seen:
                seen.start().connected()
    assert [each.get("origin") for each in asked] == [None, "https://example.com"]


# --- addresses and proxies -----------------------------------------------------------------


def test_the_next_address_is_tried_whatever_was_wrong_with_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = socket.socket.connect_ex
    tried: list[Any] = []

    def connect(sock: socket.socket, address: Any) -> int:
        tried.append(address)
        codes = {1: errno.EHOSTUNREACH, 2: errno.EACCES}
        return codes.get(len(tried)) or real(sock, address)

    with RawServer(idle) as server:
        addresses = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, server.port))
            for host in ("127.0.0.2", "127.0.0.3", "127.0.0.1")
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: addresses)
        monkeypatch.setattr(socket.socket, "connect_ex", connect)
        with Seen(f"ws://example.test:{server.port}/") as seen:
            seen.start().connected()
            assert not seen.of("error")
    assert [address[0] for address in tried] == ["127.0.0.2", "127.0.0.3", "127.0.0.1"]


@contextlib.contextmanager
def silent_address() -> Iterator[tuple[str, int]]:
    """An address that answers nothing to a SYN: a listener whose backlog is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        for _ in range(8):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(address)
        yield address


def test_an_address_that_is_silent_leaves_time_for_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with RawServer(idle) as server, silent_address() as silent:
        addresses = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", address)
            for address in (silent, ("127.0.0.1", server.port))
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: addresses)
        with Seen("ws://example.test/", connect_timeout=2.0) as seen:
            seen.start().connected()
            assert not seen.of("error")


def test_a_name_without_address_is_a_failed_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **options: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with Seen("ws://example.test/", max_retries=1).connect() as seen:
        error = seen.outcome()
    assert error is not None and isinstance(error.__cause__, socket.gaierror)


def test_a_name_without_any_address_is_a_failed_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: [])
    with Seen("ws://example.test/", max_retries=1).connect() as seen:
        error = seen.outcome()
    assert error is not None and isinstance(error.__cause__, OSError)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RawServer(idle) as server, RawServer(idle) as proxy:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        with Seen(f"ws://{host}:{server.port}/") as seen:
            seen.start().connected()
        assert proxy.accepted == 0


def test_a_proxy_of_the_environment_is_asked_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[str] = []

    def serve(peer: ServerPeer) -> None:
        peer.read_request()
        requests.append(peer.request.decode())
        peer.send_raw(b"HTTP/1.1 200 OK\r\n\r\n")
        idle(peer)

    with RawServer(serve) as proxy:
        monkeypatch.setenv("http_proxy", f"http://us%3Aer:pass@127.0.0.1:{proxy.port}")
        with Seen("ws://example.test/ws") as seen:
            seen.start().connected()
    assert requests[0].startswith("CONNECT example.test:80 HTTP/1.1\r\nHost: example.test:80\r\n")
    assert "Proxy-Authorization: Basic dXM6ZXI6cGFzcw==" in requests[0]


@pytest.mark.parametrize(("proxy", "says"), [("socks5://127.0.0.1:1", "only http://"), ("", "407")])
def test_a_proxy_that_cannot_or_will_not_is_a_failed_attempt(
    proxy: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RawServer(answer("HTTP/1.1 407 Who?\r\n\r\n")) as server:
        monkeypatch.setenv("http_proxy", proxy or f"127.0.0.1:{server.port}")
        with Seen("ws://example.test/ws", max_retries=1).connect() as seen:
            error = seen.outcome()
    assert error is not None and says in str(error.__cause__)


# --- TLS -----------------------------------------------------------------------------------


@pytest.fixture
def tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def test_tls_with_the_right_name_works_and_large_messages_pass_both_ways(
    certificate: Path, tls: ssl.SSLContext
) -> None:
    def echo(peer: ServerPeer) -> None:
        peer.accept()
        for _ in range(3):
            peer.send_json(peer.recv_json("event"))
        peer.recv_close()

    trusted = ssl.create_default_context(cafile=str(certificate))
    with RawServer(echo, ssl_context=tls) as server:
        url = server.url.replace("127.0.0.1", "localhost")
        with Seen(url, ssl_context=trusted) as seen:
            seen.start().connected()
            texts = ["a", "x" * 300_000, "ü" * 1000]
            for text in texts:
                seen.client.send(Message("event", data=text))
            seen.wait_data(*texts)
            seen.close_at_once()


@pytest.mark.parametrize("wrong", ["name", "authority"])
def test_fault_57_a_wrong_certificate_is_refused(
    wrong: str, certificate: Path, tls: ssl.SSLContext
) -> None:
    context = ssl.create_default_context(cafile=str(certificate)) if wrong == "name" else None
    with RawServer(idle, ssl_context=tls) as server:
        url = server.url if wrong == "name" else server.url.replace("127.0.0.1", "localhost")
        with Seen(url, ssl_context=context, max_retries=1).connect() as seen:
            error = seen.outcome()
    assert error is not None
    assert isinstance(error.__cause__, ssl.SSLCertVerificationError)


def test_fault_1b_bytes_that_tls_has_decrypted_already_are_not_waited_for(
    certificate: Path, tls: ssl.SSLContext
) -> None:
    def serve(peer: ServerPeer) -> None:
        peer.send_raw(b"one record")
        peer.recv_end()

    trusted = ssl.create_default_context(cafile=str(certificate))
    with RawServer(serve, ssl_context=tls) as server:
        stream = Stream(socket.create_connection(("127.0.0.1", server.port)), time.monotonic)
        try:
            soon = time.monotonic() + TIMEOUT
            stream.start_tls(trusted, "localhost", soon)
            got = b""
            while len(got) < 10:
                assert stream.wait(READ, soon)
                got += stream.receive(1) or b""
            assert got == b"one record"
        finally:
            stream.close()


# --- half-open, stalled, jumping clocks ----------------------------------------------------


def test_fault_30_a_half_open_server_is_noticed_by_ping() -> None:
    with RawServer(idle) as server, FaultProxy("127.0.0.1", server.port) as proxy:
        url = f"ws://127.0.0.1:{proxy.port}/ws"
        with Seen(url, ping_interval=0.1, ping_timeout=0.2) as seen:
            seen.start().connected()
            proxy.black_hole()
            code, reason, will_retry = seen.wait("disconnect")
            assert (code, will_retry) == (1006, True)
            assert "no sign of life" in reason
            proxy.heal()
            seen.wait("connect", 2)


def test_silence_is_pinged_and_any_sign_of_life_is_enough() -> None:
    pings = threading.Semaphore(0)

    def serve(peer: ServerPeer) -> None:
        peer.accept()
        while True:
            got = peer.recv_frame()
            if got.opcode == PING:
                peer.send_frame(PONG, b"not what was asked")
                pings.release()
            elif got.opcode == CLOSE:
                return

    with RawServer(serve) as server:
        with Seen(server.url, ping_interval=0.05, ping_timeout=1.5) as seen:
            seen.start().connected()
            for _ in range(40):  # two seconds: longer than the timeout
                assert pings.acquire(timeout=TIMEOUT)
            assert not seen.of("disconnect")


def test_fault_33_the_wall_clock_may_jump(monkeypatch: pytest.MonkeyPatch) -> None:
    pings = threading.Semaphore(0)

    def serve(peer: ServerPeer) -> None:
        peer.accept()
        while (got := peer.recv_frame()).opcode != CLOSE:
            if got.opcode == PING:
                peer.send_frame(PONG, got.payload)
                pings.release()

    with RawServer(serve) as server:
        with Seen(server.url, ping_interval=0.05, ping_timeout=TIMEOUT) as seen:
            seen.start().connected()
            real = time.time
            for jump in (3600.0, -3600.0):
                monkeypatch.setattr(time, "time", lambda jump=jump: real() + jump)
                for _ in range(5):
                    assert pings.acquire(timeout=TIMEOUT)
            assert not seen.of("disconnect")


def test_fault_34_an_answer_that_lies_in_the_buffer_counts_however_late_it_is_read() -> None:
    now = [0.0]
    near, far = socket.socketpair()
    with far:
        far.settimeout(TIMEOUT)
        stream = Stream(near, lambda: now[0])
        config = ReconnectConfig(url="ws://-", ping_interval=10.0, ping_timeout=5.0)
        link = Connection(stream, b"", config, clock=lambda: now[0])
        now[0] = 100.0  # the process was stopped, and the answer came in meanwhile
        far.sendall(frame(TEXT, b"alive"))
        assert link.receive() == "alive"
        now[0] = 110.0
        got: list[Any] = []

        def receive() -> None:
            try:
                got.append(link.receive())
            except ConnectionClosed as end:
                got.append(end)

        thread = threading.Thread(target=receive)
        thread.start()
        peer = ServerPeer(far)
        assert peer.recv_frame().opcode == PING
        now[0] = 1000.0  # far beyond the timeout
        far.sendall(frame(PONG) + frame(TEXT, b"back"))
        thread.join(TIMEOUT)
        assert got == ["back"]
        link.finish()


def test_a_send_that_is_stuck_is_given_up_and_the_connection_with_it() -> None:
    stop = threading.Event()

    def never_read(peer: ServerPeer) -> None:
        peer.accept()
        stop.wait(TIMEOUT)

    with RawServer(never_read, rcvbuf=4096) as server:
        with Seen(server.url, write_timeout=0.2) as seen:
            seen.start().connected()
            with pytest.raises(NotConnected, match="not sent within"):
                seen.client.send(Message("event", data="x" * 20_000_000))
            code, reason, _ = seen.wait("disconnect")
            assert code == 1006 and "a send failed" in reason
            stop.set()
            seen.wait("connect", 2)


def test_a_send_that_meets_the_end_does_not_hide_why_it_ended() -> None:
    """The Close frame lies unread while a callback sleeps, and the send finds a dead socket."""

    def serve(peer: ServerPeer) -> None:
        peer.accept()
        peer.recv_json("ping")
        for n in range(3):
            peer.send_json({"type": "event", "data": n})
        peer.send_close(4401, "expired")

    with (
        RawServer(serve) as server,
        Seen(server.url, queue_size=1, queue_patience=TIMEOUT) as seen,
    ):
        inside, leave = threading.Event(), threading.Event()

        def block(event: tuple[Any, ...]) -> None:
            if event[0] == "message":
                inside.set()
                leave.wait(TIMEOUT)

        seen.hook = block
        seen.connect()  # not before: the messages come at once
        assert inside.wait(TIMEOUT)
        await_inside("ws-hub:receive", Inbox.offer, threading.Condition.wait)

        def fails() -> bool:
            try:
                seen.client.send(Message("event"))
            except NotConnected:
                return True
            return False

        wait_until(fails)
        leave.set()
        error = seen.outcome()
        assert isinstance(error, ConnectionClosed)
        assert (error.code, error.reason) == (4401, "expired")


def test_pings_are_answered_while_a_send_is_stuck() -> None:
    done = threading.Event()

    def serve(peer: ServerPeer) -> None:
        peer.accept()
        peer.send_json({"type": "event", "data": "stuck?"})
        for _ in range(200):
            peer.send_frame(PING, b"p")
        peer.send_json({"type": "event", "data": "read on"})
        assert done.wait(TIMEOUT)
        while (got := peer.recv_frame()).opcode != PONG:
            pass
        assert got.payload == b"p"
        peer.recv_end()

    with RawServer(serve, rcvbuf=4096) as server, Seen(server.url) as seen:
        seen.start().connected()
        sender = threading.Thread(
            target=lambda: seen.client.send(Message("event", data="x" * 8_000_000))
        )
        sender.start()
        # It reads although it cannot write: two sides that both only write would wait for
        # each other for ever.
        seen.wait_data("stuck?", "read on")
        done.set()
        sender.join(TIMEOUT)
        assert not sender.is_alive()


def test_fault_17_pings_that_are_not_read_back_do_not_grow_the_memory() -> None:
    with tcp_pair(sndbuf=4096, rcvbuf=4096) as (near, far):
        stream = Stream(near.dup(), time.monotonic)
        config = ReconnectConfig(url="ws://-")
        link = Connection(stream, b"", config, clock=time.monotonic)
        got: list[Any] = []
        receiver = threading.Thread(target=lambda: got.append(link.receive()))
        receiver.start()
        pings = frame(PING, b"x" * 125) * 1000
        for _ in range(50):  # 6 MB of pongs, if they were all kept
            far.sendall(pings)
        far.sendall(frame(TEXT, b"after"))
        receiver.join(TIMEOUT)
        assert got == ["after"]
        assert 0 < stream.unsent < 100_000
        link.finish()


def test_a_server_that_makes_us_answer_and_does_not_read_is_cut() -> None:
    channel = "a" * 4096  # twice in each answer

    def serve(peer: ServerPeer) -> None:
        peer.accept()
        _, _, first = peer.recv_json("subscribe")["id"].rpartition(":")
        notice = json.dumps({"type": "lagged", "channel": channel, "seq": 1}).encode()
        for number in itertools.count(int(first)):  # each answer is answered before it comes
            ack = {"type": "ack", "id": f"ws-hub:{number}", "data": {"epoch": "e", "seq": 1}}
            peer.send_raw(frame(TEXT, json.dumps(ack).encode() + b"\n" + notice))

    with RawServer(serve, rcvbuf=4096) as server, Seen(server.url) as seen:
        seen.client.subscribe(channel)
        seen.start()
        code, reason, _ = seen.wait("disconnect")
        assert (code, reason) == (1006, "the server does not read")


# --- no threads left -----------------------------------------------------------------------


def refuse_threads(monkeypatch: pytest.MonkeyPatch, role: str) -> list[str]:
    """Let the first thread of a role fail as the system's limit makes it fail."""
    real, refused = workers.start, []

    def start(name: str, *arguments: Any) -> threading.Thread:
        if role in name and not refused:
            refused.append(name)
            raise RuntimeError("can't start new thread")
        return real(name, *arguments)

    monkeypatch.setattr(workers, "start", start)
    return refused


def test_fault_42_without_a_thread_to_read_the_connection_ends_and_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refused = refuse_threads(monkeypatch, "receive")
    with RawServer(idle) as server, Seen(server.url).connect() as seen:
        assert seen.wait("disconnect") == (1006, "can't start new thread", True)
        seen.wait("connect", 2)
        assert len(refused) == 1


def test_fault_42_without_a_thread_to_connect_the_start_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refuse_threads(monkeypatch, "connect")
    with RawServer(idle) as server, Seen(server.url) as seen:
        with pytest.raises(RuntimeError, match="can't start"):
            seen.client.start()
        seen.client.start()
        seen.connected()


# --- 58: close, in every state -------------------------------------------------------------


def leaves_nothing(seen: Seen) -> None:
    seen.close_at_once()
    own = ("ws-hub:connect:", "ws-hub:receive:")  # no test has another client
    wait_until(lambda: not [each for each in threading.enumerate() if each.name.startswith(own)])
    assert seen.client.state is ConnectionState.DISCONNECTED


def test_fault_58_close_before_the_start() -> None:
    with Seen("ws://127.0.0.1:9/") as seen:
        leaves_nothing(seen)


def test_fault_58_close_during_a_name_lookup(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answered = threading.Event(), threading.Event()

    def look_up(*arguments: Any, **options: Any) -> Any:
        if options.get("flags"):
            raise socket.gaierror(socket.EAI_NONAME, "not a number")
        asked.set()
        answered.wait(TIMEOUT)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with Seen("ws://example.test/").connect() as seen:
        assert asked.wait(TIMEOUT)
        seen.close_at_once()
        assert seen.outcome() is None
        answered.set()  # the lookup's own thread ends with its answer


def test_a_name_lookup_meets_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()

    def look_up(*arguments: Any, **options: Any) -> Any:
        if options.get("flags"):
            raise socket.gaierror(socket.EAI_NONAME, "not a number")
        answered.wait(TIMEOUT)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with Seen("ws://example.test/", connect_timeout=0.1, max_retries=1).connect() as seen:
        error = seen.outcome()
        answered.set()
    assert error is not None and isinstance(error.__cause__, TimeoutError)


def test_fault_58_close_while_tcp_connects(monkeypatch: pytest.MonkeyPatch) -> None:
    with silent_address() as (host, port):
        with Seen(f"ws://{host}:{port}/").start() as seen:
            wait_until(lambda: seen.client.state is ConnectionState.CONNECTING)
            await_inside("ws-hub:connect", Stream.wait)
            leaves_nothing(seen)
            assert not seen.events


@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_fault_58_close_during_the_handshake(scheme: str) -> None:
    asked = threading.Event()

    def serve(peer: ServerPeer) -> None:
        peer.sock.recv(10)
        asked.set()
        peer.recv_end()

    with RawServer(serve) as server:
        with Seen(f"{scheme}://127.0.0.1:{server.port}/").start() as seen:
            assert asked.wait(TIMEOUT)
            assert seen.client.state is ConnectionState.CONNECTING
            leaves_nothing(seen)
            assert not seen.events


def test_fault_58_close_during_the_backoff() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))  # and does not listen
        url = f"ws://127.0.0.1:{sock.getsockname()[1]}/"
        with Seen(url, initial_backoff=600.0, max_backoff=600.0).start() as seen:
            seen.wait("error")
            leaves_nothing(seen)


def test_fault_58_close_while_connected() -> None:
    with RawServer(idle) as server, Seen(server.url).start() as seen:
        seen.connected().wait("connect")
        leaves_nothing(seen)
        assert seen.of("disconnect") == [("disconnect", 1000, "", False)]


@pytest.mark.parametrize("callback", ["connect", "message", "error", "disconnect", "reconnect"])
def test_fault_58_close_inside_a_callback(callback: str) -> None:
    def serve(peer: ServerPeer) -> None:
        peer.accept()
        peer.recv_json("ping")
        peer.send_frame(TEXT, b'{"type":"event","data":1}\nnonsense')
        peer.send_close(1012)
        peer.recv_end()

    with RawServer(serve) as server, Seen(server.url) as seen:
        closed = threading.Event()

        def close(event: tuple[Any, ...]) -> None:
            if event[0] == callback:
                seen.close_at_once()
                closed.set()

        seen.hook = close
        seen.connect()
        assert closed.wait(TIMEOUT)
        assert seen.outcome() is None
        leaves_nothing(seen)
        assert len(seen.of("connect")) == len(seen.of("disconnect"))
        assert seen.events[-1][0] == "disconnect"


def test_fault_36_58_close_while_a_callback_blocks() -> None:
    def serve(peer: ServerPeer) -> None:
        peer.accept()
        peer.send_json({"type": "event", "data": 1})
        peer.recv_end()

    with RawServer(serve) as server, Seen(server.url) as seen:
        inside, leave = threading.Event(), threading.Event()

        def block(event: tuple[Any, ...]) -> None:
            if event[0] == "message":
                inside.set()
                leave.wait(TIMEOUT)

        seen.hook = block
        seen.connect()
        assert inside.wait(TIMEOUT)
        seen.close_at_once()
        assert seen.client.state is ConnectionState.DISCONNECTED
        leave.set()
        assert seen.outcome() is None


def test_fault_58_close_while_the_queue_is_full() -> None:
    def serve(peer: ServerPeer) -> None:
        peer.accept()
        while True:
            peer.send_json({"type": "event", "data": 1})

    with RawServer(serve) as server, Seen(server.url, queue_size=2) as seen:
        inside, leave = threading.Event(), threading.Event()

        def block(event: tuple[Any, ...]) -> None:
            if event[0] == "message":
                inside.set()
                leave.wait(TIMEOUT)

        seen.hook = block
        seen.start()
        assert inside.wait(TIMEOUT)
        await_inside("ws-hub:receive", Inbox.offer, threading.Condition.wait)
        seen.close_at_once()
        leave.set()
        leaves_nothing(seen)
        assert len(seen.messages()) == 1


def test_fault_58_close_towards_a_half_open_server() -> None:
    with RawServer(idle) as server, FaultProxy("127.0.0.1", server.port) as proxy:
        with Seen(f"ws://127.0.0.1:{proxy.port}/ws").start() as seen:
            seen.connected().wait("connect")
            proxy.black_hole()
            leaves_nothing(seen)
            assert seen.of("disconnect") == [("disconnect", 1000, "", False)]


def test_fault_58_close_while_a_send_is_stuck() -> None:
    stop = threading.Event()

    def never_read(peer: ServerPeer) -> None:
        peer.accept()
        stop.wait(TIMEOUT)

    with RawServer(never_read, rcvbuf=4096) as server, Seen(server.url).start() as seen:
        seen.connected()
        errors: list[Exception] = []

        def send() -> None:
            try:
                seen.client.send(Message("event", data="x" * 20_000_000))
            except NotConnected as error:
                errors.append(error)

        sender = threading.Thread(target=send, name="test:sender")
        sender.start()
        await_inside("test:sender", Stream.wait)
        await_inside("ws-hub:receive", Stream.wait)
        leaves_nothing(seen)
        sender.join(TIMEOUT)
        stop.set()
        assert len(errors) == 1


def test_fault_58_many_threads_close_at_once() -> None:
    with RawServer(idle) as server, Seen(server.url).start() as seen:
        seen.connected()
        threads = [threading.Thread(target=seen.client.close) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT)
        leaves_nothing(seen)


@pytest.mark.parametrize("moment", range(30))
def test_fault_58_close_at_any_moment_of_connecting(moment: int) -> None:
    with RawServer(idle) as server, Seen(server.url) as seen:
        seen.start()
        for _ in range(moment * 40):
            seen.client.state  # noqa: B018 - passes the time, and takes the locks
        leaves_nothing(seen)
        assert len(seen.of("connect")) == len(seen.of("disconnect"))


def test_a_signal_handler_may_close_the_client_of_its_own_thread() -> None:
    previous = signal.getsignal(signal.SIGUSR1)
    with RawServer(idle) as server, Seen(server.url) as seen:
        signal.signal(signal.SIGUSR1, lambda *_: seen.client.close())
        try:
            seen.hook = lambda event: (
                os.kill(os.getpid(), signal.SIGUSR1) if event[0] == "connect" else None
            )
            seen.client.connect()
        finally:
            signal.signal(signal.SIGUSR1, previous)
        assert [event[0] for event in seen.events] == ["connect", "disconnect"]


def test_fault_40_a_forked_child_starts_clean_and_the_parent_goes_on() -> None:
    with RawServer(idle) as server, Seen(server.url).start() as seen:
        seen.client.subscribe("news")
        seen.connected().wait("connect")
        pid = os.fork()
        if not pid:
            try:
                clean = seen.client.state is ConnectionState.DISCONNECTED
                kept = set(seen.client.subscriptions()) == {"news"}
                os._exit(0 if clean and kept else 1)
            finally:
                os._exit(2)
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        seen.client.send(Message("event", data="still there"))
        assert seen.client.state is ConnectionState.CONNECTED


@pytest.mark.parametrize("closed", [False, True])
def test_fault_40_a_client_that_was_forked_unconnected_keeps_what_it_was_told(
    closed: bool,
) -> None:
    with RawServer(idle) as server, Seen(server.url) as seen:
        seen.client.subscribe("news")
        if closed:
            seen.client.close()
        seen.client.forget()
        assert set(seen.client.subscriptions()) == {"news"}
        if not closed:
            seen.start().connected()
        else:
            seen.client.connect()
            assert not seen.events


def test_fault_44_hundreds_of_connections_leave_nothing() -> None:
    def drop(peer: ServerPeer) -> None:
        peer.accept()

    with RawServer(drop) as server, Seen(server.url, initial_backoff=0.001, max_backoff=0.001) as s:
        s.start()
        s.wait("connect", 20)
        gc.collect()
        before = len(os.listdir("/proc/self/fd"))
        for count in range(50, 350, 50):
            s.wait("connect", count)
        gc.collect()
        assert len(os.listdir("/proc/self/fd")) <= before + 3


def test_the_stock_client_is_left_as_it_was() -> None:
    """Our handshakes change nothing for others in this process who use websocket-client."""
    asked: list[dict[str, str]] = []

    def serve(peer: ServerPeer) -> None:
        peer.accept()
        asked.append(peer.headers)
        peer.recv_close()

    with RawServer(serve) as server:
        with Seen(server.url) as seen:
            seen.start().connected()
        stock = websocket.create_connection(server.url)
        stock.close(timeout=0)
    assert "origin" in asked[1]
    assert isinstance(ReconnectingClient(server.url), ReconnectingClient)
    assert BINARY == websocket.ABNF.OPCODE_BINARY
