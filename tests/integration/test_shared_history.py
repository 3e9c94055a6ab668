"""Processes that share a history file: each delivers what the others publish, also at rest."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import channels_remembered, full_disk
from tests.integration.apps.fork import in_child
from tests.integration.apps.live import subscribe
from tests.integration.clients import Seen
from tests.integration.served import Served
from tests.support import TIMEOUT, RawPeer, wait_until
from ws_hub import (
    ChannelRule,
    HistoryError,
    Hub,
    HubConfig,
    Message,
    MessagesLost,
    SqliteHistory,
    serve,
)
from ws_hub.backplane.store import Page
from ws_hub.testing import HubClient

RULES = [ChannelRule(pattern="kept:*", history_messages=100_000)]

pytestmark = pytest.mark.timeout(240)  # interpreters start


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "hub.db"


@pytest.fixture
def other(file: Path) -> Iterator[Served]:
    """Another process, which publishes to kept:a."""
    with Served(file) as served:
        yield served


class WatchedHistory(SqliteHistory):
    """A history that counts how often it was looked at for messages of other processes."""

    looks = 0

    def version(self) -> object:
        self.looks += 1
        return super().version()


def hub_of(store: Path | SqliteHistory, **settings: Any) -> Hub:
    history = SqliteHistory(store) if isinstance(store, Path) else store
    return Hub(HubConfig(history=history, **{"rules": RULES, **settings}))


def event(data: Any) -> Message:
    return Message("event", data=data)


def expect_all(client: HubClient, count: int, start: int = 1) -> list[Any]:
    """Return the data of so many messages, which have all numbers from the first on, in order."""
    found = [client.expect(channel="kept:a") for _ in range(count)]
    assert [each.seq for each in found] == list(range(start, start + count))
    return [each.data for each in found]


def test_an_idle_process_delivers_what_another_one_publishes(file: Path, other: Served) -> None:
    with hub_of(file) as hub, serve(hub) as server, HubClient(server.url) as client:
        client.subscribe("kept:a")
        other.publish(*range(500))
        assert expect_all(client, 500) == list(range(500))
        other.publish(500)
        assert expect_all(client, 1, start=501) == [500]
        assert hub.stats().published == 501


def test_a_listener_gets_what_another_process_publishes(file: Path, other: Served) -> None:
    found: list[Any] = []
    with hub_of(file) as hub:
        hub.listen("kept:a", lambda message: found.append(message.data))
        hub.send_to_channel("kept:a", event("own"))  # behind the listener's beginning
        wait_until(lambda: found)
        other.publish(*range(50))
        wait_until(lambda: len(found) >= 51, what="51 messages")
        assert found == ["own", *range(50)]


def test_more_than_one_read_brings_comes_whole_and_in_order(file: Path, other: Served) -> None:
    with hub_of(file) as hub, serve(hub) as server, HubClient(server.url) as client:
        client.subscribe("kept:a")
        other.tell(*range(5000))
        assert expect_all(client, 5000) == list(range(5000))
        other.await_accepted(range(5000))


def test_two_processes_that_publish_at_once_have_one_order(file: Path, other: Served) -> None:
    with (
        hub_of(file) as hub,
        serve(hub) as server,
        HubClient(server.url) as here,
        HubClient(other.url) as there,
    ):
        here.subscribe("kept:a")
        there.subscribe("kept:a")
        other.tell(*range(1000))
        for number in range(1000):
            hub.send_to_channel("kept:a", event(f"own {number}"))
        found = expect_all(here, 2000)
        assert expect_all(there, 2000) == found
        assert [each for each in found if isinstance(each, int)] == list(range(1000))
        assert [each for each in found if isinstance(each, str)] == [
            f"own {number}" for number in range(1000)
        ]


def test_subscribers_here_outlive_kill_9_of_the_publishing_process(file: Path) -> None:
    with hub_of(file) as hub, serve(hub) as server, HubClient(server.url) as client:
        client.subscribe("kept:a")
        got: list[Any] = []
        for start in range(0, 600, 300):
            with Served(file) as other:
                other.tell(*range(start, start + 300))
                got += expect_all(client, 100, start=len(got) + 1)  # and it is killed
            with HubClient(server.url) as late:  # what was committed beyond that is there
                last = late.subscribe("kept:a")["seq"]
            got += expect_all(client, last - len(got), start=len(got) + 1)
        assert got == sorted(set(got))
        hub.send_to_channel("kept:a", event("the end"))
        assert expect_all(client, 1, start=len(got) + 1) == ["the end"]


def test_a_client_of_a_killed_process_gets_all_from_the_next(file: Path) -> None:
    own = Served(file)
    with hub_of(file) as hub, Seen(own.url, stable_after=0) as seen:
        seen.client.subscribe("kept:a", since=0)
        seen.start()
        seen.wait("connect")
        for start in range(0, 200, 100):
            for number in range(start, start + 50):
                hub.send_to_channel("kept:a", event(number))
            seen.wait("message", start + 25)
            own.kill()
            for number in range(start + 50, start + 100):
                hub.send_to_channel("kept:a", event(number))
            own = Served(file, own.port)
        wait_until(lambda: len(seen.messages()) >= 200, what="all messages")
        own.kill()
    assert [each.seq for each in seen.messages()] == list(range(1, 201))
    assert seen.data() == list(range(200))
    assert not [each for each in seen.of("error") if isinstance(each[1], MessagesLost)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_and_its_parent_go_on_with_one_file(file: Path) -> None:
    with hub_of(file) as hub, serve(hub) as server, HubClient(server.url) as client:
        client.subscribe("kept:a")
        hub.send_to_channel("kept:a", event("before"))
        assert expect_all(client, 1) == ["before"]
        over = threading.Event()
        published: list[int] = []

        def publish() -> None:
            while not over.wait(0.001):
                hub.send_to_channel("kept:a", event(len(published)))
                published.append(len(published))

        def publish_in_child() -> None:
            with hub:
                for number in range(100):
                    hub.send_to_channel("kept:a", event(f"child {number}"))

        parent = threading.Thread(target=publish)
        parent.start()
        try:
            in_child(publish_in_child)
        finally:
            over.set()
            parent.join(TIMEOUT)
        in_child(publish_in_child)  # while the parent is at rest
        found = expect_all(client, 200 + len(published), start=2)
        assert [each for each in found if isinstance(each, int)] == published
        assert [each for each in found if isinstance(each, str)] == [
            f"child {number}" for number in range(100)
        ] * 2


def test_a_process_without_subscribers_does_not_look(file: Path) -> None:
    alone, watching = WatchedHistory(file), WatchedHistory(file)
    with (
        hub_of(alone) as hub,
        hub_of(watching) as other,
        serve(hub) as server,
        serve(other) as second,
        HubClient(server.url) as client,
        HubClient(second.url) as subscribed,
    ):
        subscribed.subscribe("kept:a")
        client.subscribe("plain")
        hub.send_to_channel("kept:b", event(1))
        assert hub.wait_for_room("kept:b")
        wait_until(lambda: watching.looks >= 5, what="looks of the one with a subscriber")
        assert alone.looks == 0
        client.subscribe("kept:b")
        wait_until(lambda: alone.looks >= 2, what="looks of the other one")
        client.unsubscribe("kept:b")
        other.send_to_channel("kept:b", event(2))  # at which it notices that nobody listens

        def rests() -> bool:
            before, there = alone.looks, watching.looks
            wait_until(lambda: watching.looks >= there + 5, what="looks of the first one")
            return alone.looks == before

        wait_until(rests, what="its rest")


def test_a_file_that_was_replaced_reaches_idle_subscribers(file: Path) -> None:
    with hub_of(file) as hub, serve(hub) as server, Seen(server.url) as seen:
        seen.client.subscribe("kept:a", since=0)
        seen.start()
        hub.send_to_channel("kept:a", event("old"))
        seen.wait_data("old")
        for each in file.parent.glob("hub.db*"):
            each.rename(each.with_name(f"away-{each.name}"))
        with Served(file) as other:
            other.publish(1, 2, 3)
            seen.wait_data("old", 1, 2, 3, kind="event")


def test_subscribers_of_more_channels_than_are_remembered_miss_nothing(file: Path) -> None:
    channels = [f"kept:{number}" for number in range(8)]
    with (
        channels_remembered(3),
        hub_of(file) as hub,
        hub_of(file) as other,
        serve(hub) as server,
        HubClient(server.url) as client,
    ):
        for channel in channels:
            client.subscribe(channel)
        for turn in range(1, 4):
            for channel in channels:
                other.send_to_channel(channel, event(turn))
                hub.send_to_channel(f"{channel}:{turn}", event(turn))
            for channel in channels:
                found = client.expect(channel=channel)
                assert (found.seq, found.data) == (turn, turn)


def test_a_look_at_a_full_disk_does_not_say_that_history_is_kept_again(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = WatchedHistory(file)
    with hub_of(store) as hub, serve(hub) as server, HubClient(server.url) as client:
        client.subscribe("kept:a")
        hub.send_to_channel("kept:a", event(1))
        assert client.expect(channel="kept:a").seq == 1
        with full_disk(file):
            hub.send_to_channel("kept:a", event("x" * 100_000))
            assert client.expect(channel="kept:a").seq is None
            looks = store.looks
            wait_until(lambda: store.looks >= looks + 3, what="looks")
            assert "again" not in caplog.text


def test_what_is_kept_no_longer_when_it_is_looked_for_is_told_as_lost(file: Path) -> None:
    class HeldHistory(SqliteHistory):
        """A history that looks for messages of others once it may."""

        may = threading.Event()

        def version(self) -> object:
            return super().version() if self.may.is_set() else None

    store, rules = HeldHistory(file), [ChannelRule(pattern="kept:*", history_messages=5)]
    with (
        hub_of(store, rules=rules) as hub,
        hub_of(file, rules=rules) as other,
        serve(hub) as server,
        Seen(server.url) as seen,
    ):
        seen.client.subscribe("kept:a", since=0)
        seen.start()
        hub.send_to_channel("kept:a", event(0))
        seen.wait_data(0)
        for number in range(1, 21):
            other.send_to_channel("kept:a", event(number))
        assert other.wait_for_room("kept:a")
        store.may.set()
        seen.wait_data(0, *range(16, 21), kind="event")
        ((_, lost),) = [each for each in seen.of("error")]
        assert isinstance(lost, MessagesLost)


class UnreadHistory(SqliteHistory):
    """A history that cannot be read at times."""

    fails = False

    def read(self, *args: Any, **options: Any) -> Page:
        if self.fails:
            raise HistoryError("made to fail")
        return super().read(*args, **options)


def test_subscribers_ask_for_what_another_process_has_kept_and_cannot_be_read_now(
    file: Path, other: Served
) -> None:
    store = UnreadHistory(file)
    with hub_of(store) as hub, serve(hub) as server, RawPeer(server.host, server.port) as peer:
        subscribe(peer, "kept:a", since=0)
        hub.send_to_channel("kept:a", event(1), wait=TIMEOUT)
        assert peer.recv_json()["seq"] == 1
        store.fails = True
        other.publish(2)
        wait_until(lambda: store.head("kept:a").last == 2, what="the other one's message")
        assert hub.send_to_channel("kept:a", event(3), wait=TIMEOUT).seq == 3
        lagged = peer.recv_json()
        assert (lagged["type"], lagged["seq"]) == ("lagged", 1)
        store.fails = False
        answer = wait_until(lambda: resubscribed(peer, since=1), what="an answer")
        assert (answer["recovered"], answer["replayed"]) == (True, 2)
        assert [(each := peer.recv_json())["seq"] and each["data"] for _ in "12"] == [2, 3]


def resubscribed(peer: RawPeer, since: int) -> Any:
    """Ask once; return the ack's data, None for an error."""
    peer.send_json({"type": "subscribe", "channel": "kept:a", "id": 1, "since": since})
    answer = peer.recv_json()
    return answer["data"] if answer["type"] == "ack" else None


