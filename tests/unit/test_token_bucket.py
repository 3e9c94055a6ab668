"""How much a peer may send in a time, by a clock that a test sets."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ws_hub.access.token_bucket import Bucket


def test_tokens_beyond_the_burst_have_a_wait() -> None:
    bucket = Bucket(10.0, 5)
    assert [bucket.take(1, 100.0) for _ in range(5)] == [0.0] * 5
    assert bucket.take(1, 100.0) == 0.1
    assert bucket.take(4, 100.0) == 0.5


def test_a_bucket_refills_up_to_its_burst() -> None:
    bucket = Bucket(10.0, 5)
    bucket.take(5, 100.0)
    assert bucket.take(5, 100.5) == 0.0
    assert bucket.take(1, 100.5) == 0.1
    assert bucket.take(5, 1000.0) == 0.0
    assert bucket.take(1, 1000.0) == 0.1


def test_without_a_rate_there_is_no_limit() -> None:
    bucket = Bucket(None, 1)
    assert bucket.take(10**9, 100.0) == 0.0
    assert bucket.overdrawn_for(100.0) == 0.0


def test_a_bucket_is_overdrawn_until_half_full() -> None:
    bucket = Bucket(8.0, 8)
    bucket.take(8, 100.0)
    assert bucket.overdrawn_for(100.0) == 0.0
    bucket.take(1, 100.0)
    assert bucket.overdrawn_for(102.0) == 2.0
    bucket.take(1, 100.5)  # there were three, and are two
    assert bucket.overdrawn_for(102.0) == 2.0
    bucket.take(2, 100.75)  # two again
    bucket.take(2, 101.25)  # four are left: half
    assert bucket.overdrawn_for(102.0) == 0.0


@given(
    rate=st.floats(0.1, 1000),
    burst=st.integers(1, 1000),
    steps=st.lists(st.tuples(st.integers(1, 100), st.floats(0, 10)), max_size=30),
)
def test_waiting_as_told_yields_the_burst_and_the_rate(
    rate: float, burst: int, steps: list[tuple[int, float]]
) -> None:
    bucket, now, taken = Bucket(rate, burst), 0.0, 0
    for amount, pause in steps:
        now += bucket.take(amount, now)
        taken += amount
        assert taken <= burst + rate * now + 1e-3
        now += pause


def test_a_debt_is_limited() -> None:
    bucket = Bucket(10.0, 5, max_debt=2.0)
    assert bucket.take(1000, 100.0) == 2.0
    assert bucket.take(1000, 101.0) == 2.0


def test_take_available_returns_the_missing_rest() -> None:
    bucket = Bucket(10.0, 5)
    assert (bucket.take_available(3, 100.0), bucket.take_available(3, 100.0)) == (0.0, 1.0)
    assert bucket.take_available(1, 100.0) == 1.0  # none is owed for it
    assert bucket.take_available(1, 100.125) == 0.0
    bucket.take(1, 100.125)
    assert bucket.take_available(1, 100.15) == 1.0  # nor while there is a debt
    assert Bucket(None, 0).take_available(1e9, 100.0) == 0.0


def test_wait_takes_nothing() -> None:
    bucket = Bucket(10.0, 5)
    assert (bucket.wait(5, 100.0), bucket.wait(6, 100.0)) == (0.0, 0.1)
    assert bucket.full(100.0)
    bucket.take(6, 100.0)
    assert (bucket.wait(0, 100.0), bucket.wait(1, 100.0)) == (0.1, 0.2)
    assert not bucket.full(100.0) and bucket.full(101.0)
    assert Bucket(None, 0).wait(1e9, 100.0) == 0.0 and Bucket(None, 0).full(100.0)
