"""permessage-deflate over real sockets: our hub, our client, peers of another make, raw ones."""

from __future__ import annotations

import json
import random
import threading
from typing import Any

import pytest
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.sync.client import ClientConnection, connect
from websockets.sync.server import ServerConnection, serve

from tests.integration.apps.launch import client_context, server
from tests.integration.apps.live import Live, live
from tests.integration.clients import Seen
from tests.support import DEFLATE, TIMEOUT, Frame, RawPeer, inflated, wait_until
from ws_hub import APIKeyAuth, ChannelRule, Client, Message

LONG = "the same again and again " * 200
RSV1 = 4


def open_to(url: str, **options: Any) -> ClientConnection:
    return connect(url, proxy=None, open_timeout=TIMEOUT, max_size=None, **options)


def unpacked(frame: Frame) -> Any:
    assert frame.rsv == RSV1, frame
    return json.loads(inflated(frame.payload))


def test_nothing_is_compressed_unless_the_hub_wants_it() -> None:
    with live() as hub, open_to(f"ws://127.0.0.1:{hub.server.port}/ws") as peer:
        assert peer.response is not None
        assert "Sec-WebSocket-Extensions" not in peer.response.headers
        assert not hub.client().compression


def test_all_get_the_same_messages_whether_they_compress_or_not() -> None:
    with live(compression=True) as hub:
        url = f"ws://127.0.0.1:{hub.server.port}/ws"
        with open_to(url) as packed, open_to(url, compression=None) as plain:
            for peer in (packed, plain):
                peer.send(
                    json.dumps(
                        {"type": "subscribe", "channel": "process:b", "id": 1, "data": "s" * 500}
                    )
                )
                assert json.loads(peer.recv(TIMEOUT))["type"] == "ack"
            lines = [LONG, "short", "é" * 8_000, "", LONG + "!"]
            values = [0, 1, "é" * 70_000, 3, 4]
            for line, value in zip(lines, values, strict=True):
                hub.hub.send_process_output("b", line)
                hub.hub.send_event("e", value)
            hub.hub.send_process_lines("b", lines)
            expected = [
                *(each for pair in zip(lines, values, strict=True) for each in pair),
                *lines,
            ]
            for peer in (packed, plain):
                got = [json.loads(peer.recv(TIMEOUT)) for _ in expected]
                data = [m["data"]["data"] if m["type"] == "event" else m["data"] for m in got]
                assert data == expected
                assert [m["seq"] for m in got if "seq" in m] == list(range(1, 11))
            assert [client.compression for client in hub.hub.all_clients()] == [True, False]


@pytest.mark.parametrize(
    "parameters",
    [
        {"client_no_context_takeover": True, "server_no_context_takeover": True},
        {"client_max_window_bits": 9},
        {"server_max_window_bits": 9},
    ],
)
def test_whatever_is_offered_a_conversation_comes_about(parameters: dict[str, Any]) -> None:
    with live(compression=True) as hub:
        factory = ClientPerMessageDeflateFactory(**parameters)
        url = f"ws://127.0.0.1:{hub.server.port}/ws"
        with open_to(url, compression=None, extensions=[factory]) as peer:
            for number in range(3):
                peer.send(json.dumps({"type": "ping", "id": number, "data": LONG}))
                assert json.loads(peer.recv(TIMEOUT))["id"] == number
            assert hub.client().compression is (parameters != {"server_max_window_bits": 9})


def compressing_peer(hub: Live, **options: Any) -> RawPeer:
    peer = hub.peer(headers=DEFLATE, **options)
    assert peer.response is not None
    assert peer.response.headers["sec-websocket-extensions"] == (
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
    )
    return peer


def test_what_goes_to_one_client_is_compressed_as_well() -> None:
    def answer(client: Client, message: Message) -> Any:
        client.send(Message("welcome", data=LONG))
        return LONG

    with live(compression=True, on_message=answer) as hub, compressing_peer(hub) as peer:
        peer.send_json({"type": "whatever", "id": 1})
        sent, reply = peer.recv_frame(), peer.recv_frame()
        assert (unpacked(sent)["data"], unpacked(reply)["data"]) == (LONG, LONG)
        assert len(sent.payload) < len(LONG) / 10


