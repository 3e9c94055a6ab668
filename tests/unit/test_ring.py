"""Sends of one frame to many sockets by io_uring: what is sent, what is left, what is locked."""

from __future__ import annotations

import contextlib
import errno
import functools
import gc
import logging
import os
import random
import resource
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.apps.live import at_once
from tests.interventions import (
    a_platform,
    around_ring_calls,
    before_ring_locks,
    first_ring_call,
    other_ring,
    ring_descriptor,
    without_libc,
)
from tests.support import TIMEOUT, fill, small_pair, tcp_pair, tls_pair
from ws_hub.connection.fast_send import DirectSocket, send_to_each
from ws_hub.connection.ring import Ring, Unavailable

CALL = 128  # the most targets of one call
MANY = 300  # targets: more than two calls


class Target:
    """A client's way to its socket, and its peer."""

    def __init__(self, sock: socket.socket, peer: socket.socket) -> None:
        self.sock = sock
        self.peer = peer
        self.direct: DirectSocket | None = DirectSocket(sock)
        self.way.open()

    @property
    def way(self) -> DirectSocket:
        assert self.direct is not None
        return self.direct

    def got(self) -> bytes:
        """Return what has come."""
        self.peer.setblocking(False)
        got = b""
        with contextlib.suppress(BlockingIOError):
            while data := self.peer.recv(1 << 16):
                got += data
        return got


@contextlib.contextmanager
def made_targets(count: int, sndbuf: int | None = None) -> Iterator[list[Target]]:
    with contextlib.ExitStack() as stack:
        made: list[Target] = []
        for _ in range(count):
            pair = (
                socket.socketpair() if sndbuf is None else stack.enter_context(small_pair(sndbuf))
            )
            for sock in pair:
                stack.enter_context(sock)
            pair[0].setblocking(True)  # as the sockets of clients are
            made.append(Target(*pair))
        yield made
        assert not any(each.direct is not None and each.direct.lock.locked() for each in made)


@pytest.fixture
def targets() -> Iterator[list[Target]]:
    with made_targets(MANY) as made:
        yield made


@pytest.fixture
def few() -> Iterator[list[Target]]:
    """As many as one call takes."""
    with made_targets(CALL) as made:
        yield made


Begun = Callable[[Target, int], None]


def none_begun(target: Target, sent: int) -> None:
    raise AssertionError(f"{sent} bytes were sent to {target}")


def send(ring: Ring, targets: list[Target], data: bytes, begun: Begun = none_begun) -> list[Target]:
    return list(ring.send_to_each(targets, data, begun))


# --- what is sent --------------------------------------------------------------------------


def test_each_target_gets_the_whole_frame_once(ring: Ring, targets: list[Target]) -> None:
    assert send(ring, targets, b"frame") == []
    assert [each.got() for each in targets] == [b"frame"] * MANY


def test_frames_come_in_the_order_of_the_calls(ring: Ring, targets: list[Target]) -> None:
    """Also where the queues of the kernel wrap around, at other places each time."""
    source = random.Random(4)
    expected: dict[Target, bytes] = dict.fromkeys(targets, b"")
    for number in range(60):
        frame = b"%d " % number * source.choice([1, 1, 7, 300])
        those = source.sample(targets, source.randint(40, MANY))
        assert send(ring, those, frame) == []
        for each in those:
            expected[each] += frame
    assert {each: each.got() for each in targets} == expected


@pytest.mark.parametrize("size", [1, 125, 126, 8192, 8193, 65536])
def test_frames_of_any_length_that_is_taken(ring: Ring, few: list[Target], size: int) -> None:
    data = random.Random(size).randbytes(size)

    assert send(ring, few, data) == []
    assert all(each.got() == data for each in few)


@pytest.mark.parametrize("case", ["long frame", "few targets", "closed"])
def test_what_a_ring_does_not_take_is_sent_without_it(
    ring: Ring, few: list[Target], case: str
) -> None:
    calls: list[int] = []
    data = b"x" * (65537 if case == "long frame" else 5)
    those = few[:5] if case == "few targets" else few
    with around_ring_calls(ring, before=calls.append):
        if case == "closed":
            ring.close()
        assert send(ring, those, data) == []
    assert calls == []
    assert all(each.got() == data for each in those)


