"""Floods, drips and crowds: what one client, one address or one user may cost, by number.

Where a clock decides, it is a test's own; over real sockets is tried that the pieces are
joined: that the peer is told, that it is counted, and that nobody else notices.
"""

from __future__ import annotations

import contextlib
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.delivery import receive
from tests.harness import seen_as_room
from tests.integration.apps.live import Live, live, subscribe
from tests.support import (
    BINARY,
    CLOSE,
    CONTINUATION,
    DEFLATE,
    MAX_RATIO,
    PING,
    PONG,
    TEXT,
    RawPeer,
    deflated,
    small_pair,
    wait_until,
)
from ws_hub import APIKeyAuth, ChannelRule, HubConfig, Message
from ws_hub.access.capacity import Capacity
from ws_hub.access.quotas import Quotas
from ws_hub.connection import receiver
from ws_hub.connection.receiver import End
from ws_hub.connection.transport import Binary, Transport
from ws_hub.hub.subscriptions import ChannelMap
from ws_hub.hub.users import Users

KEYS = {"k-ann": "ann", "k-bob": "bob"}
ANN = [("Authorization", "Bearer k-ann")]
BOB = [("Authorization", "Bearer k-bob")]

frame = RawPeer.frame


@pytest.fixture
def hub() -> Iterator[Live]:
    with live() as made:
        yield made


# --- 11, 29: what does not come to its end -------------------------------------------------


def test_fault_11_fragments_that_drip_with_pongs_between_are_1008() -> None:
    with live(message_timeout=0.2) as hub, hub.peer() as peer:
        peer.send_frame(TEXT, b"{", fin=False)
        peer.sock.settimeout(0.02)
        answer = None
        while answer is None:
            peer.send_raw(frame(CONTINUATION, b"", fin=False) + frame(PONG, b""))
            with contextlib.suppress(TimeoutError):
                answer = peer.recv_frame()
        assert answer.close == (1008, "message not whole within 0.2 s")
        peer.sock.close()
        assert hub.notes.end()[0] == 1008
        assert hub.hub.stats().slow_messages == 1


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_fault_29_half_a_frame_is_waited_for_no_longer(cut: int) -> None:
    """The stock parts wait for ever, as long as pongs come or no pings are set."""
    with live(message_timeout=0.1) as hub, hub.peer() as slow, hub.peer() as other:
        slow.send_raw(frame(TEXT, b'{"type":"ping","id":1}')[:cut])
        assert slow.recv_close()[0] == 1008
        other.send_json({"type": "ping", "id": 2})
        assert other.recv_json()["id"] == 2


# --- 12, 13: compression -------------------------------------------------------------------


def test_fault_13_there_is_no_compression_for_a_ping_to_break(hub: Live) -> None:
    """The stock parts deliver the rest of a compressed message raw after a ping."""
    offers = "permessage-deflate; client_max_window_bits, x-webkit-deflate-frame"
    with hub.peer(handshake=False) as peer:
        response = peer.handshake([("Sec-WebSocket-Extensions", offers)])
        assert "sec-websocket-extensions" not in response.headers
        peer.send_raw(
            frame(TEXT, b'{"type":"ping",', fin=False)
            + frame(PING, b"between")
            + frame(CONTINUATION, b'"id":1}')
        )
        assert (peer.recv_frame().payload, peer.recv_json()["id"]) == (b"between", 1)


RSV1 = 4


def bombs() -> Iterator[tuple[str, list[bytes]]]:
    whole = deflated(b"\0" * (1 << 26))
    yield "in one frame", [frame(TEXT, whole, rsv=RSV1)]
    head, *rest = [whole[at : at + 1000] for at in range(0, len(whole), 1000)]
    yield (
        "in pieces, with pings between",
        [
            frame(BINARY, head, fin=False, rsv=RSV1),
            *[
                piece
                for each in rest[:-1]
                for piece in (frame(PING, b""), frame(CONTINUATION, each, fin=False))
            ],
            frame(CONTINUATION, rest[-1]),
        ],
    )
    yield "that never ends", [frame(TEXT, whole[:5000], rsv=RSV1, length=1 << 40)]
    yield "of nothing", [frame(TEXT, b"\0\0\0\xff\xff" * 30_000, rsv=RSV1)]


