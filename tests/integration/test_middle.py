"""A long output keeps its beginning and its end, and every reader is told what is missing.

One set of tests for all places where a history may be.
"""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import node
from tests.commands import command
from tests.integration.clients import Seen
from tests.integration.test_process_logs import Site
from tests.redis_servers import SERVERS, running
from tests.support import TIMEOUT, RawPeer, wait_until
from ws_hub import (
    ChannelRule,
    Hub,
    HubConfig,
    LocalBackplane,
    Message,
    MessagesLost,
    Middle,
    SqliteHistory,
    serve,
)
from ws_hub.backplane.redis import RedisBackplane

RULE = ChannelRule(
    "process:*",
    history_messages=10_000,
    history_bytes=40_000,
    history_head_bytes=10_000,
    replay=True,
)
SHARED = ["file", "local", *SERVERS]
CHANNEL = "process:p"
MARK = Message("event", data="mark")

Make = Callable[[], "Worker"]


class Worker:
    """A served hub."""

    def __init__(self, **settings: Any) -> None:
        self.hub = Hub(HubConfig(**settings))
        self.server = serve(self.hub)
        self.url, self.port = self.server.url, self.server.port

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.server.close()


@pytest.fixture(params=["memory", *SHARED])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    """Return what serves a hub; all that it serves have one history, but for those in memory."""
    with contextlib.ExitStack() as stack:
        url = ""
        if request.param in SERVERS:
            url = stack.enter_context(running(request.param)).url("?prefix=middle")
        settings: dict[str, Callable[[], dict[str, Any]]] = {
            "memory": dict,
            "file": lambda: {"history": SqliteHistory(tmp_path / "hub.db")},
            "local": lambda: {"backplane": LocalBackplane(tmp_path / "bus")},
        }

        def served() -> Worker:
            given = settings.get(request.param, lambda: {"backplane": RedisBackplane(url)})()
            return stack.enter_context(Worker(rules=[RULE], **given))

        yield served


@pytest.fixture
def server(make: Make) -> Worker:
    return make()


def print_lines(hub: Hub, count: int, first: int = 1, process_id: str = "p") -> None:
    lines = [f"line {number}" for number in range(first, first + count)]
    hub.send_process_lines(process_id, lines)
    assert hub.send_to_channel("process:" + process_id, MARK, wait=TIMEOUT)


def kept(server: Worker, channel: str = CHANNEL) -> list[int]:
    """Return the numbers of all messages that are kept, as pages tell them."""
    found: list[int] = []
    while page := server.hub.history(channel, since=found[-1] if found else 0, limit=97).messages:
        found += [each.seq or 0 for each in page]
    return found


def middle_of(server: Worker, channel: str = CHANNEL) -> Middle:
    middle = server.hub.history(channel, last=1).middle
    assert middle is not None
    return middle


class Viewer:
    """A subscriber on the wire: the numbers that it gets, and what it is told."""

    def __init__(self, server: Worker, **position: Any) -> None:
        self.numbers: list[int] = []
        self.lines: list[str] = []
        self.gaps: list[dict[str, int]] = []
        self.ack: dict[str, Any] = {}
        with RawPeer("127.0.0.1", server.port) as peer:
            request = {"type": "subscribe", "channel": CHANNEL, "data": CHANNEL, "id": 1}
            peer.send_json({**request, **position})
            while not self.ack or (self.ack["replayed"] and self.last < self.ack["seq"]):
                self._take(peer.recv_json())

    @property
    def last(self) -> int:
        return self.numbers[-1] if self.numbers else 0

    def _take(self, message: dict[str, Any]) -> None:
        if message["type"] == "ack":
            self.ack = message["data"]
        elif message["type"] == "history_gap":
            assert message["channel"] == CHANNEL and "seq" not in message
            self.gaps.append(message["data"])
        else:
            self.numbers.append(message["seq"])


def test_a_late_viewer_gets_beginning_and_end_and_is_told_what_is_missing(server: Worker) -> None:
    for start in range(1, 3000, 100):
        print_lines(server.hub, 100, start)
    middle, numbers = middle_of(server), kept(server)
    assert numbers == [*range(1, middle.after + 1), *range(middle.last + 1, 3031)]
    assert 2000 < middle.messages < 3000
    assert 90 * middle.messages < middle.total_bytes < 180 * middle.messages
    late = Viewer(server)
    assert late.numbers == numbers
    assert not late.ack["recovered"]
    assert late.ack["replayed"] == len(numbers)
    assert late.gaps == [
        {"after": middle.after, "messages": middle.messages, "bytes": middle.total_bytes}
    ]
    assert Viewer(server, last=3).numbers == [3028, 3029, 3030]
    assert Viewer(server, last=3).ack["recovered"]