def test_the_frame_is_sent_that_was_asked_for_although_another_came_between(
    ring: Ring, targets: list[Target]
) -> None:
    targets[0].way.shut()
    left = ring.send_to_each(targets, b"first", none_begun)
    assert next(left) is targets[0]  # the others of its call have it, two calls are to come
    assert send(ring, targets[1:], b"other") == []
    assert list(left) == []

    assert targets[1].got() == b"firstother"
    assert targets[-1].got() == b"otherfirst"


# --- what is left --------------------------------------------------------------------------


def test_a_full_socket_in_blocking_mode_is_left_and_nothing_comes_later(ring: Ring) -> None:
    with made_targets(CALL, sndbuf=4096) as few:
        taken = fill(few[3].sock)
        few[3].sock.setblocking(True)

        assert send(ring, few, b"frame") == [few[3]]
        assert few[3].got() == b"x" * taken  # there is room again
        assert send(ring, few, b"next") == []
        assert few[3].got() == b"next"  # a send that waited would have come before it
        assert few[4].got() == b"framenext"


def test_a_frame_that_is_sent_in_part_is_begun_under_its_own_lock(
    ring: Ring, few: list[Target]
) -> None:
    data = bytes(range(256)) * 256
    found: list[tuple[Target, int, bool, bool]] = []

    def begun(target: Target, sent: int) -> None:
        found.append((target, sent, target.way.lock.locked(), few[0].way.lock.locked()))

    with tcp_pair(sndbuf=4096, rcvbuf=4096) as pair:
        narrow = Target(*pair)
        assert send(ring, [*few[:50], narrow, *few[50:80]], data, begun) == []
        (target, sent, own_lock, other_lock), *more = found
        assert (target, own_lock, other_lock, more) == (narrow, True, False, [])
        assert 0 < sent < len(data)
        got = b""
        while len(got) < sent:
            got += narrow.peer.recv(1 << 16)
        assert narrow.way.send(b"next") == 4
        while not got.endswith(b"next"):
            got += narrow.peer.recv(1 << 16)
        assert got == data[:sent] + b"next"  # nothing of the rest was sent later
    assert few[0].got() == data


def test_results_of_the_kernel_decide_what_is_begun_and_what_is_left(
    ring: Ring, few: list[Target]
) -> None:
    found: list[tuple[Target, int, bool, bool]] = []

    def begun(target: Target, sent: int) -> None:
        found.append((target, sent, target.way.lock.locked(), few[0].way.lock.locked()))

    few[1].peer.close()
    few[2].sock.shutdown(socket.SHUT_WR)
    with around_ring_calls(ring, results={5: 3, 6: -errno.ENOMEM, 7: 1}):
        assert send(ring, few, b"frame", begun) == [few[1], few[2], few[6]]
    assert found == [(few[5], 3, True, False), (few[7], 1, True, False)]
    assert few[0].got() == b"frame"


def test_a_result_is_found_wherever_the_queues_stand(ring: Ring, few: list[Target]) -> None:
    broken = few[99]
    broken.peer.close()
    for _ in range(20):
        assert send(ring, few[:100], b"x") == [broken]
        assert send(ring, few[:71], b"y") == []
    assert few[0].got() == b"xy" * 20


def test_targets_whose_way_is_shut_are_left(ring: Ring, targets: list[Target]) -> None:
    targets[0].way.shut()
    targets[130].direct = None
    targets[131].way.forget()

    assert send(ring, targets, b"frame") == [targets[0], targets[130], targets[131]]
    assert targets[0].got() == b""
    assert targets[1].got() == b"frame"


