"""Faults 93 to 102 and 119, and the clients' part of 89 and 125, on real connections."""

from __future__ import annotations

import functools
import json
import math
import threading
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.commands import BOUND, command, run
from tests.integration.clients import Seen
from tests.integration.gohub import GoHub, RawServer, ServerPeer, frame
from tests.support import (
    BINARY,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    TIMEOUT,
    RawPeer,
    deflated,
    wait_until,
)
from ws_hub import (
    ChannelRule,
    ConnectionState,
    Hub,
    HubConfig,
    InvalidName,
    Message,
    ReconnectConfig,
    ReconnectingClient,
    serve,
)
from ws_hub.errors import (
    ConfigError,
    ConnectionClosed,
    MaxRetriesExceeded,
    MessageDecodeError,
    MessageEncodeError,
    ProtocolError,
)
from ws_hub.reconnect.client import MessagesLost
from ws_hub.reconnect.session import Report
from ws_hub.reconnect.subscriptions import Subscriptions

# --- 93, 125: each message once, in order, for the newest subscription -----------------------


def history(peer: ServerPeer, request: dict[str, Any], count: int) -> None:
    """Answer a subscription as a hub does that keeps `count` messages."""
    channel = request["channel"]
    data = {"channel": channel, "epoch": "e", "seq": count, "recovered": True, "replayed": count}
    peer.send_json({"type": "ack", "id": request["id"], "data": data})
    for seq in range(1, count + 1):
        peer.send_json({"type": "event", "channel": channel, "data": seq, "seq": seq})


def answer(peer: ServerPeer, request: dict[str, Any]) -> None:
    peer.send_json({"type": "ack", "id": request["id"], "data": {"channel": request["channel"]}})


def test_fault_93_subscribed_again_before_the_first_answer_each_message_comes_once() -> None:
    def serve_late(peer: ServerPeer) -> None:
        peer.accept()
        peer.send_json({"type": "pong", "id": peer.recv_json("ping")["id"]})
        first = peer.recv_json("subscribe")
        leave = peer.recv_json("unsubscribe")
        second = peer.recv_json("subscribe")
        other = peer.recv_json("subscribe")
        history(peer, first, 300)
        answer(peer, leave)
        history(peer, second, 300)
        peer.send_json({"type": "event", "channel": "a", "data": 301, "seq": 301})
        history(peer, other, 1)
        peer.recv_end()

    with RawServer(serve_late) as server, Seen(server.url) as seen:
        seen.start()
        wait_until(lambda: seen.client.extensions is True, what="recognised")
        seen.client.subscribe("a", since=0)
        seen.client.unsubscribe("a")
        seen.client.subscribe("a", since=0)
        seen.client.subscribe("b", since=0)
        seen.wait_data(*range(1, 302), 1)


def test_fault_93_late_messages_of_an_unsubscribed_channel_are_not_delivered() -> None:
    def serve_late(peer: ServerPeer) -> None:
        peer.accept()
        peer.send_json({"type": "pong", "id": peer.recv_json("ping")["id"]})
        first = peer.recv_json("subscribe")
        leave = peer.recv_json("unsubscribe")
        history(peer, first, 300)
        answer(peer, leave)
        peer.send_json({"type": "event", "data": "after"})
        peer.recv_end()

    with RawServer(serve_late) as server, Seen(server.url) as seen:
        seen.start()
        wait_until(lambda: seen.client.extensions is True, what="recognised")
        seen.client.subscribe("a", since=0)
        seen.client.unsubscribe("a")
        seen.wait_data("after")


def test_fault_93_with_our_own_hub() -> None:
    lines = [str(number) for number in range(3000)]
    with Hub() as hub, serve(hub) as server, Seen(server.url, queue_size=10_000) as seen:
        hub.send_process_lines("b", lines)
        seen.start()
        wait_until(lambda: seen.client.extensions is True, what="recognised")
        for _ in range(5):
            seen.client.subscribe("process:b", since=0)
            seen.client.unsubscribe("process:b")
        seen.client.subscribe("process:b", since=0)
        wait_until(lambda: len(seen.data()) >= 3000, what="the whole history")
        hub.send_process_output("b", "last")
        wait_until(lambda: seen.data()[-1:] == ["last"], what="the last line")
        assert seen.data() == [*lines, "last"]


