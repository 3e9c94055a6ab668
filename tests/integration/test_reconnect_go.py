"""The client and Go hubs of both kinds: joined messages, their silence, their impatience."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tests.integration.clients import Seen
from tests.integration.gohub import GoHub
from tests.support import TIMEOUT, wait_until
from ws_hub import Message

RELEASES = ("13d9422", "HEAD")
Release = Any


def event(data: Any) -> dict[str, Any]:
    return {"type": "event", "data": data}


@pytest.mark.parametrize("release", RELEASES)
def test_a_subscription_reaches_either_kind(release: Release) -> None:
    with GoHub(release) as hub, Seen(hub.url) as seen:
        seen.client.subscribe("process:build-42")
        seen.start()
        hub.wait_subscribed("process:build-42")
        hub.send_to_channel("process:build-42", {"type": "process_output", "data": "Compiling..."})
        seen.wait_data("Compiling...")
        (message,) = seen.messages()
        assert message.channel == "process:build-42"
        assert message.timestamp.endswith("+01:00")
        seen.client.unsubscribe("process:build-42")
        hub.wait_unsubscribed("process:build-42")


@pytest.mark.parametrize("release", RELEASES)
def test_messages_joined_in_one_frame_are_delivered_one_by_one(release: Release) -> None:
    with GoHub(release) as hub, Seen(hub.url) as seen:
        seen.start()
        seen.wait("connect")
        wait_until(lambda: hub.clients)
        hub.broadcast(*(event(n) for n in range(200)))
        seen.wait_data(*range(200))


def test_a_joined_text_of_many_small_frames_is_assembled() -> None:
    texts = [f"<{n}> & ü\u2028 " + "x" * 5000 for n in range(200)]
    with GoHub() as hub, Seen(hub.url) as seen:
        seen.start()
        seen.wait("connect")
        wait_until(lambda: hub.clients)
        hub.broadcast(*(event(text) for text in texts))
        seen.wait_data(*texts)


def test_a_go_hub_is_recognised_by_its_pong_which_is_not_delivered() -> None:
    with GoHub() as hub, Seen(hub.url) as seen:
        seen.start()
        wait_until(lambda: seen.client.extensions is False, what="recognised")
        hub.broadcast(event(1))
        seen.wait_data(1)
        assert not seen.of("error")


def test_the_applications_own_ping_is_answered() -> None:
    with GoHub() as hub, Seen(hub.url) as seen:
        seen.start()
        wait_until(lambda: seen.client.extensions is False)
        seen.client.send(Message("ping"))
        wait_until(lambda: seen.messages("pong"))


@pytest.mark.parametrize("release", RELEASES)
def test_a_stopping_hub_closes_without_a_code_and_the_client_comes_back(release: Release) -> None:
    with GoHub(release) as hub, Seen(hub.url) as seen:
        seen.client.subscribe("news")
        seen.start()
        hub.wait_subscribed("news")
        hub.stop()
        assert seen.wait("disconnect") == (1005, "", True)
        hub.wait_subscribed("news")
        assert seen.wait("reconnect") == (1,)
        hub.send_to_channel("news", event("again"))
        seen.wait_data("again")


def test_a_connection_lost_without_a_close_frame_is_1006() -> None:
    with GoHub() as hub, Seen(hub.url) as seen:
        seen.start()
        seen.wait("connect")
        hub.cut()
        code, reason, will_retry = seen.wait("disconnect")
        assert (code, will_retry) == (1006, True)
        assert reason
        seen.wait("connect", 2)


def test_pings_are_answered_while_a_callback_sleeps() -> None:
    with GoHub(heartbeat=0.05, pong_timeout=TIMEOUT) as hub, Seen(hub.url) as seen:
        woken, asleep = threading.Event(), threading.Event()

        def sleep(event: tuple[Any, ...]) -> None:
            if event[0] == "message":
                asleep.set()
                woken.wait(TIMEOUT)

        seen.hook = sleep
        seen.start()
        seen.wait("connect")
        wait_until(lambda: hub.clients)
        hub.broadcast(event(1))
        assert asleep.wait(TIMEOUT)
        before = hub.pongs
        wait_until(lambda: hub.pongs >= before + 20, what="20 pongs")
        assert hub.timeouts == 0 and hub.clients == 1
        woken.set()


def test_pings_are_answered_with_a_full_queue_and_the_loss_is_reported() -> None:
    with (
        GoHub(heartbeat=0.05, pong_timeout=TIMEOUT) as hub,
        Seen(hub.url, queue_size=4, queue_patience=0.1) as seen,
    ):
        woken, asleep = threading.Event(), threading.Event()

        def sleep(event: tuple[Any, ...]) -> None:
            if event[0] == "message":
                asleep.set()
                woken.wait(TIMEOUT)

        seen.hook = sleep
        seen.start()
        seen.wait("connect")
        wait_until(lambda: hub.clients)
        hub.broadcast(event(0))
        assert asleep.wait(TIMEOUT)
        hub.broadcast(*(event(n) for n in range(1, 21)))
        before = hub.pongs
        wait_until(lambda: hub.pongs >= before + 20, what="20 pongs")
        assert hub.timeouts == 0 and hub.clients == 1
        woken.set()
        (lost,) = seen.wait("error")
        assert (type(lost).__name__, lost.count) == ("MessagesLost", 16)
        assert seen.data() == [0, 1, 2, 3, 4]
        hub.broadcast(event("after"))
        seen.wait_data(0, 1, 2, 3, 4, "after")


def test_a_short_stall_with_a_full_queue_loses_nothing() -> None:
    with GoHub() as hub, Seen(hub.url, queue_size=4, queue_patience=TIMEOUT) as seen:
        woken, asleep = threading.Event(), threading.Event()

        def sleep(event: tuple[Any, ...]) -> None:
            if event[0] == "message" and event[1].data == 0:
                asleep.set()
                woken.wait(TIMEOUT)

        seen.hook = sleep
        seen.start()
        seen.wait("connect")
        wait_until(lambda: hub.clients)
        hub.broadcast(*(event(n) for n in range(200)))
        assert asleep.wait(TIMEOUT)
        woken.set()
        seen.wait_data(*range(200))
        assert not seen.of("error")


def test_what_the_hub_cannot_parse_it_ignores_and_so_does_the_client() -> None:
    with GoHub() as hub, Seen(hub.url) as seen:
        seen.start()
        wait_until(lambda: seen.client.extensions is False)
        seen.client.send(Message("my_own_type", data={"a": 1}))
        hub.broadcast({"type": "error", "data": "Subscribe: invalid channel name"})
        seen.wait_data("Subscribe: invalid channel name", kind="error")