def test_a_way_that_is_shut_at_the_last_moment_is_left(ring: Ring, few: list[Target]) -> None:
    """After it was seen open, and before its lock was taken."""

    class Shutting(DirectSocket):
        looks = 0

        @property
        def fd(self) -> int:
            Shutting.looks += 1
            return few[2].sock.fileno() if Shutting.looks == 1 else -1

        @fd.setter
        def fd(self, value: int) -> None:
            pass

    few[2].direct = Shutting(few[2].sock)
    Shutting.looks = 0

    assert send(ring, few, b"frame") == [few[2]]
    assert few[2].got() == b""


def test_tls_sockets_are_left(ring: Ring, few: list[Target], certificate: Path) -> None:
    with tls_pair(certificate) as (server, _):
        few[0].direct = DirectSocket(server)
        few[0].way.open()
        assert send(ring, few, b"frame") == [few[0]]


# --- locks and descriptors -----------------------------------------------------------------


@pytest.mark.parametrize("when", ["before the locks", "in the call"])
def test_no_descriptor_is_given_up_while_an_entry_names_it(
    ring: Ring, few: list[Target], when: str
) -> None:
    """Another thread that closes a client comes before its lock is taken, or after the call."""
    victim = few[9]
    strangers: list[socket.socket] = []

    def close_and_reuse() -> None:
        # As `Transport.close`, but that it does not wait for the lock.
        if victim.way.lock.acquire(blocking=False):
            number = victim.sock.fileno()
            victim.way.forget()
            victim.sock.close()
            strangers.extend(socket.socketpair())
            assert number in [each.fileno() for each in strangers]
            victim.way.lock.release()

    def on_other_thread(*_: int) -> None:
        with at_once(close_and_reuse):
            pass

    if when == "in the call":
        with around_ring_calls(ring, before=on_other_thread):
            assert send(ring, few, b"frame") == []
    else:
        with before_ring_locks(ring, on_other_thread):
            assert send(ring, few, b"frame") == [victim]
    assert len(strangers) == (0 if when == "in the call" else 2)
    for sock in strangers:
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.recv(100)
    for sock in strangers:
        sock.close()
    assert victim.got() == (b"frame" if when == "in the call" else b"")
    assert few[10].got() == b"frame"


def test_all_locks_of_a_call_are_held_during_it_and_free_after_it(
    ring: Ring, targets: list[Target]
) -> None:
    held: list[int] = []

    def count(_: int) -> None:
        def look() -> None:
            free = [each for each in targets if each.way.lock.acquire(blocking=False)]
            for each in free:
                each.way.lock.release()
            held.append(MANY - len(free))

        thread = threading.Thread(target=look)
        thread.start()
        thread.join()

    with around_ring_calls(ring, before=count):
        send(ring, targets, b"frame")
    count(0)
    assert held == [CALL, CALL, MANY - 2 * CALL, 0]


def test_a_lock_that_is_taken_is_waited_for_with_no_other_held(
    ring: Ring, few: list[Target]
) -> None:
    taken = threading.Event()
    free: list[bool] = []

    def hold() -> None:
        with few[4].way.lock:
            taken.set()
            few[3].peer.recv(100)  # waits until those before it have been sent to
            for each in [*few[:4], *few[5:]]:
                free.append(each.way.lock.acquire(timeout=TIMEOUT))
                each.way.lock.release()

    with at_once(hold):
        taken.wait()
        assert send(ring, few, b"frame") == []
    assert free == [True] * (CALL - 1)
    assert few[4].got() == few[5].got() == b"frame"


def test_no_finaliser_comes_between_a_part_of_a_frame_and_its_rest(
    ring: Ring, few: list[Target]
) -> None:
    """One may send to the same client; the collector runs when enough has been allocated."""
    order: list[str] = []

    class Cycle:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            order.append("finaliser")

    def make_garbage() -> None:
        gc.collect()
        gc.set_threshold(60)
        Cycle()

    usual = gc.get_threshold()
    try:
        with around_ring_calls(ring, after=make_garbage, results={100: 1}):
            send(ring, few, b"frame", lambda target, sent: order.append("begun"))
    finally:
        gc.set_threshold(*usual)
    gc.collect()
    assert order == ["begun", "finaliser"]


