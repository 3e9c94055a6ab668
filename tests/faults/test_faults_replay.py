"""Long logs, late viewers and what a hub keeps: faults 73, 74, 117, 120 and 125, by number.

Real sockets where a peer is to be believed; where an exact moment or a bound is the point,
the parts themselves, step by step.
"""

from __future__ import annotations

import gc
import json
import threading
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from tests.harness import keep_numberings
from tests.integration.apps.live import Live, live, subscribe
from tests.support import TIMEOUT, RawPeer, wait_until
from ws_hub import ChannelRule, Message
from ws_hub.connection.connection import Connection
from ws_hub.connection.outbox import Room
from ws_hub.hub import history as module
from ws_hub.hub import replay
from ws_hub.hub.history import History
from ws_hub.hub.subscriptions import ChannelMap

LINE = "x" * 1000
LINES = 6000  # 6.6 MB of log: more than the kernel's buffers of one connection hold
CHANNEL = "process:log"
MIB = 1024 * 1024
LOG = ChannelRule(
    pattern="process:*", history_messages=3 * LINES, history_bytes=64 * MIB, replay=True
)


def write_log(hub: Live, lines: int = LINES) -> None:
    """Publish lines, and wait until they are kept."""
    before = hub.hub.stats().published
    for first in range(0, lines, 500):
        hub.hub.send_process_lines("log", [LINE] * min(500, lines - first))
    wait_until(lambda: hub.hub.stats().published == before + lines, what="all lines kept")


def ask(peer: RawPeer, **fields: Any) -> None:
    peer.send_json({"type": "subscribe", "channel": CHANNEL, **fields})


def seqs(peer: RawPeer, count: int) -> list[int]:
    return [peer.recv_json()["seq"] for _ in range(count)]


def held(client: Connection) -> bytes:
    """The bytes that a client's outbox is in the middle of."""
    begun: bytes = client.sender._outbox._begun
    return begun


# --- 73: a late viewer costs a cursor ------------------------------------------------------


@pytest.mark.slow
def test_fault_73_late_viewers_hold_no_more_than_a_piece_and_all_the_same_one() -> None:
    """Each had the whole log joined for itself: 60 of them 249 MB, on the hub thread."""
    with live(rules=[LOG]) as hub, hub.peer() as other:
        write_log(hub)
        peers = [hub.peer(rcvbuf=4096) for _ in range(10)]
        try:
            for peer in peers:
                assert subscribe(peer, CHANNEL, since=0)["replayed"] == LINES
            hub.hub.send_event("live")  # before one of them has read anything
            assert other.recv_json()["data"]["event"] == "live"
            clients = hub.hub._life.registry.connections()
            replays = hub.hub._life.replays
            wait_until(lambda: not replays._ready, what="all to wait for their sockets")
            most = 2 * module._BLOCK_BYTES
            assert all(client.waiting[1] <= most for client in clients)
            pieces = {id(held(client)): held(client) for client in clients if held(client)}
            assert sum(map(len, pieces.values())) <= LINES * 1200  # once, not for each
            for peer in peers:
                heard = [each for each in read(peer, LINES + 1) if each["type"] != "event"]
                assert [each["seq"] for each in heard] == list(range(1, LINES + 1))
        finally:
            for peer in peers:
                peer.sock.close()


def read(peer: RawPeer, count: int) -> list[dict[str, Any]]:
    return [peer.recv_json() for _ in range(count)]


