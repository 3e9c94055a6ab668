"""Connecting and disconnecting leaves nothing: some hundred times here, `make cycles` more."""

from __future__ import annotations

import gc
import json
import socket
import threading
import tracemalloc

from tests.conftest import open_files
from tests.faults import cycles
from tests.support import TIMEOUT, RawPeer, wait_until
from ws_hub import Hub, HubConfig

VISITS = 300


def test_fault_44_clients_that_come_and_go_leave_no_memory() -> None:
    """What Python has allocated is the same after some hundred visits as before them."""

    def visit(number: int) -> None:
        near, far = socket.socketpair()  # the near end is the hub's to close
        with far:
            far.settimeout(TIMEOUT)
            hub.connect(near, greeting=b"101").start()
            assert far.recv(3, socket.MSG_WAITALL) == b"101"
            peer = RawPeer.on(far)
            peer.send_json({"type": "subscribe", "channel": f"c-{number % 10}", "id": number})
            assert peer.recv_json()["id"] == number
            if number % 3:
                assert peer.close() == (1000, "")

    def visits() -> tuple[int, int, int]:
        for number in range(VISITS):
            visit(number)
        wait_until(lambda: not hub.client_count() and not hub.all_channels())
        wait_until(lambda: not [t for t in threading.enumerate() if ":reader:" in t.name])
        gc.collect()
        return tracemalloc.get_traced_memory()[0], threading.active_count(), len(open_files())

    # A client's place among the heartbeats is kept until its first one would be due.
    with Hub(HubConfig(heartbeat_interval=0.001, pong_timeout=30.0)) as hub:
        tracemalloc.start()
        try:
            visits()
            before, *others = visits()
            after, *same = visits()
        finally:
            tracemalloc.stop()
    assert same == others
    assert after - before < VISITS * 16  # not even a pointer or two for each


def test_fault_44_the_long_run_says_what_has_grown() -> None:
    told: list[str] = []
    assert cycles.run(150, 60.0, "embedded", told.append), told
    *steps, verdict = map(json.loads, told)
    assert verdict["cycles"] == steps[-1]["cycles"] >= 150 and verdict["grown"] == []
    before = {"threads": 4, "files": 6, "rss_bytes": 30_000_000}
    for name, value in (("threads", 5), ("files", 7), ("rss_bytes", 34_000_000)):
        assert cycles.growth(before, {**before, name: value}) == [name]
    assert cycles.growth(before, {**before, "threads": 6}, pool=2) == []


def test_the_long_run_is_bounded_in_time() -> None:
    told: list[str] = []
    assert cycles.run(10**9, 0.2, "embedded", told.append), told
    assert json.loads(told[-1])["cycles"] < 10_000
