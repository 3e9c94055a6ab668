"""What was said: bounds, numbers, positions, and being forgotten."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ws_hub.config import ChannelRule
from ws_hub.hub.history import History, Position, Range

RULE = ChannelRule(
    pattern="*", history_messages=5, history_bytes=100, history_ttl=10, history_idle_ttl=1000
)


def make(rule: ChannelRule = RULE, **bounds: int) -> History:
    epochs = iter(f"epoch-{number}" for number in range(1, 1000))
    return History(lambda channel: rule, new_epoch=lambda: next(epochs), **bounds)


def say(history: History, *frames: bytes, channel: str = "a", now: float = 0.0) -> None:
    for frame in frames:
        history.extend(channel, [frame], now)


def read(history: History, found: Range, channel: str = "a") -> bytes:
    """Return the messages of a range, as pieces bring them."""
    frames, after = b"", found.after
    while piece := history.piece(channel, found.position.epoch, after):
        assert piece.first == after + 1
        frames += piece.frames
        after = piece.last
    assert after == found.position.seq
    return frames


def test_messages_are_numbered_from_one() -> None:
    history = make()
    assert history.next_seq("a") == 1
    say(history, b"x", b"y")
    assert history.next_seq("a") == 3
    assert history.next_seq("b") == 1


def test_only_the_newest_messages_are_kept() -> None:
    history = make()
    say(history, *(b"%d" % number for number in range(8)))
    found = history.locate("a", since=0)
    assert read(history, found) == b"34567"
    assert found.recovered  # "all that is kept" is what was asked for
    assert found.position.seq == 8


def test_only_so_many_bytes_are_kept_but_always_the_last_message() -> None:
    history = make()
    say(history, b"x" * 62, b"y" * 62)  # of which 10 are no text
    assert read(history, history.locate("a", since=0)) == b"y" * 62
    say(history, b"z" * 500)
    assert read(history, history.locate("a", since=0)) == b"z" * 500


@pytest.mark.parametrize(
    ("since", "epoch", "last", "expected", "recovered"),
    [
        (None, "", None, [], True),
        (0, "", None, [b"1", b"2", b"3"], True),
        (0, "epoch-1", None, [b"1", b"2", b"3"], True),
        (1, "epoch-1", None, [b"2", b"3"], True),
        (1, "", None, [b"2", b"3"], True),
        (3, "epoch-1", None, [], True),
        (4, "epoch-1", None, [b"1", b"2", b"3"], False),  # from the future
        (1, "epoch-0", None, [b"1", b"2", b"3"], False),  # of another numbering
        (0, "epoch-0", None, [b"1", b"2", b"3"], False),
        (None, "", 2, [b"2", b"3"], True),
        (None, "", 0, [], True),
        (None, "", 99, [b"1", b"2", b"3"], True),
    ],
)
def test_a_position_gets_what_came_after_it(
    since: int | None, epoch: str, last: int | None, expected: list[bytes], recovered: bool
) -> None:
    history = make()
    say(history, b"1", b"2", b"3")
    found = history.locate("a", since=since, epoch=epoch, last=last)
    assert (read(history, found), found.recovered) == (b"".join(expected), recovered)


def test_a_position_whose_messages_are_no_longer_all_kept_is_not_recovered() -> None:
    history = make()
    say(history, *(b"%d" % number for number in range(1, 9)))
    found = history.locate("a", since=2, epoch="epoch-1")
    assert read(history, found) == b"45678"
    assert not found.recovered
    assert history.locate("a", since=3, epoch="epoch-1").recovered


@given(st.integers(0, 30), st.integers(0, 30))
def test_a_replay_is_exactly_what_came_after_the_position(said: int, since: int) -> None:
    history = make()
    say(history, *(b"%d" % number for number in range(1, said + 1)))
    found = history.locate("a", since=since, epoch="epoch-1")
    missed = [b"%d" % number for number in range(since + 1, said + 1)]
    if since <= said and len(missed) <= 5:
        assert (read(history, found), found.recovered) == (b"".join(missed), True)
    else:
        assert not found.recovered


def test_position_of_an_empty_channel_stays_valid() -> None:
    history = make()
    before = history.locate("a", since=0).position
    say(history, b"first")
    after = history.locate("a", since=before.seq, epoch=before.epoch)
    assert (read(history, after), after.recovered) == (b"first", True)
    assert after.position.epoch == before.epoch


def test_a_finished_channel_is_freed_after_its_time() -> None:
    history = make()
    say(history, b"running")
    history.extend("a", [b"exited"], 5.0, ends=True)
    assert history.expire(14.9) == 15.0
    assert history.names() == ["a"]
    assert history.expire(15.0) == math.inf
    assert history.names() == []
    assert read(history, history.locate("a", since=0)) == b""


def test_a_silent_channel_is_kept_much_longer() -> None:
    history = make()
    say(history, b"x", now=1.0)
    say(history, b"y", channel="b", now=2.0)
    assert history.expire(1001.0) == 1002.0
    assert history.names() == ["b"]


def test_the_longest_unused_channel_makes_room() -> None:
    history = make(max_channels=2)
    for channel in ("a", "b", "a", "c"):
        say(history, b"x", channel=channel)
    assert history.names() == ["a", "c"]


def test_looking_at_many_channels_frees_none_that_is_kept() -> None:
    history = make(max_channels=2)
    say(history, b"x")
    for number in range(10):
        history.locate(f"other-{number}", since=0)
    assert read(history, history.locate("a", since=0)) == b"x"


def test_freed_channel_keeps_its_numbering_for_its_subscribers() -> None:
    history = make()
    say(history, b"1", b"2")
    history.extend("a", [b"3"], 5.0, ends=True)
    history.expire(15.0)
    assert history.names() == []
    assert history.next_seq("a") == 4
    say(history, b"4", now=20.0)
    found = history.locate("a", since=3, epoch="epoch-1")
    assert (read(history, found), found.recovered) == (b"4", True)
    assert not history.locate("a", since=1, epoch="epoch-1").recovered


def test_a_channel_that_made_room_goes_on_with_its_numbers() -> None:
    history = make(max_channels=1)
    say(history, b"1", b"2")
    say(history, b"1", channel="b")
    assert history.names() == ["b"]
    assert history.next_seq("a") == 3
    assert history.locate("a", since=2, epoch="epoch-1").recovered
    assert not history.locate("a", since=1, epoch="epoch-1").recovered


def test_left_out_numbers_do_not_change_what_all_histories_are_said_to_take() -> None:
    history = make(ChannelRule("*", history_messages=50))
    epoch = history.span("a").epoch
    for number in range(1, 200, 2):
        history.extend("a", [b"x" * 20], 0.0, after=Position(epoch, number))
    history.free("a")
    assert history.usage().kept == 0


def test_states_alone_may_take_more_than_the_bound() -> None:
    history = make(max_bytes=5000)
    history.show("a", {line: b"x" * 100 for line in range(100)}, 0.0)
    assert len(history.states("a")) == 100
    say(history, b"y" * 20)
    assert read(history, history.locate("a", since=0)) == b"y" * 20