class ParkedHistory(SqliteHistory):
    """A history whose next commit of what a client publishes waits for a test."""

    def __init__(self, file: Path) -> None:
        super().__init__(file)
        self.reached, self.let_go = threading.Event(), threading.Event()

    def append(self, *args: Any, **options: Any) -> Any:
        if options.get("once"):
            self.reached.set()
            assert self.let_go.wait(TIMEOUT)
        return super().append(*args, **options)


def test_a_publish_repeated_to_another_process_before_the_commit_counts_once(file: Path) -> None:
    parked, rules = ParkedHistory(file), [ChannelRule("kept:*", history_messages=10, publish=True)]
    request = Message("publish", channel="kept:a", data="x", id=1, idempotency_key="k")
    with (
        hub_of(parked, rules=rules) as slow,
        serve(slow) as first,
        hub_of(file, rules=rules) as hub,
        serve(hub) as second,
        HubClient(first.url) as cut,
        HubClient(second.url) as client,
        HubClient(first.url) as viewer,
    ):
        viewer.subscribe("kept:a")
        cut.send(request)
        assert parked.reached.wait(TIMEOUT)
        client.subscribe("kept:a")
        client.send(request)  # as after a cut, by way of another process
        wait_until(lambda: hub.history("kept:a").last == 1, what="its commit")
        parked.let_go.set()
        slow.send_to_channel("kept:a", event("last"))
        assert expect_all(viewer, 2) == expect_all(client, 2) == ["x", "last"]
        cut.expect(type="ack")
        assert [each.data for each in hub.history("kept:a", since=0).messages] == ["x", "last"]
