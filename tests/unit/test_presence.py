"""The state of presence, with a clock of the test's: what subscribers are told, and when."""

from __future__ import annotations

import json
import random
import sys
from dataclasses import dataclass, field
from typing import Any

import pytest

from ws_hub import ChannelRule, ConfigError, Member, Presence
from ws_hub.hub.presence import Entry, PresenceState
from ws_hub.protocol.presence import PresenceView, difference, entry_text

ROOM = "room:1"
RULE = ChannelRule(pattern="room:*", presence=True)
COUNT = ChannelRule(pattern="room:*", presence="count")


class Told:
    """A state whose messages a viewer takes, and the time that a test moves.

    Args:
        rule: that of the channel.
        max_held: see `PresenceState`.
    """

    def __init__(self, rule: ChannelRule = RULE, max_held: int = 100) -> None:
        self.rule = rule
        self.now = 100.0
        self.state: PresenceState[str] = PresenceState(max_held)
        self.view = PresenceView()
        self.view.take(json.loads(self.state.state(ROOM, rule)))
        self.messages: list[Any] = []

    def join(self, connection: str, user: str | None = None, info: Any = None) -> None:
        text = entry_text(user, connection, "" if info is None else json.dumps(info))
        self.state.join(
            ROOM, self.rule, Entry(user, connection, text, sys.intern(connection)), self.now
        )

    def leave(self, connection: str, *, gone: bool = True, token: str = "") -> None:
        token = sys.intern(token or connection)
        self.state.leave(ROOM, connection, token, self.now, gone=gone)

    def after(self, seconds: float) -> list[Any]:
        """Let time pass, step whenever something is due; return what was told meanwhile."""
        end, before = self.now + seconds, len(self.messages)
        while self.state.next_step() <= end:
            self.now = max(self.now, self.state.next_step())
            self._step()
        self.now = end
        self._step()
        return self.messages[before:]

    def _step(self) -> None:
        for news in self.state.step(self.now):
            assert news.channel == ROOM
            self.messages.append(json.loads(news.data))
            self.view.take(self.messages[-1])

    @property
    def users(self) -> list[str | None]:
        return [each.user for each in self.view.presence.members or ()]

    @property
    def truth(self) -> Presence:
        return self.state.of(ROOM, self.rule)


def joins(message: Any) -> list[str]:
    return [each["connection"] for each in message["join"]]


def leaves(message: Any) -> list[str]:
    return [each["connection"] for each in message["leave"]]


# --- joins and leaves ----------------------------------------------------------------------


def test_a_join_is_told_at_once_with_user_connection_and_info() -> None:
    told = Told()
    told.join("1", "ann", {"name": "Ann"})
    assert told.after(0.0) == [
        {"join": [{"user": "ann", "connection": "1", "info": {"name": "Ann"}}], "leave": []}
    ]
    assert (
        told.view.presence == told.truth == Presence(1, 1, (Member("ann", {"1": {"name": "Ann"}}),))
    )


def test_a_user_is_present_until_the_grace_after_the_last_connection() -> None:
    told = Told()
    told.join("1", "ann")
    told.join("2", "ann")
    told.after(1.0)
    told.leave("1")
    assert told.after(0.0) == [{"join": [], "leave": [{"user": "ann", "connection": "1"}]}]
    told.leave("2")
    assert told.after(14.9) == []
    assert told.users == ["ann"]
    assert told.truth.users == 1
    assert leaves(*[told.after(0.1)[0]]) == ["2"]
    assert told.users == []
    assert told.truth == Presence(members=())


def test_a_reconnect_within_the_grace_takes_the_place_of_the_old_connection() -> None:
    told = Told()
    told.join("1", "ann")
    told.after(1.0)
    told.leave("1")
    told.after(14.0)
    told.join("2", "ann")
    (message,) = told.after(60.0)
    assert (joins(message), leaves(message)) == (["2"], ["1"])
    assert told.users == ["ann"]


def test_a_connection_without_a_user_is_a_member_of_its_own_and_leaves_at_once() -> None:
    told = Told()
    told.join("1")
    told.join("2")
    told.after(1.0)
    assert told.view.presence.users == 2
    told.leave("1")
    assert leaves(told.after(0.0)[0]) == ["1"]


def test_one_that_unsubscribes_leaves_soon_and_not_if_it_begins_anew() -> None:
    told = Told()
    told.join("1", "ann")
    told.after(1.0)
    told.leave("1", gone=False)
    told.join("1", "ann")
    assert told.after(60.0) == []
    told.leave("1", gone=False)
    assert leaves(told.after(0.5)[0]) == ["1"]


def test_the_end_of_an_older_subscription_changes_nothing() -> None:
    told = Told()
    told.join("1", "ann")
    told.after(1.0)
    told.leave("1", token="older")
    told.leave("2")
    assert told.after(60.0) == []