@pytest.mark.parametrize(("pieces"), [pytest.param(it, id=name) for name, it in bombs()])
def test_fault_12_a_bomb_is_1009_and_costs_no_memory(pieces: list[bytes]) -> None:
    """64 KiB that inflate to 64 MiB: the stock parts hold all of it, and look then."""
    with live(compression=True, max_control_rate=None) as hub, hub.peer(headers=DEFLATE) as peer:
        data = b"".join(pieces)
        hub.client()
        tracemalloc.start()
        try:
            with contextlib.suppress(ConnectionError):
                peer.send_raw(data)
            assert peer.recv_close()[0] == 1009
            assert tracemalloc.get_traced_memory()[1] < 10 * HubConfig().max_message_size
        finally:
            tracemalloc.stop()
        peer.sock.close()
        assert hub.notes.end()[0] == 1009
        assert hub.hub.stats().oversized_messages == 1


def test_fault_12_many_small_bombs_at_once_are_not_held_at_once() -> None:
    with small_pair(1 << 17) as (near, far):
        one = frame(BINARY, deflated(b"\0" * (1 << 16)), rsv=RSV1)
        transport = Transport(
            near, max_message_size=1 << 16, max_fragments=1, compression=True, received=one * 500
        )
        far.sendall(one * 500)
        got, most = 0, 0
        while got < 1000:
            events = transport.receive(5)
            assert events is not None
            got += len(events)
            most = max(most, sum(len(each.data) for each in events if isinstance(each, Binary)))
        assert most < 2 * 2048 * MAX_RATIO
        transport.close()


@pytest.mark.parametrize("numbers", [(1,), (1, 2, 3)])
def test_fault_13_a_ping_between_compressed_fragments_changes_nothing(
    numbers: tuple[int, ...],
) -> None:
    """The stock parts take what follows the ping for text that is not compressed."""
    with live(compression=True) as hub, hub.peer(headers=DEFLATE) as peer:
        for number in numbers:
            payload = deflated(b'{"type":"ping","id":%d}' % number)
            peer.send_raw(
                frame(TEXT, payload[:7], fin=False, rsv=RSV1)
                + frame(PING, b"between")
                + frame(CONTINUATION, payload[7:])
            )
            assert (peer.recv_frame().payload, peer.recv_json()["id"]) == (b"between", number)
        assert peer.close() == (1000, "")


@pytest.mark.parametrize(
    ("piece", "code"),
    [
        (frame(TEXT, b"\xff\xff", rsv=RSV1), 1007),
        (frame(TEXT, deflated(b"\xff"), rsv=RSV1), 1007),
        (frame(TEXT, deflated(b"{}") + b"\x01\x00", rsv=RSV1), 1007),
        (frame(TEXT, deflated(b"{}"), rsv=6), 1002),
        (frame(PING, deflated(b"{}"), rsv=RSV1), 1002),
        (frame(CLOSE, b"\x03\xe8", rsv=RSV1), 1002),
    ],
)
def test_what_is_wrong_with_compressed_data_ends_that_connection_alone(
    piece: bytes, code: int
) -> None:
    with live(compression=True) as hub, hub.peer(headers=DEFLATE) as other:
        with hub.peer(headers=DEFLATE) as peer:
            peer.send_raw(piece)
            assert peer.recv_close()[0] == code
        assert hub.notes.end()[0] == code
        other.send_json({"type": "ping", "id": 1})
        assert other.recv_json()["id"] == 1


# --- 17, 18: floods ------------------------------------------------------------------------


class Answers:
    """What a sender does for a receiver; its rests are given to a function."""

    def __init__(self, rested: Callable[[float], bool] = lambda seconds: True) -> None:
        self.pause = rested
        self.said: list[Any] = []

    def control(self, pong: bytes) -> None:
        self.said.append(pong)

    def finish(self, code: int, reason: str, *, now: bool) -> None:
        self.said.append((int(code), reason, now))

    def answer_close(self, code: int) -> bool:
        self.said.append(code)
        return True

    def drain(self) -> None:
        pass