def test_the_bounds_are_exact(server: Worker) -> None:
    print_lines(server.hub, 50)
    count = 51
    while server.hub.history(CHANNEL, last=1).middle is None:
        assert kept(server) == list(range(1, count + 1))
        assert Viewer(server).ack["recovered"]
        server.hub.send_to_channel(CHANNEL, MARK, wait=TIMEOUT)
        count += 1
    middle, numbers = middle_of(server), kept(server)
    assert middle.messages <= 2  # one message needs the room of one or two
    assert numbers == [*range(1, middle.after + 1), *range(middle.last + 1, count + 1)]
    (gap,) = Viewer(server).gaps
    assert (gap["after"], gap["messages"]) == (middle.after, middle.messages)


def test_a_position_gets_what_follows_and_is_told_what_does_not(server: Worker) -> None:
    for start in range(1, 1000, 100):
        print_lines(server.hub, 100, start)
    middle, numbers = middle_of(server), kept(server)
    epoch = server.hub.history(CHANNEL, last=1).epoch
    after, last = middle.after, middle.last
    for since in (1, after - 1, after, after + 1, after + 50, last - 1, last, last + 1, 1010):
        viewer = Viewer(server, since=since, epoch=epoch)
        assert viewer.numbers == [each for each in numbers if each > since]
        missing = sum(1 for each in range(since + 1, 1011) if each not in numbers)
        assert viewer.ack["recovered"] == (not missing)
        told = [gap["messages"] for gap in viewer.gaps]
        assert told == ([missing] if missing else [])
        for gap in viewer.gaps:
            assert gap["after"] == max(after, since)
            assert ("bytes" in gap) == (since <= after)


def test_a_reconnecting_client_raises_what_is_missing_once(server: Worker) -> None:
    for start in range(1, 1000, 100):
        print_lines(server.hub, 100, start)
    middle = middle_of(server)
    with Seen(server.url) as seen:
        seen.client.subscribe(CHANNEL)
        seen.start()
        wait_until(lambda: [each for each in seen.messages() if each.seq == 1010], what="the end")
        (lost,) = [each[1] for each in seen.of("error") if isinstance(each[1], MessagesLost)]
        assert (lost.channel, lost.count) == (CHANNEL, middle.messages)
        assert lost.total_bytes == middle.total_bytes
        assert f"{middle.total_bytes:,} bytes" in str(lost)
        assert [each.seq for each in seen.messages() if each.seq] == kept(server)
        page = seen.client.history(CHANNEL, last=1)
        assert page.middle == middle


def test_another_run_begins_anew(server: Worker) -> None:
    hub = server.hub
    for run in range(3):
        hub.send_process_status("p", "running")
        begin = hub.history(CHANNEL, last=1).last if run else 0
        for start in range(1, 1000, 100):
            print_lines(hub, 100, start)
        hub.send_process_status("p", "exited", 0)
        wait_until(lambda: hub.history(CHANNEL, last=1).messages[0].type == "process_status")
        numbers, middle = kept(server), middle_of(server)
        first = hub.history(CHANNEL, since=0, limit=1).messages[0]
        assert (first.type, first.data["status"]) == ("process_status", "running")
        assert first.seq == numbers[0] >= begin
        assert middle.after > numbers[0]
        assert Viewer(server).numbers == numbers


def test_a_short_run_keeps_the_end_of_the_one_before(server: Worker) -> None:
    hub = server.hub
    hub.send_process_status("p", "running")
    for start in range(1, 1000, 100):
        print_lines(hub, 100, start)
    middle, before = middle_of(server), kept(server)
    hub.send_process_status("p", "running")
    print_lines(hub, 3)
    numbers = kept(server)
    assert numbers[-5:] == list(range(1011, 1016)) or numbers[-5:] == list(range(1012, 1017))
    assert [each for each in before if each > middle.after] == [
        each for each in numbers if middle.after < each <= before[-1]
    ]
    assert middle_of(server) == middle  # the beginning of that run goes first
    assert Viewer(server).numbers == numbers


