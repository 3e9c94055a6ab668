"""Bytes in, events out, within limits; and the end of a connection."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.apps.live import at_once
from tests.support import TIMEOUT, small_pair, tcp_pair
from ws_hub.connection import transport as module
from ws_hub.connection.transport import (
    Binary,
    Broken,
    Closed,
    Event,
    Pinged,
    Ponged,
    Text,
    Transport,
)

FIN, TEXT, BINARY, CLOSE, PING, PONG, MORE = 0x80, 1, 2, 8, 9, 10, 0


def frame(opcode: int, payload: bytes, *, fin: bool = True, masked: bool = True) -> bytes:
    """One frame as a client sends it; of any shape."""
    first = (FIN if fin else 0) | opcode
    mask = 0x80 if masked else 0
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", first, mask | size)
    elif size < 1 << 16:
        head = struct.pack("!BBH", first, mask | 126, size)
    else:
        head = struct.pack("!BBQ", first, mask | 127, size)
    return head + (b"\0\0\0\0" if masked else b"") + payload


@pytest.fixture
def tls_pair(certificate: Path) -> Iterator[tuple[ssl.SSLSocket, ssl.SSLSocket]]:
    """(server, client) of one TLS connection."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate)
    client = ssl.create_default_context(cafile=str(certificate))
    client.check_hostname = False
    with tcp_pair() as (near, far):
        ends: list[ssl.SSLSocket] = []
        thread = threading.Thread(
            target=lambda: ends.append(server.wrap_socket(near, server_side=True))
        )
        thread.start()
        with client.wrap_socket(far) as far_end:
            thread.join(5)
            with ends[0] as near_end:
                yield near_end, far_end


@pytest.fixture
def pair() -> Iterator[tuple[Transport, socket.socket]]:
    with small_pair(1 << 16) as (near, far):
        yield Transport(near, max_message_size=100, max_fragments=3), far


def events(transport: Transport, far: socket.socket, *data: bytes) -> list[Event]:
    far.sendall(b"".join(data))
    found = transport.receive(5)
    assert found is not None
    return found


def test_messages_and_control_frames_become_events(pair: tuple[Transport, socket.socket]) -> None:
    assert events(
        *pair,
        frame(TEXT, "hé".encode()),
        frame(BINARY, b"\0\xff"),
        frame(PING, b"p"),
        frame(PONG, b""),
        frame(CLOSE, struct.pack("!H", 1000) + b"bye"),
    ) == [Text("hé"), Binary(b"\0\xff"), Pinged(b"p"), Ponged(), Closed(1000, "bye")]


def test_a_close_without_a_code_is_1005(pair: tuple[Transport, socket.socket]) -> None:
    assert events(*pair, frame(CLOSE, b"")) == [Closed(1005, "")]


def test_fragments_are_one_message_with_a_ping_between(
    pair: tuple[Transport, socket.socket],
) -> None:
    assert events(
        *pair,
        frame(TEXT, b"one ", fin=False),
        frame(PING, b""),
        frame(MORE, "zwö".encode()),
        frame(BINARY, b"a", fin=False),
        frame(MORE, b"b"),
    ) == [Pinged(b""), Text("one zwö"), Binary(b"ab")]


def test_half_a_frame_returns_no_event_and_is_a_sign_of_life(
    pair: tuple[Transport, socket.socket],
) -> None:
    whole = frame(TEXT, b"hello")
    assert events(*pair, whole[:4]) == []
    assert events(*pair, whole[4:]) == [Text("hello")]


def test_silence_is_none(pair: tuple[Transport, socket.socket]) -> None:
    assert pair[0].receive(0) is None


def test_without_so_rcvtimeo_poll_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(socket, "SO_RCVTIMEO", 9999)
    with small_pair(1 << 16) as (near, far):
        transport = Transport(near, max_message_size=100, max_fragments=3)
        assert transport.receive(0.001) is None
        assert not near.getblocking()
        assert events(transport, far, frame(TEXT, b"x")) == [Text("x")]


