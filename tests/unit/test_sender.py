"""Writes of one connection: whole, in order, bounded in time; over real sockets."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.interventions import no_threads, short_writes
from tests.support import TIMEOUT, fill, messages_in, small_pair
from ws_hub import threads as workers
from ws_hub.connection.outbox import Outbox
from ws_hub.connection.sender import Sender
from ws_hub.connection.transport import Transport
from ws_hub.errors import SendTimeout
from ws_hub.protocol.frames import ping_frame, pong_frame, text_frame


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Rig:
    """A sender on one end of a socket pair, and what came out at the other."""

    def __init__(self, near: socket.socket, far: socket.socket, clock: Callable[[], float]) -> None:
        self.near, self.far = near, far
        self.writers: list[workers.DeferredThread] = []
        self.starts = True
        self.fault: type[BaseException] | None = None  # raised where a writer is asked for
        self.outbox_fault: type[BaseException] | None = None  # raised where a write begins
        self.transport = Transport(near, max_message_size=1000, max_fragments=10)
        self.outbox = Outbox(5, 100_000, self._time)
        self.sender = Sender(
            self.transport,
            self.outbox,
            write_timeout=10,
            close_timeout=5,
            start=self._start,
            clock=clock,
        )

    def _time(self) -> float:
        if self.outbox_fault is not None:
            raise self.outbox_fault
        return 0.0

    def _start(
        self, target: Callable[[], None], failed: Callable[[RuntimeError], None]
    ) -> workers.DeferredThread | None:
        """Note that a writer is asked for; a test steps it."""
        if self.fault is not None:
            raise self.fault
        self.writers.append(workers.DeferredThread("writer", target, failed))
        return self.writers[-1] if self.starts else None

    def read(self) -> bytes:
        """Everything that has arrived."""
        data = b""
        self.far.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while chunk := self.far.recv(1 << 16):
                data += chunk
        return data

    def stall(self) -> int:
        """Fill the kernel's buffers, so that the next send finds no room."""
        return fill(self.near)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def rig(clock: Clock) -> Iterator[Rig]:
    with small_pair() as (near, far):
        yield Rig(near, far, clock)


def test_a_frame_goes_directly_to_the_socket(rig: Rig) -> None:
    assert rig.sender.offer(b"frame", 1)
    assert rig.sender.waiting == (0, 0)
    assert rig.read() == b"frame"


def test_bytes_that_the_kernel_does_not_take_wait_for_the_writer(rig: Rig) -> None:
    filled = rig.stall()
    assert rig.sender.offer(b"later", 1)
    assert rig.sender.waiting == (1, 5)
    data = rig.read()
    assert rig.sender.turn()
    assert (data + rig.read())[filled:] == b"later"
    assert rig.sender.waiting == (0, 0)


def test_the_writer_is_started_once_at_the_first_backlog(rig: Rig) -> None:
    rig.sender.offer(b"x", 1)
    assert not rig.writers
    for _ in range(2):
        rig.stall()
        rig.sender.offer(b"x", 1)
        rig.sender.offer(b"y", 1)
        rig.read()
        while rig.sender.waiting[0]:
            rig.sender.turn()
    assert len(rig.writers) == 1


def test_without_a_writer_a_backlog_ends_the_connection(rig: Rig) -> None:
    rig.starts = False
    filled = rig.stall()
    assert rig.sender.offer(b"x", 1)
    assert len(rig.read()) == filled
    assert rig.far.recv(1) == b""


