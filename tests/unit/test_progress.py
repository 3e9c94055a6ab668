"""What a peer's kernel has acknowledged, over real sockets and by a clock of the test's."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.interventions import a_platform, without_libc
from tests.support import fill, small_pair, tcp_pair, wait_until
from ws_hub.connection.progress import Progress, measure

linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux tells, others do not")


@linux
def test_tcp_reports_acknowledged_and_outstanding_bytes() -> None:
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
def test_a_unix_socket_reports_outstanding_bytes() -> None:
    with small_pair() as (near, far):
        assert measure(near, 0) == (0, 0)
        filled = fill(near)
        acknowledged, outstanding = measure(near, filled)
        assert outstanding
        far.recv(filled)
        assert measure(near, filled) == (filled, 0)
        assert acknowledged < filled


class OlderKernels(socket.socket):
    """A connection of which the kernel tells less, as one before Linux 4.6 does."""

    def getsockopt(self, level: int, option: int, size: int = 0) -> Any:  # type: ignore[override]
        found = super().getsockopt(level, option, size)
        return found[:104] if size else found


@contextlib.contextmanager
def older_kernel() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Yield both ends of a connection of such a kernel."""
    with tcp_pair(sndbuf=65536, rcvbuf=4096) as (server, client):
        with OlderKernels(fileno=server.detach()) as near:
            near.settimeout(None)
            yield near, client


@linux
def test_a_short_answer_of_the_kernel_is_not_used() -> None:
    with without_libc(), older_kernel() as (server, _):
        filled = fill(server)
        assert measure(server, filled) == (filled, 0)


def test_on_other_systems_bytes_that_the_kernel_took_count() -> None:
    with a_platform(system="darwin"), tcp_pair(sndbuf=65536, rcvbuf=4096) as (server, _):
        filled = fill(server)
        assert measure(server, filled) == (filled, 0)


@linux
def test_without_tcp_info_unsent_bytes_are_subtracted() -> None:
    with older_kernel() as (server, client):
        assert measure(server, 7) == (7, 0)
        filled = fill(server)
        acknowledged, outstanding = measure(server, filled)
        assert outstanding
        assert acknowledged < filled


@pytest.mark.parametrize("error", [OSError, AttributeError])
def test_without_libc_bytes_that_the_kernel_took_count(error: type[Exception]) -> None:
    with without_libc(error), small_pair() as (near, _):
        filled = fill(near)
        assert measure(near, filled) == (filled, 0)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
def test_a_closed_socket_is_an_error(family: int) -> None:
    sock = socket.socket(family)
    sock.close()
    with pytest.raises(OSError):
        measure(sock, 0)


def test_time_left_is_the_timeout_from_the_start_of_a_backlog() -> None:
    peer = Progress(10, 0)
    peer.begin(100)
    assert peer.time_left(104) == 6
    peer.update(104, 0, 1_000)
    assert peer.time_left(110) == 0
    assert peer.silence(110) == 10


def test_each_4000_bytes_add_a_second_of_credit() -> None:
    peer = Progress(10, 0)
    peer.begin(100)
    peer.update(105, 20_000, 1_000)
    assert peer.time_left(105) == 10 + 5
    peer.update(106, 24_000, 1_000)  # one of the five is used up, one is bought
    assert peer.time_left(106) == 10 + 5
    peer.update(120, 28_000, 1_000)
    assert peer.time_left(120) == 10 + 1
    assert peer.total == 28_000


def test_the_credit_is_at_most_six_timeouts() -> None:
    peer = Progress(10, 0)
    peer.begin(100)
    peer.update(100, 1 << 40, 1_000)
    assert peer.time_left(100) == 70


@pytest.mark.parametrize("step", [500, 65_483, 300_000])
def test_fault_118_a_peer_that_reads_5_kb_a_second_never_stalls(step: int) -> None:
    """Seen four times in a write timeout, its window opening by so much at a time."""
    peer, read, acknowledged = Progress(10, 0), 0.0, step  # the first window is filled at once
    now = 0.0
    peer.update(now, acknowledged, 1_000)
    peer.begin(now)
    while now < 3600:
        now += 2.5
        read += 5_000 * 2.5
        while read >= acknowledged:
            acknowledged += step
        peer.update(now, acknowledged, 1_000)
        assert peer.time_left(now) > 0


def test_acknowledged_bytes_may_decrease_where_sends_use_memory() -> None:
    peer = Progress(10, 0)
    peer.update(0, 100, 1_000)
    peer.update(1, -600, 1_000)
    assert peer.total == 100
    peer.update(2, 0, 1_000)
    assert peer.total == 700


def test_acknowledgement_of_a_backlog_is_a_sign_of_life() -> None:
    peer = Progress(10, 0)
    assert not peer.is_alive(0, 60)
    peer.update(0, 0, 1_000)
    peer.update(30, 100, 0)
    assert peer.is_alive(89, 60)
    assert not peer.is_alive(90.1, 60)


def test_acknowledgement_of_a_ping_is_no_sign_of_life() -> None:
    peer = Progress(10, 0)
    for now in range(0, 300, 30):
        peer.update(now, now, 0)
        assert not peer.is_alive(now, 60)


def test_fault_30_a_ping_that_is_outstanding_is_no_sign_of_life() -> None:
    peer = Progress(10, 0)
    for beat in range(1, 5):
        peer.update(30 * beat, 2 * beat, 2)
        assert not peer.is_alive(30 * beat, 60)


def test_a_slow_peer_with_outstanding_bytes_may_use_its_credit() -> None:
    peer = Progress(10, 0)
    peer.update(0, 0, 1_000)
    peer.update(1, 40_000, 1_000)
    assert peer.is_alive(1 + 2 + 9, 2)
    assert not peer.is_alive(1 + 2 + 10, 2)


def test_fault_118_buffered_bytes_are_read_before_a_ping() -> None:
    """The first look is that of the first ping: half a megabyte is acknowledged by then."""
    peer = Progress(10, 0)
    peer.update(30, 500_000, 0)  # all that there was
    assert peer.is_alive(30 + 60 + 59, 60)
    assert not peer.is_alive(30 + 60 + 60, 60)
    peer = Progress(10, 0)
    peer.update(30, 500_000, 1_000)
    peer.update(60, 500_002, 1_000)  # the ping
    assert peer.is_alive(60 + 60 + 20, 60)


def test_fault_124_acknowledged_pings_are_no_sign_of_life() -> None:
    peer = Progress(10, 0)
    for beat in range(1, 5):
        peer.update(30 * beat, 85 * beat, 0)  # in TLS 1.2, one each
        assert not peer.is_alive(30 * beat, 60)
