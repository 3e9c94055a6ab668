"""Which messages pass a filter, and what a filter may be."""

from __future__ import annotations

import enum
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ws_hub.config import ChannelRule
from ws_hub.connection.outbox import Room
from ws_hub.hub.filtering import Look, Sieve
from ws_hub.hub.history import History, Piece
from ws_hub.hub.replay import Replays
from ws_hub.hub.subscriptions import ChannelMap, Group
from ws_hub.protocol.filters import Filter, fields_of, filter_of
from ws_hub.protocol.frames import payload_of, split, text_frame
from ws_hub.protocol.message import (
    Encoder,
    Message,
    SubscribeMessage,
    decode,
    encode,
    number,
)
from ws_hub.protocol.names import is_channel_name
from ws_hub.protocol.publication import Publication, publish
from ws_hub.protocol.requests import Reply, Subscribe, interpret

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from([0.0, -0.0, 1.0, 0.5, 1e300, 2.0**53])
    | st.integers()
    | st.sampled_from(["", "0", "1", "true", "null", "error", "é"])
)
NAMES = st.sampled_from(["level", "host", "0", "", "é", "data", '"', "\\"])
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3)
)
DATA = JSON | st.dictionaries(NAMES, JSON, max_size=6)
FILTERS = st.dictionaries(NAMES, st.lists(SCALARS, max_size=6), max_size=6)


def passes(fields: dict[str, Any], data: Any) -> bool:
    """Return whether such data passes, through the text of a message as the hub has it."""
    found = filter_of(fields)
    text = encode(Message("event", channel="a", process_id="p", data=data), 0.0)
    return found is None or found.passes(fields_of(text))


def same(one: Any, other: Any) -> bool:
    """Say whether two JSON values are one: the slow way, kind by kind."""
    kinds = [(bool,), (int, float), (str,), (type(None),)]
    of = [
        next(i for i, kind in enumerate(kinds) if isinstance(each, kind)) for each in (one, other)
    ]
    return of[0] == of[1] and one == other


def reference(fields: dict[str, Any], data: Any) -> bool:
    for field, values in fields.items():
        if not isinstance(data, dict) or field not in data:
            return False
        if isinstance(data[field], (dict, list)):
            return False
        if not any(same(data[field], value) for value in values):
            return False
    return True


# --- the rule ------------------------------------------------------------------------------


@given(FILTERS, DATA)
def test_a_message_passes_as_the_slow_way_says(fields: dict[str, Any], data: Any) -> None:
    assert passes(fields, data) is reference(fields, data)


@given(st.dictionaries(NAMES, SCALARS, min_size=1, max_size=6))
def test_a_message_passes_the_filter_of_its_own_fields(data: dict[str, Any]) -> None:
    assert passes({name: [value] for name, value in data.items()}, data)


@pytest.mark.parametrize(
    ("value", "given_value", "expected"),
    [
        (True, True, True),
        (True, 1, False),
        (1, True, False),
        (False, 0, False),
        (1, 1.0, True),
        (2**53 + 1, float(2**53), False),
        (None, None, True),
        ("1", 1, False),
        ("error", "Error", False),
        (["error"], "error", False),
        ({}, None, False),
    ],
)
def test_values_are_compared_as_json_has_them(value: Any, given_value: Any, expected: bool) -> None:
    assert passes({"x": [given_value]}, {"x": value}) is expected


def test_each_field_must_be_there_with_one_of_its_values() -> None:
    wanted = {"level": ["error", "warning"], "host": ["a"]}
    assert passes(wanted, {"level": "warning", "host": "a", "more": 1})
    assert not passes(wanted, {"level": "warning"})
    assert not passes(wanted, {"level": "warning", "host": "b"})
    assert not passes({"x": [None]}, {})
    assert not passes({"x": []}, {"x": None})


def test_only_top_level_fields_of_an_object_count() -> None:
    assert not passes({"level": ["error"]}, {"data": {"level": "error"}})
    assert not passes({"data.level": ["error"]}, {"data": {"level": "error"}})
    for data in ("error", '{"level":"error"}', 1, [{"level": "error"}], True, None):
        assert not passes({"level": ["error"]}, data)
        assert passes({}, data)


@given(DATA, st.sampled_from(["x", 'a"b', "\\", '","data":{"x":1}']))
def test_the_fields_are_those_of_the_data_whatever_stands_before_it(data: Any, kind: str) -> None:
    for text in (
        encode(Message(kind, channel=kind, process_id=kind, data=data, key="k"), 0.0),
        encode(Message(kind, data=data)),
        number(encode(Message(kind, channel=kind, data=data), 1.0), 7),
        json.dumps({"timestamp": "", "data": data, "type": kind}).encode(),
    ):
        found = json.loads(text).get("data")
        assert fields_of(text) == (found if isinstance(found, dict) else None)