def test_fault_42_the_work_of_an_unstartable_writer_is_pushed(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    filled = rig.stall()
    rig.sender.offer(b"x", 1)
    writer = rig.writers[0]
    with no_threads():
        assert not writer.start()
    assert "thread writer cannot be started" in caplog.text
    assert writer.step()
    data = rig.read()
    assert writer.step()
    assert (data + rig.read())[filled:] == b"x"
    assert rig.sender.waiting == (0, 0)
    rig.sender.end()
    assert not writer.step()
    rig.sender.join(5)


def test_a_push_cuts_a_stalled_peer_after_the_write_timeout(rig: Rig, clock: Clock) -> None:
    rig.stall()
    rig.sender.offer(b"x", 1)
    assert rig.sender.push()
    clock.now += 1000
    assert not rig.sender.push()
    assert rig.sender.stalled


def test_a_change_that_is_interrupted_half_way_ends_the_connection(
    rig: Rig,
) -> None:
    rig.fault = KeyboardInterrupt
    rig.stall()
    with pytest.raises(KeyboardInterrupt):
        rig.sender.put(b"x", 0)
    assert not rig.sender.put(b"y", 0)
    assert not rig.transport.lock.locked()


@pytest.mark.parametrize("place", ["fault", "outbox_fault"])
@pytest.mark.parametrize("sends", ["offer", "deliver", "begin", "control"])
def test_nothing_follows_a_frame_whose_rest_cannot_be_kept(
    rig: Rig, sends: str, place: str
) -> None:
    frame = b"0123456789"
    setattr(rig, place, MemoryError)
    with short_writes(1, 3), pytest.raises(MemoryError):
        if sends == "offer":
            rig.sender.offer(frame, 1)
        elif sends == "deliver":
            rig.sender.deliver(frame, [frame])
        elif sends == "control":
            rig.sender.control(frame)
        else:
            with rig.transport.lock:
                rig.sender.begin_locked(frame, [frame], rig.transport.direct.send(frame))
    setattr(rig, place, None)
    assert rig.sender.offer(b"another", 1)  # as on every connection that is closing
    rig.far.settimeout(TIMEOUT)
    arrived = b"".join(iter(lambda: rig.far.recv(100), b""))  # to the end of the connection
    assert 0 < len(arrived) < len(frame) and frame.startswith(arrived)


def test_frames_behind_a_backlog_keep_their_order(rig: Rig) -> None:
    filled = rig.stall()
    for frame in (b"one", b"two", b"three"):
        assert rig.sender.offer(frame, 1)
    data = rig.read()
    while rig.sender.waiting[0]:
        rig.sender.turn()
    assert (data + rig.read())[filled:] == b"onetwothree"


def test_a_full_outbox_refuses_frames_and_keeps_none(rig: Rig) -> None:
    rig.stall()
    assert rig.sender.offer(b"x", 5)
    assert not rig.sender.offer(b"y", 1)
    assert rig.sender.waiting == (5, 1)


def test_a_put_waits_for_room_and_gets_it(rig: Rig) -> None:
    rig.stall()
    assert rig.sender.offer(b"x", 5)
    done = threading.Event()

    def put() -> None:
        assert rig.sender.put(b"y", 1000)
        done.set()

    thread = threading.Thread(target=put)
    thread.start()
    rig.read()
    rig.sender.turn()
    assert done.wait(5)
    thread.join(5)


def test_a_put_gives_up_when_its_time_is_over(rig: Rig) -> None:
    rig.stall()
    rig.sender.offer(b"x", 5)
    with pytest.raises(SendTimeout, match="5 messages, 1 bytes wait"):
        rig.sender.put(b"y", 0)


def test_a_put_that_waits_is_woken_by_the_end(rig: Rig) -> None:
    rig.stall()
    rig.sender.offer(b"x", 5)
    results: list[bool] = []
    thread = threading.Thread(target=lambda: results.append(rig.sender.put(b"y", 1000)))
    thread.start()
    rig.sender.end()
    thread.join(5)
    assert results == [False]


def test_there_is_room_while_half_of_the_outbox_is_free(rig: Rig) -> None:
    rig.stall()
    assert rig.sender.wait_for_room(0)
    rig.sender.offer(b"xx", 2)
    assert rig.sender.wait_for_room(0)
    rig.sender.offer(b"x", 1)  # three of five
    assert not rig.sender.wait_for_room(0)
    assert not rig.sender.wait_for_room(0.01 - 100)


def test_bytes_fill_an_outbox_too(rig: Rig) -> None:
    rig.stall()
    rig.sender.offer(b"x" * 50_001, 1)
    assert not rig.sender.wait_for_room(0)


@pytest.mark.parametrize("how", ["the writer's progress", "the end"])
def test_a_wait_for_room_is_woken_by(rig: Rig, how: str) -> None:
    rig.stall()
    rig.sender.offer(b"x", 5)
    results: list[bool] = []
    thread = threading.Thread(target=lambda: results.append(rig.sender.wait_for_room(1000)))
    thread.start()
    if how == "the end":
        rig.sender.end()
    else:
        rig.read()
        rig.sender.turn()
    thread.join(5)
    assert results == [True]


def test_nothing_is_sent_after_the_end(rig: Rig) -> None:
    rig.sender.end()
    assert rig.sender.offer(b"x", 1)
    assert not rig.sender.put(b"x", 0)
    rig.sender.control(ping_frame())
    rig.sender.finish(1000, "")
    assert rig.read() == b""
    assert not rig.sender.turn()


def test_a_ping_goes_directly_to_the_socket(rig: Rig) -> None:
    rig.sender.offer(b"x", 1)
    rig.sender.control(ping_frame())
    assert rig.read() == b"x" + ping_frame()


def test_a_ping_is_sent_in_the_middle_of_a_backlog_too(rig: Rig) -> None:
    filled = rig.stall()
    rig.sender.offer(b"begun", 1)
    rig.sender.offer(b"next", 1)
    rig.sender.control(ping_frame())
    data = rig.read()
    while rig.sender.waiting[1]:
        rig.sender.turn()
    assert (data + rig.read())[filled:] == b"begun" + ping_frame() + b"next"


def test_a_close_frame_follows_the_queued_messages(rig: Rig) -> None:
    filled = rig.stall()
    rig.sender.offer(b"last words", 1)
    rig.sender.finish(1000, "bye")
    rig.sender.offer(b"too late", 1)
    data = rig.read()
    while rig.sender.waiting[1]:
        rig.sender.turn()
    assert (data + rig.read())[filled:] == b"last words" + b"\x88\x05\x03\xe8bye"
    assert rig.sender.cause == (1000, "bye")


def test_closing_now_drops_messages_that_have_not_begun(rig: Rig) -> None:
    filled = rig.stall()
    rig.sender.offer(b"begun", 1)
    rig.sender.offer(b"dropped", 1)
    rig.sender.finish(1013, "slow", now=True)
    data = rig.read()
    while rig.sender.waiting[1]:
        rig.sender.turn()
    assert (data + rig.read())[filled:] == b"begun" + b"\x88\x06\x03\xf5slow"


def test_only_the_first_close_counts(rig: Rig) -> None:
    rig.sender.finish(1001, "first")
    rig.sender.finish(1000, "second")
    assert rig.sender.cause == (1001, "first")
    assert rig.read() == b"\x88\x07\x03\xe9first"


def test_a_peer_that_does_not_answer_the_close_is_cut(rig: Rig, clock: Clock) -> None:
    rig.sender.finish(1000, "")
    rig.read()
    clock.now += 4.9
    rig.sender.expire()
    rig.far.setblocking(False)
    with pytest.raises(BlockingIOError):
        rig.far.recv(1)
    clock.now += 0.1
    rig.sender.expire()
    assert rig.far.recv(1) == b""


def test_only_a_closing_connection_expires(rig: Rig, clock: Clock) -> None:
    clock.now += 1000
    rig.sender.expire()
    assert rig.sender.offer(b"x", 1)
    assert rig.read() == b"x"


def test_answering_a_peers_close_sets_no_cause(rig: Rig) -> None:
    assert rig.sender.answer_close(1000)
    assert rig.read() == b"\x88\x02\x03\xe8"
    assert rig.sender.cause is None


def test_the_answer_to_a_peers_close_does_not_wait_for_what_has_begun(rig: Rig) -> None:
    rig.stall()
    assert not rig.sender.answer_close(1000)
    assert rig.sender.waiting[1] > 0


def test_draining_ends_when_the_closing_time_is_up(rig: Rig, clock: Clock) -> None:
    rig.stall()
    rig.sender.finish(1000, "")
    clock.now += 6
    rig.sender.drain()
    assert rig.sender.waiting[1] > 0


def test_draining_ends_when_the_writer_has_written_it_all(rig: Rig) -> None:
    rig.stall()
    rig.sender.finish(1000, "")
    thread = threading.Thread(target=rig.sender.drain)
    thread.start()
    rig.read()
    while rig.sender.waiting[1]:
        rig.sender.turn()
    thread.join(5)
    assert not thread.is_alive()


def test_a_writer_gives_up_no_sooner_than_the_write_timeout_and_nothing_that_has_ended(
    rig: Rig, clock: Clock
) -> None:
    rig.stall()
    rig.sender.offer(b"x", 1)
    rig.transport.wait_writable = lambda timeout: False  # type: ignore[method-assign]
    clock.now += 9.9
    assert rig.sender.turn()
    assert rig.sender.cause is None
    rig.sender.end()
    clock.now += 1
    assert not rig.sender.turn()
    assert rig.sender.cause is None


def test_a_peer_that_takes_nothing_is_cut_after_the_write_timeout(rig: Rig, clock: Clock) -> None:
    rig.stall()
    rig.sender.offer(b"x", 1)
    clock.now += 10
    assert rig.sender.turn()
    assert not rig.sender.turn()
    assert rig.sender.cause == (1006, "write timeout: nothing acknowledged for 10.0 s")
    rig.read()
    assert rig.far.recv(1) == b""


def test_a_closing_peer_that_takes_nothing_is_cut_when_the_closing_time_is_up(
    rig: Rig, clock: Clock
) -> None:
    rig.stall()
    rig.sender.finish(1013, "slow", now=True)
    clock.now += 5
    rig.sender.expire()
    assert not rig.sender.turn()
    assert rig.sender.cause == (1013, "slow")


def test_a_failed_write_ends_the_connection_with_its_reason(rig: Rig) -> None:
    rig.far.close()
    rig.sender.offer(b"x", 1)
    assert rig.sender.offer(b"y", 1)
    assert rig.sender.cause is not None
    assert rig.sender.cause[0] == 1006
    assert not rig.sender.turn()


def test_the_direct_path_is_open_while_nothing_is_queued(rig: Rig) -> None:
    direct = rig.transport.direct
    assert direct.fd >= 0
    rig.stall()
    rig.sender.offer(b"x", 1)
    assert direct.fd == -1
    rig.read()
    rig.sender.turn()
    assert direct.fd >= 0
    rig.sender.finish(1000, "")
    assert direct.fd == -1


@pytest.mark.parametrize("how", ["the peer closes", "the end", "a broken connection"])
def test_the_direct_path_is_shut_by(rig: Rig, how: str) -> None:
    if how == "the peer closes":
        rig.sender.answer_close(1000)
    elif how == "the end":
        rig.sender.end()
    else:
        rig.far.close()
        rig.sender.offer(b"x", 1)
        rig.sender.offer(b"x", 1)
    assert rig.transport.direct.fd == -1


def greeted() -> Outbox:
    """An outbox that begins with the answer to a handshake."""
    outbox = Outbox(5, 1000)
    outbox.begin(b"101 ", 0, 0)
    return outbox


def test_the_greeting_comes_before_everything(clock: Clock) -> None:
    with small_pair() as (near, far):
        transport = Transport(near, max_message_size=1000, max_fragments=10)
        sender = Sender(
            transport,
            greeted(),
            write_timeout=10,
            close_timeout=5,
            start=lambda *about: workers.DeferredThread("writer", *about),
            clock=clock,
        )
        sender.offer(b"frame", 1)
        sender.control(pong_frame(b"x"))
        sender.greet()
        assert far.recv(100) == b"101 " + pong_frame(b"x") + b"frame"
        assert transport.direct.fd >= 0


def test_a_greeting_without_room_is_left_to_the_writer(clock: Clock) -> None:
    writers: list[workers.DeferredThread] = []
    with small_pair() as (near, far):
        transport = Transport(near, max_message_size=1000, max_fragments=10)
        filled = fill(near)
        sender = Sender(
            transport,
            greeted(),
            write_timeout=10,
            close_timeout=5,
            start=lambda *about: (
                writers.append(workers.DeferredThread("writer", *about)) or writers[-1]
            ),
            clock=clock,
        )
        sender.greet()
        assert writers
        data = far.recv(1 << 20, socket.MSG_DONTWAIT)
        assert sender.turn()
        assert (data + far.recv(1 << 20, socket.MSG_DONTWAIT))[filled:] == b"101 "


# --- under stress --------------------------------------------------------------------------


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 2**32),
    st.sampled_from([1, 3, 50, 5000]),
    st.lists(st.integers(0, 700), min_size=1, max_size=40),
)
def test_every_frame_arrives_whole_and_in_order_whatever_the_kernel_takes(
    seed: int, most: int, sizes: list[int]
) -> None:
    with short_writes(seed, most), small_pair(1 << 16) as (near, far):
        rig = Rig(near, far, Clock())
        rig.outbox.max_messages = 1000
        sent = [f"{index}:{'x' * size}" for index, size in enumerate(sizes)]
        data = b""
        for text in sent:
            assert rig.sender.offer(text_frame(text.encode()), 1)
            data += rig.read()
        while rig.sender.waiting[1]:
            rig.sender.turn()
            data += rig.read()
    assert messages_in(data) == sent


