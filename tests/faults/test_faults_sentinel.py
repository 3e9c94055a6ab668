"""Hubs whose backplane is a server that sentinels watch, when another one becomes the master."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import pytest

from tests.interventions import broker_times
from tests.redis_groups import SERVICE, Watched, watched
from tests.redis_hubs import connected, keep, one, replayed, send, two, until
from tests.redis_servers import SERVERS, RedisProcess
from tests.support import TIMEOUT, wait_until
from ws_hub import ProcessAlreadyRunning

pytestmark = pytest.mark.skipif(not SERVERS, reason="needs a Redis or a Valkey server")

SENTINEL_RIGHTS = ("+sentinel|get-master-addr-by-name", "+client|setname")


@pytest.fixture(params=SERVERS)
def group(request: pytest.FixtureRequest) -> Iterator[Watched]:
    with watched(request.param) as group:
        yield group


def are_gone_from(server: RedisProcess) -> bool:
    """Return whether no connection of a hub is left at a server."""
    with contextlib.suppress(ConnectionError):  # it cuts all, as the sentinels tell it to
        return b" name=hub " not in server.ask("CLIENT", "LIST")
    return False


def test_fault_46_after_a_killed_master_all_go_on_with_the_one_that_the_sentinels_name(
    group: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    old, new = group.servers
    with two(group.url()) as (here, there):
        with here.subscribed("news") as near, there.subscribed("news") as far:
            assert [keep(here, number) for number in range(50)] == list(range(1, 51))
            epoch = here.hub.history("kept").epoch
            with here.hub.run_process(["sleep", "60"], "job") as job:
                wait_until(lambda: here.hub.history("process:job").last == 1, what="its status")
                group.wait_for_replication()
                old.kill()
                for number in range(100):
                    send(here, "news", number)
                    assert near.recv_json()["data"] == number  # nobody waits for the server
                meanwhile = ["meanwhile"] if keep(here, "meanwhile") else []
                assert here.hub.stats().history_failed == 1 - len(meanwhile)
                group.wait_for_master(new.port)
                connected(here, there)
                # After a failure none is tried for a moment; each has left its number out.
                again = wait_until(lambda: keep(here, "again"), what="the history")
                assert again == 51 + len(meanwhile) + here.hub.stats().history_failed
                assert keep(there, "after") == again + 1
                send(here, "news", "end")
                numbers = until(far, "end")
                assert numbers == sorted(set(numbers))
                wait_until(lambda: there.hub.stats().bus_lost == 100 - len(numbers))
                with pytest.raises(ProcessAlreadyRunning):
                    there.hub.run_process(["true"], "job")
                job.terminate()
            assert there.hub.run_process(["true"], "job").wait() == 0
            assert here.hub.history("kept").epoch != epoch
            kept = replayed(here)
            assert kept == replayed(there)
            assert kept == [*range(50), *meanwhile, "again", "after"]
    assert caplog.text.count("has lost redis+sentinel://") == 2
    assert caplog.text.count("reaches redis+sentinel://") == 2


def test_fault_46_a_fail_over_that_is_asked_for_loses_nothing_that_is_not_counted(
    group: Watched,
) -> None:
    old, new = group.servers
    with two(group.url()) as (here, there):
        with here.subscribed("news") as near, there.subscribed("news") as far:
            keep(here, "before")
            group.wait_for_replication()
            is_over = threading.Event()
            sent: list[int] = []

            def publish() -> None:
                while not is_over.is_set() or not sent:
                    send(here, "news", len(sent))
                    sent.append(len(sent))
                    assert near.recv_json()["data"] == sent[-1]

            publisher = threading.Thread(target=publish)
            publisher.start()
            try:
                group.sentinels[0].ask("SENTINEL", "FAILOVER", SERVICE)
                group.wait_for_master(new.port)
                wait_until(lambda: are_gone_from(old), what="all to leave the old master")
                connected(here, there)
            finally:
                is_over.set()
                publisher.join(TIMEOUT)
            wait_until(lambda: keep(there, "after") is not None, what="the history")
            send(here, "news", "end")
            numbers = until(far, "end")
            assert numbers == sorted(set(numbers))
            wait_until(lambda: there.hub.stats().bus_lost == len(sent) - len(numbers))
            assert replayed(here) == replayed(there) == ["before", "after"]


@pytest.mark.parametrize("is_demoted", [True, False], ids=["a replica", "cut off"])
def test_fault_46_an_old_master_is_left_that_keeps_its_connections(is_demoted: bool) -> None:
    with watched("redis-server", sentinels=1) as group, broker_times(gone=1.0):
        (old, new), (sentinel,) = group.servers, group.sentinels
        with two(group.url()) as (here, there), there.subscribed("news") as far:
            keep(here, "before")
            group.wait_for_replication()
            new.ask("REPLICAOF", "NO", "ONE")
            sentinel.ask("SENTINEL", "REMOVE", SERVICE)
            if is_demoted:
                old.ask("REPLICAOF", new.host, str(new.port))
            sentinel.ask("SENTINEL", "MONITOR", SERVICE, new.host, str(new.port), "1")
            wait_until(lambda: are_gone_from(old), what="all to leave the old master")
            connected(here, there)
            assert keep(there, "after") == 2
            assert replayed(here) == replayed(there) == ["before", "after"]
            send(here, "news", "told")
            assert until(far, "told") == []
            assert there.hub.stats().bus_lost == 0


def test_fault_45_sentinels_that_are_away_and_a_name_that_they_do_not_know_are_said(
    group: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    first, *others = group.sentinels
    first.kill()
    with two(group.url()):
        assert not caplog.records
    with one(group.url().replace(SERVICE, "another")) as live:
        assert live.hub.stats().bus_down
        text = "its sentinels know no master 'another': check this name"
        wait_until(lambda: text in caplog.text, what="the name")
    for each in others:
        each.kill()
    with one(group.url()) as live:
        wait_until(lambda: "none of its sentinels answers" in caplog.text, what="a word")
        first.start()
        wait_until(lambda: not live.hub.stats().bus_down, what="the server")


def test_servers_and_sentinels_may_have_passwords_of_their_own(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with watched("redis-server", sentinels=1, password="of servers") as group:
        sentinel = group.sentinels[0]
        sentinel.ask("ACL", "SETUSER", "asker", "on", ">of sentinels", *SENTINEL_RIGHTS)
        sentinel.ask("ACL", "SETUSER", "default", "-@all", "+ping")
        login = "sentinel_username=asker&sentinel_password=of%20sentinels"
        with one(group.url(f"?{login}", user=":of%20servers@")) as live:
            assert not live.hub.stats().bus_down
            assert keep(live, 1) == 1
        assert not caplog.records
        with one(group.url(user=":of%20servers@")) as live:
            assert live.hub.stats().bus_down
        assert "give the user the rights that docs/scaling.md lists" in caplog.text
        assert "of servers" not in caplog.text
