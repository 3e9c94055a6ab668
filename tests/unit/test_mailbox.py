"""A callable behind a bounded queue, on a thread of its own."""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Iterator

import pytest

from tests.support import TIMEOUT
from ws_hub.hub.mailbox import Mailbox


class Slow:
    """A callable that stops at each item until the test lets it go on."""

    def __init__(self) -> None:
        self.taken: queue.Queue[object] = queue.Queue()
        self.go = threading.Semaphore(0)

    def __call__(self, item: object) -> None:
        self.taken.put(item)
        assert self.go.acquire(timeout=TIMEOUT)


@pytest.fixture
def slow() -> Iterator[Slow]:
    found = Slow()
    yield found
    found.go.release(1000)


def test_items_are_handled_in_order_on_one_thread_of_that_name() -> None:
    seen: list[tuple[int, str]] = []
    mailbox: Mailbox[int] = Mailbox(
        "ws-hub:test", lambda item: seen.append((item, threading.current_thread().name)), 100
    )
    assert all(mailbox.post(number) for number in range(50))
    mailbox.close(drop=False)
    assert mailbox.join(TIMEOUT)
    assert seen == [(number, "ws-hub:test") for number in range(50)]


def test_what_exceeds_the_bound_is_refused_and_the_post_does_not_wait(slow: Slow) -> None:
    mailbox: Mailbox[int] = Mailbox("ws-hub:test", slow, 2)
    assert mailbox.post(0)
    assert slow.taken.get(timeout=TIMEOUT) == 0  # out of the queue: two more have room
    assert mailbox.post(1) and mailbox.post(2)
    assert not mailbox.post(3)
    slow.go.release()
    assert slow.taken.get(timeout=TIMEOUT) == 1
    assert mailbox.post(4)
    slow.go.release(10)
    mailbox.close(drop=False)
    assert mailbox.join(TIMEOUT)
    assert list(slow.taken.queue) == [2, 4]


def test_closing_drops_what_waits(slow: Slow) -> None:
    mailbox: Mailbox[int] = Mailbox("ws-hub:test", slow, 10)
    for number in range(3):
        mailbox.post(number)
    assert slow.taken.get(timeout=TIMEOUT) == 0
    mailbox.close()
    assert not mailbox.post(4)
    slow.go.release()
    assert mailbox.join(TIMEOUT)
    assert slow.taken.empty()


def test_a_full_mailbox_can_be_closed(slow: Slow) -> None:
    mailbox: Mailbox[int] = Mailbox("ws-hub:test", slow, 1)
    mailbox.post(0)
    assert slow.taken.get(timeout=TIMEOUT) == 0
    assert mailbox.post(1)
    mailbox.close(drop=False)
    slow.go.release(2)
    assert mailbox.join(TIMEOUT)
    assert slow.taken.get(timeout=TIMEOUT) == 1


def test_closing_again_changes_nothing() -> None:
    mailbox: Mailbox[int] = Mailbox("ws-hub:test", print, 1)
    for _ in range(3):
        mailbox.close()
        mailbox.close(drop=False)
    assert mailbox.join(TIMEOUT)


def test_joining_says_when_the_callable_still_runs(slow: Slow) -> None:
    mailbox: Mailbox[int] = Mailbox("ws-hub:test", slow, 1)
    mailbox.post(0)
    assert slow.taken.get(timeout=TIMEOUT) == 0
    mailbox.close()
    assert not mailbox.join(0)
    slow.go.release()
    assert mailbox.join(TIMEOUT)


def test_a_callable_may_close_its_own_mailbox() -> None:
    ended = threading.Event()

    def handle(item: int) -> None:
        mailbox.close()
        assert mailbox.join(0)  # itself: it does not wait for its own end
        ended.set()

    mailbox: Mailbox[int] = Mailbox("ws-hub:test", handle, 10)
    assert mailbox.post(0)
    assert ended.wait(TIMEOUT)
    assert mailbox.join(TIMEOUT)


class Item:
    """Something that a weak reference can refer to."""


def test_what_was_handled_last_is_not_kept_until_the_next_comes() -> None:
    gone = threading.Event()
    mailbox: Mailbox[Item] = Mailbox("ws-hub:test", lambda item: None, 10)
    item = Item()
    watch = weakref.ref(item, lambda _: gone.set())
    assert mailbox.post(item)
    del item
    assert gone.wait(TIMEOUT) and watch() is None
    mailbox.close()
    assert mailbox.join(TIMEOUT)
