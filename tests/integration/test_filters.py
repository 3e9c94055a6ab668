"""Filters over sockets: what passes arrives, once and in order, and nothing else does."""

from __future__ import annotations

import queue
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import node
from tests.harness import SteppedHub
from tests.integration.apps.live import Live, at_once, live, subscribe
from tests.interventions import patched
from tests.support import TIMEOUT, RawPeer, wait_until
from ws_hub import (
    ChannelRule,
    Client,
    Delivery,
    Message,
    MessagesLost,
    ReconnectConfig,
    ReconnectingClient,
    SqliteHistory,
)
from ws_hub.hub import filtering
from ws_hub.testing import FaultProxy, HubClient

SEED = 20261127
LEVELS = ["debug", "info", "warning", "error"]
ERRORS = {"level": ["error"]}
RULES = [
    ChannelRule(pattern="log", history_messages=1000, history_bytes=1 << 26),
    ChannelRule(pattern="short", history_messages=10),
    ChannelRule(pattern="board", keyed=True),
    ChannelRule(pattern="latest", overflow="latest"),
    ChannelRule(pattern="newest", overflow="drop_oldest"),
    ChannelRule(pattern="open", publish=True),
]


@pytest.fixture(params=["memory", "file"])
def hub(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Live]:
    store = SqliteHistory(tmp_path / "hub.db") if request.param == "file" else None
    with live(rules=RULES, history=store) as made:
        yield made


@pytest.fixture
def memory() -> Iterator[Live]:
    with live(rules=RULES) as made:
        yield made


def log(hub: Live, *levels: str, channel: str = "log", **fields: Any) -> None:
    for number, level in enumerate(levels):
        data = {"level": level, "n": number, **fields}
        hub.hub.send_to_channel(channel, Message("log", data=data))


def mark(hub: Live, channel: str = "log") -> None:
    """Publish what passes the filter of each test, last of all."""
    log(hub, "error", channel=channel, end=True)


def until_mark(peer: RawPeer) -> list[dict[str, Any]]:
    """Read up to the mark; return the messages before it."""
    found = []
    while True:
        message = peer.recv_json()
        data = message.get("data")
        if isinstance(data, dict) and data.get("end"):
            return found
        found.append(message)


def levels_of(messages: list[dict[str, Any]]) -> list[str]:
    return [each["data"]["level"] for each in messages if each["type"] == "log"]


# --- live ----------------------------------------------------------------------------------


def test_a_subscriber_gets_what_passes_its_filter_and_others_everything(hub: Live) -> None:
    with hub.peer() as errors, hub.peer() as most, hub.peer() as all:
        answer = subscribe(errors, "log", filter=ERRORS)
        assert (answer["sparse"], answer["replayed"]) == (True, 0)
        subscribe(most, "log", filter={"level": ["warning", "error"], "n": [2, 3, 0]})
        assert "sparse" not in subscribe(all, "log")
        log(hub, *LEVELS)
        mark(hub)
        assert levels_of(until_mark(errors)) == ["error"]
        assert levels_of(until_mark(most)) == ["warning", "error"]
        assert levels_of(until_mark(all)) == LEVELS


def test_a_channel_without_history_is_filtered_as_well(memory: Live) -> None:
    with memory.peer() as peer:
        assert subscribe(peer, "news", filter=ERRORS) == {"channel": "news", "sparse": True}
        log(memory, *LEVELS, channel="news")
        memory.hub.send_to_channel("news", Message("log", data="error"))
        memory.hub.send_error("error", channel="news")
        memory.hub.broadcast(Message("log", data="to all"))
        mark(memory, "news")
        assert [each["data"] for each in until_mark(peer)] == [
            {"level": "error", "n": 3}, "to all",
        ]  # fmt: skip


def test_events_are_filtered_by_their_name_and_programs_by_their_status(memory: Live) -> None:
    with memory.peer() as peer:
        subscribe(peer, "news", filter={"event": ["saved"]})
        memory.hub.send_event("opened", 1, channel="news")
        memory.hub.send_event("saved", 2, channel="news")
        assert peer.recv_json()["data"] == {"event": "saved", "data": 2}
    with memory.peer() as peer:
        subscribe(peer, "process:b", filter={"status": ["exited"]})
        memory.hub.send_process_status("b", "running")
        memory.hub.send_process_lines("b", ["one", "two"])
        memory.hub.send_process_status("b", "exited", exit_code=0)
        assert peer.recv_json()["data"]["status"] == "exited"


