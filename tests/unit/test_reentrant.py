"""A lock that is entered again, an event, a bell, and a queue without a lock."""

from __future__ import annotations

import contextlib
import functools
import queue
import threading

import pytest

from tests.harness import waiting_threads
from tests.integration.apps.live import at_once
from tests.support import TIMEOUT, wait_until
from ws_hub.reentrant import Event, Lock, ReentrantQueue, Wakeup, nested


def test_a_lock_is_entered_again_by_its_thread_and_by_no_other() -> None:
    lock, free = Lock(), []
    with lock:
        with lock:
            assert lock.locked()
        with at_once(lambda: free.append(lock.acquire(blocking=False))):
            pass
        assert free == [False]
    assert not lock.locked()
    with at_once(lambda: free.append(lock.acquire(blocking=False))):
        pass
    assert free == [False, True]


def test_an_event_wakes_all_waiters_and_stays_set() -> None:
    event, found = Event(), []
    with at_once(*[lambda: found.append(event.wait(TIMEOUT))] * 3):
        wait_until(lambda: waiting_threads(event) == 3)
        event.set()
    assert found == [True] * 3
    assert event.is_set() and event.wait(0)
    event.clear()
    assert not event.is_set()
    assert not event.wait(0)
    assert not event.wait(0.001)


def test_a_timed_out_waiter_does_not_disturb_the_others() -> None:
    event, found = Event(), []
    assert not event.wait(0)
    assert waiting_threads(event) == 0
    with at_once(lambda: found.append(event.wait())):
        wait_until(lambda: waiting_threads(event))
        event.set()
    assert found == [True]


def test_several_rings_end_one_wait() -> None:
    wakeup = Wakeup()
    for _ in range(3):
        wakeup.signal()
        wakeup.put(None)
    wakeup.wait(TIMEOUT)
    assert wakeup.empty()
    wakeup.wait(0)


def test_an_intake_is_a_queue_in_order_and_within_bounds() -> None:
    wakeup = Wakeup()
    intake: ReentrantQueue[int] = ReentrantQueue(wakeup, 2)
    assert isinstance(intake, queue.Queue)
    assert intake.empty() and not intake.full()
    intake.put(1)
    assert not wakeup.empty()
    intake.put_nowait(2)
    assert intake.full() and intake.qsize() == 2
    for timeout in (0, 0.001):
        with pytest.raises(queue.Full):
            intake.put(3, timeout=timeout)
    with pytest.raises(queue.Full):
        intake.put_nowait(3)
    assert [intake.get_nowait(), intake.get()] == [1, 2]
    with pytest.raises(queue.Empty):
        intake.get()


def test_an_intake_without_a_bound_takes_everything() -> None:
    intake: ReentrantQueue[int] = ReentrantQueue(Wakeup())
    for number in range(10_000):
        intake.put(number)
    assert intake.qsize() == 10_000 and not intake.full()


def test_waiting_puts_get_room_in_turn() -> None:
    intake: ReentrantQueue[int] = ReentrantQueue(Wakeup(), 1)
    intake.put(0)
    with at_once(*[lambda n=n: intake.put(n) for n in range(1, 5)]):
        wait_until(lambda: waiting_threads(intake) == 4)
        found = [wait_until(lambda: not intake.empty() and [intake.get()])[0] for _ in range(5)]
    assert found[0] == 0 and sorted(found) == [0, 1, 2, 3, 4]


def test_a_put_with_a_bound_of_its_own_waits_for_more_room() -> None:
    wakeup = Wakeup()
    intake: ReentrantQueue[int] = ReentrantQueue(wakeup, 128)
    for number in range(8):
        intake.put_nowait(number) if number % 2 else intake.put(number, most=8)
    for timeout in (0, 0.001):
        with pytest.raises(queue.Full):
            intake.put(9, timeout=timeout, most=8)
    with pytest.raises(queue.Full):
        intake.put(9, block=False, most=8)
    waiting = [functools.partial(intake.put, 10 + number, most=8) for number in range(3)]
    with at_once(*waiting):
        wait_until(lambda: waiting_threads(intake) == 3)
        intake.put(8)  # the others wait for nothing
        got = [intake.get() for _ in range(9)]
        while len(got) < 12:
            with contextlib.suppress(queue.Empty):
                got.append(intake.get())
            wakeup.wait(0.01)
    assert got[:9] == [*range(9)] and sorted(got[9:]) == [10, 11, 12]


def test_a_put_into_an_unbounded_intake_does_not_wait() -> None:
    intake: ReentrantQueue[int] = ReentrantQueue(Wakeup())
    for number in range(1000):
        intake.put(number, block=False, most=8)
    assert intake.qsize() == 1000


def test_an_empty_intake_wakes_all_waiting_puts() -> None:
    intake: ReentrantQueue[int] = ReentrantQueue(Wakeup(), 1)
    intake.put(0)
    with at_once(lambda: intake.put(1)):
        wait_until(lambda: waiting_threads(intake))
        assert intake.queue.popleft() == 0  # whoever was called took its room and has gone
        with pytest.raises(queue.Empty):
            while True:
                intake.get()
    assert intake.qsize() <= 1


def test_an_interruption_after_the_append_has_signalled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Cut(Wakeup):
        def empty(self) -> bool:
            raise KeyboardInterrupt

    wakeup = Cut()
    intake: ReentrantQueue[int] = ReentrantQueue(wakeup)
    with pytest.raises(KeyboardInterrupt):
        intake.put(1)
    assert intake.qsize() == 1 and wakeup.qsize() == 1


def test_a_call_from_outside_is_not_nested() -> None:
    assert not nested()
    found: list[bool] = []
    threading.Thread(target=lambda: found.append(nested())).run()
    assert found == [False]


def test_a_call_during_thread_start_is_nested() -> None:
    """The lock of `threading` that this holds is not reentrant before Python 3.13."""

    class Odd(threading.Thread):
        def __init__(self) -> None:
            super().__init__()
            self.within = False
            self._started = self  # type: ignore[assignment]

        def is_set(self) -> bool:
            self.within = nested()
            raise RuntimeError("not to be started")

    thread = Odd()
    with pytest.raises(RuntimeError, match="not to be"):
        thread.start()
    assert thread.within


def sized(maxsize: int) -> ReentrantQueue[bytes]:
    return ReentrantQueue(Wakeup(), maxsize, lambda item: 1 + len(item))


def test_fault_126_large_items_fill_an_intake() -> None:
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


def test_an_intake_without_sizes_counts_items() -> None:
    items: ReentrantQueue[bytes] = ReentrantQueue(Wakeup(), 2)
    items.put_nowait(b"x" * 100)
    items.put_nowait(b"")
    assert items.full() and items.qsize() == 2
    with pytest.raises(queue.Full):
        items.put(b"", timeout=0.001)


def test_every_waiting_put_gets_room() -> None:
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