def test_a_changed_blocking_mode_is_not_taken_for_silence() -> None:
    # It belongs to what all duplicates of a descriptor share (FAULTS 1c).
    with small_pair(1 << 16) as (near, far):
        transport = Transport(near, max_message_size=100, max_fragments=3)
        found: list[object] = []
        near.setblocking(False)
        reader = threading.Thread(target=lambda: found.append(transport.receive(5)))
        reader.start()
        far.sendall(frame(TEXT, b"x"))
        reader.join(5)
        assert found == [[Text("x")]]


def test_the_rest_of_a_large_frame_is_read_at_once() -> None:
    large = 40_000
    with small_pair(1 << 18) as (near, far):
        transport = Transport(near, max_message_size=large, max_fragments=3)
        far.sendall(frame(TEXT, b"x" * large) + frame(PING, b""))
        assert transport.receive(1) == []  # the header, and little more
        assert transport.receive(1) == [Text("x" * large)]
        assert transport.receive(1) == [Pinged(b"")]


def test_bytes_received_with_the_request_are_read_first() -> None:
    with small_pair() as (near, _):
        transport = Transport(
            near, max_message_size=100, max_fragments=3, received=frame(TEXT, b"early")
        )
        assert transport.receive(0) == [Text("early")]
        assert transport.receive(0) is None


def test_a_message_at_the_limit_passes_and_one_byte_more_is_1009(
    pair: tuple[Transport, socket.socket],
) -> None:
    assert events(*pair, frame(TEXT, b"x" * 100)) == [Text("x" * 100)]
    (broken,) = events(*pair, frame(TEXT, b"x" * 101))
    assert isinstance(broken, Broken) and broken.code == 1009


def test_the_limit_counts_bytes_not_characters(pair: tuple[Transport, socket.socket]) -> None:
    (broken,) = events(*pair, frame(TEXT, "é".encode() * 51))
    assert isinstance(broken, Broken) and broken.code == 1009


def test_fault_10_the_limit_holds_across_fragments(pair: tuple[Transport, socket.socket]) -> None:
    (broken,) = events(
        *pair, frame(BINARY, b"x" * 60, fin=False), frame(MORE, b"x" * 41, fin=False)
    )
    assert isinstance(broken, Broken) and broken.code == 1009


def test_fault_11_fragments_without_end_are_1008(pair: tuple[Transport, socket.socket]) -> None:
    (broken,) = events(
        *pair, frame(TEXT, b"", fin=False), *(frame(MORE, b"", fin=False) for _ in range(5))
    )
    assert isinstance(broken, Broken) and broken.code == 1008


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(TEXT, b"\xff"), 1007),
        (frame(TEXT, b"\xed\xa0\x80"), 1007),  # a surrogate
        (frame(TEXT, b"x", masked=False), 1002),
        (frame(3, b"x"), 1002),  # a reserved opcode
        (frame(TEXT | 0x40, b"x"), 1002),  # RSV1
        (frame(PING, b"x" * 126), 1002),
        (frame(PING, b"x", fin=False), 1002),
        (frame(CLOSE, struct.pack("!H", 999)), 1002),
        (frame(CLOSE, b"x"), 1002),
        (frame(MORE, b"x"), 1002),  # nothing to continue
    ],
)
def test_fault_14_15_16_frames_against_the_rules_end_the_connection(
    pair: tuple[Transport, socket.socket], data: bytes, code: int
) -> None:
    (broken,) = events(*pair, data)
    assert isinstance(broken, Broken)
    assert broken.code == code


def test_nothing_is_received_after_the_peers_close(pair: tuple[Transport, socket.socket]) -> None:
    assert events(*pair, frame(CLOSE, b""), frame(TEXT, b"x")) == [Closed(1005, "")]
    assert events(*pair, frame(TEXT, b"y")) == []


