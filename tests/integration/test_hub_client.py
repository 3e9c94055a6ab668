"""The client for tests: what it expects, what it says when that does not come, how it ends."""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Callable
from typing import Any
from unittest.mock import ANY

import pytest

from tests.harness import parked
from tests.integration.gohub import RawServer, ServerPeer
from ws_hub import (
    AuthResult,
    BearerTokenAuth,
    ChannelRule,
    Client,
    ConfigError,
    ConnectionClosed,
    HandshakeRefused,
    Hub,
    HubConfig,
    Message,
    MessageEncodeError,
    Server,
    serve,
)
from ws_hub.testing import FaultProxy, HubClient

Connect = Callable[..., HubClient]

# --- expect --------------------------------------------------------------------------------


def test_expect_returns_what_matches_and_keeps_the_rest(hub: Hub, hub_client: Connect) -> None:
    client = hub_client()
    client.subscribe("news")
    for n in range(3):
        hub.send_to_channel("news", Message("event", data=n))
    hub.broadcast(Message("alarm", data={"level": 3, "at": "noon"}))

    assert client.expect(type="alarm", data={"level": 3, "at": ANY}).channel == ""
    assert client.expect(channel="news", data=1).type == "event"
    assert [message.data for message in client.received] == [0, 2]
    assert [client.expect().data, client.expect().data] == [0, 2]
    assert client.received == []


@pytest.mark.parametrize("data", [None, 0, False, "", [], {}])
def test_data_that_is_false_is_a_condition_too(hub: Hub, hub_client: Connect, data: object) -> None:
    client = hub_client()
    hub.broadcast(Message("a", data=7))
    hub.broadcast(Message("b", data=data))

    assert client.expect(data=data).type == "b"


def test_expect_waits_for_what_comes_later(hub: Hub, hub_client: Connect) -> None:
    client = hub_client()
    client.send(Message("ping", id=1))
    client.expect(type="pong")
    found: list[Message] = []
    thread = threading.Thread(target=lambda: found.append(client.expect(type="late")))
    thread.start()
    hub.broadcast(Message("late", data=1))
    thread.join()

    assert [message.data for message in found] == [1]


def test_a_failure_lists_what_has_arrived(hub: Hub, hub_client: Connect) -> None:
    client = hub_client()
    client.subscribe("news")
    hub.send_to_channel("news", Message("event", data=1))
    hub.broadcast(Message("event", data="x" * 1000))
    client.expect(data=1)
    client.round_trip()

    with pytest.raises(AssertionError) as caught:
        client.expect(type="alarm", channel="news", data=[2], timeout=0.01)
    first, *arrived = str(caught.value).splitlines()
    assert first == (
        "a message with type='alarm', channel='news', data=[2] has not arrived; "
        "the connection is open; arrived: 2"
    )
    assert arrived[0].startswith('  {"type":"event","channel":"news","data":1,"timestamp":')
    assert arrived[0].endswith("(returned by an expect)")
    assert arrived[1].startswith('  {"type":"event","data":"xxx')
    assert arrived[1].endswith("xxx...")
    assert len(arrived[1]) < 320


def test_a_failure_lists_the_newest_of_many(hub: Hub, hub_client: Connect) -> None:
    client = hub_client()
    for n in range(25):
        hub.broadcast(Message("event", data=n))
    client.round_trip()

    with pytest.raises(AssertionError) as caught:
        client.expect(data=99, timeout=0)
    lines = str(caught.value).splitlines()
    assert lines[1] == "  (5 earlier ones)"
    assert '"data":5,' in lines[2]
    assert '"data":24,' in lines[-1]


def test_expect_fails_at_once_when_the_connection_has_ended(hub: Hub, hub_client: Connect) -> None:
    client = hub_client(timeout=60)
    hub.broadcast(Message("last"))
    hub.stop()

    with pytest.raises(AssertionError, match=r"closed, 1001 .*; arrived: 1"):
        client.expect(type="more")  # not after a minute: the test would have timed out
    assert client.expect(type="last")


def test_what_is_no_message_fails_an_expect() -> None:
    def speak(peer: ServerPeer) -> None:
        peer.accept()
        peer.send_frame(0x1, b"not json")
        assert peer.recv_frame().opcode == 0x8
        peer.send_close()

    with RawServer(speak) as server, HubClient(server.url) as client:
        with pytest.raises(AssertionError, match="not a message: not json"):
            client.expect()
        with pytest.raises(AssertionError, match="event.*not arrived(.|\n)*not a message"):
            client.expect(type="event", timeout=0)


# --- expect_nothing ------------------------------------------------------------------------


def test_expect_nothing_sees_what_was_published_before(hub: Hub, hub_client: Connect) -> None:
    """However the threads run: the round trip goes through the same queue."""
    client = hub_client()
    for n in range(200):
        hub.broadcast(Message("event", data=n))
        with pytest.raises(AssertionError, match=f'was not to arrive(.|\n)*"data":{n},'):
            client.expect_nothing()
        client.expect(data=n, timeout=0)


