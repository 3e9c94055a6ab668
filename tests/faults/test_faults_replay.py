"""Replays of long logs to late viewers, and the bounds of histories.

Rows 73, 117, 120 and 125 of the list of faults. Real sockets, and where an exact moment or
a bound is the point, a hub that the test turns or the parts themselves, with a clock that
stands still.
"""

from __future__ import annotations

import contextlib
import gc
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.harness import (
    Peer,
    SteppedHub,
    await_stalled_replays,
    keep_numberings,
    one_piece_a_turn,
    weight,
)
from tests.integration.apps.live import Live, live, subscribe
from tests.support import TIMEOUT, RawPeer, wait_until
from ws_hub import ChannelRule, Message
from ws_hub.connection.outbox import Room
from ws_hub.hub.history import History
from ws_hub.hub.replay import Replays
from ws_hub.hub.subscriptions import ChannelMap, Subscription

LINE = "x" * 1000
LINES = 6000  # 6.6 MB of log: more than the kernel's buffers of one connection hold
CHANNEL = "process:log"
MIB = 1024 * 1024
PIECE = 64 * 1024  # bytes of a piece of a replay, at most
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


def unsubscribe(peer: RawPeer, channel: str) -> None:
    """Unsubscribe a peer to which nothing is sent meanwhile."""
    peer.send_json({"type": "unsubscribe", "channel": channel, "id": "end"})
    assert peer.recv_json()["type"] == "ack"


# --- 73: late viewers of a long log --------------------------------------------------------


def test_fault_73_late_viewers_of_a_long_log_share_the_pieces_in_their_outboxes() -> None:
    """The whole log was joined for each viewer: 249 MB for 60 of them, on the hub thread."""
    lines = 500
    with live(rules=[LOG]) as hub, contextlib.ExitStack() as stack:
        write_log(hub, lines)
        # The kernel takes only the beginning of a piece: the outbox keeps the rest.
        viewers = [stack.enter_context(Peer(hub.hub, buffer=8192)) for _ in range(10)]
        other = stack.enter_context(Peer(hub.hub))
        with traced_memory() as taken:
            for viewer in viewers:
                viewer.say(type="subscribe", channel=CHANNEL, since=0, wait=False)
            await_stalled_replays(hub.hub, 10)
            hub.hub.send_event("live")  # before any viewer has read anything
            assert other.message()["data"]["event"] == "live"
            assert taken() < 3 * PIECE  # and not one for each viewer
        for viewer in viewers:
            assert PIECE // 2 < viewer.client.waiting[1] <= PIECE + len(LINE)  # and the event
        for viewer in viewers:
            heard = [viewer.message() for _ in range(lines + 1)]
            numbers = [each["seq"] for each in heard if each["type"] != "event"]
            assert numbers == list(range(1, lines + 1))


@contextlib.contextmanager
def traced_memory() -> Iterator[Callable[[], int]]:
    """Yield what returns how many bytes of memory Python has taken since."""
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]

        def taken() -> int:
            gc.collect()
            return tracemalloc.get_traced_memory()[0] - before

        yield taken
    finally:
        tracemalloc.stop()