def test_fault_73_a_replay_is_no_work_of_one_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said to others comes between two pieces, however long the replay is."""
    monkeypatch.setattr(replay, "_TURN", 0.0)  # a piece takes longer than a turn may
    with live(rules=[LOG]) as hub, hub.peer() as viewer, hub.subscribed("other") as other:
        write_log(hub)
        offered = threading.Event()
        go_on = threading.Event()
        replays, dispatcher = hub.hub._life.replays, hub.hub._life.dispatcher
        step, dispatch = replays._step, dispatcher.dispatch
        pieces: list[Any] = []
        before: list[int] = []  # how many pieces were out when something was said to others

        def held_step(queued: Any) -> Any:
            gap = step(queued)
            pieces.append(queued)
            if len(pieces) == 1:  # the first is out: something is said before the second
                offered.set()
                assert go_on.wait(TIMEOUT)
            return gap

        def noted_dispatch(publications: Any, everybody: Any, now: float) -> None:
            before.append(len(pieces))
            dispatch(publications, everybody, now)

        replays._step = held_step  # type: ignore[method-assign]
        dispatcher.dispatch = noted_dispatch  # type: ignore[method-assign]
        assert subscribe(viewer, CHANNEL, since=0)["replayed"] == LINES
        assert offered.wait(TIMEOUT)
        hub.hub.send_to_channel("other", Message("event", data="now"))
        go_on.set()
        assert other.recv_json()["data"] == "now"
        assert before == [1]
        assert seqs(viewer, LINES) == list(range(1, LINES + 1))
        assert len(pieces) > 50


def test_fault_73_what_is_said_while_a_replay_waits_comes_once_behind_it() -> None:
    with live(rules=[LOG]) as hub, hub.peer(rcvbuf=4096) as viewer:
        write_log(hub)
        subscribe(viewer, CHANNEL, since=0)
        wait_until(lambda: not hub.hub._life.replays._ready, what="a viewer whose socket is full")
        assert hub.hub._life.replays.holds(hub.connection())
        write_log(hub, 500)
        hub.hub.send_process_status("log", "exited", 0)
        assert seqs(viewer, LINES + 501) == list(range(1, LINES + 502))
        hub.hub.send_process_output("log", "live")
        assert viewer.recv_json()["seq"] == LINES + 502
        assert not hub.hub._life.replays.holds(hub.connection())


def test_fault_73_a_viewer_that_history_overtakes_is_told_and_comes_back() -> None:
    with live(rules=[LOG]) as hub, hub.peer(rcvbuf=4096) as viewer:
        write_log(hub)
        epoch = subscribe(viewer, CHANNEL, since=0)["epoch"]
        wait_until(lambda: not hub.hub._life.replays._ready, what="a viewer whose socket is full")
        for _ in range(3):
            write_log(hub)  # of the first lines the history keeps none
        numbers: list[int] = []
        while (message := viewer.recv_json())["type"] == "process_output":
            numbers.append(message["seq"])
        assert numbers == list(range(1, len(numbers) + 1))
        assert (message["type"], message["seq"]) == ("lagged", len(numbers))
        assert hub.hub.stats().dropped == hub.client().dropped == LINES - len(numbers)
        ask(viewer, since=len(numbers), epoch=epoch, id=1)
        data = viewer.recv_json()["data"]
        assert (data["recovered"], data["replayed"]) == (False, 3 * LINES)
        assert seqs(viewer, 100) == list(range(LINES + 1, LINES + 101))


@pytest.mark.slow
def test_fault_73_a_hub_that_stops_lets_replays_end_and_then_closes() -> None:
    with live(rules=[LOG]) as hub, hub.peer(rcvbuf=4096) as viewer, hub.peer() as other:
        write_log(hub)
        subscribe(viewer, CHANNEL, since=0)
        stop = threading.Thread(target=hub.hub.stop, name="test:stop")
        stop.start()
        assert other.recv_close()[0] == 1001  # at once: it waits for none of that
        assert seqs(viewer, LINES) == list(range(1, LINES + 1))
        assert viewer.recv_close()[0] == 1001
        stop.join(TIMEOUT)
        assert not stop.is_alive()


def test_fault_73_a_hub_that_stops_does_not_wait_long_for_a_viewer_that_does_not_read() -> None:
    with live(rules=[LOG], close_timeout=0.4) as hub, hub.peer(rcvbuf=4096) as viewer:
        write_log(hub)
        subscribe(viewer, CHANNEL, since=0)
        hub.hub.stop()
        assert hub.hub.client_count() == 0


def test_fault_73_a_client_that_is_closed_gets_the_piece_in_flight_and_its_close_frame() -> None:
    with live(rules=[LOG]) as hub, hub.peer(rcvbuf=4096) as viewer:
        write_log(hub)
        subscribe(viewer, CHANNEL, since=0)
        client = hub.client()
        wait_until(lambda: not hub.hub._life.replays._ready, what="a viewer whose socket is full")
        client.close(1012, "restart")
        frames = 0
        while (frame := viewer.recv_frame()).opcode == 1:
            frames += 1
            assert json.loads(frame.payload)["seq"] == frames
        assert frame.close[0] == 1012
        assert frames < LINES
        wait_until(lambda: not hub.hub._life.replays.holds(client), what="the replay forgotten")


# --- 117: asked for again ------------------------------------------------------------------


def test_fault_117_what_is_live_is_acked_and_not_replayed_anew() -> None:
    with live(rules=[LOG]) as hub, hub.peer() as peer:
        write_log(hub, 100)
        assert subscribe(peer, CHANNEL, since=0)["replayed"] == 100
        assert seqs(peer, 100) == list(range(1, 101))
        for position in ({"since": 0}, {"last": 50}, {}):
            data = subscribe(peer, CHANNEL, **position)
            assert (data["seq"], data["recovered"], data["replayed"]) == (100, True, 0)
        hub.hub.send_process_output("log", "next")
        assert peer.recv_json()["seq"] == 101


def test_fault_117_what_is_being_replayed_is_acked_where_it_stands() -> None:
    with live(rules=[LOG]) as hub, hub.peer(rcvbuf=4096) as peer:
        write_log(hub)
        subscribe(peer, CHANNEL, since=0)
        wait_until(lambda: not hub.hub._life.replays._ready, what="a viewer whose socket is full")
        ask(peer, since=0, id="again")
        numbers: list[int] = []
        while len(numbers) < LINES:
            message = peer.recv_json()
            if message["type"] == "ack":
                data = message["data"]
                assert (data["seq"], data["recovered"], data["replayed"]) == (numbers[-1], True, 0)
            else:
                numbers.append(message["seq"])
        assert numbers == list(range(1, LINES + 1))


def test_fault_117_who_names_a_position_goes_on_from_there() -> None:
    """It has lost what came after: it says so, and is not told that nothing is missing."""
    with live(rules=[LOG]) as hub, hub.peer() as peer:
        write_log(hub, 100)
        epoch = subscribe(peer, CHANNEL, since=0)["epoch"]
        seqs(peer, 100)
        assert subscribe(peer, CHANNEL, since=90, epoch=epoch)["replayed"] == 10
        assert seqs(peer, 10) == list(range(91, 101))


def test_fault_117_who_wants_more_than_it_was_sent_gets_it() -> None:
    rules = [ChannelRule(pattern=CHANNEL, history_messages=1000)]
    with live(rules=rules) as hub, hub.peer() as peer:
        write_log(hub, 100)
        assert subscribe(peer, CHANNEL)["replayed"] == 0
        assert subscribe(peer, CHANNEL, last=5)["replayed"] == 5
        assert seqs(peer, 5) == list(range(96, 101))
        assert subscribe(peer, CHANNEL, last=5)["replayed"] == 0
        assert subscribe(peer, CHANNEL, since=0)["replayed"] == 100
        assert seqs(peer, 100) == list(range(1, 101))


def test_fault_117_after_the_ack_of_an_unsubscription_nothing_follows() -> None:
    with live(rules=[LOG]) as hub, hub.peer(rcvbuf=4096) as peer:
        write_log(hub)
        subscribe(peer, CHANNEL, since=0)
        wait_until(lambda: not hub.hub._life.replays._ready, what="a viewer whose socket is full")
        peer.send_json({"type": "unsubscribe", "channel": CHANNEL, "id": "end"})
        numbers: list[int] = []
        while (message := peer.recv_json())["type"] != "ack":
            numbers.append(message["seq"])
        assert numbers == list(range(1, len(numbers) + 1))
        assert len(numbers) < LINES
        peer.send_json({"type": "ping", "id": 1})
        assert peer.recv_json()["type"] == "pong"


def test_fault_117_one_that_asks_again_and_again_is_sent_what_it_may_be_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A loop of subscribe and unsubscribe is charged for each piece, and rests."""
    charged: list[int] = []
    rest = [0.0]

    def charge(client: Connection, count: int) -> float:
        charged.append(count)
        return rest[0]

    monkeypatch.setattr(Connection, "charge_bytes", charge)
    with live(rules=[LOG]) as hub, hub.peer() as peer, hub.peer() as other:
        write_log(hub, 500)
        for _ in range(3):
            subscribe(peer, CHANNEL, since=0)
            numbers = seqs(peer, 500)
            assert numbers == list(range(1, 501))
            peer.send_json({"type": "unsubscribe", "channel": CHANNEL, "id": "end"})
            assert peer.recv_json()["type"] == "ack"
        assert sum(charged) >= 3 * 500 * len(LINE)
        rest[0] = 3600.0
        assert subscribe(peer, CHANNEL, since=0)["replayed"] == 500
        hub.hub.send_event("live")
        assert other.recv_json()["data"]["event"] == "live"
        assert peer.recv_json()["type"] == "event"  # and of the log nothing yet