class Talk:
    """One receiver, stepped: what it counted, got, and rested, by a clock of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
        self.now = 100.0
        self.config = HubConfig(close_timeout=0.1, **settings)
        self._account = Quotas(self.config).enter("", self.now)
        self.counted: list[str] = []
        self.got: list[str | bytes] = []
        self.rests: list[float] = []
        self.answers = Answers(self._rest)
        self.next: Callable[[], bytes] = lambda: b""
        monkeypatch.setattr(receiver.time, "monotonic", lambda: self.now)

    def _charge(self, now: float, seconds: float, messages: int, controls: int) -> Any:
        return self._account.charge(now, seconds=0.0, messages=messages, controls=controls)

    def _rest(self, seconds: float) -> bool:
        self.rests.append(seconds)
        self.now += seconds
        self.far.sendall(self.next())
        return True

    def receive(self, first: bytes) -> End:
        with small_pair(1 << 16) as (near, self.far):
            transport = Transport(near, max_message_size=1000, max_fragments=10)
            self.far.sendall(first)
            return receive(
                transport,
                self.answers,  # type: ignore[arg-type]
                self.config,
                received=self.got.append,
                charge=self._charge,
                count=self.counted.append,
            )


def test_fault_18_client_that_sends_too_fast_is_read_later_and_loses_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The stock parts put it all into a list."""
    talk = Talk(monkeypatch, max_message_rate=10.0, message_burst=5)
    pieces = [frame(BINARY, b"x") * 3, frame(BINARY, b"y") + frame(CLOSE, b"\x03\xe8")]
    talk.next = lambda: pieces.pop(0)
    assert talk.receive(frame(TEXT, b"a") * 10) == End(1000, "")
    assert talk.got == ["a"] * 10 + [b"x"] * 3 + [b"y"]
    assert talk.rests == [0.5, pytest.approx(0.3)]
    assert talk.counted == ["slowed"] * 2


def test_fault_18_short_rests_are_taken_together(monkeypatch: pytest.MonkeyPatch) -> None:
    talk = Talk(monkeypatch, max_message_rate=1000.0, message_burst=1)
    talk.next = lambda: frame(CLOSE, b"\x03\xe8")
    talk.receive(frame(TEXT, b"a") * 100)
    assert talk.rests == [pytest.approx(0.063)]  # after 64 of them; the rest stays owed
    talk = Talk(monkeypatch, max_message_rate=1000.0, message_burst=1)
    talk.receive(frame(TEXT, b"a") * 2 + frame(CLOSE, b"\x03\xe8"))
    assert talk.rests == []


def test_fault_18_too_long_a_flood_is_closed_with_1008_where_that_is_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    talk = Talk(monkeypatch, max_message_rate=10.0, message_burst=5, flood_timeout=2.0)
    talk.next = lambda: frame(TEXT, b"b") * 10
    end = talk.receive(frame(TEXT, b"a") * 10)
    assert (end.code, end.fault) == (1008, "too many messages")
    assert talk.answers.said == [(1008, "too many messages", True)]
    assert talk.counted == ["slowed"] * 3 + ["message_floods"]
    assert 102 < talk.now < 103


def test_fault_18_flood_waits_in_the_network_and_delays_no_other_client() -> None:
    settings = {"max_message_rate": 1.0, "message_burst": 10}
    with live(**settings) as hub, hub.peer() as flooding, hub.peer() as other:
        client = hub.hub.all_clients()[0]
        flooding.sock.settimeout(0.2)
        with contextlib.suppress(TimeoutError):
            while True:  # until there is no room in the network any more
                flooding.send_raw(frame(TEXT, b'{"type":"pong","data":"' + b"x" * 900 + b'"}'))
        wait_until(lambda: hub.hub.stats().slowed)
        other.send_json({"type": "ping", "id": 1})
        assert other.recv_json()["id"] == 1
        client.close(1000)  # it rests for a minute by now, but not longer than it lives
        flooding.sock.settimeout(5)
        assert flooding.recv_close()[0] == 1000
        flooding.sock.close()
        hub.notes.end()


