"""A client that becomes slow: when the application is told, and what the hub says of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.apps.live import Live, live
from tests.support import TIMEOUT, wait_until
from ws_hub import ChannelRule, Client, ConfigError, Explanation, Hub

SETTINGS: dict[str, Any] = {
    "outbox_bytes": 256 * 1024,
    "pace_bytes": None,
    "close_timeout": 0.2,
    "rules": [ChannelRule(pattern="strict", overflow="disconnect")],
}
# From half full to a quarter is more than the kernel takes at once for a peer with `rcvbuf`, which
# is what net.ipv4.tcp_wmem allows: only the peer's reading makes such an outbox light again.
DEEP: dict[str, Any] = {**SETTINGS, "outbox_bytes": 32 * 1024 * 1024}


@pytest.fixture
def site() -> Iterator[Live]:
    with live(**SETTINGS) as site:
        yield site


def overflow(hub: Hub, channel: str) -> None:
    """Publish until a message is dropped for a client that does not read."""
    for _ in range(1000):
        if hub.send_event("x", "x" * 60_000, channel=channel, wait=TIMEOUT).dropped:
            return
    pytest.fail("nothing was dropped")


def test_a_client_that_reads_has_nothing_to_explain(site: Live) -> None:
    with site.subscribed("news"):
        site.hub.send_event("x", channel="news", wait=TIMEOUT)
        assert site.hub.explain(site.client()) == Explanation(0, 0, 0.0, {}, "")


def test_what_waits_and_what_was_dropped_is_explained_by_channel(site: Live) -> None:
    with site.subscribed("news", "more"):
        overflow(site.hub, "news")
        overflow(site.hub, "more")
        found = site.hub.explain(site.client())
        assert (found.messages, found.bytes) == site.client().waiting
        assert found.messages > 0
        assert 0.0 < found.oldest < TIMEOUT
        assert found.dropped == {"news": 1, "more": 1}
        assert found.reason == "the outbox was full"
        later = site.hub.explain(site.client())
        assert later.oldest > found.oldest


def test_a_client_that_was_disconnected_is_explained_after_its_end(site: Live) -> None:
    with site.subscribed("strict"):
        client = site.client()
        overflow(site.hub, "strict")
        site.empty()
        assert "too slow" in site.hub.explain(client).reason
        assert site.hub.explain(client).dropped == {"strict": 1}


def test_on_slow_client_is_called_once_for_many_messages_and_not_on_the_hub_thread() -> None:
    told: list[tuple[Client, str]] = []

    def slow(client: Client) -> None:
        told.append((client, threading.current_thread().name))

    with (
        live(on_slow_client=slow, **DEEP) as site,
        site.subscribed("other"),
        site.subscribed("news", rcvbuf=65536),
    ):
        client = site.client()
        overflow(site.hub, "news")
        overflow(site.hub, "news")
        wait_until(lambda: told)
        assert told == [(client, "ws-hub:notify")]


def test_on_slow_client_is_called_again_when_the_client_has_caught_up_in_between() -> None:
    told: list[Client] = []
    with (
        live(on_slow_client=told.append, **DEEP) as site,
        site.subscribed("news", rcvbuf=65536) as peer,
    ):
        for times in (1, 2):
            overflow(site.hub, "news")
            wait_until(lambda times=times: len(told) == times)
            while site.client().waiting[0]:
                peer.recv_json()


def test_an_on_slow_client_that_raises_is_logged_and_the_others_are_called(site: Live) -> None:
    told: list[Client] = []

    @site.hub.on_slow_client
    def fail(client: Client) -> None:
        raise RuntimeError

    site.hub.on_slow_client(told.append)
    with site.subscribed("news"):
        overflow(site.hub, "news")
        # Once for each time that it falls behind: it may have caught up in between.
        wait_until(lambda: site.hub.stats().callback_errors == len(told) > 0)


def test_an_on_slow_client_that_waits_delays_no_message(site: Live) -> None:
    let_go = threading.Event()
    site.hub.on_slow_client(lambda client: let_go.wait(TIMEOUT))
    with site.subscribed("news"), site.subscribed("other") as other:
        overflow(site.hub, "news")
        site.hub.send_event("y", channel="other")
        assert other.recv_json()["data"]["event"] == "y"
        let_go.set()


def test_wrong_arguments() -> None:
    hub = Hub()
    with pytest.raises(TypeError, match="client must be a Client"):
        hub.explain("ann")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="@hub.on_slow_client"):
        hub.on_slow_client()