def test_a_burst_is_filtered_in_order_with_other_channels_between() -> None:
    draw = random.Random(SEED)
    with SteppedHub(rules=RULES) as hub:
        errors, mixed, all = hub.join(), hub.join(), hub.join()
        for peer, filter in ((errors, ERRORS), (mixed, {"level": ["info", "error"]}), (all, None)):
            peer.say(type="subscribe", channel="log", id=1, filter=filter)
            peer.say(type="subscribe", channel="news", id=2)
        hub.settle()
        for peer in (errors, mixed, all):
            assert [each["type"] for each in peer.messages()] == ["ack", "ack"]
        sent = []
        for number in range(300):
            level, channel = draw.choice(LEVELS), draw.choice(["log", "log", "news"])
            sent.append((channel, level, number))
            data = {"level": level, "n": number}
            hub.send_to_channel(channel, Message("log", data=data))
        hub.settle()
        for peer, wanted in ((errors, ["error"]), (mixed, ["info", "error"]), (all, LEVELS)):
            found = [
                (each["channel"], each["data"]["level"], each["data"]["n"])
                for each in peer.messages()
            ]
            assert found == [each for each in sent if each[0] == "news" or each[1] in wanted]


def test_data_is_looked_at_once_and_only_where_there_is_a_filter() -> None:
    looked: list[bytes] = []

    def count(text: bytes) -> dict[str, Any] | None:
        looked.append(text)
        return fields_of(text)

    fields_of = filtering.fields_of
    with SteppedHub(rules=RULES) as hub, patched(filtering, "fields_of", count):
        peers = [hub.join() for _ in range(6)]
        for index, peer in enumerate(peers):
            filter = {"level": [LEVELS[index % 3]]}
            peer.say(type="subscribe", channel="log", filter=filter)
            peer.say(type="subscribe", channel="news")
            hub.settle()
        hub.send_to_channel("news", Message("log", data={"level": "info"}))
        hub.broadcast(Message("log", data={"level": "info"}))
        hub.settle()
        assert looked == []
        for _ in range(3):
            hub.send_to_channel("log", Message("log", data={"level": "info"}))
        hub.settle()
        assert len(looked) == 3
        peers[0].messages()
        for peer in peers:
            peer.say(type="unsubscribe", channel="log")
        hub.settle()
        peers[0].say(type="subscribe", channel="log")
        hub.send_to_channel("log", Message("log", data={"level": "info"}))
        hub.settle()
        assert len(looked) == 3
        assert [each["channel"] for each in peers[0].messages()] == ["log"]


def test_equal_filters_are_decided_once() -> None:
    decisions: list[Any] = []
    passes = filtering.Filter.passes

    def count(self: filtering.Filter, data: Any) -> bool:
        decisions.append(data)
        return passes(self, data)

    with SteppedHub(rules=RULES) as hub, patched(filtering.Filter, "passes", count):
        peers = [hub.join() for _ in range(6)]
        for index, peer in enumerate(peers):
            values = ["error", 1] if index % 2 else [1.0, "error"]
            peer.say(type="subscribe", channel="log", filter={"level": values})
        hub.settle()
        hub.send_to_channel("log", Message("log", data={"level": "error"}))
        hub.settle()
        assert len(decisions) == 1
        assert [len(peer.messages()) for peer in peers] == [1] * 6


@pytest.mark.parametrize(
    ("filter", "text"),
    [
        ("error", "Subscribe: filter must map fields to lists of values, not 'error'"),
        ({"level": "error"}, "Subscribe: filter must have a list of values for 'level'"),
        ({"level": [{}]}, "Subscribe: a value of filter must be text, a number, true, false or"),
        ({"level": [*range(65)]}, "Subscribe: filter must have at most 8 fields and 64 values"),
        ({"level": ["x" * 2000]}, "Subscribe: filter must have at most 1024 bytes as JSON"),
    ],
)
def test_a_bad_filter_is_refused_and_nothing_changes(memory: Live, filter: Any, text: str) -> None:
    with memory.peer() as peer:
        subscribe(peer, "log", filter=ERRORS)
        peer.send_json({"type": "subscribe", "channel": "log", "id": 2, "filter": filter})
        answer = peer.recv_json()
        assert (answer["type"], answer["id"], answer["code"]) == ("error", 2, "bad_message")
        assert answer["data"].startswith(text)
        log(memory, "info")
        mark(memory)
        assert until_mark(peer) == []
        peer.send_json({"type": "subscribe", "channel": "other", "filter": filter})
        assert peer.recv_json()["code"] == "bad_message"
        assert not memory.hub.has_subscribers("other")


