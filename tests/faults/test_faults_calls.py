"""Fault 108: a call with an argument of the wrong type works, or says at once what to pass."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.integration.apps.live import Live, live
from tests.support import RawPeer
from ws_hub import AuthResult, Hub, Message, MessageEncodeError, MessageType, ReconnectingClient

# --- a mapping with a type is a message ------------------------------------------------------

Send = Callable[[Live, Any], object]

SENDS: dict[str, Send] = {
    "broadcast": lambda hub, message: hub.hub.broadcast(message),
    "send_to_channel": lambda hub, message: hub.hub.send_to_channel("news", message),
    "send_to_user": lambda hub, message: hub.hub.send_to_user("ann", message),
    "client.send": lambda hub, message: hub.client().send(message),
}


@pytest.fixture
def hub() -> Iterator[Live]:
    with live(authenticator=lambda environ: AuthResult(True, "ann")) as made:
        yield made


@pytest.fixture
def peer(hub: Live) -> Iterator[RawPeer]:
    with hub.subscribed("news") as made:
        yield made


def received(peer: RawPeer) -> dict[str, Any]:
    message: dict[str, Any] = peer.recv_json()
    del message["timestamp"]
    return message


@pytest.mark.parametrize("send", SENDS)
@pytest.mark.parametrize("name", ["processId", "process_id"])
def test_fault_108_a_mapping_with_a_type_is_a_message(
    hub: Live, peer: RawPeer, send: str, name: str
) -> None:
    fields = {"type": MessageType.EVENT, "data": {"a": 1}, name: "build", "id": 7, "code": "c"}
    SENDS[send](hub, types.MappingProxyType(fields))
    channel = {"channel": "news"} if send == "send_to_channel" else {}
    assert received(peer) == {
        "type": "event", "data": {"a": 1}, "processId": "build", "id": 7, "code": "c", **channel
    }  # fmt: skip


NO_MESSAGES: list[tuple[Any, type[Exception], str]] = [
    ({"event": "saved", "data": 1}, MessageEncodeError, "'event' is none of its fields"),
    ({"data": 1}, MessageEncodeError, "it has no type"),
    ({}, MessageEncodeError, "it has no type"),
    ({"type": "event", "Data": 1}, MessageEncodeError, "'Data' is none of its fields"),
    ({"type": "event", 1: 2}, MessageEncodeError, "1 is none of its fields"),
    (
        {"type": "event", "processId": "a", "process_id": "b"},
        MessageEncodeError,
        "process_id is there twice",
    ),
    ("saved", TypeError, "a Message or a mapping, not 'saved'"),
    (b"{}", TypeError, "a Message or a mapping"),
    (None, TypeError, "a Message or a mapping, not None"),
    (["event"], TypeError, "a Message or a mapping"),
    (Message, TypeError, "a Message or a mapping"),
]


@pytest.mark.parametrize("send", SENDS)
@pytest.mark.parametrize(("bad", "kind", "told"), NO_MESSAGES, ids=lambda each: repr(each)[:30])
def test_fault_108_what_is_no_message_is_refused_at_once(
    hub: Live, peer: RawPeer, send: str, bad: Any, kind: type[Exception], told: str
) -> None:
    with pytest.raises(kind) as raised:
        SENDS[send](hub, bad)
    assert told in str(raised.value)
    assert 'pass {"type": "event"' in str(raised.value)
    hub.hub.send_event("marker")  # nothing was sent before it
    assert received(peer)["data"]["event"] == "marker"


@pytest.mark.parametrize(
    "fields", [{"type": ""}, {"type": 5}, {"type": "x", "channel": None}, {"type": "x", "seq": "1"}]
)
def test_fault_108_the_fields_of_a_mapping_are_checked_as_those_of_a_message(
    hub: Live, peer: RawPeer, fields: dict[str, Any]
) -> None:
    for name in ("broadcast", "send_to_user", "client.send"):
        with pytest.raises(MessageEncodeError):
            SENDS[name](hub, fields)
    hub.hub.send_event("marker")
    assert received(peer)["data"]["event"] == "marker"


def test_fault_108_a_mapping_that_names_a_channel_is_not_broadcast(
    hub: Live, peer: RawPeer
) -> None:
    with pytest.raises(ValueError, match="names the channel 'news'"):
        hub.hub.broadcast({"type": "event", "channel": "news"})
    hub.hub.send_to_channel("news", {"type": "event", "channel": "other"})
    assert received(peer) == {"type": "event", "channel": "news"}


def test_fault_108_a_client_sends_a_mapping_as_a_message() -> None:
    def on_message(client: Any, message: Message) -> object:
        return {"type": message.type, "process": message.process_id, "data": message.data}

    with live(on_message=on_message) as hub, ReconnectingClient(hub.server.url) as client:
        hub.client()
        for bad, kind, told in NO_MESSAGES:
            with pytest.raises(kind) as raised:
                client.send(bad)
            assert told in str(raised.value)
        client.send({"type": "ask", "processId": "p", "data": [1], "id": "own"})
        answer = next(iter(client))
        assert (answer.type, answer.id) == ("ack", "own")
        assert answer.data == {"type": "ask", "process": "p", "data": [1]}


def test_fault_108_a_hub_that_does_not_run_refuses_them_all_the_same() -> None:
    with pytest.raises(TypeError, match="a Message or a mapping"):
        Hub().broadcast("saved")  # type: ignore[arg-type]