@pytest.mark.parametrize("where", ["call", "begun"])
def test_an_exception_leaves_no_lock_taken(ring: Ring, few: list[Target], where: str) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    before = fail if where == "call" else id
    with (
        around_ring_calls(ring, before=before, results={3: 1, 9: 2}),
        pytest.raises(ZeroDivisionError),
    ):
        send(ring, few, b"frame", fail)
    assert not any(each.way.lock.locked() for each in few)
    send(ring, few, b"again", lambda target, sent: None)
    assert few[-1].got().endswith(b"again")


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("first", "second"), [(128, 40), (40, 60)])
def test_a_call_that_an_exception_cuts_short_leaves_nothing_for_the_next(
    ring: Ring, few: list[Target], when: str, first: int, second: int
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    around = functools.partial(around_ring_calls, ring)
    with around(before=fail) if when == "before" else around(after=fail):
        with pytest.raises(MemoryError):
            send(ring, few[:first], b"first")
    assert send(ring, few[:second], b"second") == []
    sent = 0 if when == "before" else min(first, second)
    expected = [b"firstsecond"] * sent + [b"second"] * (second - sent)
    assert [each.got() for each in few[:second]] == expected


def test_a_frame_that_could_not_be_loaded_is_loaded_anew(ring: Ring, few: list[Target]) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    assert send(ring, few, b"a") == []
    with other_ring("array", fail), pytest.raises(MemoryError):
        send(ring, few, b"longer")
    assert send(ring, few, b"longer") == []
    assert few[0].got() == b"alonger"


@pytest.mark.parametrize("where", ["call", "begun"])
def test_who_has_a_part_of_a_frame_when_an_exception_comes_is_cut(
    ring: Ring, few: list[Target], where: str
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    after = fail if where == "call" else lambda: None
    results = {3: 1, 9: 2, 11: -errno.EAGAIN}
    with around_ring_calls(ring, after=after, results=results), pytest.raises(MemoryError):
        send(ring, few, b"frame", fail)
    assert [at for at, each in enumerate(few) if each.way.fd == -1] == [3, 9]
    assert send(ring, few, b"next") == [few[3], few[9]]
    with pytest.raises(BrokenPipeError):
        few[3].way.send(b"next")


def test_the_loop_cuts_who_has_a_part_of_a_frame_when_an_exception_comes() -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    with made_targets(1, sndbuf=4096) as (target,):
        with pytest.raises(MemoryError):
            list(send_to_each([target], b"x" * (1 << 20), fail))
        assert target.way.fd == -1
        with pytest.raises(BrokenPipeError):
            target.way.send(b"next")


# --- what the kernel does not do -------------------------------------------------------------


def test_entries_that_the_kernel_has_not_taken_are_left_and_not_sent_later(
    ring: Ring, few: list[Target]
) -> None:
    with around_ring_calls(ring, entries=lambda count: count - 3):
        assert send(ring, few, b"frame") == few[-3:]
    assert send(ring, few[:40], b"next") == []
    assert few[-1].got() == b""
    assert few[0].got() == b"framenext"


def test_a_client_without_a_result_is_cut_and_the_ring_given_up(
    ring: Ring, few: list[Target], caplog: pytest.LogCaptureFixture
) -> None:
    with around_ring_calls(ring, lost=1), caplog.at_level(logging.ERROR):
        assert send(ring, few, b"frame") == []
    assert "io_uring has not answered for 1 clients" in caplog.text
    assert not ring.is_open
    assert few[-1].way.fd == -1
    with contextlib.suppress(ConnectionResetError):
        while few[-1].peer.recv(100):  # what was sent, then the end
            pass

    assert send(ring, few, b"next") == [few[-1]]
    assert few[0].got() == b"framenext"


def test_another_thread_sends_nothing_by_it(ring: Ring, few: list[Target]) -> None:
    left: list[Target] = []
    thread = threading.Thread(target=lambda: left.extend(send(ring, few, b"frame")))
    thread.start()
    thread.join()

    assert left == few
    assert send(ring, few, b"own") == []
    assert few[0].got() == b"own"


def test_a_forked_child_closes_it_and_the_parent_goes_on(ring: Ring, few: list[Target]) -> None:
    number = ring_descriptor(ring)
    pid = os.fork()
    if not pid:
        status = 1
        with contextlib.suppress(BaseException):
            closed = not ring.is_open and not os.path.exists(f"/proc/self/fd/{number}")
            status = 0 if closed and send(ring, few, b"child ") == [] else 2
        os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    assert send(ring, few, b"parent") == []
    assert few[0].got() == b"child parent"


# --- where there is none -------------------------------------------------------------------


@pytest.mark.parametrize("system", [{"machine": "riscv64"}, {"system": "darwin"}])
def test_other_systems_have_none(system: dict[str, str]) -> None:
    with a_platform(**system), pytest.raises(Unavailable, match="no io_uring on this system"):
        Ring().open()


@pytest.mark.parametrize("error", [OSError, AttributeError])
def test_without_libc_there_is_none(error: type[Exception]) -> None:
    with without_libc(error), pytest.raises(Unavailable, match="libc cannot be called"):
        Ring().open()


@pytest.mark.usefixtures("ring")
def test_a_kernel_that_does_not_know_its_flags_refuses_it() -> None:
    with other_ring("_FLAGS", 1 << 31), pytest.raises(Unavailable, match="Invalid argument"):
        Ring().open()


@pytest.mark.usefixtures("ring")
@pytest.mark.parametrize("name", ["_RESULTS", "_ONE_MAP"])
def test_another_layout_is_not_used(name: str) -> None:
    with other_ring(name, 1 << 30), pytest.raises(Unavailable, match="another layout"):
        Ring().open()


@pytest.mark.usefixtures("ring")
def test_a_kernel_that_keeps_sends_for_later_is_not_used() -> None:
    """Without MSG_DONTWAIT this one does: the test at the beginning finds that out."""
    with (
        other_ring("_SEND_FLAGS", socket.MSG_NOSIGNAL),
        pytest.raises(Unavailable, match="does not send as expected"),
    ):
        Ring().open()


@pytest.mark.usefixtures("ring")
@pytest.mark.parametrize("left", range(3))
def test_without_descriptors_there_is_none(left: int) -> None:
    """A ring takes three: its own, and one for each of two mappings; its test needs two more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as lowest:  # all numbers below are taken from here on
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest.fileno() + 1 + left, hard))
        try:
            with pytest.raises(Unavailable, match="Too many open files"):
                Ring().open()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("ring")
def test_an_interrupted_beginning_leaves_nothing_behind() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with first_ring_call(interrupt), pytest.raises(KeyboardInterrupt):
        Ring().open()


@pytest.mark.parametrize("open_first", [True, False])
def test_it_is_opened_for_the_first_crowd(
    ring: Ring, few: list[Target], caplog: pytest.LogCaptureFixture, open_first: bool
) -> None:
    made = Ring()
    with contextlib.closing(made), caplog.at_level(logging.DEBUG, "ws_hub"):
        if open_first:
            made.open()
        assert send(made, few[:5], b"few ") == []
        assert made.is_open == open_first
        for _ in range(2):
            assert send(made, few, b"crowd ") == []
            assert made.is_open
    assert few[0].got() == b"few crowd crowd "
    told = "broadcasts to 32 clients and more are sent by io_uring"
    assert caplog.messages == ([] if open_first else [told])


@pytest.mark.usefixtures("ring")
def test_one_that_cannot_be_opened_is_tried_once(
    few: list[Target], caplog: pytest.LogCaptureFixture
) -> None:
    made = Ring()
    with caplog.at_level(logging.DEBUG, "ws_hub"), other_ring("_FLAGS", 1 << 31):
        assert send(made, few, b"frame ") == []
    assert send(made, few, b"again") == []
    assert not made.is_open
    assert few[0].got() == b"frame again"
    reason = "broadcasts are sent by a loop of sends: io_uring_setup: "
    assert [each.startswith(reason) for each in caplog.messages] == [True]


def test_to_close_it_twice_is_no_fault(ring: Ring) -> None:
    ring.close()
    ring.close()
    assert not ring.is_open