def test_data_that_cannot_be_read_has_no_fields() -> None:
    deep = b'{"type":"x","data":{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}}"
    assert fields_of(deep) is None
    assert fields_of(b'{"type":"x","data":{"a":') is None
    for text in (b'{"data":{"a":', b"[1]", b"", b"\xff", b'{"type":"x","data":{"a":"\xff"}}'):
        assert fields_of(text) is None


def test_equal_filters_are_one_group() -> None:
    one = Filter({"b": ["x", True, 1], "a": [1]})
    assert one == Filter({"a": [1], "b": [1, True, "x", "x"]})
    assert hash(one) == hash(Filter({"a": [1.0], "b": [True, 1, "x"]}))
    assert one != Filter({"a": [True], "b": ["x", True, 1]})
    assert one != {"a": [1]}
    assert repr(Filter({"a": [1]})) == "Filter({'a': [1]})"


# --- what is a filter ----------------------------------------------------------------------

WRONG: list[tuple[Any, type[Exception], str]] = [
    (["level"], TypeError, "filter must map fields to lists of values"),
    ("level", TypeError, "filter must map fields to lists of values"),
    ({1: ["x"]}, TypeError, "a field of filter must be text"),
    ({"level": "error"}, TypeError, "filter must have a list of values for 'level', not 'error'"),
    ({"level": None}, TypeError, "filter must have a list of values for 'level', not None"),
    ({"level": {"error": 1}}, TypeError, "filter must have a list of values"),
    ({"level": [["error"]]}, TypeError, "a value of filter must be text, a number, true, false"),
    ({"level": [{}]}, TypeError, "a value of filter must be text, a number, true, false or null"),
    ({"level": [b"x"]}, TypeError, "a value of filter must be text, a number, true, false"),
    ({str(i): [] for i in range(9)}, ValueError, "at most 8 fields and 64 values in all, not 9"),
    ({"x": list(range(65))}, ValueError, "at most 8 fields and 64 values in all, not 1 and 65"),
    ({"x": [*range(33)], "y": [*range(32)]}, ValueError, "at most 8 fields and 64 values in all"),
    ({"x": ["y" * 1024]}, ValueError, "at most 1024 bytes as JSON, not 1034"),
    ({"x": ["é" * 512]}, ValueError, "at most 1024 bytes as JSON"),
    ({"x": [float("nan")]}, ValueError, "has no JSON form"),
    ({"x": [float("inf")]}, ValueError, "has no JSON form"),
    ({"x": ["\ud800"]}, ValueError, "has no JSON form"),
    ({"x": [10**5000]}, ValueError, "has no JSON form"),
]


@pytest.mark.parametrize(("fields", "error", "text"), WRONG)
def test_what_is_no_filter_is_refused_with_what_to_pass(
    fields: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text.replace("(", r"\(")):
        filter_of(fields)


def test_the_bounds_themselves_are_allowed() -> None:
    assert filter_of({str(i): [*range(8)] for i in range(8)}) is not None
    longest = {"x": ["y" * (1024 - len('{"x":[""]}'))]}
    found = filter_of(longest)
    assert found is not None
    assert found.value == longest


def test_a_filter_without_fields_is_none() -> None:
    assert filter_of(None) is filter_of({}) is None


def test_values_of_a_subclass_are_sent_as_json_has_them() -> None:
    class Level(enum.StrEnum):
        ERROR = "error"

    found = Filter({"level": [Level.ERROR]})
    assert json.dumps(found.value) == '{"level": ["error"]}'
    assert found.passes({"level": "error"})


# --- the request ---------------------------------------------------------------------------


def read(**fields: Any) -> Any:
    return interpret(json.dumps({"type": "subscribe", "channel": "a", **fields}), is_channel_name)


def test_a_subscribe_may_carry_a_filter() -> None:
    wanted = Filter({"level": ["error"]})
    assert read(filter={"level": ["error"]}) == Subscribe("a", filter=wanted)
    assert read(filter={"level": ["error"]}, since=3, epoch="e", id=1) == Subscribe(
        "a", 1, 3, "e", filter=wanted
    )
    assert read(filter={}) == read(filter=None) == read() == Subscribe("a")


ON_THE_WIRE = [
    (fields, text)
    for fields, _, text in WRONG
    if not any(what in text for what in ("has no JSON form", "a field of"))
    and "b'x'" not in repr(fields)
]