@pytest.mark.parametrize("release", ["13d9422", "HEAD"])
def test_fault_93_with_a_go_hub_which_answers_nothing(release: Any) -> None:
    with GoHub(release) as hub, Seen(hub.url) as seen:
        seen.start()
        wait_until(lambda: seen.client.extensions is False, what="recognised")
        for _ in range(3):
            seen.client.subscribe("a", since=0)
            seen.client.unsubscribe("a")
        seen.client.subscribe("b")
        hub.wait_subscribed("b")
        seen.client.subscribe("a")
        hub.wait_subscribed("a")
        hub.send_to_channel("a", *({"type": "event", "data": number} for number in range(5)))
        seen.wait_data(*range(5))


def test_fault_125_numbers_that_fall_are_asked_for_anew() -> None:
    def renumber(peer: ServerPeer) -> None:
        peer.accept()
        peer.send_json({"type": "pong", "id": peer.recv_json("ping")["id"]})
        history(peer, peer.recv_json("subscribe"), 3)
        for seq in (1, 2):
            peer.send_json({"type": "event", "channel": "a", "data": f"new {seq}", "seq": seq})
        answer(peer, peer.recv_json("unsubscribe"))
        again = peer.recv_json("subscribe")
        assert (again["since"], again["epoch"]) == (3, "e")
        data = {"channel": "a", "epoch": "f", "seq": 2, "recovered": False, "replayed": 2}
        peer.send_json({"type": "ack", "id": again["id"], "data": data})
        for seq in (1, 2, 3):
            peer.send_json({"type": "event", "channel": "a", "data": f"new {seq}", "seq": seq})
        peer.recv_end()

    with RawServer(renumber) as server, Seen(server.url) as seen:
        seen.client.subscribe("a", since=0)
        seen.start()
        seen.wait_data(1, 2, 3, "new 1", "new 2", "new 3")


def test_fault_93_a_server_that_is_too_busy_is_asked_again() -> None:
    def busy(peer: ServerPeer) -> None:
        peer.accept()
        for code in ("internal", "rate_limited"):
            id = peer.recv_json("subscribe")["id"]
            peer.send_json({"type": "error", "id": id, "code": code, "data": "try again"})
        history(peer, peer.recv_json("subscribe"), 3)
        peer.recv_end()

    with RawServer(busy) as server, Seen(server.url) as seen:
        seen.client.subscribe("a", since=0)
        seen.start()
        seen.wait_data(1, 2, 3)
        assert not seen.of("error")


# --- 119: reports find room ------------------------------------------------------------------


def test_fault_119_what_four_channels_lost_is_told_though_the_inbox_is_full() -> None:
    told, leave = threading.Event(), threading.Event()

    def restart(peer: ServerPeer) -> None:
        peer.accept()
        peer.send_json({"type": "pong", "id": peer.recv_json("ping")["id"]})
        for _ in range(4):
            request = peer.recv_json("subscribe")
            data = {"channel": request["channel"], "epoch": "e", "seq": 20}
            data |= {"recovered": False, "replayed": 0}
            peer.send_json({"type": "ack", "id": request["id"], "data": data})
        for _ in range(20):
            peer.send_json({"type": "event", "data": "flood"})
        peer.send_frame(TEXT, b"nonsense")
        peer.send_frame(TEXT, b"more nonsense")
        # Answered by its reader, which so has read and dropped all of this.
        peer.send_frame(PING, b"read")
        while peer.recv_frame().opcode != PONG:
            pass
        told.set()
        peer.recv_end()

    with RawServer(restart) as server:
        with Seen(server.url, queue_size=1, queue_patience=0.001) as seen:
            # It stands in the callback from the first event on.
            seen.hook = lambda event: leave.wait(TIMEOUT) and None
            for channel in "abcd":
                seen.client.subscribe(channel, since=10)
            seen.start()
            assert told.wait(TIMEOUT)
            leave.set()
            wait_until(lambda: len(seen.of("error")) >= 7, what="all reports")
            errors = [error for _, error in seen.of("error")]
            lost = {each.channel: each.count for each in errors if isinstance(each, MessagesLost)}
            assert lost == {**dict.fromkeys("abcd", 10), "": 20 - len(seen.of("message"))}
            assert [type(each) for each in errors].count(MessageDecodeError) == 2