def test_a_round_trip_ends_behind_what_the_hub_has_yet_to_deliver(
    hub: Hub, hub_client: Connect
) -> None:
    """A ping would be answered while the hub thread stands still."""
    client = hub_client()
    with parked(hub):
        hub.broadcast(Message("event", data=1))
        with pytest.raises(AssertionError, match="a round trip: no answer; .*arrived: nothing"):
            client.round_trip(timeout=0.2)
    client.round_trip()
    client.expect(data=1, timeout=0)


def test_expect_nothing_passes_where_nothing_is_sent(hub: Hub, hub_client: Connect) -> None:
    first, second = hub_client(), hub_client()
    first.subscribe("news")
    hub.send_to_channel("news", Message("event", data=1))

    second.expect_nothing()
    first.expect_nothing(type="alarm")
    first.expect_nothing(channel="other")
    first.expect_nothing(data=2)
    with pytest.raises(AssertionError, match="channel='news' was not to arrive"):
        first.expect_nothing(channel="news")


def test_expect_nothing_for_a_time_sees_what_comes_meanwhile(hub: Hub, hub_client: Connect) -> None:
    client = hub_client()
    entered = threading.Event()

    def publish() -> None:
        entered.wait()
        hub.broadcast(Message("late"))

    thread = threading.Thread(target=publish)
    thread.start()
    entered.set()
    with pytest.raises(AssertionError, match="late"):
        client.expect_nothing(for_=30)  # ends as soon as it has come
    thread.join()
    client.expect(type="late")
    client.expect_nothing(for_=0.01)


def test_expect_nothing_proves_nothing_after_the_end(hub: Hub, hub_client: Connect) -> None:
    client = hub_client()
    hub.stop()
    client.closed()

    with pytest.raises(AssertionError, match="a round trip: no answer; the connection is closed"):
        client.expect_nothing()


def test_a_round_trip_asks_nothing_of_the_application(hub_client: Connect) -> None:
    """No authoriser, no callback and no subscription: nobody notices it but its client."""
    asked: list[object] = []

    def note(*arguments: object) -> bool:
        asked.append(arguments)
        return False

    with (
        Hub(
            HubConfig(
                channel_authoriser=note,
                publish_authoriser=note,
                rules=[ChannelRule("open", publish=True)],
                on_message=note,
                on_first_subscriber=note,
                on_last_unsubscribe=note,
            )
        ) as hub,
        serve(hub) as server,
    ):
        client = hub_client(server.url)
        client.round_trip()
        client.expect_nothing()

        assert asked == []
        assert hub.stats().bad_messages == 0


@pytest.mark.hub_config(on_message=lambda client, message: client.send(Message("answer")))
def test_a_round_trip_covers_what_the_client_has_sent(hub_client: Connect) -> None:
    client = hub_client()
    for _ in range(20):
        client.send(Message("question"))
    client.round_trip()

    assert [message.type for message in client.received] == ["answer"] * 20


def test_a_round_trip_that_is_not_answered_fails(hub_server: Server, hub_client: Connect) -> None:
    with FaultProxy(hub_server.host, hub_server.port) as proxy:
        client = hub_client(proxy.through(hub_server.url))
        proxy.black_hole()

        with pytest.raises(AssertionError, match="a round trip: no answer; .* open; .*: nothing"):
            client.round_trip(timeout=0.01)
        proxy.heal()
        client.round_trip()


# --- subscribe, send -----------------------------------------------------------------------


@pytest.mark.hub_config(rules=[ChannelRule(pattern="kept", history_messages=10)])
def test_subscribe_returns_the_acks_data(hub: Hub, hub_client: Connect) -> None:
    for n in range(3):
        hub.send_to_channel("kept", Message("event", data=n))
    client = hub_client()

    answer = client.subscribe("kept", last=2)
    assert (answer["channel"], answer["replayed"], answer["seq"]) == ("kept", 2, 3)
    assert [client.expect().data, client.expect().data] == [1, 2]
    again = hub_client().subscribe("kept", since=1, epoch=answer["epoch"])
    assert (again["recovered"], again["replayed"]) == (True, 2)


def test_after_unsubscribe_no_message_of_the_channel_comes(hub: Hub, hub_client: Connect) -> None:
    client = hub_client()
    client.subscribe("news")
    client.unsubscribe("news")
    hub.send_to_channel("news", Message("event"))

    client.expect_nothing()


@pytest.mark.hub_config(channel_authoriser=lambda client, channel: channel != "secret")
def test_a_refused_subscription_fails_or_is_expected(hub_client: Connect) -> None:
    client = hub_client()

    with pytest.raises(AssertionError, match="subscribe 'secret': refused, forbidden: Subscribe"):
        client.subscribe("secret")
    client.send(Message("subscribe", channel="secret"))
    assert client.expect(type="error", channel="secret").code == "forbidden"
    client.subscribe("open")


