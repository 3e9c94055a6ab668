"""What one payer may make the hub keep, send and compute: by user, by address, by connection.

Where a clock or the use of a processor decides, it is a test's own.
"""

from __future__ import annotations

import contextlib
import gc
import json
import socket
import ssl
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.delivery import receive
from tests.harness import connected_payers, moved_clock, parked, peeks_wait
from tests.integration.apps.live import Live, live
from tests.support import (
    BINARY,
    CONTINUATION,
    DEFLATE,
    PING,
    PONG,
    TEXT,
    TIMEOUT,
    RawPeer,
    deflated,
    small_pair,
    tcp_pair,
    wait_until,
)
from ws_hub import APIKeyAuth, ChannelRule, Client, Hub, HubConfig, Message, serve
from ws_hub.access.admission import Decision
from ws_hub.access.proxies import TrustedProxies
from ws_hub.access.quotas import Flood
from ws_hub.connection import receiver
from ws_hub.connection.connection import Connection
from ws_hub.connection.transport import Broken, Closed, Event, Pinged, Ponged, Text, Transport
from ws_hub.protocol.handshake import Answer
from ws_hub.protocol.names import is_channel_name
from ws_hub.protocol.requests import Other, Reply, interpret
from ws_hub.server import server as server_module

frame = RawPeer.frame
KEYS = {"k-ann": "ann", "k-bob": "bob"}
PROXY = ["127.0.0.1"]  # which every test's peers come through, where it is named


def via(address: str, key: str = "") -> list[tuple[str, str]]:
    headers = [("X-Forwarded-For", address)]
    return [*headers, ("Authorization", f"Bearer {key}")] if key else headers


def ask(peer: RawPeer, message: dict[str, Any]) -> Any:
    peer.send_json(message)
    return peer.recv_json()


# --- 116: what comes back ------------------------------------------------------------------


BAD_IDS = ["i" * 60_000, "i" * 129, "\u00e9" * 65, 2**53 + 1, -(2**53) - 1, 10**4000, 1.0, True, []]


@pytest.mark.parametrize("kind", ["ping", "subscribe", "unsubscribe", "publish", "made-up"])
def test_fault_116_an_id_that_is_too_long_does_not_come_back(kind: str) -> None:
    with live() as hub, hub.peer() as peer:
        for id in BAD_IDS:
            answer = ask(peer, {"type": kind, "channel": "x", "id": id})
            assert (answer["type"], answer["code"]) == ("error", "bad_message")
            assert answer["data"].startswith("id must be a string of at most 128 bytes")
            assert "id" not in answer
        for good in ("i" * 128, "\u00e9" * 64, 2**53, -(2**53), 0, ""):
            assert ask(peer, {"type": kind, "channel": "x", "id": good})["id"] == good
        assert hub.hub.stats().bad_messages >= len(BAD_IDS)


def test_fault_116_null_is_no_id() -> None:
    with live() as hub, hub.peer() as peer:
        assert "id" not in ask(peer, {"type": "ping", "id": None})


LONG = "x" * 60_000


@pytest.mark.parametrize(
    "message",
    [
        {"type": LONG},
        {"type": LONG, "channel": LONG[:1000], "data": LONG[:1000]},
        {"type": "subscribe", "channel": LONG},
        {"type": "subscribe", "data": LONG},
        {"type": "subscribe", "channel": "x", "epoch": LONG, "since": 5},
        {"type": "subscribe", "channel": "x", "since": int("9" * 4000)},
        {"type": "unsubscribe", "channel": LONG},
        {"type": "unsubscribe", "data": LONG},
        {"type": "publish", "channel": LONG, "data": 1},
        {"type": "publish", "channel": "x", "data": LONG},
        {"type": "ping", "channel": LONG, "processId": LONG[:1000]},
        {"type": "ping", "timestamp": LONG},
        {"type": "subscribe", "channel": LONG[:256] + "\x00" * 5000},
    ],
    ids=lambda message: str(message)[:40],
)
@pytest.mark.parametrize("any_name", [False, True])
def test_fault_116_no_answer_repeats_what_a_client_made_long(
    message: dict[str, Any], any_name: bool
) -> None:
    """With a rule for names that takes all of them as well."""
    settings = {"channel_name": lambda name: True} if any_name else {}
    with live(**settings) as hub, hub.peer() as peer:
        peer.send_json({**message, "id": 1})
        answer = peer.recv_frame().payload
        assert len(answer) < 2500
        assert json.loads(answer)["id"] == 1
        assert all(len(name) <= 1024 for name in hub.client().subscriptions())


