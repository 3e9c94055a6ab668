"""What a hub must survive: slow, broken and vanishing clients, and the application's own faults.

The hardening list of the Go original, over real sockets.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import queue
import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.harness import parked
from tests.integration.apps.live import Live, Notes, at_once, live, subscribe
from tests.support import PING, PONG, TEXT, TIMEOUT, RawPeer, wait_until
from ws_hub import ChannelRule, Client, ConnectionClosed, HubFull, Message, MessageEncodeError
from ws_hub.testing import FaultProxy

SEED = 20261123


@pytest.fixture
def hub() -> Iterator[Live]:
    with live() as made:
        yield made


def said(data: Any) -> Message:
    return Message("event", data=data)


def big(number: int) -> Message:
    return said([number, "x" * 4000])


def numbers(peer: RawPeer, last: int) -> list[int]:
    """Read numbered messages up to `last`."""
    got: list[int] = []
    while not got or got[-1] != last:
        got.append(peer.recv_json()["data"][0])
    return got


# --- overflow ------------------------------------------------------------------------------


def test_fault_28_broadcast_disconnects_only_the_slow_client_with_1013(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with live(outbox_bytes=256_000) as hub:
        with hub.peer(rcvbuf=4096) as slow, hub.peer() as fast:
            stats = hub.hub.stats
            count = 0
            while not stats().slow_disconnects:
                hub.hub.broadcast(big(count))
                assert fast.recv_json()["data"][0] == count
                count += 1
                assert count < 5000, "the slow client is never cut"
            assert hub.hub.client_count() == 1
            slow_got = 0
            while (frame := slow.recv_frame()).opcode == TEXT:
                assert frame.json["data"][0] == slow_got  # whole, in order, no hole
                slow_got += 1
            assert frame.close[0] == 1013
            assert 0 < slow_got < count
            hub.hub.broadcast(said("on we go"))
            assert fast.recv_json()["data"] == "on we go"
        codes = {hub.notes.end()[0] for _ in range(2)}
        assert 1013 in codes
        said_so = [record for record in caplog.records if "too slow" in record.message]
        assert len(said_so) == 1


def test_a_channel_message_that_finds_no_room_is_dropped_and_counted() -> None:
    with live(outbox_bytes=256_000) as hub:
        with hub.subscribed("a", rcvbuf=4096) as slow, hub.subscribed("a") as fast:
            client = hub.hub.all_clients()[0]
            for count in range(5000):
                hub.hub.send_to_channel("a", big(count))
                assert fast.recv_json()["data"][0] == count
                if client.dropped >= 3:
                    break
            wait_until(lambda: hub.hub.stats().queued == 0)
            assert hub.hub.client_count() == 2  # it stays
            sent, dropped = count + 1, client.dropped
            assert hub.hub.stats().dropped == dropped >= 3
            got = [slow.recv_json()["data"][0] for _ in range(sent - dropped)]
            assert got == sorted(got) and len(set(got)) == sent - dropped
            hub.hub.send_to_channel("a", said("room again"))
            assert slow.recv_json()["data"] == "room again"


def test_a_rule_can_make_a_channel_cut_slow_clients_too() -> None:
    rules = [ChannelRule(pattern="prices", overflow="disconnect")]
    with (
        live(outbox_bytes=64_000, close_timeout=0.1, rules=rules) as hub,
        hub.subscribed("prices", rcvbuf=4096),
    ):
        for number in range(5000):
            hub.hub.send_to_channel("prices", big(number))
            if hub.hub.stats().slow_disconnects:
                break
        assert hub.notes.end()[0] == 1013


def test_a_client_that_lags_is_told_and_catches_up_without_a_gap() -> None:
    rules = [ChannelRule(pattern="log", history_messages=100_000, history_bytes=1 << 30)]
    with live(outbox_bytes=128_000, rules=rules) as hub, hub.peer(rcvbuf=4096) as slow:
        epoch = subscribe(slow, "log", since=0)["epoch"]
        client = hub.client()
        count = 0
        while not client.dropped:
            hub.hub.send_to_channel("log", big(count))
            count += 1
        for number in range(count, count + 20):
            hub.hub.send_to_channel("log", big(number))
        count += 20
        got: list[int] = []
        lagged = 0
        while len(got) < count:
            message = slow.recv_json()
            if message["type"] == "lagged":
                lagged += 1
                assert message["seq"] == got[-1]
                slow.send_json(
                    {"type": "subscribe", "channel": "log", "since": got[-1], "epoch": epoch}
                )
            else:
                got.append(message["seq"])
        assert got == list(range(1, count + 1))
        assert lagged >= 1


HUGE = "x" * 12_000_000  # more than the kernel's buffers take


def test_a_client_lags_behind_one_message_larger_than_all_bounds_and_is_told() -> None:
    rules = [ChannelRule(pattern="log", history_messages=100)]
    with live(outbox_bytes=10_000, rules=rules) as hub, hub.peer() as slow:
        epoch = subscribe(slow, "log", since=0)["epoch"]
        hub.hub.send_to_channel("log", said(HUGE))
        for number in range(2, 5):
            hub.hub.send_to_channel("log", said(number))
        wait_until(lambda: hub.client().dropped, what="a full outbox")
        assert len(slow.recv_json()["data"]) == len(HUGE)
        notice = slow.recv_json()
        assert (notice["type"], notice["channel"], notice["seq"]) == ("lagged", "log", 1)
        slow.send_json({"type": "subscribe", "channel": "log", "since": 1, "epoch": epoch})
        assert [slow.recv_json()["data"] for _ in range(3)] == [2, 3, 4]


def test_a_replay_that_finds_no_room_waits_for_it() -> None:
    rules = [ChannelRule(pattern="log", history_messages=100)]
    with live(outbox_bytes=10_000, rules=rules) as hub, hub.subscribed("big") as slow:
        for number in range(1, 6):
            hub.hub.send_to_channel("log", said(number))
        hub.hub.send_to_channel("big", said(HUGE))
        wait_until(lambda: hub.client().waiting[0], what="a full outbox")
        slow.send_json({"type": "subscribe", "channel": "log", "since": 0, "id": 1})
        assert len(slow.recv_json()["data"]) == len(HUGE)
        answer = slow.recv_json()
        assert (answer["type"], answer["id"], answer["data"]["replayed"]) == ("ack", 1, 5)
        assert (answer["data"]["seq"], answer["data"]["recovered"]) == (5, True)
        assert [slow.recv_json()["seq"] for _ in range(5)] == [1, 2, 3, 4, 5]
        assert hub.hub.stats().dropped == 0


def test_an_old_frontend_whose_replay_finds_no_room_is_not_left_blank() -> None:
    with live(outbox_bytes=10_000) as hub, hub.subscribed("big") as slow:
        hub.hub.send_process_output("p", "one line")
        hub.hub.send_to_channel("big", said(HUGE))
        wait_until(lambda: hub.client().waiting[0], what="a full outbox")
        slow.send_json({"type": "subscribe", "data": "process:p"})
        assert len(slow.recv_json()["data"]) == len(HUGE)
        assert slow.recv_json()["data"] == "one line"


def test_a_client_that_could_not_be_told_of_a_lag_is_cut() -> None:
    """A notice that finds no room itself must not leave the client waiting for ever."""
    # Of so many notices the reserve of an outbox holds not all, because of their bytes.
    names = ["log:".ljust(250, "x") + str(number) for number in range(1000)]
    rules = [ChannelRule(pattern="log:*", history_messages=100)]
    limits = {"outbox_messages": 8, "max_message_rate": None, "max_byte_rate": None}
    with live(rules=rules, **limits) as hub, hub.subscribed("big") as slow:
        for some in (names[at : at + 50] for at in range(0, len(names), 50)):
            for name in some:
                slow.send_json({"type": "subscribe", "channel": name, "since": 0, "id": 1})
            assert {slow.recv_json()["type"] for _ in some} == {"ack"}
        hub.hub.send_to_channel("big", said(HUGE))
        for name in names:
            hub.hub.send_to_channel(name, said("x"))
        # Before it reads: the hub thread may be late, and would find room.
        wait_until(lambda: hub.hub.stats().slow_disconnects == 1)
        assert len(slow.recv_json()["data"]) == len(HUGE)
        assert slow.recv_close()[0] == 1013


def test_a_full_queue_slows_the_publisher_down_and_then_says_so() -> None:
    with live(queue_size=4, on_connect=None) as hub:
        with parked(hub.hub):
            for _ in range(4):
                hub.hub.broadcast(said(1), timeout=0)
            with pytest.raises(HubFull):
                hub.hub.broadcast(said(2), timeout=0)
            with pytest.raises(HubFull):
                hub.hub.broadcast(said(2), timeout=0.01)
        assert hub.hub.wait_for_room(timeout=TIMEOUT)  # what was queued is dispatched: to nobody
        with hub.peer() as peer:
            hub.hub.broadcast(said("room"))
            assert peer.recv_json()["data"] == "room"


# --- what cannot be sent -------------------------------------------------------------------


class Unwilling:
    def __repr__(self) -> str:
        raise RuntimeError("no repr either")


@pytest.mark.parametrize(
    "data", [{1, 2}, float("nan"), float("inf"), "\ud800", b"bytes", Unwilling(), {(1, 2): 3}]
)
def test_message_without_json_form_is_the_callers_error(hub: Live, data: Any) -> None:
    with hub.subscribed("a", "process:p") as peer:
        for publish in (
            lambda: hub.hub.broadcast(said(data)),
            lambda: hub.hub.send_to_channel("a", said(data)),
            lambda: hub.hub.send_process_output("p", data),
            lambda: hub.client().send(said(data)),
        ):
            with pytest.raises(MessageEncodeError):
                publish()
        hub.hub.send_process_output("p", "marker")
        message = peer.recv_json()
        assert (message["data"], message["seq"]) == ("marker", 1)


def test_data_nested_without_end_is_the_callers_error(hub: Live) -> None:
    endless: list[Any] = []
    endless.append(endless)
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for data in (endless, deep):
        with pytest.raises(MessageEncodeError):
            hub.hub.broadcast(said(data))


# --- what clients send ---------------------------------------------------------------------

BAD = [
    ("{", "bad_message"),
    ("", "bad_message"),
    ("null", "bad_message"),
    ("[]", "bad_message"),
    ('"text"', "bad_message"),
    ("{}", "bad_message"),
    ('{"type":1}', "bad_message"),
    ('{"type":"subscribe"}', "bad_channel"),
    ('{"type":"subscribe","data":1}', "bad_channel"),
    ('{"type":"subscribe","data":{"a":1}}', "bad_channel"),
    ('{"type":"subscribe","channel":["a"]}', "bad_message"),
    ('{"type":"subscribe","channel":"a","since":"x"}', "bad_message"),
    ('{"type":"subscribe","channel":"a b"}', "bad_channel"),
    ('{"type":"subscribe","channel":"process:"}', "bad_channel"),
    ('{"type":"unsubscribe","data":[]}', "bad_channel"),
    ('{"type":"launch"}', "bad_message"),
    ('{"type":"event","data":NaN}', "bad_message"),
    ('{"type":"event","data":1e999}', "bad_message"),
    ('{"type":"event","data":"\\ud800"}', "bad_message"),
    ('{"type":"event","data":' + "9" * 5000 + "}", "bad_message"),
    ("[" * 30_000 + "]" * 30_000, "bad_message"),
    ("\ufeff{}", "bad_message"),
]


@pytest.mark.parametrize(("text", "code"), BAD, ids=[text[:40] for text, _ in BAD])
def test_fault_21_to_27_a_bad_message_gets_one_error_and_the_connection_stays(
    hub: Live, text: str, code: str
) -> None:
    with hub.peer() as peer:
        peer.send_text(text)
        peer.send_json({"type": "ping", "id": "after"})
        answer = peer.recv_json()
        assert answer["type"] == "error" and isinstance(answer["data"], str)
        assert len(json.dumps(answer)) < 500  # repeats nothing of what it was sent
        assert answer["code"] in (code, "not_found"), answer
        assert peer.recv_json()["id"] == "after"


def test_an_error_carries_the_id_that_was_sent(hub: Live) -> None:
    with hub.peer() as peer:
        peer.send_json({"type": "subscribe", "data": 5, "id": "s1"})
        assert peer.recv_json()["id"] == "s1"
        peer.send_json({"type": "no-such-thing", "id": 2})
        assert peer.recv_json()["id"] == 2


def test_binary_messages_are_answered_with_an_error(hub: Live) -> None:
    with hub.peer() as peer:
        peer.send_frame(2, b"\x00\xff")
        assert peer.recv_json()["type"] == "error"


def test_fault_09_a_message_over_64_kib_ends_the_connection_with_1009(hub: Live) -> None:
    frame = RawPeer.frame(TEXT, b"x" * 65_537)
    for _ in range(50):
        with hub.peer() as peer:
            peer.send_raw(frame)
            assert peer.recv_close()[0] == 1009
            peer.send_close(1009)
            assert peer.recv_eof() == b""
        assert hub.notes.end()[0] == 1009
    hub.empty()
    wait_until(lambda: not [t for t in threading.enumerate() if ":reader:" in t.name])


def test_a_message_of_64_kib_is_taken(hub: Live) -> None:
    text = '{"type":"ping","data":"' + "i" * (65_536 - 25) + '"}'
    assert len(text) == 65_536
    with hub.peer() as peer:
        peer.send_text(text)
        assert peer.recv_json()["type"] == "pong"


# --- threads at odds -----------------------------------------------------------------------


def test_subscribing_and_unsubscribing_at_once_from_many_threads(hub: Live) -> None:
    print("seed", SEED)
    over = threading.Event()

    def publish() -> None:
        while not over.is_set():
            hub.hub.send_to_channel("c1", said("x"))

    def churn(seed: int) -> None:
        dice = random.Random(seed)
        for _ in range(300):
            client, channel = dice.choice(clients), f"c{dice.randrange(4)}"
            if dice.random() < 0.5:
                hub.hub.subscribe(client, channel)
            else:
                hub.hub.unsubscribe(client, channel)

    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(hub.peer()) for _ in range(6)]
        clients = hub.hub.all_clients()
        with at_once(publish):
            try:
                with at_once(*(lambda n=n: churn(SEED + n) for n in range(4))):
                    pass
            finally:
                over.set()
        expected = sum(len(client.subscriptions()) for client in clients)
        assert hub.hub.stats().subscriptions == expected
        for client in clients:
            for channel in client.subscriptions():
                assert hub.hub.unsubscribe(client, channel)
        assert (hub.hub.channel_count(), hub.hub.stats().subscriptions) == (0, 0)
        hub.hub.broadcast(said("marker"))
        for peer in peers:
            while peer.recv_json()["data"] != "marker":
                pass


def test_fault_38_clients_come_and_go_while_everything_is_broadcast(
    hub: Live, caplog: pytest.LogCaptureFixture
) -> None:
    print("seed", SEED)
    over = threading.Event()
    # As fast as the witness reads, and no faster: nobody is to be cut for being slow here.
    window = threading.Semaphore(16)

    def publish() -> None:
        while window.acquire(timeout=TIMEOUT) and not over.is_set():
            hub.hub.broadcast(said("x" * 200))
            hub.hub.send_to_channel("a", said("y"))
            for client in hub.hub.all_clients():
                with contextlib.suppress(ConnectionClosed):
                    client.send(said("z"), timeout=0)

    def read() -> None:
        while (message := witness.recv_json())["data"] != "over":
            if message["data"] == "x" * 200:
                window.release()

    def visit(seed: int) -> None:
        dice = random.Random(seed)
        for _ in range(40):
            with hub.peer() as peer:
                if dice.random() < 0.7:
                    peer.send_json({"type": "subscribe", "channel": "a"})
                for _ in range(dice.randrange(4)):
                    peer.recv_frame()
                how = dice.randrange(3)
                if how == 0:
                    peer.reset()
                elif how == 1:
                    peer.close()

    with hub.peer() as witness:
        with at_once(read):
            with at_once(publish):
                try:
                    with at_once(*(lambda n=n: visit(SEED + n) for n in range(4))):
                        pass
                finally:
                    over.set()
                    window.release()
            hub.hub.broadcast(said("over"))
        wait_until(lambda: hub.hub.client_count() == 1, what="all visitors gone")
    hub.empty()
    seen = list(hub.notes.seen)
    assert len([e for e in seen if e[0] == "connect"]) == 161
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


def test_a_client_that_is_ended_from_all_sides_is_unregistered_once(hub: Live) -> None:
    for _ in range(30):
        with hub.peer() as peer:
            client = hub.client()
            together = threading.Barrier(4)

            def at(function: Any, together: threading.Barrier = together) -> Any:
                def run() -> None:
                    together.wait(TIMEOUT)
                    with contextlib.suppress(OSError):
                        function()

                return run

            with at_once(
                at(functools.partial(client.close, 4000, "a")),
                at(functools.partial(client.close, 4001, "b")),
                at(client.abort),
                at(functools.partial(peer.send_close, 1000)),
            ):
                pass
            hub.notes.end()
    hub.empty()
    assert len([event for event in hub.notes.seen if event[0] == "disconnect"]) == 30
    assert hub.hub.stats().connected == 30


# --- callbacks -----------------------------------------------------------------------------


def test_connect_is_first_disconnect_last_each_once_with_code_and_reason() -> None:
    notes = Notes()

    def on_message(client: Client, message: Message) -> None:
        notes.note("message", client.id, message.data)

    with live(
        on_connect=notes.on_connect, on_disconnect=notes.on_disconnect, on_message=on_message
    ) as hub:
        for code, reason in ((1000, "done"), (4321, "Ärger"), (None, "")):
            with hub.peer() as peer:
                for number in range(3):
                    peer.send_json({"type": "say", "data": number})
                assert peer.close(code, reason)[0] == (code or 1005)
            hub.empty()
        with hub.peer() as peer:
            hub.client()
            peer.reset()
        hub.empty()
        wait_until(lambda: sum(e[0] == "disconnect" for e in notes.seen) == 4)
    by_client: dict[int, list[Any]] = {}
    for event in notes.seen:
        by_client.setdefault(event[1], []).append(event)
    lives = list(by_client.values())
    for life, (code, reason) in zip(
        lives, ((1000, "done"), (4321, "Ärger"), (1005, "")), strict=False
    ):
        assert [event[0] for event in life] == ["connect", *["message"] * 3, "disconnect"]
        assert [event[2] for event in life[1:4]] == [0, 1, 2]
        assert life[-1][2:] == (code, reason)
    assert [event[0] for event in lives[3]] == ["connect", "disconnect"]
    assert lives[3][-1][2] == 1006


@pytest.mark.parametrize("error", [RuntimeError("mine"), SystemExit(3), KeyboardInterrupt()])
def test_fault_35_a_callback_that_raises_is_logged_and_only_that(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise error

    with live(on_connect=fail, on_message=fail, on_disconnect=fail) as hub:
        with hub.peer() as peer, hub.peer() as other:
            peer.send_json({"type": "say", "id": 1})
            answer = peer.recv_json()
            assert (answer["type"], answer["code"], answer["id"]) == ("error", "internal", 1)
            peer.send_json({"type": "say"})
            assert "id" not in (answer := peer.recv_json()) and answer["code"] == "internal"
            hub.hub.broadcast(said("still"))
            assert peer.recv_json()["data"] == other.recv_json()["data"] == "still"
            assert peer.close() == (1000, "")
        hub.empty()
        wait_until(lambda: hub.hub.stats().callback_errors == 6)
        assert hub.hub.running
    assert len([r for r in caplog.records if r.exc_info]) == 6


def test_fault_36_a_callback_that_blocks_holds_up_its_own_client_only() -> None:
    entered, release = threading.Event(), threading.Event()

    def on_message(client: Client, message: Message) -> str:
        entered.set()
        assert release.wait(TIMEOUT)
        return "done"

    with live(on_message=on_message, heartbeat_interval=0.05) as hub:
        with hub.peer() as stuck, hub.peer() as other:
            stuck.send_json({"type": "work", "id": 1})
            assert entered.wait(TIMEOUT)
            hub.hub.broadcast(said("for all"))
            assert stuck.recv_json()["data"] == other.recv_json()["data"] == "for all"
            for _ in range(4):  # it is pinged, and what it sends is kept for later
                while stuck.recv_frame().opcode != PING:
                    pass
            stuck.send_frame(PING, b"alive?")
            other.send_json({"type": "ping", "id": 2})
            assert other.recv_json()["id"] == 2
            release.set()
            assert stuck.recv_json()["data"] == "done"
            while (frame := stuck.recv_frame()).opcode == PING:
                pass
            assert (frame.opcode, frame.payload) == (PONG, b"alive?")


def test_fault_37_callbacks_may_call_the_hub() -> None:
    """No lock is held while they run: each of these would hang otherwise."""

    def on_connect(client: Client) -> None:
        hub.hub.subscribe(client, "all")
        client.send(said("welcome"))

    def on_message(client: Client, message: Message) -> object:
        if message.data == "broadcast":
            hub.hub.broadcast(said("from a callback"))
        elif message.data == "leave":
            hub.hub.unsubscribe(client, "all")
        elif message.data == "count":
            return [hub.hub.client_count(), hub.hub.all_channels(), client.subscriptions()]
        elif message.data == "close":
            client.close(4000)
        return None

    def on_disconnect(client: Client, code: int, reason: str) -> None:
        hub.hub.broadcast(said(["left", code, client.subscriptions(), hub.hub.client_count()]))

    with live(on_connect=on_connect, on_message=on_message, on_disconnect=on_disconnect) as hub:
        with hub.peer() as peer, hub.peer() as other:
            assert peer.recv_json()["data"] == other.recv_json()["data"] == "welcome"
            peer.send_json({"type": "do", "data": "broadcast"})
            assert peer.recv_json()["data"] == "from a callback"
            peer.send_json({"type": "do", "data": "leave"})
            peer.send_json({"type": "do", "data": "count", "id": 1})
            assert peer.recv_json()["data"] == [2, ["all"], []]
            peer.send_json({"type": "do", "data": "close"})
            assert peer.recv_close() == (4000, "")
            peer.send_close(4000)
            assert other.recv_json()["data"] == "from a callback"
            assert other.recv_json()["data"] == ["left", 4000, [], 1]


def test_fault_37_a_callback_may_stop_the_hub() -> None:
    with live(on_message=lambda client, message: hub.hub.stop()) as hub, hub.peer() as peer:
        peer.send_json({"type": "stop"})
        assert peer.recv_close()[0] == 1001
        peer.send_close(1001)
        assert peer.recv_eof() == b""
        wait_until(lambda: not hub.hub.running)


def test_a_listener_and_the_news_of_subscribers_may_stop_the_hub() -> None:
    with live() as hub:
        hub.hub.listen("a", lambda message: hub.hub.stop())
        with hub.peer() as peer:
            hub.hub.send_to_channel("a", said(1))
            assert peer.recv_close()[0] == 1001
        wait_until(lambda: not hub.hub.running)
    with live(on_first_subscriber=lambda channel: hub.hub.stop()) as hub, hub.peer() as peer:
        peer.send_json({"type": "subscribe", "channel": "a"})
        assert peer.recv_close()[0] == 1001


# --- networks ------------------------------------------------------------------------------


def test_fault_30_a_half_open_peer_is_found_and_let_go() -> None:
    with live(heartbeat_interval=0.05, pong_timeout=1.0) as hub:
        with FaultProxy("127.0.0.1", hub.server.port) as network:
            with hub.peer(through=network) as lost:
                subscribe(lost, "a")
                network.black_hole()
                code, reason = hub.notes.end()
                assert code == 1006 and "pong timeout" in reason
                assert hub.hub.stats().pong_timeouts == 1
                assert hub.hub.channel_count() == 0
            hub.empty()


def test_fault_32_a_network_that_heals_in_time_loses_nothing() -> None:
    with live() as hub, FaultProxy("127.0.0.1", hub.server.port) as network:
        with hub.peer(through=network) as peer:
            subscribe(peer, "a")
            network.black_hole()
            for number in range(50):
                hub.hub.send_to_channel("a", said(number))
            network.heal()
            assert [peer.recv_json()["data"] for _ in range(50)] == list(range(50))


def test_frames_torn_into_single_bytes_arrive_whole() -> None:
    with live() as hub, FaultProxy("127.0.0.1", hub.server.port) as network:
        network.chop = 1
        with hub.peer(through=network) as peer:
            subscribe(peer, "a")
            hub.hub.send_to_channel("a", said("x" * 300))
            assert peer.recv_json()["data"] == "x" * 300
            assert peer.close() == (1000, "")


def test_fault_31_an_end_in_the_middle_of_a_frame_is_quiet(
    hub: Live, caplog: pytest.LogCaptureFixture
) -> None:
    for end in ("reset", "close"):
        with hub.peer() as peer:
            peer.send_raw(peer.frame(TEXT, b"x" * 500)[:200])
            hub.client()
            if end == "reset":
                peer.reset()
        assert hub.notes.end()[0] == 1006
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


def test_fault_60_both_sides_close_at_once(hub: Live) -> None:
    for _ in range(30):
        with hub.peer() as peer:
            client = hub.client()
            with at_once(lambda c=client: c.close(4000, "server")):
                peer.send_close(4100, "peer")
            code = peer.recv_close()[0]
            if code == 4000:
                with contextlib.suppress(OSError):
                    peer.send_close(4000)
            assert peer.recv_eof() == b""
        assert hub.notes.end() in ((4000, "server"), (4100, "peer"))
        hub.empty()


def test_a_close_with_unread_data_behind_it_is_clean(hub: Live) -> None:
    for number in range(20):
        hub.hub.send_process_output("p", "x" * 10_000)
        with hub.peer() as peer:
            peer.send_json({"type": "subscribe", "channel": "process:p"})
            if number % 2:
                peer.recv_json()
            assert peer.close() == (1000, "")
        assert hub.notes.end() == (1000, "")


def test_fault_33_the_clock_on_the_wall_may_jump(monkeypatch: pytest.MonkeyPatch) -> None:
    with live(heartbeat_interval=0.05, pong_timeout=TIMEOUT) as hub, hub.peer() as peer:
        now = time.time
        for jump in (3600, -3600):
            monkeypatch.setattr(time, "time", lambda jump=jump: now() + jump)
            for _ in range(3):
                frame = peer.recv_frame()
                assert frame.opcode == PING
                peer.send_frame(PONG, frame.payload)
            hub.hub.broadcast(said("here"))
            while (frame := peer.recv_frame()).opcode == PING:
                peer.send_frame(PONG, frame.payload)
            assert frame.json["data"] == "here"


def test_fault_44_clients_that_come_and_go_leave_nothing(hub: Live) -> None:
    def visit() -> None:
        for _ in range(50):
            with hub.subscribed("a", "process:p") as peer:
                peer.close()

    visit()
    hub.empty()
    with at_once(visit, visit, visit):
        pass
    hub.empty()
    wait_until(lambda: not [t for t in threading.enumerate() if ":reader:" in t.name])
    stats = hub.hub.stats()
    assert (stats.clients, stats.channels, stats.subscriptions) == (0, 0, 0)
    assert stats.connected == 200


def test_fault_59_messages_of_each_publisher_arrive_in_order_everywhere(hub: Live) -> None:
    def publish(name: str) -> Any:
        def run() -> None:
            for number in range(100):
                hub.hub.send_to_channel("a", said([name, number]))

        return run

    with hub.subscribed("a") as one, hub.subscribed("a", rcvbuf=4096) as two:
        with at_once(*(publish(name) for name in "xyz")):
            heard = [[peer.recv_json()["data"] for _ in range(300)] for peer in (one, two)]
    assert heard[0] == heard[1]  # one order for all
    for name in "xyz":
        assert [n for who, n in heard[0] if who == name] == list(range(100))


def test_a_message_larger_than_the_outbox_is_delivered() -> None:
    with live(outbox_bytes=100_000) as hub, hub.subscribed("a") as peer:
        hub.hub.send_to_channel("a", said("x" * 2_000_000))
        assert len(peer.recv_json()["data"]) == 2_000_000


def test_max_connections_refuses_the_next_with_503_and_takes_it_later() -> None:
    events: queue.Queue[str] = queue.Queue()
    with live(max_connections=1, on_connect=lambda client: events.put("connect")) as hub:
        with hub.peer() as first:
            with hub.peer(handshake=False) as second:
                second.send_raw(second.request())
                response = second.read_response()
                assert response.status == 503 and "retry-after" in response.headers
            assert first.close() == (1000, "")
        hub.empty()
        with hub.peer():
            pass
        assert hub.hub.stats().refused == 1
    assert events.qsize() == 2