# --- 120, 74: one bound over all histories -------------------------------------------------

PUBLIC = ChannelRule(pattern="chat:*", history_messages=10_000, publish=True)
OWN = ChannelRule(pattern="*", history_messages=10_000)


def rule_for(channel: str) -> ChannelRule:
    return PUBLIC if channel.startswith("chat:") else OWN


@pytest.mark.slow
@pytest.mark.parametrize(
    ("channels", "messages", "size"),
    [(1, 12_000, 40), (4000, 2, 40), (12_000, 1, 1), (50, 5, 60_000), (200, 80, 250)],
    ids=["tiny", "many channels", "more channels than are kept", "large", "all at once"],
)
def test_fault_120_histories_take_what_they_say_and_no_more_than_they_may(
    channels: int, messages: int, size: int
) -> None:
    """10,000 channels of 4 MiB each could be kept: 3.8 GB by one anonymous client."""
    bound = 4 * MIB
    history = History(rule_for, max_bytes=64 * MIB, max_published_bytes=bound)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for turn in range(messages):
            for number in range(channels):
                frame = b"%d" % turn + b"x" * size
                history.extend(f"chat:{number:0100}", [frame], 0.0)
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    usage = history.usage()
    assert usage.kept == usage.published <= bound
    numberings = 400 * channels  # what a channel that keeps nothing any more takes, at most
    assert taken <= usage.kept * 1.1 + numberings
    assert usage.kept <= taken * 2.5 + MIB  # it is no exaggeration either