def test_a_second_subscribe_replaces_the_filter_at_its_place(hub: Live) -> None:
    with hub.peer() as peer:
        subscribe(peer, "log", filter=ERRORS)
        log(hub, "info", "error")
        answer = subscribe_live(peer, filter={"level": ["info", "error"]})
        assert levels_of(answer[1]) == ["error"]
        assert answer[0] == {**answer[0], "seq": 2, "replayed": 0, "recovered": True}
        log(hub, "info", "debug")
        ack, before = subscribe_live(peer)
        assert levels_of(before) == ["info"]
        assert "sparse" not in ack
        log(hub, "debug")
        mark(hub)
        assert levels_of(until_mark(peer)) == ["debug"]


def subscribe_live(peer: RawPeer, **position: Any) -> tuple[Any, list[Any]]:
    """Subscribe again; return the ack's data, and the messages before it."""
    peer.send_json({"type": "subscribe", "channel": "log", "id": "again", **position})
    before = []
    while True:
        message = peer.recv_json()
        if message["type"] == "ack":
            return message["data"], before
        before.append(message)


def test_a_new_filter_gets_the_past_that_it_asks_for(hub: Live) -> None:
    log(hub, *LEVELS)
    with hub.peer() as peer:
        subscribe(peer, "log", since=0, filter=ERRORS)
        mark(hub)
        assert levels_of(until_mark(peer)) == ["error"]
        answer, _ = subscribe_live(peer, since=0, filter={"level": ["info", "error"]})
        assert answer["replayed"] == 5
        assert levels_of(until_mark(peer)) == ["info", "error"]


def test_the_application_can_subscribe_a_client_with_a_filter(hub: Live) -> None:
    with hub.peer() as peer:
        client = hub.client()
        hub.hub.subscribe(client, "log", filter={"level": {"error"}})
        log(hub, *LEVELS)
        mark(hub)
        assert levels_of(until_mark(peer)) == ["error"]
        hub.hub.subscribe(client, "log")
        log(hub, *LEVELS)
        mark(hub)
        assert levels_of(until_mark(peer)) == LEVELS
        with pytest.raises(TypeError, match="filter must have a list of values for 'level'"):
            hub.hub.subscribe(client, "log", filter={"level": "error"})  # type: ignore[dict-item]
        with pytest.raises(ValueError, match="at most 8 fields"):
            hub.hub.subscribe(client, "log", filter={"level": range_of(65)})


def range_of(count: int) -> list[int]:
    return list(range(count))


# --- counts --------------------------------------------------------------------------------


def test_a_publish_counts_those_that_get_it(memory: Live) -> None:
    with memory.peer() as errors, memory.peer() as all:
        subscribe(errors, "log", filter=ERRORS)
        subscribe(all, "log")
        send = memory.hub.send_to_channel
        done = send("log", Message("log", data={"level": "info"}), wait=TIMEOUT)
        assert done == Delivery(seq=1, subscribers=2, queued=1, dropped=0)
        done = send("log", Message("log", data={"level": "error"}), wait=TIMEOUT)
        assert done == Delivery(seq=2, subscribers=2, queued=2, dropped=0)
        send("log", Message("log", data={"level": "error"}), exclude=memory.hub.all_clients()[0])
        done = send(
            "log", Message("log", data={"level": "error"}), wait=TIMEOUT,
            exclude=memory.hub.all_clients()[0],
        )  # fmt: skip
        assert done == Delivery(seq=4, subscribers=2, queued=1, dropped=0)


def test_delivered_counts_what_was_sent(memory: Live) -> None:
    with memory.peer() as errors:
        subscribe(errors, "log", filter=ERRORS)
        log(memory, *LEVELS)
        mark(memory)
        until_mark(errors)
        stats = memory.hub.stats()
        assert (stats.published, stats.delivered, stats.dropped) == (5, 2, 0)


