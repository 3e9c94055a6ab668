"""Faults 93 to 102 and 119, and the clients' part of 89 and 125, on real connections."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tests.integration.clients import Seen
from tests.integration.gohub import GoHub, RawServer, ServerPeer
from tests.support import PING, PONG, TEXT, TIMEOUT, wait_until
from ws_hub import Hub, serve
from ws_hub.conversation import Report
from ws_hub.errors import MessageDecodeError
from ws_hub.reconnect import MessagesLost

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


def test_fault_93_leftovers_of_a_channel_that_was_left_reach_nobody() -> None:
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
        assert again["since"] == 0 and "epoch" not in again
        data = {"channel": "a", "epoch": "f", "seq": 2, "recovered": True, "replayed": 2}
        peer.send_json({"type": "ack", "id": again["id"], "data": data})
        for seq in (1, 2, 3):
            peer.send_json({"type": "event", "channel": "a", "data": f"new {seq}", "seq": seq})
        peer.recv_end()

    with RawServer(renumber) as server, Seen(server.url) as seen:
        seen.client.subscribe("a", since=0)
        seen.start()
        seen.wait_data(1, 2, 3, "new 1", "new 2", "new 3")


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


def test_fault_119_reports_that_nobody_takes_are_added_up() -> None:
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