@pytest.mark.parametrize(("fields", "text"), ON_THE_WIRE)
def test_a_bad_filter_is_a_bad_message(fields: Any, text: str) -> None:
    for effect in (read(id=1, filter=fields), read(id=1, filter=fields, since=3)):
        assert isinstance(effect, Reply)
        answer = effect.message
        assert (answer.type, answer.id, answer.code) == ("error", 1, "bad_message")
        assert answer.channel == "a"
        assert answer.data.startswith("Subscribe: ")
        assert text in answer.data
        assert len(answer.data) < 300


def test_a_field_of_that_name_in_other_messages_is_ignored_as_before() -> None:
    for kind in ("publish", "ping", "my_type", "unsubscribe"):
        text = json.dumps({"type": kind, "channel": "a", "filter": 7})
        assert type(decode(text)) is Message
    folded = decode('{"Type":"subscribe","Channel":"a","Filter":{"x":[1]}}', any_case=True)
    assert folded == SubscribeMessage("subscribe", channel="a", filter={"x": [1]})


def test_a_filter_survives_encoding_and_decoding() -> None:
    message = SubscribeMessage("subscribe", channel="a", filter={"x": [True, 1, None, "é"]})
    assert decode(encode(message).decode()) == message
    assert decode(Encoder().encode(SubscribeMessage("subscribe", channel="a")).decode()) == Message(
        "subscribe", channel="a"
    )


# --- what is delivered, and what is replayed -----------------------------------------------


def frames(*levels: Any, first: int = 1) -> list[bytes]:
    return [
        text_frame(number(encode(Message("log", channel="a", data={"level": level}), 0.0), seq))
        for seq, level in enumerate(levels, first)
    ]


def sifted(
    piece: Piece, *, fresh: int | None = None, numbers: bool = True, sieve: Sieve | None = None
) -> tuple[Piece, list[tuple[str, int | None]]]:
    left = (sieve or Sieve()).sift("a", piece, Filter({"level": ["error"]}), fresh, numbers)
    found = [decode(payload_of(each).decode()) for each in split(left.frames)]
    assert len(found) == left.messages
    return left, [(each.type, each.seq) for each in found]


def piece_of(*levels: Any, first: int = 1) -> Piece:
    last = first + len(levels) - 1
    return Piece(b"".join(frames(*levels, first=first)), first, last, last)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 100_000])
def test_joined_frames_are_split_at_every_length(size: int) -> None:
    each = [text_frame(b"x" * size), text_frame(b""), text_frame(b"y" * size)]
    assert list(split(b"".join(each))) == each


def test_a_piece_keeps_what_passes_and_the_numbers_at_its_ends() -> None:
    left, found = sifted(piece_of("info", "error", "info", "error", "info", "info"))
    assert found == [("skip", 1), ("log", 2), ("log", 4), ("skip", 6)]
    assert (left.first, left.last, left.head, left.omitted) == (1, 6, 6, 2)
    assert sifted(piece_of("error", "info", "error"))[1] == [("log", 1), ("log", 3)]
    assert sifted(piece_of("info"))[1] == [("skip", 1)]


def test_a_receiver_that_knows_no_positions_is_told_no_numbers() -> None:
    left, found = sifted(piece_of("info", "error", "info"), numbers=False)
    assert (found, left.omitted) == ([("log", 2)], 2)
    left, found = sifted(piece_of("info", "info"), numbers=False)
    assert (left.frames, left.messages, left.omitted) == (b"", 0, 2)


@given(st.lists(st.sampled_from(["error", "info"]), min_size=1, max_size=30), st.integers(1, 99))
def test_what_is_left_has_growing_numbers_and_ends_with_the_last(
    levels: list[str], first: int
) -> None:
    piece = piece_of(*levels, first=first)
    left, found = sifted(piece)
    numbers = [seq for _, seq in found if seq is not None]
    assert numbers == sorted(set(numbers))
    assert (numbers[0], numbers[-1]) == (piece.first, piece.last)
    assert left.messages + left.omitted == piece.messages
    passed = [first + index for index, level in enumerate(levels) if level == "error"]
    assert [seq for kind, seq in found if kind == "log"] == passed


def test_a_piece_is_looked_at_once_for_equal_filters() -> None:
    sieve, piece = Sieve(), piece_of("info", "error", "info")
    first, _ = sifted(piece, sieve=sieve)
    again, _ = sifted(piece, sieve=sieve)
    assert first.frames is again.frames
    other, _ = sifted(piece, sieve=sieve, numbers=False)
    assert other.frames != first.frames


