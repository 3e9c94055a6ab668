"""What waits for sockets that are full: asked from one thread, answered from another."""

from __future__ import annotations

import queue
import selectors
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.interventions import before_each_request
from tests.support import TIMEOUT, fill, small_pair
from ws_hub import threads
from ws_hub.connection.poller import Poller
from ws_hub.testing.leaks import open_files


class Desk:
    """Starts threads at once, and notes who was called."""

    def __init__(self) -> None:
        self.called: queue.Queue[str] = queue.Queue()  # guards: itself.
        self.poller = Poller(self.start)

    def start(
        self, name: str, target: Callable[[], None], step: Callable[[], bool]
    ) -> threads.DeferredThread:
        later = threads.DeferredThread(name, target, step)
        later.start()
        return later

    def note(self, name: str) -> Callable[[], None]:
        return lambda: self.called.put(name)

    def next(self) -> str:
        return self.called.get(timeout=TIMEOUT)


@pytest.fixture
def desk() -> Iterator[Desk]:
    found = Desk()
    yield found
    found.poller.close()
    assert found.poller.join(TIMEOUT)


def drain(sock: socket.socket, size: int) -> None:
    while size > 0:
        size -= len(sock.recv(65536))


def test_a_socket_with_room_is_called_back_once(desk: Desk) -> None:
    with small_pair() as (near, _), small_pair() as (other, _):
        assert desk.poller.watch(near.fileno(), desk.note("near"))
        assert desk.next() == "near"
        assert desk.poller.watch(other.fileno(), desk.note("other"))
        assert desk.next() == "other"
        assert desk.called.empty()


def test_a_full_socket_is_called_back_when_it_has_room(desk: Desk) -> None:
    with small_pair() as (full, far), small_pair() as (other, _):
        size = fill(full)
        desk.poller.watch(full.fileno(), desk.note("full"))
        desk.poller.watch(other.fileno(), desk.note("other"))
        assert desk.next() == "other"
        drain(far, size)
        assert desk.next() == "full"


def test_a_socket_that_ends_is_called_back(desk: Desk) -> None:
    with small_pair() as (full, _):
        fill(full)
        desk.poller.watch(full.fileno(), desk.note("full"))
        full.shutdown(socket.SHUT_RDWR)
        assert desk.next() == "full"


def test_an_unwatched_socket_is_not_called_back(desk: Desk) -> None:
    with small_pair() as (full, far), small_pair() as (other, _):
        size = fill(full)
        call = desk.note("full")
        desk.poller.watch(full.fileno(), call)
        desk.poller.unwatch(full.fileno(), desk.note("somebody else's"))
        desk.poller.unwatch(full.fileno(), call)
        desk.poller.unwatch(-1, call)
        drain(far, size)
        desk.poller.watch(other.fileno(), desk.note("other"))
        assert desk.next() == "other"
        assert desk.called.empty()


def test_a_closed_descriptor_is_called_back(desk: Desk) -> None:
    with small_pair() as (near, _), small_pair() as (full, _):
        number = near.fileno()
        near.close()
        desk.poller.watch(number, desk.note("closed"))
        assert desk.next() == "closed"
        desk.poller.watch(-1, desk.note("no descriptor"))
        assert desk.next() == "no descriptor"
        fill(full)
        desk.poller.watch(full.fileno(), desk.note("full"))
        assert desk.called.empty()


def test_a_reused_descriptor_is_called_back_for_both_sockets(desk: Desk) -> None:
    with small_pair() as (full, far):
        size = fill(full)
        desk.poller.watch(full.fileno(), desk.note("the old one"))
        desk.poller.watch(full.fileno(), desk.note("the new one"))
        assert desk.next() == "the old one"
        drain(far, size)
        assert desk.next() == "the new one"


