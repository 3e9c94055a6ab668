"""`exclude`: the client that caused a message does not get it, and takes nothing for lost."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.integration.apps.live import Live, live, subscribe
from tests.support import TIMEOUT, RawPeer
from ws_hub import (
    AuthResult,
    ChannelRule,
    Client,
    Hub,
    Message,
    ReconnectConfig,
    ReconnectingClient,
)

RULES = [ChannelRule(pattern="chat", history_messages=100)]
Exclude = Client | list[Client]
SENDS: dict[str, Callable[[Hub, Any, Any], object]] = {
    "broadcast": lambda hub, data, out: hub.broadcast(Message("x", data=data), exclude=out),
    "send_to_channel": lambda hub, data, out: hub.send_to_channel(
        "news", Message("x", data=data), exclude=out
    ),
    "send_event": lambda hub, data, out: hub.send_event("e", data, exclude=out),
    "send_event, a channel": lambda hub, data, out: hub.send_event(
        "e", data, channel="news", exclude=out
    ),
    "send_to_user": lambda hub, data, out: hub.send_to_user(
        "ann", Message("x", data=data), exclude=out
    ),
}


@pytest.fixture
def hub() -> Iterator[Live]:
    with live(authenticator=lambda environ: AuthResult(True, "ann"), rules=RULES) as made:
        yield made


def data_of(peer: RawPeer, count: int) -> list[Any]:
    found = [peer.recv_json()["data"] for _ in range(count)]
    return [each["data"] if isinstance(each, dict) else each for each in found]


@pytest.mark.parametrize("send", SENDS)
def test_excluded_clients_do_not_get_it_and_the_others_do(hub: Live, send: str) -> None:
    with hub.subscribed("news") as first, hub.subscribed("news") as second:
        one, two = hub.hub.all_clients()
        act = SENDS[send]
        act(hub.hub, 1, one)
        act(hub.hub, 2, [two])
        act(hub.hub, 3, {one, two})
        act(hub.hub, 4, iter([one, two]))
        act(hub.hub, 5, ())
        act(hub.hub, 6, [])
        assert data_of(first, 3) == [2, 5, 6]
        assert data_of(second, 3) == [1, 5, 6]


@pytest.mark.parametrize("send", SENDS)
@pytest.mark.parametrize("bad", [None, "ann", 1, b"x", True, ["ann"], [None], {}, Client], ids=repr)
def test_what_is_no_client_is_refused_at_once(hub: Live, send: str, bad: Any) -> None:
    with hub.subscribed("news") as peer:
        with pytest.raises(TypeError, match="exclude must be a Client, or a list of some"):
            SENDS[send](hub.hub, "never", bad)
        hub.hub.send_event("e", "marker")
        assert data_of(peer, 1) == ["marker"]


def test_a_client_that_has_left_excludes_nobody(hub: Live) -> None:
    with hub.peer() as gone:
        left = hub.client()
        gone.send_close(1000)
        hub.notes.end()
    hub.empty()
    with hub.subscribed("news") as peer:
        for number, send in enumerate(SENDS.values()):
            send(hub.hub, number, left)
        assert data_of(peer, len(SENDS)) == list(range(len(SENDS)))


def test_a_burst_keeps_its_order_for_everybody(hub: Live) -> None:
    with hub.subscribed("news") as first, hub.subscribed("news") as second:
        one, two = hub.hub.all_clients()
        for number in range(300):
            out = ((), one, two)[number % 3]
            hub.hub.send_event("e", number, channel="news", exclude=out)
        assert data_of(first, 200) == [each for each in range(300) if each % 3 != 1]
        assert data_of(second, 200) == [each for each in range(300) if each % 3 != 2]


# --- in a channel that keeps history ---------------------------------------------------------


def seen(peer: RawPeer, count: int) -> list[tuple[Any, ...]]:
    got = [peer.recv_json() for _ in range(count)]
    return [(each["type"], each["seq"], (each.get("data") or {}).get("data")) for each in got]


def test_an_excluded_client_that_counts_gets_the_number_alone(hub: Live) -> None:
    with hub.peer() as peer:
        subscribe(peer, "chat")
        client = hub.client()
        for number, out in ((1, ()), (2, client), (3, ())):
            hub.hub.send_event("e", number, channel="chat", exclude=out)
        assert seen(peer, 3) == [("event", 1, 1), ("skip", 2, None), ("event", 3, 3)]


def test_an_excluded_client_that_does_not_count_gets_nothing(hub: Live) -> None:
    with hub.peer() as old:
        old.send_json({"type": "subscribe", "data": "chat"})
        old.send_json({"type": "ping"})
        assert old.recv_json()["type"] == "pong"
        client = hub.client()
        for number, out in ((1, ()), (2, client), (3, ())):
            hub.hub.send_event("e", number, channel="chat", exclude=out)
        assert seen(old, 2) == [("event", 1, 1), ("event", 3, 3)]


def test_a_replay_brings_what_was_not_sent_live(hub: Live) -> None:
    with hub.peer() as peer:
        answer = subscribe(peer, "chat")
        hub.hub.send_event("e", 1, channel="chat", exclude=hub.client())
        assert seen(peer, 1) == [("skip", 1, None)]
    with hub.peer() as again:  # from before that message, and from after it
        assert subscribe(again, "chat", since=0, epoch=answer["epoch"])["replayed"] == 1
        assert seen(again, 1) == [("event", 1, 1)]
    with hub.peer() as later:
        assert subscribe(later, "chat", since=1, epoch="")["replayed"] == 0


class Chat:
    """A hub whose clients say something to a channel, which the others get."""

    def __init__(self) -> None:
        self.hub: Hub | None = None

    def on_message(self, client: Client, message: Message) -> None:
        assert self.hub is not None
        self.hub.send_event("said", message.data, channel="chat", exclude=client)


@pytest.fixture
def chat() -> Iterator[Live]:
    room = Chat()
    with live(on_message=room.on_message, rules=RULES) as hub:
        room.hub = hub.hub
        yield hub


class Member:
    """A reconnecting client in the channel, and what it was told."""

    def __init__(self, hub: Live) -> None:
        self.said: queue.Queue[Any] = queue.Queue()  # guards: itself.
        self.errors: list[Exception] = []
        config = ReconnectConfig(
            url=hub.server.url,
            initial_backoff=0.02,
            max_backoff=0.05,
            on_message=lambda message: self.said.put(message),
            on_error=self.errors.append,
        )
        self.client = ReconnectingClient(config)
        self.client.subscribe("chat", since=0)

    def next(self) -> Any:
        message = self.said.get(timeout=TIMEOUT)
        return message.data["data"] if message.type == "event" else message.type

    def __enter__(self) -> Member:
        self.client.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.client.close()


def test_a_client_that_is_excluded_takes_nothing_for_lost_and_asks_for_nothing_again(
    chat: Live,
) -> None:
    with Member(chat) as ann, Member(chat) as bob:
        chat.hub.send_event("said", "begin", channel="chat")
        assert ann.next() == bob.next() == "begin"
        for number in range(50):
            ann.client.send(Message("say", data=f"ann {number}"))
            assert bob.next() == f"ann {number}"
            bob.client.send(Message("say", data=f"bob {number}"))
            assert ann.next() == f"bob {number}"
        chat.hub.send_event("said", "end", channel="chat")
        # Had a number been taken for lost, a replay would have brought its own messages too.
        assert ann.next() == bob.next() == "end"
        assert ann.errors == bob.errors == []


def test_after_a_reconnect_the_replay_begins_behind_the_number_that_was_skipped(
    chat: Live,
) -> None:
    with Member(chat) as ann, Member(chat) as bob:
        chat.hub.send_event("said", "begin", channel="chat")
        assert ann.next() == bob.next() == "begin"
        ann.client.send(Message("say", data="mine"))
        assert bob.next() == "mine"
        # In order with the number of that message, by which it is known to have come.
        chat.hub.send_event("said", "marker", channel="chat")
        assert ann.next() == bob.next() == "marker"
        for client in chat.hub.all_clients():
            client.abort()
        chat.hub.send_event("said", "while away", channel="chat")
        assert ann.next() == bob.next() == "while away"
        assert ann.errors == bob.errors == []
