"""Replays in pieces, step by step: a clock that stands still, and viewers with so much room."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ws_hub.config import ChannelRule
from ws_hub.connection.outbox import Room
from ws_hub.hub.history import History
from ws_hub.hub.replay import Gap, Replays
from ws_hub.hub.subscriptions import ChannelMap, Subscription

RULE = ChannelRule(pattern="*", history_messages=1000, history_bytes=1 << 20)
FRAME = b"x" * 1024
BLOCK = 64  # frames in a block
LONG = 5 * BLOCK + 10


class Viewer:
    """Takes pieces while it has room for so many; what it got is told by their sizes."""

    def __init__(self, room: int = 1000) -> None:
        self.room = room
        self.busy = False  # whether something waits in its outbox
        self.ended = False
        self.pieces: list[bytes] = []
        self.debt = 0.0  # seconds until it may get more
        self.charged: list[int] = []
        self.drained: Callable[[], None] = lambda: None

    def offer_piece(self, frames: bytes, messages: int, drained: Callable[[], None]) -> Room:
        assert len(frames) == messages * len(FRAME)
        if self.ended:
            return Room.ENDED
        if self.busy:
            self.drained = drained
            return Room.QUEUED
        if not self.room:
            return Room.FULL
        self.room -= 1
        self.pieces.append(frames)
        return Room.TAKEN

    def charge_bytes(self, count: int) -> float:
        if count:
            self.charged.append(count)
        return self.debt

    def fileno(self) -> int:
        return 99

    @property
    def messages(self) -> int:
        return sum(map(len, self.pieces)) // len(FRAME)


class Stage:
    """Replays of two channels that keep what is said."""

    def __init__(self) -> None:
        self.now = 0.0
        self.ticks = 0.0  # seconds that each look at the clock takes
        self.full: list[tuple[int, Callable[[], None]]] = []
        self.given_up: list[int] = []
        self.watches = True
        self.awoken = 0
        self.history = History(lambda channel: RULE, new_epoch=lambda: "epoch")
        self.channels: ChannelMap[Any] = ChannelMap()
        self.replays = Replays(
            self.history,
            self.channels,
            watch=self.watch,
            unwatch=lambda fd, call: self.given_up.append(fd),
            awake=self.awake,
            clock=self.clock,
        )

    def clock(self) -> float:
        self.now += self.ticks
        return self.now

    def watch(self, fd: int, call: Callable[[], None]) -> bool:
        if self.watches:
            self.full.append((fd, call))
        return self.watches

    def awake(self) -> None:
        self.awoken += 1

    def say(self, count: int, channel: str = "a") -> None:
        self.history.extend(channel, [FRAME] * count, 0.0)

    def begin(self, viewer: Viewer, channel: str = "a", after: int = 0) -> Subscription[Any]:
        self.channels.enter(viewer)
        subscription = self.channels.add(viewer, channel, 10)
        assert subscription is not None
        self.replays.begin(subscription, "epoch", after)
        return subscription

    def turn(self) -> list[Gap]:
        return list(self.replays.turn())

    def drain(self) -> None:
        calls, self.full = self.full, []
        for _, call in calls:
            call()


def test_a_replay_goes_out_in_blocks_that_are_shared_and_then_the_subscription_is_live() -> None:
    stage = Stage()
    stage.say(LONG)
    viewers = [Viewer(), Viewer()]
    subscriptions = [stage.begin(viewer) for viewer in viewers]
    assert not any(each.live for each in subscriptions)
    assert (stage.turn(), viewers[0].messages) == ([], LONG)
    assert all(each.live for each in subscriptions)
    assert [len(piece) for piece in viewers[0].pieces] == [BLOCK * 1024] * 5 + [10 * 1024]
    for one, other in zip(*(viewer.pieces for viewer in viewers), strict=True):
        assert one is other
    assert not any(stage.replays.holds(viewer) for viewer in viewers)
    assert stage.replays.next_turn() == float("inf")


def test_what_is_said_meanwhile_is_part_of_the_replay() -> None:
    stage = Stage()
    stage.say(LONG)
    viewer = Viewer(room=2)
    subscription = stage.begin(viewer)
    stage.turn()
    assert (viewer.messages, stage.replays.position(subscription)) == (2 * BLOCK, 2 * BLOCK)
    stage.say(BLOCK)
    viewer.room = 100
    stage.drain()
    assert stage.awoken
    stage.turn()
    assert (viewer.messages, subscription.live) == (LONG + BLOCK, True)
    assert stage.replays.position(subscription) is None


def test_a_short_replay_is_sent_at_once_but_not_without_end() -> None:
    """What a channel keeps of little would be let go before its turn came."""
    stage = Stage()
    stage.say(BLOCK)
    viewers = [Viewer() for _ in range(6)]
    live = [stage.begin(viewer).live for viewer in viewers]
    assert live == [True] * 4 + [False] * 2
    stage.turn()
    assert [viewer.messages for viewer in viewers] == [BLOCK] * 6


def test_a_turn_ends_in_time_and_the_next_goes_on_with_the_next_client() -> None:
    stage = Stage()
    stage.say(LONG)
    viewers = [Viewer(), Viewer(), Viewer()]
    for viewer in viewers:
        stage.begin(viewer)
    stage.ticks = 0.01
    for _ in range(4):
        stage.turn()
        assert stage.replays.next_turn() > stage.now
    assert [len(viewer.pieces) for viewer in viewers] == [2, 1, 1]


def test_the_channels_of_one_client_take_turns() -> None:
    stage = Stage()
    stage.say(LONG, "a")
    stage.say(LONG, "b")
    viewer = Viewer()
    a, b = stage.begin(viewer, "a"), stage.begin(viewer, "b")
    stage.ticks = 0.01
    stage.turn(), stage.turn()
    assert [stage.replays.position(each) for each in (a, b)] == [BLOCK, BLOCK]


def test_a_client_whose_outbox_is_in_use_waits_until_that_is_empty() -> None:
    stage = Stage()
    stage.say(LONG)
    viewer = Viewer()
    viewer.busy = True
    subscription = stage.begin(viewer)
    stage.turn()
    stage.turn()
    assert (viewer.pieces, stage.full) == ([], [])
    viewer.busy = False
    viewer.drained()
    stage.turn()
    assert subscription.live


def test_a_client_over_its_budget_rests_for_as_long_as_that_says() -> None:
    stage = Stage()
    stage.say(LONG)
    viewer = Viewer()
    viewer.debt = 2.0
    subscription = stage.begin(viewer)
    stage.turn()
    stage.now = 1.9
    stage.turn()
    assert viewer.pieces == []
    assert stage.replays.next_turn() <= 2.0
    stage.now, viewer.debt = 2.0, 0.0
    stage.turn()
    assert subscription.live
    assert sum(viewer.charged) == LONG * len(FRAME)


def test_without_a_thread_that_waits_a_full_socket_is_tried_again() -> None:
    stage = Stage()
    stage.watches = False
    stage.say(LONG)
    viewer = Viewer(room=0)
    subscription = stage.begin(viewer)
    stage.turn()
    assert 0.0 < stage.replays.next_turn() < 0.1
    viewer.room, stage.now = 100, 0.1
    stage.turn()
    assert subscription.live


def test_an_unsubscription_ends_a_replay_at_once() -> None:
    stage = Stage()
    stage.say(LONG)
    viewer = Viewer(room=1)
    stage.begin(viewer)
    stage.turn()
    stage.channels.remove(viewer, "a")
    viewer.room = 100
    stage.drain()
    stage.turn()
    assert len(viewer.pieces) == 1
    assert not stage.replays.holds(viewer)


def test_a_subscription_made_anew_is_replayed_once_and_not_the_old_one_as_well() -> None:
    stage = Stage()
    stage.say(LONG)
    viewer = Viewer(room=1)
    old = stage.begin(viewer)
    stage.turn()
    stage.channels.remove(viewer, "a")
    new = stage.begin(viewer, after=LONG - BLOCK)
    assert stage.replays.position(old) is None
    viewer.room = 100
    stage.drain()
    stage.turn()
    assert viewer.messages == 2 * BLOCK
    assert (old.live, new.live) == (False, True)


def test_a_client_that_left_is_forgotten_within_a_second_or_two() -> None:
    stage = Stage()
    stage.say(LONG)
    viewer, other = Viewer(room=0), Viewer(room=0)
    for each in (viewer, other):
        stage.begin(each)
    stage.turn()
    stage.channels.leave(viewer)
    stage.now = 1.0
    stage.turn()
    assert (stage.replays.holds(viewer), stage.given_up) == (False, [99])
    assert stage.replays.holds(other)
    assert stage.replays.next_turn() == 2.0


def test_a_connection_that_is_ending_is_sent_nothing_more() -> None:
    stage = Stage()
    stage.say(LONG)
    viewer = Viewer()
    viewer.ended = True
    subscription = stage.begin(viewer)
    stage.turn()
    assert not stage.replays.holds(viewer)
    assert not subscription.live


def test_wake_of_an_unknown_viewer_is_ignored() -> None:
    stage = Stage()
    stage.replays.wake(object())
    assert stage.turn() == []
    stage.say(LONG)
    viewer = Viewer()
    stage.begin(viewer)
    stage.replays.wake(viewer)  # of an earlier wait of its
    stage.turn()
    assert viewer.messages == LONG


def test_messages_that_are_let_go_before_they_are_sent_are_a_gap() -> None:
    stage = Stage()
    stage.say(LONG)
    viewer = Viewer(room=1)
    subscription = stage.begin(viewer)
    stage.turn()
    stage.say(900)
    viewer.room = 100
    stage.drain()
    first = LONG + 900 - RULE.history_messages + 1
    assert stage.turn() == [Gap(subscription, BLOCK, first - BLOCK - 1)]
    assert subscription.live  # it went on behind the gap
    assert viewer.messages == BLOCK + RULE.history_messages


def test_a_gap_up_to_the_present_is_one_too() -> None:
    stage = Stage()
    stage.say(LONG)
    viewer = Viewer(room=1)
    subscription = stage.begin(viewer)
    stage.turn()
    stage.history.expire(1e9)
    viewer.room = 100
    stage.drain()
    assert stage.turn() == [Gap(subscription, BLOCK, LONG - BLOCK)]
    assert subscription.live


# --- publishers that wait ------------------------------------------------------------------


def test_publishers_wait_for_a_replay_that_is_half_of_what_is_kept_behind() -> None:
    stage = Stage()
    called: list[str] = []
    stage.replays.when_near("a", lambda: called.append("nobody reads"))
    stage.say(600)
    viewer = Viewer(room=1)
    stage.begin(viewer)
    stage.replays.when_near("a", lambda: called.append("half"))
    stage.replays.when_near("b", lambda: called.append("another channel"))
    stage.replays.when_near(None, lambda: called.append("all channels"))
    stage.turn()
    assert called == ["nobody reads", "another channel"]
    viewer.room = 3
    stage.drain()
    stage.now = stage.replays.next_turn()
    stage.turn()
    assert called[2:] == ["half", "all channels"]


def test_publishers_wait_no_more_for_a_socket_that_is_full_for_a_second() -> None:
    stage = Stage()
    stage.say(600)
    viewer = Viewer(room=0)
    stage.begin(viewer)
    stage.turn()
    called: list[str] = []
    stage.replays.when_near("a", lambda: called.append("went on"))
    stage.now = 0.9
    stage.turn()
    assert called == []
    stage.now = 1.0
    stage.turn()
    assert called == ["went on"]
    assert stage.replays.holds(viewer)