def test_fault_116_what_cannot_be_read_cannot_be_published() -> None:
    with live() as hub:
        for id in ("i" * 129, 2**53 + 1):
            with pytest.raises(ValueError, match="id must be"):
                hub.hub.broadcast(Message("event", id=id))


def test_fault_116_answers_are_charged_to_the_client_that_asked() -> None:
    with live(max_byte_rate=1.0, byte_burst=170, trusted_proxies=PROXY) as hub:
        with hub.peer(headers=via("203.0.113.9")) as asking, hub.peer() as other:
            ask(other, {"type": "ping"})
            for number in range(4):
                ask(asking, {"type": "subscribe", "channel": "x", "id": number})
            wait_until(lambda: hub.hub.stats().slowed == 1)


# --- 117, 120: what is kept and sent -------------------------------------------------------


def test_fault_117_what_is_replayed_can_be_charged() -> None:
    with live(max_byte_rate=100.0, byte_burst=1000) as hub, hub.peer():
        client = hub.connection()
        assert client.charge_bytes(1000) == 0.0
        assert 9.0 < client.charge_bytes(1000) <= 10.0
    assert client.charge_bytes(10**9) == 0.0  # it is gone


@pytest.mark.parametrize("kept", [0, 100])
def test_fault_120_what_a_client_publishes_is_charged_once_a_listener(kept: int) -> None:
    rule = ChannelRule(pattern="*", publish=True, history_messages=kept)
    settings = {"max_byte_rate": 1.0, "byte_burst": 10_000, "rules": [rule]}
    with live(trusted_proxies=PROXY, **settings) as hub, contextlib.ExitStack() as stack:
        for number in range(10):
            listening = stack.enter_context(hub.peer(headers=via(f"203.0.113.{number}")))
            ask(listening, {"type": "subscribe", "channel": "a", "id": 1})
        peer = stack.enter_context(hub.peer(headers=via("198.51.100.1")))
        ask(peer, {"type": "publish", "channel": "nobody", "data": "x" * 5000, "id": 1})
        assert hub.hub.stats().slowed == 0
        ask(peer, {"type": "publish", "channel": "a", "data": "x" * 5000, "id": 1})
        wait_until(lambda: hub.hub.stats().slowed == 1)


def test_fault_121_delivering_what_a_client_publishes_is_charged_to_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    charged: list[Connection] = []
    monkeypatch.setattr(Connection, "charge_processing", lambda self, seconds: charged.append(self))
    rule = ChannelRule(pattern="*", publish=True)
    with live(rules=[rule]) as hub, hub.peer() as peer:
        client = hub.connection()
        hub.hub.broadcast(Message("event"))
        assert peer.recv_json()["type"] == "event"
        ask(peer, {"type": "publish", "channel": "a", "data": 1, "id": 1})
        ask(peer, {"type": "subscribe", "channel": "a", "id": 1})  # behind it, and charged too
        wait_until(lambda: len(charged) == 2)
        assert charged == [client] * 2


def test_fault_121_no_rule_for_names_makes_all_clients_a_channel() -> None:
    """To publish to "" ended the reader with a traceback."""
    settings = {
        "rules": [ChannelRule(pattern="*", publish=True)],
        "channel_name": lambda name: True,
    }
    with live(**settings) as hub, hub.peer() as peer:
        for kind in ("publish", "subscribe"):
            answer = ask(peer, {"type": kind, "channel": "", "data": "", "id": kind})
            assert (answer["id"], answer["code"]) == (kind, "bad_channel")


# --- 121: what is computed -----------------------------------------------------------------


def depth_of(value: Any) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(depth_of, value), default=0) if isinstance(value, list) else 0


