"""The faults of a plan, done to a server process and to the networks of its clients."""

from __future__ import annotations

import functools
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from tests.chaos.bus import Bus
from tests.chaos.plan import ALL, BUS, SERVER, Fault
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
    """Let faults happen, each at its time; return how many of each kind there were.

    Those of what connects the processes have a thread of their own: a process that ends may
    have to wait for that.
    """
    began, interrupted = time.monotonic(), threading.Event()
    counts: Counter[str] = Counter()

    def play(chosen: Sequence[Fault], act: Callable[[Fault], object]) -> None:
        for fault in chosen:
            if interrupted.wait(max(began + fault.at - time.monotonic(), 0.0)):
                return
            act(fault)
            if not fault.ends:
                counts[fault.kind] += 1  # no other thread counts that kind
                tell(f"{time.monotonic() - began:6.1f} s  {fault.kind}")
        interrupted.wait(max(began + seconds - time.monotonic(), 0.0))

    def act(fault: Fault) -> None:
        if fault.proxy == SERVER:
            _break_server(fault, server, proxies)
        else:
            _break_network(fault, proxies[fault.proxy])
            proxies[fault.proxy].target = server.target()

    of_bus = [each for each in faults if each.proxy == BUS]
    with ThreadPoolExecutor(thread_name_prefix="bus") as pool:
        beside = pool.submit(play, of_bus, functools.partial(_break_bus, bus=server.bus))
        try:
            play([each for each in faults if each.proxy != BUS], act)
        except BaseException:
            interrupted.set()
            raise
        beside.result()
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


def _break_bus(fault: Fault, bus: Bus | None) -> None:
    assert bus is not None
    networks = bus.proxies if fault.amount == ALL else [bus.proxies[int(fault.amount)]]
    match fault.kind, fault.ends:
        case "bus kill", False:
            bus.server.kill()
        case "bus kill", True:
            bus.server.start()
        case "bus pause", False:
            bus.server.stop()
        case "bus pause", True:
            bus.server.go_on()
        case "bus unsubscribe", False:
            bus.server.ask("CLIENT", "KILL", "TYPE", "pubsub")
        case "bus cut", False:
            for proxy in networks:
                proxy.refuse()
                proxy.reset()
        case "bus cut", True:
            for proxy in networks:
                proxy.accept()
        case "bus black hole", False:
            for proxy in networks:
                proxy.black_hole()
        case "bus black hole", True:
            for proxy in networks:
                proxy.heal()


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
