"""The client and our own hub: recovery exactly once, over cuts, restarts and overflows."""

from __future__ import annotations

import contextlib
import random
import threading
from typing import Any

import pytest

from tests.integration.clients import Seen
from tests.support import TIMEOUT, free_port, wait_until
from ws_hub import (
    AuthResult,
    BearerTokenAuth,
    ChannelRule,
    Hub,
    HubConfig,
    Message,
    ReconnectingClient,
    serve,
)
from ws_hub.errors import ConnectionClosed
from ws_hub.reconnect.client import MessagesLost
from ws_hub.reconnect.config import ReconnectConfig
from ws_hub.reconnect.retries import Retries
from ws_hub.testing import FaultProxy

KEEPS = HubConfig(
    rules=[ChannelRule(pattern="kept:*", history_messages=10_000)],
)


def event(data: Any) -> Message:
    return Message("event", data=data)


def recognised(seen: Seen) -> Seen:
    wait_until(lambda: seen.client.extensions is True, what="recognised")
    return seen


def test_our_own_hub_is_recognised_by_a_pong_which_is_not_delivered() -> None:
    with Hub(KEEPS) as hub, serve(hub) as server, Seen(server.url).start() as seen:
        seen.client.subscribe("kept:a")
        recognised(seen)
        wait_until(lambda: hub.has_subscribers("kept:a"))
        hub.send_to_channel("kept:a", event(1))
        seen.wait_data(1)
        assert not seen.of("error")


def test_a_late_subscription_gets_the_history_then_live_messages() -> None:
    with Hub(KEEPS) as hub, serve(hub) as server, Seen(server.url) as seen:
        for n in range(100):
            hub.send_to_channel("kept:a", event(n))
        seen.client.subscribe("kept:a", since=0)
        seen.start()
        wait_until(lambda: len(seen.data()) >= 100)
        hub.send_to_channel("kept:a", event(100))
        seen.wait_data(*range(101))
        assert [message.seq for message in seen.messages()] == list(range(1, 102))


def test_a_process_is_seen_from_its_first_line() -> None:
    with Hub() as hub, serve(hub) as server:
        hub.send_process_output("x", "early")
        client = ReconnectingClient(server.url)
        client.subscribe("process:x")
        with client:
            messages = iter(client)
            assert next(messages).data == "early"
            hub.send_process_output("x", "late")
            assert next(messages).data == "late"


@pytest.mark.parametrize("how", ["reset", "fin", "black_hole"])
def test_messages_missed_during_an_outage_are_delivered_once_in_order(how: str) -> None:
    with (
        Hub(KEEPS) as hub,
        serve(hub) as server,
        FaultProxy("127.0.0.1", server.port) as proxy,
        Seen(f"ws://127.0.0.1:{proxy.port}/ws", ping_interval=0.1, ping_timeout=0.2) as seen,
    ):
        seen.client.subscribe("kept:a")
        recognised(seen.start())
        wait_until(lambda: hub.has_subscribers("kept:a"))
        hub.send_to_channel("kept:a", event(0))
        seen.wait_data(0)
        getattr(proxy, how)()
        for n in range(1, 50):
            hub.send_to_channel("kept:a", event(n))
        seen.wait("disconnect")
        proxy.heal()
        seen.wait("connect", 2)
        wait_until(lambda: len(seen.data()) >= 50)
        hub.send_to_channel("kept:a", event(50))
        seen.wait_data(*range(51))
        assert not [each for each in seen.of("error") if isinstance(each[1], MessagesLost)]


@pytest.mark.parametrize("seed", range(5))
def test_exactly_once_while_threads_publish_and_the_network_breaks(seed: int) -> None:
    chance = random.Random(seed)
    with (
        Hub(KEEPS) as hub,
        serve(hub) as server,
        FaultProxy("127.0.0.1", server.port) as proxy,
        Seen(f"ws://127.0.0.1:{proxy.port}/ws", stable_after=0) as seen,
    ):
        seen.client.subscribe("kept:a", since=0)
        seen.start()

        def publish(worker: int) -> None:
            for n in range(300):
                hub.send_to_channel("kept:a", event([worker, n]))

        threads = [threading.Thread(target=publish, args=(worker,)) for worker in range(4)]
        for thread in threads:
            thread.start()
        for cut in range(1, 6):
            seen.wait("connect", cut)
            chance.choice([proxy.reset, proxy.fin])()
        for thread in threads:
            thread.join(TIMEOUT)
        wait_until(lambda: len(seen.data()) >= 1200, what="1200 messages")
        assert [message.seq for message in seen.messages()] == list(range(1, 1201))
        for worker in range(4):
            assert [n for who, n in seen.data() if who == worker] == list(range(300))
        assert not [each for each in seen.of("error") if isinstance(each[1], MessagesLost)]