def test_fault_120_the_longest_unused_channel_loses_its_oldest_messages() -> None:
    history = History(rule_for, max_bytes=MIB)
    for channel in ("first", "second", "third"):
        for _ in range(10):
            history.extend(channel, [b"x" * 40_000], 0.0)
    assert history.names() == ["first", "second", "third"]
    kept = [history.locate(name, since=0) for name in history.names()]
    assert [each.messages for each in kept] == [5, 10, 10]
    assert [each.position.seq for each in kept] == [10, 10, 10]
    assert history.usage().dropped == 5
    assert not history.locate("first", since=3).recovered


def test_fault_120_a_message_beyond_the_bound_is_kept_alone() -> None:
    history = History(rule_for, max_bytes=MIB)
    for channel in ("a", "b"):
        history.extend(channel, [b"x", b"y" * 2 * MIB], 0.0)
        found = history.locate(channel, since=0)
        assert (history.names(), found.messages, found.position.seq) == ([channel], 1, 2)
    assert history.usage().kept < 2 * MIB + 4096
    history.extend("b", [b"z"], 0.0)
    assert history.locate("b", since=0).messages == 1
    assert history.usage().kept < 4096


def test_fault_120_clients_push_out_nothing_that_the_application_keeps() -> None:
    history = History(rule_for, max_bytes=MIB, max_published_bytes=MIB, max_channels=100)
    for _ in range(10):
        history.extend("build", [b"x" * 50_000], 0.0)
    for number in range(300):
        history.extend(f"chat:{number}", [b"x" * 20_000], 0.0)
    assert history.locate("build", since=0).messages == 10
    usage = history.usage()
    assert usage.kept <= MIB
    assert usage.published <= MIB - 10 * 50_000


def test_fault_120_the_bounds_and_what_is_in_use_can_be_seen() -> None:
    rules = [ChannelRule(pattern="chat:*", history_messages=1000, publish=True), OWN]
    settings = {"history_bytes_in_all": 2 * MIB, "published_history_bytes_in_all": MIB}
    with live(rules=rules, **settings) as hub, hub.peer() as peer:
        for number in range(40):
            request = {"type": "publish", "channel": f"chat:{number}", "data": "x" * 60_000}
            peer.send_json({**request, "id": number})
            assert peer.recv_json()["type"] == "ack"
        hub.hub.send_to_channel("own", Message("event", data="mine"))
        wait_until(lambda: hub.hub.stats().published == 41)
        stats = hub.hub.stats()
        assert (stats.history_bytes_in_all, stats.published_history_bytes_in_all) == (
            2 * MIB,
            MIB,
        )
        assert 0 < stats.published_history_bytes <= MIB
        assert stats.published_history_bytes < stats.history_bytes <= 2 * MIB
        assert stats.history_dropped > 20


# --- 125: numbers never begin again under a known name -------------------------------------


