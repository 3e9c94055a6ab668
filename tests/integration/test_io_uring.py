"""A hub that sends broadcasts by io_uring, and one that may not."""

from __future__ import annotations

import contextlib
import functools
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from tests.harness import Peer, ring_of
from tests.integration.apps.live import at_once
from tests.interventions import around_ring_calls, io_uring_for_all, other_ring
from ws_hub import Hub, HubConfig, Message

CROWD = 40


@contextlib.contextmanager
def crowd(hub: Hub, count: int = CROWD, buffer: int = 1 << 16) -> Iterator[list[Peer]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Peer(hub, buffer=buffer)) for _ in range(count)]


def data_of(peer: Peer, count: int) -> list[object]:
    """Return the data of so many messages; of an event what was published with it."""
    found = [peer.message()["data"] for _ in range(count)]
    return [each["data"] if isinstance(each, dict) else each for each in found]


def settled(hub: Hub) -> bool:
    """Send a first message to the crowd; return whether that went by io_uring."""
    hub.send_event("first", 1, wait=5.0)
    return hub.stats().io_uring


@pytest.mark.usefixtures("ring")
@pytest.mark.parametrize("io_uring", [True, False])
def test_a_setting_decides_and_makes_no_other_difference(io_uring: bool) -> None:
    with Hub(HubConfig(io_uring=io_uring)) as hub, crowd(hub) as peers:
        assert not hub.stats().io_uring
        assert settled(hub) == io_uring
        for number in range(30):
            hub.send_event("news", [number, "x" * number * 50])
        expected = [1, *[[number, "x" * number * 50] for number in range(30)]]
        assert [data_of(peer, 31) for peer in peers] == [expected] * CROWD
    assert not hub.stats().io_uring


@pytest.mark.usefixtures("ring")
def test_one_message_to_a_crowd_is_one_call() -> None:
    with Hub() as hub, crowd(hub) as peers:
        assert settled(hub)
        calls: list[int] = []
        with around_ring_calls(ring_of(hub), before=calls.append):
            hub.send_event("news", "to all", wait=5.0)
            hub.send_event("news", "to one", channel="quiet", wait=5.0)
        assert calls == [CROWD]
        assert [data_of(peer, 2) for peer in peers] == [[1, "to all"]] * CROWD


@pytest.mark.usefixtures("ring", "hasty_threads")
def test_what_others_send_to_a_client_comes_between_whole_broadcasts() -> None:
    """Over the smallest buffers: each broadcast falls short, while nothing else waits."""
    with io_uring_for_all(), Hub() as hub, crowd(hub, 4, buffer=1) as peers:
        assert settled(hub)
        assert [data_of(peer, 1) for peer in peers] == [[1]] * 4
        for number in range(60):
            own = Message("event", data="own")
            text = "x" * (5000 + number * 97)
            with at_once(*[functools.partial(peer.client.send, own) for peer in peers]):
                hub.send_event("news", text)
                for peer in peers:
                    assert sorted(map(str, data_of(peer, 2))) == ["own", text]
        assert hub.stats().internal_errors == 0


@pytest.mark.usefixtures("ring", "hasty_threads")
def test_clients_that_leave_during_broadcasts_disturb_no_other() -> None:
    with io_uring_for_all(), Hub() as hub, crowd(hub, 3) as staying:
        assert settled(hub)
        done = threading.Event()

        def come_and_go() -> None:
            while not done.is_set():
                with Peer(hub):
                    pass

        movers = [threading.Thread(target=come_and_go) for _ in range(2)]
        for mover in movers:
            mover.start()
        try:
            for number in range(300):
                hub.send_event("news", number, wait=5.0)
        finally:
            done.set()
            for mover in movers:
                mover.join()
        expected = [1, *range(300)]
        assert [data_of(peer, len(expected)) for peer in staying] == [expected] * 3
        assert hub.stats().internal_errors == 0


def test_where_the_kernel_refuses_it_the_loop_sends() -> None:
    with other_ring("_FLAGS", 1 << 31), Hub() as hub, crowd(hub) as peers:
        assert not settled(hub)
        assert [data_of(peer, 1) for peer in peers] == [[1]] * CROWD


# Has the kernel end the process for io_uring_setup, as a service manager may.
KILLED_FOR_IT = """
import contextlib, ctypes, socket, struct, time
from ws_hub import Hub
def rule(code, yes, no, value):
    return struct.pack("=HBBI", code, yes, no, value)
rules = (rule(0x20, 0, 0, 0)            # the number of the system call
         + rule(0x15, 0, 1, 425)        # is it io_uring_setup?
         + rule(0x06, 0, 0, 0x80000000) # then end the process
         + rule(0x06, 0, 0, 0x7FFF0000))
held = ctypes.create_string_buffer(rules)
program = ctypes.create_string_buffer(struct.pack("@HP", 4, ctypes.addressof(held)))
libc = ctypes.CDLL(None, use_errno=True)
long = ctypes.c_ulong
assert not libc.prctl(38, long(1), long(0), long(0), long(0))
assert not libc.prctl(22, long(2), program, long(0), long(0)), ctypes.get_errno()
with Hub() as hub, contextlib.ExitStack() as stack:
    ends = []
    for _ in range(40):
        near, far = socket.socketpair()
        ends.append(stack.enter_context(far))
        hub.connect(near, greeting=b"hello").start()
    while hub.client_count() < 40:
        time.sleep(0.01)
    hub.send_event("news", 1, wait=5.0)
    print(hub.stats().io_uring, hub.stats().delivered, flush=True)
libc.syscall(425, 1, None)
print("not ended")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="there is no seccomp")
def test_under_a_seccomp_filter_it_is_not_tried() -> None:
    run = subprocess.run(
        [sys.executable, "-c", KILLED_FOR_IT], capture_output=True, text=True, timeout=60
    )
    assert run.stdout == "False 40\n", run.stderr
    assert run.returncode < 0  # the filter works


@pytest.mark.usefixtures("ring")
def test_a_hub_that_starts_again_has_another_ring() -> None:
    hub = Hub()
    for _ in range(2):
        with hub, crowd(hub):
            assert settled(hub)
            ring = ring_of(hub)
        assert not ring.is_open
