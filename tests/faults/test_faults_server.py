"""Attacks and faults that a hub meets, numbered as in the list of faults.

What is proven beside the integration tests carries its number there.
"""

from __future__ import annotations

import contextlib
import struct
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.apps.live import Live, live, subscribe
from tests.support import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    RawPeer,
    wait_until,
)
from ws_hub import Message


@pytest.fixture
def hub() -> Iterator[Live]:
    with live() as made:
        yield made


def ends_with(hub: Live, code: int, *pieces: bytes) -> None:
    """Send raw bytes; the connection must end with a code, wholly, and be told of once."""
    with hub.peer() as peer:
        for piece in pieces:
            peer.send_raw(piece)
        assert peer.recv_close()[0] == code
        peer.send_close(code)
        assert peer.recv_eof() == b""
    assert hub.notes.end()[0] == code
    hub.empty()


frame = RawPeer.frame


# --- handshakes ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("required", "origin", "status"),
    [(True, "", 403), (False, "", 101), (True, "own", 101), (False, "https://evil.example", 403)],
)
def test_fault_02_a_missing_origin_is_a_matter_of_policy(
    required: bool, origin: str, status: int
) -> None:
    with live(require_origin=required) as hub, hub.peer(handshake=False) as peer:
        if origin == "own":
            origin = f"http://127.0.0.1:{hub.server.port}"
        peer.send_raw(peer.request([("Origin", origin)] if origin else []))
        assert peer.read_response().status == status


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("https://good.example", 101),
        ("HTTPS://GOOD.example:443", 101),
        ("http://good.example", 403),
        ("https://good.example:444", 403),
        ("https://good.example.evil", 403),
        ("https://evilgood.example", 403),
        ("https://good.example@evil.example", 403),
        ("https://good.example/", 403),
        ("null", 403),
    ],
)
def test_fault_03_an_origin_is_compared_whole(origin: str, status: int) -> None:
    with live(allowed_origins=["https://good.example"]) as hub:
        with hub.peer(handshake=False) as peer:
            peer.send_raw(peer.request([("Origin", origin)]))
            assert peer.read_response().status == status


def test_fault_05_a_request_behind_a_failed_upgrade_is_not_served(hub: Live) -> None:
    with hub.peer(handshake=False) as peer:
        smuggled = b"GET /admin HTTP/1.1\r\nHost: localhost\r\n\r\n"
        peer.send_raw(peer.request([("Sec-WebSocket-Key", "x")]) + smuggled)
        assert peer.read_response().status == 400
        with contextlib.suppress(ConnectionError):
            assert peer.recv_eof() == b""


def test_fault_12_13_compression_is_not_negotiated(hub: Live) -> None:
    with hub.peer(handshake=False) as peer:
        response = peer.handshake([("Sec-WebSocket-Extensions", "permessage-deflate")])
        assert "sec-websocket-extensions" not in response.headers
        peer.close()
    assert hub.notes.end()[0] == 1000
    ends_with(hub, 1002, frame(TEXT, b"\x00", rsv=4))  # a bomb finds nobody to inflate it


# --- frames --------------------------------------------------------------------------------


def test_fault_09_a_frame_over_the_limit_is_cut_by_its_first_bytes_over(hub: Live) -> None:
    with hub.peer() as peer:
        peer.send_raw(frame(TEXT, b"x" * 66_000, length=1 << 40))  # a terabyte is announced
        assert peer.recv_close()[0] == 1009
    assert hub.notes.end()[0] == 1009


def test_fault_09_a_client_that_goes_on_sending_still_learns_why(hub: Live) -> None:
    with hub.peer() as peer:
        with contextlib.suppress(ConnectionError):
            for _ in range(50):
                peer.send_raw(frame(TEXT, b"x" * 100_000))
        assert peer.recv_close()[0] == 1009


def test_fault_10_a_fragmented_message_over_the_limit_is_1009(hub: Live) -> None:
    ends_with(
        hub,
        1009,
        frame(TEXT, b"x" * 30_000, fin=False),
        frame(CONTINUATION, b"x" * 30_000, fin=False),
        frame(CONTINUATION, b"x" * 5_537, fin=False),
    )


def test_fault_10_the_limit_counts_bytes_and_not_characters(hub: Live) -> None:
    ends_with(hub, 1009, frame(TEXT, ("ä" * 40_000).encode()))


def test_fault_11_fragments_without_end_are_1008(hub: Live) -> None:
    empty = frame(CONTINUATION, b"", fin=False)
    ends_with(hub, 1008, frame(TEXT, b"", fin=False), empty * 2000)


@pytest.mark.parametrize(
    "pieces",
    [
        (frame(TEXT, b"\xff"),),
        (frame(TEXT, b"\xed\xa0\x80"),),  # a lone surrogate
        (frame(TEXT, b"\xc3", fin=False), frame(CONTINUATION, b"(")),
        (frame(CLOSE, b"\x03\xe8\xff"),),
    ],
    ids=["bad byte", "surrogate", "split", "close reason"],
)
def test_fault_14_invalid_utf_8_is_1007(hub: Live, pieces: tuple[bytes, ...]) -> None:
    ends_with(hub, 1007, *pieces)


