"""Keyed channels: whatever happens, a viewer ends with the newest of each key."""

from __future__ import annotations

import logging
import random
from typing import Any

import pytest

from tests.harness import Peer, SteppedHub
from tests.integration.apps.live import Live, live, subscribe
from tests.support import TIMEOUT, RawPeer, wait_until
from ws_hub import (
    ChannelRule,
    ConfigError,
    ConnectionState,
    Hub,
    HubConfig,
    HubError,
    InvalidName,
    Message,
    MessageEncodeError,
    MessagesLost,
    ReconnectingClient,
)
from ws_hub.testing import FaultProxy

SEED = 20261127
KEYED = ChannelRule(pattern="board*", keyed=True, max_keys=50)
FEW = ChannelRule(pattern="few*", keyed=True, max_keys=3)
SMALL = ChannelRule(pattern="small*", keyed=True, history_bytes=2000)
OPEN = ChannelRule(pattern="open*", keyed=True, publish=True)
RULES = [KEYED, FEW, SMALL, OPEN]


def board(peer: RawPeer, count: int) -> dict[str, Any]:
    """Read so many messages of a keyed channel; return the data of each key."""
    found: dict[str, Any] = {}
    for _ in range(count):
        message = peer.recv_json()
        found[message["key"]] = message.get("data")
    return found


def put(hub: Hub, key: str, value: Any, channel: str = "board") -> None:
    hub.send_to_channel(channel, Message("value", key=key, data=value))


# --- snapshots and changes -----------------------------------------------------------------


def test_late_subscriber_gets_the_newest_of_each_key_then_the_changes() -> None:
    with live(rules=RULES) as hub:
        for key, value in [("cpu", 1), ("disk", 2), ("cpu", 3), ("net", 4)]:
            put(hub.hub, key, value)
        with hub.peer() as peer:
            answer = subscribe(peer, "board")
            assert answer.pop("epoch")
            assert answer == {
                "channel": "board", "seq": 4, "recovered": True, "replayed": 3,
                "keyed": True, "sparse": True,
            }  # fmt: skip
            first = [peer.recv_json() for _ in range(3)]
            assert [(each["key"], each["data"], each["seq"]) for each in first] == [
                ("disk", 2, 2), ("cpu", 3, 3), ("net", 4, 4)
            ]  # fmt: skip
            put(hub.hub, "cpu", 5)
            change = peer.recv_json()
            assert (change["key"], change["data"], change["seq"]) == ("cpu", 5, 5)


def test_event_has_a_key_that_may_be_a_number() -> None:
    with live(rules=RULES) as hub, hub.subscribed("board") as peer:
        hub.hub.send_event("load", 0.5, channel="board", key=7)
        message = peer.recv_json()
        assert (message["key"], message["data"]) == ("7", {"event": "load", "data": 0.5})
        hub.hub.send_event("load", None, channel="board", key=7)
        message = peer.recv_json()
        assert (message["key"], message["type"]) == ("7", "event")
        assert "data" not in message
    with Hub(HubConfig(rules=RULES)) as alone:
        heard: list[Message] = []
        alone.listen("board", heard.append)
        alone.send_event("load", 1, channel="board", key="cpu")
        wait_until(lambda: len(heard) == 1)
        assert heard[0].key == "cpu"


def test_deleted_key_is_told_and_is_not_in_the_next_snapshot() -> None:
    with live(rules=RULES) as hub, hub.subscribed("board") as early:
        put(hub.hub, "cpu", 1)
        put(hub.hub, "disk", 2)
        put(hub.hub, "cpu", None)
        assert board(early, 3) == {"cpu": None, "disk": 2}
        with hub.peer() as late:
            assert subscribe(late, "board")["replayed"] == 1
            assert board(late, 1) == {"disk": 2}
            put(hub.hub, "end", 0)
            assert board(late, 1) == {"end": 0}


def test_client_with_a_position_gets_what_has_changed_since() -> None:
    with live(rules=RULES) as hub:
        for key in ("a", "b", "c", "d"):
            put(hub.hub, key, 1)
        with hub.peer() as peer:
            epoch = subscribe(peer, "board")["epoch"]
            assert len(board(peer, 4)) == 4
        put(hub.hub, "a", 2)
        put(hub.hub, "b", None)
        put(hub.hub, "a", 3)
        with hub.peer() as peer:
            answer = subscribe(peer, "board", since=4, epoch=epoch)
            assert (answer["recovered"], answer["replayed"]) == (True, 2)
            assert board(peer, 2) == {"a": 3, "b": None}
        with hub.peer() as peer:
            assert subscribe(peer, "board", last=1)["replayed"] == 1
            assert board(peer, 1) == {"a": 3}


