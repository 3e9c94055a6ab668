"""A program that publishes, prints and logs while thousands of signals interrupt it.

    python -m tests.integration.apps.storm calls 10000     the handler calls the hub
    python -m tests.integration.apps.storm raises 10000    the handler raises KeyboardInterrupt
    python -m tests.integration.apps.storm finalisers 10000    the collector calls the hub

The last word tells how often. At the end a client has read all that a call has returned for,
once and in order; one line on stdout says so. A hang ends the program, with every stack.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import itertools
import logging
import random
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import ClassVar

from tests.integration.apps.live import subscribe
from tests.support import RawPeer, wait_until
from ws_hub import ConnectionClosed, Hub, HubConfig, HubFull, Message, SendTimeout, serve

BOUND = 20.0  # seconds: a hang is a failure
# Handlers within one another. On a busy machine the next signal comes before a handler has ended,
# each time: without a bound they would nest until Python's stack is full.
DEEPEST = 8
LINE = re.compile(r"\w+ \d+")


class Storm:
    """What is called, and what of it returned."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.client, self.other = wait_until(lambda: (found := hub.all_clients())[1:] and found)
        self.writer = hub.writer("w")
        self.log = logging.getLogger("storm")
        self.log.propagate = False
        self.log.setLevel(logging.INFO)
        self.log.addHandler(hub.log_handler("logs"))
        self.numbers = {name: itertools.count() for name in ("main", "nested")}
        self.random = random.Random(7)
        self.returned: set[str] = set()
        self.begun: set[str] = set()

    def call(self, who: str) -> None:
        """Publish something in one of the ways there are, or ask for something."""
        text = f"{who} {next(self.numbers[who])}"
        self.begun.add(text)
        way = self.random.randrange(9)
        with contextlib.suppress(HubFull, SendTimeout, ConnectionClosed):
            if way in (0, 1):
                self.hub.broadcast(Message("said", data=text))
            elif way == 2:
                self.hub.send_to_channel("logs", Message("said", data=text))
            elif way in (3, 4):
                self.writer.write(text + "\n")
            elif way == 5:
                self.log.info("%s", text)
                return  # a record that finds the hub full is dropped, and counted
            elif way == 6:
                # That of a client that nobody counts on: a write that an exception cuts ends
                # its connection, and one from within another may not find room later.
                self.other.send(Message("said", data=text))
                return
            elif way == 7:
                self.hub.send_process_lines("w", [text])
            else:
                self.look()
                return
            self.returned.add(text)

    def look(self) -> None:
        """Ask and change what has other locks."""
        hub, client = self.hub, self.client
        hub.stats()
        hub.client_count()
        hub.clients("logs")
        hub.disconnect("nobody")
        hub.subscribe(client, "other")
        hub.unsubscribe(client, "other")
        hub.at_stop(list)()
        hub.kept_channels()
        assert hub.running
        client.waiting  # noqa: B018 - takes its lock
        client.subscriptions()
        hub.send_to_user("nobody", Message("x"))


def read(peer: RawPeer, heard: list[tuple[str, str]]) -> None:
    """Note what comes, with the way that it took, until the marker."""
    while True:
        message = peer.recv_json()
        data = message.get("data")
        if message["type"] == "end":
            return
        if message["type"] in ("said", "process_output"):
            heard.append((str(message.get("channel")), str(data)))
        elif message["type"] == "event":
            heard.append(("log", data["data"]["message"]))


def read_on(peer: RawPeer, heard: list[tuple[str, str]]) -> None:
    """The same of a connection that may end before that, within a frame as well."""
    with contextlib.suppress(EOFError, ConnectionError):
        read(peer, heard)


