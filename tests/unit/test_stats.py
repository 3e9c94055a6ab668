"""Numbers that only grow, and what is told of them."""

from __future__ import annotations

import dataclasses
import threading

import pytest

from ws_hub.hub.stats import Counters, HubStats


def test_a_number_begins_at_nothing_and_grows() -> None:
    counters = Counters()
    assert counters.snapshot() == {}
    counters.add("published")
    counters.add("published", 4)
    counters.add("dropped", 0)
    assert counters.snapshot() == {"published": 5, "dropped": 0}


def test_a_snapshot_is_of_its_moment() -> None:
    counters = Counters()
    counters.add("published")
    snapshot = counters.snapshot()
    counters.add("published")
    snapshot["published"] = 100
    assert counters.snapshot() == {"published": 2}


def test_many_threads_lose_no_count() -> None:
    counters = Counters()
    start = threading.Barrier(8)

    def count() -> None:
        start.wait(5)
        for _ in range(500):
            counters.add("delivered", 2)

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert counters.snapshot() == {"delivered": 8000}


def test_the_numbers_of_a_hub_cannot_be_changed_and_are_nothing_at_first() -> None:
    stats = HubStats()
    assert set(dataclasses.asdict(stats).values()) == {0}
    with pytest.raises(dataclasses.FrozenInstanceError):
        stats.clients = 1  # type: ignore[misc]
