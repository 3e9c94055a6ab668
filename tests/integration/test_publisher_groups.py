"""Publishers by a cluster, and by a master that sentinels name."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from tests.redis_groups import clustered, watched
from tests.redis_hubs import one, replayed
from tests.redis_servers import SERVERS
from tests.support import TIMEOUT, wait_until
from ws_hub import Publisher

pytestmark = pytest.mark.skipif(not SERVERS, reason="needs a Redis or a Valkey server")

CHANNELS = [f"news:{number}" for number in range(40)]  # of all shards
ALONE = "no process of the application is reached"


@pytest.fixture(params=["cluster", "sentinel"])
def url(request: pytest.FixtureRequest, name: str) -> Iterator[str]:
    with contextlib.ExitStack() as stack:
        if request.param == "cluster":
            yield stack.enter_context(clustered(name)).url()
        else:
            yield stack.enter_context(watched(name)).url()


@pytest.mark.parametrize("name", SERVERS)
def test_a_publisher_is_heard_by_all_and_says_how_many_these_are(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with one(url) as here, Publisher(url) as publisher:
        for number in (1, 2):
            done = publisher.send_event("saved", number, channel="kept", wait=TIMEOUT)
            assert done.seq == number
        assert publisher.peers() == 1
        assert here.hub.stats().peers == 0  # hears nobody
        with one(url) as there, here.subscribed(*CHANNELS) as near, there.subscribed(
            *CHANNELS
        ) as far:  # fmt: skip
            wait_until(lambda: publisher.peers() == 2, what="the second")
            for channel in CHANNELS:
                publisher.send_event(channel, None, channel=channel)
            publisher.broadcast({"type": "event", "data": "all"})
            for peer in (near, far):
                found = [peer.recv_json()["data"] for _ in [*CHANNELS, "all"]]
                assert sorted(each["event"] for each in found if each != "all") == sorted(CHANNELS)
            assert len(replayed(there)) == 2
            assert [each.hub.stats().bus_lost for each in (here, there)] == [0, 0]
        wait_until(lambda: publisher.peers() == 1, what="the end of the second")
        assert caplog.text == ""


@pytest.mark.parametrize("name", SERVERS)
def test_a_publisher_that_nobody_hears_says_so_once(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with one(url):
        pass
    with Publisher(url) as publisher:
        for channel in CHANNELS:
            publisher.send_event("lost", None, channel=channel)
        wait_until(lambda: ALONE in caplog.text, what="a warning")
        assert publisher.peers() == 0
        with one(url) as here, here.subscribed("news:0") as peer:
            wait_until(lambda: publisher.peers() == 1, what="the hub")
            publisher.send_event("said", None, channel="news:0")
            assert peer.recv_json()["data"]["event"] == "said"
    assert caplog.text.count(ALONE) == 1