@pytest.mark.parametrize("position", [{"since": 2, "epoch": "another"}, {"since": 99}])
def test_position_that_means_nothing_here_gets_all_keys(position: dict[str, Any]) -> None:
    with live(rules=RULES) as hub:
        put(hub.hub, "a", 1)
        put(hub.hub, "b", 2)
        with hub.peer() as peer:
            answer = subscribe(peer, "board", **position)
            assert (answer["recovered"], answer["replayed"]) == (False, 2)
            assert board(peer, 2) == {"a": 1, "b": 2}


def test_position_before_deletions_that_are_not_kept_gets_all_keys() -> None:
    with live(rules=RULES) as hub:
        put(hub.hub, "first", 1, "few")
        with hub.peer() as peer:
            epoch = subscribe(peer, "few")["epoch"]
            board(peer, 1)
        put(hub.hub, "stays", 2, "few")
        put(hub.hub, "first", None, "few")
        for number in range(5):
            put(hub.hub, f"passing{number}", 1, "few")
            put(hub.hub, f"passing{number}", None, "few")
        with hub.peer() as peer:
            answer = subscribe(peer, "few", since=1, epoch=epoch)
            assert (answer["recovered"], answer["replayed"]) == (False, 1)
            assert board(peer, 1) == {"stays": 2}


def test_snapshot_larger_than_a_piece_comes_whole() -> None:
    rules = [ChannelRule(pattern="*", keyed=True)]
    with live(rules=rules) as hub:
        for number in range(500):
            put(hub.hub, f"k{number}", "x" * 1000)
        put(hub.hub, "k7", None)
        with hub.peer() as peer:
            assert subscribe(peer, "board")["replayed"] == 499
            assert len(board(peer, 499)) == 499
            put(hub.hub, "end", 0)
            assert board(peer, 1) == {"end": 0}


# --- bounds --------------------------------------------------------------------------------


def test_beyond_max_keys_the_longest_unchanged_is_deleted_and_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with live(rules=RULES) as hub, hub.subscribed("few") as peer:
        with caplog.at_level(logging.WARNING):
            for key in ("a", "b", "c", "a", "d", "e"):
                put(hub.hub, key, key, "few")
            got = [peer.recv_json() for _ in range(8)]
        assert [(each["key"], each.get("data")) for each in got[4:]] == [
            ("d", "d"), ("b", None), ("e", "e"), ("c", None)
        ]  # fmt: skip
        assert [each["seq"] for each in got] == list(range(1, 9))
        with hub.peer() as late:
            assert subscribe(late, "few")["replayed"] == 3
            assert board(late, 3) == {"a": "a", "d": "d", "e": "e"}
    told = [each for each in caplog.records if "more keys than its rule allows" in each.message]
    assert len(told) == 1


def test_keys_are_bounded_in_bytes_too() -> None:
    with live(rules=RULES) as hub:
        for number in range(50):
            put(hub.hub, f"k{number}", "x" * 300, "small")
        with hub.peer() as late:
            count = subscribe(late, "small")["replayed"]
            assert 2 <= count <= 2000 // 300
            newest = {f"k{number}" for number in range(50 - count, 50)}
            assert set(board(late, count)) == newest


def test_all_keyed_channels_together_are_bounded() -> None:
    rules = [ChannelRule(pattern="*", keyed=True)]
    with live(rules=rules, history_bytes_in_all=200_000) as hub:
        for number in range(100):
            put(hub.hub, "key", "x" * 10_000, f"board{number}")
        wait_until(lambda: hub.hub.stats().published == 100)
        assert 100_000 < hub.hub.stats().keyed_bytes <= 200_000
        with hub.peer() as peer:
            assert subscribe(peer, "board0")["replayed"] == 0
            assert subscribe(peer, "board99")["replayed"] == 1


# --- slow viewers, and the truth -----------------------------------------------------------


