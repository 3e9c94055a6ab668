"""The hub, stepped by hand: nothing here starts its thread."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.harness import (
    Peer,
    SteppedHub,
    before_put,
    delivery_fails,
    leave_channels,
    listeners_hold,
    stop_accepting,
)
from tests.support import TIMEOUT, wait_until
from ws_hub import (
    ChannelRule,
    Client,
    ConnectionClosed,
    Hub,
    HubConfig,
    HubFull,
    HubNotRunning,
    InvalidName,
    LimitExceeded,
    Message,
    MessageEncodeError,
)

Make = Callable[..., SteppedHub]


@pytest.fixture
def make() -> Iterator[Make]:
    """Make hubs that a test turns."""
    with contextlib.ExitStack() as stack:
        yield lambda **settings: stack.enter_context(SteppedHub(**settings))


@pytest.fixture
def hub(make: Make) -> SteppedHub:
    return make()


@pytest.fixture
def peer(hub: SteppedHub) -> Peer:
    return hub.join()


def test_nothing_is_published_into_the_void() -> None:
    hub = Hub()
    for publish in (
        lambda: hub.broadcast(Message("x")),
        lambda: hub.send_to_channel("a", Message("x")),
        lambda: hub.send_process_output("p", "line"),
        lambda: hub.send_process_status("p", "running"),
        lambda: hub.send_event("e"),
        lambda: hub.send_error("e"),
        lambda: hub.listen("a", print),
    ):
        with pytest.raises(HubNotRunning):
            publish()


def test_everything_that_is_published_has_its_type_and_its_place(
    hub: SteppedHub, peer: Peer
) -> None:
    hub.subscribe(peer.client, "news")
    hub.subscribe(peer.client, "process:p")
    hub.broadcast(Message("custom", data=[1]))
    hub.send_to_channel("news", Message("custom", data={"a": None}, id="x", seq=99))
    hub.send_process_output("p", "line")
    hub.send_process_status("p", "exited", 0, extra={"signal": "x"})
    hub.send_event("released", "1.2")
    hub.send_event("released", "1.3", channel="news")
    hub.send_error("went wrong")
    hub.send_error("here", channel="news")
    hub.turn()
    found = peer.messages()
    assert all(each.pop("timestamp").endswith("Z") for each in found)
    assert found == [
        {"type": "custom", "data": [1]},
        {"type": "custom", "channel": "news", "data": {"a": None}, "id": "x"},
        {
            "type": "process_output",
            "channel": "process:p",
            "processId": "p",
            "data": "line",
            "seq": 1,
        },
        {
            "type": "process_status",
            "channel": "process:p",
            "processId": "p",
            "data": {"status": "exited", "exitCode": 0, "signal": "x"},
            "seq": 2,
        },
        {"type": "event", "data": {"event": "released", "data": "1.2"}},
        {"type": "event", "channel": "news", "data": {"event": "released", "data": "1.3"}},
        {"type": "error", "data": "went wrong"},
        {"type": "error", "channel": "news", "data": "here"},
    ]


@pytest.mark.parametrize("data", [float("nan"), {1, 2}, "\ud800", object()])
def test_message_without_json_form_raises_and_is_not_delivered(
    hub: SteppedHub, peer: Peer, data: object
) -> None:
    with pytest.raises(MessageEncodeError):
        hub.broadcast(Message("x", data=data))
    hub.broadcast(Message("marker"))
    hub.turn()
    assert [each["type"] for each in peer.messages()] == ["marker"]


@pytest.mark.parametrize("name", ["", "a b", "process:", "x" * 257])
def test_a_bad_channel_name_raises(hub: SteppedHub, peer: Peer, name: str) -> None:
    for use in (
        lambda: hub.send_to_channel(name, Message("x")),
        lambda: hub.subscribe(peer.client, name),
        lambda: hub.listen(name, print),
    ):
        with pytest.raises(InvalidName):
            use()


def test_another_rule_for_names_may_be_set(make: Make) -> None:
    hub = make(channel_name=lambda name: name == "old name")
    hub.send_to_channel("old name", Message("x"))
    with pytest.raises(InvalidName):
        hub.send_to_channel("news", Message("x"))


def test_a_full_queue_raises_at_once_or_after_the_time_given(make: Make) -> None:
    hub = make(queue_size=2, publish_timeout=0.01)
    hub.broadcast(Message("x"))
    hub.broadcast(Message("x"))
    for timeout in (0, 0.01, None):
        with pytest.raises(HubFull, match="queue of 2 messages"):
            hub.broadcast(Message("x"), timeout=timeout)
    hub.turn()
    hub.broadcast(Message("x"), timeout=0)


def test_the_hubs_own_thread_never_waits_for_itself(make: Make) -> None:
    hub = make(queue_size=1, publish_timeout=1000)
    hub.broadcast(Message("x"))
    with hub.on_hub_thread(), pytest.raises(HubFull):
        hub.broadcast(Message("x"))


def test_a_message_published_while_the_hub_stops_raises(hub: SteppedHub) -> None:
    with before_put(hub, lambda: stop_accepting(hub)):
        with pytest.raises(HubNotRunning, match="while this was published"):
            hub.broadcast(Message("x"))


# --- room ----------------------------------------------------------------------------------


def test_wait_for_room_returns_without_subscribers_or_with_fast_ones() -> None:
    with Hub() as hub, Peer(hub) as peer:
        assert hub.wait_for_room("news", TIMEOUT)
        hub.subscribe(peer.client, "news")
        hub.send_to_channel("news", Message("x"))
        assert hub.wait_for_room("news", TIMEOUT)
        assert [each["type"] for each in peer.messages()] == ["x"]  # all of it is on its way


def test_there_is_none_while_a_client_that_listens_is_behind() -> None:
    with Hub(HubConfig(outbox_messages=10)) as hub, Peer(hub) as peer:
        hub.subscribe(peer.client, "news")
        peer.fill()
        for _ in range(6):
            hub.send_to_channel("news", Message("x"))
        wait_until(lambda: peer.client.waiting[0] == 6)
        assert not hub.wait_for_room("news", 0)
        assert not hub.wait_for_room("news", 0.05)
        assert hub.wait_for_room("other", TIMEOUT)
        peer.cut()
        assert hub.wait_for_room("news", TIMEOUT)


def test_a_hub_that_does_not_turn_has_no_room(hub: SteppedHub) -> None:
    assert not hub.wait_for_room("news", 0.01)


def test_asking_for_room_is_checked(make: Make) -> None:
    hub = make(queue_size=1)
    with pytest.raises(InvalidName):
        hub.wait_for_room("a b", 1)
    hub.broadcast(Message("x"))
    with pytest.raises(HubFull):
        hub.wait_for_room("news", 0)
    with pytest.raises(HubNotRunning):
        Hub().wait_for_room("news", 1)


# --- subscriptions -------------------------------------------------------------------------


def test_a_subscription_counts_at_once_and_unsubscribing_ends_it(
    hub: SteppedHub, peer: Peer
) -> None:
    hub.subscribe(peer.client, "news")
    hub.subscribe(peer.client, "news")
    assert (hub.channel_count(), hub.channel_subscriber_count("news")) == (1, 1)
    assert hub.has_subscribers("news")
    assert hub.all_channels() == peer.client.subscriptions() == ["news"]
    assert hub.clients("news") == hub.all_clients() == [peer.client]
    assert hub.unsubscribe(peer.client, "news")
    assert not hub.unsubscribe(peer.client, "news")
    assert not hub.has_subscribers("news")
    hub.send_to_channel("news", Message("x"))
    hub.turn()
    assert peer.messages() == []


def test_a_client_that_is_gone_cannot_subscribe(hub: SteppedHub, peer: Peer) -> None:
    peer.leave()
    with pytest.raises(ConnectionClosed):
        hub.subscribe(peer.client, "news")


def test_a_client_has_so_many_subscriptions_and_no_more(make: Make) -> None:
    hub = make(max_subscriptions=1)
    peer = hub.join()
    hub.subscribe(peer.client, "one")
    with pytest.raises(LimitExceeded):
        hub.subscribe(peer.client, "two")
    peer.say('{"type":"subscribe","channel":"two","id":1}')
    (answer,) = peer.messages()
    assert (answer["data"], answer["code"]) == ("subscription limit exceeded", "limit")


def test_a_subscription_that_finds_the_queue_full_is_taken_back(make: Make) -> None:
    hub = make(queue_size=1, publish_timeout=0.01)
    peer = hub.join()
    hub.broadcast(Message("x"))
    with pytest.raises(HubFull):
        hub.subscribe(peer.client, "news")
    assert not hub.has_subscribers("news")
    peer.say('{"type":"subscribe","channel":"news","id":1}')
    (answer,) = peer.messages()
    assert (answer["type"], answer["code"]) == ("error", "internal")
    with pytest.raises(HubFull):
        hub.listen("news", print)


def test_a_subscription_to_a_hub_that_stops_is_answered(hub: SteppedHub, peer: Peer) -> None:
    stop_accepting(hub)
    peer.say('{"type":"subscribe","channel":"news","id":1}')
    assert peer.messages()[0]["data"] == "Subscribe: hub is not running"


def test_request_of_a_gone_client_gets_no_answer(hub: SteppedHub, peer: Peer) -> None:
    leave_channels(hub, peer.client)
    peer.say('{"type":"subscribe","channel":"news","id":1}')
    assert peer.messages() == []


def test_a_late_subscriber_gets_what_its_process_printed(hub: SteppedHub, peer: Peer) -> None:
    hub.send_process_output("p", "one")
    hub.turn()
    peer.say('{"type":"subscribe","data":"process:p"}')
    hub.send_process_output("p", "two")
    hub.turn()
    assert [each["data"] for each in peer.messages()] == ["one", "two"]
    assert hub.kept_channels() == ["process:p"]


def test_after_the_ack_of_an_unsubscribe_no_message_of_the_channel_follows(
    hub: SteppedHub, peer: Peer
) -> None:
    hub.subscribe(peer.client, "news")
    hub.send_to_channel("news", Message("early"))
    hub.turn()
    peer.say('{"type":"unsubscribe","channel":"news","id":5}')
    hub.send_to_channel("news", Message("late"))
    hub.turn()
    assert [each["type"] for each in peer.messages()] == ["early", "ack"]


def test_a_binary_message_is_answered_with_an_error(hub: SteppedHub, peer: Peer) -> None:
    peer.say(b"\0")
    assert peer.messages()[0]["code"] == "bad_message"


def test_unknown_type_without_on_message_is_answered_with_an_error(
    hub: SteppedHub, peer: Peer
) -> None:
    peer.say('{"type":"chat","id":3}')
    (answer,) = peer.messages()
    assert (answer["type"], answer["id"], answer["data"]) == (
        "error",
        3,
        "unknown message type 'chat'",
    )


def test_what_on_message_returns_answers_the_request(make: Make) -> None:
    seen: list[tuple[Client, Message]] = []

    def on_message(client: Client, message: Message) -> object:
        seen.append((client, message))
        if message.data == "raise":
            raise ValueError("no")
        return {"unjsonable": {1}} if message.data == "bad" else message.data

    hub = make(on_message=on_message)
    peer = hub.join()
    for text in (
        '{"type":"chat","data":"hi","id":1}',
        '{"type":"chat","data":"no id"}',
        '{"type":"chat","data":"raise","id":2}',
        '{"type":"chat","data":"bad","id":3}',
    ):
        peer.say(text)
    assert [(each["type"], each["id"], each.get("code")) for each in peer.messages()] == [
        ("ack", 1, None),
        ("error", 2, "internal"),
        ("error", 3, "internal"),
    ]
    assert [message.data for _, message in seen] == ["hi", "no id", "raise", "bad"]
    assert peer.client.last_error == "ValueError('no')"
    assert hub.stats().callback_errors == 1


def test_a_channel_of_ones_own_keeps_history_by_its_rule(make: Make) -> None:
    hub = make(rules=[ChannelRule(pattern="chat:*", history_messages=1)])
    hub.send_to_channel("chat:a", Message("one"))
    hub.send_to_channel("chat:a", Message("two"))
    peer = hub.join()
    hub.subscribe(peer.client, "chat:a", since=0)
    hub.turn()
    assert [(each["type"], each["seq"]) for each in peer.messages()] == [("two", 2)]


def test_a_full_outbox_misses_messages_of_a_channel_and_is_cut_by_a_broadcast(make: Make) -> None:
    hub = make(outbox_messages=10)
    peer = hub.join()
    hub.subscribe(peer.client, "news")
    peer.fill()
    for number in range(20):
        hub.send_to_channel("news", Message("x", data=number))
    hub.turn()
    assert (hub.stats().dropped, hub.stats().slow_disconnects) == (10, 0)
    hub.broadcast(Message("x"))
    hub.turn()
    assert hub.stats().slow_disconnects == 1
    assert hub.client_count() == 0


def test_the_hub_counts(hub: SteppedHub, peer: Peer) -> None:
    hub.subscribe(peer.client, "news")
    hub.send_to_channel("news", Message("x"))
    assert hub.stats().queued == 2
    hub.turn()
    stats = hub.stats()
    assert (stats.clients, stats.channels, stats.subscriptions, stats.queued) == (1, 1, 1, 0)
    assert (stats.published, stats.delivered) == (1, 1)


def test_a_listener_gets_a_channels_messages_until_it_is_closed(hub: SteppedHub) -> None:
    seen: list[Message] = []
    two = threading.Event()

    def listen(message: Message) -> None:
        seen.append(message)
        if len(seen) == 2:
            two.set()
        raise RuntimeError("is logged and goes no further")

    listener = hub.listen("process:p", listen)
    assert hub.has_subscribers("process:p")
    hub.send_process_output("p", "one")
    hub.send_process_output("p", "two")
    hub.turn()
    assert two.wait(5)
    assert [(message.data, message.seq) for message in seen] == [("one", 1), ("two", 2)]
    listener.close()
    listener.close()
    assert listener.join(5)
    assert listener.dropped == 0
    assert not hub.has_subscribers("process:p")


def test_the_hub_survives_an_error_of_its_own(
    hub: SteppedHub, peer: Peer, caplog: pytest.LogCaptureFixture
) -> None:
    with delivery_fails(hub):
        hub.broadcast(Message("lost"))
        hub.turn()
    assert "error of its own" in caplog.text
    hub.broadcast(Message("next"))
    hub.turn()
    assert [each["type"] for each in peer.messages()] == ["next"]


def test_a_listener_that_is_too_slow_keeps_nothing_from_the_others(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    hub = make(rules=[ChannelRule(pattern="*", overflow="disconnect")])
    entered, go = threading.Event(), threading.Event()

    def slow(message: Message) -> None:
        entered.set()
        go.wait(5)

    with listeners_hold(1):
        listener = hub.listen("news", slow)
    peer = hub.join()
    hub.subscribe(peer.client, "news")
    hub.send_to_channel("news", Message("first"))
    hub.turn()
    assert entered.wait(5)
    for number in range(3):
        hub.send_to_channel("news", Message("more", data=number))
    hub.turn()
    assert len(peer.messages()) == 4
    assert listener.dropped == hub.stats().dropped == 2
    assert hub.stats().slow_disconnects == 0
    assert hub.has_subscribers("news")
    assert "error of its own" not in caplog.text
    go.set()


def test_every_request_is_answered_once_also_one_that_was_taken_back_at_once(
    hub: SteppedHub, peer: Peer
) -> None:
    peer.say('{"type":"subscribe","channel":"news","id":1}')
    peer.say('{"type":"unsubscribe","channel":"news","id":2}')
    peer.say('{"type":"subscribe","channel":"news","id":3}')
    hub.turn()
    assert [(each["type"], each["id"]) for each in peer.messages()] == [
        ("ack", 1),
        ("ack", 2),
        ("ack", 3),
    ]
    hub.send_to_channel("news", Message("x"))
    hub.turn()
    assert [each["type"] for each in peer.messages()] == ["x"]