def calls_of(text: str) -> int:
    """How many functions it takes to interpret a text."""
    calls = 0

    def note(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    gc.disable()  # what is called when that has run is no cost of the text's
    sys.setprofile(note)
    try:
        interpret(text, is_channel_name)
    finally:
        sys.setprofile(None)
        gc.enable()
    return calls


def test_fault_121_depth_is_measured_in_one_pass() -> None:
    """It was as many passes as there are levels, 24 ms of a message of 64 KiB."""
    text = '{"type":"x","data":' + "[" * 120 + "[]," * 20_000 + "1" + "]" * 120 + "}"
    assert isinstance(interpret(text, is_channel_name), Other)
    assert calls_of(text) < 100


@settings(deadline=None)
@given(
    st.recursive(
        st.sampled_from(["[[", "]", '"', '\\"{', "\\", 1, "\u2028\n"]),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.just('}"]'), inner),
    ),
    st.integers(100, 140),
)
def test_fault_121_depth_is_that_of_brackets_outside_of_texts(value: Any, around: int) -> None:
    for _ in range(around):
        value = [value]
    message = {"type": "x", "data": value, "pad": [[]] * 200}
    effect = interpret(json.dumps(message), is_channel_name)
    assert isinstance(effect, Reply) is (depth_of(message) > 128)


def received(transport: Transport) -> list[Event]:
    events = transport.receive(5)
    assert events is not None
    return events


@pytest.mark.parametrize("piece", [frame(PING, b""), frame(TEXT, b"{}")], ids=["pings", "texts"])
def test_fault_121_one_receive_brings_no_thousands_of_tiny_frames(piece: bytes) -> None:
    with tcp_pair() as (near, far):
        transport = Transport(near, max_message_size=1 << 16, max_fragments=1)
        far.sendall(piece * 5000)
        got = 0
        while got < 5000:
            events = received(transport)
            assert len(events) <= 2048 // len(piece) + 1
            got += len(events)
        transport.close()


def test_fault_121_one_receive_inflates_to_one_large_message() -> None:
    """A dozen of those, of 200 bytes each, were parsed and handled before others had a turn."""
    with tcp_pair() as (near, far):
        transport = Transport(near, max_message_size=1 << 16, max_fragments=1, compression=True)
        far.sendall(frame(BINARY, deflated(b"\0" * 65_536), rsv=4) * 20 + frame(PING, b""))
        got: list[Event] = []
        while len(got) < 21:
            events = received(transport)
            assert len(events) <= 2  # the ping may come with the last of them
            got += events
        assert got[-1] == Pinged(b"")
        transport.close()


class Line:
    """A transport that brings what a test has it bring each time, and then the end."""

    def __init__(self, *events: Sequence[Event]) -> None:
        self.events: list[list[Event]] = [*map(list, events), [Closed(1000, "")]]

    def receive(self, timeout: float) -> list[Event]:
        return self.events.pop(0)


class Quiet:
    def __init__(self) -> None:
        self.rests: list[float] = []

    def pause(self, seconds: float) -> bool:
        self.rests.append(seconds)
        return True

    def answer_close(self, code: int) -> bool:
        return True

    def control(self, frame: bytes) -> None:
        pass