class Viewer:
    """A peer that reads when it is told to, reconnects, and keeps the newest of each key."""

    def __init__(self, hub: SteppedHub) -> None:
        self.hub = hub
        self.state: dict[str, Any] = {}
        self.epoch, self.seq = "", 0
        self.connect()

    def connect(self) -> None:
        self.peer: Peer = self.hub.join(buffer=4096)
        position: dict[str, Any] = {"since": self.seq, "epoch": self.epoch} if self.epoch else {}
        self.peer.say(type="subscribe", channel="board", id=1, **position)

    def reconnect(self) -> None:
        self.read()
        self.peer.leave()
        self.connect()

    def read(self) -> None:
        for message in self.peer.messages():
            if message["type"] == "ack":
                self.epoch = message["data"]["epoch"]
                if not message["data"]["recovered"]:
                    self.state, self.seq = {}, 0
                if not message["data"]["replayed"]:
                    self.seq = message["data"]["seq"]
            elif message["type"] == "lagged":
                self.peer.say(
                    type="subscribe", channel="board", id=1, since=self.seq, epoch=self.epoch
                )
            else:
                assert message["seq"] > self.seq, "out of order, or twice"
                self.seq = message["seq"]
                if "data" in message:
                    self.state[message["key"]] = message["data"]
                else:
                    self.state.pop(message["key"], None)

    def has(self, state: dict[str, Any]) -> bool:
        self.hub.turn(0.001)
        self.read()
        return self.state == state


@pytest.mark.parametrize("overflow", ["drop", "latest"])
@pytest.mark.parametrize("max_keys", [5, 100])
def test_viewers_end_with_the_truth(overflow: Any, max_keys: int) -> None:
    print("seed", SEED)
    dice = random.Random(f"{SEED}{overflow}{max_keys}")
    rule = ChannelRule(pattern="*", keyed=True, max_keys=max_keys, overflow=overflow)
    truth: dict[str, Any] = {}
    with SteppedHub(rules=[rule], outbox_messages=10, max_byte_rate=None) as hub:
        viewers = [Viewer(hub) for _ in range(3)]
        for number in range(800):
            for _ in range(dice.randrange(4)):
                key = f"k{dice.randrange(12)}"
                truth.pop(key, None)  # the newest is last
                if dice.random() < 0.2:
                    put(hub, key, None)
                    continue
                put(hub, key, value := [number, "x" * dice.choice([1, 100, 3000])])
                truth[key] = value
                if len(truth) > max_keys:
                    del truth[next(iter(truth))]
            hub.turn()
            chance = dice.random()
            if chance < 0.05:
                dice.choice(viewers).read()
            elif chance < 0.06:
                dice.choice(viewers).reconnect()
        for viewer in viewers:
            wait_until(lambda v=viewer: v.has(truth), what="the truth")  # type: ignore[misc]
        assert hub.stats().dropped > 0
        assert sum(viewer.peer.client.dropped for viewer in viewers) <= hub.stats().dropped


def test_slow_viewer_gets_the_newest_of_each_key_and_the_rest_is_counted() -> None:
    rules = [ChannelRule(pattern="board", keyed=True, overflow="latest")]
    with live(rules=rules) as hub, hub.peer(rcvbuf=4096) as slow:
        subscribe(slow, "board")
        client, count = hub.client(), 0
        while not client.waiting[0]:
            put(hub.hub, "fill", [count, "x" * 4000])
            count += 1
            wait_until(lambda sent=count: hub.hub.stats().published == sent)  # type: ignore[misc]
        for number in range(300):
            put(hub.hub, f"k{number % 3}", [number, "x" * 4000])
        wait_until(lambda: hub.hub.stats().published == count + 300)
        assert client.waiting[0] <= 3
        got: list[Any] = []
        while not got or got[-1]["data"][0] != 299 or got[-1]["key"] != "k2":
            got.append(slow.recv_json())
        assert [each["data"][0] for each in got[-3:]] == [297, 298, 299]
        assert client.dropped == hub.hub.stats().dropped == count + 300 - len(got) > 200


# --- the reconnecting client ---------------------------------------------------------------


def values(client: ReconnectingClient) -> dict[str, Any]:
    return {key: message.data for key, message in client.snapshot("board").items()}


def test_reconnecting_client_keeps_the_state_over_cuts() -> None:
    print("seed", SEED)
    dice = random.Random(SEED)
    with live(rules=RULES) as hub, FaultProxy("127.0.0.1", hub.server.port) as proxy:
        lost: list[Exception] = []
        with ReconnectingClient(
            proxy.through(hub.server.url),
            initial_backoff=0.01,
            max_backoff=0.02,
            on_message=lambda message: None,
            on_error=lost.append,
        ) as client:
            client.subscribe("board")
            truth: dict[str, Any] = {}
            for number in range(60):
                key = f"k{dice.randrange(6)}"
                value = None if dice.random() < 0.3 else number
                put(hub.hub, key, value)
                truth[key] = value
                if number % 10 == 9:
                    wait_until(
                        lambda: (
                            "board" in client.subscriptions()
                            and client.state is ConnectionState.CONNECTED
                        )
                    )
                    proxy.reset()
            truth = {key: value for key, value in truth.items() if value is not None}
            wait_until(lambda: values(client) == truth, what="the truth")
            assert client.snapshot("other") == {}
        # It has its position, so that the state needs no new beginning.
        assert not [error for error in lost if isinstance(error, MessagesLost)]


