"""Where features meet: a history store with waits, keys and presence; overflow with waits."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import full_disk
from tests.integration.apps.live import Live, live, subscribe
from tests.support import TIMEOUT
from ws_hub import ChannelRule, Delivery, Message, SqliteHistory

RULES = [
    ChannelRule(pattern="kept:*", history_messages=100, presence=True),
    ChannelRule(pattern="board", keyed=True),
    ChannelRule(pattern="latest", overflow="latest"),
]
EVENT = Message("event", data=1)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "hub.db"


@contextlib.contextmanager
def stored(file: Path) -> Iterator[Live]:
    with live(rules=RULES, history=SqliteHistory(file)) as site:
        yield site


# --- a history store, and a publish that waits ------------------------------------------------


def test_publish_that_waits_is_kept_and_delivered_in_order_before_it_returns(file: Path) -> None:
    with stored(file) as site, site.peer() as peer:
        subscribe(peer, "kept:a")
        for _ in range(3):
            site.hub.send_to_channel("kept:a", EVENT)
        assert site.hub.send_to_channel("kept:a", EVENT, wait=TIMEOUT) == Delivery(4, 1, 1, 0)
        assert [each.seq for each in site.hub.history("kept:a").messages] == [1, 2, 3, 4]
        numbers: list[int] = []
        while len(numbers) < 4:
            message = peer.recv_json()
            if message["type"] == "event":
                numbers.append(message["seq"])
        assert numbers == [1, 2, 3, 4]


def test_messages_of_another_process_come_before_a_publish_that_waits(file: Path) -> None:
    with stored(file) as other, stored(file) as site, site.peer() as peer:
        subscribe(peer, "kept:a")
        assert site.hub.send_event("own", channel="kept:a", wait=TIMEOUT).seq == 1
        assert other.hub.send_event("other", channel="kept:a", wait=TIMEOUT).seq == 2
        assert site.hub.send_event("own", channel="kept:a", wait=TIMEOUT) == Delivery(3, 1, 1, 0)
        got: list[tuple[str, int]] = []
        while len(got) < 3:
            message = peer.recv_json()
            if message["type"] == "event":
                got.append((message["data"]["event"], message["seq"]))
        assert got == [("own", 1), ("other", 2), ("own", 3)]


def test_publish_that_waits_has_no_number_when_the_store_cannot_keep_it(file: Path) -> None:
    with stored(file) as site, site.subscribed("kept:a"):
        assert site.hub.send_event("x", channel="kept:a", wait=TIMEOUT).seq == 1
        with full_disk(file):
            assert site.hub.send_event("x", "x" * 100_000, channel="kept:a", wait=TIMEOUT) == (
                Delivery(None, 1, 1, 0)
            )


# --- a history store, and what does not pass it ----------------------------------------------


def test_keyed_channels_are_in_memory_also_with_a_history_store(file: Path) -> None:
    with stored(file) as site:
        delivery = site.hub.send_event("load", 1, channel="board", key="a", wait=TIMEOUT)
        assert delivery == Delivery(1, 0, 0, 0)
        assert site.hub.history("board").messages == ()
        with site.peer() as peer:
            first = subscribe(peer, "board")
            assert (first["keyed"], first["seq"], first["replayed"]) == (True, 1, 1)
            assert peer.recv_json()["key"] == "a"
    with stored(file) as site, site.peer() as peer:
        again = subscribe(peer, "board", since=1, epoch=first["epoch"])
        assert (again["recovered"], again["seq"], again["replayed"]) == (False, 0, 0)


def test_a_time_asks_a_keyed_channel_for_all_keys() -> None:
    with live(rules=RULES) as site, site.peer() as peer:
        site.hub.send_event("load", 1, channel="board", key="a", wait=TIMEOUT)
        ack = subscribe(peer, "board", since_time="2100-01-01T00:00:00Z")
        assert ack["replayed"] == 1


def test_request_for_presence_is_answered_after_the_subscription_before_it(file: Path) -> None:
    with stored(file) as site, site.peer() as peer:
        for number in range(20):
            channel = f"kept:{number}"
            peer.send_json({"type": "subscribe", "channel": channel, "id": 2 * number})
            peer.send_json({"type": "presence", "channel": channel, "id": 2 * number + 1})
        answered: list[int] = []
        while len(answered) < 40:
            message = peer.recv_json()
            if message["type"] == "ack":
                answered.append(message["id"])
        assert answered == list(range(40))


# --- a channel that leaves messages out, and a publish that waits --------------------------------


def test_client_that_is_behind_in_a_latest_channel_is_neither_queued_nor_dropped() -> None:
    with live(rules=RULES) as site, site.subscribed("latest", rcvbuf=4096) as peer:
        client, hub = site.client(), site.hub
        padding = "x" * 4000
        outcomes: list[Delivery] = []
        while not outcomes or outcomes[-1].queued:
            assert len(outcomes) < 5000, "the kernel takes everything"
            data = [len(outcomes), padding]
            outcomes.append(hub.send_event("n", data, channel="latest", wait=TIMEOUT))
        assert set(outcomes[:-1]) == {Delivery(None, 1, 1, 0)}
        assert outcomes[-1] == Delivery(None, 1, 0, 0)
        for number in range(100):
            hub.send_event("n", [number, padding], channel="latest", wait=TIMEOUT)
        hub.send_event("last", channel="latest", wait=TIMEOUT)
        while peer.recv_json()["data"]["event"] != "last":
            pass
        explained = hub.explain(client)
        assert explained.dropped == {"latest": client.dropped}
        assert client.dropped > 90
        assert explained.reason == "newer messages have taken their place"