def test_fault_125_unknown_names_push_out_no_numbering_and_take_no_memory() -> None:
    rules = [ChannelRule(pattern="process:*", history_messages=100, history_ttl=0.001)]
    with live(rules=rules) as hub, hub.peer() as viewer, hub.peer() as other:
        keep_numberings(hub.hub, 10)
        epoch = subscribe(viewer, CHANNEL)["epoch"]
        hub.hub.send_process_output("log", "one")
        hub.hub.send_process_status("log", "exited", 0)
        assert seqs(viewer, 2) == [1, 2]
        wait_until(lambda: not hub.hub.kept_channels(), what="a history that is freed")
        for number in range(30):
            assert subscribe(other, f"process:unknown-{number}", since=0)["seq"] == 0
        assert list(hub.hub._life.history._own.awaited) == [CHANNEL]
        hub.hub.send_process_output("log", "the second run")
        assert viewer.recv_json()["seq"] == 3
        assert subscribe(viewer, CHANNEL)["epoch"] == epoch


def test_fault_125_a_numbering_with_listeners_is_kept_beyond_the_bound() -> None:
    epochs = iter(f"epoch-{number}" for number in range(1000))
    history = History(
        lambda channel: OWN,
        lambda name: name == "heard",
        new_epoch=lambda: next(epochs),
        max_channels=10,
    )
    history.extend("heard", [b"1", b"2"], 0.0)
    history.extend("forgotten", [b"1", b"2"], 0.0)
    before = [history.locate(name).position for name in ("heard", "forgotten")]
    for number in range(50):
        history.extend(f"other-{number}", [b"x"], 0.0)
    after = [history.locate(name).position for name in ("heard", "forgotten")]
    assert after[0] == before[0]
    assert history.next_seq("heard") == 3
    assert after[1].seq == 0
    assert after[1].epoch not in {before[0].epoch, before[1].epoch}
    assert not history.locate("forgotten", since=2, epoch=before[1].epoch).recovered
    assert len(history._own.awaited) <= 11


def test_fault_125_a_position_in_a_channel_that_was_never_numbered_stays_good() -> None:
    history = History(rule_for)
    before = history.locate("new", since=0).position
    assert (before.seq, history.usage().kept) == (0, 0)
    history.extend("new", [b"1"], 0.0)
    found = history.locate("new", since=0, epoch=before.epoch)
    assert (found.recovered, found.messages) == (True, 1)


# --- a viewer in replay, and who publishes much --------------------------------------------


@pytest.mark.slow
def test_fault_73_a_program_with_backpressure_waits_for_a_viewer_that_comes_late() -> None:
    """It reads the log from the history: pushed out before it has, it would skip lines."""
    count = 40_000  # four times what is kept
    with live() as hub:
        stream = hub.hub.run_process(
            ["sh", "-c", f"yes {'x' * 80} | head -n {count}"], "log", backpressure=True
        )
        with hub.peer() as viewer:
            first = subscribe(viewer, CHANNEL, since=0)
            number = first["seq"] - first["replayed"]
            while True:
                message = viewer.recv_json()
                assert message["type"] in ("process_output", "process_status"), message
                number += 1
                assert message["seq"] == number
                if message["type"] == "process_status" and message["data"]["status"] == "exited":
                    break
        assert stream.wait(TIMEOUT) == 0


# --- 73, 117: many replays of one client are its own matter ----------------------------------


class Full:
    """A viewer whose socket has no room, on whom nobody waits for room."""

    def offer_piece(self, frames: bytes, messages: int, drained: Callable[[], None]) -> Room:
        return Room.FULL

    def charge_bytes(self, count: int) -> float:
        return 0.0

    def count_skipped(self, messages: int) -> None:
        raise AssertionError("nothing is skipped")

    def fileno(self) -> int:
        return 99


