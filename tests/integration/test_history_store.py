"""Hubs whose history is in a file: what outlives a restart, kill -9 and a disk that fails."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import full_disk
from tests.integration.clients import Seen
from tests.integration.served import Served
from tests.support import TIMEOUT, wait_until
from ws_hub import (
    ChannelRule,
    ConfigError,
    Hub,
    HubConfig,
    HubFull,
    Message,
    MessagesLost,
    SqliteHistory,
    serve,
)
from ws_hub.backplane.store import Page
from ws_hub.testing import HubClient

RULES = [ChannelRule(pattern="kept:*", history_messages=10_000, publish=True)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "hub.db"


def hub_of(file: Path, **settings: Any) -> Hub:
    return Hub(HubConfig(history=SqliteHistory(file), **{"rules": RULES, **settings}))


def event(data: Any) -> Message:
    return Message("event", data=data)


def losses(seen: Seen) -> list[Any]:
    return [each[1] for each in seen.of("error") if isinstance(each[1], MessagesLost)]


def expect_numbers(client: HubClient, *numbers: int, channel: str = "kept:a") -> None:
    for number in numbers:
        assert client.expect(channel=channel).seq == number


def test_messages_are_numbered_kept_and_delivered(file: Path) -> None:
    with hub_of(file) as hub, serve(hub) as server, HubClient(server.url) as client:
        client.subscribe("kept:a")
        for number in range(3):
            hub.send_to_channel("kept:a", event(number))
        assert [client.expect(channel="kept:a").data for _ in range(3)] == [0, 1, 2]
        with HubClient(server.url) as late:
            late.subscribe("kept:a", since=1)
            expect_numbers(late, 2, 3)
        assert hub.kept_channels() == ["kept:a"]


def test_output_and_chat_outlive_a_restart_under_the_same_epoch(file: Path) -> None:
    with hub_of(file) as hub, serve(hub) as server, HubClient(server.url) as client:
        ack = client.subscribe("kept:a")
        epoch = ack["epoch"]
        client.send(Message("publish", channel="kept:a", data="hello", id=7))
        assert client.expect(type="ack").id == 7
        hub.send_process_output("build", "line 1")
        hub.send_process_status("build", "exited", 0)
    with hub_of(file) as hub, serve(hub) as server, HubClient(server.url) as client:
        ack = client.subscribe("kept:a", since=0, epoch=epoch)
        assert ack == {
            "channel": "kept:a", "epoch": epoch, "seq": 1, "recovered": True, "replayed": 1,
        }  # fmt: skip
        assert client.expect(channel="kept:a").data == "hello"
        client.subscribe("process:build")
        assert client.expect(channel="process:build").data == "line 1"
        assert client.expect(channel="process:build").data == {"status": "exited", "exitCode": 0}
        hub.send_to_channel("kept:a", event("again"))
        assert client.expect(channel="kept:a").seq == 2


def test_a_burst_of_many_threads_and_channels_keeps_its_order(file: Path) -> None:
    with hub_of(file) as hub, serve(hub) as server, Seen(server.url) as seen:
        channels = [f"kept:{name}" for name in "abc"]
        for channel in channels:
            seen.client.subscribe(channel, since=0)
        seen.start()

        def publish(worker: int) -> None:
            for number in range(300):
                hub.send_to_channel(channels[number % 3], event([worker, number]))

        threads = [threading.Thread(target=publish, args=(worker,)) for worker in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT)
        wait_until(lambda: len(seen.data()) >= 1200, what="1200 messages")
        for channel in channels:
            found = [each for each in seen.messages() if each.channel == channel]
            assert [each.seq for each in found] == list(range(1, 401))
            for worker in range(4):
                own = [each.data[1] for each in found if each.data[0] == worker]
                assert own == sorted(own)
        assert not losses(seen)


def test_channels_without_history_and_broadcasts_do_not_pass_the_store(file: Path) -> None:
    with hub_of(file) as hub, serve(hub) as server, HubClient(server.url) as client:
        client.subscribe("plain")
        hub.send_to_channel("plain", event(1))
        assert client.expect(channel="plain").seq is None
        hub.broadcast(event(2))
        assert client.expect(type="event").data == 2
        assert hub.kept_channels() == []


def test_a_thread_s_messages_to_channels_with_history_keep_their_order(file: Path) -> None:
    with hub_of(file) as hub, serve(hub) as server, HubClient(server.url) as client:
        channels = [f"kept:{name}" for name in "abc"]
        for channel in channels:
            client.subscribe(channel)
        for number in range(300):
            hub.send_to_channel(channels[number % 3], event(number))
        found = [client.expect(type="event") for _ in range(300)]
        assert [each.data for each in found] == list(range(300))


def test_what_is_not_kept_does_not_wait_for_the_disk(file: Path) -> None:
    with hub_of(file) as hub, serve(hub) as server, HubClient(server.url) as client:
        for channel in "kept:a", "plain":
            client.subscribe(channel)
        with writing(file):
            hub.send_to_channel("kept:a", event(1))
            hub.send_to_channel("plain", event(2))
            hub.broadcast(event(3))
            assert [client.expect(type="event").data for _ in range(2)] == [2, 3]
        found = client.expect(type="event")
        assert (found.data, found.seq) == (1, 1)


def test_what_was_accepted_before_a_stop_is_kept_and_delivered(file: Path) -> None:
    with hub_of(file) as hub, serve(hub) as server, HubClient(server.url) as client:
        client.subscribe("kept:a")
        for number in range(500):
            hub.send_to_channel("kept:a", event(number))
        hub.stop()
        expect_numbers(client, *range(1, 501))
    with hub_of(file) as hub, serve(hub) as server, HubClient(server.url) as client:
        assert client.subscribe("kept:a")["seq"] == 500


def test_a_hub_that_starts_again_goes_on(file: Path) -> None:
    hub = hub_of(file)
    for start in range(3):
        with hub, serve(hub) as server, HubClient(server.url) as client:
            assert client.subscribe("kept:a")["seq"] == start
            hub.send_to_channel("kept:a", event(start))
            assert client.expect(channel="kept:a").seq == start + 1


def test_two_hubs_share_a_file_and_each_client_gets_all_numbers(file: Path) -> None:
    with (
        hub_of(file) as one,
        hub_of(file) as other,
        serve(one) as server,
        HubClient(server.url) as client,
    ):
        client.subscribe("kept:a")
        one.send_to_channel("kept:a", event("one"))
        assert client.expect(channel="kept:a").seq == 1
        for _ in range(3):
            other.send_to_channel("kept:a", event("other"))
        assert other.wait_for_room("kept:a")
        one.send_to_channel("kept:a", event("one"))
        found = [client.expect(channel="kept:a") for _ in range(4)]
        assert [each.seq for each in found] == [2, 3, 4, 5]
        assert [each.data for each in found] == ["other", "other", "other", "one"]
        other.send_to_channel("kept:a", event("other"))
        assert other.wait_for_room("kept:a")
        with HubClient(server.url) as late:
            assert late.subscribe("kept:a", since=4)["replayed"] == 2
            expect_numbers(late, 5, 6)
        assert client.expect(channel="kept:a").seq == 6  # delivered when it was seen


def test_what_memory_had_to_let_go_is_read_from_the_file(file: Path) -> None:
    with (
        hub_of(file, history_bytes_in_all=200_000, rules=RULES[1:]) as hub,
        serve(hub) as server,
        HubClient(server.url) as client,
    ):
        hub.send_process_lines("a", [f"{number}" for number in range(50)])
        for number in range(20):
            hub.send_process_lines("b", [f"{number} {'x' * 4000}"] * 10)
        assert hub.wait_for_room()
        assert hub.stats().history_dropped >= 50
        ack = client.subscribe("process:a", last=30)
        assert (ack["seq"], ack["replayed"]) == (50, 30)
        assert [client.expect(channel="process:a").seq for _ in range(30)] == list(range(21, 51))


@pytest.mark.parametrize("publish", [False, True])
def test_reading_many_old_channels_takes_no_more_memory_than_the_bound(
    file: Path, publish: bool
) -> None:
    rules = [ChannelRule(pattern="kept:*", history_messages=100, publish=publish)]
    channels = [f"kept:{number}" for number in range(60)]
    with hub_of(file, rules=rules) as hub:
        for channel in channels:
            for number in range(40):
                hub.send_to_channel(channel, event(f"{number} {'x' * 500}"))
    bound = 200_000
    bounds = {"history_bytes_in_all": bound, "published_history_bytes_in_all": bound // 2}
    with (
        hub_of(file, rules=rules, **bounds) as hub,
        serve(hub) as server,
        HubClient(server.url) as client,
    ):
        most = 0
        for channel in channels:  # one after the other, and each once more from the file
            assert client.subscribe(channel, since=0)["replayed"] == 40
            expect_numbers(client, *range(1, 41), channel=channel)
            client.unsubscribe(channel)
            stats = hub.stats()
            assert stats.history_bytes <= bound // (2 if publish else 1)
            most = max(most, stats.history_bytes)
        assert most > bound // 4
        assert client.subscribe(channels[0], since=39)["replayed"] == 1


def test_of_a_channel_that_is_larger_than_memory_only_the_newest_are_read(file: Path) -> None:
    class ReadHistory(SqliteHistory):
        """A history that counts the bytes that are read of it."""

        bytes = 0

        def read(self, channel: str, **where: Any) -> Page:
            page = super().read(channel, **where)
            self.bytes += sum(len(each.text) for each in page.messages)
            return page

    large = {"history_messages": 10_000, "history_bytes": 1 << 30}
    rules = [ChannelRule(pattern="kept:*", **large)]
    with hub_of(file, rules=rules) as hub:
        for number in range(400):
            hub.send_to_channel("kept:a", event(f"{number} {'x' * 40_000}"))
    store = ReadHistory(file)
    config = HubConfig(history=store, rules=rules, history_bytes_in_all=1_000_000)
    with Hub(config) as hub, serve(hub) as server:
        for _ in range(3):
            with HubClient(server.url) as client:
                replayed = client.subscribe("kept:a", since=0)["replayed"]
                assert 10 <= replayed <= 120
                expect_numbers(client, *range(401 - replayed, 401))
        assert store.bytes < 5_000_000  # a page, once; there are 16 MB
        assert hub.stats().history_bytes <= 1_000_000


def test_a_process_does_not_read_what_others_keep_while_nobody_listens_to_it(file: Path) -> None:
    class ReadHistory(SqliteHistory):
        """A history that counts how often it is read."""

        reads = 0

        def read(self, channel: str, **where: Any) -> Page:
            self.reads += 1
            return super().read(channel, **where)

    store = ReadHistory(file)
    with (
        Hub(HubConfig(history=store, rules=RULES)) as one,
        hub_of(file) as other,
        serve(one) as server,
        HubClient(server.url) as client,
    ):
        for number in range(5):
            for hub in one, other:
                hub.send_to_channel("kept:a", event(number))
                assert hub.wait_for_room("kept:a")
        assert store.reads == 0
        assert client.subscribe("kept:a", since=3)["replayed"] == 7
        expect_numbers(client, *range(4, 11))
        one.send_to_channel("kept:a", event("the end"))
        expect_numbers(client, 11)


def test_a_subscription_makes_no_channel(file: Path) -> None:
    with hub_of(file) as hub, serve(hub) as server, HubClient(server.url) as client:
        acks = [client.subscribe(f"kept:{number}", since=0) for number in range(3)]
        assert {ack["seq"] for ack in acks} == {0}
        assert hub.kept_channels() == []
        hub.send_to_channel("kept:1", event(1))
        assert client.expect(channel="kept:1").seq == 1
        with HubClient(server.url) as late:
            assert late.subscribe("kept:1", since=1)["epoch"] == acks[1]["epoch"]


def test_a_file_that_cannot_be_used_keeps_a_hub_from_starting(tmp_path: Path) -> None:
    hub = hub_of(tmp_path / "none" / "hub.db")
    with pytest.raises(ConfigError, match="there is no directory"):
        hub.start()
    assert not hub.running
    (tmp_path / "none").mkdir()
    with hub, serve(hub) as server, HubClient(server.url) as client:
        assert client.subscribe("kept:a")["seq"] == 0


def test_a_store_of_a_running_hub_is_refused_to_another_and_goes_on(file: Path) -> None:
    store = SqliteHistory(file)
    config = HubConfig(history=store, rules=RULES)
    with Hub(config) as hub, serve(hub) as server, HubClient(server.url) as client:
        client.subscribe("kept:a")
        other = Hub(config)
        with pytest.raises(ConfigError, match="is in use by another hub"):
            other.start()
        assert not other.running
        other.stop()
        hub.send_to_channel("kept:a", event(1))
        expect_numbers(client, 1)
    with other:  # it is free now
        assert other.history("kept:a").last == 1


# --- disks that fail -----------------------------------------------------------------------


def test_a_full_disk_stops_numbers_and_not_delivery(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with hub_of(file) as hub, serve(hub) as server, HubClient(server.url) as client:
        epoch = client.subscribe("kept:a")["epoch"]
        hub.send_to_channel("kept:a", event(1))
        assert client.expect(channel="kept:a").seq == 1
        with full_disk(file):
            for _ in range(3):
                hub.send_to_channel("kept:a", event("x" * 100_000))
                assert client.expect(channel="kept:a").seq is None
        assert hub.stats().history_failed == 3
        assert "Messages are delivered without numbers" in caplog.text

        def is_numbered() -> bool:
            hub.send_to_channel("kept:a", event("again"))
            return client.expect(channel="kept:a").seq is not None

        wait_until(is_numbered, what="a number")
        assert "history is kept again" in caplog.text
        failed = hub.stats().history_failed
        with HubClient(server.url) as late:  # it was away meanwhile, and learns of the gap
            ack = late.subscribe("kept:a", since=1, epoch=epoch)
            assert (ack["recovered"], ack["seq"], ack["replayed"]) == (False, failed + 2, 1)
            assert late.expect(channel="kept:a").seq == failed + 2


def test_subscribers_get_everything_while_the_disk_is_full_and_are_told_of_the_gap_then(
    file: Path,
) -> None:
    with hub_of(file) as hub, serve(hub) as server, Seen(server.url) as seen:
        seen.client.subscribe("kept:a", since=0)
        seen.start()
        hub.send_to_channel("kept:a", event(0))
        seen.wait_data(0)
        with full_disk(file), HubClient(server.url) as client:
            hub.send_to_channel("kept:a", event("x" * 100_000))
            seen.wait_data(0, "x" * 100_000)
            ack = client.subscribe("kept:a", since=0)  # what is kept can be read
            assert (ack["seq"], ack["replayed"]) == (1, 1)
            assert client.expect(channel="kept:a").data == 0
            hub.send_to_channel("kept:a", event(2))
            assert client.expect(channel="kept:a").data == 2
            client.send(Message("publish", channel="kept:a", data=3, id=1))
            assert client.expect(type="ack").id == 1
            seen.wait_data(0, "x" * 100_000, 2, 3)
            assert [each.seq for each in seen.messages("event")] == [1, None, None, None]
        assert not losses(seen)

        def is_numbered() -> bool:
            hub.send_to_channel("kept:a", event("again"))
            return hub.history("kept:a").last > 1

        wait_until(is_numbered, what="a number")
        wait_until(lambda: losses(seen), what="word of the gap")
        assert len(losses(seen)) == 1
        hub.send_to_channel("kept:a", event("the end"))
        wait_until(lambda: seen.data("event")[-1] == "the end", what="the end")
        last = hub.history("kept:a").last
        assert seen.messages("event")[-1].seq == last
        assert len(seen.messages("event")) == last  # each was delivered, and counts as lost later
        assert len(losses(seen)) == 1


def test_a_hub_that_starts_with_a_full_disk_keeps_history_once_it_can(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with hub_of(file) as hub:
        hub.send_to_channel("kept:a", event(1))
    with full_disk(file, 0), hub_of(file) as hub, serve(hub) as server:
        assert "Messages have no numbers until it can" in caplog.text
        with HubClient(server.url) as client:
            client.send(Message("subscribe", channel="kept:a", id=1))
            assert client.expect(type="error").code == "internal"
            hub.subscribe(hub.all_clients()[0], "kept:a")
            hub.send_to_channel("kept:a", event(2))
            assert client.expect(channel="kept:a").seq is None
    with hub_of(file) as hub:
        assert [each.data for each in hub.history("kept:a").messages] == [1]


def test_a_file_that_takes_no_writes_is_read_all_the_same(file: Path) -> None:
    with hub_of(file) as hub, serve(hub) as server, HubClient(server.url) as client:
        client.subscribe("kept:a")
        for number in range(1, 4):
            hub.send_to_channel("kept:a", event(number))
        expect_numbers(client, 1, 2, 3)
        with refusing(file):
            hub.send_to_channel("kept:a", event("not kept"))
            assert client.expect(channel="kept:a", data="not kept").seq is None
            with HubClient(server.url) as late:
                assert late.subscribe("kept:a", since=1)["recovered"]
                expect_numbers(late, 2, 3)
            assert hub.history("kept:a").last == 3
        assert hub.stats().history_failed == 1


@contextlib.contextmanager
def refusing(file: Path) -> Iterator[None]:
    """Have a file refuse messages, as one does that has become read-only."""
    with contextlib.closing(sqlite3.connect(file)) as db:
        db.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON messages"
            " BEGIN SELECT RAISE(ABORT, 'attempt to write a readonly database'); END"
        )
        db.commit()
        yield
        db.execute("DROP TRIGGER refuse")
        db.commit()


def test_a_damaged_file_is_set_aside_and_subscribers_begin_anew(file: Path) -> None:
    with hub_of(file) as hub, serve(hub) as server, Seen(server.url) as seen:
        seen.client.subscribe("kept:a", since=0)
        seen.start()
        for number in range(3):
            hub.send_to_channel("kept:a", event(number))
        seen.wait_data(0, 1, 2)
        for each in file.parent.glob("hub.db*"):
            each.rename(each.with_name(f"away-{each.name}"))
        file.write_bytes(b"no database" * 1000)
        for number in range(3, 6):
            hub.send_to_channel("kept:a", event(number))
        wait_until(lambda: len(seen.data("event")) >= 6, what="all messages")
        assert seen.data("event") == list(range(6))
        assert len(list(file.parent.glob("hub.db.damaged-*"))) == 1


def test_publishers_wait_for_the_disk_and_then_get_hub_full(file: Path) -> None:
    with hub_of(file, queue_size=40) as hub, serve(hub) as server, HubClient(server.url) as client:
        client.subscribe("kept:a")
        with writing(file):
            with pytest.raises(HubFull, match="queue of the history store"):
                for number in range(1000):
                    hub.send_to_channel("kept:a", event(number), timeout=0)
            hub.send_to_channel("plain", event(1))  # these go on


@contextlib.contextmanager
def writing(file: Path) -> Iterator[None]:
    """Have another process be in the middle of a write."""
    code = (
        "import sqlite3, sys\n"
        "db = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "db.execute('BEGIN IMMEDIATE')\n"
        "print(flush=True)\n"
        "sys.stdin.read()\n"
        "db.execute('ROLLBACK')\n"
    )
    command = [sys.executable, "-c", code, str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdout.readline()
        yield


# --- kill -9 -------------------------------------------------------------------------------


@pytest.mark.timeout(240)  # interpreters start
def test_a_client_gets_each_message_once_in_order_over_kill_9(file: Path) -> None:
    served = Served(file)
    with Seen(served.url, stable_after=0) as seen:
        seen.client.subscribe("kept:a", since=0)
        seen.start()
        seen.wait("connect")
        for start in range(0, 400, 200):
            had = len(seen.messages())
            served.publish(*range(start, start + 200))
            # What was accepted in the last moment may be lost; what a client has is not.
            seen.wait("message", had + 1)
            served.kill()
            served = Served(file, served.port)
        served.publish(400)
        wait_until(lambda: 400 in seen.data(), what="the last")
        served.kill()
    data = seen.data()
    assert [each.seq for each in seen.messages()] == list(range(1, len(data) + 1))
    assert data == sorted(set(data))
    assert not losses(seen)


@pytest.mark.timeout(240)
def test_kill_9_loses_only_what_was_not_committed_and_repeats_no_number(file: Path) -> None:
    numbers: list[int] = []
    epochs = set()
    for start in range(0, 600, 300):
        served = Served(file)
        served.publish(*range(start, start + 300))
        served.kill()
        store = SqliteHistory(file)
        store.open(lambda channel: RULES[0])
        page = store.read("kept:a", after=len(numbers))
        epochs.add(page.kept.epoch)
        numbers += [each.seq for each in page.messages]
        store.close()
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) > 0
    assert len(epochs) == 1
