"""A socket that never blocks inside a call: what needs no server to be shown."""

from __future__ import annotations

import select
import socket
import threading
import time

import pytest

from tests.support import TIMEOUT, fill, small_pair
from ws_hub.reconnect.stream import READ, WRITE, Stream


@pytest.fixture(params=["poll", "select"])
def waiting(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "select":  # as on Windows
        monkeypatch.delattr(select, "poll")


def soon() -> float:
    return time.monotonic() + TIMEOUT


@pytest.mark.usefixtures("waiting")
def test_wait_ends_when_ready_or_at_the_deadline() -> None:
    with small_pair() as (near, far):
        stream = Stream(near, time.monotonic)
        assert stream.receive() is None
        assert not stream.wait(READ, time.monotonic())
        assert stream.wait(READ | WRITE, soon())
        far.sendall(b"x")
        assert stream.wait(READ, soon())
        assert stream.receive() == b"x"
        far.close()
        assert stream.wait(READ, soon())
        assert stream.receive() == b""
        stream.close()


@pytest.mark.usefixtures("waiting")
def test_shutdown_wakes_waiters_and_the_last_closes_the_descriptor() -> None:
    with small_pair() as (near, _):
        waits = threading.Event()

        def clock() -> float:  # `wait` looks at it when it uses the descriptor already
            waits.set()
            return time.monotonic()

        stream = Stream(near, clock)
        woken: list[bool] = []
        thread = threading.Thread(target=lambda: woken.append(stream.wait(READ, soon())))
        thread.start()
        assert waits.wait(TIMEOUT)
        stream.close()
        thread.join(TIMEOUT)
        assert woken == [True]
        assert near.fileno() == -1
        for call in (stream.receive, stream.push, lambda: stream.wait(READ, soon())):
            with pytest.raises(ConnectionAbortedError, match="closed"):
                call()


def test_bytes_are_sent_in_order_up_to_a_mark() -> None:
    with small_pair() as (near, far):
        stream = Stream(near, time.monotonic)
        first, second = stream.append(b"a" * 10), stream.append(b"b" * 100_000)
        assert stream.push(first) == 0
        assert stream.push(second) == WRITE
        assert 0 < stream.unsent < 100_010
        got = b""
        while stream.push():
            got += far.recv(65536)
        while len(got) < 100_010:
            got += far.recv(65536)
        assert got == b"a" * 10 + b"b" * 100_000
        assert stream.unsent == 0
        stream.close()


def test_full_socket_keeps_unsent_bytes() -> None:
    with small_pair() as (near, far):
        taken = fill(near)
        stream = Stream(near, time.monotonic)
        mark = stream.append(b"end")
        assert stream.push(mark) == WRITE
        assert stream.unsent == 3
        left = taken
        while left:
            left -= len(far.recv(min(left, 65536)))
        assert stream.wait(WRITE, soon())
        assert stream.push(mark) == 0
        assert far.recv(10) == b"end"
        stream.close()


def test_discard_closes_without_ending_the_connection() -> None:
    near, far = socket.socketpair()
    with far, socket.socket(fileno=near.fileno()) as copy:
        stream = Stream(near.dup(), time.monotonic)
        near.detach()
        stream.discard()
        far.settimeout(TIMEOUT)
        copy.sendall(b"the parent goes on")
        assert far.recv(100) == b"the parent goes on"
