"""The hub's queue: bounded in items and in what they count for, and never locked."""

from __future__ import annotations

import queue
import threading

import pytest

from tests.support import TIMEOUT, wait_until
from ws_hub.reentrant import Bell, Intake


def sized(maxsize: int) -> Intake[bytes]:
    return Intake(Bell(), maxsize, lambda item: 1 + len(item))


def test_fault_126_an_intake_is_full_when_its_items_count_for_so_much() -> None:
    items = sized(10)
    items.put_nowait(b"x" * 8)
    items.put_nowait(b"y" * 50)  # one may go beyond
    assert items.full() and items.qsize() == 2
    with pytest.raises(queue.Full):
        items.put_nowait(b"")
    assert items.get_nowait() == b"x" * 8
    assert items.full() and items.qsize() == 1
    assert items.get_nowait() == b"y" * 50
    with pytest.raises(queue.Empty):
        items.get_nowait()
    assert items.empty() and not items.full()
    items.put_nowait(b"z")


def test_an_intake_is_full_when_it_holds_so_many_items() -> None:
    items: Intake[bytes] = Intake(Bell(), 2)
    items.put_nowait(b"x" * 100)
    items.put_nowait(b"")
    assert items.full() and items.qsize() == 2
    with pytest.raises(queue.Full):
        items.put(b"", timeout=0.001)


def test_each_that_waits_for_room_gets_in() -> None:
    items = sized(10)
    items.put(b"x" * 10)
    threads = [
        threading.Thread(target=items.put, args=(b"y" * 10, True, TIMEOUT)) for _ in range(5)
    ]
    for thread in threads:
        thread.start()

    def taken() -> bytes | None:
        try:
            return items.get_nowait()
        except queue.Empty:  # which lets in those that wait
            return None

    for _ in range(6):
        assert wait_until(taken)
    for thread in threads:
        thread.join(TIMEOUT)
    assert items.empty()


def test_an_item_rings_the_bell_once_for_all_that_wait() -> None:
    bell = Bell()
    items: Intake[bytes] = Intake(bell)
    items.put(b"x")
    items.put(b"y")
    assert bell.qsize() == 1
    bell.wait(TIMEOUT)
    assert bell.empty() and items.qsize() == 2