def test_many_threads_writing_at_once_tear_no_frame() -> None:
    threads, each = 6, 60
    with small_pair() as (near, far):
        transport = Transport(near, max_message_size=1000, max_fragments=10)
        sender = Sender(
            transport,
            Outbox(100_000, 1 << 24),
            write_timeout=10,
            close_timeout=5,
            start=lambda *about: workers.DeferredThread("writer", *about),
        )
        writer = threading.Thread(target=sender.run)
        writer.start()
        start = threading.Barrier(threads)

        def write(number: int) -> None:
            start.wait(5)
            for index in range(each):
                frame = text_frame(f"{number}:{index}:{'x' * (index * 7)}".encode())
                if index % 3 == 0:
                    assert sender.put(frame, 5)
                else:
                    assert sender.offer(frame, 1)
                if index % 10 == 0:
                    sender.control(pong_frame(b"p"))

        writers = [threading.Thread(target=write, args=(number,)) for number in range(threads)]
        for thread in writers:
            thread.start()
        data, seen = b"", 0
        far.settimeout(5)
        while seen < threads * each:
            data += far.recv(1 << 16)
            seen = sum(isinstance(found, str) for found in messages_in(data))
        for thread in writers:
            thread.join(5)
        sender.end()
        writer.join(5)
    texts = [found for found in messages_in(data) if isinstance(found, str)]
    for number in range(threads):
        own = [int(text.split(":")[1]) for text in texts if text.startswith(f"{number}:")]
        assert own == list(range(each))


# --- rests ---------------------------------------------------------------------------------


def test_a_pause_ends_after_its_time() -> None:
    times = iter([50.0, 100.0, 101.0])  # when it is made, and at both looks of the pause
    with small_pair() as pair:
        rig = Rig(*pair, lambda: next(times))
        assert rig.sender.pause(1.0)
    assert not list(times)


@pytest.mark.parametrize("how", ["finish", "end"])
def test_a_pause_ends_with_the_connection(rig: Rig, how: str) -> None:
    thread = threading.Thread(target=rig.sender.pause, args=(1e12,))
    thread.start()
    if how == "finish":
        rig.sender.finish(1001, "")
    else:
        rig.sender.end()
    thread.join(5)
    assert not thread.is_alive()
