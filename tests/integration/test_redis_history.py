"""Hubs that share the history of their channels on a Redis or Valkey server."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from tests import redis_hubs
from tests.integration.apps.live import Live, subscribe
from tests.interventions import answer_lost, broker_times
from tests.redis_servers import DURABLE, SERVERS, RedisProcess, running
from tests.support import TIMEOUT, RawPeer, wait_until
from ws_hub import ChannelRule, ConfigError, HistoryError, Hub, HubConfig, Message
from ws_hub.backplane.redis import RedisBackplane
from ws_hub.backplane.redis_history import RedisHistory
from ws_hub.backplane.redis_server import RedisServer
from ws_hub.testing import FaultProxy

pytestmark = pytest.mark.skipif(not SERVERS, reason="needs a Redis or a Valkey server")

RULES = [ChannelRule("kept:*", history_messages=10_000, publish=True)]
TEXT = b'{"type":"event","channel":"kept:a","data":%d}'


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[RedisProcess]:
    with running(request.param) as process:
        yield process


hubs = functools.partial(redis_hubs.hubs, rules=RULES)


@contextlib.contextmanager
def store_of(url: str, timeout: float = 3.0) -> Iterator[RedisHistory]:
    server = RedisServer(url)
    server.timeout = timeout
    store = RedisHistory(server, "0" * 32)
    store.open(lambda channel: RULES[0])
    try:
        yield store
    finally:
        store.close()


def event(data: Any) -> Message:
    return Message("event", data=data)


def received(peer: RawPeer, count: int) -> list[tuple[Any, Any]]:
    found = [peer.recv_json() for _ in range(count)]
    return [(each.get("data"), each.get("seq")) for each in found]


def test_hubs_have_one_numbering_and_a_client_may_change_hubs(server: RedisProcess) -> None:
    with hubs(server.url(), server.url()) as (here, there):
        with here.subscribed("kept:a") as near, there.subscribed("kept:a") as far:
            there.hub.send_to_channel("kept:a", event("one"), wait=10)
            here.hub.send_to_channel("kept:a", event("two"), wait=10)
            for peer in (near, far):
                assert received(peer, 2) == [("one", 1), ("two", 2)]
        epoch = there.hub.history("kept:a").epoch
        here.hub.send_to_channel("kept:a", event("three"), wait=10)
        with there.peer() as peer:
            ack = subscribe(peer, "kept:a", since=1, epoch=epoch)
            assert (ack["recovered"], ack["epoch"]) == (True, epoch)
            assert received(peer, 2) == [("two", 2), ("three", 3)]
    with hubs(server.url()) as (again,):
        page = again.hub.history("kept:a")
        assert ([each.data for each in page.messages], page.epoch) == (
            ["one", "two", "three"],
            epoch,
        )


def test_all_see_the_same_order_whoever_publishes(server: RedisProcess) -> None:
    count, channels = 200, 2
    with hubs(server.url(), server.url(), server.url()) as found, contextlib.ExitStack() as stack:
        names = [f"kept:{number}" for number in range(channels)]
        peers = [stack.enter_context(live.subscribed(name)) for live in found for name in names]

        def publish(live: Live, number: int) -> None:
            for each in range(count):
                for name in names:
                    live.hub.send_to_channel(name, event([number, each]))

        threads = [
            threading.Thread(target=publish, args=(live, number))
            for number, live in enumerate(found)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT)
        orders = [received(peer, count * len(found)) for peer in peers]
        for order in orders:
            assert [seq for _, seq in order] == list(range(1, count * len(found) + 1))
        for name in range(channels):
            assert orders[name] == orders[name + channels] == orders[name + 2 * channels]


def test_fault_46_a_history_without_its_server_is_waited_for_within_bounds_then_it_is_said(
    server: RedisProcess, caplog: pytest.LogCaptureFixture
) -> None:
    with hubs(server.url(), server.url()) as (here, there):
        with here.subscribed("kept:a", "news") as near, there.subscribed("kept:a") as far:
            here.hub.send_to_channel("kept:a", event("one"))
            assert received(near, 1) == received(far, 1) == [("one", 1)]
            server.kill()
            here.hub.send_to_channel("kept:a", event("unkept"))
            here.hub.send_to_channel("news", event("at once"))
            assert received(near, 2) == [("at once", None), ("unkept", None)]
            assert here.hub.stats().history_failed == 1
            assert "history in redis://127.0.0.1" in caplog.text
            server.start()  # and it has lost all
            wait_until(lambda: not here.hub.stats().bus_down and here.hub.stats().peers == 1)

            def is_kept() -> bool:
                here.hub.send_to_channel("kept:a", event("more"), wait=10)
                return here.hub.history("kept:a").last > 0

            wait_until(is_kept)
            there.hub.send_to_channel("kept:a", event("end"), wait=10)
            for peer in (near, far):  # of the numbering that is lost: they are to subscribe anew
                wait_until(lambda peer=peer: peer.recv_json()["type"] == "lagged")  # type: ignore[misc]
            page, found = here.hub.history("kept:a"), []
            for live in (here, there):
                with live.peer() as peer:
                    subscribe(peer, "kept:a", since=0)
                    found.append(received(peer, len(page.messages)))
            assert found[0] == found[1]
            assert found[0][-1] == ("end", page.last)
    assert "history is kept again" in caplog.text


def test_fault_46_a_flushed_server_and_one_that_started_again_have_another_epoch(
    server: RedisProcess,
) -> None:
    with store_of(server.url()) as store:
        first = store.append("kept:a", [TEXT % 1])
        server.ask("SET", "ws:run", "another")  # as if it had lost the newest numbers
        with store_of(server.url()) as again:
            second = again.append("kept:a", [TEXT % 2])
            assert (second.first, again.read("kept:a").kept.first) == (2, 1)
        assert store.append("kept:a", [TEXT % 3]).epoch == second.epoch
        server.ask("FLUSHALL")
        third = store.append("kept:a", [TEXT % 4])
        assert third.first == 1
        assert len({first.epoch, second.epoch, third.epoch}) == 3


def test_fault_46_what_comes_too_late_is_not_kept(server: RedisProcess) -> None:
    with store_of(server.url(), 0.3) as store:
        store.append("kept:a", [TEXT % 1])
        server.stop()
        with pytest.raises(HistoryError, match="cannot be used"):
            store.append("kept:a", [TEXT % 2])
        server.go_on()
        assert server.ask("PING") == b"+PONG\r\n"  # behind all that came too late
        store.append("kept:a", [TEXT % 3])
        assert [each.text for each in store.read("kept:a").messages] == [
            TEXT[:-1] % 1 + b',"seq":1}',
            TEXT[:-1] % 3 + b',"seq":2}',
        ]


def test_fault_46_what_is_sent_again_is_kept_once(server: RedisProcess) -> None:
    with FaultProxy(server.host, server.port) as proxy:
        with store_of(server.url(port=proxy.port)) as store:
            for number in range(20):
                threads = [threading.Thread(target=proxy.reset)]
                threads[0].start()
                span = store.append("kept:a", [TEXT % number])
                threads[0].join()
                assert (span.first, span.last) == (number + 1, number + 1)
            assert store.head("kept:a").last == 20


def test_fault_46_messages_whose_answer_is_lost_are_asked_for_again_and_come_once(
    server: RedisProcess,
) -> None:
    lost = redis.ConnectionError("made to be lost")
    with broker_times(patience=0.0), hubs(server.url()) as (here,):
        with here.subscribed("kept:a") as peer:
            here.hub.send_to_channel("kept:a", event("one"), wait=10)
            with answer_lost(lost):
                delivery = here.hub.send_to_channel("kept:a", event("two"), wait=10)
            here.hub.send_to_channel("kept:a", event("three"), wait=10)
            assert received(peer, 3) == [("one", 1), ("two", 2), ("three", 3)]
            assert (delivery.seq, here.hub.stats().history_failed) == (2, 0)
            assert len(here.hub.history("kept:a").messages) == 3


def test_fault_47_a_client_that_is_ahead_of_a_hub_without_its_server_is_told_to_ask_again(
    server: RedisProcess,
) -> None:
    with (
        FaultProxy(server.host, server.port) as proxy,
        broker_times(patience=0.0),
        hubs(server.url(), server.url(port=proxy.port)) as (here, there),
        there.subscribed("kept:a") as far,
    ):
        here.hub.send_to_channel("kept:a", event("one"), wait=10)
        assert received(far, 1) == [("one", 1)]
        proxy.refuse()
        proxy.reset()
        wait_until(lambda: there.hub.stats().bus_down)
        here.hub.send_to_channel("kept:a", event("two"), wait=10)
        epoch = here.hub.history("kept:a").epoch
        with there.peer() as peer:
            position = {"since": 2, "epoch": epoch}
            peer.send_json({"type": "subscribe", "channel": "kept:a", "id": 1, **position})
            answer = peer.recv_json()
            assert (answer["type"], answer["code"]) == ("error", "internal")
            assert subscribe(peer, "kept:a", since=1, epoch=epoch)["recovered"]
            proxy.accept()
            assert received(peer, 1) == received(far, 1) == [("two", 2)]


def test_fault_46_a_hub_that_ends_waits_no_longer_for_an_answer_that_is_lost(
    server: RedisProcess, caplog: pytest.LogCaptureFixture
) -> None:
    lost = redis.ConnectionError("made to be lost")
    config = HubConfig(rules=RULES, backplane=RedisBackplane(server.url()), close_timeout=0.5)
    with broker_times(settling=600.0), answer_lost(lost, then=server.kill):
        with Hub(config) as hub:
            hub.send_to_channel("kept:a", event("one"))
    assert "cannot be used" in caplog.text or "has not kept" in caplog.text


def test_fault_46_nothing_is_sent_on_a_connection_that_has_ended_and_waited_for(
    server: RedisProcess,
) -> None:
    with broker_times(patience=0.0, settling=600.0), store_of(server.url()) as store:
        store.append("kept:a", [TEXT % 1])
        server.kill()
        with pytest.raises(HistoryError, match="cannot be used"):
            store.append("kept:a", [TEXT % 2])  # surely not kept


@pytest.mark.parametrize("name", SERVERS)
def test_fault_46_a_server_that_keeps_what_it_answers_goes_on_with_its_epoch(name: str) -> None:
    with running(name, *DURABLE) as server, hubs(server.url(), server.url()) as (here, there):
        with here.subscribed("kept:a") as near, there.subscribed("kept:a") as far:
            here.hub.send_to_channel("kept:a", event("one"), wait=10)
            epoch = here.hub.history("kept:a").epoch
            server.kill()
            server.start()
            wait_until(lambda: here.hub.stats().peers == there.hub.stats().peers == 1)
            wait_until(lambda: there.hub.send_to_channel("kept:a", event("two"), wait=10).seq)
            for peer in (near, far):
                assert received(peer, 1) == [("one", 1)]
                found = received(peer, 1)
                while found[-1][1] is None:  # it was not there yet
                    found = received(peer, 1)
                assert found[0][0] == "two"
            assert here.hub.history("kept:a").epoch == epoch


@pytest.mark.parametrize("name", SERVERS)
@pytest.mark.parametrize("lack", ["fsync", "before", "now", "replica", "right"])
def test_fault_46_a_server_that_may_have_lost_something_has_another_epoch(
    name: str, lack: str
) -> None:
    settings = DURABLE if lack != "fsync" else ("--appendonly", "yes", "--appendfsync", "everysec")
    with running(name, *settings) as server:
        if lack == "right":
            server.ask("ACL", "SETUSER", "default", "-config")
        with store_of(server.url()) as store:
            first = store.append("kept:a", [TEXT % 1])
        if lack == "before":
            server.ask("CONFIG", "SET", "appendfsync", "everysec")
            with store_of(server.url()) as store:
                assert store.head("kept:a").epoch == first.epoch
            server.ask("CONFIG", "SET", "appendfsync", "always")
            with store_of(server.url()) as store:  # what was written between is not certain
                assert store.head("kept:a").epoch == first.epoch
        server.kill()
        server.start()
        if lack == "now":
            server.ask("CONFIG", "SET", "appendfsync", "no")
        if lack == "replica":
            server.ask("REPLICAOF", "127.0.0.1", "1")
            server.ask("REPLICAOF", "NO", "ONE")
        with store_of(server.url()) as store:
            second = store.append("kept:a", [TEXT % 2])
        assert second.epoch != first.epoch
        assert second.first == 2 or lack == "fsync"  # which may lose it indeed


def test_a_store_belongs_to_one_hub_and_says_where_it_is(server: RedisProcess) -> None:
    with store_of(server.url()) as store:
        assert repr(store) == f"RedisHistory('redis://127.0.0.1:{server.port}/0?prefix=ws')"
        with pytest.raises(ConfigError, match="in use by another hub"):
            store.open(lambda channel: RULES[0])
    with pytest.raises(HistoryError, match="is not open"):
        store.append("kept:a", [TEXT % 1])


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_that_may_let_go_of_keys_is_warned_of_once(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with running(name, "--maxmemory-policy", "allkeys-lru") as server:
        with store_of(server.url()) as store:
            store.append("kept:a", [TEXT % 1])
            store.read("kept:a")
    assert caplog.text.count("its maxmemory-policy is allkeys-lru") == 1
