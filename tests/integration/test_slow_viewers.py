"""Viewers that read too slowly, in channels whose rule lets messages be left out for them."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.harness import SteppedHub
from tests.integration.apps.live import live, subscribe
from tests.support import RawPeer, wait_until
from ws_hub import ChannelRule, Client, ConfigError, Hub, HubConfig, Message

SEED = 20261127
LATEST = ChannelRule(pattern="latest*", overflow="latest")
OLDEST = ChannelRule(pattern="oldest*", overflow="drop_oldest")
RULES = [LATEST, OLDEST]
PADDING = "x" * 4000


def send(hub: Hub, channel: str, number: int) -> None:
    hub.send_to_channel(channel, Message("said", data=[number, PADDING]))


def fall_behind(hub: Hub, client: Client, channel: str) -> int:
    """Publish until something waits for a client; return how many messages that took."""
    count = 0
    while not client.waiting[0]:
        assert count < 5000, "the kernel takes everything"
        send(hub, channel, count)
        count += 1
        wait_until(lambda sent=count: hub.stats().published == sent, what="a dispatch")  # type: ignore[misc]
    return count


def check(got: list[int], begun: int, last: int) -> int:
    """Check what a slow viewer got: all before it was behind, and the newest; return how many.

    There may be some between: the kernel may find more room at any time.
    """
    assert got[:begun] == list(range(begun))
    assert got[-1] == last
    assert got == sorted(set(got)), "out of order, or twice"
    return len(got)


def read_to(peer: RawPeer, last: int) -> list[int]:
    """Read numbered messages, up to the last of them."""
    got: list[int] = []
    while not got or got[-1] != last:
        got.append(peer.recv_json()["data"][0])
    return got


def test_slow_viewer_of_a_latest_channel_gets_the_newest_message_and_those_sent_before() -> None:
    with live(rules=RULES) as hub, hub.subscribed("latest", rcvbuf=4096) as slow:
        client = hub.client()
        begun = fall_behind(hub.hub, client, "latest")
        for number in range(begun, begun + 500):
            send(hub.hub, "latest", number)
        wait_until(lambda: hub.hub.stats().published == begun + 500)
        assert client.waiting[0] <= 1  # nothing is queued for it meanwhile
        count = check(read_to(slow, begun + 499), begun, begun + 499)
        assert client.dropped == hub.hub.stats().dropped == begun + 500 - count > 400
        send(hub.hub, "latest", 9999)  # from here on it is like all others
        assert read_to(slow, 9999) == [9999]


def test_slow_viewer_does_not_cost_a_fast_one_a_message() -> None:
    with (
        live(rules=RULES) as hub,
        hub.subscribed("latest", rcvbuf=4096),
        hub.subscribed("latest") as fast,
    ):
        slow_client = hub.hub.all_clients()[0]
        count = 0
        while not slow_client.dropped:
            send(hub.hub, "latest", count)
            assert fast.recv_json()["data"][0] == count
            count += 1
            if slow_client.waiting[0]:
                break
        for number in range(count, count + 100):
            send(hub.hub, "latest", number)
            assert fast.recv_json()["data"][0] == number


def test_drop_oldest_keeps_the_newest_messages_that_an_outbox_holds() -> None:
    with live(rules=RULES, outbox_messages=50) as hub:
        with hub.subscribed("oldest", rcvbuf=4096) as slow:
            client = hub.client()
            begun = fall_behind(hub.hub, client, "oldest")
            for number in range(begun, begun + 200):
                send(hub.hub, "oldest", number)
            wait_until(lambda: hub.hub.stats().published == begun + 200)
            got = read_to(slow, begun + 199)
            count = check(got, begun, begun + 199)
            assert got[-50:] == list(range(begun + 150, begun + 200))
            assert client.dropped == hub.hub.stats().dropped == begun + 200 - count > 50


def test_drop_oldest_is_bounded_in_bytes_too() -> None:
    with live(rules=RULES, outbox_bytes=100_000) as hub:
        with hub.subscribed("oldest", rcvbuf=4096) as slow:
            begun = fall_behind(hub.hub, hub.client(), "oldest")
            for number in range(begun, begun + 200):
                send(hub.hub, "oldest", number)
            wait_until(lambda: hub.hub.stats().published == begun + 200)
            got = read_to(slow, begun + 199)
            assert check(got, begun, begun + 199) < begun + 150
            assert got[-20:] == list(range(begun + 180, begun + 200))


def test_other_channels_of_a_slow_viewer_are_queued_as_always() -> None:
    with live(rules=RULES) as hub, hub.subscribed("latest", "log", rcvbuf=4096) as slow:
        begun = fall_behind(hub.hub, hub.client(), "latest")
        for number in range(10):
            send(hub.hub, "latest", begun + number)
            hub.hub.send_to_channel("log", Message("said", data=[-1 - number]))
        wait_until(lambda: hub.hub.stats().published == begun + 20)
        got = read_to(slow, begun + 9)
        assert [each for each in got if each < 0] == [-1 - number for number in range(10)]
        check([each for each in got if each >= 0], begun, begun + 9)


def test_viewer_that_leaves_while_it_is_behind_leaves_nothing() -> None:
    with live(rules=RULES) as hub:
        with hub.subscribed("latest", rcvbuf=4096):
            begun = fall_behind(hub.hub, hub.client(), "latest")
            send(hub.hub, "latest", begun)
        hub.empty()
        with hub.subscribed("latest") as next_one:
            send(hub.hub, "latest", 7)
            assert next_one.recv_json()["data"][0] == 7


def test_viewer_that_subscribes_again_while_it_is_behind_gets_everything_once() -> None:
    with live(rules=RULES) as hub, hub.subscribed("oldest", rcvbuf=4096) as slow:
        begun = fall_behind(hub.hub, hub.client(), "oldest")
        send(hub.hub, "oldest", begun)
        slow.send_json({"type": "subscribe", "channel": "oldest", "id": "again"})
        wait_until(lambda: hub.hub.stats().queued == 0)
        send(hub.hub, "oldest", begun + 1)
        got: list[int] = []
        while not got or got[-1] != begun + 1:
            message = slow.recv_json()
            if message["type"] != "ack":
                got.append(message["data"][0])
        assert got == list(range(begun + 2))


def test_loop_that_publishes_to_a_latest_channel_is_not_slowed_to_a_viewer() -> None:
    rules = [LATEST]
    with live(rules=rules, outbox_bytes=64_000, broadcast_overflow="drop") as hub:
        with hub.subscribed("latest", rcvbuf=4096):
            client = hub.client()
            fall_behind(hub.hub, client, "latest")
            while client.waiting[1] < 40_000:  # its outbox is crowded, by broadcasts
                hub.hub.broadcast(Message("said", data=PADDING), timeout=0)
                wait_until(lambda: hub.hub.stats().queued == 0)
            before = hub.hub.stats().published
            for number in range(2000):
                send(hub.hub, "latest", number)
            wait_until(lambda: hub.hub.stats().published == before + 2000)
            assert client.waiting[1] < 64_000


class Viewer:
    """A peer that reads when it is told to, and the truth about what it subscribed to."""

    def __init__(self, hub: SteppedHub, channels: list[str]) -> None:
        self.hub = hub
        self.peer = hub.join(buffer=4096)
        self.got: dict[str, list[int]] = {channel: [] for channel in channels}
        for channel in channels:
            self.peer.say(type="subscribe", channel=channel)
        hub.turn()

    def read(self) -> None:
        for message in self.peer.messages():
            self.got[message["channel"]].append(message["data"][0])

    def has(self, channel: str, number: int) -> bool:
        self.hub.turn(0.001)
        self.read()
        return not number or self.got[channel][-1:] == [number]


def test_slow_viewers_end_with_the_newest_and_what_is_missing_is_counted() -> None:
    print("seed", SEED)
    dice = random.Random(SEED)
    channels = ["latest1", "latest2", "oldest1", "oldest2"]
    with SteppedHub(rules=RULES, outbox_messages=20, max_byte_rate=None) as hub:
        viewers = [Viewer(hub, channels) for _ in range(3)]
        sent = dict.fromkeys(channels, 0)
        for _ in range(1500):
            if dice.random() < 0.9:
                for channel in dice.choices(channels, k=dice.randrange(1, 6)):
                    sent[channel] += 1
                    size = dice.choice([1, 100, 3000])
                    message = Message("said", data=[sent[channel], "x" * size])
                    hub.send_to_channel(channel, message)
                hub.turn()
            if dice.random() < 0.05:
                dice.choice(viewers).read()
        for viewer in viewers:
            for channel, number in sent.items():
                wait_until(lambda v=viewer, c=channel, n=number: v.has(c, n), what="the newest")  # type: ignore[misc]
        dropped = 0
        for viewer in viewers:
            missing = 0
            for channel, got in viewer.got.items():
                assert got == sorted(set(got)), "out of order, or twice"
                missing += sent[channel] - len(got)
            assert viewer.peer.client.dropped == missing > 0
            dropped += missing
        assert hub.stats().dropped == dropped


@pytest.mark.parametrize("overflow", ["latest", "drop_oldest"])
def test_history_beside_a_rule_that_leaves_messages_out_is_refused(overflow: Any) -> None:
    with pytest.raises(ConfigError, match=f"overflow='{overflow}'.*history_messages"):
        ChannelRule(pattern="a", history_messages=1, overflow=overflow)


@pytest.mark.parametrize("overflow", ["latest", "drop_oldest"])
def test_broadcasts_have_no_channel_to_be_left_out_of(overflow: Any) -> None:
    with pytest.raises(ConfigError, match="broadcast_overflow must be 'disconnect' or 'drop'"):
        HubConfig(broadcast_overflow=overflow)


def test_listener_of_a_latest_channel_hears_everything_that_it_has_room_for() -> None:
    with Hub(HubConfig(rules=RULES)) as hub:
        heard: list[int] = []
        hub.listen("latest", lambda message: heard.append(message.data))
        for number in range(100):
            hub.send_to_channel("latest", Message("said", data=number))
        wait_until(lambda: len(heard) == 100)
        assert heard == list(range(100))


def test_stop_lets_a_viewer_that_is_behind_have_the_newest() -> None:
    with live(rules=RULES, close_timeout=5.0) as hub, hub.peer(rcvbuf=4096) as slow:
        subscribe(slow, "latest")
        begun = fall_behind(hub.hub, hub.client(), "latest")
        for number in range(begun, begun + 50):
            send(hub.hub, "latest", number)
        wait_until(lambda: hub.hub.stats().published == begun + 50)
        hub.hub.stop(timeout=0)
        check(read_to(slow, begun + 49), begun, begun + 49)
        assert slow.recv_close()[0] == 1001