def test_a_text_is_sent_as_it_is(hub_client: Connect) -> None:
    client = hub_client()
    client.send("{")

    assert client.expect(type="error").code == "bad_message"


def test_a_reply_to_the_tests_own_id_is_a_message(hub_client: Connect) -> None:
    client = hub_client()
    client.send(Message("subscribe", channel="news", id=7))

    assert client.expect(type="ack").id == 7


def test_a_message_without_a_json_form_is_refused(hub_client: Connect) -> None:
    with pytest.raises(MessageEncodeError):
        hub_client().send(Message("event", data={1, 2}))


# --- the connection ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "accepted"),
    [({}, True), ({"origin": None}, False), ({"origin": "https://elsewhere.example"}, False)],
)
@pytest.mark.hub_config(require_origin=True)
def test_the_origin_is_that_of_the_server_unless_another_is_given(
    hub_client: Connect, settings: dict[str, Any], accepted: bool
) -> None:
    if accepted:
        hub_client(**settings).round_trip()
        return
    with pytest.raises(HandshakeRefused) as caught:
        hub_client(**settings)
    assert caught.value.status == 403


@pytest.mark.hub_config(
    authenticator=BearerTokenAuth(lambda token: AuthResult(token == "right", "anna")),
    auth_by_message=True,
)
@pytest.mark.parametrize("token_in", ["header", "subprotocol", "message"])
def test_a_token_is_sent_as_a_reconnecting_client_sends_it(
    hub: Hub, hub_client: Connect, token_in: str
) -> None:
    hub_client(token="right", token_in=token_in).round_trip()

    assert [each.user_id for each in hub.all_clients()] == ["anna"]


def test_a_setting_of_another_client_is_refused(hub_client: Connect) -> None:
    with pytest.raises(ConfigError, match="no setting max_retries, on_message; it has compression"):
        hub_client(on_message=print, max_retries=3)


def test_no_server_is_an_os_error() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionRefusedError):
            HubClient(f"ws://127.0.0.1:{sock.getsockname()[1]}/ws")


def test_the_end_has_the_servers_code_and_reason(hub: Hub, hub_client: Connect) -> None:
    client = hub_client()
    client.round_trip()
    (ours,) = hub.all_clients()
    ours.close(4001, "enough")

    assert client.closed() == (4001, "enough")
    with pytest.raises(ConnectionClosed) as caught:
        client.send(Message("event"))
    assert (caught.value.code, caught.value.reason) == (4001, "enough")
    with pytest.raises(AssertionError, match="subscribe 'a': no answer; .* closed, 4001 'enough'"):
        client.subscribe("a")


def test_an_end_without_a_close_frame_is_1006(hub_server: Server, hub_client: Connect) -> None:
    with FaultProxy(hub_server.host, hub_server.port) as proxy:
        client = hub_client(proxy.through(hub_server.url))
        proxy.reset()

        assert client.closed()[0] == 1006


def test_an_end_that_does_not_come_fails(hub_client: Connect) -> None:
    with pytest.raises(AssertionError, match="the end has not come; the connection is open"):
        hub_client().closed(timeout=0.01)


def test_close_is_seen_by_the_hub_with_its_code() -> None:
    ends: list[tuple[int, str]] = []
    over = threading.Event()

    def on_disconnect(client: Client, code: int, reason: str) -> None:
        ends.append((code, reason))
        over.set()

    with Hub(HubConfig(on_disconnect=on_disconnect)) as hub, serve(hub) as server:
        client = HubClient(server.url)
        client.round_trip()
        hub.broadcast(Message("event", data=1))
        client.round_trip()
        client.close(4000)
        client.close()
        assert over.wait(10)
        assert client.expect(data=1), "what has arrived can be expected after the end"
    assert ends == [(4000, "")]
    assert client.closed() == (1000, "")


@pytest.mark.slow
@pytest.mark.hub_config(heartbeat_interval=0.1, pong_timeout=1.5)
def test_a_client_answers_pings_while_the_test_does_other_things(
    hub: Hub, hub_client: Connect
) -> None:
    client = hub_client()

    client.expect_nothing(for_=4.5)  # three times as long as the hub waits for a pong
    assert hub.stats().pong_timeouts == 0


def test_many_threads_may_expect_at_the_same_time(hub: Hub, hub_client: Connect) -> None:
    """Each message goes to one of them."""
    client = hub_client()
    found: list[Any] = []
    threads = [
        threading.Thread(target=lambda: found.append(client.expect(type="event").data))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    numbers = itertools.count()
    for _ in threads:
        hub.broadcast(Message("event", data=next(numbers)))
    for thread in threads:
        thread.join()

    assert sorted(found) == list(range(8))
    client.expect_nothing()
