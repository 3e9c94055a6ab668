"""One send that never waits, by libc and by the portable way."""

from __future__ import annotations

import contextlib
import errno
import random
import select
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.apps.live import at_once
from tests.interventions import (
    a_platform,
    kernel_send,
    sends_by_libc,
    without_libc,
    without_libc_send,
    without_socket_flag,
)
from tests.support import TIMEOUT, fill, small_pair, tcp_pair, tls_pair
from ws_hub.connection import fast_send
from ws_hub.reentrant import Lock

WAYS = ["libc", "portable"]


def sender(sock: socket.socket) -> Callable[[bytes], int]:
    """One socket's own `send`."""
    return fast_send.DirectSocket(sock).send


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    portable = request.param == "portable"
    if not portable and not sends_by_libc():
        pytest.skip("no libc send on this system")
    with without_libc_send() if portable else contextlib.nullcontext():
        yield request.param


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with small_pair() as (left, right):
        left.setblocking(False)
        yield left, right


Pair = tuple[socket.socket, socket.socket]


@pytest.mark.usefixtures("way")
def test_bytes_that_fit_are_sent_whole(pair: Pair) -> None:
    left, right = pair

    assert sender(left)(b"a\x00b") == 3
    assert right.recv(10) == b"a\x00b"


@pytest.mark.usefixtures("way")
def test_empty_bytes_send_nothing(pair: Pair) -> None:
    assert sender(pair[0])(b"") == 0


@pytest.mark.usefixtures("way")
def test_a_send_to_a_full_socket_does_not_wait(pair: Pair) -> None:
    left, _ = pair
    fill(left)

    assert sender(left)(b"x" * 1024) == 0


@pytest.mark.usefixtures("way")
def test_there_is_room_again_when_the_peer_has_read(pair: Pair) -> None:
    left, right = pair
    send = sender(left)
    taken = fill(left)
    while taken:
        taken -= len(right.recv(65536))

    assert send(b"again") == 5
    assert right.recv(10) == b"again"


@pytest.mark.usefixtures("way")
def test_bytes_that_do_not_fit_are_sent_in_part() -> None:
    with tcp_pair(sndbuf=4096, rcvbuf=4096) as (server, client):
        server.setblocking(False)
        data = bytes(range(256)) * 40_000
        sent = sender(server)(data)
        assert 0 < sent < len(data)

        received = b""
        while len(received) < sent:
            received += client.recv(65536)
        assert received == data[:sent]


@pytest.mark.usefixtures("way")
def test_a_disconnected_peer_is_an_error(pair: Pair) -> None:
    left, right = pair
    right.close()

    with pytest.raises(OSError) as caught:
        sender(left)(b"x")
    assert caught.value.errno in (errno.EPIPE, errno.ECONNRESET)
    assert caught.value.strerror


@pytest.mark.usefixtures("way")
def test_a_socket_that_was_shut_down_is_an_error(pair: Pair) -> None:
    left, _ = pair
    send = sender(left)
    left.shutdown(socket.SHUT_WR)

    with pytest.raises(BrokenPipeError):
        send(b"x")


@pytest.mark.usefixtures("way")
def test_a_socket_that_was_closed_is_an_error(pair: Pair) -> None:
    left, _ = pair
    left.close()

    with pytest.raises(OSError) as caught:
        sender(left)(b"x")
    assert caught.value.errno == errno.EBADF


class Libc:
    """A send(2) that gives the answers it is told, and remembers what it was asked."""

    def __init__(self, answer: int) -> None:
        self.answer = answer
        self.calls: list[tuple[int, bytes, int, int]] = []

    def __call__(self, fd: int, data: bytes, size: int, flags: int) -> int:
        self.calls.append((fd, data, size, flags))
        return self.answer


def test_libc_is_called_with_dontwait_and_nosignal(pair: Pair) -> None:
    libc = Libc(3)
    with kernel_send(libc):
        assert sender(pair[0])(b"abc") == 3
    flags = socket.MSG_DONTWAIT | getattr(socket, "MSG_NOSIGNAL", 0)
    assert libc.calls == [(pair[0].fileno(), b"abc", 3, flags)]


def test_a_failed_libc_send_falls_back_to_the_socket(pair: Pair) -> None:
    libc = Libc(-1)  # interrupted, say
    with kernel_send(libc):
        assert sender(pair[0])(b"abc") == 3
    assert len(libc.calls) == 1
    assert pair[1].recv(10) == b"abc"


class Huge(bytes):
    """Stands for two gigabytes: a few bytes that say that they are so many."""

    def __len__(self) -> int:
        return 1 << 31


class Target:
    """What frames are sent to, all at once."""

    def __init__(self, direct: fast_send.DirectSocket) -> None:
        self.direct = direct


def test_a_length_beyond_a_c_int_is_not_passed_to_libc(pair: Pair) -> None:
    libc = Libc(-1)
    with kernel_send(libc):
        direct = fast_send.DirectSocket(pair[0])
        direct.open()
        target = Target(direct)
        left = fast_send.send_to_each([target], Huge(b"abc"), lambda target, sent: None)
        assert list(left) == [target]
        assert direct.send(Huge(b"abc")) == 3
    assert libc.calls == []
    assert pair[1].recv(10) == b"abc"


@pytest.mark.parametrize("machine", ["x86_64", "AMD64", "arm64", "riscv64"])
def test_arguments_are_declared_where_an_int_is_not_widened(pair: Pair, machine: str) -> None:
    with a_platform(machine=machine) as libc:
        if libc is None:
            pytest.skip("no libc send on this system")
        assert (libc.argtypes is None) == (machine != "riscv64")  # type: ignore[attr-defined]
        assert sender(pair[0])(b"abc") == 3
    assert pair[1].recv(10) == b"abc"


