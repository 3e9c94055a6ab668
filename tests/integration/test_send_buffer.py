"""Messages of the reconnecting client that wait for a connection."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from tests.integration.apps.live import Live, live
from tests.integration.clients import Seen
from tests.support import TIMEOUT, wait_until
from ws_hub import ChannelRule, Client, ConfigError, Message, NotConnected, ReconnectConfig
from ws_hub.testing import FaultProxy


class Received:
    """What a hub gets from its clients, in order."""

    def __init__(self) -> None:
        self.all: list[tuple[str, Any]] = []

    def __call__(self, client: Client, message: Message) -> None:
        self.all.append((message.type, message.data))

    def until_end(self) -> list[tuple[str, Any]]:
        """Return all but the end, when that has come."""
        wait_until(lambda: self.all and self.all[-1][0] == "end")
        return self.all[:-1]


def behind(site: Live, proxy: FaultProxy, **settings: Any) -> Seen:
    """Return a client that has tried to connect, and cannot."""
    proxy.refuse()
    seen = Seen(f"ws://127.0.0.1:{proxy.port}/ws", stable_after=0, **settings).start()
    seen.wait("error")
    return seen


def count(data: int) -> dict[str, Any]:
    return {"type": "count", "data": data}


@pytest.mark.parametrize(
    ("overflow", "came", "dropped"),
    [("refuse", [1, 2], 0), ("drop_oldest", [3, 4], 2), ("drop_newest", [1, 2], 2)],
)
def test_messages_wait_in_order_and_a_full_buffer_does_what_it_was_told(
    overflow: str, came: list[int], dropped: int
) -> None:
    received = Received()
    with live(on_message=received) as site, FaultProxy("127.0.0.1", site.server.port) as proxy:
        settings = {"send_buffer": 2, "send_buffer_overflow": overflow}
        with behind(site, proxy, **settings) as seen:
            refused = []
            for number in range(1, 5):
                try:
                    seen.client.send(count(number))
                except NotConnected as error:
                    refused.append((number, "set send_buffer" in str(error)))
            assert refused == ([(3, True), (4, True)] if overflow == "refuse" else [])
            assert seen.client.unsent == (2, dropped)
            proxy.accept()
            seen.wait("connect")
            seen.client.send(Message("end"))
            assert received.until_end() == [("count", data) for data in came]
            assert seen.client.unsent == (0, dropped)


def test_each_message_is_sent_once_however_often_the_connection_is_lost() -> None:
    received = Received()
    with live(on_message=received) as site, FaultProxy("127.0.0.1", site.server.port) as proxy:
        with behind(site, proxy, send_buffer=10) as seen:
            seen.client.send(count(1))
            proxy.accept()
            seen.wait("connect")
            wait_until(lambda: received.all)
            for connection in (2, 3):
                proxy.reset()
                seen.wait("connect", connection)
            seen.client.send(Message("end"))
            assert received.until_end() == [("count", 1)]


def test_they_come_behind_the_subscriptions_and_in_order_with_requests() -> None:
    received = Received()
    rules = [ChannelRule(pattern="open", publish=True)]
    with live(on_message=received, rules=rules) as site:
        with FaultProxy("127.0.0.1", site.server.port) as proxy:
            with behind(site, proxy, send_buffer=10) as seen:
                seen.client.publish("open", "mine")
                seen.client.send(count(1))
                seen.client.subscribe("open")
                proxy.accept()
                seen.wait_data("mine", kind="event")
                assert seen.client.request({"type": "end"}, TIMEOUT) is None
                assert received.until_end() == [("count", 1)]


def test_what_still_waits_at_the_end_is_dropped_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with live() as site, FaultProxy("127.0.0.1", site.server.port) as proxy:
        with behind(site, proxy, send_buffer=10) as seen:
            seen.client.send(count(1))
            seen.client.send(count(2))
            with caplog.at_level(logging.WARNING):
                seen.client.close()
            assert "2 messages were not sent" in caplog.text
            assert seen.client.unsent == (0, 0)
            with pytest.raises(NotConnected):
                seen.client.send(count(3))


def test_nothing_is_kept_unless_it_is_asked_for() -> None:
    with live() as site, FaultProxy("127.0.0.1", site.server.port) as proxy:
        with behind(site, proxy) as seen, pytest.raises(NotConnected, match="set send_buffer"):
            seen.client.send(count(1))


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"send_buffer": -1}, "send_buffer"),
        ({"send_buffer": 1.5}, "send_buffer"),
        ({"send_buffer": 1, "send_buffer_overflow": "drop"}, "send_buffer_overflow"),
        ({"send_buffer_overflow": "drop_oldest"}, "send_buffer_overflow needs send_buffer"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        ReconnectConfig(url="ws://127.0.0.1:9/ws", **settings)