def test_fault_121_a_reader_charges_what_its_thread_has_computed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not how long a callback has waited; and its last message as well."""
    cpu, clock, charged = 50.0, 100.0, []
    line, sender = Line(*[[Text("x")]] * 3), Quiet()

    def callback(data: str | bytes) -> None:
        nonlocal cpu, clock
        cpu += 0.25
        clock += 60.0

    def charge(now: float, seconds: float, messages: int, controls: int) -> float:
        charged.append((seconds, messages, controls))
        return 0.5 if len(charged) == 2 else 0.0

    monkeypatch.setattr(receiver.time, "thread_time", lambda: cpu)
    monkeypatch.setattr(receiver.time, "monotonic", lambda: clock)
    receive(
        line,  # type: ignore[arg-type]
        sender,  # type: ignore[arg-type]
        HubConfig(),
        received=callback,
        charge=charge,
        count=lambda name: None,
    )
    assert charged == [(0.0, 0, 0)] + [(0.25, 1, 0)] * 3 + [(0.0, 1, 0)]
    assert sender.rests == [0.5]


def test_fault_121_a_pong_that_was_asked_for_costs_nothing() -> None:
    """The hub asks for one in each interval, and two may come together."""
    charged: list[int] = []

    def charge(now: float, seconds: float, messages: int, controls: int) -> float:
        charged.append(controls)
        return 0.0

    with moved_clock() as clock:

        class Beats(Line):
            def receive(self, timeout: float) -> list[Event]:
                clock.advance(30.0)
                return super().receive(timeout)

        receive(
            Beats(*[[Ponged()]] * 100, [*[Ponged()] * 10, *[Pinged(b"")] * 5]),  # type: ignore[arg-type]
            Quiet(),  # type: ignore[arg-type]
            HubConfig(heartbeat_interval=30.0),
            received=lambda data: None,
            charge=charge,
            count=lambda name: None,
        )
    assert charged == [0, *[0] * 100, 13, 0]  # at its begin and at its end as well


def test_fault_125_one_receive_of_many_requests_is_charged_in_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else a client has a thousand subscriptions in the hub's queue before it first rests."""
    got: list[str | bytes] = []
    charged: list[tuple[int, int]] = []
    requests: list[Event] = [Text(str(number)) for number in range(100)]

    def charge(now: float, seconds: float, messages: int, controls: int) -> float | Flood:
        charged.append((messages, controls))
        assert len(got) == sum(messages for messages, _ in charged)
        return Flood("too many messages", "message_floods") if len(got) >= 64 else 0.0

    class Ends(Line):
        def linger(self, seconds: float) -> None:
            pass

    class Closes(Quiet):
        def finish(self, code: int, reason: str, now: bool) -> None:
            self.closed = code, reason

        def drain(self) -> None:
            pass

    sender = Closes()
    counted: list[str] = []
    receive(
        Ends([*requests, Pinged(b""), Ponged()]),  # type: ignore[arg-type]
        sender,  # type: ignore[arg-type]
        HubConfig(),
        received=got.append,
        charge=charge,
        count=counted.append,
    )
    assert got == [str(number) for number in range(64)]
    assert charged == [(0, 0), (16, 1), (16, 0), (16, 0), (16, 0)]
    assert sender.closed == (1008, "too many messages")
    assert counted == ["message_floods"]


def test_fault_125_requests_of_clients_leave_room_for_publishing_threads() -> None:
    """However many of them there are: here the hub's thread is held while they ask."""
    with live(publish_timeout=30.0, max_message_rate=None) as hub, contextlib.ExitStack() as stack:
        peers = [stack.enter_context(hub.peer()) for _ in range(4)]
        listener = stack.enter_context(hub.subscribed("news"))
        with parked(hub.hub):
            for peer in peers:
                for number in range(50):
                    request = {"type": "subscribe", "channel": f"c{number}", "id": number}
                    peer.send_json(request)
            wait_until(lambda: hub.hub.stats().queued >= 8)
            for number in range(900):  # of 1024: none waits
                hub.hub.send_to_channel("news", Message("event", data=number), timeout=0)
            assert hub.hub.stats().queued <= 900 + 8 + len(peers)
        assert [listener.recv_json()["data"] for _ in range(900)] == list(range(900))
        for peer in peers:
            assert [peer.recv_json()["id"] for _ in range(50)] == list(range(50))


BUSY = {"max_message_rate": 0.01, "message_burst": 10}


def flood(peer: RawPeer, count: int = 12) -> None:
    peer.send_raw(frame(TEXT, b'{"type":"ping"}') * count)


