"""A subscriber inside the process: in order, bounded, closed once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support import TIMEOUT
from ws_hub.hub.listener import Listener
from ws_hub.protocol.message import Message, encode
from ws_hub.protocol.publication import Batch, publish

Make = Callable[..., Listener]


@pytest.fixture
def make() -> Iterator[Make]:
    listeners: list[Listener] = []

    def build(
        handle: Callable[[Message], object],
        *,
        on_closed: Callable[[Listener], None] = lambda listener: None,
        max_messages: int = 100,
    ) -> Listener:
        listener = Listener(
            "news",
            handle,
            guard=lambda function, *args: function(*args),
            on_closed=on_closed,
            max_messages=max_messages,
            name="ws-hub:listener",
        )
        listeners.append(listener)
        return listener

    yield build
    for listener in listeners:
        listener.close()
        assert listener.join(TIMEOUT)


def batch(*data: Any, overflow: Any = "drop") -> Batch:
    return Batch([publish(encode(Message("event", data=each)), "news", overflow) for each in data])


def test_messages_are_handed_over_in_order_with_their_numbers(make: Make) -> None:
    seen: list[tuple[Any, int | None]] = []
    done = threading.Event()

    def handle(message: Message) -> None:
        seen.append((message.data, message.seq))
        if message.data == "last":
            done.set()

    listener = make(handle)
    plain, numbered = (
        publish(encode(Message("event", data=each)), "news", "drop") for each in (1, "last")
    )
    numbered.number(8)
    assert listener.deliver(Batch([plain, numbered])) == []
    assert done.wait(TIMEOUT)
    assert seen == [(1, None), ("last", 8)]


def test_what_a_slow_callable_has_no_room_for_is_refused_and_counted(make: Make) -> None:
    entered, go = threading.Event(), threading.Event()

    def handle(message: Message) -> None:
        entered.set()
        go.wait(TIMEOUT)

    listener = make(handle, max_messages=2)
    assert listener.deliver(batch(0)) == []
    assert entered.wait(TIMEOUT)
    refused = listener.deliver(batch(1, 2, 3, 4))
    assert [each.message.data for each in refused] == [3, 4]
    assert listener.dropped == 2
    go.set()


def test_close_reports_to_its_owner_and_ends_the_thread(make: Make) -> None:
    told: list[Listener] = []
    listener = make(print, on_closed=told.append)
    assert listener.channel == "news"
    listener.close()
    assert told == [listener]
    assert listener.join(TIMEOUT)


def test_there_is_no_straight_way_to_a_callable(make: Make) -> None:
    assert make(print).direct is None


def test_a_closed_listener_refuses_what_comes(make: Make) -> None:
    listener = make(print)
    listener.close()
    assert len(listener.deliver(batch(1, 2))) == 2


def test_a_callable_may_close_its_own_listener(make: Make) -> None:
    closed = threading.Event()

    def handle(message: Message) -> None:
        listener.close()
        closed.set()

    listener = make(handle)
    listener.deliver(batch(1, 2))
    assert closed.wait(TIMEOUT)
    assert listener.join(TIMEOUT)


def test_what_is_meant_for_a_remote_peer_is_taken_and_not_heard(make: Make) -> None:
    seen: list[Message] = []
    listener = make(seen.append)
    assert listener.offer(b"ack", 1)
    assert listener.offer(b"lagged", 1, beyond=True)
    listener.close()
    assert listener.join(TIMEOUT)
    assert seen == []


def test_a_listener_drops_whatever_the_channels_rule_is_for_clients(make: Make) -> None:
    listener = make(print)
    listener.close()
    (refused,) = listener.deliver(batch(1, overflow="disconnect"))
    assert refused.overflow == "drop"  # there is no connection that could be cut