@contextlib.contextmanager
def signals(handle: Callable[[], None], stop: threading.Event) -> Iterator[None]:
    """Interrupt the main thread again and again, at moments that nobody chose."""
    main, chance = threading.main_thread().ident or 0, random.Random(11)
    inside = 0

    def take(number: int, _: object) -> None:
        nonlocal inside
        if inside == DEEPEST:
            return
        inside += 1
        try:
            if number == signal.SIGALRM and not stop.is_set():
                # The second is for where an exception has kept this from being done.
                signal.setitimer(signal.ITIMER_REAL, 5e-5 + chance.random() * 3e-4, 2e-3)
            handle()
        finally:
            inside -= 1

    def shoot() -> None:
        while not stop.wait(chance.random() * 3e-4):
            # Seldom into the handler itself, or the main thread would get to nothing else.
            if not inside or chance.random() < 0.02:
                signal.pthread_kill(main, signal.SIGUSR1)

    signal.signal(signal.SIGUSR1, take)
    signal.signal(signal.SIGALRM, take)
    signal.setitimer(signal.ITIMER_REAL, 1e-3, 2e-3)

    shooter = threading.Thread(target=shoot)
    shooter.start()
    try:
        yield
    finally:
        stop.set()
        shooter.join()
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number in (signal.SIGUSR1, signal.SIGALRM):
            signal.signal(number, signal.SIG_IGN)


class Finalised:
    """Something in a circle, which calls the hub when the collector finds it."""

    ended: ClassVar[list[None]] = []  # one for each that has called; any thread may collect

    def __init__(self, call: Callable[[], None]) -> None:
        self.me = self
        self.call = call

    def __del__(self) -> None:
        try:
            self.call()
        finally:
            self.ended.append(None)


def storm(made: Storm, how: str, times: int) -> None:
    """Call on the main thread until it has been interrupted so often."""
    count, stop, armed = itertools.count(1), threading.Event(), [False]
    last = 0

    def handle() -> None:
        nonlocal last
        last = next(count)
        if how == "raises":
            if armed[0]:
                armed[0] = False
                raise KeyboardInterrupt
        else:
            made.call("nested")

    if how == "finalisers":
        gc.set_threshold(3, 2, 2)
        begun = 0
        while last < times:
            Finalised(handle)
            begun += 1
            made.call("main")
        gc.set_threshold(700, 10, 10)

        def all_ended() -> bool:
            gc.collect()  # returns at once where another thread is collecting
            return len(Finalised.ended) == begun

        wait_until(all_ended, BOUND)
        return
    with signals(handle, stop):
        while last < times:
            try:
                armed[0] = True
                made.call("main")
                armed[0] = False
            except KeyboardInterrupt:
                pass
        armed[0] = False


def check(made: Storm, heard: list[tuple[str, str]]) -> str:
    """Say what has come, or what is wrong with it."""
    texts = [text for _, text in heard]
    assert all(LINE.fullmatch(text) for text in texts), "torn"
    assert len(texts) == len(set(texts)), "doubled"
    assert set(texts) <= made.begun
    missing = made.returned - set(texts)
    assert not missing, f"{len(missing)} lost: {sorted(missing)[:5]}"
    for who in made.numbers:
        # What a thread publishes keeps its order; what interrupts an interruption does not.
        numbers = [
            int(text.split()[1])
            for channel, text in heard
            if text.startswith(who) and text in made.returned
        ]
        assert numbers == sorted(numbers) or who == "nested", f"{who} out of order"
    return f"{len(made.returned)} of {len(made.begun)} returned, all heard"


def main(how: str, times: int) -> None:
    faulthandler.dump_traceback_later(BOUND, exit=True)
    config = HubConfig(outbox_messages=1_000_000, outbox_bytes=1 << 30)
    heard: list[tuple[str, str]] = []
    with contextlib.ExitStack() as stack:
        hub = stack.enter_context(Hub(config))
        site = stack.enter_context(serve(hub))
        peer = stack.enter_context(RawPeer(site.host, site.port))
        wait_until(hub.all_clients)
        other = stack.enter_context(RawPeer(site.host, site.port))
        for channel in ("logs", "process:w"):
            subscribe(peer, channel)
        made = Storm(hub)
        beside: list[tuple[str, str]] = []
        reader = threading.Thread(target=read, args=(peer, heard))
        second = threading.Thread(target=read_on, args=(other, beside))
        for thread in (reader, second):
            thread.start()
        storm(made, how, times)
        hub.broadcast(Message("end"))
        reader.join(BOUND)
        second.join(BOUND)
        assert all(LINE.fullmatch(text) for _, text in beside), "torn"
        assert len(beside) == len(set(beside)), "doubled"
        hub.stats()
        print(check(made, heard), hub.stats().internal_errors, "internal errors", flush=True)
    faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    if len(sys.argv) > 3:
        sys.setswitchinterval(float(sys.argv[3]))
    main(sys.argv[1], int(sys.argv[2]))