def leave(hub: Live) -> None:
    """End all connections from the hub's side: who rests does not hear that its peer is gone."""
    for client in hub.hub.all_clients():
        client.abort()
    hub.empty()


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        (via("203.0.113.9"), via("203.0.113.9"), True),
        (via("203.0.113.9"), via("198.51.100.7, 203.0.113.9"), True),
        (via("203.0.113.9"), via("203.0.113.10"), False),
        (via("2001:db9:1:2::1"), via("2001:db9:1:2:3::4"), True),
        (via("2001:db9:1:2::1"), via("2001:db9:1:3::1"), False),
        ([], [], False),  # the proxy's own address: anybody
        (via("203.0.113.9", "k-ann"), via("198.51.100.1", "k-ann"), True),
        (via("203.0.113.9", "k-ann"), via("203.0.113.9", "k-bob"), False),
    ],
)
def test_fault_121_reconnect_renews_no_burst_and_slows_no_other_payer(
    one: list[tuple[str, str]], other: list[tuple[str, str]], shared: bool
) -> None:
    keys = any(name == "Authorization" for name, _ in one)
    settings = {**BUSY, "authenticator": APIKeyAuth(KEYS)} if keys else BUSY
    with live(trusted_proxies=PROXY, **settings) as hub:
        with hub.peer(headers=one) as peer:
            flood(peer)
            wait_until(lambda: hub.hub.stats().slowed == 1)
        leave(hub)
        with hub.peer(headers=other) as peer:
            assert ask(peer, {"type": "ping"})["type"] == "pong"
            assert ask(peer, {"type": "ping"})["type"] == "pong" if not shared else True
            if shared:
                wait_until(lambda: hub.hub.stats().slowed == 2)
            assert hub.hub.stats().slowed == 1 + shared


def test_fault_121_addresses_are_payers_but_an_untrusted_proxy_is_not() -> None:
    with live(**BUSY) as hub:
        with hub.peer() as peer:
            flood(peer)
            wait_until(lambda: hub.hub.stats().slowed == 1)
        leave(hub)
        with from_address("127.0.0.3", hub) as peer, hub.peer(headers=via("203.0.113.9")) as behind:
            for each in (peer, behind):
                assert ask(each, {"type": "ping"})["type"] == "pong"
                assert ask(each, {"type": "ping"})["type"] == "pong"
        leave(hub)
        assert hub.hub.stats().slowed == 1
        with hub.peer() as peer:
            ask(peer, {"type": "ping"})
            wait_until(lambda: hub.hub.stats().slowed == 2)


@contextlib.contextmanager
def from_address(address: str, hub: Live) -> Iterator[RawPeer]:
    with socket.create_connection(
        ("127.0.0.1", hub.server.port), 5, source_address=(address, 0)
    ) as sock:
        peer = RawPeer.on(sock)
        peer.host, peer.path = "localhost", "/ws"
        peer.handshake()
        yield peer


@pytest.mark.parametrize(
    ("address", "trusted", "header", "payer"),
    [
        ("203.0.113.9", [], {}, "203.0.113.9"),
        ("8.8.8.8", [], {"HTTP_X_FORWARDED_FOR": "1.1.1.1"}, "8.8.8.8"),  # a stranger's word
        ("127.0.0.1", [], {}, "127.0.0.1"),
        ("127.0.0.1", [], {"HTTP_X_FORWARDED_FOR": "1.1.1.1"}, ""),
        ("::1", [], {"HTTP_FORWARDED": "for=1.1.1.1"}, ""),
        ("172.17.0.1", [], {"HTTP_X_REAL_IP": "1.1.1.1"}, ""),
        ("172.17.0.1", [], {}, "172.17.0.1"),
        ("", [], {}, ""),
        ("", ["unix"], {}, ""),
        ("", ["unix"], {"HTTP_X_FORWARDED_FOR": "1.1.1.1"}, "1.1.1.1"),
        ("10.0.0.1", ["10.0.0.0/8"], {}, ""),
        ("10.0.0.1", ["10.0.0.0/8"], {"HTTP_X_FORWARDED_FOR": "10.0.0.2"}, ""),
        ("10.0.0.1", ["10.0.0.0/8"], {"HTTP_X_FORWARDED_FOR": "1.1.1.1"}, "1.1.1.1"),
        ("10.0.0.1", ["10.0.0.0/8"], {"HTTP_X_FORWARDED_FOR": "2001:db9::7"}, "2001:db9::/64"),
        ("made up", [], {}, ""),
    ],
)
def test_fault_121_payer_of_a_handshake_is_one_client_or_network(
    address: str, trusted: list[str], header: dict[str, str], payer: str
) -> None:
    environ = {"REMOTE_ADDR": address, "wsgi.url_scheme": "http", **header}
    assert TrustedProxies(trusted).requester(environ).payer == payer