def test_an_end_without_a_close_frame_is_1006(pair: tuple[Transport, socket.socket]) -> None:
    transport, far = pair
    far.close()
    assert transport.receive(5) == [Closed(1006, "connection lost")]


def test_fault_31_a_reset_is_1006_with_the_reason() -> None:
    with tcp_pair() as (near, far):
        transport = Transport(near, max_message_size=100, max_fragments=3)
        far.sendall(frame(TEXT, b"x")[:3])
        assert transport.receive(5) == []
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        far.close()
        assert transport.receive(5) == [Closed(1006, "Connection reset by peer")]


def test_a_shutdown_wakes_the_waits_to_read_and_to_write() -> None:
    with small_pair() as (near, _):
        transport = Transport(near, max_message_size=100, max_fragments=3)
        results: list[object] = []
        reader = threading.Thread(target=lambda: results.append(transport.receive(60)))
        with transport.lock:
            while transport.direct.send(b"x" * 1000):
                pass
        writer = threading.Thread(target=lambda: results.append(transport.wait_writable(60)))
        reader.start()
        writer.start()
        transport.shutdown()
        reader.join(5)
        writer.join(5)
        assert len(results) == 2
        assert True in results
        assert [Closed(1006, "connection lost")] in results


def test_close_releases_the_descriptor_and_later_calls_do_nothing() -> None:
    with small_pair() as (near, _):
        transport = Transport(near, max_message_size=100, max_fragments=3)
        transport.close()
        assert near.fileno() == -1
        transport.shutdown()
        transport.close()
        assert transport.wait_writable(5)
        assert isinstance((transport.receive(5) or [None])[0], Closed)


def test_a_borrowed_descriptor_is_not_closed() -> None:
    with small_pair() as (near, _):
        transport = Transport(near, max_message_size=100, max_fragments=3, borrowed=True)
        transport.close()
        assert near.fileno() > 0


def test_lingering_reads_until_the_peer_has_ended(pair: tuple[Transport, socket.socket]) -> None:
    transport, far = pair
    far.sendall(b"x" * 10_000)
    far.shutdown(socket.SHUT_WR)
    transport.linger(5)
    assert far.recv(1) == b""


def test_lingering_ends_when_its_time_is_up(pair: tuple[Transport, socket.socket]) -> None:
    pair[0].linger(0)
    assert pair[1].recv(1) == b""


def test_lingering_ends_although_the_peer_sends_on_and_on(
    pair: tuple[Transport, socket.socket],
) -> None:
    transport, far = pair
    reader = threading.Thread(target=transport.linger, args=(10 * TIMEOUT,))

    def send() -> None:
        with contextlib.suppress(OSError):  # it is closed
            while True:
                far.sendall(b"x" * (1 << 16))

    with at_once(send):
        reader.start()
        reader.join(TIMEOUT)
        lingers = reader.is_alive()
        transport.shutdown()
        reader.join(TIMEOUT)
        transport.close()
    assert not lingers