def test_fault_119_reports_that_are_not_taken_are_added_up() -> None:
    lost = [
        MessagesLost("a", 1, "why"),
        MessagesLost("b", 2, "why"),
        MessagesLost("a", None, "why"),
    ]
    texts = [MessageDecodeError(text) for text in ("first", "second", "third")]
    merged = Report(lost[0])
    for each in (lost[0], lost[0]):
        assert Report(each).kind == merged.kind != Report(lost[1]).kind
        merged = Report.merge(merged, Report(each))
    assert merged.exception().count == 3
    assert Report.merge(merged, Report(lost[2])).exception().count is None
    merged = Report.merge(Report.merge(Report(texts[0]), Report(texts[1])), Report(texts[2]))
    assert merged.exception() is texts[2]
    assert texts[2].__notes__ == ["2 more like it went before"]


# --- 89, 99: a message that is too large -----------------------------------------------------

AFTER = {"type": "event", "data": "after"}
AGREED = "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover"
BOMB = deflated(b"x" * 1_000_000)


def first_compressed(data: bytes, *, fin: bool = True) -> bytes:
    """The frame that begins a compressed message."""
    plain = frame(TEXT, data, fin=fin)
    return bytes([plain[0] | 0x40]) + plain[1:]


TOO_LARGE = {
    "a frame one byte over": ([frame(TEXT, b"x" * 1001)], "a message of 1001 bytes"),
    "a frame of a megabyte": ([frame(TEXT, b"x" * 1_000_000)], "a message of 1000000 bytes"),
    "fragments one byte over, and more of them": (
        [
            *(frame(TEXT, b"x" * 600, fin=False), frame(CONTINUATION, b"y" * 401, fin=False)),
            *(frame(PING, b"between"), frame(CONTINUATION, b"", fin=False)),
            frame(CONTINUATION, b"z" * 999),
        ],
        "a message of 2000 bytes",
    ),
    "no UTF-8, which nobody looks at": ([frame(TEXT, b"\xff" * 1001)], "a message of 1001 bytes"),
    "binary": ([frame(BINARY, b"x" * 1001)], "a message of 1001 bytes"),
    "a bomb": ([first_compressed(BOMB)], "a compressed message"),
    "a bomb in pieces": (
        [
            first_compressed(BOMB[:5], fin=False),
            *(frame(CONTINUATION, BOMB[5:400], fin=False), frame(CONTINUATION, BOMB[400:])),
        ],
        "a compressed message",
    ),
    "compressed, and over": ([first_compressed(b"x" * 1001)], "a compressed message"),
}


@pytest.mark.parametrize("name", TOO_LARGE)
def test_fault_89_a_message_over_the_limit_is_skipped_and_the_connection_goes_on(name: str) -> None:
    frames, what = TOO_LARGE[name]

    def serve(peer: ServerPeer) -> None:
        peer.accept(AGREED)
        for _ in range(2):
            peer.send_raw(b"".join(frames))
            peer.send_raw(first_compressed(deflated(json.dumps(AFTER).encode())))
        peer.recv_end()

    with RawServer(serve) as server:
        with Seen(server.url, max_message_size=1000, compression=True) as seen:
            seen.start()
            seen.wait_data("after", "after")
            lost = [error for _, error in seen.of("error")]
            assert [(each.channel, each.count) for each in lost] == [("", None)] * 2
            assert lost[0].why == f"{what} is over max_message_size (1000 bytes)"
            assert server.accepted == 1


def test_fault_89_what_is_skipped_takes_no_memory() -> None:
    sizes: list[int] = []

    def serve(peer: ServerPeer) -> None:
        peer.accept()
        peer.send_frame(TEXT, b"", length=64 << 20)
        piece = b"x" * (1 << 20)
        for _ in range(64):
            peer.send_raw(piece)
        peer.send_json(AFTER)
        peer.recv_end()

    with RawServer(serve) as server, Seen(server.url, max_message_size=1000) as seen:
        tracemalloc.start()
        try:
            seen.start()
            seen.wait_data("after")
            sizes.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert sizes[0] < 16 << 20  # the server's piece is among it