def test_fault_121_connections_of_a_unix_socket_pay_alone() -> None:
    with live(**BUSY) as hub, contextlib.ExitStack() as stack:
        clients: list[Connection] = []
        peers: list[RawPeer] = []
        for _ in range(2):
            near, far = socket.socketpair()
            far.settimeout(5)
            peers.append(RawPeer.on(stack.enter_context(far)))
            clients.append(hub.hub.connect(near, decision=Decision(Answer("101"))))
            clients[-1].start()
        flood(peers[0])
        wait_until(lambda: hub.hub.stats().slowed == 1)
        for _ in range(3):
            assert ask(peers[1], {"type": "ping"})["type"] == "pong"
        assert hub.hub.stats().slowed == 1
        leave(hub)


def test_fault_121_first_message_authentication_makes_the_user_the_payer() -> None:
    settings = {"authenticator": APIKeyAuth(KEYS), "auth_by_message": True}
    with live(trusted_proxies=PROXY, **BUSY, **settings) as hub:
        with hub.peer(headers=via("203.0.113.9")) as peer:
            assert ask(peer, {"type": "auth", "data": "k-ann", "id": 1})["type"] == "ack"
            client = hub.connection()
            assert client.account is not None and client.account.payer == "user:ann"
            assert connected_payers(hub.hub) == {"user:ann"}
            flood(peer)
            wait_until(lambda: hub.hub.stats().slowed == 1)
        leave(hub)
        with hub.peer(headers=via("198.51.100.1", "k-ann")) as peer:
            ask(peer, {"type": "ping"})
            wait_until(lambda: hub.hub.stats().slowed == 2)
            leave(hub)
        wait_until(lambda: not connected_payers(hub.hub))


@pytest.mark.parametrize("key", ["", "k-ann"])
def test_fault_121_a_payer_deep_in_debt_is_1008_and_429_until_that_is_paid(key: str) -> None:
    """By a callback that computes; to wait, or sleep, would cost nothing."""

    def compute(client: Client, message: Message) -> None:
        end = time.thread_time() + 0.02
        while time.thread_time() < end:
            pass

    settings: dict[str, Any] = {"authenticator": APIKeyAuth(KEYS)} if key else {}
    with live(
        max_processing_rate=0.0005,
        processing_burst=0.02,
        on_message=compute,
        trusted_proxies=PROXY,
        **settings,
    ) as hub:
        here = via("203.0.113.9", key)
        # Two connections, or the one would rest before it asks for more.
        with hub.peer(headers=here) as one, hub.peer(headers=here) as two:
            for each in one, two:  # it is read from, and so has begun without a debt
                assert ask(each, {"type": "ping"})["type"] == "pong"
            one.send_json({"type": "compute"})
            wait_until(lambda: hub.hub.stats().slowed == 1)
            two.send_json({"type": "compute"})
            assert two.recv_close() == (1008, "too much processing asked for")
            assert hub.hub.stats().overdrafts == 1
            with hub.peer(handshake=False) as third:
                third.send_raw(third.request(here))
                answer = third.read_response()
                assert answer.status == 429
                assert 1 <= int(answer.headers["retry-after"]) <= 15
            assert hub.hub.stats().barred == 1
            for other in (via("203.0.113.10", key and "k-bob"), via("203.0.113.9", "k-bob")):
                if key or len(other) == 1:
                    with hub.peer(headers=other) as peer:
                        assert ask(peer, {"type": "ping"})["type"] == "pong"


