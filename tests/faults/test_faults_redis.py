"""Hubs whose backplane is a Redis or Valkey server with a fault. Rows 45 to 49."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.apps.live import Live
from tests.interventions import broker_times
from tests.receivers import StandIn
from tests.redis_hubs import connected
from tests.redis_servers import SERVERS, RedisProcess, running
from tests.support import TIMEOUT, RawPeer, wait_until
from ws_hub import Hub, HubConfig, Message, serve
from ws_hub.backplane.bus import Notice, NoticeKind
from ws_hub.backplane.envelopes import MAX_BODY_BYTES
from ws_hub.backplane.redis import RedisBackplane
from ws_hub.testing import FaultProxy

pytestmark = pytest.mark.skipif(not SERVERS, reason="needs a Redis or a Valkey server")


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[RedisProcess]:
    with running(request.param) as process:
        yield process


@contextlib.contextmanager
def one(url: str) -> Iterator[Live]:
    with Hub(HubConfig(backplane=RedisBackplane(url))) as hub, serve(hub) as server:
        yield Live(hub, server, None)  # type: ignore[arg-type]


@contextlib.contextmanager
def two(here: str, there: str) -> Iterator[tuple[Live, Live]]:
    """Serve two hubs that know each other."""
    with one(here) as first, one(there) as second:
        connected(first, second)
        yield first, second


def lost(*hubs: Live) -> None:
    for each in hubs:
        wait_until(lambda each=each: each.hub.stats().bus_down, what="the fault")  # type: ignore[misc]
        assert each.hub.stats().peers == 0


def send(live: Live, data: Any) -> None:
    live.hub.send_to_channel("news", Message("event", data=data), timeout=1.0)


def data_of(peer: RawPeer, count: int) -> list[Any]:
    return [peer.recv_json()["data"] for _ in range(count)]


def test_fault_45_a_hub_starts_without_the_server_and_finds_it_later(
    server: RedisProcess, caplog: pytest.LogCaptureFixture
) -> None:
    server.kill()
    with one(server.url()) as here, one(server.url()) as there, here.subscribed("news") as near:
        assert here.hub.stats().bus_down
        assert "cannot reach redis://127.0.0.1" in caplog.text
        send(here, "alone")
        assert data_of(near, 1) == ["alone"]
        with there.subscribed("news") as far:
            server.start()
            connected(here, there)
            send(there, "both")
            assert data_of(near, 1) == ["both"]
            assert data_of(far, 1)[0] in ("alone", "both")  # told within ten seconds
    assert caplog.text.count("reaches redis://127.0.0.1") == 2
    assert caplog.text.count("cannot reach") == 2


def test_fault_46_a_server_that_is_killed_stops_no_local_delivery_and_losses_are_told(
    server: RedisProcess, caplog: pytest.LogCaptureFixture
) -> None:
    with broker_times(age=0.1), two(server.url(), server.url()) as (here, there):
        with here.subscribed("news") as near, there.subscribed("news") as far:
            send(here, "before")
            assert data_of(near, 1) == data_of(far, 1) == ["before"]
            server.kill()
            lost(here, there)
            for number in range(20):
                send(here, number)
            assert data_of(near, 20) == list(range(20))
            wait_until(lambda: here.hub.stats().bus_lost == 20)
            server.start()
            connected(here, there)
            wait_until(lambda: there.hub.stats().bus_lost == 20)
            send(here, "after")
            assert data_of(near, 1) == data_of(far, 1) == ["after"]
    assert "20 notices of another process never came" in caplog.text
    assert caplog.text.count("has lost redis://127.0.0.1") == 2
    assert caplog.text.count("reaches redis://127.0.0.1") == 2


def test_fault_46_what_is_sent_around_a_restart_comes_once_and_in_order_or_is_counted(
    server: RedisProcess,
) -> None:
    with two(server.url(), server.url()) as (here, there):
        with here.subscribed("news") as near, there.subscribed("news") as far:
            count = 600
            for number in range(count):
                send(here, number)
                if number == count // 3:
                    server.kill()
                if number == 2 * count // 3:
                    lost(here, there)  # or both would seem connected below, before they are
                    server.start()
            assert data_of(near, count) == list(range(count))
            connected(here, there)
            send(here, "end")
            found = []
            while found[-1:] != ["end"]:
                found += data_of(far, 1)
            numbers = found[:-1]
            assert numbers == sorted(set(numbers))
            wait_until(lambda: there.hub.stats().bus_lost == count - len(numbers))


def test_fault_46_a_server_that_stands_still_delays_nobody_here(server: RedisProcess) -> None:
    with broker_times(silence=1.0), two(server.url(), server.url()) as (here, there):
        with here.subscribed("news") as near, there.subscribed("news") as far:
            server.stop()
            for number in range(100):
                send(here, number)
                assert data_of(near, 1) == [number]
            lost(here, there)
            server.go_on()
            connected(here, there)
            send(here, "end")
            found = []
            while found[-1:] != ["end"]:
                found += data_of(far, 1)
            assert found[:-1] == sorted(set(found[:-1]))
            wait_until(lambda: there.hub.stats().bus_lost == 101 - len(found))


def test_fault_46_a_server_that_became_a_replica_is_none(
    server: RedisProcess, caplog: pytest.LogCaptureFixture
) -> None:
    with broker_times(gone=2.0), two(server.url(), server.url()) as (here, there):
        server.ask("REPLICAOF", "127.0.0.1", "1")
        lost(here, there)
        server.ask("REPLICAOF", "NO", "ONE")
        connected(here, there)
        with there.subscribed("news") as far:
            send(here, 1)
            assert data_of(far, 1) == [1]
    assert "read only replica" in caplog.text


def test_fault_47_a_network_that_lets_nothing_through_is_noticed_in_time(
    server: RedisProcess,
) -> None:
    with FaultProxy(server.host, server.port) as proxy, broker_times(silence=1.0, age=0.5):
        with two(server.url(), server.url(port=proxy.port)) as (here, there):
            with there.subscribed("news") as far:
                proxy.black_hole()
                lost(there)
                assert not here.hub.stats().bus_down
                send(there, "there")
                assert data_of(far, 1) == ["there"]
                send(here, "missed")
                proxy.reset()
                proxy.heal()
                connected(here, there)
                wait_until(lambda: there.hub.stats().bus_lost == 1)
                send(here, "after")
                assert data_of(far, 1) == ["after"]


def test_fault_47_what_one_told_while_it_counted_as_gone_is_counted_when_it_is_back(
    server: RedisProcess,
) -> None:
    with FaultProxy(server.host, server.port) as proxy:
        with broker_times(silence=1.0, gone=2.0, age=0.5):
            with two(server.url(), server.url(port=proxy.port)) as (here, there):
                proxy.refuse()
                proxy.reset()
                lost(there)
                wait_until(lambda: here.hub.stats().peers == 0, what="the end of the other")
                send(there, "alone")
                wait_until(lambda: there.hub.stats().bus_lost == 1)
                proxy.accept()
                connected(here, there)
                wait_until(lambda: here.hub.stats().bus_lost == 1)
                with here.subscribed("news") as near:
                    send(there, "after")
                    assert data_of(near, 1) == ["after"]


def test_fault_47_connections_that_are_reset_are_made_anew(server: RedisProcess) -> None:
    with FaultProxy(server.host, server.port) as proxy:
        with two(server.url(), server.url(port=proxy.port)) as (here, there):
            with there.subscribed("news") as far:
                for number in range(5):
                    proxy.reset()
                    wait_until(lambda: proxy.links >= 2)
                    connected(here, there)
                    send(there, number)
                    assert data_of(far, 1) == [number]


class Stuck(StandIn):
    """A receiver that takes its time."""

    def __init__(self) -> None:
        self.entered, self.goes_on = threading.Event(), threading.Event()
        self.received = 0
        self.looked = threading.Event()

    def receive(self, notice: Notice, source: str) -> bool:
        if notice.kind is NoticeKind.KEPT:
            self.looked.set()
            return True
        self.entered.set()
        assert self.goes_on.wait(TIMEOUT)
        self.received += 1
        return True


@pytest.mark.parametrize("name", SERVERS)
def test_fault_48_a_subscriber_that_the_server_cuts_comes_back_and_knows_what_it_missed(
    name: str,
) -> None:
    limit = ("--client-output-buffer-limit", "pubsub", "262144", "0", "0")
    with running(name, *limit) as server:
        slow, fast = RedisBackplane(server.url()), RedisBackplane(server.url())
        stuck, other = Stuck(), Stuck()
        other.goes_on.set()
        slow.open(stuck)
        fast.open(other)
        # A sign of life may come before its sender hears anything.
        wait_until(lambda: slow.stats().connected and fast.stats().peers == 1)
        text = b'{"a":"%b"}' % (b"x" * 50_000)
        fast.tell(Notice(NoticeKind.PUBLISH, "a", (text,)))
        assert stuck.entered.wait(TIMEOUT)
        for _ in range(400):
            fast.tell(Notice(NoticeKind.PUBLISH, "a", (text,)))
        # More than the kernel keeps for a subscriber that does not read.
        wait_until(lambda: _published(server) + fast.stats().lost >= 401)
        if name == "valkey-server":  # it shares large texts, which count for no subscriber
            server.ask("CLIENT", "KILL", "TYPE", "pubsub")
        wait_until(lambda: _subscribers(server) <= 1, what="the cut")
        stuck.goes_on.set()
        assert stuck.looked.wait(TIMEOUT)
        wait_until(lambda: fast.stats().connected and slow.stats().connected)
        fast.tell(Notice(NoticeKind.DISCONNECT, "ann"))
        # What found no room to be told is among these: its number is missing.
        wait_until(lambda: stuck.received + stuck.lost >= 402)
        fast.close(TIMEOUT)
        slow.close(TIMEOUT)
        assert stuck.lost > 0
        assert stuck.received + stuck.lost == 402


def _published(server: RedisProcess) -> int:
    found = re.search(rb"cmdstat_publish:calls=(\d+)", server.ask("INFO", "commandstats"))
    return int(found[1]) if found else 0


def _subscribers(server: RedisProcess) -> int:
    answer = server.ask("PUBSUB", "NUMSUB", "ws:bus")
    return int(answer.split(b":")[-1])


HOSTILE = [
    "",
    "\0",
    "hello",
    "\x80\x04\x95\x0f",  # the beginning of a pickle
    "null",
    "[1]",
    "{",
    "[" * 100_000,
    '{"v":2,"from":"%(name)s","n":1,"kind":"publish"}',
    '{"v":1,"n":1,"kind":"publish"}',
    '{"v":1,"from":"me","n":1,"kind":"publish"}',
    '{"v":1,"from":7,"n":1,"kind":"publish"}',
    '{"v":1,"from":"%(name)s","n":-1,"kind":"publish"}',
    '{"v":1,"from":"%(name)s","n":1e3,"kind":"publish"}',
    '{"v":1,"from":"%(name)s","n":' + "9" * 5000 + ',"kind":"publish"}',
    '{"v":1,"from":"%(name)s","n":1,"kind":7}',
    '{"v":1,"from":"%(name)s","n":1}',
    '{"v":1,"from":"%(name)s","n":1,"kind":"publish","name":["news"]}',
    '{"v":1,"from":"%(name)s","n":1,"kind":"publish","name":"news"}\nno JSON',
    '{"v":1,"from":"%(name)s","n":1,"kind":"publish","name":"news"}\n"text"',
    '{"v":1,"from":"%(name)s","n":1,"kind":"publish","name":"news"}\n{"type":"event","data":NaN}',
    '{"v":1,"from":"%(name)s","n":1,"kind":"publish","name":"news"}\n{"type":"event","data":1e999}',
    '{"v":1,"from":"%(name)s","n":1,"kind":"publish","name":"news"}\n{"a":"\udcff"}',
    '{"v":1,"from":"%(name)s","n":1,"kind":"publish","name":"news"}\n' + "[" * 100_000,
]


def test_fault_49_what_is_no_notice_is_ignored_and_counted(
    server: RedisProcess, caplog: pytest.LogCaptureFixture
) -> None:
    name = "0123456789abcdef" * 2
    with two(server.url(), server.url()) as (here, there), here.subscribed("news") as peer:
        for text in HOSTILE:
            server.ask("PUBLISH", "ws:bus", text.replace("%(name)s", name))
        server.ask("PUBLISH", "ws:bus", "x" * (MAX_BODY_BYTES + 1))
        count = len(HOSTILE) + 1
        wait_until(lambda: here.hub.stats().bus_invalid == count)
        assert here.hub.stats().peers == 1
        send(there, "good")
        assert data_of(peer, 1) == ["good"]
        stats = here.hub.stats()
        assert (stats.bus_received, stats.bus_lost, stats.internal_errors) == (1, 0, 0)
    warned = caplog.text.count("ignored what is no notice")
    assert 0 < warned < 2 * count  # the log is no place for a flood


def test_fault_49_forged_and_repeated_notices_come_at_most_once(server: RedisProcess) -> None:
    head = {"v": 1, "from": "f" * 32, "kind": "publish", "name": "news"}
    with one(server.url()) as here, here.subscribed("news") as peer:
        for number in (5, 5, 4, 5, 6, 6):
            text = json.dumps({"type": "event", "channel": "news", "data": number})
            server.ask("PUBLISH", "ws:bus", json.dumps({**head, "n": number}) + "\n" + text)
        unknown = json.dumps({**head, "n": 7, "kind": "of a newer version"})
        server.ask("PUBLISH", "ws:bus", unknown)
        send(here, "own")  # which comes back over the bus
        found = data_of(peer, 3)
        assert sorted(map(str, found)) == ["5", "6", "own"]
        wait_until(lambda: here.hub.stats().bus_told == 0 and here.hub.stats().bus_received == 2)
        assert here.hub.stats().bus_lost == here.hub.stats().bus_invalid == 0


def test_fault_49_a_channel_that_no_client_may_have_reaches_nobody(
    server: RedisProcess, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    head = {"v": 1, "from": "f" * 32, "kind": "publish"}
    with one(server.url()) as here, here.subscribed("news") as peer:
        for number, channel in enumerate(("a\nb", "x" * 10_000, "*", "\0"), 1):
            text = json.dumps({"type": "event", "channel": channel, "data": 0})
            body = json.dumps({**head, "n": number, "name": channel})
            server.ask("PUBLISH", "ws:bus", f"{body}\n{text}")
        wait_until(lambda: here.hub.stats().bus_received == 4)
        send(here, "own")
        assert data_of(peer, 1) == ["own"]
        assert here.hub.stats().internal_errors == 0
    assert not caplog.records
