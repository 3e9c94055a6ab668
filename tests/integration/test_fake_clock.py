"""The fake clock: a client's attempts come when the test says, and not before."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.clients import Seen
from tests.support import TIMEOUT, wait_until
from ws_hub import ConnectionState, ReconnectingClient, Server
from ws_hub.reentrant import Event
from ws_hub.testing import FakeClock, FaultProxy


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def refused() -> Iterator[str]:
    """A URL that refuses connections."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield f"ws://127.0.0.1:{sock.getsockname()[1]}/ws"


def client_of(url: str, clock: FakeClock, **settings: Any) -> ReconnectingClient:
    settings = {"jitter": False, **settings}
    return ReconnectingClient(url, clock=clock, wait=clock.wait, **settings)


# --- backoff -------------------------------------------------------------------------------


def test_each_attempt_comes_when_the_clock_is_moved(clock: FakeClock, refused: str) -> None:
    failures: list[Exception] = []
    with client_of(refused, clock, on_error=failures.append, max_backoff=5.0):
        for attempt, wait in enumerate([1.0, 2.0, 4.0, 5.0, 5.0], 1):
            assert clock.next_wait() == wait
            assert len(failures) == attempt
            clock.advance(wait)


def test_a_wait_ends_at_its_time_and_not_before(clock: FakeClock, refused: str) -> None:
    failures: list[Exception] = []
    with client_of(refused, clock, on_error=failures.append, initial_backoff=8.0):
        assert clock.next_wait() == 8.0
        clock.advance(7.75)
        assert clock.next_wait() == 0.25
        assert len(failures) == 1
        clock.advance(0.25)
        assert clock.next_wait() == 16.0
        assert len(failures) == 2


def test_a_day_of_backoff_takes_no_time(clock: FakeClock, refused: str) -> None:
    seen = []
    with client_of(refused, clock, initial_backoff=3600.0, max_backoff=86400.0):
        for _ in range(6):
            seen.append(clock.next_wait())
            clock.advance(seen[-1])
    assert seen == [3600.0, 7200.0, 14400.0, 28800.0, 57600.0, 86400.0]


@pytest.mark.parametrize(("held", "wait"), [(4.9, 4.0), (5.0, 1.0)])
def test_a_connection_that_lasts_begins_the_backoff_anew(
    clock: FakeClock, hub_server: Server, held: float, wait: float
) -> None:
    with FaultProxy(hub_server.host, hub_server.port) as proxy:
        connected = threading.Semaphore(0)
        settings = {"stable_after": 5.0, "on_connect": connected.release}
        with client_of(proxy.through(hub_server.url), clock, **settings):
            for expected in (1.0, 2.0):
                assert connected.acquire(timeout=TIMEOUT)
                proxy.reset()
                assert clock.next_wait() == expected
                clock.advance(expected)
            assert connected.acquire(timeout=TIMEOUT)
            clock.advance(held)
            proxy.reset()
            assert clock.next_wait() == wait


def test_close_ends_a_wait_at_a_clock_that_stands_still(clock: FakeClock, refused: str) -> None:
    client = client_of(refused, clock).start()
    clock.next_wait()
    client.close()

    assert client.state is ConnectionState.DISCONNECTED
    with pytest.raises(AssertionError, match="nothing waits at the clock within 0 s"):
        clock.next_wait(timeout=0)


def test_a_client_without_a_fake_clock_waits_in_real_time(refused: str) -> None:
    with Seen(refused).start() as seen:
        seen.wait("error", 3)


# --- the clock alone -----------------------------------------------------------------------


def test_the_clock_stands_still_and_does_not_go_back() -> None:
    clock = FakeClock(5.0)
    clock.advance(2.5)
    clock.advance(0)

    assert clock() == clock() == 7.5
    for bad in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="does not go back"):
            clock.advance(bad)
    assert clock() == 7.5


def test_a_wait_for_no_time_and_one_for_an_event_that_is_set_end_at_once(
    clock: FakeClock,
) -> None:
    event = Event()
    assert clock.wait(event, 0) is False
    event.set()
    assert clock.wait(event, 1000.0) is True


def test_several_waits_end_each_at_its_time(clock: FakeClock) -> None:
    ended: list[float] = []
    over = threading.Semaphore(0)

    def wait(seconds: float) -> None:
        clock.wait(Event(), seconds)
        ended.append(seconds)
        over.release()

    threads = []
    for seconds in (3.0, 2.0, 1.0):
        threads.append(threading.Thread(target=wait, args=(seconds,)))
        threads[-1].start()
        wait_until(lambda seconds=seconds: clock.next_wait() == seconds)
    for seconds in (1.0, 2.0, 3.0):
        clock.advance(1.0)
        assert over.acquire(timeout=TIMEOUT)
        assert ended[-1] == seconds
    for thread in threads:
        thread.join(TIMEOUT)