@pytest.mark.parametrize("tls", [False, True])
def test_fault_121_repeated_connects_in_debt_are_not_read(tls: bool, certificate: Path) -> None:
    """And nobody else of the address is refused: not a page, not who comes by a proxy."""
    page = [b"a page"]
    began: list[socket.socket] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Length", "6")])
        return page

    context = None
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
    hub = Hub(HubConfig(max_processing_rate=1e-6, processing_burst=0.001))
    with serve(hub, app=app, ssl_context=context) as server:

        def answer(*headers: tuple[str, str], upgrade: bool = True) -> int:
            with contextlib.ExitStack() as stack:
                sock = socket.create_connection(("127.0.0.1", server.port), TIMEOUT)
                if tls:
                    trust = ssl.create_default_context(cafile=str(certificate))
                    sock = trust.wrap_socket(sock, server_hostname="localhost")
                stack.enter_context(sock)
                peer = RawPeer.on(sock)
                peer.host, peer.path = "localhost", "/ws"
                if upgrade:
                    peer.send_raw(peer.request(list(headers)))
                else:
                    peer.send_raw(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                return peer.read_response().status

        assert answer() == 101  # its cost is more than the burst
        wait_until(lambda: not hub.all_clients())
        handler = server_module.Handler

        def handle(sock: socket.socket, *args: Any) -> Any:
            began.append(sock)
            return handler(sock, *args)

        # Mostly a request is there when a hub that is busy comes to look; here it always is.
        with pytest.MonkeyPatch.context() as patch, peeks_wait():
            patch.setattr(server_module, "Handler", handle)
            assert [answer() for _ in range(5)] == [429] * 5
            assert len(began) == (5 if tls else 0)  # what is encrypted has to be read
            assert answer(upgrade=False) == 200
            assert answer(("X-Forwarded-For", "203.0.113.9")) == 101  # whoever that is
        assert hub.stats().barred == 5


# --- what is too large is refused by its header --------------------------------------------


def header(opcode: int, length: int, *, fin: bool = True, rsv: int = 0) -> bytes:
    """A frame's header, of which no payload follows."""
    return bytes([fin << 7 | rsv << 4 | opcode, 0xFF]) + struct.pack("!Q", length) + b"mask"


SMALL = frame(TEXT, b"x" * 40_000, fin=False)
COMPRESSED = frame(BINARY, deflated(b"x"), fin=False, rsv=4)


@pytest.mark.parametrize(
    "sent",
    [
        header(TEXT, 65_537),
        header(BINARY, 1 << 62),
        header(TEXT, 70_000, fin=False),
        SMALL + header(CONTINUATION, 65_536),
        SMALL + frame(PING, b"") + frame(CONTINUATION, b"x" * 25_536, fin=False)
        + frame(CONTINUATION, b"x", fin=True)[:2],
        header(TEXT, 1 << 20, rsv=4),
        COMPRESSED + header(CONTINUATION, 1 << 20),
    ],
    ids=["text", "binary", "fragment", "sum", "last byte", "compressed", "compressed sum"],
)  # fmt: skip
def test_fault_oversized_frame_is_1009_when_its_header_has_come(sent: bytes) -> None:
    """It was when the bytes over the limit had come."""
    with live(compression=True) as hub, hub.peer(headers=DEFLATE) as peer:
        peer.send_raw(sent)
        answer = peer.recv_frame()
        if answer.opcode == PONG:
            answer = peer.recv_frame()
        assert answer.close == (1009, "message over 65536 bytes")
        assert hub.hub.stats().oversized_messages == 1


def test_a_message_as_large_as_may_be_passes_however_it_comes() -> None:
    """Byte by byte as well: the parser looks at a header that is in pieces more than once."""
    with small_pair(1 << 18) as (near, far):
        transport = Transport(near, max_message_size=300, max_fragments=9, compression=True)
        noise = deflated(bytes(range(256)) + b"x" * 44, level=0)
        assert len(noise) > 300
        whole = (
            frame(TEXT, b"x" * 150, fin=False)
            + frame(PING, b"y" * 125)
            + frame(CONTINUATION, b"x" * 150)
            + frame(BINARY, noise, rsv=4)
            + frame(TEXT, b"x" * 300)
        )
        got: list[Event] = []
        for at in range(len(whole)):
            far.sendall(whole[at : at + 1])
            got += received(transport)
        assert not any(isinstance(event, Broken) for event in got)
        sizes = [len(event.text) for event in got if isinstance(event, Text)]
        assert sizes == [300, 300] and len(got) == 4
        transport.close()
