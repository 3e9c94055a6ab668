"""Who is let go when, and told what: stepped by hand, and in a hub that runs."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tests.harness import Peer, SteppedHub, batches_every, returns_per_second
from tests.support import TIMEOUT
from ws_hub import Hub, Message, ReconnectConfig
from ws_hub.backoff import wait_asked
from ws_hub.errors import ConnectionClosed
from ws_hub.hub.shutdown import Departures
from ws_hub.reconnect.retries import Retries


def crowd(count: int, first: int = 0) -> list[Any]:
    return [SimpleNamespace(id=number) for number in range(first, first + count)]


def depart(
    departures: Departures, present: list[Any], began: float = 0.0
) -> list[tuple[float, int, float]]:
    """Step through all batches: [(when, who, seconds until it comes back)]."""
    now, gone = began, []
    while True:
        for client, reason in departures.due(now, present):
            seconds = wait_asked(reason)
            assert seconds is not None
            gone.append((now, client.id, seconds))
        pause = departures.pause(now)
        if not pause:
            return gone
        now += pause


def test_drain_closes_each_client_once_in_even_batches() -> None:
    gone = depart(Departures(100.0, 2.0, 5.0, lambda: 0.5), crowd(210), 100.0)
    assert sorted(who for _, who, _ in gone) == list(range(210))
    sizes = [sum(when == each for when, _, _ in gone) for each in sorted({w for w, _, _ in gone})]
    assert len(sizes) in (21, 22) and max(sizes) <= 11
    assert 100.0 <= gone[0][0] and gone[-1][0] <= 102.0 + 1e-6


def test_drain_without_time_closes_all_at_once() -> None:
    gone = depart(Departures(7.0, 0.0, 5.0, lambda: 0.5), crowd(50), 7.0)
    assert gone == [(7.0, number, 2.5) for number in range(50)]


def test_drain_closes_clients_that_arrive_meanwhile() -> None:
    departures = Departures(0.0, 1.0, 5.0, lambda: 0.0)
    first = [client.id for client, _ in departures.due(0.0, crowd(11))]
    rest = [client.id for client, _ in departures.due(1.0, crowd(20))]
    assert first == [0] and rest == list(range(1, 20))


@pytest.mark.parametrize("timeout", [0.0, 3.0])
def test_fault_50_three_hundred_that_are_let_go_come_back_spread(timeout: float) -> None:
    draw = random.Random(11).random
    back = []
    for when, _, seconds in depart(Departures(0.0, timeout, 5.0, draw), crowd(300)):
        retries = Retries(ReconnectConfig(url="ws://a/"), draw)
        failure = ConnectionClosed(1012, f"come back after {round(seconds * 1000)} ms")
        retries.failed(failure)
        wait = retries.wait(failure)
        assert wait >= seconds - 0.001
        back.append(when + wait)
    peak = max(sum(1 for each in back if start <= each < start + 1) for start in range(14))
    assert peak < 300 / 5 and max(back) < 10 + timeout


# --- in a hub ------------------------------------------------------------------------------


@contextlib.contextmanager
def crowd_of(hub: Hub, count: int) -> Iterator[list[Peer]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Peer(hub)) for _ in range(count)]


def goodbyes(peers: list[Peer]) -> list[tuple[int, str]]:
    """Read every connection to its end: the code and the reason of each."""
    found = []
    for peer in peers:
        goodbye = peer.closed()
        assert goodbye is not None
        found.append(goodbye)
    return found


def test_drain_closes_with_1012_and_a_time_each_and_admits_no_client() -> None:
    with Hub() as hub:
        with crowd_of(hub, 5) as crowd:
            assert not hub.draining
            hub.drain(0)
            assert hub.draining and hub.running
            heard = goodbyes(crowd)
            assert [code for code, _ in heard] == [1012] * 5
            asked = [wait_asked(reason) for _, reason in heard]
            assert all(each is not None and 0 <= each <= 5.0 for each in asked)
            assert len(set(asked)) > 1
            with Peer(hub, admitted=False) as late:
                assert late.sock.recv(12, socket.MSG_WAITALL) == b"HTTP/1.1 503"
        hub.stop()
        hub.start()
        assert not hub.draining
        with Peer(hub):
            pass


def test_the_spread_is_what_it_is_told_and_grows_with_the_crowd(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("random.random", lambda: 0.5)  # type: ignore[attr-defined]
    for spread, half in ((8.0, 4.0), (None, 20.0)):
        with Hub() as hub, returns_per_second(0.05), crowd_of(hub, 2) as crowd:
            hub.drain(0, spread=spread)
            assert [wait_asked(reason) for _, reason in goodbyes(crowd)] == [half] * 2


def test_it_takes_its_time_for_batches_and_stop_cuts_it_short() -> None:
    with Hub() as hub, batches_every(600.0), crowd_of(hub, 2) as crowd:
        slow = threading.Thread(target=hub.drain, args=(3600.0,))
        slow.start()
        try:
            assert goodbyes([crowd.pop(0)])[0][0] == 1012
        finally:
            stopping = threading.Thread(target=hub.stop)
            stopping.start()
            assert [code for code, _ in goodbyes(crowd)] == [1001]
            stopping.join(TIMEOUT)
            slow.join(TIMEOUT)
        assert not slow.is_alive()


def test_drain_returns_as_soon_as_no_client_is_left() -> None:
    with Hub() as hub:
        hub.drain(3600.0)
        assert hub.draining


def test_drain_of_a_stopped_hub_returns_at_once() -> None:
    hub = Hub()
    hub.drain()
    assert not hub.draining
    with hub:
        assert hub.running


@pytest.mark.parametrize("times", [{"timeout": -1}, {"spread": -0.1}])
def test_drain_with_a_negative_time_is_refused_and_closes_no_client(times: dict[str, Any]) -> None:
    with Hub() as hub:
        with pytest.raises(ValueError, match="negative"):
            hub.drain(**times)
        assert not hub.draining


def test_it_goes_on_when_the_queue_of_the_hub_stays_full() -> None:
    with SteppedHub(queue_size=1, close_timeout=0.05) as hub:  # nobody takes anything
        hub.broadcast(Message("x"))
        hub.drain(0)
        assert hub.draining