def test_a_member_that_joins_and_leaves_between_two_messages_is_never_told() -> None:
    told = Told()
    told.join("1")
    told.after(0.0)
    told.join("2")
    told.leave("2")
    assert told.after(1.0) == []


def test_a_new_info_is_told_as_a_join_of_the_same_connection() -> None:
    told = Told()
    told.join("1", "ann")
    told.after(1.0)
    text = entry_text("ann", "1", '"away"')
    told.state.update(ROOM, "1", text, told.now)
    told.state.update(ROOM, "9", text, told.now)
    told.state.update("room:2", "1", text, told.now)
    assert joins(told.after(1.0)[0]) == ["1"]
    assert told.view.presence.members == (Member("ann", {"1": "away"}),)
    told.state.update(ROOM, "1", text, told.now)
    assert told.after(1.0) == []


# --- what a subscriber begins with ---------------------------------------------------------


def test_a_list_is_continued_by_the_next_change_and_nothing_comes_twice() -> None:
    told = Told()
    told.join("1", "ann")
    told.after(0.01)
    told.join("2", "bob")  # within the pause: not published yet
    late = PresenceView()
    late.take(json.loads(told.state.state(ROOM, RULE)))
    assert [each.user for each in late.presence.members or ()] == ["ann"]
    (message,) = told.after(1.0)
    assert joins(message) == ["2"]
    late.take(message)
    assert late.presence == told.view.presence == told.truth


def test_a_storm_of_joins_is_a_few_messages() -> None:
    told = Told()
    for number in range(1000):
        told.join(str(number), f"user {number}")
        told.after(0.001)
    told.after(1.0)
    assert len(told.messages) <= 12
    assert sum(len(each["join"]) for each in told.messages) == 1000
    assert told.view.presence == told.truth
    assert told.truth.users == 1000


# --- bounds --------------------------------------------------------------------------------


def test_a_channel_over_the_limit_is_counted_until_a_tenth_are_gone() -> None:
    told = Told(ChannelRule(pattern="*", presence=True, presence_limit=10))
    for number in range(10):
        told.join(str(number))
    assert len(told.after(1.0)[-1]["join"]) == 10
    told.join("10")
    assert told.after(1.0) == [{"users": 11, "connections": 11}]
    assert told.view.presence == told.truth == Presence(11, 11, None)
    told.leave("0")
    assert told.after(1.0) == [{"users": 10, "connections": 10}]
    told.leave("1")
    (message,) = told.after(1.0)
    assert (message["users"], len(message["members"])) == (9, 9)
    assert told.view.presence == told.truth
    told.join("11")
    assert joins(told.after(1.0)[0]) == ["11"]


def test_a_counted_channel_tells_two_numbers_when_they_change() -> None:
    told = Told(COUNT)
    assert told.state.state(ROOM, COUNT) == '{"users":0,"connections":0}'
    told.join("1", "ann")
    told.join("2", "ann", "info")
    told.join("3")
    assert told.after(1.0) == [{"users": 2, "connections": 3}]
    told.join("2", "ann", "another")
    assert told.after(1.0) == []
    assert told.truth == Presence(2, 3, None)


def test_beyond_the_bound_of_held_entries_a_leave_is_not_held() -> None:
    told = Told(max_held=2)
    for number in range(4):
        told.join(str(number), f"user {number}")
    for number in range(3):
        told.leave(str(number))
    assert told.truth.connections == 3
    told.join("4", "user 0")
    told.leave("3")
    assert told.truth.connections == 3  # 1 and 3 are held, 4 is there


def test_a_channel_that_all_have_left_is_forgotten() -> None:
    told = Told()
    told.join("1")
    told.after(1.0)
    told.leave("1")
    told.after(1.0)
    assert told.state.next_step() == float("inf")
    assert told.state.state(ROOM, COUNT) == '{"users":0,"connections":0}'  # by another rule: anew


@pytest.mark.parametrize(
    "settings",
    [
        {"presence": "list"},
        {"presence": 1},
        {"presence": None},
        {"presence_grace": 0},
        {"presence_grace": "15"},
        {"presence_limit": 0},
        {"presence_limit": 10_001},
    ],
)
def test_a_rule_refuses_what_it_cannot_mean(settings: Any) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        ChannelRule(pattern="*", **settings)


# --- what a subscriber makes of it ---------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {"join": 1, "leave": "x"},
        {"join": [{"user": 1, "connection": "2"}, {"connection": 3}, "x"]},
        {"users": "3", "connections": 3, "members": []},
    ],
)
def test_what_is_malformed_is_left_out(data: Any) -> None:
    view = PresenceView()
    entry = {"user": "ann", "connection": "1"}
    view.take({"users": 1, "connections": 1, "members": [entry]})
    view.take(data)
    assert view.presence == Presence(1, 1, (Member("ann", {"1": None}),))