def test_a_client_that_comes_and_goes_gets_each_message_or_is_told(server: Worker) -> None:
    seed = random.randrange(1 << 30)
    print("seed", seed)
    chance = random.Random(seed)
    hub, got, told, position = server.hub, list[int](), 0, (0, "")
    for _ in range(40):
        for _ in range(chance.choice([0, 1, 1, 5])):
            print_lines(hub, chance.choice([1, 10, 100, 400]))
        if chance.random() < 0.1:
            hub.send_process_status("p", "running")
        since, epoch = position
        viewer = Viewer(server, since=since, **({"epoch": epoch} if epoch else {}))
        numbers = viewer.numbers
        at = viewer.ack["seq"]
        assert numbers == [each for each in kept(server) if since < each <= at]
        jumps = [
            (one, other - one - 1)
            for one, other in zip([since, *numbers], numbers, strict=False)
            if other > one + 1
        ]
        assert viewer.ack["recovered"] == (not jumps or (since == 0 and len(jumps) == 0))
        named = [(gap["after"], gap["messages"]) for gap in viewer.gaps]
        # What is missing in front of all that is kept is no middle.
        assert [each for each in jumps if each[0] != since or each in named] == named
        told += sum(count for _, count in jumps)
        got += numbers
        position = (max(at, since), viewer.ack["epoch"])
    assert len(set(got)) == len(got)
    assert len(got) + told == position[0]


def test_a_viewer_that_is_overtaken_in_the_beginning_is_told(make: Make) -> None:
    """What was there when it came is let go before its replay comes to it."""
    server = make()
    print_lines(server.hub, 150)
    assert server.hub.history(CHANNEL, last=1).middle is None
    with RawPeer("127.0.0.1", server.port, rcvbuf=2048) as peer, Seen(server.url) as seen:
        seen.client.subscribe(CHANNEL)
        seen.start()
        request = {"type": "subscribe", "channel": CHANNEL, "data": CHANNEL, "id": 1, "since": 0}
        peer.send_json(request)
        for start in range(151, 6000, 100):
            print_lines(server.hub, 100, start)
        last = server.hub.history(CHANNEL, last=1).last
        wait_until(lambda: seen.messages() and seen.messages()[-1].seq == last, what="the end")
        got, missing, position, epoch, whole = list[int](), 0, 0, "", True
        while position < last:
            message = peer.recv_json()
            if message["type"] == "lagged":
                peer.send_json({**request, "since": position, "epoch": epoch})
            elif message["type"] == "ack":
                epoch = message["data"]["epoch"]
                whole = message["data"]["recovered"]
            elif message["type"] == "history_gap":
                assert not whole
            else:
                if message["seq"] != position + 1:
                    assert not whole
                    missing += message["seq"] - position - 1
                position = message["seq"]
                got.append(position)
        assert len(got) + missing == last
    numbers = [each.seq for each in seen.messages() if each.type != "lagged"]
    lost = [each[1] for each in seen.of("error") if isinstance(each[1], MessagesLost)]
    assert len(numbers) + sum(each.count or 0 for each in lost) == last


