"""A viewer that opens at a random moment, while four threads print, misses nothing.

It gets what was printed before and what comes after: each line once, in the order in
which its thread printed it, `seq` without a gap.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.apps.live import Live, at_once, live
from tests.support import RawPeer
from ws_hub import ChannelRule, Message

SEED = 20261123
ROUNDS = 200
THREADS = 4
LINES = 40  # of each thread


class Viewer:
    """Watches one process, from `since`, and catches up when it is told that it lags."""

    def __init__(self, peer: RawPeer, channel: str) -> None:
        self.peer = peer
        self.channel = channel
        self.seqs: list[int] = []
        self.lines: list[str] = []
        self.lagged = 0
        self._epoch = ""
        self._subscribe(since=0, id="first")

    def _subscribe(self, **position: Any) -> None:
        request = {"type": "subscribe", "channel": self.channel, "data": self.channel}
        self.peer.send_json({**request, **position})

    def next(self) -> None:
        message = self.peer.recv_json()
        if message["type"] == "ack":
            assert message["data"]["recovered"] is True, message
            self._epoch = message["data"]["epoch"]
        elif message["type"] == "lagged":
            self.lagged += 1
            assert message["seq"] == (self.seqs[-1] if self.seqs else 0)
            self._subscribe(since=message["seq"], epoch=self._epoch)
        else:
            self.seqs.append(message["seq"])
            self.lines.append(message["data"])

    def read(self, count: int) -> None:
        while len(self.lines) < count:
            self.next()

    def check(self, count: int, threads: int = THREADS) -> None:
        assert self.seqs == list(range(1, threads * count + 1))
        for thread in range(threads):
            own = [line for line in self.lines if line.startswith(f"{thread}:")]
            assert [int(line.split(":")[1]) for line in own] == list(range(count))


def printer(hub: Live, process_id: str, thread: int, count: int) -> Callable[[], None]:
    def run() -> None:
        for number in range(count):
            hub.hub.send_process_output(process_id, f"{thread}:{number}")

    return run


def test_two_hundred_late_viewers_end_with_exactly_what_was_printed() -> None:
    print("seed", SEED)
    dice = random.Random(SEED)
    with live() as hub, hub.peer() as peer:
        for number in range(ROUNDS):
            process_id = f"p{number}"
            # So many lines are there when it comes: a moment that needs no clock.
            moment = dice.randrange(THREADS * LINES + 1)
            gate = hub.subscribed(f"process:{process_id}")
            printers = [printer(hub, process_id, thread, LINES) for thread in range(THREADS)]
            with gate, at_once(*printers):
                for _ in range(moment):
                    gate.recv_json()
                viewer = Viewer(peer, f"process:{process_id}")
                viewer.read(THREADS * LINES)
            viewer.check(LINES)
            peer.send_json({"type": "unsubscribe", "channel": f"process:{process_id}", "id": 0})
            assert peer.recv_json()["type"] == "ack"


def test_viewers_that_come_at_once_all_end_with_the_same() -> None:
    with live() as hub:

        def watch() -> None:
            with hub.peer() as peer:
                viewer = Viewer(peer, "process:p")
                viewer.read(THREADS * LINES)
                viewer.check(LINES)

        printers = [printer(hub, "p", thread, LINES) for thread in range(THREADS)]
        with at_once(*printers, *[watch] * 12):
            pass


@pytest.mark.parametrize("outbox", [{"outbox_bytes": 4_000}, {"outbox_messages": 20}])
def test_a_late_viewer_that_reads_slowly_lags_and_still_misses_nothing(
    outbox: dict[str, int],
) -> None:
    """Lines too large for the kernel's buffers, so that it is the outbox that fills."""
    count, padding = 1000, "x" * 1500
    rules = [
        ChannelRule(
            pattern="process:*", history_messages=100_000, history_bytes=1 << 28, replay=True
        )
    ]
    with live(rules=rules, **outbox) as hub, hub.peer(rcvbuf=4096) as slow:
        channel = "process:p"

        def lines(thread: int) -> Callable[[], None]:
            def run() -> None:
                for number in range(1, count):
                    hub.hub.send_process_output("p", f"{thread}:{number}:{padding}")

            return run

        for thread in range(THREADS):
            hub.hub.send_process_output("p", f"{thread}:0:{padding}")
        viewer = Viewer(slow, channel)
        viewer.read(THREADS)  # the end of its replay: from here on it gets what is new as it comes
        with at_once(*(lines(thread) for thread in range(THREADS))):
            pass
        # It did not read while they printed: what did not fit was not lost.
        viewer.read(THREADS * count)
        viewer.check(count)
        assert viewer.lagged >= 1
        assert hub.client().dropped >= 1


def test_a_viewer_that_comes_back_gets_what_it_missed_and_nothing_twice() -> None:
    print("seed", SEED)
    dice = random.Random(SEED)
    with live() as hub:

        def watch() -> None:
            seqs: list[int] = []
            lines: list[str] = []
            epoch = ""
            while len(lines) < THREADS * LINES:
                with hub.peer() as peer:
                    position = {"since": seqs[-1], "epoch": epoch} if seqs else {"since": 0}
                    peer.send_json(
                        {"type": "subscribe", "channel": "process:p", **position, "id": 1}
                    )
                    data = peer.recv_json()["data"]
                    epoch = data["epoch"]
                    assert data["recovered"] is True
                    for _ in range(min(dice.randrange(1, 30), THREADS * LINES - len(lines))):
                        message = peer.recv_json()
                        seqs.append(message["seq"])
                        lines.append(message["data"])
                    peer.reset()
            assert seqs == list(range(1, THREADS * LINES + 1))

        with at_once(watch, *[printer(hub, "p", thread, LINES) for thread in range(THREADS)]):
            pass


def test_a_position_of_another_life_of_the_channel_is_not_taken_for_recovered() -> None:
    with live() as hub, hub.peer() as peer:
        hub.hub.send_process_output("p", "one")
        request = {"type": "subscribe", "channel": "process:p", "id": 1}
        for since, epoch in ((1, "of-yesterday"), (7, "")):
            peer.send_json({**request, "since": since, "epoch": epoch})
            data = peer.recv_json()["data"]
            assert (data["recovered"], data["replayed"]) == (False, 1)
            assert peer.recv_json()["data"] == "one"


def test_exit_status_is_replayed_after_the_end() -> None:
    with live() as hub:
        hub.hub.send_process_output("p", "last words")
        hub.hub.send_process_status("p", "exited", 3)
        with hub.peer() as peer:
            peer.send_json({"type": "subscribe", "data": "process:p"})
            assert peer.recv_json()["data"] == "last words"
            assert peer.recv_json()["data"] == {"status": "exited", "exitCode": 3}


def test_a_subscription_made_by_the_server_replays_too() -> None:
    with live() as hub, hub.peer() as peer:
        for number in range(3):
            hub.hub.send_process_output("p", str(number))
        hub.hub.subscribe(hub.client(), "process:p", since=0)
        assert [peer.recv_json()["data"] for _ in range(3)] == ["0", "1", "2"]
        hub.hub.send_to_channel("process:p", Message("event", data="live"))
        assert peer.recv_json()["seq"] == 4