def test_fault_89_a_kept_message_over_the_limit_is_skipped_and_what_follows_comes() -> None:
    rules = [ChannelRule(pattern="kept", history_messages=100)]
    with Hub(HubConfig(rules=rules)) as hub, serve(hub) as server:
        with Seen(server.url, max_message_size=1000) as seen:
            for data in ("before", "x" * 2000, "between", "y" * 2000):
                hub.send_to_channel("kept", Message("event", data=data))
            seen.client.subscribe("kept", since=0)
            seen.start()
            seen.wait_data("before", "between")
            for data in ("after", "z" * 2000, "last"):
                hub.send_to_channel("kept", Message("event", data=data))
            seen.wait_data("before", "between", "after", "last")
            wait_until(lambda: len(seen.of("error")) == 4, what="the gap in live messages too")
            lost = [(error.channel, error.count) for _, error in seen.of("error")]
            assert sorted(lost, key=str) == [("", None)] * 3 + [("kept", 1)]
            assert len(seen.of("connect")) == 1


def test_fault_99_what_a_go_hub_joins_at_most_is_taken() -> None:
    message = b'{"type":"event","data":"' + b"x" * (65_536 - 26) + b'"}'
    assert len(message) == 65_536

    def serve(peer: ServerPeer) -> None:
        peer.accept()
        peer.send_frame(TEXT, b"\n".join([message] * 257))
        peer.recv_end()

    with RawServer(serve) as server, Seen(server.url).start() as seen:
        wait_until(lambda: len(seen.messages()) == 257, what="257 messages of 64 KiB")
        assert not seen.of("error")
    assert ReconnectConfig(url="ws://host/").max_message_size >= 17 << 20


def test_fault_99_a_frame_that_is_far_too_large_is_refused_by_its_header() -> None:
    def serve(peer: ServerPeer) -> None:
        peer.accept()
        peer.send_frame(TEXT, b"", length=1 << 30)
        assert peer.recv_close()[0] == 1009

    with RawServer(serve) as server, Seen(server.url, max_retries=1, stable_after=100) as seen:
        error = seen.connect().outcome()
    assert isinstance(error, MaxRetriesExceeded) and isinstance(error.__cause__, ConnectionClosed)
    assert error.__cause__.reason == "a frame of 1073741824 bytes, far over max_message_size"


# --- 98: subprotocols ------------------------------------------------------------------------


def test_fault_98_a_server_may_select_none_of_the_subprotocols() -> None:
    offered: list[str] = []

    def serve(peer: ServerPeer) -> None:
        peer.accept()
        offered.append(peer.headers["sec-websocket-protocol"])
        peer.recv_end()

    with RawServer(serve) as server:
        with Seen(server.url, subprotocols=["one", "two"]).start() as seen:
            seen.connected()
    assert offered == ["one,two"]


@pytest.mark.parametrize("selected", ["three", "one, two", "ONE"])
def test_fault_98_a_subprotocol_that_was_not_offered_is_a_failed_attempt(selected: str) -> None:
    def serve(peer: ServerPeer) -> None:
        peer.accept(f"Sec-WebSocket-Protocol: {selected}")

    with RawServer(serve) as server:
        with Seen(server.url, subprotocols=["one", "two"], max_retries=1).connect() as seen:
            error = seen.outcome()
    assert isinstance(error, MaxRetriesExceeded) and isinstance(error.__cause__, ProtocolError)
    assert "a subprotocol that was not offered" in str(error.__cause__)


def test_fault_98_unread_subprotocol_token_is_a_final_error() -> None:
    with GoHub() as hub:
        with Seen(hub.url, token="secret", token_in="subprotocol").connect() as seen:
            error = seen.outcome()
        assert isinstance(error, ConfigError)
        assert "token_in='header'" in str(error)
        assert [each for _, each in seen.of("error")] == [error]
        assert not seen.of("connect")


# --- 101: numbers that callbacks get ---------------------------------------------------------