class Step:
    """Replays step by step, by a clock that stands still; counts what is looked at."""

    def __init__(self) -> None:
        self.now = 0.0
        self.tick = 0.0  # seconds that each look at the clock takes
        self.looks = 0
        rule = ChannelRule(pattern="*", history_messages=10)
        self.history = History(lambda channel: rule, new_epoch=lambda: "epoch")
        self.channels: ChannelMap[Any] = ChannelMap()
        self.room: list[Callable[[], None]] = []
        self.replays = replay.Replays(
            self.history,
            self.channels,
            watch=self.watch,
            unwatch=lambda fd, call: None,
            awake=lambda: None,
            clock=self.clock,
        )
        self._get, self._far = self.channels.get, self.history.is_far
        self.channels.get = self.get  # type: ignore[method-assign]
        self.history.is_far = self.far  # type: ignore[method-assign]

    def clock(self) -> float:
        self.now += self.tick
        return self.now

    def watch(self, fd: int, call: Callable[[], None]) -> bool:
        self.room.append(call)
        return True

    def get(self, target: Any, channel: str) -> Any:
        self.looks += 1
        return self._get(target, channel)

    def far(self, channel: str, epoch: str, after: int) -> bool:
        self.looks += 1
        return self._far(channel, epoch, after)

    def begin(self, viewer: Full, channels: int, messages: int = 9) -> None:
        self.channels.enter(viewer)
        for number in range(channels):
            self.history.extend(f"c:{number}", [b"x" * 100] * messages, 0.0)
            subscription = self.channels.add(viewer, f"c:{number}", 10_000)
            assert subscription is not None
            self.replays.begin(subscription, "epoch", 0)

    def looks_of(self, call: Callable[[], object]) -> int:
        before = self.looks
        call()
        return self.looks - before

    def turn(self) -> None:
        assert list(self.replays.turn()) == []


@pytest.mark.parametrize("channel", ["quiet", "c:0"])
def test_fault_73_what_publishers_wait_for_costs_no_look_at_other_channels(channel: str) -> None:
    """Of twenty viewers of a thousand channels each, all were looked at, 200 times a second."""
    step, called = Step(), [0]

    def call() -> None:
        called[0] += 1

    for _ in range(3):
        step.begin(Full(), 1000)
    step.turn()
    assert step.looks_of(lambda: step.replays.when_near(channel, call)) == 0
    assert called[0] == (channel == "quiet")  # at once
    step.now = 0.5
    assert step.looks_of(step.turn) <= 20
    assert called[0] == (channel == "quiet")  # the other is far, and its viewers not slow yet


def test_fault_73_a_look_at_all_channels_ends_in_time_and_goes_on_at_the_next_turn() -> None:
    step, called = Step(), [0]

    def call() -> None:
        called[0] += 1

    step.begin(Full(), 1000, messages=3)  # each near
    step.turn()
    step.now, step.tick = 0.5, replay._TURN / 50
    step.replays.when_near(None, call)
    turns = 0
    while not called[0]:
        assert step.looks_of(step.turn) <= 200
        step.now += 0.1
        turns += 1
    assert turns > 5


def test_fault_73_the_look_for_publishers_takes_a_tenth_of_the_time_at_most() -> None:
    step = Step()
    for _ in range(50):
        step.begin(Full(), 1)
    step.turn()
    far = step.far

    def slowly(channel: str, epoch: str, after: int) -> bool:
        step.now += 0.001
        far(channel, epoch, after)
        return False

    step.history.is_far = slowly  # type: ignore[method-assign]
    step.replays.when_near("c:0", lambda: None)
    step.now = 0.5
    assert step.looks_of(step.turn) >= 100
    step.replays.when_near("c:0", lambda: None)
    ended = step.now
    step.now = ended + 0.4
    assert step.looks_of(step.turn) == 0
    assert step.replays.next_turn() == pytest.approx(ended + 0.45)


def test_fault_117_a_turn_looks_at_the_replays_it_sends_and_no_others() -> None:
    """Each piece cost a look at all the replays of its client, and each second one more."""
    step = Step()
    viewer = Full()
    step.begin(viewer, 1000)
    for second in range(1, 4):
        assert step.looks_of(step.turn) <= 4
        for call in step.room:
            call()
        step.room.clear()
        assert step.looks_of(step.turn) <= 4
        step.now = float(second)
    step.channels.leave(viewer)
    step.now += 1.0
    step.turn()  # who has left is forgotten whole
    assert not step.replays.holds(viewer)
    assert step.replays.next_turn() == float("inf")


def test_fault_117_replays_that_have_ended_do_not_add_up() -> None:
    """Of a viewer that subscribes and unsubscribes, while its socket has no room."""
    step = Step()
    viewer = Full()
    step.channels.enter(viewer)
    for number in range(2000):
        step.history.extend(f"c:{number}", [b"x"], 0.0)
        subscription = step.channels.add(viewer, f"c:{number}", 10_000)
        assert subscription is not None
        step.replays.begin(subscription, "epoch", 0)
        step.turn()
        step.channels.remove(viewer, f"c:{number}")
    assert len(step.replays._queues[viewer].replays) <= 100
    assert len(step.replays._by_channel) <= 100
    assert step.looks <= 10 * 2000
