"""Connect and disconnect, many times and in every way: the server ends where it began.

    python -m tests.faults.cycles [--cycles N] [--seconds S] [--server KIND]
    python -m tests.faults.cycles --memory

FAULTS 44. The server runs in a process of its own, so that what is measured is the
server's alone. Prints one line of JSON for each tenth of the way, then the verdict; exits
with 1 when threads, descriptors or memory have grown. `--seconds` ends the run early; the
cycles that were made by then are judged. `--memory` has some hundred clients visit a hub in
this process, twice, and prints what Python has allocated after each time.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import os
import socket
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.integration.apps.launch import GUNICORN, Running, server
from tests.support import TIMEOUT, RawPeer, threads_at_rest, wait_until
from ws_hub import Hub, HubConfig, threads
from ws_hub.connection.connection import Connection

DRIVERS = 4
WARM_UP = 0.1  # of the cycles: caches fill, pools grow, the allocator takes its arenas
MEMORY = 0.05  # by how much of itself the memory may have grown after the warm-up
VISITS = 300
VISIT = 16  # bytes that one may leave: not even a pointer or two
SLACK = 2 * 1024 * 1024  # bytes beside that: what one arena of the allocator comes and goes by


def polite(peer: RawPeer) -> None:
    assert peer.close() == (1000, "")


def torn(peer: RawPeer) -> None:
    peer.send_raw(peer.frame(1, b"x" * 100)[:50])
    peer.reset()


def rude(peer: RawPeer) -> None:
    peer.send_frame(3, b"reserved")
    assert peer.recv_close()[0] == 1002


WAYS: tuple[Callable[[RawPeer], None], ...] = (polite, RawPeer.reset, torn, rude, lambda peer: None)


def cycle(running: Running, number: int) -> None:
    """Come, listen to a channel that nobody had heard of, and go in one of the ways."""
    if number % 50 == 49:  # not even a handshake
        with RawPeer(running.host, running.port, handshake=False) as bad:
            bad.send_raw(bad.request([("Sec-WebSocket-Key", "x")])[: number % 300])
        return
    with RawPeer(running.host, running.port) as peer:
        peer.send_json({"type": "subscribe", "channel": f"cycle-{number}", "id": number})
        assert peer.recv_json()["id"] == number
        WAYS[number % len(WAYS)](peer)


def measure(running: Running) -> dict[str, Any]:
    """Return what the server has once all are gone."""
    running.settled()
    wait_until(lambda: not running.state()["channels"], what="no channels")
    state = wait_until(lambda: _alone(running), what="no request but the one that asks")
    pages = int(Path(f"/proc/{state['pid']}/statm").read_text(encoding="ascii").split()[1])
    return {
        "threads": threads_at_rest(state["threads"]),
        "files": state["files"],
        "rss_bytes": pages * os.sysconf("SC_PAGE_SIZE"),
    }


def _alone(running: Running) -> dict[str, Any] | None:
    """Return the state when no thread of another request, answered already, is still ending."""
    state = running.state()
    return state if sum("request" in name for name in state["threads"]) <= 1 else None


def drive(running: Running, numbers: range, deadline: float) -> int:
    """Make cycles with several drivers at once; return how many were made."""
    counter = itertools.count()
    made = [0] * DRIVERS
    failed: list[BaseException] = []

    def run(driver: int) -> None:
        try:
            while not failed and time.monotonic() < deadline:
                index = next(counter)
                if index >= len(numbers):
                    return
                cycle(running, numbers[index])
                made[driver] += 1
        except BaseException as error:  # noqa: BLE001 - raised again below
            failed.append(error)

    drivers = [
        threading.Thread(target=run, args=(each,), name=f"driver:{each}") for each in range(DRIVERS)
    ]
    for thread in drivers:
        thread.start()
    for thread in drivers:
        thread.join()
    if failed:
        raise failed[0]
    return sum(made)


def run(cycles: int, seconds: float, kind: str, tell: Callable[[str], object] = print) -> bool:
    """Run it all; say whether the server ended where it began."""
    began = time.monotonic()
    deadline = began + seconds
    # A client's place among the heartbeats is kept until its first one would be due.
    with server(kind, WS_HUB_HEARTBEAT="1", WS_HUB_UNBOUNDED="1") as running:
        running.get("/")
        made = drive(running, range(int(cycles * WARM_UP)), deadline)
        before = after = measure(running)
        tell(json.dumps({"cycles": made, **before}))
        while made < cycles and time.monotonic() < deadline:
            step = range(made, min(made + max(cycles // 10, 1), cycles))
            made += drive(running, step, deadline)
            after = measure(running)
            tell(json.dumps({"cycles": made, **after}))
        complaints = running.complaints()
    grown = growth(before, after, pool=2 if kind in GUNICORN else 0)
    took = round(time.monotonic() - began, 1)
    verdict = {"cycles": made, "seconds": took, "grown": grown, "log": complaints[:5]}
    tell(json.dumps(verdict))
    return not grown and not complaints


def growth(before: dict[str, Any], after: dict[str, Any], pool: int = 0) -> list[str]:
    """Name what has grown; `pool` threads may have come that are the server's own."""
    limits = {
        "threads": before["threads"] + pool,
        "files": before["files"],
        "rss_bytes": int(before["rss_bytes"] * (1 + MEMORY)) + SLACK,
    }
    return [name for name, limit in limits.items() if after[name] > limit]