@pytest.mark.parametrize("code", [1000, 1001, 1011, 4999, None])
def test_fault_101_on_disconnect_gets_a_plain_number(code: int | None) -> None:
    codes: list[Any] = []
    config = HubConfig(on_disconnect=lambda client, code, reason: codes.append(code))
    with Hub(config) as hub, serve(hub) as server:
        with RawPeer("127.0.0.1", server.port) as peer:
            peer.close(code)
        with RawPeer("127.0.0.1", server.port) as peer:
            peer.send_frame(3)  # an opcode that is none: the parser's own verdict
            peer.recv_close()
        with RawPeer("127.0.0.1", server.port) as peer:
            peer.send_frame(TEXT, b"\xff")
            peer.recv_close()
        wait_until(lambda: len(codes) == 3)
    # In whatever order the ends of three connections were noticed.
    assert sorted((str(each), type(each).__name__) for each in codes) == sorted(
        (each, "int") for each in (str(code or 1005), "1002", "1007")
    )


def test_fault_101_on_reconnect_counts_the_attempts_of_one_outage() -> None:
    refusals = [0, 0, 2, 0]  # attempts that fail before each connection

    def serve(peer: ServerPeer) -> None:
        peer.read_request()
        if refusals[0]:
            refusals[0] -= 1
            peer.send_raw(b"HTTP/1.1 503 Busy\r\n\r\n")
            return
        del refusals[0]
        peer.send_raw((peer.answer() + "\r\n").encode())
        if refusals:
            peer.send_close(1011)  # before it is stable
        peer.recv_end()

    with RawServer(serve) as server, Seen(server.url, stable_after=100).start() as seen:
        seen.wait("connect", 4)
        seen.wait("reconnect", 3)
        assert [attempts for _, attempts in seen.of("reconnect")] == [1, 3, 1]


# --- 100: tail ------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [4401, 4403])
def test_fault_100_tail_says_once_that_it_is_not_let_in(code: int) -> None:
    def refuse(peer: ServerPeer) -> None:
        peer.accept()
        peer.recv_json("subscribe")
        peer.send_close(code, "no")
        peer.recv_end()

    with RawServer(refuse) as server:
        status, out, err = run("tail", server.url, "news")
    assert (status, out) == (1, [])
    assert len(err) == 2 and "connected to" in err[0]
    assert f"disconnected ({code} 'no'), not reconnecting" in err[1]


def test_fault_100_tail_leaves_it_to_the_server_what_a_channel_may_be_called() -> None:
    hub = Hub(HubConfig(channel_name=lambda name: name != "no"))
    with serve(hub) as server:
        with command("tail", server.url, "a b/c", "no") as it:
            wait_until(lambda: any("invalid channel name" in line for line in it.err), BOUND)
            wait_until(lambda: hub.has_subscribers("a b/c"), BOUND)
            hub.send_to_channel("a b/c", Message("process_output", channel="a b/c", data="line\n"))
            hub.send_to_channel("a b/c", Message("process_output", channel="a b/c", data="last"))
            wait_until(lambda: len(it.out) >= 2, BOUND)
            assert it.out == ["a b/c: line", "a b/c: last"]
        code, out, err = run("tail", server.url, "no")
    assert (code, out) == (1, [])
    assert [line for line in err if "invalid channel name" in line] == err[1:]


@pytest.mark.parametrize("kind", ["error", "process_status"])
def test_fault_100_tail_tells_a_servers_text_in_one_line_and_in_its_own_direction(
    kind: str,
) -> None:
    text = "no\nconnected to \u202eevil\x1b[2J"
    data = text if kind == "error" else {"status": "failed", "error": text}

    def serve(peer: ServerPeer) -> None:
        peer.accept()
        peer.recv_json("subscribe")
        peer.send_json({"type": kind, "channel": "news", "data": data})
        peer.send_close(4403, text)
        peer.recv_end()

    with RawServer(serve) as server:
        status, out, err = run("tail", server.url, "news")
    assert (status, out, len(err)) == (1, [], 3)
    assert "no\\nconnected to \\u202eevil\\x1b[2J" in err[1]
    assert all(line.isprintable() for line in err)