def test_differences_are_about_users_and_not_their_connections() -> None:
    before = Presence(2, 3, (Member("ann", {"1": None, "2": None}), Member(None, {"3": None})))
    after = Presence(2, 2, (Member("ann", {"4": None}), Member(None, {"5": None})))
    assert difference(before, after) == ((Member(None, {"5": None}),), (Member(None, {"3": None}),))
    assert difference(before, Presence(2, 3)) == ((), before.members)


def test_the_info_of_a_member_is_that_of_the_newest_connection_that_has_any() -> None:
    assert Member("ann", {"1": "old", "2": "new", "3": None}).info == "new"
    assert Member("ann", {"1": None}).info is None


# --- against a model -----------------------------------------------------------------------


@dataclass
class Viewer:
    """A subscriber: it has begun with a list, and takes every message since."""

    view: PresenceView = field(default_factory=PresenceView)


class Model:
    """What must be: live connections by user, and users that are held until a time.

    Args:
        seed: of everything that is drawn.
    """

    def __init__(self, seed: int, limit: int) -> None:
        self.random = random.Random(seed)
        self.rule = ChannelRule(
            pattern="*", presence=True, presence_grace=5.0, presence_limit=limit
        )
        self.state: PresenceState[object] = PresenceState()
        self.now = 0.0
        self.live: dict[str, tuple[str | None, str, object]] = {}
        self.held: dict[str, tuple[str, float]] = {}  # user -> connection and end
        self.viewers: list[Viewer] = []
        self.numbers = iter(range(1_000_000))

    def join(self) -> None:
        user = self.random.choice([None, "a", "b", "c", "d", "e"])
        connection, token = str(next(self.numbers)), object()
        text = entry_text(user, connection, str(self.random.randrange(3)))
        self.live[connection] = user, text, token
        if user is not None:
            self.held.pop(user, None)
        self.state.join("x", self.rule, Entry(user, connection, text, token), self.now)
        viewer = Viewer()
        viewer.view.take(json.loads(self.state.state("x", self.rule)))
        self.viewers.append(viewer)

    def drop(self) -> None:
        if self.live:
            connection = self.random.choice(list(self.live))
            user, _, token = self.live.pop(connection)
            if user is not None and all(each[0] != user for each in self.live.values()):
                self.held[user] = connection, self.now + 5.0
            self.state.leave("x", connection, token, self.now, gone=True)

    def change(self) -> None:
        if self.live:
            connection = self.random.choice(list(self.live))
            user, _, token = self.live[connection]
            text = entry_text(user, connection, str(self.random.randrange(100)))
            self.live[connection] = user, text, token
            self.state.update("x", connection, text, self.now)

    def wait(self) -> None:
        self.now += self.random.choice([0.0, 0.01, 0.2, 2.0, 6.0])
        self.held = {user: each for user, each in self.held.items() if each[1] > self.now}
        for news in self.state.step(self.now):
            for viewer in self.viewers:
                viewer.view.take(json.loads(news.data))
        del self.viewers[:-10]

    def connections(self) -> set[str]:
        return set(self.live) | {connection for connection, _ in self.held.values()}

    def check(self) -> None:
        """All that a viewer knows is true once everything due was told."""
        self.now += 1.0
        self.wait()
        truth = self.state.of("x", self.rule)
        users = {user for user, _, _ in self.live.values()} | set(self.held)
        anonymous = sum(user is None for user, _, _ in self.live.values())
        assert truth.users == len(users - {None}) + anonymous
        assert truth.connections == len(self.connections())
        if truth.members is not None:
            found = {
                each: info for member in truth.members for each, info in member.connections.items()
            }
            assert set(found) == self.connections()
            for connection, (_, text, _) in self.live.items():
                assert found[connection] == json.loads(text)["info"]
        for viewer in self.viewers:
            known = viewer.view.presence
            assert (known.users, known.connections) == (truth.users, truth.connections)
            assert by_user(known) == by_user(truth)


def by_user(presence: Presence) -> Any:
    """Return the members without their order: a user who comes back may be listed later."""
    if presence.members is None:
        return None
    return sorted((each.user or "", sorted(each.connections.items())) for each in presence.members)


@pytest.mark.parametrize("limit", [4, 1000])
@pytest.mark.parametrize("seed", range(10))
def test_every_viewers_list_is_the_truth(seed: int, limit: int) -> None:
    model = Model(seed, limit)
    for _ in range(400):
        act = model.random.choices(
            [model.join, model.drop, model.change, model.wait, model.check], [4, 4, 1, 4, 1]
        )[0]
        act()
    model.check()
