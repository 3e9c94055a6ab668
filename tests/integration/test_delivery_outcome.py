"""What a publish with wait= returns, over real sockets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.harness import delivery_fails, parked
from tests.integration.apps.live import live
from tests.support import TIMEOUT
from ws_hub import ChannelRule, Delivery, Hub, HubNotRunning, Message, WaitTimeout, WsHubError

KEPT = ChannelRule(pattern="kept", history_messages=100)
EVENT = Message("event", data=1)


def test_a_publish_without_wait_returns_nothing() -> None:
    with live() as site:
        assert site.hub.send_event("saved", channel="news") is None  # type: ignore[func-returns-value]


def test_subscribers_listeners_and_excluded_clients_are_counted() -> None:
    with live(rules=[KEPT]) as site, site.subscribed("news", "kept"):
        hub, client = site.hub, site.client()
        with site.peer():
            listener = hub.listen("news", lambda message: None)
            assert hub.send_to_channel("news", EVENT, wait=TIMEOUT) == Delivery(None, 2, 2, 0)
            assert hub.send_event("x", channel="news", exclude=client, wait=TIMEOUT) == (
                Delivery(None, 2, 1, 0)
            )
            assert hub.send_to_channel("kept", EVENT, wait=TIMEOUT) == Delivery(1, 1, 1, 0)
            # It gets the number alone, and not the message.
            assert hub.send_to_channel("kept", EVENT, exclude=client, wait=TIMEOUT) == (
                Delivery(2, 1, 0, 0)
            )
            assert hub.send_to_channel("nobody", EVENT, wait=TIMEOUT) == Delivery(None, 0, 0, 0)
            assert hub.broadcast(EVENT, wait=TIMEOUT) == Delivery(None, 2, 2, 0)
            listener.close()


def test_a_line_in_pieces_has_the_number_of_the_last() -> None:
    with live() as site:
        assert site.hub.send_process_output("p", "short", wait=TIMEOUT) == Delivery(1, 0, 0, 0)
        assert site.hub.send_process_output("p", "x" * 20_000, wait=TIMEOUT) == (
            Delivery(4, 0, 0, 0)
        )


@pytest.mark.parametrize("rule", ["drop", "disconnect"])
def test_a_client_whose_outbox_is_full_counts_as_dropped(rule: Any) -> None:
    rules = [ChannelRule(pattern="news", overflow=rule)]
    settings = {"outbox_bytes": 256 * 1024, "pace_bytes": None, "close_timeout": 0.2}
    with live(rules=rules, **settings) as site, site.subscribed("news"), site.subscribed("other"):
        for _ in range(1000):
            delivery = site.hub.send_event("x", "x" * 60_000, channel="news", wait=TIMEOUT)
            if delivery.dropped:
                break
        assert delivery == Delivery(None, 1, 0, 1)


def test_what_was_published_before_is_dispatched_before() -> None:
    with live() as site, site.subscribed("news") as peer:
        for number in range(100):
            site.hub.send_event("n", number, channel="news")
        site.hub.send_event("n", 100, channel="news", wait=TIMEOUT)
        site.hub.send_event("n", 101, channel="news")
        assert [peer.recv_json()["data"]["data"] for _ in range(102)] == list(range(102))


def test_a_publish_that_is_not_dispatched_in_time_raises_and_is_delivered_later() -> None:
    with live() as site, site.subscribed("news") as peer:
        with parked(site.hub), pytest.raises(WaitTimeout, match="was not dispatched within 0.05 s"):
            site.hub.send_event("late", channel="news", wait=0.05)
        assert peer.recv_json()["data"]["event"] == "late"


def test_an_error_of_the_hub_is_told_to_the_thread_that_waits() -> None:
    with live() as site, delivery_fails(site.hub):
        with pytest.raises(WsHubError, match="an error of its own"):
            site.hub.send_event("x", channel="news", wait=TIMEOUT)


def test_a_callback_may_wait() -> None:
    with live() as site, site.subscribed("news") as peer:

        @site.hub.on("publish it")
        def publish(client: Any, message: Message) -> int:
            return site.hub.send_event("x", channel="news", wait=TIMEOUT).queued

        peer.send_json({"type": "publish it", "id": 1})
        assert {peer.recv_json()["data"] == 1 for _ in range(2)} == {True, False}


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda hub: hub.send_event("x", wait="5"), TypeError),
        (lambda hub: hub.broadcast(EVENT, wait=-1), ValueError),
        (lambda hub: hub.send_to_channel("a", EVENT, wait=True), TypeError),
        (lambda hub: hub.send_process_output("a", "x", wait=[]), TypeError),
        (lambda hub: hub.send_event("x", wait=1), HubNotRunning),
    ],
)
def test_wrong_arguments_and_a_hub_that_does_not_run(
    call: Callable[[Hub], object], error: type[Exception]
) -> None:
    with pytest.raises(error):
        call(Hub())