def test_an_excluded_client_with_a_filter_takes_nothing_for_lost(memory: Live) -> None:
    with memory.peer() as peer:
        client = memory.client()
        subscribe(peer, "log", filter=ERRORS)
        for level in ("error", "info"):
            data = {"level": level}
            memory.hub.send_to_channel("log", Message("log", data=data), exclude=client)
        mark(memory)
        assert [(each["type"], each["seq"]) for each in until_mark(peer)] == [("skip", 1)]


# --- replay --------------------------------------------------------------------------------


def test_a_replay_has_what_passes_and_counts_positions_on(hub: Live) -> None:
    log(hub, *LEVELS * 5, "info")
    with hub.peer() as peer:
        answer = subscribe(peer, "log", since=0, filter=ERRORS)
        assert (answer["seq"], answer["recovered"], answer["sparse"]) == (21, True, True)
        assert answer["replayed"] == 21  # at most so many follow
        found = [peer.recv_json() for _ in range(7)]
        assert [(each["type"], each["seq"]) for each in found] == [
            ("skip", 1), *[("log", 4 * each) for each in range(1, 6)], ("skip", 21),
        ]  # fmt: skip
        mark(hub)
        assert peer.recv_json()["seq"] == 22


def test_a_replay_of_many_pieces_is_filtered_whole(hub: Live) -> None:
    draw = random.Random(SEED)
    levels = [draw.choice(LEVELS) for _ in range(1000)]
    for level in levels:
        data = {"level": level, "text": "x" * 300}
        hub.hub.send_to_channel("log", Message("log", data=data))
    wanted = [seq for seq, level in enumerate(levels, 1) if level == "error"]
    with hub.peer() as peer:
        subscribe(peer, "log", since=0, filter=ERRORS)
        mark(hub)
        found = until_mark(peer)
        assert [each["seq"] for each in found if each["type"] == "log"] == wanted
        numbers = [each["seq"] for each in found]
        assert numbers == sorted(set(numbers))
    with hub.peer() as peer:
        subscribe(peer, "log", last=100, filter=ERRORS)
        found = until_mark(peer)
        assert [each["seq"] for each in found if each["type"] == "log"] == [
            seq for seq in wanted if seq > 901
        ]


def test_a_message_published_during_a_replay_comes_once_if_it_passes() -> None:
    with SteppedHub(rules=RULES) as hub:
        for index in range(900):
            data = {"level": LEVELS[index % 4], "text": "x" * 500}
            hub.send_to_channel("log", Message("log", data=data))
            hub.turn() if index % 100 == 0 else None
        hub.settle()
        peer = hub.join()
        peer.say(type="subscribe", channel="log", id=1, since=0, filter=ERRORS)
        seen = []
        for index in range(50):
            hub.send_to_channel("log", Message("log", data={"level": LEVELS[index % 4]}))
            hub.turn(0.01)
            seen += peer.messages()
        hub.settle()
        seen += peer.messages()
        assert [each["seq"] for each in seen if each["type"] == "log"] == list(range(4, 949, 4))


def test_a_client_without_positions_is_told_no_numbers(memory: Live) -> None:
    with memory.peer() as peer:
        peer.send_json({"type": "subscribe", "channel": "short", "filter": ERRORS})
        peer.send_json({"type": "ping"})
        assert peer.recv_json()["type"] == "pong"  # the request before it has its place
        log(memory, *["info"] * 50, channel="short")
        mark(memory, "short")
        assert until_mark(peer) == []
    memory.empty()  # or both have the same filter, and its count goes on
    with memory.peer() as peer:
        answer = subscribe(peer, "short", filter=ERRORS)
        for _ in range(25):
            info = Message("log", data={"level": "info"})
            memory.hub.send_to_channel("short", info, wait=TIMEOUT)
        mark(memory, "short")
        told = [(each["type"], each["seq"] - answer["seq"]) for each in until_mark(peer)]
        assert told == [("skip", 1), *[("skip", 1 + 5 * each) for each in range(1, 5)]]