@pytest.mark.parametrize("name", ["WS_HUB_TOKEN", "CHANNEL"])
def test_fault_100_tail_says_what_no_server_could_take(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = "a" * 5000 if name == "CHANNEL" else "news"
    if name == "WS_HUB_TOKEN":
        monkeypatch.setenv(name, "sec\nret")
    status, out, err = run("tail", "ws://127.0.0.1:1/ws", channel)
    assert status != 0 and out == [] and len(err) == 1
    assert "Traceback" not in err[0] and "ret" not in err[0].replace("retr", "")


# --- what is refused when it is given, and not on each connection after ----------------------


@pytest.mark.parametrize("position", [{"last": True}, {"last": 1.5}, {"last": math.nan}])
@pytest.mark.parametrize("since", [False, True])
@pytest.mark.parametrize("connected", [False, True])
def test_fault_93_a_position_that_is_no_whole_number_is_refused_at_once(
    position: dict[str, Any], since: bool, connected: bool
) -> None:
    if since:
        position = {"since": position["last"]}
    with Hub() as hub, serve(hub) as server, Seen(server.url) as seen:
        if connected:
            seen.start().connected()
        seen.client.subscribe("good")
        with pytest.raises(TypeError, match="whole number"):
            seen.client.subscribe("other", **position)
        assert seen.client.subscriptions() == {"good"}
        seen.start()
        wait_until(lambda: hub.has_subscribers("good"), what="subscribed")
        hub.send_to_channel("good", Message("event", data="x"))
        seen.wait_data("x")


@pytest.mark.parametrize(
    "raised", [MessageEncodeError("no form"), ValueError("a bug")], ids=["encoding", "any"]
)
def test_fault_93_a_connection_that_cannot_be_opened_ends_and_is_told(
    raised: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, failed = Subscriptions.open, []

    def fail_once(self: Subscriptions) -> list[Message]:
        if not failed:
            failed.append(raised)
            raise raised
        return real(self)

    monkeypatch.setattr(Subscriptions, "open", fail_once)
    with Hub() as hub, serve(hub) as server, Seen(server.url) as seen:
        seen.client.subscribe("a")
        states = []
        seen.hook = lambda event: (
            states.append(seen.client.state) if event[0] == "disconnect" else None
        )
        seen.connect()
        (error,) = seen.wait("error")
        assert isinstance(error, ConnectionClosed) and str(raised) in error.reason
        assert seen.wait("disconnect") == (1006, str(raised), True)
        wait_until(lambda: hub.has_subscribers("a"), what="subscribed by the next connection")
        seen.wait("reconnect")  # told on a thread of its own
        assert [event[0] for event in seen.events] == [
            *("connect", "error", "disconnect", "connect", "reconnect")
        ]
        assert states == [ConnectionState.DISCONNECTED]


def test_fault_93_an_interrupted_opening_leaves_no_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(self: Subscriptions) -> list[Message]:
        raise KeyboardInterrupt

    monkeypatch.setattr(Subscriptions, "open", interrupt)
    with Hub() as hub, serve(hub) as server, Seen(server.url) as seen:
        assert isinstance(seen.connect().outcome(), KeyboardInterrupt)
        assert seen.client.state is not ConnectionState.CONNECTED


def test_fault_55_a_right_that_comes_back_is_used_by_subscribing_again() -> None:
    allowed = {"a"}
    config = HubConfig(channel_authoriser=lambda client, channel: channel in allowed)
    with Hub(config) as hub, serve(hub) as server, Seen(server.url) as seen:
        seen.client.subscribe("a")
        seen.start()
        wait_until(lambda: seen.client.extensions is True, what="recognised")
        wait_until(lambda: hub.has_subscribers("a"), what="subscribed")
        hub.send_to_channel("a", Message("event", data="one"))
        seen.wait_data("one")
        allowed.clear()
        assert hub.recheck(hub.all_clients()[0]) == ["a"]
        wait_until(lambda: seen.messages("error"), what="told of the end")
        assert seen.messages("error")[0].code == "forbidden"
        assert not hub.has_subscribers("a")
        allowed.add("a")
        seen.client.subscribe("a")
        seen.client.subscribe("a")  # no second request
        wait_until(lambda: hub.has_subscribers("a"), what="subscribed again")
        hub.send_to_channel("a", Message("event", data="two"))
        seen.wait_data("one", "two", kind="event")


def test_fault_55_a_refused_publication_ends_no_subscription() -> None:
    requests: list[dict[str, Any]] = []

    def serve(peer: ServerPeer) -> None:
        peer.accept()
        peer.send_json({"type": "pong", "id": peer.recv_json("ping")["id"]})
        answer(peer, peer.recv_json("subscribe"))
        refusal = {"channel": "a", "code": "forbidden", "data": "Publish: not allowed"}
        peer.send_json({"type": "error", **refusal})
        requests.append(peer.recv_json())
        peer.recv_end()

    with RawServer(serve) as server, Seen(server.url) as seen:
        seen.client.subscribe("a")
        seen.start()
        seen.wait_data("Publish: not allowed")
        seen.client.subscribe("a")
        seen.client.subscribe("b")
        wait_until(lambda: requests, what="the next request")
        assert requests[0]["channel"] == "b"


@pytest.mark.parametrize("token_in", ["header", "subprotocol", "message"])
@pytest.mark.parametrize("token", ["s3c\udcffr3t", "s3c\nr3t", "s3c\rr3t", "s3c\0r3t"])
def test_fault_98_a_token_that_cannot_be_sent_is_refused_and_never_shown(
    token: str, token_in: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ConfigError, match="one line of text") as caught:
        ReconnectConfig(url="ws://127.0.0.1/", token=token, token_in=token_in)
    tokens = iter([token])
    with Hub() as hub, serve(hub) as server:
        fresh = lambda: next(tokens, "good")  # noqa: E731 - the second one can be sent
        with Seen(server.url, token=fresh, token_in=token_in).connect() as seen:
            (error,) = seen.wait("error")
            seen.wait("connect")
    shown = f"{caught.value}{error}{caplog.text}"
    assert isinstance(error, ConnectionError) and "s3c" not in shown and "r3t" not in shown


@pytest.mark.parametrize("field", ["headers", "origin", "url", "subprotocols"])
def test_fault_98_a_handshake_without_a_utf_8_form_is_refused_at_once(field: str) -> None:
    bad: Any = {
        "headers": {"X": "a\ud800"},
        "origin": "http://a\ud800",
        "url": "ws://127.0.0.1/\ud800",
        "subprotocols": ["a\ud800"],
    }[field]
    with pytest.raises(ConfigError, match="one line"):
        ReconnectingClient(ReconnectConfig(**{"url": "ws://127.0.0.1/", field: bad}))


@pytest.mark.parametrize("letter", ["a", "\x01", "\U0001f600"])
def test_fault_100_the_longest_name_is_answered_by_a_hub_and_a_longer_one_refused(
    letter: str,
) -> None:
    with Hub() as hub, serve(hub) as server, Seen(server.url) as seen:
        with pytest.raises(InvalidName, match="at most 4096 characters"):
            seen.client.subscribe(letter * 4097)
        seen.client.subscribe(letter * 4096)
        seen.start()
        seen.wait_data("Subscribe: invalid channel name")
        seen.client.subscribe("news")  # over the same connection
        wait_until(lambda: hub.has_subscribers("news"), what="subscribed")
        assert len(seen.of("connect")) == 1


# --- 101: callbacks are plain functions ------------------------------------------------------


async def coroutine(*_: Any) -> None: ...


async def generator(*_: Any) -> AsyncIterator[None]:
    yield


class Asynchronous:
    async def __call__(self, *_: Any) -> None: ...

    async def method(self, *_: Any) -> None: ...


COROUTINES = {
    "function": coroutine,
    "generator": generator,
    "partial": functools.partial(coroutine, 1),
    "object": Asynchronous(),
    "method": Asynchronous().method,
}
HUB_CALLBACKS = [
    *("on_connect", "on_disconnect", "on_message", "on_first_subscriber", "on_last_unsubscribe"),
    *("on_auth_failure", "authenticator", "channel_authoriser", "publish_authoriser"),
    "input_authoriser",
    *("check_origin", "channel_name"),
]
CLIENT_CALLBACKS = [
    *("on_connect", "on_disconnect", "on_reconnect", "on_message", "on_error", "token", "dialer"),
]


@pytest.mark.parametrize("kind", COROUTINES)
def test_fault_101_a_coroutine_function_is_no_callback(kind: str) -> None:
    function: Any = COROUTINES[kind]
    for name in HUB_CALLBACKS:
        with pytest.raises(ConfigError, match=f"{name} must be a plain function"):
            HubConfig(**{name: function})
    for name in CLIENT_CALLBACKS:
        with pytest.raises(ConfigError, match=f"{name} must be a plain function"):
            ReconnectConfig(**{"url": "ws://127.0.0.1/", name: function})
    with Hub() as hub, pytest.raises(ConfigError, match="must be a plain function"):
        hub.listen("a", function)
