"""What a peer's kernel has acknowledged, over real sockets and by a clock of the test's."""

from __future__ import annotations

import socket
import sys

import pytest

from tests.support import fill, small_pair, tcp_pair, wait_until
from ws_hub.connection import progress
from ws_hub.connection.progress import Progress, measure

linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux tells, others do not")


@linux
def test_tcp_tells_what_is_acknowledged_and_what_is_on_its_way() -> None:
    with tcp_pair(sndbuf=65536, rcvbuf=4096) as (server, client):
        before, outstanding = measure(server, 0)
        assert not outstanding
        filled = fill(server)
        acknowledged, outstanding = measure(server, 0)
        assert outstanding
        assert acknowledged - before < filled
        while filled:
            filled -= len(client.recv(filled))
        wait_until(lambda: measure(server, 0)[0] - before == filled or not measure(server, 0)[1])
        assert measure(server, 0)[0] > acknowledged


@linux
def test_a_unix_socket_tells_what_is_on_its_way() -> None:
    with small_pair() as (near, far):
        assert measure(near, 0) == (0, False)
        filled = fill(near)
        acknowledged, outstanding = measure(near, filled)
        assert outstanding
        far.recv(filled)
        assert measure(near, filled) == (filled, False)
        assert acknowledged < filled


def test_a_short_answer_of_the_kernel_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_INFO_BYTES", 1000)
    monkeypatch.setattr(progress, "_ioctl", None)
    with tcp_pair() as (server, _):
        assert measure(server, 7) == (7, False)


def test_elsewhere_progress_is_what_the_kernel_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_HAS_INFO", False)
    monkeypatch.setattr(progress, "_ioctl", None)
    with tcp_pair() as (server, _):
        assert measure(server, 7) == (7, False)


def test_a_short_answer_of_the_kernel_leaves_what_is_unsent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress, "_INFO_BYTES", 1000)
    with tcp_pair() as (server, _):
        assert measure(server, 7) == (7, False)


def test_a_system_without_libc_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> object:
        raise OSError

    monkeypatch.setattr(progress.ctypes, "PyDLL", missing)
    assert progress._load() is None
    monkeypatch.setattr(progress.sys, "platform", "darwin")
    assert progress._load() is None


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
def test_a_closed_socket_is_an_error(family: int) -> None:
    sock = socket.socket(family)
    sock.close()
    with pytest.raises(OSError):
        measure(sock, 0)


def test_patience_is_the_timeout_from_when_something_began_to_wait() -> None:
    peer = Progress(10, 0)
    peer.begin(100)
    assert peer.patience(104) == 6
    peer.look(104, 0, True)
    assert peer.patience(110) == 0
    assert peer.silence(110) == 10


def test_each_4000_bytes_buy_a_second_and_what_is_not_used_is_saved() -> None:
    peer = Progress(10, 0)
    peer.begin(100)
    peer.look(105, 20_000, True)
    assert peer.patience(105) == 10 + 5
    peer.look(106, 24_000, True)  # one of the five is used up, one is bought
    assert peer.patience(106) == 10 + 5
    peer.look(120, 28_000, True)
    assert peer.patience(120) == 10 + 1
    assert peer.total == 28_000


def test_no_more_than_six_timeouts_are_saved() -> None:
    peer = Progress(10, 0)
    peer.begin(100)
    peer.look(100, 1 << 40, True)
    assert peer.patience(100) == 70


@pytest.mark.parametrize("step", [500, 65_483, 300_000])
def test_fault_118_whoever_reads_5_kb_a_second_is_never_out_of_patience(step: int) -> None:
    """Seen four times in a write timeout, its window opening by so much at a time."""
    peer, read, acknowledged = Progress(10, 0), 0.0, step  # the first window is filled at once
    now = 0.0
    peer.look(now, acknowledged, True)
    peer.begin(now)
    while now < 3600:
        now += 2.5
        read += 5_000 * 2.5
        while read >= acknowledged:
            acknowledged += step
        peer.look(now, acknowledged, True)
        assert peer.patience(now) > 0


def test_what_is_acknowledged_falls_back_where_sending_costs_memory() -> None:
    peer = Progress(10, 0)
    peer.look(0, 100, True)
    peer.look(1, -600, True)
    assert peer.total == 100
    peer.look(2, 0, True)
    assert peer.total == 700


def test_what_had_to_wait_and_is_acknowledged_is_a_sign_of_life() -> None:
    peer = Progress(10, 0)
    assert not peer.is_alive(0, 60)
    peer.look(0, 0, True)
    peer.look(30, 100, False)
    assert peer.is_alive(89, 60)
    assert not peer.is_alive(90.1, 60)


def test_a_ping_that_is_acknowledged_at_once_is_none() -> None:
    peer = Progress(10, 0)
    for now in range(0, 300, 30):
        peer.look(now, now, False)
        assert not peer.is_alive(now, 60)


def test_a_slow_peer_with_more_on_its_way_is_given_what_it_has_saved() -> None:
    peer = Progress(10, 0)
    peer.look(0, 0, True)
    peer.look(1, 40_000, True)
    assert peer.is_alive(1 + 2 + 9, 2)
    assert not peer.is_alive(1 + 2 + 10, 2)


def test_fault_118_what_its_kernel_took_at_once_is_read_before_our_ping() -> None:
    """The first look is that of the first ping: half a megabyte is acknowledged by then."""
    peer = Progress(10, 0)
    peer.look(30, 500_000, False)  # all that there was
    assert peer.is_alive(30 + 60 + 59, 60)
    assert not peer.is_alive(30 + 60 + 60, 60)
    peer = Progress(10, 0)
    peer.look(30, 500_000, True)
    peer.look(60, 500_002, True)  # the ping
    assert peer.is_alive(60 + 60 + 20, 60)


def test_fault_124_pings_that_a_kernel_acknowledges_are_no_life() -> None:
    peer = Progress(10, 0)
    for beat in range(1, 5):
        peer.look(30 * beat, 85 * beat, False)  # in TLS 1.2, one each
        assert not peer.is_alive(30 * beat, 60)