def test_waits_work_without_poll(
    pair: tuple[Transport, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(select, "poll")
    transport, far = pair
    assert transport.receive(0) is None
    assert transport.wait_writable(0)
    assert events(transport, far, frame(TEXT, b"x")) == [Text("x")]


def test_tls_records_larger_than_a_read_are_read_whole(
    tls_pair: tuple[ssl.SSLSocket, ssl.SSLSocket],
) -> None:
    near, far = tls_pair
    # With compression every read is small, however large the frame.
    transport = Transport(near, max_message_size=100_000, max_fragments=3, compression=True)
    far.sendall(frame(TEXT, b"x" * 10_000))
    found: list[Event] = []
    while not found:
        got = transport.receive(5)
        assert got is not None
        found = got
    assert found == [Text("x" * 10_000)]
    with transport.lock:
        assert transport.direct.send(b"answer") == 6
    assert far.recv(100) == b"answer"
    transport.shutdown()
    assert isinstance((transport.receive(5) or [None])[0], Closed)


# --- the time that a message may take ------------------------------------------------------


@pytest.fixture
def moment(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Now, to be set; and how much later it is at each look."""
    now = [100.0, 0.0]

    def monotonic() -> float:
        now[0] += now[1]
        return now[0]

    monkeypatch.setattr(module.time, "monotonic", monotonic)
    return now


@pytest.fixture(params=["receives", "polls"])
def patient(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Transport, socket.socket]]:
    if request.param == "polls":
        monkeypatch.setattr(module, "keeps_blocking", lambda sock: False)
    with small_pair(1 << 16) as (near, far):
        yield Transport(near, max_message_size=100, max_fragments=30, message_timeout=10), far


SLOW = Broken(1008, "message not whole within 10 s", "slow_messages")


@pytest.mark.parametrize(
    "drip",
    [
        [frame(TEXT, b"x", fin=False), *[frame(MORE, b"x", fin=False)] * 20],
        [frame(TEXT, b"x", fin=False), *[frame(PONG, b"")] * 20],
        [bytes([each]) for each in frame(TEXT, b"x" * 50)],
        [bytes([each]) for each in frame(PING, b"x" * 50)],
        [frame(TEXT, b"", fin=False), *[bytes([each]) for each in frame(MORE, b"x" * 50)]],
    ],
    ids=["fragments", "pongs between", "a frame", "a control frame", "an empty beginning"],
)
def test_fault_11_29_a_dripping_message_is_1008(
    patient: tuple[Transport, socket.socket], moment: list[float], drip: list[bytes]
) -> None:
    moment[1] = 0.5
    for piece in drip:
        found = events(*patient, piece)
        if found not in ([], [Ponged()]):
            break
    assert found[-1] == SLOW
    assert 110 <= moment[0] <= 125


def test_a_message_delayed_by_the_reader_is_not_slow(
    patient: tuple[Transport, socket.socket], moment: list[float]
) -> None:
    for _ in range(3):
        assert events(*patient, frame(TEXT, b"x", fin=False)) == []
        moment[0] += 1000
        assert events(*patient, frame(PONG, b"")) == [Ponged()]
        moment[0] += 1000
        assert events(*patient, frame(MORE, b"y")) == [Text("xy")]


def test_each_message_has_its_own_time(
    patient: tuple[Transport, socket.socket], moment: list[float]
) -> None:
    moment[1] = 1.0
    begin, end = frame(TEXT, b"x", fin=False), frame(MORE, b"y")
    assert events(*patient, begin) == []
    for _ in range(10):
        assert events(*patient, end + begin) == [Text("xy")]
    ping = frame(PING, b"")
    assert events(*patient, end + ping[:1]) == [Text("xy")]
    for _ in range(10):
        assert events(*patient, ping[1:] + ping[:1]) == [Pinged(b"")]


def test_fault_29_the_rest_of_a_message_is_not_waited_for_longer() -> None:
    with small_pair() as (near, far):
        transport = Transport(near, max_message_size=9, max_fragments=3, message_timeout=0.02)
        assert events(transport, far, frame(TEXT, b"x" * 9)[:-1]) == []
        (broken,) = transport.receive(60) or ()
        assert isinstance(broken, Broken) and broken.limit == "slow_messages"
        # A silence that is shorter ends first, and is one.
        transport = Transport(near, max_message_size=9, max_fragments=3, message_timeout=60)
        assert events(transport, far, frame(TEXT, b"x" * 9)[:-1]) == []
        assert transport.receive(0.02) is None


def test_an_end_within_a_message_is_reported_as_an_end(
    patient: tuple[Transport, socket.socket], moment: list[float]
) -> None:
    moment[1] = 5.0
    assert events(*patient, frame(TEXT, b"x", fin=False)) == []
    assert events(*patient, frame(CLOSE, b"")) == [Closed(1005, "")]
