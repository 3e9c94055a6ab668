"""Who is connected, whose ping is due, and who had time enough to say goodbye."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tests.delivery import hub_queues
from ws_hub.config import HubConfig
from ws_hub.connection.membership import Membership, Stage
from ws_hub.hub import registry as module
from ws_hub.hub.registry import Registry
from ws_hub.hub.stats import Counters


class Someone:
    """A client that counts its pings, and notes what else it is told."""

    def __init__(self, number: int) -> None:
        self.id = number
        self.membership = Membership()
        self.pings = 0
        self.told: list[str] = []

    def accept(self) -> None:
        assert self.membership.admitted and not self.membership.settled.is_set()
        self.told.append("welcome")

    def refuse(self) -> None:
        self.told.append("refused")

    def decided(self) -> None:
        self.membership.settled.set()

    def expire(self) -> None:
        self.told.append("expired")

    def ping(self) -> None:
        self.pings += 1


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The moment that the registry sees, to be set."""
    moment = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: moment[0])
    return moment


class Desk(Registry):
    """A registry, and the queues that a test empties in the place of the hub thread."""

    def __init__(self, interval: float, most: int | None) -> None:
        self.queues = hub_queues()
        super().__init__(
            HubConfig(heartbeat_interval=interval, max_connections=most, close_timeout=1.0),
            queues=self.queues,
            enter=lambda client: None,
            refuse=lambda client: client.refuse(),
            leave=lambda client: None,
            counters=Counters(),
        )


def registry(interval: float = 30.0, most: int | None = None) -> Desk:
    return Desk(interval, most)


def enter(made: Desk, *clients: Any) -> None:
    for client in clients:
        made.queues.registers.put(client)
    settle(made)


def settle(made: Desk) -> None:
    """Do what the hub thread does in a turn."""
    queues = made.queues
    while not queues.unregisters.empty():
        made.unregister(queues.unregisters.get_nowait())
    while not queues.registers.empty():
        made.register(queues.registers.get_nowait(), admit=True)


def test_without_clients_there_is_nothing_to_wake_up_for(now: list[float]) -> None:
    assert registry().beat(now[0]) == math.inf


def test_each_client_is_pinged_every_interval_from_its_own_start(now: list[float]) -> None:
    made, one, two = registry(), Someone(1), Someone(2)
    enter(made, one)
    now[0] = 110.0
    enter(made, two)
    seen = []
    for moment in (129.9, 130.0, 139.9, 140.0, 160.0, 170.0):
        made.beat(moment)
        seen.append((one.pings, two.pings))
    assert seen == [(0, 0), (1, 0), (1, 0), (1, 1), (2, 1), (2, 2)]


def test_pings_that_are_due_soon_after_each_other_go_out_together(now: list[float]) -> None:
    made, clients = registry(), [Someone(number) for number in range(10)]
    for client in clients:
        enter(made, client)
        now[0] += 0.02
    look = made.beat(now[0])
    assert look == pytest.approx(130.25)
    assert sum(client.pings for client in clients) == 0
    made.beat(look)
    assert [client.pings for client in clients] == [1] * 10


def test_a_short_interval_is_kept_all_the_same(now: list[float]) -> None:
    made = registry(0.05)
    enter(made, Someone(1))
    assert made.beat(now[0]) == pytest.approx(100.0 + 0.05 + 0.05 / 20)


def test_removed_client_is_not_pinged_and_not_kept(now: list[float]) -> None:
    made, one, two = registry(), Someone(1), Someone(2)
    enter(made, one, two)
    made.remove(one)  # type: ignore[arg-type]
    made.beat(130.0)
    assert (one.pings, two.pings) == (0, 1)
    made.remove(two)  # type: ignore[arg-type]
    assert made.beat(160.0) == math.inf


def test_after_a_long_pause_each_client_gets_one_ping(now: list[float]) -> None:
    made, one = registry(), Someone(1)
    enter(made, one)
    look = made.beat(1000.0)
    assert one.pings == 1
    assert look == pytest.approx(1030.25)


def test_many_pings_go_out_a_few_at_a_time_and_all_in_time(now: list[float]) -> None:
    made, clients = registry(), [Someone(number) for number in range(160)]
    enter(made, *clients)
    counts = []
    moment = 130.25
    while sum(client.pings for client in clients) < 160:
        look = made.beat(moment)
        counts.append(sum(client.pings for client in clients))
        moment = look
    assert counts == [64, 128, 160]
    assert moment > 160
    assert {client.pings for client in clients} == {1}


def test_a_crowd_with_a_short_interval_is_pinged_in_time(now: list[float]) -> None:
    made, clients = registry(0.05), [Someone(number) for number in range(1000)]
    enter(made, *clients)
    moment, beats = 100.0, 0
    while moment < 100.5:
        moment = made.beat(moment)
        beats += 1
    # Each interval may come late by a pause or two, and by no more.
    assert 8 <= min(client.pings for client in clients) <= 10
    assert beats < 200


def test_admitted_client_is_answered_101_and_another_is_refused(now: list[float]) -> None:
    made, one, two = registry(most=1), Someone(1), Someone(2)
    enter(made, one, two)
    assert (one.told, two.told) == (["welcome"], ["refused"])
    assert made.admitted(one) and not made.admitted(two)  # type: ignore[arg-type]
    assert made.connections() == [one]


def test_end_of_a_client_without_a_callback_is_not_waited_for(now: list[float]) -> None:
    made, one = registry(), Someone(1)
    enter(made, one)
    made.dismiss(one, wait=False)  # type: ignore[arg-type]
    assert len(made) == 1
    settle(made)
    assert len(made) == 0
    assert one.membership.stage is Stage.GONE and one.membership.settled.is_set()


def test_unanswered_close_frame_aborts_the_connection_in_time(now: list[float]) -> None:
    made, one, two = registry(), Someone(1), Someone(2)
    assert made.expire(now[0]) == math.inf
    made.closing(one)  # type: ignore[arg-type]
    now[0] = 100.5
    made.closing(two)  # type: ignore[arg-type]
    assert made.expire(100.9) == 101.0
    assert made.expire(101.0) == 101.5
    assert (one.told, two.told) == (["expired"], [])
    assert made.expire(200.0) == math.inf
    assert two.told == ["expired"]


def test_client_that_left_before_its_registration_is_not_admitted(now: list[float]) -> None:
    made, one = registry(), Someone(1)
    assert made.open(one)  # type: ignore[arg-type]
    made.dismiss(one, wait=False)  # type: ignore[arg-type]
    settle(made)
    assert one.told == [] and one.membership.stage is Stage.GONE
    assert made.connections() == []


def test_departure_makes_room_for_an_arrival_of_the_same_turn(now: list[float]) -> None:
    made, one, two = registry(most=1), Someone(1), Someone(2)
    enter(made, one)
    assert made.open(two)  # type: ignore[arg-type]
    made.dismiss(one, wait=False)  # type: ignore[arg-type]
    settle(made)
    assert made.connections() == [two]


def test_snapshot_is_not_changed_by_a_registration(now: list[float]) -> None:
    made, one, two = registry(), Someone(1), Someone(2)
    enter(made, one)
    before = made.snapshot
    assert made.snapshot is before
    enter(made, two)
    made.remove(one)  # type: ignore[arg-type]
    assert (list(before), list(made.snapshot)) == ([one], [two])