def test_a_full_outbox_is_told_by_lagged_and_the_rest_follows() -> None:
    levels = [LEVELS[index % 4] for index in range(1000)]
    with live(rules=RULES, outbox_messages=16) as hub, hub.peer(rcvbuf=4096) as peer:
        answer = subscribe(peer, "log", filter=ERRORS)
        client = hub.client()
        for level in levels:
            data = {"level": level, "text": "x" * 50_000}
            hub.hub.send_to_channel("log", Message("log", data=data), wait=TIMEOUT)
            if client.dropped:
                break
        log(hub, *levels[:100])
        hub.hub.send_to_channel("log", Message("log", data={"level": "info"}), wait=TIMEOUT)
        assert client.dropped == hub.hub.stats().dropped == 1  # nothing is sent after it
        found = []
        while True:
            message = peer.recv_json()
            if message["type"] == "lagged":
                break
            found.append(message["seq"])
        last = found[-1]
        assert message["seq"] == last + 3  # what lies between does not pass
        position = {"since": last, "epoch": answer["epoch"]}
        again, before = subscribe_live(peer, filter=ERRORS, **position)
        assert (before, again["recovered"]) == ([], True)
        mark(hub)
        found += [each["seq"] for each in until_mark(peer) if each["type"] == "log"]
        assert found == list(range(4, again["seq"] + 1, 4))


class Follower:
    """A client that follows `log` with a filter, by its position, and what it has to get."""

    def __init__(self, hub: SteppedHub, wanted: list[str]) -> None:
        self.hub = hub
        self.wanted = wanted
        self.peer = hub.join()
        self.position: dict[str, Any] = {}
        self.got: list[int] = []
        self.due: list[int] = []
        self.subscribe(since=0)

    def subscribe(self, **position: Any) -> None:
        filter = {"level": self.wanted}
        self.peer.say(type="subscribe", channel="log", id=1, filter=filter, **position)
        self.read()

    def come_back(self) -> None:
        self.peer.leave()
        self.peer = self.hub.join()
        self.subscribe(**self.position)

    def read(self) -> None:
        self.hub.settle()
        for message in self.peer.messages():
            if message["type"] == "ack":
                data = message["data"]
                self.position["epoch"] = data["epoch"]
                if not data["replayed"]:
                    self.position["since"] = data["seq"]
                continue
            assert message["seq"] > self.position.get("since", 0), "out of order, or twice"
            self.position["since"] = message["seq"]
            if message["type"] == "log":
                self.got.append(message["seq"])


@pytest.mark.parametrize("seed", range(10))
def test_each_follower_gets_what_passes_its_filter_of_that_time_once(seed: int) -> None:
    draw = random.Random(SEED + seed)
    seq, levels = 0, dict[int, str]()
    with SteppedHub(rules=RULES) as hub:
        followers = [Follower(hub, draw.sample(LEVELS, draw.randint(1, 3))) for _ in range(4)]
        for _ in range(60):
            one = draw.choice(followers)
            what = draw.randrange(4)
            if what == 0:
                one.peer.leave()  # what is published meanwhile it gets later
            for _ in range(draw.choice([1, 3, 30])):
                seq += 1
                level = levels[seq] = draw.choice(LEVELS)
                text = "x" * draw.choice([10, 2000])
                hub.send_to_channel("log", Message("log", data={"level": level, "text": text}))
                for each in followers:
                    if level in each.wanted:
                        each.due.append(seq)
                if draw.random() < 0.3:
                    hub.turn()
            hub.settle()
            if what == 0:
                one.come_back()
                assert one.position["since"] == seq
            elif what == 1:
                one.read()
                one.wanted = draw.sample(LEVELS, draw.randint(1, 3))
                since = one.position["since"]
                if draw.random() < 0.5:
                    one.due += [n for n in range(since + 1, seq + 1) if levels[n] in one.wanted]
                    one.subscribe(**one.position)
                else:
                    one.subscribe()
                assert one.position["since"] == seq
            for each in followers:
                each.read()
                assert each.got == each.due


# --- clients that are behind ---------------------------------------------------------------