def test_shared_pieces_are_bounded_in_bytes() -> None:
    sieve = Sieve()
    large = [piece_of(*["info"] * 12_000, first=index) for index in range(1, 5)]
    first = [sifted(piece, sieve=sieve)[0].frames for piece in large]
    assert sum(len(piece.frames) for piece in large) > 2 * 1024 * 1024
    again = [sifted(piece, sieve=sieve)[0].frames for piece in large]
    assert first[0] is not again[0]
    assert sifted(large[-1], sieve=sieve)[0].frames is again[-1]


def state(level: str | None, seq: int, former: str | None = None) -> Publication:
    data = None if level is None else {"level": level}
    text = encode(Message("log", channel="a", key="k", data=data), 0.0)
    publication = publish(text, "a", "drop", to_be_numbered=True)
    publication.key, publication.deletes = "k", level is None
    publication.number(seq)
    if former is not None:
        publication.former = frames(former)[0]
    return publication


def test_a_state_that_passes_no_more_is_a_deletion_for_those_that_have_it() -> None:
    wanted = Filter({"level": ["error"]})
    run = [
        state("error", 1, "info"),
        state("info", 2, "error"),
        state("info", 3, "info"),
        state(None, 4, "error"),
        state(None, 5, "info"),
        state("info", 6),
    ]
    found = [each.message for each in Look(run).passing(wanted)]
    assert [(each.seq, each.key, each.data) for each in found] == [
        (1, "k", {"level": "error"}),
        (2, "k", None),
        (4, "k", None),
    ]


def test_a_replayed_state_that_does_not_pass_is_a_deletion_unless_it_is_new() -> None:
    run = [state("info", 3), state("error", 5), state("info", 7), state(None, 8)]
    piece = Piece(b"".join(each.frame for each in run), 1, 8, 8, 4)
    sieve = Sieve()
    left = sieve.sift("a", piece, Filter({"level": ["error"]}), 3, True)
    found = [decode(payload_of(each).decode()) for each in split(left.frames)]
    assert [(each.type, each.seq, each.key, each.data) for each in found] == [
        ("log", 5, "k", {"level": "error"}),
        ("event", 7, "k", None),
        ("log", 8, "k", None),
    ]
    piece = Piece(b"".join(each.frame for each in run[:3]), 1, 7, 7, 4)
    left = sieve.sift("a", piece, Filter({"level": ["error"]}), 7, True)
    found = [decode(payload_of(each).decode()) for each in split(left.frames)]
    assert [(each.type, each.seq) for each in found] == [("log", 5), ("skip", 7)]


def test_a_group_that_is_told_nothing_is_told_a_number_now_and_then() -> None:
    group: Group[Any] = Group(Filter({"level": ["error"]}))
    told = []
    for seq in range(1, 101):
        level = "error" if seq == 50 else "info"
        run = [state(level, seq)]
        look = Look(run)
        passing = look.passing(group.filter)
        if look.told(group, passing, 20):
            told.append((look.skip().message.type, look.skip().seq))
    assert told == [("skip", 20), ("skip", 40), ("skip", 70), ("skip", 90)]
    # A number that falls is told at once: the numbering has begun again.
    look = Look([state("info", 1)])
    assert look.told(group, [], 20)


# --- what it costs -------------------------------------------------------------------------


