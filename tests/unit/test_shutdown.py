"""Who is let go when, and told what: stepped by hand, and in a hub that runs."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support import TIMEOUT, small_pair
from ws_hub import Hub, HubConfig, ReconnectConfig
from ws_hub.backoff import wait_asked
from ws_hub.errors import ConnectionClosed
from ws_hub.hub import shutdown
from ws_hub.hub.items import Call
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


def test_everybody_is_told_once_and_as_many_in_each_batch() -> None:
    gone = depart(Departures(100.0, 2.0, 5.0, lambda: 0.5), crowd(210), 100.0)
    assert sorted(who for _, who, _ in gone) == list(range(210))
    sizes = [sum(when == each for when, _, _ in gone) for each in sorted({w for w, _, _ in gone})]
    assert len(sizes) in (21, 22) and max(sizes) <= 11
    assert 100.0 <= gone[0][0] and gone[-1][0] <= 102.0 + 1e-6


def test_without_time_everybody_is_told_at_once() -> None:
    gone = depart(Departures(7.0, 0.0, 5.0, lambda: 0.5), crowd(50), 7.0)
    assert gone == [(7.0, number, 2.5) for number in range(50)]


def test_who_came_in_between_is_told_with_the_others() -> None:
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


class Crowd:
    """Clients of a hub on socket pairs."""

    def __init__(self, hub: Hub, stack: contextlib.ExitStack, count: int) -> None:
        self.far: list[socket.socket] = []
        for _ in range(count):
            near, far = stack.enter_context(small_pair())
            hub.connect(near, greeting=b"101").start()
            assert far.recv(3, socket.MSG_WAITALL) == b"101"
            self.far.append(far)

    def goodbyes(self) -> list[tuple[int, str]]:
        """Read every Close frame to the end, and answer it."""
        found = []
        for far in self.far:
            head = far.recv(2, socket.MSG_WAITALL)
            assert head[0] == 0x88, head
            payload = far.recv(head[1], socket.MSG_WAITALL)
            found.append((int.from_bytes(payload[:2], "big"), payload[2:].decode()))
            far.sendall(b"\x88\x82\0\0\0\0" + payload[:2])
        return found


def test_all_are_closed_with_1012_and_a_word_of_their_own_and_nobody_comes_in() -> None:
    with Hub() as hub, contextlib.ExitStack() as stack:
        crowd = Crowd(hub, stack, 5)
        assert not hub.draining
        hub.drain(0)
        assert hub.draining and hub.running
        goodbyes = crowd.goodbyes()
        assert [code for code, _ in goodbyes] == [1012] * 5
        asked = [wait_asked(reason) for _, reason in goodbyes]
        assert all(each is not None and 0 <= each <= 5.0 for each in asked)
        assert len(set(asked)) > 1
        near, late = stack.enter_context(small_pair())
        hub.connect(near, greeting=b"101").start()
        assert late.recv(12, socket.MSG_WAITALL) == b"HTTP/1.1 503"
        hub.stop()
        hub.start()
        assert not hub.draining
        Crowd(hub, stack, 1)


def test_the_spread_is_what_it_is_told_and_grows_with_the_crowd(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shutdown, "_PER_SECOND", 0.05)
    monkeypatch.setattr("random.random", lambda: 0.5)  # type: ignore[attr-defined]
    for spread, half in ((8.0, 4.0), (None, 20.0)):
        with Hub() as hub, contextlib.ExitStack() as stack:
            crowd = Crowd(hub, stack, 2)
            hub.drain(0, spread=spread)
            assert [wait_asked(reason) for _, reason in crowd.goodbyes()] == [half] * 2


def test_it_takes_its_time_for_batches_and_stop_cuts_it_short(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shutdown, "_PACE", 600.0)
    with Hub() as hub, contextlib.ExitStack() as stack:
        crowd = Crowd(hub, stack, 2)
        slow = threading.Thread(target=hub.drain, args=(3600.0,))
        slow.start()
        try:
            one = crowd.far.pop(0)
            assert one.recv(4, socket.MSG_WAITALL)[2:] == (1012).to_bytes(2, "big")
            one.close()
        finally:
            stopping = threading.Thread(target=hub.stop)
            stopping.start()
            assert [code for code, _ in crowd.goodbyes()] == [1001]
            stopping.join(TIMEOUT)
            slow.join(TIMEOUT)
        assert not slow.is_alive()


def test_it_returns_as_soon_as_nobody_is_there() -> None:
    with Hub() as hub:
        hub.drain(3600.0)
        assert hub.draining


def test_a_hub_that_does_not_run_has_nobody_to_let_go() -> None:
    hub = Hub()
    hub.drain()
    assert not hub.draining
    with hub:
        assert hub.running


@pytest.mark.parametrize("times", [{"timeout": -1}, {"spread": -0.1}])
def test_a_negative_time_is_refused_and_nobody_is_let_go(times: dict[str, Any]) -> None:
    with Hub() as hub:
        with pytest.raises(ValueError, match="negative"):
            hub.drain(**times)
        assert not hub.draining


def test_it_goes_on_when_the_queue_of_the_hub_stays_full(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(HubConfig(queue_size=1, close_timeout=0.05))
    monkeypatch.setattr(hub, "_loop", lambda: None)  # a hub thread that takes nothing
    hub.start()
    hub._life.broadcasts.put(Call(lambda: None))
    hub.drain(0)
    assert hub.draining
    hub._end(hub._life)