def test_fault_73_other_messages_are_delivered_between_two_pieces_of_a_replay() -> None:
    most = PIECE // len(LINE)  # messages in a piece
    with one_piece_a_turn(), SteppedHub(rules=[LOG]) as hub:
        viewer, other = hub.join(buffer=1 << 20), hub.join()  # the viewer's holds many pieces
        other.say(type="subscribe", channel="other")
        hub.turn()
        for _ in range(LINES // 500):
            hub.send_process_lines("log", [LINE] * 500)
            hub.settle()
        viewer.say(type="subscribe", channel=CHANNEL, since=0)
        hub.turn()
        numbers = [each["seq"] for each in viewer.messages()]
        assert 0 < len(numbers) <= most
        hub.send_to_channel("other", Message("event", data="now"))
        hub.turn()
        assert [each["data"] for each in other.messages()] == ["now"]
        turns = 2
        while len(numbers) < LINES and turns < 1000:
            numbers += [each["seq"] for each in viewer.messages()]
            assert len(numbers) <= turns * most
            hub.turn(0.01)
            turns += 1
        assert numbers == list(range(1, LINES + 1))


def test_fault_73_messages_published_during_a_replay_arrive_once_and_after_it() -> None:
    with live(rules=[LOG]) as hub, hub.peer(rcvbuf=4096) as viewer:
        write_log(hub)
        subscribe(viewer, CHANNEL, since=0)
        await_stalled_replays(hub.hub, 1)
        write_log(hub, 500)
        hub.hub.send_process_status("log", "exited", 0)
        assert seqs(viewer, LINES + 501) == list(range(1, LINES + 502))
        await_stalled_replays(hub.hub, 0)
        hub.hub.send_process_output("log", "live")
        assert viewer.recv_json()["seq"] == LINES + 502


def test_fault_73_a_viewer_whose_next_messages_are_dropped_gets_lagged_and_can_resume() -> None:
    with live(rules=[LOG]) as hub, hub.peer(rcvbuf=4096) as viewer:
        write_log(hub)
        epoch = subscribe(viewer, CHANNEL, since=0)["epoch"]
        await_stalled_replays(hub.hub, 1)
        for _ in range(3):
            write_log(hub)  # the history keeps none of the first lines
        numbers: list[int] = []
        while (message := viewer.recv_json())["type"] == "process_output":
            numbers.append(message["seq"])
        assert numbers == list(range(1, len(numbers) + 1))
        assert (message["type"], message["seq"]) == ("lagged", len(numbers))
        dropped = hub.client().dropped
        # The kernel may have found room while the last lines were written, 500 at a time.
        assert 0 < dropped <= LINES - len(numbers) and (LINES - len(numbers) - dropped) % 500 == 0
        assert hub.hub.stats().dropped == dropped
        ask(viewer, since=len(numbers), epoch=epoch, id=1)
        data = viewer.recv_json()["data"]
        assert (data["recovered"], data["replayed"]) == (False, 3 * LINES)
        assert seqs(viewer, 100) == list(range(LINES + 1, LINES + 101))


@pytest.mark.slow
def test_fault_73_stop_closes_a_client_when_its_replay_has_ended() -> None:
    settings = {"rules": [LOG], "close_timeout": 2 * TIMEOUT}  # half of it for the replay
    with live(**settings) as hub, hub.peer(rcvbuf=4096) as viewer, hub.peer() as other:
        write_log(hub)
        subscribe(viewer, CHANNEL, since=0)
        stop = threading.Thread(target=hub.hub.stop, name="test:stop")
        stop.start()
        assert other.recv_close()[0] == 1001  # a client without a replay: at once
        other.send_close(1001)
        assert seqs(viewer, LINES) == list(range(1, LINES + 1))
        assert viewer.recv_close()[0] == 1001
        viewer.send_close(1001)
        stop.join(TIMEOUT)
        assert not stop.is_alive()


def test_fault_73_stop_cuts_a_viewer_that_does_not_read_its_replay() -> None:
    with live(rules=[LOG], close_timeout=0.4) as hub, hub.peer(rcvbuf=4096) as viewer:
        write_log(hub)
        subscribe(viewer, CHANNEL, since=0)
        hub.hub.stop()
        assert hub.hub.client_count() == 0


def test_fault_73_close_sends_the_rest_of_a_piece_and_the_close_frame() -> None:
    with live(rules=[LOG]) as hub, Peer(hub.hub, buffer=8192) as viewer:
        write_log(hub, 500)
        viewer.say(type="subscribe", channel=CHANNEL, since=0, wait=False)
        await_stalled_replays(hub.hub, 1)
        messages, _ = viewer.client.waiting
        viewer.client.close(1012, "restart")
        assert viewer.closed() == (1012, "restart")
        assert [each["seq"] for each in viewer.messages()] == list(range(1, messages + 1))
        await_stalled_replays(hub.hub, 0)


# --- 117: a subscription that is repeated --------------------------------------------------


def test_fault_117_a_repeated_subscription_that_is_live_is_acked_without_a_replay() -> None:
    with live(rules=[LOG]) as hub, hub.peer() as peer:
        write_log(hub, 100)
        assert subscribe(peer, CHANNEL, since=0)["replayed"] == 100
        assert seqs(peer, 100) == list(range(1, 101))
        for position in ({"since": 0}, {"last": 50}, {}):
            data = subscribe(peer, CHANNEL, **position)
            assert (data["seq"], data["recovered"], data["replayed"]) == (100, True, 0)
        hub.hub.send_process_output("log", "next")
        assert peer.recv_json()["seq"] == 101


def test_fault_117_a_repeated_subscription_during_its_replay_is_acked_with_its_position() -> None:
    with live(rules=[LOG]) as hub, hub.peer(rcvbuf=4096) as peer:
        write_log(hub)
        subscribe(peer, CHANNEL, since=0)
        await_stalled_replays(hub.hub, 1)
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


def test_fault_117_a_repeated_subscription_with_a_position_replays_what_follows_it() -> None:
    """The client has lost what came after it, and must not be told that nothing is missing."""
    with live(rules=[LOG]) as hub, hub.peer() as peer:
        write_log(hub, 100)
        epoch = subscribe(peer, CHANNEL, since=0)["epoch"]
        seqs(peer, 100)
        assert subscribe(peer, CHANNEL, since=90, epoch=epoch)["replayed"] == 10
        assert seqs(peer, 10) == list(range(91, 101))


def test_fault_117_a_repeated_subscription_for_more_than_was_sent_replays_it() -> None:
    rules = [ChannelRule(pattern=CHANNEL, history_messages=1000)]
    with live(rules=rules) as hub, hub.peer() as peer:
        write_log(hub, 100)
        assert subscribe(peer, CHANNEL)["replayed"] == 0
        assert subscribe(peer, CHANNEL, last=5)["replayed"] == 5
        assert seqs(peer, 5) == list(range(96, 101))
        assert subscribe(peer, CHANNEL, last=5)["replayed"] == 0
        assert subscribe(peer, CHANNEL, since=0)["replayed"] == 100
        assert seqs(peer, 100) == list(range(1, 101))


def test_fault_117_nothing_of_a_replay_follows_the_ack_of_unsubscribe() -> None:
    with live(rules=[LOG]) as hub, hub.peer(rcvbuf=4096) as peer:
        write_log(hub)
        subscribe(peer, CHANNEL, since=0)
        await_stalled_replays(hub.hub, 1)
        peer.send_json({"type": "unsubscribe", "channel": CHANNEL, "id": "end"})
        numbers: list[int] = []
        while (message := peer.recv_json())["type"] != "ack":
            numbers.append(message["seq"])
        assert numbers == list(range(1, len(numbers) + 1))
        assert len(numbers) < LINES
        peer.send_json({"type": "ping", "id": 1})
        assert peer.recv_json()["type"] == "pong"


def test_fault_117_replays_are_charged_and_wait_for_the_byte_rate() -> None:
    """A loop of subscribe and unsubscribe could make the hub send without end."""
    burst = 3 * 500 * 1200 + 3 * PIECE  # bytes of three replays, and of less than another one
    settings = {"max_byte_rate": 1.0, "byte_burst": burst, "close_timeout": 0.2}
    with live(rules=[LOG], **settings) as hub, hub.peer() as peer, hub.peer() as other:
        write_log(hub, 500)
        for _ in range(3):
            subscribe(peer, CHANNEL, since=0)
            assert seqs(peer, 500) == list(range(1, 501))
            unsubscribe(peer, CHANNEL)
        assert subscribe(peer, CHANNEL, since=0)["replayed"] == 500
        await_stalled_replays(hub.hub, 1)
        hub.hub.send_event("live")
        assert other.recv_json()["data"]["event"] == "live"
        numbers: list[int] = []
        while (message := peer.recv_json())["type"] != "event":
            numbers.append(message["seq"])
        assert numbers == list(range(1, len(numbers) + 1))
        assert 0 < len(numbers) < 500


# --- 120: one bound over all histories -----------------------------------------------------

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
def test_fault_120_histories_report_the_memory_they_take_and_stay_within_their_bounds(
    channels: int, messages: int, size: int
) -> None:
    """10,000 channels of 4 MiB each could be kept: 3.8 GB by one anonymous client."""
    bound = 4 * MIB
    history = History(rule_for, max_bytes=64 * MIB, max_published_bytes=bound)
    with traced_memory() as taken_by_now:
        for turn in range(messages):
            for number in range(channels):
                frame = b"%d" % turn + b"x" * size
                history.extend(f"chat:{number:0100}", [frame], 0.0)
        taken = taken_by_now()
    usage = history.usage()
    assert usage.kept == usage.published <= bound
    numberings = 400 * channels  # at most, of channels that keep no message any more
    assert taken <= usage.kept * 1.1 + numberings
    assert usage.kept <= taken * 2.5 + MIB


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


def test_fault_120_what_clients_publish_pushes_out_no_message_of_the_application() -> None:
    history = History(rule_for, max_bytes=MIB, max_published_bytes=MIB, max_channels=100)
    for _ in range(10):
        history.extend("build", [b"x" * 50_000], 0.0)
    for number in range(300):
        history.extend(f"chat:{number}", [b"x" * 20_000], 0.0)
    assert history.locate("build", since=0).messages == 10
    usage = history.usage()
    assert usage.kept <= MIB
    assert usage.published <= MIB - 10 * 50_000


def test_fault_120_stats_show_the_bounds_of_histories_and_what_they_take() -> None:
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


# --- 125: a channel's numbering is kept ----------------------------------------------------


def test_fault_125_subscriptions_to_unknown_channels_push_out_no_numbering() -> None:
    rules = [ChannelRule(pattern="process:*", history_messages=100, history_ttl=0.001)]
    with live(rules=rules) as hub, hub.peer() as viewer, hub.peer() as other:
        keep_numberings(hub.hub, 10)
        epoch = subscribe(viewer, CHANNEL)["epoch"]
        hub.hub.send_process_output("log", "one")
        hub.hub.send_process_status("log", "exited", 0)
        assert seqs(viewer, 2) == [1, 2]
        unsubscribe(viewer, CHANNEL)
        wait_until(lambda: not hub.hub.kept_channels(), what="a history that is freed")
        for number in range(30):
            assert subscribe(other, f"process:unknown-{number}", since=0)["seq"] == 0
            unsubscribe(other, f"process:unknown-{number}")
        hub.hub.send_process_output("another", "a write forgets numberings beyond the bound")
        hub.hub.send_process_output("log", "the second run")
        data = subscribe(viewer, CHANNEL, since=2, epoch=epoch)
        assert (data["epoch"], data["recovered"], data["replayed"]) == (epoch, True, 1)
        assert seqs(viewer, 1) == [3]


def test_fault_125_looking_up_an_unknown_channel_takes_no_memory() -> None:
    history = History(rule_for)
    before = weight(history)
    for number in range(30):
        assert history.locate(f"unknown-{number}", since=0).position.seq == 0
        assert history.next_seq(f"unknown-{number}") == 1
    assert weight(history) == before


def test_fault_125_other_channels_push_out_no_numbering_that_has_a_subscriber() -> None:
    rules = [ChannelRule(pattern="process:*", history_messages=100)]
    with live(rules=rules) as hub, hub.peer() as viewer:
        keep_numberings(hub.hub, 10)
        epoch = subscribe(viewer, CHANNEL)["epoch"]
        hub.hub.send_process_output("log", "one")
        for number in range(30):
            hub.hub.send_process_output(f"other-{number}", "x")
        hub.hub.send_process_output("log", "two")
        assert seqs(viewer, 2) == [1, 2]
        assert subscribe(viewer, CHANNEL)["epoch"] == epoch


def test_fault_125_a_numbering_with_subscribers_is_kept_beyond_the_bound() -> None:
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
    before_others = weight(history)
    for number in range(50, 100):
        history.extend(f"other-{number}", [b"x"], 0.0)
    assert weight(history) <= before_others


def test_fault_125_a_position_in_a_channel_without_messages_stays_valid() -> None:
    history = History(rule_for)
    before = history.locate("new", since=0).position
    assert (before.seq, history.usage().kept) == (0, 0)
    history.extend("new", [b"1"], 0.0)
    found = history.locate("new", since=0, epoch=before.epoch)
    assert (found.recovered, found.messages) == (True, 1)


# --- 73: publishers with backpressure ------------------------------------------------------


@pytest.mark.slow
def test_fault_73_a_program_with_backpressure_waits_for_a_late_viewer() -> None:
    """The viewer reads from the history, whose messages must stay until it has them."""
    count = 60_000  # several times what is kept
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


# --- 73, 117: the cost of many replays -----------------------------------------------------


class FullViewer:
    """A viewer whose socket has no room."""

    def offer_piece(self, frames: bytes, messages: int, drained: Callable[[], None]) -> Room:
        return Room.FULL

    def charge_bytes(self, count: int) -> float:
        return 0.0

    def note_drops(self, channel: str, messages: int, reason: str) -> None:
        """Take note of nothing: what was dropped is counted elsewhere."""

    def count_skipped(self, messages: int) -> None:
        raise AssertionError("no message is dropped")

    def fileno(self) -> int:
        return 99


class SteppedReplays:
    """Replays that a test turns, with a clock that stands still; counts lookups.

    Attributes:
        now: what the clock shows.
        tick: seconds that each reading of the clock takes.
        lookups: how often a subscription was looked up, or a channel asked for its distance.
        room: what is to be called when the sockets have room.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.tick = 0.0
        self.lookups = 0
        rule = ChannelRule(pattern="*", history_messages=10)
        self.history = History(lambda channel: rule, new_epoch=lambda: "epoch")
        self.channels: ChannelMap[Any] = ChannelMap()
        self.room: list[Callable[[], None]] = []
        self.replays = Replays(
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

    def get(self, subscriber: Any, channel: str) -> Subscription[Any] | None:
        self.lookups += 1
        return self._get(subscriber, channel)

    def far(self, channel: str, epoch: str, after: int) -> bool:
        self.lookups += 1
        return self._far(channel, epoch, after)

    def begin(self, viewer: FullViewer, channels: int, messages: int = 9) -> None:
        self.channels.enter(viewer)
        for number in range(channels):
            channel = f"c:{number}"
            before = self.history.locate(channel).position.seq
            self.history.extend(channel, [b"x" * 100] * messages, 0.0)
            subscription = self.channels.add(viewer, channel, 10_000)
            assert subscription is not None
            self.replays.begin(subscription, "epoch", before)

    def lookups_of(self, call: Callable[[], object]) -> int:
        before = self.lookups
        call()
        return self.lookups - before

    def turn(self) -> None:
        assert list(self.replays.turn()) == []


@pytest.mark.parametrize("channel", ["quiet", "c:0"])
def test_fault_73_a_waiting_publisher_costs_no_lookups_in_other_channels(channel: str) -> None:
    """All channels of all viewers were looked up, 200 times a second."""
    step, called = SteppedReplays(), [0]

    def call() -> None:
        called[0] += 1

    for _ in range(3):
        step.begin(FullViewer(), 1000)
    step.turn()
    assert step.lookups_of(lambda: step.replays.when_near(channel, call)) == 0
    assert called[0] == (channel == "quiet")  # at once
    step.now = 0.5
    assert step.lookups_of(step.turn) <= 20
    assert called[0] == (channel == "quiet")  # far behind, and its viewers do not count as slow yet


def test_fault_73_a_check_of_all_channels_stops_in_time_and_goes_on_in_the_next_turn() -> None:
    step, called = SteppedReplays(), [0]

    def call() -> None:
        called[0] += 1

    step.begin(FullViewer(), 1000, messages=3)  # each near
    step.turn()
    step.now, step.tick = 0.5, 0.00001  # a turn may take half a millisecond
    step.replays.when_near(None, call)
    turns = 0
    while not called[0]:
        assert step.lookups_of(step.turn) <= 200
        step.now += 0.1
        turns += 1
    assert turns > 5


def test_fault_73_checks_for_waiting_publishers_take_at_most_a_tenth_of_the_time() -> None:
    step = SteppedReplays()
    for _ in range(50):
        step.begin(FullViewer(), 1)
    step.turn()
    far = step.far

    def slowly(channel: str, epoch: str, after: int) -> bool:
        step.now += 0.001
        far(channel, epoch, after)
        return False

    step.history.is_far = slowly  # type: ignore[method-assign]
    step.replays.when_near("c:0", lambda: None)
    step.now = 0.5
    assert step.lookups_of(step.turn) >= 100
    step.replays.when_near("c:0", lambda: None)
    ended = step.now
    step.now = ended + 0.4
    assert step.lookups_of(step.turn) == 0
    assert step.replays.next_turn() == pytest.approx(ended + 0.45)


def test_fault_117_a_turn_looks_up_only_the_replays_that_it_sends() -> None:
    """Each piece, and each second, cost a lookup of all replays of its client."""
    step = SteppedReplays()
    viewer = FullViewer()
    step.begin(viewer, 1000)
    for second in range(1, 4):
        assert step.lookups_of(step.turn) <= 4
        for call in step.room:
            call()
        step.room.clear()
        assert step.lookups_of(step.turn) <= 4
        step.now = float(second)
    step.channels.leave(viewer)
    step.now += 1.0
    step.turn()  # a client that has left is forgotten
    assert not step.replays.holds(viewer)
    assert step.replays.next_turn() == float("inf")


def test_fault_117_replays_that_have_ended_do_not_accumulate() -> None:
    """As of a client that subscribes and unsubscribes while its socket has no room."""
    step = SteppedReplays()
    viewer = FullViewer()
    step.channels.enter(viewer)
    for number in range(2000):
        step.history.extend(f"c:{number}", [b"x"], 0.0)
    before = weight(step.replays, without=step.history)
    for number in range(2000):
        subscription = step.channels.add(viewer, f"c:{number}", 10_000)
        assert subscription is not None
        step.replays.begin(subscription, "epoch", 0)
        step.turn()
        step.channels.remove(viewer, f"c:{number}")
    assert weight(step.replays, without=step.history) < before + 2000  # not one object of each
    assert step.lookups <= 10 * 2000