@pytest.mark.parametrize(("channel", "expected"), [("newest", ["error"] * 10), ("latest", [])])
def test_a_client_that_is_behind_gets_what_waits_and_passes(
    channel: str, expected: list[str]
) -> None:
    with SteppedHub(rules=RULES) as hub:
        peer = hub.join(buffer=4096)
        peer.say(type="subscribe", channel=channel, id=1, filter=ERRORS)
        peer.say(type="subscribe", channel="other", id=2)
        hub.settle()
        assert len(peer.messages()) == 2
        for _ in range(200):  # more than its socket takes
            hub.send_to_channel("other", Message("other", data="x" * 1000))
        hub.settle()
        for level in (LEVELS + ["error", "info"]) * 5:
            hub.send_to_channel(channel, Message("log", data={"level": level}))
        hub.turn()
        found: list[dict[str, Any]] = []

        def all_read() -> bool:
            hub.turn(0.01)
            found.extend(peer.messages())
            return sum(each["type"] == "other" for each in found) == 200 and not behind(hub)

        wait_until(all_read, what="the whole backlog")
        hub.settle()
        found += peer.messages()
        assert levels_of(found) == expected
        hub.send_to_channel(channel, Message("log", data={"level": "error"}))
        hub.settle()
        assert levels_of(peer.messages()) == ["error"]
        (client,) = hub.all_clients()
        # A message that has taken the place of others, counted whether these would have passed.
        assert client.dropped == (26 if channel == "latest" else 0)


def behind(hub: SteppedHub) -> bool:
    (client,) = hub.all_clients()
    return client.waiting[0] > 0


# --- keyed channels ------------------------------------------------------------------------


def put(hub: Live, key: str, level: str | None) -> None:
    data = None if level is None else {"level": level}
    hub.hub.send_to_channel("board", Message("state", key=key, data=data))


def view(peer: RawPeer, state: dict[str, Any], until: str) -> list[str]:
    """Read changes up to one of a key; return the keys that were told, without that."""
    keys = []
    while True:
        message = peer.recv_json()
        if message["type"] == "skip":
            continue
        key = message["key"]
        if "data" in message:
            state[key] = message["data"]["level"]
        else:
            state.pop(key, None)
        if key == until:
            return keys
        keys.append(key)


def test_a_keyed_subscriber_has_the_keys_whose_state_passes(memory: Live) -> None:
    put(memory, "a", "error")
    put(memory, "b", "info")
    with memory.peer() as peer:
        state: dict[str, Any] = {}
        answer = subscribe(peer, "board", filter=ERRORS)
        assert (answer["keyed"], answer["sparse"]) == (True, True)
        for key, level in [
            ("b", "error"), ("a", "info"), ("a", "debug"), ("c", "info"), ("c", None), ("b", None),
        ]:  # fmt: skip
            put(memory, key, level)
        put(memory, "end", "error")
        assert view(peer, state, "end") == ["a", "b", "a", "b"]
        assert state == {"end": "error"}


def test_a_keyed_subscriber_that_comes_back_has_the_right_state(memory: Live) -> None:
    draw = random.Random(SEED)
    state: dict[str, Any] = {}
    truth: dict[str, Any] = {}
    position: dict[str, Any] = {}
    for visit in range(12):
        with memory.peer() as peer:
            answer = subscribe(peer, "board", filter=ERRORS, **position)
            if not answer["recovered"]:
                state.clear()
            for _ in range(draw.randrange(8)):
                change(memory, draw, truth)
            put(memory, f"end{visit}", "error")
            truth[f"end{visit}"] = "error"
            view(peer, state, f"end{visit}")
            assert state == {key: level for key, level in truth.items() if level == "error"}
            page = memory.hub.send_to_channel(
                "board", Message("state", key="last", data={"level": "error"}), wait=TIMEOUT
            )
            assert page is not None
            truth["last"] = "error"
            view(peer, state, "last")
            position = {"since": page.seq, "epoch": answer["epoch"]}
        for _ in range(draw.randrange(8)):  # while it is away
            change(memory, draw, truth)


def change(hub: Live, draw: random.Random, truth: dict[str, Any]) -> None:
    key, level = draw.choice("abcdef"), draw.choice([*LEVELS, "error", None])
    put(hub, key, level)
    if level is None:
        truth.pop(key, None)
    else:
        truth[key] = level


def test_another_filter_of_a_keyed_channel_begins_another_state(memory: Live) -> None:
    for key, level in [("a", "error"), ("b", "info"), ("c", "error")]:
        put(memory, key, level)
    with memory.peer() as peer:
        state: dict[str, Any] = {}
        answer = subscribe(peer, "board", filter=ERRORS)
        put(memory, "end", "error")
        view(peer, state, "end")
        assert set(state) == {"a", "c", "end"}
        for position in ({}, {"since": 4, "epoch": answer["epoch"]}, {"last": 1}):
            wanted = "info" if not position else "error" if "since" in position else "info"
            again = subscribe(peer, "board", filter={"level": [wanted]}, **position)
            assert (again["recovered"], again["replayed"]) == (False, 4 if not position else 5)
            state.clear()
            put(memory, "new", wanted)
            view(peer, state, "new")
            expected = {"info": {"b", "new"}, "error": {"a", "c", "end", "new"}}
            assert set(state) == expected[wanted]