def test_fault_14_utf_8_split_between_fragments_is_put_together(hub: Live) -> None:
    text = '{"type":"ping","id":"ä"}'.encode()
    cut = text.index(b"\xc3") + 1
    with hub.peer() as peer:
        peer.send_raw(frame(TEXT, text[:cut], fin=False))
        peer.send_raw(frame(PING, b"between"))
        peer.send_raw(frame(CONTINUATION, text[cut:]))
        pong = peer.recv_frame()
        assert (pong.opcode, pong.payload) == (PONG, b"between")
        assert peer.recv_json()["id"] == "ä"


@pytest.mark.parametrize(
    "piece",
    [
        frame(TEXT, b"x", rsv=1),
        frame(TEXT, b"x", rsv=2),
        frame(TEXT, b"x", rsv=4),
        frame(3, b"x"),
        frame(0xB, b"x"),
        frame(PING, b"x" * 126),
        frame(PING, b"x", fin=False),
        frame(TEXT, b"x", form=16),
        frame(TEXT, b"x", form=64),
        frame(CONTINUATION, b"x"),
        frame(TEXT, b"x", fin=False) + frame(TEXT, b"y"),
        frame(CLOSE, b"\x03"),
        *(frame(CLOSE, struct.pack("!H", code)) for code in (0, 999, 1004, 1005, 1006, 1015, 2999)),
        frame(TEXT, b"x", length=1 << 63, form=64),
    ],
    ids=[
        "rsv3", "rsv2", "rsv1", "opcode 3", "opcode 11", "long ping", "ping in fragments",
        "length in 16 bits", "length in 64 bits", "nothing to continue", "text within text",
        "close of one byte", "close 0", "close 999", "close 1004", "close 1005", "close 1006",
        "close 1015", "close 2999", "length over 2^63",
    ],
)  # fmt: skip
def test_fault_15_what_rfc_6455_forbids_is_1002(hub: Live, piece: bytes) -> None:
    ends_with(hub, 1002, piece)


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1011, 1012, 1013, 3000, 4999])
def test_fault_15_a_close_code_that_may_be_sent_is_answered_in_kind(hub: Live, code: int) -> None:
    with hub.peer() as peer:
        assert peer.close(code, "reason")[0] == code
    assert hub.notes.end() == (code, "reason")


def test_fault_16_a_frame_without_a_mask_is_1002(hub: Live) -> None:
    ends_with(hub, 1002, frame(TEXT, b'{"type":"ping"}', mask=None))


# --- floods --------------------------------------------------------------------------------


def test_fault_17_flood_of_pings_costs_no_memory_and_delays_no_other_client() -> None:
    pings = frame(PING, b"x" * 100) * 500
    with (
        live(max_control_rate=None) as hub,
        hub.peer(rcvbuf=4096) as flooding,
        hub.peer() as other,
    ):
        client = hub.hub.all_clients()[0]
        flooding.sock.settimeout(0.2)
        with contextlib.suppress(TimeoutError):
            for _ in range(200):  # 100,000 of them, and it does not read one pong
                flooding.send_raw(pings)
        assert client.waiting[1] < 100_000
        hub.hub.broadcast(Message("event", data="x"))
        assert other.recv_json()["data"] == "x"
        for _ in range(100):
            other.send_frame(PONG, b"nobody asked")
        other.send_json({"type": "ping", "id": 1})
        assert other.recv_json()["id"] == 1


@pytest.mark.slow
def test_fault_18_client_that_reads_no_answers_is_not_read_further() -> None:
    unbounded = {"max_message_rate": None, "max_processing_rate": None}
    with live(outbox_bytes=20_000, write_timeout=0.3, close_timeout=0.1, **unbounded) as hub:
        with hub.peer(rcvbuf=4096) as asking:
            client = hub.client()
            request = frame(TEXT, b'{"type":"ping","id":"' + b"i" * 128 + b'"}')
            with contextlib.suppress(OSError):
                for _ in range(50_000):
                    asking.send_raw(request)
                    assert client.waiting[1] < 100_000
            assert hub.notes.end()[0] in (1006, 1013)
        hub.empty()


def test_fault_19_subscriptions_are_bounded_and_empty_channels_are_freed(hub: Live) -> None:
    with hub.peer() as greedy:
        for number in range(1100):
            greedy.send_json({"type": "subscribe", "channel": f"c{number}"})
        errors = [greedy.recv_json() for _ in range(1100 - 1024)]
        assert {error["data"] for error in errors} == {"subscription limit exceeded"}
        assert hub.hub.channel_count() == 1024
    hub.empty()
    wait_until(lambda: hub.hub.channel_count() == 0)
    assert hub.hub.stats().subscriptions == 0


