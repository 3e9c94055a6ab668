"""The faulty network: each fault is one, and what is carried is whole."""

from __future__ import annotations

import contextlib
import resource
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.support import TIMEOUT, fill, reset, wait_until
from ws_hub.testing import FaultProxy

Ends = tuple[FaultProxy, socket.socket, socket.socket]


@contextlib.contextmanager
def connected(*, buffer: int | None = None) -> Iterator[Ends]:
    """Yield a proxy and both ends of a connection through it."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        FaultProxy(*listener.getsockname(), buffer=buffer) as proxy,
        socket.create_connection((proxy.host, proxy.port), TIMEOUT) as near,
    ):
        far, _ = listener.accept()
        with far:
            far.settimeout(TIMEOUT)
            yield proxy, near, far


@pytest.fixture
def ends() -> Iterator[Ends]:
    with connected() as ends:
        yield ends


def receive(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = sock.recv(size - len(data))
        assert piece, f"ended after {len(data)} of {size} bytes"
        data += piece
    return data


def test_both_directions_are_carried_whole(ends: Ends) -> None:
    _, near, far = ends
    data = bytes(range(256)) * 2000

    for source, drain in ((near, far), (far, near)):
        sender = threading.Thread(target=source.sendall, args=(data,))
        sender.start()
        assert receive(drain, len(data)) == data
        sender.join(TIMEOUT)


def test_a_half_close_is_passed_on(ends: Ends) -> None:
    _, near, far = ends
    near.shutdown(socket.SHUT_WR)

    assert far.recv(1) == b""
    far.sendall(b"still here")
    assert receive(near, 10) == b"still here"


def test_a_chopped_stream_is_whole_in_the_end(ends: Ends) -> None:
    proxy, near, far = ends
    proxy.chop = 1
    near.sendall(b"abcdefgh")

    assert receive(far, 8) == b"abcdefgh"


def test_a_small_buffer_soon_holds_the_server_up() -> None:
    taken = {}
    for buffer in (None, 16 * 1024):
        with connected(buffer=buffer) as (proxy, _, far):
            proxy.black_hole()
            far.sendall(b"x")
            taken[buffer] = fill(far)  # until the kernel has no room
    assert taken[16 * 1024] < taken[None] / 4


def test_a_black_hole_holds_back_and_loses_nothing(ends: Ends) -> None:
    proxy, near, far = ends
    proxy.black_hole()
    near.sendall(b"held")
    far.settimeout(0.1)
    with pytest.raises(TimeoutError):
        far.recv(1)

    proxy.heal()
    far.settimeout(TIMEOUT)
    assert receive(far, 4) == b"held"


@pytest.mark.parametrize(
    ("settings", "least"),
    [({"latency": 0.1}, 0.1), ({"rate": 100.0, "chop": 10}, 0.2)],
    ids=["late", "slow"],
)
def test_a_late_network_is_late_and_a_slow_one_slow(
    ends: Ends, settings: dict[str, float], least: float
) -> None:
    """It takes at least so long, however busy the machine is."""
    proxy, near, far = ends
    for name, value in settings.items():
        setattr(proxy, name, value)
    begun = time.monotonic()
    near.sendall(b"x" * 30)

    assert receive(far, 30) == b"x" * 30
    assert time.monotonic() - begun >= least


def test_a_reset_ends_both_sides(ends: Ends) -> None:
    proxy, near, far = ends
    proxy.reset()

    for sock in (near, far):
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
    assert proxy.links == 0


def test_a_reset_wakes_what_is_stuck_in_a_full_socket(ends: Ends) -> None:
    proxy, near, far = ends
    fill(near, b"x" * 65536)  # nobody reads at the far end
    proxy.reset()

    with pytest.raises(ConnectionResetError):
        while far.recv(65536):
            pass
    assert proxy.links == 0


def test_a_reset_ends_what_is_held_back(ends: Ends) -> None:
    proxy, near, far = ends
    proxy.black_hole()
    near.sendall(b"lost")
    proxy.reset()

    assert proxy.links == 0
    with pytest.raises(ConnectionResetError):
        far.recv(1)


def test_a_fin_ends_both_sides_quietly(ends: Ends) -> None:
    proxy, near, far = ends
    proxy.fin()

    assert (near.recv(1), far.recv(1)) == (b"", b"")


def test_refusing_and_accepting_again_keeps_the_port(ends: Ends) -> None:
    proxy, near, far = ends
    port = proxy.port
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((proxy.host, port), TIMEOUT)
    near.sendall(b"lives")
    assert receive(far, 5) == b"lives"

    proxy.accept()
    socket.create_connection((proxy.host, port), TIMEOUT).close()
    assert proxy.port == port
    wait_until(lambda: proxy.accepted == 2)


def test_a_target_that_refuses_is_a_reset() -> None:
    with contextlib.ExitStack() as stack:
        taken = stack.enter_context(socket.socket())  # so that no other test's server gets it
        taken.bind(("127.0.0.1", 0))
        proxy = stack.enter_context(FaultProxy(*taken.getsockname()))
        near = stack.enter_context(socket.socket())
        near.settimeout(TIMEOUT)
        with pytest.raises(ConnectionResetError):  # by either call: the RST is that quick
            near.connect((proxy.host, proxy.port))
            near.recv(1)


def test_a_peer_that_goes_away_ends_its_connection_in_a_black_hole(ends: Ends) -> None:
    """What waits in the hole does not keep the other side open."""
    proxy, near, far = ends
    proxy.black_hole()
    near.sendall(b"lost")
    reset(far)

    with pytest.raises(ConnectionResetError):
        near.recv(1)
    wait_until(lambda: proxy.links == 0)


def test_a_url_leads_through_the_proxy_to_the_same_place(ends: Ends) -> None:
    proxy, _, _ = ends

    url = proxy.through("wss://example.com:8443/a/ws?token=x")
    assert url == f"wss://127.0.0.1:{proxy.port}/a/ws?token=x"


def test_descriptors_beyond_those_of_select_are_carried() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2048:
        pytest.skip("this system has few descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    taken: list[socket.socket] = []
    try:
        while not taken or taken[-1].fileno() < 1100:
            taken.append(socket.socket())
        with connected() as (_, near, far):
            near.sendall(b"through")
            assert receive(far, 7) == b"through"
    finally:
        for each in taken:
            each.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
