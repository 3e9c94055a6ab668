"""The faults of a plan, done to a server process and to the networks of its clients."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence

from tests.chaos.plan import Fault
from tests.chaos.server import Servers
from ws_hub.testing import FaultProxy

__all__ = ["break_things"]

CRAWL = 4000.0  # bytes a second
LATE = 0.2  # seconds


def break_things(
    faults: Sequence[Fault],
    seconds: float,
    server: Servers,
    proxies: Sequence[FaultProxy],
    tell: Callable[[str], object],
) -> Counter[str]:
    """Let faults happen, each at its time; return how many of each kind there were."""
    began, wake = time.monotonic(), threading.Event()  # nothing sets it
    counts: Counter[str] = Counter()
    for fault in faults:
        wake.wait(max(began + fault.at - time.monotonic(), 0.0))
        if fault.proxy < 0:
            _break_server(fault, server, proxies)
        else:
            _break_network(fault, proxies[fault.proxy])
            proxies[fault.proxy].target = server.target()
        if not fault.ends:
            counts[fault.kind] += 1
            tell(f"{time.monotonic() - began:6.1f} s  {fault.kind}")
    wake.wait(max(began + seconds - time.monotonic(), 0.0))
    return counts


def _break_server(fault: Fault, server: Servers, proxies: Sequence[FaultProxy]) -> None:
    match fault.kind, fault.ends:
        case "kill", False:
            server.kill()
        case "restart", False:
            server.stop()
        case "kill" | "restart", True:
            server.begin_again()
        case "pause", False:
            server.pause()
        case "pause", True:
            server.go_on()
        case "disk", False:
            server.lock_file()
        case "disk", True:
            server.unlock_file()
        case "clock", _:
            server.move_clock(fault.amount)
    if fault.kind in ("kill", "restart"):
        for proxy in proxies:
            proxy.target = server.target()  # as what balances the load finds out


def _break_network(fault: Fault, proxy: FaultProxy) -> None:
    if fault.ends:
        if fault.kind == "torn":
            proxy.reset()  # in the middle of a frame, nearly always
        proxy.latency, proxy.rate, proxy.chop = 0.0, None, 65536
        proxy.heal()
        proxy.accept()
        return
    match fault.kind:
        case "reset":
            proxy.reset()
        case "fin":
            proxy.fin()
        case "refuse":
            proxy.refuse()
            proxy.reset()
        case "black hole":
            proxy.black_hole()
        case "late":
            proxy.latency = LATE
        case "slow":
            proxy.rate = CRAWL
        case "chopped":
            proxy.chop = 1
        case "torn":
            proxy.chop, proxy.rate = 7, CRAWL