@pytest.mark.parametrize("make", SHARED, indirect=True)
def test_workers_and_a_restart_have_the_same(make: Make) -> None:
    first, second = make(), make()
    for start in range(1, 1000, 100):
        print_lines((first, second)[start // 100 % 2].hub, 100, start)
    numbers, middle = kept(first), middle_of(first)
    for each in (first, second):
        assert kept(each) == numbers
        assert middle_of(each) == middle
        viewer = Viewer(each)
        assert len(viewer.numbers) + sum(gap["messages"] for gap in viewer.gaps) == 1010
        assert viewer.numbers[0] == 1
    for each in (first, second):
        each.server.close()
    third = make()
    assert kept(third) == Viewer(third).numbers == numbers
    assert middle_of(third) == middle
    print_lines(third.hub, 100)
    assert kept(third)[: middle.after] == numbers[: middle.after]
    assert middle_of(third).after == middle.after
    assert middle_of(third).messages > middle.messages
    assert Viewer(third).numbers == kept(third)


def test_a_million_lines_take_no_more_room_than_ten_thousand() -> None:
    with Worker() as server:
        hub, lines, taken = server.hub, [f"line {number:06}" for number in range(1000)], []
        for part in range(1000):
            hub.send_process_lines("p", lines)
            if part in (99, 999):
                hub.wait_for_room(CHANNEL)
                hub.send_to_channel(CHANNEL, MARK, wait=TIMEOUT)
                taken.append(hub.stats().history_bytes)
        assert max(taken) - min(taken) < 100_000
        assert max(taken) < 5_000_000
        middle, numbers = middle_of(server), kept(server)
        assert numbers[middle.after - 1 : middle.after + 1] == [middle.after, middle.last + 1]
        assert len(numbers) + middle.messages == 1_000_002


# --- other readers --------------------------------------------------------------------------


def lines_of(site: Site, process_id: str, query: str) -> Any:
    return json.loads(site.get(process_id, query)[2])


def test_lines_over_http_name_what_is_missing() -> None:
    with Site(None, rules=[RULE]) as site:
        site.run("for i in range(1, 2001): print('line', i)", "p")
        answer = lines_of(site, "p", "from=1&lines=10000")
        missing = answer["missing"]
        numbers = [each["line"] for each in answer["lines"]]
        after, lines = missing["after"], missing["lines"]
        assert numbers == [*range(1, after + 1), *range(after + lines + 1, 2001)]
        middle = site.hub.history(CHANNEL, last=1).middle
        assert middle is not None
        assert missing["lines"] == missing["messages"] == middle.messages
        assert missing["bytes"] == middle.total_bytes
        assert lines_of(site, "p", "digest")["missing"] == missing
        assert lines_of(site, "p", "search=line+1")["missing"] == missing
        page = site.hub.read_log("p", last=5)
        assert page.missing is not None and page.missing.lines == lines
        text = site.get("p", "download")[2].decode().splitlines()
        assert text[after - 1 : after + 2] == [
            f"line {after}",
            f"(ws_hub: {lines:,} lines, {middle.total_bytes:,} bytes of messages, are missing "
            "here: no longer kept)",
            f"line {after + lines + 1}",
        ]


def test_tail_says_what_is_missing(server: Worker) -> None:
    for start in range(1, 1000, 100):
        print_lines(server.hub, 100, start)
    middle = middle_of(server)
    with command("tail", server.url, CHANNEL) as it:
        it.saw("line 1000")
        it.saw(
            f"{middle.messages} messages of channel '{CHANNEL}' are lost "
            f"({middle.total_bytes:,} bytes): not kept",
            "err",
        )


PROGRAM = """
import {HubClient} from "./ws_hub.js";
import {WebSocket} from "ws";
const client = new HubClient(process.argv[2], {WebSocket});
const told = [], seen = [];
for (const since of [0, 30]) {
  await new Promise((end) => {
    const subscription = client.subscribe("process:p", ({seq, type}) => {
      seen.push([seq, type]);
      if (seq === 1010) end(subscription.close());
    }, {
      since,
      onGap: (...size) => told.push(size),
      onSync: ({missed}) => missed && told.push(missed),
    });
    client.connect();
  });
}
client.close();
console.log(JSON.stringify([told, seen.length, seen.some(([, type]) => type === "history_gap")]));
"""


@pytest.mark.skipif(node.NODE is None, reason="no Node on this machine")
def test_a_client_in_javascript_is_told_number_and_bytes(tmp_path: Path) -> None:
    with Worker(rules=[RULE]) as server:
        for start in range(1, 1000, 100):
            print_lines(server.hub, 100, start)
        middle, numbers = middle_of(server), kept(server)
        told, count, has_notes = node.run(node.prepare(tmp_path), PROGRAM, server.url)
        assert told == [[middle.messages, middle.total_bytes]] * 2
        assert count == len(numbers) + len([each for each in numbers if each > 30])
        assert not has_notes


REDRAWS = """
import sys, time
for i in range(1, 201): print("line", i)
sys.stdout.write("\\x1b[20Aedited 181\\r\\x1b[20B")
sys.stdout.flush()
for i in range(201, %d): print("line", i)
"""


def test_a_line_that_was_edited_is_counted_where_it_is() -> None:
    """Its first state is among what is missing, and what it became is kept."""
    with Site(None, rules=[RULE]) as site:
        for end in range(230, 480, 25):
            site.run(REDRAWS % end, "p", pty=(80, 24))
            answer = lines_of(site, "p", "from=1&lines=10000")
            missing = answer.get("missing")
            texts = {each["line"]: each["text"] for each in answer["lines"]}
            count = missing["lines"] if missing else 0
            assert len(texts) + count == end - 1
            assert texts.get(181, "edited 181") == "edited 181"


def test_a_rule_without_room_for_the_end_is_refused() -> None:
    for head in (100, 101):
        with pytest.raises(ValueError, match="history_head_bytes=.* leaves no room for the newest"):
            ChannelRule("a", history_messages=1, history_bytes=100, history_head_bytes=head)
    with pytest.raises(ValueError, match="history_head_bytes needs history_messages"):
        ChannelRule("a", history_head_bytes=1)
