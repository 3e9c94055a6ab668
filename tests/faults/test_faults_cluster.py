"""Hubs whose backplane is a Redis or Valkey cluster: moved slots, a node that fails."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator

import pytest
import redis

from tests.redis_groups import Cluster, clustered, field
from tests.redis_hubs import connected, keep, one, replayed, send, two, until
from tests.redis_servers import SERVERS, RedisProcess, documented_rights, running
from tests.support import TIMEOUT, wait_until
from ws_hub import ProcessAlreadyRunning
from ws_hub.backplane.redis_nodes import slot_of
from ws_hub.backplane.redis_server import SHARDS

pytestmark = pytest.mark.skipif(not SERVERS, reason="needs a Redis or a Valkey server")

CHANNELS = [f"kept:{number}" for number in range(40)]


@pytest.fixture(params=SERVERS)
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with clustered(request.param) as cluster:
        yield cluster


def connections(node: RedisProcess) -> int:
    """Return how many connections of hubs a node has."""
    return node.ask("CLIENT", "LIST").count(b" name=hub ")


def slot_for(channel: str) -> int:
    """Return the slot of what is kept and told of a channel."""
    return slot_of(f"ws:{slot_of(channel) % SHARDS}")


def test_the_slot_of_a_name_is_the_one_that_a_cluster_has(cluster: Cluster) -> None:
    node = cluster.masters[0]
    for name in ("", "a", "ws:0", "ws:15", "123456789", "\N{SNOWMAN}"):
        answer = node.ask("CLUSTER", "KEYSLOT", name)
        assert int(answer[1:]) == slot_of(name)


def test_hubs_meet_in_a_cluster_over_a_connection_to_each_node(cluster: Cluster) -> None:
    with two(cluster.url()) as (here, there):
        with there.subscribed("news", *CHANNELS) as far:
            for channel in CHANNELS:
                send(here, channel, channel)
            assert sorted(far.recv_json()["data"] for _ in CHANNELS) == sorted(CHANNELS)
        assert there.hub.stats().bus_lost == 0
        with here.hub.run_process(["sleep", "60"], "job") as job:
            with pytest.raises(ProcessAlreadyRunning):
                there.hub.run_process(["true"], "job")
            job.terminate()
        tellers = [
            b"cmdstat_spublish" in each.ask("INFO", "commandstats") for each in cluster.nodes
        ]
        assert tellers == [True] * 3
        for node in cluster.nodes:  # hears, tells, writes, reads, claims; of two hubs
            assert 4 <= connections(node) <= 10


def test_fault_46_a_slot_that_is_moved_is_followed(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    slot = slot_for("kept")
    source = cluster.owner(slot)
    target = next(each for each in cluster.masters if each is not source)
    names = [f"news:{number}" for number in range(100)]
    news = next(each for each in names if slot_for(each) == slot)
    with two(cluster.url()) as (here, there), there.subscribed(news, "kept") as far:
        assert [keep(here, number) for number in range(20)] == list(range(1, 21))
        assert until(far, 19) == list(range(19))
        cluster.move(slot, source, target)
        assert keep(there, 20) == 21
        assert keep(here, 21) == 22
        # The numbers may be those of another node's loss: its clients subscribe anew.
        wait_until(lambda: far.recv_json()["type"] == "lagged")
        connected(here, there)
        for live in (here, there):
            assert replayed(live) == list(range(22))
            assert live.hub.stats().history_failed == 0
        send(here, news, "told")
        assert until(far, "told") == []
        assert there.hub.stats().bus_lost == 0
        bus = f"{{ws:{slot_of('kept') % SHARDS}}}:bus".encode()
        assert bus in target.ask("PUBSUB", "SHARDCHANNELS")
        assert bus not in source.ask("PUBSUB", "SHARDCHANNELS")
        for node in cluster.nodes:  # one of each hub, as before
            assert len(re.findall(rb" name=hub .* ssub=[1-9]", node.ask("CLIENT", "LIST"))) == 2
    assert "cannot be used" not in caplog.text


def test_fault_46_a_channel_whose_slot_is_being_moved_waits_for_it(cluster: Cluster) -> None:
    slot = slot_for("kept")
    source = cluster.owner(slot)
    target = next(each for each in cluster.masters if each is not source)
    with two(cluster.url()) as (here, there), there.subscribed("kept") as far:
        assert keep(here, 0) == 1
        assert far.recv_json()["data"] == 0
        cluster.begin_move(slot, source, target)
        found: list[int | None] = []
        publisher = threading.Thread(target=lambda: found.append(keep(here, 1)))
        publisher.start()
        wait_until(
            lambda: re.search(rb"errorstat_(ASK|TRYAGAIN)", source.ask("INFO", "errorstats")),
            what="the answer that the keys are between two nodes",
        )
        cluster.end_move(slot, target)
        publisher.join(TIMEOUT)
        assert found == [2]
        assert replayed(here) == replayed(there) == [0, 1]


@pytest.mark.parametrize("name", SERVERS)
def test_fault_46_a_replica_stands_in_for_a_node_that_is_killed(name: str) -> None:
    with clustered(name, replicas=1) as cluster:
        first, (replica,) = cluster.masters[0], cluster.replicas
        mine = [each for each in CHANNELS if cluster.owner(slot_for(each)) is first]
        channel, news = mine[0], mine[1].replace("kept", "news")
        assert cluster.owner(slot_for(news)) is cluster.owner(slot_for(news))
        with two(cluster.url()) as (here, there), there.subscribed("news") as far:
            assert [keep(here, number, channel) for number in range(20)] == list(range(1, 21))
            epoch = here.hub.history(channel).epoch
            wait_until(
                lambda: (
                    field(first.ask("INFO", "replication"), "master_repl_offset")
                    == field(replica.ask("INFO", "replication"), "slave_repl_offset")
                ),
                what="the replication",
            )
            first.kill()
            with here.subscribed("news") as near:
                for number in range(100):
                    send(here, "news", number)
                    assert near.recv_json()["data"] == number  # nobody waits for the node
                wait_until(
                    lambda: field(replica.ask("INFO", "replication"), "role") == "master",
                    what="the fail-over",
                )
                connected(here, there)
                wait_until(lambda: keep(there, "after", channel) is not None, what="the history")
                send(here, "news", "end")
                numbers = until(far, "end")
            assert numbers == sorted(set(numbers))
            wait_until(lambda: there.hub.stats().bus_lost == 100 - len(numbers))
            assert here.hub.history(channel).epoch != epoch
            kept = replayed(here, channel)
            assert kept == replayed(there, channel)
            assert kept == [*range(20), "after"]


def test_a_node_of_a_cluster_and_a_server_without_one_are_said(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    with one(cluster.masters[0].url("?prefix=b")):
        assert "use redis+cluster:// in the address" in caplog.text
    with running(next(iter(SERVERS))) as server:
        with one(f"redis+cluster://{server.host}:{server.port}/") as live:
            assert live.hub.stats().bus_down
            assert "cluster support disabled" in caplog.text


@pytest.mark.parametrize("name", SERVERS)
def test_the_documented_rights_are_enough_for_a_user_of_a_cluster(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with clustered(name) as cluster:
        rights = [*documented_rights("cluster"), "+client|setname"]
        for node in cluster.masters:
            with redis.Redis(port=node.port) as client:
                client.execute_command("ACL", "SETUSER", "app", *rights)
        with two(cluster.url(user="app:right@")) as (here, there):
            with there.subscribed("news") as far:
                send(here, "news", 1)
                assert far.recv_json()["data"] == 1
            assert [keep(here, 1, each) for each in CHANNELS] == [1] * len(CHANNELS)
            assert replayed(there, CHANNELS[0]) == [1]
            assert here.hub.run_process(["true"], "job").wait() == 0
    assert not caplog.records


@pytest.mark.parametrize("name", SERVERS)
def test_fault_46_other_shards_are_told_while_a_node_is_away(name: str) -> None:
    with clustered(name, "--cluster-require-full-coverage", "no") as cluster:
        gone = cluster.masters[0]
        away = next(each for each in CHANNELS if cluster.owner(slot_for(each)) is gone)
        names = [f"news:{number}" for number in range(100)]
        near_by = next(each for each in names if cluster.owner(slot_for(each)) is not gone)
        with two(cluster.url()) as (here, there), there.subscribed(near_by) as far:
            assert keep(here, 0, away) == 1
            gone.kill()
            for live in (here, there):
                wait_until(lambda live=live: live.hub.stats().bus_down)  # type: ignore[misc]
            for number in range(20):
                send(here, near_by, number)
            assert until(far, 19) == list(range(19))
            gone.start()
            connected(here, there)
            assert there.hub.stats().bus_lost == 0
            send(here, near_by, "end")
            assert until(far, "end") == []
            wait_until(lambda: keep(there, 1, away) is not None, what="the history")
