"""The beginning of a channel's history, which stays, and the middle, which is named."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.interventions import messages_a_block
from tests.kept_model import KeptModel
from ws_hub import ChannelRule, Middle
from ws_hub.backplane.store import Span
from ws_hub.hub.history import Filled, History, Position
from ws_hub.protocol.frames import text_frame
from ws_hub.protocol.message import number

RULE = ChannelRule("*", history_messages=1000, history_bytes=100, history_head_bytes=30)
FEW = ChannelRule("*", history_messages=8, history_bytes=1000, history_head_bytes=400)


def history_of(rule: ChannelRule, **bounds: int) -> History:
    return History(lambda channel: rule, new_epoch=lambda: "e", **bounds)


def frames_of(sizes: Sequence[int], first: int) -> list[bytes]:
    """Return numbered messages whose texts have these sizes without their numbers."""
    texts = (b"{%s}" % (b"x" * (size - 2)) for size in sizes)
    return [text_frame(number(text, seq)) for seq, text in enumerate(texts, first)]


def say(history: History, *sizes: int, begins: int | None = None, now: float = 0.0) -> None:
    history.extend("a", frames_of(sizes, history.next_seq("a")), now, begins=begins)


def numbers(history: History, first: int = 1) -> list[int]:
    return [seq for seq, _ in history.frames("a", first, 10_000)]


def replayed(history: History, after: int) -> tuple[list[int], bool]:
    """Return the numbers that a subscriber at a position gets, and whether it gets all."""
    found = history.locate("a", since=after, epoch=history.locate("a").position.epoch)
    after, each = found.after, list[int]()
    while piece := history.piece("a", found.position.epoch, after):
        assert piece.first == after + 1
        each += range(piece.first + piece.holes, piece.last + 1)
        assert piece.messages == len(range(piece.first + piece.holes, piece.last + 1))
        after = piece.last
    assert len(each) == found.messages
    return each, found.recovered


def test_the_first_messages_and_the_last_stay() -> None:
    history = history_of(RULE)
    say(history, *[10] * 10)
    assert numbers(history) == list(range(1, 11))  # the bound, and not beyond it
    assert history.span("a").middle is None
    say(history, 10)
    assert numbers(history) == [1, 2, 3, 5, 6, 7, 8, 9, 10, 11]
    assert history.span("a").middle == Middle(3, 1, 10)
    for _ in range(100):
        say(history, 10)
    assert numbers(history) == [1, 2, 3, *range(105, 112)]
    assert history.span("a").middle == Middle(3, 101, 1010)


@pytest.mark.parametrize(("sizes", "head"), [([10, 20], 2), ([10, 21], 1), ([31], 0)])
def test_the_beginning_is_what_fits_into_its_bytes(sizes: list[int], head: int) -> None:
    history = history_of(RULE)
    say(history, *sizes)
    say(history, *[10] * 30)
    kept = numbers(history)
    assert kept[:head] == list(range(1, head + 1))
    assert kept[head] > head + 1


def test_the_beginning_has_its_share_of_the_number_of_messages() -> None:
    history = history_of(FEW)
    for _ in range(20):
        say(history, 2)
    assert numbers(history) == [1, 2, 3, 16, 17, 18, 19, 20]
    assert history.span("a").middle == Middle(3, 12, 24)


def test_another_run_has_a_beginning_of_its_own() -> None:
    history = history_of(RULE)
    say(history, *[10] * 20)
    assert numbers(history)[:3] == [1, 2, 3]
    say(history, *[10] * 3, begins=1)  # 21 is still of the run before
    assert numbers(history) == [*range(14, 24)]
    assert history.span("a").middle is None
    say(history, *[10] * 20)
    assert numbers(history) == [22, 23, 24, *range(37, 44)]
    assert history.span("a").middle == Middle(24, 12, 120)


def test_a_short_run_leaves_beginning_and_middle_of_the_one_before() -> None:
    history = history_of(RULE)
    say(history, *[10] * 20)
    say(history, 5, 5, begins=0)
    assert numbers(history) == [2, 3, *range(14, 23)]
    assert history.span("a").middle == Middle(3, 10, 100)


def test_what_expires_is_followed_by_a_new_beginning() -> None:
    history = history_of(RULE)
    say(history, *[10] * 20)
    history.expire(1e9)
    say(history, *[10] * 20, now=1e9)
    assert numbers(history) == [21, 22, 23, *range(34, 41)]


def test_a_large_message_leaves_the_beginning_and_itself() -> None:
    history = history_of(RULE)
    say(history, *[10] * 20)
    say(history, 1000)
    assert numbers(history) == [1, 2, 3, 21]
    say(history, 10)
    assert numbers(history) == [1, 2, 3, 22]
    assert history.span("a").middle == Middle(3, 18, 1170)


@pytest.mark.parametrize(
    ("since", "expected", "recovered"),
    [
        (0, [1, 2, 3, *range(14, 21)], False),
        (2, [3, *range(14, 21)], False),
        (3, [*range(14, 21)], False),
        (8, [*range(14, 21)], False),
        (12, [*range(14, 21)], False),
        (13, [*range(14, 21)], True),
        (14, [*range(15, 21)], True),
        (20, [], True),
    ],
)
def test_a_position_in_the_middle_is_told_that_something_is_missing(
    since: int, expected: list[int], recovered: bool
) -> None:
    history = history_of(RULE)
    say(history, *[10] * 20)
    assert replayed(history, since) == (expected, recovered)


def test_a_piece_behind_the_middle_names_it() -> None:
    history = history_of(RULE)
    say(history, *[10] * 20)
    piece = history.piece("a", "e", 3)
    assert piece is not None
    assert (piece.middle, piece.holes, piece.first + piece.holes) == (Middle(3, 10, 100), 10, 14)
    piece = history.piece("a", "e", 8)
    assert piece is not None
    assert (piece.middle, piece.holes) == (Middle(3, 10, 100), 5)
    piece = history.piece("a", "e", 13)
    assert piece is not None and piece.middle is None


def test_numbers_of_no_message_are_not_the_middle() -> None:
    history = history_of(RULE)
    say(history, 10)
    position = Position(history.span("a").epoch, 5)
    history.extend("a", frames_of([10], 6), 0.0, after=position)
    assert history.span("a").middle is None
    piece = history.piece("a", "e", 1)
    assert piece is not None
    assert (piece.holes, piece.middle) == (4, None)


def test_the_newest_messages_are_asked_for_across_the_middle() -> None:
    history = history_of(RULE)
    say(history, *[10] * 20)
    for count, after, recovered in ((7, 13, True), (8, 2, False), (9, 1, False), (99, 0, False)):
        found = history.locate("a", last=count)
        assert (found.after, found.recovered) == (after, recovered)
        assert found.messages == min(count, 10)


def test_memory_is_taken_from_the_beginning_too() -> None:
    rule = ChannelRule(
        "*", history_messages=9999, history_bytes=1 << 20, history_head_bytes=1 << 19
    )
    history = history_of(rule, max_bytes=200_000)
    for _ in range(400):
        say(history, 1000)
    kept = numbers(history)
    assert kept == list(range(kept[0], 401))
    assert history.usage().kept <= 200_000
    assert history.span("a").middle is None


def test_a_cache_goes_on_from_what_its_store_has() -> None:
    history = history_of(RULE)
    span = Span("e", 1, 20, middle=Middle(4, 9, 90), begin=1)
    messages = [(seq, frames_of([8], seq)[0]) for seq in (1, 2, 3, 4, *range(14, 21))]
    history.install("a", Filled(span, 20, messages, RULE), 0.0)
    assert history.span("a").middle == Middle(4, 9, 90)
    say(history, *[10] * 5)
    assert numbers(history)[:4] == [1, 2, 3, 4]
    middle = history.span("a").middle
    assert middle is not None
    assert (middle.after, numbers(history)[4], middle.total_bytes) == (4, 19, 90 + 5 * 8)


def test_a_cache_that_has_the_newest_alone_has_no_beginning() -> None:
    history = history_of(RULE)
    span = Span("e", 1, 20, middle=Middle(4, 9, 90), begin=1)
    messages = [(seq, frames_of([10], seq)[0]) for seq in range(15, 21)]
    history.install("a", Filled(span, 20, messages, RULE), 0.0)
    say(history, *[10] * 20)
    assert numbers(history) == list(range(31, 41))
    assert history.span("a").middle is None


def test_a_cache_of_what_has_no_beginning_lets_go_of_what_its_store_does() -> None:
    history = history_of(RULE)
    messages = [(seq, frames_of([10], seq)[0]) for seq in range(11, 21)]
    history.install("a", Filled(Span("e", 11, 20), 20, messages, RULE), 0.0)
    say(history, *[10] * 5)
    assert numbers(history) == list(range(16, 26))
    assert replayed(history, 17) == ([*range(18, 26)], True)
    say(history, *[10] * 20, begins=0)
    assert numbers(history)[:3] == [26, 27, 28]


Step = tuple[str, Sequence[int]]
SIZES = st.lists(st.integers(2, 40) | st.integers(110, 140), min_size=1, max_size=12)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), SIZES),
        st.tuples(st.just("begin"), SIZES),
        st.tuples(st.just("skip"), st.lists(st.integers(1, 5), min_size=1, max_size=1)),
        st.tuples(st.just("forget"), st.just([])),
    ),
    max_size=25,
)


@given(
    STEPS,
    st.integers(2, 12),
    st.integers(20, 200),
    st.integers(0, 19),
    st.integers(1, 7),
)
def test_it_keeps_what_the_model_keeps(
    steps: list[Step], most: int, most_bytes: int, share: int, block: int
) -> None:
    rule = ChannelRule(
        "*",
        history_messages=most,
        history_bytes=most_bytes,
        history_head_bytes=most_bytes * share // 20,
    )
    history, model, skipped = history_of(rule), KeptModel(rule), 0
    with messages_a_block(block):
        for kind, values in steps:
            if kind == "skip":
                skipped += values[0]
            elif kind == "forget":
                history.free("a")
                model.forget()
            else:
                after = Position(history.span("a").epoch, model.last + skipped)
                model.leave_out(skipped)
                begins = min(1, len(values) - 1) if kind == "begin" else None
                frames = frames_of(values, model.last + 1)
                history.extend("a", frames, 0.0, after=after, begins=begins)
                model.add(values, begins)
                skipped = 0
            assert numbers(history) == model.numbers
            assert history.span("a").middle == model.middle
            for since in {0, *model.numbers, model.last}:
                expected = [each for each in model.numbers if each > since]
                assert replayed(history, since)[0] == expected
                whole = since >= model.first - 1 and len(expected) == model.last - since
                assert replayed(history, since)[1] == whole