@pytest.mark.skipif(not sends_by_libc(), reason="no libc send on this system")
def test_the_direct_path_is_shut_until_it_is_opened(pair: Pair) -> None:
    direct = fast_send.DirectSocket(pair[0])
    assert direct.fd == -1
    direct.open()
    assert direct.fd == pair[0].fileno()
    direct.shut()
    assert direct.fd == -1


@pytest.mark.parametrize("why", ["tls", "no libc"])
def test_without_libc_send_the_direct_path_stays_shut(pair: Pair, why: str) -> None:
    with without_libc_send() if why == "no libc" else contextlib.nullcontext():
        direct = fast_send.DirectSocket(FakeTLS(2) if why == "tls" else pair[0])
        direct.open()
        assert direct.fd == -1


def test_libc_serves_where_there_is_one() -> None:
    if sys.platform not in ("linux", "darwin"):
        pytest.skip("known for Linux and macOS only")

    assert sends_by_libc()


def test_without_posix_the_socket_sends(pair: Pair) -> None:
    with a_platform(family="nt", system="win32"):
        assert_the_socket_sends(pair)


def assert_the_socket_sends(pair: Pair) -> None:
    assert not sends_by_libc()
    assert sender(pair[0])(b"abc") == 3
    assert pair[1].recv(10) == b"abc"


def test_without_the_dontwait_flag_the_socket_sends(pair: Pair) -> None:
    with without_socket_flag("MSG_DONTWAIT"):
        assert_the_socket_sends(pair)


@pytest.mark.parametrize("kind", [OSError, AttributeError])
def test_a_libc_without_the_symbol_lets_the_socket_send(pair: Pair, kind: type[Exception]) -> None:
    with without_libc(kind):
        assert_the_socket_sends(pair)


class FakeTLS(ssl.SSLSocket):
    """Stands for a TLS socket: what counts here is its type and its `send`."""

    def __new__(cls, *_: object) -> FakeTLS:
        return socket.socket.__new__(cls)

    def __init__(self, *answers: int | Exception) -> None:
        self.answers = list(answers)
        self.sent: list[bytes] = []

    def send(self, data: bytes, flags: int = 0) -> int:  # type: ignore[override]
        self.sent.append(data)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_the_tls_layer_is_never_bypassed() -> None:
    tls = FakeTLS(2, 1)

    assert sender(tls)(b"abc") == 3
    assert tls.sent == [b"abc", b"c"]


@pytest.mark.parametrize("error", [ssl.SSLWantWriteError(), ssl.SSLWantReadError()], ids=repr)
def test_fault_126_an_unfinished_tls_record_is_repeated_byte_for_byte(error: Exception) -> None:
    tls = FakeTLS(16_384, error, error, 16_384, 100)
    direct = fast_send.DirectSocket(tls)
    data = bytes(range(256)) * 128 + b"x" * 100
    assert direct.send(data) == 16_384
    assert direct.torn == data[16_384:32_768]
    assert direct.send(data[16_384:]) == 0  # still no room
    assert direct.send(data[16_384:]) == 16_484
    assert not direct.torn
    assert tls.sent[1] == tls.sent[2] == tls.sent[3] == data[16_384:32_768]


def test_fault_63_an_interrupt_after_acquiring_the_tls_lock_releases_it() -> None:
    class Interrupted(Lock):
        def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
            super().acquire(blocking, timeout)
            raise KeyboardInterrupt

    direct = fast_send.DirectSocket(FakeTLS(3))
    direct.tls = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        direct.send(b"abc")
    assert not direct.tls.locked()


def test_while_the_reader_is_inside_tls_nothing_is_sent() -> None:
    direct = fast_send.DirectSocket(FakeTLS(3))
    assert direct.tls is not None
    took: list[int] = []
    with direct.tls, at_once(lambda: took.append(direct.send(b"abc", patience=0.001))):
        pass
    assert took == [0]
    assert direct.send(b"abc") == 3


def test_fault_126_a_tls_stream_without_room_arrives_as_it_was_sent(certificate: Path) -> None:
    """By real OpenSSL, which refuses a retry that is shorter, and does not see other bytes."""
    dice = random.Random(126)
    data, got = dice.randbytes(3_000_000), bytearray()
    with tls_pair(certificate, sndbuf=4096, rcvbuf=4096) as (server, client):

        def read() -> None:
            while len(got) < len(data):
                got.extend(client.recv(65_536))

        server.setblocking(False)
        direct = fast_send.DirectSocket(server)
        sent = waits = 0
        with at_once(read):
            while sent < len(data):
                # What has begun, and as much behind it as whoever sends has by then.
                most = max(len(direct.torn), dice.choice([2, 130, 40_000, 400_000]))
                sent += direct.send(data[sent : sent + most])
                if direct.torn:
                    waits += 1
                    select.select([], [server], [], TIMEOUT)
        assert not direct.torn
    assert got == data
    assert waits > 10


def test_a_broken_tls_socket_is_an_error() -> None:
    with pytest.raises(ssl.SSLEOFError):
        sender(FakeTLS(ssl.SSLEOFError()))(b"abc")


def test_many_threads_each_send_their_own_bytes_whole(pair: Pair) -> None:
    left, right = pair
    send = sender(left)
    lock = threading.Lock()
    pieces = [bytes([65 + number]) * 10 for number in range(8)]

    def run(piece: bytes) -> None:
        with lock:
            assert send(piece) == len(piece)

    threads = [threading.Thread(target=run, args=(piece,)) for piece in pieces]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)

    received = b""
    while len(received) < 80:
        received += right.recv(80)
    assert sorted(received[index : index + 10] for index in range(0, 80, 10)) == pieces
