"""Pace: parts that fit, and when to wait."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ws_hub.process.pace import Pace


def test_without_bounds_parts_are_large_and_need_no_wait() -> None:
    texts = [str(number) for number in range(1000)]
    parts = list(Pace().parts(texts))
    assert [text for part, _ in parts for text in part] == texts
    assert max(len(part) for part, _ in parts) == 128
    assert not any(wait for _, wait in parts)
    assert list(Pace().parts([])) == []


def test_a_quarter_of_an_outbox_needs_a_wait() -> None:
    pace = Pace(40, 1 << 20)
    waits = [wait for _ in range(25) for _, wait in pace.parts(["x"])]
    assert [number for number, wait in enumerate(waits, 1) if wait] == [11, 21]


def test_an_outbox_of_one_message_needs_a_wait_for_each_text() -> None:
    parts = list(Pace(1, 1 << 20).parts(["a", "b", "c"]))
    assert parts == [(["a"], False), (["b"], True), (["c"], True)]


def test_the_quarter_is_shared_by_all_sharers() -> None:
    sharers = [1]
    pace = Pace(40, 1 << 20, lambda: sharers[0])
    waits = [wait for _ in range(10) for _, wait in pace.parts(["x"])]
    assert not any(waits)
    sharers[0] = 5
    waits = [wait for _ in range(6) for _, wait in pace.parts(["x"])]
    assert waits == [True, False, True, False, True, False]
    sharers[0] = 1000
    assert list(pace.parts(["a", "b"])) == [(["a"], True), (["b"], True)]


@pytest.mark.slow
@given(
    st.lists(st.lists(st.text(max_size=300), max_size=30), max_size=20),
    st.integers(1, 200),
    st.integers(0, 100_000),
)
def test_at_most_a_quarter_is_sent_between_waits_unless_it_is_one_text(
    reads: list[list[str]], messages: int, size: int
) -> None:
    pace = Pace(messages, size)
    ahead: list[str] = []
    sent: list[str] = []
    for texts in reads:
        for part, wait in pace.parts(texts):
            ahead = [*part] if wait else [*ahead, *part]
            sent += part
            assert part
            assert len(ahead) <= max(messages // 4, 1)
            worst = sum(6 * len(text) + 512 for text in ahead)
            assert worst <= size // 4 or len(part) == len(ahead) == 1
    assert sent == [text for texts in reads for text in texts]