def test_watching_twice_calls_back_once(desk: Desk) -> None:
    with small_pair() as (full, far), small_pair() as (other, _):
        size = fill(full)
        call = desk.note("full")
        desk.poller.watch(full.fileno(), call)
        desk.poller.watch(full.fileno(), call)
        drain(far, size)
        assert desk.next() == "full"
        desk.poller.watch(other.fileno(), desk.note("other"))
        assert desk.next() == "other"
        assert desk.called.empty()


def test_without_a_thread_watch_returns_false() -> None:
    poller = Poller(lambda name, target, step: None)
    with small_pair() as (near, _):
        assert not poller.watch(near.fileno(), lambda: None)
    poller.unwatch(0, lambda: None)
    poller.close()


def test_without_a_thread_it_works_in_steps() -> None:
    steps: list[Callable[[], bool]] = []

    def start(
        name: str, target: Callable[[], None], step: Callable[[], bool]
    ) -> threads.DeferredThread:
        steps.append(step)
        return threads.DeferredThread(name, target, step)

    called: list[str] = []
    poller = Poller(start)
    with small_pair() as (near, _):
        assert poller.watch(near.fileno(), lambda: called.append("near"))
        while not called:
            assert steps[0]()
        assert called == ["near"]
        poller.close()
        assert not steps[0]()
        assert not poller.watch(near.fileno(), lambda: None)


@pytest.mark.parametrize("kind", [OSError, ValueError])
def test_a_failing_select_calls_back_all(
    kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """select(2), where there is no poll(2), fails for all when one descriptor is closed."""
    fails = threading.Event()

    class Selector(selectors.SelectSelector):
        def select(self, timeout: float | None = None) -> Any:
            found = super().select(timeout)
            if fails.is_set():
                fails.clear()
                raise kind("too many file descriptors in select()")
            return found

    monkeypatch.setattr(selectors, "PollSelector", Selector)
    desk = Desk()
    with small_pair() as (full, _):
        fill(full)
        desk.poller.watch(full.fileno(), desk.note("full"))
        desk.poller.watch(-1, desk.note("settled"))
        assert desk.next() == "settled"
        fails.set()
        desk.poller.watch(-1, desk.note("wakes it"))
        assert {desk.next(), desk.next()} == {"wakes it", "full"}
    desk.poller.close()
    assert desk.poller.join(TIMEOUT)


def test_a_forked_child_closes_the_descriptors_only() -> None:
    desk = Desk()
    with small_pair() as (near, _):
        desk.poller.watch(near.fileno(), desk.note("near"))
        assert desk.next() == "near"
        desk.poller.close()
        assert desk.poller.join(TIMEOUT)
        desk.poller.forget()  # as in the child, where the thread is not
        assert not desk.poller.watch(near.fileno(), desk.note("near"))


@pytest.mark.skipif(not open_files(), reason="needs /proc")
def test_a_request_at_the_end_of_the_thread_is_not_accepted() -> None:
    """And no byte is written: the descriptor that wakes it may be another's by now."""
    targets: list[Callable[[], None]] = []
    strangers: list[tuple[socket.socket, socket.socket]] = []

    def start(
        name: str, target: Callable[[], None], step: Callable[[], bool]
    ) -> threads.DeferredThread:
        targets.append(target)
        return threads.DeferredThread(name, target, step)

    def die() -> None:
        raise RuntimeError("the end of the thread")

    def end_of_the_thread() -> None:
        before = set(open_files())
        with pytest.raises(RuntimeError, match="end of the thread"):
            targets[0]()
        assert len(before) - len(open_files()) == 2
        strangers.append(socket.socketpair())  # by the numbers that it had
        assert set(open_files()) == before

    poller = Poller(start)
    with small_pair() as (near, _):
        assert poller.watch(near.fileno(), die)
        with before_each_request(poller, end_of_the_thread):
            assert not poller.watch(near.fileno(), lambda: None)
    for one, other in strangers:
        with one, other:
            one.shutdown(socket.SHUT_WR)
            other.shutdown(socket.SHUT_WR)
            assert (one.recv(10), other.recv(10)) == (b"", b"")