@pytest.mark.parametrize("opcode", [PING, PONG], ids=["pings", "pongs"])
def test_fault_17_too_many_control_frames_are_1008_before_they_are_answered(opcode: int) -> None:
    settings = {"max_control_rate": 0.01, "control_burst": 50}
    with live(**settings) as hub, hub.peer() as flooding, hub.peer() as other:
        flooding.send_raw(frame(opcode, b"x") * 50)
        flooding.send_json({"type": "ping", "id": "after"})
        if opcode == PING:
            assert {flooding.recv_frame().opcode for _ in range(50)} == {PONG}
        assert flooding.recv_json()["id"] == "after"  # as many as may be do no harm
        flooding.send_raw(frame(opcode, b"x") * 10_000)
        answer = flooding.recv_frame()
        assert answer.close == (1008, "too many pings and pongs")
        flooding.sock.close()
        assert hub.notes.end()[0] == 1008
        assert hub.hub.stats().control_floods == 1
        other.send_json({"type": "ping", "id": 1})
        assert other.recv_json()["id"] == 1


# --- 8, 51: crowds -------------------------------------------------------------------------


def answer(hub: Live, *headers: tuple[str, str]) -> tuple[int, str]:
    """Status of a handshake, and when to try again."""
    with hub.peer(handshake=False) as peer:
        peer.send_raw(peer.request(headers))
        response = peer.read_response()
        return response.status, response.headers.get("retry-after", "")


def came_by(chain: str) -> tuple[str, str]:
    return "X-Forwarded-For", chain


def test_fault_51_one_address_has_so_many_connections() -> None:
    settings = {"max_connections_per_address": 2, "trusted_proxies": ["127.0.0.1"]}
    with live(**settings) as hub, contextlib.ExitStack() as stack:
        here = came_by("203.0.113.9")
        one, _ = (stack.enter_context(hub.peer(headers=[here])) for _ in range(2))
        assert answer(hub, here) == (429, "10")
        assert answer(hub, came_by("198.51.100.1, 203.0.113.9")) == (429, "10")  # its own words
        assert answer(hub, came_by("203.0.113.9, 198.51.100.1"))[0] == 101
        assert hub.hub.stats().crowded_addresses == 2
        one.close()
        wait_until(lambda: answer(hub, here)[0] == 101)
        for tail in ("1", "2"):
            stack.enter_context(hub.peer(headers=[came_by(f"2001:db8:1:2::{tail}")]))
        assert answer(hub, came_by("2001:db8:1:2:ffff::3"))[0] == 429  # one network of 64 bits
        assert answer(hub, came_by("2001:db8:1:3::1"))[0] == 101


def test_fault_51_without_a_trusted_proxy_the_header_counts_for_nothing() -> None:
    with live(max_connections_per_address=1) as hub, hub.peer(headers=[came_by("198.51.100.1")]):
        assert answer(hub, came_by("198.51.100.2"))[0] == 429


def test_fault_51_one_user_has_so_many_connections() -> None:
    settings = {"max_connections_per_user": 1, "authenticator": APIKeyAuth(KEYS)}
    with live(**settings) as hub:
        with hub.peer(headers=ANN) as peer:
            assert answer(hub, *ANN) == (429, "10")
            assert answer(hub, *BOB)[0] == 101
            assert hub.hub.stats().crowded_users == 1
            peer.close()
        wait_until(lambda: answer(hub, *ANN)[0] == 101)


def test_fault_51_first_message_authentication_counts_for_the_user_limit() -> None:
    settings = {"max_connections_per_user": 1, "auth_by_message": True}
    with live(authenticator=APIKeyAuth(KEYS), **settings) as hub, hub.peer(headers=ANN):
        with hub.peer() as second:
            second.send_json({"type": "auth", "data": "k-ann"})
            assert second.recv_close() == (1008, "too many connections of this user")
        with hub.peer() as third:
            third.send_json({"type": "auth", "data": "k-bob", "id": 1})
            assert third.recv_json()["type"] == "ack"
            assert answer(hub, *BOB)[0] == 429  # it has taken Bob's place
        wait_until(lambda: answer(hub, *BOB)[0] == 101)  # and given it back
        assert answer(hub, *ANN)[0] == 429


