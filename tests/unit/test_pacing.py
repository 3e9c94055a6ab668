"""Which threads publish in a loop, which clients are crowded, and a queue bounded in bytes."""

from __future__ import annotations

import queue
import threading

import pytest

from tests.support import TIMEOUT
from ws_hub.pacing import ByteQueue, Pacing


def test_a_message_that_comes_alone_is_no_loop_however_large() -> None:
    pacing = Pacing()
    assert not pacing.is_loop(1, 1 << 30, 10.0)
    assert not pacing.is_loop(1, 1 << 30, 11.0)


@pytest.mark.parametrize(("messages", "size"), [(128, 1), (1, 64 * 1024)])
def test_a_thread_that_has_just_published_much_is_in_a_loop(messages: int, size: int) -> None:
    pacing = Pacing()
    assert not pacing.is_loop(messages - 1, size - 1, 10.0)
    assert not pacing.is_loop(1, 1, 10.5)
    assert pacing.is_loop(1, 1, 10.9)
    assert not pacing.is_loop(1, 1, 11.0)


def test_each_thread_is_judged_by_what_it_publishes_itself() -> None:
    pacing = Pacing()
    assert not pacing.is_loop(1000, 1, 10.0)
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(pacing.is_loop(1, 1, 10.0)))
    thread.start()
    thread.join(TIMEOUT)
    assert found == [False]
    assert pacing.is_loop(1, 1, 10.0)


def test_a_thread_can_be_exempt() -> None:
    pacing = Pacing()
    pacing.is_loop(1000, 1, 10.0)
    with pacing.exempt(), pacing.exempt():
        assert not pacing.is_loop(1, 1, 10.0)
    assert pacing.is_loop(1, 1, 10.0)


def test_clients_are_crowded_until_they_are_no_more() -> None:
    pacing = Pacing()
    pacing.mark(1, True)
    pacing.mark(2, True)
    pacing.mark(1, True)
    assert pacing.crowded == {1, 2}
    pacing.mark(1, False)
    pacing.mark(3, False)
    assert pacing.crowded == {2}


def test_fault_126_a_queue_is_full_when_it_holds_so_many_bytes() -> None:
    items: ByteQueue[bytes] = ByteQueue(100, 10, len)
    items.put_nowait(b"x" * 9)
    items.put_nowait(b"y" * 50)  # one may go beyond
    assert items.full()
    with pytest.raises(queue.Full):
        items.put_nowait(b"")
    assert items.qsize() == 2
    assert items.get_nowait() == b"x" * 9
    assert items.full()
    items.get_nowait()
    assert items.empty()
    with pytest.raises(queue.Empty):
        items.get_nowait()
    items.put_nowait(b"z")


def test_a_queue_is_full_when_it_holds_so_many_items() -> None:
    items: ByteQueue[bytes] = ByteQueue(2, 1000, len)
    items.put_nowait(b"")
    items.put_nowait(b"")
    assert items.full()


def test_threads_that_wait_for_room_are_woken_in_turn() -> None:
    items: ByteQueue[bytes] = ByteQueue(100, 10, len)
    items.put(b"x" * 10)
    threads = [
        threading.Thread(target=items.put, args=(b"y" * 10, True, TIMEOUT)) for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    for _ in range(6):
        assert items.get(timeout=TIMEOUT)
    for thread in threads:
        thread.join(TIMEOUT)
    assert items.empty()