def test_reconnect_to_a_restarted_server_reports_the_gap() -> None:
    with contextlib.ExitStack() as stack:
        hub = stack.enter_context(Hub(KEEPS))
        server = stack.enter_context(serve(hub, port=free_port()))
        seen = stack.enter_context(Seen(server.url))
        seen.client.subscribe("kept:a")
        recognised(seen.start())
        wait_until(lambda: hub.has_subscribers("kept:a"))
        hub.send_to_channel("kept:a", event("before"))
        seen.wait_data("before")
        server.close()
        hub.stop()
        assert seen.wait("disconnect") == (1001, "server going away", True)
        again = stack.enter_context(Hub(KEEPS))
        stack.enter_context(serve(again, port=server.port))
        seen.wait("reconnect")
        wait_until(lambda: again.has_subscribers("kept:a"))
        again.send_to_channel("kept:a", event("after"))
        seen.wait_data("before", "after")
        lost = [each[1] for each in seen.of("error") if isinstance(each[1], MessagesLost)]
        assert [(each.channel, each.count) for each in lost] == [("kept:a", None)]


def test_messages_no_longer_in_the_history_are_counted() -> None:
    config = HubConfig(rules=[ChannelRule(pattern="kept:*", history_messages=10)])
    with (
        Hub(config) as hub,
        serve(hub) as server,
        FaultProxy("127.0.0.1", server.port) as proxy,
        Seen(f"ws://127.0.0.1:{proxy.port}/ws") as seen,
    ):
        seen.client.subscribe("kept:a")
        recognised(seen.start())
        wait_until(lambda: hub.has_subscribers("kept:a"))
        hub.send_to_channel("kept:a", event(0))
        seen.wait_data(0)
        proxy.refuse()
        proxy.fin()
        seen.wait("disconnect")
        for n in range(1, 31):
            hub.send_to_channel("kept:a", event(n))
        proxy.accept()
        seen.wait_data(0, *range(21, 31))
        lost = [each[1] for each in seen.of("error") if isinstance(each[1], MessagesLost)]
        assert [(each.channel, each.count) for each in lost] == [("kept:a", 20)]


def test_a_slow_callback_gets_every_message_later(caplog: pytest.LogCaptureFixture) -> None:
    with (
        Hub(KEEPS) as hub,
        serve(hub) as server,
        Seen(server.url, queue_size=8, queue_patience=0.05, max_message_size=9000) as seen,
    ):
        inside, leave = threading.Event(), threading.Event()

        def block(event: tuple[Any, ...]) -> None:
            if event[0] == "message" and event[1].data == 0:
                inside.set()
                leave.wait(TIMEOUT)

        seen.hook = block
        seen.client.subscribe("kept:a")
        recognised(seen.start())
        wait_until(lambda: hub.has_subscribers("kept:a"))
        hub.send_to_channel("kept:a", event(0))
        assert inside.wait(TIMEOUT)
        for n in range(1, 200):
            hub.send_to_channel("kept:a", event(n))
        # Once this is reported as too large, all of them have met a queue that is full.
        hub.send_event("x" * 9000)
        wait_until(lambda: "max_message_size" in caplog.text, what="the queue refuses")
        leave.set()
        seen.wait_data(*range(200))
        errors = [error for _, error in seen.of("error")]
        assert [(error.channel, error.count) for error in errors] == [("", None)]
        assert not seen.of("disconnect")


def test_a_client_that_lags_behind_the_servers_outbox_catches_up() -> None:
    config = HubConfig(
        rules=[ChannelRule(pattern="kept:*", history_messages=10_000, history_bytes=1 << 26)],
        outbox_bytes=1 << 20,
    )
    with (
        Hub(config) as hub,
        serve(hub) as server,
        FaultProxy("127.0.0.1", server.port) as proxy,
        Seen(f"ws://127.0.0.1:{proxy.port}/ws") as seen,
    ):
        seen.client.subscribe("kept:a")
        recognised(seen.start())
        wait_until(lambda: hub.has_subscribers("kept:a"))
        hub.send_to_channel("kept:a", event(""))
        seen.wait("message")
        proxy.black_hole()
        text, sent = "x" * 60_000, 1
        while not hub.stats().dropped:
            assert sent < 1000, "the outbox and all the buffers on the way hold less"
            hub.send_to_channel("kept:a", event(text))
            sent += 1
        proxy.heal()
        wait_until(lambda: len(seen.messages("event")) >= sent, 20.0)
        assert [m.seq for m in seen.messages("event")] == list(range(1, sent + 1))
        assert seen.messages("lagged")
        assert not seen.of("error") and not seen.of("disconnect")


