"""The queue between the receiving thread and the callbacks: bounds, patience, relief."""

from __future__ import annotations

import threading

import pytest

from tests.support import TIMEOUT
from ws_hub.reconnect.inbox import Inbox


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def inbox(
    items: int = 4, size: int = 1000, patience: float = 5.0, clock: Clock | None = None
) -> Inbox[int]:
    return Inbox(items, size, patience, clock or Clock())


def test_items_keep_their_order() -> None:
    box = inbox()
    for each in range(3):
        assert box.offer(each, 1)
    box.post(3)
    assert [box.take() for _ in range(4)] == [0, 1, 2, 3]


def test_offer_over_max_items_without_wait_is_refused_at_once() -> None:
    box = inbox(items=2)
    assert box.offer(1, 1, wait=False)
    assert box.offer(2, 1, wait=False)
    assert not box.offer(3, 1, wait=False)


def test_offer_over_max_bytes_is_refused() -> None:
    box = inbox(size=10)
    assert box.offer(1, 6, wait=False)
    assert not box.offer(2, 5, wait=False)


def test_single_item_may_exceed_max_bytes() -> None:
    box = inbox(size=10)
    assert box.offer(1, 1_000_000, wait=False)
    assert not box.offer(2, 1, wait=False)


def test_posted_items_are_outside_the_bounds() -> None:
    box = inbox(items=1)
    for each in range(100):
        box.post(each)
    assert box.offer(100, 1, wait=False)


def test_after_a_refusal_offers_are_refused_until_half_is_free() -> None:
    box = inbox(items=4)
    for each in range(4):
        assert box.offer(each, 1)
    assert not box.offer(9, 1, wait=False)
    box.take()
    assert not box.offer(9, 1, wait=False)  # one free of four: it would be full at once again
    assert not box.was_relieved()
    box.take()
    assert box.was_relieved()
    assert box.offer(4, 1, wait=False)
    assert [box.take() for _ in range(3)] == [2, 3, 4]


def test_was_relieved_is_true_once() -> None:
    box = inbox(items=1)
    box.offer(1, 1)
    box.offer(2, 1, wait=False)
    box.take()
    assert box.was_relieved()
    assert not box.was_relieved()


def test_was_relieved_is_false_without_a_refusal() -> None:
    box = inbox(items=1)
    box.offer(1, 1)
    box.take()
    assert not box.was_relieved()


def test_an_offer_waits_for_room() -> None:
    box = inbox(items=1)
    box.offer(1, 1)
    accepted = threading.Event()

    def offer() -> None:
        if box.offer(2, 1):
            accepted.set()

    thread = threading.Thread(target=offer)
    thread.start()
    assert box.take() == 1
    assert accepted.wait(TIMEOUT)
    thread.join(TIMEOUT)
    assert box.take() == 2


def test_patience_counts_from_the_moment_the_inbox_is_full() -> None:
    clock = Clock()
    box = inbox(items=4, patience=5.0, clock=clock)
    for each in range(4):
        box.offer(each, 1)
    refused = box.offer(9, 1, wait=False)
    assert not refused
    box = inbox(items=4, patience=5.0, clock=clock)
    for each in range(4):
        box.offer(each, 1)
    waiting = threading.Thread(target=box.offer, args=(4, 1))  # full since 0.0
    waiting.start()
    box.take()
    waiting.join(TIMEOUT)
    clock.now = 5.0  # never half empty since: the patience of 0.0 is over
    assert not box.offer(5, 1)


def test_take_waits_for_an_item() -> None:
    box = inbox()
    got: list[int | None] = []
    thread = threading.Thread(target=lambda: got.append(box.take()))
    thread.start()
    box.offer(7, 1)
    thread.join(TIMEOUT)
    assert got == [7]


def test_take_returns_none_after_the_last_item_until_begin() -> None:
    box = inbox()
    box.offer(1, 1)
    box.end()
    assert box.take() == 1
    assert box.take() is None
    box.begin()
    box.offer(2, 1)
    assert box.take() == 2


def test_end_wakes_take() -> None:
    box = inbox()
    got: list[int | None] = []
    thread = threading.Thread(target=lambda: got.append(box.take()))
    thread.start()
    box.end()
    thread.join(TIMEOUT)
    assert got == [None]


def test_stop_drops_offered_items_and_keeps_posted_ones() -> None:
    box = inbox()
    box.offer(1, 1)
    box.post(2)
    box.stop()
    assert not box.offer(3, 1)
    assert box.take() == 2


@pytest.mark.parametrize("run", range(5))
def test_stop_wakes_a_waiting_offer(run: int) -> None:
    box = inbox(items=1)
    box.offer(1, 1)
    results: list[bool] = []
    thread = threading.Thread(target=lambda: results.append(box.offer(2, 1)))
    thread.start()
    box.stop()
    thread.join(TIMEOUT)
    assert results == [False]


# --- reports -------------------------------------------------------------------------------


def add(first: int, second: int) -> int:
    return first + second


def everything(box: Inbox[int]) -> list[int | None]:
    box.end()
    return list(iter(box.take, None))


def test_fault_119_a_report_finds_room_where_nothing_else_does() -> None:
    box = inbox(items=1)
    box.offer(1, 1, wait=False)
    assert not box.offer(2, 1, wait=False)
    for kind, count in (("a", 10), ("b", 20), ("c", 30), ("a", 40)):
        box.report(kind, count, add)
    assert everything(box) == [1, 10, 20, 30, 40]


def test_a_report_does_not_make_an_inbox_refuse() -> None:
    box = inbox(items=1)
    for _ in range(3):
        box.report("a", 1, add)
    assert box.offer(2, 1, wait=False)


def test_reports_within_the_bound_keep_their_order() -> None:
    box = inbox()
    box.report("a", 10, add)
    box.offer(1, 1)
    box.report("a", 20, add)
    assert everything(box) == [10, 1, 20]


def test_reports_beyond_the_bound_are_merged() -> None:
    for further in ("", "bcd"):
        box = inbox(items=100_000, size=100_000)
        for _ in range(10_000):
            box.report("a", 1, add)
            box.offer(0, 0)
        for kind in further:
            box.report(kind, 1, add)
            box.report(kind, 1, add)
        found = everything(box)
        assert len(found) == 10_000 + 256 + len(further)
        assert sum(each or 0 for each in found) == 10_000 + 2 * len(further)
    box.report("a", 1, add)
    assert everything(box) == [1]  # nothing waits any more


def test_stop_drops_reports_and_keeps_posted_items() -> None:
    box = inbox()
    box.report("a", 10, add)
    box.post(1)
    box.stop()
    box.report("a", 20, add)
    assert everything(box) == [1]