def test_fault_20_churn_and_repetition_change_nothing(hub: Live) -> None:
    with hub.peer() as peer:
        for _ in range(200):
            for kind in ("subscribe", "subscribe", "unsubscribe", "unsubscribe"):
                peer.send_json({"type": kind, "channel": "a"})
            peer.send_json({"type": "unsubscribe", "channel": "never-heard-of"})
        peer.send_json({"type": "ping", "id": "marker"})
        assert peer.recv_json()["id"] == "marker"  # and not one error before it
        assert (hub.hub.channel_count(), hub.hub.stats().subscriptions) == (0, 0)
        subscribe(peer, "a")
        subscribe(peer, "a")
        hub.hub.send_to_channel("a", Message("event", data=1))
        hub.hub.send_to_channel("a", Message("event", data=2))
        assert [peer.recv_json()["data"] for _ in range(2)] == [1, 2]  # once each


@pytest.mark.parametrize(
    "name",
    ["a b", "a\n", "a\r\nb", "a\x00", "*", "a?", "[a]", "ä", "ⅽhannel", "x" * 257, "x" * 60_000,
     "process:", "process:a:b", "process:a b", ".." + "/", "a/b"],
    ids=range(16),
)  # fmt: skip
def test_fault_21_a_channel_name_outside_the_rules_gets_one_error(hub: Live, name: str) -> None:
    with hub.peer() as peer:
        peer.send_json({"type": "subscribe", "channel": name, "id": 1})
        peer.send_json({"type": "unsubscribe", "channel": name})
        peer.send_json({"type": "ping", "id": 2})
        answer = peer.recv_json()
        assert (answer["type"], answer["code"], answer["id"]) == ("error", "bad_channel", 1)
        text, _, hint = answer["data"].partition(". ")
        assert text in ("Subscribe: invalid channel name", "Subscribe: invalid process ID")
        assert ("pattern" in hint) is ("*" in name)
        assert len(str(answer)) < 400
        assert peer.recv_json()["id"] == 2
        assert hub.hub.channel_count() == 0


def test_fault_22_to_24_hostile_json_is_one_error_each(hub: Live) -> None:
    texts = [
        '{"type":"event","data":' + "[" * 20_000 + "]" * 20_000 + "}",
        '{"type":"event","data":' + '{"a":' * 10_000 + "1" + "}" * 10_000 + "}",
        '{"type":"event","id":' + "1" * 5_000 + "}",
        '{"type":"event","data":-1e400}',
        '{"type":"event","data":Infinity}',
    ]
    with hub.peer() as peer:
        for text in texts:
            peer.send_text(text)
            assert peer.recv_json()["type"] == "error"
        peer.send_json({"type": "ping", "id": 1})
        assert peer.recv_json()["type"] == "pong"


def test_fault_25_of_keys_that_come_twice_the_last_counts(hub: Live) -> None:
    with hub.peer() as peer:
        peer.send_text('{"type":"subscribe","type":"ping","id":1,"id":2}')
        answer = peer.recv_json()
        assert (answer["type"], answer["id"]) == ("pong", 2)


def test_fault_26_lone_surrogate_harms_no_other_client() -> None:
    def on_message(client: Any, message: Message) -> None:
        hub.hub.broadcast(Message("event", data=message.data))

    with live(on_message=on_message) as hub, hub.peer() as evil, hub.peer() as other:
        evil.send_text('{"type":"say","data":"\\ud800"}')
        assert evil.recv_json()["type"] == "error"
        evil.send_text('{"type":"say","data":"\\ud83d\\ude00"}')  # a proper pair
        assert other.recv_json()["data"] == evil.recv_json()["data"] == "😀"


def test_fault_27_binary_and_empty_frames_are_answered(hub: Live) -> None:
    with hub.peer() as peer:
        for opcode, payload in ((BINARY, b"{}"), (BINARY, b""), (TEXT, b""), (TEXT, b"  ")):
            peer.send_frame(opcode, payload)
            assert peer.recv_json()["type"] == "error"


def test_fault_28_one_that_never_reads_is_gone_within_the_write_timeout() -> None:
    with live(write_timeout=0.2, close_timeout=0.2) as hub:
        with hub.peer(rcvbuf=4096), hub.subscribed("a") as other:
            stuck = hub.hub.all_clients()[0]
            stuck.send(Message("event", data="x" * 12_000_000))  # more than kernels take
            hub.hub.send_to_channel("a", Message("event", data="on"))
            assert other.recv_json()["data"] == "on"
            code, reason = hub.notes.end()
            assert code == 1006 and "write timeout" in reason
            assert hub.hub.stats().write_timeouts == 1
        hub.empty()
        wait_until(
            lambda: not [t for t in threading.enumerate() if t.name.startswith("ws-hub:writer")]
        )


def test_fault_60_a_close_behind_a_message_of_the_hub_is_clean(hub: Live) -> None:
    for _ in range(20):
        with hub.peer() as peer:
            hub.client().send(Message("event", data="x" * 50_000))
            peer.send_close(1000)
            assert peer.recv_close()[0] == 1000
            assert peer.recv_eof() == b""
        assert hub.notes.next()[0] == "connect"
        assert hub.notes.end() == (1000, "")
    assert hub.notes.events.empty()