def test_an_unsubscription_is_forgotten_by_the_next_connection() -> None:
    with (
        Hub(KEEPS) as hub,
        serve(hub) as server,
        FaultProxy("127.0.0.1", server.port) as proxy,
        Seen(f"ws://127.0.0.1:{proxy.port}/ws") as seen,
    ):
        seen.client.subscribe("a")
        seen.client.subscribe("b")
        recognised(seen.start())
        wait_until(lambda: set(hub.all_channels()) == {"a", "b"})
        seen.client.unsubscribe("a")
        wait_until(lambda: set(hub.all_channels()) == {"b"})
        proxy.fin()
        seen.wait("connect", 2)
        recognised(seen)
        wait_until(lambda: set(hub.all_channels()) == {"b"})


def test_a_refused_subscription_is_delivered_as_an_error() -> None:
    with Hub(KEEPS) as hub, serve(hub) as server, Seen(server.url) as seen:
        seen.client.subscribe("no such name!")
        seen.start()
        (message,) = wait_until(lambda: seen.messages("error"))
        assert message.code == "bad_channel"
        assert not seen.of("error")


def test_fault_50_clients_return_spread_after_a_restart() -> None:
    draw = random.Random(7).random
    waits = []
    for _ in range(1000):
        retries = Retries(ReconnectConfig(url="ws://a/", initial_backoff=10.0), draw)
        failure = ConnectionClosed(1012)
        retries.failed(failure)
        waits.append(retries.wait(failure))
    peak = max(sum(1 for wait in waits if start <= wait < start + 1) for start in range(10))
    assert peak < 1000 / 5


# --- who we are ----------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["header", "subprotocol", "message"])
def test_each_connection_sends_a_fresh_token(way: Any) -> None:
    tokens: list[str] = []

    def fresh() -> str:
        tokens.append(f"token/{len(tokens)}+é")
        return tokens[-1]

    def validate(token: str) -> AuthResult:
        return AuthResult(token == tokens[-1], "ann", {"token": token})

    config = HubConfig(authenticator=BearerTokenAuth(validate), auth_by_message=True)
    with Hub(config) as hub, serve(hub) as server, FaultProxy(server.host, server.port) as proxy:
        url = f"ws://{proxy.host}:{proxy.port}/ws"
        with Seen(url, token=fresh, token_in=way).start() as seen:
            seen.client.subscribe("news")
            recognised(seen)
            wait_until(lambda: hub.has_subscribers("news"))
            used = lambda: [each.claims["token"] for each in hub.user_clients("ann")]  # noqa: E731
            assert used() == ["token/0+é"]
            proxy.reset()
            # the hub may find out later that the first connection has ended
            wait_until(lambda: used() == ["token/1+é"], what="the second connection alone")
            hub.send_to_user("ann", event("hello again"))
            seen.wait_data("hello again")


@pytest.mark.parametrize(("way", "code"), [("header", 401), ("message", 4401)])
def test_a_client_with_a_refused_token_does_not_reconnect(way: Any, code: int) -> None:
    refuse = BearerTokenAuth(lambda token: AuthResult(False))
    config = HubConfig(authenticator=refuse, auth_by_message=True)
    with Hub(config) as hub, serve(hub) as server:
        with Seen(server.url, token="old", token_in=way).connect() as seen:
            failure = seen.outcome()
            assert getattr(failure, "status", getattr(failure, "code", None)) == code
            assert hub.stats().unauthenticated == 1


def test_a_token_function_that_raises_is_retried_and_not_logged() -> None:
    answers: list[Any] = [KeyError("s3cret"), 5, "two\nlines", "", "good"]

    def fresh() -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    config = HubConfig(authenticator=BearerTokenAuth(lambda t: AuthResult(t == "good", "ann")))
    with Hub(config) as hub, serve(hub) as server, Seen(server.url, token=fresh).start() as seen:
        wait_until(lambda: hub.user_clients("ann"))
        errors = [str(error) for _, error in seen.of("error")]
        assert errors == [
            "token raised KeyError: it must return one line of text",
            *3 * ["token must return one line of text"],
        ]
