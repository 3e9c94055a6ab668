"""Pace: parts that fit, and when to wait."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ws_hub.process.pace import Pace


class Waits:
    """A pace, and for each part that it cuts whether it waited before."""

    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        self.waited = False

    def wait(self) -> None:
        self.waited = True

    def parts(self, *texts: str) -> list[tuple[list[str], bool]]:
        found = []
        for part in self.pace.parts(texts, self.wait):
            found.append((part, self.waited))
            self.waited = False
        return found

    def waits(self, count: int) -> list[bool]:
        return [waited for _ in range(count) for _, waited in self.parts("x")]


def test_without_bounds_parts_are_large_and_need_no_wait() -> None:
    texts = [str(number) for number in range(1000)]
    waits = Waits(Pace())
    parts = waits.parts(*texts)
    assert [text for part, _ in parts for text in part] == texts
    assert max(len(part) for part, _ in parts) == 512
    assert not any(wait for _, wait in parts)
    assert waits.parts() == []


def test_a_quarter_of_an_outbox_needs_a_wait_and_so_does_the_beginning() -> None:
    waits = Waits(Pace(40, 1 << 20)).waits(25)
    assert [number for number, wait in enumerate(waits, 1) if wait] == [1, 11, 21]


def test_an_outbox_of_one_message_needs_a_wait_for_each_text() -> None:
    parts = Waits(Pace(1, 1 << 20)).parts("a", "b", "c")
    assert parts == [(["a"], True), (["b"], True), (["c"], True)]


def test_the_quarter_is_shared_by_all_sharers() -> None:
    sharers = [1]
    waits = Waits(Pace(40, 1 << 20, lambda: sharers[0]))
    assert waits.waits(10) == [True] + [False] * 9
    sharers[0] = 5
    assert waits.waits(6) == [True, False, True, False, True, False]
    sharers[0] = 1000
    assert waits.parts("a", "b") == [(["a"], True), (["b"], True)]


def test_a_process_that_starts_during_a_wait_gets_its_share() -> None:
    """What was cut before the wait had the size of an outbox's quarter for itself."""
    sharers = [1]
    pace = Pace(40, 1 << 20, lambda: sharers[0])

    def wait() -> None:
        sharers[0] = 5

    assert [len(part) for part in pace.parts(["x"] * 7, wait)] == [2, 2, 2, 1]


@pytest.mark.slow
@given(
    st.lists(st.lists(st.text(max_size=300), max_size=30), max_size=20),
    st.integers(1, 200),
    st.integers(0, 100_000),
)
def test_at_most_a_quarter_is_sent_between_waits_unless_it_is_one_text(
    reads: list[list[str]], messages: int, size: int
) -> None:
    waits = Waits(Pace(messages, size))
    ahead: list[str] = []
    sent: list[str] = []
    for texts in reads:
        for part, wait in waits.parts(*texts):
            ahead = [*part] if wait else [*ahead, *part]
            sent += part
            assert part
            assert len(ahead) <= max(messages // 4, 1)
            worst = sum(6 * len(text) + 512 for text in ahead)
            assert worst <= size // 4 or len(part) == len(ahead) == 1
    assert sent == [text for texts in reads for text in texts]