def test_small_messages_stay_plain_and_the_bound_can_be_set() -> None:
    with live(compression=True) as hub, compressing_peer(hub) as peer:
        hub.client()
        hub.hub.send_event("e", "x" * 100)
        assert peer.recv_frame().rsv == 0
    with live(compression=True, compression_min_size=50) as hub, compressing_peer(hub) as peer:
        hub.client()
        hub.hub.send_event("e", "x" * 100)
        assert unpacked(peer.recv_frame())["data"] == {"event": "e", "data": "x" * 100}


def test_a_user_is_sent_to_in_the_form_of_each_connection() -> None:
    key = ("Authorization", "Bearer k")
    with live(compression=True, authenticator=APIKeyAuth({"k": "ann"})) as hub:
        with hub.peer(headers=[*DEFLATE, key]) as packed, hub.peer(headers=[key]) as plain:
            wait_until(lambda: len(hub.hub.user_clients("ann")) == 2)
            hub.hub.send_to_user("ann", Message("event", data=LONG))
            assert unpacked(packed.recv_frame()) == plain.recv_json()


def test_a_slow_client_that_compresses_gets_whole_frames_in_order() -> None:
    with (
        live(compression=True, outbox_bytes=1 << 26) as hub,
        compressing_peer(hub, rcvbuf=4096) as peer,
    ):
        hub.client()
        texts = [
            f"{number} " + random.Random(number).randbytes(6000).hex() for number in range(500)
        ]
        for text in texts:
            hub.hub.send_event("e", text)
        assert wait_until(lambda: hub.client().waiting[0]), "the network took it all at once"
        for text in texts:
            assert unpacked(peer.recv_frame())["data"]["data"] == text


@pytest.mark.parametrize(
    ("kind", "tls"), [("gthread", False), ("werkzeug", False), ("gthread", True)]
)
def test_it_works_on_every_server(kind: str, tls: bool) -> None:
    options = {"ssl": client_context()} if tls else {}
    with server(kind, tls=tls, WS_HUB_COMPRESSION="1") as running:
        with open_to(running.url, **options) as peer:
            assert peer.protocol.extensions
            peer.send(json.dumps({"type": "ping", "id": 1, "data": LONG}))
            assert json.loads(peer.recv(TIMEOUT))["id"] == 1


# --- the client ----------------------------------------------------------------------------


def test_our_client_offers_nothing_unless_it_is_told_to() -> None:
    with live(compression=True) as hub, Seen(f"ws://127.0.0.1:{hub.server.port}/ws") as seen:
        seen.start().connected()
        assert not hub.client().compression


@pytest.mark.parametrize("wanted", [True, False])
def test_our_client_and_our_hub_compress_where_both_want_to(wanted: bool) -> None:
    got: list[Any] = []
    rule = ChannelRule(pattern="talk", publish=True)
    with live(compression=wanted, rules=[rule], on_message=lambda c, m: got.append(m.data)) as hub:
        url = f"ws://127.0.0.1:{hub.server.port}/ws"
        with Seen(url, compression=True) as seen:
            seen.start().connected()
            assert hub.client().compression is wanted
            seen.client.subscribe("talk")
            wait_until(lambda: hub.hub.has_subscribers("talk"))
            for data in (LONG, "short", "é" * 70_000):
                hub.hub.send_event("e", data)
            seen.client.send(Message("whatever", data=LONG))
            seen.client.send(Message("publish", channel="talk", data=LONG))
            wait_until(lambda: len(seen.messages("event")) == 4)
            assert sorted(map(str, seen.data("event"))) == sorted(
                [LONG, *(str({"event": "e", "data": d}) for d in (LONG, "short", "é" * 70_000))]
            )
            assert got == [LONG]


def test_our_client_talks_to_a_server_of_another_make() -> None:
    def echo(connection: ServerConnection) -> None:
        for text in connection:
            connection.send(text)

    with serve(echo, "127.0.0.1", 0) as far:
        thread = threading.Thread(target=far.serve_forever)
        thread.start()
        with Seen(f"ws://127.0.0.1:{far.socket.getsockname()[1]}/", compression=True) as seen:
            seen.start().connected()
            for number in range(5):
                seen.client.send(Message("event", data=LONG + str(number)))
            seen.wait_data(*(LONG + str(number) for number in range(5)), kind="event")
        far.shutdown()
        thread.join(TIMEOUT)