@pytest.mark.parametrize(
    ("setting", "name"),
    [
        ("max_connections_per_address", "crowded_addresses"),
        ("max_connections_per_user", "crowded_users"),
    ],
)
def test_fault_51_simultaneous_connects_do_not_exceed_the_limit(setting: str, name: str) -> None:
    with live(authenticator=APIKeyAuth(KEYS), **{setting: 1}) as hub:
        # As if the door had looked when nobody was there yet.
        with seen_as_room(hub.hub), hub.peer(headers=ANN):
            assert answer(hub, *ANN) == (429, "10")
            assert getattr(hub.hub.stats(), name) == 1
            assert hub.hub.client_count() == 1


def test_fault_51_refused_client_takes_no_room() -> None:
    settings = {"max_connections_per_address": 2, "max_connections_per_user": 1}
    with live(authenticator=APIKeyAuth(KEYS), max_connections=1, **settings) as hub:
        with hub.peer(headers=ANN):
            for _ in range(10):  # of an address with one place left: 429 while that is taken
                wait_until(lambda: answer(hub, *BOB)[0] == 503)  # counted, and sent away
                wait_until(lambda: answer(hub)[0] == 401)
                assert answer(hub, ("Origin", "https://evil.example"))[0] == 403
        wait_until(lambda: answer(hub, *BOB)[0] == 101)
        wait_until(lambda: answer(hub, *ANN)[0] == 101)


def test_fault_08_so_many_may_wait_and_hold_a_thread() -> None:
    settings = {"max_waiting": 1, "auth_by_message": True, "authenticator": APIKeyAuth(KEYS)}
    with live(**settings) as hub, hub.peer() as first:
        assert answer(hub) == (503, "1")
        assert answer(hub, *BOB)[0] == 101  # who says it at once does not wait
        assert (hub.hub.stats().crowded_pending, hub.hub.stats().refused) == (1, 0)
        first.send_json({"type": "auth", "data": "k-ann", "id": 1})
        assert first.recv_json()["type"] == "ack"
        assert answer(hub)[0] == 101


def test_fault_08_pending_client_may_find_the_hub_full_when_it_authenticates() -> None:
    settings = {"max_connections": 1, "auth_by_message": True, "authenticator": APIKeyAuth(KEYS)}
    settings |= {"max_connections_per_user": 1}
    with live(**settings) as hub, hub.peer() as waiting:
        assert answer(hub) == (503, "1")
        with hub.peer(headers=ANN):
            waiting.send_json({"type": "auth", "data": "k-bob"})
            assert waiting.recv_close() == (1013, "the hub takes no more")
            assert hub.hub.stats().refused == 2
            waiting.send_close(1013)
            assert waiting.recv_eof() == b""
        # The place of its user is free again, when that of the hub is.
        wait_until(lambda: answer(hub, *BOB)[0] == 101)


# --- 19, 44: channels ----------------------------------------------------------------------


def test_fault_19_all_clients_together_have_so_many_subscriptions() -> None:
    with live(max_subscriptions_in_all=3) as hub:
        with hub.subscribed("a", "b") as one, hub.subscribed("a") as two:
            for peer in (one, two):
                peer.send_json({"type": "subscribe", "channel": "c", "id": 1})
                refused = peer.recv_json()
                assert (refused["code"], refused["data"]) == (
                    "limit",
                    "subscription limit exceeded",
                )
            subscribe(two, "a")  # again is no change
            with contextlib.closing(hub.hub.listen("c", lambda message: None)):
                assert hub.hub.channel_count() == 3  # the application's own
            assert hub.hub.stats().refused_subscriptions_in_all == 2
            one.send_json({"type": "unsubscribe", "channel": "b"})
            subscribe(one, "c")
        wait_until(lambda: hub.hub.channel_count() == 0)