# --- what Python has allocated -------------------------------------------------------------


def visit(hub: Hub, number: int) -> None:
    near, far = socket.socketpair()  # the near end is the hub's to close
    with far:
        far.settimeout(TIMEOUT)
        hub.connect(near, greeting=b"101").start()
        assert far.recv(3, socket.MSG_WAITALL) == b"101"
        peer = RawPeer.on(far)
        peer.send_json({"type": "subscribe", "channel": f"c-{number % 10}", "id": number})
        assert peer.recv_json()["id"] == number
        if number % 3:
            polite(peer)


def visits(hub: Hub) -> dict[str, int]:
    """Have clients come and go; return what there is when all have gone."""
    for number in range(VISITS):
        visit(hub, number)
    wait_until(lambda: not hub.client_count() and not hub.all_channels())
    wait_until(lambda: not [each for each in threading.enumerate() if ":reader:" in each.name])
    wait_until(_has_let_go, what="the last thread to have let go of its connection")
    return {
        "bytes": sum([each.size for each in _kept().traces]),
        "threads": threads_at_rest(each.name for each in threading.enumerate()),
        "files": len(os.listdir("/proc/self/fd")),
    }


def _has_let_go() -> bool:
    gc.collect()
    return not any(isinstance(each, Connection) for each in gc.get_objects())


def _kept() -> tracemalloc.Snapshot:
    """Return what is allocated, without threads: some that have ended are kept for a while."""
    modules = (threading, threads, tracemalloc)
    return tracemalloc.take_snapshot().filter_traces(
        [tracemalloc.Filter(False, str(each.__file__)) for each in modules]
    )


def memory() -> None:
    # A client's place among the heartbeats is kept until its first one would be due.
    with Hub(HubConfig(heartbeat_interval=0.001)) as hub:
        tracemalloc.start()
        visits(hub)
        for _ in range(2):
            print(json.dumps(visits(hub)))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.cycles")
    parser.add_argument("--cycles", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=600.0, help="end after so many (600)")
    parser.add_argument("--server", default="embedded", help="embedded, werkzeug, gthread, ...")
    parser.add_argument("--memory", action="store_true", help="what Python has allocated")
    arguments = parser.parse_args()
    if arguments.memory:
        memory()
        return 0
    return 0 if run(arguments.cycles, arguments.seconds, arguments.server) else 1


if __name__ == "__main__":
    sys.exit(main())
