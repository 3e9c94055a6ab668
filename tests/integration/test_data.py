"""The data of messages, by every way in which a hub sends it, over real sockets."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import queue
import sys
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.integration.apps.live import Live, live
from tests.support import TIMEOUT, wait_until
from ws_hub import (
    AuthResult,
    Client,
    ConnectionState,
    Message,
    MessageEncodeError,
    ReconnectConfig,
    ReconnectingClient,
)


@dataclasses.dataclass
class Order:
    id: uuid.UUID
    total: decimal.Decimal
    made: datetime.datetime


class Own:
    """A class of the application's that nobody else knows."""

    def __repr__(self) -> str:
        return "Own()"


ORDER = Order(uuid.UUID(int=1), decimal.Decimal("9.90"), datetime.datetime(2026, 2, 20, 1, 17))
ON_THE_WIRE = {
    "id": "00000000-0000-0000-0000-000000000001",
    "total": "9.90",
    "made": "2026-02-20T01:17:00",
}

# How each call sends data to a client that listens to "news" and "process:p", and where in
# the message that it gets the data is.
Send = tuple[Callable[[Live, Any], object], Callable[[Any], Any]]
SENDS: dict[str, Send] = {
    "broadcast": (lambda hub, data: hub.hub.broadcast(Message("x", data=data)), lambda it: it),
    "a mapping": (lambda hub, data: hub.hub.broadcast({"type": "x", "data": data}), lambda it: it),
    "send_to_channel": (
        lambda hub, data: hub.hub.send_to_channel("news", Message("x", data=data)),
        lambda it: it,
    ),
    "send_event": (lambda hub, data: hub.hub.send_event("e", data), lambda it: it["data"]),
    "send_to_user": (
        lambda hub, data: hub.hub.send_to_user("ann", Message("x", data=data)),
        lambda it: it,
    ),
    "client.send": (lambda hub, data: hub.client().send(Message("x", data=data)), lambda it: it),
    "send_process_status": (
        lambda hub, data: hub.hub.send_process_status("p", "running", extra={"more": data}),
        lambda it: it["more"],
    ),
}


@pytest.fixture
def hub(request: pytest.FixtureRequest) -> Iterator[Live]:
    settings = {"authenticator": lambda environ: AuthResult(True, "ann")}
    with live(**settings, **getattr(request, "param", {})) as made:
        yield made


@pytest.mark.parametrize("send", SENDS)
def test_what_json_does_not_know_has_a_documented_form(hub: Live, send: str) -> None:
    act, found = SENDS[send]
    with hub.subscribed("news", "process:p") as peer:
        act(hub, ORDER)
        assert found(peer.recv_json()["data"]) == ON_THE_WIRE


@pytest.mark.parametrize("fast", [True, False], ids=["orjson", "json"])
def test_it_is_the_same_with_and_without_orjson(
    fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not fast:
        monkeypatch.setitem(sys.modules, "orjson", None)
    with live(authenticator=lambda environ: AuthResult(True, "ann")) as hub:
        with hub.subscribed("news", "process:p") as peer:
            for act, found in SENDS.values():
                act(hub, [ORDER, {"a": 2**70, 1: None}, 1e16])
                data = found(peer.recv_json()["data"])
                assert data == [ON_THE_WIRE, {"a": 2**70, "1": None}, 1e16]
                for bad in (float("nan"), "\ud800", {1}, {(1,): 2}):
                    with pytest.raises(MessageEncodeError):
                        act(hub, bad)


def by_name(value: object) -> str:
    if isinstance(value, Own):
        return "own"
    raise LookupError(f"nothing stands for {value!r}")


@pytest.mark.parametrize("hub", [{"json_default": by_name}], indirect=True)
@pytest.mark.parametrize("send", SENDS)
def test_a_default_of_ones_own_is_asked_by_every_call(hub: Live, send: str) -> None:
    act, found = SENDS[send]
    with hub.subscribed("news", "process:p") as peer:
        with pytest.raises(MessageEncodeError, match="nothing stands for Order"):
            act(hub, ORDER)  # it replaces ours
        act(hub, [Own(), 1])
        assert found(peer.recv_json()["data"]) == ["own", 1]


@pytest.mark.parametrize("send", SENDS)
@pytest.mark.parametrize("bad", [{1}, Own(), float("nan"), "\ud800", [b"x"]], ids=repr)
def test_what_has_no_json_form_reaches_nobody(hub: Live, send: str, bad: Any) -> None:
    with hub.subscribed("news", "process:p") as peer:
        with pytest.raises(MessageEncodeError):
            SENDS[send][0](hub, ["first", bad])
        hub.hub.send_event("marker")
        assert peer.recv_json()["data"]["event"] == "marker"


@pytest.mark.parametrize("own", [None, by_name], ids=["ours", "own"])
def test_the_result_of_on_message_is_data_as_well(own: Any) -> None:
    def on_message(client: Client, message: Message) -> object:
        return {"ours": ORDER, "own": Own(), "neither": {1}}[message.data]

    with live(on_message=on_message, json_default=own) as hub, hub.peer() as peer:
        for asked, answer in (
            ("ours", ON_THE_WIRE if own is None else None),
            ("own", None if own is None else "own"),
            ("neither", None),
        ):
            peer.send_json({"type": "ask", "data": asked, "id": asked})
            reply = peer.recv_json()
            kind, data = ("error", "internal error") if answer is None else ("ack", answer)
            assert (reply["type"], reply["data"], reply["id"]) == (kind, data, asked)


def test_a_client_of_our_own_sends_the_same_forms() -> None:
    got: queue.Queue[Any] = queue.Queue()  # guards: itself.

    def on_message(client: Client, message: Message) -> None:
        got.put(message.data)

    with live(on_message=on_message) as hub, ReconnectingClient(hub.server.url) as client:
        wait_until(lambda: client.state is ConnectionState.CONNECTED)
        client.send(Message("x", data=ORDER))
        assert got.get(timeout=TIMEOUT) == ON_THE_WIRE


def test_a_default_of_ones_own_stands_for_what_a_client_of_our_own_sends() -> None:
    got: queue.Queue[Any] = queue.Queue()  # guards: itself.

    def on_message(client: Client, message: Message) -> None:
        got.put(message.data)

    with live(on_message=on_message) as hub:
        config = ReconnectConfig(url=hub.server.url, json_default=by_name)
        with ReconnectingClient(config) as client:
            wait_until(lambda: client.state is ConnectionState.CONNECTED)
            with pytest.raises(MessageEncodeError, match="nothing stands for Order"):
                client.send(Message("x", data=ORDER))  # it replaces ours
            client.send(Message("x", data=[Own(), 1]))
            assert got.get(timeout=TIMEOUT) == ["own", 1]