# --- the clients ---------------------------------------------------------------------------


class Taken:
    """A reconnecting client, and what it hands on."""

    def __init__(self, url: str, channel: str = "log", **subscription: Any) -> None:
        self.messages: queue.Queue[Message] = queue.Queue()
        self.errors: list[Exception] = []
        self.client = ReconnectingClient(
            ReconnectConfig(
                url,
                on_message=self.messages.put,
                on_error=self.errors.append,
                initial_backoff=0.01,
                max_backoff=0.02,
            ),
        )
        self._subscription = channel, subscription

    def __enter__(self) -> Taken:
        channel, subscription = self._subscription
        self.client.start()
        self.client.subscribe(channel, wait=TIMEOUT, **subscription)
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def until_mark(self) -> list[Message]:
        found = []
        while True:
            message = self.messages.get(timeout=TIMEOUT)
            if message.data.get("end"):
                return found
            found.append(message)

    def lost(self) -> list[MessagesLost]:
        return [each for each in self.errors if isinstance(each, MessagesLost)]


def test_a_client_keeps_its_filter_over_reconnects_and_loses_nothing(hub: Live) -> None:
    draw = random.Random(SEED)
    with FaultProxy(hub.server.host, hub.server.port) as proxy:
        with Taken(proxy.through(hub.server.url), since=0, filter=ERRORS) as taken:
            expected = []
            for round in range(5):
                levels = [draw.choice(LEVELS) for _ in range(100)]
                expected += [(round, n) for n, level in enumerate(levels) if level == "error"]
                log(hub, *levels[:50], round=round)
                proxy.reset()
                for n, level in enumerate(levels[50:], 50):
                    data = {"level": level, "n": n, "round": round}
                    hub.hub.send_to_channel("log", Message("log", data=data))
            mark(hub)
            found = taken.until_mark()
            assert [each.data["level"] for each in found] == ["error"] * len(found)
            assert [(each.data["round"], each.data["n"]) for each in found] == expected
            assert taken.lost() == []


def test_a_quiet_filter_is_no_loss_when_the_client_comes_back(hub: Live) -> None:
    """The channel keeps ten messages, and hundreds pass by that the client does not get."""
    with FaultProxy(hub.server.host, hub.server.port) as proxy:
        with Taken(proxy.through(hub.server.url), "short", filter=ERRORS) as taken:
            mark(hub, "short")
            assert taken.until_mark() == []
            log(hub, *["info"] * 300, channel="short")
            with hub.peer() as peer:  # all of it is dispatched
                subscribe(peer, "short", last=1)
            hub.hub.broadcast(Message("log", data={"end": True}))
            assert taken.until_mark() == []  # and received: this came after it
            before = hub.client().id
            proxy.reset()
            wait_until(
                lambda: any(each.id > before for each in hub.hub.all_clients()), what="a return"
            )
            wait_until(lambda: hub.hub.has_subscribers("short"))
            mark(hub, "short")
            assert taken.until_mark() == []
            assert taken.lost() == []


def test_what_the_history_has_let_go_is_counted_right_with_a_filter(hub: Live) -> None:
    with FaultProxy(hub.server.host, hub.server.port) as proxy:
        with Taken(proxy.through(hub.server.url), "short", filter=ERRORS) as taken:
            mark(hub, "short")
            taken.until_mark()
            proxy.refuse()
            proxy.reset()
            hub.empty()
            log(hub, *["info"] * 30, "error", "info", channel="short")
            proxy.accept()
            (message,) = [taken.messages.get(timeout=TIMEOUT)]
            assert message.data["level"] == "error"
            assert [(each.channel, each.count) for each in taken.lost()] == [("short", 22)]


