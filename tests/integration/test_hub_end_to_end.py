"""What a hub does for its clients, from the publishing thread to a bare socket."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.harness import parked
from tests.integration.apps.live import Live, at_once, live, subscribe
from tests.support import PING, TIMEOUT, wait_until
from ws_hub import (
    ChannelRule,
    Client,
    ConnectionClosed,
    Hub,
    HubNotRunning,
    InvalidName,
    LimitExceeded,
    Message,
    SendTimeout,
)


@pytest.fixture
def hub() -> Iterator[Live]:
    with live() as made:
        yield made


def said(data: Any) -> Message:
    return Message("event", data=data)


# --- publishing ----------------------------------------------------------------------------


def test_a_broadcast_reaches_every_client_in_order(hub: Live) -> None:
    with hub.peer() as one, hub.peer() as two:
        for number in range(100):
            hub.hub.broadcast(said(number))
        for peer in (one, two):
            assert [peer.recv_json()["data"] for _ in range(100)] == list(range(100))


def test_a_channel_message_reaches_its_subscribers_only(hub: Live) -> None:
    with hub.subscribed("a") as a1, hub.subscribed("a") as a2, hub.subscribed("b") as b:
        hub.hub.send_to_channel("a", said("to a"))
        hub.hub.broadcast(said("to all"))
        for peer in (a1, a2):
            first, second = peer.recv_json(), peer.recv_json()
            assert (first["channel"], first["data"]) == ("a", "to a")
            assert second["data"] == "to all" and "channel" not in second
        assert b.recv_json()["data"] == "to all"


def test_messages_of_several_channels_keep_the_order_of_publishing(hub: Live) -> None:
    with hub.subscribed("a", "b") as both, hub.subscribed("b") as one:
        for number in range(60):
            hub.hub.send_to_channel("a" if number % 3 else "b", said(number))
        assert [both.recv_json()["data"] for _ in range(60)] == list(range(60))
        assert [one.recv_json()["data"] for _ in range(20)] == list(range(0, 60, 3))


def test_each_message_is_one_websocket_message_with_a_utc_timestamp(hub: Live) -> None:
    with hub.peer() as peer:
        hub.hub.send_event("deployed", {"ok": True})
        hub.hub.send_error("no disk")
        event, error = peer.recv_json(), peer.recv_json()
    assert event["data"] == {"event": "deployed", "data": {"ok": True}}
    assert (error["type"], error["data"]) == ("error", "no disk")
    assert event["timestamp"].endswith("Z")


def test_process_output_and_status_reach_the_subscribers(hub: Live) -> None:
    with hub.subscribed("process:b1") as viewer, hub.peer() as stranger:
        hub.hub.send_process_status("b1", "running")
        hub.hub.send_process_output("b1", "compiling")
        hub.hub.send_process_status("b1", "exited", -9, extra={"signal": "SIGKILL"})
        hub.hub.broadcast(said("marker"))
        running, output, exited = (viewer.recv_json() for _ in range(3))
        assert stranger.recv_json()["data"] == "marker"
    assert list(output)[:4] == ["type", "channel", "processId", "data"]
    assert running["data"] == {"status": "running"}
    assert (output["type"], output["channel"]) == ("process_output", "process:b1")
    assert (output["processId"], output["data"]) == ("b1", "compiling")
    assert exited["data"] == {"status": "exited", "exitCode": -9, "signal": "SIGKILL"}
    assert [each["seq"] for each in (running, output, exited)] == [1, 2, 3]


def test_falsy_data_is_sent_and_null_is_left_out(hub: Live) -> None:
    with hub.peer() as peer:
        for value in ("", 0, False, []):
            hub.hub.broadcast(said(value))
        hub.hub.broadcast(said(None))
        assert [peer.recv_json()["data"] for _ in range(4)] == ["", 0, False, []]
        assert "data" not in peer.recv_json()


def test_nothing_is_published_by_a_hub_that_does_not_run() -> None:
    hub = Hub()
    for publish in (
        lambda: hub.broadcast(said(1)),
        lambda: hub.send_to_channel("a", said(1)),
        lambda: hub.send_process_output("p", "x"),
        lambda: hub.send_event("e"),
    ):
        with pytest.raises(HubNotRunning):
            publish()


def test_a_bad_name_is_refused_where_it_is_used(hub: Live) -> None:
    for name in ("", "a b", "process:", "process:a:b", "x" * 257, "*", "a\n"):
        with pytest.raises(InvalidName):
            hub.hub.send_to_channel(name, said(1))
    with pytest.raises(InvalidName):
        hub.hub.send_process_output("a:b", "x")
    with pytest.raises(InvalidName):
        hub.hub.listen("a b", print)


# --- subscribing ---------------------------------------------------------------------------


def test_a_go_client_subscribes_with_data_and_hears_no_ack(hub: Live) -> None:
    with hub.peer() as peer:
        peer.send_json({"type": "subscribe", "data": "news"})
        peer.send_json({"type": "ping"})
        assert peer.recv_json()["type"] == "pong"
        assert hub.client().subscriptions() == ["news"]


def test_the_ack_says_what_there_is(hub: Live) -> None:
    hub.hub.send_process_output("p", "one")
    hub.hub.send_process_output("p", "two")
    with hub.peer() as peer:
        assert subscribe(peer, "plain") == {"channel": "plain"}
        data = subscribe(peer, "process:p", since=0)
        epoch = data.pop("epoch")
        assert data == {"channel": "process:p", "seq": 2, "recovered": True, "replayed": 2}
        assert [peer.recv_json()["data"] for _ in range(2)] == ["one", "two"]
        data = subscribe(peer, "process:p", since=1, epoch=epoch)
        assert (data["replayed"], data["recovered"]) == (1, True)
        assert peer.recv_json()["seq"] == 2
        assert subscribe(peer, "process:p", since=1, epoch="other")["recovered"] is False


def test_an_old_frontend_gets_all_that_a_process_printed(hub: Live) -> None:
    hub.hub.send_process_output("p", "one")
    with hub.peer() as peer:
        peer.send_json({"type": "subscribe", "data": "process:p"})
        assert peer.recv_json()["data"] == "one"


def test_after_the_ack_of_unsubscribe_no_message_comes(hub: Live) -> None:
    over = threading.Event()

    def publish() -> None:
        while not over.is_set():
            hub.hub.send_to_channel("a", said("a"))

    with hub.subscribed("a", "b") as peer, at_once(publish):
        try:
            for _ in range(20):
                peer.recv_json()
                peer.send_json({"type": "unsubscribe", "data": "a", "id": "u"})
                while peer.recv_json().get("id") != "u":
                    pass
                hub.hub.send_to_channel("b", said("marker"))
                assert peer.recv_json()["data"] == "marker"
                peer.send_json({"type": "subscribe", "channel": "a"})
        finally:
            over.set()


def test_the_server_can_subscribe_and_unsubscribe_a_client(hub: Live) -> None:
    with hub.peer() as peer:
        client = hub.client()
        hub.hub.subscribe(client, "a")
        hub.hub.subscribe(client, "a")
        assert hub.hub.channel_subscriber_count("a") == 1 and hub.hub.has_subscribers("a")
        assert hub.hub.clients("a") == [client] and hub.hub.all_channels() == ["a"]
        hub.hub.send_to_channel("a", said(1))
        assert peer.recv_json()["data"] == 1
        assert hub.hub.unsubscribe(client, "a") is True
        assert hub.hub.unsubscribe(client, "a") is False
        assert not hub.hub.has_subscribers("a") and hub.hub.channel_count() == 0
    hub.empty()
    with pytest.raises(ConnectionClosed):
        hub.hub.subscribe(client, "a")


def test_a_client_gets_an_error_over_its_bound_of_subscriptions() -> None:
    with live(max_subscriptions=2) as hub, hub.subscribed("a", "b") as peer:
        peer.send_json({"type": "subscribe", "channel": "c", "id": 7})
        answer = peer.recv_json()
        assert answer["data"] == "subscription limit exceeded"
        assert (answer["id"], answer["code"], answer["channel"]) == (7, "limit", "c")
        with pytest.raises(LimitExceeded):
            hub.hub.subscribe(hub.client(), "d")
        subscribe(peer, "a")  # again is no change


def test_first_and_last_subscribers_are_told_in_order() -> None:
    news: queue.Queue[tuple[str, str]] = queue.Queue()
    settings = {
        "on_first_subscriber": lambda channel: news.put(("first", channel)),
        "on_last_unsubscribe": lambda channel: news.put(("last", channel)),
    }
    with live(**settings) as hub:
        with hub.subscribed("a") as one, hub.subscribed("a", "b"):
            one.send_json({"type": "unsubscribe", "channel": "a"})
        with contextlib.closing(hub.hub.listen("c", print)):
            pass
        got = [news.get(timeout=TIMEOUT) for _ in range(6)]
    assert got[:2] == [("first", "a"), ("first", "b")]
    for channel in "abc":
        assert [what for what, name in got if name == channel] == ["first", "last"]


def test_a_producer_can_be_started_and_stopped_on_demand() -> None:
    """The news come on a thread that may publish and wait."""
    stopped = threading.Event()

    def first(channel: str) -> None:
        hub.hub.send_to_channel(channel, said("made for you"))

    with live(on_first_subscriber=first, on_last_unsubscribe=lambda _: stopped.set()) as hub:
        with hub.subscribed("a") as peer:
            assert peer.recv_json()["data"] == "made for you"
        assert stopped.wait(TIMEOUT)


# --- inside the process --------------------------------------------------------------------


def test_a_listener_hears_a_channel_until_it_is_closed(hub: Live) -> None:
    heard: queue.Queue[Message] = queue.Queue()
    listener = hub.hub.listen("process:p", heard.put)
    hub.hub.send_process_output("p", "one")
    message = heard.get(timeout=TIMEOUT)
    assert (message.data, message.seq, message.channel) == ("one", 1, "process:p")
    listener.close()
    listener.close()
    hub.hub.send_process_output("p", "two")
    marker: queue.Queue[Message] = queue.Queue()
    with contextlib.closing(hub.hub.listen("m", marker.put)):
        hub.hub.send_to_channel("m", said("marker"))
        marker.get(timeout=TIMEOUT)
    assert heard.empty()


def test_listener_that_raises_or_sleeps_delays_no_client(
    hub: Live, caplog: pytest.LogCaptureFixture
) -> None:
    release = threading.Event()
    caplog.set_level(logging.CRITICAL, "ws_hub.hub.hub")

    def refuse(message: Message) -> None:
        release.wait(TIMEOUT)
        raise RuntimeError("no")

    with contextlib.closing(hub.hub.listen("a", refuse)), hub.subscribed("a") as peer:
        hub.hub.send_to_channel("a", said(1))
        assert peer.recv_json()["data"] == 1
        release.set()
        wait_until(lambda: hub.hub.stats().callback_errors == 1)


# --- one client ----------------------------------------------------------------------------


def test_send_reaches_one_client_in_order_with_broadcasts_of_the_same_thread(hub: Live) -> None:
    with hub.peer() as peer, hub.peer() as other:
        first = hub.hub.all_clients()[0]
        first.send(said("yours"))
        hub.hub.broadcast(said("all's"))
        assert [peer.recv_json()["data"], other.recv_json()["data"]] == ["yours", "all's"]


def test_send_waits_for_room_and_gives_up_in_time() -> None:
    with live(outbox_bytes=100_000, on_connect=None) as hub, hub.peer(rcvbuf=4096) as peer:
        client = hub.client()
        big = said("x" * 50_000)
        count = 0
        with pytest.raises(SendTimeout):
            while True:
                client.send(big, timeout=0.05)
                count += 1
        assert client.waiting[0] >= 1
        sent = threading.Event()

        def send() -> None:
            client.send(said("waited"))
            sent.set()

        with at_once(send):
            for _ in range(count):
                assert len(peer.recv_json()["data"]) == 50_000
            assert peer.recv_json()["data"] == "waited"
        assert sent.is_set()


def test_a_waiting_send_ends_with_the_connection() -> None:
    with live(outbox_bytes=10_000) as hub, hub.peer(rcvbuf=4096):
        client = hub.client()
        raised: list[BaseException] = []

        def send() -> None:
            try:
                while True:
                    client.send(said("x" * 9_000))
            except ConnectionClosed as error:
                raised.append(error)

        with at_once(send):
            wait_until(lambda: client.waiting[0], what="a full outbox")
            client.abort()
        assert len(raised) == 1
    with pytest.raises(ConnectionClosed):
        client.send(said(1), timeout=0)


def test_close_sends_what_waits_first_and_only_the_first_code_counts() -> None:
    with live() as hub, hub.peer(rcvbuf=4096) as peer:
        client = hub.client()
        for number in range(200):
            client.send(said([number, "x" * 10_000]))
        client.close(4001, "enough")
        client.close(4002, "too late")
        assert [peer.recv_json()["data"][0] for _ in range(200)] == list(range(200))
        assert peer.recv_close() == (4001, "enough")
        peer.send_close(4001)
        assert peer.recv_eof() == b""
        assert hub.notes.end() == (4001, "enough")
        with pytest.raises(ConnectionClosed) as closed:
            client.send(said(1))
        assert closed.value.code == 4001


@pytest.mark.parametrize("code", [1006, 999, 1015, 2000, 5000])
def test_a_code_that_must_not_be_sent_is_refused(hub: Live, code: int) -> None:
    with hub.peer() as peer:
        with pytest.raises(ValueError, match=str(code)):
            hub.client().close(code)
        hub.hub.broadcast(said("still here"))
        assert peer.recv_json()["data"] == "still here"


def test_what_is_known_of_a_client(hub: Live) -> None:
    with hub.subscribed("a", "b") as peer:
        client = hub.client()
        host, port = peer.sock.getsockname()
        assert client.remote_address == f"{host}:{port}"
        assert client.subscriptions() == ["a", "b"]
        assert (client.dropped, client.last_error, client.state) == (0, "", {})
        client.state["cart"] = 1
        assert hub.hub.all_clients()[0].state == {"cart": 1}
        assert hub.hub.stats().subscriptions == 2


# --- requests ------------------------------------------------------------------------------


def test_what_on_message_returns_is_the_answer() -> None:
    def on_message(client: Client, message: Message) -> object:
        return {"set": {1}} if message.data == "bad" else message.data

    with live(on_message=on_message) as hub, hub.peer() as peer:
        peer.send_json({"type": "ask", "data": [1], "id": 5})
        answer = peer.recv_json()
        assert (answer["type"], answer["id"], answer["data"]) == ("ack", 5, [1])
        peer.send_json({"type": "ask", "data": "bad", "id": "x"})
        answer = peer.recv_json()
        assert (answer["type"], answer["id"], answer["code"]) == ("error", "x", "internal")
        peer.send_json({"type": "tell"})  # no id, no answer
        peer.send_json({"type": "ping", "id": "p"})
        assert peer.recv_json() == {**peer_pong("p"), "timestamp": ANY}


class _Any:
    def __eq__(self, other: object) -> bool:
        return True


ANY = _Any()


def peer_pong(id: str) -> dict[str, Any]:
    return {"type": "pong", "id": id}


# --- what clients publish ------------------------------------------------------------------


def test_a_client_publishes_only_where_the_channels_rule_allows_it() -> None:
    rules = [ChannelRule(pattern="chat", publish=True)]
    with live(rules=rules) as hub, hub.subscribed("chat", "news") as one, hub.peer() as two:
        two.send_json({"type": "publish", "channel": "news", "data": "psst"})
        refusal = two.recv_json()
        assert (refusal["type"], refusal["code"]) == ("error", "forbidden")
        text = "Publish: not allowed: no rule of the server lets clients publish there"
        assert (refusal["data"], refusal["channel"]) == (text, "news")
        two.send_json({"type": "publish", "channel": "chat", "data": {"hello": "you"}})
        two.send_json({"type": "publish", "channel": "chat", "id": 1})
        answer = two.recv_json()
        assert (answer["type"], answer["id"], answer["data"]) == ("ack", 1, {"channel": "chat"})
        first, second = one.recv_json(), one.recv_json()
        assert (first["type"], first["channel"], first["data"]) == (
            "event",
            "chat",
            {"hello": "you"},
        )
        assert "data" not in second and second["timestamp"]


def refused(hub: Live, *channels: str) -> None:
    """Have a client publish where it may not, in turn."""
    with hub.peer() as peer:
        for channel in channels:
            peer.send_json({"type": "publish", "channel": channel, "data": 1})
            assert peer.recv_json()["code"] == "forbidden"


def test_a_publish_that_no_rule_allows_is_logged_with_the_setting_once_a_rule(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rules = [ChannelRule(pattern="chat:*", publish=True), ChannelRule(pattern="news:*")]
    with live(rules=rules) as hub:
        refused(hub, *(f"{name}:{number}" for number in range(3) for name in ("news", "other")))
        refused(hub, "other:0")
    texts = warnings(caplog)
    assert len(texts) == 2, texts
    assert "may not publish to 'news:0': its rule is without publish=True" in texts[0]
    assert "set ChannelRule('news:*', ..., publish=True)" in texts[0]
    assert "may not publish to 'other:0': no rule of the settings is for that channel" in texts[1]
    assert "add ChannelRule('other:0', publish=True)" in texts[1]


def test_a_publish_that_the_authoriser_refuses_is_logged_once_with_its_name(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def nobody_may(client: Client, channel: str) -> bool:
        return False

    rules = [ChannelRule(pattern="chat:*", publish=True)]
    with live(rules=rules, publish_authoriser=nobody_may) as hub:
        refused(hub, "chat:1", "chat:2", "chat:1")
    (text,) = warnings(caplog)
    assert "may not publish to 'chat:1': so says <function " in text
    assert "nobody_may" in text and "the publish_authoriser" in text


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]


def test_a_subscription_that_the_authoriser_refuses_is_logged_once_with_its_name(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def nobody_may(client: Client, channel: str) -> bool:
        return False

    with live(channel_authoriser=nobody_may) as hub, hub.peer() as peer:
        for channel in "news", "chat":
            peer.send_json({"type": "subscribe", "channel": channel})
            assert peer.recv_json()["code"] == "forbidden"
    (text,) = warnings(caplog)
    assert "may not subscribe to 'news': so says <function " in text
    assert "nobody_may" in text and "the channel_authoriser" in text


def test_a_message_that_no_function_takes_is_logged_once_with_its_type(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with live() as hub, hub.peer() as peer:
        for kind in "pong", "chat", "chat", "other":
            peer.send_json({"type": kind, "id": 1})
            assert peer.recv_json()["code"] == "bad_message"
    (text,) = warnings(caplog)
    assert "sent a message of the type 'chat', which no function takes" in text
    assert "write @hub.on('chat') above one" in text


def test_a_client_that_publishes_into_a_full_hub_is_told() -> None:
    rules = [ChannelRule(pattern="chat", publish=True)]
    with live(rules=rules, queue_size=1, publish_timeout=0.01) as hub, hub.peer() as peer:
        with parked(hub.hub):
            hub.hub.broadcast(said("fills the queue"))
            peer.send_json({"type": "publish", "channel": "chat", "data": "x", "id": 1})
            answer = peer.recv_json()
            assert (answer["type"], answer["code"], answer["id"]) == ("error", "internal", 1)


def test_pings_come_every_heartbeat_and_any_answer_counts_as_life() -> None:
    with live(heartbeat_interval=0.05, pong_timeout=1.5) as hub, hub.peer() as peer:
        for _ in range(40):  # for longer than that
            frame = peer.recv_frame()
            assert (frame.opcode, frame.payload) == (PING, b"")
            peer.send_json({"type": "unsubscribe", "channel": "a"})
        assert hub.hub.client_count() == 1


# --- history -------------------------------------------------------------------------------


def test_a_channel_keeps_what_its_rule_says() -> None:
    rules = [ChannelRule(pattern="log:*", history_messages=3)]
    with live(rules=rules) as hub:
        for number in range(5):
            hub.hub.send_to_channel("log:a", said(number))
        with hub.peer() as peer:
            data = subscribe(peer, "log:a")  # no position, no replay rule: from now on
            assert (data["seq"], data["replayed"]) == (5, 0)
            assert subscribe(peer, "log:a", last=2)["replayed"] == 2
            assert [peer.recv_json()["data"] for _ in range(2)] == [3, 4]
            data = subscribe(peer, "log:a", since=1, epoch=data["epoch"])
            assert (data["replayed"], data["recovered"]) == (3, False)
            assert [peer.recv_json()["seq"] for _ in range(3)] == [3, 4, 5]
        assert hub.hub.kept_channels() == ["log:a"]
