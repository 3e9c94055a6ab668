"""How long a client waits: the table, its bounds, and the jitter."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ws_hub.backoff import calculate_backoff, come_back, full_jitter, wait_asked


@pytest.mark.parametrize(
    ("attempt", "seconds"),
    [(1, 1.0), (2, 2.0), (3, 4.0), (4, 8.0), (5, 16.0), (6, 30.0), (7, 30.0), (10_000_000, 30.0)],
)
def test_the_wait_doubles_up_to_its_bound(attempt: int, seconds: float) -> None:
    assert calculate_backoff(attempt) == seconds


@pytest.mark.parametrize("attempt", [0, -1, -(10**9)])
def test_an_attempt_before_the_first_counts_as_the_first(attempt: int) -> None:
    assert calculate_backoff(attempt, initial=0.5) == 0.5


def test_a_multiplier_of_one_waits_always_the_same() -> None:
    assert {calculate_backoff(n, 3.0, 30.0, 1.0) for n in range(1, 50)} == {3.0}


@given(
    st.integers(min_value=-5, max_value=10**6),
    st.floats(min_value=1e-3, max_value=1e3),
    st.floats(min_value=1.0, max_value=1e6),
    st.floats(min_value=1.0, max_value=100.0),
)
def test_no_wait_is_below_zero_above_the_bound_or_shorter_than_the_one_before(
    attempt: int, initial: float, factor: float, multiplier: float
) -> None:
    maximum = initial * factor
    wait = calculate_backoff(attempt, initial, maximum, multiplier)
    assert 0 < wait <= maximum
    assert calculate_backoff(attempt + 1, initial, maximum, multiplier) >= wait


def test_full_jitter_spreads_evenly_from_zero_to_the_backoff() -> None:
    draw = random.Random(20260220).random
    waits = [full_jitter(8.0, draw) for _ in range(4000)]
    assert all(0 <= wait < 8.0 for wait in waits)
    quarters = [sum(1 for wait in waits if int(wait // 2) == n) for n in range(4)]
    assert all(800 < count < 1200 for count in quarters), quarters


def test_jitter_takes_the_number_it_is_given() -> None:
    assert full_jitter(10.0, lambda: 0.25) == 2.5
    assert full_jitter(10.0, lambda: 0.0) == 0.0


@given(st.floats(min_value=0, max_value=3600))
def test_a_close_reason_that_asks_for_a_wait_is_parsed(seconds: float) -> None:
    reason = come_back(seconds)
    asked = wait_asked(reason)
    assert asked is not None and abs(asked - seconds) <= 0.0005
    assert len(reason.encode()) <= 123  # of a Close frame


@pytest.mark.parametrize(
    ("reason", "seconds"),
    [
        ("", None),
        ("server going away", None),
        ("come back after soon ms", None),
        ("come back after -5 ms", None),
        ("come back after 5 s", None),
        ("come back after ٣ ms", None),
        ("bye; come back after 0 ms, please", 0.0),
        ("come back after 999999999 ms", 3600.0),
    ],
)
def test_the_wait_in_a_close_reason_is_strict_and_bounded(
    reason: str, seconds: float | None
) -> None:
    assert wait_asked(reason) == seconds
