"""How many there may be of each group."""

from __future__ import annotations

import threading

from tests.harness import weight
from ws_hub.access.capacity import Capacity


def test_each_group_has_a_limit_of_its_own() -> None:
    places: Capacity[int] = Capacity(2)
    assert places.enter(1, "a") and places.has_room("a") and places.enter(2, "a")
    assert not places.has_room("a") and not places.enter(3, "a")
    assert places.has_room("b") and places.enter(4, "b")


def test_a_connection_is_released_once() -> None:
    places: Capacity[int] = Capacity(2)
    empty = weight(places)
    for client in (1, 2):
        places.enter(client, "a")
    for _ in range(3):
        places.leave(1)
    places.leave(5)
    assert places.enter(3, "a") and not places.enter(4, "a")
    for client in (2, 3):
        places.leave(client)
    assert weight(places) == empty  # a group that is gone costs nothing


def test_without_a_limit_nothing_is_counted() -> None:
    places: Capacity[int] = Capacity(None)
    empty = weight(places)
    assert all(places.enter(client, "a") for client in range(100)) and places.has_room("a")
    assert weight(places) == empty
    places.leave(1)


def test_concurrent_threads_never_exceed_the_limit() -> None:
    places: Capacity[int] = Capacity(3)
    start, got = threading.Barrier(8), []

    def come(client: int) -> None:
        start.wait(5)
        for turn in range(200):
            if places.enter(client * 1000 + turn, "a"):
                got.append(client)

    threads = [threading.Thread(target=come, args=(client,)) for client in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(got) == 3