def test_fault_19_44_a_hundred_thousand_come_and_go_and_nothing_is_left() -> None:
    """Of what the maps hold, without the sockets: those have a test of their own."""
    channels: ChannelMap[int] = ChannelMap()
    users: Users[int] = Users()
    places: Capacity[int] = Capacity(10)

    def cycles(count: int) -> None:
        for client in range(count):
            assert places.enter(client, f"192.0.2.{client % 7}")
            channels.enter(client)
            users.enter(client, f"user{client % 1000}", 1e9 + client)
            for name in (f"own:{client}", "shared"):
                channels.add(client, name, 10, 10)
            for leave in (places.leave, channels.leave, users.leave):
                leave(client)  # type: ignore[operator]

    cycles(1000)
    before = sys.getallocatedblocks()
    cycles(100_000)
    assert sys.getallocatedblocks() - before < 1000
    assert (len(channels), channels.total) == (0, 0)


# --- 21 to 27: forms -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["[]", '{"a":}'])
def test_fault_22_what_is_nested_too_deeply_is_one_error_at_any_depth(kind: str) -> None:
    """What could just be read could not be written again, and a reader died of it."""
    opening, closing = kind[:-1], kind[-1]
    rule = ChannelRule(pattern="*", publish=True)
    with live(rules=[rule]) as hub, hub.subscribed("a") as peer:
        for depth in (*range(124, 130), *range(300, 1000, 100), *range(960, 1000), 8000):
            data = opening * depth + "1" + closing * depth
            peer.send_text(f'{{"type":"publish","channel":"a","id":1,"data":{data}}}')
            got = peer.recv_json()
            if depth < 128:  # within an object
                assert {got["type"], peer.recv_json()["type"]} == {"ack", "event"}
            else:
                assert (got["type"], got["code"]) == ("error", "bad_message")
                assert got["data"] == "invalid JSON: nested too deeply"
        assert hub.hub.stats().bad_messages == 2 + 7 + 40 + 1


def test_fault_22_brackets_within_texts_and_side_by_side_are_not_deep(hub: Live) -> None:
    data = '["' + "[{" * 5000 + '\\"[",' + ",".join(["[[]]", "{}"] * 1000) + "]"
    with hub.peer() as peer:
        peer.send_text(f'{{"type":"ping","id":1,"data":{data}}}')
        assert peer.recv_json()["type"] == "pong"


# --- counted -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (frame(TEXT, b"x" * 101), "oversized_messages"),
        (
            frame(TEXT, b"", fin=False) + frame(CONTINUATION, b"", fin=False) * 9,
            "fragmented_messages",
        ),
        (frame(TEXT, b"{"), "bad_messages"),
        (frame(BINARY, b"{}"), "bad_messages"),
        (frame(TEXT, b'{"type":"subscribe","channel":"a b"}'), "bad_channels"),
        (frame(TEXT, b'{"type":"subscribe","channel":7}'), "bad_messages"),
        (frame(TEXT, b'{"type":"subscribe","data":7}'), "bad_channels"),
        (frame(TEXT, b'{"type":"subscribe","channel":"b"}'), "refused_subscriptions"),
    ],
)
def test_what_meets_a_limit_is_counted_by_its_name(data: bytes, name: str) -> None:
    with live(max_message_size=100, max_fragments=5, max_subscriptions=1) as hub:
        with hub.subscribed("a") as peer:
            before = hub.hub.stats()
            peer.send_raw(data)
            wait_until(lambda: getattr(hub.hub.stats(), name) == 1)
            assert getattr(before, name) == 0


def test_a_client_that_is_within_all_bounds_meets_none() -> None:
    """All bounds that count; how much processor time it takes is a matter of the machine."""
    time = {"max_processing_rate": None, "max_processing_rate_in_all": None}
    with live(**time) as hub, hub.subscribed(*(f"c{number}" for number in range(50))) as peer:
        for number in range(500):
            peer.send_json({"type": "ping", "id": number})
        peer.send_raw(frame(PING, b"") * 100)
        answers = [peer.recv_frame().opcode for _ in range(600)]
        assert (answers.count(TEXT), answers.count(PONG)) == (500, 100)
        hub.hub.broadcast(Message("event", data="still here"))
        assert peer.recv_json()["data"] == "still here"
        stats = hub.hub.stats()
        assert (stats.slowed, stats.control_floods, stats.bad_messages) == (0, 0, 0)
