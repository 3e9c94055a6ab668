"""The presence of several processes, over a bus that loses what a test says, by its clock."""

from __future__ import annotations

import itertools
import json
import random
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ws_hub import ChannelRule
from ws_hub.backplane.bus import Notice
from ws_hub.hub.presence import Entry, PresenceState
from ws_hub.hub.shared_presence import SharedPresence
from ws_hub.protocol.presence import entry_text

RULES = {
    "room": ChannelRule("room", presence=True, presence_grace=15.0, presence_limit=2000),
    "hall": ChannelRule("hall", presence="count", presence_grace=0.5),
}
NO_RULE = ChannelRule("*")


class Bus:
    """Carries notices between processes, in order; which are lost is for a test to say."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.processes: dict[str, Process] = {}
        self.loses: Callable[[str, str], bool] = lambda sender, receiver: False
        self.told: list[dict[str, Any]] = []

    def tell(self, sender: Process, notice: Notice) -> None:
        self.told.append(json.loads(notice.texts[0]))
        for name, each in self.processes.items():
            if each is not sender and not self.loses(sender.name, name):
                each.waiting.append((sender.name, notice.texts[0]))

    def settle(self) -> None:
        """Deliver all, and let every process take its turns, until nobody has anything to do."""
        busy = True
        while busy:
            busy = any([each.step() for each in self.processes.values()])

    def after(self, seconds: float) -> None:
        """Let time pass; settle whenever something is due."""
        end = self.now + seconds
        self.settle()
        while (due := min([each.due() for each in self.processes.values()])) <= end:
            self.now = max(self.now, due)
            self.settle()
        self.now = end
        self.settle()

    def end(self, process: Process) -> None:
        """Kill a process; the others learn of it."""
        del self.processes[process.name]
        for each in self.processes.values():
            each.shared.gone(process.name)


class Process:
    """One process: the state of all, and its own clients."""

    def __init__(self, bus: Bus, name: str) -> None:
        self.bus, self.name = bus, name
        self.waiting: deque[tuple[str, bytes]] = deque()
        self.state: PresenceState[Any] = PresenceState()
        self.shared = SharedPresence(
            self.state,
            lambda channel: RULES.get(channel, NO_RULE),
            lambda notice: bus.tell(self, notice),
            lambda: None,
        )
        self.tokens: dict[tuple[str, str], object] = {}
        bus.processes[name] = self

    def join(self, channel: str, number: int, user: str | None = None, info: str = "") -> None:
        id = self.shared.id_of(number)
        text = entry_text(user, id, info)
        token = self.tokens[channel, id] = object()
        entry: Entry[Any] = Entry(user, id, text, token)
        self.state.join(channel, RULES[channel], entry, self.bus.now)
        self.shared.joined(channel, id, text)

    def leave(self, channel: str, number: int, *, gone: bool = True) -> None:
        id = self.shared.id_of(number)
        token = self.tokens.pop((channel, id))
        assert self.state.leave(channel, id, token, self.bus.now, gone=gone)
        self.shared.left(channel, id, gone)

    def step(self) -> bool:
        """Take a turn if there is something to do; say whether there was."""
        while self.waiting and self.shared.hear(*self.waiting[0]):
            self.waiting.popleft()
        if self.due() > self.bus.now:
            return False
        self.shared.turn(self.bus.now)
        self.state.step(self.bus.now)
        return True

    def due(self) -> float:
        return min(self.shared.next_turn(), self.state.next_step())

    def seen(self, channel: str = "room") -> list[str]:
        """Return the connections that it knows of, each as its user and its info."""
        members = self.state.of(channel, RULES["room"]).members or ()
        return sorted(
            f"{each.user}{info}" for each in members for info in each.connections.values()
        )

    def count(self) -> tuple[int, int]:
        found = self.state.of("hall", RULES["hall"])
        return found.users, found.connections


@pytest.fixture
def bus() -> Bus:
    return Bus()


@pytest.fixture
def pair(bus: Bus) -> tuple[Process, Process]:
    return Process(bus, "a"), Process(bus, "b")


Pair = tuple[Process, Process]


def test_joins_updates_and_leaves_are_told(bus: Bus, pair: Pair) -> None:
    a, b = pair
    a.join("room", 1, "ann", "1")
    b.join("room", 1, "bob", "2")
    b.join("hall", 1, "bob")
    bus.settle()
    assert a.seen() == b.seen() == ["ann1", "bob2"]
    assert a.count() == b.count() == (1, 1)
    a.join("room", 1, "ann", "3")
    b.leave("room", 1, gone=False)
    b.leave("hall", 1, gone=False)
    bus.after(1.0)
    assert a.seen() == b.seen() == ["ann3"]
    assert a.count() == b.count() == (0, 0)


def test_a_process_that_begins_later_gets_the_whole(bus: Bus, pair: Pair) -> None:
    a, b = pair
    for number in range(1500):
        a.join("room", number, None, str(number))
    b.join("hall", 7)
    bus.settle()
    late = Process(bus, "late")
    late.join("room", 1, "eve", "0")
    bus.after(1.0)
    assert late.seen() == a.seen() == b.seen()
    assert len(late.seen()) == 1501
    assert late.count() == (1, 1)
    assert max(len(json.dumps(each)) for each in bus.told) < 64 * 1024


def test_who_moves_to_another_process_never_seems_to_go(bus: Bus, pair: Pair) -> None:
    a, b = pair
    a.join("room", 1, "ann", "1")
    bus.settle()
    a.leave("room", 1)
    bus.after(14.0)
    assert a.seen() == b.seen() == ["ann1"]
    b.join("room", 1, "ann", "2")
    bus.after(60.0)
    assert a.seen() == b.seen() == ["ann2"]


def test_the_users_of_a_process_that_is_killed_are_held_and_then_go(bus: Bus, pair: Pair) -> None:
    a, b = pair
    a.join("room", 1, "ann", "1")
    a.join("room", 2, "bob", "2")
    b.join("room", 1, "bob", "3")
    bus.settle()
    bus.end(a)
    bus.after(14.0)
    assert b.seen() == ["ann1", "bob3"]
    bus.after(2.0)
    assert b.seen() == ["bob3"]


def test_a_process_that_is_silent_is_gone_and_comes_back(bus: Bus, pair: Pair) -> None:
    a, b = pair
    a.join("room", 1, "ann", "1")
    bus.after(100.0)
    assert b.seen() == ["ann1"]
    bus.loses = lambda sender, receiver: sender == "a"
    bus.after(40.0)
    assert b.seen() == []
    bus.loses = lambda sender, receiver: False
    bus.after(10.0)
    assert b.seen() == ["ann1"]


def test_a_process_that_stood_still_takes_nobody_for_gone(bus: Bus, pair: Pair) -> None:
    a, b = pair
    a.join("hall", 1, "ann")
    bus.settle()
    del bus.processes["b"]
    for _ in range(12):
        bus.after(5.0)
    bus.processes["b"] = b
    b.shared.turn(bus.now)  # before it has read anything
    b.state.step(bus.now + 1.0)
    assert b.count() == (1, 1)
    bus.after(60.0)
    assert b.count() == (1, 1)


def test_who_unsubscribes_as_the_whole_is_asked_for_is_not_held(bus: Bus, pair: Pair) -> None:
    a, b = pair
    a.join("room", 1, "ann", "1")
    bus.after(1.0)
    a.leave("room", 1, gone=False)
    a.waiting.append(("b", b'{"ask":""}'))
    bus.after(1.0)
    assert a.seen() == b.seen() == []


@pytest.mark.parametrize("end", ["gone", "left"])
def test_what_was_lost_is_asked_for(bus: Bus, pair: Pair, end: str) -> None:
    a, b = pair
    a.join("room", 1, "ann", "1")
    a.join("room", 2, "bob", "2")
    bus.settle()
    bus.loses = lambda sender, receiver: True
    a.leave("room", 1, gone=end == "gone")
    a.join("room", 3, "eve", "3")
    bus.settle()
    assert b.seen() == ["ann1", "bob2"]
    bus.loses = lambda sender, receiver: False
    bus.after(7.0)  # nothing is told any more but the number
    assert "eve3" in b.seen()
    bus.after(20.0)
    assert a.seen() == b.seen() == ["bob2", "eve3"]


def test_an_entry_that_comes_back_before_its_leave_was_told_stays(bus: Bus, pair: Pair) -> None:
    a, b = pair
    a.join("room", 1, "ann", "1")
    bus.settle()
    a.leave("room", 1, gone=False)
    a.join("room", 1, "ann", "2")
    bus.after(30.0)
    assert a.seen() == b.seen() == ["ann2"]


def of(token: str, number: int = 1, **fields: Any) -> dict[str, Any]:
    return {"from": token, "n": number, **fields}


def room(*joins: Any, leave: Any = ()) -> dict[str, Any]:
    return {"channels": {"room": {"join": list(joins), "leave": list(leave)}}}


@pytest.mark.parametrize(
    "told",
    [
        None,
        7,
        [],
        {},
        of("x", "one"),
        of("x", channels=7),
        of("x", channels={"room": None}),
        of("x", channels={"room": {"join": 7}}),
        of("x", **room({"user": "u"})),
        of("x", **room({"user": 7, "connection": "1-x"})),
        of("x", **room({"user": "u", "connection": 7})),
        of("x", **room({"user": "u", "connection": "1-y"})),
        of("x", **room(leave=[7])),
        of("x", **room(leave=[["1-x"]])),
    ],
)
def test_what_is_not_understood_is_logged_and_changes_nothing(
    bus: Bus, pair: Pair, told: Any, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = pair
    a.join("room", 1, "ann", "1")
    bus.settle()
    b.waiting.append(("x", json.dumps(told).encode()))
    bus.settle()
    assert "is not understood" in caplog.text
    a.join("room", 2, "bob", "2")
    bus.settle()
    assert b.seen() == ["ann1", "bob2"]


def test_text_that_is_not_json_is_logged(
    bus: Bus, pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    pair[1].waiting.extend([("x", b"{"), ("x", b"[" * 100_000), ("x", b"\xff")])
    bus.settle()
    assert caplog.text.count("is not understood") == 3


def test_a_channel_without_presence_here_is_left_out(bus: Bus, pair: Pair) -> None:
    _, b = pair
    b.waiting.append(("x", json.dumps(of("x", channels={"other": {"join": [7]}})).encode()))
    bus.settle()
    assert b.state.of("other", RULES["room"]).connections == 0


def test_no_process_is_believed_about_the_clients_of_another(bus: Bus, pair: Pair) -> None:
    a, b = pair
    a.join("room", 1, "ann", "1")
    bus.settle()
    b.waiting.append(("x", json.dumps(of("x", **room(leave=[[a.shared.id_of(1), 0]]))).encode()))
    bus.after(1.0)
    assert b.seen() == ["ann1"]


def test_many_who_begin_at_once_are_answered_once(bus: Bus, pair: Pair) -> None:
    a, _ = pair
    a.join("room", 1, "ann", "1")
    bus.settle()
    late = [Process(bus, f"late{number}") for number in range(8)]
    bus.told.clear()
    bus.after(3.0)
    assert all(each.seen() == ["ann1"] for each in late)
    answers = [each for each in bus.told if each.get("first") and "room" in each["channels"]]
    assert len(answers) == 1


@pytest.mark.parametrize("seed", range(40))
def test_all_agree_in_the_end_whatever_was_lost(seed: int) -> None:
    """Joins, moves, cuts, kills and newcomers beside a bus that loses a third of everything."""
    rng, bus, names = random.Random(seed), Bus(), itertools.count()
    for _ in range(3):
        Process(bus, str(next(names)))
    bus.loses = lambda sender, receiver: rng.random() < 0.3
    numbers = itertools.count(1)
    for _ in range(300):
        process = rng.choice(list(bus.processes.values()))
        match rng.randrange(12):
            case 0 if len(bus.processes) > 1:
                bus.end(process)
            case 1 if len(bus.processes) < 5:
                Process(bus, str(next(names)))
            case 2 | 3 | 4 | 5:
                number = next(numbers)
                process.join("room", number, rng.choice([None, "ann", "bob"]), str(number))
            case 6 | 7 | 8 if process.tokens:
                channel, id = rng.choice(list(process.tokens))
                process.leave(channel, int(id.split("-")[0]), gone=rng.random() < 0.5)
            case _:
                bus.after(rng.choice([0.0, 0.05, 1.0, 6.0]))
    bus.loses = lambda sender, receiver: False
    bus.after(60.0)
    own = sorted(set(_connections(bus)))
    for process in bus.processes.values():
        found = process.state.of("room", RULES["room"])
        assert sorted(id for each in found.members or () for id in each.connections) == own
        assert found.connections == len(own)


def _connections(bus: Bus) -> Iterator[str]:
    for process in bus.processes.values():
        yield from (id for _, id in process.tokens)
