"""From publications to deliveries, with targets that keep what they get."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from wsproto.connection import Connection, ConnectionType
from wsproto.events import TextMessage

from ws_hub.config import ChannelRule
from ws_hub.connection.outbox import Room
from ws_hub.hub.dispatcher import Activation, Dispatcher
from ws_hub.hub.history import History
from ws_hub.hub.keyed import KeyedStore
from ws_hub.hub.overflow import OverflowStore
from ws_hub.hub.replay import Replays
from ws_hub.hub.stats import Counters
from ws_hub.hub.stores import Stores
from ws_hub.hub.subscriptions import ChannelMap, Subscription
from ws_hub.protocol.compression import Inflation
from ws_hub.protocol.message import Message, encode
from ws_hub.protocol.publication import Batch, Publication, publish

PLAIN = ChannelRule(pattern="*")
KEPT = ChannelRule(pattern="kept*", history_messages=100)
REPLAYED = ChannelRule(pattern="process:*", history_messages=100, replay=True)


def rule_for(channel: str) -> ChannelRule:
    return next(rule for rule in (KEPT, REPLAYED, PLAIN) if rule.matches(channel))


class Box:
    """A target with room for so many messages; reads what it is given as a peer would."""

    def __init__(self, room: int = 1000, compression: bool = False, id: int = 0) -> None:
        self.id = id
        self.direct = None
        self.compression = compression
        self.replayable = True
        self.dropped = 0
        self.room = room
        self.batches: list[Batch] = []
        self.parser = Connection(ConnectionType.CLIENT, [Inflation(1 << 20)] if compression else [])
        self.messages: list[dict[str, Any]] = []

    def deliver(self, batch: Batch) -> list[Publication]:
        self.batches.append(batch)
        if batch.messages <= self.room and self.offer(batch.frames, batch.messages):
            return []
        taken = list(batch.publications)[: self.room]
        self.room -= len(taken)
        self._read(b"".join(batch.each[: len(taken)]))
        return list(batch.publications)[len(taken) :]

    def offer(self, frames: bytes, messages: int, *, beyond: bool = False) -> bool:
        if messages > self.room and not beyond:
            return False
        self.room -= messages
        self._read(frames)
        return True

    def offer_piece(self, frames: bytes, messages: int, drained: Callable[[], None]) -> Room:
        if messages > self.room:
            return Room.FULL
        self.offer(frames, messages)
        return Room.TAKEN

    def charge_bytes(self, count: int) -> float:
        return 0.0

    def note_drops(self, channel: str, messages: int, reason: str) -> None:
        """Take note of nothing: what was dropped is counted elsewhere."""

    def count_skipped(self, messages: int) -> None:
        self.dropped += messages

    def fileno(self) -> int:
        return -1

    def _read(self, frames: bytes) -> None:
        self.parser.receive_data(frames)
        for event in self.parser.events():
            assert isinstance(event, TextMessage)
            self.messages.append(json.loads(event.data))

    @property
    def data(self) -> list[Any]:
        return [each.get("data") for each in self.messages]


class Stage:
    """A dispatcher, its channels, and who was evicted."""

    def __init__(self, compression: bool = False) -> None:
        self.channels: ChannelMap[Any] = ChannelMap()
        self.counters = Counters()
        self.evicted: list[Any] = []
        self.everybody: list[Box] = []
        history = History(rule_for, new_epoch=lambda: "epoch")
        self.full: list[Callable[[], None]] = []  # what is called when there is room again
        self.replays = Replays(
            history,
            self.channels,
            watch=lambda fd, call: not self.full.append(call),  # type: ignore[func-returns-value]
            unwatch=lambda fd, call: None,
            awake=lambda: None,
            clock=lambda: 0.0,
        )
        self.dispatcher = Dispatcher(
            self.channels,
            Stores(
                history,
                OverflowStore(rule_for, self.channels.has_subscribers, 5, 1 << 20),
                KeyedStore(rule_for, self.channels.has_subscribers, 1 << 20, 1 << 20),
            ),
            self.replays,
            rule_for,
            self.evicted.append,
            self.counters,
            compression=compression,
        )
        self.compression = compression

    def box(self, *channels: str, room: int = 1000, compression: bool = False) -> Box:
        box = Box(room, compression, len(self.everybody) + 1)
        self.everybody.append(box)
        self.channels.enter(box)
        for channel in channels:
            self.subscribe(box, channel)
        return box

    def subscribe(self, box: Box, channel: str, **position: Any) -> Subscription[Any]:
        subscription = self.channels.add(box, channel, 100)
        assert subscription is not None
        self.dispatcher.activate(Activation(subscription, **position))
        self.dispatcher.replay()
        return subscription

    def drain(self) -> None:
        """Let every box that was full have another look."""
        calls, self.full = self.full, []
        for call in calls:
            call()
        self.dispatcher.replay()

    def say(self, *pairs: tuple[str, Any], exclude: dict[int, set[int]] | None = None) -> None:
        """Publish; `exclude` has the ids of those left out, by the index of the pair."""
        publications = [
            publish(
                encode(Message("event", channel=channel, data=data)),
                channel,
                "drop" if channel else "disconnect",
                to_be_numbered=bool(channel and rule_for(channel).history_messages),
                compressed=self.compression,
            )
            for channel, data in pairs
        ]
        for index, ids in (exclude or {}).items():
            publications[index].exclude = frozenset(ids)
        self.dispatcher.dispatch(publications, self.everybody, 0.0)
        self.dispatcher.replay()


def test_broadcast_reaches_all_clients_and_a_channel_its_subscribers() -> None:
    stage = Stage()
    ann, bob = stage.box("news"), stage.box()
    stage.say(("", 1), ("news", 2))
    assert (ann.data, bob.data) == ([1, 2], [1])


def test_messages_of_several_channels_come_in_the_order_of_publishing() -> None:
    stage = Stage()
    both, one = stage.box("a", "b"), stage.box("b")
    stage.say(("a", 1), ("b", 2), ("", 3), ("a", 4), ("b", 5), ("b", 6))
    assert both.data == [1, 2, 3, 4, 5, 6]
    assert one.data == [2, 3, 5, 6]


def test_burst_is_joined_once_for_all_clients_that_get_the_same() -> None:
    stage = Stage()
    boxes = [stage.box("a", "b") for _ in range(3)]
    stage.say(("a", 1), ("b", 2), ("a", 3))
    assert [len(box.batches) for box in boxes] == [1, 1, 1]
    assert boxes[0].batches[0] is boxes[2].batches[0]


def test_nothing_is_joined_without_subscribers() -> None:
    stage = Stage()
    stage.say(("empty", 1))
    assert stage.counters.snapshot() == {"published": 1, "delivered": 0}


def test_what_has_history_is_numbered_and_what_has_none_is_not() -> None:
    stage = Stage()
    box = stage.box("kept", "plain")
    stage.say(("kept", "x"), ("plain", "y"), ("kept", "z"))
    assert [each.get("seq") for each in box.messages] == [1, None, 2]


def test_a_late_subscriber_gets_the_ack_then_what_was_kept_then_what_is_live() -> None:
    stage = Stage()
    stage.say(("kept", 1), ("kept", 2))
    box = stage.box()
    stage.subscribe(box, "kept", since=0, id=9)
    stage.say(("kept", 3))
    assert box.messages[0].pop("timestamp")
    assert box.messages[0] == {
        "type": "ack",
        "id": 9,
        "data": {"channel": "kept", "epoch": "epoch", "seq": 2, "recovered": True, "replayed": 2},
    }
    assert box.data[1:] == [1, 2, 3]


def test_process_channel_is_replayed_once_without_a_position() -> None:
    stage = Stage()
    stage.say(("process:x", 1))
    box = stage.box("process:x")
    stage.subscribe(box, "process:x")
    stage.say(("process:x", 2))
    assert box.data == [1, 2]


def test_other_channels_with_history_are_replayed_on_request_only() -> None:
    stage = Stage()
    stage.say(("kept", 1))
    box = stage.box("kept")
    stage.say(("kept", 2))
    assert box.data == [2]


def test_an_ack_without_history_names_the_channel_alone() -> None:
    stage = Stage()
    box = stage.box()
    stage.subscribe(box, "plain", id=1)
    assert box.data == [{"channel": "plain"}]


def test_a_position_in_a_channel_without_history_is_not_recovered() -> None:
    stage = Stage()
    box = stage.box()
    stage.subscribe(box, "plain", since=5, id=1)
    assert box.data == [{"channel": "plain", "recovered": False, "replayed": 0}]


def test_a_subscription_that_ended_before_its_turn_does_not_go_live() -> None:
    stage = Stage()
    box = stage.box()
    subscription = stage.channels.add(box, "a", 10)
    assert subscription is not None
    stage.channels.remove(box, "a")
    stage.channels.add(box, "a", 10)
    stage.dispatcher.activate(Activation(subscription))
    stage.say(("a", 1))
    assert box.messages == []


def test_a_request_whose_subscription_ended_before_its_turn_is_answered() -> None:
    stage = Stage()
    box = stage.box(room=0)
    subscription = stage.channels.add(box, "kept", 10)
    assert subscription is not None
    stage.channels.remove(box, "kept")
    stage.dispatcher.activate(Activation(subscription, id=1))
    stage.dispatcher.activate(Activation(subscription, id=2, since=0))
    assert [(each["id"], each["data"]) for each in box.messages] == [
        (1, {"channel": "kept"}),
        (2, {"channel": "kept", "recovered": False, "replayed": 0}),
    ]


def test_full_reserve_of_the_outbox_disconnects_the_client() -> None:
    stage = Stage()
    stage.say(("kept", 1), ("kept", 2))
    box = stage.box(room=0)
    box.offer = lambda *args, **settings: False  # type: ignore[method-assign]
    subscription = stage.subscribe(box, "kept", since=0, id=1)
    assert stage.evicted == [box]
    stage.channels.remove(box, "kept")
    stage.dispatcher.activate(Activation(subscription, id=1))
    assert stage.evicted == [box, box]


def test_a_replay_without_room_waits_for_it_and_what_is_said_meanwhile_comes_behind() -> None:
    stage = Stage()
    stage.say(("process:x", 1), ("process:x", 2))
    box = stage.box("process:x", room=1)
    stage.say(("process:x", 3))
    stage.drain()
    assert (stage.evicted, box.messages) == ([], [])
    box.room = 10
    stage.drain()
    stage.say(("process:x", 4))
    assert box.data == [1, 2, 3, 4]
    assert stage.counters.snapshot().get("dropped", 0) == 0


def test_broadcast_to_full_outbox_disconnects_once_and_counts_the_loss() -> None:
    stage = Stage()
    slow, fast = stage.box(room=1), stage.box()
    stage.say(("", 1), ("", 2), ("", 3))
    assert stage.evicted == [slow]
    assert fast.data == [1, 2, 3]
    counted = stage.counters.snapshot()
    assert (counted["dropped"], counted["delivered"]) == (2, 4)


def test_channel_message_to_full_outbox_is_dropped_and_counted() -> None:
    stage = Stage()
    box = stage.box("a", room=1)
    stage.say(("a", 1), ("a", 2))
    box.room = 10
    stage.say(("a", 3))
    assert box.data == [1, 3]
    assert stage.evicted == []
    assert stage.counters.snapshot()["dropped"] == 1


def test_lagging_client_with_positions_is_told_once_and_catches_up() -> None:
    stage = Stage()
    box = stage.box()
    stage.subscribe(box, "kept", since=0)
    box.room = 2
    stage.say(("kept", 1), ("kept", 2), ("kept", 3), ("kept", 4))
    stage.say(("kept", 5))
    assert [(each["type"], each.get("seq")) for each in box.messages] == [
        ("event", 1),
        ("event", 2),
        ("lagged", 2),
    ]
    box.room = 100
    stage.subscribe(box, "kept", since=2, epoch="epoch")
    stage.say(("kept", 6))
    assert [each["seq"] for each in box.messages[3:]] == [3, 4, 5, 6]


def test_lagging_client_without_positions_is_not_told_and_continues() -> None:
    stage = Stage()
    box = stage.box("process:x", room=1)
    stage.say(("process:x", 1), ("process:x", 2))
    box.room = 10
    stage.say(("process:x", 3))
    assert [each["seq"] for each in box.messages] == [1, 3]


def test_a_replay_that_its_history_overtakes_is_a_lag_from_where_it_was() -> None:
    stage = Stage()
    stage.say(*(("kept", number) for number in range(5)))
    box = stage.box(room=3)
    stage.subscribe(box, "kept", since=1, epoch="epoch")
    stage.say(*(("kept", number) for number in range(5, 105)))
    box.room = 200
    stage.drain()
    assert [(each["type"], each["seq"]) for each in box.messages] == [("lagged", 1)]
    assert box.dropped == stage.counters.snapshot()["dropped"] == 4
    stage.subscribe(box, "kept", since=1, epoch="epoch", id=1)
    assert not box.messages[1]["data"]["recovered"]
    assert [each["seq"] for each in box.messages[2:]] == list(range(6, 106))


def test_replay_overtaken_by_its_history_continues_without_positions() -> None:
    stage = Stage()
    stage.say(("process:x", 0))
    box = stage.box("process:x", room=0)
    stage.say(*(("process:x", number) for number in range(1, 104)))
    box.room = 200
    stage.drain()
    stage.say(("process:x", 104))
    assert [each["seq"] for each in box.messages] == list(range(5, 106))
    assert box.dropped == stage.counters.snapshot()["dropped"] == 4


def test_subscriber_with_a_request_id_is_told_where_it_lags() -> None:
    stage = Stage()
    box = stage.box()
    stage.subscribe(box, "kept", id=1)
    box.room = 0
    stage.say(("kept", 1))
    assert (box.messages[-1]["type"], box.messages[-1]["seq"]) == ("lagged", 0)


# --- excluded clients ----------------------------------------------------------------------


def test_the_excluded_are_left_out_and_the_others_share_one_join() -> None:
    stage = Stage()
    ann, bob, *others = [stage.box("a") for _ in range(5)]
    stage.say(("a", 1), ("a", 2), ("", 3), ("a", 4), exclude={0: {1}, 2: {1, 2}, 3: {99}})
    assert (ann.data, bob.data) == ([2, 4], [1, 2, 4])
    assert [box.data for box in others] == [[1, 2, 3, 4]] * 3
    assert others[0].batches[0] is others[1].batches[0] is others[2].batches[0]


def test_a_batch_whose_targets_are_all_excluded_reaches_nobody() -> None:
    stage = Stage()
    box = stage.box("a")
    stage.say(("a", 1), exclude={0: {1}})
    assert box.batches == []


def test_one_that_counts_gets_the_number_of_what_it_is_excluded_from() -> None:
    stage = Stage(compression=True)
    counting, old = stage.box(compression=True), stage.box("kept")
    stage.subscribe(counting, "kept", since=0)
    stage.say(("kept", LONG), ("kept", LONG), ("kept", LONG), exclude={1: {1, 2}})
    assert [(each["type"], each["seq"]) for each in counting.messages] == [
        ("event", 1),
        ("skip", 2),
        ("event", 3),
    ]
    assert counting.messages[1].keys() == {"type", "channel", "seq", "timestamp"}
    assert [each["seq"] for each in old.messages] == [1, 3]
    late = stage.box()
    stage.subscribe(late, "kept", since=0)
    assert late.data == [LONG] * 3  # the history has it


def test_an_excluded_client_that_has_no_room_for_the_number_lags_from_before_it() -> None:
    stage = Stage()
    box = stage.box()
    stage.subscribe(box, "kept", since=0)
    box.room = 1
    stage.say(("kept", 1), ("kept", 2), ("kept", 3), exclude={1: {1}})
    assert [(each["type"], each["seq"]) for each in box.messages] == [("event", 1), ("lagged", 1)]
    box.room = 100
    stage.subscribe(box, "kept", since=1, epoch="epoch")
    assert box.data[2:] == [2, 3]


# --- compression ---------------------------------------------------------------------------

LONG = "much the same " * 100


def test_each_gets_the_form_that_it_takes_and_all_get_the_same() -> None:
    stage = Stage(compression=True)
    packed = [stage.box("kept", "news", compression=True) for _ in range(2)]
    plain = [stage.box("kept", "news") for _ in range(2)]
    stage.say(("kept", LONG), ("news", LONG), ("", "short"), ("kept", LONG + "x"))
    for box in (*packed, *plain):
        assert box.data == [LONG, LONG, "short", LONG + "x"]
    sizes = (
        {len(box.batches[0].frames) for box in packed},
        {len(box.batches[0].frames) for box in plain},
    )
    assert max(sizes[0]) < min(sizes[1]) / 5
    assert packed[0].batches[0] is packed[1].batches[0]  # one join, and one compression
    assert packed[0].messages[0]["seq"] == plain[0].messages[0]["seq"] == 1


def test_what_is_the_same_in_both_forms_is_joined_once() -> None:
    stage = Stage(compression=True)
    packed, plain = stage.box(compression=True), stage.box()
    stage.say(("", 1), ("", 2))
    assert packed.batches[0] is plain.batches[0]


@pytest.mark.parametrize("compression", [True, False])
def test_where_all_take_one_form_no_other_is_made(compression: bool) -> None:
    stage = Stage(compression=True)
    boxes = [stage.box("news", compression=compression) for _ in range(2)]
    stage.say(("news", LONG))
    assert [box.data for box in boxes] == [[LONG], [LONG]]
    assert stage.counters.snapshot()["delivered"] == 2


def test_a_replay_is_plain_and_what_comes_live_behind_it_is_not() -> None:
    stage = Stage(compression=True)
    stage.say(("kept", LONG))
    box = stage.box(compression=True)
    stage.subscribe(box, "kept", since=0)
    stage.say(("kept", LONG + "2"))
    assert box.data == [LONG, LONG + "2"]
    assert len(box.batches[0].frames) < len(LONG) / 5


def test_the_rest_of_a_packed_batch_is_refused_message_by_message() -> None:
    stage = Stage(compression=True)
    box = stage.box("news", room=2, compression=True)
    stage.say(*[("news", LONG + str(number)) for number in range(4)])
    assert box.data == [LONG + "0", LONG + "1"]
    assert stage.counters.snapshot()["dropped"] == 2