# --- wrong inputs --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"keyed": "yes"}, "keyed must be True or False"),
        ({"keyed": True, "max_keys": 0}, "max_keys must be a whole number from 1"),
        ({"keyed": True, "history_messages": 5}, "leave one of both out, or use two channels"),
        ({"keyed": True, "overflow": "drop_oldest"}, 'use overflow="latest"'),
    ],
)
def test_rule_that_contradicts_itself_is_refused(settings: Any, fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        ChannelRule(pattern="a", **settings)


def test_key_that_is_missing_or_has_no_place_is_refused_and_says_what_to_do() -> None:
    with Hub(HubConfig(rules=RULES)) as hub:
        with pytest.raises(MessageEncodeError, match="'board' is keyed.*pass key="):
            hub.send_event("load", 1, channel="board")
        with pytest.raises(MessageEncodeError, match="'board' is keyed.*pass key="):
            hub.send_to_channel("board", Message("value"))
        with pytest.raises(MessageEncodeError, match="'plain' keeps no keys.*keyed=True"):
            hub.send_event("load", 1, channel="plain", key="cpu")
        with pytest.raises(MessageEncodeError, match="broadcast keeps no keys.*channel="):
            hub.send_event("load", 1, key="cpu")
        with pytest.raises(MessageEncodeError, match="broadcast keeps no keys.*send_to_channel"):
            hub.broadcast(Message("value", key="cpu"))
        with pytest.raises(MessageEncodeError, match="at most 128 bytes"):
            hub.send_to_channel("board", Message("value", key="é" * 65))
        with pytest.raises(MessageEncodeError, match="key must be text"):
            hub.send_to_channel("board", Message("value", key=5))  # type: ignore[arg-type]
        for bad in ("", "é" * 65, "\ud800"):
            with pytest.raises(InvalidName, match="1 to 128 bytes"):
                hub.send_event("load", 1, channel="board", key=bad)
        with pytest.raises(TypeError, match="a key must be text, an int or a UUID"):
            hub.send_event("load", 1, channel="board", key=1.5)  # type: ignore[arg-type]
        assert hub.stats().published == 0


def ask(hub: Live, **fields: Any) -> Any:
    with hub.peer() as peer:
        peer.send_json({"id": 1, **fields})
        return peer.recv_json()


def test_client_publishes_to_a_keyed_channel_with_a_key() -> None:
    with live(rules=RULES) as hub:
        answer = ask(hub, type="publish", channel="open", data={"x": 1}, key="me")
        assert answer["type"] == "ack"
        answer = ask(hub, type="publish", channel="open", data={"x": 1})
        assert (answer["code"], answer["data"]) == (
            "bad_message",
            "Publish: the channel needs a key",
        )
        answer = ask(hub, type="publish", channel="open", data=1, key="k" * 129)
        assert answer["code"] == "bad_message"
        with hub.peer() as peer:
            assert subscribe(peer, "open")["replayed"] == 1
            assert board(peer, 1) == {"me": {"x": 1}}
        assert ask(hub, type="publish", channel="open", key="me")["type"] == "ack"
        with hub.peer() as peer:
            assert subscribe(peer, "open")["replayed"] == 0


def test_reconnecting_client_publishes_and_deletes_keys() -> None:
    with live(rules=RULES) as hub, ReconnectingClient(hub.server.url) as client:
        client.publish("open", {"x": 1}, key="me", wait=TIMEOUT)
        client.publish("open", {"x": 2}, key=7, wait=TIMEOUT)
        client.publish("open", key="me", wait=TIMEOUT)
        with pytest.raises(HubError, match="needs a key"):
            client.publish("open", {"x": 1}, wait=TIMEOUT)
        with pytest.raises(InvalidName, match="key"):
            client.publish("open", {"x": 1}, key="k" * 129)
        with hub.peer() as peer:
            assert subscribe(peer, "open")["replayed"] == 1
            assert board(peer, 1) == {"7": {"x": 2}}


def test_excluded_client_gets_the_number_alone() -> None:
    with live(rules=RULES) as hub, hub.subscribed("board") as peer:
        hub.hub.send_event("a", 1, channel="board", key="cpu", exclude=hub.client())
        message = peer.recv_json()
        assert (message["type"], message["seq"]) == ("skip", 1)