def test_another_filter_of_a_client_goes_on_behind_its_last_message(hub: Live) -> None:
    with Taken(hub.server.url, since=0, filter=ERRORS) as taken:
        log(hub, "info", "error")
        mark(hub)
        assert [each.seq for each in taken.until_mark()] == [2]
        log(hub, "info", "error", "warning")
        taken.client.subscribe("log", filter={"level": ["error", "warning"]}, wait=TIMEOUT)
        mark(hub)
        assert [each.seq for each in taken.until_mark()] == [5, 6]
        taken.client.subscribe("log", wait=TIMEOUT)
        log(hub, "info")
        mark(hub)
        assert [each.data["level"] for each in taken.until_mark()] == ["info"]
        assert taken.lost() == []


def test_another_filter_of_a_keyed_channel_is_another_snapshot(memory: Live) -> None:
    for key, level in [("a", "error"), ("b", "info"), ("c", "error")]:
        put(memory, key, level)
    with Taken(memory.server.url, "board", filter=ERRORS) as taken:
        wait_until(lambda: set(taken.client.snapshot("board")) == {"a", "c"})
        taken.client.subscribe("board", filter={"level": ["info"]}, wait=TIMEOUT)
        wait_until(lambda: set(taken.client.snapshot("board")) == {"b"})
        put(memory, "b", "error")
        put(memory, "c", "info")
        wait_until(lambda: set(taken.client.snapshot("board")) == {"c"})
        assert taken.lost() == []


@pytest.mark.parametrize(
    ("filter", "error"),
    [("error", TypeError), ({"level": "error"}, TypeError), ({"x": range_of(65)}, ValueError)],
)
def test_a_bad_filter_is_refused_where_it_is_given(
    memory: Live, filter: Any, error: type[Exception]
) -> None:
    client = ReconnectingClient(ReconnectConfig(memory.server.url))
    with pytest.raises(error, match="filter must"):
        client.subscribe("log", filter=filter)
    assert client.subscriptions() == frozenset()


def test_the_client_of_the_tests_takes_a_filter(memory: Live) -> None:
    with HubClient(memory.server.url) as client:
        assert client.subscribe("log", filter=ERRORS)["sparse"] is True
        log(memory, *LEVELS)
        assert client.expect(channel="log").data["level"] == "error"


PROGRAM = """
import {WebSocket} from "ws";
import {HubClient} from "./ws_hub.js";
const [url] = process.argv.slice(2);
const hub = new HubClient(url, {WebSocket, initialBackoff: 10, maxBackoff: 20});
const told = [], seen = [];
let syncs = 0, connections = 0;
hub.on("state", ({state}) => (connections += state === "connected"));
const done = new Promise((end) => {
  hub.subscribe("log", ({data}) => {
    if (data.end) end();
    else seen.push([data.level, data.round, data.n]);
  }, {
    since: 0,
    filter: {level: ["error"]},
    onSync: ({missed}) => missed && told.push(["missed", missed]),
    onGap: (count) => told.push(["gap", count]),
    onError: ({data}) => told.push(["error", data]),
  });
});
const refused = await new Promise((end) => {
  hub.subscribe("bad", () => {}, {filter: {level: "error"}, onError: ({code}) => end(code)});
  hub.connect();
});
hub.send({type: "ready"});
await done;
console.log(JSON.stringify({seen, told, refused, connections}));
hub.close();
"""


@pytest.mark.timeout(180)
@pytest.mark.skipif(node.NODE is None, reason="no Node on this machine")
def test_the_client_in_node_keeps_its_filter_over_reconnects(tmp_path: Path) -> None:
    folder = node.prepare(tmp_path)
    draw = random.Random(SEED)
    ready: queue.Queue[Client] = queue.Queue()
    expected: list[list[Any]] = []

    def publish(hub: Live) -> None:
        ready.get(timeout=6 * TIMEOUT)
        for round in range(5):
            levels = [draw.choice(LEVELS) for _ in range(100)]
            expected.extend(
                ["error", round, n] for n, level in enumerate(levels) if level == "error"
            )
            log(hub, *levels, round=round)
            for client in hub.hub.all_clients():
                client.abort()
        mark(hub)

    def take(client: Client, message: Message) -> None:
        if message.type == "ready":
            ready.put(client)

    with live(rules=RULES, on_message=take) as hub, at_once(lambda: publish(hub)):
        result = node.run(folder, PROGRAM, hub.server.url)
    assert result["seen"] == expected
    assert (result["told"], result["refused"]) == ([], "bad_message")
    assert result["connections"] > 1