class Viewer:
    """Takes every piece, and notes what it is charged."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.bytes = 0
        self.seconds: list[float] = []
        self.rest = 0.0

    def offer_piece(self, frames: bytes, messages: int, drained: Callable[[], None]) -> Room:
        assert frames
        self.pieces.append(frames)
        return Room.TAKEN

    def charge_bytes(self, count: int) -> float:
        self.bytes += count
        return self.rest

    def charge_processing(self, seconds: float) -> None:
        self.seconds.append(seconds)

    def count_skipped(self, messages: int) -> None:
        raise AssertionError("nothing was replaced")


class Stage:
    """Replays of a channel with many blocks, on a clock that each look at it moves."""

    def __init__(self, *, tick: float) -> None:
        self.now = 0.0
        self.tick = tick
        rule = ChannelRule(pattern="*", history_messages=5000, history_bytes=1 << 24)
        self.history = History(lambda channel: rule, new_epoch=lambda: "epoch")
        for first in range(1, 4001, 1000):
            levels = ["error" if seq % 100 == 0 else "info" for seq in range(first, first + 1000)]
            self.history.extend("a", frames(*levels, first=first), 0.0)
        self.channels: ChannelMap[Any] = ChannelMap()
        self.replays = Replays(
            self.history,
            self.channels,
            watch=lambda fd, call: True,
            unwatch=lambda fd, call: None,
            awake=lambda: None,
            clock=self.clock,
        )

    def clock(self) -> float:
        self.now += self.tick
        return self.now

    def begin(self, *, behind: bool = False, values: tuple[str, ...] = ("error",)) -> Viewer:
        viewer = Viewer()
        self.channels.enter(viewer)
        subscription = self.channels.add(viewer, "a", 10)
        assert subscription is not None
        self.channels.set_filter(subscription, Filter({"level": values}))
        subscription.recovers = True
        self.replays.begin(subscription, "epoch", 0, behind=behind)
        return viewer


def test_a_filtered_replay_is_charged_for_all_that_it_looks_through() -> None:
    stage = Stage(tick=0.0)
    viewer = stage.begin()
    assert viewer.pieces == []  # a look at so much is not for the moment of the request
    assert list(stage.replays.turn()) == []
    size = sum(len(frame) for _, frame in stage.history.frames("a", 1, 5000))
    numbers = b"".join(viewer.pieces).count(b'"skip"')
    assert size <= viewer.bytes <= size + numbers * 100
    assert len(viewer.seconds) == len(viewer.pieces) > 5
    assert sum(viewer.seconds) > 0
    found = [decode(payload_of(each).decode()) for each in split(b"".join(viewer.pieces))]
    assert [each.seq for each in found if each.type == "log"] == list(range(100, 4001, 100))
    assert not stage.replays.holds(viewer)


def test_a_filtered_replay_in_debt_rests_like_any_other() -> None:
    stage = Stage(tick=0.0)
    viewer = stage.begin()
    viewer.rest = 5.0
    assert list(stage.replays.turn()) == []
    assert (viewer.pieces, stage.replays.holds(viewer)) == ([], True)
    viewer.rest = 0.0
    stage.now += 5.0
    assert list(stage.replays.turn()) == []
    assert not stage.replays.holds(viewer)


def test_a_replay_that_nobody_asked_for_costs_its_client_nothing() -> None:
    stage = Stage(tick=0.0)
    viewer = stage.begin(behind=True)
    assert list(stage.replays.turn()) == []
    assert (viewer.bytes, viewer.seconds) == (0, [])
    assert viewer.pieces


def test_a_turn_looks_at_one_piece_more_than_its_time_at_most() -> None:
    stage = Stage(tick=1.0)  # each look at the clock finds the turn's time over
    viewers = [stage.begin(values=("error", str(index))) for index in range(3)]
    turns = 0
    while any(map(stage.replays.holds, viewers)):
        before = sum(len(viewer.seconds) for viewer in viewers)
        assert list(stage.replays.turn()) == []
        assert sum(len(viewer.seconds) for viewer in viewers) - before <= 1
        turns += 1
    assert turns >= 3 * 6


def test_a_replay_of_which_nothing_passes_ends_and_says_where() -> None:
    stage = Stage(tick=0.0)
    viewer = stage.begin(values=("nothing",))
    assert list(stage.replays.turn()) == []
    found = [decode(payload_of(each).decode()) for each in split(b"".join(viewer.pieces))]
    assert {each.type for each in found} == {"skip"}
    assert found[-1].seq == 4000


# --- groups --------------------------------------------------------------------------------


def group_sizes(channels: ChannelMap[str]) -> dict[Any, list[str]]:
    _, groups = channels.listeners("a")
    return {group.filter: [each.subscriber for each in members] for group, members in groups}


def test_subscriptions_with_equal_filters_are_one_group_until_they_end() -> None:
    channels: ChannelMap[str] = ChannelMap()
    one, other = Filter({"level": ["error"]}), Filter({"level": ["info"]})
    made = {}
    for name in ("ann", "bob", "cid", "dan"):
        channels.enter(name)
        made[name] = channels.add(name, "a", 10)
        assert made[name] is not None
    assert channels.listeners("a")[1] == []
    for name, filter in (("ann", one), ("bob", Filter({"level": ["error"]})), ("cid", other)):
        channels.set_filter(made[name], filter)  # type: ignore[arg-type]
    assert group_sizes(channels) == {one: ["ann", "bob"], other: ["cid"]}
    channels.set_filter(made["bob"], other)  # type: ignore[arg-type]
    assert group_sizes(channels) == {one: ["ann"], other: ["cid", "bob"]}
    channels.set_filter(made["cid"], None)  # type: ignore[arg-type]
    channels.leave("ann")
    assert group_sizes(channels) == {other: ["bob"]}
    channels.remove("bob", "a")
    assert group_sizes(channels) == {}
    channels.set_filter(made["bob"], one)  # type: ignore[arg-type]
    assert group_sizes(channels) == {}  # it has ended
    assert channels.listeners("nothing") == ([], [])
